//! SCTP (RFC 9260, with RFC 6525 stream resets) over `sctp-proto`.
//!
//! Owns one association. A connection feeds it packets, asks it for messages when it has room for them, and takes
//! packets to protect. What a message means (DCEP, frames, flags) is not its job. Settings and workarounds of the
//! crate underneath live here and nowhere else.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event, Payload,
    PayloadProtocolIdentifier, ServerConfig, StreamEvent, TransportConfig,
};

use super::sctp_packet::{self, Defect, tsn_at_most};

/// User data of one packet: 1,200 bytes of DTLS datagram less record, SCTP and DATA headers, rounded down.
const MAX_PAYLOAD: u32 = 1132;
/// The engine wants an address although packets travel inside DTLS; any address that is not zero does.
const FAKE_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);
/// The engine's delayed acknowledgement (RFC 9260 section 6.2).
const DELAYED_ACK: Duration = Duration::from_millis(200);
/// Retransmission time-outs in milliseconds. The minimum is below RFC 9260's second because a lost tail would stop a
/// stream for that long, and above the 200 ms for which peers delay acknowledgements.
const RTO_INITIAL: u64 = 1000;
const RTO_MIN: u64 = 250;
const RTO_MAX: u64 = 2000;

/// Payload protocol identifiers of RFC 8831 section 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ppid {
    /// DCEP control message.
    Dcep,
    /// Binary data.
    Binary,
    /// Text, empty messages, unknown identifiers: nothing libp2p sends.
    Other,
}

/// One message of a stream.
#[derive(Debug)]
pub(crate) struct Message {
    /// What it is.
    pub(crate) ppid: Ppid,
    /// Its bytes.
    pub(crate) data: Bytes,
}

/// What an association reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SctpEvent {
    /// Both sides agree that it is up.
    Connected,
    /// A stream that was not there before has a message.
    Opened(u16),
    /// A stream has a message.
    Readable(u16),
    /// The peer reset the stream and everything before was read; nothing more will come on it.
    Reset(u16),
    /// Both directions of the reset are done: the id may be used again.
    ResetComplete(u16),
    /// The peer shut the association down or aborted it.
    ClosedByPeer,
    /// The association is lost for another reason.
    Failed(String),
}

/// Sizes that the owner decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SctpLimits {
    /// Bytes the peer may send before we read them.
    pub(crate) receive_window: u32,
    /// Largest message we take.
    pub(crate) max_receive_message: u32,
}

/// An action on a stream that is gone or being reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamGone;

/// One association.
pub(crate) struct Sctp {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    events: VecDeque<SctpEvent>,
    peer_tag: Option<u32>,
    flight: Flight,
    /// The last packet with DATA while the owner does not read, see [`Self::reopen_window`].
    held: Option<Bytes>,
    paused: bool,
    failed: bool,
    dialer: bool,
    window: u32,
}

/// What is on its way, told from the packets themselves.
#[derive(Debug, Default)]
struct Flight {
    /// Bytes of user data given to the engine and not yet acknowledged.
    buffered: usize,
    /// Sizes of the chunks after the cumulative acknowledgement, in TSN order.
    unacknowledged: VecDeque<u16>,
    /// The lowest TSN of `unacknowledged`; none before the first DATA.
    lowest: Option<u32>,
    /// A TSN whose acknowledgement measures the round trip, and when it left.
    probe: Option<(u32, Instant)>,
    smoothed_rtt: Option<Duration>,
    retransmissions: u64,
}

impl Flight {
    fn next_tsn(&self) -> Option<u32> {
        self.lowest.map(|lowest| lowest.wrapping_add(u32::try_from(self.unacknowledged.len()).unwrap_or(u32::MAX)))
    }

    fn on_sent(&mut self, now: Instant, packet: &[u8]) {
        for chunk in sctp_packet::data_chunks(packet) {
            let next = self.next_tsn().unwrap_or(chunk.tsn);
            if chunk.tsn == next {
                self.lowest.get_or_insert(chunk.tsn);
                self.unacknowledged.push_back(chunk.len);
                if self.probe.is_none() {
                    self.probe = Some((chunk.tsn, now));
                }
            } else {
                self.retransmissions += 1;
                // Karn's rule: an acknowledgement of a retransmitted chunk measures nothing.
                self.probe = None;
            }
        }
    }

    /// False if the SACK speaks of what was never sent.
    fn on_sack(&mut self, now: Instant, cumulative: u32, highest: u32) -> bool {
        let (Some(lowest), Some(next)) = (self.lowest, self.next_tsn()) else {
            return true;
        };
        if !tsn_at_most(highest.wrapping_add(1), next) {
            return false;
        }
        if let Some((tsn, sent)) = self.probe
            && tsn_at_most(tsn, cumulative)
        {
            self.probe = None;
            self.sample(now.saturating_duration_since(sent));
        }
        if tsn_at_most(lowest, cumulative) {
            let count = cumulative.wrapping_sub(lowest) as usize + 1;
            for len in self.unacknowledged.drain(..count.min(self.unacknowledged.len())) {
                self.buffered = self.buffered.saturating_sub(usize::from(len));
            }
            self.lowest = Some(cumulative.wrapping_add(1));
            if self.unacknowledged.is_empty() {
                self.unacknowledged.shrink_to(16);
            }
        }
        true
    }

    fn sample(&mut self, rtt: Duration) {
        self.smoothed_rtt = Some(self.smoothed_rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
    }
}

impl Sctp {
    /// The side that sends INIT.
    pub(crate) fn dialer(limits: SctpLimits) -> Self {
        let mut this = Self::new(limits, true);
        let mut client = ClientConfig::new();
        client.transport = Arc::new(transport_config(limits));
        match this.endpoint.connect(client, FAKE_ADDRESS) {
            Ok(association) => this.association = Some(association),
            Err(error) => this.fail(error.to_string()),
        }
        this
    }

    /// The side that waits for INIT.
    pub(crate) fn listener(limits: SctpLimits) -> Self {
        Self::new(limits, false)
    }

    fn new(limits: SctpLimits, dialer: bool) -> Self {
        let mut config = EndpointConfig::new();
        config.max_payload_size(MAX_PAYLOAD);
        let mut server = ServerConfig::new();
        server.transport = Arc::new(transport_config(limits));
        Self {
            endpoint: Endpoint::new(Arc::new(config), Some(Arc::new(server))),
            association: None,
            events: VecDeque::new(),
            peer_tag: None,
            flight: Flight::default(),
            held: None,
            paused: false,
            failed: false,
            dialer,
            window: limits.receive_window,
        }
    }

    fn fail(&mut self, reason: String) {
        if !self.failed {
            self.failed = true;
            self.events.push_back(SctpEvent::Failed(reason));
        }
    }

    /// Takes one packet that came out of DTLS. False: it was dropped as malformed or useless.
    pub(crate) fn handle_packet(&mut self, now: Instant, packet: Bytes) -> bool {
        let summary = match sctp_packet::inspect(&packet) {
            Ok(summary) => summary,
            Err(Defect::Malformed | Defect::Useless) => return false,
        };
        if summary.abort {
            self.closed_by_peer();
            return true;
        }
        // The engine takes a second INIT for a second association, a dialer's for a reason to panic. Both sides may
        // send INIT (RFC 9260 section 5.2.1); the peer answers ours, so its own needs no answer.
        if let Some(tag) = summary.init
            && (self.dialer || self.peer_tag.is_some_and(|known| known != tag))
        {
            return true;
        }
        if let (Some(cumulative), Some(highest)) = (summary.sack, summary.sack_highest)
            && !self.flight.on_sack(now, cumulative, highest)
        {
            return false;
        }
        if summary.data {
            self.held = self.paused.then(|| packet.clone());
        }
        self.peer_tag = self.peer_tag.or(summary.init);
        self.feed(now, packet);
        if summary.shutdown {
            self.closed_by_peer();
        }
        true
    }

    fn closed_by_peer(&mut self) {
        if !self.failed {
            self.failed = true;
            self.drain_events();
            self.events.push_back(SctpEvent::ClosedByPeer);
        }
    }

    fn feed(&mut self, now: Instant, packet: Bytes) {
        match self.endpoint.handle(now, FAKE_ADDRESS, None, None, packet) {
            Some((handle, DatagramEvent::NewAssociation(association))) if self.association.is_none() => {
                self.association = Some((handle, association));
            }
            Some((handle, DatagramEvent::AssociationEvent(event))) => {
                if let Some((known, association)) = &mut self.association
                    && *known == handle
                {
                    association.handle_event(event);
                }
            }
            _ => {}
        }
    }

    /// Retransmissions and delayed acknowledgements.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (_, association) = self.association.as_ref()?;
        association.poll_timeout()
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<SctpEvent> {
        if self.events.is_empty() {
            self.drain_events();
        }
        self.events.pop_front()
    }

    fn drain_events(&mut self) {
        let Some((_, association)) = &mut self.association else { return };
        // Endpoint events only tell the crate's endpoint to forget the association; both go together here.
        while association.poll_endpoint_event().is_some() {}
        while association.accept_stream().is_some() {}
        let mut lost = None;
        while let Some(event) = association.poll() {
            match event {
                Event::Connected => self.events.push_back(SctpEvent::Connected),
                Event::HandshakeFailed { reason } | Event::AssociationLost { reason } => lost = Some(reason.to_string()),
                Event::Stream(event) => self.events.extend(stream_event(&event)),
                _ => {}
            }
        }
        if let Some(reason) = lost {
            self.fail(reason);
        }
    }

    /// Packets to protect and send; `send` is called once for each.
    pub(crate) fn poll_packets(&mut self, now: Instant, mut send: impl FnMut(&[u8])) {
        let Some((_, association)) = &mut self.association else { return };
        while let Some(transmit) = association.poll_transmit(now) {
            let Payload::RawEncode(packets) = transmit.payload else { continue };
            for packet in packets {
                self.flight.on_sent(now, &packet);
                self.window = sctp_packet::advertised_window(&packet).unwrap_or(self.window);
                send(&packet);
            }
        }
    }

    /// Makes an outgoing stream usable.
    pub(crate) fn open(&mut self, stream: u16) -> Result<(), StreamGone> {
        let (_, association) = self.association.as_mut().ok_or(StreamGone)?;
        association.open_stream(stream, PayloadProtocolIdentifier::Binary).map(drop).map_err(|_| StreamGone)
    }

    /// Queues one message.
    pub(crate) fn write(&mut self, stream: u16, ppid: Ppid, message: &Bytes) -> Result<(), StreamGone> {
        let (_, association) = self.association.as_mut().ok_or(StreamGone)?;
        let ppid = match ppid {
            Ppid::Dcep => PayloadProtocolIdentifier::Dcep,
            Ppid::Binary | Ppid::Other => PayloadProtocolIdentifier::Binary,
        };
        let mut stream = association.stream(stream).map_err(|_| StreamGone)?;
        stream.write_sctp(message, ppid).map_err(|_| StreamGone)?;
        self.flight.buffered += message.len();
        Ok(())
    }

    /// The next whole message of a stream.
    pub(crate) fn read(&mut self, stream: u16) -> Option<Message> {
        let (_, association) = self.association.as_mut()?;
        let mut chunks = association.stream(stream).ok()?.read_sctp().ok()??;
        let ppid = match chunks.ppi {
            PayloadProtocolIdentifier::Dcep => Ppid::Dcep,
            PayloadProtocolIdentifier::Binary => Ppid::Binary,
            _ => Ppid::Other,
        };
        let len = chunks.len();
        if chunks.chunks.len() == 1
            && let Some(only) = chunks.next(len)
        {
            return Some(Message { ppid, data: only.bytes });
        }
        let mut data = vec![0; len];
        chunks.read(&mut data).ok()?;
        Some(Message { ppid, data: data.into() })
    }

    /// Resets the outgoing side of a stream once its data is acknowledged; the peer answers with its own reset.
    pub(crate) fn reset(&mut self, stream: u16) -> Result<(), StreamGone> {
        let (_, association) = self.association.as_mut().ok_or(StreamGone)?;
        let mut stream = association.stream(stream).map_err(|_| StreamGone)?;
        stream.close().map_err(|_| StreamGone)
    }

    /// Bytes of this stream not yet acknowledged.
    pub(crate) fn stream_buffered(&mut self, stream: u16) -> usize {
        let Some((_, association)) = &mut self.association else { return 0 };
        association.stream(stream).ok().and_then(|stream| stream.buffered_amount().ok()).unwrap_or(0)
    }

    /// Bytes queued or unacknowledged, over all streams.
    pub(crate) fn buffered(&self) -> usize {
        self.flight.buffered
    }

    /// While paused, nobody reads: the window may close.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Tells the peer that the window is open again.
    ///
    /// The engine announces its window only in answer to DATA, and a peer that stopped for a closed window sends its
    /// next probe a retransmission time-out later. So the last DATA packet is fed again, which it acknowledges.
    pub(crate) fn reopen_window(&mut self, now: Instant) {
        if let Some(packet) = self.held.take() {
            self.feed(now, packet);
            self.acknowledge(now);
        }
    }

    /// Sends a pending delayed acknowledgement now: the peer holds back stream resets until its data is acknowledged.
    pub(crate) fn acknowledge(&mut self, now: Instant) {
        let Some((_, association)) = &mut self.association else { return };
        let due = now + DELAYED_ACK;
        // Only when it is the earliest timer: firing it fires whatever is due before.
        if association.poll_timeout() == Some(due) {
            association.handle_timeout(due);
        }
    }

    /// Announces the end of the association.
    pub(crate) fn shutdown(&mut self) {
        if let Some((_, association)) = &mut self.association {
            // Fails when it is not established: then there is nobody to tell.
            let _ = association.shutdown();
        }
    }

    /// The receive window that the peer was last told.
    pub(crate) fn advertised_window(&self) -> u32 {
        self.window
    }

    /// Smoothed round-trip time, measured on data.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.flight.smoothed_rtt
    }

    /// DATA chunks sent again since the start.
    pub(crate) fn retransmissions(&self) -> u64 {
        self.flight.retransmissions
    }
}

fn stream_event(event: &StreamEvent) -> Option<SctpEvent> {
    match event {
        StreamEvent::Opened { id } => Some(SctpEvent::Opened(*id)),
        StreamEvent::Readable { id } => Some(SctpEvent::Readable(*id)),
        StreamEvent::Finished { id } => Some(SctpEvent::Reset(*id)),
        StreamEvent::ResetComplete { id } => Some(SctpEvent::ResetComplete(*id)),
        // A refused reset leaves the id unusable; nothing waits for it.
        _ => None,
    }
}

fn transport_config(limits: SctpLimits) -> TransportConfig {
    TransportConfig::default()
        .with_max_receive_buffer_size(limits.receive_window)
        .with_max_receive_message_size(limits.max_receive_message)
        .with_max_send_message_size(1 << 16)
        .with_max_num_outbound_streams(u16::MAX)
        .with_max_num_inbound_streams(u16::MAX)
        .with_max_init_retransmits(None)
        .with_max_data_retransmits(None)
        .with_rto_initial_ms(RTO_INITIAL)
        .with_rto_min_ms(RTO_MIN)
        .with_rto_max_ms(RTO_MAX)
}
