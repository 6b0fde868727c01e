//! `rust-upstream listen`.

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{Multiaddr, multiaddr::Protocol, swarm::SwarmEvent};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, chain, checks, peer, print};

/// The options of `listen`.
#[derive(clap::Args, Debug)]
pub struct ListenArgs {
    /// Where to listen.
    #[arg(default_value = "/ip4/127.0.0.1/udp/0/webrtc-direct")]
    addr: Multiaddr,
    /// Closes each connection so many milliseconds after it was established.
    #[arg(long)]
    close_after: Option<u64>,
    /// Also prints what happens to connections and streams.
    #[arg(long)]
    events: bool,
    /// Keeps echoed messages below 8 KiB, the most that upstream can read.
    #[arg(long)]
    small_frames: bool,
    /// How many milliseconds the own pings are apart. They must be frequent: libp2p-ping 0.48
    /// waits for the next inbound ping without asking to be woken for it, so a node that rarely
    /// pings itself answers late.
    #[arg(long, default_value_t = 200)]
    ping_interval: u64,
    /// Accepted for the sake of the common contract; the identity is always fresh.
    #[arg(long, hide = true)]
    seed: Option<u64>,
}

/// Listens and serves until SIGTERM or SIGINT.
pub async fn run(args: ListenArgs) -> Result<(), Failure> {
    let mut swarm = peer::build(Some(Duration::from_millis(args.ping_interval)))?;
    checks::serve_echo(
        &mut swarm.behaviour().stream.new_control(),
        args.small_frames,
        args.events,
    )?;
    swarm.listen_on(args.addr)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (closers, mut to_close) = tokio::sync::mpsc::channel(16);
    loop {
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            Some(id) = to_close.recv() => {
                swarm.close_connection(id);
                continue;
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let mut report = None;
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                let addr = address.with(Protocol::P2p(*swarm.local_peer_id()));
                print(&json!({ "addr": addr }));
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } => {
                report = Some(json!({ "event": "connected", "peer": peer_id.to_string() }));
                if let Some(after) = args.close_after.map(Duration::from_millis) {
                    let closers = closers.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        closers.send(connection_id).await
                    });
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                let cause = cause.map(|cause| chain(&cause));
                report =
                    Some(json!({ "event": "closed", "peer": peer_id.to_string(), "cause": cause }));
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                report = Some(json!({ "event": "incoming-failed", "detail": chain(&error) }));
            }
            _ => {}
        }
        if let (true, Some(report)) = (args.events, report) {
            print(&report);
        }
    }
}
