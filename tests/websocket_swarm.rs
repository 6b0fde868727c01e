//! Swarms that know nothing of a node but its `/ws/webrtc` address, on the port of its gateway: Kademlia, identify, ping,
//! and a terminal, by WebRTC and over the WebSocket.
#![cfg(all(feature = "gateway", unix))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad,
    multiaddr::Protocol,
    ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_rtc::{
    CallConfig, Caller,
    socketpipe::{
        Access, Behaviour as SocketPipe, Control, Gate, Policy, PtyDefault, Server, SessionOptions,
        ShellConfig, Size,
        session::{Mode, ServerConfig},
        websocket::{WebSocketConfig, WebSocketListener},
    },
    websocket::{Config, Path, Paths, Transport},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<kad::store::MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    sessions: SocketPipe,
}

/// A swarm with this transport only.
fn swarm(keypair: Keypair, transport: Transport) -> Swarm<Behaviour> {
    SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|_| transport)
        .unwrap()
        .with_behaviour(|key| {
            let peer = key.public().to_peer_id();
            Behaviour {
                kad: kad::Behaviour::new(peer, kad::store::MemoryStore::new(peer)),
                identify: identify::Behaviour::new(identify::Config::new(
                    "/test/1".to_owned(),
                    key.public(),
                )),
                ping: ping::Behaviour::new(
                    ping::Config::new().with_interval(Duration::from_millis(100)),
                ),
                sessions: SocketPipe::new(),
            }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

fn transport(keypair: &Keypair, max_calls: usize) -> Transport {
    let calls = CallConfig::new()
        .with_announced(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
        .with_max_calls(max_calls);
    Transport::new(Config::new(keypair).with_caller(Caller::new(calls)))
}

/// A node whose gateway has the one port that it listens on.
struct Host {
    peer: PeerId,
    address: Multiaddr,
    sessions: Server,
}

impl Host {
    /// Who lets this peer have a shell.
    async fn new(guest: PeerId, max_calls: usize) -> Self {
        let keypair = Keypair::generate_ed25519();
        let mut transport = transport(&keypair, max_calls);
        let access = Access::new(Policy::Peers, Policy::Peers);
        access.allow_peer(guest);
        let mut gate = Gate::new(access);
        let shell = ShellConfig::new().program("/bin/sh").arg("-i");
        gate.pty.default = Some(PtyDefault::Shell(shell));
        let sessions = Server::new(ServerConfig::default(), gate);
        let listener = WebSocketListener::bind(WebSocketConfig::default(), sessions.clone())
            .await
            .unwrap();
        let local = listener.local_addr();
        let acceptor = transport.acceptor(local, false);
        tokio::spawn(listener.with_libp2p(acceptor).run());
        let mut swarm = swarm(keypair, transport);
        let address = Multiaddr::from(local.ip())
            .with(Protocol::Tcp(local.port()))
            .with(Protocol::Ws("/".into()))
            .with(Protocol::WebRTC);
        swarm.listen_on(address.clone()).unwrap();
        swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Server));
        let peer = *swarm.local_peer_id();
        let incoming = swarm.behaviour().sessions.control().accept().unwrap();
        tokio::spawn(incoming.serve(sessions.clone()));
        loop {
            if let SwarmEvent::NewListenAddr { address: found, .. } = swarm.select_next_some().await
            {
                assert_eq!(found, address);
                break;
            }
        }
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self {
            peer,
            address,
            sessions,
        }
    }
}

/// A client, which knows one address.
struct Client {
    swarm: Swarm<Behaviour>,
    /// What identify said of the host.
    info: Option<identify::Info>,
    control: Control,
    paths: Paths,
}

impl Client {
    fn new(keypair: Keypair, host: &Host) -> Self {
        let transport = transport(&keypair, 8);
        let paths = transport.paths();
        let mut swarm = swarm(keypair, transport);
        let kad = &mut swarm.behaviour_mut().kad;
        kad.add_address(&host.peer, host.address.clone());
        let control = swarm.behaviour().sessions.control();
        Self {
            swarm,
            info: None,
            control,
            paths,
        }
    }

    /// Runs the swarm until an event is the one.
    async fn until<T>(&mut self, wanted: impl Fn(BehaviourEvent) -> Option<T>) -> T {
        soon(async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(BehaviourEvent::Identify(
                        identify::Event::Received { info, .. },
                    )) => self.info = Some(info),
                    SwarmEvent::Behaviour(event) => {
                        if let Some(found) = wanted(event) {
                            return found;
                        }
                    }
                    _ => {}
                }
            }
        })
        .await
    }
}

fn result(event: BehaviourEvent) -> Option<kad::QueryResult> {
    match event {
        BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { result, .. }) => Some(result),
        _ => None,
    }
}

fn ping_result(event: BehaviourEvent) -> Option<Result<Duration, ping::Failure>> {
    match event {
        BehaviourEvent::Ping(event) => Some(event.result),
        _ => None,
    }
}

async fn a_swarm_does_everything(max_calls: usize, is_right: impl Fn(Path) -> bool) {
    let guest = Keypair::generate_ed25519();
    let host = Host::new(guest.public().to_peer_id(), max_calls).await;
    let mut client = Client::new(guest, &host);
    // Kademlia dials: a record is stored there, and found by another swarm.
    let record = kad::Record::new(b"name".to_vec(), b"value".to_vec());
    let kad = &mut client.swarm.behaviour_mut().kad;
    kad.put_record(record, kad::Quorum::One).unwrap();
    let stored = client.until(result).await;
    assert!(
        matches!(stored, kad::QueryResult::PutRecord(Ok(_))),
        "{stored:?}"
    );
    let paths = client.paths.of(&host.peer);
    assert!(
        !paths.is_empty() && paths.into_iter().all(is_right),
        "{:?}",
        client.paths.all()
    );
    let mut other = Client::new(Keypair::generate_ed25519(), &host);
    let key = kad::RecordKey::new(b"name");
    other.swarm.behaviour_mut().kad.get_record(key);
    let found = other.until(result).await;
    let kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) = found else {
        panic!("{found:?}");
    };
    assert_eq!(found.record.value, b"value");
    for client in [&mut client, &mut other] {
        client.until(ping_result).await.unwrap();
    }
    // It came before the first ping, or will have come with one of the next.
    while other.info.is_none() {
        other.until(ping_result).await.unwrap();
    }
    let info = other.info.take().unwrap();
    assert!(info.listen_addrs.contains(&host.address), "{info:?}");
    // The terminal.
    let Client {
        mut swarm, control, ..
    } = client;
    let running = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let options = SessionOptions::new(Mode::Pty).size(Size {
        columns: 91,
        rows: 33,
        ..Size::default()
    });
    let mut terminal = soon(control.open(host.peer, options)).await.unwrap();
    terminal.write_all(b"stty size; exit 3\n").await.unwrap();
    let mut seen = Vec::new();
    soon(terminal.read_to_end(&mut seen)).await.unwrap();
    assert!(String::from_utf8_lossy(&seen).contains("33 91"), "{seen:?}");
    soon(async {
        while !host.sessions.sessions().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    running.abort();
}

#[tokio::test]
async fn a_swarm_that_knows_one_address_does_everything_by_webrtc() {
    a_swarm_does_everything(8, |path| matches!(path, Path::WebRtc { .. })).await;
}

#[tokio::test]
async fn a_swarm_that_knows_one_address_does_everything_over_the_websocket() {
    a_swarm_does_everything(0, |path| path == Path::WebSocket).await;
}
