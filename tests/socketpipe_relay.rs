//! Sessions through a real relay (circuit relay v2) and from there to direct connections: a move, a hole punch, circuits
//! cut at the relay's limit.
#![cfg(feature = "socketpipe")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod socketpipe_common;

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    core::{Endpoint, transport::PortUse},
    dcutr, identify,
    multiaddr::Protocol,
    noise, relay,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, SwarmEvent, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
    yamux,
};
use libp2p_rtc::{
    Config, Transport,
    socketpipe::{
        Behaviour, Control, Gate, OpenError, RelayPolicy, RemoteSession, Server, SessionOptions,
        SessionStatus,
        session::{Mode, ServerConfig},
    },
};
use socketpipe_common::{PATIENCE, echo_service, gate_for, pattern, soon, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, watch},
};

/// What a circuit of rust-libp2p's relay carries by default.
const CIRCUIT_LIMIT: u64 = 128 * 1024;

#[derive(NetworkBehaviour)]
struct RelayNode {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
}

#[derive(NetworkBehaviour)]
struct Member {
    sessions: Behaviour,
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    candidates: Candidates,
    punch: Toggle<dcutr::Behaviour>,
}

/// Tells DCUtR the addresses of the listeners. What identify reports has no certhash: nobody could dial it.
#[derive(Default)]
struct Candidates(VecDeque<Multiaddr>);

impl NetworkBehaviour for Candidates {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::NewListenAddr(listening) = event {
            self.0.push_back(listening.addr.clone());
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        let next = self.0.pop_front().map(ToSwarm::NewExternalAddrCandidate);
        next.map_or(Poll::Pending, Poll::Ready)
    }
}

fn identify(key: &libp2p::identity::Keypair) -> identify::Behaviour {
    identify::Behaviour::new(identify::Config::new(
        "/relay-test".to_owned(),
        key.public(),
    ))
}

async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>, addr: Multiaddr) -> Multiaddr {
    swarm.listen_on(addr).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = soon(swarm.select_next_some()).await {
            return address;
        }
    }
}

fn anywhere() -> Multiaddr {
    "/ip4/127.0.0.1/udp/0/webrtc-direct".parse().unwrap()
}

/// Starts a relay whose circuits carry this many bytes (0: any number); the beginning of all addresses through it.
async fn relay(max_circuit_bytes: u64) -> Multiaddr {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key)))
        .unwrap()
        .with_behaviour(|key| RelayNode {
            relay: relay::Behaviour::new(
                key.public().to_peer_id(),
                relay::Config {
                    max_circuit_bytes,
                    ..relay::Config::default()
                },
            ),
            identify: identify(key),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    let addr = listen(&mut swarm, anywhere()).await;
    swarm.add_external_address(addr.clone());
    let peer = *swarm.local_peer_id();
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    addr.with(Protocol::P2p(peer)).with(Protocol::P2pCircuit)
}

/// What happened to a node so far.
#[derive(Default)]
struct Seen {
    /// Hole punches that worked.
    punched: usize,
}

type Task = Box<dyn FnOnce(&mut Swarm<Member>) + Send>;

/// A node that uses relays.
struct Node {
    peer: PeerId,
    control: Control,
    direct: Multiaddr,
    seen: watch::Receiver<Seen>,
    tasks: mpsc::Sender<Task>,
}

impl Node {
    /// Reachable through `circuit`, if there is one.
    async fn new(circuit: Option<&Multiaddr>, punch: bool) -> Self {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_other_transport(|key| Transport::new(Config::new(key)))
            .unwrap()
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key, relay| Member {
                sessions: Behaviour::new(),
                relay,
                identify: identify(key),
                candidates: Candidates::default(),
                punch: punch
                    .then(|| dcutr::Behaviour::new(key.public().to_peer_id()))
                    .into(),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let direct = listen(&mut swarm, anywhere()).await;
        if let Some(circuit) = circuit {
            listen(&mut swarm, circuit.clone()).await;
        }
        let (peer, control) = (*swarm.local_peer_id(), swarm.behaviour().sessions.control());
        let (tasks, inbox) = mpsc::channel(4);
        let (sender, seen) = watch::channel(Seen::default());
        tokio::spawn(drive(swarm, inbox, sender));
        Self {
            peer,
            control,
            direct,
            seen,
            tasks,
        }
    }

    async fn run(&self, task: impl FnOnce(&mut Swarm<Member>) + Send + 'static) {
        assert!(self.tasks.send(Box::new(task)).await.is_ok());
    }

    fn serve(&self, client: &Self) -> Server {
        let mut gate: Gate = gate_for(&[client.peer]);
        gate.tunnel.allow = "127.0.0.1:*".parse().unwrap();
        let server = Server::new(ServerConfig::default(), gate);
        let incoming = self.control.accept().expect("nobody else accepts");
        tokio::spawn(incoming.serve(server.clone()));
        server
    }

    /// Dials one more connection.
    async fn dial(&self, peer: PeerId, addr: &Multiaddr) {
        let opts = DialOpts::peer_id(peer)
            .addresses(vec![addr.clone()])
            .condition(PeerCondition::Always)
            .build();
        self.run(move |swarm| swarm.dial(opts).unwrap()).await;
    }

    /// Closes all connections to `peer` of this kind, and waits until they are gone.
    async fn cut(&self, peer: PeerId, relayed: bool) {
        let mut all = self.control.connections(&peer);
        all.retain(|connection| connection.relayed == relayed);
        assert!(!all.is_empty(), "there is something to cut");
        for connection in all {
            let id = connection.id;
            self.run(move |swarm| assert!(swarm.close_connection(id)))
                .await;
            until(|| !self.control.connections(&peer).contains(&connection)).await;
        }
    }
}

async fn drive(
    mut swarm: Swarm<Member>,
    mut inbox: mpsc::Receiver<Task>,
    seen: watch::Sender<Seen>,
) {
    loop {
        let event = tokio::select! {
            task = inbox.recv() => match task {
                Some(task) => {
                    task(&mut swarm);
                    continue;
                }
                None => return,
            },
            event = swarm.select_next_some() => event,
        };
        let SwarmEvent::Behaviour(event) = event else {
            continue;
        };
        if let MemberEvent::Punch(dcutr::Event { result: Ok(_), .. }) = event {
            seen.send_modify(|seen| seen.punched += 1);
        }
    }
}

fn tunnel(port: u16) -> SessionOptions {
    SessionOptions::new(Mode::Tunnel).target("127.0.0.1", port)
}

/// Opens at once, and through relays, too.
fn any_way() -> RelayPolicy {
    let mut policy = RelayPolicy::default();
    (policy.wait, policy.tunnels) = (Duration::ZERO, true);
    policy
}

/// Opens a tunnel to an echo service behind `gateway`.
async fn open(client: &Node, gateway: &Node, at: Multiaddr, policy: RelayPolicy) -> RemoteSession {
    let port = echo_service().await;
    let control = client.control.clone().with_relay_policy(policy);
    soon(control.open_at(gateway.peer, vec![at], tunnel(port)))
        .await
        .unwrap()
}

/// Sends numbered words, expects them back, reading while writing. `half` is told when half of them are back.
async fn echo(session: RemoteSession, len: usize, half: mpsc::Sender<()>) -> RemoteSession {
    let (mut reader, mut writer) = tokio::io::split(session);
    let writing = tokio::spawn(async move {
        writer.write_all(&pattern(len)).await.unwrap();
        writer
    });
    let mut back = vec![0; len];
    let (first, second) = back.split_at_mut(len / 2);
    soon(reader.read_exact(first)).await.unwrap();
    half.try_send(()).ok();
    soon(reader.read_exact(second)).await.unwrap();
    assert!(back == pattern(len), "what comes back is what was sent");
    reader.unsplit(writing.await.unwrap())
}

fn nobody() -> mpsc::Sender<()> {
    mpsc::channel(1).0
}

async fn becomes_direct(session: &RemoteSession) {
    let direct = |status: &SessionStatus| matches!(status, SessionStatus::Connected { path } if path.starts_with("direct "));
    soon(session.handle().watch().wait_for(direct))
        .await
        .unwrap();
}

fn is_relayed(session: &RemoteSession) -> bool {
    matches!(session.handle().status(), SessionStatus::Connected { path } if path.starts_with("relayed "))
}

#[tokio::test]
async fn a_session_moves_from_a_relay_to_a_direct_connection_under_load() {
    let circuit = relay(0).await;
    let gateway = Node::new(Some(&circuit), false).await;
    let client = Node::new(None, false).await;
    let sessions = gateway.serve(&client);
    let session = open(&client, &gateway, circuit, any_way()).await;
    assert!(is_relayed(&session), "{:?}", session.handle().status());
    let mut status = session.handle().watch();
    let (half, mut reached) = mpsc::channel(1);
    let echoing = tokio::spawn(echo(session, 8 << 20, half));
    soon(reached.recv()).await.unwrap();
    client.dial(gateway.peer, &gateway.direct).await;
    let direct = |status: &SessionStatus| matches!(status, SessionStatus::Connected { path } if path.starts_with("direct "));
    soon(status.wait_for(direct)).await.unwrap();
    client.cut(gateway.peer, true).await;
    let session = soon(echoing).await.unwrap();
    let session = echo(session, 1 << 20, nobody()).await;
    assert_eq!(session.handle().stats().received, 9 << 20);
    assert_eq!(sessions.sessions().len(), 1, "one session all the time");
}

#[tokio::test]
async fn a_session_outlives_a_circuit_cut_at_its_limit_and_becomes_direct() {
    let circuit = relay(CIRCUIT_LIMIT).await;
    let gateway = Node::new(Some(&circuit), false).await;
    let client = Node::new(None, false).await;
    let sessions = gateway.serve(&client);
    let mut session = open(&client, &gateway, circuit, any_way()).await;
    let first = client.control.connections(&gateway.peer).remove(0);
    assert!(first.relayed && is_relayed(&session), "{first:?}");
    // 640 KiB there and back, in portions, as people type: what a relay holds when it cuts is lost. After the cut a new
    // circuit carries the session, or a direct connection, if identify has told the gateway's addresses by then.
    for _ in 0..40 {
        session = echo(session, 8 * 1024, nobody()).await;
    }
    let left = client.control.connections(&gateway.peer);
    assert!(!left.contains(&first), "the relay cuts: {left:?}");
    client.dial(gateway.peer, &gateway.direct).await;
    becomes_direct(&session).await;
    let session = echo(session, 4 << 20, nobody()).await;
    assert_eq!(sessions.sessions().len(), 1, "one session all the time");
    drop(session);
}

#[tokio::test]
async fn a_hole_punch_takes_a_session_off_its_relay() {
    let circuit = relay(CIRCUIT_LIMIT).await;
    let gateway = Node::new(Some(&circuit), true).await;
    let mut client = Node::new(None, true).await;
    let sessions = gateway.serve(&client);
    let session = open(&client, &gateway, circuit, any_way()).await;
    soon(client.seen.wait_for(|seen| seen.punched > 0))
        .await
        .unwrap();
    becomes_direct(&session).await;
    client.cut(gateway.peer, true).await;
    let session = echo(session, 1 << 20, nobody()).await;
    assert_eq!(sessions.sessions().len(), 1);
    drop(session);
}

#[tokio::test]
async fn a_tunnel_waits_for_the_hole_punch_where_relays_are_not_wanted() {
    let circuit = relay(CIRCUIT_LIMIT).await;
    let gateway = Node::new(Some(&circuit), true).await;
    let client = Node::new(None, true).await;
    gateway.serve(&client);
    let mut policy = RelayPolicy::default();
    policy.wait = PATIENCE;
    let session = open(&client, &gateway, circuit, policy).await;
    assert!(!is_relayed(&session), "{:?}", session.handle().status());
    drop(echo(session, 1 << 20, nobody()).await);
}

#[tokio::test]
async fn a_tunnel_through_a_relay_is_refused_with_the_reason() {
    let circuit = relay(CIRCUIT_LIMIT).await;
    let gateway = Node::new(Some(&circuit), false).await;
    let client = Node::new(None, false).await;
    gateway.serve(&client);
    let mut policy = RelayPolicy::default();
    policy.wait = Duration::ZERO;
    let control = client.control.clone().with_relay_policy(policy);
    let opened = soon(control.open_at(gateway.peer, vec![circuit], tunnel(1))).await;
    let Err(OpenError::Unreachable(why)) = opened else {
        panic!("opened: {opened:?}");
    };
    assert!(why.message.contains("relay only"), "{why}");
}

#[tokio::test]
async fn a_tunnel_that_loses_its_direct_connection_dials_again_though_a_relay_is_left() {
    let circuit = relay(CIRCUIT_LIMIT).await;
    let gateway = Node::new(Some(&circuit), false).await;
    let client = Node::new(None, false).await;
    gateway.serve(&client);
    let mut policy = RelayPolicy::default();
    policy.wait = Duration::ZERO;
    let session = open(&client, &gateway, gateway.direct.clone(), policy).await;
    let circuit = circuit.with(Protocol::P2p(gateway.peer));
    client.dial(gateway.peer, &circuit).await;
    let relayed = || {
        client
            .control
            .connections(&gateway.peer)
            .iter()
            .any(|link| link.relayed)
    };
    until(relayed).await;
    let echoing = tokio::spawn(echo(session, 8 << 20, nobody()));
    client.cut(gateway.peer, false).await;
    let session = soon(echoing).await.unwrap();
    assert!(!is_relayed(&session), "{:?}", session.handle().status());
}
