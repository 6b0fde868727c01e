//! Full ICE (RFC 8445, RFC 8838) for connections that are set up through signaling.
//!
//! [`FullAgent`] owns the candidates of one connection, its STUN queries, its TURN allocations, and the choice of the
//! path; the connection feeds it checks and answers, adds what signaling brings, and sends its datagrams by the path it
//! selected. Checks and nomination are the `is` crate's, TURN is `turn-client-proto`'s; both are named in this folder
//! only, see [`agent`] and [`relay`]. Which datagram belongs to which connection is the endpoint's job, what signaling
//! means is the connection's.

mod agent;
mod budget;
mod full;
mod gather;
mod relay;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use rand::{Rng, RngExt as _, distr::Alphanumeric};

#[cfg(test)]
pub(crate) use self::relay::Cutter;
pub(crate) use self::{
    budget::{CheckBudget, network},
    full::{FullAgent, IceEvent},
    relay::{RefreshAnswer, RelayId, RelayServer, RelayTransmit, RelayTransport},
};
use super::stun::TransactionId;

/// Characters of our ufrags and passwords: 95 and 190 bits (RFC 8445 section 5.3 wants 24 and 128).
const UFRAG_LEN: usize = 16;
const PASSWORD_LEN: usize = 32;
/// Characters of the longest ufrag that a peer may have: a check names both sides' and a colon between them, and the
/// engine panics where that takes more than 128 bytes.
pub(crate) const MAX_REMOTE_UFRAG_LEN: usize = 128 - 1 - UFRAG_LEN;
/// Addresses of ours that are used: more make more pairs than anybody needs.
pub(crate) const MAX_HOSTS: usize = 8;
/// STUN servers that are asked, and TURN servers that are used.
pub(crate) const MAX_SERVERS: usize = 4;

/// Short-term credentials of one side for one generation.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// User name fragment.
    pub(crate) ufrag: String,
    /// Password.
    pub(crate) password: String,
}

impl Credentials {
    /// Fresh ones. They cannot be taken for those of webrtc-direct, which have a `+` in them.
    pub(crate) fn generate(rng: &mut impl Rng) -> Self {
        let mut text = |len| {
            (0..len)
                .map(|_| char::from(rng.sample(Alphanumeric)))
                .collect()
        };
        Self {
            ufrag: text(UFRAG_LEN),
            password: text(PASSWORD_LEN),
        }
    }
}

/// Which addresses of the peer may be tried: candidates make us send packets to whatever they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressFilter {
    /// 127.0.0.0/8 and ::1.
    pub(crate) loopback: bool,
    /// RFC 1918, RFC 6598 and unique local addresses.
    pub(crate) private: bool,
    /// 169.254.0.0/16 and fe80::/10.
    pub(crate) link_local: bool,
}

impl AddressFilter {
    /// Everything that is an address of one host.
    pub(crate) const ALL: Self = Self {
        loopback: true,
        private: true,
        link_local: true,
    };

    /// Whether packets may be sent there.
    pub(crate) fn allows(self, address: SocketAddr) -> bool {
        let kind_is_allowed = match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                let shared = a == 100 && (64..128).contains(&b);
                let host = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
                host && a != 0
                    && (self.loopback || !ip.is_loopback())
                    && (self.private || !(ip.is_private() || shared))
                    && (self.link_local || !ip.is_link_local())
            }
            IpAddr::V6(ip) => {
                !ip.is_unspecified()
                    && !ip.is_multicast()
                    && (self.loopback || !ip.is_loopback())
                    && (self.private || !ip.is_unique_local())
                    && (self.link_local || !ip.is_unicast_link_local())
            }
        };
        kind_is_allowed && address.port() != 0
    }
}

/// What a full agent works with.
#[derive(Clone, Debug)]
pub(crate) struct IceConfig {
    /// Our addresses on the socket of the endpoint.
    pub(crate) hosts: Vec<SocketAddr>,
    /// Which addresses of the peer may be tried.
    pub(crate) filter: AddressFilter,
    /// Only relayed candidates are told and used: our addresses stay hidden.
    pub(crate) relay_only: bool,
    /// Checks a second to one address, as long as it has not answered: see [`CheckBudget`].
    pub(crate) checks_per_second: u32,
    /// Servers and further addresses will come: the end of our candidates waits for
    /// [`FullAgent::set_more_to_come`].
    pub(crate) more_to_come: bool,
}

/// A change to the routes of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouteChange {
    /// Answers with this id are for the connection.
    AddTransaction(TransactionId),
    /// They are not any more.
    RemoveTransaction(TransactionId),
    /// Checks for this ufrag are for the connection.
    AddUfrag(String),
    /// They are not any more.
    RemoveUfrag(String),
    /// The flow to a TURN server is of no use any more.
    RemoveRelay(RelayId),
}

/// What became of a candidate of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CandidateUse {
    /// It will be tried.
    Taken,
    /// Its host is this name; it may be given again with an address in place of the name.
    Name(String),
    /// It is of no use: of another generation, too many, TCP, or an address that is not to be tried.
    Ignored,
}

/// What a STUN or TURN server has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerNews {
    /// A STUN server has answered.
    StunAnswers(SocketAddr),
    /// It was asked as often as it is, and has not.
    StunSilent(SocketAddr),
    /// A TURN server has given an address.
    RelayAllocated(RelayId),
    /// It gives nothing, or its flow ended. What leads to it can be closed.
    RelayFailed(RelayId, RelayFailure),
}

/// Why a TURN server is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayFailure {
    /// It has not answered, or not to the end.
    Silent,
    /// It has answered with this error code.
    Refused(u16),
    /// The flow to it has ended, or what comes by it is not TURN.
    Ended,
    /// It had given an address, which is gone.
    Lost,
}

/// The path of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Our address, or that of our relay.
    pub(crate) local: SocketAddr,
    /// The peer's, as we see it.
    pub(crate) remote: SocketAddr,
    /// The relay of ours that is used.
    pub(crate) relay: Option<RelayId>,
    /// The peer's address is one of a relay of its own, as far as it said so.
    pub(crate) relayed_by_peer: bool,
}
