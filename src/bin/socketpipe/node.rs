//! The libp2p node: its swarm, its addresses, its end.

use std::{net::SocketAddr, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_rtc::{
    socketpipe::{Behaviour as SocketPipe, Control},
    websocket::Acceptor,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{Failed, output::chain, transports::Transports};

/// How long a connection without sessions stays.
const IDLE: Duration = Duration::from_secs(60);
/// Interfaces are listed at once; an address that is not there after so long does not come.
const LISTENING: Duration = Duration::from_secs(5);
/// How long peers may take to agree to the end of their connections.
const CLOSING: Duration = Duration::from_secs(2);
/// Time for the last datagrams to leave after that.
const FAREWELL: Duration = Duration::from_millis(100);

#[derive(NetworkBehaviour)]
struct Behaviour {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    socketpipe: SocketPipe,
}

/// Where a node listens.
#[derive(Default)]
pub(crate) struct NodeOptions {
    /// Ports of its own. Without any, and without an HTTP server, it only dials.
    pub(crate) listen: Vec<Multiaddr>,
    /// The HTTP server whose port it shares, and whether that speaks TLS.
    pub(crate) websocket: Option<(SocketAddr, bool)>,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) peer: PeerId,
    pub(crate) control: Control,
    /// For the HTTP server whose port it shares.
    pub(crate) acceptor: Option<Acceptor>,
    addresses: watch::Receiver<Vec<Multiaddr>>,
}

/// Keeps a node running; without it the node ends without a word to its peers.
pub(crate) struct NodeTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Node {
    /// A node that can be reached as these options say.
    pub(crate) async fn start(
        keypair: Keypair,
        transports: Transports,
        options: NodeOptions,
    ) -> Result<(Self, NodeTask), Failed> {
        let mut transports = transports;
        let acceptor = options
            .websocket
            .map(|(address, tls)| transports.by_websocket.acceptor(address, tls));
        let mut swarm = swarm(keypair, transports.join())?;
        let shared = options.websocket.map(shared_address);
        let listen: Vec<_> = options.listen.into_iter().chain(shared).collect();
        for address in &listen {
            swarm
                .listen_on(address.clone())
                .map_err(|error| format!("{address}: {}", chain(&error)))?;
        }
        let peer = *swarm.local_peer_id();
        let control = swarm.behaviour().socketpipe.control();
        let (found, addresses) = watch::channel(Vec::new());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(drive(swarm, found, stopped));
        let mut node = Self {
            peer,
            control,
            acceptor,
            addresses,
        };
        node.await_addresses(listen.len()).await?;
        Ok((node, NodeTask { stop, task }))
    }

    /// Waits until each listener has an address.
    async fn await_addresses(&mut self, listeners: usize) -> Result<(), Failed> {
        let known = self.addresses.wait_for(|known| known.len() >= listeners);
        let all = tokio::time::timeout(LISTENING, known).await.is_ok();
        // Without IPv6, or without a network, some do not come.
        match all || !self.addresses.borrow().is_empty() {
            true => Ok(()),
            false => Err(
                "the node has no address: is there a network interface it can listen on?".into(),
            ),
        }
    }

    /// Where it can be reached, each with its peer id; what others can reach first.
    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        let mut all: Vec<_> = self
            .addresses
            .borrow()
            .iter()
            .map(|address| address.clone().with(Protocol::P2p(self.peer)))
            .collect();
        all.sort_by_key(|address| (reach(address), transport(address)));
        all
    }
}

impl NodeTask {
    /// Says goodbye to all peers.
    pub(crate) async fn stop(self) {
        // Gone already is as good.
        self.stop.send(()).ok();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the node ended badly");
        }
    }
}

/// The multiaddr of an HTTP server's port.
fn shared_address((address, tls): (SocketAddr, bool)) -> Multiaddr {
    let base = Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()));
    let base = if tls { base.with(Protocol::Tls) } else { base };
    base.with(Protocol::Ws("/".into())).with(Protocol::WebRTC)
}

/// Public addresses first, then those of the local network, then loopback.
fn reach(address: &Multiaddr) -> u8 {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => 2,
        Some(Protocol::Ip4(ip)) if ip.is_private() || ip.is_link_local() => 1,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => 2,
        Some(Protocol::Ip6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => 1,
        _ => 0,
    }
}

/// Browsers can dial the first two kinds only.
fn transport(address: &Multiaddr) -> u8 {
    let has = |wanted: Protocol<'_>| address.iter().any(|part| part == wanted);
    if has(Protocol::WebRTCDirect) {
        0
    } else if has(Protocol::WebRTC) {
        1
    } else if has(Protocol::QuicV1) {
        2
    } else {
        3
    }
}

fn swarm(
    keypair: Keypair,
    transport: Boxed<(PeerId, StreamMuxerBox)>,
) -> Result<Swarm<Behaviour>, Failed> {
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|_| transport)?
        .with_behaviour(|key| Behaviour {
            ping: ping::Behaviour::default(),
            identify: identify::Behaviour::new(
                identify::Config::new("/socketpipe/1.0.0".to_owned(), key.public())
                    .with_agent_version(
                        concat!("socketpipe/", env!("CARGO_PKG_VERSION")).to_owned(),
                    ),
            ),
            socketpipe: SocketPipe::new(),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();
    Ok(swarm)
}

/// Polls the swarm until it is told to stop.
async fn drive(
    mut swarm: Swarm<Behaviour>,
    found: watch::Sender<Vec<Multiaddr>>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let event = tokio::select! {
            _ = &mut stopped => break,
            event = swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                found.send_modify(|known| known.push(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                found.send_modify(|known| known.retain(|other| *other != address));
            }
            SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => tracing::error!(%error, "a listener ended"),
            _ => {}
        }
    }
    if tokio::time::timeout(CLOSING, close_all(&mut swarm))
        .await
        .is_err()
    {
        tracing::debug!("a connection does not close");
    }
    drop(swarm);
    tokio::time::sleep(FAREWELL).await;
}

async fn close_all(swarm: &mut Swarm<Behaviour>) {
    let peers: Vec<_> = swarm.connected_peers().copied().collect();
    for peer in peers {
        // Gone in the meantime is as good.
        swarm.disconnect_peer_id(peer).ok();
    }
    while swarm.network_info().num_peers() > 0 {
        swarm.select_next_some().await;
    }
}
