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
    Due, Ended, Listeners,
    socketpipe::{Behaviour as SocketPipe, Control},
    websocket::Acceptor,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use serde_json::json;

use crate::{
    Failed,
    output::{Output, chain},
    transports::Transports,
};

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
    /// Told when a listener ends, and when it is back.
    pub(crate) output: Output,
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
        let count = listen.len();
        let mut listeners = Listeners::default();
        for address in listen {
            let id = swarm
                .listen_on(address.clone())
                .map_err(|error| format!("{address}: {}", chain(&error)))?;
            listeners.opened(id, address);
        }
        let peer = *swarm.local_peer_id();
        let control = swarm.behaviour().socketpipe.control();
        let (found, addresses) = watch::channel(Vec::new());
        let (stop, stopped) = oneshot::channel();
        let driver = Driver {
            swarm,
            listeners,
            found,
            output: options.output,
        };
        let task = tokio::spawn(driver.run(stopped));
        let mut node = Self {
            peer,
            control,
            acceptor,
            addresses,
        };
        node.await_addresses(count).await?;
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

/// Polls the swarm.
struct Driver {
    swarm: Swarm<Behaviour>,
    listeners: Listeners,
    found: watch::Sender<Vec<Multiaddr>>,
    output: Output,
}

impl Driver {
    /// Until it is told to stop.
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                due = self.listeners.due() => self.listen_again(due),
            }
        }
        if tokio::time::timeout(CLOSING, close_all(&mut self.swarm))
            .await
            .is_err()
        {
            tracing::debug!("a connection does not close");
        }
        drop(self.swarm);
        tokio::time::sleep(FAREWELL).await;
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                self.listeners.found(listener_id, &address);
                self.found.send_modify(|known| known.push(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.forget(&[address]),
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                // Not every transport says that they have expired.
                self.forget(&addresses);
                let reason = reason.err().map(|error| chain(&error));
                let reason = reason.unwrap_or_else(|| "it was closed".to_owned());
                if let Some(ended) = self.listeners.ended(listener_id) {
                    self.tell_end(&ended, &reason);
                }
            }
            _ => {}
        }
    }

    fn forget(&self, addresses: &[Multiaddr]) {
        self.found
            .send_modify(|known| known.retain(|address| !addresses.contains(address)));
    }

    fn listen_again(&mut self, due: Due) {
        match self.swarm.listen_on(due.address().clone()) {
            Ok(id) => {
                let address = due.address().to_string();
                self.output.note(
                    &format!("listens on {address} again"),
                    || json!({ "event": "listening_again", "address": address }),
                );
                self.listeners.reopened(due, id);
            }
            Err(error) => {
                let ended = self.listeners.failed(due);
                self.tell_end(&ended, &chain(&error));
            }
        }
    }

    fn tell_end(&self, ended: &Ended, reason: &str) {
        let (address, seconds) = (ended.address.to_string(), ended.pause.as_secs());
        self.output.note(
            &format!("does not listen on {address} any more ({reason}), next try in {seconds} s"),
            || {
                json!({
                    "event": "listener_ended",
                    "address": address,
                    "reason": reason,
                    "seconds": seconds,
                })
            },
        );
    }
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

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::Pending,
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use libp2p::{
        Transport,
        core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    };
    use tokio::sync::mpsc;

    use super::*;

    const WISHED: &str = "/ip4/0.0.0.0/udp/0/webrtc-direct";
    const FOUND: &str = "/ip4/0.0.0.0/udp/4001/webrtc-direct";

    type Connecting = Pending<Result<(PeerId, StreamMuxerBox), io::Error>>;

    /// A transport that has nothing but one listener, which ends as if its socket had.
    struct Fragile {
        listened: mpsc::Sender<Multiaddr>,
        ends: mpsc::Receiver<io::Error>,
        /// What it says it listens on.
        found: Multiaddr,
        /// Whether it refuses to listen, once: the port is not free at once.
        refuses: bool,
        open: Option<ListenerId>,
        events: VecDeque<TransportEvent<Connecting, io::Error>>,
    }

    impl Transport for Fragile {
        type Output = (PeerId, StreamMuxerBox);
        type Error = io::Error;
        type ListenerUpgrade = Connecting;
        type Dial = Connecting;

        fn listen_on(
            &mut self,
            id: ListenerId,
            address: Multiaddr,
        ) -> Result<(), TransportError<io::Error>> {
            let tried = self.listened.try_send(address);
            tried.map_err(|error| TransportError::Other(io::Error::other(error)))?;
            if std::mem::take(&mut self.refuses) {
                return Err(TransportError::Other(io::ErrorKind::AddrInUse.into()));
            }
            self.open = Some(id);
            self.events.push_back(TransportEvent::NewAddress {
                listener_id: id,
                listen_addr: self.found.clone(),
            });
            Ok(())
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            false
        }

        fn dial(
            &mut self,
            address: Multiaddr,
            _: DialOpts,
        ) -> Result<Connecting, TransportError<io::Error>> {
            Err(TransportError::MultiaddrNotSupported(address))
        }

        fn poll(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<TransportEvent<Connecting, io::Error>> {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if let Poll::Ready(Some(error)) = self.ends.poll_recv(cx)
                && let Some(id) = self.open.take()
            {
                self.refuses = true;
                return Poll::Ready(TransportEvent::ListenerClosed {
                    listener_id: id,
                    reason: Err(error),
                });
            }
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_ends_comes_back_on_its_port_as_soon_as_it_can() {
        let (listened, mut tries) = mpsc::channel(16);
        let (end, ends) = mpsc::channel(1);
        let transport = Fragile {
            listened,
            ends,
            found: FOUND.parse().unwrap(),
            refuses: false,
            open: None,
            events: VecDeque::new(),
        };
        let mut swarm = swarm(Keypair::generate_ed25519(), transport.boxed()).unwrap();
        let wished: Multiaddr = WISHED.parse().unwrap();
        let mut listeners = Listeners::default();
        listeners.opened(swarm.listen_on(wished.clone()).unwrap(), wished.clone());
        let (found, mut addresses) = watch::channel(Vec::new());
        let driver = Driver {
            swarm,
            listeners,
            found,
            output: Output::default(),
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(driver.run(stopped));
        let mut next = async || {
            let tried = tokio::time::timeout(Duration::from_secs(3600), tries.recv());
            tried.await.expect("it listens again").unwrap()
        };
        assert_eq!(next().await, wished);
        let there = |known: &Vec<Multiaddr>| *known == [FOUND.parse().unwrap()];
        addresses.wait_for(there).await.unwrap();
        let error = io::Error::other(libp2p_rtc::Error::SocketEnded);
        end.send(error).await.unwrap();
        addresses.wait_for(Vec::is_empty).await.unwrap();
        // The first try is refused; the clock runs ahead to each.
        for _ in 0..2 {
            assert_eq!(next().await, FOUND.parse().unwrap());
        }
        addresses.wait_for(there).await.unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
    }
}
