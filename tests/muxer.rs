//! What libp2p expects of every stream muxer, over real sockets.
//!
//! The cases of libp2p's test harness for muxers, and what the documentation of [`Stream`] and [`Connection`] promises
//! beyond: which error, and which bytes are read before it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fmt::Debug,
    future::poll_fn,
    io::{self, ErrorKind},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use common::{DIAL, LOOPBACK, Node, accept, close, complete, open, soon};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::join};
use libp2p_core::StreamMuxer as _;
use libp2p_rtc::{Connection, ConnectionError, Stream};

/// Many messages and more than one datagram batch, less than the buffer of a writer.
const LARGE: usize = 200_000;

/// A method of the muxer.
type Ask<T> = fn(Pin<&mut Connection>, &mut Context<'_>) -> Poll<Result<T, ConnectionError>>;

/// Both ends of a connection, with the sockets below it.
struct Ends {
    near: Connection,
    far: Connection,
    _nodes: [Node; 2],
}

impl Ends {
    /// Near is the dialer.
    async fn new() -> Self {
        let (mut listener, mut dialer) = (Node::new(), Node::new());
        let (_, addr) = listener.listen(LOOPBACK).await;
        let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
        Self {
            near: pair.dialer.unwrap().1,
            far: pair.listener.unwrap().1,
            _nodes: [listener, dialer],
        }
    }

    /// Two connections: near is the dialer of the first one and the listener of the second one.
    async fn both_ways() -> [Self; 2] {
        let (one, mut other) = (Self::new().await, Self::new().await);
        mem::swap(&mut other.near, &mut other.far);
        [one, other]
    }

    /// Both ends of a new stream, which near opened.
    async fn stream(&mut self) -> (Stream, Stream) {
        join(open(&mut self.near), accept(&mut self.far)).await
    }
}

/// Bytes that do not repeat themselves at the size of a message.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 31 + (at >> 8) * 7).to_le_bytes()[0])
        .collect()
}

async fn send(stream: &mut Stream, data: &[u8]) {
    soon(stream.write_all(data)).await.unwrap();
    soon(stream.flush()).await.unwrap();
}

async fn receive(stream: &mut Stream, len: usize) -> Vec<u8> {
    let mut got = vec![0; len];
    soon(stream.read_exact(&mut got)).await.unwrap();
    got
}

/// Everything up to the end of the other side's half, or the error that comes in its place.
async fn rest(stream: &mut Stream) -> (Vec<u8>, io::Result<usize>) {
    let mut got = Vec::new();
    let end = soon(stream.read_to_end(&mut got)).await;
    (got, end)
}

/// Writes until it fails, as it does when the news from the other side is there.
async fn writing_fails(stream: &mut Stream) -> ErrorKind {
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

/// Asks the connection until it answers, which must be with the reason of its end.
async fn end<T: Debug>(connection: &mut Connection, ask: Ask<T>) -> ConnectionError {
    soon(poll_fn(|cx| ask(Pin::new(&mut *connection), cx)))
        .await
        .expect_err("nothing else happens on this connection")
}

#[tokio::test]
async fn closing_a_stream_sends_what_was_never_flushed() {
    for mut ends in Ends::both_ways().await {
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
}

#[tokio::test]
async fn the_side_that_opened_a_stream_can_receive_first() {
    for mut ends in Ends::both_ways().await {
        let (mut near, mut far) = ends.stream().await;
        let ((), got) = join(send(&mut far, b"welcome"), receive(&mut near, 7)).await;
        assert_eq!(got, b"welcome");
        send(&mut near, b"thanks").await;
        assert_eq!(receive(&mut far, 6).await, b"thanks");
    }
}

#[tokio::test]
async fn the_end_is_read_and_a_stream_closed_as_often_as_asked() {
    for mut ends in Ends::both_ways().await {
        let (mut near, mut far) = ends.stream().await;
        send(&mut near, b"x").await;
        soon(near.close()).await.unwrap();
        assert_eq!(receive(&mut far, 1).await, b"x");
        assert_eq!(soon(far.read(&mut [0; 8])).await.unwrap(), 0);
        for _ in 0..3 {
            for stream in [&mut far, &mut near] {
                soon(stream.close()).await.unwrap();
                soon(stream.flush()).await.unwrap();
            }
            for stream in [&mut far, &mut near] {
                assert_eq!(soon(stream.read(&mut [0; 8])).await.unwrap(), 0);
                let error = soon(stream.write(b"late")).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            }
        }
    }
}

#[tokio::test]
async fn the_rest_is_read_after_closing_the_own_half() {
    for mut ends in Ends::both_ways().await {
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
}

#[tokio::test]
async fn a_request_that_ends_with_its_half_is_answered() {
    for mut ends in Ends::both_ways().await {
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
}

#[tokio::test]
async fn dropping_an_unfinished_stream_resets_the_other_side() {
    for mut ends in Ends::both_ways().await {
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
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert_eq!(writing_fails(&mut far).await, ErrorKind::ConnectionReset);
        }
    }
}

/// libp2p-kad answers a request, reads the end behind it and drops the stream; so muxers like yamux close it then.
#[tokio::test]
async fn dropping_a_stream_that_the_peer_has_ended_closes_it() {
    for mut ends in Ends::both_ways().await {
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
}

#[tokio::test]
async fn dropping_an_ended_stream_with_something_unflushed_or_unread_resets_it() {
    for mut ends in Ends::both_ways().await {
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
            let end = rest(&mut near).await.1;
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
}

/// libp2p's AutoNAT answers a dial-back and drops the stream, which its peer has not ended.
#[tokio::test]
async fn what_was_flushed_before_a_stream_was_dropped_is_read_before_the_reset() {
    for mut ends in Ends::both_ways().await {
        let (mut near, mut far) = ends.stream().await;
        send(&mut near, b"question").await;
        assert_eq!(receive(&mut far, 8).await, b"question");
        send(&mut far, b"answer").await;
        drop(far);
        let (got, end) = rest(&mut near).await;
        assert_eq!(got, b"answer");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn dropping_a_closed_stream_leaves_its_bytes_and_their_end() {
    for mut ends in Ends::both_ways().await {
        let (mut near, mut far) = ends.stream().await;
        soon(near.write_all(&pattern(20_000))).await.unwrap();
        soon(near.close()).await.unwrap();
        drop(near);
        let (got, end) = rest(&mut far).await;
        assert_eq!(end.unwrap(), 20_000);
        assert!(got == pattern(20_000));
        assert_eq!(writing_fails(&mut far).await, ErrorKind::BrokenPipe);
        soon(far.close()).await.unwrap();
    }
}

#[tokio::test]
async fn the_other_side_notices_that_a_connection_was_closed() {
    for mut ends in Ends::both_ways().await {
        let closed = soon(poll_fn(|cx| Pin::new(&mut ends.near).poll_close(cx)));
        // The one who waits comes first, so that it must be woken.
        let (error, closed) = join(end(&mut ends.far, Connection::poll), closed).await;
        closed.unwrap();
        assert!(error.is_remote(), "{error:?}");
        let outbound = end(&mut ends.far, Connection::poll_outbound).await;
        assert_eq!(outbound, error);
        assert!(end(&mut ends.near, Connection::poll).await.is_local());
        // Again, and the first time from the other side.
        join(close(ends.near), close(ends.far)).await;
    }
}

#[tokio::test]
async fn the_other_side_notices_that_a_connection_was_dropped() {
    for mut ends in Ends::both_ways().await {
        let noticed = end(&mut ends.far, Connection::poll_inbound);
        let (error, ()) = join(noticed, async { drop(ends.near) }).await;
        assert!(error.is_remote(), "{error:?}");
    }
}

#[tokio::test]
async fn streams_fail_on_both_sides_after_the_connection_closed() {
    for mut ends in Ends::both_ways().await {
        let (mut near, mut far) = ends.stream().await;
        let closed = close(ends.near);
        let ((_, near_end), (_, far_end), ()) =
            futures::join!(rest(&mut near), rest(&mut far), closed);
        for (stream, end, kind, local) in [
            (&mut near, near_end, ErrorKind::NotConnected, true),
            (&mut far, far_end, ErrorKind::ConnectionReset, false),
        ] {
            let errors = [
                end.unwrap_err(),
                soon(stream.read(&mut [0; 8])).await.unwrap_err(),
                soon(stream.write(b"x")).await.unwrap_err(),
                soon(stream.flush()).await.unwrap_err(),
                soon(stream.close()).await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), kind);
                let reason: &ConnectionError = error.get_ref().unwrap().downcast_ref().unwrap();
                assert_eq!((reason.is_local(), reason.is_remote()), (local, !local));
            }
        }
    }
}

#[tokio::test]
async fn what_was_flushed_is_read_although_the_connection_closed() {
    for mut ends in Ends::both_ways().await {
        let (mut open, mut far_open) = ends.stream().await;
        let (mut closed, mut far_closed) = ends.stream().await;
        send(&mut open, &pattern(LARGE)).await;
        send(&mut closed, &pattern(LARGE)).await;
        soon(closed.close()).await.unwrap();
        let ((got, end), (got_closed, end_closed), ()) =
            futures::join!(rest(&mut far_open), rest(&mut far_closed), close(ends.near));
        assert!(got == pattern(LARGE), "{} bytes", got.len());
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(end_closed.unwrap(), LARGE);
        assert!(got_closed == pattern(LARGE));
        soon(closed.close()).await.unwrap();
    }
}
