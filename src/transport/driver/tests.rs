//! Two drivers over loopback sockets, with the real core and without Noise.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Weak,
};

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
use libp2p_core::muxing::StreamMuxerExt;
use libp2p_identity::PeerId;
use tokio::time::timeout;

use super::{super::Certificate, *};
use crate::{
    ConnectionError,
    proto::{
        Dial, DialPolicy, Identity, Limits, credentials::IceVersion, fingerprint::Fingerprint,
    },
    transport::{Connection, Stream, config, shared::StreamLimits},
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A socket with its driver.
struct Node {
    handle: SocketHandle,
    fingerprint: Fingerprint,
}

impl Node {
    fn new(accept: bool) -> Self {
        Self::with(accept, config::Limits::default().to_proto())
    }

    fn with(accept: bool, limits: Limits) -> Self {
        let certificate = Certificate::generate();
        let identity = Identity {
            certificate_der: certificate.certificate_der().to_vec(),
            private_key_der: certificate.private_key_der().to_vec(),
        };
        let endpoint = Endpoint::new(limits, identity, accept, rand::random()).unwrap();
        let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let handle = SocketHandle::spawn_with(socket, endpoint, StreamLimits::default(), None);
        Self {
            handle,
            fingerprint: certificate.fingerprint(),
        }
    }

    fn dial(&self, other: &Self) -> Pending {
        self.handle.dial(Dial {
            remote: other.handle.local_addr(),
            policy: DialPolicy::V1,
            fingerprints: vec![other.fingerprint],
        })
    }

    async fn incoming(&self) -> Incoming {
        within(poll_fn(|cx| self.handle.poll_incoming(cx))).await
    }

    fn shared(&self) -> Weak<SocketShared> {
        Arc::downgrade(self.handle.shared())
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it happens in time")
}

/// Both ends of a connection as Noise would leave them.
async fn connect(dialer: &Node, listener: &Node) -> (Connection, Connection) {
    let dialing = dialer.dial(listener);
    let accepting = async { listener.incoming().await.pending.await };
    let (dialed, accepted) = within(future::join(dialing, accepting)).await;
    let [dialed, accepted] = [dialed, accepted].map(|ready| {
        let ready = ready.unwrap();
        ready.connection.keep_handshake(ready.handshake);
        ready.connection.authenticated(PeerId::random());
        ready.connection
    });
    (dialed, accepted)
}

async fn pair() -> (Node, Node, Connection, Connection) {
    let (dialer, listener) = (Node::new(false), Node::new(true));
    let (dialed, accepted) = connect(&dialer, &listener).await;
    (dialer, listener, dialed, accepted)
}

async fn open(connection: &mut Connection) -> Stream {
    within(poll_fn(|cx| connection.poll_outbound_unpin(cx)))
        .await
        .unwrap()
}

async fn accept(connection: &mut Connection) -> Stream {
    within(poll_fn(|cx| connection.poll_inbound_unpin(cx)))
        .await
        .unwrap()
}

/// A stream from `from` to `to`; its first byte is read already.
async fn stream(from: &mut Connection, to: &mut Connection) -> (Stream, Stream) {
    let mut opened = open(from).await;
    opened.write_all(b"!").await.unwrap();
    let mut accepted = accept(to).await;
    accepted.read_exact(&mut [0]).await.unwrap();
    (opened, accepted)
}

async fn error(connection: &mut Connection) -> ConnectionError {
    within(poll_fn(|cx| connection.poll_unpin(cx)))
        .await
        .unwrap_err()
}

/// Waits until the last reference is gone.
async fn gone<T>(weak: &Weak<T>) {
    within(async {
        while weak.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A driver that runs when the test says, at times that the test makes up.
struct Puppet {
    driver: Driver,
    handle: SocketHandle,
    fingerprint: Fingerprint,
}

impl Puppet {
    fn new(accept: bool) -> Self {
        let certificate = Certificate::generate();
        let identity = Identity {
            certificate_der: certificate.certificate_der().to_vec(),
            private_key_der: certificate.private_key_der().to_vec(),
        };
        let limits = config::Limits::default().to_proto();
        let endpoint = Endpoint::new(limits, identity, accept, rand::random()).unwrap();
        let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let shared = SocketShared::new(socket.local_addr(), StreamLimits::default());
        Self {
            driver: Driver::new(socket, endpoint, Arc::clone(&shared), None),
            handle: SocketHandle::new(shared),
            fingerprint: certificate.fingerprint(),
        }
    }

    async fn turn(&mut self, now: Instant) {
        // The runtime looks at its sockets when it has nothing else to do.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while self.driver.turn(&mut cx, now) == Turn::More {}
    }
}

/// Measures time by what another connection gets done meanwhile.
struct Clock {
    _parts: (Node, Node, Connection, Connection),
    stream: Stream,
}

impl Clock {
    async fn new() -> Self {
        let (dialer, listener, mut dialed, mut accepted) = pair().await;
        let (stream, taken) = stream(&mut dialed, &mut accepted).await;
        tokio::spawn(echo(taken));
        Self {
            _parts: (dialer, listener, dialed, accepted),
            stream,
        }
    }

    /// As long as 500 round trips take.
    async fn tick(&mut self) {
        for _ in 0..500 {
            self.stream.write_all(b"tick").await.unwrap();
            self.stream.read_exact(&mut [0; 4]).await.unwrap();
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

async fn echo(mut stream: Stream) {
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buf).await.unwrap();
        if n == 0 {
            return stream.close().await.unwrap();
        }
        stream.write_all(&buf[..n]).await.unwrap();
    }
}

#[tokio::test]
async fn carries_noise_messages_before_anything_else() {
    let (dialer, listener) = (Node::new(false), Node::new(true));
    let dialing = dialer.dial(&listener);
    let incoming = listener.incoming().await;
    assert_eq!(incoming.remote, dialer.handle.local_addr());
    let (dialed, accepted) = within(future::join(dialing, incoming.pending)).await;
    let (mut dialed, mut accepted) = (dialed.unwrap(), accepted.unwrap());
    assert_eq!(dialed.remote_fingerprint, listener.fingerprint);
    assert_eq!(accepted.remote_fingerprint, dialer.fingerprint);
    assert_eq!(
        (dialed.version, accepted.version),
        (Some(IceVersion::V1), Some(IceVersion::V1))
    );
    accepted.handshake.write_all(b"e").await.unwrap();
    let mut byte = [0];
    within(dialed.handshake.read_exact(&mut byte))
        .await
        .unwrap();
    dialed.handshake.write_all(b"e, ee").await.unwrap();
    let mut message = [0; 5];
    within(accepted.handshake.read_exact(&mut message))
        .await
        .unwrap();
    assert_eq!((&byte, &message), (b"e", b"e, ee"));
}

#[tokio::test]
async fn a_peer_is_not_dead_while_its_keepalive_waits_to_be_read() {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
    let start = Instant::now();
    let (mut dialer, mut listener) = (Puppet::new(false), Puppet::new(true));
    let handle = listener.handle.clone();
    let both_ends = future::join(
        dialer.handle.dial(Dial {
            remote: handle.local_addr(),
            policy: DialPolicy::V1,
            fingerprints: vec![listener.fingerprint],
        }),
        async { poll_fn(|cx| handle.poll_incoming(cx)).await.pending.await },
    );
    let mut both_ends = pin!(both_ends);
    let (dialed, accepted) = within(async {
        loop {
            dialer.turn(start).await;
            listener.turn(start).await;
            if let Some(ends) = both_ends.as_mut().now_or_never() {
                break ends;
            }
        }
    })
    .await;
    let ends = [dialed, accepted].map(Result::unwrap);
    for end in &ends {
        end.connection.authenticated(PeerId::random());
    }
    let limits = config::Limits::default();
    // The dialer asks for a sign of life, and nobody attends to the listener until the time of its peer is up.
    dialer.turn(start + limits.keepalive_interval * 2).await;
    let up = start + limits.idle_timeout;
    listener.turn(up + Duration::from_millis(1)).await;
    assert_eq!(listener.driver.endpoint.connections(), 1);
    // Then the peer is silent.
    listener.turn(up + Duration::from_millis(2)).await;
    listener.turn(up + limits.idle_timeout * 2).await;
    assert_eq!(listener.driver.endpoint.connections(), 1, "nobody attended");
    listener.turn(up + limits.idle_timeout * 3).await;
    assert_eq!(listener.driver.endpoint.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echoes_across_the_shells() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (opened, taken) = stream(&mut dialed, &mut accepted).await;
    let chunk = pattern(256 * 1024);
    let chunks = 256;
    let echoing = tokio::spawn(echo(taken));
    let (mut reader, mut writer) = opened.split();
    let write = async {
        for _ in 0..chunks {
            writer.write_all(&chunk).await.unwrap();
        }
        writer.close().await.unwrap();
    };
    let read = async {
        let mut back = vec![0; chunk.len()];
        for _ in 0..chunks {
            reader.read_exact(&mut back).await.unwrap();
            assert!(back == chunk, "every byte comes back in order");
        }
        assert_eq!(reader.read(&mut back).await.unwrap(), 0);
    };
    within(future::join(write, read)).await;
    within(echoing).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_pauses_stops_the_writer_and_loses_nothing() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (mut writer, mut reader) = stream(&mut dialed, &mut accepted).await;
    let chunk = pattern(251 * 100);
    let mut clock = Clock::new().await;
    let mut written = 0_usize;
    // Until nothing moves any more.
    while let future::Either::Left((n, _)) = future::select(
        writer.write(&chunk[written % 251..]),
        Box::pin(clock.tick()),
    )
    .await
    {
        written += n.unwrap();
    }
    // The writer's buffer, SCTP in flight, the receive window, the reader's buffers in core and shell.
    let bound = (256 + 1024 + 1024 + 64 + 64 + 300) * 1024;
    assert!(written < bound, "{written} bytes are buffered");
    let mut received = 0;
    let mut buf = vec![0; 100_000];
    while received < written {
        let n = within(reader.read(&mut buf)).await.unwrap();
        for (i, byte) in buf[..n].iter().enumerate() {
            assert_eq!(*byte, ((received + i) % 251) as u8);
        }
        received += n;
    }
    // And it goes on.
    let more = async {
        writer.write_all(&chunk).await.unwrap();
        writer.close().await.unwrap();
    };
    let mut rest = Vec::new();
    within(future::join(more, reader.read_to_end(&mut rest)))
        .await
        .1
        .unwrap();
    assert_eq!(rest.len(), chunk.len());
}

#[tokio::test]
async fn streams_that_nobody_reads_do_not_starve_one_that_is_read() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        let (mut writer, reader) = stream(&mut dialed, &mut accepted).await;
        // What fits into the reader's buffers, so that the window stays open.
        writer.write_all(&pattern(64 * 1024)).await.unwrap();
        writer.flush().await.unwrap();
        unread.push((writer, reader));
    }
    let (writer, reader) = stream(&mut dialed, &mut accepted).await;
    let echoing = tokio::spawn(echo(reader));
    let data = pattern(4 * 1024 * 1024);
    let (mut reader, mut writer) = writer.split();
    let write = async {
        writer.write_all(&data).await.unwrap();
        writer.close().await.unwrap();
    };
    let mut received = Vec::new();
    let read = reader.read_to_end(&mut received);
    within(future::join(write, read)).await.1.unwrap();
    assert!(received == data);
    within(echoing).await.unwrap();
    for (_, mut reader) in unread {
        let mut buf = vec![0; 64 * 1024];
        within(reader.read_exact(&mut buf)).await.unwrap();
    }
}

#[tokio::test]
async fn opens_ten_thousand_streams_in_turn() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let shared = dialed.downgrade();
    let echoing = tokio::spawn(async move {
        for _ in 0..10_000 {
            echo(accept(&mut accepted).await).await;
        }
        accepted
    });
    for i in 0..10_000_u32 {
        let mut stream = open(&mut dialed).await;
        stream.write_all(&i.to_be_bytes()).await.unwrap();
        stream.close().await.unwrap();
        let mut back = Vec::new();
        within(stream.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, i.to_be_bytes());
    }
    let accepted = within(echoing).await.unwrap();
    // The driver has forgotten the streams: each would hold its connection.
    within(async {
        while shared.strong_count() > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop((dialed, accepted));
}

#[tokio::test]
async fn half_a_stream_can_be_closed_on_either_side() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (mut one, mut two) = stream(&mut dialed, &mut accepted).await;
    one.write_all(b"request").await.unwrap();
    one.close().await.unwrap();
    let mut request = Vec::new();
    within(two.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"request");
    two.write_all(b"response").await.unwrap();
    two.close().await.unwrap();
    let mut response = Vec::new();
    within(one.read_to_end(&mut response)).await.unwrap();
    assert_eq!(response, b"response");
    for stream in [&mut one, &mut two] {
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
        stream.close().await.unwrap();
        let error = stream.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn dropping_a_stream_resets_it_for_the_peer() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (one, mut two) = stream(&mut dialed, &mut accepted).await;
    drop(one);
    let error = within(two.read(&mut [0; 10])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = within(async {
        loop {
            if let Err(error) = two.write_all(b"anybody?").await {
                return error;
            }
            two.flush().await.ok();
        }
    })
    .await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_wakes_a_waiting_writer_and_reader_of_the_peer() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (mut one, two) = stream(&mut dialed, &mut accepted).await;
    let (mut reader, mut writer) = two.split();
    let blocked = async {
        loop {
            if let Err(error) = writer.write_all(&[0; 10_000]).await {
                return error;
            }
        }
    };
    let reading = async { reader.read(&mut [0; 10]).await.unwrap_err() };
    // The writer blocks at the closed window first.
    let mut clock = Clock::new().await;
    let resetting = async {
        clock.tick().await;
        one.reset();
    };
    let (write, read, ()) = within(future::join3(blocked, reading, resetting)).await;
    assert_eq!(write.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(read.kind(), io::ErrorKind::ConnectionReset);
    // Here the direction for reading was given up, the other was reset.
    let error = one.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let error = one.write(&[0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_peer_that_stops_reading_breaks_the_pipe_only() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (mut one, mut two) = stream(&mut dialed, &mut accepted).await;
    two.stop_reading();
    let error = within(async {
        loop {
            if let Err(error) = one.write_all(&[0; 1000]).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    one.close().await.unwrap();
    two.write_all(b"still here").await.unwrap();
    two.close().await.unwrap();
    let mut rest = Vec::new();
    within(one.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"still here");
}

#[tokio::test]
async fn closing_is_noticed_at_once_by_the_other_side() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (mut one, mut two) = stream(&mut dialed, &mut accepted).await;
    one.write_all(b"last words").await.unwrap();
    one.flush().await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let begin = Instant::now();
    within(poll_fn(|cx| dialed.poll_close_unpin(cx)))
        .await
        .unwrap();
    assert!(error(&mut accepted).await.is_remote());
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    // Again, on both sides.
    for connection in [&mut dialed, &mut accepted] {
        within(poll_fn(|cx| connection.poll_close_unpin(cx)))
            .await
            .unwrap();
    }
    assert!(error(&mut dialed).await.is_local());
    // What was flushed has arrived; then the streams report the end.
    let mut words = [0; 10];
    two.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"last words");
    let error = two.read(&mut words).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = one.read(&mut words).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn dropping_a_connection_closes_it_and_fails_its_streams() {
    let (_dialer, _listener, mut dialed, mut accepted) = pair().await;
    let (mut one, mut two) = stream(&mut dialed, &mut accepted).await;
    drop(dialed);
    assert!(error(&mut accepted).await.is_remote());
    let error = within(two.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = within(one.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn dropping_a_pending_connection_closes_it() {
    let (dialer, listener) = (Node::new(false), Node::new(true));
    let dialing = dialer.dial(&listener);
    let incoming = listener.incoming().await;
    drop(dialing);
    let result = within(async {
        match incoming.pending.await {
            Ok(mut ready) => Err(error(&mut ready.connection).await),
            Err(reason) => Err(reason.into()),
        }
    })
    .await;
    assert!(matches!(result, Err::<(), _>(error) if error.is_remote()));
}

#[tokio::test]
async fn an_inbound_connection_that_nobody_takes_is_closed() {
    let (dialer, listener) = (Node::new(false), Node::new(true));
    let dialing = dialer.dial(&listener);
    drop(listener.incoming().await);
    let result = within(async {
        match dialing.await {
            Ok(mut ready) => error(&mut ready.connection).await,
            Err(reason) => reason.into(),
        }
    })
    .await;
    assert!(result.is_remote(), "{result}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn dialing_a_dead_port_fails_at_once() {
    let dialer = Node::new(false);
    let dead = Node::new(true);
    let target = Node {
        handle: Node::new(true).handle,
        fingerprint: dead.fingerprint,
    };
    let shared = dead.shared();
    let addr = dead.handle.local_addr();
    drop(dead);
    gone(&shared).await;
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let begin = Instant::now();
    let result = within(dialer.handle.dial(Dial {
        remote: addr,
        policy: DialPolicy::Auto,
        fingerprints: vec![target.fingerprint],
    }))
    .await;
    assert_eq!(result.map(|_| ()).unwrap_err(), CloseReason::Refused);
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_second_dial_to_one_address_is_refused() {
    let (dialer, listener, _dialed, _accepted) = pair().await;
    let result = within(dialer.dial(&listener)).await;
    assert_eq!(result.map(|_| ()).unwrap_err(), CloseReason::AddressInUse);
}

#[tokio::test]
async fn nothing_is_left_when_all_handles_are_gone() {
    let (dialer, listener, mut dialed, mut accepted) = pair().await;
    let (one, two) = stream(&mut dialed, &mut accepted).await;
    let sockets = [dialer.shared(), listener.shared()];
    let connections = [dialed.downgrade(), accepted.downgrade()];
    let addr = listener.handle.local_addr();
    // Also with a stream that outlives everything else.
    drop((dialer, listener, dialed, accepted, one));
    gone(&connections[0]).await;
    gone(&sockets[0]).await;
    drop(two);
    for weak in connections {
        gone(&weak).await;
    }
    for weak in sockets {
        gone(&weak).await;
    }
    // The socket is closed too.
    within(async {
        while Socket::bind(addr).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_keep_the_driver_running() {
    let (dialer, listener, mut dialed, mut accepted) = pair().await;
    let weak = dialer.handle.downgrade();
    drop((dialer, listener));
    let (mut one, mut two) = stream(&mut dialed, &mut accepted).await;
    one.write_all(b"on we go").await.unwrap();
    within(two.read_exact(&mut [0; 8])).await.unwrap();
    // A dialed connection counts as a user of its socket, for the next dial.
    assert!(weak.upgrade().is_some());
    drop(dialed);
    drop(one);
    within(async {
        while weak.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_stops_takes_no_new_connections() {
    let (dialer, listener) = (Node::new(false), Node::new(true));
    listener.handle.set_accept_incoming(false);
    let mut clock = Clock::new().await;
    let dialing = future::select(dialer.dial(&listener), Box::pin(clock.tick())).await;
    assert!(
        matches!(dialing, future::Either::Right(_)),
        "nobody answers"
    );
    assert!(
        poll_fn(|cx| listener.handle.poll_incoming(cx))
            .now_or_never()
            .is_none()
    );
}

#[test]
fn handles_fail_when_the_runtime_is_gone() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (dialer, listener, mut dialed, mut one) = runtime.block_on(async {
        let (dialer, listener, mut dialed, mut accepted) = pair().await;
        let (one, _two) = stream(&mut dialed, &mut accepted).await;
        (dialer, listener, dialed, one)
    });
    let pending = dialer.dial(&listener);
    drop(runtime);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let result = dialed.poll_unpin(&mut cx);
    assert!(matches!(result, Poll::Ready(Err(error)) if error.is_local()));
    assert!(
        one.read(&mut [0])
            .now_or_never()
            .is_some_and(|result| result.is_err())
    );
    assert_eq!(
        pending.now_or_never().map(Result::err),
        Some(Some(CloseReason::Local))
    );
    let late = dialer.dial(&listener).now_or_never();
    assert_eq!(late.map(Result::err), Some(Some(CloseReason::Local)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_streams_at_once_share_a_connection() {
    let limits = Limits {
        // More than these are reset: who accepts may be slower than who opens.
        max_unaccepted_streams: 1000,
        ..config::Limits::default().to_proto()
    };
    let (dialer, listener) = (Node::new(false), Node::with(true, limits));
    let (mut dialed, mut accepted) = connect(&dialer, &listener).await;
    let echoing = tokio::spawn(async move {
        let mut echoes = Vec::new();
        for _ in 0..1000 {
            echoes.push(tokio::spawn(echo(accept(&mut accepted).await)));
        }
        for echo in echoes {
            echo.await.unwrap();
        }
        accepted
    });
    let mut requests = Vec::new();
    for i in 0..1000_usize {
        let mut stream = open(&mut dialed).await;
        requests.push(tokio::spawn(async move {
            let data = pattern(1000 + i);
            stream.write_all(&data).await.unwrap();
            stream.close().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert!(back == data);
        }));
    }
    for request in requests {
        within(request).await.unwrap();
    }
    within(echoing).await.unwrap();
}

/// A driver that nobody runs.
fn driver() -> Driver {
    let certificate = Certificate::generate();
    let identity = Identity {
        certificate_der: certificate.certificate_der().to_vec(),
        private_key_der: certificate.private_key_der().to_vec(),
    };
    let limits = config::Limits::default().to_proto();
    let endpoint = Endpoint::new(limits, identity, true, rand::random()).unwrap();
    let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let shared = SocketShared::new(socket.local_addr(), StreamLimits::default());
    Driver::new(socket, endpoint, shared, None)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[tokio::test]
async fn without_metrics_nothing_is_kept_for_them() {
    let (mut driver, now) = (driver(), now());
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    driver.endpoint.dial(
        now,
        Dial {
            remote,
            policy: DialPolicy::V1,
            fingerprints: Vec::new(),
        },
    );
    driver.endpoint.handle_unreachable(now, remote);
    driver.record();
    assert_eq!(driver.endpoint.poll_phase(), None);
}

#[tokio::test]
async fn a_pause_in_receiving_that_is_over_does_not_keep_a_blocked_driver_busy() {
    let (mut driver, now) = (driver(), now());
    driver.sockets.rest_until(now);
    let transmit = Transmit {
        destination: driver.shared.local_addr(),
        source_ip: None,
        segment_size: None,
        contents: vec![0],
    };
    driver.unsent = Some((transmit, 0));
    let mut cx = Context::from_waker(futures::task::noop_waker_ref());
    assert_eq!(driver.park(&mut cx, now), Turn::Idle);
}
