//! A swarm with Kademlia over WebRTC-direct, and what it learns about its peers.

use std::{error::Error, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    multiaddr::Protocol,
    ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_rtc::{Config, Transport};
use tokio::runtime::Handle;

/// How long an unused connection stays. Long, so that neighbours are asked again without a dial; bounded, because peers
/// can be dialed again at any time.
const IDLE: Duration = Duration::from_secs(300);

/// More addresses of one peer are not looked at.
const MAX_ADDRESSES: usize = 16;

/// How long the end of all connections may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a node does.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) kad: kad::Behaviour<MemoryStore>,
    /// Tells others our addresses and us theirs: an incoming connection does not show where the peer listens.
    identify: identify::Behaviour,
    /// js-libp2p pings a node before it takes it into its table.
    ping: ping::Behaviour,
}

/// A node of the table `protocol`. A client asks and is not asked: no table holds its address.
pub(crate) fn build(
    identity: Keypair,
    protocol: &StreamProtocol,
    mode: kad::Mode,
) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let swarm = SwarmBuilder::with_existing_identity(identity)
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key)))?
        .with_behaviour(|key| {
            let id = key.public().to_peer_id();
            let config = kad::Config::new(protocol.clone());
            let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), config);
            kad.set_mode(Some(mode));
            let about = identify::Config::new("/libp2p-rtc/dht/1.0.0".into(), key.public());
            Behaviour {
                kad,
                identify: identify::Behaviour::new(about),
                ping: ping::Behaviour::default(),
            }
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();
    Ok(swarm)
}

/// Who is to answer at a full address: one with `/p2p` at its end.
pub(crate) fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Enters a peer into the routing table by its full address; false if it is none.
pub(crate) fn enter(swarm: &mut Swarm<Behaviour>, addr: &Multiaddr) -> bool {
    let Some(peer) = peer_of(addr) else {
        return false;
    };
    if peer != *swarm.local_peer_id() {
        swarm.behaviour_mut().kad.add_address(&peer, addr.clone());
    }
    true
}

/// Enters what a peer told about itself into the routing table, if it is a node of the same table.
pub(crate) fn learn(swarm: &mut Swarm<Behaviour>, peer: PeerId, info: &identify::Info) {
    let kad = &mut swarm.behaviour_mut().kad;
    if !kad
        .protocol_names()
        .iter()
        .any(|name| info.protocols.contains(name))
    {
        return;
    }
    // Loopback addresses of another machine would lead to ourselves.
    let near = is_loopback(&info.observed_addr);
    for addr in info.listen_addrs.iter().take(MAX_ADDRESSES) {
        if is_dialable(addr) && (near || !is_loopback(addr)) {
            kad.add_address(&peer, addr.clone());
        }
    }
}

/// The routing table, as addresses that can be dialed.
pub(crate) fn known(swarm: &mut Swarm<Behaviour>) -> Vec<Multiaddr> {
    let mut known = Vec::new();
    for bucket in swarm.behaviour_mut().kad.kbuckets() {
        for entry in bucket.iter() {
            let peer = *entry.node.key.preimage();
            let addrs = entry.node.value.iter().cloned();
            known.extend(addrs.filter_map(|addr| addr.with_p2p(peer).ok()));
        }
    }
    known
}

/// Without the hash of the peer's certificate nobody can dial it.
fn is_dialable(addr: &Multiaddr) -> bool {
    addr.iter()
        .any(|part| matches!(part, Protocol::Certhash(_)))
}

fn is_loopback(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Closes all connections and waits until the sockets have sent what they hold: peers notice at once, instead of by a
/// timeout.
pub(crate) async fn farewell(mut swarm: Swarm<Behaviour>) {
    let closed = async {
        let peers: Vec<_> = swarm.connected_peers().copied().collect();
        for peer in peers {
            // It is no error if the peer was faster.
            swarm.disconnect_peer_id(peer).ok();
        }
        while swarm.connected_peers().next().is_some() {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } =
                swarm.select_next_some().await
            {
                swarm.disconnect_peer_id(peer_id).ok();
            }
        }
        drop(swarm);
        // The tasks of the sockets; the runtime has no event for their end.
        while Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(FAREWELL, closed).await.is_err() {
        tracing::debug!("a connection does not close");
    }
}
