//! The half of one connection: see [`ConnectionShared`].

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::{Request, SocketShared, SocketUser, Wakes, lock, register};
use crate::{
    proto::{CloseReason, ConnectionId, credentials::IceVersion, fingerprint::Fingerprint},
    transport::Stream,
};

/// What is known when a connection can run Noise.
pub(crate) struct Opening {
    /// The handshake channel.
    pub(crate) handshake: Stream,
    /// The peer's certificate.
    pub(crate) remote_fingerprint: Fingerprint,
    /// The form of the first contact that the peer used or answered.
    pub(crate) version: Option<IceVersion>,
}

/// What the handles of a connection ask the driver for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionAsks {
    /// Noise is done.
    pub(crate) authenticated: bool,
    /// Open an outbound stream.
    pub(crate) open: bool,
    /// Close the connection.
    pub(crate) close: bool,
}

/// Shared by the driver, the connection's handle and its streams.
pub(crate) struct ConnectionShared {
    socket: Arc<SocketShared>,
    /// Cost (see [`StreamShared`](super::StreamShared)) of what was delivered to the streams and not read yet. It
    /// orders nothing, so relaxed access is enough.
    unread: AtomicUsize,
    state: Mutex<ConnectionState>,
}

struct ConnectionState {
    /// None while a dial waits for the driver.
    id: Option<ConnectionId>,
    /// Is the id on the ready list?
    queued: bool,
    asks: ConnectionAsks,
    /// An `open` was asked for and not answered.
    opening: bool,
    /// Closing was asked for.
    closing: bool,
    /// The handle is gone.
    released: bool,
    /// Set-up is complete; taken by `Pending`. Boxed because it is there for a moment only.
    ready: Option<Box<Opening>>,
    /// Bounded by the core's limit on streams not accepted.
    inbound: VecDeque<Stream>,
    /// At most one: the next is asked for when it was taken.
    opened: Option<Stream>,
    address: Option<SocketAddr>,
    closed: Option<CloseReason>,
    /// Tasks in `poll`, `poll_inbound`, `poll_outbound`, `poll_close`: one each. They are one and the same task in a
    /// swarm, but nothing demands that.
    muxer: Option<Waker>,
    /// The muxer was woken for a stream that nobody waits for: see `wake_muxer`.
    poll_twice: bool,
    inbound_waker: Option<Waker>,
    outbound_waker: Option<Waker>,
    close_waker: Option<Waker>,
}

impl ConnectionState {
    /// Notes that the driver must look; the id to put on the ready list, when it is not there yet.
    fn queue(&mut self) -> Option<ConnectionId> {
        if self.queued || self.closed.is_some() {
            return None;
        }
        // Without an id the driver looks when it gives one.
        let id = self.id?;
        self.queued = true;
        Some(id)
    }
}

impl ConnectionShared {
    pub(crate) fn new(socket: Arc<SocketShared>, id: Option<ConnectionId>) -> Arc<Self> {
        Arc::new(Self {
            socket,
            unread: AtomicUsize::new(0),
            state: Mutex::new(ConnectionState {
                id,
                queued: false,
                asks: ConnectionAsks::default(),
                opening: false,
                closing: false,
                released: false,
                ready: None,
                inbound: VecDeque::new(),
                opened: None,
                address: None,
                closed: None,
                muxer: None,
                poll_twice: false,
                inbound_waker: None,
                outbound_waker: None,
                close_waker: None,
            }),
        })
    }

    pub(super) fn socket(&self) -> &SocketShared {
        &self.socket
    }

    /// Why the connection ended, once it has.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        lock(&self.state).closed.clone()
    }

    /// Makes the driver look, if there is one and the connection has begun; else it looks when that happens.
    pub(super) fn call_driver(&self) {
        self.ask(|_| ());
    }

    /// Closes the connection, whoever has its handle.
    pub(crate) fn request_close(&self) {
        self.ask(|state| state.asks.close |= !mem::replace(&mut state.closing, true));
    }

    /// Cost of what the application has not read yet, over all streams.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    pub(super) fn add_unread(&self, cost: usize) {
        self.unread.fetch_add(cost, Ordering::Relaxed);
    }

    pub(super) fn subtract_unread(&self, cost: usize) {
        self.unread.fetch_sub(cost, Ordering::Relaxed);
    }

    /// Changes the asks and puts the connection on the ready list.
    fn ask(&self, change: impl FnOnce(&mut ConnectionState)) {
        let id = {
            let mut state = lock(&self.state);
            change(&mut state);
            state.queue()
        };
        self.push(id);
    }

    fn push(&self, id: Option<ConnectionId>) {
        if let Some(id) = id {
            // Without a driver every handle has been told that the connection is closed.
            self.socket.push(Request::Connection(id)).ok();
        }
    }
}

/// For the driver.
impl ConnectionShared {
    /// Tells a dial its id. The driver takes the asks next: until now nothing could be put on the ready list.
    pub(crate) fn assign(&self, id: ConnectionId) {
        lock(&self.state).id = Some(id);
    }

    /// Has the handle been dropped?
    pub(crate) fn is_released(&self) -> bool {
        lock(&self.state).released
    }

    /// Takes the connection off the ready list.
    pub(crate) fn take_asks(&self) -> ConnectionAsks {
        let mut state = lock(&self.state);
        state.queued = false;
        mem::take(&mut state.asks)
    }

    /// Set-up is complete. Does nothing when the handle is gone.
    pub(crate) fn set_ready(&self, opening: Opening, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        if state.released {
            drop(state);
            drop(opening);
            return;
        }
        state.ready = Some(Box::new(opening));
        wakes.extend(state.muxer.take());
    }

    /// Hands out a stream that the peer opened. Does nothing (so that the stream is reset) when the handle is gone.
    pub(crate) fn push_inbound(&self, stream: Stream, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        if state.released {
            drop(state);
            drop(stream);
            return;
        }
        state.inbound.push_back(stream);
        wakes.extend(state.inbound_waker.take());
    }

    /// Hands out the outbound stream that was asked for. Like [`push_inbound`](Self::push_inbound) otherwise.
    pub(crate) fn set_opened(&self, stream: Stream, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        if state.released {
            drop(state);
            drop(stream);
            return;
        }
        state.opening = false;
        state.opened = Some(stream);
        wakes.extend(state.outbound_waker.take());
    }

    /// The peer has a new address.
    pub(crate) fn set_address(&self, address: SocketAddr, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        state.address = Some(address);
        wakes.extend(state.muxer.take());
    }

    /// Wakes the task that polls the connection as a whole, for two polls. It stays registered: it may be running just
    /// now, past the point where it would look and before the one where it registers again.
    ///
    /// Two, because the first may only finish what the task was waiting for: libp2p-ping, woken while its last answer
    /// was being flushed, makes its next reader in that poll and does not poll it.
    pub(crate) fn wake_muxer(&self, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        state.poll_twice = true;
        wakes.extend(state.muxer.clone());
    }

    /// The connection has ended. The first reason stands.
    pub(crate) fn close(&self, reason: CloseReason, wakes: &mut Wakes) {
        let unclaimed = {
            let mut state = lock(&self.state);
            state.closed.get_or_insert(reason);
            wakes.extend(state.muxer.take());
            wakes.extend(state.inbound_waker.take());
            wakes.extend(state.outbound_waker.take());
            wakes.extend(state.close_waker.take());
            (
                mem::take(&mut state.inbound),
                state.opened.take(),
                state.ready.take(),
            )
        };
        drop(unclaimed);
    }
}

/// The one owner of a connection outside the driver; dropping it closes the connection.
pub(crate) struct ConnectionHandle {
    shared: Arc<ConnectionShared>,
    /// An outbound connection counts as a user of its socket. An inbound one must not: it may lie in the socket's own
    /// queue.
    _user: Option<SocketUser>,
}

impl ConnectionHandle {
    pub(crate) fn new(shared: Arc<ConnectionShared>, user: Option<SocketUser>) -> Self {
        Self {
            shared,
            _user: user,
        }
    }

    /// See [`ConnectionShared::close_reason`].
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.shared.close_reason()
    }

    /// Noise is done.
    pub(crate) fn authenticated(&self) {
        self.shared.ask(|state| state.asks.authenticated = true);
    }

    /// Waits until the handshake stream can be used.
    pub(crate) fn poll_ready(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<Opening>, CloseReason>> {
        let mut state = lock(&self.shared.state);
        if let Some(reason) = &state.closed {
            return Poll::Ready(Err(reason.clone()));
        }
        match state.ready.take() {
            Some(opening) => Poll::Ready(Ok(opening)),
            None => {
                register(&mut state.muxer, cx);
                Poll::Pending
            }
        }
    }

    /// A new address of the peer, or why the connection ended.
    pub(crate) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Result<SocketAddr, CloseReason>> {
        let mut state = lock(&self.shared.state);
        // Registered in any case: a stream without a reader wakes this task, see `StreamShared::fill`.
        register(&mut state.muxer, cx);
        if mem::take(&mut state.poll_twice) {
            cx.waker().wake_by_ref();
        }
        if let Some(reason) = &state.closed {
            return Poll::Ready(Err(reason.clone()));
        }
        match state.address.take() {
            Some(address) => Poll::Ready(Ok(address)),
            None => Poll::Pending,
        }
    }

    /// The next stream that the peer opened.
    pub(crate) fn poll_inbound(&self, cx: &mut Context<'_>) -> Poll<Result<Stream, CloseReason>> {
        let stream = {
            let mut state = lock(&self.shared.state);
            if let Some(reason) = &state.closed {
                return Poll::Ready(Err(reason.clone()));
            }
            match state.inbound.pop_front() {
                Some(stream) => stream,
                None => {
                    register(&mut state.inbound_waker, cx);
                    return Poll::Pending;
                }
            }
        };
        stream.shared().accepted();
        Poll::Ready(Ok(stream))
    }

    /// A new stream to the peer. Asks for one at a time.
    pub(crate) fn poll_outbound(&self, cx: &mut Context<'_>) -> Poll<Result<Stream, CloseReason>> {
        let id = {
            let mut state = lock(&self.shared.state);
            if let Some(reason) = &state.closed {
                return Poll::Ready(Err(reason.clone()));
            }
            if let Some(stream) = state.opened.take() {
                return Poll::Ready(Ok(stream));
            }
            register(&mut state.outbound_waker, cx);
            if mem::replace(&mut state.opening, true) {
                return Poll::Pending;
            }
            state.asks.open = true;
            state.queue()
        };
        self.shared.push(id);
        Poll::Pending
    }

    /// Closes in an orderly way; ready when the connection has ended, for whatever reason.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        let id = {
            let mut state = lock(&self.shared.state);
            if state.closed.is_some() {
                return Poll::Ready(());
            }
            register(&mut state.close_waker, cx);
            if mem::replace(&mut state.closing, true) {
                return Poll::Pending;
            }
            state.asks.close = true;
            state.queue()
        };
        self.shared.push(id);
        Poll::Pending
    }
}

#[cfg(test)]
impl ConnectionHandle {
    pub(crate) fn downgrade(&self) -> std::sync::Weak<ConnectionShared> {
        Arc::downgrade(&self.shared)
    }
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        let (id, unclaimed) = {
            let mut state = lock(&self.shared.state);
            state.released = true;
            state.asks.close |= !mem::replace(&mut state.closing, true);
            let unclaimed = (
                mem::take(&mut state.inbound),
                state.opened.take(),
                state.ready.take(),
                // Dropping a waker may drop a task with other handles in it: not under the lock.
                [
                    state.muxer.take(),
                    state.inbound_waker.take(),
                    state.outbound_waker.take(),
                    state.close_waker.take(),
                ],
            );
            (state.queue(), unclaimed)
        };
        drop(unclaimed);
        self.shared.push(id);
    }
}
