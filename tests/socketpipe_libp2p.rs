//! Sessions between real swarms on loopback: tunnels over every transport, refusals, moves between connections.
#![cfg(feature = "socketpipe")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod socketpipe_common;

use asynchronous_codec::Framed;
use futures::{SinkExt as _, StreamExt as _};
use libp2p::{
    Multiaddr,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use libp2p_rtc::socketpipe::{
    Access, Capabilities, Code, Frame, FrameCodec, FrameLimits, Gate, Grant, HandshakeRequest,
    HandshakeResponse, OpaqueTokens, OpenError, Policy, RemoteSession, ResumeRequest,
    ResumeResponse, SessionOptions, SessionStatus, TUNNEL_PROTOCOL,
    session::{EndReason, Mode},
};
use socketpipe_common::{Node, echo_service, gate_for, pattern, soon, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn tunnel(port: u16) -> SessionOptions {
    SessionOptions::new(Mode::Tunnel).target("127.0.0.1", port)
}

/// A gate that lets these peers reach any port of loopback.
fn open_gate(client: &Node) -> Gate {
    let mut gate = gate_for(&[client.peer]);
    gate.tunnel.allow = "127.0.0.1:*".parse().unwrap();
    gate
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

async fn echoes_over(choose: impl Fn(&Node) -> Multiaddr) {
    let (server, client) = (Node::new().await, Node::new().await);
    let sessions = server.serve(open_gate(&client));
    let port = echo_service().await;
    let at = vec![choose(&server)];
    let opening = client
        .control
        .open_at(server.peer, at.clone(), tunnel(port));
    let session = soon(opening).await.unwrap();
    let handle = session.handle();
    let SessionStatus::Connected { path } = handle.status() else {
        panic!("not connected: {:?}", handle.status());
    };
    assert!(path.starts_with("direct /ip4/127.0.0.1/"), "{path}");
    let session = echo(session, pattern(1 << 20)).await;
    assert_eq!(sessions.sessions().len(), 1);
    assert_eq!(handle.stats().received, 1 << 20);
    drop(session);
    let end = soon(handle.ended()).await;
    assert!(
        matches!(&end.reason, EndReason::Close(close) if close.code == Code::NORMAL),
        "{end:?}"
    );
    until(|| sessions.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_tunnel_echoes_over_webrtc() {
    echoes_over(|node| node.webrtc.clone()).await;
}

#[tokio::test]
async fn a_tunnel_echoes_over_quic() {
    echoes_over(|node| node.quic.clone()).await;
}

#[tokio::test]
async fn a_tunnel_echoes_over_tcp() {
    echoes_over(|node| node.tcp.clone()).await;
}

/// The code and sentence of a refusal.
async fn refusal(server: &Node, client: &Node, options: SessionOptions) -> (Code, String) {
    let at = vec![server.quic.clone()];
    match soon(client.control.open_at(server.peer, at, options)).await {
        Err(OpenError::Refused(failure)) => (failure.code, failure.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn every_refusal_has_its_code_and_a_sentence() {
    let (server, client) = (Node::new().await, Node::new().await);
    let mut tokens = OpaqueTokens::default();
    tokens.insert(
        b"secret",
        Grant {
            label: "guest".to_owned(),
            ..Grant::default()
        },
    );
    let mut gate = Gate::new(Access::new(Policy::Peers, Policy::Token).with_tokens(tokens));
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    gate.tunnel.allow = format!("127.0.0.1:{dead}, no-such-host.invalid:*")
        .parse()
        .unwrap();
    let sessions = server.serve(gate);
    let with_token = |host: &str, port| {
        SessionOptions::new(Mode::Tunnel)
            .target(host, port)
            .token("secret")
    };
    for (options, code, says) in [
        (
            SessionOptions::new(Mode::Pty),
            Code::AUTH_INSUFFICIENT,
            "does not list peer",
        ),
        (tunnel(dead), Code::AUTH_FAILED, "asks for a token"),
        (tunnel(dead).token("wrong"), Code::AUTH_FAILED, "not valid"),
        (
            with_token("127.0.0.1", 1),
            Code::AUTH_INSUFFICIENT,
            "allowed targets",
        ),
        (
            with_token("192.0.2.1", 22),
            Code::AUTH_INSUFFICIENT,
            "allowed targets",
        ),
        (with_token("", 0), Code::AUTH_INSUFFICIENT, "named targets"),
        (
            with_token("127.0.0.1", dead),
            Code::CONNECT_REFUSED,
            "nothing listens",
        ),
        (
            with_token("no-such-host.invalid", 1),
            Code::CONNECT_FAILED,
            "not known",
        ),
    ] {
        let (found, sentence) = refusal(&server, &client, options).await;
        assert_eq!(found, code, "{sentence}");
        assert!(sentence.contains(says), "{sentence}");
    }
    assert!(sessions.sessions().is_empty(), "nothing is left running");
}

#[tokio::test]
async fn a_peer_that_offers_nothing_says_so() {
    let (server, client) = (Node::new().await, Node::new().await);
    let at = vec![server.quic.clone()];
    let opened = soon(client.control.open_at(server.peer, at, tunnel(22))).await;
    let Err(OpenError::Unreachable(why)) = opened else {
        panic!("opened: {opened:?}");
    };
    assert!(why.message.contains("does not offer tunnels"), "{why}");
}

#[tokio::test]
async fn a_peer_nobody_can_reach_is_an_error_and_no_hang() {
    let client = Node::new().await;
    let opened = soon(client.control.open(libp2p::PeerId::random(), tunnel(22))).await;
    assert!(
        matches!(opened, Err(OpenError::Unreachable(_))),
        "{opened:?}"
    );
}

#[tokio::test]
async fn a_backend_that_ends_ends_the_session_with_all_its_bytes() {
    let (server, client) = (Node::new().await, Node::new().await);
    server.serve(open_gate(&client));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&pattern(300_000)).await.unwrap();
    });
    let at = vec![server.webrtc.clone()];
    let mut session = soon(client.control.open_at(server.peer, at, tunnel(port)))
        .await
        .unwrap();
    let mut all = Vec::new();
    soon(session.read_to_end(&mut all)).await.unwrap();
    assert!(all == pattern(300_000), "{} bytes", all.len());
    let end = soon(session.ended()).await;
    assert!(
        matches!(&end.reason, EndReason::Close(close) if close.code == Code::BACKEND_CLOSED),
        "{end:?}"
    );
}

/// Dials one more connection and waits until both sides have it.
async fn connect_also(client: &Node, server: &Node, addr: &Multiaddr) {
    let before = client.control.connections(&server.peer).len();
    let opts = DialOpts::peer_id(server.peer)
        .addresses(vec![addr.clone()])
        .condition(PeerCondition::Always)
        .build();
    client.run(move |swarm| swarm.dial(opts)).await.unwrap();
    until(|| {
        client.control.connections(&server.peer).len() > before
            && server.control.connections(&client.peer).len() > before
    })
    .await;
}

#[tokio::test]
async fn a_session_moves_between_connections_under_load_without_losing_a_byte() {
    let (server, client) = (Node::new().await, Node::new().await);
    let sessions = server.serve(open_gate(&client));
    let port = echo_service().await;
    let at = vec![server.tcp.clone()];
    let session = soon(client.control.open_at(server.peer, at, tunnel(port)))
        .await
        .unwrap();
    let handle = session.handle();
    connect_also(&client, &server, &server.quic).await;
    connect_also(&client, &server, &server.webrtc).await;
    let mut paths = handle.watch();
    let moving = tokio::spawn({
        let handle = handle.clone();
        async move {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..6 {
                if let SessionStatus::Connected { path } = paths.borrow_and_update().clone() {
                    seen.insert(path);
                }
                handle.reconnect_now();
                paths.changed().await.unwrap();
            }
            seen
        }
    });
    let mut session = session;
    while !moving.is_finished() {
        session = echo(session, pattern(4 << 20)).await;
    }
    let seen = moving.await.unwrap();
    assert!(seen.len() >= 2, "it moved: {seen:?}");
    let session = echo(session, pattern(1 << 20)).await;
    assert_eq!(sessions.sessions().len(), 1, "one session all the time");
    drop(session);
}

#[tokio::test]
async fn a_session_survives_the_loss_of_its_connection() {
    let (server, client) = (Node::new().await, Node::new().await);
    server.serve(open_gate(&client));
    let port = echo_service().await;
    for lost in 0..2 {
        let at = vec![server.quic.clone(), server.webrtc.clone()];
        let session = soon(client.control.open_at(server.peer, at, tunnel(port)))
            .await
            .unwrap();
        let mut status = session.handle().watch();
        let echoing = tokio::spawn(echo(session, pattern(8 << 20)));
        // Cut by the client, then by the server: every connection there is.
        let (cutter, other) = if lost == 0 {
            (&client, server.peer)
        } else {
            (&server, client.peer)
        };
        cutter
            .run(move |swarm| swarm.disconnect_peer_id(other))
            .await
            .unwrap();
        let reconnecting =
            |status: &SessionStatus| matches!(status, SessionStatus::Reconnecting { .. });
        soon(status.wait_for(reconnecting)).await.unwrap();
        drop(echoing.await.unwrap());
    }
}

type Raw = Framed<libp2p::Stream, FrameCodec>;

/// A stream with frames made by hand.
async fn raw(client: &Node, server: &Node) -> Raw {
    let mut control = client.raw.clone();
    let stream = soon(control.open_stream(server.peer, TUNNEL_PROTOCOL))
        .await
        .unwrap();
    Framed::new(stream, FrameCodec::new(FrameLimits::default()))
}

async fn next(raw: &mut Raw) -> Frame {
    soon(raw.next())
        .await
        .expect("the stream goes on")
        .expect("what comes is a frame")
}

async fn connect(client: &Node, server: &Node) {
    connect_also(client, server, &server.quic).await;
}

fn request(host: &str, port: u16) -> Frame {
    Frame::HandshakeRequest(HandshakeRequest {
        capabilities: Capabilities::RESUME,
        major: 1,
        minor: 0,
        port,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: host.to_owned(),
        token: bytes::Bytes::new(),
    })
}

#[tokio::test]
async fn a_stolen_session_id_is_useless_to_another_peer() {
    let (server, owner, thief) = (Node::new().await, Node::new().await, Node::new().await);
    let mut gate = gate_for(&[owner.peer, thief.peer]);
    gate.tunnel.allow = "127.0.0.1:*".parse().unwrap();
    let sessions = server.serve(gate);
    let port = echo_service().await;
    connect(&owner, &server).await;
    connect(&thief, &server).await;
    let mut stream = raw(&owner, &server).await;
    stream.send(request("127.0.0.1", port)).await.unwrap();
    let response = next(&mut stream).await;
    assert!(
        matches!(
            response,
            Frame::HandshakeResponse(HandshakeResponse::Accepted(_))
        ),
        "{response:?}"
    );
    let Frame::SessionId(info) = next(&mut stream).await else {
        panic!("no session id");
    };
    let resume = ResumeRequest {
        id: info.id,
        last: 0,
        token: bytes::Bytes::new(),
    };
    let mut stolen = raw(&thief, &server).await;
    stolen
        .send(Frame::ResumeRequest(resume.clone()))
        .await
        .unwrap();
    let Frame::ResumeResponse(ResumeResponse::Refused(failure)) = next(&mut stolen).await else {
        panic!("the thief was let in");
    };
    assert_eq!(failure.code, Code::SESSION_NOT_FOUND);
    // The owner may, and the connection it left is closed.
    let mut again = raw(&owner, &server).await;
    again.send(Frame::ResumeRequest(resume)).await.unwrap();
    let answer = next(&mut again).await;
    assert!(
        matches!(
            answer,
            Frame::ResumeResponse(ResumeResponse::Accepted { .. })
        ),
        "{answer:?}"
    );
    while soon(stream.next()).await.is_some_and(|frame| frame.is_ok()) {}
    assert_eq!(sessions.sessions().len(), 1);
}

#[tokio::test]
async fn strangers_get_two_streams_at_once_and_no_more() {
    let (server, stranger) = (Node::new().await, Node::new().await);
    server.serve(gate_for(&[]));
    connect(&stranger, &server).await;
    let mut first = raw(&stranger, &server).await;
    let _second = raw(&stranger, &server).await;
    let mut streams = Vec::new();
    // The first two wait for a handshake; whatever comes beside them is closed without a word.
    for stream in [raw(&stranger, &server).await, raw(&stranger, &server).await] {
        streams.push(stream);
    }
    let mut closed = 0;
    for stream in &mut streams {
        stream.send(request("", 0)).await.ok();
        closed += usize::from(!matches!(soon(stream.next()).await, Some(Ok(_))));
    }
    assert_eq!(closed, 2);
    // A place is free again when its stream has been answered.
    first.send(request("", 0)).await.unwrap();
    let answer = next(&mut first).await;
    assert!(
        matches!(
            answer,
            Frame::HandshakeResponse(HandshakeResponse::Refused(_))
        ),
        "{answer:?}"
    );
    drop(first);
    soon(async {
        loop {
            let mut stream = raw(&stranger, &server).await;
            stream.send(request("", 0)).await.ok();
            if let Some(Ok(_)) = stream.next().await {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_oversized_frame_and_a_wrong_state_get_their_codes() {
    let (server, client) = (Node::new().await, Node::new().await);
    server.serve(open_gate(&client));
    connect(&client, &server).await;
    let mut control = client.raw.clone();
    let mut stream = soon(control.open_stream(server.peer, TUNNEL_PROTOCOL))
        .await
        .unwrap();
    // A HANDSHAKE_REQUEST of 4 GiB - 1.
    futures::AsyncWriteExt::write_all(&mut stream, &[1, 0, 0, 0, 255, 255, 255, 255])
        .await
        .unwrap();
    futures::AsyncWriteExt::flush(&mut stream).await.unwrap();
    let mut framed = Framed::new(stream, FrameCodec::new(FrameLimits::default()));
    let Frame::HandshakeResponse(HandshakeResponse::Refused(failure)) = next(&mut framed).await
    else {
        panic!("accepted");
    };
    assert_eq!(failure.code, Code::MESSAGE_TOO_LARGE);
    let mut early = raw(&client, &server).await;
    early
        .send(Frame::Data(libp2p_rtc::socketpipe::Data::default()))
        .await
        .unwrap();
    let Frame::Error(failure) = next(&mut early).await else {
        panic!("no error");
    };
    assert_eq!(failure.code, Code::INVALID_STATE);
}

#[tokio::test]
async fn a_shutdown_says_goodbye_to_every_session() {
    let (server, client) = (Node::new().await, Node::new().await);
    let sessions = server.serve(open_gate(&client));
    let port = echo_service().await;
    let at = vec![server.quic.clone()];
    let one = soon(
        client
            .control
            .open_at(server.peer, at.clone(), tunnel(port)),
    )
    .await
    .unwrap();
    let two = soon(
        client
            .control
            .open_at(server.peer, at.clone(), tunnel(port)),
    )
    .await
    .unwrap();
    soon(sessions.shutdown()).await;
    for session in [one, two] {
        let end = soon(session.ended()).await;
        assert!(
            matches!(&end.reason, EndReason::Close(close) if close.code == Code::GOING_AWAY),
            "{end:?}"
        );
    }
    assert!(sessions.sessions().is_empty());
    let (code, _) = refusal(&server, &client, tunnel(port)).await;
    assert_eq!(code, Code::CONNECT_FAILED);
}
