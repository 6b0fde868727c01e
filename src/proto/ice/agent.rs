//! One generation of ICE: one pair of credentials on each side, the checks between them and their outcome.
//!
//! The agent of the `is` crate, with what it leaves to its caller. It trusts its input further than we can: it logs
//! about odd attributes, and remembers every address that checks come from. So whatever reaches it was read and
//! verified by our own decoder and written anew, and addresses are counted before. Owned by [`super::FullAgent`].

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use is::{
    IceAgent, IceAgentEvent, IceCreds, Protocol,
    stun::{StunMessage, StunPacket},
};

use super::{AddressFilter, CandidateUse, Credentials, budget::Standing};
use crate::proto::{
    candidate::{Candidate, CandidateKind, Host},
    sdp::MAX_CANDIDATES,
    stun::{self, BindingRequest, BindingResponse, IceRole, RequestParams},
};

/// Pairs of candidates that are checked at most (RFC 8445 section 6.1.2.5 names 100).
const MAX_PAIRS: usize = 128;
/// Ports of one address of the peer that are tried. Behind a NAT, or at a TURN server, its interfaces share one; more
/// would only let a stranger have us send more to whom he likes. What all calls together send there: see
/// [`super::CheckBudget`].
pub(super) const MAX_PORTS: usize = 16;
/// First repetition of a check and longest pause between checks of a pair that works (RFC 7675 section 5.1: about 5 s).
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(200);
const CONSENT_INTERVAL: Duration = Duration::from_secs(3);
/// Pause between checks of different pairs (RFC 8445 section 14.2).
const PACE: Duration = Duration::from_millis(20);
/// Types of STUN messages, as in the first two bytes.
const REQUEST: [u8; 2] = [0, 1];

/// A candidate of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local {
    /// How it was found.
    pub(super) kind: CandidateKind,
    /// The address the peer is told.
    pub(super) address: SocketAddr,
    /// Where packets for it leave.
    pub(super) base: SocketAddr,
}

impl Local {
    fn to_engine(self) -> Option<is::Candidate> {
        let Self { address, base, .. } = self;
        match self.kind {
            CandidateKind::Host => is::Candidate::host(address, Protocol::Udp).ok(),
            CandidateKind::ServerReflexive => {
                is::Candidate::server_reflexive(address, base, Protocol::Udp).ok()
            }
            CandidateKind::Relayed => is::Candidate::relayed(address, base, Protocol::Udp).ok(),
            CandidateKind::PeerReflexive => None,
        }
    }
}

/// A STUN message of ours.
#[derive(Debug)]
pub(super) struct Check {
    /// Our address, or that of our relay.
    pub(super) source: SocketAddr,
    /// The peer's.
    pub(super) destination: SocketAddr,
    /// The message.
    pub(super) datagram: Vec<u8>,
    /// What is known of the destination.
    pub(super) standing: Standing,
}

/// What is known of an address of the peer.
#[derive(Clone, Copy, Debug)]
struct Remote {
    /// It was told as that of a relay.
    relayed: bool,
    standing: Standing,
}

impl Check {
    /// The id of the transaction that it begins, unless it is an answer.
    pub(super) fn transaction(&self) -> Option<stun::TransactionId> {
        let id = self.datagram.get(8..20)?.try_into().ok()?;
        (self.datagram.get(..2)? == REQUEST).then_some(stun::TransactionId(id))
    }
}

/// One generation.
pub(super) struct Generation {
    /// Which one.
    pub(super) number: u32,
    engine: IceAgent,
    local: Credentials,
    remote: Option<Credentials>,
    /// Addresses of the peer, told or seen.
    remotes: BTreeMap<SocketAddr, Remote>,
    locals: usize,
    /// Candidates that came before the peer's credentials.
    early: Vec<Candidate>,
    selected: Option<(SocketAddr, SocketAddr)>,
}

impl Generation {
    /// Without candidates.
    pub(super) fn new(
        number: u32,
        local: Credentials,
        controlling: bool,
        tie_breaker: u64,
        now: Instant,
    ) -> Self {
        let mut engine = IceAgent::new(IceCreds {
            ufrag: local.ufrag.clone(),
            pass: local.password.clone(),
        });
        engine.set_controlling(controlling);
        engine.set_control_tie_breaker(tie_breaker);
        engine.set_timing_advance(PACE);
        engine.set_initial_stun_rto(FIRST_RETRANSMISSION);
        engine.set_max_stun_rto(CONSENT_INTERVAL);
        // Pairs are counted here; the engine would complain in the log.
        engine.set_max_candidate_pairs(usize::MAX);
        engine.handle_timeout(now);
        Self {
            number,
            engine,
            local,
            remote: None,
            remotes: BTreeMap::new(),
            locals: 0,
            early: Vec::new(),
            selected: None,
        }
    }

    /// Our credentials.
    pub(super) fn local(&self) -> &Credentials {
        &self.local
    }

    /// Whether the peer's are known.
    pub(super) fn has_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Whether the peer's ufrag is this one.
    pub(super) fn is_with(&self, remote_ufrag: &str) -> bool {
        self.remote
            .as_ref()
            .is_some_and(|remote| remote.ufrag == remote_ufrag)
    }

    /// Whether we nominate. It changes when both sides think so.
    pub(super) fn is_controlling(&self) -> bool {
        self.engine.controlling()
    }

    /// The path it found, if any: our address and the peer's.
    pub(super) fn selected(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.selected
    }

    /// The peer's credentials came. Candidates that waited for them are used now.
    pub(super) fn set_remote(&mut self, now: Instant, remote: Credentials, filter: AddressFilter) {
        self.engine.set_remote_credentials(IceCreds {
            ufrag: remote.ufrag.clone(),
            pass: remote.password.clone(),
        });
        self.remote = Some(remote);
        for candidate in std::mem::take(&mut self.early) {
            self.add_remote(&candidate, filter);
        }
        self.handle_timeout(now);
    }

    /// One more candidate of ours; gives it as the peer is to be told. None: it is not used.
    pub(super) fn add_local(&mut self, local: Local) -> Option<Candidate> {
        let candidate = local.to_engine()?;
        let text = if local.kind == CandidateKind::ServerReflexive {
            // Nothing is sent from it but by its base, which is a candidate already: only the peer needs it.
            candidate.to_sdp_string()
        } else {
            // The peer's may have come first.
            if (self.locals + 1) * self.remotes.len() > MAX_PAIRS {
                return None;
            }
            self.locals += 1;
            self.engine.add_local_candidate(candidate)?.to_sdp_string()
        };
        let mut told = Candidate::parse(&text).ok()?;
        told.ufrag = Some(self.local.ufrag.clone());
        Some(told)
    }

    /// An address of ours is gone.
    pub(super) fn remove_local(&mut self, now: Instant, local: Local) {
        if let Some(candidate) = local.to_engine()
            && self.engine.invalidate_candidate(&candidate)
        {
            self.locals = self.locals.saturating_sub(1);
            if self
                .selected
                .is_some_and(|(source, _)| source == local.base)
            {
                self.selected = None;
            }
            self.handle_timeout(now);
        }
    }

    /// One more candidate of the peer.
    pub(super) fn add_remote(
        &mut self,
        candidate: &Candidate,
        filter: AddressFilter,
    ) -> CandidateUse {
        if !candidate.udp || candidate.component != 1 {
            return CandidateUse::Ignored;
        }
        let foreign = |ours: &Credentials| {
            candidate
                .ufrag
                .as_ref()
                .is_some_and(|ufrag| *ufrag != ours.ufrag)
        };
        let Some(remote) = &self.remote else {
            let room = self.early.len() < MAX_CANDIDATES;
            if room {
                self.early.push(candidate.clone());
            }
            return match &candidate.host {
                Host::Ip(_) if room => CandidateUse::Taken,
                Host::Name(name) if room => CandidateUse::Name(name.clone()),
                _ => CandidateUse::Ignored,
            };
        };
        if foreign(remote) {
            return CandidateUse::Ignored;
        }
        let address = match &candidate.host {
            Host::Ip(_) => candidate.address(),
            Host::Name(name) => return CandidateUse::Name(name.clone()),
        };
        match address.filter(|address| filter.allows(*address)) {
            Some(address) if self.admit(address) => {
                let relayed = candidate.kind == CandidateKind::Relayed;
                if let Some(remote) = self.remotes.get_mut(&address) {
                    remote.relayed = relayed;
                }
                self.engine.add_remote_candidate(is::Candidate::from_parts(
                    candidate.foundation.clone(),
                    1,
                    Protocol::Udp,
                    candidate.priority,
                    address,
                    match candidate.kind {
                        CandidateKind::Host => is::CandidateKind::Host,
                        CandidateKind::ServerReflexive => is::CandidateKind::ServerReflexive,
                        CandidateKind::PeerReflexive => is::CandidateKind::PeerReflexive,
                        CandidateKind::Relayed => is::CandidateKind::Relayed,
                    },
                    None,
                    None,
                    None,
                ));
                CandidateUse::Taken
            }
            _ => CandidateUse::Ignored,
        }
    }

    /// Whether an address may be one of the peer's: known, or one of those it may have.
    fn admit(&mut self, address: SocketAddr) -> bool {
        if self.remotes.contains_key(&address) {
            return true;
        }
        let pairs = (self.remotes.len() + 1) * self.locals.max(1);
        let ports = self
            .remotes
            .keys()
            .filter(|known| known.ip() == address.ip());
        let room =
            self.remotes.len() < MAX_CANDIDATES && ports.count() < MAX_PORTS && pairs <= MAX_PAIRS;
        if room {
            let remote = Remote {
                relayed: false,
                standing: Standing::Named,
            };
            self.remotes.insert(address, remote);
        }
        room
    }

    /// Addresses of the peer, told or seen.
    pub(super) fn remotes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.remotes.keys().copied()
    }

    /// Whether an address is one of the peer's.
    pub(super) fn knows(&self, remote: SocketAddr) -> bool {
        self.remotes.contains_key(&remote)
    }

    /// Whether the peer told it as that of a relay.
    pub(super) fn is_relay(&self, remote: SocketAddr) -> bool {
        self.remotes.get(&remote).is_some_and(|one| one.relayed)
    }

    /// We nominate, whatever was agreed.
    pub(super) fn set_controlling(&mut self) {
        self.engine.set_controlling(true);
    }

    /// Whether a check is one of the peer's: its integrity is that of our password.
    pub(super) fn owns(&self, request: &BindingRequest<'_>) -> bool {
        let theirs = request
            .username()
            .and_then(|name| name.split_once(':'))
            .filter(|(ours, _)| *ours == self.local.ufrag)
            .map(|(_, theirs)| theirs);
        theirs.is_some_and(|theirs| self.remote.is_none() || self.is_with(theirs))
            && request.verify(self.local.password.as_bytes())
    }

    /// A check that [`Self::owns`] says yes to. False: it is dropped.
    pub(super) fn on_request(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
    ) -> bool {
        let priority = request.priority().unwrap_or(1).clamp(1, 0x7fff_ffff);
        // Who names no role has not the other one than we.
        let role = request
            .role()
            .unwrap_or_else(|| match self.is_controlling() {
                true => IceRole::Controlled(0),
                false => IceRole::Controlling(0),
            });
        let Some(username) = request.username().filter(|_| self.admit(remote)) else {
            return false;
        };
        let mut copy = Vec::with_capacity(160);
        stun::encode_binding_request(
            &RequestParams {
                transaction_id: request.transaction_id(),
                username,
                key: self.local.password.as_bytes(),
                role,
                priority,
                use_candidate: request.use_candidate(),
            },
            &mut copy,
        );
        if let Some(one) = self.remotes.get_mut(&remote)
            && one.standing == Standing::Named
        {
            one.standing = Standing::Heard;
        }
        self.feed(now, local, remote, &copy)
    }

    /// An answer to a check of ours. False: it is none, or forged.
    pub(super) fn on_response(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        response: &BindingResponse<'_>,
    ) -> bool {
        let Some(key) = self
            .remote
            .as_ref()
            .map(|remote| remote.password.as_bytes())
        else {
            return false;
        };
        if !response.verify(key) {
            return false;
        }
        let mut copy = Vec::with_capacity(96);
        let id = response.transaction_id();
        match (response.mapped_address(), response.error_code()) {
            (Some(mapped), None) => stun::encode_binding_success(id, mapped, key, &mut copy),
            (_, Some(code)) => stun::encode_binding_error(id, code, "", key, &mut copy),
            (None, None) => return false,
        }
        if let Some(one) = self.remotes.get_mut(&remote) {
            one.standing = Standing::Answered;
        }
        self.feed(now, local, remote, &copy)
    }

    /// A check of this generation that its engine does not know of; its answer is for [`Self::verifies`].
    pub(super) fn request(&self, id: stun::TransactionId, tie_breaker: u64) -> Option<Vec<u8>> {
        let remote = self.remote.as_ref()?;
        let role = match self.is_controlling() {
            true => IceRole::Controlling(tie_breaker),
            false => IceRole::Controlled(tie_breaker),
        };
        let mut datagram = Vec::with_capacity(160);
        stun::encode_binding_request(
            &RequestParams {
                transaction_id: id,
                username: &format!("{}:{}", remote.ufrag, self.local.ufrag),
                key: remote.password.as_bytes(),
                role,
                // Only for candidates that the peer does not know yet.
                priority: 1,
                use_candidate: false,
            },
            &mut datagram,
        );
        Some(datagram)
    }

    /// Whether an answer is the peer's.
    pub(super) fn verifies(&self, response: &BindingResponse<'_>) -> bool {
        let remote = self.remote.as_ref();
        remote.is_some_and(|remote| response.verify(remote.password.as_bytes()))
    }

    fn feed(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) -> bool {
        let Ok(message) = StunMessage::parse(message) else {
            return false;
        };
        let taken = self.engine.handle_packet(
            now,
            StunPacket {
                proto: Protocol::Udp,
                source: remote,
                destination: local,
                message,
            },
        );
        // Else nomination waits for the next tick.
        self.handle_timeout(now);
        taken
    }

    /// Timers.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
        while let Some(event) = self.engine.poll_event() {
            if let IceAgentEvent::NominatedSend {
                source,
                destination,
                ..
            } = event
            {
                self.selected = Some((source, destination));
            }
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.engine.poll_timeout()
    }

    /// The next message to send.
    pub(super) fn poll_check(&mut self) -> Option<Check> {
        let transmit = self.engine.poll_transmit()?;
        let remote = self.remotes.get(&transmit.destination);
        Some(Check {
            standing: remote.map_or(Standing::Named, |remote| remote.standing),
            source: transmit.source,
            destination: transmit.destination,
            datagram: transmit.contents.into(),
        })
    }
}
