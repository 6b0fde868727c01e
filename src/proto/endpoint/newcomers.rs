//! DTLS from addresses that lead to no connection yet, or that want another one: who may begin, and on what proof.
//!
//! A ClientHello can be sent in anybody's name. One that nothing speaks against begins a handshake at once, which saves
//! a round trip. Where much is going on, or where the address has a connection already, the client must first repeat
//! a cookie that was sent to its address (RFC 6347 section 4.2.1); until it does, nothing is kept.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{Endpoint, context};
use crate::proto::{
    connection::{Connection, Context, Origin},
    contact::Checked,
    demux::subnet,
    engine::dtls::{Dtls, Path},
    error::{CloseReason, DropReason, Phase},
    event::{ConnectionId, Side},
    hello::{self, ClientHello, Cookie, Cookies},
};

/// Largest datagram that DTLS gets: no path carries more, and the engine keeps what it cannot use yet, and buffers of
/// the size of what it saw.
const MAX_DATAGRAM: usize = 2048;
/// A connection that we dialed and that heard from its peer so recently is not replaced by a dial from there.
const ALIVE: Duration = Duration::from_secs(3);
/// A handshake has so much time to prove its address, if there is no place for one that has proven it.
const PATIENCE: Duration = Duration::from_secs(1);
/// The share of the handshakes that may begin without proof within one second.
const RATE_SHARE: usize = 4;

/// A DTLS datagram.
struct Arrival<'a> {
    path: Path,
    datagram: &'a [u8],
    /// It begins with a ClientHello, or a fragment of one.
    client_hello: bool,
    /// That ClientHello, if it is whole enough.
    hello: Option<ClientHello<'a>>,
}

/// What is known of those who begin.
pub(super) struct Newcomers {
    cookies: Cookies,
    /// Handshakes that began without proof, in their order.
    unproven: VecDeque<(Instant, ConnectionId)>,
    /// Handshakes begun in this second.
    recent: usize,
    since: Option<Instant>,
}

impl Newcomers {
    /// Nobody yet; `secret` is what cookies are made with.
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self {
            cookies: Cookies::new(secret),
            unproven: VecDeque::new(),
            recent: 0,
            since: None,
        }
    }

    fn begun_lately(&mut self, now: Instant) -> usize {
        let over = |since: Instant| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(over) {
            (self.since, self.recent) = (Some(now), 0);
        }
        self.recent
    }
}

impl Endpoint {
    pub(super) fn handle_dtls(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
        client_hello: bool,
    ) {
        let path = Path { remote, local_ip };
        let Some(mut arrival) = self.arrival(now, path, datagram, client_hello) else {
            return;
        };
        arrival.hello = client_hello.then(|| ClientHello::read(datagram)).flatten();
        match self.demux.by_address(remote) {
            Some(id) if !self.is_newcomer(now, id, &arrival) => self.pass_on(now, id, &arrival),
            Some(id) => self.admit(now, Some(id), &arrival),
            None => match self.other_address(now, &arrival) {
                Some(id) => self.pass_on(now, id, &arrival),
                None => self.admit(now, None, &arrival),
            },
        }
    }

    /// What came, not looked into yet; none if it is too long for any peer.
    fn arrival<'a>(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &'a [u8],
        client_hello: bool,
    ) -> Option<Arrival<'a>> {
        if datagram.len() > MAX_DATAGRAM {
            self.counters.drop_packet(DropReason::OversizedDtls);
            return None;
        }
        self.bury_ended(now, path.remote);
        Some(Arrival {
            path,
            datagram,
            client_hello,
            hello: None,
        })
    }

    /// DTLS at a socket that only calls use.
    pub(super) fn handle_dtls_of_calls(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
        client_hello: bool,
    ) {
        let path = Path { remote, local_ip };
        let Some(arrival) = self.arrival(now, path, datagram, client_hello) else {
            return;
        };
        let call = self.demux.by_address(remote).filter(|id| {
            let connection = self.connections.get(id);
            connection.is_some_and(|connection| connection.is_signaled())
        });
        match call {
            Some(id) => self.pass_on(now, id, &arrival),
            None if !client_hello && self.repeat_goodbye(now, local_ip, remote, None) => {}
            None => self.counters.drop_packet(DropReason::UncheckedAddress),
        }
    }

    /// The connection that has this address from now on: its peer checked from there before the connection began. A
    /// browser with two networks checks on both, and may go on with the other one at any moment.
    fn other_address(&mut self, now: Instant, arrival: &Arrival<'_>) -> Option<ConnectionId> {
        let remote = arrival.path.remote;
        let username = self.checked.username(now, remote)?;
        let id = self
            .demux
            .by_username(username, remote)
            .filter(|&id| self.owns_username(id, username))?;
        let is_its_own = self.connections.get(&id).is_some_and(|connection| {
            let hello = arrival.hello.as_ref();
            hello.is_none_or(|hello| connection.began_with(&hello.random))
        });
        (is_its_own && self.add_address(now, remote, id)).then_some(id)
    }

    /// Whether somebody at the address of a connection begins another one: a ClientHello with another random, behind a
    /// check with other credentials.
    fn is_newcomer(&self, now: Instant, id: ConnectionId, arrival: &Arrival<'_>) -> bool {
        let Some((connection, hello)) = self.connections.get(&id).zip(arrival.hello.as_ref())
        else {
            return false;
        };
        let silent = now.saturating_duration_since(connection.last_received()) >= ALIVE;
        self.checked.contains(now, arrival.path.remote)
            && !connection.began_with(&hello.random)
            && (connection.side() == Side::Listener || silent)
    }

    fn pass_on(&mut self, now: Instant, id: ConnectionId, arrival: &Arrival<'_>) {
        let dialed = self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.side() == Side::Dialer);
        if arrival.client_hello && dialed {
            // The peer dials us as we dial it, and we do not yield.
            self.counters.drop_packet(DropReason::RoleConflict);
            return;
        }
        self.with(now, id, |connection, cx| {
            connection.handle_dtls(arrival.path.remote, arrival.datagram, cx);
        });
    }

    /// A datagram that no connection expects: perhaps the beginning of one.
    fn admit(&mut self, now: Instant, known: Option<ConnectionId>, arrival: &Arrival<'_>) {
        let Path { remote, local_ip } = arrival.path;
        if !arrival.client_hello && self.repeat_goodbye(now, local_ip, remote, None) {
            return;
        }
        if let Err(reason) = self.may_ask(now, known, arrival) {
            self.counters.drop_packet(reason);
            return;
        }
        let cookies = &mut self.newcomers.cookies;
        let proof = arrival
            .hello
            .and_then(|hello| Some((hello, cookies.verify(now, remote, &hello)?)));
        if proof.is_none() && self.wants_proof(now, known, arrival) {
            self.ask_for_proof(now, arrival);
            return;
        }
        // Whoever began here before gives its place to this one.
        let has_place = known
            .filter(|&id| self.lives_at(id, remote))
            .and_then(|id| self.connections.get(&id))
            .is_some_and(|old| old.side() == Side::Listener && old.is_handshaking());
        if !has_place && let Err(reason) = self.find_place(now, remote) {
            self.counters.drop_packet(reason);
            return;
        }
        if let Some(id) = known {
            self.make_way(now, id, remote);
        }
        if let Some(checked) = self.checked.take(now, remote) {
            self.begin(now, arrival, checked, proof);
        }
    }

    /// Whoever has proven that an address is its own begins anew there. A connection that lives there ends; one that
    /// lives elsewhere loses the address and nothing else, because any check with its credentials added that.
    fn make_way(&mut self, now: Instant, id: ConnectionId, remote: SocketAddr) {
        if self.lives_at(id, remote) {
            self.with(now, id, |connection, cx| {
                connection.end(CloseReason::Replaced, cx);
            });
            self.process(now);
        } else if let Some(connection) = self.connections.get_mut(&id) {
            connection.remove_address(remote);
            self.demux.remove_address(remote, id);
        }
    }

    fn lives_at(&self, id: ConnectionId, remote: SocketAddr) -> bool {
        self.connections
            .get(&id)
            .is_some_and(|connection| connection.remote() == remote)
    }

    fn may_ask(
        &self,
        now: Instant,
        known: Option<ConnectionId>,
        arrival: &Arrival<'_>,
    ) -> Result<(), DropReason> {
        if !self.checked.contains(now, arrival.path.remote) {
            Err(DropReason::UncheckedAddress)
        } else if !self.accept_incoming {
            Err(DropReason::NotListening)
        } else if !arrival.client_hello {
            Err(DropReason::NotClientHello)
        } else if self.connections.len() >= self.limits.max_connections
            && !known.is_some_and(|id| self.lives_at(id, arrival.path.remote))
        {
            Err(DropReason::TooManyConnections)
        } else {
            Ok(())
        }
    }

    fn begun_in_subnet(&self, remote: SocketAddr) -> usize {
        subnet(remote.ip())
            .and_then(|subnet| self.subnets.get(&subnet))
            .copied()
            .unwrap_or(0)
    }

    /// Whether a ClientHello needs a cookie. Below half of the limits it does not, so that no more than half of the
    /// places can be taken in the name of others.
    fn wants_proof(
        &mut self,
        now: Instant,
        known: Option<ConnectionId>,
        arrival: &Arrival<'_>,
    ) -> bool {
        let limits = &self.limits;
        let rate = (limits.max_handshakes / RATE_SHARE).max(1);
        known.is_some()
            // It was asked before: what it says now is not the beginning of a handshake without cookies, nor is a
            // ClientHello that it repeated because the demand is on its way.
            || self.checked.was_asked(arrival.path.remote)
            || arrival.hello.is_some_and(|hello| hello.message_seq > 0)
            || (self.handshakes + 1) * 2 > limits.max_handshakes
            || (self.begun_in_subnet(arrival.path.remote) + 1) * 2 > limits.max_handshakes_per_subnet
            || self.newcomers.begun_lately(now) >= rate
    }

    /// Without state but a mark at the check, and with less than was received.
    fn ask_for_proof(&mut self, now: Instant, arrival: &Arrival<'_>) {
        let Path { remote, local_ip } = arrival.path;
        let Some(hello) = arrival
            .hello
            .filter(|_| arrival.datagram.len() >= hello::VERIFY_LEN)
        else {
            self.counters.drop_packet(DropReason::NotClientHello);
            return;
        };
        self.checked.ask(remote);
        let cookie = self.newcomers.cookies.make(now, remote);
        let request = hello::verify_request(&hello, &cookie);
        self.outbox.push(remote, local_ip, &request);
        self.counters.drop_packet(DropReason::NoCookie);
    }

    /// One more handshake. If there are too many, the oldest without proof makes room.
    fn find_place(&mut self, now: Instant, remote: SocketAddr) -> Result<(), DropReason> {
        // First: whoever finds no place must not cost another one its own.
        if self.begun_in_subnet(remote) >= self.limits.max_handshakes_per_subnet {
            return Err(DropReason::TooManyFromSubnet);
        }
        if self.handshakes >= self.limits.max_handshakes && !self.evict_unproven(now) {
            return Err(DropReason::TooManyHandshakes);
        }
        Ok(())
    }

    fn evict_unproven(&mut self, now: Instant) -> bool {
        self.forget_proven();
        let late = |at: Instant| now.saturating_duration_since(at) >= PATIENCE;
        let Some(&(_, id)) = self.newcomers.unproven.front().filter(|(at, _)| late(*at)) else {
            return false;
        };
        self.with(now, id, |connection, cx| {
            connection.end(CloseReason::HandshakeTimedOut(Phase::Dtls), cx);
        });
        self.process(now);
        true
    }

    /// Drops the oldest entries that are of no use any more.
    fn forget_proven(&mut self) {
        while let Some((_, id)) = self.newcomers.unproven.front()
            && !self
                .connections
                .get(id)
                .is_some_and(|connection| connection.is_unproven())
        {
            self.newcomers.unproven.pop_front();
        }
    }

    /// Makes a connection of a ClientHello from a checked address.
    fn begin(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        checked: Checked,
        proof: Option<(ClientHello<'_>, Cookie)>,
    ) {
        let Path { remote, .. } = arrival.path;
        let id = self.new_id();
        self.handshakes += 1;
        self.newcomers.recent += 1;
        if let Some(subnet) = subnet(remote.ip()) {
            *self.subnets.entry(subnet).or_insert(0) += 1;
        }
        self.demux.insert_address(remote, id);
        self.demux
            .insert_username(&checked.credentials.username, remote, id);
        let dtls = match &proof {
            Some((hello, cookie)) => Dtls::listener_behind_cookie(&self.dtls, now, hello, *cookie),
            None => Dtls::listener(&self.dtls, now),
        };
        let origin = Origin {
            path: arrival.path,
            random: arrival.hello.map(|hello| hello.random),
            proven: proof.is_some(),
        };
        let mut cx: Context<'_> = context!(self, now);
        let mut connection = Connection::listener(origin, checked, dtls, &mut cx);
        connection.handle_dtls(remote, arrival.datagram, &mut cx);
        self.connections.insert(id, Box::new(connection));
        if proof.is_none() {
            self.forget_proven();
            self.newcomers.unproven.push_back((now, id));
        }
        self.touch(id);
    }
}
