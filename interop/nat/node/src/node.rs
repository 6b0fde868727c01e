//! The swarm of a node, and what is said of its connections.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport as _,
    core::muxing::StreamMuxerBox,
    identity::Keypair,
    swarm::{DialError, SwarmEvent},
};
use libp2p_rtc::{
    CallConfig, Config, Transport,
    socketpipe::websocket::TurnServers,
    websocket::{self, Path, Paths},
};
use serde_json::json;

use crate::{Failure, clock, print};

/// What is served and asked for.
pub(crate) const ECHO: StreamProtocol = StreamProtocol::new("/laboratory/echo/1.0.0");

/// Longer than any scenario: who dials says when it is over.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Above what the transport takes for a dial, so that its reason is seen.
const DIAL_TIMEOUT: Duration = Duration::from_secs(25);

/// STUN and TURN servers, as `socketpipe serve` takes them.
#[derive(clap::Args, Debug)]
pub(crate) struct Servers {
    /// `stun:host:port` or `turn:host:port?transport=udp`; may be given more than once.
    #[arg(long = "server", value_name = "URL")]
    urls: Vec<String>,
    /// A file with the secret that the TURN servers know.
    #[arg(long, value_name = "FILE")]
    turn_secret_file: Option<PathBuf>,
}

impl Servers {
    fn read(&self) -> Result<TurnServers, Failure> {
        let secret = match &self.turn_secret_file {
            Some(file) => std::fs::read_to_string(file)?,
            None => String::new(),
        };
        Ok(TurnServers::new(&self.urls, secret.trim_end().as_bytes())?)
    }
}

/// A swarm, and how the connections of its transport `/ws/webrtc` go.
pub(crate) fn build(
    servers: &Servers,
) -> Result<(Swarm<libp2p_stream::Behaviour>, Paths), Failure> {
    let key = Keypair::generate_ed25519();
    let servers = servers.read()?;
    let direct = Transport::new(Config::new(&key));
    let config = websocket::Config::new(&key)
        .with_caller(direct.caller(CallConfig::new()))
        // Credentials are good for some minutes: each connection gets its own.
        .with_servers(move || servers.fresh());
    let signaled = websocket::Transport::new(config);
    let paths = signaled.paths();
    let both = signaled
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .or_transport(direct.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))))
        .map(|either, _| either.into_inner());
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|_| both)?
        .with_behaviour(|_| libp2p_stream::Behaviour::new())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT))
        .with_connection_timeout(DIAL_TIMEOUT)
        .build();
    Ok((swarm, paths))
}

/// The name of a path as `socketpipe sessions` has it.
fn name(path: Path) -> &'static str {
    match path {
        Path::WebRtc { relayed: true, .. } => "webrtc relayed",
        Path::WebRtc { relayed: false, .. } => "webrtc direct",
        _ => "websocket",
    }
}

/// Prints how the connections go, each change once, for ever. `null` is for one that is gone.
pub(crate) async fn tell(mut paths: Paths) {
    let mut before = BTreeMap::<PeerId, Path>::new();
    loop {
        let all = paths.all();
        let now: BTreeMap<_, _> = all.iter().map(|known| (known.peer, known.path)).collect();
        for (peer, path) in &now {
            if before.get(peer) != Some(path) {
                print(&json!({
                    "event": "path", "time": clock(), "peer": peer.to_string(),
                    "path": name(*path), "detail": path.to_string(),
                }));
            }
        }
        for peer in before.keys().filter(|peer| !now.contains_key(peer)) {
            print(&json!({
                "event": "path", "time": clock(), "peer": peer.to_string(), "path": null,
            }));
        }
        before = now;
        paths.changed().await;
    }
}

/// Why a dial led nowhere.
pub(crate) fn dial_failure(event: &SwarmEvent<()>) -> Option<&DialError> {
    match event {
        SwarmEvent::OutgoingConnectionError { error, .. } => Some(error),
        _ => None,
    }
}
