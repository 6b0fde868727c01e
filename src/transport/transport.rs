//! The implementation of [`libp2p_core::Transport`]: listens, dials, reports.
//!
//! Owns the listeners, the sockets that only dial and the expected hole punches. Called by the swarm. It decides which
//! socket is used and nothing about the protocol.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::SelectAll};
use libp2p_core::{
    Endpoint, Multiaddr,
    multiaddr::Protocol,
    transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
};
use libp2p_identity::PeerId;

use crate::transport::{
    CallConfig, Caller,
    addr::{DialAddrError, needs_scope, parse_dial, parse_listen},
    config::Config,
    connecting::Connecting,
    connection::Connection,
    dialer::{self, DialSockets, SocketFactory},
    driver::SocketHandle,
    error::{Error, address_error},
    hole_punch::{self, HolePunches},
    listener::{Listener, ListenerEvent, Retired},
};

/// A libp2p transport for `/webrtc-direct` addresses: listens and dials.
///
/// It yields `(PeerId, Connection)`: encryption, authentication and multiplexing are part of WebRTC, so nothing is
/// negotiated on top. Listening and dialing need a tokio runtime.
///
/// | | |
/// | --- | --- |
/// | listen | `/ip4/0.0.0.0/udp/9090/webrtc-direct`, `/ip6/::/udp/0/webrtc-direct` |
/// | dial | `/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/uEi…`, with or without `/p2p/…` at the end |
///
/// A dial needs no listener. With [`PortUse::Reuse`] it leaves from the socket of a listener that fits, so that the peer
/// sees the address we listen on; a second dial to one remote address leaves from another port, because some deployed
/// listeners never answer a source address again. A socket remembers its last 8192 dials for that.
///
/// # How long a port is taken
///
/// A socket lives as long as its connections do. After `remove_listener` the connections go on, and the same transport
/// can listen on the address again at once: it takes the socket up again. Another transport or process cannot bind the
/// port before the last connection has ended.
///
/// When the transport and its connections are dropped (`drop(swarm)`), its sockets outlive it for the farewell: what was
/// flushed is sent, and the peers are told. That takes about a round trip, and
/// [`Limits::close_timeout`](crate::Limits::close_timeout) (2 s) where a peer does not answer. It happens in tasks of the
/// tokio runtime, so that a new transport that binds the same port in the next line still finds it taken (`Address
/// already in use`): await a little and try again, or close the connections first (`Swarm::disconnect_peer_id`) and wait
/// for their `ConnectionClosed`. A runtime that is shut down closes its sockets at once, without a word to the peers.
pub struct Transport {
    factory: Arc<SocketFactory>,
    listeners: SelectAll<Listener>,
    /// Of removed listeners: a socket that connections still use holds its port, and can be listened on again.
    retired: Vec<Retired>,
    /// Somebody was told that the addresses of this node will not last.
    warned: bool,
    dial_sockets: DialSockets,
    punches: HolePunches,
    /// Of the task that polls us: a new listener must be polled although nobody has woken the others.
    waker: Option<Waker>,
}

impl Transport {
    /// A transport with these settings. Binds nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            factory: Arc::new(SocketFactory::new(config)),
            listeners: SelectAll::new(),
            retired: Vec::new(),
            warned: false,
            dial_sockets: DialSockets::default(),
            punches: HolePunches::default(),
            waker: None,
        }
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.factory.config
    }

    /// What makes its sockets.
    #[cfg(test)]
    pub(super) fn factory(&self) -> &SocketFactory {
        &self.factory
    }

    /// Makes connections through signaling, and answers them from the sockets that this transport listens on.
    pub fn caller(&self, config: CallConfig) -> Caller {
        Caller::with_sockets(config, Arc::clone(&self.factory))
    }

    /// The socket that a dial to `remote` leaves from.
    fn dial_socket(
        &mut self,
        remote: SocketAddr,
        port_use: PortUse,
    ) -> Result<SocketHandle, Error> {
        match port_use {
            PortUse::New => self.factory.bind_for(remote),
            PortUse::Reuse => {
                let mut fitting = self
                    .listeners
                    .iter_mut()
                    .filter(|l| l.reaches(remote))
                    .peekable();
                if fitting.peek().is_none() {
                    return self.dial_sockets.socket_for(remote, &self.factory);
                }
                match fitting
                    .find_map(|listener| listener.claim(remote).then(|| listener.socket().clone()))
                {
                    Some(socket) => Ok(socket),
                    None => self.factory.bind_for(remote),
                }
            }
        }
    }

    /// A listener on a new socket, or on that of a removed listener, which holds the port while its connections last.
    fn listener(&mut self, id: ListenerId, addr: SocketAddr) -> Result<Listener, Error> {
        let factory = Arc::clone(&self.factory);
        let held = self
            .retired
            .iter()
            .position(|retired| retired.socket.local_addr() == Some(addr));
        if let Some(index) = held {
            let Retired { socket, dialed } = self.retired.swap_remove(index);
            if let Some(socket) = socket.revive() {
                return Listener::resume(id, factory, socket, dialed);
            }
        }
        Listener::bind(id, addr, factory)
    }

    /// Once: the node announces addresses that die with this process.
    fn warn_of_lost_certificate(&mut self) {
        let is_lost = self.factory.config.is_certificate_lost;
        if is_lost && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                "an RSA identity gives no certificate: this one is random, and the certhash in the node's addresses \
                 changes with every start; store a certificate and set it with Config::with_certificate"
            );
        }
    }

    /// Waits for the remote to connect to one of our listeners and opens the way for it.
    fn dial_as_listener(
        &mut self,
        addr: Multiaddr,
    ) -> Result<<Self as libp2p_core::Transport>::Dial, TransportError<Error>> {
        let (remote, expected) = punch_target(addr)?;
        let socket = self
            .listeners
            .iter()
            .find(|listener| listener.reaches(remote))
            .map(|listener| listener.socket().clone())
            .ok_or(Error::NoListener)?;
        let arrival = self.punches.expect(remote)?;
        let timeout = self.factory.config.limits.handshake_timeout;
        tracing::debug!(%remote, "punching a hole");
        Ok(hole_punch::punch(socket, remote, arrival, expected, timeout).boxed())
    }
}

/// The address and identity of a remote that will connect to us. It needs no certificate hash: a dialer's certificate is
/// not known beforehand.
fn punch_target(addr: Multiaddr) -> Result<(SocketAddr, Option<PeerId>), TransportError<Error>> {
    let error = match parse_dial(&addr) {
        Ok(parsed) => return Ok((parsed.socket, parsed.peer)),
        Err(error) => error,
    };
    let mut bare = addr.clone();
    let peer = match bare.pop() {
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(last) => {
            bare.push(last);
            None
        }
        None => None,
    };
    match (error, parse_listen(&bare)) {
        (DialAddrError::NoCerthash, Some(remote)) => Ok((remote, peer)),
        (error, _) => Err(address_error(error, addr)),
    }
}

impl libp2p_core::Transport for Transport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = Connecting;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        let Some(socket_addr) = parse_listen(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        if needs_scope(socket_addr) {
            return Err(Error::MissingScope.into());
        }
        let listener = self.listener(id, socket_addr)?;
        self.warn_of_lost_certificate();
        self.listeners.push(listener);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let removed = self
            .listeners
            .iter_mut()
            .find(|listener| listener.id() == id)
            .and_then(Listener::close);
        self.retired
            .retain(|retired| retired.socket.local_addr().is_some());
        let is_removed = removed.is_some();
        self.retired.extend(removed);
        is_removed
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        if opts.role == Endpoint::Listener {
            return self.dial_as_listener(addr);
        }
        let target = parse_dial(&addr).map_err(|error| address_error(error, addr))?;
        let socket = self.dial_socket(target.socket, opts.port_use)?;
        Ok(dialer::dial(Arc::clone(&self.factory), socket, target).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        while let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(cx) {
            let mut incoming = match event {
                ListenerEvent::Event(event) => return Poll::Ready(event),
                ListenerEvent::Incoming(incoming) => incoming,
            };
            if let Some(connecting) = self.punches.offer(incoming.remote, incoming.connecting) {
                incoming.connecting = connecting;
                return Poll::Ready(incoming.into());
            }
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}
