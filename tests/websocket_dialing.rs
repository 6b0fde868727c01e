//! Dials by `/ws/webrtc` that fail, each with its own error; TLS; what is left of a dial that is dropped.
#![cfg(feature = "gateway")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod websocket_common;
mod websocket_proxy;

use std::{
    error::Error as _, future::poll_fn, net::SocketAddr, path::PathBuf, pin::Pin, task::Poll,
    time::Duration,
};

use common::{DIAL, DIAL_AS_LISTENER, Node, complete, soon};
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use libp2p_core::{
    Multiaddr, StreamMuxer as _, Transport as _,
    multiaddr::Protocol,
    transport::{TransportError, TransportEvent},
};
use libp2p_identity::PeerId;
use libp2p_rtc::{
    socketpipe::{Close, Code, Frame, FrameLimits, decode_message, encode_message},
    websocket::{Error, Phase, ServerTls, TlsRoots, Transport},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use websocket_common::{LOOPBACK, calls, node, node_with, node_without_webrtc};

/// The address of a TCP socket, as this transport writes it.
fn addr_of(socket: SocketAddr) -> Multiaddr {
    format!("/ip4/{}/tcp/{}/ws/webrtc", socket.ip(), socket.port())
        .parse()
        .unwrap()
}

async fn failure(dialer: &mut Node<Transport>, addr: &Multiaddr) -> Error {
    match soon(dialer.dial(addr, DIAL)).await {
        Ok((peer, _)) => panic!("connected to {peer}"),
        Err(error) => error,
    }
}

/// A server that does this with each connection.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Multiaddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = addr_of(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    addr
}

fn hasty() -> Node<Transport> {
    node_with(calls(), |config| {
        config
            .with_handshake_timeout(Duration::from_millis(400))
            .with_fallback_after(Duration::from_millis(100))
    })
}

#[tokio::test]
async fn addresses_nobody_can_answer_on_are_refused_at_once() {
    let mut node = node();
    for (addr, expected) in [
        ("/ip4/0.0.0.0/tcp/1/ws/webrtc", "unspecified"),
        ("/ip4/127.0.0.1/tcp/0/ws/webrtc", "port zero"),
        ("/ip6/fe80::1/tcp/1/ws/webrtc", "scope"),
        ("/dns/a@b/tcp/1/ws/webrtc", "name"),
    ] {
        let TransportError::Other(error) = node.refused(addr, DIAL) else {
            panic!("{addr} is taken for another transport's");
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
    for (addr, opts) in [
        ("/ip4/127.0.0.1/tcp/1/ws", DIAL),
        ("/ip4/127.0.0.1/udp/1/webrtc-direct", DIAL),
        ("/ip4/127.0.0.1/tcp/1/ws/webrtc", DIAL_AS_LISTENER),
    ] {
        let error = node.refused(addr, opts);
        assert!(
            matches!(error, TransportError::MultiaddrNotSupported(_)),
            "{addr}"
        );
    }
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_told_from_other_failures() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = addr_of(free.local_addr().unwrap());
    drop(free);
    let mut node = node();
    let error = failure(&mut node, &addr).await;
    assert!(matches!(error, Error::Refused), "{error:?}");
    let unknown = "/dns/no-such-host.invalid/tcp/1/ws/webrtc".parse().unwrap();
    let error = failure(&mut node, &unknown).await;
    assert!(matches!(error, Error::Resolve(_)), "{error:?}");
    let other_family = "/dns6/127.0.0.1/tcp/1/ws/webrtc"
        .to_owned()
        .parse()
        .unwrap();
    let error = failure(&mut node, &other_family).await;
    assert!(matches!(error, Error::Resolve(_)), "{error:?}");
}

#[tokio::test]
async fn a_web_server_answers_with_its_status() {
    let addr = server(|mut stream| async move {
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 8\r\n\r\nnothing\x07";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let error = failure(&mut node(), &addr).await;
    let Error::Http { status, text } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (*status, text.as_str()),
        (404, "nothing"),
        "without control characters"
    );
    assert_eq!(
        error.to_string(),
        "the server answers with HTTP status 404: nothing"
    );
    let addr = server(|mut stream| async move {
        stream.write_all(b"SSH-2.0-x\r\n\r\n").await.unwrap();
    })
    .await;
    let error = failure(&mut node(), &addr).await;
    assert!(matches!(error, Error::WebSocket(_)), "{error:?}");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn who_is_too_slow_is_told_with_the_step_it_stood_at() {
    // A listener that is never asked for its connections: the system accepts them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = silent.local_addr().unwrap();
    let error = failure(&mut hasty(), &addr_of(socket)).await;
    assert!(
        matches!(error, Error::TimedOut { phase: Phase::Http }),
        "{error:?}"
    );
    let directory = Certificates::new();
    let roots = directory.roots();
    let mut dialer = node_with(calls(), |config| {
        config
            .with_roots(roots)
            .with_handshake_timeout(Duration::from_millis(400))
    });
    let with_tls = format!("/ip4/127.0.0.1/tcp/{}/tls/ws/webrtc", socket.port());
    let error = failure(&mut dialer, &with_tls.parse().unwrap()).await;
    assert!(
        matches!(error, Error::TimedOut { phase: Phase::Tls }),
        "{error:?}"
    );
    // A WebSocket on which nothing is said.
    let addr = server(|stream| async move {
        let _socket = websocket_proxy::accept(stream).await;
        std::future::pending().await
    })
    .await;
    let mut patient = node_with(calls(), |config| {
        config.with_handshake_timeout(Duration::from_millis(400))
    });
    let error = failure(&mut patient, &addr).await;
    assert!(
        matches!(
            error,
            Error::TimedOut {
                phase: Phase::WebRtc
            }
        ),
        "{error:?}"
    );
    let error = failure(&mut hasty(), &addr).await;
    assert!(
        matches!(
            error,
            Error::TimedOut {
                phase: Phase::WebSocket
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_says_goodbye_is_quoted() {
    let addr = server(|stream| async move {
        let mut socket = websocket_proxy::accept(stream).await.unwrap();
        let close = Frame::Close(Close {
            by_client: false,
            code: Code::GOING_AWAY,
            message: "back soon".to_owned(),
        });
        let message = Message::Binary(encode_message(&close).unwrap());
        socket.send(message).await.unwrap();
        while socket.next().await.is_some() {}
    })
    .await;
    let error = failure(&mut node(), &addr).await;
    let Error::Connection(reason) = &error else {
        panic!("{error:?}");
    };
    assert!(
        reason.is_remote() && reason.to_string().contains("back soon"),
        "{reason}"
    );
}

#[tokio::test]
async fn the_wrong_peer_is_refused_on_either_lane() {
    for mut listener in [node(), node_without_webrtc()] {
        let (_, addr) = listener.listen(LOOPBACK).await;
        let expected = PeerId::random();
        let mut dialer = node();
        let dialing = dialer.dial(&addr.with(Protocol::P2p(expected)), DIAL);
        let actual = listener.peer;
        let pair = complete(dialing, &mut listener).await;
        match pair.dialer {
            Err(Error::WrongPeerId {
                expected: wanted,
                actual: found,
            }) => assert_eq!((wanted, found), (expected, actual)),
            Err(error) => panic!("{error:?}"),
            Ok((peer, _)) => panic!("connected to {peer}"),
        }
    }
}

#[tokio::test]
async fn the_right_peer_is_reached_by_an_address_that_names_it() {
    let mut listener = node();
    let (_, addr) = listener.listen(LOOPBACK).await;
    let addr = addr.with(Protocol::P2p(listener.peer));
    let mut dialer = node();
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert_eq!(pair.dialer.unwrap().0, listener.peer);
    assert_eq!(pair.listener.unwrap().0, dialer.peer);
}

/// A certificate for `localhost` and 127.0.0.1, signed by itself.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let this = Self { directory };
        std::fs::write(this.file("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(this.file("key.pem"), made.key_pair.serialize_pem()).unwrap();
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn server(&self) -> ServerTls {
        ServerTls::from_files(&self.file("certificate.pem"), &self.file("key.pem")).unwrap()
    }

    fn roots(&self) -> TlsRoots {
        TlsRoots::File(self.file("certificate.pem"))
    }
}

#[tokio::test]
async fn tls_is_judged_by_the_name_in_the_address() {
    let certificates = Certificates::new();
    let server = certificates.server();
    let mut listener = node_with(calls(), |config| config.with_tls(server));
    let (_, addr) = listener.listen("/ip4/127.0.0.1/tcp/0/tls/ws/webrtc").await;
    let port = websocket_proxy::socket_of(&addr).port();
    let peer = listener.peer;
    let roots = certificates.roots();
    let mut dialer = node_with(calls(), |config| config.with_roots(roots));
    for good in [
        addr.to_string(),
        format!("/dns4/localhost/tcp/{port}/tls/ws/webrtc"),
        format!("/ip4/127.0.0.1/tcp/{port}/tls/sni/localhost/ws/webrtc"),
        format!("/ip4/127.0.0.1/tcp/{port}/wss/webrtc"),
    ] {
        let dialing = dialer.dial(&good.parse().unwrap(), DIAL);
        let pair = complete(dialing, &mut listener).await;
        assert_eq!(pair.dialer.unwrap().0, peer, "{good}");
    }
    let other = format!("/ip4/127.0.0.1/tcp/{port}/tls/sni/other.example/ws/webrtc");
    let error = failure(&mut dialer, &other.parse().unwrap()).await;
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    // Not believed without being told to.
    let others = Certificates::new();
    let strangers = others.roots();
    let mut stranger = node_with(calls(), |config| config.with_roots(strangers));
    let error = failure(&mut stranger, &addr).await;
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    // HTTP with somebody who speaks TLS.
    let plain = addr_of(([127, 0, 0, 1], port).into());
    let error = failure(&mut dialer, &plain).await;
    assert!(matches!(error, Error::WebSocket(_)), "{error:?}");
}

#[tokio::test]
async fn listening_with_tls_needs_a_certificate() {
    let mut node = node();
    let addr = "/ip4/127.0.0.1/tcp/0/tls/ws/webrtc".parse().unwrap();
    let id = libp2p_core::transport::ListenerId::next();
    match node.transport.listen_on(id, addr) {
        Err(TransportError::Other(Error::NoCertificate)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_port_is_free_again_when_its_listener_is_removed() {
    let mut listener = node();
    let (id, addr) = listener.listen(LOOPBACK).await;
    assert!(listener.transport.remove_listener(id));
    assert!(!listener.transport.remove_listener(id));
    let expired = listener.next().await;
    assert!(
        matches!(expired, TransportEvent::AddressExpired { .. }),
        "{expired:?}"
    );
    let closed = listener.next().await;
    assert!(
        matches!(
            closed,
            TransportEvent::ListenerClosed { reason: Ok(()), .. }
        ),
        "{closed:?}"
    );
    let error = soon(async {
        loop {
            match failure(&mut node(), &addr).await {
                // The task that accepts has not ended yet.
                Error::Tcp(_) | Error::WebSocket(_) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    })
    .await;
    assert!(matches!(error, Error::Refused), "{error:?}");
    let (_, again) = listener.listen(&addr.to_string()).await;
    assert_eq!(again, addr);
    let pair = complete(node().dial(&addr, DIAL), &mut listener).await;
    pair.dialer.unwrap();
}

/// The next frame that a peer sends.
async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Option<Frame> {
    match soon(socket.next()).await?.ok()? {
        Message::Binary(bytes) => Some(decode_message(bytes, &FrameLimits::default()).unwrap()),
        _ => None,
    }
}

#[tokio::test]
async fn a_dial_that_is_dropped_leaves_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = addr_of(listener.local_addr().unwrap());
    // One call at a time: what a dropped dial keeps, the next one lacks.
    let mut dialer = node_with(calls().with_max_calls(1), |config| config);
    for _ in 0..3 {
        let mut dialing = dialer.dial(&addr, DIAL);
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = websocket_proxy::accept(stream).await.unwrap();
            let offer = hear(&mut socket).await;
            assert!(matches!(offer, Some(Frame::WebRtcOffer(_))), "{offer:?}");
            socket
        };
        let mut socket = tokio::select! {
            socket = soon(serving) => socket,
            _ = &mut dialing => panic!("nobody answered"),
        };
        drop(dialing);
        // Candidates may be on their way; then the connection ends.
        while hear(&mut socket).await.is_some() {}
        assert!(dialer.transport.paths().all().is_empty());
    }
    let mut far = node();
    let (_, addr) = far.listen(LOOPBACK).await;
    let pair = soon(async {
        loop {
            let pair = complete(dialer.dial(&addr, DIAL), &mut far).await;
            let paths = dialer.transport.paths().all();
            let is_webrtc = |known: &libp2p_rtc::websocket::ConnectionPath| {
                matches!(known.path, libp2p_rtc::websocket::Path::WebRtc { .. })
            };
            if paths.iter().any(is_webrtc) {
                return pair;
            }
            // The driver of the last call may not have heard of its end yet.
            drop(pair);
        }
    })
    .await;
    pair.dialer.unwrap();
}

/// A connection that is up, dropped on one side: the other hears of it, and the sockets are gone.
#[tokio::test]
async fn a_listener_forgets_who_is_gone() {
    let mut listener = node_with(calls(), |config| config.with_max_connections(2));
    let (_, addr) = listener.listen(LOOPBACK).await;
    for _ in 0..6 {
        let mut dialer = node();
        let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
        let (_, near) = pair.dialer.unwrap();
        let (_, mut far) = pair.listener.unwrap();
        drop(near);
        soon(poll_fn(|cx| Pin::new(&mut far).poll(cx)))
            .await
            .unwrap_err();
    }
    assert!(listener.transport.paths().all().is_empty());
    // Half of two: a second connection of the same address waits in vain for a place.
    let mut dialer = node();
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    let held = (pair.dialer.unwrap(), pair.listener.unwrap());
    let error = failure(&mut node(), &addr).await;
    assert!(
        matches!(error, Error::WebSocket(_) | Error::Tcp(_)),
        "{error:?}"
    );
    drop(held);
}

/// As many set-ups may begin as there is room for, and one that nobody takes does not count for ever.
#[tokio::test]
async fn a_set_up_that_is_dropped_ends_the_dial() {
    let mut listener = node();
    let (_, addr) = listener.listen(LOOPBACK).await;
    let mut dialer = node_with(calls(), |config| {
        config.with_fallback_after(Duration::from_millis(100))
    });
    let mut dialing = dialer.dial(&addr, DIAL);
    let incoming = soon(poll_fn(|cx| {
        if let Poll::Ready(result) = dialing.poll_unpin(cx) {
            panic!("nobody proved anything: {:?}", result.map(|_| ()));
        }
        Pin::new(&mut listener.transport).poll(cx)
    }))
    .await;
    assert!(
        matches!(incoming, TransportEvent::Incoming { .. }),
        "{incoming:?}"
    );
    drop(incoming);
    match soon(dialing).await {
        Err(Error::Connection(_)) => {}
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("connected"),
    }
}
