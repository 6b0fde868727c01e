//! Connections by `/ws/webrtc` over loopback: both lanes, changes between them, what goes wrong.
#![cfg(feature = "gateway")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[expect(dead_code, reason = "the tests of calls use the rest")]
#[path = "../src/transport/call/tests/coturn.rs"]
mod coturn;
mod muxer_cases;
mod websocket_common;
mod websocket_proxy;

use std::time::Duration;

use common::{DIAL, Node, complete, soon, soon as within};
use coturn::{Coturn, Way};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::join};
use libp2p_core::Multiaddr;
use libp2p_rtc::{
    IceServer,
    socketpipe::Frame,
    websocket::{Config, Connection, ConnectionError, Path, Paths, Stream, Transport},
};
use muxer_cases::{End, Form};
use websocket_common::{LOOPBACK, calls, node, node_with, node_without_webrtc};
use websocket_proxy::Proxy;

/// More news than a TURN server has for a test.
const ROOM: usize = 256;
const MIB: usize = 1 << 20;

/// Both lanes, whichever there are.
struct Either;

impl Form for Either {
    type Muxer = Connection;
    type Stream = Stream;
    type Error = ConnectionError;
}

/// Both ends of a connection, polled by tasks.
struct Connected {
    near: End<Either>,
    far: End<Either>,
    /// How it goes, as the dialer says.
    paths: Paths,
    _nodes: [Node<Transport>; 2],
}

/// Impatient.
fn quick(config: Config) -> Config {
    config
        .with_fallback_after(Duration::from_millis(300))
        .with_webrtc_timeout(Duration::from_secs(1))
        .with_retry_after(Duration::from_millis(300))
}

impl Connected {
    async fn over(
        addr: &Multiaddr,
        mut dialer: Node<Transport>,
        mut listener: Node<Transport>,
    ) -> Self {
        let paths = dialer.transport.paths();
        let expected = [dialer.peer, listener.peer];
        let pair = complete(dialer.dial(addr, DIAL), &mut listener).await;
        let ((far_peer, near), (near_peer, far)) = (pair.dialer.unwrap(), pair.listener.unwrap());
        assert_eq!([near_peer, far_peer], expected);
        Self {
            near: End::new(near),
            far: End::new(far),
            paths,
            _nodes: [dialer, listener],
        }
    }

    /// Waits until it goes this way.
    async fn goes(&mut self, wanted: impl Fn(Path) -> bool) {
        soon(async {
            while !self.paths.all().iter().any(|known| wanted(known.path)) {
                self.paths.changed().await;
            }
        })
        .await;
    }

    /// Both ends of a new stream, by WebRTC or not.
    async fn stream(&mut self, webrtc: bool) -> [Stream; 2] {
        let mut near = self.near.open().await;
        assert_eq!(near.is_webrtc(), webrtc);
        near.write_all(b"!").await.unwrap();
        near.flush().await.unwrap();
        let mut far = self.far.accept().await;
        assert_eq!(far.is_webrtc(), webrtc);
        soon(far.read_exact(&mut [0])).await.unwrap();
        [near, far]
    }
}

/// Sends something through a stream in both directions.
async fn exchange([near, far]: &mut [Stream; 2]) {
    pass(near, far).await;
    pass(far, near).await;
}

async fn pass(from: &mut Stream, to: &mut Stream) {
    from.write_all(b"to and fro").await.unwrap();
    from.flush().await.unwrap();
    let mut got = [0; 10];
    soon(to.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"to and fro");
}

fn is_webrtc(path: Path) -> bool {
    matches!(path, Path::WebRtc { .. })
}

#[tokio::test]
async fn a_connection_goes_by_webrtc_where_it_can() {
    let (mut listener, dialer) = (node(), node());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let mut connected = Connected::over(&addr, dialer, listener).await;
    connected.goes(is_webrtc).await;
    exchange(&mut connected.stream(true).await).await;
    let all = connected.paths.all();
    assert_eq!((all.len(), &all[0].address), (1, &addr));
    let Path::WebRtc { remote, relayed } = all[0].path else {
        panic!("{:?}", all[0]);
    };
    assert!(remote.ip().is_loopback() && !relayed);
    drop(connected.near);
    soon(connected.far.ended()).await;
}

#[tokio::test]
async fn a_peer_without_webrtc_is_reached_over_the_websocket_at_once() {
    let (mut listener, dialer) = (node_without_webrtc(), node());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let mut connected = Connected::over(&addr, dialer, listener).await;
    connected.goes(|path| path == Path::WebSocket).await;
    exchange(&mut connected.stream(false).await).await;
}

/// UDP is dropped in silence, so nothing but time tells that WebRTC does not come up.
#[tokio::test]
async fn without_udp_the_same_dial_goes_on_over_the_websocket_and_is_upgraded_when_udp_appears() {
    let mut listener = node_with(calls(), quick);
    let dialer = node_with(calls(), quick);
    let (_, addr) = listener.listen(LOOPBACK).await;
    let proxy = Proxy::new(&addr).await;
    proxy.set_udp(false);
    let mut connected = Connected::over(&proxy.addr, dialer, listener).await;
    let mut old = connected.stream(false).await;
    exchange(&mut old).await;
    proxy.set_udp(true);
    connected.goes(is_webrtc).await;
    exchange(&mut connected.stream(true).await).await;
    exchange(&mut old).await;
    drop(old);
    exchange(&mut connected.stream(true).await).await;
}

#[tokio::test]
async fn a_cut_path_is_restarted_and_its_streams_go_on() {
    let slow = |config: Config| config.with_webrtc_timeout(Duration::from_secs(60));
    let (mut listener, dialer) = (node_with(calls(), slow), node_with(calls(), slow));
    let (_, addr) = listener.listen(LOOPBACK).await;
    let proxy = Proxy::new(&addr).await;
    let mut connected = Connected::over(&proxy.addr, dialer, listener).await;
    connected.goes(is_webrtc).await;
    let mut old = connected.stream(true).await;
    assert_eq!(proxy.offers(), 1);
    proxy.set_udp(false);
    connected.goes(|path| path == Path::WebSocket).await;
    let mut meanwhile = connected.stream(false).await;
    exchange(&mut meanwhile).await;
    proxy.set_udp(true);
    connected.goes(is_webrtc).await;
    assert_eq!(proxy.offers(), 2, "one restart");
    exchange(&mut old).await;
    exchange(&mut connected.stream(true).await).await;
    exchange(&mut meanwhile).await;
}

#[tokio::test]
async fn streams_of_a_path_that_does_not_come_back_fail_and_new_ones_go_over_the_websocket() {
    let (mut listener, dialer) = (node_with(calls(), quick), node_with(calls(), quick));
    let (_, addr) = listener.listen(LOOPBACK).await;
    let proxy = Proxy::new(&addr).await;
    let mut connected = Connected::over(&proxy.addr, dialer, listener).await;
    connected.goes(is_webrtc).await;
    let [mut near, _far] = connected.stream(true).await;
    proxy.set_udp(false);
    soon(near.read(&mut [0])).await.unwrap_err();
    exchange(&mut connected.stream(false).await).await;
    // A call anew.
    proxy.set_udp(true);
    connected.goes(is_webrtc).await;
    exchange(&mut connected.stream(true).await).await;
    assert!(proxy.offers() >= 3, "first, restart, anew");
}

#[tokio::test]
async fn a_connection_outlives_its_websocket_until_webrtc_ends_too() {
    let (mut listener, dialer) = (node(), node());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let proxy = Proxy::new(&addr).await;
    let mut connected = Connected::over(&proxy.addr, dialer, listener).await;
    connected.goes(is_webrtc).await;
    let mut old = connected.stream(true).await;
    proxy.cut_websockets();
    exchange(&mut old).await;
    exchange(&mut connected.stream(true).await).await;
    proxy.set_udp(false);
    let error = connected.near.ended().await;
    assert!(!error.is_local() && !error.is_remote(), "{error:?}");
    connected.far.ended().await;
    let Connected {
        near, mut paths, ..
    } = connected;
    drop(near);
    soon(async {
        while !paths.all().is_empty() {
            paths.changed().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_over_the_websocket_ends_with_it() {
    let (mut listener, dialer) = (node_without_webrtc(), node());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let proxy = Proxy::new(&addr).await;
    let mut connected = Connected::over(&proxy.addr, dialer, listener).await;
    let [mut near, mut far] = connected.stream(false).await;
    proxy.cut_websockets();
    for end in [&connected.near, &connected.far] {
        let error = end.ended().await;
        assert!(error.to_string().contains("lost"), "{error}");
    }
    for stream in [&mut near, &mut far] {
        soon(async {
            while stream.write_all(b"x").await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Whoever changes the fingerprint without being at the other end of DTLS gets nowhere at all: a test inside the crate
/// has somebody who is.
#[tokio::test]
async fn a_server_that_changes_fingerprints_gets_no_webrtc() {
    let (mut listener, dialer) = (node_with(calls(), quick), node_with(calls(), quick));
    let (_, addr) = listener.listen(LOOPBACK).await;
    let proxy = Proxy::new(&addr).await;
    proxy.set_change(|frame| {
        Some(match frame {
            Frame::WebRtcOffer(sdp) => Frame::WebRtcOffer(with_other_fingerprint(&sdp)),
            Frame::WebRtcAnswer(sdp) => Frame::WebRtcAnswer(with_other_fingerprint(&sdp)),
            other => other,
        })
    });
    let mut connected = Connected::over(&proxy.addr, dialer, listener).await;
    soon(async {
        while proxy.offers() < 3 {
            exchange(&mut connected.stream(false).await).await;
        }
    })
    .await;
    assert_eq!(connected.paths.all()[0].path, Path::WebSocket);
    proxy.set_change(Some);
    connected.goes(is_webrtc).await;
}

/// The first digit of the fingerprint is another one.
fn with_other_fingerprint(sdp: &str) -> String {
    let (before, after) = sdp.split_once("a=fingerprint:sha-256 ").unwrap();
    let other = if after.starts_with('0') { '1' } else { '0' };
    format!("{before}a=fingerprint:sha-256 {other}{}", &after[1..])
}

/// As a node whose peer never answers an offer: the plain lane, and no second offer.
#[tokio::test]
async fn an_offer_without_an_answer_costs_no_connection() {
    let (unanswered, mut connected) = quick_pair(|proxy| {
        proxy.set_change(|frame| match frame {
            Frame::WebRtcAnswer(_) => None,
            other => Some(other),
        });
    })
    .await;
    // Begun later: when it has offered three times, the time for a second offer of the first has passed long ago.
    let (answered, mut other) = quick_pair(|proxy| proxy.set_udp(false)).await;
    soon(async {
        while answered.offers() < 3 {
            exchange(&mut connected.stream(false).await).await;
            exchange(&mut other.stream(false).await).await;
        }
    })
    .await;
    assert_eq!(unanswered.offers(), 1);
}

/// Two impatient nodes, connected by a proxy that is as this says.
async fn quick_pair(set: impl FnOnce(&Proxy)) -> (Proxy, Connected) {
    let (mut listener, dialer) = (node_with(calls(), quick), node_with(calls(), quick));
    let (_, addr) = listener.listen(LOOPBACK).await;
    let proxy = Proxy::new(&addr).await;
    set(&proxy);
    let connected = Connected::over(&proxy.addr, dialer, listener).await;
    (proxy, connected)
}

/// The dialer sends to the server only, which passes on what the listener is to have.
#[tokio::test]
async fn what_a_turn_server_relays_arrives_unharmed() {
    const MEBIBYTES: u64 = 64;
    let Some(mut coturn) = Coturn::start().await else {
        return;
    };
    let by_the_server = calls()
        .with_relay_only(true)
        .with_servers(vec![coturn.server(Way::Udp)]);
    let (mut listener, dialer) = (node(), node_with(by_the_server, |config| config));
    let (_, addr) = listener.listen(LOOPBACK).await;
    let mut connected = Connected::over(&addr, dialer, listener).await;
    let is_relayed = |path| matches!(path, Path::WebRtc { relayed: true, .. });
    connected.goes(is_relayed).await;
    let [mut near, mut far] = connected.stream(true).await;
    let sending = async {
        for number in 0..MEBIBYTES {
            soon(near.write_all(&mebibyte(number))).await.unwrap();
        }
        soon(near.close()).await.unwrap();
        let mut answer = vec![0; MIB];
        soon(near.read_exact(&mut answer)).await.unwrap();
        assert!(answer == mebibyte(MEBIBYTES));
    };
    let receiving = async {
        let mut got = vec![0; MIB];
        for number in 0..MEBIBYTES {
            soon(far.read_exact(&mut got)).await.unwrap();
            assert!(got == mebibyte(number), "number {number} is another one");
        }
        assert_eq!(soon(far.read(&mut got)).await.unwrap(), 0);
        soon(far.write_all(&mebibyte(MEBIBYTES))).await.unwrap();
        soon(far.close()).await.unwrap();
    };
    join(sending, receiving).await;
    let paths = connected.paths.all();
    assert!(
        paths.iter().all(|known| is_relayed(known.path)),
        "{paths:?}"
    );
    drop((near, far, connected));
    coturn.given_back().await;
}

/// Bytes that are those of no other number.
fn mebibyte(number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MIB);
    let mut state = number + 1;
    while bytes.len() < MIB {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
