//! One server reached over libp2p and over WebSockets: sessions that move from one to the other, and who may not.
#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod socketpipe_common;
mod socketpipe_host;

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p_rtc::socketpipe::{
    Code, ConnectError, Connector, Flow, Frame, HandshakeResponse, Policy, RemoteSession,
    ResumeRequest, ResumeResponse, SessionOptions, SessionStatus, Wire, open,
    session::{EndReason, Mode},
};
use socketpipe_common::{Node, pattern, soon, until};
use socketpipe_host::{Host, Kind, Raw, echo_gate, handshake};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Each wire by another way than the one before.
struct InTurn(Vec<Box<dyn Connector>>);

impl Connector for InTurn {
    fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>> {
        let connecting = self.0[0].connect();
        self.0.rotate_left(1);
        connecting
    }
}

/// Sends bytes and expects the same back, reading while writing.
async fn echo(session: RemoteSession, bytes: Vec<u8>) -> RemoteSession {
    let (mut reader, mut writer) = tokio::io::split(session);
    let sent = bytes.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let mut back = vec![0; bytes.len()];
    soon(reader.read_exact(&mut back)).await.unwrap();
    assert!(back == bytes, "what comes back is what was sent");
    reader.unsplit(writing.await.unwrap())
}

#[tokio::test]
async fn a_session_moves_between_libp2p_and_websocket_under_load_without_losing_a_byte() {
    let (host, client) = (Host::new(Policy::Token, &[]).await, Node::new().await);
    for first in [Kind::Peer, Kind::Web] {
        let ways = [first, first.other()].map(|kind| host.connector(kind, &client));
        let options = SessionOptions::new(Mode::Tunnel).token("secret");
        let mut session = soon(open(options, InTurn(ways.into()))).await.unwrap();
        let handle = session.handle();
        let mut status = handle.watch();
        let mut kind = first;
        for _ in 0..4 {
            assert!(kind.is_shown_by(&status.borrow_and_update()));
            kind = kind.other();
            let echoing = tokio::spawn(echo(session, pattern(2 << 20)));
            handle.reconnect_now();
            soon(status.wait_for(|status| kind.is_shown_by(status)))
                .await
                .unwrap();
            session = echoing.await.unwrap();
        }
        assert_eq!(host.server.sessions().len(), 1, "one session all the time");
        drop(session);
        soon(handle.ended()).await;
        until(|| host.server.sessions().is_empty()).await;
    }
}

#[tokio::test]
async fn a_session_whose_libp2p_connection_is_lost_goes_on_over_the_websocket() {
    let (host, client) = (Host::new(Policy::Token, &[]).await, Node::new().await);
    let ways = [Kind::Peer, Kind::Web].map(|kind| host.connector(kind, &client));
    let options = SessionOptions::new(Mode::Tunnel).token("secret");
    let session = soon(open(options, InTurn(ways.into()))).await.unwrap();
    let mut status = session.handle().watch();
    let echoing = tokio::spawn(echo(session, pattern(8 << 20)));
    let peer = host.node.peer;
    client
        .run(move |swarm| swarm.disconnect_peer_id(peer))
        .await
        .unwrap();
    soon(status.wait_for(|status| Kind::Web.is_shown_by(status)))
        .await
        .unwrap();
    drop(echoing.await.unwrap());
}

#[tokio::test]
async fn a_session_that_may_not_move_waits_for_a_path_of_its_own_kind() {
    let client = Node::new().await;
    let host = Host::new(Policy::Peers, &[client.peer]).await;
    let ways = [Kind::Peer, Kind::Web].map(|kind| host.connector(kind, &client));
    let options = SessionOptions::new(Mode::Tunnel).token("secret");
    let session = soon(open(options, InTurn(ways.into()))).await.unwrap();
    let handle = session.handle();
    let mut status = handle.watch();
    status.mark_unchanged();
    let peer = host.node.peer;
    client
        .run(move |swarm| swarm.disconnect_peer_id(peer))
        .await
        .unwrap();
    // The WebSocket refuses it, which is not the end of it.
    soon(status.wait_for(|status| matches!(status, SessionStatus::Reconnecting { .. })))
        .await
        .unwrap();
    let back =
        soon(status.wait_for(|status| !matches!(status, SessionStatus::Reconnecting { .. })));
    let back = back.await.unwrap().clone();
    assert!(Kind::Peer.is_shown_by(&back), "{back:?}");
    drop(echo(session, pattern(100_000)).await);
}

/// Opens a session and gives how to go on with it.
async fn opened(raw: &mut Raw, token: &'static str) -> ResumeRequest {
    raw.send(handshake("", 0, token)).await;
    let response = raw.next().await;
    assert!(
        matches!(
            response,
            Frame::HandshakeResponse(HandshakeResponse::Accepted(_))
        ),
        "{response:?}"
    );
    let Frame::SessionId(info) = raw.next().await else {
        panic!("no session id");
    };
    ResumeRequest {
        id: info.id,
        last: 0,
        token: Bytes::new(),
    }
}

/// What becomes of a resume that shows this token.
async fn resume(
    host: &Host,
    kind: Kind,
    client: &Node,
    request: &ResumeRequest,
    token: &'static str,
) -> Result<(), Code> {
    let mut raw = Raw::dial(host, kind, client).await;
    let token = Bytes::from_static(token.as_bytes());
    let request = request.clone();
    raw.send(Frame::ResumeRequest(ResumeRequest { token, ..request }))
        .await;
    match raw.next().await {
        Frame::ResumeResponse(ResumeResponse::Accepted { .. }) => Ok(()),
        Frame::ResumeResponse(ResumeResponse::Refused(failure)) => {
            assert_eq!(failure.message, "no such session", "it tells nothing");
            Err(failure.code)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn another_kind_of_path_needs_the_token_the_session_was_opened_with() {
    let client = Node::new().await;
    let host = Host::new(Policy::Token, &[]).await;
    for kind in [Kind::Peer, Kind::Web] {
        let mut first = Raw::dial(&host, kind, &client).await;
        let request = opened(&mut first, "secret").await;
        // A good token is not enough: it has to be the one.
        for token in ["", "wrong", "other"] {
            let refused = resume(&host, kind.other(), &client, &request, token).await;
            assert_eq!(refused, Err(Code::SESSION_NOT_FOUND), "{kind:?} {token:?}");
        }
        let moved = resume(&host, kind.other(), &client, &request, "secret").await;
        assert_eq!(moved, Ok(()), "{kind:?}");
        // And back: on its own kind it needs what it always needed.
        assert_eq!(resume(&host, kind, &client, &request, "").await, Ok(()));
    }
}

#[tokio::test]
async fn a_session_let_in_by_its_peer_id_goes_nowhere_else_with_any_token() {
    let (client, thief) = (Node::new().await, Node::new().await);
    for policy in [Policy::Peers, Policy::Both] {
        let host = Host::new(policy, &[client.peer, thief.peer]).await;
        let mut first = Raw::dial(&host, Kind::Peer, &client).await;
        let request = opened(&mut first, "secret").await;
        for token in ["", "secret"] {
            let refused = resume(&host, Kind::Web, &client, &request, token).await;
            assert_eq!(refused, Err(Code::SESSION_NOT_FOUND), "{policy} {token:?}");
            let refused = resume(&host, Kind::Peer, &thief, &request, token).await;
            assert_eq!(refused, Err(Code::SESSION_NOT_FOUND), "{policy} {token:?}");
        }
        let back = resume(&host, Kind::Peer, &client, &request, "").await;
        assert_eq!(back, Ok(()));
    }
}

#[tokio::test]
async fn of_two_resumes_at_once_the_newer_one_wins_and_the_other_is_told() {
    let client = Node::new().await;
    let host = Host::new(Policy::Token, &[]).await;
    let mut first = Raw::dial(&host, Kind::Web, &client).await;
    let request = opened(&mut first, "secret").await;
    for _ in 0..20 {
        let mut both = [
            Raw::dial(&host, Kind::Web, &client).await,
            Raw::dial(&host, Kind::Web, &client).await,
        ];
        let [one, two] = &mut both;
        let asked = || Frame::ResumeRequest(request.clone());
        futures::future::join(one.send(asked()), two.send(asked())).await;
        let mut replaced = 0;
        for raw in &mut both {
            // The one that lives answers, perhaps to a resume first.
            raw.send_bytes(b"\x30\0\0\0\0\0\0\x04you?".to_vec()).await;
            loop {
                match raw.next().await {
                    Frame::ResumeResponse(ResumeResponse::Accepted { .. }) => {}
                    Frame::Close(close) if close.code == Code::REPLACED => {
                        replaced += 1;
                        break;
                    }
                    Frame::Pong(_) => break,
                    other => panic!("{other:?}"),
                }
            }
        }
        // The first may have been asked before the second took over.
        assert!(replaced <= 1);
        assert_eq!(host.server.sessions().len(), 1);
    }
}

/// A TCP service that takes one connection and gives it out.
async fn backend() -> (u16, tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().port(), listener)
}

#[tokio::test]
async fn a_session_whose_backend_ended_meanwhile_is_resumed_to_its_end() {
    let client = Node::new().await;
    let (port, service) = backend().await;
    let mut gate = echo_gate(Policy::Token, &[]).await;
    gate.tunnel.default = Some(("127.0.0.1".to_owned(), port));
    let host = Host::with(gate).await;
    let mut first = Raw::dial(&host, Kind::Web, &client).await;
    let request = opened(&mut first, "secret").await;
    let (mut stream, _) = soon(service.accept()).await.unwrap();
    drop(first);
    until(|| !host.server.sessions()[0].connected).await;
    stream.write_all(b"last words").await.unwrap();
    drop(stream);
    let mut again = Raw::dial(&host, Kind::Web, &client).await;
    again.send(Frame::ResumeRequest(request)).await;
    let mut bytes = Vec::new();
    let close = loop {
        match again.next().await {
            Frame::Data(data) => bytes.extend_from_slice(&data.bytes),
            Frame::Close(close) => break close,
            Frame::ResumeResponse(_) | Frame::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (&bytes[..], close.code),
        (&b"last words"[..], Code::BACKEND_CLOSED)
    );
    again.send(Frame::Close(close)).await;
    until(|| host.server.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_session_that_only_delivers_its_last_bytes_is_not_found_any_more() {
    let client = Node::new().await;
    let (port, service) = backend().await;
    let mut gate = echo_gate(Policy::Token, &[]).await;
    gate.tunnel.default = Some(("127.0.0.1".to_owned(), port));
    let host = Host::with(gate).await;
    let mut first = Raw::dial(&host, Kind::Web, &client).await;
    let request = opened(&mut first, "secret").await;
    // The service does not read, so that the session's bytes wait for it long after the goodbye.
    let _unread = soon(service.accept()).await.unwrap();
    let mut number = 0;
    let mut stopped = false;
    while !stopped {
        number += 1;
        let data = libp2p_rtc::socketpipe::Data {
            number: Some(number),
            bytes: Bytes::from(vec![7; 16 * 1024]),
            end: false,
        };
        first.send(Frame::Data(data)).await;
        first.send(Frame::Ping(Bytes::new())).await;
        loop {
            match first.next().await {
                Frame::FlowControl(flow) => stopped = flow == Flow::Pause,
                Frame::Pong(_) => break,
                _ => {}
            }
        }
    }
    first
        .send(Frame::Close(libp2p_rtc::socketpipe::Close {
            by_client: true,
            code: Code::NORMAL,
            message: String::new(),
        }))
        .await;
    while !matches!(first.next().await, Frame::Close(_)) {}
    let answer = tokio::time::timeout(
        std::time::Duration::from_secs(20),
        resume(&host, Kind::Web, &client, &request, ""),
    );
    assert_eq!(answer.await, Ok(Err(Code::SESSION_NOT_FOUND)));
}

#[tokio::test]
async fn a_session_that_was_closed_is_gone_for_every_later_resume() {
    let client = Node::new().await;
    let host = Host::new(Policy::Token, &[]).await;
    let options = SessionOptions::new(Mode::Tunnel).token("secret");
    for _ in 0..20 {
        let connector = host.connector(Kind::Web, &client);
        let session = soon(open(options.clone(), InTurn(vec![connector])))
            .await
            .unwrap();
        let handle = session.handle();
        // A move and the end at the same moment.
        handle.reconnect_now();
        handle.close(Code::USER, "bye");
        let end = soon(handle.ended()).await;
        assert!(matches!(end.reason, EndReason::Close(_)), "{end:?}");
        until(|| host.server.sessions().is_empty()).await;
    }
}

#[tokio::test]
async fn a_connection_that_guesses_session_ids_is_closed() {
    let client = Node::new().await;
    let host = Host::new(Policy::Token, &[]).await;
    for kind in [Kind::Peer, Kind::Web] {
        let mut raw = Raw::dial(&host, kind, &client).await;
        let mut refusals = 0;
        for guess in 0..100_u8 {
            raw.send_bytes([&[0x51, 0, 0, 0, 0, 0, 0, 41, 32][..], &[guess; 32], &[0; 8]].concat())
                .await;
            match raw.hear().await {
                Some(Frame::ResumeResponse(ResumeResponse::Refused(_))) => refusals += 1,
                None => break,
                Some(other) => panic!("{other:?}"),
            }
        }
        assert!(
            (1..=4).contains(&refusals),
            "{refusals} guesses by {kind:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_floods_a_service_that_does_not_read_and_vanishes_leaves_nothing() {
    let client = Node::new().await;
    let (port, service) = backend().await;
    let mut gate = echo_gate(Policy::Token, &[]).await;
    gate.tunnel.default = Some(("127.0.0.1".to_owned(), port));
    let host = Host::with(gate).await;
    let mut raw = Raw::dial(&host, Kind::Web, &client).await;
    opened(&mut raw, "secret").await;
    let (stream, _) = soon(service.accept()).await.unwrap();
    let flood = async {
        for number in 1.. {
            let data = libp2p_rtc::socketpipe::Data {
                number: Some(number),
                bytes: Bytes::from(vec![7; 16 * 1024]),
                end: false,
            };
            // It is told to stop, and does not care.
            raw.send(Frame::Data(data)).await;
        }
    };
    let time = std::time::Duration::from_secs(2);
    assert!(tokio::time::timeout(time, flood).await.is_err());
    let received = host.server.sessions()[0].received;
    assert!(received < 16 << 20, "{received} bytes were taken");
    drop(raw);
    tokio::time::pause();
    until(|| !host.server.sessions()[0].connected).await;
    // Nobody comes back in the time the session is held, and its last bytes are not waited for much longer.
    let held = std::time::Duration::from_secs(300 + 60 + 10);
    let began = tokio::time::Instant::now();
    while !host.server.sessions().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert!(began.elapsed() < held, "it is still there");
    }
    drop(stream);
}
