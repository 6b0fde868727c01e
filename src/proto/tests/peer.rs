//! An endpoint with an application on top that keeps to the contract and checks that the endpoint does too.
//!
//! The application authenticates as soon as it can, takes inbound channels, and moves a known pattern through
//! [`Pipe`]s. It reads and writes only when an event says so: a wake-up that gets lost stops it for good, and the
//! test sees that.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use super::pipe::Pipe;
use crate::proto::{
    ChannelId, CloseReason, ConnectionId, Counters, Dial, DropReason, Endpoint, Event,
    HandshakePhase, Read, Side, Transmit, Write,
    candidate::Candidate,
    credentials::IceVersion,
    fingerprint::Fingerprint,
    ice::{RelayId, RelayTransmit, ServerNews},
};

/// Sizes of the three Noise messages.
const NOISE: [usize; 3] = [34, 220, 186];
/// No datagram may be longer: what IPv6 carries everywhere, less its headers.
const MAX_DATAGRAM: usize = 1232;
/// Rounds of events in one turn; more means that events breed.
const MAX_ROUNDS: u32 = 10_000;

/// What the application does with inbound channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    /// Sends everything back, and FIN after FIN.
    Echo,
    /// Reads everything, answers FIN with FIN.
    Sink,
    /// Takes them and leaves the rest to the test.
    Manual,
    /// Leaves them where they are.
    Leave,
}

/// What the application knows of a connection.
#[derive(Debug)]
pub(super) struct Conn {
    /// Our role.
    pub(super) side: Side,
    /// What `Ready` said, and when.
    pub(super) ready: Option<(Instant, Fingerprint, Option<IceVersion>)>,
    /// When Noise was done.
    pub(super) authenticated: Option<Instant>,
    /// When and why it ended.
    pub(super) closed: Option<(Instant, CloseReason)>,
    /// Channels of the test.
    pub(super) inbound: VecDeque<ChannelId>,
    /// Channels of the application.
    pub(super) pipes: BTreeMap<ChannelId, Pipe>,
    /// Those that are gone.
    pub(super) over: Vec<Pipe>,
    /// `OpenPossible` came so often.
    pub(super) open_possible: u32,
    /// Addresses the peer moved to.
    pub(super) moves: Vec<SocketAddr>,
    /// Candidates that the peer of a signaled connection is to be told.
    pub(super) candidates: VecDeque<Candidate>,
    /// There are no more.
    pub(super) all_candidates: bool,
    /// What STUN and TURN servers have shown.
    pub(super) servers: Vec<ServerNews>,
    /// Paths that were selected, and whether they are relayed.
    pub(super) paths: Vec<(Instant, SocketAddr, bool)>,
    /// When a path was lost.
    pub(super) lost: Vec<Instant>,
    /// Channels that may have events.
    live: BTreeSet<ChannelId>,
    /// Events of channels that the test drives.
    pub(super) log: Vec<Event>,
    noise_received: usize,
}

/// An endpoint and its application.
pub(super) struct Peer {
    /// The endpoint under test.
    pub(super) endpoint: Endpoint,
    /// What becomes of inbound channels.
    pub(super) accept: Accept,
    /// Exchange three messages on channel 0 before being authenticated, as Noise does; else at once.
    pub(super) noise: bool,
    /// Never be authenticated.
    pub(super) stuck: bool,
    /// Its socket is one that only calls use.
    pub(super) for_calls: bool,
    /// Inbound streams that are taken and not read.
    pub(super) unread: BTreeSet<u16>,
    /// Connections since the start.
    pub(super) connections: BTreeMap<ConnectionId, Conn>,
    /// Handshake phases that ended.
    pub(super) phases: Vec<(Instant, HandshakePhase)>,
    /// Where the flows to TURN servers lead.
    pub(super) flows: BTreeMap<RelayId, SocketAddr>,
    relayed: Vec<(RelayId, Vec<u8>)>,
    now: Instant,
}

impl Peer {
    pub(super) fn new(endpoint: Endpoint, now: Instant) -> Self {
        Self {
            endpoint,
            accept: Accept::Echo,
            noise: false,
            stuck: false,
            for_calls: false,
            unread: BTreeSet::new(),
            connections: BTreeMap::new(),
            phases: Vec::new(),
            flows: BTreeMap::new(),
            relayed: Vec::new(),
            now,
        }
    }

    /// Starts a dial.
    pub(super) fn dial(&mut self, now: Instant, dial: Dial) -> ConnectionId {
        let id = self.endpoint.dial(now, dial);
        self.connections.insert(id, Conn::new(Side::Dialer));
        id
    }

    /// A connection's record.
    pub(super) fn conn(&mut self, id: ConnectionId) -> &mut Conn {
        self.connections
            .get_mut(&id)
            .expect("the connection was announced")
    }

    /// Why a connection ended, if it has.
    pub(super) fn closed(&self, id: ConnectionId) -> Option<&CloseReason> {
        self.connections
            .get(&id)?
            .closed
            .as_ref()
            .map(|(_, reason)| reason)
    }

    /// Whether a connection is up.
    pub(super) fn is_authenticated(&self, id: ConnectionId) -> bool {
        self.authenticated().any(|known| known == id)
    }

    /// Connections that are up.
    pub(super) fn authenticated(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.connections
            .iter()
            .filter(|(_, conn)| conn.authenticated.is_some() && conn.closed.is_none())
            .map(|(id, _)| *id)
    }

    /// The only connection since the start.
    pub(super) fn only(&self) -> ConnectionId {
        assert_eq!(self.connections.len(), 1, "one connection");
        *self.connections.keys().next().unwrap()
    }

    /// What can be seen of the endpoint, for messages of failed tests.
    pub(super) fn describe(&mut self, start: Instant) -> String {
        let counters = self.counters();
        let dropped =
            DropReason::ALL.map(|reason| (reason.as_str(), counters.dropped[reason as usize]));
        let dropped: Vec<_> = dropped.iter().filter(|(_, count)| *count > 0).collect();
        let mut text = format!(
            "{} connections, dropped {dropped:?}",
            self.endpoint.connections()
        );
        for (at, phase) in &self.phases {
            text += &format!(
                "\n  {:?}: {:?} {:?} ok: {}",
                *at - start,
                phase.side,
                phase.phase,
                phase.ok
            );
        }
        for (id, conn) in self.connections.iter().take(5) {
            let closed = conn
                .closed
                .as_ref()
                .map(|(at, reason)| (*at - start, reason));
            text += &format!("\n  {id:?} {:?} closed: {closed:?}", conn.side);
            text += &format!(
                ", authenticated: {:?}",
                conn.authenticated.map(|at| at - start)
            );
            for (channel, pipe) in conn.pipes.iter().take(5) {
                text += &format!("\n    {channel:?}: {pipe:?}");
            }
        }
        text
    }

    /// How often a packet was dropped for this reason.
    pub(super) fn dropped(&mut self, reason: DropReason) -> u64 {
        self.endpoint.counters().dropped[reason as usize]
    }

    /// Figures of the endpoint.
    pub(super) fn counters(&mut self) -> Counters {
        self.endpoint.counters().clone()
    }

    /// Opens a channel for the test.
    pub(super) fn open(&mut self, now: Instant, id: ConnectionId) -> Option<ChannelId> {
        let channel = self.endpoint.open(now, id)?;
        let fresh = self.conn(id).live.insert(channel);
        assert!(fresh, "{channel:?} was given out twice");
        Some(channel)
    }

    /// Opens a channel for the application, which does what `pipe` says.
    pub(super) fn start(
        &mut self,
        now: Instant,
        id: ConnectionId,
        pipe: impl FnOnce(u16) -> Pipe,
    ) -> Option<ChannelId> {
        let channel = self.open(now, id)?;
        let pipe = pipe(channel.stream);
        self.conn(id).pipes.insert(channel, pipe);
        self.pump(now, id, channel);
        Some(channel)
    }

    /// A channel of the application.
    pub(super) fn pipe(&mut self, id: ConnectionId, channel: ChannelId) -> &mut Pipe {
        self.conn(id)
            .pipes
            .get_mut(&channel)
            .expect("the application has this channel")
    }

    /// Lets the application go on with a channel, after the test changed its mind.
    pub(super) fn pump(&mut self, now: Instant, id: ConnectionId, channel: ChannelId) {
        if let Some(conn) = self.connections.get_mut(&id)
            && let Some(pipe) = conn.pipes.get_mut(&channel)
        {
            pipe.pump(&mut self.endpoint, now, (id, channel));
        }
    }

    /// Lets the application read only so many pieces of a channel.
    pub(super) fn pump_pieces(
        &mut self,
        now: Instant,
        id: ConnectionId,
        channel: ChannelId,
        pieces: u32,
    ) {
        let Some(pipe) = self
            .connections
            .get_mut(&id)
            .and_then(|conn| conn.pipes.get_mut(&channel))
        else {
            return;
        };
        pipe.pump_pieces(&mut self.endpoint, now, (id, channel), pieces);
    }

    /// Everything a channel gives now.
    pub(super) fn read_all(
        &mut self,
        now: Instant,
        id: ConnectionId,
        channel: ChannelId,
    ) -> (Vec<u8>, Read) {
        let mut all = Vec::new();
        loop {
            match self.endpoint.read(now, id, channel) {
                Read::Data(bytes) => all.extend_from_slice(&bytes),
                end => return (all, end),
            }
        }
    }

    /// One turn in the order of the contract: datagrams to send, and when the next turn is due.
    pub(super) fn turn(&mut self, now: Instant) -> (Vec<(SocketAddr, Vec<u8>)>, Option<Instant>) {
        self.now = now;
        self.endpoint.process(now);
        for round in 0.. {
            assert!(round < MAX_ROUNDS, "events breed events");
            let mut any = false;
            while let Some((id, event)) = self.endpoint.poll_event() {
                any = true;
                self.on_event(id, event);
            }
            if !any {
                break;
            }
            self.endpoint.process(now);
        }
        while let Some(phase) = self.endpoint.poll_phase() {
            self.phases.push((now, phase));
        }
        let mut datagrams = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            split(&transmit, &mut datagrams);
            self.endpoint.recycle(transmit.contents);
        }
        while let Some(RelayTransmit { relay, contents }) = self.endpoint.poll_relay() {
            self.relayed.push((relay, contents));
        }
        (datagrams, self.endpoint.poll_timeout().map(|(at, _)| at))
    }

    /// Messages for TURN servers, and where those are.
    pub(super) fn take_relayed(&mut self) -> Vec<(RelayId, SocketAddr, Vec<u8>)> {
        let flows = &self.flows;
        let messages = self.relayed.drain(..);
        messages
            .filter_map(|(relay, contents)| Some((relay, *flows.get(&relay)?, contents)))
            .collect()
    }

    /// Notes a signaled connection.
    pub(super) fn add_signaled(&mut self, id: ConnectionId, side: Side) {
        self.connections.insert(id, Conn::new(side));
    }

    fn on_event(&mut self, id: ConnectionId, event: Event) {
        let now = self.now;
        if let Event::Incoming { .. } = event {
            let new = self
                .connections
                .insert(id, Conn::new(Side::Listener))
                .is_none();
            assert!(new, "{id:?} was announced twice");
            return;
        }
        if !self.connections.contains_key(&id) {
            // A handshake that failed before the connection was announced.
            assert!(
                matches!(event, Event::Closed(_)),
                "{event:?} before Incoming"
            );
            return;
        }
        self.conn(id).check(&event);
        match event {
            Event::Incoming { .. } => {}
            Event::Ready {
                remote_fingerprint,
                version,
            } => {
                self.conn(id).ready = Some((now, remote_fingerprint, version));
                self.on_ready(id);
            }
            Event::ChannelOpened(channel) => self.on_opened(id, channel),
            Event::OpenPossible => self.conn(id).open_possible += 1,
            Event::ChannelReadable(ChannelId::HANDSHAKE) if self.noise => self.on_noise(id),
            Event::ChannelReadable(channel) => self.wake(id, channel, event),
            Event::ChannelWritable(channel) => self.wake(id, channel, event),
            Event::ChannelClosed(channel) => {
                let conn = self.conn(id);
                match conn.pipes.remove(&channel) {
                    Some(pipe) => conn.over.push(pipe),
                    None => conn.log.push(event),
                }
            }
            Event::AddressChanged(remote) => self.conn(id).moves.push(remote),
            Event::Candidate(candidate) => self.conn(id).candidates.push_back(*candidate),
            Event::EndOfCandidates => self.conn(id).all_candidates = true,
            Event::PathSelected { remote, relayed } => {
                self.conn(id).paths.push((now, remote, relayed));
            }
            Event::PathLost => self.conn(id).lost.push(now),
            Event::Server(news) => self.conn(id).servers.push(news),
            Event::Closed(reason) => self.conn(id).closed = Some((now, reason)),
        }
    }

    fn on_ready(&mut self, id: ConnectionId) {
        let listener = self.conn(id).side == Side::Listener;
        match (self.stuck, self.noise, listener) {
            (true, ..) => {}
            (false, false, _) => self.authenticate(id),
            (false, true, true) => self.say_noise(id, 0),
            (false, true, false) => self.on_noise(id),
        }
    }

    fn authenticate(&mut self, id: ConnectionId) {
        let now = self.now;
        self.conn(id).authenticated = Some(now);
        self.endpoint.authenticated(now, id);
    }

    fn say_noise(&mut self, id: ConnectionId, message: usize) {
        let message = vec![0xee; NOISE[message]];
        let written = self
            .endpoint
            .write(self.now, id, ChannelId::HANDSHAKE, &message);
        assert_eq!(written, Write::Accepted(message.len()));
    }

    fn on_noise(&mut self, id: ConnectionId) {
        let (bytes, _) = self.read_all(self.now, id, ChannelId::HANDSHAKE);
        let conn = self.conn(id);
        let before = conn.noise_received;
        conn.noise_received += bytes.len();
        let after = conn.noise_received;
        let reached = |goal: usize| before < goal && after >= goal;
        match conn.side {
            Side::Dialer => {
                if reached(NOISE[0]) {
                    self.say_noise(id, 1);
                }
                if reached(NOISE[0] + NOISE[2]) {
                    self.authenticate(id);
                }
            }
            Side::Listener if reached(NOISE[1]) => {
                self.say_noise(id, 2);
                self.authenticate(id);
            }
            Side::Listener => {}
        }
    }

    fn on_opened(&mut self, id: ConnectionId, channel: ChannelId) {
        let fresh = self.conn(id).live.insert(channel);
        assert!(fresh, "{channel:?} was announced twice");
        if self.accept == Accept::Leave {
            return;
        }
        self.endpoint.accepted(id, channel);
        let reading = !self.unread.contains(&channel.stream);
        let pipe = match self.accept {
            Accept::Echo | Accept::Sink => {
                Pipe::inbound(channel.stream, self.accept == Accept::Echo, reading)
            }
            Accept::Manual | Accept::Leave => return self.conn(id).inbound.push_back(channel),
        };
        self.conn(id).pipes.insert(channel, pipe);
        self.pump(self.now, id, channel);
    }

    fn wake(&mut self, id: ConnectionId, channel: ChannelId, event: Event) {
        let conn = self.conn(id);
        let Some(pipe) = conn.pipes.get_mut(&channel) else {
            conn.log.push(event);
            return;
        };
        pipe.wake(&event);
        self.pump(self.now, id, channel);
    }
}

impl Conn {
    fn new(side: Side) -> Self {
        Self {
            side,
            ready: None,
            authenticated: None,
            closed: None,
            inbound: VecDeque::new(),
            pipes: BTreeMap::new(),
            over: Vec::new(),
            open_possible: 0,
            moves: Vec::new(),
            candidates: VecDeque::new(),
            servers: Vec::new(),
            all_candidates: false,
            paths: Vec::new(),
            lost: Vec::new(),
            live: BTreeSet::from([ChannelId::HANDSHAKE]),
            log: Vec::new(),
            noise_received: 0,
        }
    }

    /// Channels that may still have events.
    pub(super) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Events that must not come at this point, whatever the network does.
    fn check(&mut self, event: &Event) {
        assert!(self.closed.is_none(), "{event:?} after Closed");
        match event {
            Event::Incoming { .. } => {
                panic!("Incoming is the first event of an inbound connection")
            }
            Event::Ready { .. } => assert!(self.ready.is_none(), "Ready came twice"),
            Event::Closed(_)
            | Event::AddressChanged(_)
            | Event::Candidate(_)
            | Event::EndOfCandidates
            | Event::PathSelected { .. }
            | Event::PathLost
            | Event::Server(_) => {}
            other => assert!(self.ready.is_some(), "{other:?} before Ready"),
        }
        match event {
            Event::ChannelOpened(_) | Event::OpenPossible => {
                assert!(
                    self.authenticated.is_some(),
                    "{event:?} before Noise was done"
                );
            }
            Event::ChannelReadable(channel) | Event::ChannelWritable(channel) => {
                assert!(
                    self.live.contains(channel),
                    "{event:?} on a channel that is gone"
                );
            }
            Event::ChannelClosed(channel) => {
                assert!(
                    self.live.remove(channel),
                    "{event:?} on a channel that is gone"
                );
            }
            _ => {}
        }
    }
}

/// What a socket does with a batch, and what it may ask of it.
fn split(transmit: &Transmit, datagrams: &mut Vec<(SocketAddr, Vec<u8>)>) {
    let len = transmit.contents.len();
    let size = transmit.segment_size.unwrap_or(len);
    assert!(
        size > 0 && len <= 65_000,
        "batch of {len} bytes in pieces of {size}"
    );
    if transmit.segment_size.is_some() {
        assert!(
            len > size && len.div_ceil(size) <= 64,
            "{len} bytes in pieces of {size}"
        );
    }
    assert!(size <= MAX_DATAGRAM, "datagram of {size} bytes");
    for datagram in transmit.contents.chunks(size) {
        datagrams.push((transmit.destination, datagram.to_vec()));
    }
}
