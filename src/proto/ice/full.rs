//! The full agent of one connection: candidates of all kinds, generations, and the path that was selected.
//!
//! An ICE restart (RFC 8445 section 9) begins a new generation beside the old one, which goes on carrying data and
//! answering checks until the new one has found a path.

mod probe;
mod sending;
mod servers;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::RngExt as _;

use self::probe::Probe;
use super::{
    AddressFilter, CandidateUse, Credentials, IceConfig, MAX_HOSTS, MAX_SERVERS, RelayId,
    RouteChange, Selected, ServerNews,
    agent::{Generation, Local},
    gather::Gatherer,
    relay::Relay,
};
use crate::proto::{
    candidate::{Candidate, CandidateKind},
    connection::Context,
    sdp::{Description, MAX_CANDIDATES},
    stun::{BindingRequest, BindingResponse, TransactionId},
};

/// Silence on the path after which it counts as lost: three of our checks and as many of the peer's went unanswered.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Transactions whose answers are still taken.
const MAX_TRANSACTIONS: usize = 128;

/// What the agent reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IceEvent {
    /// The peer is to be told of a candidate.
    Candidate(Candidate),
    /// It knows them all.
    EndOfCandidates,
    /// Data goes by this path from now on.
    Selected(Selected),
    /// Nothing comes by the path any more.
    Lost,
    /// A server answers, or is of no use.
    Server(ServerNews),
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Generation(u32),
    /// The same, but the engine of that generation does not know of it.
    Probe(u32),
    Gatherer,
}

#[derive(Debug)]
struct Transaction {
    id: TransactionId,
    asker: Asker,
    local: SocketAddr,
    remote: SocketAddr,
}

/// A full ICE agent.
pub(crate) struct FullAgent {
    filter: AddressFilter,
    relay_only: bool,
    checks_per_second: u32,
    stun_servers: Vec<SocketAddr>,
    tie_breaker: u64,
    /// Candidates of ours, in the order they were found.
    locals: Vec<Local>,
    current: Generation,
    /// The one before, as long as it carries the data.
    previous: Option<Generation>,
    gatherer: Gatherer,
    /// Servers and addresses of ours are still to come.
    more_to_come: bool,
    relays: Vec<Relay>,
    /// The end of our candidates was told in this generation.
    told_end: bool,
    /// Candidates of the peer in this generation, whatever became of them.
    told_us: usize,
    /// Nobody tells anything any more.
    signaling_ended: bool,
    transactions: VecDeque<Transaction>,
    selected: Option<Selected>,
    /// The last sign of life on the path.
    heard: Instant,
    lost: bool,
    probe: Option<Probe>,
    events: VecDeque<IceEvent>,
    routes: Vec<RouteChange>,
}

impl FullAgent {
    /// Begins to gather candidates. The side that offers is the one that nominates.
    pub(crate) fn new(config: IceConfig, controlling: bool, cx: &mut Context<'_>) -> Self {
        let tie_breaker = cx.rng.random();
        let credentials = Credentials::generate(cx.rng);
        let routes = vec![RouteChange::AddUfrag(credentials.ufrag.clone())];
        let mut this = Self {
            filter: config.filter,
            relay_only: config.relay_only,
            checks_per_second: config.checks_per_second,
            stun_servers: Vec::new(),
            tie_breaker,
            locals: Vec::new(),
            current: Generation::new(0, credentials, controlling, tie_breaker, cx.now),
            previous: None,
            gatherer: Gatherer::default(),
            more_to_come: config.more_to_come,
            relays: Vec::new(),
            told_end: false,
            told_us: 0,
            signaling_ended: false,
            transactions: VecDeque::new(),
            selected: None,
            heard: cx.now,
            lost: false,
            probe: None,
            events: VecDeque::new(),
            routes,
        };
        for host in config.hosts {
            this.add_host(host, cx);
        }
        this
    }

    /// Whether the peer's of that generation are known.
    pub(crate) fn has_remote(&self) -> bool {
        self.current.has_remote()
    }

    /// Whether the newest generation is one with these credentials of the peer.
    pub(crate) fn is_with(&self, remote_ufrag: &str) -> bool {
        self.current.is_with(remote_ufrag)
    }

    /// The path, once there is one.
    #[cfg(test)]
    pub(crate) fn selected(&self) -> Option<Selected> {
        self.selected.map(|path| self.told(path))
    }

    /// A path, with what the peer told of its end.
    fn told(&self, path: Selected) -> Selected {
        Selected {
            relayed_by_peer: self.current.is_relay(path.remote),
            ..path
        }
    }

    /// Whether an address is one of the peer's: told, or seen in a check.
    pub(crate) fn knows(&self, remote: SocketAddr) -> bool {
        let previous = self.previous.as_ref();
        self.current.knows(remote) || previous.is_some_and(|previous| previous.knows(remote))
    }

    /// Whether nothing comes by it any more.
    #[cfg(test)]
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The flows to TURN servers.
    pub(crate) fn relays(&self) -> impl Iterator<Item = RelayId> + '_ {
        self.relays.iter().map(|relay| relay.id)
    }

    /// All routes that lead here, to be removed at the end.
    pub(crate) fn all_routes(&self) -> Vec<RouteChange> {
        let generations = [Some(&self.current), self.previous.as_ref()];
        let ufrags = generations.into_iter().flatten();
        ufrags
            .map(|generation| RouteChange::RemoveUfrag(generation.local().ufrag.clone()))
            .chain(
                self.transactions
                    .iter()
                    .map(|transaction| RouteChange::RemoveTransaction(transaction.id)),
            )
            .collect()
    }

    /// One more address of ours.
    pub(crate) fn add_host(&mut self, address: SocketAddr, cx: &mut Context<'_>) {
        let known = self.locals.iter().any(|local| local.address == address);
        if known || self.relay_only || self.hosts().count() >= MAX_HOSTS {
            return;
        }
        self.use_host(address, cx);
    }

    fn use_host(&mut self, address: SocketAddr, cx: &mut Context<'_>) {
        self.add_local(Local {
            kind: CandidateKind::Host,
            address,
            base: address,
        });
        let servers = std::mem::take(&mut self.stun_servers);
        self.gatherer.ask(cx.now, address, &servers, cx.rng);
        self.stun_servers = servers;
    }

    /// An address of ours is gone, and what was learnt by it.
    pub(crate) fn remove_host(&mut self, address: SocketAddr, now: Instant) {
        let (gone, left) = std::mem::take(&mut self.locals)
            .into_iter()
            .partition(|local| local.base == address);
        self.locals = left;
        let gone: Vec<Local> = gone;
        for generation in [Some(&mut self.current), self.previous.as_mut()]
            .into_iter()
            .flatten()
        {
            for &local in &gone {
                generation.remove_local(now, local);
            }
        }
        if self.selected.is_some_and(|path| path.local == address) {
            self.lose();
        }
        self.settle(now);
    }

    fn add_local(&mut self, local: Local) {
        self.locals.push(local);
        if let Some(candidate) = self.current.add_local(local) {
            self.events.push_back(IceEvent::Candidate(candidate));
        }
    }

    /// What the description of our side says, besides what the connection adds.
    pub(crate) fn describe(&mut self, description: &mut Description) {
        let credentials = self.current.local();
        description.ufrag.clone_from(&credentials.ufrag);
        description.password.clone_from(&credentials.password);
        // What is known goes with the description and need not be told again.
        let mut later = VecDeque::new();
        for event in std::mem::take(&mut self.events) {
            match event {
                IceEvent::Candidate(candidate) => description.candidates.push(candidate),
                IceEvent::EndOfCandidates => description.end_of_candidates = true,
                other => later.push_back(other),
            }
        }
        self.events = later;
    }

    /// The peer's half of a description came.
    pub(crate) fn set_remote(&mut self, description: &Description, now: Instant) {
        let remote = Credentials {
            ufrag: description.ufrag.clone(),
            password: description.password.clone(),
        };
        if description.ice_lite {
            // A lite agent does not nominate (RFC 8445 section 6.1.1).
            self.current.set_controlling();
        }
        self.current.set_remote(now, remote, self.filter);
        for candidate in &description.candidates {
            self.add_remote(candidate, now);
        }
        self.settle(now);
    }

    /// One more candidate of the peer.
    pub(crate) fn add_remote(&mut self, candidate: &Candidate, now: Instant) -> CandidateUse {
        self.told_us += 1;
        // Names are told once and come again with an address.
        if self.told_us > 2 * MAX_CANDIDATES {
            return CandidateUse::Ignored;
        }
        let used = self.current.add_remote(candidate, self.filter);
        if used == CandidateUse::Taken
            && let Some(address) = candidate.address()
        {
            for relay in &mut self.relays {
                relay.permit(now, address);
            }
            self.current.handle_timeout(now);
        }
        used
    }

    /// Whoever named the addresses of the peer has hung up, so that those which have neither answered nor sent a check are
    /// tried no more: they may be somebody else's. RFC 8445 section 8.1.2 lets an agent with a path do that at any time; while
    /// it is told of candidates, a better path may yet be found.
    pub(crate) fn signaling_ended(&mut self) {
        self.signaling_ended = true;
    }

    /// Begins a new generation; the peer must be told by a description.
    pub(crate) fn restart(&mut self, cx: &mut Context<'_>) {
        let credentials = Credentials::generate(cx.rng);
        self.routes
            .push(RouteChange::AddUfrag(credentials.ufrag.clone()));
        let controlling = self.current.is_controlling();
        let number = self.current.number + 1;
        let next = Generation::new(number, credentials, controlling, self.tie_breaker, cx.now);
        let old = std::mem::replace(&mut self.current, next);
        // The one whose path is in use stays; one that never found any goes.
        let gone = if old.selected().is_some() {
            self.previous.replace(old)
        } else {
            Some(old)
        };
        if let Some(gone) = gone {
            self.forget(&gone);
        }
        (self.told_us, self.told_end) = (0, false);
        // How NATs show us may have changed: servers are asked again.
        self.gatherer = Gatherer::default();
        for local in std::mem::take(&mut self.locals) {
            match local.kind {
                CandidateKind::Host => self.use_host(local.address, cx),
                CandidateKind::Relayed => self.add_local(local),
                CandidateKind::ServerReflexive | CandidateKind::PeerReflexive => {}
            }
        }
    }

    fn forget(&mut self, generation: &Generation) {
        self.routes
            .push(RouteChange::RemoveUfrag(generation.local().ufrag.clone()));
    }

    fn generations(&mut self) -> impl Iterator<Item = &mut Generation> {
        [Some(&mut self.current), self.previous.as_mut()]
            .into_iter()
            .flatten()
    }

    /// Our address that packets for `local_ip` are for.
    fn local_address(&self, local_ip: Option<IpAddr>, remote: SocketAddr) -> Option<SocketAddr> {
        let exact = local_ip.and_then(|ip| self.hosts().find(|address| address.ip() == ip));
        let same_family = |address: &SocketAddr| address.is_ipv4() == remote.is_ipv4();
        exact.or_else(|| self.hosts().find(same_family))
    }

    fn hosts(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.locals
            .iter()
            .filter(|local| local.kind == CandidateKind::Host)
            .map(|local| local.address)
    }

    fn relay_address(&self, relay: RelayId) -> Option<SocketAddr> {
        self.relays
            .iter()
            .find(|known| known.id == relay)
            .and_then(Relay::address)
    }

    /// Whether a check is one of the peer's.
    pub(crate) fn owns(&mut self, request: &BindingRequest<'_>) -> bool {
        self.generations()
            .any(|generation| generation.owns(request))
    }

    /// A check that [`Self::owns`] says yes to, by a relay or else to an address of ours. False: it is dropped.
    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        arrival: (Option<RelayId>, Option<IpAddr>),
        remote: SocketAddr,
        request: &BindingRequest<'_>,
    ) -> bool {
        let Some(local) = self.arrived_at(arrival, remote) else {
            return false;
        };
        let mut owner = self.generations().find(|one| one.owns(request));
        let taken = owner
            .as_mut()
            .is_some_and(|owner| owner.on_request(now, local, remote, request));
        if taken {
            self.hear(now, Self::known(arrival, local), remote);
        }
        self.settle(now);
        taken
    }

    fn arrived_at(
        &self,
        (relay, local_ip): (Option<RelayId>, Option<IpAddr>),
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        match relay {
            Some(relay) => self.relay_address(relay),
            None => self.local_address(local_ip, remote),
        }
    }

    /// An answer to a transaction of ours. False: it is none.
    pub(crate) fn on_response(
        &mut self,
        now: Instant,
        arrival: (Option<RelayId>, Option<IpAddr>),
        remote: SocketAddr,
        response: &BindingResponse<'_>,
    ) -> bool {
        let id = response.transaction_id();
        let Some(index) = self.transactions.iter().position(|one| one.id == id) else {
            return false;
        };
        // RFC 8445 section 7.2.5.2.1: from where the check went.
        if self.transactions[index].remote != remote {
            return false;
        }
        let Some(transaction) = self.transactions.remove(index) else {
            return false;
        };
        self.routes.push(RouteChange::RemoveTransaction(id));
        let local = match arrival {
            // Where it arrived is not known: where it left is as good.
            (None, None) => transaction.local,
            known => self.arrived_at(known, remote).unwrap_or(transaction.local),
        };
        match transaction.asker {
            Asker::Generation(number) => {
                let mut asker = self.generations().find(|one| one.number == number);
                let taken = asker
                    .as_mut()
                    .is_some_and(|asker| asker.on_response(now, local, remote, response));
                if taken {
                    self.hear(now, Self::known(arrival, local), remote);
                }
                self.settle(now);
                taken
            }
            Asker::Probe(number) => self.on_probe_answer(now, number, response),
            Asker::Gatherer => self.on_gathered(id, response),
        }
    }

    fn on_gathered(&mut self, id: TransactionId, response: &BindingResponse<'_>) -> bool {
        let asked = self.gatherer.answered(id);
        let found = asked.zip(response.mapped_address());
        if let Some(((_, server), _)) = found {
            let news = ServerNews::StunAnswers(server);
            self.events.push_back(IceEvent::Server(news));
        }
        let found = found.map(|((base, _), address)| (base, address));
        if let Some((base, address)) = found
            && !self.locals.iter().any(|local| local.address == address)
            && AddressFilter::ALL.allows(address)
        {
            self.add_local(Local {
                kind: CandidateKind::ServerReflexive,
                address,
                base,
            });
        }
        found.is_some()
    }

    /// A record of DTLS proved itself, from this address of the peer.
    pub(crate) fn heard_data(&mut self, now: Instant, remote: SocketAddr) {
        if self.selected.is_some_and(|path| path.remote == remote) {
            self.revive(now);
        }
    }

    /// Our address, unless the shell cannot tell at which one a datagram arrived.
    fn known(arrival: (Option<RelayId>, Option<IpAddr>), local: SocketAddr) -> Option<SocketAddr> {
        (arrival != (None, None)).then_some(local)
    }

    fn hear(&mut self, now: Instant, local: Option<SocketAddr>, remote: SocketAddr) {
        let on_path =
            |path: Selected| path.remote == remote && local.is_none_or(|local| path.local == local);
        if self.selected.is_some_and(on_path) {
            self.revive(now);
        }
    }

    fn revive(&mut self, now: Instant) {
        self.heard = now;
        self.probe.take_if(|probe| probe.is_answered(now));
        if std::mem::take(&mut self.lost)
            && let Some(path) = self.selected
        {
            self.events.push_back(IceEvent::Selected(self.told(path)));
        }
    }

    /// Silence before this instant proves nothing.
    pub(crate) fn excuse_silence(&mut self, listening_since: Instant) {
        self.heard = self.heard.max(listening_since);
        if let Some(probe) = &mut self.probe {
            probe.excuse(listening_since);
        }
    }

    fn lose(&mut self) {
        self.probe = None;
        if !self.lost {
            self.lost = true;
            self.events.push_back(IceEvent::Lost);
        }
    }

    /// Takes over what the generations found.
    fn settle(&mut self, now: Instant) {
        let newest = self.current.selected();
        let older = self.previous.as_ref().and_then(Generation::selected);
        let Some((local, remote)) = newest.or(older) else {
            return;
        };
        if newest.is_some()
            && let Some(old) = self.previous.take()
        {
            self.forget(&old);
        }
        let relay = self
            .relays
            .iter_mut()
            .find(|relay| relay.address() == Some(local));
        let relay = relay.map(|relay| {
            relay.bind(now, remote);
            relay.id
        });
        let path = Selected {
            local,
            remote,
            relay,
            relayed_by_peer: false,
        };
        if self.selected != Some(path) {
            self.selected = Some(path);
            (self.heard, self.lost, self.probe) = (now, false, None);
            self.events.push_back(IceEvent::Selected(self.told(path)));
        }
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<IceEvent> {
        self.events.pop_front()
    }
}
