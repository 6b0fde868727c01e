//! All connections of one socket; the only state machine that the shell sees.
//!
//! Owns the connections, the routes to them, their deadlines, the outbox and the seed. Called by the driver of the
//! socket, in the order that the module above describes.

mod first_contact;
mod newcomers;
mod signaled;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use self::newcomers::Newcomers;
#[cfg(any(test, feature = "__fuzzing"))]
use super::engine::dtls::{Identity, IdentityError};
use super::{
    config::Limits,
    connection::{Connection, Context},
    contact::CheckedAddresses,
    deadlines::Deadlines,
    demux::{Demux, Kind, classify, subnet},
    engine::dtls::DtlsContext,
    error::{CloseReason, DropReason},
    event::{
        ChannelId, ConnectionId, Counters, Dial, Event, HandshakePhase, PathStats, Read, Side,
        Write,
    },
    ice::{CheckBudget, RelayTransmit, RouteChange},
    outbox::{Outbox, Transmit},
};

/// Longest opening packet of a hole punch, in bytes (the DCUtR specification asks for random bytes).
const PUNCH_LEN: usize = 64;

/// A deadline served so late shows that nobody attended to the endpoint: the machine slept, or others had it. What came
/// meanwhile may be lost, for the buffer of a busy socket holds no more than a second or two of it.
const ABSENCE: Duration = Duration::from_secs(1);

/// All connections of one socket.
pub(crate) struct Endpoint {
    limits: Limits,
    dtls: DtlsContext,
    rng: StdRng,
    accept_incoming: bool,
    connections: BTreeMap<ConnectionId, Box<Connection>>,
    /// Those that ended, without routes and timers, until the application was told: it reads what is left first.
    dying: BTreeMap<ConnectionId, Box<Connection>>,
    /// Whose end was told last.
    told: Option<ConnectionId>,
    next_id: u64,
    demux: Demux,
    checked: CheckedAddresses,
    newcomers: Newcomers,
    /// Inbound handshakes by network.
    subnets: HashMap<[u8; 6], usize>,
    handshakes: usize,
    deadlines: Deadlines,
    reasons: HashMap<ConnectionId, &'static str>,
    touched: Vec<ConnectionId>,
    events: VecDeque<(ConnectionId, Event)>,
    phases: VecDeque<HandshakePhase>,
    outbox: Outbox,
    relayed: VecDeque<RelayTransmit>,
    /// Shared by all calls.
    checks: CheckBudget,
    routes: Vec<RouteChange>,
    next_relay: u64,
    counters: Counters,
}

/// The fields a connection may use while it works.
macro_rules! context {
    ($self:ident, $now:expr) => {
        Context {
            now: $now,
            limits: &$self.limits,
            outbox: &mut $self.outbox,
            rng: &mut $self.rng,
            counters: &mut $self.counters,
            phases: &mut $self.phases,
            relayed: &mut $self.relayed,
            checks: &mut $self.checks,
            routes: &mut $self.routes,
        }
    };
}
use context;

impl Endpoint {
    /// An endpoint of its own, with its own DTLS settings.
    #[cfg(any(test, feature = "__fuzzing"))]
    pub(crate) fn new(
        limits: Limits,
        identity: Identity,
        accept_incoming: bool,
        seed: [u8; 32],
    ) -> Result<Self, IdentityError> {
        let dtls = DtlsContext::new(identity, limits.handshake_timeout)?;
        Ok(Self::with_dtls(limits, dtls, accept_incoming, seed))
    }

    /// An endpoint without connections, with DTLS settings that several may share. Everything it does follows from its
    /// calls and `seed`, except what the DTLS engine draws for itself.
    pub(crate) fn with_dtls(
        limits: Limits,
        dtls: DtlsContext,
        accept_incoming: bool,
        seed: [u8; 32],
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            dtls,
            checked: CheckedAddresses::new(limits.max_checked_addresses),
            newcomers: Newcomers::new(rng.random()),
            limits,
            rng,
            accept_incoming,
            connections: BTreeMap::new(),
            dying: BTreeMap::new(),
            told: None,
            next_id: 0,
            demux: Demux::default(),
            subnets: HashMap::new(),
            handshakes: 0,
            deadlines: Deadlines::default(),
            reasons: HashMap::new(),
            touched: Vec::new(),
            events: VecDeque::new(),
            phases: VecDeque::new(),
            outbox: Outbox::default(),
            relayed: VecDeque::new(),
            checks: CheckBudget::default(),
            routes: Vec::new(),
            next_relay: 0,
            counters: Counters::default(),
        }
    }

    /// Starts or stops taking new inbound connections.
    pub(crate) fn set_accept_incoming(&mut self, accept: bool) {
        self.accept_incoming = accept;
    }

    fn new_id(&mut self) -> ConnectionId {
        self.next_id += 1;
        ConnectionId(self.next_id)
    }

    fn count_and_classify(&mut self, datagram: &[u8]) -> Kind {
        self.counters.datagrams_received += 1;
        self.counters.bytes_received += datagram.len() as u64;
        classify(datagram)
    }

    /// One datagram. `local_ip` is the address it was sent to.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
    ) {
        match self.count_and_classify(datagram) {
            Kind::Stun => self.handle_stun(now, local_ip, remote, datagram),
            Kind::Dtls { client_hello } => {
                self.handle_dtls(now, local_ip, remote, datagram, client_hello)
            }
            Kind::Other => self.counters.drop_packet(DropReason::Unclassified),
        }
    }

    /// One datagram that came to a socket of calls: it begins nothing, and connections of webrtc-direct do not hear of it.
    pub(crate) fn handle_datagram_of_calls(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
    ) {
        match self.count_and_classify(datagram) {
            Kind::Stun => self.handle_stun_of_calls(now, local_ip, remote, datagram),
            Kind::Dtls { client_hello } => {
                self.handle_dtls_of_calls(now, local_ip, remote, datagram, client_hello);
            }
            Kind::Other => self.counters.drop_packet(DropReason::Unclassified),
        }
    }

    /// The network says that nobody listens at `remote`. Believed only while nothing ever came from there.
    pub(crate) fn handle_unreachable(&mut self, now: Instant, remote: SocketAddr) {
        let Some(id) = self.demux.by_address(remote) else {
            return;
        };
        if self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.is_probing())
        {
            self.with(now, id, |connection, cx| {
                connection.end(CloseReason::Refused, cx)
            });
        }
    }

    /// Timers that are due. Datagrams that have come are to be handled first: a deadline is not to judge what they answer.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let due = self.deadlines.first().map_or(now, |(due, _)| due);
        let absence = now.saturating_duration_since(due);
        if absence >= ABSENCE {
            for connection in self.connections.values_mut() {
                connection.excuse_silence(now, absence);
            }
        }
        while let Some(id) = self.deadlines.pop_due(now) {
            self.with(now, id, Connection::handle_timeout);
        }
    }

    /// Runs `act` on a connection and marks it for [`Self::process`].
    fn with<T>(
        &mut self,
        now: Instant,
        id: ConnectionId,
        act: impl FnOnce(&mut Connection, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let connection = self.connections.get_mut(&id)?;
        if connection.ended().is_some() {
            return None;
        }
        let result = act(connection, &mut context!(self, now));
        self.touch(id);
        Some(result)
    }

    fn touch(&mut self, id: ConnectionId) {
        if self.touched.last() != Some(&id) {
            self.touched.push(id);
        }
    }

    /// Starts a dial. Fails at once, with an event, if the address is in use on this socket.
    pub(crate) fn dial(&mut self, now: Instant, dial: Dial) -> ConnectionId {
        let id = self.new_id();
        if self.demux.by_address(dial.remote).is_some()
            || self.connections.len() >= self.limits.max_connections
        {
            self.events
                .push_back((id, Event::Closed(CloseReason::AddressInUse)));
            return id;
        }
        self.demux.insert_address(dial.remote, id);
        let connection = Connection::dialer(dial, &self.dtls, &mut context!(self, now));
        self.connections.insert(id, Box::new(connection));
        self.touch(id);
        id
    }

    /// Sends one opening packet for a hole punch: random bytes that no protocol takes for its own.
    pub(crate) fn punch(&mut self, _now: Instant, remote: SocketAddr) {
        let mut packet = [0; PUNCH_LEN];
        self.rng.fill_bytes(&mut packet);
        // Neither STUN nor DTLS (RFC 7983).
        packet[0] |= 0xc0;
        self.outbox.push(remote, None, &packet);
    }

    /// Noise is done.
    pub(crate) fn authenticated(&mut self, now: Instant, connection: ConnectionId) {
        let was = self
            .connections
            .get(&connection)
            .is_some_and(|connection| connection.is_handshaking());
        self.with(now, connection, Connection::authenticated);
        if was {
            self.end_handshake(connection);
        }
    }

    fn end_handshake(&mut self, id: ConnectionId) {
        let Some(connection) = self
            .connections
            .get(&id)
            .filter(|connection| connection.side() == Side::Listener && !connection.is_signaled())
        else {
            return;
        };
        self.handshakes = self.handshakes.saturating_sub(1);
        if let Some(subnet) = subnet(connection.origin().ip())
            && let Some(count) = self.subnets.get_mut(&subnet)
        {
            *count -= 1;
            if *count == 0 {
                self.subnets.remove(&subnet);
            }
        }
    }

    /// Opens a channel; `None` now means [`Event::OpenPossible`] later.
    pub(crate) fn open(&mut self, now: Instant, connection: ConnectionId) -> Option<ChannelId> {
        self.with(now, connection, Connection::open).flatten()
    }

    /// The application took an inbound channel.
    pub(crate) fn accepted(&mut self, connection: ConnectionId, channel: ChannelId) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.accepted(channel);
        }
    }

    /// Takes what fits of `data`.
    pub(crate) fn write(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        channel: ChannelId,
        data: &[u8],
    ) -> Write {
        self.with(now, connection, |connection, cx| {
            connection.write(channel, data, cx)
        })
        .unwrap_or(Write::Closed)
    }

    /// The next bytes of a channel. What came before the end of a connection can be read until the event after its
    /// [`Event::Closed`] is asked for.
    pub(crate) fn read(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        channel: ChannelId,
    ) -> Read {
        let read = self.with(now, connection, |connection, cx| {
            connection.read(channel, cx)
        });
        if let Some(read) = read {
            return read;
        }
        let ended = self
            .connections
            .get_mut(&connection)
            .or_else(|| self.dying.get_mut(&connection));
        match ended {
            Some(connection) => connection.read(channel, &mut context!(self, now)),
            None => Read::Reset(None),
        }
    }

    /// FIN: no more data from us.
    pub(crate) fn finish(&mut self, now: Instant, connection: ConnectionId, channel: ChannelId) {
        self.with(now, connection, |connection, cx| {
            connection.finish(channel, cx)
        });
    }

    /// STOP_SENDING: we will not read on.
    pub(crate) fn stop(&mut self, now: Instant, connection: ConnectionId, channel: ChannelId) {
        self.with(now, connection, |connection, cx| {
            connection.stop(channel, cx)
        });
    }

    /// RESET of both halves.
    pub(crate) fn reset(&mut self, now: Instant, connection: ConnectionId, channel: ChannelId) {
        self.with(now, connection, |connection, cx| {
            connection.reset(channel, cx)
        });
    }

    /// The application's handle is gone.
    pub(crate) fn release(&mut self, now: Instant, connection: ConnectionId, channel: ChannelId) {
        self.with(now, connection, |connection, cx| {
            connection.release(channel, cx)
        });
    }

    /// Flushes and closes.
    pub(crate) fn close(&mut self, now: Instant, connection: ConnectionId) {
        self.with(now, connection, |connection, cx| connection.close(cx));
    }

    /// Draws the consequences of all input since the last call. Touches only connections that had any.
    pub(crate) fn process(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for &id in &touched {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.process(&mut context!(self, now));
            while let Some(event) = connection.poll_event() {
                self.events.push_back((id, event));
            }
            if connection.ended().is_some() {
                self.bury(now, id);
            } else {
                let (deadline, reason) = connection.poll_timeout();
                self.deadlines.set(id, Some(deadline));
                self.reasons.insert(id, reason);
                self.change_routes(id);
            }
        }
        touched.clear();
        self.touched = touched;
    }

    /// A connection that ended within this batch makes room at once.
    fn bury_ended(&mut self, now: Instant, remote: SocketAddr) {
        let id = self.demux.by_address(remote);
        let connection = id.and_then(|id| self.connections.get(&id));
        if connection.is_some_and(|connection| connection.ended().is_some()) {
            self.process(now);
        }
    }

    fn bury(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if !connection.is_authenticated() {
            self.end_handshake(id);
        }
        self.deadlines.set(id, None);
        self.reasons.remove(&id);
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        for address in connection.addresses() {
            self.demux.remove_address(address, id);
        }
        if let Some(credentials) = connection.peer_credentials() {
            self.demux
                .remove_username(&credentials.username, connection.remote(), id);
        }
        let username = connection
            .peer_credentials()
            .map(|credentials| credentials.username.clone());
        self.change_routes(id);
        self.remove_routes(id, &connection);
        let goodbye = connection.take_goodbye();
        self.demux.bury(now, connection.remote(), username, goodbye);
        self.dying.insert(id, connection);
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<(ConnectionId, Event)> {
        if let Some(told) = self.told.take() {
            self.dying.remove(&told);
        }
        let (id, event) = self.events.pop_front()?;
        if matches!(event, Event::Closed(_)) {
            self.told = Some(id);
        }
        Some((id, event))
    }

    /// The next handshake phase that ended.
    pub(crate) fn poll_phase(&mut self) -> Option<HandshakePhase> {
        self.phases.pop_front()
    }

    /// The next batch of datagrams.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop()
    }

    /// Gives a sent buffer back for reuse.
    pub(crate) fn recycle(&mut self, contents: Vec<u8>) {
        self.outbox.recycle(contents);
    }

    /// When [`Self::handle_timeout`] is due, and why.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let (deadline, id) = self.deadlines.first()?;
        Some((
            deadline,
            self.reasons.get(&id).copied().unwrap_or("connection"),
        ))
    }

    /// All connections, handshakes included.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Inbound handshakes in flight.
    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Figures since the start.
    pub(crate) fn counters(&mut self) -> &Counters {
        (self.counters.datagrams_sent, self.counters.bytes_sent) = self.outbox.totals();
        &self.counters
    }

    /// Figures of one connection.
    pub(crate) fn path_stats(&self, connection: ConnectionId) -> Option<PathStats> {
        self.connections
            .get(&connection)
            .map(|connection| connection.path_stats())
    }

    /// Entries of the routing tables: none once all connections are gone.
    #[cfg(test)]
    pub(crate) fn routes(&self) -> usize {
        self.demux.len()
    }

    /// What a connection holds.
    #[cfg(test)]
    pub(crate) fn held(&self, connection: ConnectionId) -> super::connection::Held {
        self.connections
            .get(&connection)
            .map(|connection| connection.held())
            .unwrap_or_default()
    }

    /// Bytes that a connection has yet to see acknowledged.
    #[cfg(test)]
    pub(crate) fn send_queue(&self, connection: ConnectionId) -> usize {
        self.connections
            .get(&connection)
            .map_or(0, |connection| connection.send_queue())
    }

    /// The receive window that the peer of a connection was last told.
    #[cfg(test)]
    pub(crate) fn window(&self, connection: ConnectionId) -> u32 {
        self.connections
            .get(&connection)
            .map_or(0, |connection| connection.window())
    }
}
