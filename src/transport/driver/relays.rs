//! The flows to the TURN servers of calls, and the addresses of this host that calls offer.
//!
//! A part of [`Table`], as `calls.rs`.

use std::{
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use super::{Table, hosts::HostChange};
use crate::{
    proto::{
        ConnectionId, Endpoint,
        ice::{RelayFailure, RelayId, RelayServer, ServerNews},
    },
    transport::{
        call::{Flow, IceServerState},
        shared::RelayShared,
    },
};

/// As the owner of the server is told. What worked and is gone says nothing: whoever asks for it again will know.
fn failed(failure: RelayFailure) -> Option<IceServerState> {
    Some(match failure {
        RelayFailure::Silent => IceServerState::Silent,
        // Unauthenticated (RFC 8489 section 14.8), wrong credentials (RFC 8656 section 19).
        RelayFailure::Refused(401 | 441) => IceServerState::RefusesCredentials,
        RelayFailure::Refused(code) => IceServerState::Refuses(code),
        RelayFailure::Ended => IceServerState::Unreachable,
        RelayFailure::Lost => return None,
    })
}

impl Table {
    /// One more TURN server of a call.
    pub(super) fn add_relay(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        (number, server, flow): (usize, &RelayServer, Flow),
    ) {
        let Some(relay) = endpoint.add_relay(now, id, server) else {
            return;
        };
        let shared = RelayShared::new(Arc::clone(&self.socket), relay, flow.local_ip());
        // Not one of the helpers: it outlives the call for its last words.
        tokio::spawn(flow.run(Arc::clone(&shared)));
        self.calls.relays.insert(relay, (id, Arc::clone(&shared)));
        if let Some(call) = self.call_mut(id) {
            call.relays.insert(relay, (number, shared));
        }
    }

    /// Passes on what came from a TURN server.
    pub(super) fn visit_relay(&mut self, endpoint: &mut Endpoint, now: Instant, relay: RelayId) {
        let Some((_, shared)) = self.calls.relays.get(&relay) else {
            return;
        };
        let ended = shared.take_inbound(|bytes| endpoint.handle_relay(now, relay, bytes));
        if ended {
            endpoint.relay_closed(now, relay);
        }
    }

    /// The core does not use a flow any more: it has ended, or the server gives nothing.
    pub(super) fn close_relay(&mut self, relay: RelayId) {
        if let Some((id, shared)) = self.calls.relays.remove(&relay) {
            shared.close();
            if let Some(call) = self.call_mut(id) {
                call.relays.remove(&relay);
            }
        }
    }

    /// A server of a call has shown whether it is of use.
    pub(super) fn hear_of_server(&mut self, id: ConnectionId, news: ServerNews) {
        let Some(call) = self.call_mut(id) else {
            return;
        };
        let relay = |relay| call.relays.get(&relay).map(|(number, _)| *number);
        let (number, state) = match news {
            ServerNews::StunAnswers(address) => {
                let number = call.stun.get(&address).copied();
                (number, Some(IceServerState::Works))
            }
            ServerNews::StunSilent(address) => {
                call.silent.insert(address);
                let number = call.stun.get(&address).copied();
                // One of its addresses may be of a family that this host does not have.
                let is_silent = call
                    .stun
                    .iter()
                    .all(|(other, of)| Some(*of) != number || call.silent.contains(other));
                (number, is_silent.then_some(IceServerState::Silent))
            }
            ServerNews::RelayAllocated(id) => (relay(id), Some(IceServerState::Works)),
            ServerNews::RelayFailed(id, failure) => (relay(id), failed(failure)),
        };
        if let Some((number, state)) = number.zip(state) {
            call.help.report(number, state);
        }
        if let ServerNews::RelayFailed(relay, failure) = news {
            tracing::debug!(?failure, "a TURN server is not used any more");
            self.close_relay(relay);
        }
    }

    /// Hands out what the core has for TURN servers.
    pub(super) fn send_to_relays(&self, endpoint: &mut Endpoint) {
        while let Some(transmit) = endpoint.poll_relay() {
            if let Some((_, shared)) = self.calls.relays.get(&transmit.relay) {
                shared.push_outbound(transmit.contents);
            }
        }
    }

    /// Tells all calls what has changed on the interfaces.
    pub(super) fn poll_hosts(
        &mut self,
        cx: &mut Context<'_>,
        endpoint: &mut Endpoint,
        now: Instant,
    ) {
        while let Poll::Ready(change) = self.calls.hosts.poll_change(cx) {
            let (ip, is_up) = match change {
                HostChange::Up(ip) => (ip, true),
                HostChange::Down(ip) => (ip, false),
                HostChange::AllKnown => {
                    for id in self.calls.ids.clone() {
                        self.ask_for_names(id);
                        self.tell_whether_all_is_known(endpoint, now, id);
                    }
                    continue;
                }
            };
            if !is_up {
                self.lose_flows(endpoint, now, ip);
            }
            let Some(address) = self.calls.hosts.address(ip) else {
                continue;
            };
            for id in &self.calls.ids {
                let call = self
                    .connections
                    .get(id)
                    .and_then(|entry| entry.call.as_deref());
                // Calls that announce other addresses do not follow the interfaces.
                if call.is_none_or(|call| !call.help.announced.is_empty()) {
                    continue;
                }
                match is_up {
                    true => endpoint.add_host(now, *id, address),
                    false => endpoint.remove_host(now, *id, address),
                }
            }
        }
    }

    /// An address of ours is gone, and with it the flows that leave from it: TCP would need minutes to see that.
    fn lose_flows(&self, endpoint: &mut Endpoint, now: Instant, ip: IpAddr) {
        for (relay, (_, flow)) in &self.calls.relays {
            if flow.local_ip() == Some(ip) {
                endpoint.relay_closed(now, *relay);
            }
        }
    }
}
