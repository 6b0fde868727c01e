//! Connections that are set up through signaling, on the socket that webrtc-direct uses.
//!
//! A check is theirs if it names one of their ufrags, an answer if it has the id of one of their transactions; a
//! datagram of DTLS goes by its address as for all others. An address leads to one connection at a time: a check from
//! one that another connection lives at is dropped, and ICE finds another way.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::Bytes;

use super::{Connection, Context, Endpoint, context};
use crate::proto::{
    candidate::Candidate,
    connection::{Call, SignalError},
    error::DropReason,
    event::{ChannelId, ConnectionId, Write},
    ice::{CandidateUse, RelayId, RelayServer, RelayTransmit, RouteChange},
    sdp::Description,
    stun::{BindingRequest, BindingResponse},
};

impl Endpoint {
    /// Begins a connection by describing our side; the answer goes to [`Self::accept_answer`].
    pub(crate) fn offer(
        &mut self,
        now: Instant,
        call: Call,
    ) -> Result<(ConnectionId, Description), SignalError> {
        let id = self.begin_call(now, call, true)?;
        let offer = self.with(now, id, |connection, _| connection.offer());
        let offer = offer.flatten().ok_or(SignalError::Ended)?;
        Ok((id, offer))
    }

    /// Begins a connection with the offer of the peer; gives the answer.
    pub(crate) fn accept_offer(
        &mut self,
        now: Instant,
        call: Call,
        offer: &Description,
    ) -> Result<(ConnectionId, Description), SignalError> {
        let id = self.begin_call(now, call, false)?;
        let answer = self
            .with(now, id, |connection, cx| connection.accept_offer(offer, cx))
            .unwrap_or(Err(SignalError::Ended))?;
        Ok((id, answer))
    }

    fn begin_call(
        &mut self,
        now: Instant,
        call: Call,
        offers: bool,
    ) -> Result<ConnectionId, SignalError> {
        if self.connections.len() >= self.limits.max_connections {
            return Err(SignalError::TooMany);
        }
        let id = self.new_id();
        let connection = Connection::signaled(call, offers, &mut context!(self, now));
        self.connections.insert(id, Box::new(connection));
        self.touch(id);
        Ok(id)
    }

    /// The answer to an offer of ours.
    pub(crate) fn accept_answer(
        &mut self,
        now: Instant,
        id: ConnectionId,
        answer: &Description,
    ) -> Result<(), SignalError> {
        self.with(now, id, |connection, cx| {
            connection.accept_answer(answer, cx)
        })
        .unwrap_or(Err(SignalError::Ended))
    }

    /// Begins an ICE restart, on the side that offered; gives the offer for it.
    pub(crate) fn restart(
        &mut self,
        now: Instant,
        id: ConnectionId,
    ) -> Result<Description, SignalError> {
        self.with(now, id, Connection::restart)
            .unwrap_or(Err(SignalError::Ended))
    }

    /// Looks whether anything comes by the path of a connection, in 3 s instead of 5.
    pub(crate) fn probe(&mut self, now: Instant, id: ConnectionId) {
        self.with(now, id, |connection, cx| connection.probe(cx.now));
    }

    /// Nothing more will be told of the peer: addresses of it that have shown no sign of life are tried no more.
    pub(crate) fn signaling_ended(&mut self, now: Instant, id: ConnectionId) {
        self.with(now, id, |connection, _| connection.signaling_ended());
    }

    /// A further offer for a connection that there is: an ICE restart of the peer. Gives the answer.
    pub(crate) fn accept_restart(
        &mut self,
        now: Instant,
        id: ConnectionId,
        offer: &Description,
    ) -> Result<Description, SignalError> {
        self.with(now, id, |connection, cx| connection.accept_offer(offer, cx))
            .unwrap_or(Err(SignalError::Ended))
    }

    /// A candidate of the peer.
    pub(crate) fn add_candidate(
        &mut self,
        now: Instant,
        id: ConnectionId,
        candidate: &Candidate,
    ) -> CandidateUse {
        self.with(now, id, |connection, cx| {
            connection.add_candidate(candidate, cx.now)
        })
        .unwrap_or(CandidateUse::Ignored)
    }

    /// One more address of ours.
    pub(crate) fn add_host(&mut self, now: Instant, id: ConnectionId, address: SocketAddr) {
        self.with(now, id, |connection, cx| connection.add_host(address, cx));
    }

    /// An address of ours is gone.
    pub(crate) fn remove_host(&mut self, now: Instant, id: ConnectionId, address: SocketAddr) {
        self.with(now, id, |connection, cx| {
            connection.remove_host(address, cx.now);
        });
    }

    /// One more STUN server of a connection. False: it has enough, or has ended.
    pub(crate) fn add_stun_server(
        &mut self,
        now: Instant,
        id: ConnectionId,
        server: SocketAddr,
    ) -> bool {
        self.with(now, id, |connection, cx| {
            connection.add_stun_server(server, cx)
        }) == Some(true)
    }

    /// One more TURN server of a connection: the name of the flow that is to lead there. None: it has enough, or has
    /// ended.
    pub(crate) fn add_relay(
        &mut self,
        now: Instant,
        id: ConnectionId,
        server: &RelayServer,
    ) -> Option<RelayId> {
        self.next_relay += 1;
        let relay = RelayId(self.next_relay);
        let added = self.with(now, id, |connection, cx| {
            connection.add_relay(relay, server, cx.now)
        });
        if added != Some(true) {
            return None;
        }
        self.demux.insert_relay(relay, id);
        Some(relay)
    }

    /// Whether more servers of a connection, or addresses of ours, are to come.
    pub(crate) fn set_more_to_come(&mut self, now: Instant, id: ConnectionId, more: bool) {
        self.with(now, id, |connection, _| connection.set_more_to_come(more));
    }

    /// Bytes came from a TURN server: a datagram, or a piece of a stream.
    pub(crate) fn handle_relay(&mut self, now: Instant, relay: RelayId, bytes: &[u8]) {
        if let Some(id) = self.demux.by_relay(relay) {
            self.with(now, id, |connection, cx| {
                connection.handle_relay(relay, bytes, cx);
            });
        }
    }

    /// A flow to a TURN server could not be opened, or ended.
    pub(crate) fn relay_closed(&mut self, now: Instant, relay: RelayId) {
        if let Some(id) = self.demux.by_relay(relay) {
            self.with(now, id, |connection, cx| {
                connection.relay_closed(relay, cx.now);
            });
        }
    }

    /// The next message for a TURN server; asked for with [`Self::poll_transmit`].
    pub(crate) fn poll_relay(&mut self) -> Option<RelayTransmit> {
        self.relayed.pop_front()
    }

    /// Sends one message as it is. `Accepted(0)`: there is no room, wait for
    /// [`Event::ChannelWritable`](crate::proto::Event::ChannelWritable).
    pub(crate) fn write_message(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        channel: ChannelId,
        message: &Bytes,
    ) -> Write {
        self.with(now, connection, |connection, cx| {
            connection.write_message(channel, message, cx)
        })
        .unwrap_or(Write::Closed)
    }

    /// The largest message that [`Self::write_message`] takes: what the peer takes, and 16 KiB at most.
    pub(crate) fn max_message_size(&self, connection: ConnectionId) -> usize {
        self.connections
            .get(&connection)
            .map_or(0, |connection| connection.max_message_size())
    }

    /// The path of a connection, and whether nothing comes by it any more.
    #[cfg(test)]
    pub(crate) fn selected_path(
        &self,
        connection: ConnectionId,
    ) -> Option<(crate::proto::ice::Selected, bool)> {
        self.connections.get(&connection)?.selected_path()
    }

    /// Gives a connection a message as if it had come now.
    #[cfg(test)]
    pub(crate) fn deliver(&mut self, now: Instant, id: ConnectionId, stream: u16, data: Bytes) {
        self.with(now, id, |connection, cx| {
            connection.deliver(stream, data, cx);
        });
    }

    /// Carries out what a connection said about its routes.
    pub(super) fn change_routes(&mut self, id: ConnectionId) {
        for change in std::mem::take(&mut self.routes) {
            self.demux.change(id, change);
        }
    }

    /// A connection that ended has no routes.
    pub(super) fn remove_routes(&mut self, id: ConnectionId, connection: &Connection) {
        let (routes, relays) = connection.routes();
        for change in routes {
            self.demux.change(id, change);
        }
        for relay in relays {
            self.demux.remove_relay(relay);
        }
    }

    /// A check that names the ufrag of a connection. True: it was one.
    pub(super) fn handle_signaled_check(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
    ) -> bool {
        let ours = request.username().and_then(|name| name.split_once(':'));
        let Some(id) = ours.and_then(|(ours, _)| self.demux.by_ufrag(ours)) else {
            return false;
        };
        let connection = self.connections.get_mut(&id);
        if !connection.is_some_and(|connection| connection.owns_check(request)) {
            self.counters.drop_packet(DropReason::BadIntegrity);
        } else if let Err(reason) = self.claim(now, id, remote) {
            self.counters.drop_packet(reason);
        } else {
            let taken = self.with(now, id, |connection, cx| {
                connection.handle_check((None, local_ip), remote, request, cx)
            });
            if taken != Some(true) {
                self.counters.drop_packet(DropReason::TooManyAddresses);
            }
        }
        true
    }

    /// Makes an address lead to a connection whose peer has shown that it is there.
    fn claim(
        &mut self,
        now: Instant,
        id: ConnectionId,
        remote: SocketAddr,
    ) -> Result<(), DropReason> {
        let known = self.demux.by_address(remote);
        if known == Some(id) {
            return Ok(());
        }
        if let Some(other) = known.and_then(|other| self.connections.get_mut(&other)) {
            let silent = now.saturating_duration_since(other.last_received());
            if other.remote() == remote && silent < self.limits.keepalive_interval * 2 {
                return Err(DropReason::ForeignUsername);
            }
            other.remove_address(remote);
        }
        let connection = self
            .connections
            .get_mut(&id)
            .ok_or(DropReason::AfterClose)?;
        let left = connection
            .add_address(now, remote, &self.limits)
            .map_err(|_| DropReason::TooManyAddresses)?;
        if let Some(left) = left {
            self.demux.remove_address(left, id);
        }
        self.demux.insert_address(remote, id);
        Ok(())
    }

    /// An answer to a transaction of a connection. True: it was one.
    pub(super) fn handle_signaled_answer(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        response: &BindingResponse<'_>,
    ) -> bool {
        let Some(id) = self.demux.by_transaction(response.transaction_id()) else {
            return false;
        };
        let taken = self.with(now, id, |connection, cx| {
            connection.handle_check_answer((None, local_ip), remote, response, cx)
        });
        if taken != Some(true) {
            self.counters.drop_packet(DropReason::UnexpectedStun);
        } else if response.has_integrity() && response.mapped_address().is_some() {
            // What comes from there next may be DTLS. If the address is another's, a check will say so.
            self.claim(now, id, remote).unwrap_or_default();
        }
        true
    }
}

impl super::Demux {
    /// Carries out one change for a connection.
    fn change(&mut self, id: ConnectionId, change: RouteChange) {
        match change {
            RouteChange::AddTransaction(transaction) => self.insert_transaction(transaction, id),
            RouteChange::RemoveTransaction(transaction) => self.remove_transaction(transaction),
            RouteChange::AddUfrag(ufrag) => self.insert_ufrag(ufrag, id),
            RouteChange::RemoveUfrag(ufrag) => self.remove_ufrag(&ufrag),
            RouteChange::RemoveRelay(relay) => self.remove_relay(relay),
        }
    }
}
