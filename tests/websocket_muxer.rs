//! What libp2p expects of every stream muxer, on both lanes of a connection by `/ws/webrtc`.
#![cfg(feature = "websocket")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod muxer_cases;
mod websocket_common;

use std::any::Any;

use common::{DIAL, Node, complete};
use libp2p_rtc::websocket::{Connection, ConnectionError, Stream, Transport};
use muxer_cases::{Cases, Form};
use websocket_common::{LOOPBACK, node, node_without_webrtc};

type Ends = (Connection, Connection, Box<dyn Any + Send>);

async fn connect(mut listener: Node<Transport>, mut dialer: Node<Transport>) -> Ends {
    let (_, addr) = listener.listen(LOOPBACK).await;
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    let (near, far) = (pair.dialer.unwrap().1, pair.listener.unwrap().1);
    (near, far, Box::new([listener, dialer]))
}

fn blames(error: &ConnectionError) -> (bool, bool) {
    (error.is_remote(), error.is_local())
}

struct OverWebRtc;

impl Form for OverWebRtc {
    type Muxer = Connection;
    type Stream = Stream;
    type Error = ConnectionError;
}

impl Cases for OverWebRtc {
    const TELLS: bool = true;

    async fn pair() -> Ends {
        connect(node(), node()).await
    }

    fn blames(error: &ConnectionError) -> (bool, bool) {
        blames(error)
    }
}

struct OverWebSocket;

impl Form for OverWebSocket {
    type Muxer = Connection;
    type Stream = Stream;
    type Error = ConnectionError;
}

impl Cases for OverWebSocket {
    const TELLS: bool = false;

    async fn pair() -> Ends {
        connect(node_without_webrtc(), node()).await
    }

    fn blames(error: &ConnectionError) -> (bool, bool) {
        blames(error)
    }
}

mod over_webrtc {
    crate::muxer_cases!(super::OverWebRtc);
}

mod over_websocket {
    crate::muxer_cases!(super::OverWebSocket);
}
