//! The one task of a UDP socket, and the handle on it.
//!
//! [`SocketHandle::spawn_with`] starts a [`Driver`], which owns the socket, the protocol core's endpoint and the table of its
//! connections by value and moves data between them and the shared halves (`shared.rs`). The transport holds
//! [`SocketHandle`]s; [`Pending`] is a connection before Noise. The driver decides nothing about the protocol; it is the
//! only place that reads the clock.

mod calls;
mod handle;
mod hosts;
mod messages;
mod relays;
mod sockets;
mod table;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

pub(crate) use self::{
    calls::NewCall,
    handle::{Incoming, Pending, Ready, RetiredSocket, SocketHandle, WeakSocketHandle},
};
use self::{
    sockets::{Sockets, Which},
    table::Table,
};
use super::{
    Metrics,
    metrics::Recorder,
    shared::{Request, SocketShared, Wakes},
    socket::{Datagram, Sent, Socket},
    timer::Timer,
};
use crate::proto::{CloseReason, Endpoint, Transmit};

/// ICMP errors taken in one turn.
const MAX_UNREACHABLE: usize = 64;

/// How often events and their consequences may alternate in one turn.
const MAX_ROUNDS: usize = 8;

/// How long the last goodbyes may take when nobody uses the socket any more. The core keeps its own, shorter
/// `close_timeout`; this one holds whatever happens.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The task. Each poll is one turn; see [`Driver::turn`] for its order.
struct Driver {
    sockets: Sockets,
    endpoint: Endpoint,
    shared: Arc<SocketShared>,
    table: Table,
    recorder: Recorder,
    /// A transmit that the system did not take, and how much of it is sent.
    unsent: Option<(Transmit, usize)>,
    timer: Timer,
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
            sockets: Sockets::new(socket),
            endpoint,
            table: Table::new(Arc::clone(&shared)),
            shared,
            recorder: Recorder::new(metrics),
            unsent: None,
            timer: Timer::default(),
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
        let blocked = self.unsent.is_some();
        let flushed = self.flush(cx, now);
        self.wake();
        // The goodbye of the last call may yet have to leave by it.
        if flushed.is_ready() && !self.table.has_calls() && self.sockets.close_companion() {
            self.table.set_companion(None);
        }
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
                Request::Call(new) => {
                    let companion = self.sockets.open_companion();
                    self.table.set_companion(companion);
                    self.table
                        .begin_call(&mut self.endpoint, now, *new, &mut self.wakes);
                }
                Request::Relay(relay) => self.table.visit_relay(&mut self.endpoint, now, relay),
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
            match self.sockets.poll_unreachable(cx) {
                Poll::Ready(remote) => self.endpoint.handle_unreachable(now, remote),
                Poll::Pending => break,
            }
        }
        self.table.poll_hosts(cx, &mut self.endpoint, now);
        let endpoint = &mut self.endpoint;
        self.sockets.receive(cx, now, |which, datagram| {
            let Datagram {
                local_ip,
                remote,
                contents,
            } = datagram;
            match which {
                Which::Main => endpoint.handle_datagram(now, local_ip, remote, contents),
                Which::Companion => {
                    endpoint.handle_datagram_of_calls(now, local_ip, remote, contents);
                }
            }
        })
    }

    /// Moves the consequences to the shared halves, and what that leads to. True when there may be more.
    fn deliver(&mut self, now: Instant) -> bool {
        self.process(now);
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
            self.process(now);
        }
        true
    }

    /// What goes by TURN servers is handed out before the events: the goodbye of a call needs its flows.
    fn process(&mut self, now: Instant) {
        self.endpoint.process(now);
        self.table.send_to_relays(&mut self.endpoint);
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
                self.unsent = self.endpoint.poll_transmit().map(|mut transmit| {
                    self.table.correct_source(&mut transmit);
                    (transmit, 0)
                });
            }
            let Some((transmit, offset)) = &mut self.unsent else {
                return Poll::Ready(());
            };
            let sent = ready!(self.sockets.poll_send(cx, transmit, offset));
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
        let receive_after = self
            .sockets
            .receive_after()
            .filter(|_| self.unsent.is_none());
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
            match request {
                Request::Dial(_, connection) => {
                    connection.close(CloseReason::Local, &mut self.wakes);
                }
                Request::Call(new) => new.refuse(CloseReason::Local, &mut self.wakes),
                Request::Stream(..)
                | Request::Connection(_)
                | Request::Relay(_)
                | Request::Punch(_)
                | Request::AcceptIncoming(_) => {}
            }
        }
        self.table.close_all(&mut self.wakes);
        self.wake();
    }
}
