//! `node listen`: prints its addresses and serves until it is told to stop.

use std::{error::Error, time::Duration};

use futures::StreamExt as _;
use libp2p::{Multiaddr, Swarm, multiaddr::Protocol, swarm::SwarmEvent};
use libp2p_rtc::{Ended, Listeners};

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
    let mut listeners = Listeners::default();
    match options.addr {
        Some(addr) => {
            let listening = swarm.listen_on(addr.clone());
            let id = listening.map_err(|error| format!("{addr}: {}", chain(&error)))?;
            listeners.opened(id, addr);
        }
        None => {
            let [v4, v6] = EVERYWHERE.map(str::parse::<Multiaddr>);
            let (v4, v6) = (v4?, v6?);
            listeners.opened(swarm.listen_on(v4.clone())?, v4);
            match swarm.listen_on(v6.clone()) {
                Ok(id) => listeners.opened(id, v6),
                Err(error) => complain(&format!("no IPv6: {}", chain(&error))),
            }
        }
    }
    let outcome = serve(&mut swarm, &mut listeners, stop).await;
    farewell(swarm).await;
    outcome
}

/// Drives the swarm until `stop` is ready.
async fn serve(
    swarm: &mut Swarm<Behaviour>,
    listeners: &mut Listeners,
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
            due = listeners.due() => {
                match swarm.listen_on(due.address().clone()) {
                    Ok(id) => listeners.reopened(due, id),
                    Err(error) => complain_of_end(&listeners.failed(due), &chain(&error)),
                }
                continue;
            }
            event = swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                reachable = true;
                listeners.found(listener_id, &address);
                print_addr(address.with(Protocol::P2p(*swarm.local_peer_id())))?;
            }
            SwarmEvent::ListenerError { error, .. } => complain(&chain(&error)),
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } => {
                if let Some(ended) = listeners.ended(listener_id) {
                    complain_of_end(&ended, &chain(&error));
                }
            }
            _ => {}
        }
    }
}

fn complain_of_end(ended: &Ended, reason: &str) {
    let seconds = ended.pause.as_secs();
    complain(&format!(
        "does not listen on {} any more ({reason}), next try in {seconds} s",
        ended.address
    ));
}

fn print_addr(addr: Multiaddr) -> Result<(), Box<dyn Error>> {
    print(&format!("{{\"addr\":{}}}", quote(&addr.to_string())))
}
