//! The half of one flow to a TURN server: see [`RelayShared`].

use std::{
    collections::VecDeque,
    mem,
    net::IpAddr,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use super::{Request, SocketShared, lock, register};
use crate::proto::ice::RelayId;

/// Bytes that wait for the driver; above it the flow is not read, so that the server waits (TCP) or the system drops
/// (UDP). A few turns of a fast path.
const MAX_INBOUND: usize = 128 * 1024;

/// Bytes that wait for the flow; above it messages are dropped, as a router would. SCTP sends no more than its window at
/// once, and takes losses for what they are: the path is slower than that. 128 KiB are 100 ms at 10 Mbit/s.
const MAX_OUTBOUND: usize = 128 * 1024;

/// Counted for each piece besides its bytes, so that many small ones cannot hold much memory.
const PIECE_OVERHEAD: usize = 64;

/// Shared by the driver and the task that moves bytes to and from a TURN server.
pub(crate) struct RelayShared {
    socket: Arc<SocketShared>,
    id: RelayId,
    /// The address of ours that it leaves from.
    local_ip: Option<IpAddr>,
    state: Mutex<State>,
}

struct State {
    inbound: Queue,
    outbound: Queue,
    /// The task is over: nothing will come any more.
    ended: bool,
    /// The driver is done with it: the task sends what is there and ends.
    closing: bool,
    /// Is it on the ready list?
    queued: bool,
    /// Of the task.
    waker: Option<Waker>,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Vec<u8>>,
    cost: usize,
}

impl Queue {
    fn push(&mut self, piece: Vec<u8>) {
        self.cost += piece.len() + PIECE_OVERHEAD;
        self.pieces.push_back(piece);
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let piece = self.pieces.pop_front()?;
        self.cost -= piece.len() + PIECE_OVERHEAD;
        Some(piece)
    }
}

impl RelayShared {
    pub(crate) fn new(
        socket: Arc<SocketShared>,
        id: RelayId,
        local_ip: Option<IpAddr>,
    ) -> Arc<Self> {
        Arc::new(Self {
            socket,
            id,
            local_ip,
            state: Mutex::new(State {
                inbound: Queue::default(),
                outbound: Queue::default(),
                ended: false,
                closing: false,
                queued: false,
                waker: None,
            }),
        })
    }

    /// The address of ours that it leaves from, if the system told.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.local_ip
    }

    fn call_driver(&self, state: &mut State) -> bool {
        !mem::replace(&mut state.queued, true)
    }

    fn push(&self, queue: bool) {
        if queue {
            // Without a driver there is no connection left that would need it; the task learns it by `closing`.
            self.socket.push(Request::Relay(self.id)).ok();
        }
    }
}

/// For the task.
impl RelayShared {
    /// The next message for the server; none when there will be no more.
    pub(crate) fn poll_outbound(&self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let mut state = lock(&self.state);
        if let Some(message) = state.outbound.pop() {
            return Poll::Ready(Some(message));
        }
        if state.closing {
            return Poll::Ready(None);
        }
        register(&mut state.waker, cx);
        Poll::Pending
    }

    /// Waits until the driver can take more.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.inbound.cost < MAX_INBOUND && !state.closing {
            return Poll::Ready(());
        }
        register(&mut state.waker, cx);
        Poll::Pending
    }

    /// Waits until the driver is done with the flow.
    pub(crate) fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.closing {
            return Poll::Ready(());
        }
        register(&mut state.waker, cx);
        Poll::Pending
    }

    /// Bytes of the server.
    pub(crate) fn push_inbound(&self, bytes: &[u8]) {
        let queue = {
            let mut state = lock(&self.state);
            state.inbound.push(bytes.to_vec());
            self.call_driver(&mut state)
        };
        self.push(queue);
    }

    /// The flow is over.
    pub(crate) fn end(&self) {
        let queue = {
            let mut state = lock(&self.state);
            state.ended = true;
            self.call_driver(&mut state)
        };
        self.push(queue);
    }
}

/// For the driver.
impl RelayShared {
    /// Hands over what came, and whether the flow is over.
    pub(crate) fn take_inbound(&self, mut take: impl FnMut(&[u8])) -> bool {
        let (pieces, ended, waker) = {
            let mut state = lock(&self.state);
            state.queued = false;
            let inbound = mem::take(&mut state.inbound);
            let waker = (inbound.cost >= MAX_INBOUND).then(|| state.waker.take());
            (inbound.pieces, state.ended, waker.flatten())
        };
        for piece in &pieces {
            take(piece);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        ended
    }

    /// One message for the server. Dropped when the flow is too slow or over.
    pub(crate) fn push_outbound(&self, message: Vec<u8>) {
        let waker = {
            let mut state = lock(&self.state);
            if state.ended || state.closing || state.outbound.cost >= MAX_OUTBOUND {
                return;
            }
            state.outbound.push(message);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The driver is done with it.
    pub(crate) fn close(&self) {
        let waker = {
            let mut state = lock(&self.state);
            state.closing = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
