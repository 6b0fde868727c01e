//! `node listen`: prints its addresses and serves until it is told to stop.

use std::{error::Error, time::Duration};

use futures::StreamExt as _;
use libp2p::{Multiaddr, Swarm, multiaddr::Protocol, swarm::SwarmEvent};

use crate::{
    Behaviour,
    command_line::Options,
    farewell::farewell,
    output::{chain, complain, print, quote},
    stop::stop_signal,
    swarm,
};

/// Without an address the node listens on all of them.
const EVERYWHERE: [&str; 2] = [
    "/ip4/0.0.0.0/udp/0/webrtc-direct",
    "/ip6/::/udp/0/webrtc-direct",
];

/// Interfaces are listed at once; who has none after so long waits in vain.
const UNREACHABLE: Duration = Duration::from_secs(3);

pub(crate) async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let stop = stop_signal()?;
    let mut swarm = swarm(&options)?;
    match options.addr {
        Some(addr) => {
            let listening = swarm.listen_on(addr.clone());
            listening.map_err(|error| format!("{addr}: {}", chain(&error)))?;
        }
        None => {
            let [v4, v6] = EVERYWHERE;
            swarm.listen_on(v4.parse()?)?;
            if let Err(error) = swarm.listen_on(v6.parse()?) {
                complain(&format!("no IPv6: {}", chain(&error)));
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
    let mut unreachable = std::pin::pin!(tokio::time::sleep(UNREACHABLE));
    let mut reachable = false;
    loop {
        let event = tokio::select! {
            () = &mut stop => return Ok(()),
            () = &mut unreachable, if !reachable => {
                reachable = true;
                complain(
                    "no address yet: no network interface has one that can be dialed; \
                     try node listen /ip4/127.0.0.1/udp/0/webrtc-direct",
                );
                continue;
            }
            event = swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                reachable = true;
                print_addr(address.with(Protocol::P2p(*swarm.local_peer_id())))?;
            }
            SwarmEvent::ListenerError { error, .. } => complain(&chain(&error)),
            _ => {}
        }
    }
}

fn print_addr(addr: Multiaddr) -> Result<(), Box<dyn Error>> {
    print(&format!("{{\"addr\":{}}}", quote(&addr.to_string())))
}
