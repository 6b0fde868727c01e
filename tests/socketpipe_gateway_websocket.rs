//! The WebSocket endpoints as a stranger meets them, frame by frame.
#![cfg(all(feature = "gateway", unix))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "what the tests wait for takes real time"
)]

mod socketpipe_gateway_common;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use bytes::Bytes;
use libp2p_rtc::socketpipe::{
    Capabilities, Code, Data, Frame, FrameLimits, HandshakeRequest, decode_message, encode_message,
};
use tokio_tungstenite::tungstenite::{
    Message, WebSocket, client, client::IntoClientRequest as _, http::Uri,
};

use crate::socketpipe_gateway_common::{AtTerminal, Directory, Serve, run};

type Socket = WebSocket<TcpStream>;

fn dial(url: &str) -> TcpStream {
    let uri: Uri = url.parse().unwrap();
    TcpStream::connect((uri.host().unwrap(), uri.port_u16().unwrap())).unwrap()
}

fn socket(url: &str) -> Socket {
    let request = url.into_client_request().unwrap();
    client(request, dial(url)).unwrap().0
}

/// The status and the text that a request with this origin gets.
fn answer_to_origin(url: &str, origin: &str) -> String {
    let uri: Uri = url.parse().unwrap();
    let mut stream = dial(url);
    write!(
        stream,
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {origin}\r\n\
         Connection: close\r\n\r\n",
        uri.path(),
        uri.authority().unwrap()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn handshake(token: &str) -> Frame {
    Frame::HandshakeRequest(HandshakeRequest {
        capabilities: Capabilities::default(),
        major: 1,
        minor: 0,
        port: 0,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: String::new(),
        token: Bytes::copy_from_slice(token.as_bytes()),
    })
}

fn send(socket: &mut Socket, frame: &Frame) {
    let message = encode_message(frame).unwrap();
    socket.send(Message::Binary(message)).unwrap();
}

/// Frames up to the end of the socket.
fn rest(socket: &mut Socket) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Ok(message) = socket.read() {
        if let Message::Binary(bytes) = message {
            frames.push(decode_message(bytes, &FrameLimits::default()).unwrap());
        }
    }
    frames
}

/// The code the server says goodbye with.
fn last_code(frames: &[Frame]) -> Option<Code> {
    frames.iter().rev().find_map(|frame| match frame {
        Frame::Error(failure) => Some(failure.code),
        Frame::Close(close) => Some(close.code),
        _ => None,
    })
}

fn data(bytes: impl Into<Bytes>) -> Frame {
    Frame::Data(Data {
        number: None,
        bytes: bytes.into(),
        end: false,
    })
}

#[test]
fn frames_that_break_the_rules_are_answered_with_their_code() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let url = serve.first().websocket;
    let token = serve.invite(&["--uses", "0"]).token;
    let oversized = {
        let mut frame = vec![0x10, 0, 0, 0];
        frame.extend_from_slice(&70_000_u32.to_be_bytes());
        frame.resize(70_008, b'x');
        Message::Binary(frame.into())
    };
    let huge = Message::Binary(vec![0x10; 300_000].into());
    let cases = [
        (oversized, Code::MESSAGE_TOO_LARGE),
        (huge, Code::MESSAGE_TOO_LARGE),
        (Message::Text("hello".into()), Code::INVALID_MESSAGE),
        (Message::Binary(vec![0x10, 0].into()), Code::INVALID_MESSAGE),
        (
            Message::Binary(encode_message(&handshake(&token)).unwrap()),
            Code::INVALID_STATE,
        ),
    ];
    for (message, code) in cases {
        let mut socket = socket(&url);
        send(&mut socket, &handshake(&token));
        let Message::Binary(first) = socket.read().unwrap() else {
            panic!("no answer");
        };
        let first = decode_message(first, &FrameLimits::default()).unwrap();
        assert!(matches!(first, Frame::HandshakeResponse(_)), "{first:?}");
        // The server may have hung up before all of it is written.
        socket.send(message).ok();
        assert_eq!(last_code(&rest(&mut socket)), Some(code));
        serve.assert_nothing_left();
    }
}

#[test]
fn data_before_the_handshake_is_the_wrong_state() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let mut socket = socket(&serve.first().websocket);
    send(&mut socket, &data(&b"ls\r"[..]));
    let frames = rest(&mut socket);
    let said = format!("{frames:?}");
    assert!(
        said.contains("3002") || last_code(&frames) == Some(Code::INVALID_STATE),
        "{said}"
    );
    serve.assert_nothing_left();
}

#[test]
fn pages_of_other_origins_are_refused_before_the_upgrade() {
    let serve = Serve::start(&[]);
    let url = serve.first().websocket;
    let refused = answer_to_origin(&url, "https://evil.example");
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(
        refused.ends_with("pages of this origin may not connect to this server"),
        "{refused}"
    );
}

#[test]
fn the_page_is_served_on_loopback() {
    let serve = Serve::start(&[]);
    let url = serve.info["url"]
        .as_str()
        .unwrap()
        .replace("http://", "ws://");
    let url = url.split('#').next().unwrap();
    let mut stream = dial(url);
    let authority = url.parse::<Uri>().unwrap().authority().unwrap().to_string();
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text:.200}");
    assert!(
        text.contains("frame-ancestors 'none'") && text.contains("<html"),
        "{text:.600}"
    );
}

#[test]
fn others_than_loopback_need_tls() {
    let state = Directory::new();
    let args = ["serve", "--websocket", "0.0.0.0:0"];
    let output = run(state.path(), &args);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("certificate"), "{said}");
}

#[test]
fn attempts_are_limited_by_address() {
    let directory = Directory::new();
    let config = directory.join("config.toml");
    std::fs::write(&config, "[websocket]\nburst = 3\nper_second = 0\n").unwrap();
    let serve = Serve::start(&["--config", &config]);
    let url = serve.first().websocket;
    for _ in 0..3 {
        socket(&url);
    }
    let refused = answer_to_origin(&url, &url.replace("ws", "http").replace("/pty", ""));
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
}

#[test]
fn who_guesses_tokens_is_refused_before_the_token_is_looked_at() {
    let directory = Directory::new();
    let config = directory.join("config.toml");
    std::fs::write(&config, "[websocket]\nburst = 20\nper_second = 0\n").unwrap();
    let serve = Serve::start(&["--shell", "/bin/sh", "--config", &config]);
    let invitation = serve.invite(&["--uses", "0"]);
    let address = invitation.addresses[0].to_string();
    let attempt = |token: &str| {
        let output = run(directory.path(), &["connect", "--token", token, &address]);
        String::from_utf8(output.stderr).unwrap()
    };
    for _ in 0..4 {
        let said = attempt("guess");
        assert!(
            said.contains("1000") && said.contains("not valid"),
            "{said}"
        );
    }
    // Four guesses are the burst. The right token does not help now, on no path.
    for token in ["guess", &invitation.token] {
        let said = attempt(token);
        assert!(
            said.contains("2000") && said.contains("wait a little"),
            "{said}"
        );
    }
    let url = &invitation.websocket;
    let refused = answer_to_origin(url, &url.replace("ws", "http").replace("/pty", ""));
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    serve.assert_nothing_left();
}

#[test]
fn the_audit_shows_what_strangers_send_and_obeys_none_of_it() {
    let serve = Serve::start(&["--no-terminal", "--allow", "127.0.0.1:9"]);
    let invitation = serve.invite(&["--mode", "tunnel"]);
    let evil = "x\n{\"event\":\"session\"}\u{1b}[2J\u{9b}2J\u{202e}";
    let mut socket = socket(&invitation.websocket);
    let Frame::HandshakeRequest(mut request) = handshake(&invitation.token) else {
        unreachable!("it is one");
    };
    request.host = evil.to_owned();
    request.port = 9;
    send(&mut socket, &Frame::HandshakeRequest(request));
    rest(&mut socket);
    let line = serve.audit("refusal", |line| line["event"] == "refused");
    assert_eq!(line["target"], format!("{evil}:9"));
    let raw = serve
        .running
        .stderr
        .find_line("refusal", |line| line.contains("refused"));
    assert!(raw.is_ascii() && !raw.contains(char::is_control), "{raw:?}");
}

/// A certificate for 127.0.0.1 that signs itself, and its key, in files.
fn certificate(directory: &Directory) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    (certificate, key)
}

#[test]
fn a_terminal_goes_through_tls_for_those_who_trust_the_certificate() {
    let directory = Directory::new();
    let (certificate, key) = certificate(&directory);
    let args = [
        "--shell",
        "/bin/sh",
        "--tls-certificate",
        &certificate,
        "--tls-key",
        &key,
    ];
    let serve = Serve::start(&args);
    let invitation = serve.first();
    assert!(
        invitation.websocket.starts_with("wss://127.0.0.1:"),
        "{invitation:?}"
    );
    let token = &invitation.token;
    let refused = run(
        directory.path(),
        &["connect", "--token", token, &invitation.websocket],
    );
    assert_eq!(refused.status.code(), Some(255));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("certificate"), "{said}");

    let args = [
        "connect",
        "--token",
        token,
        "--ca",
        &certificate,
        &invitation.websocket,
    ];
    let mut terminal = AtTerminal::start(directory.path(), &args, 80, 24);
    terminal.type_in("exit 6\r");
    let (shown, status) = terminal.finish();
    assert_eq!(status, 6, "{shown}");
    serve.assert_nothing_left();
}
