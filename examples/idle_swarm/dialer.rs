//! Dials: the process that keeps connections, and the time a single dial takes.

use std::{error::Error, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    multiaddr::Protocol,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
};
use tokio::time::Instant;

use crate::{child::questions, print, swarm};

/// Dials of one process at the same time.
const AT_ONCE: usize = 4;

/// Failed dials of one process until it gives up.
const MAX_FAILED: usize = 100;

/// Opens `count` connections and keeps them until stdin ends; each line on it is answered with how many there are.
pub(crate) async fn run(addr: Multiaddr, count: usize) -> Result<(), Box<dyn Error>> {
    let mut swarm = swarm()?;
    let (mut started, mut open, mut failed) = (0, 0, 0);
    while open < count {
        if started < count && started - open < AT_ONCE {
            swarm.dial(again(&addr)?)?;
            started += 1;
            continue;
        }
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => open += 1,
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                started -= 1;
                failed += 1;
                if failed > MAX_FAILED {
                    return Err(error.into());
                }
            }
            SwarmEvent::ConnectionClosed { cause, .. } => {
                return Err(format!("with {open} open, one was lost: {cause:?}").into());
            }
            _ => {}
        }
    }
    print(&open.to_string())?;
    let mut questions = questions();
    loop {
        tokio::select! {
            question = questions.next_line() => {
                if question?.is_none() {
                    return Ok(());
                }
                print(&open.to_string())?;
            }
            event = swarm.select_next_some() => {
                if let SwarmEvent::ConnectionClosed { cause, .. } = event {
                    open -= 1;
                    tracing::warn!(?cause, "a connection was lost");
                }
            }
        }
    }
}

/// The median of several dials in turn; each connection is closed before the next dial.
pub(crate) async fn dial_time(addr: &Multiaddr, count: usize) -> Result<Duration, Box<dyn Error>> {
    let mut swarm = swarm()?;
    // The first one makes what all later ones share.
    dial_and_close(&mut swarm, addr).await?;
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(dial_and_close(&mut swarm, addr).await?);
    }
    times.sort_unstable();
    Ok(times[count / 2])
}

async fn dial_and_close(
    swarm: &mut Swarm<dummy::Behaviour>,
    addr: &Multiaddr,
) -> Result<Duration, Box<dyn Error>> {
    let started = Instant::now();
    swarm.dial(again(addr)?)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                let took = started.elapsed();
                swarm.close_connection(connection_id);
                while !matches!(
                    swarm.select_next_some().await,
                    SwarmEvent::ConnectionClosed { .. }
                ) {}
                return Ok(took);
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
}

/// One more connection to the same peer.
fn again(addr: &Multiaddr) -> Result<DialOpts, Box<dyn Error>> {
    let peer: PeerId = match addr.iter().last() {
        Some(Protocol::P2p(peer)) => peer,
        _ => return Err(format!("{addr}: its /p2p is missing").into()),
    };
    Ok(DialOpts::peer_id(peer)
        .addresses(vec![addr.clone()])
        .condition(PeerCondition::Always)
        .build())
}
