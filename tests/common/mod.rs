//! Nodes for the tests: transports on loopback, polled by hand.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "no test file uses every helper, and a test fails by panicking"
)]

use std::{
    fmt::Debug,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    task::Poll,
    time::Duration,
};

use futures::{FutureExt as _, pin_mut};
use libp2p_core::{
    Endpoint, Multiaddr, StreamMuxer as _,
    multiaddr::Protocol,
    transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
};
use libp2p_identity::{Keypair, PeerId};
use libp2p_rtc::{Config, Connection, Stream, Transport};

/// Far more than anything on a loopback takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const LOOPBACK: &str = "/ip4/127.0.0.1/udp/0/webrtc-direct";
pub(crate) const DIAL: DialOpts = DialOpts {
    role: Endpoint::Dialer,
    port_use: PortUse::Reuse,
};
pub(crate) const DIAL_FROM_NEW_PORT: DialOpts = DialOpts {
    role: Endpoint::Dialer,
    port_use: PortUse::New,
};
pub(crate) const DIAL_AS_LISTENER: DialOpts = DialOpts {
    role: Endpoint::Listener,
    port_use: PortUse::Reuse,
};

/// A transport that can be told of; this crate's first one unless another is named.
pub(crate) trait Told:
    libp2p_core::Transport<Error: Debug, ListenerUpgrade: Debug> + Unpin
{
}

impl<T> Told for T where T: libp2p_core::Transport<Error: Debug, ListenerUpgrade: Debug> + Unpin {}

pub(crate) type Event<T = Transport> = TransportEvent<
    <T as libp2p_core::Transport>::ListenerUpgrade,
    <T as libp2p_core::Transport>::Error,
>;
pub(crate) type Connected<T = Transport> =
    Result<<T as libp2p_core::Transport>::Output, <T as libp2p_core::Transport>::Error>;
pub(crate) type Dialing<T = Transport> = <T as libp2p_core::Transport>::Dial;

/// Fails instead of hanging.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

/// A transport with its identity.
pub(crate) struct Node<T = Transport> {
    pub(crate) transport: T,
    pub(crate) peer: PeerId,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|config| config)
    }

    pub(crate) fn with(change: impl FnOnce(Config) -> Config) -> Self {
        let keypair = Keypair::generate_ed25519();
        Self {
            transport: Transport::new(change(Config::new(&keypair))),
            peer: keypair.public().to_peer_id(),
        }
    }
}

impl<T: Told> Node<T> {
    /// Listens on one concrete address and returns what is announced.
    pub(crate) async fn listen(&mut self, addr: &str) -> (ListenerId, Multiaddr) {
        let id = ListenerId::next();
        self.transport
            .listen_on(id, addr.parse().unwrap())
            .expect("listening on loopback works");
        match self.next().await {
            TransportEvent::NewAddress { listen_addr, .. } => (id, listen_addr),
            event => panic!("expected an address, got {event:?}"),
        }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Event<T> {
        soon(poll_fn(|cx| Pin::new(&mut self.transport).poll(cx))).await
    }

    /// An event that is there already.
    pub(crate) fn now(&mut self) -> Option<Event<T>> {
        poll_fn(|cx| Pin::new(&mut self.transport).poll(cx)).now_or_never()
    }

    /// The next event, which must be an incoming connection: its set-up and the remote address.
    pub(crate) async fn incoming(&mut self) -> (T::ListenerUpgrade, Multiaddr) {
        match self.next().await {
            TransportEvent::Incoming {
                upgrade,
                send_back_addr,
                ..
            } => (upgrade, send_back_addr),
            event => panic!("expected a connection, got {event:?}"),
        }
    }

    /// Dials; the address must be one that can be dialed.
    pub(crate) fn dial(&mut self, addr: &Multiaddr, opts: DialOpts) -> Dialing<T> {
        self.transport
            .dial(addr.clone(), opts)
            .expect("the address can be dialed")
    }

    /// Dials an address that is refused at once.
    pub(crate) fn refused(&mut self, addr: &str, opts: DialOpts) -> TransportError<T::Error> {
        match self.transport.dial(addr.parse().unwrap(), opts) {
            Ok(_) => panic!("{addr} was taken for an address to dial"),
            Err(error) => error,
        }
    }

    /// Polls the transport while the future runs; it must report nothing.
    pub(crate) async fn quiet_while<F: Future>(&mut self, future: F) -> F::Output {
        pin_mut!(future);
        soon(poll_fn(|cx| {
            if let Poll::Ready(event) = Pin::new(&mut self.transport).poll(cx) {
                panic!("unexpected {event:?}");
            }
            future.as_mut().poll(cx)
        }))
        .await
    }
}

/// Both ends of one connection.
pub(crate) struct Pair<T: Told = Transport> {
    pub(crate) dialer: Connected<T>,
    pub(crate) listener: Connected<T>,
    /// The dialer's address as the listener saw it.
    pub(crate) source: Multiaddr,
}

/// Completes a dial to `listener`.
pub(crate) async fn complete<T: Told>(dialing: Dialing<T>, listener: &mut Node<T>) -> Pair<T> {
    let accept = async {
        let (connecting, source) = listener.incoming().await;
        (connecting.await, source)
    };
    let (dialer, (listener, source)) = soon(futures::future::join(dialing, accept)).await;
    Pair {
        dialer,
        listener,
        source,
    }
}

/// A new stream from this side.
pub(crate) async fn open(connection: &mut Connection) -> Stream {
    soon(poll_fn(|cx| Pin::new(&mut *connection).poll_outbound(cx)))
        .await
        .expect("the connection is open")
}

/// The next stream from the other side.
pub(crate) async fn accept(connection: &mut Connection) -> Stream {
    soon(poll_fn(|cx| Pin::new(&mut *connection).poll_inbound(cx)))
        .await
        .expect("the connection is open")
}

/// Closes the connection and waits until it is.
pub(crate) async fn close(mut connection: Connection) {
    soon(poll_fn(|cx| Pin::new(&mut connection).poll_close(cx)))
        .await
        .expect("closing does not fail");
}

/// Waits until a UDP address can be bound.
pub(crate) async fn becomes_free(addr: (&str, u16)) {
    soon(async {
        while std::net::UdpSocket::bind(addr).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The port in an address.
pub(crate) fn port(addr: &Multiaddr) -> u16 {
    addr.iter()
        .find_map(|part| match part {
            Protocol::Udp(port) => Some(port),
            _ => None,
        })
        .expect("the address has a port")
}

/// Is there a certificate hash in the address?
pub(crate) fn has_certhash(addr: &Multiaddr) -> bool {
    addr.iter()
        .any(|part| matches!(part, Protocol::Certhash(_)))
}

/// The certificate hash of one address in the place of another's.
pub(crate) fn with_certhash_of(addr: &Multiaddr, other: &Multiaddr) -> Multiaddr {
    let hash = other
        .iter()
        .find(|part| matches!(part, Protocol::Certhash(_)))
        .expect("the address has a certificate hash");
    addr.iter()
        .map(|part| match part {
            Protocol::Certhash(_) => hash.clone(),
            part => part,
        })
        .collect()
}

/// The same address with another socket.
pub(crate) fn with_socket(addr: &Multiaddr, socket: SocketAddr) -> Multiaddr {
    addr.iter()
        .map(|part| match part {
            Protocol::Ip4(_) | Protocol::Ip6(_) => Protocol::from(socket.ip()),
            Protocol::Udp(_) => Protocol::Udp(socket.port()),
            part => part,
        })
        .collect()
}
