//! What the transport and callers hold of a socket: handles, and connections before Noise.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use super::{Driver, NewCall};
use crate::{
    proto::{CloseReason, Dial, Endpoint, credentials::IceVersion, fingerprint::Fingerprint},
    transport::{
        Connection, Metrics, Stream,
        shared::{
            CallShared, ConnectionHandle, ConnectionShared, Opening, Request, SocketShared,
            SocketUser, StreamLimits, Wakes, WeakSocketUser,
        },
        socket::Socket,
    },
};

/// The transport's access to a socket and its driver. When the last clone and all connections are gone, the driver
/// sends its goodbyes and ends, which closes the socket.
#[derive(Clone)]
pub(crate) struct SocketHandle {
    user: SocketUser,
}

/// A [`SocketHandle`] that does not count. See [`SocketHandle::downgrade`].
#[derive(Clone)]
pub(crate) struct WeakSocketHandle {
    user: WeakSocketUser,
}

impl WeakSocketHandle {
    /// The handle, as long as others exist, or connections that were dialed from the socket.
    pub(crate) fn upgrade(&self) -> Option<SocketHandle> {
        self.user.upgrade().map(|user| SocketHandle { user })
    }
}

/// A socket whose handles may all be gone, while inbound connections still use it.
#[derive(Debug)]
pub(crate) struct RetiredSocket {
    shared: Weak<SocketShared>,
}

impl RetiredSocket {
    /// A handle to the socket, if its driver still runs.
    pub(crate) fn revive(&self) -> Option<SocketHandle> {
        let user = SocketUser::revive(self.shared.upgrade()?)?;
        Some(SocketHandle { user })
    }

    /// The bound address, if the driver still runs.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        let shared = self.shared.upgrade()?;
        (!shared.is_dead()).then(|| shared.local_addr())
    }
}

impl fmt::Debug for WeakSocketHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakSocketHandle").finish_non_exhaustive()
    }
}

impl SocketHandle {
    /// Starts the driver on the current tokio runtime.
    pub(crate) fn spawn_with(
        socket: Socket,
        endpoint: Endpoint,
        limits: StreamLimits,
        metrics: Option<Metrics>,
    ) -> Self {
        let shared = SocketShared::new(socket.local_addr(), limits);
        let driver = Driver::new(socket, endpoint, Arc::clone(&shared), metrics);
        tokio::spawn(driver);
        Self::new(shared)
    }

    /// A handle on the socket of a driver that somebody else runs.
    pub(super) fn new(shared: Arc<SocketShared>) -> Self {
        Self {
            user: SocketUser::new(shared),
        }
    }

    pub(super) fn shared(&self) -> &Arc<SocketShared> {
        self.user.shared()
    }

    /// What is needed to take the socket up again after all handles are gone. See [`RetiredSocket::revive`].
    pub(crate) fn retire(&self) -> RetiredSocket {
        RetiredSocket {
            shared: Arc::downgrade(self.shared()),
        }
    }

    /// Access that does not keep the driver running.
    pub(crate) fn downgrade(&self) -> WeakSocketHandle {
        WeakSocketHandle {
            user: self.user.downgrade(),
        }
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.shared().local_addr()
    }

    /// Starts a connection.
    pub(crate) fn dial(&self, dial: Dial) -> Pending {
        let connection = ConnectionShared::new(Arc::clone(self.shared()), None);
        let request = Request::Dial(dial, Arc::clone(&connection));
        if self.shared().push(request).is_err() {
            connection.close(CloseReason::Local, &mut Wakes::new());
        }
        Pending::new(connection, Some(self.user.clone()))
    }

    /// Begins a connection through signaling: the half of its owner, and the handle on the connection.
    pub(crate) fn call(
        &self,
        new: impl FnOnce(Arc<CallShared>) -> NewCall,
    ) -> (Arc<CallShared>, ConnectionHandle) {
        let connection = ConnectionShared::new(Arc::clone(self.shared()), None);
        let shared = CallShared::new(Arc::clone(&connection));
        let request = Request::Call(Box::new(new(Arc::clone(&shared))));
        if let Err(Request::Call(new)) = self.shared().push(request) {
            new.refuse(CloseReason::Local, &mut Wakes::new());
        }
        (
            shared,
            ConnectionHandle::new(connection, Some(self.user.clone())),
        )
    }

    /// Sends one packet to `remote`, which opens the way back through a NAT.
    pub(crate) fn punch(&self, remote: SocketAddr) {
        // Without a driver there is no socket to punch for.
        self.shared().push(Request::Punch(remote)).ok();
    }

    /// The next connection that a peer opened. One task at a time may wait.
    pub(crate) fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.shared().poll_incoming(cx)
    }

    /// Has the driver ended, although somebody uses the socket?
    pub(crate) fn is_dead(&self) -> bool {
        self.shared().is_dead()
    }

    /// Takes new inbound connections from now on, or no longer. In the latter case those not taken yet are closed.
    pub(crate) fn set_accept_incoming(&self, accept: bool) {
        self.shared().set_accepting(accept);
    }
}

impl fmt::Debug for SocketHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SocketHandle")
            .field(&self.local_addr())
            .finish()
    }
}

/// An inbound connection that has finished DTLS.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Its further set-up; dropping it closes the connection.
    pub(crate) pending: Pending,
    /// The peer's address.
    pub(crate) remote: SocketAddr,
    /// The local address that the peer used, where the system tells.
    pub(crate) local_ip: Option<IpAddr>,
}

/// Future: a connection up to SCTP, ready for Noise. Dropping it closes the connection.
pub(crate) struct Pending {
    /// Taken when the future is ready.
    handle: Option<ConnectionHandle>,
}

/// A connection on which Noise can run.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Hands out no inbound streams before [`Connection::authenticated`].
    pub(crate) connection: Connection,
    /// The channel for Noise.
    pub(crate) handshake: Stream,
    /// The peer's certificate.
    pub(crate) remote_fingerprint: Fingerprint,
    /// The form of the first contact that the peer used or answered.
    pub(crate) version: Option<IceVersion>,
    /// The certificate that we showed, where it is not that of the transport.
    pub(crate) local_fingerprint: Option<Fingerprint>,
}

impl Ready {
    pub(crate) fn new(opening: Opening, handle: ConnectionHandle) -> Self {
        let Opening {
            handshake,
            remote_fingerprint,
            version,
        } = opening;
        Self {
            connection: Connection::new(handle),
            handshake,
            remote_fingerprint,
            version,
            local_fingerprint: None,
        }
    }
}

impl Pending {
    pub(super) fn new(connection: Arc<ConnectionShared>, user: Option<SocketUser>) -> Self {
        Self {
            handle: Some(ConnectionHandle::new(connection, user)),
        }
    }
}

impl Future for Pending {
    type Output = Result<Ready, CloseReason>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = self
            .handle
            .as_ref()
            .expect("a future is not polled after it was ready");
        let opening = ready!(handle.poll_ready(cx));
        let handle = self.handle.take();
        Poll::Ready(opening.map(|opening| Ready::new(*opening, handle.expect("taken just now"))))
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
