//! The half of one channel of messages: see [`MessagesShared`].

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{ConnectionShared, Request, Wakes, lock, register};
use crate::{
    ConnectionError,
    proto::{ChannelId, ConnectionId, Read},
};

/// Messages that wait in each direction. With two the driver moves one while the other end is busy with the next; more
/// would only be older when they arrive.
const ROOM: usize = 2;

/// Shared by the driver and the handle of a channel.
///
/// What does not fit here stays in SCTP, whose window closes in turn: inward the driver stops reading, outward the core
/// takes nothing. A message is moved whole or not at all.
pub(crate) struct MessagesShared {
    connection: Arc<ConnectionShared>,
    id: ConnectionId,
    channel: ChannelId,
    max_message: usize,
    state: Mutex<State>,
}

/// What the handle asks the driver for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct MessagesAsks {
    /// There is room for more.
    pub(crate) read: bool,
    /// The handle is gone or has closed the channel.
    pub(crate) release: bool,
}

/// How the channel ended, for the handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It has not.
    Open,
    /// Closed by us, once what waits is in the core.
    Closing,
    /// Closed by us.
    Closed,
    /// Closed by the peer.
    ByPeer,
    /// The connection has ended; it knows why.
    Connection,
}

struct State {
    inbound: VecDeque<Bytes>,
    outbound: VecDeque<Bytes>,
    /// The driver would read on if there were room.
    paused: bool,
    /// The core takes no more for now and will report: no need to call the driver.
    blocked: bool,
    end: End,
    asks: MessagesAsks,
    /// Is the channel on the ready list?
    queued: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn queue(&mut self) -> bool {
        self.end != End::Connection && !mem::replace(&mut self.queued, true)
    }

    /// Nothing goes any more, and whoever waits is told so. Gives what was not sent, to be dropped without the lock.
    fn finish(&mut self, end: End, wakes: &mut Wakes) -> VecDeque<Bytes> {
        if matches!(self.end, End::Open | End::Closing) {
            self.end = end;
        }
        wakes.extend(self.reader.take());
        wakes.extend(self.writer.take());
        mem::take(&mut self.outbound)
    }
}

impl MessagesShared {
    pub(crate) fn new(
        connection: Arc<ConnectionShared>,
        (id, channel): (ConnectionId, ChannelId),
        max_message: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            id,
            channel,
            max_message,
            state: Mutex::new(State {
                inbound: VecDeque::with_capacity(ROOM),
                outbound: VecDeque::with_capacity(ROOM),
                paused: false,
                blocked: false,
                end: End::Open,
                asks: MessagesAsks::default(),
                queued: false,
                reader: None,
                writer: None,
            }),
        })
    }

    /// The longest message that can be sent, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    fn push(&self, queue: bool) {
        if queue {
            let request = Request::Stream(self.id, self.channel);
            // Without a driver the handle has been told that its connection is closed.
            self.connection.socket().push(request).ok();
        }
    }

    /// Why nothing can be sent any more. Called without the lock.
    fn error(&self, end: End) -> io::Error {
        let broken = |text: &'static str| io::Error::new(io::ErrorKind::BrokenPipe, text);
        match end {
            End::Open | End::Closing | End::Closed => broken("the channel is closed"),
            End::ByPeer => broken("the peer closed the channel"),
            End::Connection => self
                .connection
                .close_reason()
                .map(ConnectionError::from)
                .map_or_else(|| io::ErrorKind::NotConnected.into(), io::Error::from),
        }
    }
}

/// For the handle.
impl MessagesShared {
    /// The next message; none when the channel is closed.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut state = lock(&self.state);
        if let Some(message) = state.inbound.pop_front() {
            state.asks.read |= state.paused;
            let queue = state.paused && state.queue();
            drop(state);
            self.push(queue);
            return Poll::Ready(Some(Ok(message)));
        }
        match state.end {
            End::Open => {
                register(&mut state.reader, cx);
                Poll::Pending
            }
            End::Closing | End::Closed | End::ByPeer => Poll::Ready(None),
            End::Connection => {
                drop(state);
                Poll::Ready(Some(Err(self.error(End::Connection))))
            }
        }
    }

    /// Waits until at most `left` messages wait for the core.
    fn poll_outbound(&self, cx: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        let end = state.end;
        if !matches!(end, End::Open | End::Closing) {
            drop(state);
            return Poll::Ready(Err(self.error(end)));
        }
        if state.outbound.len() <= left {
            return Poll::Ready(Ok(()));
        }
        register(&mut state.writer, cx);
        Poll::Pending
    }

    /// Waits for room for one message.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_outbound(cx, ROOM - 1)
    }

    /// Waits until the core has everything.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_outbound(cx, 0)
    }

    /// Takes a message to send.
    pub(crate) fn send(&self, message: Bytes) -> io::Result<()> {
        if message.is_empty() || message.len() > self.max_message {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes cannot be sent, 1 to {} can",
                    message.len(),
                    self.max_message
                ),
            ));
        }
        let mut state = lock(&self.state);
        let end = state.end;
        if end != End::Open {
            drop(state);
            return Err(self.error(end));
        }
        if state.outbound.len() >= ROOM {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "the channel has no room for a message, wait for it first",
            ));
        }
        state.outbound.push_back(message);
        let queue = !state.blocked && state.queue();
        drop(state);
        self.push(queue);
        Ok(())
    }

    /// Closes the channel when the core has everything.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        match state.end {
            End::Closed | End::ByPeer => return Poll::Ready(Ok(())),
            End::Connection => {
                drop(state);
                return Poll::Ready(Err(self.error(End::Connection)));
            }
            End::Open => state.end = End::Closing,
            End::Closing => {}
        }
        register(&mut state.writer, cx);
        let queue = !state.blocked && state.queue();
        drop(state);
        self.push(queue);
        Poll::Pending
    }

    /// The handle is gone: the channel is closed.
    pub(crate) fn release(&self) {
        let (unread, queue) = {
            let mut state = lock(&self.state);
            state.asks.release = true;
            let unread = (
                mem::take(&mut state.inbound),
                mem::take(&mut state.outbound),
                state.reader.take(),
                state.writer.take(),
            );
            (unread, state.queue())
        };
        drop(unread);
        self.push(queue);
    }
}

/// For the driver.
impl MessagesShared {
    /// Takes the channel off the ready list.
    pub(crate) fn take_asks(&self) -> MessagesAsks {
        let mut state = lock(&self.state);
        state.queued = false;
        mem::take(&mut state.asks)
    }

    /// Moves messages from the core (`read`) to the reader, as far as there is room.
    pub(crate) fn fill(&self, wakes: &mut Wakes, mut read: impl FnMut() -> Read) {
        let mut unsent = VecDeque::new();
        let mut state = lock(&self.state);
        state.paused = false;
        if state.end == End::Connection || state.end == End::ByPeer {
            return;
        }
        loop {
            if state.inbound.len() >= ROOM {
                state.paused = true;
                break;
            }
            match read() {
                Read::Data(message) => state.inbound.push_back(message),
                Read::Blocked => break,
                Read::Eof | Read::Reset(_) => {
                    unsent = state.finish(End::ByPeer, wakes);
                    break;
                }
            }
        }
        if !state.inbound.is_empty() {
            wakes.extend(state.reader.take());
        }
        drop(state);
        drop(unsent);
    }

    /// The next message for the core, which stays in the queue until [`Self::sent`]. After none the writer calls the
    /// driver again.
    pub(crate) fn first(&self) -> Option<Bytes> {
        let mut state = lock(&self.state);
        state.blocked = false;
        state.outbound.front().cloned()
    }

    /// The core has the first message.
    pub(crate) fn sent(&self, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        let sent = state.outbound.pop_front();
        wakes.extend(state.writer.take());
        drop(state);
        drop(sent);
    }

    /// The core takes no more, and will report.
    pub(crate) fn set_blocked(&self) {
        lock(&self.state).blocked = true;
    }

    /// Everything is in the core: whether the channel is to be closed now, which is true once.
    pub(crate) fn take_closing(&self, wakes: &mut Wakes) -> bool {
        let mut state = lock(&self.state);
        let closing = state.end == End::Closing && state.outbound.is_empty();
        if closing {
            state.end = End::Closed;
            wakes.extend(state.reader.take());
            wakes.extend(state.writer.take());
        }
        closing
    }

    /// The core takes nothing any more: the channel is closed.
    pub(crate) fn set_closed_by_peer(&self, wakes: &mut Wakes) {
        let unsent = lock(&self.state).finish(End::ByPeer, wakes);
        drop(unsent);
    }

    /// The connection has ended, and [`ConnectionShared::close`] was told why.
    pub(crate) fn close(&self, wakes: &mut Wakes) {
        let unsent = lock(&self.state).finish(End::Connection, wakes);
        drop(unsent);
    }
}
