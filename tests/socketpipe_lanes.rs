//! Sessions on libp2p connections by `/ws/webrtc`: they follow the connection from its WebSocket to WebRTC and back.
#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "the tests of calls use the rest")]
#[path = "../src/transport/call/tests/coturn.rs"]
mod coturn;
mod socketpipe_common;
mod websocket_proxy;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coturn::{Coturn, free_port};
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, SwarmBuilder, Transport as _, core::muxing::StreamMuxerBox,
    swarm::SwarmEvent,
};
use libp2p_rtc::{
    CallConfig, Caller, IceServer,
    socketpipe::{
        Behaviour, Carrier, Control, Outcome, Record, RemoteSession, Server, SessionHandle,
        SessionOptions, SessionStatus,
        session::{Mode, ServerConfig},
        websocket::{PeerServers, TlsRoots, TurnServers, WebSocketConfig, WebSocketListener},
    },
    websocket::{Config, Limits, Transport},
};
use socketpipe_common::{PATIENCE, echo_service, gate_for, pattern, soon, soon as within, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
    time::Instant,
};
use websocket_proxy::Proxy;

/// More news than a TURN server has for a test.
const ROOM: usize = 256;
/// Bytes that go to and fro at a time.
const PIECE: usize = 10_000;

/// A swarm with no other transport.
struct Node {
    peer: PeerId,
    control: Control,
    address: Multiaddr,
    running: JoinHandle<()>,
}

impl Node {
    async fn new(limits: Limits) -> Self {
        let listen = "/ip4/127.0.0.1/tcp/0/ws/webrtc".parse().unwrap();
        Self::with(calls(), |config| config.with_limits(limits), listen, |_| ()).await
    }

    /// Gives its transport to `take` before it is used.
    async fn with(
        calls: CallConfig,
        change: impl FnOnce(Config) -> Config,
        listen: Multiaddr,
        take: impl FnOnce(&mut Transport),
    ) -> Self {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_other_transport(|keypair| {
                let config = Config::new(keypair).with_caller(Caller::new(calls));
                let mut transport = Transport::new(change(config));
                take(&mut transport);
                transport.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            })
            .unwrap()
            .with_behaviour(|_| Behaviour::new())
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        swarm.listen_on(listen).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let control = swarm.behaviour().control();
        let peer = *swarm.local_peer_id();
        let running = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self {
            peer,
            control,
            address,
            running,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Calls on loopback only.
fn calls() -> CallConfig {
    CallConfig::new().with_announced(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

/// Tries WebRTC again soon.
fn quick() -> Limits {
    let mut limits = Limits::default();
    limits.fallback_after = Duration::from_millis(300);
    limits.webrtc_timeout = Duration::from_secs(1);
    limits.retry_after = Duration::from_millis(300);
    limits
}

/// A session from a client by a proxy to an echo service behind a server.
struct World {
    client: Node,
    host: Node,
    server: Server,
    proxy: Proxy,
    records: Arc<Mutex<Vec<Record>>>,
    options: SessionOptions,
}

impl World {
    async fn new(limits: Limits, config: ServerConfig) -> Self {
        let (client, host) = (Node::new(limits.clone()).await, Node::new(limits).await);
        let mut gate = gate_for(&[client.peer]);
        gate.tunnel.default = Some(("127.0.0.1".to_owned(), echo_service().await));
        let records = Arc::<Mutex<Vec<Record>>>::default();
        let audit = Arc::clone(&records);
        let gate = gate.on_end(move |record| audit.lock().unwrap().push(record.clone()));
        let server = Server::new(config, gate);
        let incoming = host.control.accept().expect("nobody else accepts");
        tokio::spawn(incoming.serve(server.clone()));
        let proxy = Proxy::new(&host.address).await;
        Self {
            client,
            host,
            server,
            proxy,
            records,
            options: SessionOptions::new(Mode::Tunnel),
        }
    }

    async fn open(&self) -> RemoteSession {
        let at = vec![self.proxy.addr.clone()];
        let control = &self.client.control;
        let opening = control.open_at(self.host.peer, at, self.options.clone());
        soon(opening).await.unwrap()
    }

    fn is_carried_by(&self, handle: &SessionHandle, carrier: Carrier) -> bool {
        let sessions = self.server.sessions();
        handle.carrier() == Some(carrier)
            && sessions
                .iter()
                .all(|session| session.carrier == Some(carrier))
    }

    /// Waits until both sides say so.
    async fn goes_by(&self, handle: &SessionHandle, carrier: Carrier) {
        until(|| self.is_carried_by(handle, carrier)).await;
    }

    async fn record(&self) -> Record {
        until(|| !self.records.lock().unwrap().is_empty()).await;
        self.records.lock().unwrap()[0].clone()
    }
}

/// Bytes that go to and fro all the time, each compared.
struct Load {
    stop: Arc<AtomicBool>,
    /// The longest time nothing came, in milliseconds.
    standstill: Arc<AtomicU64>,
    running: JoinHandle<RemoteSession>,
}

impl Load {
    fn new(mut session: RemoteSession) -> Self {
        let (stop, standstill) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, longest) = (stop.clone(), standstill.clone());
        let running = tokio::spawn(async move {
            let sent = pattern(PIECE);
            let mut back = vec![0; PIECE];
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                session.write_all(&sent).await.unwrap();
                session.flush().await.unwrap();
                session.read_exact(&mut back).await.unwrap();
                assert!(back == sent, "what comes back is what was sent");
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
                longest.fetch_max(took, Ordering::Relaxed);
            }
            session
        });
        Self {
            stop,
            standstill,
            running,
        }
    }

    /// The longest time nothing came.
    fn standstill(&self) -> Duration {
        Duration::from_millis(self.standstill.load(Ordering::Relaxed))
    }

    async fn stop(self) -> RemoteSession {
        self.stop.store(true, Ordering::Relaxed);
        soon(self.running).await.unwrap()
    }
}

fn shown(status: &SessionStatus) -> String {
    match status {
        SessionStatus::Connected { path } => path.clone(),
        other => panic!("not connected: {other:?}"),
    }
}

#[tokio::test]
async fn a_session_that_began_on_the_websocket_follows_its_connection_to_webrtc() {
    let world = World::new(quick(), ServerConfig::default()).await;
    world.proxy.set_udp(false);
    let session = world.open().await;
    let handle = session.handle();
    let mut status = handle.watch();
    world.goes_by(&handle, Carrier::StreamWebSocket).await;
    let before = shown(&status.borrow_and_update());
    assert!(before.ends_with(" (WebSocket)"), "{before}");
    let load = Load::new(session);
    world.proxy.set_udp(true);
    soon(status.changed()).await.unwrap();
    let after = shown(&status.borrow_and_update());
    assert!(after.contains("(WebRTC, direct with 127.0.0.1:"), "{after}");
    world.goes_by(&handle, Carrier::StreamWebRtcDirect).await;
    let session = load.stop().await;
    assert!(!status.has_changed().unwrap(), "it has moved once");
    assert_eq!(world.server.sessions().len(), 1, "one session all the time");
    drop(session);
    soon(handle.ended()).await;
    let record = world.record().await;
    assert!(matches!(record.outcome, Outcome::Ended(_)), "{record:?}");
    let both = [Carrier::StreamWebSocket, Carrier::StreamWebRtcDirect];
    assert_eq!(record.carriers, both);
}

#[tokio::test]
async fn a_session_whose_webrtc_is_cut_goes_on_over_the_websocket_and_comes_back() {
    let world = World::new(Limits::default(), ServerConfig::default()).await;
    let session = world.open().await;
    let handle = session.handle();
    world.goes_by(&handle, Carrier::StreamWebRtcDirect).await;
    let load = Load::new(session);
    world.proxy.set_udp(false);
    world.goes_by(&handle, Carrier::StreamWebSocket).await;
    world.proxy.set_udp(true);
    world.goes_by(&handle, Carrier::StreamWebRtcDirect).await;
    let standstill = load.standstill();
    drop(load.stop().await);
    assert!(standstill < Duration::from_secs(10), "{standstill:?}");
    assert!(
        standstill > Duration::from_secs(2),
        "it was cut: {standstill:?}"
    );
}

#[tokio::test]
async fn a_session_whose_server_is_gone_knows_it_soon_after_the_websocket_ended() {
    let world = World::new(Limits::default(), ServerConfig::default()).await;
    let session = world.open().await;
    let handle = session.handle();
    let mut status = handle.watch();
    world.goes_by(&handle, Carrier::StreamWebRtcDirect).await;
    world.proxy.set_udp(false);
    world.proxy.cut_websockets();
    let begun = Instant::now();
    soon(status.wait_for(|status| matches!(status, SessionStatus::Reconnecting { .. })))
        .await
        .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    // By a new connection, which begins on the WebSocket.
    world.goes_by(&handle, Carrier::StreamWebSocket).await;
    world.proxy.set_udp(true);
    world.goes_by(&handle, Carrier::StreamWebRtcDirect).await;
    drop(Load::new(session).stop().await);
}

#[tokio::test]
async fn a_session_stays_on_webrtc_when_only_the_websocket_ends() {
    let world = World::new(Limits::default(), ServerConfig::default()).await;
    let session = world.open().await;
    let handle = session.handle();
    let mut status = handle.watch();
    world.goes_by(&handle, Carrier::StreamWebRtcDirect).await;
    status.mark_unchanged();
    let load = Load::new(session);
    world.proxy.cut_websockets();
    // A closer look at the path takes 3 s.
    tokio::time::timeout(Duration::from_secs(4), status.changed())
        .await
        .unwrap_err();
    drop(load.stop().await);
}

/// A server for this client whose node shares the port of its WebSockets; it knows this TURN server.
async fn gateway(client: &Node, turn: String) -> (Server, Node) {
    let mut gate = gate_for(&[client.peer]);
    gate.tunnel.default = Some(("127.0.0.1".to_owned(), echo_service().await));
    let server = Server::new(ServerConfig::default(), gate);
    let mut config = WebSocketConfig::default();
    config.ice = Some(TurnServers::new(&[turn], b"north").unwrap());
    let listener = WebSocketListener::bind(config, server.clone());
    let listener = listener.await.unwrap();
    let local = listener.local_addr();
    let shared: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}/ws/webrtc", local.port())
        .parse()
        .unwrap();
    let mut acceptor = None;
    let take = |transport: &mut Transport| acceptor = Some(transport.acceptor(local, false));
    let quick = |config: Config| config.with_limits(quick());
    let host = Node::with(calls(), quick, shared, take).await;
    tokio::spawn(listener.with_libp2p(acceptor.unwrap()).run());
    let incoming = host.control.accept().unwrap();
    tokio::spawn(incoming.serve(server.clone()));
    (server, host)
}

/// The client shows no address of its own, so that nothing but TURN leads to WebRTC.
#[tokio::test]
async fn a_session_gets_the_relays_of_the_gateway_and_moves_there() {
    let access = ["--use-auth-secret", "--static-auth-secret=north"];
    let Some(coturn) = Coturn::start_with(free_port(), &access).await else {
        return;
    };
    let known = PeerServers::default();
    let given = known.clone();
    let with_servers = move |config: Config| {
        let config = config.with_limits(quick());
        config.with_servers(move || given.current())
    };
    let any = "/ip4/127.0.0.1/tcp/0/ws/webrtc".parse().unwrap();
    let hidden = calls().with_relay_only(true);
    let client = Node::with(hidden, with_servers, any, |_| ()).await;
    let turn = format!("turn:127.0.0.1:{}?transport=udp", coturn.port);
    let (server, host) = gateway(&client, turn).await;
    let options = SessionOptions::new(Mode::Tunnel).token("secret");
    let opening = client
        .control
        .open_at(host.peer, vec![host.address.clone()], options);
    let session = soon(opening).await.unwrap();
    let handle = session.handle();
    assert_eq!(handle.carrier(), Some(Carrier::StreamWebSocket));
    assert!(known.current().is_empty());
    // Whoever shows another token gets nothing.
    let asking = |token: &'static [u8]| {
        let roots = TlsRoots::default();
        let (handle, at) = (handle.clone(), vec![host.address.clone()]);
        tokio::spawn(
            known
                .clone()
                .ask_for(handle, at, Bytes::from_static(token), roots),
        )
    };
    let load = Load::new(session);
    let refused = asking(b"guess");
    let asked = asking(b"secret");
    until(|| {
        let sessions = server.sessions();
        let relayed = Some(Carrier::StreamWebRtcRelayed);
        handle.carrier() == relayed
            && sessions[0]
                .carrier
                .is_some_and(|carrier| carrier != Carrier::StreamWebSocket)
    })
    .await;
    drop(load.stop().await);
    soon(asked).await.unwrap();
    soon(refused).await.unwrap();
}

#[tokio::test]
async fn a_session_that_cannot_be_resumed_stays_on_the_websocket() {
    let mut config = ServerConfig::default();
    config.resume = None;
    let world = World::new(quick(), config).await;
    world.proxy.set_udp(false);
    let session = world.open().await;
    let handle = session.handle();
    let mut status = handle.watch();
    world.goes_by(&handle, Carrier::StreamWebSocket).await;
    status.mark_unchanged();
    let load = Load::new(session);
    world.proxy.set_udp(true);
    // A second one shows when there is WebRTC.
    soon(async {
        while world.open().await.handle().carrier() != Some(Carrier::StreamWebRtcDirect) {}
    })
    .await;
    let session = load.stop().await;
    assert_eq!(handle.carrier(), Some(Carrier::StreamWebSocket));
    assert!(!status.has_changed().unwrap());
    drop(session);
}
