//! NATs in front of hosts: other addresses outside, and what may come in.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

/// How a NAT maps addresses; both kinds let in only what was asked for (address and port dependent filtering).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NatKind {
    /// One address outside for each inside: others can be told of it.
    Cone,
    /// One for each pair of ends: what a STUN server sees is of no use to others.
    Symmetric,
}

/// One NAT.
#[derive(Debug)]
pub(super) struct Nat {
    kind: NatKind,
    public: IpAddr,
    next_port: u16,
    mappings: HashMap<(SocketAddr, Option<SocketAddr>), u16>,
    inside: HashMap<u16, SocketAddr>,
    asked: HashSet<(u16, SocketAddr)>,
}

impl Nat {
    pub(super) fn new(kind: NatKind, public: IpAddr) -> Self {
        Self {
            kind,
            public,
            next_port: 30_000,
            mappings: HashMap::new(),
            inside: HashMap::new(),
            asked: HashSet::new(),
        }
    }

    /// A packet goes out: where it seems to come from.
    pub(super) fn outbound(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let key = (from, (self.kind == NatKind::Symmetric).then_some(to));
        let port = *self.mappings.entry(key).or_insert_with(|| {
            // Never the one before plus one: nobody shall guess.
            self.next_port += 7;
            self.next_port
        });
        self.inside.insert(port, from);
        self.asked.insert((port, to));
        SocketAddr::new(self.public, port)
    }

    /// A packet comes in: whom it is for.
    pub(super) fn inbound(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let asked = self.asked.contains(&(to.port(), from));
        self.inside.get(&to.port()).copied().filter(|_| asked)
    }

    /// Forgets all mappings, as after a restart of the router.
    pub(super) fn forget(&mut self) {
        self.mappings.clear();
        self.inside.clear();
        self.asked.clear();
    }
}
