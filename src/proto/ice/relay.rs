//! One allocation on a TURN server (RFC 8656): an address there that leads to us.
//!
//! `turn-client-proto`, fed by a flow of its own: a UDP socket, or a TCP or TLS stream, that the shell opens for it.
//! Each allocation needs its own, because a server tells allocations apart by the address they are asked for from. The
//! crate believes its server: it logs about what it says, and buffers what is not whole. A server may be named by the
//! peer, so what it sends is cut and bounded here and the crate's log is muted. Owned by [`super::FullAgent`].

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use turn_client_proto::{
    api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet},
    client::TurnClient,
    prelude::{DelayedTransmitBuild as _, TurnClientApi as _},
    stun::{self, agent::Transmit},
    tcp::TurnClientTcp,
    types::{TransportType, TurnCredentials},
    udp::TurnClientUdp,
};

use super::RelayFailure;
use crate::proto::sdp::MAX_CANDIDATES;

/// Longest message of a server: a datagram of any path, with the header of TURN.
const MAX_MESSAGE: usize = 2048;
/// Peers that we ask permissions for.
const MAX_PERMISSIONS: usize = MAX_CANDIDATES;
/// Channels that we bind (RFC 8656 section 12); they last ten minutes and cannot be given back.
const MAX_CHANNELS: usize = 16;
/// Messages of a server, or steps of the client, that are handled in one turn.
const MAX_STEPS: usize = 32;
/// Retransmissions of requests: 250 ms doubled to 2 s, seven times in all, then a second more: nine seconds.
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(250);
const LAST_RETRANSMISSION: Duration = Duration::from_secs(2);
const TRANSMISSIONS: u32 = 7;
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Types as in the first two bytes: of the error answer to an Allocate request, and of the attribute with the code.
const ALLOCATE_ERROR: [u8; 2] = [0x01, 0x13];
const ERROR_CODE: [u8; 2] = [0, 9];
/// The code that asks for credentials, and refuses those that are wrong.
const UNAUTHORIZED: u16 = 401;
/// What the client takes for its own address; nobody else sees it.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 1);

/// A flow to a TURN server; one allocation. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct RelayId(pub(crate) u64);

/// What leads to a TURN server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RelayTransport {
    /// A UDP socket: each message is a datagram.
    Udp,
    /// A TCP or TLS stream: the shell cares for TLS, messages follow one another.
    Stream,
}

/// A TURN server and what we are there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RelayServer {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// What leads to it.
    pub(crate) transport: RelayTransport,
    /// Long-term credentials (RFC 8489 section 9.2).
    pub(crate) username: String,
    /// Their secret half.
    pub(crate) password: String,
}

impl std::fmt::Debug for RelayServer {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayServer")
            .field("address", &self.address)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// Bytes for a TURN server: one whole message. If the flow cannot take it now it may be dropped, but not cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayTransmit {
    /// By which flow.
    pub(crate) relay: RelayId,
    /// The message.
    pub(crate) contents: Vec<u8>,
}

/// How far an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelayState {
    /// It was asked for.
    Allocating,
    /// It is there.
    Allocated(SocketAddr),
    /// There is none.
    Failed,
}

/// The server broke the framing of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadStream;

/// Cuts a stream into messages (RFC 8656 section 12.5, RFC 8489 section 6.2.2), without the padding of channel data,
/// which the crate does not know.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    buffer: Vec<u8>,
}

impl Cutter {
    /// More of the stream; each message is given out once it is whole.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut message: impl FnMut(&[u8]),
    ) -> Result<(), BadStream> {
        loop {
            let wanted = self.wanted()?;
            let missing = wanted - self.buffer.len();
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() < wanted {
                return Ok(());
            }
            // The first four bytes say how many more there are.
            if self.wanted()? == wanted {
                message(&self.buffer[..wanted - self.padding()]);
                self.buffer.clear();
            }
        }
    }

    fn padding(&self) -> usize {
        match self.buffer.get(..4) {
            Some(&[first, _, high, low]) if first >> 6 == 1 => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                length.next_multiple_of(4) - length
            }
            _ => 0,
        }
    }

    /// How many bytes the message in progress has, as far as is known: at least its first four.
    fn wanted(&self) -> Result<usize, BadStream> {
        let Some(&[first, _, high, low]) = self.buffer.get(..4) else {
            return Ok(4);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let whole = match first >> 6 {
            0 => 20 + length,
            1 => 4 + length.next_multiple_of(4),
            _ => return Err(BadStream),
        };
        (whole <= MAX_MESSAGE).then_some(whole).ok_or(BadStream)
    }
}

/// Looks for the answer to a Refresh, be it a success or an error, in a stream that nobody cuts into messages any more.
///
/// It looks for no more than the header. A peer whose data has one in it ends the wait for the true one, and the
/// allocation may then last until its lifetime is over.
#[derive(Debug, Default)]
pub(crate) struct RefreshAnswer {
    last_bytes: u64,
}

impl RefreshAnswer {
    /// Whether it is in these bytes, which follow those of the call before.
    pub(crate) fn is_in(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| {
            self.last_bytes = (self.last_bytes << 8) | u64::from(*byte);
            // Type, length and magic cookie; the length and the bit of errors may be anything.
            self.last_bytes & !0x0010_ffff_0000_0000 == 0x0104_0000_2112_a442
        })
    }
}

/// Runs the client without its log: what a server says belongs to no level of ours.
fn muted<T>(act: impl FnOnce() -> T) -> T {
    tracing::dispatcher::with_default(&tracing::Dispatch::none(), act)
}

/// One allocation.
pub(super) struct Relay {
    /// Its flow.
    pub(super) id: RelayId,
    client: TurnClient,
    transport: RelayTransport,
    server: SocketAddr,
    cutter: Cutter,
    epoch: Instant,
    state: RelayState,
    deadline: Option<Instant>,
    permissions: BTreeSet<IpAddr>,
    channels: BTreeSet<SocketAddr>,
    /// Error answers to the request for an allocation, and the code of the last one.
    refusals: u32,
    refusal: Option<u16>,
    /// The flow has ended, or what came by it is not TURN.
    has_ended: bool,
    had_address: bool,
}

/// The code of an error answer to an Allocate request (RFC 8489 sections 5 and 14.8), if a message is one.
fn allocate_error(message: &[u8]) -> Option<u16> {
    let body = message.get(20..)?;
    if message.get(..2)? != ALLOCATE_ERROR {
        return None;
    }
    let mut attributes = body;
    while let Some(&[a, b, c, d]) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([c, d]));
        let value = attributes.get(4..4 + length)?;
        if [a, b] == ERROR_CODE {
            let class = u16::from(value.get(2)? & 7);
            return Some(class * 100 + u16::from(*value.get(3)?));
        }
        attributes = attributes.get(4 + length.next_multiple_of(4)..)?;
    }
    None
}

impl Relay {
    /// Begins to ask for an allocation.
    pub(super) fn new(id: RelayId, server: &RelayServer, now: Instant) -> Self {
        let credentials = TurnCredentials::new(&server.username, &server.password);
        let mut config = TurnConfig::new(credentials);
        config.set_request_retransmits(
            FIRST_RETRANSMISSION,
            LAST_RETRANSMISSION,
            TRANSMISSIONS,
            LAST_WAIT,
        );
        let address = server.address;
        let client = muted(|| match server.transport {
            RelayTransport::Udp => TurnClientUdp::allocate(HERE, address, config).into(),
            RelayTransport::Stream => TurnClientTcp::allocate(HERE, address, config).into(),
        });
        Self {
            id,
            client,
            transport: server.transport,
            server: address,
            cutter: Cutter::default(),
            epoch: now,
            state: RelayState::Allocating,
            deadline: Some(now),
            permissions: BTreeSet::new(),
            channels: BTreeSet::new(),
            refusals: 0,
            refusal: None,
            has_ended: false,
            had_address: false,
        }
    }

    /// How far it is.
    pub(super) fn state(&self) -> RelayState {
        self.state
    }

    /// Its address at the server, once there is one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self.state {
            RelayState::Allocated(address) => Some(address),
            RelayState::Allocating | RelayState::Failed => None,
        }
    }

    /// The flow is gone.
    pub(super) fn close(&mut self) {
        self.has_ended = true;
        self.fail();
    }

    /// Why it has failed, if it has.
    pub(super) fn failure(&self) -> RelayFailure {
        match self.refusal {
            _ if self.had_address => RelayFailure::Lost,
            _ if self.has_ended => RelayFailure::Ended,
            // The first one asks for credentials.
            Some(code) if code != UNAUTHORIZED || self.refusals > 1 => RelayFailure::Refused(code),
            Some(_) | None => RelayFailure::Silent,
        }
    }

    fn fail(&mut self) {
        self.state = RelayState::Failed;
        self.deadline = None;
    }

    fn time(&self, now: Instant) -> stun::Instant {
        let passed = now.saturating_duration_since(self.epoch).as_nanos();
        stun::Instant::from_nanos(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    fn engine_transport(&self) -> TransportType {
        match self.transport {
            RelayTransport::Udp => TransportType::Udp,
            RelayTransport::Stream => TransportType::Tcp,
        }
    }

    /// Bytes came by the flow; datagrams of peers among them are passed on.
    pub(super) fn handle_data(
        &mut self,
        now: Instant,
        bytes: &[u8],
        mut datagram: impl FnMut(SocketAddr, &[u8]),
    ) {
        if self.state == RelayState::Failed {
            return;
        }
        let mut messages = Vec::new();
        match self.transport {
            RelayTransport::Udp if (4..=MAX_MESSAGE).contains(&bytes.len()) => {
                self.handle_message(now, bytes, &mut datagram);
            }
            RelayTransport::Udp => {}
            RelayTransport::Stream => {
                let result = self
                    .cutter
                    .push(bytes, |message| messages.push(message.to_vec()));
                for message in messages {
                    self.handle_message(now, &message, &mut datagram);
                }
                if result.is_err() {
                    self.close();
                }
            }
        }
        self.take_events();
        self.deadline = self.deadline.map(|deadline| deadline.min(now));
    }

    fn handle_message(
        &mut self,
        now: Instant,
        message: &[u8],
        datagram: &mut impl FnMut(SocketAddr, &[u8]),
    ) {
        if self.state == RelayState::Allocating
            && let Some(code) = allocate_error(message)
        {
            self.refusals += 1;
            self.refusal = Some(code);
        }
        let time = self.time(now);
        let transmit = Transmit::new(message, self.engine_transport(), self.server, HERE);
        let client = &mut self.client;
        match muted(|| client.recv(transmit, time)) {
            TurnRecvRet::PeerData(data) => datagram(data.peer, data.data()),
            TurnRecvRet::Handled | TurnRecvRet::Ignored(_) | TurnRecvRet::PeerIcmp { .. } => {}
        }
        for _ in 0..MAX_STEPS {
            let Some(data) = muted(|| client.poll_recv(time)) else {
                return;
            };
            datagram(data.peer, data.data());
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = muted(|| self.client.poll_event()) {
            match event {
                TurnEvent::AllocationCreated(_, address)
                    if self.state == RelayState::Allocating =>
                {
                    self.state = RelayState::Allocated(address);
                    self.had_address = true;
                }
                TurnEvent::AllocationCreateFailed(_) => self.fail(),
                TurnEvent::PermissionCreateFailed(_, ip) => {
                    self.permissions.remove(&ip);
                }
                TurnEvent::ChannelCreateFailed(_, peer) => {
                    self.channels.remove(&peer);
                }
                _ => {}
            }
        }
    }

    /// Lets packets of a peer through.
    pub(super) fn permit(&mut self, now: Instant, peer: SocketAddr) {
        let Some(address) = self.address() else {
            return;
        };
        let fits = address.is_ipv4() == peer.is_ipv4() && self.permissions.len() < MAX_PERMISSIONS;
        if fits && self.permissions.insert(peer.ip()) {
            let (time, client) = (self.time(now), &mut self.client);
            // Fails when it is there or the allocation is gone; the latter shows elsewhere.
            let _asked = muted(|| {
                client
                    .create_permission(TransportType::Udp, peer.ip(), time)
                    .is_ok()
            });
            self.deadline = Some(now);
        }
    }

    /// Makes packets to and from a peer shorter: it is the one our data goes to.
    pub(super) fn bind(&mut self, now: Instant, peer: SocketAddr) {
        if self.channels.len() < MAX_CHANNELS && self.channels.insert(peer) {
            let (time, client) = (self.time(now), &mut self.client);
            // Without a channel, data goes in indications.
            let _asked = muted(|| client.bind_channel(TransportType::Udp, peer, time).is_ok());
            self.deadline = Some(now);
        }
    }

    /// The message that carries a datagram to a peer; none before its permission is there.
    pub(super) fn wrap(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        datagram: &[u8],
    ) -> Option<Vec<u8>> {
        self.address()?;
        let (time, client) = (self.time(now), &mut self.client);
        let transmit =
            muted(|| client.send_to(TransportType::Udp, peer, datagram, time)).ok()??;
        let mut message = transmit.data.build();
        if self.transport == RelayTransport::Stream {
            // RFC 8656 section 12.5.
            message.resize(message.len().next_multiple_of(4), 0);
        }
        Some(message)
    }

    /// Gives the allocation back.
    pub(super) fn delete(&mut self, now: Instant) {
        if self.address().is_some() {
            let (time, client) = (self.time(now), &mut self.client);
            // Else it ends with its lifetime.
            let _asked = muted(|| client.delete(time).is_ok());
            self.deadline = Some(now);
        }
    }

    /// When [`Self::poll`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Timers, and what is to be sent to the server.
    pub(super) fn poll(&mut self, now: Instant, mut send: impl FnMut(Vec<u8>)) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        let time = self.time(now);
        let mut idle = false;
        for _ in 0..MAX_STEPS {
            let client = &mut self.client;
            let (transmit, next) = muted(|| {
                let next = client.poll(time);
                (client.poll_transmit(time), next)
            });
            let sent = transmit.is_some();
            if let Some(transmit) = transmit {
                send(transmit.data.to_vec());
            }
            self.take_events();
            match next {
                _ if self.state == RelayState::Failed => return,
                TurnPollRet::WaitUntil(at) if at > time => {
                    let wait = at.saturating_duration_since(time);
                    self.deadline = now.checked_add(wait);
                    // A request that ran out of time shows at the next call only.
                    if !sent && std::mem::replace(&mut idle, true) {
                        return;
                    }
                }
                TurnPollRet::WaitUntil(_) => {}
                TurnPollRet::Closed => return self.fail(),
                // Only allocations of TCP have them.
                TurnPollRet::AllocateTcpSocket { .. } | TurnPollRet::TcpClose { .. } => {}
            }
        }
        // Never at once again, whatever the client says.
        let soon = now + Duration::from_millis(10);
        self.deadline = self.deadline.map(|deadline| deadline.max(soon));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Result<(), BadStream>) {
        let mut cutter = Cutter::default();
        let mut messages = Vec::new();
        for piece in pieces {
            let result = cutter.push(piece, |message| messages.push(message.to_vec()));
            if result.is_err() {
                return (messages, result);
            }
        }
        (messages, Ok(()))
    }

    #[test]
    fn a_stream_is_cut_into_stun_messages_and_padded_channel_data() {
        let stun = [[0, 1, 0, 4].as_slice(), &[7; 20]].concat();
        let channel = [0x40, 1, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        let empty = [0x40, 1, 0, 0];
        let stream = [stun.as_slice(), &channel, &empty, &stun].concat();
        let expected = vec![stun.clone(), channel[..9].to_vec(), empty.to_vec(), stun];
        assert_eq!(cut(&[&stream]), (expected.clone(), Ok(())));
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(cut(&bytes), (expected, Ok(())));
    }

    #[test]
    fn the_answer_to_a_refresh_is_found_wherever_it_begins_and_no_other_message_is() {
        let begins = |kind| [&[7; 5][..], &[1, kind, 0, 80, 0x21, 0x12, 0xa4, 0x42]].concat();
        let found = |bytes: &[u8], pieces| {
            let mut answer = RefreshAnswer::default();
            bytes.chunks(pieces).any(|piece| answer.is_in(piece))
        };
        for pieces in [1, 3, 100] {
            // The success and the error; the answers to an Allocate, a Binding, a ChannelBind.
            for (kind, is_one) in [(4, true), (0x14, true), (3, false), (1, false), (9, false)] {
                assert_eq!(found(&begins(kind), pieces), is_one, "{kind} in {pieces}");
            }
        }
    }

    #[test]
    fn a_stream_with_something_else_or_too_long_is_bad() {
        assert_eq!(cut(&[b"HTTP/1.1 400"]).1, Err(BadStream));
        assert_eq!(cut(&[&[0x80, 1, 0, 4]]).1, Err(BadStream));
        assert_eq!(cut(&[&[0x40, 1, 0xff, 0]]).1, Err(BadStream));
    }
}
