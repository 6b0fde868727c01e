//! Time and the network: many hosts, links between them, one clock that jumps to the next event.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    fingerprint,
    link::{Link, LinkState},
    nat::{Nat, NatKind},
    peer::Peer,
    raw::RawPeer,
    turn::{FIRST_RELAY_PORT, MAX_RELAYS, TurnHost},
};
use crate::proto::{ChannelId, ConnectionId, Dial, DialPolicy, Endpoint, Limits, ice::RelayId};

/// Ports of a host from here on are those of its flows to TURN servers.
const FLOW_PORTS: u16 = 20_000;

/// Turns of one host at one instant; more means that it spins.
const MAX_TURNS: u32 = 20_000;

/// One host of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node(pub(super) usize);

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// Where it comes from, as the receiver sees it.
    pub(super) from: SocketAddr,
    /// Where it goes.
    pub(super) to: SocketAddr,
    /// Its contents.
    pub(super) contents: Vec<u8>,
    /// It is a piece of a stream: neither lost nor overtaken.
    pub(super) stream: bool,
}

/// Says which datagrams are carried.
type Filter = Box<dyn FnMut(&Packet) -> bool>;

/// What runs on a host.
enum Program {
    Peer(Box<Peer>),
    Raw(Box<RawPeer>),
    Turn(Box<TurnHost>),
}

struct Host {
    program: Program,
    address: SocketAddr,
    deadline: Option<Instant>,
    turns: u32,
    turns_at: Instant,
    total_turns: u64,
    asleep: bool,
}

/// A network of hosts.
pub(super) struct Sim {
    seed: u64,
    start: Instant,
    now: Instant,
    rng: StdRng,
    hosts: Vec<Host>,
    addresses: HashMap<SocketAddr, Node>,
    deadlines: BTreeSet<(Instant, Node)>,
    wire: BTreeMap<(Instant, u64), Packet>,
    sequence: u64,
    default_link: Link,
    links: HashMap<(Node, Node), Link>,
    states: HashMap<(Node, Node), LinkState>,
    filter: Option<Filter>,
    nats: HashMap<Node, Nat>,
    publics: HashMap<IpAddr, Node>,
    /// Datagrams to addresses that no host has.
    pub(super) astray: Vec<Packet>,
}

impl Sim {
    /// An empty network; `SIMULATION_SEED` chooses its randomness.
    pub(super) fn new() -> Self {
        let seed = std::env::var("SIMULATION_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        Self::with_seed(seed.unwrap_or_else(|| rand::rng().random()))
    }

    /// An empty network with this randomness.
    #[expect(
        clippy::disallowed_methods,
        reason = "virtual time needs a beginning, and there is no other way to make an instant"
    )]
    pub(super) fn with_seed(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            seed,
            start,
            now: start,
            rng: StdRng::seed_from_u64(seed),
            hosts: Vec::new(),
            addresses: HashMap::new(),
            deadlines: BTreeSet::new(),
            wire: BTreeMap::new(),
            sequence: 0,
            default_link: Link::default(),
            links: HashMap::new(),
            states: HashMap::new(),
            filter: None,
            nats: HashMap::new(),
            publics: HashMap::new(),
            astray: Vec::new(),
        }
    }

    /// Adds a host with an endpoint; each has its own address in 10.0.0.0/8, every /24 only one.
    pub(super) fn add_peer(&mut self, limits: Limits, accept_incoming: bool) -> Node {
        let seed = self.rng.random();
        let endpoint = Endpoint::new(limits, super::identity(), accept_incoming, seed);
        let peer = Peer::new(endpoint.unwrap(), self.now);
        self.add(Program::Peer(Box::new(peer)))
    }

    /// A listener with the usual limits.
    pub(super) fn listener(&mut self) -> Node {
        self.add_peer(Limits::default(), true)
    }

    /// A dialer with the usual limits.
    pub(super) fn dialer(&mut self) -> Node {
        self.add_peer(Limits::default(), false)
    }

    /// Adds a hand-made peer.
    pub(super) fn add_raw(&mut self, raw: RawPeer) -> Node {
        let node = self.add(Program::Raw(Box::new(raw)));
        self.turn(node);
        node
    }

    /// Adds a STUN and TURN server, for datagrams or for streams.
    pub(super) fn add_turn(&mut self, stream: bool) -> Node {
        let address = Self::address_for(self.hosts.len(), 4000);
        let server = TurnHost::new(address, stream, self.start);
        let node = self.add(Program::Turn(Box::new(server)));
        for port in 0..MAX_RELAYS {
            let relay = SocketAddr::new(address.ip(), FIRST_RELAY_PORT + port);
            self.addresses.insert(relay, node);
        }
        node
    }

    /// Allocations of a TURN server since the start.
    pub(super) fn allocations(&self, node: Node) -> u16 {
        match &self.hosts[node.0].program {
            Program::Turn(server) => server.allocations(),
            _ => panic!("{node:?} is no TURN server"),
        }
    }

    /// Puts a NAT in front of a host: nobody reaches its address any more, only what the NAT shows of it.
    pub(super) fn set_nat(&mut self, node: Node, kind: NatKind) {
        let [.., high, low] = u32::try_from(node.0).unwrap().to_be_bytes();
        let public = IpAddr::from([172, 20 + high, low, 9]);
        self.publics.insert(public, node);
        self.nats.insert(node, Nat::new(kind, public));
    }

    /// A NAT.
    pub(super) fn nat(&mut self, node: Node) -> &mut Nat {
        self.nats.get_mut(&node).expect("the host has a NAT")
    }

    fn add(&mut self, program: Program) -> Node {
        let node = Node(self.hosts.len());
        let address = Self::address_for(node.0, 4000);
        self.addresses.insert(address, node);
        self.hosts.push(Host {
            program,
            address,
            deadline: None,
            turns: 0,
            turns_at: self.now,
            total_turns: 0,
            asleep: false,
        });
        node
    }

    fn address_for(number: usize, port: u16) -> SocketAddr {
        let [.., high, low] = u32::try_from(number).unwrap().to_be_bytes();
        SocketAddr::from(([10, high, low, 1], port))
    }

    /// Dice of its own for a test, from the same seed.
    pub(super) fn dice(&mut self) -> StdRng {
        StdRng::from_seed(self.rng.random())
    }

    /// The time.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A host's address as others see it.
    pub(super) fn address(&self, node: Node) -> SocketAddr {
        self.hosts[node.0].address
    }

    /// An endpoint and its application.
    pub(super) fn peer(&mut self, node: Node) -> &mut Peer {
        match &mut self.hosts[node.0].program {
            Program::Peer(peer) => peer,
            _ => panic!("{node:?} has no endpoint"),
        }
    }

    /// A hand-made peer.
    pub(super) fn raw(&mut self, node: Node) -> &mut RawPeer {
        match &mut self.hosts[node.0].program {
            Program::Raw(raw) => raw,
            _ => panic!("{node:?} is not made by hand"),
        }
    }

    /// Does something with an endpoint and its application, then lets it take its turn.
    pub(super) fn act<T>(&mut self, node: Node, act: impl FnOnce(&mut Peer, Instant) -> T) -> T {
        let now = self.now;
        let result = act(self.peer(node), now);
        self.hosts[node.0].turns = 0;
        self.turn(node);
        result
    }

    /// Does something with a hand-made peer.
    pub(super) fn act_raw<T>(&mut self, node: Node, act: impl FnOnce(&mut RawPeer) -> T) -> T {
        let result = act(self.raw(node));
        self.turn(node);
        result
    }

    /// The link between any two hosts that have none of their own.
    pub(super) fn set_default_link(&mut self, link: Link) {
        self.default_link = link;
    }

    /// The link between two hosts, both ways.
    pub(super) fn set_link(&mut self, a: Node, b: Node, link: Link) {
        self.links.insert((a, b), link.clone());
        self.links.insert((b, a), link);
    }

    /// The link from one host to another.
    pub(super) fn link_mut(&mut self, from: Node, to: Node) -> &mut Link {
        self.links
            .entry((from, to))
            .or_insert_with(|| self.default_link.clone())
    }

    /// Cuts the link between two hosts, or mends it.
    pub(super) fn set_down(&mut self, a: Node, b: Node, down: bool) {
        self.link_mut(a, b).down = down;
        self.link_mut(b, a).down = down;
    }

    /// Only datagrams for which `filter` says yes are carried.
    pub(super) fn set_filter(&mut self, filter: impl FnMut(&Packet) -> bool + 'static) {
        self.filter = Some(Box::new(filter));
    }

    /// Carries everything again.
    pub(super) fn clear_filter(&mut self) {
        self.filter = None;
    }

    /// Gives a host another address, as a NAT does that forgot its mapping: the old one leads nowhere.
    pub(super) fn rebind(&mut self, node: Node) -> SocketAddr {
        let old = self.address(node);
        self.addresses.remove(&old);
        let new = SocketAddr::new(old.ip(), old.port() + 1);
        self.addresses.insert(new, node);
        self.hosts[node.0].address = new;
        new
    }

    /// Turns a host took since the start.
    pub(super) fn turns(&self, node: Node) -> u64 {
        self.hosts[node.0].total_turns
    }

    /// Puts a host to sleep, as closing a laptop does: it hears and does nothing until it is woken.
    pub(super) fn sleep(&mut self, node: Node) {
        self.hosts[node.0].asleep = true;
        self.set_deadline(node, None);
    }

    /// Wakes a host; all its timers are due at once.
    pub(super) fn wake(&mut self, node: Node) {
        self.hosts[node.0].asleep = false;
        let now = self.now;
        self.act(node, |peer, _| peer.endpoint.handle_timeout(now));
    }

    /// Replaces what runs on a host, at the same address, as a restart without goodbye does.
    pub(super) fn restart(&mut self, node: Node, limits: Limits, accept_incoming: bool) {
        let fresh = self.add_peer(limits, accept_incoming);
        let host = self.hosts.pop().unwrap();
        self.addresses.remove(&host.address);
        debug_assert_eq!(fresh.0, self.hosts.len());
        self.hosts[node.0].program = host.program;
        self.set_deadline(node, None);
    }

    /// Starts a dial that trusts the certificate all peers share.
    pub(super) fn dial(&mut self, from: Node, to: Node, policy: DialPolicy) -> ConnectionId {
        let dial = Dial {
            remote: self.address(to),
            policy,
            fingerprints: vec![fingerprint()],
        };
        self.dial_with(from, dial)
    }

    /// Starts any dial.
    pub(super) fn dial_with(&mut self, from: Node, dial: Dial) -> ConnectionId {
        self.act(from, |peer, now| peer.dial(now, dial))
    }

    /// Dials and waits until both sides are authenticated.
    pub(super) fn connect(&mut self, from: Node, to: Node) -> (ConnectionId, ConnectionId) {
        let before: BTreeSet<_> = self.peer(to).connections.keys().copied().collect();
        let dialed = self.dial(from, to, DialPolicy::V2);
        let mut accepted = None;
        self.expect("connection", Duration::from_secs(10), |sim| {
            accepted = sim.peer(to).authenticated().find(|id| !before.contains(id));
            sim.peer(from).is_authenticated(dialed) && accepted.is_some()
        });
        let accepted = accepted.expect("the listener has it too");
        (dialed, accepted)
    }

    /// Opens a channel that the test drives by hand.
    pub(super) fn open(&mut self, node: Node, connection: ConnectionId) -> ChannelId {
        self.act(node, |peer, now| peer.open(now, connection))
            .expect("a channel is free")
    }

    /// Hands a datagram to a host, from wherever.
    pub(super) fn inject(&mut self, from: SocketAddr, to: Node, contents: &[u8]) {
        self.hosts[to.0].turns = 0;
        let address = self.address(to);
        self.receive(to, from, address, contents);
        self.turn(to);
    }

    fn receive(&mut self, node: Node, from: SocketAddr, to: SocketAddr, contents: &[u8]) {
        let now = self.now;
        let host = &mut self.hosts[node.0];
        match &mut host.program {
            Program::Turn(server) => server.receive(now, from, to, contents),
            Program::Peer(peer) if to.port() >= FLOW_PORTS => {
                let relay = RelayId((to.port() - FLOW_PORTS).into());
                peer.endpoint.handle_relay(now, relay, contents);
            }
            Program::Peer(peer) => {
                let (endpoint, ip) = (&mut peer.endpoint, Some(host.address.ip()));
                match peer.for_calls {
                    true => endpoint.handle_datagram_of_calls(now, ip, from, contents),
                    false => endpoint.handle_datagram(now, ip, from, contents),
                }
            }
            Program::Raw(raw) => raw.handle_datagram(now, from, contents),
        }
    }

    /// One turn of a host, in the order of the contract.
    fn turn(&mut self, node: Node) {
        let now = self.now;
        let host = &mut self.hosts[node.0];
        host.total_turns += 1;
        if host.turns_at != now {
            (host.turns_at, host.turns) = (now, 0);
        }
        host.turns += 1;
        if let Program::Turn(server) = &mut host.program {
            let (datagrams, deadline) = server.turn(now);
            self.set_deadline(node, deadline);
            for (from, to, contents) in datagrams {
                self.send_from(node, from, to, contents);
            }
            return;
        }
        let (datagrams, deadline) = match &mut host.program {
            Program::Turn(_) => unreachable!("it had its turn"),
            Program::Peer(peer) => {
                let due = peer.endpoint.poll_timeout();
                assert!(host.turns < MAX_TURNS, "the endpoint spins: {due:?}");
                peer.turn(now)
            }
            Program::Raw(raw) => raw.turn(now),
        };
        self.set_deadline(node, deadline);
        for (to, contents) in datagrams {
            self.send(node, to, contents);
        }
        if let Program::Peer(peer) = &mut self.hosts[node.0].program {
            for (relay, server, contents) in peer.take_relayed() {
                let port = FLOW_PORTS + u16::try_from(relay.0).unwrap();
                let from = SocketAddr::new(self.hosts[node.0].address.ip(), port);
                self.send_from(node, from, server, contents);
            }
        }
    }

    fn set_deadline(&mut self, node: Node, deadline: Option<Instant>) {
        if let Some(old) = std::mem::replace(&mut self.hosts[node.0].deadline, deadline) {
            self.deadlines.remove(&(old, node));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, node));
        }
    }

    fn send(&mut self, node: Node, to: SocketAddr, contents: Vec<u8>) {
        self.send_from(node, self.hosts[node.0].address, to, contents);
    }

    /// Whether an address is an end of a stream: the server of one, or a flow that leads there.
    fn is_stream(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let server = |address| {
            let node = self.addresses.get(&address)?;
            match &self.hosts[node.0].program {
                Program::Turn(server) => Some(server.is_stream(address)),
                _ => None,
            }
        };
        server(from).or_else(|| server(to)) == Some(true)
    }

    /// Who gets what is sent to an address: nobody reaches the inside of a NAT directly.
    fn receiver(&self, to: SocketAddr) -> Option<Node> {
        let [_, high, low, _] = match to.ip() {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(_) => return None,
        };
        // The flows of a host have ports of their own.
        let of_ip = Node(usize::from(high) * 256 + usize::from(low));
        let flow = to.port() >= FLOW_PORTS
            && self.hosts.get(of_ip.0).is_some_and(|host| {
                host.address.ip() == to.ip() && matches!(host.program, Program::Peer(_))
            });
        let direct = self.addresses.get(&to).copied();
        let direct = direct.or_else(|| flow.then_some(of_ip));
        direct
            .filter(|node| !self.nats.contains_key(node))
            .or_else(|| self.publics.get(&to.ip()).copied())
    }

    fn send_from(&mut self, node: Node, from: SocketAddr, to: SocketAddr, contents: Vec<u8>) {
        let stream = self.is_stream(from, to);
        let from = match self.nats.get_mut(&node) {
            Some(nat) => nat.outbound(from, to),
            None => from,
        };
        let packet = Packet {
            from,
            to,
            contents,
            stream,
        };
        if self.filter.as_mut().is_some_and(|filter| !filter(&packet)) {
            return;
        }
        let Some(receiver) = self.receiver(to) else {
            self.astray.push(packet);
            return;
        };
        let path = (node, receiver);
        if packet.stream {
            let latency = self.links.get(&path).unwrap_or(&self.default_link).latency;
            // In pieces, as streams come.
            let (first, second) = packet.contents.split_at(packet.contents.len() / 2);
            for piece in [first, second] {
                self.sequence += 1;
                let contents = piece.to_vec();
                let at = (self.now + latency, self.sequence);
                self.wire.insert(
                    at,
                    Packet {
                        contents,
                        ..packet.clone()
                    },
                );
            }
            return;
        }
        let link = self.links.get(&path).unwrap_or(&self.default_link);
        let state = self.states.entry(path).or_default();
        for at in state.arrivals(link, self.now, packet.contents.len(), &mut self.rng) {
            self.sequence += 1;
            self.wire.insert((at, self.sequence), packet.clone());
        }
    }

    /// At whom a datagram arrives, and at which of its addresses.
    fn arrival(&self, packet: &Packet) -> Option<(Node, SocketAddr)> {
        let node = self.receiver(packet.to)?;
        match self.nats.get(&node) {
            Some(nat) => Some((node, nat.inbound(packet.from, packet.to)?)),
            None => Some((node, packet.to)),
        }
    }

    /// When something happens next.
    fn next_instant(&self) -> Option<Instant> {
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let next = arrival.into_iter().chain(deadline).min()?;
        Some(next.max(self.now))
    }

    /// Everything that happens at the next instant. False: nothing does until `limit`.
    fn step(&mut self, limit: Instant) -> bool {
        let Some(next) = self.next_instant().filter(|&next| next <= limit) else {
            self.now = limit.max(self.now);
            return false;
        };
        self.now = next;
        let mut touched = BTreeSet::new();
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= next
        {
            let packet = entry.remove();
            if let Some((node, to)) = self.arrival(&packet)
                && !self.hosts[node.0].asleep
            {
                self.receive(node, packet.from, to, &packet.contents);
                touched.insert(node);
            }
        }
        while let Some(&(at, node)) = self.deadlines.first()
            && at <= next
        {
            self.set_deadline(node, None);
            match &mut self.hosts[node.0].program {
                Program::Peer(peer) => peer.endpoint.handle_timeout(next),
                Program::Raw(raw) => raw.handle_timeout(next),
                // Its turn is its timer.
                Program::Turn(_) => {}
            }
            touched.insert(node);
        }
        for node in touched {
            self.turn(node);
        }
        true
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, time: Duration) {
        let limit = self.now + time;
        while self.step(limit) {}
    }

    /// Lets time pass until `done`, at most `time`. True if it came to that.
    pub(super) fn run_until(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let limit = self.now + time;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(limit) {
                return done(self);
            }
        }
    }

    /// The same, and fails the test if it does not come to that.
    #[track_caller]
    pub(super) fn expect(
        &mut self,
        what: &str,
        time: Duration,
        done: impl FnMut(&mut Self) -> bool,
    ) {
        let from = self.elapsed();
        let reached = self.run_until(time, done);
        assert!(
            reached,
            "no {what} between {from:?} and {:?}\n{}",
            self.elapsed(),
            self.describe()
        );
    }
}

impl Sim {
    /// What can be seen of all endpoints, for messages of failed tests.
    pub(super) fn describe(&mut self) -> String {
        let start = self.start;
        let mut text = String::new();
        for (number, host) in self.hosts.iter_mut().enumerate() {
            if let Program::Peer(peer) = &mut host.program {
                text += &format!(
                    "host {number} at {}: {}\n",
                    host.address,
                    peer.describe(start)
                );
            }
        }
        for ((from, to), state) in &self.states {
            text += &format!(
                "{from:?} to {to:?}: {} arrived, {} lost\n",
                state.carried, state.lost
            );
        }
        text
    }
}

/// The first flight of a dialer's DTLS.
pub(in crate::proto) fn client_hello() -> Vec<u8> {
    let mut sim = Sim::new();
    let dialer = sim.dialer();
    let dial = Dial {
        remote: SocketAddr::from(([172, 31, 0, 1], 1)),
        policy: DialPolicy::V2,
        fingerprints: Vec::new(),
    };
    sim.dial_with(dialer, dial);
    let mut first = std::mem::take(&mut sim.astray).into_iter();
    let hello = first.find(|packet| packet.contents[0] == 22);
    hello
        .expect("the ClientHello follows the first check")
        .contents
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SIMULATION_SEED={}", self.seed);
        }
    }
}
