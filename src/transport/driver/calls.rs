//! The calls in a driver's table: connections that were signaled, what their owners and helpers ask for, and the flows to
//! their TURN servers.
//!
//! A part of [`Table`]: what all connections have in common stays there. Signals become descriptions and candidates of
//! the core here and back; descriptions were read by the owner's half already.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio::{sync::Semaphore, task::JoinSet};

use super::{Table, hosts::Hosts, messages::Messages};
use crate::{
    proto::{
        ChannelId, CloseReason, ConnectionId, DtlsContext, Endpoint, Event,
        candidate::{Candidate, Host},
        connection::{self, Application, SignalError},
        fingerprint::Fingerprint,
        ice::{CandidateUse, IceConfig, RelayId},
        mdns::Name,
        sdp::Description,
    },
    transport::{
        call::{CallState, Help, Place, Signal},
        shared::{CallShared, Input, RelayShared, Wakes},
    },
};

/// Names of one generation of candidates that are looked up: a browser has one for each address of its host.
const MAX_LOOKUPS: usize = 8;

/// Names of one call that are looked up at a time, of all those that a caller looks up at once: a browser has an address
/// of IPv4 and one of IPv6.
const MAX_LOOKUPS_AT_ONCE: usize = 2;

/// The number of the one section that descriptions of ours have.
const SECTION: u16 = 0;

/// A call to be begun.
pub(crate) struct NewCall {
    /// The half of its owner.
    pub(crate) shared: Arc<CallShared>,
    /// What it carries.
    pub(crate) application: Application,
    /// Our certificate.
    pub(crate) dtls: DtlsContext,
    /// Its hash.
    pub(crate) fingerprint: Fingerprint,
    /// The peer's offer; without one we offer.
    pub(crate) offer: Option<Box<Description>>,
    /// Settings and servers.
    pub(crate) help: Arc<Help>,
    /// Where the peer calls from, if that is known.
    pub(crate) from: Option<IpAddr>,
    /// Given back when the call has ended.
    pub(crate) place: Place,
}

impl NewCall {
    /// It will not be begun.
    pub(super) fn refuse(self, reason: CloseReason, wakes: &mut Wakes) {
        self.shared.connection().close(reason.clone(), wakes);
        self.shared.close(reason, wakes);
    }
}

/// What all calls of a socket share.
pub(super) struct Calls {
    pub(super) hosts: Hosts,
    pub(super) relays: HashMap<RelayId, (ConnectionId, Arc<RelayShared>)>,
    /// Connections that are calls.
    pub(super) ids: BTreeSet<ConnectionId>,
    /// Announced addresses that no interface has, and how many calls announce them.
    foreign: BTreeMap<IpAddr, usize>,
}

impl Calls {
    pub(super) fn new(bound: SocketAddr) -> Self {
        Self {
            hosts: Hosts::new(bound),
            relays: HashMap::new(),
            ids: BTreeSet::new(),
            foreign: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Is it an announced address that packets cannot leave from?
    pub(super) fn is_foreign(&self, ip: IpAddr) -> bool {
        self.foreign.contains_key(&ip)
    }
}

/// The part of a connection's entry that only calls have.
pub(super) struct Call {
    shared: Arc<CallShared>,
    application: Application,
    pub(super) help: Arc<Help>,
    from: Option<IpAddr>,
    /// The name of the section in our descriptions.
    mid: String,
    /// Tasks that help; they end with the call.
    tasks: JoinSet<()>,
    /// One of them is looking for servers.
    is_searching: bool,
    /// Servers in use, by their number: STUN servers, and TURN servers by their flows.
    pub(super) stun: BTreeMap<SocketAddr, usize>,
    /// Addresses of STUN servers that do not answer.
    pub(super) silent: BTreeSet<SocketAddr>,
    pub(super) relays: BTreeMap<RelayId, (usize, Arc<RelayShared>)>,
    /// Names that were looked up in this generation, and those that yet have to be.
    looked_up: usize,
    lookups: JoinSet<()>,
    places: Arc<Semaphore>,
    unasked: Vec<(Name, Candidate)>,
    /// The channel of messages.
    pub(super) messages: Option<Messages>,
    /// Why we close it.
    pub(super) refused: Option<CloseReason>,
    _place: Place,
}

impl Drop for Call {
    fn drop(&mut self) {
        for (_, relay) in self.relays.values() {
            relay.close();
        }
    }
}

impl Call {
    /// Whether its channels carry messages.
    pub(super) fn carries_messages(&self) -> bool {
        self.application != Application::Libp2p
    }

    /// The connection has ended.
    pub(super) fn close(&mut self, reason: CloseReason, wakes: &mut Wakes) {
        if let Some(messages) = self.messages.take() {
            messages.close(wakes);
        }
        self.shared.close(reason, wakes);
    }

    /// Looks for the servers that are not in use.
    fn find_servers(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        if self.is_searching || !self.help.has_servers() {
            return;
        }
        self.is_searching = true;
        let relays = self.relays.values().map(|(number, _)| *number);
        let in_use = self.stun.values().copied().chain(relays).collect();
        let search = self.help.find_servers(Arc::clone(&self.shared), in_use);
        self.tasks.spawn(search);
    }

    fn tell(&self, signal: Signal, wakes: &mut Wakes) {
        self.shared.push_signal(signal, wakes);
    }

    /// A description of ours.
    fn describe(&mut self, description: &Description, is_offer: bool, wakes: &mut Wakes) {
        self.mid.clone_from(&description.mid);
        let text = description.to_string();
        let signal = match is_offer {
            true => Signal::Offer(text),
            false => Signal::Answer(text),
        };
        self.tell(signal, wakes);
    }
}

impl Table {
    /// Begins a call.
    pub(super) fn begin_call(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        new: NewCall,
        wakes: &mut Wakes,
    ) {
        if new.shared.connection().is_released() {
            return;
        }
        self.calls.hosts.begin();
        let help = &new.help;
        let call = connection::Call {
            application: new.application.clone(),
            dtls: new.dtls.clone(),
            fingerprint: new.fingerprint,
            ice: IceConfig {
                hosts: self.calls.hosts.addresses(&help.announced),
                filter: help.filter,
                relay_only: help.relay_only,
                checks_per_second: help.checks_per_second,
                more_to_come: help.has_servers() || !self.calls.hosts.are_known(),
            },
        };
        let begun = match &new.offer {
            None => endpoint.offer(now, call),
            Some(offer) => endpoint.accept_offer(now, call, offer),
        };
        let (id, description) = match begun {
            Ok(begun) => begun,
            Err(error) => return new.refuse(CloseReason::Signaling(error), wakes),
        };
        let offer = self.insert_call(id, new, &description, wakes);
        if let Some(offer) = offer {
            self.look_up_names(&offer, id);
        }
        // What came while it had no id.
        self.visit_connection(endpoint, now, id, wakes);
    }

    /// Gives back the peer's offer, if it began with one.
    fn insert_call(
        &mut self,
        id: ConnectionId,
        new: NewCall,
        description: &Description,
        wakes: &mut Wakes,
    ) -> Option<Box<Description>> {
        let NewCall {
            shared,
            application,
            offer,
            help,
            from,
            place,
            ..
        } = new;
        for ip in &help.foreign {
            *self.calls.foreign.entry(*ip).or_default() += 1;
        }
        let mut call = Call {
            shared: Arc::clone(&shared),
            application,
            help,
            from,
            mid: String::new(),
            tasks: JoinSet::new(),
            is_searching: false,
            stun: BTreeMap::new(),
            silent: BTreeSet::new(),
            relays: BTreeMap::new(),
            looked_up: 0,
            lookups: JoinSet::new(),
            places: Arc::new(Semaphore::new(MAX_LOOKUPS_AT_ONCE)),
            unasked: Vec::new(),
            messages: None,
            refused: None,
            _place: place,
        };
        call.describe(description, offer.is_none(), wakes);
        call.find_servers();
        let span = tracing::debug_span!("call", id = id.0, offers = offer.is_none());
        let connection = Arc::clone(shared.connection());
        connection.assign(id);
        self.calls.ids.insert(id);
        self.insert(id, connection, span).call = Some(Box::new(call));
        offer
    }

    /// A call has ended: its part of what all share is given back.
    pub(super) fn forget_call(&mut self, id: ConnectionId, call: &Call) {
        self.calls.ids.remove(&id);
        for relay in call.relays.keys() {
            self.calls.relays.remove(relay);
        }
        for ip in &call.help.foreign {
            if let Some(count) = self.calls.foreign.get_mut(ip) {
                *count -= 1;
                if *count == 0 {
                    self.calls.foreign.remove(ip);
                }
            }
        }
        if self.calls.is_empty() {
            self.calls.hosts.end();
        }
    }

    pub(super) fn call_mut(&mut self, id: ConnectionId) -> Option<&mut Call> {
        self.connections.get_mut(&id)?.call.as_deref_mut()
    }

    /// Does what the owner of a call and its helpers ask for.
    pub(super) fn serve_call(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        wakes: &mut Wakes,
    ) {
        let Some(call) = self.call_mut(id) else {
            return;
        };
        for input in call.shared.take_inputs() {
            match input {
                Input::Offer(offer) => {
                    let answer = endpoint.accept_restart(now, id, &offer);
                    self.restarted(endpoint, now, id, (answer, false), wakes);
                    self.look_up_names(&offer, id);
                }
                Input::Answer(answer) => match endpoint.accept_answer(now, id, &answer) {
                    Ok(()) => self.look_up_names(&answer, id),
                    Err(error) => self.refuse(endpoint, now, id, error),
                },
                Input::Restart => {
                    let offer = endpoint.restart(now, id);
                    self.restarted(endpoint, now, id, (offer, true), wakes);
                }
                Input::Probe => endpoint.probe(now, id),
                Input::SignalingEnded => endpoint.signaling_ended(now, id),
                Input::Candidate(candidate) => {
                    let used = endpoint.add_candidate(now, id, &candidate);
                    if let CandidateUse::Name(_) = used {
                        self.look_up(*candidate, id);
                    }
                }
                Input::Stun(number, address) => {
                    let used = endpoint.add_stun_server(now, id, address);
                    if let Some(call) = self.call_mut(id).filter(|_| used) {
                        call.stun.insert(address, number);
                    }
                }
                Input::Relay(number, server, flow) => {
                    self.add_relay(endpoint, now, id, (number, &server, flow));
                }
                Input::ServersKnown => {
                    if let Some(call) = self.call_mut(id) {
                        call.is_searching = false;
                    }
                    self.tell_whether_all_is_known(endpoint, now, id);
                }
            }
        }
    }

    /// ICE begins anew, with a description of ours: flows that have ended are opened again.
    fn restarted(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        (description, is_offer): (Result<Description, SignalError>, bool),
        wakes: &mut Wakes,
    ) {
        match description {
            Err(error) => self.refuse(endpoint, now, id, error),
            Ok(description) => {
                let Some(call) = self.call_mut(id) else {
                    return;
                };
                (call.looked_up, call.unasked) = (0, Vec::new());
                // Those of the generation before are of no use any more.
                call.lookups = JoinSet::new();
                call.describe(&description, is_offer, wakes);
                call.find_servers();
                self.tell_whether_all_is_known(endpoint, now, id);
            }
        }
    }

    /// The end of our candidates waits for the names of servers and for the interfaces.
    pub(super) fn tell_whether_all_is_known(
        &self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
    ) {
        let call = self
            .connections
            .get(&id)
            .and_then(|entry| entry.call.as_deref());
        let is_searching = call.is_some_and(|call| call.is_searching);
        let more = is_searching || !self.calls.hosts.are_known();
        endpoint.set_more_to_come(now, id, more);
    }

    /// The peer's description cannot be used: the call ends.
    fn refuse(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        error: SignalError,
    ) {
        if let Some(call) = self.call_mut(id) {
            call.refused = Some(CloseReason::Signaling(error));
            endpoint.close(now, id);
        }
    }

    /// Descriptions may have names among their candidates.
    fn look_up_names(&mut self, description: &Description, id: ConnectionId) {
        for candidate in &description.candidates {
            if matches!(candidate.host, Host::Name(_)) {
                let mut candidate = candidate.clone();
                // It must not be used for a generation that comes later.
                candidate
                    .ufrag
                    .get_or_insert_with(|| description.ufrag.clone());
                self.look_up(candidate, id);
            }
        }
    }

    /// A candidate hides its address behind a name.
    fn look_up(&mut self, candidate: Candidate, id: ConnectionId) {
        let Some(call) = self.call_mut(id) else {
            return;
        };
        let name = match &candidate.host {
            Host::Name(name) if call.help.names.is_some() => Name::parse(name),
            _ => None,
        };
        let Some(name) = name.filter(|_| candidate.udp && call.looked_up < MAX_LOOKUPS) else {
            return;
        };
        call.looked_up += 1;
        call.unasked.push((name, candidate));
        // Names of the first offer come before the interfaces are known, and it is them that are asked on.
        if self.calls.hosts.are_known() {
            self.ask_for_names(id);
        }
    }

    /// Begins to look up what is to be.
    pub(super) fn ask_for_names(&mut self, id: ConnectionId) {
        let interfaces: Arc<[IpAddr]> = self.calls.hosts.ips().into();
        let Some(call) = self.call_mut(id) else {
            return;
        };
        for (name, candidate) in std::mem::take(&mut call.unasked) {
            let Some(names) = call.help.names.clone() else {
                return;
            };
            let (interfaces, shared) = (Arc::clone(&interfaces), Arc::clone(&call.shared));
            let (places, from) = (Arc::clone(&call.places), call.from);
            call.lookups.spawn(async move {
                let _place = places.acquire().await;
                if let Some(address) = names.find(&name, &interfaces, from).await {
                    let found = Box::new(candidate.resolved(address));
                    shared.push(Input::Candidate(found));
                }
            });
        }
    }

    /// Passes on what the core reports of a call; gives back what is reported of any connection.
    pub(super) fn handle_call_event(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        event: Event,
        wakes: &mut Wakes,
    ) -> Option<Event> {
        let Some(call) = self.call_mut(id) else {
            return Some(event);
        };
        match event {
            Event::Candidate(candidate) => {
                let signal = Signal::Candidate {
                    candidate: candidate.to_string(),
                    mid: call.mid.clone(),
                    index: SECTION,
                };
                call.tell(signal, wakes);
            }
            Event::EndOfCandidates => {
                let mid = call.mid.clone();
                call.tell(
                    Signal::EndOfCandidates {
                        mid,
                        index: SECTION,
                    },
                    wakes,
                );
            }
            Event::PathSelected { remote, relayed } => {
                call.shared
                    .set_path(CallState::Path { remote, relayed }, wakes);
            }
            Event::PathLost => call.shared.set_path(CallState::Lost, wakes),
            Event::Server(news) => self.hear_of_server(id, news),
            // The channel of messages follows, which says it all.
            Event::Ready { .. } if call.carries_messages() => {}
            Event::ChannelOpened(channel) if call.carries_messages() => {
                self.open_messages(endpoint, now, (id, channel), wakes);
            }
            other => return Some(other),
        }
        None
    }

    fn open_messages(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        (id, channel): (ConnectionId, ChannelId),
        wakes: &mut Wakes,
    ) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(call) = entry.call.as_deref_mut() else {
            return;
        };
        endpoint.accepted(id, channel);
        let max = endpoint.max_message_size(id);
        let (messages, handle) = Messages::new(&entry.shared, (id, channel), max);
        // What is there already, and from then on the core reports.
        messages.pump_read(endpoint, now, wakes);
        call.messages = Some(messages);
        call.shared.set_channel(handle, wakes);
    }
}
