//! Two endpoints and the signaling between them, which takes its time.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::proto::{
    ChannelId, CloseReason, ConnectionId, DtlsContext, Identity, Limits, Read, Side, Write,
    candidate::Candidate,
    connection::{Application, Call},
    fingerprint::Fingerprint,
    ice::{AddressFilter, IceConfig, RelayServer, RelayTransport},
    sdp::Description,
    tests::{
        identity,
        link::Link,
        ms,
        nat::NatKind,
        peer::{Accept, Conn, Peer},
        secs,
        sim::{Node, Sim},
        turn::USER,
    },
};

/// How often signaling and applications get their turn.
const QUANTUM: Duration = ms(5);

/// A message of signaling, as text.
#[derive(Clone, Debug)]
enum Signal {
    Offer(String),
    Answer(String),
    Candidate(String),
}

/// What messages carry, and who opens the channel.
pub(super) fn messages(open: bool) -> Application {
    Application::Messages {
        label: "socketpipe",
        protocol: "socketpipe/1.0",
        open,
    }
}

/// Gives a connection its servers.
fn give(
    peer: &mut Peer,
    now: Instant,
    id: ConnectionId,
    (stun, turn): (Vec<SocketAddr>, Vec<RelayServer>),
) {
    for address in stun {
        assert!(peer.endpoint.add_stun_server(now, id, address));
    }
    for server in turn {
        let relay = peer.endpoint.add_relay(now, id, &server).unwrap();
        peer.flows.insert(relay, server.address);
    }
}

/// One end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Who offers.
    Offerer,
    /// Who answers.
    Answerer,
}

use End::{Answerer, Offerer};

impl End {
    pub(super) const BOTH: [Self; 2] = [Offerer, Answerer];

    pub(super) fn index(self) -> usize {
        match self {
            Offerer => 0,
            Answerer => 1,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Offerer => Answerer,
            Answerer => Offerer,
        }
    }
}

/// Two endpoints and their signaling.
pub(super) struct World {
    pub(super) sim: Sim,
    nodes: [Node; 2],
    ids: [Option<ConnectionId>; 2],
    /// Per end: STUN servers and TURN servers.
    stun: [Vec<SocketAddr>; 2],
    turn: [Vec<RelayServer>; 2],
    relay_only: [bool; 2],
    applications: [Application; 2],
    identities: [Identity; 2],
    /// How long signaling takes.
    pub(super) delay: Duration,
    /// Changes messages on their way; none that it empties arrive.
    pub(super) tamper: Option<fn(&str) -> String>,
    /// No candidate arrives.
    pub(super) mute: bool,
    wire: VecDeque<(Instant, End, Signal)>,
}

/// A certificate that no other test has.
pub(super) fn fresh_identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(["end".to_owned()]).unwrap();
    Identity {
        certificate_der: made.cert.der().to_vec(),
        private_key_der: made.key_pair.serialize_der(),
    }
}

impl World {
    /// Two hosts that reach each other, with an application of messages.
    pub(super) fn new(link: Link) -> Self {
        Self::with(link, [messages(true), messages(false)])
    }

    pub(super) fn with(link: Link, applications: [Application; 2]) -> Self {
        let mut sim = Sim::new();
        sim.set_default_link(link);
        let nodes = [sim.dialer(), sim.listener()];
        for node in nodes {
            sim.peer(node).accept = Accept::Manual;
        }
        Self {
            sim,
            nodes,
            ids: [None; 2],
            stun: [Vec::new(), Vec::new()],
            turn: [Vec::new(), Vec::new()],
            relay_only: [false; 2],
            applications,
            identities: [identity(), fresh_identity()],
            delay: ms(20),
            tamper: None,
            mute: false,
            wire: VecDeque::new(),
        }
    }

    pub(super) fn node(&self, end: End) -> Node {
        self.nodes[end.index()]
    }

    pub(super) fn id(&self, end: End) -> ConnectionId {
        self.ids[end.index()].expect("the connection was begun")
    }

    pub(super) fn peer(&mut self, end: End) -> &mut Peer {
        self.sim.peer(self.nodes[end.index()])
    }

    pub(super) fn conn(&mut self, end: End) -> &mut Conn {
        let id = self.id(end);
        self.peer(end).conn(id)
    }

    /// Puts both ends behind NATs, with a STUN server outside.
    pub(super) fn behind(mut self, kind: NatKind) -> Self {
        let server = self.sim.add_turn(false);
        let address = self.sim.address(server);
        for end in End::BOTH {
            self.sim.set_nat(self.node(end), kind);
            self.stun[end.index()].push(address);
        }
        self
    }

    /// Gives an end a TURN server.
    pub(super) fn turn(&mut self, end: End, transport: RelayTransport, password: &str) -> Node {
        let stream = transport == RelayTransport::Stream;
        let server = self.sim.add_turn(stream);
        self.turn[end.index()].push(RelayServer {
            address: self.sim.address(server),
            transport,
            username: USER.0.to_owned(),
            password: password.to_owned(),
        });
        server
    }

    /// An end hides its addresses.
    pub(super) fn hide(&mut self, end: End) {
        self.relay_only[end.index()] = true;
    }

    /// What an end works with.
    pub(super) fn call(&mut self, end: End) -> Call {
        let index = end.index();
        let identity = self.identities[index].clone();
        let limits = Limits::default();
        let host = self.sim.address(self.nodes[index]);
        Call {
            application: self.applications[index].clone(),
            fingerprint: Fingerprint::of_der(&identity.certificate_der),
            dtls: DtlsContext::new(identity, limits.handshake_timeout).unwrap(),
            ice: IceConfig {
                hosts: vec![host],
                filter: AddressFilter::ALL,
                relay_only: self.relay_only[index],
                checks_per_second: 200,
                more_to_come: false,
            },
        }
    }

    /// The addresses of its STUN servers, and its TURN servers.
    fn servers(&self, end: End) -> (Vec<SocketAddr>, Vec<RelayServer>) {
        let index = end.index();
        (self.stun[index].clone(), self.turn[index].clone())
    }

    /// Sends the offer.
    pub(super) fn offer(&mut self) {
        let (call, servers) = (self.call(Offerer), self.servers(Offerer));
        let offer = self.sim.act(self.nodes[0], |peer, now| {
            let (id, offer) = peer.endpoint.offer(now, call).unwrap();
            peer.add_signaled(id, Side::Dialer);
            give(peer, now, id, servers);
            (id, offer)
        });
        self.ids[0] = Some(offer.0);
        self.signal(Answerer, Signal::Offer(offer.1.to_string()));
    }

    /// Begins an ICE restart.
    pub(super) fn restart(&mut self) {
        let id = self.id(Offerer);
        let offer = self
            .sim
            .act(self.nodes[0], |peer, now| peer.endpoint.restart(now, id));
        self.signal(Answerer, Signal::Offer(offer.unwrap().to_string()));
    }

    fn signal(&mut self, to: End, signal: Signal) {
        let at = self.sim.now() + self.delay;
        self.wire.push_back((at, to, signal));
    }

    /// Carries signaling that is due, and collects what is to be said.
    fn pump(&mut self) {
        for end in End::BOTH {
            if self.ids[end.index()].is_none() {
                continue;
            }
            while let Some(candidate) = self.conn(end).candidates.pop_front() {
                if !self.mute {
                    self.signal(end.other(), Signal::Candidate(candidate.to_string()));
                }
            }
        }
        let now = self.sim.now();
        while self.wire.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, to, signal) = self.wire.pop_front().unwrap();
            self.deliver(to, signal);
        }
    }

    fn tampered(&self, text: &str) -> Option<Description> {
        let text = match self.tamper {
            Some(tamper) => tamper(text),
            None => text.to_owned(),
        };
        (!text.is_empty()).then(|| Description::parse(&text).unwrap())
    }

    fn deliver(&mut self, to: End, signal: Signal) {
        match signal {
            Signal::Offer(text) => {
                let Some(offer) = self.tampered(&text) else {
                    return;
                };
                let answer = self.take_offer(&offer);
                self.signal(Offerer, Signal::Answer(answer.to_string()));
            }
            Signal::Answer(text) => {
                let id = self.id(Offerer);
                if let Some(answer) = self.tampered(&text) {
                    self.sim
                        .act(self.nodes[0], |peer, now| {
                            peer.endpoint.accept_answer(now, id, &answer)
                        })
                        .unwrap();
                }
            }
            Signal::Candidate(text) => {
                let candidate = Candidate::parse(&text).unwrap();
                let id = self.id(to);
                self.sim.act(self.nodes[to.index()], |peer, now| {
                    peer.endpoint.add_candidate(now, id, &candidate)
                });
            }
        }
    }

    fn take_offer(&mut self, offer: &Description) -> Description {
        if let Some(id) = self.ids[1] {
            let answer = self.sim.act(self.nodes[1], |peer, now| {
                peer.endpoint.accept_restart(now, id, offer)
            });
            return answer.unwrap();
        }
        let (call, servers) = (self.call(Answerer), self.servers(Answerer));
        let (id, answer) = self.sim.act(self.nodes[1], |peer, now| {
            let (id, answer) = peer.endpoint.accept_offer(now, call, offer).unwrap();
            peer.add_signaled(id, Side::Listener);
            give(peer, now, id, servers);
            (id, answer)
        });
        self.ids[1] = Some(id);
        answer
    }

    /// Lets time pass until `done`.
    pub(super) fn run_until(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let limit = self.sim.now() + time;
        loop {
            self.pump();
            if done(self) {
                return true;
            }
            if self.sim.now() >= limit {
                return false;
            }
            self.sim.run_for(QUANTUM);
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    #[track_caller]
    pub(super) fn expect(
        &mut self,
        what: &str,
        time: Duration,
        done: impl FnMut(&mut Self) -> bool,
    ) {
        let reached = self.run_until(time, done);
        assert!(reached, "no {what}\n{}", self.sim.describe());
    }

    /// Makes the connection, up to the channel of messages.
    #[track_caller]
    pub(super) fn connect(&mut self) -> [ChannelId; 2] {
        self.offer();
        self.expect("channel", secs(10), |world| {
            world.ids[1].is_some()
                && End::BOTH
                    .into_iter()
                    .all(|end| !world.conn(end).inbound.is_empty())
        });
        End::BOTH.map(|end| self.conn(end).inbound.pop_front().unwrap())
    }

    /// Whether data of this end goes by a TURN server of its own.
    pub(super) fn is_relayed(&mut self, end: End) -> bool {
        let id = self.id(end);
        let (path, _) = self.peer(end).endpoint.selected_path(id).unwrap();
        path.relay.is_some()
    }

    pub(super) fn closed(&mut self, end: End) -> Option<CloseReason> {
        self.conn(end)
            .closed
            .as_ref()
            .map(|(_, reason)| reason.clone())
    }

    /// Sends one message; true if it was taken.
    pub(super) fn send(&mut self, end: End, channel: ChannelId, message: &Bytes) -> bool {
        let id = self.id(end);
        let written = self.sim.act(self.nodes[end.index()], |peer, now| {
            peer.endpoint.write_message(now, id, channel, message)
        });
        match written {
            Write::Accepted(taken) => taken > 0,
            other => panic!("{other:?}\n{}", self.sim.describe()),
        }
    }

    /// The next message, if there is one.
    pub(super) fn receive(&mut self, end: End, channel: ChannelId) -> Option<Bytes> {
        let id = self.id(end);
        let read = self.sim.act(self.nodes[end.index()], |peer, now| {
            peer.endpoint.read(now, id, channel)
        });
        match read {
            Read::Data(message) => Some(message),
            _ => None,
        }
    }

    /// Sends `count` numbered messages from `end`, and checks that they arrive, each whole, in order.
    #[track_caller]
    pub(super) fn transfer(
        &mut self,
        end: End,
        channels: [ChannelId; 2],
        count: u32,
        time: Duration,
    ) {
        let (mut sent, mut received) = (0, 0);
        let message = |number: u32| {
            let len = 8 + (number as usize * 7919) % 16_000;
            let mut bytes = vec![number.to_le_bytes()[0]; len];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            Bytes::from(bytes)
        };
        self.expect("end of the transfer", time, |world| {
            while sent < count && world.send(end, channels[end.index()], &message(sent)) {
                sent += 1;
            }
            let other = end.other();
            while let Some(arrived) = world.receive(other, channels[other.index()]) {
                assert_eq!(arrived, message(received), "message {received}");
                received += 1;
            }
            received == count
        });
    }
}
