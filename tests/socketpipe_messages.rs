//! Sessions over messages, as WebSockets carry them, in memory: reconnecting, flow control, malformed messages.
#![cfg(feature = "socketpipe")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod socketpipe_memory;

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future::BoxFuture};
use libp2p_rtc::socketpipe::{
    Access, Code, ConnectError, Connector, Failure, Frame, FrameLimits, Gate, Grant, OpaqueTokens,
    OpenError, Origin, Outcome, Policy, PtyDefault, Server, SessionOptions, Wire, decode_message,
    open,
    session::{EndReason, Mode, PathKind, ServerConfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::socketpipe_memory::Messages;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("took too long")
}

/// A network that can be cut: everything on the way is lost, and both ends notice.
struct Network {
    server: Server,
    mode: Mode,
    cuts: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Connector for Network {
    fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>> {
        let (ours, near) = Messages::pair(2);
        let (far, theirs) = Messages::pair(2);
        let relay = tokio::spawn(async move {
            let (near_out, near_in) = near.split();
            let (far_out, far_in) = far.split();
            let up = near_in.forward(far_out);
            let down = far_in.forward(near_out);
            drop(futures::future::join(up, down).await);
        });
        self.cuts.lock().unwrap().push(relay.abort_handle());
        let wire = Wire::messages(PathKind::WebSocket, theirs);
        let origin = Origin::address("192.0.2.1");
        tokio::spawn(self.server.serve(wire, self.mode, origin));
        let wire = Wire::messages(PathKind::WebSocket, ours).with_label("memory");
        Box::pin(async { Ok(wire) })
    }
}

/// A server that lets `secret` reach an echo service, and what it reported.
async fn server() -> (Server, Arc<Mutex<Vec<Outcome>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (mut reader, mut writer) = stream.into_split();
            tokio::spawn(async move { drop(tokio::io::copy(&mut reader, &mut writer).await) });
        }
    });
    let mut tokens = OpaqueTokens::default();
    let label = "guest".to_owned();
    tokens.insert(
        b"secret",
        Grant {
            label,
            ..Grant::default()
        },
    );
    let access = Access::new(Policy::Peers, Policy::Peers).with_tokens(tokens);
    let outcomes = Arc::<Mutex<Vec<Outcome>>>::default();
    let heard = outcomes.clone();
    let mut gate =
        Gate::new(access).on_end(move |record| heard.lock().unwrap().push(record.outcome.clone()));
    gate.tunnel.default = Some(("127.0.0.1".to_owned(), port));
    (Server::new(ServerConfig::default(), gate), outcomes)
}

fn network(server: &Server) -> Network {
    Network {
        server: server.clone(),
        mode: Mode::Tunnel,
        cuts: Arc::default(),
    }
}

fn options() -> SessionOptions {
    SessionOptions::new(Mode::Tunnel).token("secret")
}

#[tokio::test]
async fn a_token_is_needed_and_suffices() {
    let (server, outcomes) = server().await;
    for token in ["", "wrong"] {
        let refused = soon(open(options().token(token), network(&server))).await;
        let Err(OpenError::Refused(failure)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(failure.code, Code::AUTH_FAILED);
    }
    let mut session = soon(open(options(), network(&server))).await.unwrap();
    session.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    soon(session.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"hello");
    session.handle().close(Code::USER, "bye");
    let end = soon(session.ended()).await;
    assert!(
        matches!(&end.reason, EndReason::Close(close) if close.code == Code::USER),
        "{end:?}"
    );
    soon(async {
        while !server.sessions().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let outcomes = outcomes.lock().unwrap();
    assert!(
        matches!(
            outcomes[..],
            [Outcome::Refused(_), Outcome::Refused(_), Outcome::Ended(_)]
        ),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn cuts_in_the_middle_of_everything_lose_no_byte() {
    let (server, _) = server().await;
    let network = network(&server);
    let cuts = network.cuts.clone();
    let session = soon(open(options(), network)).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(session);
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let expected = sent.clone();
    let writing = tokio::spawn(async move { writer.write_all(&sent).await.map(|()| writer) });
    let mut back = vec![0; expected.len()];
    for (index, part) in back.chunks_mut(1_500_000).enumerate() {
        soon(reader.read_exact(part)).await.unwrap();
        if index % 2 == 0 {
            let last = cuts.lock().unwrap().pop().unwrap();
            last.abort();
            soon(async {
                while cuts.lock().unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }
    assert!(back == expected, "what comes back is what was sent");
    drop(soon(writing).await.unwrap().unwrap());
    assert_eq!(server.sessions().len(), 1);
}

#[tokio::test]
async fn written_bytes_go_before_the_close() {
    let (server, outcomes) = server().await;
    let mut session = soon(open(options(), network(&server))).await.unwrap();
    session.write_all(&[7; 200_000]).await.unwrap();
    let handle = session.handle();
    drop(session);
    soon(handle.ended()).await;
    soon(async {
        while outcomes.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(handle.stats().sent, 200_000);
}

#[tokio::test]
async fn a_text_message_is_an_error_with_a_code() {
    let (server, _) = server().await;
    let (mut ours, theirs) = Messages::pair(2);
    let wire = Wire::messages(PathKind::WebSocket, theirs);
    tokio::spawn(server.serve(wire, Mode::Tunnel, Origin::address("192.0.2.1")));
    ours.send(Bytes::new()).await.unwrap();
    let mut codes = Vec::new();
    while let Some(message) = soon(ours.next()).await {
        match decode_message(message.unwrap(), &FrameLimits::default()).unwrap() {
            Frame::Error(failure) => codes.push(failure.code),
            Frame::Close(close) => codes.push(close.code),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(codes, [Code::INVALID_MESSAGE, Code::INVALID_MESSAGE]);
}

/// What a session to this gate is refused with, and how long that took.
async fn refused_after(gate: Gate) -> (Failure, Duration) {
    let outcomes = Arc::<Mutex<Vec<Outcome>>>::default();
    let heard = outcomes.clone();
    let gate = gate.on_end(move |record| heard.lock().unwrap().push(record.outcome.clone()));
    let server = Server::new(ServerConfig::default(), gate);
    let began = tokio::time::Instant::now();
    let refused = open(options(), network(&server)).await;
    let Err(OpenError::Refused(failure)) = refused else {
        panic!("{refused:?}");
    };
    assert!(server.sessions().is_empty());
    let outcomes = outcomes.lock().unwrap();
    assert!(matches!(&outcomes[..], [Outcome::Refused(told)] if *told == failure));
    (failure, began.elapsed())
}

fn gate_with_token() -> Gate {
    let mut tokens = OpaqueTokens::default();
    tokens.insert(b"secret", Grant::default());
    Gate::new(Access::new(Policy::Peers, Policy::Peers).with_tokens(tokens))
}

#[tokio::test(start_paused = true)]
async fn a_host_that_never_answers_is_given_up_after_ten_seconds() {
    // A port whose queue is full: what comes after that is not answered.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let queued = [(); 4].map(|()| {
        let client =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        drop(client.connect(&address.into()));
        client
    });
    let mut gate = gate_with_token();
    gate.tunnel.default = Some(("127.0.0.1".to_owned(), address.port()));
    let (failure, time) = refused_after(gate).await;
    assert_eq!(failure.code, Code::CONNECT_TIMEOUT);
    assert!(
        failure.message.contains("did not answer in time"),
        "{failure}"
    );
    let ten = Duration::from_secs(10);
    assert!((ten..ten * 2).contains(&time), "{time:?}");
    drop(queued);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_never_comes_about_is_dropped_after_ten_seconds() {
    let alive = Arc::new(());
    let held = alive.clone();
    let mut gate = gate_with_token();
    gate.pty.default = Some(PtyDefault::Custom(Arc::new(move |_| {
        let held = held.clone();
        Box::pin(async move {
            let _held = held;
            std::future::pending().await
        })
    })));
    let server = Server::new(ServerConfig::default(), gate);
    let mut network = network(&server);
    network.mode = Mode::Pty;
    let began = tokio::time::Instant::now();
    let refused = open(SessionOptions::new(Mode::Pty).token("secret"), network).await;
    let Err(OpenError::Refused(failure)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(failure.code, Code::CONNECT_TIMEOUT);
    assert!(
        failure.message.contains("did not answer in time"),
        "{failure}"
    );
    assert_eq!(began.elapsed().as_secs(), 10);
    drop(server);
    // What tried to connect is gone as well; only the gate itself has one.
    soon(async {
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_in_the_handshake_leaves_nothing() {
    let alive = Arc::new(());
    let held = alive.clone();
    let mut gate = gate_with_token();
    gate.pty.default = Some(PtyDefault::Custom(Arc::new(move |_| {
        let held = held.clone();
        Box::pin(async move {
            let _held = held;
            std::future::pending().await
        })
    })));
    let server = Server::new(ServerConfig::default(), gate);
    let mut network = network(&server);
    network.mode = Mode::Pty;
    let opening = open(SessionOptions::new(Mode::Pty).token("secret"), network);
    let second = Duration::from_secs(1);
    assert!(tokio::time::timeout(second, opening).await.is_err());
    let began = tokio::time::Instant::now();
    // The gate has one, the server's attempt another.
    soon(async {
        while Arc::strong_count(&alive) > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(began.elapsed() < second, "{:?}", began.elapsed());
}
