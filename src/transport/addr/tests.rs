use proptest::prelude::*;

use super::*;

/// Two certhashes of SHA-256 digests, all ones and all twos.
const HASH_1: &str = "uEiABAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ";
const HASH_2: &str = "uEiACAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg";
const PEER: &str = "12D3KooWL3XJ9EMCyZvmmGXL2LMiVBtrVa2BuESsJiXkSj7333Jw";

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn dial(text: &str) -> Result<DialAddr, DialAddrError> {
    parse_dial(&addr(text))
}

fn digest(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

/// An address with a certhash of any algorithm and length.
fn with_hash(code: u64, digest: &[u8]) -> Multiaddr {
    addr("/ip4/192.0.2.1/udp/9090/webrtc-direct")
        .with(Protocol::Certhash(Multihash::wrap(code, digest).unwrap()))
}

#[test]
fn listens_on_concrete_and_unspecified_addresses() {
    for (text, socket) in [
        ("/ip4/0.0.0.0/udp/9090/webrtc-direct", "0.0.0.0:9090"),
        ("/ip4/127.0.0.1/udp/0/webrtc-direct", "127.0.0.1:0"),
        ("/ip6/::/udp/0/webrtc-direct", "[::]:0"),
        ("/ip6/::1/udp/9090/webrtc-direct", "[::1]:9090"),
    ] {
        assert_eq!(parse_listen(&addr(text)), Some(socket.parse().unwrap()));
    }
}

#[test]
fn listens_again_on_an_announced_address() {
    let announced = format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/{HASH_1}/p2p/{PEER}");

    assert_eq!(
        parse_listen(&addr(&announced)),
        Some("192.0.2.1:9090".parse().unwrap())
    );
}

#[test]
fn dials_an_announced_address() {
    let dialed = dial(&format!(
        "/ip6/2001:db8::1/udp/9090/webrtc-direct/certhash/{HASH_1}/p2p/{PEER}"
    ));

    assert_eq!(
        dialed,
        Ok(DialAddr {
            socket: "[2001:db8::1]:9090".parse().unwrap(),
            certhashes: vec![digest(1)],
            unsupported_hashes: 0,
            peer: Some(PEER.parse().unwrap()),
        })
    );
}

#[test]
fn dials_without_knowing_the_peer() {
    let dialed = dial(&format!(
        "/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/{HASH_1}"
    ));

    assert_eq!(dialed.unwrap().peer, None);
}

#[test]
fn a_link_local_address_needs_a_scope() {
    for ip in ["fe80::1", "febf::1"] {
        let text = format!("/ip6/{ip}/udp/9090/webrtc-direct/certhash/{HASH_1}");
        assert_eq!(dial(&text), Err(DialAddrError::MissingScope));
    }
    assert!(
        dial(&format!(
            "/ip6/fd00::1/udp/9090/webrtc-direct/certhash/{HASH_1}"
        ))
        .is_ok()
    );
}

#[test]
fn keeps_all_certhashes_in_order() {
    let dialed = dial(&format!(
        "/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/{HASH_2}/certhash/{HASH_1}"
    ));

    assert_eq!(dialed.unwrap().certhashes, [digest(2), digest(1)]);
}

#[test]
fn accepts_every_multibase() {
    // The same multihash in base16, base32 and base58btc.
    let base16 = format!("f1220{}", "01".repeat(32));
    for hash in [
        base16.as_str(),
        "bciqacaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcai",
        "zQmNQa1FSTXNHmrjjfgUW3Px3Vkke4oKiFWdigWkYSux2Pi",
    ] {
        let text = format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/{hash}");
        assert_eq!(dial(&text).unwrap().certhashes, [digest(1)], "{hash}");
    }
}

#[test]
fn a_certhash_is_needed_to_dial() {
    for text in [
        "/ip4/192.0.2.1/udp/9090/webrtc-direct".to_owned(),
        format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/p2p/{PEER}"),
    ] {
        assert_eq!(dial(&text), Err(DialAddrError::NoCerthash));
    }
}

#[test]
fn rejects_an_address_with_unknown_hashes_only() {
    // SHA-512, SHA-1, identity, and SHA-256 digests of wrong lengths.
    for (code, len) in [(0x13, 64), (0x11, 20), (0x00, 32), (0x12, 20), (0x12, 33)] {
        assert_eq!(
            parse_dial(&with_hash(code, &vec![1; len])),
            Err(DialAddrError::UnsupportedHash),
            "{code:#x}, {len} bytes"
        );
    }
}

#[test]
fn counts_unknown_hashes_beside_a_known_one() {
    let sha_256 = Multihash::wrap(0x12, &[1; 32]).unwrap();
    let dialed = parse_dial(&with_hash(0x13, &[1; 64]).with(Protocol::Certhash(sha_256))).unwrap();

    assert_eq!(dialed.certhashes, [digest(1)]);
    assert_eq!(dialed.unsupported_hashes, 1);
}

#[test]
fn rejects_addresses_that_nobody_can_answer_on() {
    for (host, error) in [
        ("/ip4/0.0.0.0/udp/9090", DialAddrError::UnspecifiedAddress),
        ("/ip6/::/udp/9090", DialAddrError::UnspecifiedAddress),
        ("/ip4/192.0.2.1/udp/0", DialAddrError::ZeroPort),
    ] {
        let text = format!("{host}/webrtc-direct/certhash/{HASH_1}");
        assert_eq!(dial(&text), Err(error));
    }
}

#[test]
fn dials_loopback_addresses() {
    for host in ["/ip6/::1", "/ip4/127.0.0.1"] {
        let text = format!("{host}/udp/9090/webrtc-direct/certhash/{HASH_1}");
        assert!(dial(&text).is_ok(), "{host}");
    }
}

#[test]
fn leaves_addresses_of_other_transports_alone() {
    let direct = format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/{HASH_1}/p2p/{PEER}");
    for text in [
        String::new(),
        "/ip4/192.0.2.1".to_owned(),
        "/ip4/192.0.2.1/udp/9090".to_owned(),
        "/ip4/192.0.2.1/webrtc-direct".to_owned(),
        "/udp/9090/webrtc-direct".to_owned(),
        "/webrtc-direct".to_owned(),
        "/ip4/192.0.2.1/tcp/9090/webrtc-direct".to_owned(),
        "/ip4/192.0.2.1/udp/9090/webrtc".to_owned(),
        "/ip4/192.0.2.1/udp/9090/quic-v1".to_owned(),
        format!("/ip4/192.0.2.1/udp/9090/quic-v1/webtransport/certhash/{HASH_1}"),
        format!("/dns4/example.com/udp/9090/webrtc-direct/certhash/{HASH_1}"),
        format!("/ip4/192.0.2.1/udp/9090/certhash/{HASH_1}/webrtc-direct"),
        format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/p2p/{PEER}/certhash/{HASH_1}"),
        format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/{HASH_1}/webrtc-direct"),
        format!("{direct}/p2p/{PEER}"),
        format!("{direct}/p2p-circuit"),
        format!("{direct}/p2p-circuit/p2p/{PEER}"),
        format!("{direct}/p2p-circuit/webrtc/p2p/{PEER}"),
        format!("{direct}/http"),
    ] {
        assert_eq!(dial(&text), Err(DialAddrError::NotWebRtcDirect), "{text}");
        assert_eq!(parse_listen(&addr(&text)), None, "{text}");
    }
}

#[test]
fn a_missing_port_is_no_multiaddr() {
    assert!(
        "/ip4/192.0.2.1/udp/webrtc-direct"
            .parse::<Multiaddr>()
            .is_err()
    );
}

#[test]
fn announces_certhashes_in_base64url() {
    let announced = listen_addr("192.0.2.1:9090".parse().unwrap(), &[digest(1), digest(2)]);

    assert_eq!(
        announced.to_string(),
        format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/certhash/{HASH_1}/certhash/{HASH_2}")
    );
}

#[test]
fn names_a_remote_without_certhash() {
    let remote = remote_addr("[2001:db8::1]:4242".parse().unwrap());

    assert_eq!(
        remote.to_string(),
        "/ip6/2001:db8::1/udp/4242/webrtc-direct"
    );
}

proptest! {
    #[test]
    fn an_announced_address_is_read_back(
        socket: SocketAddr,
        digests in proptest::collection::vec(any::<[u8; 32]>(), 1..4),
    ) {
        // A multiaddr has no room for flow label and scope.
        let socket = SocketAddr::new(socket.ip(), socket.port());
        prop_assume!(!socket.ip().is_unspecified() && socket.port() != 0);
        prop_assume!(!needs_scope(socket));
        let certhashes: Vec<_> = digests.into_iter().map(Fingerprint::from_bytes).collect();

        let announced = listen_addr(socket, &certhashes);

        prop_assert_eq!(parse_listen(&announced), Some(socket));
        prop_assert_eq!(
            parse_dial(&announced),
            Ok(DialAddr { socket, certhashes, unsupported_hashes: 0, peer: None })
        );
        prop_assert_eq!(announced.to_string().parse::<Multiaddr>().unwrap(), announced);
    }

    #[test]
    fn any_order_of_components_is_read_without_panic(
        components in proptest::collection::vec(0_usize..8, 0..8),
    ) {
        let address: Multiaddr = components
            .into_iter()
            .map(|component| match component {
                0 => Protocol::Ip4([192, 0, 2, 1].into()),
                1 => Protocol::Ip6(std::net::Ipv6Addr::LOCALHOST),
                2 => Protocol::Udp(9090),
                3 => Protocol::WebRTCDirect,
                4 => Protocol::Certhash(Multihash::wrap(0x12, &[1; 32]).unwrap()),
                5 => Protocol::P2p(PEER.parse().unwrap()),
                6 => Protocol::P2pCircuit,
                _ => Protocol::WebRTC,
            })
            .collect();

        prop_assert_eq!(
            parse_listen(&address).is_none(),
            parse_dial(&address) == Err(DialAddrError::NotWebRtcDirect)
        );
    }
}
