//! The interoperability peer made of this repository's transports: WebRTC Direct with both handshakes, and `/ws/webrtc`,
//! both directions.

use std::process::ExitCode;

use interop_peer::{Failure, Ice, Implementation, Muxed, Settings};
use libp2p::{
    Transport as _,
    core::{muxing::StreamMuxerBox, transport::OrTransport},
    futures::future::Either,
};
use libp2p_rtc::{Config, DialMode, Limits, Transport, websocket};

/// The manifest of the transport, for its version.
const MANIFEST: &str = include_str!("../../../Cargo.toml");
/// With this variable in the environment no dialer gets in without a DTLS cookie, as it is for everybody under a flood.
const COOKIES: &str = "INTEROP_COOKIES";

#[tokio::main]
async fn main() -> ExitCode {
    interop_peer::run(&Implementation {
        name: "libp2p-rtc",
        version: version(),
        listens_to_dial: false,
        transport,
    })
    .await
}

/// Our transports; the certificate of WebRTC Direct comes from the identity key.
fn transport(settings: &Settings) -> Result<Muxed, Failure> {
    let mode = match settings.ice {
        Ice::Auto => DialMode::Auto,
        Ice::V1 => DialMode::V1,
        Ice::V2 => DialMode::V2,
    };
    let mut config = Config::new(&settings.key).with_dial_mode(mode);
    if std::env::var_os(COOKIES).is_some() {
        // Half of the places are for those who bring none: that is none of one.
        let mut limits = Limits::default();
        limits.max_handshakes = 1;
        config = config.with_limits(limits);
    }
    let signaled = websocket::Transport::new(websocket::Config::new(&settings.key));
    let both = OrTransport::new(signaled, Transport::new(config));
    Ok(both
        .map(|either, _| match either {
            Either::Left((peer, connection)) => (peer, StreamMuxerBox::new(connection)),
            Either::Right((peer, connection)) => (peer, StreamMuxerBox::new(connection)),
        })
        .boxed())
}

/// The version in the manifest.
fn version() -> &'static str {
    MANIFEST
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .unwrap_or("unknown")
}
