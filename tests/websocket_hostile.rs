//! Peers that break the rules of `/ws/webrtc`: each is told, none is waited for, nobody else is concerned.
#![cfg(feature = "gateway")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod websocket_common;
mod websocket_proxy;

use std::{future::poll_fn, net::SocketAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use common::{DIAL, Node, soon};
use futures::{SinkExt as _, StreamExt as _};
use libp2p_core::{Transport as _, transport::TransportEvent};
use libp2p_rtc::{
    socketpipe::{
        Access, Capabilities, Code, Data, Frame, FrameLimits, Gate, HandshakeRequest, IceCandidate,
        Policy, Server, decode_message, encode_message,
        session::ServerConfig,
        websocket::{WebSocketConfig, WebSocketListener},
    },
    websocket::{Config, Error, Transport},
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::frame::{CloseFrame, coding::CloseCode},
    },
};
use websocket_common::{LOOPBACK, calls, node, node_with};
use websocket_proxy::{accept, socket_of, try_websocket, websocket};

const PATH: &str = "/webrtc";
/// Of a browser that waits for our answer.
const OFFER: &str = include_str!("../src/proto/sdp/real/chromium-offer.sdp");

/// A node that takes connections, in a task.
struct Served {
    socket: SocketAddr,
    /// What becomes of each connection that was reported to its swarm.
    results: mpsc::Receiver<Result<(), Error>>,
}

impl Served {
    async fn new(change: impl FnOnce(Config) -> Config) -> Self {
        let mut node = node_with(calls(), change);
        let (_, addr) = node.listen(LOOPBACK).await;
        let (sender, results) = mpsc::channel(8);
        tokio::spawn(serve(node, sender));
        Self {
            socket: socket_of(&addr),
            results,
        }
    }

    /// A node that keeps the rules is served as ever.
    async fn still_serves(mut self) {
        let addr = format!("/ip4/127.0.0.1/tcp/{}/ws/webrtc", self.socket.port());
        let mut honest = node();
        soon(honest.dial(&addr.parse().unwrap(), DIAL))
            .await
            .unwrap();
        soon(async {
            loop {
                if let Ok(()) = self.results.recv().await.unwrap() {
                    return;
                }
            }
        })
        .await;
    }
}

async fn serve(mut node: Node<Transport>, results: mpsc::Sender<Result<(), Error>>) {
    loop {
        let event = poll_fn(|cx| Pin::new(&mut node.transport).poll(cx)).await;
        if let TransportEvent::Incoming { upgrade, .. } = event {
            let results = results.clone();
            tokio::spawn(async move {
                match upgrade.await {
                    Ok((_, mut connection)) => {
                        results.send(Ok(())).await.ok();
                        let muxer = &mut connection;
                        poll_fn(|cx| libp2p_core::StreamMuxer::poll(Pin::new(&mut *muxer), cx))
                            .await
                            .map(drop)
                    }
                    Err(error) => {
                        results.send(Err(error)).await.ok();
                        Ok(())
                    }
                }
            });
        }
    }
}

type Raw = WebSocketStream<TcpStream>;

async fn say(raw: &mut Raw, frame: &Frame) {
    // It may have hung up on us already.
    raw.send(Message::Binary(encode_message(frame).unwrap()))
        .await
        .ok();
}

/// The next frame, or how the WebSocket was closed.
async fn hear(raw: &mut Raw) -> Result<Frame, Option<CloseFrame>> {
    match soon(raw.next()).await {
        Some(Ok(Message::Binary(bytes))) => {
            Ok(decode_message(bytes, &FrameLimits::default()).unwrap())
        }
        Some(Ok(Message::Close(close))) => Err(close),
        Some(Ok(other)) => panic!("{other:?}"),
        Some(Err(_)) | None => Err(None),
    }
}

/// It is told that this is wrong, and then the WebSocket is closed.
async fn assert_refused(raw: &mut Raw, code: Code) -> CloseCode {
    let mut told = None;
    loop {
        match hear(raw).await {
            Ok(Frame::Close(close)) => told = Some(close.code),
            Ok(Frame::WebRtcOffer(_) | Frame::WebRtcAnswer(_) | Frame::IceCandidate(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(close) => {
                assert_eq!(told, Some(code));
                return close.expect("closed in order").code;
            }
        }
    }
}

fn data(bytes: &'static [u8]) -> Data {
    Data {
        bytes: Bytes::from_static(bytes),
        ..Data::default()
    }
}

fn handshake() -> Frame {
    Frame::HandshakeRequest(HandshakeRequest {
        capabilities: Capabilities::NONE,
        major: 1,
        minor: 0,
        port: 0,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: String::new(),
        token: Bytes::new(),
    })
}

fn candidate(number: u32) -> Frame {
    // Loopback is large, and nothing is there.
    let address = std::net::Ipv4Addr::from_bits(0x7f01_0000 + number);
    Frame::IceCandidate(IceCandidate {
        candidate: format!("candidate:1 1 udp 1 {address} 9 typ host"),
        mid: "0".to_owned(),
        index: 0,
    })
}

/// Its sign of life is answered.
async fn assert_alive(raw: &mut Raw) {
    let payload = Bytes::from_static(b"alive?");
    say(raw, &Frame::Ping(payload.clone())).await;
    loop {
        match hear(raw).await.unwrap() {
            Frame::Pong(echoed) => return assert_eq!(echoed, payload),
            Frame::WebRtcAnswer(_) | Frame::IceCandidate(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn messages_that_are_no_frames_end_the_websocket() {
    let served = Served::new(|config| config).await;
    let numbered = encode_message(&Frame::Data(Data {
        number: Some(1),
        ..data(b"x")
    }));
    for (message, code, how) in [
        (
            Message::Binary(Bytes::new()),
            Code::INVALID_MESSAGE,
            CloseCode::Normal,
        ),
        (
            Message::Binary(Bytes::from_static(&[0xff; 300])),
            Code::INVALID_MESSAGE,
            CloseCode::Normal,
        ),
        (
            Message::Text("hello".into()),
            Code::INVALID_MESSAGE,
            CloseCode::Unsupported,
        ),
        (
            Message::Binary(numbered.unwrap()),
            Code::INVALID_STATE,
            CloseCode::Normal,
        ),
    ] {
        let mut raw = websocket(served.socket).await;
        let length = message.len();
        // It may have hung up before all of it was written.
        raw.send(message).await.ok();
        assert_eq!(assert_refused(&mut raw, code).await, how, "{length} bytes");
    }
    served.still_serves().await;
}

/// It is not even read, so it may be that the peer does not hear why.
#[tokio::test]
async fn a_huge_message_ends_the_websocket_before_it_is_there() {
    let served = Served::new(|config| config).await;
    let mut raw = websocket(served.socket).await;
    let huge = Message::Binary(vec![0; 64 * 1024 * 1024].into());
    soon(raw.send(huge)).await.unwrap_err();
    served.still_serves().await;
}

#[tokio::test]
async fn data_above_the_limit_of_the_configuration_ends_the_websocket() {
    let served = Served::new(|config| config.with_max_message(32_768)).await;
    let mut raw = websocket(served.socket).await;
    say(&mut raw, &Frame::Data(data(&[0; 40_000]))).await;
    assert_refused(&mut raw, Code::MESSAGE_TOO_LARGE).await;
}

#[tokio::test]
async fn frames_that_only_others_send_end_the_websocket() {
    let served = Served::new(|config| config).await;
    for frame in [Frame::WebRtcAnswer("to nothing".to_owned()), handshake()] {
        let mut raw = websocket(served.socket).await;
        say(&mut raw, &frame).await;
        assert_refused(&mut raw, Code::INVALID_STATE).await;
    }
    served.still_serves().await;
}

#[tokio::test]
async fn bytes_that_are_no_handshake_come_to_nothing() {
    let mut served = Served::new(|config| config).await;
    let mut raw = websocket(served.socket).await;
    say(&mut raw, &Frame::Data(data(b"\x05nope\n"))).await;
    let error = soon(served.results.recv()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Negotiation(_) | Error::Connection(_)),
        "{error:?}"
    );
    while hear(&mut raw).await.is_ok() {}
    served.still_serves().await;
}

/// Each is answered, so the flood is as fast as its sender reads.
#[tokio::test]
async fn a_flood_of_offers_is_refused_one_by_one() {
    const OFFERS: usize = 500;
    let served = Served::new(|config| config).await;
    let raw = websocket(served.socket).await;
    let (mut to, mut from) = raw.split();
    let flood = async {
        for _ in 0..OFFERS {
            let offer = Frame::WebRtcOffer("v=0\r\n".repeat(100));
            let message = Message::Binary(encode_message(&offer).unwrap());
            to.send(message).await.unwrap();
        }
    };
    let answers = async {
        for _ in 0..OFFERS {
            let message = soon(from.next()).await.unwrap().unwrap();
            let frame = decode_message(message.into_data(), &FrameLimits::default());
            assert_eq!(frame.unwrap(), Frame::WebRtcAnswer(String::new()));
        }
    };
    futures::join!(flood, answers);
    served.still_serves().await;
}

/// What becomes of an offer: whether it is answered with a description.
async fn offer(raw: &mut Raw) -> bool {
    say(raw, &Frame::WebRtcOffer(OFFER.to_owned())).await;
    loop {
        match hear(raw).await {
            Ok(Frame::WebRtcAnswer(sdp)) => return !sdp.is_empty(),
            Ok(_) => {}
            Err(close) => panic!("{close:?}"),
        }
    }
}

/// Who has many WebSockets has not as many calls; they are free again as soon as their WebSocket is gone.
#[tokio::test]
async fn one_address_has_so_many_calls_that_are_being_made() {
    let served = Served::new(|config| config.with_max_new_calls_per_address(2)).await;
    let mut held = Vec::new();
    for expected in [true, true, false] {
        let mut raw = websocket(served.socket).await;
        assert_eq!(offer(&mut raw).await, expected);
        held.push(raw);
    }
    // What is refused goes on without WebRTC.
    assert_alive(&mut held[2]).await;
    held.remove(0);
    let again = async {
        loop {
            let mut raw = websocket(served.socket).await;
            if offer(&mut raw).await {
                return;
            }
        }
    };
    soon(again).await;
    served.still_serves().await;
}

/// An offer may name the address of somebody else, who is left in peace when nobody stands by the offer.
#[tokio::test]
async fn who_hangs_up_has_nobody_checked_any_more() {
    // A check is repeated after three seconds at the latest.
    const SILENCE: Duration = Duration::from_secs(4);
    let victim = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = victim.local_addr().unwrap().to_string().replace(':', " ");
    let name = "ae76af84-a5a1-422c-881a-882504701ae2.local 38926";
    let served = Served::new(|config| config).await;
    let mut raw = websocket(served.socket).await;
    let offer = OFFER.replace(name, &address);
    say(&mut raw, &Frame::WebRtcOffer(offer)).await;
    let mut check = [0; 1024];
    soon(victim.recv_from(&mut check)).await.unwrap();
    drop(raw);
    let left_in_peace = async {
        while let Ok(received) = timeout(SILENCE, victim.recv_from(&mut check)).await {
            received.unwrap();
        }
    };
    let in_time = timeout(SILENCE + Duration::from_secs(2), left_in_peace).await;
    in_time.expect("it is checked on and on");
    served.still_serves().await;
}

/// What is not read is not answered any more, and then nothing is read: the kernel's buffers fill, and that is all.
#[tokio::test]
async fn who_asks_and_does_not_listen_is_not_heard_any_more() {
    const FAR_TOO_MANY: usize = 1_000_000;
    let served = Served::new(|config| config).await;
    let mut raw = websocket(served.socket).await;
    let ping = encode_message(&Frame::Ping(vec![7; 1000].into())).unwrap();
    let mut sent = 0;
    while sent < FAR_TOO_MANY {
        let sending = raw.send(Message::Binary(ping.clone()));
        if timeout(Duration::from_secs(1), sending).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < FAR_TOO_MANY, "everything was read");
    served.still_serves().await;
}

/// Of a call that is on its way, all to different places. How many count, tests inside the crate know.
#[tokio::test]
async fn a_call_with_candidates_without_end_costs_no_websocket() {
    let served = Served::new(|config| config).await;
    let mut raw = websocket(served.socket).await;
    let lines = OFFER.lines().filter(|line| !line.contains("candidate"));
    let offer = lines.map(|line| format!("{line}\r\n")).collect();
    say(&mut raw, &Frame::WebRtcOffer(offer)).await;
    let answer = hear(&mut raw).await.unwrap();
    assert!(
        matches!(&answer, Frame::WebRtcAnswer(sdp) if !sdp.is_empty()),
        "{answer:?}"
    );
    for number in 0..20_000 {
        let message = encode_message(&candidate(number)).unwrap();
        soon(raw.send(Message::Binary(message))).await.unwrap();
    }
    assert_alive(&mut raw).await;
    served.still_serves().await;
}

/// Who opens WebSockets and says nothing has them for the time of a set-up.
#[tokio::test]
async fn silence_ends_with_the_time_for_the_set_up() {
    let limit = |config: Config| config.with_handshake_timeout(Duration::from_millis(300));
    let served = Served::new(limit).await;
    let mut raw = websocket(served.socket).await;
    assert!(hear(&mut raw).await.is_err());
    served.still_serves().await;
}

/// Nobody fills the room of a listener from one address, and it is free again at once.
#[tokio::test]
async fn one_address_has_half_of_the_room() {
    let served = Served::new(|config| config.with_max_connections(4)).await;
    let mut held = [
        websocket(served.socket).await,
        websocket(served.socket).await,
    ];
    for raw in &mut held {
        assert_alive(raw).await;
    }
    let mut third = TcpStream::connect(served.socket).await.unwrap();
    let mut byte = [0];
    let ended = tokio::io::AsyncReadExt::read(&mut third, &mut byte);
    assert!(
        matches!(soon(ended).await, Ok(0) | Err(_)),
        "it is closed without a word"
    );
    drop(held);
    let mut again = [open(served.socket).await, open(served.socket).await];
    for raw in &mut again {
        assert_alive(raw).await;
    }
}

/// A WebSocket, as soon as there is room for one.
async fn open(to: SocketAddr) -> Raw {
    soon(async {
        loop {
            if let Ok(raw) = try_websocket(to, PATH).await {
                return raw;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// A node on the port of a server with room for so many, and room of its own for so many.
async fn shared_port(server: usize, node: usize) -> SocketAddr {
    let gate = Gate::new(Access::new(Policy::Peers, Policy::Peers));
    let mut config = WebSocketConfig::default();
    config.max_connections = server;
    let sessions = Server::new(ServerConfig::default(), gate);
    let listener = WebSocketListener::bind(config, sessions).await.unwrap();
    let socket = listener.local_addr();
    let mut node = node_with(calls(), |config| config.with_max_connections(node));
    let acceptor = node.transport.acceptor(socket, false);
    tokio::spawn(listener.with_libp2p(acceptor).run());
    node.listen(&format!("/ip4/127.0.0.1/tcp/{}/ws/webrtc", socket.port()))
        .await;
    // Nobody is asked who it is.
    tokio::spawn(serve(node, mpsc::channel(8).0));
    socket
}

#[tokio::test]
async fn strangers_on_a_shared_port_take_no_places_of_the_other_guests() {
    let socket = shared_port(4, 100).await;
    let mut strangers = Vec::new();
    for _ in 0..8 {
        strangers.push(open(socket).await);
    }
    soon(async {
        while try_websocket(socket, "/tunnel").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // All are still there: none made room for the guest.
    for raw in &mut strangers {
        assert_alive(raw).await;
    }
}

#[tokio::test]
async fn on_a_shared_port_one_address_has_half_of_the_room_of_the_node() {
    let socket = shared_port(100, 4).await;
    let held = [websocket(socket).await, websocket(socket).await];
    let refused = try_websocket(socket, PATH).await.unwrap_err();
    let tungstenite::Error::Http(answer) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(answer.status(), 503);
    drop(held);
    open(socket).await;
}

/// A server that opens the WebSocket, waits for the offer or not, and then says this.
async fn server_that(waits: bool, messages: Vec<Message>) -> libp2p_core::Multiaddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut raw = accept(stream).await.unwrap();
        if waits {
            raw.next().await.unwrap().unwrap();
        }
        for message in messages {
            raw.send(message).await.ok();
        }
        while let Some(Ok(_)) = raw.next().await {}
    });
    format!("/ip4/127.0.0.1/tcp/{port}/ws/webrtc")
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_server_that_breaks_the_rules_ends_the_dial() {
    let frame = |frame: &Frame| Message::Binary(encode_message(frame).unwrap());
    for (messages, misbehaved, waits) in [
        (vec![Message::Text("hello".into())], true, false),
        (vec![Message::Binary(vec![0; 200_000].into())], true, false),
        (vec![frame(&Frame::Data(data(b"first")))], true, true),
        (
            vec![frame(&Frame::WebRtcOffer("v=0\r\n".to_owned()))],
            true,
            false,
        ),
        (vec![frame(&handshake())], true, true),
        (
            vec![frame(&Frame::WebRtcAnswer(String::new()))],
            true,
            false,
        ),
        (
            vec![frame(&Frame::WebRtcAnswer(String::new())); 2],
            true,
            true,
        ),
        (vec![Message::Close(None)], false, true),
    ] {
        let shown = format!("{messages:?}").chars().take(80).collect::<String>();
        let addr = server_that(waits, messages).await;
        let Err(error) = soon(node().dial(&addr, DIAL)).await else {
            panic!("{shown}: connected");
        };
        let Error::Connection(reason) = &error else {
            panic!("{shown}: {error:?}");
        };
        assert_eq!(reason.is_misbehaviour(), misbehaved, "{shown}: {reason}");
    }
}

/// An answer nobody can use is no reason to give the peer up: it may be of a version to come.
#[tokio::test]
async fn an_answer_that_cannot_be_used_leads_to_the_plain_websocket() {
    let answer = Frame::WebRtcAnswer("v=0\r\nnonsense".to_owned());
    let answer = Message::Binary(encode_message(&answer).unwrap());
    let addr = server_that(true, vec![answer]).await;
    let mut dialer = node_with(calls(), |config| {
        config.with_handshake_timeout(Duration::from_millis(500))
    });
    let error = soon(dialer.dial(&addr, DIAL)).await.map(drop).unwrap_err();
    let waits_there = libp2p_rtc::websocket::Phase::WebSocket;
    assert!(
        matches!(error, Error::TimedOut { phase } if phase == waits_there),
        "{error:?}"
    );
}
