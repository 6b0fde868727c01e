//! Nodes with WebRTC, QUIC and TCP on loopback for the tests of sessions, and TCP services behind them.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "no test file uses every helper, and a test fails by panicking"
)]

use std::{future::Future, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use libp2p_rtc::{
    Config, Transport,
    socketpipe::{Access, Behaviour, Control, Gate, Policy, Server, session::ServerConfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

/// Far more than anything on a loopback takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Fails instead of hanging.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

/// Waits until something is so.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[derive(NetworkBehaviour)]
pub(crate) struct Both {
    pub(crate) sessions: Behaviour,
    /// Raw streams, as somebody else's implementation would open them.
    pub(crate) raw: libp2p_stream::Behaviour,
}

type Task = Box<dyn FnOnce(&mut Swarm<Both>) + Send>;

/// A swarm that runs in a task.
pub(crate) struct Node {
    pub(crate) peer: PeerId,
    pub(crate) control: Control,
    pub(crate) raw: libp2p_stream::Control,
    pub(crate) webrtc: Multiaddr,
    pub(crate) quic: Multiaddr,
    pub(crate) tcp: Multiaddr,
    tasks: mpsc::Sender<Task>,
}

impl Node {
    pub(crate) async fn new() -> Self {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic()
            .with_other_transport(|keypair| Transport::new(Config::new(keypair)))
            .unwrap()
            .with_behaviour(|_| Both {
                sessions: Behaviour::new(),
                raw: libp2p_stream::Behaviour::new(),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let webrtc = listen(&mut swarm, "/ip4/127.0.0.1/udp/0/webrtc-direct").await;
        let quic = listen(&mut swarm, "/ip4/127.0.0.1/udp/0/quic-v1").await;
        let tcp = listen(&mut swarm, "/ip4/127.0.0.1/tcp/0").await;
        let control = swarm.behaviour().sessions.control();
        let raw = swarm.behaviour().raw.new_control();
        let peer = *swarm.local_peer_id();
        let (tasks, mut inbox) = mpsc::channel::<Task>(4);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    task = inbox.recv() => match task {
                        Some(task) => task(&mut swarm),
                        None => return,
                    },
                    _ = swarm.select_next_some() => {}
                }
            }
        });
        Self {
            peer,
            control,
            raw,
            webrtc,
            quic,
            tcp,
            tasks,
        }
    }

    /// Does something with the swarm.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Swarm<Both>) -> T + Send + 'static,
    ) -> T {
        let (sender, result) = tokio::sync::oneshot::channel();
        let task = Box::new(move |swarm: &mut Swarm<Both>| drop(sender.send(task(swarm))));
        assert!(self.tasks.send(task).await.is_ok(), "the swarm runs");
        result.await.unwrap()
    }

    /// Serves sessions from now on.
    pub(crate) fn serve(&self, gate: Gate) -> Server {
        self.serve_with(ServerConfig::default(), gate)
    }

    pub(crate) fn serve_with(&self, config: ServerConfig, gate: Gate) -> Server {
        let server = Server::new(config, gate);
        let incoming = self.control.accept().expect("nobody else accepts");
        tokio::spawn(incoming.serve(server.clone()));
        server
    }
}

async fn listen(swarm: &mut Swarm<Both>, addr: &str) -> Multiaddr {
    swarm.listen_on(addr.parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// A gate for listed peers.
pub(crate) fn gate_for(peers: &[PeerId]) -> Gate {
    let access = Access::new(Policy::Peers, Policy::Peers);
    for peer in peers {
        access.allow_peer(*peer);
    }
    Gate::new(access)
}

/// A TCP service that sends back what it gets.
pub(crate) async fn echo_service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Bytes in which every place can be told from every other.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes());
    words.take(len).collect()
}
