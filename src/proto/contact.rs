//! First contact without state: addresses that passed a connectivity check and have not sent a ClientHello yet.
//!
//! A listener can verify and answer a check with nothing but the packet, so a flood of checks costs processor time
//! and nothing else: what is kept is this table, whose size is fixed, oldest out first. Owned by the endpoint.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::credentials::{IceVersion, Username};

/// How long a check vouches for its address: a browser sends its ClientHello within a second of an answered check.
const LIFETIME: Duration = Duration::from_secs(30);

/// The credentials of a peer, cut to what later packets need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCredentials {
    /// Which handshake.
    pub(crate) version: IceVersion,
    /// `server_ufrag:client_ufrag`, as the peer sends it.
    pub(crate) username: Box<str>,
    /// Length of the server half, which is also the key of checks and answers.
    server_len: u16,
    /// The dialer looks like rust-libp2p 0.10.0-alpha.
    pub(crate) upstream_rust: bool,
}

impl PeerCredentials {
    /// Keeps what a valid USERNAME says.
    pub(crate) fn new(text: &str, username: &Username<'_>) -> Self {
        Self {
            version: username.version,
            username: text.into(),
            // A valid ufrag has at most 256 bytes.
            server_len: u16::try_from(username.server_ufrag.len()).unwrap_or(u16::MAX),
            upstream_rust: username.is_upstream_rust(),
        }
    }

    /// Our ufrag and password.
    pub(crate) fn server_ufrag(&self) -> &str {
        self.username
            .get(..usize::from(self.server_len))
            .unwrap_or_default()
    }
}

/// What a check left behind.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// The credentials it used.
    pub(crate) credentials: PeerCredentials,
    /// Bytes received from the address so far.
    pub(crate) received: usize,
    /// Bytes sent there: answers, and a check of ours.
    pub(crate) sent: usize,
    /// Proof of the address was asked for.
    asked: bool,
    at: Instant,
}

impl Checked {
    fn vouches(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < LIFETIME
    }
}

/// Recently checked addresses.
#[derive(Debug)]
pub(crate) struct CheckedAddresses {
    // The peer chooses the key: the standard hasher.
    entries: HashMap<SocketAddr, Checked>,
    order: VecDeque<(Instant, SocketAddr)>,
    capacity: usize,
}

impl CheckedAddresses {
    /// At most `capacity` addresses.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    /// Notes a valid check of `len` bytes that is about to be answered. True: it is the first one of its entry.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        text: &str,
        username: &Username<'_>,
        len: usize,
    ) -> bool {
        self.expire(now);
        if let Some(known) = self.entries.get_mut(&remote)
            && &*known.credentials.username == text
        {
            known.received = known.received.saturating_add(len);
            return false;
        }
        while self.order.len() >= self.capacity {
            self.forget_oldest();
        }
        let credentials = PeerCredentials::new(text, username);
        self.entries.insert(
            remote,
            Checked {
                credentials,
                received: len,
                sent: 0,
                asked: false,
                at: now,
            },
        );
        self.order.push_back((now, remote));
        true
    }

    /// Charges an address with what is sent to it.
    pub(crate) fn charge(&mut self, remote: SocketAddr, len: usize) {
        if let Some(known) = self.entries.get_mut(&remote) {
            known.sent = known.sent.saturating_add(len);
        }
    }

    /// Remembers that an address was asked for proof.
    pub(crate) fn ask(&mut self, remote: SocketAddr) {
        if let Some(known) = self.entries.get_mut(&remote) {
            known.asked = true;
        }
    }

    /// Whether an address was asked for proof.
    pub(crate) fn was_asked(&self, remote: SocketAddr) -> bool {
        self.entries
            .get(&remote)
            .is_some_and(|checked| checked.asked)
    }

    /// Takes the entry of an address whose ClientHello came.
    pub(crate) fn take(&mut self, now: Instant, remote: SocketAddr) -> Option<Checked> {
        let checked = self.entries.remove(&remote)?;
        checked.vouches(now).then_some(checked)
    }

    /// The USERNAME with which an address passed a check lately.
    pub(crate) fn username(&self, now: Instant, remote: SocketAddr) -> Option<&str> {
        let checked = self.entries.get(&remote)?;
        checked
            .vouches(now)
            .then_some(&*checked.credentials.username)
    }

    /// Whether an address passed a check lately.
    pub(crate) fn contains(&self, now: Instant, remote: SocketAddr) -> bool {
        self.username(now, remote).is_some()
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(at, _)) = self.order.front()
            && now.saturating_duration_since(at) >= LIFETIME
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((at, remote)) = self.order.pop_front() else {
            return;
        };
        // An address that was taken and noted again has a later entry in the order.
        if self
            .entries
            .get(&remote)
            .is_some_and(|checked| checked.at == at)
        {
            self.entries.remove(&remote);
        }
        if self.order.is_empty() {
            self.order = VecDeque::new();
            self.entries = HashMap::new();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for virtual time"
)]
mod tests {
    use super::*;
    use crate::proto::credentials::parse_username;

    const V2: &str = "libp2p+webrtc+v2/0123456789012345678901:abcd";

    fn note(table: &mut CheckedAddresses, now: Instant, port: u16) {
        let username = parse_username(V2).unwrap();
        table.note(
            now,
            SocketAddr::from(([10, 0, 0, 1], port)),
            V2,
            &username,
            100,
        );
    }

    #[test]
    fn a_flood_keeps_the_newest_addresses_and_no_more() {
        let mut table = CheckedAddresses::new(10);
        let now = Instant::now();
        (1..=1000).for_each(|port| note(&mut table, now, port));
        assert_eq!(table.len(), 10);
        assert!(
            table
                .take(now, SocketAddr::from(([10, 0, 0, 1], 1000)))
                .is_some()
        );
        assert!(
            table
                .take(now, SocketAddr::from(([10, 0, 0, 1], 1)))
                .is_none()
        );
    }

    #[test]
    fn a_check_vouches_for_its_address_for_half_a_minute() {
        let mut table = CheckedAddresses::new(10);
        let now = Instant::now();
        note(&mut table, now, 1);
        assert!(
            table
                .take(now + LIFETIME, SocketAddr::from(([10, 0, 0, 1], 1)))
                .is_none()
        );
        note(&mut table, now, 2);
        note(&mut table, now + LIFETIME, 3);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn repeated_checks_add_to_the_budget_of_their_address_and_what_is_sent_uses_it_up() {
        let mut table = CheckedAddresses::new(10);
        let (now, remote) = (Instant::now(), SocketAddr::from(([10, 0, 0, 1], 1)));
        for _ in 0..2 {
            note(&mut table, now, 1);
            table.charge(remote, 70);
        }
        let checked = table.take(now, remote).unwrap();
        assert_eq!((checked.received, checked.sent), (200, 140));
        assert_eq!(
            checked.credentials.server_ufrag(),
            "libp2p+webrtc+v2/0123456789012345678901"
        );
    }
}
