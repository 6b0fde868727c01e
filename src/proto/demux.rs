//! Which connection a datagram belongs to.
//!
//! One UDP socket carries all connections. A known address leads to its connection; the credentials of a check lead an
//! address that is new to the connection they belong to (browsers check from several addresses). Also keeps, for a
//! few seconds, the goodbye of connections that ended. Owned by the endpoint, which decides what to do about a route.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    event::ConnectionId,
    ice::RelayId,
    stun::{self, TransactionId},
};

/// How long a goodbye is kept for a peer that missed it.
const TOMBSTONE_LIFETIME: Duration = Duration::from_secs(5);
/// Tombstones kept.
const MAX_TOMBSTONES: usize = 1024;
/// How often a goodbye is repeated.
const MAX_REPEATS: u8 = 5;

/// What a datagram is, by its first bytes (RFC 7983).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A STUN message.
    Stun,
    /// A DTLS record.
    Dtls {
        /// It begins with a ClientHello.
        client_hello: bool,
    },
    /// Anything else.
    Other,
}

/// Tells STUN from DTLS.
pub(super) fn classify(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0..=3) if stun::is_stun(datagram) => Kind::Stun,
        // Record type 22 (handshake), epoch 0, handshake type 1 (RFC 6347 section 4.2.2).
        Some(20..=63) => Kind::Dtls {
            client_hello: datagram[0] == 22
                && datagram.get(3..5) == Some(&[0, 0])
                && datagram.get(13) == Some(&1),
        },
        _ => Kind::Other,
    }
}

/// The network an address counts for: /24 of IPv4, /48 of IPv6. None: loopback, which is not limited.
pub(super) fn subnet(ip: IpAddr) -> Option<[u8; 6]> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Some([0xff, 0xff, 4, a, b, c])
        }
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            Some([
                octets[0], octets[1], octets[2], octets[3], octets[4], octets[5],
            ])
        }
    }
}

#[derive(Debug)]
struct Tombstone {
    username: Option<Box<str>>,
    goodbye: Vec<u8>,
    repeats: u8,
    until: Instant,
}

/// The routes of one socket.
#[derive(Debug, Default)]
pub(super) struct Demux {
    // Peers choose addresses and credentials: the standard, keyed hasher.
    addresses: HashMap<SocketAddr, ConnectionId>,
    usernames: HashMap<(u64, bool), ConnectionId>,
    hasher: RandomState,
    /// Ufrags of ours, transactions and flows of connections that were signaled. We chose them all, but strangers
    /// choose which ones they ask for: the standard hasher.
    ufrags: HashMap<String, ConnectionId>,
    transactions: HashMap<TransactionId, ConnectionId>,
    relays: HashMap<RelayId, ConnectionId>,
    tombstones: HashMap<SocketAddr, Tombstone>,
    tombstone_order: VecDeque<(Instant, SocketAddr)>,
}

impl Demux {
    /// The connection of an address.
    pub(super) fn by_address(&self, remote: SocketAddr) -> Option<ConnectionId> {
        self.addresses.get(&remote).copied()
    }

    /// The connection of credentials, per address family: one dialer may use the same ones on both.
    pub(super) fn by_username(&self, username: &str, remote: SocketAddr) -> Option<ConnectionId> {
        self.usernames
            .get(&self.username_key(username, remote))
            .copied()
    }

    fn username_key(&self, username: &str, remote: SocketAddr) -> (u64, bool) {
        (self.hasher.hash_one(username), remote.is_ipv6())
    }

    /// The connection that has this ufrag.
    pub(super) fn by_ufrag(&self, ufrag: &str) -> Option<ConnectionId> {
        self.ufrags.get(ufrag).copied()
    }

    /// The connection that waits for an answer with this id.
    pub(super) fn by_transaction(&self, transaction: TransactionId) -> Option<ConnectionId> {
        self.transactions.get(&transaction).copied()
    }

    /// The connection of a flow to a TURN server.
    pub(super) fn by_relay(&self, relay: RelayId) -> Option<ConnectionId> {
        self.relays.get(&relay).copied()
    }

    /// Routes a ufrag.
    pub(super) fn insert_ufrag(&mut self, ufrag: String, connection: ConnectionId) {
        self.ufrags.insert(ufrag, connection);
    }

    /// Forgets a ufrag.
    pub(super) fn remove_ufrag(&mut self, ufrag: &str) {
        self.ufrags.remove(ufrag);
    }

    /// Routes a transaction.
    pub(super) fn insert_transaction(&mut self, id: TransactionId, connection: ConnectionId) {
        self.transactions.insert(id, connection);
    }

    /// Forgets a transaction.
    pub(super) fn remove_transaction(&mut self, id: TransactionId) {
        self.transactions.remove(&id);
    }

    /// Routes a flow.
    pub(super) fn insert_relay(&mut self, relay: RelayId, connection: ConnectionId) {
        self.relays.insert(relay, connection);
    }

    /// Forgets a flow.
    pub(super) fn remove_relay(&mut self, relay: RelayId) {
        self.relays.remove(&relay);
    }

    /// Routes an address.
    pub(super) fn insert_address(&mut self, remote: SocketAddr, connection: ConnectionId) {
        self.addresses.insert(remote, connection);
        self.tombstones.remove(&remote);
    }

    /// Routes credentials.
    pub(super) fn insert_username(
        &mut self,
        username: &str,
        remote: SocketAddr,
        connection: ConnectionId,
    ) {
        self.usernames
            .insert(self.username_key(username, remote), connection);
    }

    /// Forgets an address, if it leads to this connection.
    pub(super) fn remove_address(&mut self, remote: SocketAddr, connection: ConnectionId) {
        if self.by_address(remote) == Some(connection) {
            self.addresses.remove(&remote);
        }
    }

    /// Forgets credentials.
    pub(super) fn remove_username(
        &mut self,
        username: &str,
        remote: SocketAddr,
        connection: ConnectionId,
    ) {
        let key = self.username_key(username, remote);
        if self.usernames.get(&key) == Some(&connection) {
            self.usernames.remove(&key);
        }
    }

    /// Keeps the goodbye of a connection that ended.
    pub(super) fn bury(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        username: Option<Box<str>>,
        goodbye: Vec<u8>,
    ) {
        self.expire(now);
        if goodbye.is_empty() || self.addresses.contains_key(&remote) {
            return;
        }
        if self.tombstone_order.len() >= MAX_TOMBSTONES
            && let Some((_, oldest)) = self.tombstone_order.pop_front()
        {
            self.tombstones.remove(&oldest);
        }
        let until = now + TOMBSTONE_LIFETIME;
        self.tombstones.insert(
            remote,
            Tombstone {
                username,
                goodbye,
                repeats: MAX_REPEATS,
                until,
            },
        );
        self.tombstone_order.push_back((until, remote));
    }

    /// The goodbye to repeat to a peer that still talks, or still checks with the old credentials. `Some` with nothing
    /// in it: the peer was told often enough.
    pub(super) fn goodbye(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        username: Option<&str>,
    ) -> Option<&[u8]> {
        self.expire(now);
        let tombstone = self.tombstones.get_mut(&remote)?;
        if username.is_some() && tombstone.username.as_deref() != username {
            return None;
        }
        if tombstone.repeats == 0 {
            return Some(&[]);
        }
        tombstone.repeats -= 1;
        Some(&tombstone.goodbye)
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(until, remote)) = self.tombstone_order.front()
            && until <= now
        {
            self.tombstone_order.pop_front();
            if self
                .tombstones
                .get(&remote)
                .is_some_and(|tombstone| tombstone.until <= now)
            {
                self.tombstones.remove(&remote);
            }
        }
    }

    #[cfg(test)]
    /// Entries of all tables but the tombstones.
    pub(super) fn len(&self) -> usize {
        let signaled = self.ufrags.len() + self.transactions.len() + self.relays.len();
        self.addresses.len() + self.usernames.len() + signaled
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for virtual time"
)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn datagrams_are_told_apart_by_their_first_bytes() {
        let mut hello = [0; 20];
        (hello[0], hello[13]) = (22, 1);
        assert_eq!(classify(&hello), Kind::Dtls { client_hello: true });
        hello[4] = 1;
        assert_eq!(
            classify(&hello),
            Kind::Dtls {
                client_hello: false
            }
        );
        for other in [&[][..], &[4; 30], &[64; 30], &[200; 30], &[0; 20]] {
            assert_eq!(classify(other), Kind::Other, "{other:?}");
        }
    }

    #[test]
    fn credentials_are_kept_apart_by_address_family() {
        let mut demux = Demux::default();
        demux.insert_username("a:b", addr("10.0.0.1:1"), ConnectionId(1));
        assert_eq!(
            demux.by_username("a:b", addr("10.0.0.2:7")),
            Some(ConnectionId(1))
        );
        assert_eq!(demux.by_username("a:b", addr("[fe80::1]:1")), None);
    }

    #[test]
    fn a_goodbye_is_repeated_a_few_times_and_forgotten_in_the_end() {
        let mut demux = Demux::default();
        let now = Instant::now();
        let remote = addr("10.0.0.1:1");
        demux.bury(now, remote, None, vec![1]);
        let told = (0..20)
            .filter(|_| {
                demux
                    .goodbye(now, remote, None)
                    .is_some_and(|bytes| !bytes.is_empty())
            })
            .count();
        assert_eq!(told, usize::from(MAX_REPEATS));
        assert_eq!(demux.goodbye(now + TOMBSTONE_LIFETIME, remote, None), None);
    }

    #[test]
    fn subnets_are_24_bits_of_ipv4_and_48_of_ipv6_and_loopback_is_none() {
        let of = |text: &str| subnet(text.parse().unwrap());
        assert_eq!(of("10.1.2.3"), of("10.1.2.200"));
        assert_eq!(of("::ffff:10.1.2.3"), of("10.1.2.200"));
        assert_ne!(of("10.1.2.3"), of("10.1.3.3"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:ffff::1"));
        assert_eq!((of("127.0.0.1"), of("::1")), (None, None));
    }
}
