//! One node of the trial: a task that owns a swarm and does what it is told.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::ValueEnum;
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad::{
        self, GetProvidersOk, GetRecordOk, Mode, PutRecordError, QueryId, QueryResult, Quorum,
        Record, RecordKey, store::MemoryStore,
    },
    multiaddr::Protocol,
    ping,
    swarm::{
        ConnectionId, DialError, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Questions that wait for a node.
const QUEUE: usize = 64;

/// A port that was just given up is free a moment later.
const PORT_FREE: Duration = Duration::from_secs(10);
const PORT_RETRY: Duration = Duration::from_millis(20);

/// What the nodes speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportKind {
    /// This crate.
    Webrtc,
    /// libp2p-quic.
    Quic,
}

impl TransportKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Webrtc => "webrtc",
            Self::Quic => "quic",
        }
    }
}

/// What all nodes have done together.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Outgoing connections that were established.
    pub(crate) dialed: AtomicUsize,
    /// Dials that failed, of one peer at all its addresses.
    pub(crate) failed: AtomicUsize,
}

/// What a node is made of.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) kind: TransportKind,
    pub(crate) identity: Keypair,
    pub(crate) listen: Multiaddr,
    pub(crate) protocol: StreamProtocol,
    pub(crate) idle: Duration,
    pub(crate) counters: Arc<Counters>,
}

/// What a node knows.
#[derive(Debug)]
pub(crate) struct Status {
    /// Its established connections.
    pub(crate) connections: usize,
    /// Its routing table: what a node keeps on disk.
    pub(crate) known: HashMap<PeerId, Vec<Multiaddr>>,
}

enum Order {
    /// Enter these into the routing table and look for neighbours.
    Join(Vec<Multiaddr>, oneshot::Sender<bool>),
    Put(Record, oneshot::Sender<usize>),
    Get(RecordKey, oneshot::Sender<Option<Vec<u8>>>),
    Provide(RecordKey, oneshot::Sender<bool>),
    Find(RecordKey, oneshot::Sender<HashSet<PeerId>>),
    /// Dial a peer at its stored addresses.
    Dial(PeerId, Vec<Multiaddr>, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<Status>),
}

/// A running node.
pub(crate) struct Node {
    pub(crate) plan: Plan,
    /// Where it is reached, with `/p2p`.
    pub(crate) addr: Multiaddr,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Node {
    /// Starts a node, and waits until its address is known.
    pub(crate) async fn start(plan: Plan) -> Result<Self, Box<dyn Error>> {
        let mut swarm = build(&plan)?;
        let started = tokio::time::Instant::now();
        while let Err(error) = swarm.listen_on(plan.listen.clone()) {
            if started.elapsed() > PORT_FREE {
                return Err(format!("{}: {error}: {error:?}", plan.listen).into());
            }
            tokio::time::sleep(PORT_RETRY).await;
        }
        let addr = loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => break address,
                SwarmEvent::ListenerClosed {
                    reason: Err(error), ..
                } => return Err(error.into()),
                _ => {}
            }
        };
        swarm.add_external_address(addr.clone());
        let addr = addr.with(Protocol::P2p(*swarm.local_peer_id()));
        let (orders, queue) = mpsc::channel(QUEUE);
        let runner = Runner {
            swarm,
            counters: Arc::clone(&plan.counters),
            joining: None,
            puts: HashMap::new(),
            gets: HashMap::new(),
            provides: HashMap::new(),
            finds: HashMap::new(),
            dials: HashMap::new(),
        };
        let task = tokio::spawn(runner.run(queue));
        Ok(Self {
            plan,
            addr,
            orders,
            task,
        })
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.plan.identity.public().to_peer_id()
    }

    /// Enters these addresses into the routing table; true once the neighbours are found.
    pub(crate) async fn join(&self, known: Vec<Multiaddr>) -> bool {
        self.ask(|reply| Order::Join(known, reply))
            .await
            .unwrap_or(false)
    }

    /// Stores a record; at how many nodes.
    pub(crate) async fn put(&self, key: &str, value: Vec<u8>) -> usize {
        let record = Record::new(RecordKey::new(&key), value);
        self.ask(|reply| Order::Put(record, reply))
            .await
            .unwrap_or(0)
    }

    /// Looks a record up.
    pub(crate) async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let key = RecordKey::new(&key);
        self.ask(|reply| Order::Get(key, reply)).await.flatten()
    }

    /// Announces this node as a provider; true if that worked.
    pub(crate) async fn provide(&self, key: &str) -> bool {
        let key = RecordKey::new(&key);
        self.ask(|reply| Order::Provide(key, reply))
            .await
            .unwrap_or(false)
    }

    /// Looks for providers.
    pub(crate) async fn find(&self, key: &str) -> HashSet<PeerId> {
        let key = RecordKey::new(&key);
        self.ask(|reply| Order::Find(key, reply))
            .await
            .unwrap_or_default()
    }

    /// Dials a peer that was known at these addresses.
    pub(crate) async fn dial(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> Result<(), String> {
        let dialed = self.ask(|reply| Order::Dial(peer, addrs, reply)).await;
        dialed.unwrap_or_else(|| Err("the node has ended".into()))
    }

    pub(crate) async fn status(&self) -> Option<Status> {
        self.ask(Order::Status).await
    }

    /// Ends the node, and gives back what it would find on its disk when it is started again: the same identity and
    /// port. Its records are gone.
    pub(crate) async fn stop(self) -> Result<Plan, Box<dyn Error>> {
        drop(self.orders);
        self.task.await?;
        let mut plan = self.plan;
        plan.listen = self
            .addr
            .into_iter()
            .filter(|part| !matches!(part, Protocol::P2p(_)))
            .collect();
        Ok(plan)
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.ok()?;
        answer.await.ok()
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

fn build(plan: &Plan) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let protocol = plan.protocol.clone();
    let behaviour = |key: &Keypair| {
        let id = key.public().to_peer_id();
        let config = kad::Config::new(protocol);
        let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), config);
        kad.set_mode(Some(Mode::Server));
        let about = identify::Config::new("/libp2p-rtc/dht/1.0.0".into(), key.public());
        Behaviour {
            kad,
            identify: identify::Behaviour::new(about),
            ping: ping::Behaviour::default(),
        }
    };
    let builder = SwarmBuilder::with_existing_identity(plan.identity.clone()).with_tokio();
    let idle = plan.idle;
    Ok(match plan.kind {
        TransportKind::Webrtc => builder
            .with_other_transport(|key| libp2p_rtc::Transport::new(libp2p_rtc::Config::new(key)))?
            .with_behaviour(behaviour)?
            .with_swarm_config(|config| config.with_idle_connection_timeout(idle))
            .build(),
        TransportKind::Quic => builder
            .with_quic()
            .with_behaviour(behaviour)?
            .with_swarm_config(|config| config.with_idle_connection_timeout(idle))
            .build(),
    })
}

/// The task's side.
struct Runner {
    swarm: Swarm<Behaviour>,
    counters: Arc<Counters>,
    joining: Option<oneshot::Sender<bool>>,
    puts: HashMap<QueryId, oneshot::Sender<usize>>,
    gets: HashMap<QueryId, oneshot::Sender<Option<Vec<u8>>>>,
    provides: HashMap<QueryId, oneshot::Sender<bool>>,
    finds: HashMap<QueryId, oneshot::Sender<HashSet<PeerId>>>,
    dials: HashMap<ConnectionId, oneshot::Sender<Result<(), String>>>,
}

impl Runner {
    /// Until nobody can give orders any more. Dropping the swarm then closes its connections.
    async fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                order = queue.recv() => match order {
                    Some(order) => self.on_order(order),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
    }

    fn on_order(&mut self, order: Order) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        match order {
            Order::Join(known, reply) => {
                for addr in known {
                    if let Some(Protocol::P2p(peer)) = addr.iter().last() {
                        kad.add_address(&peer, addr);
                    }
                }
                if kad.bootstrap().is_ok() {
                    self.joining = Some(reply);
                }
            }
            // All of the closest: how many took it is the answer.
            Order::Put(record, reply) => {
                if let Ok(query) = kad.put_record(record, Quorum::All) {
                    self.puts.insert(query, reply);
                }
            }
            Order::Get(key, reply) => {
                self.gets.insert(kad.get_record(key), reply);
            }
            Order::Provide(key, reply) => {
                if let Ok(query) = kad.start_providing(key) {
                    self.provides.insert(query, reply);
                }
            }
            Order::Find(key, reply) => {
                self.finds.insert(kad.get_providers(key), reply);
            }
            Order::Dial(peer, addrs, reply) => self.dial(peer, addrs, reply),
            Order::Status(reply) => {
                let status = self.status();
                // Who asked may have gone.
                reply.send(status).ok();
            }
        }
    }

    fn dial(
        &mut self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .condition(PeerCondition::Always)
            .build();
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.dials.insert(id, reply);
            }
            Err(error) => {
                reply.send(Err(reason(&error))).ok();
            }
        }
    }

    fn status(&mut self) -> Status {
        let mut known: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            for entry in bucket.iter() {
                let addrs = entry.node.value.iter().cloned().collect();
                known.insert(*entry.node.key.preimage(), addrs);
            }
        }
        let info = self.swarm.network_info();
        Status {
            connections: info.connection_counters().num_established() as usize,
            known,
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                connection_id,
                endpoint,
                ..
            } if endpoint.is_dialer() => {
                self.counters.dialed.fetch_add(1, Relaxed);
                if let Some(reply) = self.dials.remove(&connection_id) {
                    reply.send(Ok(())).ok();
                }
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                self.counters.failed.fetch_add(1, Relaxed);
                tracing::info!(reason = reason(&error), "a dial failed");
                if let Some(reply) = self.dials.remove(&connection_id) {
                    reply.send(Err(reason(&error))).ok();
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                for addr in info.listen_addrs {
                    self.swarm.behaviour_mut().kad.add_address(&peer_id, addr);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result,
                ..
            })) => self.on_result(id, result),
            _ => {}
        }
    }

    fn on_result(&mut self, id: QueryId, result: QueryResult) {
        match result {
            QueryResult::Bootstrap(Ok(progress)) if progress.num_remaining > 0 => {}
            QueryResult::Bootstrap(result) => {
                if let Some(reply) = self.joining.take() {
                    reply.send(result.is_ok()).ok();
                }
            }
            QueryResult::PutRecord(result) => {
                let stored = match result {
                    Ok(_) => kad::K_VALUE.get(),
                    Err(
                        PutRecordError::QuorumFailed { success, .. }
                        | PutRecordError::Timeout { success, .. },
                    ) => success.len(),
                };
                if let Some(reply) = self.puts.remove(&id) {
                    reply.send(stored).ok();
                }
            }
            QueryResult::GetRecord(result) => {
                let found = match result {
                    Ok(GetRecordOk::FoundRecord(found)) => Some(found.record.value),
                    _ => None,
                };
                if let Some(reply) = self.gets.remove(&id) {
                    self.finish(id);
                    reply.send(found).ok();
                }
            }
            QueryResult::StartProviding(result) => {
                if let Some(reply) = self.provides.remove(&id) {
                    reply.send(result.is_ok()).ok();
                }
            }
            QueryResult::GetProviders(result) => {
                let found = match result {
                    // Who knows none answers, too.
                    Ok(GetProvidersOk::FoundProviders { providers, .. })
                        if providers.is_empty() =>
                    {
                        return;
                    }
                    Ok(GetProvidersOk::FoundProviders { providers, .. }) => providers,
                    _ => HashSet::new(),
                };
                if let Some(reply) = self.finds.remove(&id) {
                    self.finish(id);
                    reply.send(found).ok();
                }
            }
            _ => {}
        }
    }

    /// The first answer is enough.
    fn finish(&mut self, id: QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
            query.finish();
        }
    }
}

/// The reason of the first address.
fn reason(error: &DialError) -> String {
    match error {
        DialError::Transport(addrs) => addrs.first().map_or_else(
            || "no address".into(),
            |(addr, error)| format!("{addr}: {error:?}"),
        ),
        other => other.to_string(),
    }
}
