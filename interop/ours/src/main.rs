//! The interoperability peer made of this repository's transport: both handshakes, both directions.

use std::process::ExitCode;

use interop_peer::{Failure, Ice, Implementation, Muxed, Settings};
use libp2p::{Transport as _, core::muxing::StreamMuxerBox};
use libp2p_rtc::{Config, DialMode, Transport};

/// The manifest of the transport, for its version.
const MANIFEST: &str = include_str!("../../../Cargo.toml");

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

/// Our transport; the certificate comes from the identity key.
fn transport(settings: &Settings) -> Result<Muxed, Failure> {
    let mode = match settings.ice {
        Ice::Auto => DialMode::Auto,
        Ice::V1 => DialMode::V1,
        Ice::V2 => DialMode::V2,
    };
    let config = Config::new(&settings.key).with_dial_mode(mode);
    Ok(Transport::new(config)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .boxed())
}

/// The version in the manifest.
fn version() -> &'static str {
    MANIFEST
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .unwrap_or("unknown")
}
