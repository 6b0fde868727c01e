//! The end of a node: its peers are told, instead of being left to their timeouts.

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{Swarm, swarm::SwarmEvent};
use tokio::runtime::Handle;

use crate::Behaviour;

/// How long peers may take to agree to the end of their connections.
const CLOSING: Duration = Duration::from_secs(2);

/// How long the tasks of a swarm that is gone may take to end.
const ENDING: Duration = Duration::from_millis(500);

/// The pause between two looks at the number of tasks; the runtime has no event for it.
const LOOK: Duration = Duration::from_millis(2);

/// Closes all connections, waits until they are closed, and lets the sockets send what they still hold. Not to be called
/// in a task: it waits for all tasks.
pub(crate) async fn farewell(mut swarm: Swarm<Behaviour>) {
    if tokio::time::timeout(CLOSING, close_all(&mut swarm))
        .await
        .is_err()
    {
        tracing::debug!("a connection does not close");
    }
    // The transport goes with its swarm; the task of a socket ends when its last datagram has left.
    drop(swarm);
    if tokio::time::timeout(ENDING, no_task()).await.is_err() {
        tracing::debug!("a task does not end");
    }
}

/// Closes the connections, also those that are established meanwhile.
async fn close_all(swarm: &mut Swarm<Behaviour>) {
    let peers: Vec<_> = swarm.connected_peers().copied().collect();
    for peer in peers {
        // It is no error if the peer was faster.
        swarm.disconnect_peer_id(peer).ok();
    }
    while swarm.connected_peers().next().is_some() {
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            swarm.disconnect_peer_id(peer_id).ok();
        }
    }
}

/// Ready when no task is left.
async fn no_task() {
    while Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::time::sleep(LOOK).await;
    }
}
