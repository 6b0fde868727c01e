//! What libp2p expects of every stream muxer, over real sockets.
//!
//! The cases of `muxer_cases` for WebRTC Direct: those of libp2p's test harness for muxers, and what the documentation of
//! `Stream` and `Connection` promises beyond, which error, and which bytes are read before it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod muxer_cases;

use std::{
    any::Any,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use common::{DIAL, LOOPBACK, Node, close, complete, soon};
use futures::future::join;
use libp2p_core::StreamMuxer as _;
use libp2p_rtc::{Connection, ConnectionError, Stream};
use muxer_cases::{Cases, Form};

struct WebRtcDirect;

impl Form for WebRtcDirect {
    type Muxer = Connection;
    type Stream = Stream;
    type Error = ConnectionError;
}

impl Cases for WebRtcDirect {
    const TELLS: bool = true;

    async fn pair() -> (Connection, Connection, Box<dyn Any + Send>) {
        let (mut listener, mut dialer) = (Node::new(), Node::new());
        let (_, addr) = listener.listen(LOOPBACK).await;
        let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
        let (near, far) = (pair.dialer.unwrap().1, pair.listener.unwrap().1);
        (near, far, Box::new([listener, dialer]))
    }

    fn blames(error: &ConnectionError) -> (bool, bool) {
        (error.is_remote(), error.is_local())
    }
}

muxer_cases!(WebRtcDirect);

/// A method of the muxer.
type Ask<T> = fn(Pin<&mut Connection>, &mut Context<'_>) -> Poll<Result<T, ConnectionError>>;

/// Asks the connection until it answers, which must be with the reason of its end.
async fn end<T: std::fmt::Debug>(connection: &mut Connection, ask: Ask<T>) -> ConnectionError {
    soon(poll_fn(|cx| ask(Pin::new(&mut *connection), cx)))
        .await
        .expect_err("nothing else happens on this connection")
}

#[tokio::test]
async fn every_question_is_answered_with_the_reason_of_the_end() {
    let (mut near, mut far, _nodes) = WebRtcDirect::pair().await;
    let closed = soon(poll_fn(|cx| Pin::new(&mut near).poll_close(cx)));
    let (error, closed) = join(end(&mut far, Connection::poll), closed).await;
    closed.unwrap();
    assert!(error.is_remote(), "{error:?}");
    assert_eq!(end(&mut far, Connection::poll_outbound).await, error);
    assert_eq!(end(&mut far, Connection::poll_inbound).await, error);
    assert!(end(&mut near, Connection::poll).await.is_local());
    // Again, and the first time from the other side.
    join(close(near), close(far)).await;
}
