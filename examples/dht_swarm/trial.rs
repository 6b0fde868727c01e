//! The trial: nodes come up, records are put and got, half of the nodes are stopped and started again, the others dial
//! them at the addresses that they have stored, and the records are got again.
//!
//! A node that is stopped loses its records: only its identity and port survive, and its routing table. So what is found
//! afterwards is found by replication: Kademlia stored each record at the 20 nodes closest to its key, about ten of which
//! went on running. A store on disk would make the trial easier, not more telling.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use libp2p::{Multiaddr, PeerId, StreamProtocol, identity::Keypair, kad};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Options,
    node::{Counters, Node, Plan, TransportKind},
    print,
    report::{Report, resident_kib},
    say,
};

/// Searches of a node for its neighbours, at most.
const MAX_SEARCHES: usize = 10;
/// Nodes that join at the same time.
const JOINING: usize = 8;
/// Puts and gets at the same time.
const LOOKUPS: usize = 16;
/// Re-dials at the same time.
const DIALS: usize = 32;
/// The size of a record.
const VALUE_LEN: usize = 128;
/// Every run asks the same nodes for the same records.
const SEED: u64 = 1;

/// Brings the nodes up and serves until SIGINT or SIGTERM.
pub(crate) async fn serve(options: &Options) -> Result<(), Box<dyn Error>> {
    let kind = options.transport.unwrap_or(TransportKind::Webrtc);
    let stop = stop_signal()?;
    let nodes = start(plans(options, kind, &Arc::default())?).await?;
    for node in &nodes {
        print(&json!({ "addr": node.addr }).to_string())?;
    }
    join(&nodes).await?;
    print(&json!({ "event": "joined", "nodes": nodes.len() }).to_string())?;
    stop.await;
    Ok(())
}

/// The whole trial.
pub(crate) async fn run(options: &Options, kind: TransportKind) -> Result<Report, Box<dyn Error>> {
    let mut trial = Trial {
        report: Report::new(kind.name()),
        counters: Arc::default(),
        rng: StdRng::seed_from_u64(SEED),
        records: records(options.records),
    };
    trial.report.row("nodes", options.nodes);
    let nodes = trial.bring_up(options, kind).await?;
    trial.put(&nodes).await;
    trial.provide(&nodes).await;
    trial.get(&nodes, "lookups/s").await;
    trial.connections(&nodes).await;
    trial
        .report
        .row("dials", trial.counters.dialed.load(Relaxed));
    let failed = trial.counters.failed.load(Relaxed);
    trial.report.row("failed dials", failed);
    let nodes = trial.restart(nodes).await?;
    trial.get(&nodes, "lookups/s after the restart").await;
    let failed = trial.counters.failed.load(Relaxed) - failed;
    trial.report.row("failed dials after the restart", failed);
    Ok(trial.report)
}

/// A name and its value.
type Entry = (String, Vec<u8>);

struct Trial {
    report: Report,
    counters: Arc<Counters>,
    rng: StdRng,
    records: Vec<Entry>,
}

impl Trial {
    async fn bring_up(
        &mut self,
        options: &Options,
        kind: TransportKind,
    ) -> Result<Vec<Node>, Box<dyn Error>> {
        let plans = plans(options, kind, &self.counters)?;
        let before = resident_kib()?;
        let nodes = start(plans).await?;
        let alone = resident_kib()?;
        let per_node = alone.saturating_sub(before) / nodes.len() as u64;
        self.report
            .row("memory per node without connections, KiB", per_node);
        say(&format!("{}: {} nodes are up", kind.name(), nodes.len()));
        let started = Instant::now();
        join(&nodes).await?;
        self.report
            .row("all nodes joined after, s", seconds(started.elapsed()));
        let connections = open_connections(&nodes).await;
        // Each connection has both its ends in this process.
        let per_connection =
            resident_kib()?.saturating_sub(alone) as f64 / (connections / 2).max(1) as f64;
        self.report
            .row("connections when all have joined", connections / 2);
        self.report.row(
            "memory per connection, both ends, KiB",
            format!("{per_connection:.1}"),
        );
        say(&format!(
            "{}: all joined, {} connections",
            kind.name(),
            connections / 2
        ));
        Ok(nodes)
    }

    async fn put(&mut self, nodes: &[Node]) {
        let jobs = self.jobs(nodes);
        let started = Instant::now();
        let stored: Vec<_> = stream::iter(jobs)
            .map(|(node, (key, value))| async move { (node.put(&key, value).await, key) })
            .buffer_unordered(LOOKUPS)
            .collect()
            .await;
        let rate = stored.len() as f64 / started.elapsed().as_secs_f64();
        self.report.row("records put", stored.len());
        self.report
            .row("puts/s, each to the 20 closest nodes", format!("{rate:.0}"));
        let copies: usize = stored.iter().map(|(copies, _)| copies).sum();
        self.report.row(
            "copies per record",
            format!("{:.1}", copies as f64 / stored.len() as f64),
        );
        if let Some((_, key)) = stored.iter().find(|(copies, _)| *copies == 0) {
            self.report.fail(format!("no node took {key}"));
        }
        say("records are put");
    }

    /// Some nodes announce that they provide something, and others find them.
    async fn provide(&mut self, nodes: &[Node]) {
        let providers: Vec<_> = nodes.iter().step_by(10).zip(0..).collect();
        let mut found = 0;
        for &(node, at) in &providers {
            let key = format!("/content/{at}");
            let asked = self.rng.random_range(0..nodes.len());
            found += usize::from(
                node.provide(&key).await && nodes[asked].find(&key).await.contains(&node.peer()),
            );
        }
        self.report
            .row("providers found", format!("{found} of {}", providers.len()));
        if found < providers.len() {
            self.report.fail("a provider is not found".into());
        }
    }

    async fn get(&mut self, nodes: &[Node], what: &str) {
        let jobs = self.jobs(nodes);
        let count = jobs.len();
        let started = Instant::now();
        let found: Vec<_> = stream::iter(jobs)
            .map(|(node, (key, value))| async move { (node.get(&key).await == Some(value), key) })
            .buffer_unordered(LOOKUPS)
            .collect()
            .await;
        let rate = count as f64 / started.elapsed().as_secs_f64();
        self.report.row(what, format!("{rate:.0}"));
        let missing: Vec<_> = found.iter().filter(|(found, _)| !found).collect();
        self.report.row(
            "records found",
            format!("{} of {count}", count - missing.len()),
        );
        if let Some((_, key)) = missing.first() {
            self.report.fail(format!(
                "{} records are not found, {key} for one",
                missing.len()
            ));
        }
        say(&format!(
            "{} of {count} records are found",
            count - missing.len()
        ));
    }

    async fn connections(&mut self, nodes: &[Node]) {
        self.report.row(
            "connections after the lookups",
            open_connections(nodes).await / 2,
        );
    }

    /// Every second node ends and comes back; the others dial it at the address that they had stored.
    async fn restart(&mut self, nodes: Vec<Node>) -> Result<Vec<Node>, Box<dyn Error>> {
        let mut stay = Vec::new();
        let mut stopped = Vec::new();
        let mut stored: HashMap<PeerId, HashMap<PeerId, Vec<Multiaddr>>> = HashMap::new();
        for node in &nodes {
            let status = node.status().await.ok_or("a node has ended")?;
            stored.insert(node.peer(), status.known);
        }
        for (at, node) in nodes.into_iter().enumerate() {
            if at % 2 == 0 {
                stay.push(node);
            } else {
                stopped.push((node.addr.clone(), node.stop().await?));
            }
        }
        say(&format!("{} nodes are stopped", stopped.len()));
        let mut back = Vec::new();
        for (addr, plan) in stopped {
            let node = Node::start(plan).await?;
            if node.addr != addr {
                self.report
                    .fail(format!("{addr} came back as {}", node.addr));
            }
            back.push(node);
        }
        self.redial(&stay, &back, &stored).await;
        stream::iter(&back)
            .map(|node| node.join(stored[&node.peer()].values().flatten().cloned().collect()))
            .buffer_unordered(JOINING)
            .collect::<Vec<_>>()
            .await;
        stay.extend(back);
        Ok(stay)
    }

    async fn redial(
        &mut self,
        stay: &[Node],
        back: &[Node],
        stored: &HashMap<PeerId, HashMap<PeerId, Vec<Multiaddr>>>,
    ) {
        let jobs: Vec<_> = stay
            .iter()
            .flat_map(|node| {
                let known = &stored[&node.peer()];
                back.iter().filter_map(move |peer| {
                    let addrs = known.get(&peer.peer())?;
                    Some((node, peer.peer(), addrs.clone()))
                })
            })
            .collect();
        let count = jobs.len();
        let started = Instant::now();
        let results: Vec<_> = stream::iter(jobs)
            .map(|(node, peer, addrs)| node.dial(peer, addrs))
            .buffer_unordered(DIALS)
            .collect()
            .await;
        let rate = count as f64 / started.elapsed().as_secs_f64();
        let failed: Vec<_> = results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .collect();
        self.report.row("re-dials of stored addresses", count);
        self.report.row("re-dials/s", format!("{rate:.0}"));
        self.report.row("failed re-dials", failed.len());
        if let Some(reason) = failed.first() {
            self.report
                .fail(format!("{} re-dials failed: {reason}", failed.len()));
        }
        say(&format!(
            "{} of {count} re-dials worked",
            count - failed.len()
        ));
    }

    /// Each record, with a node drawn for it.
    fn jobs<'a>(&mut self, nodes: &'a [Node]) -> Vec<(&'a Node, Entry)> {
        let draw = |entry: &Entry| {
            nodes
                .choose(&mut self.rng)
                .map(|node| (node, entry.clone()))
        };
        self.records.iter().filter_map(draw).collect()
    }
}

fn plans(
    options: &Options,
    kind: TransportKind,
    counters: &Arc<Counters>,
) -> Result<Vec<Plan>, Box<dyn Error>> {
    let listen = match (&options.listen, kind) {
        (Some(addr), _) => addr.clone(),
        (None, TransportKind::Webrtc) => "/ip4/127.0.0.1/udp/0/webrtc-direct".parse()?,
        (None, TransportKind::Quic) => "/ip4/127.0.0.1/udp/0/quic-v1".parse()?,
    };
    let protocol = StreamProtocol::try_from_owned(options.protocol.clone())?;
    let plan = |_| Plan {
        kind,
        identity: Keypair::generate_ed25519(),
        listen: listen.clone(),
        protocol: protocol.clone(),
        idle: Duration::from_secs(options.idle),
        counters: Arc::clone(counters),
    };
    Ok((0..options.nodes).map(plan).collect())
}

async fn start(plans: Vec<Plan>) -> Result<Vec<Node>, Box<dyn Error>> {
    stream::iter(plans).then(Node::start).try_collect().await
}

/// All nodes join the table of the first one, and look around again until each knows its neighbours: those that joined
/// later may be missing, and what a node was told on a busy machine came after its search.
async fn join(nodes: &[Node]) -> Result<(), Box<dyn Error>> {
    let (first, others) = nodes.split_first().ok_or("no nodes")?;
    let all: Vec<_> = nodes.iter().map(Node::peer).collect();
    let mut lonely: Vec<_> = others.iter().collect();
    for _ in 0..MAX_SEARCHES {
        stream::iter(&lonely)
            .map(|node| node.join(vec![first.addr.clone()]))
            .buffer_unordered(JOINING)
            .collect::<Vec<_>>()
            .await;
        lonely.clear();
        for node in nodes {
            let known = node.status().await.ok_or("a node has ended")?.known;
            if !knows_its_neighbours(node.peer(), &known, &all) {
                lonely.push(node);
            }
        }
        if lonely.is_empty() {
            return Ok(());
        }
    }
    Err(format!("{} nodes do not find their neighbours", lonely.len()).into())
}

/// Whether a routing table has the nodes that are closest to its own, as far as there is room for them: others ask it for
/// these.
fn knows_its_neighbours(
    own: PeerId,
    known: &HashMap<PeerId, Vec<Multiaddr>>,
    all: &[PeerId],
) -> bool {
    let own = kad::KBucketKey::from(own);
    let distance = |peer: &PeerId| own.distance(&kad::KBucketKey::from(*peer));
    let mut entries: HashMap<_, usize> = HashMap::new();
    for peer in known.keys() {
        *entries.entry(distance(peer).ilog2()).or_default() += 1;
    }
    let is_full = |bucket| entries.get(&bucket) >= Some(&kad::K_VALUE.get());
    let others = all.iter().filter(|peer| *peer != own.preimage());
    let mut others: Vec<_> = others.map(|peer| (distance(peer), peer)).collect();
    others.sort_unstable();
    others
        .iter()
        .take(kad::K_VALUE.get())
        .all(|(distance, peer)| known.contains_key(*peer) || is_full(distance.ilog2()))
}

/// Ends of connections, so twice the number of connections.
async fn open_connections(nodes: &[Node]) -> usize {
    let status = stream::iter(nodes).then(Node::status);
    status
        .map(|status| status.map_or(0, |status| status.connections))
        .fold(0, |sum, n| async move { sum + n })
        .await
}

fn records(count: usize) -> Vec<Entry> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let record = |at| {
        let mut value = vec![0; VALUE_LEN];
        rng.fill_bytes(&mut value);
        (format!("/rtc/{at}"), value)
    };
    (0..count).map(record).collect()
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// Resolves on SIGINT or SIGTERM.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Resolves on Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
