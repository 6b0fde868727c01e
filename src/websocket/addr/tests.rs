use proptest::prelude::*;

use super::*;

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn dial(text: &str) -> Result<DialAddr, AddrError> {
    parse_dial(&addr(text))
}

#[test]
fn reads_every_form() {
    for (text, url) in [
        (
            "/ip4/192.0.2.1/tcp/80/ws/webrtc",
            "ws://192.0.2.1:80/webrtc",
        ),
        (
            "/ip6/2001:db8::1/tcp/81/ws/webrtc",
            "ws://[2001:db8::1]:81/webrtc",
        ),
        (
            "/dns/example.com/tcp/443/tls/ws/webrtc",
            "wss://example.com:443/webrtc",
        ),
        (
            "/dns4/a.example/tcp/443/wss/webrtc",
            "wss://a.example:443/webrtc",
        ),
        (
            "/ip4/192.0.2.1/tcp/443/tls/sni/a.example/ws/webrtc",
            "wss://a.example:443/webrtc",
        ),
        (
            "/dns6/a_b.example/tcp/1/ws/webrtc",
            "ws://a_b.example:1/webrtc",
        ),
    ] {
        let read = dial(text).unwrap();
        assert_eq!((read.url().as_str(), read.peer), (url, None));
        let with_peer = dial(&format!("{text}/p2p/{PEER}")).unwrap();
        assert_eq!(with_peer.peer, Some(PEER.parse().unwrap()));
        assert_eq!(with_peer.url(), url);
    }
}

#[test]
fn a_name_says_which_addresses_it_may_have() {
    let (v4, v6) = (
        "192.0.2.1:1".parse().unwrap(),
        "[2001:db8::1]:1".parse().unwrap(),
    );
    for (kind, reached) in [
        ("dns", [true, true]),
        ("dns4", [true, false]),
        ("dns6", [false, true]),
    ] {
        let Host::Name(name, family) = dial(&format!("/{kind}/a.example/tcp/1/ws/webrtc"))
            .unwrap()
            .host
        else {
            panic!("{kind} is no name");
        };
        assert_eq!(name, "a.example");
        assert_eq!([family.has(&v4), family.has(&v6)], reached);
    }
}

#[test]
fn the_certificate_names_the_host_or_what_the_address_says() {
    let of = |text| dial(text).unwrap().server_name();
    assert_eq!(of("/ip6/2001:db8::1/tcp/1/wss/webrtc"), "2001:db8::1");
    assert_eq!(of("/dns/a.example/tcp/1/wss/webrtc"), "a.example");
    assert_eq!(
        of("/dns/b.example/tcp/1/tls/sni/a.example/ws/webrtc"),
        "a.example"
    );
}

#[test]
fn leaves_addresses_of_others_alone() {
    for text in [
        "/ip4/192.0.2.1/tcp/80",
        "/ip4/192.0.2.1/tcp/80/ws",
        "/ip4/192.0.2.1/tcp/443/tls/ws",
        "/ip4/192.0.2.1/udp/80/webrtc-direct",
        "/ip4/192.0.2.1/udp/80/ws/webrtc",
        "/ip4/192.0.2.1/tcp/80/webrtc",
        "/ip4/192.0.2.1/tcp/80/tls/webrtc",
        "/ip4/192.0.2.1/tcp/80/tls/tls/ws/webrtc",
        "/ip4/192.0.2.1/tcp/80/tls/wss/webrtc",
        "/ip4/192.0.2.1/tcp/80/sni/a.example/ws/webrtc",
        "/ip4/192.0.2.1/tcp/80/x-parity-ws/%2Fother/webrtc",
        "/dnsaddr/example.com/tcp/80/ws/webrtc",
        "/unix/a/tcp/80/ws/webrtc",
        "/ws/webrtc",
        "/webrtc",
    ] {
        let refused = match text.parse() {
            Ok(parsed) => {
                parse_dial(&parsed) == Err(AddrError::NotOurs) && parse_listen(&parsed).is_none()
            }
            // Not even an address.
            Err(_) => true,
        };
        assert!(refused, "{text}");
    }
    // A listener behind a relay is the relay transport's, whoever is behind it.
    let relayed = format!("/ip4/192.0.2.1/tcp/80/ws/webrtc/p2p/{PEER}/p2p-circuit/p2p/{PEER}");
    assert_eq!(dial(&relayed), Err(AddrError::NotOurs));
    let circuit = format!("/ip4/192.0.2.1/tcp/80/ws/p2p/{PEER}/p2p-circuit/webrtc/p2p/{PEER}");
    assert_eq!(dial(&circuit), Err(AddrError::NotOurs));
}

#[test]
fn tells_addresses_nobody_can_answer_on() {
    for (text, error) in [
        (
            "/ip4/0.0.0.0/tcp/80/ws/webrtc",
            AddrError::UnspecifiedAddress,
        ),
        ("/ip6/::/tcp/80/ws/webrtc", AddrError::UnspecifiedAddress),
        ("/ip4/192.0.2.1/tcp/0/ws/webrtc", AddrError::ZeroPort),
        ("/ip6/fe80::1/tcp/80/ws/webrtc", AddrError::MissingScope),
        ("/dns/a@b/tcp/80/ws/webrtc", AddrError::Name),
        ("/dns/a:1/tcp/80/ws/webrtc", AddrError::Name),
        ("/dns/a b/tcp/80/ws/webrtc", AddrError::Name),
        ("/dns/a/tcp/80/tls/sni/b?/ws/webrtc", AddrError::Name),
    ] {
        assert_eq!(dial(text), Err(error), "{text}");
    }
    let long = format!("/dns/{}/tcp/80/ws/webrtc", "a".repeat(MAX_NAME + 1));
    assert_eq!(dial(&long), Err(AddrError::Name));
}

#[test]
fn listens_on_addresses_and_not_on_names() {
    let listen = |text| parse_listen(&addr(text));
    let found = listen("/ip4/0.0.0.0/tcp/0/ws/webrtc").unwrap();
    assert_eq!(
        (found.socket, found.tls),
        ("0.0.0.0:0".parse().unwrap(), false)
    );
    let found = listen("/ip6/::1/tcp/443/tls/ws/webrtc").unwrap();
    assert_eq!(
        (found.socket, found.tls),
        ("[::1]:443".parse().unwrap(), true)
    );
    assert!(listen("/ip4/127.0.0.1/tcp/443/wss/webrtc").unwrap().tls);
    assert!(listen("/dns/localhost/tcp/0/ws/webrtc").is_none());
    assert!(listen("/ip4/127.0.0.1/tcp/0/tls/sni/a/ws/webrtc").is_none());
}

#[test]
fn what_is_announced_can_be_dialed_and_listened_on_again() {
    for text in [
        "/ip4/127.0.0.1/tcp/1/ws/webrtc",
        "/ip6/::1/tcp/2/tls/ws/webrtc",
    ] {
        let listen = parse_listen(&addr(text)).unwrap();
        let announced = listen.at(listen.socket.ip());
        assert_eq!(announced, addr(text));
        assert_eq!(parse_dial(&announced).unwrap().tls, listen.tls);
        assert_eq!(remote_addr(listen.socket, listen.tls), announced);
        assert_eq!(listen.to_string(), text);
    }
}

proptest! {
    /// Addresses come from strangers: whatever they hold, the URL has the host and port that are dialed and nothing else.
    #[test]
    fn a_name_ends_where_the_port_begins(name in "[ -~]{1,20}", port in 1..u16::MAX) {
        let addr = Multiaddr::empty()
            .with(Protocol::Dns(name.clone().into()))
            .with(Protocol::Tcp(port))
            .with(Protocol::Ws("/".into()))
            .with(Protocol::WebRTC);
        if let Ok(dial) = parse_dial(&addr) {
            let uri: tokio_tungstenite::tungstenite::http::Uri = dial.url().parse().unwrap();
            prop_assert_eq!(uri.host(), Some(name.as_str()));
            prop_assert_eq!(uri.port_u16(), Some(port));
            prop_assert_eq!(uri.path(), "/webrtc");
        }
    }
}
