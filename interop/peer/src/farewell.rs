//! The end of a peer: the other side is told, instead of being left to its timeouts.

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{Swarm, swarm::SwarmEvent};
use tokio::runtime::Handle;

use crate::behaviour::Behaviour;

/// How long peers may take to agree to the end of their connections.
const CLOSING: Duration = Duration::from_secs(2);
/// How long the tasks of a swarm that is gone may take to end.
const ENDING: Duration = Duration::from_millis(500);
/// The pause between two looks at the number of tasks; the runtime has no event for it.
const LOOK: Duration = Duration::from_millis(2);

/// Closes all connections, waits until they are closed, and lets the sockets send what they still hold. Not to be
/// called in a task: it waits for all tasks.
pub(crate) async fn farewell(mut swarm: Swarm<Behaviour>) {
    let closed = tokio::time::timeout(CLOSING, close_all(&mut swarm)).await;
    if closed.is_err() {
        tracing::warn!("a connection does not close");
    }
    // The transport goes with its swarm; the task of a socket ends when its last datagram has left.
    drop(swarm);
    let ended = tokio::time::timeout(ENDING, async {
        while Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    });
    if ended.await.is_err() {
        tracing::debug!("a task does not end");
    }
}

/// Closes the connections, also those that are established meanwhile.
async fn close_all(swarm: &mut Swarm<Behaviour>) {
    let peers: Vec<_> = swarm.connected_peers().copied().collect();
    for peer in peers {
        // It is no error if the peer was faster.
        let _ = swarm.disconnect_peer_id(peer);
    }
    while swarm.connected_peers().next().is_some() {
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            let _ = swarm.disconnect_peer_id(peer_id);
        }
    }
}
