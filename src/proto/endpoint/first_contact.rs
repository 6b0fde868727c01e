//! Datagrams from addresses that are new: checks answered without state, and the ClientHello that makes a connection.
//!
//! The reject table of the specification ("USERNAME") is applied before anything is kept. Rejecting is silent: no
//! state, no answer, a counter.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{Endpoint, context};
use crate::proto::{
    connection::{Connection, Context, TooManyAddresses},
    contact::Checked,
    credentials::{RejectReason, parse_username},
    demux::subnet,
    engine::dtls::{Dtls, Path},
    error::{CloseReason, DropReason},
    event::{ConnectionId, Side},
    stun::{self, BindingRequest, BindingResponse, IceRole, Message},
};

/// An established connection that heard from its peer so recently is not replaced by a ClientHello from the same address, which
/// anybody can forge. A peer that restarted repeats its ClientHello for longer than that.
const ALIVE: Duration = Duration::from_secs(3);

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
            Ok(Message::BindingSuccess(response)) => self.handle_response(now, remote, &response),
            Ok(Message::BindingError(_) | Message::Other) => {
                self.counters.drop_packet(DropReason::UnexpectedStun)
            }
            Err(_) => self.counters.drop_packet(DropReason::MalformedStun),
        }
    }

    fn handle_response(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        response: &BindingResponse<'_>,
    ) {
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
                self.checked.note(now, remote, text, &username, len);
                self.answer(local_ip, remote, request, username.server_ufrag.as_bytes());
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

    fn owns_username(&self, id: ConnectionId, text: &str) -> bool {
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
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(key) = connection
            .peer_credentials()
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
            None => match connection.add_address(now, remote, &self.limits) {
                Ok(left) => {
                    if let Some(left) = left {
                        self.demux.remove_address(left, id);
                    }
                    self.demux.insert_address(remote, id);
                }
                Err(TooManyAddresses) => {
                    self.counters.drop_packet(DropReason::TooManyAddresses);
                    return;
                }
            },
        }
        self.answer(local_ip, remote, request, &key);
        let cx = context!(self, now);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.handle_request(remote, request, len, &cx);
        if connection.remote() == remote {
            connection.set_local_ip(local_ip);
        }
        self.touch(id);
    }

    fn answer(
        &mut self,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
        key: &[u8],
    ) {
        let mut datagram = Vec::with_capacity(128);
        stun::encode_binding_success(request.transaction_id(), remote, key, &mut datagram);
        self.outbox.push(remote, local_ip, &datagram);
    }

    /// A peer that missed our goodbye still talks to a connection that is gone.
    fn repeat_goodbye(
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

    pub(super) fn handle_dtls(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
        client_hello: bool,
    ) {
        self.bury_ended(now, remote);
        if let Some(id) = self.demux.by_address(remote) {
            if client_hello && self.is_abandoned(now, id, remote) {
                self.with(now, id, |connection, cx| {
                    connection.end(CloseReason::Replaced, cx)
                });
                self.process(now);
            } else if client_hello && self.is_dialed(id) {
                // The peer dials us as we dial it, and we do not yield.
                self.counters.drop_packet(DropReason::RoleConflict);
                return;
            } else {
                self.with(now, id, |connection, cx| {
                    connection.handle_dtls(remote, datagram, cx)
                });
                return;
            }
        }
        if !client_hello && self.repeat_goodbye(now, local_ip, remote, None) {
            return;
        }
        if !self.checked.contains(now, remote) {
            self.counters.drop_packet(DropReason::UncheckedAddress);
            return;
        }
        if let Err(reason) = self.may_begin(remote, client_hello) {
            self.counters.drop_packet(reason);
            return;
        }
        if let Some(checked) = self.checked.take(now, remote) {
            self.begin(now, local_ip, remote, datagram, checked);
        }
    }

    fn is_dialed(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(&id);
        connection.is_some_and(|connection| connection.side() == Side::Dialer)
    }

    /// The peer of this connection has gone and somebody at its address passed a check with other credentials.
    fn is_abandoned(&self, now: Instant, id: ConnectionId, remote: SocketAddr) -> bool {
        let Some(connection) = self.connections.get(&id) else {
            return false;
        };
        let silent = now.saturating_duration_since(connection.last_received()) >= ALIVE;
        self.checked.contains(now, remote) && (silent || connection.is_unproven())
    }

    fn may_begin(&self, remote: SocketAddr, client_hello: bool) -> Result<(), DropReason> {
        if !self.accept_incoming {
            return Err(DropReason::NotListening);
        }
        if !client_hello {
            return Err(DropReason::NotClientHello);
        }
        if self.connections.len() >= self.limits.max_connections {
            return Err(DropReason::TooManyConnections);
        }
        if self.handshakes >= self.limits.max_handshakes {
            return Err(DropReason::TooManyHandshakes);
        }
        let from_subnet = subnet(remote.ip())
            .and_then(|subnet| self.subnets.get(&subnet))
            .copied()
            .unwrap_or(0);
        if from_subnet >= self.limits.max_handshakes_per_subnet {
            return Err(DropReason::TooManyFromSubnet);
        }
        Ok(())
    }

    /// Makes a connection of a ClientHello from a checked address.
    fn begin(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        datagram: &[u8],
        checked: Checked,
    ) {
        let id = self.new_id();
        self.handshakes += 1;
        if let Some(subnet) = subnet(remote.ip()) {
            *self.subnets.entry(subnet).or_insert(0) += 1;
        }
        // Under pressure the peer pays a round trip to prove its address before it gets our certificate.
        let cookie = self.handshakes > self.limits.max_handshakes / 2;
        self.demux.insert_address(remote, id);
        self.demux
            .insert_username(&checked.credentials.username, remote, id);
        let path = Path { remote, local_ip };
        let dtls = Dtls::listener(&self.dtls, now, cookie);
        let mut cx: Context<'_> = context!(self, now);
        let mut connection = Connection::listener(path, checked, dtls, &mut cx);
        connection.handle_dtls(remote, datagram, &mut cx);
        self.connections.insert(id, Box::new(connection));
        self.touch(id);
    }
}
