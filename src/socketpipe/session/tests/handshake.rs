//! Opening a session: what is agreed, what is refused, and in which words.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::pair::{Pair, beginning};
use crate::socketpipe::{
    Capabilities, Code, Data, Env, Failure, Frame, HandshakeRequest, HandshakeResponse,
    ResumeRequest, ResumeResponse, SessionId, Signal, Size, decode_message,
    session::{
        Acceptor, ClientConfig, EndReason, Event, Mode, PathId, PathKind, Request, ServerConfig,
        Session, Status,
    },
};

fn request() -> HandshakeRequest {
    HandshakeRequest {
        capabilities: Capabilities::RESUME,
        major: 1,
        minor: 7,
        port: 22,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: "localhost".to_owned(),
        token: Bytes::from_static(b"abc"),
    }
}

fn acceptor() -> Acceptor {
    let config = Arc::new(ServerConfig::default());
    Acceptor::new(beginning(), PathKind::WebSocket, Mode::Pty, config)
}

fn sent(acceptor: &mut Acceptor) -> Vec<Frame> {
    std::iter::from_fn(|| acceptor.poll_transmit()).collect()
}

fn refused_with(acceptor: &mut Acceptor) -> Code {
    match &sent(acceptor)[..] {
        [Frame::HandshakeResponse(HandshakeResponse::Refused(failure))] => failure.code,
        other => panic!("not a refusal: {other:?}"),
    }
}

#[test]
fn both_sides_agree_on_the_values_of_the_response() {
    let mut config = ClientConfig::new(Mode::Pty);
    config.ping_interval = Duration::from_secs(7);
    config.max_message = 2000;
    let mut pair = Pair::open(config, ServerConfig::default());
    let parameters = *pair.client.session.parameters().expect("it is open");
    assert_eq!(pair.server().session.parameters(), Some(&parameters));
    assert_eq!(parameters.ping_interval, Duration::from_secs(7));
    assert_eq!(parameters.ping_timeout, Duration::from_secs(6));
    assert_eq!(parameters.max_message, 2000);
    assert!(parameters.resume && !parameters.webrtc);
    assert!(pair.client.saw(&Event::Established(parameters)));
    let id = pair.client.session.session_id().cloned();
    assert!(id.is_some() && id.as_ref() == pair.server().session.session_id());
}

#[test]
fn wishes_are_kept_within_the_bounds_of_the_server() {
    let negotiate = |change: fn(&mut HandshakeRequest)| {
        let mut request = request();
        change(&mut request);
        ServerConfig::default().negotiate(&request)
    };
    let default = negotiate(|_| {});
    assert_eq!(default.ping_interval, Duration::from_secs(30));
    assert_eq!(default.ping_timeout, Duration::from_secs(10));
    assert_eq!(default.max_message, 65_536);
    assert_eq!(default.minor, 0);
    assert_eq!(negotiate(|r| r.max_message = 1).max_message, 1024);
    assert_eq!(negotiate(|r| r.max_message = u32::MAX).max_message, 65_536);
    let interval = |r: &mut HandshakeRequest| r.ping_interval = 1;
    assert_eq!(negotiate(interval).ping_interval, Duration::from_secs(5));
    let interval = |r: &mut HandshakeRequest| r.ping_interval = 999;
    assert_eq!(negotiate(interval).ping_interval, Duration::from_secs(30));
    let persistence = |r: &mut HandshakeRequest| r.capabilities = Capabilities::PERSISTENCE;
    assert!(negotiate(persistence).resume);
    assert!(!negotiate(|r| r.capabilities = Capabilities::from_bits(0xf8)).resume);
}

#[test]
fn webrtc_is_agreed_with_resume_only_unless_configured() {
    let mut request = request();
    request.capabilities = Capabilities::WEBRTC;
    let mut config = ServerConfig {
        webrtc: true,
        ..ServerConfig::default()
    };
    assert!(!config.negotiate(&request).webrtc);
    config.webrtc_without_resume = true;
    assert!(config.negotiate(&request).webrtc);
    request.capabilities = Capabilities::WEBRTC.with(Capabilities::RESUME);
    config.webrtc_without_resume = false;
    assert!(config.negotiate(&request).webrtc);
}

#[test]
fn another_major_version_is_refused_with_its_code() {
    let mut acceptor = acceptor();
    let mut request = request();
    request.major = 2;
    acceptor.handle_frame(beginning(), Frame::HandshakeRequest(request));
    assert_eq!(refused_with(&mut acceptor), Code::UNSUPPORTED_VERSION);
    assert!(acceptor.is_finished() && acceptor.poll_request().is_none());
}

#[test]
fn a_malformed_handshake_is_refused_by_a_response() {
    let mut acceptor = acceptor();
    let mut payload = vec![1, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0];
    let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, payload.len() as u8];
    bytes.append(&mut payload);
    let error = decode_message(bytes.into(), &Default::default()).expect_err("a bad host");
    acceptor.handle_malformed(beginning(), &error);
    assert_eq!(refused_with(&mut acceptor), Code::INVALID_MESSAGE);
    assert!(acceptor.is_finished());
}

#[test]
fn a_silent_connection_is_refused_after_ten_seconds() {
    let mut acceptor = acceptor();
    let start = beginning();
    let due = acceptor.poll_timeout().expect("a time limit");
    acceptor.handle_timeout(start + Duration::from_secs(9));
    assert!(!acceptor.is_finished());
    acceptor.handle_timeout(due);
    assert_eq!(refused_with(&mut acceptor), Code::PROTOCOL_ERROR);
    assert!(acceptor.is_finished());
}

#[test]
fn anything_before_the_handshake_is_the_wrong_state() {
    let data = || Frame::Data(Data::default());
    let frames = [
        data(),
        Frame::Resize(Size::default()),
        Frame::Signal(Signal::Int),
        Frame::WebRtcReady,
    ];
    for frame in frames {
        let mut acceptor = acceptor();
        acceptor.handle_frame(beginning(), frame);
        let frames = sent(&mut acceptor);
        assert!(
            matches!(&frames[..], [Frame::Error(failure), Frame::Close(close)]
                if failure.code == Code::INVALID_STATE && close.code == Code::INVALID_STATE)
        );
        assert!(acceptor.is_finished());
    }
    // Also while the first request is being decided.
    let mut acceptor = acceptor();
    acceptor.handle_frame(beginning(), Frame::HandshakeRequest(request()));
    acceptor.handle_frame(beginning(), Frame::HandshakeRequest(request()));
    assert!(matches!(
        &sent(&mut acceptor)[..],
        [Frame::Error(_), Frame::Close(_)]
    ));
}

#[test]
fn the_reason_of_a_refusal_reaches_the_client() {
    let now = beginning();
    let mut client = Session::client(ClientConfig::new(Mode::Pty), [0; 32]);
    let path = PathId(1);
    client.connect(now, path, PathKind::WebSocket);
    let mut acceptor = acceptor();
    let first = client.poll_transmit(now, path).expect("a request");
    acceptor.handle_frame(now, first);
    assert!(matches!(
        acceptor.poll_request(),
        Some(Request::Handshake(_))
    ));
    assert!(acceptor.poll_request().is_none(), "a request is told once");
    let failure = Failure::new(Code::AUTH_EXPIRED, "this invitation has expired");
    acceptor.refuse(now, failure.clone());
    assert!(acceptor.is_finished());
    let answer = acceptor.poll_transmit().expect("an answer");
    client.handle_frame(now, path, answer);
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
    assert!(matches!(events.first(), Some(Event::ClosePath { .. })));
    assert!(matches!(events.last(), Some(Event::Closed(end))
        if end.reason == EndReason::Refused(failure)));
}

#[test]
fn a_refused_resume_leaves_the_connection_to_a_handshake() {
    let mut acceptor = acceptor();
    let id = SessionId::new(vec![1; 32]).expect("an id");
    let resume = ResumeRequest {
        id,
        last: 0,
        token: Bytes::new(),
    };
    acceptor.handle_frame(beginning(), Frame::ResumeRequest(resume));
    assert!(matches!(acceptor.poll_request(), Some(Request::Resume(_))));
    let failure = Failure::new(Code::SESSION_NOT_FOUND, "no such session");
    acceptor.refuse(beginning(), failure.clone());
    assert_eq!(
        sent(&mut acceptor),
        [Frame::ResumeResponse(ResumeResponse::Refused(failure))]
    );
    acceptor.handle_frame(beginning(), Frame::HandshakeRequest(request()));
    assert!(matches!(
        acceptor.poll_request(),
        Some(Request::Handshake(_))
    ));
    assert!(
        acceptor
            .accept(beginning(), PathId(1), [3; 32], [4; 32])
            .is_some()
    );
}

#[test]
fn a_client_gives_up_when_nobody_answers() {
    let mut pair = Pair::new(ClientConfig::new(Mode::Pty), ServerConfig::default());
    let path = pair.connect();
    pair.silence(path);
    pair.run(Duration::from_secs(29));
    assert_eq!(pair.client.session.status(), Status::Connecting);
    pair.run(Duration::from_secs(2));
    assert_eq!(
        pair.client.end().map(|end| &end.reason),
        Some(&EndReason::TimedOut)
    );
}

#[test]
fn variables_and_size_come_before_data() {
    let mut pair = Pair::new(ClientConfig::new(Mode::Pty), ServerConfig::default());
    let client = &mut pair.client;
    assert_eq!(
        client.write(3),
        3,
        "bytes may be written before the session is open"
    );
    assert!(client.session.env("TERM", "xterm-256color"));
    for columns in [80, 100, 120] {
        client.session.resize(Size {
            columns,
            rows: 5000,
            ..Size::default()
        });
    }
    pair.connect();
    pair.run(Duration::from_secs(1));
    let told: Vec<_> = pair
        .server()
        .events
        .iter()
        .filter(|event| !matches!(event, Event::Writable))
        .cloned()
        .collect();
    let env = Env {
        name: "TERM".to_owned(),
        value: "xterm-256color".to_owned(),
    };
    let size = Size {
        columns: 120,
        rows: 4096,
        ..Size::default()
    };
    assert_eq!(
        told,
        [Event::Env(env), Event::Resize(size), Event::Readable]
    );
    assert_eq!(pair.server().received, 3);
    assert!(!pair.client.session.env("LANG", "C"), "too late");
}
