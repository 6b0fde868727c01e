//! Listeners: what they announce, accept, and leave behind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    DIAL, LOOPBACK, Node, accept, becomes_free, close, complete, has_certhash, open, port, soon,
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p_core::{
    Multiaddr, Transport as _,
    multiaddr::Protocol,
    transport::{ListenerId, TransportError, TransportEvent},
};
use libp2p_rtc::{Certificate, Config, Connection, Error, Transport};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

#[tokio::test]
async fn announces_a_concrete_address_with_its_port_and_certhash() {
    let mut node = Node::new();
    let (_, addr) = node.listen(LOOPBACK).await;
    assert_ne!(port(&addr), 0);
    assert!(has_certhash(&addr));
    assert!(node.now().is_none());
}

#[tokio::test]
async fn announces_the_same_certhash_after_a_restart() {
    let keypair = libp2p_identity::Keypair::generate_ed25519();
    let hashes = [0, 1].map(|_| {
        let config = Config::new(&keypair);
        config.certificate().certhash()
    });
    assert_eq!(hashes[0], hashes[1]);
}

#[tokio::test]
async fn announces_every_address_of_a_wildcard() {
    let mut node = Node::new();
    let id = ListenerId::next();
    node.transport
        .listen_on(id, "/ip4/0.0.0.0/udp/0/webrtc-direct".parse().unwrap())
        .unwrap();
    loop {
        let event = node.next().await;
        let TransportEvent::NewAddress { listen_addr, .. } = event else {
            panic!("unexpected {event:?}");
        };
        assert_ne!(port(&listen_addr), 0);
        assert!(has_certhash(&listen_addr));
        match listen_addr.iter().next() {
            Some(Protocol::Ip4(ip)) if ip.is_loopback() => return,
            Some(Protocol::Ip4(ip)) => assert!(!ip.is_unspecified()),
            _ => panic!("unexpected {listen_addr}"),
        }
    }
}

#[tokio::test]
async fn a_wildcard_listener_is_reached_by_loopback() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let id = ListenerId::next();
    listener
        .transport
        .listen_on(id, "/ip4/0.0.0.0/udp/0/webrtc-direct".parse().unwrap())
        .unwrap();
    let addr = loop {
        if let TransportEvent::NewAddress { listen_addr, .. } = listener.next().await
            && listen_addr.to_string().contains("127.0.0.1")
        {
            break listen_addr;
        }
    };
    while listener.now().is_some() {}
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert_eq!(pair.dialer.unwrap().0, listener.peer);
    assert_eq!(pair.listener.unwrap().0, dialer.peer);
}

#[tokio::test]
async fn tells_the_local_address_of_an_incoming_connection() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let dialing = tokio::spawn(dialer.dial(&addr, DIAL));
    let event = listener.next().await;
    let TransportEvent::Incoming { local_addr, .. } = event else {
        panic!("unexpected {event:?}");
    };
    let expected: Multiaddr = format!("/ip4/127.0.0.1/udp/{}/webrtc-direct", port(&addr))
        .parse()
        .unwrap();
    assert_eq!(local_addr, expected);
    dialing.abort();
}

#[tokio::test]
async fn listens_on_both_families_at_one_port() {
    let mut node = Node::new();
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let (_, v4) = node.listen(LOOPBACK).await;
    let v6 = format!("/ip6/::1/udp/{}/webrtc-direct", port(&v4));
    let (_, v6) = node.listen(&v6).await;
    assert_eq!(port(&v4), port(&v6));
}

#[tokio::test]
async fn a_listener_that_fails_leaves_the_others_alone() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let taken = format!("/ip4/127.0.0.1/udp/{}/webrtc-direct", port(&addr));
    let error = listener
        .transport
        .listen_on(ListenerId::next(), taken.parse().unwrap())
        .unwrap_err();
    assert!(
        matches!(error, TransportError::Other(Error::Io(_))),
        "{error:?}"
    );
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert!(pair.dialer.is_ok() && pair.listener.is_ok());
}

#[tokio::test]
async fn leaves_other_addresses_to_other_transports() {
    let mut node = Node::new();
    for addr in [
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/dns4/localhost/udp/0/webrtc-direct",
    ] {
        let error = node
            .transport
            .listen_on(ListenerId::next(), addr.parse().unwrap())
            .unwrap_err();
        assert!(
            matches!(error, TransportError::MultiaddrNotSupported(_)),
            "{addr}: {error:?}"
        );
    }
}

#[tokio::test]
async fn refuses_settings_out_of_range() {
    let mut node = Node::with(|config| config.with_max_streams(0));
    let error = node
        .transport
        .listen_on(ListenerId::next(), LOOPBACK.parse().unwrap())
        .unwrap_err();
    match error {
        TransportError::Other(Error::Config(error)) => assert_eq!(error.setting(), "max_streams"),
        error => panic!("unexpected {error:?}"),
    }
}

#[test]
fn refuses_to_listen_without_a_runtime() {
    let mut node = Node::new();
    let error = node
        .transport
        .listen_on(ListenerId::next(), LOOPBACK.parse().unwrap())
        .unwrap_err();
    assert!(matches!(error, TransportError::Other(Error::NoRuntime)));
}

#[tokio::test]
async fn a_new_listener_wakes_the_task_that_polls() {
    use futures::task::{ArcWake, waker};
    use std::{
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::Context,
    };
    struct Flag(AtomicBool);
    impl ArcWake for Flag {
        fn wake_by_ref(flag: &Arc<Self>) {
            flag.0.store(true, Ordering::SeqCst);
        }
    }
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = waker(Arc::clone(&flag));
    let mut node = Node::new();
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut node.transport).poll(&mut cx).is_pending());
    node.transport
        .listen_on(ListenerId::next(), LOOPBACK.parse().unwrap())
        .unwrap();
    assert!(flag.0.load(Ordering::SeqCst));
}

#[tokio::test]
async fn removing_a_listener_expires_its_address_and_closes_it() {
    let mut node = Node::new();
    let (id, addr) = node.listen(LOOPBACK).await;
    assert!(node.transport.remove_listener(id));
    match node.next().await {
        TransportEvent::AddressExpired {
            listener_id,
            listen_addr,
        } => assert_eq!((listener_id, listen_addr), (id, addr)),
        event => panic!("unexpected {event:?}"),
    }
    match node.next().await {
        TransportEvent::ListenerClosed {
            listener_id,
            reason,
        } => {
            assert_eq!(listener_id, id);
            reason.unwrap();
        }
        event => panic!("unexpected {event:?}"),
    }
    assert!(node.now().is_none());
    assert!(!node.transport.remove_listener(id));
}

#[tokio::test]
async fn dropping_the_transport_gives_its_port_back() {
    let mut node = Node::new();
    let (_, addr) = node.listen(LOOPBACK).await;
    let taken = ("127.0.0.1", port(&addr));
    assert!(std::net::UdpSocket::bind(taken).is_err());
    drop(node);
    becomes_free(taken).await;
}

#[tokio::test]
async fn a_removed_listener_accepts_nobody_and_keeps_its_connections() {
    let (mut listener, mut early, mut late) = (
        Node::new(),
        Node::new(),
        Node::with(|config| config.with_handshake_timeout(Duration::from_millis(500))),
    );
    let (id, addr) = listener.listen(LOOPBACK).await;
    let pair = complete(early.dial(&addr, DIAL), &mut listener).await;
    let (_, dialer) = pair.dialer.unwrap();
    let (_, accepted) = pair.listener.unwrap();

    assert!(listener.transport.remove_listener(id));
    while listener.now().is_some() {}
    let dialing = late.dial(&addr, DIAL);
    let error = listener.quiet_while(dialing).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, Error::TimedOut { .. } | Error::Refused),
        "{error:?}"
    );
    exchange(dialer, accepted).await;
}

#[tokio::test]
async fn a_removed_listener_can_be_listened_on_again_while_its_connections_live() {
    let (mut listener, mut early, mut late) = (Node::new(), Node::new(), Node::new());
    let (id, addr) = listener.listen(LOOPBACK).await;
    let socket = format!("/ip4/127.0.0.1/udp/{}/webrtc-direct", port(&addr));
    let old = complete(early.dial(&addr, DIAL), &mut listener).await;

    for removed in [id, ListenerId::next()] {
        listener.transport.remove_listener(removed);
    }
    // At once, and when the transport has forgotten the listener.
    let again = ListenerId::next();
    listener
        .transport
        .listen_on(again, socket.parse().unwrap())
        .unwrap();
    assert!(listener.transport.remove_listener(again));
    while listener.now().is_some() {}
    let (_, addr_again) = listener.listen(&socket).await;

    assert_eq!(addr_again, addr);
    let new = complete(late.dial(&addr, DIAL), &mut listener).await;
    assert_eq!(new.dialer.as_ref().unwrap().0, listener.peer);
    for pair in [old, new] {
        exchange(pair.dialer.unwrap().1, pair.listener.unwrap().1).await;
    }
    // The socket still ends with its last user.
    drop(listener);
    becomes_free(("127.0.0.1", port(&addr))).await;
}

#[tokio::test]
async fn a_dial_is_remembered_over_the_pause_of_its_listener() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let (id, own) = dialer.listen(LOOPBACK).await;
    let first = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert_eq!(port(&first.source), port(&own));
    dialer.transport.remove_listener(id);
    while dialer.now().is_some() {}
    let socket = format!("/ip4/127.0.0.1/udp/{}/webrtc-direct", port(&own));
    dialer.listen(&socket).await;
    close(first.dialer.unwrap().1).await;
    let second = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert_ne!(port(&second.source), port(&own));
}

#[tokio::test]
async fn a_link_local_address_needs_a_scope() {
    let mut node = Node::new();
    let error = node
        .transport
        .listen_on(
            ListenerId::next(),
            "/ip6/fe80::1/udp/0/webrtc-direct".parse().unwrap(),
        )
        .unwrap_err();
    assert!(
        matches!(error, TransportError::Other(Error::MissingScope)),
        "{error:?}"
    );
}

#[tokio::test]
async fn one_lowered_limit_does_not_need_another() {
    for change in [
        |config: Config| config.with_max_streams(4),
        |config: Config| config.with_max_handshakes(10),
        |config: Config| config.with_max_handshakes(100_000),
        |config: Config| config.with_receive_window(64 * 1024),
        |config: Config| config.with_idle_timeout(Duration::from_secs(8)),
        |config: Config| config.with_max_connection_buffer(32 * 1024),
        |config: Config| config.with_max_send_buffer(4096),
        |config: Config| config.with_fin_ack_timeout(Duration::from_millis(50)),
    ] {
        let (mut listener, mut dialer) = (Node::with(change), Node::new());
        let (_, addr) = listener.listen(LOOPBACK).await;
        let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
        exchange(pair.dialer.unwrap().1, pair.listener.unwrap().1).await;
    }
}

/// What is logged while `act` runs.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            if let Ok(mut log) = self.0.lock() {
                log.extend_from_slice(text);
            }
            Ok(text.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let text = log.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn warns_once_that_the_addresses_of_an_rsa_identity_will_change() {
    let blocks = pem::parse_many(include_str!(
        "../src/transport/certificate/testdata/openssl-rsa.pem"
    ));
    let blocks = blocks.unwrap();
    let key = blocks.iter().find(|block| block.tag() == "PRIVATE KEY");
    let mut key = key.unwrap().contents().to_vec();
    let rsa = libp2p_identity::Keypair::rsa_from_pkcs8(&mut key).unwrap();
    let ed25519 = libp2p_identity::Keypair::generate_ed25519();
    let listen_twice = |config| {
        logged(|| {
            let mut transport = Transport::new(config);
            for _ in 0..2 {
                transport
                    .listen_on(ListenerId::next(), LOOPBACK.parse().unwrap())
                    .unwrap();
            }
        })
    };

    let text = listen_twice(Config::new(&rsa));
    assert_eq!(text.matches("certhash").count(), 1, "{text}");
    let stored = Config::new(&rsa).with_certificate(Certificate::generate());
    assert_eq!(listen_twice(stored), "");
    assert_eq!(listen_twice(Config::new(&ed25519)), "");
}

/// Opens a stream on one end and sends a byte to the other.
async fn exchange(mut dialer: Connection, mut listener: Connection) {
    let send = async {
        let mut stream = open(&mut dialer).await;
        stream.write_all(b"x").await.unwrap();
        stream.close().await.unwrap();
    };
    let receive = async {
        let mut stream = accept(&mut listener).await;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = soon(futures::future::join(send, receive)).await;
    assert_eq!(got, b"x");
    close(dialer).await;
}

#[test]
fn a_listener_whose_socket_nobody_serves_any_more_says_so() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let serving = runtime();
    let mut node = Node::new();
    let (id, addr) = serving.block_on(node.listen(LOOPBACK));
    // What serves the socket ends with its runtime.
    drop(serving);
    runtime().block_on(async {
        let event = node.next().await;
        assert!(
            matches!(&event, TransportEvent::AddressExpired { listen_addr, .. } if *listen_addr == addr),
            "{event:?}"
        );
        let event = node.next().await;
        assert!(
            matches!(&event, TransportEvent::ListenerClosed { listener_id, reason: Err(Error::SocketEnded) } if *listener_id == id),
            "{event:?}"
        );
        let (_, again) = node.listen(LOOPBACK).await;
        assert!(has_certhash(&again));
    });
}
