//! Checks, most of them from addresses that are new: answered without state.
//!
//! The reject table of the specification ("USERNAME") is applied before anything is kept. Rejecting is silent: no
//! state, no answer, a counter.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use rand::RngExt as _;

use super::{Context, Endpoint, context};
use crate::proto::{
    connection::TooManyAddresses,
    credentials::{RejectReason, Username, parse_username},
    error::{CloseReason, DropReason},
    event::ConnectionId,
    stun::{self, BindingRequest, BindingResponse, IceRole, Message, RequestParams, TransactionId},
};

/// How the transaction ids of [`Endpoint::check_back`] begin. Whoever imitates it is spared a counter, no more.
const CHECK_BACK: [u8; 4] = *b"back";
/// A peer-reflexive candidate of the highest preference (RFC 8445 section 5.1.2).
const CHECK_BACK_PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;

impl Endpoint {
    pub(super) fn handle_stun(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
    ) {
        match stun::parse(datagram) {
            Ok(Message::BindingRequest(request)) => {
                self.handle_request(now, local_ip, remote, &request, datagram.len())
            }
            Ok(Message::BindingSuccess(response) | Message::BindingError(response))
                if self.handle_signaled_answer(now, local_ip, remote, &response) => {}
            Ok(Message::BindingSuccess(response)) => self.handle_response(now, remote, &response),
            Ok(Message::BindingError(_) | Message::Other) => {
                self.counters.drop_packet(DropReason::UnexpectedStun)
            }
            Err(_) => self.counters.drop_packet(DropReason::MalformedStun),
        }
    }

    /// STUN at a socket that only calls use.
    pub(super) fn handle_stun_of_calls(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
    ) {
        match stun::parse(datagram) {
            Ok(Message::BindingRequest(request))
                if self.handle_signaled_check(now, local_ip, remote, &request) => {}
            Ok(Message::BindingSuccess(response) | Message::BindingError(response))
                if self.handle_signaled_answer(now, local_ip, remote, &response) => {}
            Ok(Message::BindingRequest(_)) => self.counters.drop_packet(DropReason::NotListening),
            Ok(_) => self.counters.drop_packet(DropReason::UnexpectedStun),
            Err(_) => self.counters.drop_packet(DropReason::MalformedStun),
        }
    }

    fn handle_response(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        response: &BindingResponse<'_>,
    ) {
        if response.transaction_id().0.starts_with(&CHECK_BACK) {
            // It has done its work when it was asked.
            return;
        }
        let taken = self.demux.by_address(remote).and_then(|id| {
            self.with(now, id, |connection, cx| {
                connection.handle_response(response, cx)
            })
        });
        if taken != Some(true) {
            self.counters.drop_packet(DropReason::UnexpectedStun);
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
        len: usize,
    ) {
        if self.handle_signaled_check(now, local_ip, remote, request) {
            return;
        }
        let text = request.username().unwrap_or_default();
        let known = self.demux.by_address(remote);
        if let Some(id) = known
            && self.answer_as_dialer(id, local_ip, remote, request)
        {
            return;
        }
        let parsed = request.username().ok_or(RejectReason::MissingUsername);
        let username = match parsed.and_then(parse_username) {
            Ok(username) => username,
            Err(reason) => {
                tracing::debug!(reason = reason.as_str(), "dropped a check");
                self.counters.drop_packet(DropReason::BadUsername);
                return;
            }
        };
        if !request.verify(username.server_ufrag.as_bytes()) {
            self.counters.drop_packet(DropReason::BadIntegrity);
            return;
        }
        if matches!(request.role(), Some(IceRole::Controlled(_))) {
            // A lite agent does not switch roles (RFC 8445 section 7.3.1.1); silence keeps reflection at nothing.
            self.counters.drop_packet(DropReason::RoleConflict);
            return;
        }
        match self
            .demux
            .by_username(text, remote)
            .filter(|&id| self.owns_username(id, text))
        {
            Some(id) => self.check_known(now, local_ip, remote, request, len, id),
            None if !self.accept_incoming => self.counters.drop_packet(DropReason::NotListening),
            None if !self.yields(now, remote, request) => {
                self.counters.drop_packet(DropReason::RoleConflict);
            }
            None if self.repeat_goodbye(now, local_ip, remote, Some(text)) => {}
            None => {
                let first = self.checked.note(now, remote, text, &username, len);
                let key = username.server_ufrag.as_bytes();
                let mut sent = self.answer(local_ip, remote, request, key);
                if first && !request.use_candidate() {
                    sent += self.check_back(local_ip, remote, &username);
                }
                self.checked.charge(remote, sent);
            }
        }
    }

    /// Two nodes that dial each other from their listening sockets would use one pair of addresses for two DTLS
    /// sessions, which nothing tells apart. As in RFC 8445 section 7.3.1.1 the smaller tie-breaker yields: that dial
    /// ends and goes on from another socket. True: nothing is in the way of this check any more.
    fn yields(&mut self, now: Instant, remote: SocketAddr, request: &BindingRequest<'_>) -> bool {
        let ours = self
            .demux
            .by_address(remote)
            .and_then(|id| Some((id, self.connections.get(&id)?)))
            .filter(|(_, connection)| connection.is_dialing())
            .and_then(|(id, connection)| Some((id, connection.tie_breaker()?)));
        let Some((id, ours)) = ours else { return true };
        if matches!(request.role(), Some(IceRole::Controlling(theirs)) if theirs < ours) {
            return false;
        }
        self.with(now, id, |connection, cx| {
            connection.end(CloseReason::AddressInUse, cx);
        });
        self.process(now);
        true
    }

    /// A full ICE agent at the other end of a dial checks us too.
    fn answer_as_dialer(
        &mut self,
        id: ConnectionId,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
    ) -> bool {
        let Some(connection) = self.connections.get(&id) else {
            return false;
        };
        let Some(key) = connection.dialer_key(request).map(<[u8]>::to_vec) else {
            return false;
        };
        self.answer(local_ip, remote, request, &key);
        true
    }

    pub(super) fn owns_username(&self, id: ConnectionId, text: &str) -> bool {
        self.connections
            .get(&id)
            .and_then(|connection| connection.peer_credentials())
            .is_some_and(|credentials| &*credentials.username == text)
    }

    /// A check of a connection that exists, perhaps from another address of its peer.
    fn check_known(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
        len: usize,
        id: ConnectionId,
    ) {
        let Some(key) = self
            .connections
            .get(&id)
            .and_then(|connection| connection.peer_credentials())
            .map(|credentials| credentials.server_ufrag().as_bytes().to_vec())
        else {
            return;
        };
        match self.demux.by_address(remote) {
            Some(other) if other != id => {
                self.counters.drop_packet(DropReason::ForeignUsername);
                return;
            }
            Some(_) => {}
            None => {
                if !self.add_address(now, remote, id) {
                    return;
                }
            }
        }
        let sent = self.answer(local_ip, remote, request, &key);
        let cx = context!(self, now);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.handle_request(remote, request, len, sent, &cx);
        if connection.remote() == remote {
            connection.set_local_ip(local_ip);
        }
        self.touch(id);
    }

    /// Routes one more address to a connection. False: it has as many as it may.
    pub(super) fn add_address(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        id: ConnectionId,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        match connection.add_address(now, remote, &self.limits) {
            Ok(left) => {
                if let Some(left) = left {
                    self.demux.remove_address(left, id);
                }
                self.demux.insert_address(remote, id);
                true
            }
            Err(TooManyAddresses) => {
                self.counters.drop_packet(DropReason::TooManyAddresses);
                false
            }
        }
    }

    /// Says how many bytes it sent.
    fn answer(
        &mut self,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
        key: &[u8],
    ) -> usize {
        let mut datagram = Vec::with_capacity(128);
        stun::encode_binding_success(request.transaction_id(), remote, key, &mut datagram);
        self.outbox.push(remote, local_ip, &datagram);
        datagram.len()
    }

    /// Checks a full agent that has not nominated yet, behind the answer to its check.
    ///
    /// A lite agent need not do this. But pion (go-libp2p, rust-libp2p) nominates with the next check of its peer, and
    /// without one with its next tick, 200 ms later: a fifth of a second of every dial. Nothing is kept of it, and a
    /// lost check is not repeated: the tick comes anyway. Says how many bytes it sent.
    fn check_back(
        &mut self,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        username: &Username<'_>,
    ) -> usize {
        let mut transaction_id = TransactionId::random(&mut self.rng);
        transaction_id.0[..CHECK_BACK.len()].copy_from_slice(&CHECK_BACK);
        let mut datagram = Vec::with_capacity(256);
        stun::encode_binding_request(
            &RequestParams {
                transaction_id,
                username: &format!("{}:{}", username.client_ufrag, username.server_ufrag),
                key: username.client_pwd.as_bytes(),
                role: IceRole::Controlled(self.rng.random()),
                priority: CHECK_BACK_PRIORITY,
                use_candidate: false,
            },
            &mut datagram,
        );
        self.outbox.push(remote, local_ip, &datagram);
        datagram.len()
    }

    /// A peer that missed our goodbye still talks to a connection that is gone.
    pub(super) fn repeat_goodbye(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        username: Option<&str>,
    ) -> bool {
        let Some(goodbye) = self.demux.goodbye(now, remote, username) else {
            return false;
        };
        let goodbye = goodbye.to_vec();
        self.outbox.push(remote, local_ip, &goodbye);
        self.counters.drop_packet(DropReason::AfterClose);
        true
    }
}
