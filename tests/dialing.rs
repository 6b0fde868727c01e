//! Dials: which socket they leave from, and what each failure is called.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use common::{
    DIAL, DIAL_AS_LISTENER, DIAL_FROM_NEW_PORT, LOOPBACK, Node, becomes_free, complete, port, soon,
    with_certhash_of, with_socket,
};
use libp2p_core::{Multiaddr, multiaddr::Protocol, transport::TransportError};
use libp2p_identity::PeerId;
use libp2p_rtc::{DialMode, Error, Phase};
use tokio::{net::UdpSocket, sync::mpsc};

/// The hash in the golden vector of the derivation; any valid one would do.
const CERTHASH: &str = "uEiDdbi1jsPBhnhh6Ax9kdxY3oEGKcdzYudeMbGmx9CVkkQ";

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let addr = addr.with(Protocol::P2p(listener.peer));
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert_eq!(pair.dialer.unwrap().0, listener.peer);
    assert_eq!(pair.listener.unwrap().0, dialer.peer);
}

#[tokio::test]
async fn every_mode_reaches_a_listener() {
    let mut listener = Node::new();
    let (_, addr) = listener.listen(LOOPBACK).await;
    for mode in [DialMode::Auto, DialMode::V1, DialMode::V2] {
        let mut dialer = Node::with(|config| config.with_dial_mode(mode));
        let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
        assert!(
            pair.dialer.is_ok() && pair.listener.is_ok(),
            "{mode:?}: {:?}",
            pair.dialer.err()
        );
    }
}

#[tokio::test]
async fn leaves_other_addresses_to_other_transports() {
    let mut node = Node::new();
    for addr in [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/127.0.0.1/udp/1/quic-v1",
        "/ip4/127.0.0.1/udp/1/webrtc",
    ] {
        let error = node.refused(addr, DIAL);
        assert!(
            matches!(error, TransportError::MultiaddrNotSupported(_)),
            "{addr}: {error:?}"
        );
    }
}

#[tokio::test]
async fn refuses_an_address_without_certhash() {
    let error = Node::new().refused("/ip4/127.0.0.1/udp/1/webrtc-direct", DIAL);
    assert!(matches!(error, TransportError::Other(Error::NoCerthash)));
}

#[tokio::test]
async fn refuses_an_address_with_unsupported_certhashes_only() {
    let sha2_512 = multihash::Multihash::wrap(0x13, &[7; 64]).unwrap();
    let addr = "/ip4/127.0.0.1/udp/1/webrtc-direct"
        .parse::<Multiaddr>()
        .unwrap()
        .with(Protocol::Certhash(sha2_512));
    let error = Node::new().refused(&addr.to_string(), DIAL);
    assert!(matches!(
        error,
        TransportError::Other(Error::UnsupportedCerthash)
    ));
}

#[tokio::test]
async fn refuses_addresses_that_are_for_listening() {
    let mut node = Node::new();
    let unspecified = format!("/ip4/0.0.0.0/udp/1/webrtc-direct/certhash/{CERTHASH}");
    assert!(matches!(
        node.refused(&unspecified, DIAL),
        TransportError::Other(Error::UnspecifiedAddress)
    ));
    let port_zero = format!("/ip4/127.0.0.1/udp/0/webrtc-direct/certhash/{CERTHASH}");
    assert!(matches!(
        node.refused(&port_zero, DIAL),
        TransportError::Other(Error::ZeroPort)
    ));
}

#[tokio::test]
async fn refuses_settings_out_of_range() {
    let mut node = Node::with(|config| config.with_handshake_timeout(Duration::ZERO));
    let addr = format!("/ip4/127.0.0.1/udp/1/webrtc-direct/certhash/{CERTHASH}");
    match node.refused(&addr, DIAL) {
        TransportError::Other(Error::Config(error)) => {
            assert_eq!(error.setting(), "handshake_timeout");
        }
        error => panic!("unexpected {error:?}"),
    }
}

#[tokio::test]
async fn a_peer_with_another_identity_is_named() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let wanted = PeerId::random();
    let pair = complete(
        dialer.dial(&addr.with(Protocol::P2p(wanted)), DIAL),
        &mut listener,
    )
    .await;
    match pair.dialer.map(|_| ()).unwrap_err() {
        Error::WrongPeerId { expected, actual } => {
            assert_eq!((expected, actual), (wanted, listener.peer));
        }
        error => panic!("unexpected {error:?}"),
    }
}

#[tokio::test]
async fn a_peer_with_another_certificate_is_refused() {
    let (mut listener, mut other, mut dialer) = (Node::new(), Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let (_, other) = other.listen(LOOPBACK).await;
    let wrong = with_certhash_of(&addr, &other);
    let error = dial_error(&mut dialer, &wrong, &mut listener).await;
    assert!(matches!(error, Error::CertificateMismatch), "{error:?}");
}

#[tokio::test]
async fn one_matching_certhash_of_several_is_enough() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let several: Multiaddr = addr
        .to_string()
        .replace("/certhash/", &format!("/certhash/{CERTHASH}/certhash/"))
        .parse()
        .unwrap();
    let pair = complete(dialer.dial(&several, DIAL), &mut listener).await;
    assert!(pair.dialer.is_ok() && pair.listener.is_ok());
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    // Taken and given back: nobody else gets it in between, as a rule.
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = free.local_addr().unwrap();
    drop(free);
    let error = soon(dialer.dial(&with_socket(&addr, socket), DIAL))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, Error::Refused), "{error:?}");
}

#[tokio::test]
async fn a_port_that_keeps_silent_times_out_at_the_address_check() {
    let (mut listener, mut dialer) = (
        Node::new(),
        Node::with(|config| config.with_handshake_timeout(Duration::from_millis(300))),
    );
    let (_, addr) = listener.listen(LOOPBACK).await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = with_socket(&addr, silent.local_addr().unwrap());
    let error = soon(dialer.dial(&addr, DIAL))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(error, Error::TimedOut { phase: Phase::Ice }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_listener_that_never_proves_itself_times_out_in_noise() {
    let (mut listener, mut dialer) = (
        Node::new(),
        Node::with(|config| config.with_handshake_timeout(Duration::from_millis(1000))),
    );
    let (_, addr) = listener.listen(LOOPBACK).await;
    let dialing = dialer.dial(&addr, DIAL);
    let (error, _unpolled) = soon(futures::future::join(dialing, listener.incoming())).await;
    let error = error.map(|_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TimedOut {
                phase: Phase::Noise
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_listener_that_hangs_up_during_set_up_is_reported() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let dialing = dialer.dial(&addr, DIAL);
    let hang_up = async {
        drop(listener.incoming().await);
    };
    let (error, ()) = soon(futures::future::join(dialing, hang_up)).await;
    match error.map(|_| ()).unwrap_err() {
        Error::Connection(reason) => assert!(reason.is_remote(), "{reason:?}"),
        error => panic!("unexpected {error:?}"),
    }
}

#[tokio::test]
async fn auto_mode_starts_with_v2_where_it_worked_before() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let (relay, mut versions) = v2_only_relay(port(&addr)).await;
    let addr = with_socket(&addr, relay);
    for expected in [["v1", "v2"].as_slice(), &["v2"]] {
        let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
        assert!(pair.dialer.is_ok() && pair.listener.is_ok());
        let mut seen = Vec::new();
        while let Ok(version) = versions.try_recv() {
            if !seen.contains(&version) {
                seen.push(version);
            }
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_dial_leaves_from_the_listeners_port() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let (_, own) = dialer.listen(LOOPBACK).await;
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert_eq!(port(&pair.source), port(&own));
}

#[tokio::test]
async fn a_dial_from_a_new_port_does_not() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let (_, own) = dialer.listen(LOOPBACK).await;
    let pair = complete(dialer.dial(&addr, DIAL_FROM_NEW_PORT), &mut listener).await;
    assert_ne!(port(&pair.source), port(&own));
}

#[tokio::test]
async fn dials_to_several_peers_share_one_port() {
    let (mut one, mut two, mut dialer) = (Node::new(), Node::new(), Node::new());
    let (_, addr_one) = one.listen(LOOPBACK).await;
    let (_, addr_two) = two.listen(LOOPBACK).await;
    let first = complete(dialer.dial(&addr_one, DIAL), &mut one).await;
    let second = complete(dialer.dial(&addr_two, DIAL), &mut two).await;
    assert_eq!(port(&first.source), port(&second.source));
    assert!(first.dialer.is_ok() && second.dialer.is_ok());
}

#[tokio::test]
async fn a_socket_that_only_dials_is_given_back_with_its_last_connection() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    let taken = ("0.0.0.0", port(&pair.source));
    assert!(std::net::UdpSocket::bind(taken).is_err());
    drop(pair.dialer);
    becomes_free(taken).await;
}

#[tokio::test]
async fn a_second_dial_to_one_address_leaves_from_a_fresh_port() {
    let (mut listener, mut dialer) = (Node::new(), Node::new());
    let (_, addr) = listener.listen(LOOPBACK).await;
    let (_, own) = dialer.listen(LOOPBACK).await;
    let first = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    let second = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert_eq!(port(&first.source), port(&own));
    assert_ne!(port(&second.source), port(&own));
    assert!(first.dialer.is_ok() && second.dialer.is_ok());
}

#[tokio::test]
async fn a_dial_to_a_connected_dialer_leaves_from_a_fresh_port() {
    // `one` dialed `two` from its listener's port; `two` has a connection to that address already.
    let (mut one, mut two) = (Node::new(), Node::new());
    let (_, addr_one) = one.listen(LOOPBACK).await;
    let (_, addr_two) = two.listen(LOOPBACK).await;
    let first = complete(one.dial(&addr_two, DIAL), &mut two).await;
    assert!(first.dialer.is_ok() && first.listener.is_ok());
    let back = complete(two.dial(&addr_one, DIAL), &mut one).await;
    assert_ne!(port(&back.source), port(&addr_two));
    assert!(back.dialer.is_ok() && back.listener.is_ok());
}

#[tokio::test]
async fn a_hole_punch_needs_a_listener() {
    let addr = format!("/ip4/127.0.0.1/udp/1/webrtc-direct/certhash/{CERTHASH}");
    let error = Node::new().refused(&addr, DIAL_AS_LISTENER);
    assert!(matches!(error, TransportError::Other(Error::NoListener)));
}

#[tokio::test]
async fn a_hole_punch_gets_the_connection_of_its_remote() {
    let (mut one, mut two) = (Node::new(), Node::new());
    let (_, addr_one) = one.listen(LOOPBACK).await;
    let (_, addr_two) = two.listen(LOOPBACK).await;
    let punch = one.dial(&addr_two.with(Protocol::P2p(two.peer)), DIAL_AS_LISTENER);
    let dial = two.dial(&addr_one, DIAL);
    let both = futures::future::join(punch, dial);
    let (punched, dialed) = one.quiet_while(both).await;
    assert_eq!(punched.unwrap().0, two.peer);
    assert_eq!(dialed.unwrap().0, one.peer);
}

#[tokio::test]
async fn a_hole_punch_names_another_identity_than_expected() {
    let (mut one, mut two) = (Node::new(), Node::new());
    let (_, addr_one) = one.listen(LOOPBACK).await;
    let (_, addr_two) = two.listen(LOOPBACK).await;
    let wanted = PeerId::random();
    let punch = one.dial(&addr_two.with(Protocol::P2p(wanted)), DIAL_AS_LISTENER);
    let dial = two.dial(&addr_one, DIAL);
    let (punched, _) = one.quiet_while(futures::future::join(punch, dial)).await;
    match punched.map(|_| ()).unwrap_err() {
        Error::WrongPeerId { expected, actual } => {
            assert_eq!((expected, actual), (wanted, two.peer));
        }
        error => panic!("unexpected {error:?}"),
    }
}

#[tokio::test]
async fn a_hole_is_punched_once_at_a_time_and_forgotten_with_its_dial() {
    let mut node = Node::new();
    node.listen(LOOPBACK).await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = silent.local_addr().unwrap();
    let addr = format!(
        "/ip4/127.0.0.1/udp/{}/webrtc-direct/certhash/{CERTHASH}",
        remote.port()
    );
    let first = node.dial(&addr.parse().unwrap(), DIAL_AS_LISTENER);
    let error = node.refused(&addr, DIAL_AS_LISTENER);
    assert!(matches!(
        error,
        TransportError::Other(Error::PunchInProgress(busy)) if busy == remote
    ));
    drop(first);
    drop(node.dial(&addr.parse().unwrap(), DIAL_AS_LISTENER));
}

#[tokio::test]
async fn a_hole_punch_sends_packets_and_gives_up_in_time() {
    let mut node = Node::with(|config| config.with_handshake_timeout(Duration::from_millis(500)));
    node.listen(LOOPBACK).await;
    let remote = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = format!(
        "/ip4/127.0.0.1/udp/{}/webrtc-direct",
        remote.local_addr().unwrap().port()
    );
    let punch = node.dial(&addr.parse().unwrap(), DIAL_AS_LISTENER);
    let mut packet = [0; 2048];
    let first_two = async {
        remote.recv_from(&mut packet).await.unwrap();
        remote.recv_from(&mut packet).await.unwrap();
    };
    let (error, ()) = soon(futures::future::join(punch, first_two)).await;
    assert!(matches!(
        error.map(|_| ()),
        Err(Error::TimedOut { phase: Phase::Ice })
    ));
}

/// A dial that fails, while the listener goes on as usual.
async fn dial_error(dialer: &mut Node, addr: &Multiaddr, listener: &mut Node) -> Error {
    let dialing = dialer.dial(addr, DIAL);
    let serve = async {
        loop {
            let (connecting, _) = listener.incoming().await;
            tokio::spawn(connecting);
        }
    };
    tokio::select! {
        result = soon(dialing) => result.map(|_| ()).unwrap_err(),
        () = serve => unreachable!("serves for ever"),
    }
}

/// Relays between dialers and the listener at `port` on loopback, without the checks of v1. Also tells the version of
/// every check.
async fn v2_only_relay(port: u16) -> (SocketAddr, mpsc::Receiver<&'static str>) {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let addr = front.local_addr().unwrap();
    let (versions, receiver) = mpsc::channel(1024);
    tokio::spawn(async move {
        let mut backs = HashMap::new();
        let mut packet = [0; 2048];
        loop {
            let (len, dialer) = front.recv_from(&mut packet).await.unwrap();
            let packet = &packet[..len];
            let is = |version: &[u8]| packet.windows(version.len()).any(|part| part == version);
            if is(b"libp2p+webrtc+v1/") {
                versions.send("v1").await.ok();
                continue;
            }
            if is(b"libp2p+webrtc+v2/") {
                versions.send("v2").await.ok();
            }
            if let Entry::Vacant(entry) = backs.entry(dialer) {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                back.connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(answer(Arc::clone(&back), Arc::clone(&front), dialer));
                entry.insert(back);
            }
            backs[&dialer].send(packet).await.ok();
        }
    });
    (addr, receiver)
}

/// The way back of the relay.
async fn answer(back: Arc<UdpSocket>, front: Arc<UdpSocket>, dialer: SocketAddr) {
    let mut packet = [0; 2048];
    while let Ok(len) = back.recv(&mut packet).await {
        front.send_to(&packet[..len], dialer).await.ok();
    }
}
