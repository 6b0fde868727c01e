//! Server-reflexive addresses: asking STUN servers how our addresses look from outside (RFC 8489 section 2).
//!
//! Plain Binding requests from the socket of the endpoint, repeated until they are answered or were repeated often
//! enough. Owned by [`super::FullAgent`], which sends them and gives the answers back by their transaction id.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::Rng;

use crate::proto::stun::{self, TransactionId};

/// First repetition; it doubles.
const FIRST_INTERVAL: Duration = Duration::from_millis(200);
/// How often a query is sent: six seconds in all.
const MAX_SENDS: u32 = 6;

/// One query.
#[derive(Debug)]
struct Query {
    id: TransactionId,
    base: SocketAddr,
    server: SocketAddr,
    sends: u32,
    next: Instant,
}

/// Queries under way.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    queries: Vec<Query>,
    /// Servers that have answered.
    heard: BTreeSet<SocketAddr>,
    /// Those that were asked for the last time and have not, and of which that was not told yet.
    silent: BTreeSet<SocketAddr>,
}

impl Gatherer {
    /// Asks each server of the same family about an address of ours.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        base: SocketAddr,
        servers: &[SocketAddr],
        rng: &mut impl Rng,
    ) {
        let servers = servers
            .iter()
            .filter(|server| server.is_ipv4() == base.is_ipv4());
        for &server in servers {
            self.queries.push(Query {
                id: TransactionId::random(rng),
                base,
                server,
                sends: 0,
                next: now,
            });
        }
    }

    /// Nothing is under way.
    pub(super) fn is_done(&self) -> bool {
        self.queries.is_empty()
    }

    /// When [`Self::poll`] has something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.queries.iter().map(|query| query.next).min()
    }

    /// The next query to send: its id, from where, to where, and its bytes.
    pub(super) fn poll(
        &mut self,
        now: Instant,
    ) -> Option<(TransactionId, SocketAddr, SocketAddr, Vec<u8>)> {
        self.queries
            .retain(|query| query.sends < MAX_SENDS || query.next > now);
        let query = self.queries.iter_mut().find(|query| query.next <= now)?;
        query.next = now + FIRST_INTERVAL * 2_u32.pow(query.sends);
        query.sends += 1;
        if query.sends == MAX_SENDS && !self.heard.contains(&query.server) {
            self.silent.insert(query.server);
        }
        let mut datagram = Vec::with_capacity(32);
        stun::encode_plain_request(query.id, &mut datagram);
        Some((query.id, query.base, query.server, datagram))
    }

    /// Servers that have not answered in six seconds.
    pub(super) fn take_silent(&mut self) -> BTreeSet<SocketAddr> {
        std::mem::take(&mut self.silent)
    }

    /// A server answered: the address of ours that it was asked about, and its own.
    pub(super) fn answered(&mut self, id: TransactionId) -> Option<(SocketAddr, SocketAddr)> {
        let index = self.queries.iter().position(|query| query.id == id)?;
        let Query { base, server, .. } = self.queries.swap_remove(index);
        self.heard.insert(server);
        Some((base, server))
    }
}
