//! The swarm of this peer: upstream's transport with identify, ping and streams.

use std::time::Duration;

use libp2p::{
    StreamProtocol, Swarm, Transport as _,
    core::muxing::StreamMuxerBox,
    identify,
    identity::Keypair,
    ping,
    swarm::{self, NetworkBehaviour},
};
use libp2p_stream as stream;
use libp2p_webrtc::tokio::{Certificate, Transport};

use crate::Failure;

/// The echo protocol of the interoperability tests.
pub const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");

/// Longer than any scenario.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// What the peer speaks.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    /// Tells who we are.
    pub identify: identify::Behaviour,
    /// Measures round trips.
    pub ping: ping::Behaviour,
    /// Carries the echo protocol.
    pub stream: stream::Behaviour,
}

/// A swarm with a fresh identity and certificate. Without a ping interval it only answers pings.
pub fn build(ping_interval: Option<Duration>) -> Result<Swarm<Behaviour>, Failure> {
    let key = Keypair::generate_ed25519();
    let certificate = Certificate::generate(&mut rand::rng())?;
    let transport = Transport::new(key.clone(), certificate)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let interval = ping_interval.unwrap_or(IDLE_TIMEOUT);
    let identify = identify::Config::new("/rust-upstream/1.0.0".into(), key.public())
        .with_agent_version("libp2p-webrtc/0.10.0-alpha".into());
    let behaviour = Behaviour {
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(interval)),
        stream: stream::Behaviour::new(),
    };
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_max_negotiating_inbound_streams(1024);
    let peer = key.public().to_peer_id();
    Ok(Swarm::new(transport, behaviour, peer, config))
}

/// Chooses the cryptography of `libp2p-webrtc` for this process.
///
/// Its DTLS takes the process-wide default of rustls. When another crate of the same build enables
/// a second provider (libp2p-quic enables aws-lc-rs, webrtc enables ring) there is no default, and
/// upstream panics on every connection.
pub fn choose_provider() {
    // It only fails when a choice was made already.
    drop(rustls::crypto::ring::default_provider().install_default());
}
