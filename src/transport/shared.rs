//! What the driver and the handles share: small halves, each behind one lock.
//!
//! [`SocketShared`] carries requests to the driver and new connections from it, [`ConnectionShared`] belongs to one
//! connection, [`StreamShared`] to one stream; [`CallShared`], [`MessagesShared`] and [`RelayShared`] to one connection
//! that is signaled, its channel, and a TURN server of it. Handles ([`Connection`](super::Connection),
//! [`Stream`](super::Stream), calls, the transport) and the driver call their methods; nothing else locks per packet. The rules, which hold because the
//! locks are private to these files: never two locks at once, never across an await, wakers are called after
//! release. What is done with the moved bytes and flags is not decided here.

mod call;
mod connection;
mod ends;
mod messages;
mod relay;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

pub(crate) use self::{
    call::{CallShared, Input, News},
    connection::{ConnectionHandle, ConnectionShared, Opening},
    messages::MessagesShared,
    relay::RelayShared,
    stream::{Next, StreamShared},
};
use super::driver::{Incoming, NewCall};
use crate::proto::{ChannelId, ConnectionId, Dial, ice::RelayId};

/// Wakers collected under a lock, to be called when no lock is held.
pub(crate) type Wakes = Vec<Waker>;

/// Capacity that an empty queue or buffer may keep. Above it the memory goes back: most streams are idle.
const KEPT_CAPACITY: usize = 4096;

/// Inbound connections that wait for the transport. The core's limit on handshakes binds long before, unless nobody
/// polls the transport: those in the queue time out one by one, but stay until they are taken.
const MAX_INCOMING: usize = 1024;

/// Sizes of the buffers between handles and driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    /// Written bytes of one stream that SCTP has not taken yet. 256 KiB: what SCTP itself keeps in flight, so that a
    /// writer that sleeps for one round trip does not leave the link idle.
    pub(crate) max_write_buffer: usize,
    /// Bytes of one stream delivered and not read yet. Reading from the core stops above it, SCTP's window closes
    /// in turn, and the peer waits.
    pub(crate) max_read_buffer: usize,
    /// The same over all streams of a connection. Above it a stream gets data only while a reader waits for it.
    pub(crate) max_connection_buffer: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            max_write_buffer: 256 * 1024,
            max_read_buffer: 64 * 1024,
            max_connection_buffer: 1024 * 1024,
        }
    }
}

/// Locks; a panic elsewhere while it was locked leaves flags and bytes, all of which are valid in any combination.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stores the task to wake.
fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

/// An entry of the ready list. Ids, not references: what they name may be gone by the time the driver looks.
pub(crate) enum Request {
    /// This stream's flags or bytes have changed, or this channel's flags or messages.
    Stream(ConnectionId, ChannelId),
    /// This connection's flags have changed, or something waits at its call.
    Connection(ConnectionId),
    /// Make a connection and tell its id to this half.
    Dial(Dial, Arc<ConnectionShared>),
    /// Make a connection through signaling.
    Call(Box<NewCall>),
    /// Something came from this TURN server.
    Relay(RelayId),
    /// Send one packet that opens the way through a NAT.
    Punch(SocketAddr),
    /// Take new connections from now on, or no longer.
    AcceptIncoming(bool),
}

/// Who is left to use a socket. An abandoned one can be taken up again, a dead one cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lifecycle {
    /// The transport uses it.
    Used,
    /// Only inbound connections, if any, are left.
    Abandoned,
    /// The driver has ended.
    Dead,
}

/// The half of one socket.
pub(crate) struct SocketShared {
    local_addr: SocketAddr,
    limits: StreamLimits,
    state: Mutex<SocketState>,
}

/// Held by whoever uses a socket: when the last one is dropped, the driver is told.
#[derive(Clone)]
pub(crate) struct SocketUser(Arc<SocketGuard>);

/// A [`SocketUser`] that does not count.
#[derive(Clone)]
pub(crate) struct WeakSocketUser(Weak<SocketGuard>);

struct SocketGuard(Arc<SocketShared>);

impl SocketUser {
    pub(crate) fn new(shared: Arc<SocketShared>) -> Self {
        lock(&shared.state).users += 1;
        Self(Arc::new(SocketGuard(shared)))
    }

    /// A user of a socket that may have none any more; `None` when its driver has ended.
    pub(crate) fn revive(shared: Arc<SocketShared>) -> Option<Self> {
        {
            let mut state = lock(&shared.state);
            if state.lifecycle == Lifecycle::Dead {
                return None;
            }
            state.lifecycle = Lifecycle::Used;
            state.users += 1;
        }
        Some(Self(Arc::new(SocketGuard(shared))))
    }

    pub(crate) fn shared(&self) -> &Arc<SocketShared> {
        &self.0.0
    }

    pub(crate) fn downgrade(&self) -> WeakSocketUser {
        WeakSocketUser(Arc::downgrade(&self.0))
    }
}

impl WeakSocketUser {
    pub(crate) fn upgrade(&self) -> Option<SocketUser> {
        self.0.upgrade().map(SocketUser)
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

struct SocketState {
    /// At most one entry for each live stream and connection, by their `queued` flags.
    requests: Vec<Request>,
    driver: Option<Waker>,
    /// At most `MAX_INCOMING`.
    incoming: VecDeque<Incoming>,
    /// Does anybody take them?
    accepting: bool,
    incoming_waker: Option<Waker>,
    /// [`SocketGuard`]s.
    users: usize,
    lifecycle: Lifecycle,
}

impl SocketShared {
    pub(crate) fn new(local_addr: SocketAddr, limits: StreamLimits) -> Arc<Self> {
        Arc::new(Self {
            local_addr,
            limits,
            state: Mutex::new(SocketState {
                requests: Vec::new(),
                driver: None,
                incoming: VecDeque::new(),
                accepting: true,
                incoming_waker: None,
                users: 0,
                lifecycle: Lifecycle::Used,
            }),
        })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) fn limits(&self) -> &StreamLimits {
        &self.limits
    }

    /// Appends to the ready list and wakes the driver, once for all requests it has not seen. Gives the request back
    /// when there is no driver any more.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let driver = {
            let mut state = lock(&self.state);
            if state.lifecycle == Lifecycle::Dead {
                return Err(request);
            }
            state.requests.push(request);
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(())
    }

    /// Driver: swaps the ready list with an empty one and registers for the next entry. True when only
    /// inbound connections, if any, are left to use the socket.
    pub(crate) fn take_requests(&self, requests: &mut Vec<Request>, cx: &Context<'_>) -> bool {
        debug_assert!(requests.is_empty(), "the last requests were served");
        if requests.capacity() > KEPT_CAPACITY {
            *requests = Vec::new();
        }
        let mut state = lock(&self.state);
        mem::swap(&mut state.requests, requests);
        register(&mut state.driver, cx);
        state.lifecycle == Lifecycle::Abandoned
    }

    /// Driver: a new inbound connection. Refused (and so closed) when nobody takes it.
    pub(crate) fn push_incoming(&self, incoming: Incoming, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        let wanted = state.accepting && state.lifecycle == Lifecycle::Used;
        if wanted && state.incoming.len() < MAX_INCOMING {
            state.incoming.push_back(incoming);
            wakes.extend(state.incoming_waker.take());
        } else {
            drop(state);
            drop(incoming);
        }
    }

    /// The next inbound connection.
    pub(crate) fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let mut state = lock(&self.state);
        match state.incoming.pop_front() {
            Some(incoming) => Poll::Ready(incoming),
            None => {
                register(&mut state.incoming_waker, cx);
                Poll::Pending
            }
        }
    }

    /// Takes inbound connections from now on, or no longer; those that nobody has taken are closed then.
    pub(crate) fn set_accepting(&self, accept: bool) {
        let unclaimed = {
            let mut state = lock(&self.state);
            state.accepting = accept;
            if accept {
                VecDeque::new()
            } else {
                mem::take(&mut state.incoming)
            }
        };
        drop(unclaimed);
        // Without a driver nothing comes in anyway.
        self.push(Request::AcceptIncoming(accept)).ok();
    }

    /// Has the driver ended?
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.state).lifecycle == Lifecycle::Dead
    }

    /// A [`SocketGuard`] is gone; if it was the last one, the driver is told.
    fn abandon(&self) {
        let (driver, unclaimed) = {
            let mut state = lock(&self.state);
            state.users -= 1;
            if state.users > 0 {
                return;
            }
            if state.lifecycle == Lifecycle::Used {
                state.lifecycle = Lifecycle::Abandoned;
            }
            (state.driver.take(), mem::take(&mut state.incoming))
        };
        drop(unclaimed);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Driver: everything is said. True if it may end, and then nobody can use it any more.
    pub(crate) fn finish(&self) -> bool {
        let mut state = lock(&self.state);
        if state.lifecycle == Lifecycle::Abandoned {
            state.lifecycle = Lifecycle::Dead;
        }
        state.lifecycle == Lifecycle::Dead
    }

    /// Driver: it ends. Returns the requests that nobody will serve.
    pub(crate) fn end(&self) -> Vec<Request> {
        let (requests, unclaimed, listener) = {
            let mut state = lock(&self.state);
            state.lifecycle = Lifecycle::Dead;
            state.driver = None;
            (
                mem::take(&mut state.requests),
                mem::take(&mut state.incoming),
                state.incoming_waker.take(),
            )
        };
        drop(unclaimed);
        if let Some(listener) = listener {
            listener.wake();
        }
        requests
    }
}
