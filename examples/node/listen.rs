//! `node listen`: prints its addresses and serves until it is told to stop.

use std::error::Error;

use futures::StreamExt as _;
use libp2p::{Multiaddr, Swarm, multiaddr::Protocol, swarm::SwarmEvent};

use crate::{Behaviour, Options, farewell::farewell, print, quote, swarm};

/// Without an address the node listens on all of them.
const EVERYWHERE: [&str; 2] = [
    "/ip4/0.0.0.0/udp/0/webrtc-direct",
    "/ip6/::/udp/0/webrtc-direct",
];

pub(crate) async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let stop = stop_signal()?;
    let mut swarm = swarm(&options)?;
    match options.addr {
        Some(addr) => drop(swarm.listen_on(addr)?),
        None => {
            let [v4, v6] = EVERYWHERE;
            swarm.listen_on(v4.parse()?)?;
            if let Err(error) = swarm.listen_on(v6.parse()?) {
                eprintln!("node: no IPv6: {}", crate::chain(&error));
            }
        }
    }
    let outcome = serve(&mut swarm, stop).await;
    farewell(swarm).await;
    outcome
}

/// Drives the swarm until `stop` is ready.
async fn serve(
    swarm: &mut Swarm<Behaviour>,
    stop: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error>> {
    let mut stop = std::pin::pin!(stop);
    loop {
        let event = tokio::select! {
            () = &mut stop => return Ok(()),
            event = swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                print_addr(address.with(Protocol::P2p(*swarm.local_peer_id())))?;
            }
            SwarmEvent::ListenerError { error, .. } => {
                eprintln!("node: {}", crate::chain(&error));
            }
            _ => {}
        }
    }
}

fn print_addr(addr: Multiaddr) -> std::io::Result<()> {
    print(&format!("{{\"addr\":{}}}", quote(&addr.to_string())))
}

/// Resolves on SIGINT or SIGTERM.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Resolves on Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
