//! The program's sessions on WebSockets move to WebRTC, say so, and learn of servers for it.
#![cfg(all(feature = "gateway", unix))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "what the tests wait for takes real time"
)]

mod socketpipe_gateway_common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::BASE64;
use libp2p_rtc::socketpipe::{
    Capabilities, Frame, FrameLimits, HandshakeRequest, HandshakeResponse, decode_message,
    encode_message,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message, WebSocket, client, client::IntoClientRequest as _, http::Uri,
};

use crate::socketpipe_gateway_common::{
    AtTerminal, Directory, Forward, PATIENCE, Serve, has_network, run,
};

/// Waits until the only session is carried by this.
fn await_path(serve: &Serve, path: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sessions = serve.command(&["sessions"]);
        if sessions.len() == 1 && sessions[0]["path"] == path {
            return;
        }
        assert!(Instant::now() < deadline, "not {path}: {sessions:?}");
        thread::sleep(Duration::from_millis(50));
    }
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
fn a_terminal_over_tls_moves_to_webrtc_and_everybody_can_see_it() {
    if !has_network() {
        return;
    }
    let directory = Directory::new();
    let (certificate, key) = certificate(&directory);
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let serve = Serve::start(&[&["--shell", "/bin/sh"], &tls[..]].concat());
    let invitation = serve.first();
    assert!(invitation.websocket.starts_with("wss://"));
    let args = [
        "connect",
        "--token",
        &invitation.token,
        "--ca",
        &certificate,
        &invitation.websocket,
    ];
    let mut terminal = AtTerminal::start(directory.path(), &args, 80, 24);
    terminal.type_in("echo be''gun\r");
    terminal.await_text("begun");
    await_path(&serve, "webrtc direct");
    terminal.type_in("echo go''es on\r");
    terminal.await_text("goes on");
    terminal.type_in("\r~s");
    terminal.await_text("connected by webrtc direct ");
    terminal.type_in("exit 5\r");
    let (shown, status) = terminal.finish();
    assert_eq!(status, 5, "{shown}");
    let line = serve.audit("session", |line| line["event"] == "session");
    assert_eq!(line["paths"], json!(["websocket", "webrtc direct"]));
    serve.assert_nothing_left();
}

#[test]
fn a_turn_server_of_no_use_is_told_of_at_the_start() {
    if !has_network() {
        return;
    }
    let directory = Directory::new();
    let secret = directory.join("turn.secret");
    std::fs::write(&secret, "secret").unwrap();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = format!("turn:{}?transport=tcp", closed.local_addr().unwrap());
    drop(closed);
    let serve = Serve::start(&["--ice-server", &server, "--turn-secret-file", &secret]);
    let told = serve.audit("word of the server", |line| line["event"] == "ice_server");
    assert_eq!(told["server"], server);
    assert_eq!(told["state"], "cannot be reached");
}

/// A service that gives back what it gets.
fn echo() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                std::io::copy(&mut stream, &mut back).ok();
            });
        }
    });
    target
}

#[test]
fn a_forwarded_connection_that_stays_moves() {
    if !has_network() {
        return;
    }
    let target = echo();
    let serve = Serve::start(&["--no-terminal", "--allow", &target]);
    let invitation = serve.invite(&["--mode", "tunnel", "--uses", "0"]);
    let forward = Forward::start(&invitation.websocket, &invitation.token, &target, &[]);
    let mut stream = TcpStream::connect(forward.address).unwrap();
    await_path(&serve, "webrtc direct");
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut writer, expected) = (stream.try_clone().unwrap(), sent.clone());
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; expected.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == expected, "what comes back is what was sent");
    writing.join().unwrap();
    drop(stream);
    let line = serve.audit("session", |line| line["event"] == "session");
    assert_eq!(line["paths"], json!(["websocket", "webrtc direct"]));
    serve.assert_nothing_left();
    forward.finish();
}

type Socket = WebSocket<TcpStream>;

/// What the server agrees to where the client asks for everything, on a WebSocket that stays open.
fn agreed(url: &str, token: &str) -> (Socket, Capabilities) {
    let uri: Uri = url.parse().unwrap();
    let stream = TcpStream::connect((uri.host().unwrap(), uri.port_u16().unwrap())).unwrap();
    let mut socket = client(url.into_client_request().unwrap(), stream)
        .unwrap()
        .0;
    let request = Frame::HandshakeRequest(HandshakeRequest {
        capabilities: Capabilities::RESUME.with(Capabilities::from_bits(0b1100_0000)),
        major: 1,
        minor: 0,
        port: 0,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: String::new(),
        token: Bytes::copy_from_slice(token.as_bytes()),
    });
    let message = encode_message(&request).unwrap();
    socket.send(Message::Binary(message)).unwrap();
    let Message::Binary(answer) = socket.read().unwrap() else {
        panic!("no answer");
    };
    match decode_message(answer, &FrameLimits::default()).unwrap() {
        Frame::HandshakeResponse(HandshakeResponse::Accepted(accepted)) => {
            (socket, accepted.capabilities)
        }
        other => panic!("{other:?}"),
    }
}

fn serve_with(config: &str, args: &[&str]) -> Serve {
    let directory = Directory::new();
    let file = directory.join("config.toml");
    std::fs::write(&file, config).unwrap();
    let args = [&["--shell", "/bin/sh", "--config", &file], args].concat();
    Serve::start(&args)
}

#[test]
fn what_is_agreed_is_what_is_configured() {
    for (config, args, expected) in [
        ("", &[][..], 0b0100_0010),
        ("", &["--no-webrtc"], 0b10),
        ("[webrtc]\nenabled = false", &[], 0b10),
        ("[webrtc]\ncapability_bit = 7", &[], 0b1000_0010),
        ("[sessions]\nresume = false", &[], 0),
        (
            "[sessions]\nresume = false\n[webrtc]\nwithout_resume = true",
            &[],
            0b0100_0000,
        ),
    ] {
        let serve = serve_with(config, args);
        let (_socket, capabilities) = agreed(&serve.first().websocket, &serve.first().token);
        assert_eq!(capabilities.bits(), expected, "{config} {args:?}");
    }
}

/// Status and body of `POST /ice`.
fn ask(url: &str, token: Option<&str>) -> (u16, String) {
    let uri: Uri = url.parse().unwrap();
    let authority = uri.authority().unwrap();
    let mut stream = TcpStream::connect((uri.host().unwrap(), uri.port_u16().unwrap())).unwrap();
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    write!(
        stream,
        "POST /ice HTTP/1.1\r\nHost: {authority}\r\nOrigin: http://{authority}\r\n{token}\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    if status == 200 {
        assert!(head.contains("cache-control: no-store"), "{head}");
    }
    (status, body.to_owned())
}

#[test]
fn servers_are_told_to_clients_of_sessions_and_to_nobody_else() {
    let directory = Directory::new();
    let secret = directory.join("turn.secret");
    std::fs::write(&secret, "north\n").unwrap();
    let serve = Serve::start(&[
        "--shell",
        "/bin/sh",
        "--ice-server",
        "stun:192.0.2.1:3478",
        "--ice-server",
        "turn:192.0.2.1:3478?transport=udp",
        "--turn-secret-file",
        &secret,
    ]);
    let invitation = serve.first();
    let (url, token) = (&invitation.websocket, &invitation.token);
    assert_eq!(ask(url, None).0, 401);
    assert_eq!(ask(url, Some(token)).0, 401, "no session runs");
    let (mut socket, _) = agreed(url, token);
    assert_eq!(ask(url, Some("guess")).0, 401);
    let (status, body) = ask(url, Some(token));
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["expires_in"], 600);
    assert_eq!(
        answer["iceServers"][0],
        json!({ "urls": ["stun:192.0.2.1:3478"] })
    );
    let turn = &answer["iceServers"][1];
    assert_eq!(turn["urls"], json!(["turn:192.0.2.1:3478?transport=udp"]));
    let username = turn["username"].as_str().unwrap();
    let (end, label) = username.split_once(':').unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let left = end.parse::<u64>().unwrap() - now;
    assert!((500..=600).contains(&left), "{left} s");
    assert_eq!(label.len(), 16);
    let password = BASE64.decode(turn["credential"].as_str().unwrap().as_bytes());
    assert_eq!(password.unwrap().len(), 20);
    // The same session is called the same, so that a TURN server can count its allocations.
    let again: Value = serde_json::from_str(&ask(url, Some(token)).1).unwrap();
    let again = again["iceServers"][1]["username"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(again.ends_with(label), "{again}");
    socket.close(None).ok();
    drop(socket);
    let number = serve.command(&["sessions"])[0]["number"].to_string();
    serve.command(&["sessions", "end", &number]);
    serve.assert_nothing_left();
    assert_eq!(ask(url, Some(token)).0, 401, "the session is over");
}

#[test]
fn without_servers_there_is_nothing_to_be_asked() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let invitation = serve.first();
    let (_socket, _) = agreed(&invitation.websocket, &invitation.token);
    assert_eq!(ask(&invitation.websocket, Some(&invitation.token)).0, 404);
}

#[test]
fn what_cannot_work_is_told_at_the_start() {
    let state = Directory::new();
    let config = state.join("config.toml");
    for (text, args, word) in [
        (
            "",
            &["--ice-server", "http://192.0.2.1"][..],
            "http://192.0.2.1",
        ),
        ("", &["--ice-server", "turn:192.0.2.1"], "secret"),
        (
            "",
            &["--turn-secret-file", "/nonexistent/secret"],
            "/nonexistent/secret",
        ),
        ("", &["--shell", "/nonexistent/shell"], "/nonexistent/shell"),
        ("", &["--shell", "/etc/passwd"], "/etc/passwd"),
        (
            "[terminal]\ndirectory = \"/nonexistent\"",
            &[],
            "/nonexistent",
        ),
        (
            "[websocket]\npublic_url = \"example.com\"",
            &[],
            "https://host/",
        ),
        ("[websocket]\norigins = [\"example.com\"]", &[], "scheme"),
        ("[websocket]\nmax_connections = 0", &[], "max_connections"),
        ("[sessions]\nhold = \"10s\"", &[], "at least 60s"),
        (
            "[webrtc]\nrelay = \"only\"",
            &["--ice-server", "stun:192.0.2.1"],
            "relay",
        ),
        ("[recording]\ninput = true", &[], "recordings"),
    ] {
        std::fs::write(&config, text).unwrap();
        let output = run(
            state.path(),
            &[&["serve", "--config", &config], args].concat(),
        );
        assert_eq!(output.status.code(), Some(1), "{text} {args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(word), "{text} {args:?}: {said}");
    }
}
