//! What libp2p expects of every stream muxer: the cases of its test harness, and more, for any muxer.
//!
//! Both ends are polled by tasks of their own, as a swarm does it. Which error a stream gives is asked of those muxers
//! only that tell errors apart ([`Cases::TELLS`]).
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "no test file uses every helper, and a test fails by panicking"
)]

use std::{
    any::Any,
    collections::VecDeque,
    fmt::Debug,
    future::poll_fn,
    io::{self, ErrorKind},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, StreamExt as _,
    channel::{mpsc, oneshot},
    future::join,
};
use libp2p_core::StreamMuxer;

use crate::common::soon;

/// Many messages and more than one datagram batch, less than the buffer of a writer.
const LARGE: usize = 200_000;

/// A kind of connection.
pub(crate) trait Form: Sized + 'static {
    type Muxer: StreamMuxer<Substream = Self::Stream, Error = Self::Error> + Unpin + Send + 'static;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Error: Debug + Clone + Send + 'static;
}

/// How the cases make such connections, and what they may ask of them.
pub(crate) trait Cases: Form {
    /// Whether its streams tell one error from another, and a reset from an end.
    const TELLS: bool;

    /// Both ends of a connection, the dialer's first, and what must live as long.
    fn pair() -> impl Future<Output = (Self::Muxer, Self::Muxer, Box<dyn Any + Send>)> + Send;

    /// Whether the peer closed the connection, and whether this side did.
    fn blames(error: &Self::Error) -> (bool, bool);
}

enum Ask<F: Form> {
    Open(oneshot::Sender<F::Stream>),
    Close(oneshot::Sender<()>),
}

/// One end, polled by a task. Dropping it drops the connection.
pub(crate) struct End<F: Form> {
    ask: mpsc::Sender<Ask<F>>,
    inbound: mpsc::Receiver<F::Stream>,
    ended: futures::future::Shared<futures::future::BoxFuture<'static, Option<F::Error>>>,
}

impl<F: Form> End<F> {
    pub(crate) fn new(muxer: F::Muxer) -> Self {
        let (ask, asked) = mpsc::channel(8);
        let (give, inbound) = mpsc::channel(64);
        let (tell, ended) = oneshot::channel();
        tokio::spawn(drive::<F>(muxer, asked, give, tell));
        Self {
            ask,
            inbound,
            ended: ended.map(Result::ok).boxed().shared(),
        }
    }

    /// A stream on which nothing was sent.
    pub(crate) async fn open(&mut self) -> F::Stream {
        let (give, opened) = oneshot::channel();
        assert!(self.ask.try_send(Ask::Open(give)).is_ok());
        soon(opened).await.expect("the connection is open")
    }

    pub(crate) async fn accept(&mut self) -> F::Stream {
        soon(self.inbound.next())
            .await
            .expect("the connection is open")
    }

    /// Why it ended.
    pub(crate) async fn ended(&self) -> F::Error {
        soon(self.ended.clone()).await.expect("it ended by itself")
    }

    /// Closes it in order.
    pub(crate) async fn close(mut self) {
        let (tell, closed) = oneshot::channel();
        assert!(self.ask.try_send(Ask::Close(tell)).is_ok());
        soon(closed).await.expect("closing comes to an end");
    }
}

/// Polls a muxer as a swarm does.
async fn drive<F: Form>(
    mut muxer: F::Muxer,
    mut asked: mpsc::Receiver<Ask<F>>,
    mut give: mpsc::Sender<F::Stream>,
    tell: oneshot::Sender<F::Error>,
) {
    let mut opening = VecDeque::new();
    let mut turn = |cx: &mut Context<'_>| -> Poll<Result<Option<oneshot::Sender<()>>, F::Error>> {
        while let Poll::Ready(ask) = asked.poll_next_unpin(cx) {
            match ask {
                Some(Ask::Open(give)) => opening.push_back(give),
                Some(Ask::Close(tell)) => return Poll::Ready(Ok(Some(tell))),
                None => return Poll::Ready(Ok(None)),
            }
        }
        loop {
            if let Poll::Ready(result) = Pin::new(&mut muxer).poll(cx) {
                result?;
                continue;
            }
            if let Poll::Ready(stream) = Pin::new(&mut muxer).poll_inbound(cx) {
                give.try_send(stream?).expect("the test accepts them");
                continue;
            }
            if !opening.is_empty()
                && let Poll::Ready(stream) = Pin::new(&mut muxer).poll_outbound(cx)
            {
                let waiting = opening.pop_front().expect("one is waiting");
                assert!(waiting.send(stream?).is_ok(), "the test waits for it");
                continue;
            }
            return Poll::Pending;
        }
    };
    match poll_fn(&mut turn).await {
        Ok(Some(closed)) => {
            poll_fn(|cx| Pin::new(&mut muxer).poll_close(cx)).await.ok();
            closed.send(()).ok();
        }
        Ok(None) => {}
        Err(error) => {
            tell.send(error).ok();
            // Ended, and still there, as in a swarm that has not looked yet.
            while let Some(ask) = asked.next().await {
                if let Ask::Close(closed) = ask {
                    poll_fn(|cx| Pin::new(&mut muxer).poll_close(cx)).await.ok();
                    closed.send(()).ok();
                }
            }
        }
    }
}

/// Both ends of a connection.
struct Ends<F: Cases> {
    near: End<F>,
    far: End<F>,
    _rest: Box<dyn Any + Send>,
}

impl<F: Cases> Ends<F> {
    /// Near is the dialer, or the listener.
    async fn new(is_dialer_near: bool) -> Self {
        let (mut near, mut far, rest) = F::pair().await;
        if !is_dialer_near {
            mem::swap(&mut near, &mut far);
        }
        Self {
            near: End::new(near),
            far: End::new(far),
            _rest: rest,
        }
    }

    /// Both ends of a new stream, which near opened. Some muxers tell the other side with the first byte only.
    async fn stream(&mut self) -> (F::Stream, F::Stream) {
        let mut near = self.near.open().await;
        send(&mut near, b"!").await;
        let mut far = self.far.accept().await;
        assert_eq!(receive(&mut far, 1).await, b"!");
        (near, far)
    }
}

/// Bytes that do not repeat themselves at the size of a message.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 31 + (at >> 8) * 7).to_le_bytes()[0])
        .collect()
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), data: &[u8]) {
    soon(stream.write_all(data)).await.unwrap();
    soon(stream.flush()).await.unwrap();
}

async fn receive(stream: &mut (impl AsyncRead + Unpin), len: usize) -> Vec<u8> {
    let mut got = vec![0; len];
    soon(stream.read_exact(&mut got)).await.unwrap();
    got
}

/// Everything up to the end of the other side's half, or the error that comes in its place.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, io::Result<usize>) {
    let mut got = Vec::new();
    let end = soon(stream.read_to_end(&mut got)).await;
    (got, end)
}

/// Writes until it fails, as it does when the news from the other side is there.
async fn writing_fails(stream: &mut (impl AsyncWrite + Unpin)) -> ErrorKind {
    soon(async {
        loop {
            match stream.write(b"x").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error.kind(),
            }
        }
    })
    .await
}

/// The error is of this kind, where the muxer tells.
fn assert_kind<F: Cases>(found: ErrorKind, kind: ErrorKind) {
    assert!(!F::TELLS || found == kind, "{found} is not {kind}");
}

/// The stream was cut off, where the muxer tells that from an end.
fn assert_reset<F: Cases>(end: io::Result<usize>) {
    if F::TELLS {
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

pub(crate) async fn closing_a_stream_sends_what_was_never_flushed<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    for len in [0, 1, LARGE] {
        let (mut near, mut far) = ends.stream().await;
        let write = async {
            near.write_all(&pattern(len)).await.unwrap();
            near.close().await.unwrap();
        };
        let ((), (got, end)) = soon(join(write, rest(&mut far))).await;
        assert_eq!(end.unwrap(), len);
        assert!(got == pattern(len));
    }
}

pub(crate) async fn the_side_that_opened_a_stream_can_receive_first<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut near, mut far) = ends.stream().await;
    let ((), got) = join(send(&mut far, b"welcome"), receive(&mut near, 7)).await;
    assert_eq!(got, b"welcome");
    send(&mut near, b"thanks").await;
    assert_eq!(receive(&mut far, 6).await, b"thanks");
}

pub(crate) async fn the_end_is_read_and_a_stream_closed_as_often_as_asked<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut near, mut far) = ends.stream().await;
    send(&mut near, b"x").await;
    soon(near.close()).await.unwrap();
    assert_eq!(receive(&mut far, 1).await, b"x");
    assert_eq!(soon(far.read(&mut [0; 8])).await.unwrap(), 0);
    for _ in 0..3 {
        for stream in [&mut far, &mut near] {
            soon(stream.close()).await.unwrap();
            if F::TELLS {
                soon(stream.flush()).await.unwrap();
            }
        }
        for stream in [&mut far, &mut near] {
            assert_eq!(soon(stream.read(&mut [0; 8])).await.unwrap(), 0);
            let error = soon(stream.write(b"late")).await.unwrap_err();
            assert_kind::<F>(error.kind(), ErrorKind::BrokenPipe);
        }
    }
}

pub(crate) async fn the_rest_is_read_after_closing_the_own_half<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut near, mut far) = ends.stream().await;
    send(&mut near, b"first, rest, ").await;
    assert_eq!(receive(&mut far, 5).await, b"first");
    soon(far.close()).await.unwrap();
    rest(&mut near).await.1.unwrap();
    // Sent when the other half was closed at both ends.
    send(&mut near, b"more").await;
    soon(near.close()).await.unwrap();
    let (got, end) = rest(&mut far).await;
    end.unwrap();
    assert_eq!(got, b", rest, more");
}

pub(crate) async fn a_request_that_ends_with_its_half_is_answered<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut near, mut far) = ends.stream().await;
    let ask = async {
        near.write_all(&pattern(LARGE)).await.unwrap();
        near.close().await.unwrap();
        rest(&mut near).await
    };
    let answer = async {
        let (request, end) = rest(&mut far).await;
        assert_eq!(end.unwrap(), LARGE);
        assert!(request == pattern(LARGE));
        let answer: Vec<u8> = request.into_iter().rev().collect();
        far.write_all(&answer).await.unwrap();
        far.close().await.unwrap();
        answer
    };
    let ((got, end), sent) = soon(join(ask, answer)).await;
    assert_eq!(end.unwrap(), LARGE);
    assert!(got == sent);
}

pub(crate) async fn dropping_an_unfinished_stream_resets_the_other_side<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    for (sent, by_opener) in [("", true), ("half a mess", true), ("half an ans", false)] {
        let (mut near, mut far) = ends.stream().await;
        if !by_opener {
            mem::swap(&mut near, &mut far);
        }
        send(&mut near, sent.as_bytes()).await;
        assert_eq!(receive(&mut far, sent.len()).await, sent.as_bytes());
        drop(near);
        let (got, end) = rest(&mut far).await;
        assert_eq!(got, b"");
        assert_reset::<F>(end);
        assert_kind::<F>(writing_fails(&mut far).await, ErrorKind::ConnectionReset);
    }
}

/// libp2p-kad answers a request, reads the end behind it and drops the stream; so muxers like yamux close it then.
pub(crate) async fn dropping_a_stream_that_the_peer_has_ended_closes_it<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    for len in [0, 1, LARGE] {
        let (mut near, mut far) = ends.stream().await;
        send(&mut near, b"question").await;
        soon(near.close()).await.unwrap();
        let answer = async {
            rest(&mut far).await.1.unwrap();
            send(&mut far, &pattern(len)).await;
            drop(far);
        };
        let ((), (got, end)) = soon(join(answer, rest(&mut near))).await;
        assert_eq!(end.unwrap(), len);
        assert!(got == pattern(len));
    }
}

pub(crate) async fn dropping_an_ended_stream_with_something_unflushed_or_unread_resets_it<
    F: Cases,
>(
    side: bool,
) {
    let mut ends = Ends::<F>::new(side).await;
    for read in [true, false] {
        let (mut near, mut far) = ends.stream().await;
        send(&mut near, b"question").await;
        soon(near.close()).await.unwrap();
        if read {
            rest(&mut far).await.1.unwrap();
            // More than the connection takes before the stream is gone.
            soon(far.write_all(&pattern(LARGE))).await.unwrap();
        } else {
            assert_eq!(receive(&mut far, 5).await, b"quest");
        }
        drop(far);
        assert_reset::<F>(rest(&mut near).await.1);
    }
}

/// libp2p's AutoNAT answers a dial-back and drops the stream, which its peer has not ended.
pub(crate) async fn what_was_flushed_before_a_stream_was_dropped_is_read_before_the_reset<
    F: Cases,
>(
    side: bool,
) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut near, mut far) = ends.stream().await;
    send(&mut near, b"question").await;
    assert_eq!(receive(&mut far, 8).await, b"question");
    send(&mut far, b"answer").await;
    drop(far);
    let (got, end) = rest(&mut near).await;
    assert_eq!(got, b"answer");
    assert_reset::<F>(end);
}

pub(crate) async fn dropping_a_closed_stream_leaves_its_bytes_and_their_end<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut near, mut far) = ends.stream().await;
    soon(near.write_all(&pattern(20_000))).await.unwrap();
    soon(near.close()).await.unwrap();
    drop(near);
    let (got, end) = rest(&mut far).await;
    assert_eq!(end.unwrap(), 20_000);
    assert!(got == pattern(20_000));
    if F::TELLS {
        assert_eq!(writing_fails(&mut far).await, ErrorKind::BrokenPipe);
    }
    soon(far.close()).await.unwrap();
}

pub(crate) async fn the_other_side_notices_that_a_connection_was_closed<F: Cases>(side: bool) {
    let ends = Ends::<F>::new(side).await;
    // The one who waits comes first, so that it must be woken.
    let (error, ()) = join(ends.far.ended(), ends.near.close()).await;
    assert_eq!(F::blames(&error), (true, false), "{error:?}");
    // What has ended can be closed all the same.
    ends.far.close().await;
}

pub(crate) async fn the_other_side_notices_that_a_connection_was_dropped<F: Cases>(side: bool) {
    let ends = Ends::<F>::new(side).await;
    let (error, ()) = join(ends.far.ended(), async { drop(ends.near) }).await;
    assert!(!F::blames(&error).1, "{error:?}");
}

pub(crate) async fn both_sides_can_close_at_once<F: Cases>(side: bool) {
    let ends = Ends::<F>::new(side).await;
    join(ends.near.close(), ends.far.close()).await;
}

pub(crate) async fn streams_fail_on_both_sides_after_the_connection_closed<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut near, mut far) = ends.stream().await;
    let closed = ends.near.close();
    let ((_, near_end), (_, far_end), ()) = futures::join!(rest(&mut near), rest(&mut far), closed);
    for (stream, end, kind) in [
        (&mut near, near_end, ErrorKind::NotConnected),
        (&mut far, far_end, ErrorKind::ConnectionReset),
    ] {
        if !F::TELLS {
            writing_fails(stream).await;
            continue;
        }
        let errors = [
            end.unwrap_err(),
            soon(stream.read(&mut [0; 8])).await.unwrap_err(),
            soon(stream.write(b"x")).await.unwrap_err(),
            soon(stream.flush()).await.unwrap_err(),
            soon(stream.close()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), kind);
            let reason: &libp2p_rtc::ConnectionError =
                error.get_ref().unwrap().downcast_ref().unwrap();
            let is_local = kind == ErrorKind::NotConnected;
            assert_eq!(
                (reason.is_local(), reason.is_remote()),
                (is_local, !is_local)
            );
        }
    }
}

pub(crate) async fn what_was_flushed_is_read_although_the_connection_closed<F: Cases>(side: bool) {
    let mut ends = Ends::<F>::new(side).await;
    let (mut open, mut far_open) = ends.stream().await;
    let (mut closed, mut far_closed) = ends.stream().await;
    send(&mut open, &pattern(LARGE)).await;
    send(&mut closed, &pattern(LARGE)).await;
    soon(closed.close()).await.unwrap();
    let ((got, end), (got_closed, end_closed), ()) = futures::join!(
        rest(&mut far_open),
        rest(&mut far_closed),
        ends.near.close()
    );
    assert!(got == pattern(LARGE), "{} bytes", got.len());
    assert_reset::<F>(end);
    assert_eq!(end_closed.unwrap(), LARGE);
    assert!(got_closed == pattern(LARGE));
    if F::TELLS {
        soon(closed.close()).await.unwrap();
    }
}

/// All cases for one form, once with the dialer and once with the listener in the leading role.
#[macro_export]
macro_rules! muxer_cases {
    ($form:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                for is_dialer_near in [true, false] {
                    $crate::muxer_cases::$case::<$form>(is_dialer_near).await;
                }
            }
        )*
    };
    ($form:ty) => {
        $crate::muxer_cases! { $form:
            closing_a_stream_sends_what_was_never_flushed,
            the_side_that_opened_a_stream_can_receive_first,
            the_end_is_read_and_a_stream_closed_as_often_as_asked,
            the_rest_is_read_after_closing_the_own_half,
            a_request_that_ends_with_its_half_is_answered,
            dropping_an_unfinished_stream_resets_the_other_side,
            dropping_a_stream_that_the_peer_has_ended_closes_it,
            dropping_an_ended_stream_with_something_unflushed_or_unread_resets_it,
            what_was_flushed_before_a_stream_was_dropped_is_read_before_the_reset,
            dropping_a_closed_stream_leaves_its_bytes_and_their_end,
            the_other_side_notices_that_a_connection_was_closed,
            the_other_side_notices_that_a_connection_was_dropped,
            both_sides_can_close_at_once,
            streams_fail_on_both_sides_after_the_connection_closed,
            what_was_flushed_is_read_although_the_connection_closed,
        }
    };
}
