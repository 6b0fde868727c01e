//! One listener: its socket, the addresses it announces, the connections that arrive.
//!
//! Owned by the transport as a stream of [`ListenerEvent`]s. A wildcard address is announced as the addresses of all
//! network interfaces and kept current; a concrete one is announced as it is. Removing a listener ends the announced
//! addresses and the acceptance of new connections; its existing connections keep the socket.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{Stream, ready};
use libp2p_core::{
    Multiaddr,
    transport::{ListenerId, TransportEvent},
};

use crate::transport::{
    addr::{listen_addr, remote_addr},
    connecting::Connecting,
    dialer::{Dialed, SocketFactory},
    driver::{RetiredSocket, SocketHandle},
    error::Error,
    interfaces::Interfaces,
};

/// What a listener reports to the transport.
#[derive(Debug)]
pub(crate) enum ListenerEvent {
    /// Passed on as it is; never `TransportEvent::Incoming`.
    Event(TransportEvent<Connecting, Error>),
    /// A connection arrived; the transport decides whether it answers a hole punch.
    Incoming(IncomingConnection),
}

/// A connection that arrived at a listener.
#[derive(Debug)]
pub(crate) struct IncomingConnection {
    pub(crate) listener_id: ListenerId,
    pub(crate) connecting: Connecting,
    pub(crate) remote: SocketAddr,
    pub(crate) local_addr: Multiaddr,
}

impl From<IncomingConnection> for TransportEvent<Connecting, Error> {
    fn from(incoming: IncomingConnection) -> Self {
        Self::Incoming {
            listener_id: incoming.listener_id,
            upgrade: incoming.connecting,
            local_addr: incoming.local_addr,
            send_back_addr: remote_addr(incoming.remote),
        }
    }
}

/// What a removed listener leaves behind, for as long as connections keep its socket.
#[derive(Debug)]
pub(crate) struct Retired {
    pub(crate) socket: RetiredSocket,
    pub(crate) dialed: Dialed,
}

/// See the module's documentation.
pub(crate) struct Listener {
    id: ListenerId,
    socket: SocketHandle,
    factory: Arc<SocketFactory>,
    interfaces: Interfaces,
    /// Events to report before anything else.
    events: VecDeque<TransportEvent<Connecting, Error>>,
    closed: bool,
    /// Wakes the task that polls us when `close` is called from elsewhere.
    waker: Option<Waker>,
    dialed: Dialed,
}

impl Listener {
    /// Binds `addr` and starts to accept.
    ///
    /// # Errors
    /// See [`SocketFactory::bind`]; also when the system gives no list of interfaces.
    pub(crate) fn bind(
        id: ListenerId,
        addr: SocketAddr,
        factory: Arc<SocketFactory>,
    ) -> Result<Self, Error> {
        let socket = factory.bind(addr, true)?;
        Self::with_socket(id, factory, socket, Dialed::default())
    }

    /// Listens again on a socket that has been a listener's.
    ///
    /// # Errors
    /// When the system gives no list of interfaces.
    pub(crate) fn resume(
        id: ListenerId,
        factory: Arc<SocketFactory>,
        socket: SocketHandle,
        dialed: Dialed,
    ) -> Result<Self, Error> {
        socket.set_accept_incoming(true);
        Self::with_socket(id, factory, socket, dialed)
    }

    fn with_socket(
        id: ListenerId,
        factory: Arc<SocketFactory>,
        socket: SocketHandle,
        dialed: Dialed,
    ) -> Result<Self, Error> {
        let listener = Self {
            id,
            interfaces: Interfaces::new(id, socket.local_addr())?,
            socket,
            factory,
            events: VecDeque::new(),
            closed: false,
            waker: None,
            dialed,
        };
        listener.factory.begin_listening(id, &listener.socket);
        Ok(listener)
    }

    /// The listener's name.
    pub(crate) fn id(&self) -> ListenerId {
        self.id
    }

    /// A handle to the socket, for dialing and hole punching.
    pub(crate) fn socket(&self) -> &SocketHandle {
        &self.socket
    }

    /// Notes a dial of `remote` from this socket; false if another socket must be taken.
    pub(crate) fn claim(&mut self, remote: SocketAddr) -> bool {
        self.dialed.claim(remote)
    }

    /// Would packets to `remote` leave from the address that this listener is bound to?
    pub(crate) fn reaches(&self, remote: SocketAddr) -> bool {
        !self.closed && fits(self.socket.local_addr().ip(), remote)
    }

    /// Stops accepting, expires all addresses and ends the stream. Existing connections live on. What is left of it, or
    /// `None` if that was done before.
    pub(crate) fn close(&mut self) -> Option<Retired> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        self.socket.set_accept_incoming(false);
        self.factory.end_listening(self.id);
        self.announce_end(Ok(()));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Some(Retired {
            socket: self.socket.retire(),
            dialed: std::mem::take(&mut self.dialed),
        })
    }

    fn announce_end(&mut self, reason: Result<(), Error>) {
        let name = address_of(&self.socket, &self.factory);
        self.events.extend(self.interfaces.close(reason, name));
    }

    /// The socket's driver has ended under us. Nothing comes any more, and whoever listens has to know.
    fn fail(&mut self) {
        self.closed = true;
        self.factory.end_listening(self.id);
        self.announce_end(Err(Error::SocketEnded));
    }

    /// Queues what has changed on the interfaces.
    fn poll_interfaces(&mut self, cx: &mut Context<'_>) {
        let name = address_of(&self.socket, &self.factory);
        while let Poll::Ready(event) = self.interfaces.poll(cx, &name) {
            self.events.push_back(event);
        }
    }

    fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<IncomingConnection> {
        let incoming = ready!(self.socket.poll_incoming(cx));
        let bound = self.socket.local_addr();
        let local_ip = incoming.local_ip.unwrap_or_else(|| bound.ip());
        Poll::Ready(IncomingConnection {
            listener_id: self.id,
            connecting: Connecting::inbound(Arc::clone(&self.factory.config), incoming.pending),
            remote: incoming.remote,
            local_addr: remote_addr(SocketAddr::new(local_ip, bound.port())),
        })
    }
}

/// The dialable form of the addresses of a listener.
fn address_of(socket: &SocketHandle, factory: &SocketFactory) -> impl Fn(IpAddr) -> Multiaddr {
    let port = socket.local_addr().port();
    let fingerprint = factory.config.certificate.fingerprint();
    move |ip| listen_addr(SocketAddr::new(ip, port), &[fingerprint])
}

impl Stream for Listener {
    type Item = ListenerEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_interfaces(cx);
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(Some(ListenerEvent::Event(event)));
        }
        if self.closed {
            return Poll::Ready(None);
        }
        if let Poll::Ready(incoming) = self.poll_incoming(cx) {
            return Poll::Ready(Some(ListenerEvent::Incoming(incoming)));
        }
        if self.socket.is_dead() {
            self.fail();
            return Poll::Ready(self.events.pop_front().map(ListenerEvent::Event));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A closed one has no say any more: somebody may listen on its socket again.
        if !self.closed {
            self.socket.set_accept_incoming(false);
            self.factory.end_listening(self.id);
        }
    }
}

/// May a socket bound to `bound` dial `remote`?
///
/// A wildcard socket may dial everything of its family, one on a loopback address only loopback addresses. Any other is
/// taken where the system would choose the same source address.
fn fits(bound: IpAddr, remote: SocketAddr) -> bool {
    if bound.is_ipv4() != remote.is_ipv4() {
        return false;
    }
    if bound.is_unspecified() {
        return true;
    }
    if bound.is_loopback() || remote.ip().is_loopback() {
        return bound.is_loopback() && remote.ip().is_loopback();
    }
    route_source(remote) == Some(bound)
}

/// The source address that the system's routes choose for `remote`. Connecting a UDP socket sends nothing.
fn route_source(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let probe = UdpSocket::bind(any).ok()?;
    probe.connect(remote).ok()?;
    Some(probe.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_socket_dials_its_family() {
        assert!(fits(ip("0.0.0.0"), addr("192.0.2.1:1")));
        assert!(fits(ip("0.0.0.0"), addr("127.0.0.1:1")));
        assert!(!fits(ip("0.0.0.0"), addr("[::1]:1")));
        assert!(fits(ip("::"), addr("[::1]:1")));
    }

    #[test]
    fn a_loopback_socket_dials_loopback_only() {
        assert!(fits(ip("127.0.0.1"), addr("127.0.0.1:1")));
        assert!(!fits(ip("127.0.0.1"), addr("192.0.2.1:1")));
        assert!(!fits(ip("::1"), addr("127.0.0.1:1")));
    }

    #[test]
    fn another_socket_dials_no_loopback_and_nothing_routed_elsewhere() {
        // 240.0.0.0/4 is reserved: no interface has it.
        assert!(!fits(ip("240.0.0.1"), addr("127.0.0.1:1")));
        assert!(!fits(ip("240.0.0.1"), addr("192.0.2.2:1")));
    }
}
