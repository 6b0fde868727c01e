use std::net::IpAddr;

use http_body_util::BodyExt as _;
use hyper::{Request, StatusCode, header};

use super::{
    RateLimiter, TlsRoots,
    client::WebSocketConnector,
    ice::TurnServers,
    listener::WebSocketConfig,
    request::{Verdict, judge},
};
use crate::{
    socketpipe::session::Mode,
    websocket::http::answer::{Answer, Sender},
};

const LOCAL: Sender = Sender {
    address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    local: true,
    tls: false,
};

fn far(tls: bool) -> Sender {
    Sender {
        address: "192.0.2.7".parse().unwrap(),
        local: false,
        tls,
    }
}

/// A request for a WebSocket at this path, with these fields in place of or beside the usual ones.
fn request(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .uri(path)
        .header(header::HOST, "localhost:8080")
        .header(header::CONNECTION, "keep-alive, Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap();
    for (name, value) in fields {
        let name: header::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn status(config: &WebSocketConfig, sender: Sender, request: &Request<()>) -> StatusCode {
    match judge(config, sender, request) {
        Verdict::Answer(answer) | Verdict::Upgrade { answer, .. } => answer.status(),
        Verdict::Ice { .. } => StatusCode::OK,
        Verdict::Libp2p { .. } => StatusCode::SWITCHING_PROTOCOLS,
    }
}

async fn body(answer: Answer) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_request_on_loopback_is_upgraded() {
    let request = request(
        "/tunnel",
        &[("sec-websocket-protocol", "other, socketpipe.v1")],
    );
    let Verdict::Upgrade {
        answer,
        mode,
        client,
        private,
    } = judge(&WebSocketConfig::default(), LOCAL, &request)
    else {
        panic!("refused");
    };
    assert_eq!((mode, client), (Mode::Tunnel, LOCAL.address));
    assert!(private, "both ends are on this machine");
    // The example of RFC 6455 section 1.3.
    let fields = answer.headers();
    assert_eq!(
        fields["sec-websocket-accept"],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert_eq!(fields["sec-websocket-protocol"], "socketpipe.v1");
    assert!(!fields.contains_key("sec-websocket-extensions"));
}

#[test]
fn the_subprotocol_is_not_required() {
    let Verdict::Upgrade { answer, .. } =
        judge(&WebSocketConfig::default(), LOCAL, &request("/pty", &[]))
    else {
        panic!("refused");
    };
    assert!(!answer.headers().contains_key("sec-websocket-protocol"));
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_with_a_sentence() {
    let config = WebSocketConfig {
        origins: vec!["https://tools.example.com/".to_owned()],
        ..WebSocketConfig::default()
    };
    for origin in ["http://localhost:8080", "https://tools.example.com"] {
        let good = request("/pty", &[("origin", origin)]);
        assert_eq!(status(&config, LOCAL, &good), 101, "{origin}");
    }
    for origin in [
        "null",
        "http://localhost:9",
        "https://evil.example",
        "localhost:8080",
        "http://",
        "http://localhost:8080.evil.example",
        "http://localhost:8080@evil.example",
        "http://evil.example#localhost:8080",
        "http://127.0.0.1:8080",
        "javascript://localhost:8080",
    ] {
        let bad = request("/pty", &[("origin", origin)]);
        let Verdict::Answer(answer) = judge(&config, LOCAL, &bad) else {
            panic!("{origin} was let in");
        };
        assert_eq!(answer.status(), 403);
        assert!(body(answer).await.contains("origin"));
    }
}

#[test]
fn an_origin_is_compared_as_browsers_write_it() {
    let config = WebSocketConfig::default();
    for (host, origin, code) in [
        ("LocalHost:8080", "http://localhost:8080", 101),
        ("[::1]:8080", "http://[::1]:8080", 101),
        ("[::1]:8080", "http://[::1]:9090", 403),
        ("[::1]:8080", "http://[::1]", 403),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", 101),
        ("127.0.0.1:8080", "http://localhost:8080", 403),
    ] {
        let asked = request("/pty", &[("host", host), ("origin", origin)]);
        assert_eq!(status(&config, LOCAL, &asked), code, "{host} {origin}");
    }
    // A page that came in the clear may be anybody's, even under our name.
    let own = [("host", "example.com"), ("origin", "http://example.com")];
    assert_eq!(status(&config, far(true), &request("/pty", &own)), 403);
    let own = [("host", "example.com"), ("origin", "https://example.com")];
    assert_eq!(status(&config, far(true), &request("/pty", &own)), 101);
    // Two are one too many.
    let mut twice = request("/pty", &[("origin", "http://localhost:8080")]);
    let evil = header::HeaderValue::from_static("https://evil.example");
    twice.headers_mut().append(header::ORIGIN, evil);
    assert_eq!(status(&config, LOCAL, &twice), 403);
}

#[test]
fn names_that_were_made_to_lead_to_loopback_are_refused() {
    let mut config = WebSocketConfig::default();
    let of_host = |host| request("/pty", &[("host", host)]);
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:8080",
        "[::1]:8080",
        "a.localhost",
    ] {
        assert_eq!(status(&config, LOCAL, &of_host(host)), 101, "{host}");
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example:8080",
        "192.0.2.1",
        "",
    ] {
        assert_eq!(status(&config, LOCAL, &of_host(host)), 421, "{host}");
    }
    config.hosts = vec!["dev.example".to_owned()];
    assert_eq!(status(&config, LOCAL, &of_host("dev.example:8080")), 101);
}

#[test]
fn terminals_and_the_page_need_tls_beyond_loopback() {
    let config = WebSocketConfig::default();
    assert_eq!(status(&config, far(false), &request("/pty", &[])), 403);
    assert_eq!(status(&config, far(false), &request("/", &[])), 403);
    assert_eq!(status(&config, far(false), &request("/tunnel", &[])), 101);
    assert_eq!(status(&config, far(true), &request("/pty", &[])), 101);
    assert_eq!(status(&config, far(true), &request("/", &[])), 200);
}

#[test]
fn forwarded_headers_count_from_configured_proxies_only() {
    let mut config = WebSocketConfig::default();
    let forwarded = request(
        "/pty",
        &[
            ("x-forwarded-for", "198.51.100.1, 203.0.113.9"),
            ("x-forwarded-proto", "https"),
        ],
    );
    assert_eq!(status(&config, far(false), &forwarded), 403);
    assert_eq!(
        status(&config, LOCAL, &forwarded),
        403,
        "a proxy on this machine"
    );
    config.proxies = vec![far(false).address];
    let Verdict::Upgrade { client, .. } = judge(&config, far(false), &forwarded) else {
        panic!("refused");
    };
    assert_eq!(client.to_string(), "203.0.113.9", "the one the proxy saw");
    let plain = request("/pty", &[("x-forwarded-proto", "http")]);
    assert_eq!(status(&config, far(false), &plain), 403);
}

#[test]
fn too_many_attempts_are_told_to_wait() {
    let config = WebSocketConfig {
        limiter: RateLimiter::new(2, 0),
        ..WebSocketConfig::default()
    };
    let codes: Vec<_> = (0..3)
        .map(|_| status(&config, LOCAL, &request("/pty", &[])).as_u16())
        .collect();
    assert_eq!(codes, [101, 101, 429]);
    assert_eq!(status(&config, far(true), &request("/pty", &[])), 101);
}

#[test]
fn other_requests_get_a_fitting_status() {
    let config = WebSocketConfig::default();
    let cases = [
        ("/pty", ("upgrade", "h2c"), 426),
        ("/pty", ("sec-websocket-version", "12"), 426),
        ("/pty/", ("accept", "*/*"), 404),
        ("/../etc/passwd", ("accept", "*/*"), 404),
        ("/", ("accept", "*/*"), 200),
        ("/app.js", ("accept", "*/*"), 200),
    ];
    for (path, field, code) in cases {
        let found = status(&config, LOCAL, &request(path, &[field]));
        assert_eq!(found, code, "{path} {field:?}");
    }
    let bare = WebSocketConfig {
        page: false,
        ..config
    };
    assert_eq!(status(&bare, LOCAL, &request("/", &[])), 404);
}

#[test]
fn the_page_comes_with_its_headers() {
    let config = WebSocketConfig::default();
    let Verdict::Answer(answer) = judge(&config, LOCAL, &request("/", &[])) else {
        panic!("upgraded");
    };
    let expected = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
    ];
    for (name, value) in expected {
        assert_eq!(answer.headers()[name], value);
    }
}

/// A peer proves who it is; pages, names and the clear are of no use to an attacker there.
#[test]
fn libp2p_nodes_may_connect_from_everywhere_if_one_listens() {
    let mut config = WebSocketConfig::default();
    let of_node = request("/webrtc", &[]);
    let of_page = request("/webrtc", &[("origin", "https://other.example")]);
    assert_eq!(status(&config, LOCAL, &of_node), 404);
    assert_eq!(status(&config, far(false), &of_page), 404);
    config.libp2p = Some(crate::websocket::Acceptor::new(65_536));
    assert_eq!(status(&config, LOCAL, &of_node), 101);
    assert_eq!(status(&config, far(false), &of_page), 101);
    assert_eq!(status(&config, far(true), &of_page), 101);
    let rebound = request("/webrtc", &[("host", "evil.example")]);
    assert_eq!(status(&config, LOCAL, &rebound), 421, "as for all paths");
    config.limiter = RateLimiter::new(1, 0);
    let codes = [(); 2].map(|()| status(&config, LOCAL, &of_node).as_u16());
    assert_eq!(codes, [101, 429]);
}

/// Nobody else gets there, but every page in a browser on this machine.
#[test]
fn on_loopback_only_pages_of_listed_origins_reach_the_node() {
    let mut config = WebSocketConfig {
        origins: vec!["https://tools.example.com".to_owned()],
        libp2p: Some(crate::websocket::Acceptor::new(65_536)),
        ..WebSocketConfig::default()
    };
    let by_tls = Sender { tls: true, ..LOCAL };
    let of = |origin| request("/webrtc", &[("origin", origin)]);
    for (origin, code) in [
        ("https://tools.example.com", 101),
        ("https://evil.example", 403),
        ("null", 403),
    ] {
        for sender in [LOCAL, by_tls] {
            assert_eq!(status(&config, sender, &of(origin)), code, "{origin}");
        }
    }
    let own = of("http://localhost:8080");
    assert_eq!(status(&config, LOCAL, &own), 101);
    assert_eq!(status(&config, by_tls, &own), 403, "it came in the clear");
    // What a proxy passes on comes from elsewhere.
    config.proxies = vec![LOCAL.address];
    assert_eq!(status(&config, LOCAL, &of("https://evil.example")), 101);
}

#[test]
fn webrtc_may_be_set_up_where_nobody_between_can_change_an_offer() {
    let config = WebSocketConfig {
        proxies: vec!["192.0.2.8".parse().unwrap()],
        ..WebSocketConfig::default()
    };
    let proxy = Sender {
        address: config.proxies[0],
        ..far(false)
    };
    for (sender, scheme, expected) in [
        (LOCAL, None, true),
        (far(true), None, true),
        (far(false), None, false),
        (proxy, Some("https"), true),
        (proxy, Some("http"), false),
    ] {
        let field = scheme.map(|scheme| ("x-forwarded-proto", scheme));
        let asked = request("/tunnel", field.as_slice());
        let Verdict::Upgrade { private, .. } = judge(&config, sender, &asked) else {
            panic!("refused: {sender:?} {scheme:?}");
        };
        assert_eq!(private, expected, "{sender:?} {scheme:?}");
    }
}

/// A question for servers.
fn ask(method: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut asked = Request::builder()
        .method(method)
        .uri("/ice")
        .header(header::HOST, "localhost:8080")
        .body(())
        .unwrap();
    for (name, value) in fields {
        let name: header::HeaderName = name.parse().unwrap();
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    asked
}

fn with_servers() -> WebSocketConfig {
    let urls = ["stun:192.0.2.1".to_owned()];
    WebSocketConfig {
        ice: Some(TurnServers::new(&urls, b"").unwrap()),
        origins: vec!["https://tools.example.com".to_owned()],
        limiter: RateLimiter::new(6, 0),
        ..WebSocketConfig::default()
    }
}

#[test]
fn servers_are_told_to_who_shows_a_token_where_nobody_reads_it() {
    let token = [("authorization", "bearer abc=")];
    let none = WebSocketConfig::default();
    assert_eq!(status(&none, LOCAL, &ask("POST", &token)), 404);
    let config = with_servers();
    let Verdict::Ice { token: shown, .. } = judge(&config, LOCAL, &ask("POST", &token)) else {
        panic!("refused");
    };
    assert_eq!(shown, "abc=");
    assert_eq!(status(&config, far(true), &ask("POST", &token)), 200);
    assert_eq!(status(&config, far(false), &ask("POST", &token)), 403);
    assert_eq!(status(&config, LOCAL, &ask("GET", &token)), 405);
    for wrong in ["", "Bearer", "Bearer ", "Basic abc=", "abc="] {
        let asked = ask("POST", &[("authorization", wrong)]);
        assert_eq!(status(&config, far(true), &asked), 401, "{wrong}");
    }
    assert_eq!(
        status(&config, far(true), &ask("POST", &token)),
        429,
        "one too many of this address"
    );
    assert_eq!(status(&config, LOCAL, &ask("POST", &[])), 401);
}

#[test]
fn pages_that_may_connect_may_ask_for_servers_and_no_others() {
    let config = with_servers();
    for (origin, code) in [
        ("http://localhost:8080", 200),
        ("https://tools.example.com", 200),
        ("https://evil.example", 403),
        ("null", 403),
    ] {
        let fields = [("authorization", "Bearer abc"), ("origin", origin)];
        assert_eq!(status(&config, LOCAL, &ask("POST", &fields)), code);
        let Verdict::Answer(answer) = judge(&config, LOCAL, &ask("OPTIONS", &fields)) else {
            panic!("{origin}");
        };
        let allowed = answer.headers().get("access-control-allow-origin");
        let expected = (code == 200).then_some(origin);
        assert_eq!(allowed.map(|value| value.to_str().unwrap()), expected);
    }
}

#[test]
fn a_client_does_not_send_a_terminal_in_the_clear() {
    let roots = TlsRoots::default();
    let open = |url, mode| WebSocketConnector::new(url, mode, &roots).map(|_| ());
    open("ws://127.0.0.1:1/pty", Mode::Pty).unwrap();
    open("ws://192.0.2.1/tunnel", Mode::Tunnel).unwrap();
    for url in ["ws://192.0.2.1/pty", "ws://example.com/tunnel"] {
        let error = open(url, Mode::Pty).unwrap_err();
        assert!(error.to_string().contains("wss://"), "{error}");
    }
    for url in ["http://localhost/", "localhost", "ws://", ""] {
        open(url, Mode::Pty).unwrap_err();
    }
}
