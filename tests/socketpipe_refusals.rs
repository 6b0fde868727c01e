//! What is refused, over libp2p and over WebSockets: each refusal has its code and a sentence a person understands, and
//! leaves nothing running.
#![cfg(all(feature = "gateway", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod socketpipe_common;
mod socketpipe_host;

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use libp2p_rtc::socketpipe::{
    Access, Code, Frame, Gate, Grant, HandshakeResponse, OpaqueTokens, Policy,
};
use socketpipe_common::{Node, soon, until};
use socketpipe_host::{Host, Kind, Raw, handshake};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What a client is told last.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Code,
    sentence: String,
}

/// Everything up to the end of the connection: whether a session was open, and the last word.
async fn last_word(raw: &mut Raw) -> (bool, Said) {
    let (mut opened, mut said) = (false, None);
    while let Some(frame) = raw.hear().await {
        let (code, sentence) = match frame {
            Frame::HandshakeResponse(HandshakeResponse::Refused(failure))
            | Frame::Error(failure) => (failure.code, failure.message),
            Frame::Close(close) => {
                let answer = libp2p_rtc::socketpipe::encode_message(&Frame::Close(close.clone()));
                raw.send_bytes(answer.unwrap().to_vec()).await;
                (close.code, close.message)
            }
            Frame::HandshakeResponse(_) => {
                opened = true;
                continue;
            }
            _ => continue,
        };
        said = Some(Said { code, sentence });
    }
    (opened, said.expect("a last word"))
}

/// Tasks of this test that are not done.
fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// `good`, `old`, `public`: any target of the server's, none any more, public addresses only.
async fn host(dead: u16, service: u16) -> Host {
    let mut tokens = OpaqueTokens::default();
    let long_ago = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let public = Some(format!("*:{service}").parse().unwrap());
    for (token, expires, targets) in [
        ("good", None, None),
        ("old", long_ago, None),
        ("public", None, public),
    ] {
        let label = token.to_owned();
        let grant = Grant {
            label,
            expires,
            targets,
            ..Grant::default()
        };
        tokens.insert(token.as_bytes(), grant);
    }
    let access = Access::new(Policy::Token, Policy::Token).with_tokens(tokens);
    let mut gate = Gate::new(access);
    gate.tunnel.allow =
        format!("127.0.0.1:{dead}, 127.0.0.1:{service}, localhost:{service}, nowhere.invalid:80")
            .parse()
            .unwrap();
    Host::with(gate).await
}

/// A service that hangs up at once.
async fn hangs_up() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    port
}

/// What goes wrong, the token, the target, the code and the sentence.
type Case<'a> = (&'a str, &'a str, &'a str, u16, u16, &'a str);

fn cases(dead: u16, service: u16) -> [Case<'static>; 9] {
    let here = "127.0.0.1";
    let not_listed = "this target is not on the server's list of allowed targets";
    let no_token = "this server asks for a token";
    let refused = "nothing listens on that port";
    let elsewhere = "nowhere.invalid";
    [
        (
            "wrong token",
            "guess",
            here,
            dead,
            1000,
            "the token is not valid",
        ),
        ("no token", "", here, dead, 1000, no_token),
        (
            "expired token",
            "old",
            here,
            dead,
            1001,
            "the token has expired",
        ),
        ("refused target", "good", "192.0.2.1", 22, 1002, not_listed),
        (
            "refused by the token",
            "public",
            here,
            service,
            1002,
            not_listed,
        ),
        (
            "refused by the address",
            "public",
            "localhost",
            service,
            1002,
            not_listed,
        ),
        (
            "unknown host",
            "good",
            elsewhere,
            80,
            2000,
            "the host name is not known",
        ),
        ("refused port", "good", here, dead, 2002, refused),
        ("dead backend", "good", here, service, 2003, "closed"),
    ]
}

#[tokio::test]
async fn every_refusal_has_its_code_and_sentence_on_both_kinds_of_path_and_leaves_nothing() {
    let client = Node::new().await;
    let (dead, service) = (free_port(), hangs_up().await);
    let host = host(dead, service).await;
    for kind in [Kind::Peer, Kind::Web] {
        for (name, token, target, port, code, sentence) in cases(dead, service) {
            let mut raw = Raw::dial(&host, kind, &client).await;
            raw.send(handshake(target, port, token)).await;
            let (opened, said) = last_word(&mut raw).await;
            eprintln!("{kind:?}, {name}: {} {}", said.code, said.sentence);
            assert_eq!(
                (said.code, &*said.sentence),
                (Code(code), sentence),
                "{name}"
            );
            assert_eq!(opened, code == 2003, "{name}");
        }
        until(|| host.server.sessions().is_empty()).await;
    }
}

/// A frame that breaks a rule, before and after the handshake.
fn broken_frames() -> [(&'static str, Vec<u8>, u16, &'static str); 4] {
    let oversized = [&[0x10, 0, 0, 0, 0, 2, 0, 0][..], &[7; 131_072]].concat();
    let again = libp2p_rtc::socketpipe::encode_message(&handshake("", 0, "good")).unwrap();
    [
        ("oversized frame", oversized, 3003, "above the limit"),
        (
            "wrong state",
            vec![0x02, 1, 0, 0, 0, 0, 0, 10, 1, 0, 0, 30, 0, 10, 0, 1, 0, 0],
            3002,
            "not allowed",
        ),
        ("second handshake", again.to_vec(), 3002, "not allowed"),
        (
            "reserved field",
            vec![0x10, 0, 0, 1, 0, 0, 0, 0],
            3001,
            "reserved",
        ),
    ]
}

#[tokio::test]
async fn a_broken_frame_is_answered_with_code_and_sentence_on_both_kinds_of_path() {
    let client = Node::new().await;
    let host = Host::new(Policy::Token, &[]).await;
    for kind in [Kind::Peer, Kind::Web] {
        for (name, bytes, code, says) in broken_frames() {
            let mut raw = Raw::dial(&host, kind, &client).await;
            raw.send(handshake("", 0, "secret")).await;
            assert!(matches!(raw.next().await, Frame::HandshakeResponse(_)));
            raw.send_bytes(bytes).await;
            let (_, said) = last_word(&mut raw).await;
            eprintln!("{kind:?}, {name}: {} {}", said.code, said.sentence);
            assert_eq!(said.code, Code(code), "{name}: {said:?}");
            assert!(said.sentence.contains(says), "{name}: {said:?}");
        }
        until(|| host.server.sessions().is_empty()).await;
    }
}

#[tokio::test]
async fn refused_and_broken_connections_leave_no_task_and_no_program() {
    let client = Node::new().await;
    let mut gate = Gate::new(Access::new(Policy::Token, Policy::Token).with_tokens({
        let mut tokens = OpaqueTokens::default();
        tokens.insert(b"good", Grant::default());
        tokens
    }));
    let shell = libp2p_rtc::socketpipe::ShellConfig::new().program("/bin/sh");
    let shell = shell.arg("-c").arg("sleep 86471; :");
    gate.pty.default = Some(libp2p_rtc::socketpipe::PtyDefault::Shell(shell));
    let mut host = Host::with(gate).await;
    host.url = host.url.replace("/tunnel", "/pty");
    let running = || {
        let listed = Command::new("pgrep").args(["-fx", "sleep 86471"]).output();
        !listed.unwrap().stdout.is_empty()
    };
    for kind in [Kind::Peer, Kind::Web] {
        drop(Raw::dial_pty(&host, kind, &client).await);
        // Tasks of a connection that was just dropped may still be on their way out.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = tasks();
        for (name, bytes, code, _) in broken_frames() {
            let mut raw = Raw::dial_pty(&host, kind, &client).await;
            raw.send(handshake("", 0, "good")).await;
            assert!(matches!(raw.next().await, Frame::HandshakeResponse(_)));
            // The program starts with the first size.
            raw.send_bytes(vec![0x20, 0, 0, 0, 0, 0, 0, 8, 0, 80, 0, 24, 0, 0, 0, 0])
                .await;
            until(running).await;
            raw.send_bytes(bytes).await;
            assert_eq!(last_word(&mut raw).await.1.code, Code(code), "{name}");
            drop(raw);
            until(|| !running() && host.server.sessions().is_empty()).await;
        }
        for token in ["", "wrong"] {
            let mut raw = Raw::dial_pty(&host, kind, &client).await;
            raw.send(handshake("", 0, token)).await;
            assert_eq!(last_word(&mut raw).await.1.code, Code::AUTH_FAILED);
        }
        until(|| tasks() <= before).await;
    }
}

/// What an HTTP request gets.
async fn answer(host: &Host, request: &str) -> String {
    let address = host.url.trim_start_matches("ws://").replace("/tunnel", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = request.replace("HERE", &address).replace('\n', "\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    // Half a request is answered by the end.
    stream.shutdown().await.unwrap();
    drop(soon(stream.read_to_end(&mut text)).await);
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_wrong_origin_gets_a_sentence_and_no_websocket() {
    let host = Host::new(Policy::Token, &[]).await;
    let upgrade = "GET /tunnel HTTP/1.1\nHost: HERE\nConnection: Upgrade\nUpgrade: websocket\n\
        Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";
    for origin in [
        "null",
        "",
        "http://evil.example",
        "http://HERE.evil.example",
        "http://HERE@evil.example",
        "http://evil.example/HERE",
        "http://evil.example#HERE",
        "//HERE",
        "file://",
        "http://HERE, http://evil.example",
    ] {
        let text = answer(&host, &format!("{upgrade}Origin: {origin}\n\n")).await;
        assert!(text.starts_with("HTTP/1.1 403 "), "{origin}: {text}");
        let sentence = "pages of this origin may not connect to this server";
        assert!(text.ends_with(sentence), "{origin}: {text}");
    }
    let twice = format!("{upgrade}Origin: http://HERE\nOrigin: http://evil.example\n\n");
    let text = answer(&host, &twice).await;
    assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
    let good = answer(&host, &format!("{upgrade}Origin: HTTP://HERE\n\n")).await;
    assert!(
        good.starts_with("HTTP/1.1 101 ") || good.starts_with("HTTP/1.1 403 "),
        "{good}"
    );
}

#[tokio::test]
async fn a_page_is_a_page_and_nothing_else_is_served() {
    let host = Host::new(Policy::Token, &[]).await;
    for path in [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/app.js/../../etc/passwd",
        "/app.js%00.html",
        "/.",
        "/\\..\\etc\\passwd",
        "/index.html/",
        "http://evil.example/etc/passwd",
    ] {
        let text = answer(
            &host,
            &format!("GET {path} HTTP/1.1\nHost: HERE\nConnection: close\n\n"),
        )
        .await;
        let refused = text.starts_with("HTTP/1.1 404 ") || text.starts_with("HTTP/1.1 400 ");
        assert!(refused, "{path}: {text:.200}");
    }
}

#[tokio::test]
async fn two_requests_in_one_are_not_smuggled_past_each_other() {
    let host = Host::new(Policy::Token, &[]).await;
    let inner = "GET /licenses.txt HTTP/1.1\nHost: HERE\n\n";
    for (name, request) in [
        (
            "both lengths",
            format!(
                "POST / HTTP/1.1\nHost: HERE\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n{inner}"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST / HTTP/1.1\nHost: HERE\nContent-Length: 0\nContent-Length: 40\n\n{inner}"
            ),
        ),
        (
            "an unknown coding",
            format!("POST / HTTP/1.1\nHost: HERE\nTransfer-Encoding: xchunked\n\n{inner}"),
        ),
        (
            "a folded header",
            format!("GET / HTTP/1.1\nHost: HERE\nX: a\n Transfer-Encoding: chunked\n\n{inner}"),
        ),
        (
            "a space before the colon",
            format!("POST / HTTP/1.1\nHost: HERE\nContent-Length : 40\n\n{inner}"),
        ),
    ] {
        let text = answer(&host, &request).await;
        let served = text
            .matches("content-type: text/plain; charset=utf-8")
            .count();
        let page = text.matches("HTTP/1.1 200 ").count();
        eprintln!(
            "{name}: {} answers, {page} of them good, {served} plain",
            text.matches("HTTP/1.1 ").count()
        );
        assert_eq!(page, 0, "{name}: {text:.400}");
    }
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_and_those_that_say_half() {
    let host = Host::new(Policy::Token, &[]).await;
    let client = Node::new().await;
    let address = host.url.trim_start_matches("ws://").replace("/tunnel", "");
    let mut silent = Vec::new();
    for start in [
        "",
        "GET",
        "GET /pty HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        silent.push((start, stream));
    }
    // A page, and nothing after it.
    let mut kept = TcpStream::connect(&address).await.unwrap();
    kept.write_all(format!("GET /licenses.txt HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    silent.push(("kept alive", kept));
    // A WebSocket without a frame, and one with half of a handshake in a message that does not end.
    let mut mute = Raw::dial(&host, Kind::Web, &client).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let (_, said) = last_word(&mut mute).await;
    assert_eq!(said.code, Code::PROTOCOL_ERROR);
    assert_eq!(said.sentence, "no handshake came in time");
    for (start, mut stream) in silent {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest));
        assert!(ended.await.is_ok(), "{start:?} is still open");
    }
    assert!(
        began.elapsed() < Duration::from_secs(45),
        "{:?}",
        began.elapsed()
    );
}

/// Bytes nobody can foresee, the same in every run.
fn noise(state: &mut u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[tokio::test]
async fn noise_ends_its_own_connection_and_nothing_else() {
    let client = Node::new().await;
    let host = Host::new(Policy::Token, &[]).await;
    let mut witness = Raw::dial(&host, Kind::Web, &client).await;
    witness.send(handshake("", 0, "secret")).await;
    assert!(matches!(witness.next().await, Frame::HandshakeResponse(_)));
    assert!(matches!(witness.next().await, Frame::SessionId(_)));
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for kind in [Kind::Peer, Kind::Web] {
        for round in 0..60 {
            let mut raw = Raw::dial(&host, kind, &client).await;
            if round % 2 == 0 {
                raw.send(handshake("", 0, "secret")).await;
            }
            for _ in 0..20 {
                let mut bytes = noise(&mut state, 40);
                // Types that exist, and a length that fits more often than not.
                bytes[0] = [0x01, 0x10, 0x20, 0x21, 0x22, 0x23, 0x30, 0x40, 0x51, 0x62]
                    [usize::from(bytes[0]) % 10];
                bytes[2..8].copy_from_slice(&[0, 0, 0, 0, 0, 32]);
                raw.send_bytes(bytes).await;
            }
        }
    }
    witness
        .send(Frame::Ping(bytes::Bytes::from_static(b"alive")))
        .await;
    assert_eq!(
        witness.next().await,
        Frame::Pong(bytes::Bytes::from_static(b"alive"))
    );
}

/// Resident memory of this process.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn storms_of_sizes_signals_and_variables_are_weathered() {
    let client = Node::new().await;
    let mut tokens = OpaqueTokens::default();
    tokens.insert(b"good", Grant::default());
    let access = Access::new(Policy::Token, Policy::Token).with_tokens(tokens);
    let mut gate = Gate::new(access);
    let shell = libp2p_rtc::socketpipe::ShellConfig::new().program("/bin/sh");
    let shell = shell
        .arg("-c")
        .arg("trap '' HUP TERM INT; while :; do sleep 1; done");
    gate.pty.default = Some(libp2p_rtc::socketpipe::PtyDefault::Shell(shell));
    let mut host = Host::with(gate).await;
    host.url = host.url.replace("/tunnel", "/pty");
    for kind in [Kind::Peer, Kind::Web] {
        let mut raw = Raw::dial_pty(&host, kind, &client).await;
        raw.send(handshake("", 0, "good")).await;
        assert!(matches!(raw.next().await, Frame::HandshakeResponse(_)));
        let before = memory();
        let mut env = vec![0x22, 0, 0, 0, 0, 0, 0x0f, 0xa0, 6];
        env.extend_from_slice(b"LC_ALL\x0f\x97");
        env.resize(8 + 4000, b'x');
        for _ in 0..300 {
            raw.send_bytes(env.clone()).await;
        }
        for number in 0..1000_u16 {
            let [high, low] = number.to_be_bytes();
            let size = [0x20, 0, 0, 0, 0, 0, 0, 8, high, low, 0xff, 0xff, 0, 0, 0, 0];
            raw.send_bytes(size.to_vec()).await;
            let signal = [0x21, 0, 0, 0, 0, 0, 0, 1, 1 + (number % 3) as u8];
            raw.send_bytes(signal.to_vec()).await;
        }
        let began = tokio::time::Instant::now();
        raw.send_bytes(b"\x30\0\0\0\0\0\0\x04you?".to_vec()).await;
        while !matches!(raw.next().await, Frame::Pong(_)) {}
        eprintln!("{kind:?}: {:?} behind the storm", began.elapsed());
        let grown = memory().saturating_sub(before);
        assert!(grown < 32 << 20, "memory has grown by {grown}");
        assert_eq!(host.server.sessions().len(), 1);
        let number = host.server.sessions()[0].number;
        assert!(host.server.end_session(number, Code::POLICY, "enough"));
        until(|| host.server.sessions().is_empty()).await;
    }
}
