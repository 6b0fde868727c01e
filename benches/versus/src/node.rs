//! A libp2p node as both ends use it: one `Swarm` in one task, driven by commands.
//!
//! The behaviour is the same for every transport: `libp2p_stream`, or nothing at all for the rows
//! that only count connections. Not its job: measuring; it only reports how long a dial took.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    identity::Keypair,
    swarm::{self, ConnectionId, SwarmEvent, behaviour::toggle::Toggle, dial_opts::DialOpts},
};
use libp2p_stream as stream;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{Failure, transports::Kind};

/// The protocol of every measured stream.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/versus/1");

/// Longer than any measurement, so that no idle connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Commands that wait for the node's task; the next one waits for room.
const MAX_COMMANDS: usize = 64;

/// What a node is started with.
pub struct Setup {
    /// The transport to use.
    pub kind: Kind,
    /// The identity.
    pub keypair: Keypair,
    /// The port to listen on, or `None` not to listen.
    pub listen: Option<u16>,
    /// Whether streams can be opened.
    pub streams: bool,
}

/// An established outgoing connection.
#[derive(Clone, Copy, Debug)]
pub struct Dialed {
    /// Its number in the swarm.
    pub id: ConnectionId,
    /// The authenticated remote.
    pub peer: PeerId,
    /// From the call of `dial` until the swarm reported the connection.
    pub took: Duration,
}

/// What the owner of a [`Node`] asks of its task.
enum Command {
    /// Dial an address.
    Dial(Multiaddr, oneshot::Sender<Result<Dialed, String>>),
    /// Close a connection and answer when it is gone.
    Close(ConnectionId, oneshot::Sender<()>),
}

/// A running node; dropping it ends its task.
pub struct Node {
    commands: mpsc::Sender<Command>,
    control: Option<stream::Control>,
    connections: Arc<AtomicUsize>,
    addrs: Vec<Multiaddr>,
    task: JoinHandle<()>,
}

impl Node {
    /// Starts a node and waits until its first listen address is known.
    pub async fn start(setup: Setup) -> Result<Self, Failure> {
        let transport = setup.kind.build(&setup.keypair)?;
        let peer = setup.keypair.public().to_peer_id();
        let behaviour = setup.streams.then(stream::Behaviour::new);
        let control = behaviour.as_ref().map(stream::Behaviour::new_control);
        let config =
            swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
        let mut swarm = Swarm::new(transport, Toggle::from(behaviour), peer, config);
        let mut addrs = Vec::new();
        if let Some(port) = setup.listen {
            swarm.listen_on(setup.kind.listen_addr(port))?;
            addrs.push(
                first_addr(&mut swarm)
                    .await?
                    .with_p2p(peer)
                    .map_err(|_| "foreign address")?,
            );
        }
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let connections = Arc::new(AtomicUsize::new(0));
        let task = Task {
            swarm,
            connections: connections.clone(),
            dialing: HashMap::new(),
            closing: HashMap::new(),
        };
        Ok(Self {
            commands,
            control,
            connections,
            addrs,
            task: tokio::spawn(task.run(receiver)),
        })
    }

    /// The listen address with the peer id, if the node listens.
    pub fn addr(&self) -> Option<&Multiaddr> {
        self.addrs.first()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The handle that opens and accepts streams.
    pub fn control(&self) -> Result<stream::Control, Failure> {
        self.control
            .clone()
            .ok_or_else(|| "node without streams".into())
    }

    /// Dials `addr`; fails after `timeout`.
    pub async fn dial(&self, addr: &Multiaddr, timeout: Duration) -> Result<Dialed, Failure> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Dial(addr.clone(), reply))
            .await?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(outcome) => Ok(outcome??),
            Err(_) => Err(format!("not connected after {} s", timeout.as_secs_f32()).into()),
        }
    }

    /// Closes a connection; gives up waiting after five seconds.
    pub async fn close(&self, id: ConnectionId) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Close(id, reply)).await?;
        tokio::time::timeout(Duration::from_secs(5), answer)
            .await
            .map_err(|_| "the connection did not close within 5 s")??;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Drives the swarm until it knows an address it listens on.
async fn first_addr(swarm: &mut Swarm<Toggle<stream::Behaviour>>) -> Result<Multiaddr, Failure> {
    let wait = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => return Ok(address),
                SwarmEvent::ListenerClosed { reason, .. } => {
                    return Err(format!("listener closed: {reason:?}"));
                }
                _ => {}
            }
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(10), wait).await;
    Ok(outcome.map_err(|_| "no listen address after 10 s")??)
}

/// The state of a node's task.
struct Task {
    swarm: Swarm<Toggle<stream::Behaviour>>,
    connections: Arc<AtomicUsize>,
    dialing: HashMap<ConnectionId, (Instant, oneshot::Sender<Result<Dialed, String>>)>,
    closing: HashMap<ConnectionId, oneshot::Sender<()>>,
}

impl Task {
    /// Runs until the owner is gone.
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
            }
        }
    }

    /// Carries out a command of the owner.
    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial(addr, reply) => {
                let options = DialOpts::unknown_peer_id().address(addr).build();
                let id = options.connection_id();
                let start = Instant::now();
                match self.swarm.dial(options) {
                    Ok(()) => {
                        self.dialing.insert(id, (start, reply));
                    }
                    // The owner may have stopped waiting; then nobody needs the answer.
                    Err(error) => {
                        let _ = reply.send(Err(error.to_string()));
                    }
                }
            }
            Command::Close(id, reply) => {
                if self.swarm.close_connection(id) {
                    self.closing.insert(id, reply);
                } else {
                    let _ = reply.send(());
                }
            }
        }
    }

    /// Keeps count and answers the owner's pending commands.
    fn on_event(&mut self, event: SwarmEvent<()>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                connection_id: id,
                peer_id: peer,
                ..
            } => {
                self.connections.fetch_add(1, Ordering::Relaxed);
                if let Some((start, reply)) = self.dialing.remove(&id) {
                    let took = start.elapsed();
                    let _ = reply.send(Ok(Dialed { id, peer, took }));
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                if let Some(reply) = self.closing.remove(&connection_id) {
                    let _ = reply.send(());
                }
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                if let Some((_, reply)) = self.dialing.remove(&connection_id) {
                    {
                        let _ = reply.send(Err(error.to_string()));
                    };
                }
            }
            _ => {}
        }
    }
}
