//! One end of a connection on a clock that stands still until nothing else is left to be done, or until it is moved on.

use std::future::poll_fn;

use futures::{SinkExt as _, StreamExt as _};
use libp2p_identity::Keypair;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::*;
use crate::{
    CallConfig, Caller,
    frames::{
        codec::{FrameLimits, decode_message, encode_message},
        frame::Frame,
    },
    websocket::{
        Config, Transport,
        http::messages::{Io, MAX_MESSAGE, Messages, config},
    },
};

/// An end without WebRTC, and the socket of its peer.
async fn lanes(role: Side) -> (Lanes, Socket) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let socket = async |io, side| {
        let io: Io = Box::new(io);
        Messages::new(WebSocketStream::from_raw_socket(io, side, Some(config(MAX_MESSAGE))).await)
    };
    let near = socket(near, Role::Client).await;
    let far = socket(far, Role::Server).await;
    let caller = Caller::new(CallConfig::new().with_max_calls(0));
    let settings = Config::new(&Keypair::generate_ed25519()).with_caller(caller);
    let common = Transport::new(settings).common;
    let report = common.report("/ip4/127.0.0.1/tcp/1/ws/webrtc".parse().unwrap());
    (Lanes::new(common, role, near, None, report, None), far)
}

/// Does what can be done now.
async fn drive(lanes: &mut Lanes) {
    poll_fn(|cx| {
        lanes.drive(cx);
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dialer_that_begins_nothing_is_given_up_in_time() {
    let (mut lanes, mut far) = lanes(Side::Listener).await;
    let start = now();
    poll_fn(|cx| {
        lanes.drive(cx);
        match lanes.end().is_some() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    let waited = now() - start;
    assert!(
        waited < IDLE_TIMEOUT + Duration::from_millis(100),
        "{waited:?}"
    );
    drive(&mut lanes).await;
    let goodbye = far.next().await.unwrap().unwrap();
    let goodbye = decode_message(goodbye, &FrameLimits::default()).unwrap();
    assert!(matches!(goodbye, Frame::Close(_)), "{goodbye:?}");
}

/// As on a machine that was asleep.
#[tokio::test(start_paused = true)]
async fn what_came_in_time_counts_although_it_is_read_late() {
    let (mut lanes, mut far) = lanes(Side::Dialer).await;
    drive(&mut lanes).await;
    // The dialer asks for a sign of life.
    tokio::time::advance(Duration::from_secs(31)).await;
    let payload = loop {
        drive(&mut lanes).await;
        let message = far.next().await.unwrap().unwrap();
        match decode_message(message, &FrameLimits::default()).unwrap() {
            Frame::Ping(payload) => break payload,
            Frame::Close(close) => panic!("{close:?}"),
            _ => {}
        }
    };
    let pong = encode_message(&Frame::Pong(payload)).unwrap();
    far.send(pong).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    drive(&mut lanes).await;
    assert!(lanes.socket_end.is_none(), "{:?}", lanes.socket_end);
    assert!(lanes.has_link());
}

/// What follows from it is not what the caller must hear.
#[tokio::test]
async fn a_call_that_ends_does_not_hide_that_the_wrong_peer_answered() {
    let (mut lanes, _far) = lanes(Side::Dialer).await;
    let [expected, actual] = [(); 2].map(|()| PeerId::random());
    lanes.fail(Error::WrongPeerId { expected, actual });
    lanes.call_closed(now(), CloseReason::TimedOut);
    assert!(lanes.is_wrong());
}
