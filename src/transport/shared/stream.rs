//! The half of one stream: see [`StreamShared`].

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};

use super::{
    ConnectionShared, KEPT_CAPACITY, Request, Wakes,
    ends::{ReadEnd, WriteEnd},
    lock, register,
};
use crate::{
    ConnectionError,
    proto::{ChannelId, ConnectionId, Read},
};

/// Added to the length of a delivered piece when buffers are accounted for: what it occupies besides. Without it a peer
/// that sends single bytes could make the queue of pieces many times larger than the limit.
const PIECE_OVERHEAD: usize = 128;

/// Shared by the driver and the stream's handle.
///
/// **Reading.** The driver calls [`fill`](Self::fill) when the core has something; it reads until the core is blocked,
/// this stream's buffer is full or the connection's total is. In the last two cases the core stays silent until it is
/// read again, so the reader must ask: it does when half of what was full is free again, and in any case when it waits.
/// A stream with an empty buffer and a waiting reader gets one piece whatever the total says. Hence a reader that waits
/// has nothing to wait for but the peer, even if the application never reads the other streams.
///
/// **Writing.** The writer fills `tx` up to the limit. The driver swaps it with its own empty buffer
/// ([`advance`](Self::advance)) and moves that into the core, without the lock.
pub(crate) struct StreamShared {
    connection: Arc<ConnectionShared>,
    id: ConnectionId,
    channel: ChannelId,
    state: Mutex<StreamState>,
}

/// What the handle of a stream asks the driver for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct StreamAsks {
    /// The application has taken this inbound stream.
    pub(crate) accepted: bool,
    /// There is room for more data again.
    pub(crate) read: bool,
    /// Tell the peer that nobody will read on.
    pub(crate) stop: bool,
    /// Abandon both directions.
    pub(crate) reset: bool,
    /// The handle is about to go and leaves nothing open but its direction, which is to be closed.
    pub(crate) finish: bool,
    /// The handle is gone.
    pub(crate) release: bool,
    /// The handle is gone, and what comes is to be discarded without a word to the peer.
    pub(crate) detach: bool,
}

/// What the driver is to do next for the writing direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Its buffer has bytes for the core.
    Write,
    /// Everything is written: send FIN and call [`StreamShared::finished`].
    Finish,
    /// Nothing, until the writer or the core calls.
    Wait,
}

/// Why the driver does not read although the core may have data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Paused {
    /// It is not: the core is blocked and will report.
    No,
    /// This stream's buffer is full.
    Full,
    /// The connection's total is used up.
    Starved,
}

/// Which conditions the writer's task waits for; any of them wakes it.
#[derive(Clone, Copy, Default)]
struct WriteWait {
    room: bool,
    empty: bool,
    finished: bool,
}

struct StreamState {
    rx: VecDeque<Bytes>,
    /// Length of all pieces plus the overhead of each.
    rx_cost: usize,
    tx: Vec<u8>,
    /// Bytes that the driver has taken and the core has not.
    in_driver: usize,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
    write_wait: WriteWait,
    read_end: ReadEnd,
    write_end: WriteEnd,
    paused: Paused,
    /// The core takes no more for now and will report: no need to call the driver.
    write_blocked: bool,
    asks: StreamAsks,
    /// Is the id on the ready list?
    queued: bool,
    /// The connection has ended; it knows why.
    closed: bool,
}

impl StreamState {
    /// Notes that the driver must look. True when the id is to be put on the ready list.
    fn queue(&mut self) -> bool {
        !self.closed && !mem::replace(&mut self.queued, true)
    }

    /// Should the reader ask the driver to go on?
    fn wants_more(&self, connection: &ConnectionShared) -> bool {
        let limits = connection.socket().limits();
        match self.paused {
            Paused::No => false,
            Paused::Full => self.rx_cost <= limits.max_read_buffer / 2,
            Paused::Starved => connection.unread() <= limits.max_connection_buffer / 2,
        }
    }

    /// Moves buffered bytes to the reader. The number of bytes and the cost that they free.
    fn take_rx(&mut self, buf: &mut [u8]) -> (usize, usize) {
        let mut taken = 0;
        let before = self.rx_cost;
        while let Some(piece) = self.rx.front_mut() {
            let n = piece.len().min(buf.len() - taken);
            buf[taken..taken + n].copy_from_slice(&piece[..n]);
            taken += n;
            self.rx_cost -= n;
            if n < piece.len() {
                piece.advance(n);
                break;
            }
            self.rx.pop_front();
            self.rx_cost -= PIECE_OVERHEAD;
        }
        if self.rx.is_empty() && self.rx.capacity() * size_of::<Bytes>() > KEPT_CAPACITY {
            self.rx = VecDeque::new();
        }
        (taken, before - self.rx_cost)
    }

    /// Everything written is in the core.
    fn is_flushed(&self) -> bool {
        self.tx.is_empty() && self.in_driver == 0
    }

    /// Both sides have said everything, but for the end of ours.
    fn lacks_only_fin(&self) -> bool {
        self.read_end == ReadEnd::Eof
            && self.rx.is_empty()
            && self.is_flushed()
            && matches!(self.write_end, WriteEnd::Open | WriteEnd::Closing)
    }

    /// Wakes the writer if what it waits for has come.
    fn wake_writer(&mut self, max_write_buffer: usize, wakes: &mut Wakes) {
        let wait = self.write_wait;
        let held = self.tx.len() + self.in_driver;
        let ended = self.closed
            || matches!(
                self.write_end,
                WriteEnd::Finished | WriteEnd::Stopped | WriteEnd::Reset | WriteEnd::ResetHere
            );
        if (wait.room && held <= max_write_buffer / 2)
            || (wait.empty && held == 0)
            || ((wait.room || wait.empty || wait.finished) && ended)
        {
            self.write_wait = WriteWait::default();
            wakes.extend(self.write_waker.take());
        }
    }

    /// The writing direction ends: drops what it holds.
    fn end_write(&mut self, end: WriteEnd) {
        if !matches!(self.write_end, WriteEnd::Finished | WriteEnd::ResetHere) {
            self.write_end = end;
        }
        self.tx = Vec::new();
        self.in_driver = 0;
    }
}

impl StreamShared {
    pub(crate) fn new(
        connection: Arc<ConnectionShared>,
        id: ConnectionId,
        channel: ChannelId,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            id,
            channel,
            state: Mutex::new(StreamState {
                rx: VecDeque::new(),
                rx_cost: 0,
                tx: Vec::new(),
                in_driver: 0,
                read_waker: None,
                write_waker: None,
                write_wait: WriteWait::default(),
                read_end: ReadEnd::Open,
                write_end: WriteEnd::Open,
                paused: Paused::No,
                write_blocked: false,
                asks: StreamAsks::default(),
                queued: false,
                closed: false,
            }),
        })
    }

    /// The error of an ended connection. Called without the stream's lock.
    fn connection_error(&self) -> io::Error {
        self.connection
            .close_reason()
            .map(ConnectionError::from)
            .map_or_else(|| io::ErrorKind::NotConnected.into(), io::Error::from)
    }

    fn push(&self, queue: bool) {
        if queue {
            let request = Request::Stream(self.id, self.channel);
            // Without a driver every stream has been told that its connection is closed.
            self.connection.socket().push(request).ok();
        }
    }

    /// Changes the asks and puts the stream on the ready list.
    fn ask(&self, change: impl FnOnce(&mut StreamState)) {
        let queue = {
            let mut state = lock(&self.state);
            change(&mut state);
            state.queue()
        };
        self.push(queue);
    }
}

/// For the handle.
impl StreamShared {
    /// The application has taken this inbound stream.
    pub(crate) fn accepted(&self) {
        self.ask(|state| state.asks.accepted = true);
    }

    /// See [`AsyncRead::poll_read`](futures::AsyncRead::poll_read).
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !state.rx.is_empty() {
            let (taken, cost) = state.take_rx(buf);
            self.connection.subtract_unread(cost);
            let more = state.wants_more(&self.connection);
            state.asks.read |= more;
            let queue = more && state.queue();
            drop(state);
            self.push(queue);
            return Poll::Ready(Ok(taken));
        }
        if let Some(end) = state.read_end.result() {
            return Poll::Ready(end);
        }
        if state.closed {
            drop(state);
            return Poll::Ready(Err(self.connection_error()));
        }
        register(&mut state.read_waker, cx);
        let more = state.paused != Paused::No;
        state.asks.read |= more;
        let queue = more && state.queue();
        drop(state);
        self.push(queue);
        Poll::Pending
    }

    /// See [`AsyncWrite::poll_write`](futures::AsyncWrite::poll_write).
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if let Some(error) = state.write_end.error() {
            return Poll::Ready(Err(error));
        }
        if state.closed {
            drop(state);
            return Poll::Ready(Err(self.connection_error()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let limit = self.connection.socket().limits().max_write_buffer;
        let room = limit.saturating_sub(state.tx.len() + state.in_driver);
        if room == 0 {
            state.write_wait.room = true;
            register(&mut state.write_waker, cx);
            return Poll::Pending;
        }
        let n = room.min(data.len());
        state.tx.extend_from_slice(&data[..n]);
        let queue = !state.write_blocked && state.queue();
        drop(state);
        self.push(queue);
        Poll::Ready(Ok(n))
    }

    /// See [`AsyncWrite::poll_flush`](futures::AsyncWrite::poll_flush): ready when SCTP has everything, or when the
    /// peer wants no more.
    ///
    /// That is no error yet: go-libp2p answers identify with data, FIN and STOP_SENDING in one packet, which may arrive
    /// while the request is being flushed, and the answer is to be read.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        if let Some(end) = state.write_end.result() {
            return Poll::Ready(end);
        }
        if state.closed {
            drop(state);
            return Poll::Ready(Err(self.connection_error()));
        }
        if state.is_flushed() {
            return Poll::Ready(Ok(()));
        }
        state.write_wait.empty = true;
        register(&mut state.write_waker, cx);
        Poll::Pending
    }

    /// See [`AsyncWrite::poll_close`](futures::AsyncWrite::poll_close): ready when FIN was handed over, or when the
    /// peer wants no more.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        if let Some(end) = state.write_end.result() {
            return Poll::Ready(end);
        }
        if state.closed {
            drop(state);
            return Poll::Ready(Err(self.connection_error()));
        }
        state.write_end = WriteEnd::Closing;
        state.write_wait.finished = true;
        register(&mut state.write_waker, cx);
        let queue = !state.write_blocked && state.queue();
        drop(state);
        self.push(queue);
        Poll::Pending
    }

    /// Tells the peer that nobody will read on; what is buffered is dropped.
    pub(crate) fn stop(&self) {
        let dropped = {
            let mut state = lock(&self.state);
            if state.read_end != ReadEnd::Open {
                return;
            }
            state.read_end = ReadEnd::Stopped;
            state.asks.stop = true;
            self.forget_rx(&mut state)
        };
        drop(dropped);
        self.ask(|_| ());
    }

    /// Abandons both directions.
    pub(crate) fn reset(&self) {
        let dropped = {
            let mut state = lock(&self.state);
            state.read_end = ReadEnd::Stopped;
            state.end_write(WriteEnd::ResetHere);
            state.asks.reset = true;
            self.forget_rx(&mut state)
        };
        drop(dropped);
        self.ask(|_| ());
    }

    /// The handle is gone. An answer that is flushed must arrive, and yamux and QUIC see to that: libp2p-kad reads the end
    /// of a request behind its answer and drops the stream.
    pub(crate) fn release(&self) {
        let (dropped, queue) = {
            let mut state = lock(&self.state);
            state.asks.finish = state.lacks_only_fin();
            state.asks.release = true;
            state.read_end = ReadEnd::Stopped;
            state.tx = Vec::new();
            let dropped = (
                self.forget_rx(&mut state),
                state.read_waker.take(),
                state.write_waker.take(),
            );
            (dropped, state.queue())
        };
        drop(dropped);
        self.push(queue);
    }

    /// The handle is about to go, but the channel stays as it is.
    pub(crate) fn detach(&self) {
        lock(&self.state).asks.detach = true;
    }

    /// Takes the unread bytes out of the accounts.
    fn forget_rx(&self, state: &mut StreamState) -> VecDeque<Bytes> {
        self.connection
            .subtract_unread(mem::take(&mut state.rx_cost));
        mem::take(&mut state.rx)
    }
}

/// For the driver.
impl StreamShared {
    /// Takes the stream off the ready list.
    pub(crate) fn take_asks(&self) -> StreamAsks {
        let mut state = lock(&self.state);
        state.queued = false;
        mem::take(&mut state.asks)
    }

    /// Moves data from the core (`read`) to the reader, as far as the limits let it, and wakes who must know.
    ///
    /// Data for a stream that nobody waits for wakes the task of the whole connection. Reason: libp2p-ping 0.48 sets its
    /// responder up again without polling it, so no reader is registered when the second ping comes; muxers
    /// that read the socket in the connection's own task wake it by chance, and the handler is polled along with it.
    pub(crate) fn fill(&self, wakes: &mut Wakes, mut read: impl FnMut() -> Read) {
        let wake_muxer = {
            let mut state = lock(&self.state);
            if state.read_end != ReadEnd::Open || state.closed {
                return;
            }
            let was_empty = state.rx.is_empty();
            self.fill_locked(&mut state, &mut read);
            // Paused with nothing delivered counts as news too: it takes a poll to make it go on.
            let news = !state.rx.is_empty()
                || state.read_end != ReadEnd::Open
                || state.paused != Paused::No;
            if news {
                let waker = state.read_waker.take();
                let nobody = waker.is_none();
                wakes.extend(waker);
                nobody && was_empty
            } else {
                false
            }
        };
        if wake_muxer {
            self.connection.wake_muxer(wakes);
        }
    }

    fn fill_locked(&self, state: &mut StreamState, read: &mut impl FnMut() -> Read) {
        let limits = self.connection.socket().limits();
        let mut hungry = state.rx.is_empty() && state.read_waker.is_some();
        loop {
            if state.rx_cost >= limits.max_read_buffer {
                state.paused = Paused::Full;
                return;
            }
            if self.connection.unread() >= limits.max_connection_buffer && !hungry {
                state.paused = Paused::Starved;
                return;
            }
            state.paused = Paused::No;
            match read() {
                Read::Data(piece) => {
                    let cost = piece.len() + PIECE_OVERHEAD;
                    state.rx_cost += cost;
                    self.connection.add_unread(cost);
                    state.rx.push_back(piece);
                    hungry = false;
                }
                Read::Blocked => return,
                Read::Eof => {
                    state.read_end = ReadEnd::Eof;
                    return;
                }
                Read::Reset(_) => {
                    state.read_end = ReadEnd::Reset;
                    return;
                }
            }
        }
    }

    /// Moves the writing direction on: `out` is the driver's buffer, of which the core has taken `written` bytes so
    /// far. When it is used up it is swapped with what the writer has filled meanwhile.
    ///
    /// `blocked`: the core has refused the rest and will report; the writer does not call the driver until then.
    pub(crate) fn advance(
        &self,
        out: &mut Vec<u8>,
        written: &mut usize,
        blocked: bool,
        wakes: &mut Wakes,
    ) -> Next {
        let mut state = lock(&self.state);
        if *written == out.len() {
            out.clear();
            *written = 0;
            if state.tx.is_empty() {
                for buffer in [&mut *out, &mut state.tx] {
                    if buffer.capacity() > KEPT_CAPACITY {
                        *buffer = Vec::new();
                    }
                }
            } else {
                mem::swap(out, &mut state.tx);
            }
        }
        state.in_driver = out.len() - *written;
        state.write_blocked = blocked;
        let limit = self.connection.socket().limits().max_write_buffer;
        state.wake_writer(limit, wakes);
        if blocked {
            Next::Wait
        } else if !out.is_empty() {
            Next::Write
        } else if state.write_end == WriteEnd::Closing {
            Next::Finish
        } else {
            Next::Wait
        }
    }

    /// FIN was handed to the core.
    pub(crate) fn finished(&self, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        if state.write_end == WriteEnd::Closing {
            state.write_end = WriteEnd::Finished;
        }
        state.wake_writer(0, wakes);
    }

    /// The peer sent STOP_SENDING.
    pub(crate) fn write_stopped(&self, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        state.end_write(WriteEnd::Stopped);
        state.wake_writer(0, wakes);
    }

    /// The core takes nothing for this stream any more.
    pub(crate) fn write_closed(&self, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        state.end_write(WriteEnd::Reset);
        state.wake_writer(0, wakes);
    }

    /// The connection has ended, and [`ConnectionShared::close`] was told why.
    pub(crate) fn close(&self, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.tx = Vec::new();
        state.in_driver = 0;
        wakes.extend(state.read_waker.take());
        state.write_wait = WriteWait::default();
        wakes.extend(state.write_waker.take());
    }
}

#[cfg(test)]
impl StreamShared {
    /// Pieces that the read buffer can hold without growing.
    pub(super) fn rx_capacity(&self) -> usize {
        lock(&self.state).rx.capacity()
    }
}
