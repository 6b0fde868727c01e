//! The one task of a UDP socket, and the handle on it.
//!
//! [`SocketHandle::spawn_with`] starts a [`Driver`], which owns the socket, the protocol core's endpoint and the table of its
//! connections by value and moves data between them and the shared halves (`shared.rs`). The transport holds
//! [`SocketHandle`]s; [`Pending`] is a connection before Noise. The driver decides nothing about the protocol; it is the
//! only place that reads the clock.

mod table;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use self::table::Table;
use super::{
    Connection, Metrics, Stream,
    metrics::Recorder,
    shared::{
        ConnectionHandle, ConnectionShared, Opening, Request, SocketShared, SocketUser,
        StreamLimits, Wakes, WeakSocketUser,
    },
    socket::{Sent, Socket},
};
use crate::proto::{
    CloseReason, Dial, Endpoint, Transmit, credentials::IceVersion, fingerprint::Fingerprint,
};

/// Datagrams in one turn, or a few more. Everything is fed to the core before anything is sent, so that one
/// acknowledgement answers a batch. Measured: 64 to 1024 cost the same for one stream; a larger batch would only make
/// everybody else wait longer, this one takes about half a millisecond.
const MAX_DATAGRAMS: usize = 256;

/// ICMP errors taken in one turn.
const MAX_UNREACHABLE: usize = 64;

/// How often events and their consequences may alternate in one turn.
const MAX_ROUNDS: usize = 8;

/// Pause in receiving after an error that is not ICMP's. Such errors (no memory, interface down) tend to persist, and
/// asking again at once would burn a core.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// How long the last goodbyes may take when nobody uses the socket any more. The core keeps its own, shorter
/// `close_timeout`; this one holds whatever happens.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

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
        Self {
            user: SocketUser::new(shared),
        }
    }

    fn shared(&self) -> &Arc<SocketShared> {
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

    /// Sends one packet to `remote`, which opens the way back through a NAT.
    pub(crate) fn punch(&self, remote: SocketAddr) {
        // Without a driver there is no socket to punch for.
        self.shared().push(Request::Punch(remote)).ok();
    }

    /// The next connection that a peer opened. One task at a time may wait.
    pub(crate) fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.shared().poll_incoming(cx)
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
}

impl Pending {
    fn new(connection: Arc<ConnectionShared>, user: Option<SocketUser>) -> Self {
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
        Poll::Ready(opening.map(|opening| {
            let Opening {
                handshake,
                remote_fingerprint,
                version,
            } = *opening;
            Ready {
                connection: Connection::new(handle.expect("taken just now")),
                handshake,
                remote_fingerprint,
                version,
            }
        }))
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// The task. Each poll is one turn; see [`Driver::turn`] for its order.
struct Driver {
    socket: Socket,
    endpoint: Endpoint,
    shared: Arc<SocketShared>,
    table: Table,
    recorder: Recorder,
    /// A transmit that the system did not take, and how much of it is sent.
    unsent: Option<(Transmit, usize)>,
    timer: Timer,
    /// No receiving before this instant.
    receive_after: Option<Instant>,
    /// The last instant at which it may still run; set when nobody uses the socket.
    drain_until: Option<Instant>,
    /// Scratch, empty between turns.
    requests: Vec<Request>,
    /// Scratch, empty between turns.
    wakes: Wakes,
}

/// Where a turn left off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// Sleep until something happens.
    Idle,
    /// The budget is spent, there is more to do.
    More,
    /// Nobody is left.
    Ended,
}

impl Driver {
    fn new(
        socket: Socket,
        endpoint: Endpoint,
        shared: Arc<SocketShared>,
        metrics: Option<Metrics>,
    ) -> Self {
        Self {
            socket,
            endpoint,
            table: Table::new(Arc::clone(&shared)),
            shared,
            recorder: Recorder::new(metrics),
            unsent: None,
            timer: Timer::default(),
            receive_after: None,
            drain_until: None,
            requests: Vec::new(),
            wakes: Wakes::new(),
        }
    }

    /// Local work first, then one batch from the network, all of it before anything is sent; then deadlines, which may be
    /// met by what has come; then the consequences to the application and to the network.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let abandoned = self.serve_requests(cx, now);
        if !abandoned {
            self.drain_until = None;
        }
        // While the system takes nothing, nothing is read: the answers would have nowhere to go.
        let mut more = self.unsent.is_none() && self.receive(cx, now);
        if self
            .endpoint
            .poll_timeout()
            .is_some_and(|(at, _)| at <= now)
        {
            self.endpoint.handle_timeout(now);
        }
        more |= self.deliver(now);
        self.wake();
        let blocked = self.unsent.is_some();
        let flushed = self.flush(cx, now);
        // Receiving was left out above.
        more |= blocked && flushed.is_ready();
        self.record();
        if abandoned && self.is_drained(now, flushed) {
            if self.shared.finish() {
                return Turn::Ended;
            }
            // Somebody listens on it again.
            more = true;
        }
        if more { Turn::More } else { self.park(cx, now) }
    }

    /// Serves the ready list. True when only inbound connections, if any, are left to use the socket.
    fn serve_requests(&mut self, cx: &Context<'_>, now: Instant) -> bool {
        let abandoned = self.shared.take_requests(&mut self.requests, cx);
        for request in self.requests.drain(..) {
            match request {
                Request::Punch(remote) => self.endpoint.punch(now, remote),
                Request::AcceptIncoming(accept) => self.endpoint.set_accept_incoming(accept),
                Request::Dial(dial, shared) => {
                    self.table
                        .dial(&mut self.endpoint, now, dial, shared, &mut self.wakes);
                }
                Request::Connection(id) => {
                    self.table
                        .visit_connection(&mut self.endpoint, now, id, &mut self.wakes);
                }
                Request::Stream(id, channel) => {
                    self.table.visit_stream(
                        &mut self.endpoint,
                        now,
                        (id, channel),
                        &mut self.wakes,
                    );
                }
            }
        }
        abandoned
    }

    /// Feeds at most a batch from the network to the core. True when there may be more.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..MAX_UNREACHABLE {
            match self.socket.poll_unreachable(cx) {
                Poll::Ready(remote) => self.endpoint.handle_unreachable(now, remote),
                Poll::Pending => break,
            }
        }
        if self.receive_after.is_some_and(|at| now < at) {
            return false;
        }
        self.receive_after = None;
        let endpoint = &mut self.endpoint;
        let mut datagrams = 0;
        while datagrams < MAX_DATAGRAMS {
            let received = self.socket.poll_recv(cx, |datagram| {
                endpoint.handle_datagram(
                    now,
                    datagram.local_ip,
                    datagram.remote,
                    datagram.contents,
                );
            });
            match received {
                Poll::Ready(Ok(count)) => datagrams += count,
                Poll::Ready(Err(error)) => {
                    datagrams += 1;
                    tracing::debug!(%error, "cannot receive");
                    if !Socket::is_icmp(&error) {
                        self.receive_after = Some(now + RECEIVE_PAUSE);
                        return false;
                    }
                }
                Poll::Pending => return false,
            }
        }
        true
    }

    /// Moves the consequences to the shared halves, and what that leads to. True when there may be more.
    fn deliver(&mut self, now: Instant) -> bool {
        self.endpoint.process(now);
        for _ in 0..MAX_ROUNDS {
            let mut any = false;
            while let Some((id, event)) = self.endpoint.poll_event() {
                any = true;
                self.table
                    .handle_event(&mut self.endpoint, now, id, event, &mut self.wakes);
            }
            if !any {
                return false;
            }
            self.endpoint.process(now);
        }
        true
    }

    /// Calls the collected wakers, when no lock is held.
    fn wake(&mut self) {
        for waker in self.wakes.drain(..) {
            waker.wake();
        }
    }

    /// Sends what the core has to send, as far as the system takes it.
    fn flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        loop {
            if self.unsent.is_none() {
                self.unsent = self.endpoint.poll_transmit().map(|transmit| (transmit, 0));
            }
            let Some((transmit, offset)) = &mut self.unsent else {
                return Poll::Ready(());
            };
            let sent = ready!(self.socket.poll_send(cx, transmit, offset));
            if let Some((transmit, _)) = self.unsent.take() {
                if sent == Sent::Unreachable {
                    self.endpoint.handle_unreachable(now, transmit.destination);
                    // What follows from it is drawn in the next turn.
                    cx.waker().wake_by_ref();
                }
                self.endpoint.recycle(transmit.contents);
            }
        }
    }

    fn record(&mut self) {
        for rtt in self.table.take_rtts() {
            self.recorder.record_rtt(rtt);
        }
        // Taken in any case: they would be kept.
        while let Some(phase) = self.endpoint.poll_phase() {
            self.recorder.record_phase(&phase);
        }
        if !self.recorder.is_enabled() {
            return;
        }
        let (connections, handshakes) = (self.endpoint.connections(), self.endpoint.handshakes());
        self.recorder
            .update(self.endpoint.counters(), connections, handshakes);
    }

    /// With no transport left: is everything said?
    fn is_drained(&mut self, now: Instant, flushed: Poll<()>) -> bool {
        self.endpoint.set_accept_incoming(false);
        if self.table.is_empty() && flushed.is_ready() {
            return true;
        }
        if !self.table.is_closing() {
            self.drain_until = None;
            return false;
        }
        now >= *self.drain_until.get_or_insert(now + DRAIN_TIMEOUT)
    }

    /// Sets the timer for the next deadline.
    fn park(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        // While the system takes nothing, nothing is received, pause or not.
        let receive_after = self.receive_after.filter(|_| self.unsent.is_none());
        let deadline = [
            self.endpoint.poll_timeout().map(|(at, _)| at),
            receive_after,
            self.drain_until,
        ]
        .into_iter()
        .flatten()
        .min();
        match deadline {
            Some(at) if at <= now => Turn::More,
            _ => match self.timer.poll_until(cx, deadline) {
                Poll::Ready(()) => Turn::More,
                Poll::Pending => Turn::Idle,
            },
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place where the transport reads the clock"
        )]
        let now = Instant::now();
        match self.turn(cx, now) {
            Turn::Idle => Poll::Pending,
            Turn::More => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Turn::Ended => Poll::Ready(()),
        }
    }
}

impl Drop for Driver {
    /// Also when the runtime shuts down under it: no handle may wait for a driver that is gone.
    fn drop(&mut self) {
        for request in self.shared.end() {
            if let Request::Dial(_, connection) = request {
                connection.close(CloseReason::Local, &mut self.wakes);
            }
        }
        self.table.close_all(&mut self.wakes);
        self.wake();
    }
}

/// The one timer of a driver.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When `sleep` fires, unless it has.
    armed: Option<Instant>,
}

impl Timer {
    /// Ready at or before the deadline. It is not moved to a later one before it has fired, because most deadlines move
    /// with every packet: waking once too often is cheaper.
    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        if self.armed.is_none_or(|armed| deadline < armed) {
            let at = tokio::time::Instant::from_std(deadline);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(at),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
            }
            self.armed = Some(deadline);
        }
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(cx));
        }
        self.armed = None;
        Poll::Ready(())
    }
}
