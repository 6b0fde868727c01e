//! The halves against a model of the core: who is woken, when, and that nobody is left waiting.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite};
use libp2p_core::muxing::StreamMuxer;
use proptest::{collection::vec, prelude::*};

use super::{stream::StreamAsks, *};
use crate::{
    proto::{CloseReason, Read},
    transport::{Connection, Stream},
};

const ID: ConnectionId = ConnectionId(7);

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A task that only counts.
struct Task {
    count: Arc<Count>,
    waker: Waker,
}

impl Task {
    fn new() -> Self {
        let count = Arc::<Count>::default();
        let waker = Arc::clone(&count).into();
        Self { count, waker }
    }

    fn cx(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    /// How often it was woken since the last call.
    fn wakes(&self) -> usize {
        self.count.0.swap(0, Ordering::SeqCst)
    }
}

/// One connection whose driver is the test.
struct Fixture {
    socket: Arc<SocketShared>,
    connection: Arc<ConnectionShared>,
    muxer: Connection,
    driver: Task,
}

impl Fixture {
    fn new(limits: StreamLimits) -> Self {
        let socket = SocketShared::new("127.0.0.1:1".parse().unwrap(), limits);
        let connection = ConnectionShared::new(Arc::clone(&socket), Some(ID));
        let muxer = Connection::new(ConnectionHandle::new(Arc::clone(&connection), None));
        let fixture = Self {
            socket,
            connection,
            muxer,
            driver: Task::new(),
        };
        fixture.requests();
        fixture
    }

    fn stream(&self, number: u16) -> (Stream, Arc<StreamShared>) {
        let shared = StreamShared::new(Arc::clone(&self.connection), ID, channel(number));
        (Stream::new(Arc::clone(&shared)), shared)
    }

    /// Takes the ready list as the driver does.
    fn requests(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        self.socket.take_requests(&mut requests, &self.driver.cx());
        requests
    }

    fn muxer(&mut self) -> Pin<&mut Connection> {
        Pin::new(&mut self.muxer)
    }
}

fn channel(number: u16) -> ChannelId {
    ChannelId {
        stream: number,
        generation: 0,
    }
}

fn small() -> StreamLimits {
    StreamLimits {
        max_write_buffer: 1000,
        max_read_buffer: 2000,
        max_connection_buffer: 4000,
    }
}

/// Delivers these pieces, calls the wakers.
fn deliver(stream: &StreamShared, pieces: &[&'static [u8]]) {
    let mut pieces = pieces.iter();
    fill(stream, || {
        pieces
            .next()
            .map_or(Read::Blocked, |piece| Read::Data(Bytes::from_static(piece)))
    });
}

fn fill(stream: &StreamShared, read: impl FnMut() -> Read) {
    let mut wakes = Wakes::new();
    stream.fill(&mut wakes, read);
    wakes.into_iter().for_each(Waker::wake);
}

fn woken(call: impl FnOnce(&mut Wakes)) {
    let mut wakes = Wakes::new();
    call(&mut wakes);
    wakes.into_iter().for_each(Waker::wake);
}

fn read(stream: &mut Stream, task: &Task, size: usize) -> Poll<io::Result<usize>> {
    let mut buf = vec![0; size];
    Pin::new(stream).poll_read(&mut task.cx(), &mut buf)
}

fn kind<T>(poll: Poll<io::Result<T>>) -> Option<io::ErrorKind> {
    match poll {
        Poll::Ready(Err(error)) => Some(error.kind()),
        Poll::Ready(Ok(_)) | Poll::Pending => None,
    }
}

#[test]
fn handles_can_be_used_from_any_thread() {
    fn assert<T: Send + Unpin>() {}
    assert::<Stream>();
    assert::<Connection>();
}

#[test]
fn wakes_the_driver_once_for_many_requests() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut one, _) = fixture.stream(1);
    let (mut two, _) = fixture.stream(2);
    let task = Task::new();
    for _ in 0..10 {
        for stream in [&mut one, &mut two] {
            let written = Pin::new(stream).poll_write(&mut task.cx(), b"abc");
            assert!(matches!(written, Poll::Ready(Ok(3))));
        }
    }
    assert_eq!(fixture.driver.wakes(), 1);
    assert_eq!(fixture.requests().len(), 2, "one entry for each stream");
}

#[test]
fn wakes_a_reader_once_for_a_batch() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    assert!(read(&mut stream, &task, 10).is_pending());
    deliver(&shared, &[b"one", b"two", b"three"]);
    deliver(&shared, &[b"four"]);
    assert_eq!(task.wakes(), 1);
    assert!(matches!(read(&mut stream, &task, 100), Poll::Ready(Ok(15))));
    assert_eq!(fixture.connection.unread(), 0);
}

/// libp2p-ping 0.48 sets its responder up again without polling it.
#[test]
fn data_that_nobody_waits_for_wakes_the_muxer() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let (reader, muxer) = (Task::new(), Task::new());
    assert!(fixture.muxer().poll(&mut muxer.cx()).is_pending());
    deliver(&shared, &[b"ping"]);
    assert_eq!(muxer.wakes(), 1);

    // Also in the middle of a poll, before the muxer's turn in it has come.
    assert!(read(&mut stream, &Task::new(), 100).is_ready());
    deliver(&shared, &[b"ping"]);
    assert_eq!(muxer.wakes(), 1);

    // Not again before the application has shown up: nothing new can come of it.
    assert!(fixture.muxer().poll(&mut muxer.cx()).is_pending());
    assert_eq!(muxer.wakes(), 1, "one more poll, see the next test");
    assert!(fixture.muxer().poll(&mut muxer.cx()).is_pending());
    deliver(&shared, &[b"more"]);
    assert_eq!(muxer.wakes(), 0);

    // A reader that waits is woken instead.
    assert!(read(&mut stream, &reader, 100).is_ready());
    assert!(read(&mut stream, &reader, 100).is_pending());
    deliver(&shared, &[b"ping"]);
    assert_eq!((reader.wakes(), muxer.wakes()), (1, 0));
}

#[test]
fn data_that_comes_during_a_flush_is_read_by_a_reader_that_the_next_poll_only_makes() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let connection = Task::new();
    // As libp2p-ping does: its task waits for a flush when the next ping comes.
    assert!(
        Pin::new(&mut stream)
            .poll_write(&mut connection.cx(), b"pong")
            .is_ready()
    );
    assert!(
        Pin::new(&mut stream)
            .poll_flush(&mut connection.cx())
            .is_pending()
    );
    assert!(fixture.muxer().poll(&mut connection.cx()).is_pending());
    deliver(&shared, &[b"ping"]);
    assert!(connection.wakes() > 0);
    // This poll ends the flush, makes a reader, does not poll it, and comes to the muxer.
    assert!(fixture.muxer().poll(&mut connection.cx()).is_pending());
    assert!(connection.wakes() > 0, "the reader would never be polled");
    // Once only: an application that does not want to read costs no more than this.
    assert!(fixture.muxer().poll(&mut connection.cx()).is_pending());
    assert_eq!(connection.wakes(), 0);
}

#[test]
fn a_flush_succeeds_when_the_peer_wants_no_more() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    assert!(
        Pin::new(&mut stream)
            .poll_write(&mut task.cx(), b"request")
            .is_ready()
    );
    assert!(
        Pin::new(&mut stream)
            .poll_flush(&mut task.cx())
            .is_pending()
    );
    // Answer, FIN and STOP_SENDING in one packet.
    deliver(&shared, &[b"answer"]);
    fill(&shared, || Read::Eof);
    woken(|wakes| shared.write_stopped(wakes));
    let flushed = Pin::new(&mut stream).poll_flush(&mut task.cx());
    assert!(matches!(flushed, Poll::Ready(Ok(()))), "{flushed:?}");
    assert!(matches!(read(&mut stream, &task, 100), Poll::Ready(Ok(_))));
}

#[test]
fn the_end_of_a_stream_that_nobody_waits_for_wakes_the_muxer() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let (_stream, shared) = fixture.stream(1);
    let muxer = Task::new();
    assert!(fixture.muxer().poll(&mut muxer.cx()).is_pending());
    fill(&shared, || Read::Eof);
    assert_eq!(muxer.wakes(), 1);
}

#[test]
fn a_full_stream_asks_for_more_when_half_is_read() {
    let fixture = Fixture::new(small());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    let mut reads = 0;
    fill(&shared, || {
        reads += 1;
        Read::Data(Bytes::from_static(&[0; 372]))
    });
    assert_eq!(reads, 4, "2000 bytes, of which 128 for each piece");
    assert!(matches!(
        read(&mut stream, &task, 372),
        Poll::Ready(Ok(372))
    ));
    assert!(fixture.requests().is_empty());
    assert!(matches!(
        read(&mut stream, &task, 372),
        Poll::Ready(Ok(372))
    ));
    assert_eq!(fixture.requests().len(), 1);
    assert!(shared.take_asks().read);
}

#[test]
fn a_waiting_reader_gets_data_though_other_streams_hold_all_the_memory() {
    let fixture = Fixture::new(small());
    let hoarders: Vec<_> = (1..4).map(|number| fixture.stream(number)).collect();
    for (_, shared) in &hoarders {
        fill(shared, || Read::Data(Bytes::from_static(&[0; 872])));
    }
    assert_eq!(fixture.connection.unread(), 4000);
    let (mut stream, shared) = fixture.stream(9);
    let task = Task::new();

    // Nobody waits: the data stays in the core.
    fill(&shared, || Read::Data(Bytes::from_static(b"late")));
    assert_eq!(fixture.connection.unread(), 4000);

    // Somebody asks: one piece.
    assert!(read(&mut stream, &task, 10).is_pending());
    assert_eq!(fixture.requests().len(), 1);
    assert!(shared.take_asks().read);
    fill(&shared, || Read::Data(Bytes::from_static(b"late")));
    assert_eq!(task.wakes(), 1);
    assert!(matches!(read(&mut stream, &task, 10), Poll::Ready(Ok(4))));
}

#[test]
fn dropping_a_stream_takes_its_bytes_out_of_the_accounts() {
    let fixture = Fixture::new(StreamLimits::default());
    let (stream, shared) = fixture.stream(1);
    deliver(&shared, &[b"unread"]);
    assert_ne!(fixture.connection.unread(), 0);
    drop(stream);
    assert_eq!(fixture.connection.unread(), 0);
    let asks = StreamAsks {
        release: true,
        ..StreamAsks::default()
    };
    assert_eq!(shared.take_asks(), asks);
    deliver(&shared, &[b"too late"]);
    assert_eq!(fixture.connection.unread(), 0);
}

#[test]
fn the_end_comes_after_the_data_and_repeats() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    deliver(&shared, &[b"data"]);
    fill(&shared, || Read::Eof);
    woken(|wakes| shared.close(wakes));
    assert!(matches!(read(&mut stream, &task, 10), Poll::Ready(Ok(4))));
    for _ in 0..3 {
        assert!(matches!(read(&mut stream, &task, 10), Poll::Ready(Ok(0))));
    }
}

#[test]
fn a_reset_comes_after_the_data_and_repeats() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    deliver(&shared, &[b"data"]);
    fill(&shared, || Read::Reset(Some(3)));
    assert!(matches!(read(&mut stream, &task, 10), Poll::Ready(Ok(4))));
    for _ in 0..2 {
        let result = kind(read(&mut stream, &task, 10));
        assert_eq!(result, Some(io::ErrorKind::ConnectionReset));
    }
}

#[test]
fn closing_waits_until_the_end_was_handed_over_and_repeats() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    let mut wakes = Wakes::new();
    assert!(
        Pin::new(&mut stream)
            .poll_write(&mut task.cx(), b"abc")
            .is_ready()
    );
    assert!(
        Pin::new(&mut stream)
            .poll_close(&mut task.cx())
            .is_pending()
    );
    let (mut out, mut written) = (Vec::new(), 0);
    let next = shared.advance(&mut out, &mut written, false, &mut wakes);
    assert_eq!((next, out.as_slice()), (Next::Write, &b"abc"[..]));
    written = 3;
    let next = shared.advance(&mut out, &mut written, false, &mut wakes);
    assert_eq!(next, Next::Finish);
    assert!(
        Pin::new(&mut stream)
            .poll_close(&mut task.cx())
            .is_pending()
    );
    assert!(wakes.is_empty());
    woken(|wakes| shared.finished(wakes));
    assert_eq!(task.wakes(), 1);
    // Also when the peer, or the connection, goes away afterwards.
    for end in [StreamShared::write_closed, StreamShared::close] {
        woken(|wakes| end(&shared, wakes));
        let closed = Pin::new(&mut stream).poll_close(&mut task.cx());
        assert!(matches!(closed, Poll::Ready(Ok(()))));
    }
    let written = Pin::new(&mut stream).poll_write(&mut task.cx(), b"abc");
    assert_eq!(kind(written), Some(io::ErrorKind::BrokenPipe));
}

#[test]
fn stop_sending_breaks_the_pipe_and_wakes_the_writer() {
    let fixture = Fixture::new(small());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    let full = Pin::new(&mut stream).poll_write(&mut task.cx(), &[0; 2000]);
    assert!(matches!(full, Poll::Ready(Ok(1000))));
    assert!(
        Pin::new(&mut stream)
            .poll_write(&mut task.cx(), b"x")
            .is_pending()
    );
    woken(|wakes| shared.write_stopped(wakes));
    assert_eq!(task.wakes(), 1);
    let written = Pin::new(&mut stream).poll_write(&mut task.cx(), b"x");
    assert_eq!(kind(written), Some(io::ErrorKind::BrokenPipe));
    let closed = Pin::new(&mut stream).poll_close(&mut task.cx());
    assert!(matches!(closed, Poll::Ready(Ok(()))));
}

#[test]
fn errors_say_what_happened() {
    fn text<T>(poll: Poll<io::Result<T>>) -> String {
        match poll {
            Poll::Ready(Err(error)) => error.to_string(),
            Poll::Ready(Ok(_)) | Poll::Pending => "no error".into(),
        }
    }
    let task = Task::new();
    let write = |stream: &mut Stream| Pin::new(stream).poll_write(&mut task.cx(), b"x");
    let fixture = Fixture::new(StreamLimits::default());

    let (mut stream, shared) = fixture.stream(1);
    fill(&shared, || Read::Reset(None));
    woken(|wakes| shared.write_closed(wakes));
    assert_eq!(
        text(read(&mut stream, &task, 1)),
        "the peer reset the stream"
    );
    assert_eq!(text(write(&mut stream)), "the peer reset the stream");

    let (mut stream, shared) = fixture.stream(2);
    woken(|wakes| shared.write_stopped(wakes));
    assert_eq!(text(write(&mut stream)), "the peer has stopped reading");

    let (mut stream, _shared) = fixture.stream(3);
    assert!(
        Pin::new(&mut stream)
            .poll_close(&mut task.cx())
            .is_pending()
    );
    assert_eq!(text(write(&mut stream)), "the stream is closed for writing");

    let (mut stream, shared) = fixture.stream(4);
    stream.reset();
    woken(|wakes| shared.write_closed(wakes));
    assert_eq!(
        text(read(&mut stream, &task, 1)),
        "the stream is closed for reading"
    );
    assert_eq!(
        text(write(&mut stream)),
        "the stream was reset on this side"
    );
}

#[test]
fn a_writer_is_woken_when_half_of_the_buffer_is_free() {
    let fixture = Fixture::new(small());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    assert!(
        Pin::new(&mut stream)
            .poll_write(&mut task.cx(), &[0; 1000])
            .is_ready()
    );
    assert!(
        Pin::new(&mut stream)
            .poll_write(&mut task.cx(), b"x")
            .is_pending()
    );
    let (mut out, mut written) = (Vec::new(), 0);
    woken(|wakes| {
        shared.advance(&mut out, &mut written, false, wakes);
        written = 499;
        shared.advance(&mut out, &mut written, true, wakes);
    });
    assert_eq!(task.wakes(), 0);
    written = 500;
    woken(|wakes| {
        shared.advance(&mut out, &mut written, true, wakes);
    });
    assert_eq!(task.wakes(), 1);
    // The core is blocked and will report: the writer need not call the driver.
    fixture.requests();
    shared.take_asks();
    let more = Pin::new(&mut stream).poll_write(&mut task.cx(), &[0; 1000]);
    assert!(matches!(more, Poll::Ready(Ok(500))));
    assert!(fixture.requests().is_empty());
}

#[test]
fn large_buffers_go_back_when_they_are_empty() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    let (mut out, mut written) = (Vec::new(), 0);
    let mut wakes = Wakes::new();
    assert!(
        Pin::new(&mut stream)
            .poll_write(&mut task.cx(), &[0; 100_000])
            .is_ready()
    );
    shared.advance(&mut out, &mut written, false, &mut wakes);
    written = out.len();
    shared.advance(&mut out, &mut written, false, &mut wakes);
    assert_eq!(out.capacity(), 0);
    fill(&shared, || Read::Data(Bytes::from_static(b"0123456789")));
    while read(&mut stream, &task, 64).is_ready() {}
    assert!(shared.rx_capacity() * size_of::<Bytes>() <= KEPT_CAPACITY);
}

#[test]
fn a_stream_reports_why_its_connection_ended() {
    let fixture = Fixture::new(StreamLimits::default());
    let (mut stream, shared) = fixture.stream(1);
    let task = Task::new();
    assert!(read(&mut stream, &task, 1).is_pending());
    woken(|wakes| fixture.connection.close(CloseReason::TimedOut, wakes));
    woken(|wakes| shared.close(wakes));
    assert_eq!(task.wakes(), 1);
    let error = kind(read(&mut stream, &task, 1));
    assert_eq!(error, Some(io::ErrorKind::TimedOut));
    let error = kind(Pin::new(&mut stream).poll_flush(&mut task.cx()));
    assert_eq!(error, Some(io::ErrorKind::TimedOut));
}

#[test]
fn opening_asks_once_and_wakes_when_it_is_done() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let task = Task::new();
    for _ in 0..3 {
        assert!(fixture.muxer().poll_outbound(&mut task.cx()).is_pending());
    }
    assert_eq!(fixture.requests().len(), 1);
    assert!(fixture.connection.take_asks().open);
    let (stream, _) = fixture.stream(2);
    woken(|wakes| fixture.connection.set_opened(stream, wakes));
    assert_eq!(task.wakes(), 1);
    let opened = fixture.muxer().poll_outbound(&mut task.cx());
    assert!(matches!(opened, Poll::Ready(Ok(_))));
    assert!(fixture.requests().is_empty());
    // The next one is asked for anew.
    assert!(fixture.muxer().poll_outbound(&mut task.cx()).is_pending());
    assert!(fixture.connection.take_asks().open);
}

#[test]
fn taking_an_inbound_stream_is_told_to_the_core() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let task = Task::new();
    assert!(fixture.muxer().poll_inbound(&mut task.cx()).is_pending());
    let (stream, shared) = fixture.stream(2);
    woken(|wakes| fixture.connection.push_inbound(stream, wakes));
    assert_eq!(task.wakes(), 1);
    let taken = fixture.muxer().poll_inbound(&mut task.cx());
    assert!(matches!(taken, Poll::Ready(Ok(_))));
    assert_eq!(fixture.requests().len(), 1);
    assert!(shared.take_asks().accepted);
}

#[test]
fn closing_a_connection_asks_once_and_is_repeatable() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let task = Task::new();
    for _ in 0..2 {
        assert!(fixture.muxer().poll_close(&mut task.cx()).is_pending());
    }
    assert!(fixture.connection.take_asks().close);
    assert_eq!(fixture.requests().len(), 1);
    woken(|wakes| fixture.connection.close(CloseReason::Local, wakes));
    assert_eq!(task.wakes(), 1);
    for _ in 0..2 {
        let closed = fixture.muxer().poll_close(&mut task.cx());
        assert!(matches!(closed, Poll::Ready(Ok(()))));
    }
    let error = fixture.muxer().poll(&mut task.cx());
    assert!(matches!(error, Poll::Ready(Err(error)) if error.is_local()));
}

#[test]
fn every_waiting_task_learns_that_the_connection_ended() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let tasks: [_; 4] = std::array::from_fn(|_| Task::new());
    assert!(fixture.muxer().poll(&mut tasks[0].cx()).is_pending());
    assert!(
        fixture
            .muxer()
            .poll_inbound(&mut tasks[1].cx())
            .is_pending()
    );
    assert!(
        fixture
            .muxer()
            .poll_outbound(&mut tasks[2].cx())
            .is_pending()
    );
    assert!(fixture.muxer().poll_close(&mut tasks[3].cx()).is_pending());
    woken(|wakes| fixture.connection.close(CloseReason::Remote, wakes));
    assert_eq!(tasks.map(|task| task.wakes()), [1; 4]);
    let task = Task::new();
    assert!(matches!(
        fixture.muxer().poll_inbound(&mut task.cx()),
        Poll::Ready(Err(error)) if error.is_remote()
    ));
    assert!(matches!(
        fixture.muxer().poll_outbound(&mut task.cx()),
        Poll::Ready(Err(error)) if error.is_remote()
    ));
}

#[test]
fn reports_the_latest_address_once() {
    let mut fixture = Fixture::new(StreamLimits::default());
    let task = Task::new();
    assert!(fixture.muxer().poll(&mut task.cx()).is_pending());
    for port in [5, 6] {
        let address = SocketAddr::from(([192, 0, 2, 1], port));
        woken(|wakes| fixture.connection.set_address(address, wakes));
    }
    assert_eq!(task.wakes(), 1);
    let Poll::Ready(Ok(libp2p_core::muxing::StreamMuxerEvent::AddressChange(address))) =
        fixture.muxer().poll(&mut task.cx())
    else {
        panic!("no address");
    };
    assert_eq!(address.to_string(), "/ip4/192.0.2.1/udp/6/webrtc-direct");
    assert!(fixture.muxer().poll(&mut task.cx()).is_pending());
}

#[test]
fn dropping_the_handle_closes_and_gives_back_what_was_queued() {
    let Fixture {
        socket,
        connection,
        muxer,
        driver,
    } = Fixture::new(StreamLimits::default());
    let shared = StreamShared::new(Arc::clone(&connection), ID, channel(3));
    woken(|wakes| connection.push_inbound(Stream::new(Arc::clone(&shared)), wakes));
    drop(muxer);
    assert!(connection.take_asks().close);
    assert!(shared.take_asks().release);
    assert_eq!(driver.wakes(), 1);
    // Nothing is kept for a handle that is gone.
    woken(|wakes| connection.push_inbound(Stream::new(Arc::clone(&shared)), wakes));
    drop(socket);
    assert_eq!(Arc::strong_count(&shared), 1);
    drop(shared);
    assert_eq!(Arc::strong_count(&connection), 1);
}

/// A stream of the model core: it reports only after it has said "blocked".
struct ModelStream {
    handle: Stream,
    shared: Arc<StreamShared>,
    task: Task,
    /// In the core, not read by the driver.
    inside: VecDeque<Bytes>,
    /// The core owes an event when data comes.
    armed: bool,
    waiting: bool,
    sent: usize,
    received: usize,
}

impl ModelStream {
    fn new(fixture: &Fixture, number: u16) -> Self {
        let (handle, shared) = fixture.stream(number);
        Self {
            handle,
            shared,
            task: Task::new(),
            inside: VecDeque::new(),
            armed: true,
            waiting: false,
            sent: 0,
            received: 0,
        }
    }

    fn pump(&mut self) {
        let (inside, armed) = (&mut self.inside, &mut self.armed);
        fill(&self.shared, || match inside.pop_front() {
            Some(piece) => Read::Data(piece),
            None => {
                *armed = true;
                Read::Blocked
            }
        });
    }

    /// The network brings a piece; the core reports if it owes that.
    fn produce(&mut self, length: usize) {
        self.inside.push_back(Bytes::from(vec![1; length]));
        self.sent += length;
        if mem::take(&mut self.armed) {
            self.pump();
        }
    }

    fn consume(&mut self, size: usize) {
        match read(&mut self.handle, &self.task, size) {
            Poll::Ready(result) => {
                self.received += result.unwrap();
                self.waiting = false;
            }
            Poll::Pending => self.waiting = true,
        }
    }
}

/// Serves the ready list until it is empty.
fn run_driver(fixture: &Fixture, streams: &mut [ModelStream]) {
    loop {
        let requests = fixture.requests();
        if requests.is_empty() {
            return;
        }
        for request in requests {
            if let Request::Stream(_, channel) = request {
                let stream = &mut streams[usize::from(channel.stream)];
                if stream.shared.take_asks().read {
                    stream.pump();
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Produce(usize, usize),
    Consume(usize, usize),
    Drive,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_usize, 1..1500_usize).prop_map(|(stream, length)| Step::Produce(stream, length)),
        (0..4_usize, 1..3000_usize).prop_map(|(stream, size)| Step::Consume(stream, size)),
        Just(Step::Drive),
    ]
}

proptest! {
    /// However reading, arriving and the driver's turns mix: a reader that waits and was not woken has nothing to wait
    /// for, and a reader that goes on reading gets everything, though others read nothing.
    #[test]
    fn no_reader_waits_while_there_is_data(steps in vec(step(), 1..200)) {
        let fixture = Fixture::new(small());
        let mut streams: Vec<_> = (0..4).map(|number| ModelStream::new(&fixture, number)).collect();
        for step in steps {
            match step {
                Step::Produce(stream, length) => streams[stream].produce(length),
                Step::Consume(stream, size) => streams[stream].consume(size),
                Step::Drive => run_driver(&fixture, &mut streams),
            }
            let buffered = fixture.connection.unread();
            prop_assert!(buffered <= 4000 + 4 * 1628, "{buffered} bytes delivered and not read");
        }
        run_driver(&fixture, &mut streams);
        for stream in &mut streams {
            if stream.waiting && stream.task.wakes() == 0 {
                prop_assert_eq!(stream.sent, stream.received);
            }
        }
        // One of them reads on; the driver runs only when it is called.
        while streams[0].received < streams[0].sent {
            let before = streams[0].received;
            streams[0].consume(1000);
            if streams[0].waiting {
                run_driver(&fixture, &mut streams);
                prop_assert!(streams[0].task.wakes() > 0, "stalled at {before}");
                streams[0].consume(1000);
            }
            prop_assert!(streams[0].received > before, "woken for nothing at {before}");
        }
    }
}
