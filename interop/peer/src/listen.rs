//! `listen`: prints its addresses and serves until it is told to stop.

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{Multiaddr, PeerId, Swarm, multiaddr::Protocol, swarm::SwarmEvent};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Failure, Ice, Implementation,
    behaviour::{self, Behaviour, BehaviourEvent, Plan},
    chain,
    farewell::farewell,
    print,
    protocols::Writer,
};

/// The options of `listen`.
#[derive(clap::Args, Debug)]
pub(crate) struct ListenArgs {
    /// Where to listen.
    #[arg(default_value = "/ip4/127.0.0.1/udp/0/webrtc-direct")]
    addr: Multiaddr,
    /// Always the same identity and address for the same number.
    #[arg(long)]
    seed: Option<u64>,
    /// Also prints what happens to connections.
    #[arg(long)]
    events: bool,
    /// Keeps sent messages below 8 KiB.
    #[arg(long)]
    small_frames: bool,
    /// How many milliseconds the own pings are apart. They must be frequent: libp2p-ping 0.48 waits for the next inbound
    /// ping without asking to be woken for it, so a node that rarely pings itself may answer late.
    #[arg(long, default_value_t = 200)]
    ping_interval: u64,
}

/// Listens and serves until SIGTERM or SIGINT.
pub(crate) async fn run(implementation: &Implementation, args: ListenArgs) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut swarm = behaviour::build(
        implementation,
        &Plan {
            seed: args.seed,
            ice: Ice::Auto,
            ping_interval: Duration::from_millis(args.ping_interval),
            writer: Writer {
                small_frames: args.small_frames,
            },
        },
    )?;
    swarm.listen_on(args.addr)?;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = serve(&mut swarm, args.events) => {}
        () = stopped => {}
    }
    farewell(swarm).await;
    Ok(())
}

/// Drives the swarm for ever.
async fn serve(swarm: &mut Swarm<Behaviour>, events: bool) {
    loop {
        let own = *swarm.local_peer_id();
        let event = swarm.select_next_some().await;
        let Some(report) = report(event, own) else {
            continue;
        };
        if events || report.get("addr").is_some() {
            print(&report);
        }
    }
}

/// The line that an event is worth.
fn report(event: SwarmEvent<BehaviourEvent>, own: PeerId) -> Option<Value> {
    Some(match event {
        SwarmEvent::NewListenAddr { address, .. } => {
            json!({ "addr": address.with(Protocol::P2p(own)) })
        }
        SwarmEvent::ConnectionEstablished { peer_id, .. } => {
            json!({ "event": "connected", "peer": peer_id.to_string() })
        }
        SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
            let detail = cause.map_or_else(|| "closed".to_owned(), |cause| chain(&cause));
            json!({ "event": "closed", "peer": peer_id.to_string(), "detail": detail })
        }
        SwarmEvent::IncomingConnectionError { error, .. } => {
            json!({ "event": "incoming-failed", "detail": chain(&error) })
        }
        _ => return None,
    })
}
