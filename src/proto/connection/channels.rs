//! The channels of a connection: opening, accepting, closing, ids and their reuse.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Connection, Context, Ice};
use crate::proto::{
    channel::{Channel, Charge, Link, Reaction, ReceiveHalf, SendHalf},
    config::Limits,
    credentials::IceVersion,
    dcep::{self, Dcep, Open},
    engine::sctp::{Message, Ppid, Sctp},
    error::{CloseReason, DropReason, PeerMisbehaved, Phase},
    event::{ChannelId, Event, Side},
    frame::{self, Flag},
};

/// Channels a peer may open before it is authenticated; they are buffered until then.
const MAX_EARLY_CHANNELS: usize = 64;
/// Bytes of all channels that wait for their OPEN, and how long one that has some waits: no peer that lives takes longer
/// to repeat a lost OPEN. A channel without bytes waits for ever: on an ordered one the OPEN comes first, and whether
/// that is lost or we do not read, it is not the peer's fault.
const MAX_EARLY_BUFFER: usize = 256 * 1024;
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a channel that the peer opened waits for the peer to close it.
const LINGER: Duration = Duration::from_secs(1);
/// Highest usable stream id (RFC 8831 section 6.2: 65535 is reserved).
const MAX_STREAM: u32 = 65_534;

impl Connection {
    pub(super) fn open_handshake_channel(&mut self, limits: &Limits) {
        if let Some(sctp) = &mut self.sctp {
            // Fails only if the peer's first message made the stream already.
            sctp.open(ChannelId::HANDSHAKE.stream).unwrap_or_default();
        }
        let channel = Channel::open(ChannelId::HANDSHAKE, limits.max_receive_frame_size);
        self.channels
            .entry(ChannelId::HANDSHAKE.stream)
            .or_insert(channel);
    }

    /// Opens the one channel of an application of messages, if that is our part.
    pub(super) fn open_message_channel(&mut self, cx: &mut Context<'_>) {
        if let Some((label, protocol, true)) = self.messages()
            && let Some(id) = self.try_open(label, protocol, cx)
            && let Some(signaled) = self.call_mut()
        {
            signaled.has_channel = true;
            if let Some(channel) = self.channel(id) {
                // It is announced when the peer has taken it.
                channel.announced = false;
            }
        }
    }

    /// Opens a channel. Data may follow at once: OPEN needs no answer (RFC 8832 section 4).
    pub(crate) fn open(&mut self, cx: &mut Context<'_>) -> Option<ChannelId> {
        let may = self.authenticated && self.closing.is_none() && !self.carries_messages();
        let id = if may { self.try_open("", "", cx) } else { None };
        self.open_refused = id.is_none();
        id
    }

    fn try_open(&mut self, label: &str, protocol: &str, cx: &mut Context<'_>) -> Option<ChannelId> {
        if self.streams() >= cx.limits.max_streams {
            return None;
        }
        let stream = self.free_stream(cx.limits)?;
        let sctp = self.sctp.as_mut()?;
        if sctp.open(stream).is_err() {
            return None;
        }
        let id = self.next_id(stream);
        let mut open = BytesMut::new();
        dcep::encode_open(label, protocol, &mut open);
        self.send_message(stream, Ppid::Dcep, &open.freeze());
        let channel = self.new_channel(id, cx.limits);
        self.channels.insert(stream, channel);
        self.count_opened(cx);
        Some(id)
    }

    fn new_channel(&self, id: ChannelId, limits: &Limits) -> Channel {
        let channel = Channel::open(id, limits.max_receive_frame_size);
        match self.carries_messages() {
            true => channel.into_raw(),
            false => channel,
        }
    }

    /// Streams of the application: the handshake channel is none.
    fn streams(&self) -> usize {
        let first = self.channels.get(&ChannelId::HANDSHAKE.stream);
        let handshake = first.is_some_and(|channel| channel.id == ChannelId::HANDSHAKE);
        self.channels.len() - usize::from(handshake)
    }

    fn free_stream(&mut self, limits: &Limits) -> Option<u16> {
        if self.free_streams.len() >= limits.min_resting_streams.max(1)
            && let Some(stream) = self.free_streams.pop_front()
        {
            return Some(stream);
        }
        let taken_by_peer = self.sctp.as_ref().map_or(0, Sctp::max_stream);
        while self.next_stream <= MAX_STREAM.min(taken_by_peer.into()) {
            let stream = u16::try_from(self.next_stream).ok()?;
            self.next_stream += 2;
            if !self.channels.contains_key(&stream) {
                return Some(stream);
            }
        }
        self.free_streams.pop_front()
    }

    fn next_id(&mut self, stream: u16) -> ChannelId {
        self.generation = self.generation.wrapping_add(1).max(1);
        ChannelId {
            stream,
            generation: self.generation,
        }
    }

    /// The channel behind an id.
    pub(super) fn channel(&mut self, id: ChannelId) -> Option<&mut Channel> {
        match self.channels.get_mut(&id.stream) {
            Some(channel) if channel.id == id => Some(channel),
            _ => self.detached.get_mut(&id),
        }
    }

    pub(super) fn send_message(&mut self, stream: u16, ppid: Ppid, message: &Bytes) -> bool {
        self.sctp
            .as_mut()
            .is_some_and(|sctp| sctp.write(stream, ppid, message).is_ok())
    }

    pub(super) fn send_flag(&mut self, stream: u16, flag: Flag, code: Option<u32>) -> bool {
        if self.carries_messages() {
            // Flags are libp2p's. What they say there, the reset of the stream says here.
            return true;
        }
        let mut message = BytesMut::new();
        frame::encode_flag(flag, code, &mut message);
        self.send_message(stream, Ppid::Binary, &message.freeze())
    }

    /// SCTP has a message for a stream.
    pub(super) fn on_readable(&mut self, stream: u16, cx: &mut Context<'_>) {
        if !self.channels.contains_key(&stream) && !self.admit(stream, cx) {
            return;
        }
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        channel.has_messages = true;
        if !channel.queued_for_reading {
            channel.queued_for_reading = true;
            self.read_queue.push_back(stream);
        }
    }

    /// A stream that was not there before. False: it is refused and reset.
    fn admit(&mut self, stream: u16, cx: &mut Context<'_>) -> bool {
        let right_parity = !self.is_ours(stream);
        // Each stream that is refused costs memory in SCTP until the peer agrees, and nobody honest uses an id of ours
        // before we did.
        if !self.authenticated && !right_parity {
            self.end(CloseReason::Misbehaved(PeerMisbehaved::StreamOfOurs), cx);
            return false;
        }
        if !self.authenticated && self.channels.len() > MAX_EARLY_CHANNELS {
            self.end(
                CloseReason::Misbehaved(PeerMisbehaved::TooManyEarlyChannels),
                cx,
            );
            return false;
        }
        // The first use of stream 0 is the handshake channel, which needs no OPEN. Its data may overtake the end of
        // the SCTP set-up.
        let handshake = stream == ChannelId::HANDSHAKE.stream
            && self.phase < Phase::Noise
            && !self.carries_messages();
        let too_many = !handshake && self.streams() >= cx.limits.max_streams;
        if !right_parity || too_many || self.closing.is_some() {
            // More messages of a stream that is being refused are nothing new.
            if self.refuse(stream) {
                Self::drop_packet(cx, DropReason::RefusedStream);
            }
            return false;
        }
        let max_frame = cx.limits.max_receive_frame_size;
        if handshake {
            let channel = Channel::open(ChannelId::HANDSHAKE, max_frame);
            self.channels.insert(stream, channel);
        } else {
            let channel = Channel::early(self.next_id(stream), max_frame);
            let channel = match self.carries_messages() {
                true => channel.into_raw(),
                false => channel,
            };
            self.channels.insert(stream, channel);
        }
        true
    }

    /// True: it was not refused before.
    fn refuse(&mut self, stream: u16) -> bool {
        let told = self.send_flag(stream, Flag::ResetStream, None);
        if let Some(sctp) = &mut self.sctp {
            // Fails only when the peer reset it in the same moment.
            sctp.reset(stream).unwrap_or_default();
        }
        told
    }

    /// One message of a channel.
    pub(super) fn on_message(&mut self, stream: u16, message: Message, cx: &mut Context<'_>) {
        match message.ppid {
            Ppid::Dcep => self.on_dcep(stream, message.data, cx),
            Ppid::Binary => {
                let Some(channel) = self.channels.get_mut(&stream) else {
                    return;
                };
                let before = channel.charge();
                let mut reaction = channel.on_message(message.data);
                channel.last_message = Some(cx.now);
                let after = channel.charge();
                if before.early == 0 && after.early > 0 {
                    self.set_channel_timer(stream, Some(cx.now + OPEN_TIMEOUT));
                }
                self.recharge(before, after);
                self.reads_in_pieces |= reaction.prefix_alone;
                reaction.reset |= after.early > 0 && self.early_buffered > MAX_EARLY_BUFFER;
                // Firefox acknowledges behind its first data, and would wait for us to read that.
                self.on_taken(stream);
                self.react(stream, reaction, cx);
            }
            // Text and empty messages are not libp2p's; the stream goes on.
            Ppid::Other => Self::drop_packet(cx, DropReason::StrayMessage),
        }
    }

    fn on_dcep(&mut self, stream: u16, message: Bytes, cx: &mut Context<'_>) {
        let open = match dcep::parse(message) {
            Ok(Dcep::Open(open)) => open,
            Ok(Dcep::Ack) => return self.on_taken(stream),
            Err(_) => return,
        };
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        if channel.link != Link::Early {
            // A second OPEN on a stream in use is refused (RFC 8832 section 6).
            Self::drop_packet(cx, DropReason::StrayMessage);
            return;
        }
        // A stream with holes is none: only reliable channels are taken, in order or not.
        let unwanted = !open.is_reliable() || !self.wants_channel(&open);
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        if self.unaccepted >= cx.limits.max_unaccepted_streams || unwanted {
            let id = channel.id;
            self.reset(id, cx);
            return;
        }
        let before = channel.charge();
        let reaction = channel.on_open(open.is_unordered());
        let after = channel.charge();
        let id = channel.id;
        self.recharge(before, after);
        self.set_channel_timer(stream, None);
        self.unaccepted += 1;
        self.count_opened(cx);
        let mut ack = BytesMut::new();
        dcep::encode_ack(&mut ack);
        self.send_message(stream, Ppid::Dcep, &ack.freeze());
        if self.authenticated {
            self.announce(id);
        } else {
            self.early_opened.push(id);
        }
        self.react(stream, reaction, cx);
    }

    /// Whether the application has a use for a channel with this OPEN.
    fn wants_channel(&mut self, open: &Open) -> bool {
        let Some((label, protocol, ours)) = self.messages() else {
            return true;
        };
        let named = open.label == label.as_bytes() && open.protocol == protocol.as_bytes();
        let wanted = named && !ours && !open.is_unordered();
        wanted
            && self
                .call_mut()
                .is_some_and(|signaled| !std::mem::replace(&mut signaled.has_channel, true))
    }

    /// The peer took a channel of ours: it acknowledged it, or uses it. libp2p does not wait for that, an application
    /// of messages is told.
    fn on_taken(&mut self, stream: u16) {
        let waits = |channel: &&Channel| {
            channel.is_raw() && !channel.announced && channel.link == Link::Open
        };
        let waiting = self.channels.get(&stream).filter(waits);
        if let Some(id) = waiting.map(|channel| channel.id) {
            self.announce(id);
        }
    }

    pub(super) fn announce_early_channels(&mut self) {
        for id in std::mem::take(&mut self.early_opened) {
            self.announce(id);
        }
    }

    fn announce(&mut self, id: ChannelId) {
        if let Some(channel) = self.channel(id) {
            channel.announced = true;
            self.push_event(Event::ChannelOpened(id));
        }
    }

    /// The application took an inbound channel.
    pub(crate) fn accepted(&mut self, id: ChannelId) {
        if let Some(channel) = self.channel(id)
            && std::mem::take(&mut channel.unaccepted)
        {
            self.unaccepted = self.unaccepted.saturating_sub(1);
        }
    }

    /// Carries out what a message called for.
    pub(super) fn react(&mut self, stream: u16, reaction: Reaction, cx: &mut Context<'_>) {
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        let id = channel.id;
        let writable = reaction.send_changed && channel.has_listener();
        if reaction.readable {
            self.notify_reader(id);
        }
        if writable {
            self.push_event(Event::ChannelWritable(id));
        }
        if reaction.reset {
            self.reset(id, cx);
            self.notify_reader(id);
            return;
        }
        // A peer that takes nothing could ask again and again for an answer that waits to be sent.
        let sent = || {
            self.sctp
                .as_ref()
                .is_none_or(|sctp| sctp.stream_buffered(stream) == 0)
        };
        let acknowledge = reaction.fin_received || (reaction.fin_repeated && sent());
        if acknowledge && stream != ChannelId::HANDSHAKE.stream {
            self.acknowledge_fin(id, cx);
        }
        self.close_if_done(stream, cx);
    }

    fn notify_reader(&mut self, id: ChannelId) {
        let Some(channel) = self.channel(id) else {
            return;
        };
        if channel.reader_waits && channel.has_listener() {
            channel.reader_waits = false;
            self.push_event(Event::ChannelReadable(id));
        }
    }

    /// Answers FIN with FIN_ACK.
    ///
    /// rust-libp2p 0.10.0-alpha takes a FIN_ACK that arrives while it reads for garbage and loses the response. Where
    /// the peer may be such a node, the answer waits until our own FIN is out (then it has read everything) or a short
    /// time has passed.
    fn acknowledge_fin(&mut self, id: ChannelId, cx: &mut Context<'_>) {
        let hold = self.may_be_upstream_rust();
        let deadline = cx.now + cx.limits.fin_ack_delay;
        let Some(channel) = self.channel(id) else {
            return;
        };
        if hold && channel.send == SendHalf::Open {
            channel.owes_fin_ack = true;
            self.set_channel_timer(id.stream, Some(deadline));
        } else {
            channel.owes_fin_ack = false;
            self.send_flag(id.stream, Flag::FinAck, None);
        }
    }

    fn may_be_upstream_rust(&self) -> bool {
        match &self.ice {
            Ice::Signaled(_) => false,
            Ice::Lite(credentials) => credentials.upstream_rust,
            // It speaks version 1 only, and nothing else tells a listener apart.
            Ice::Prober(prober) => prober.answered() == Some(IceVersion::V1),
        }
    }

    /// Sends an owed FIN_ACK.
    pub(super) fn pay_fin_ack(&mut self, stream: u16, cx: &mut Context<'_>) {
        if let Some(channel) = self.channels.get_mut(&stream)
            && std::mem::take(&mut channel.owes_fin_ack)
        {
            self.send_flag(stream, Flag::FinAck, None);
            self.close_if_done(stream, cx);
        }
    }

    /// FIN.
    pub(crate) fn finish(&mut self, id: ChannelId, cx: &mut Context<'_>) {
        let deadline = cx.now + cx.limits.fin_ack_timeout;
        let Some(channel) = self
            .channel(id)
            .filter(|channel| channel.send == SendHalf::Open)
        else {
            return;
        };
        channel.send = SendHalf::FinSent;
        self.send_flag(id.stream, Flag::Fin, None);
        self.pay_fin_ack(id.stream, cx);
        self.set_channel_timer(id.stream, Some(deadline));
    }

    /// STOP_SENDING.
    pub(crate) fn stop(&mut self, id: ChannelId, cx: &mut Context<'_>) {
        let Some(channel) = self.channel(id) else {
            return;
        };
        let before = channel.charge();
        let stopped = channel.stop_locally();
        let after = channel.charge();
        self.recharge(before, after);
        if stopped {
            self.send_flag(id.stream, Flag::StopSending, None);
        }
        self.resume_reading(id.stream, cx);
        self.close_if_done(id.stream, cx);
    }

    /// RESET of both halves.
    pub(crate) fn reset(&mut self, id: ChannelId, cx: &mut Context<'_>) {
        let Some(channel) = self
            .channel(id)
            .filter(|channel| matches!(channel.link, Link::Early | Link::Open))
        else {
            return;
        };
        let was_early = channel.link == Link::Early;
        let tell = channel.send != SendHalf::Reset;
        let before = channel.charge();
        channel.reset_locally();
        channel.owes_fin_ack = false;
        channel.link = Link::Open;
        let after = channel.charge();
        self.recharge(before, after);
        if tell {
            self.send_flag(id.stream, Flag::ResetStream, None);
        }
        if was_early {
            self.release(id, cx);
        }
        self.resume_reading(id.stream, cx);
        self.close_if_done(id.stream, cx);
    }

    /// The application's handle is gone. What it left open is reset; after a FIN only reading is given up, because
    /// data on its way must still arrive.
    pub(crate) fn release(&mut self, id: ChannelId, cx: &mut Context<'_>) {
        if let Some(channel) = self.detached.remove(&id) {
            self.forget(&channel, cx);
            return;
        }
        let Some(channel) = self.channel(id) else {
            return;
        };
        channel.released = true;
        let unaccepted = std::mem::take(&mut channel.unaccepted);
        let (send, receive) = (channel.send, channel.receive);
        self.unaccepted = self.unaccepted.saturating_sub(usize::from(unaccepted));
        match (send, receive) {
            _ if id == ChannelId::HANDSHAKE => {}
            (SendHalf::Open, _) => self.reset(id, cx),
            (_, ReceiveHalf::Open) => self.stop(id, cx),
            _ => {}
        }
        self.close_if_done(id.stream, cx);
    }

    /// Closes the data channel when neither side will send on it.
    ///
    /// A channel that the peer opened is left to the peer for a while: libdatachannel (js-libp2p in Node) loses messages
    /// that wait behind our reset, and gives the id out again before it has reset it itself.
    pub(super) fn close_if_done(&mut self, stream: u16, cx: &mut Context<'_>) {
        let ours = self.is_ours(stream);
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        // Nobody resets the handshake channel: peers differ in what they make of it.
        if channel.id == ChannelId::HANDSHAKE || channel.link != Link::Open || !channel.is_done() {
            return;
        }
        if ours {
            self.set_channel_timer(stream, None);
            self.close_link(stream);
        } else {
            channel.link = Link::Lingering;
            self.set_channel_timer(stream, Some(cx.now + LINGER));
        }
    }

    pub(super) fn close_link(&mut self, stream: u16) {
        if let Some(channel) = self.channels.get_mut(&stream) {
            channel.link = Link::Closing;
        }
        if let Some(sctp) = &mut self.sctp {
            // Fails only when the peer reset it in the same moment.
            sctp.reset(stream).unwrap_or_default();
        }
    }

    /// Whether the id is one that we give out (RFC 8832 section 6).
    fn is_ours(&self, stream: u16) -> bool {
        let ours_are_even = self.side == Side::Dialer;
        let handshake = stream == ChannelId::HANDSHAKE.stream && !self.carries_messages();
        stream.is_multiple_of(2) == ours_are_even && !handshake
    }

    /// The peer reset its side of a stream and all its data was read. SCTP answers with our reset.
    pub(super) fn on_stream_reset(&mut self, stream: u16, cx: &mut Context<'_>) {
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        if channel.link == Link::Closing {
            return;
        }
        let before = channel.charge();
        let reaction = channel.on_link_closed();
        let after = channel.charge();
        channel.has_messages = false;
        self.recharge(before, after);
        self.set_channel_timer(stream, None);
        self.react(stream, reaction, cx);
    }

    /// Both directions are reset: the id is free. A handle that still reads keeps its channel beside the table.
    pub(super) fn on_reset_complete(&mut self, stream: u16, cx: &mut Context<'_>) {
        if self
            .channels
            .get(&stream)
            .is_none_or(|channel| channel.link != Link::Closing)
        {
            return;
        }
        self.set_channel_timer(stream, None);
        self.full.remove(&stream);
        let Some(channel) = self.channels.remove(&stream) else {
            return;
        };
        if self.is_ours(stream) {
            self.free_streams.push_back(stream);
        }
        // A stream of the peer makes room as well: the limit is one for both sides.
        if std::mem::take(&mut self.open_refused) {
            self.push_event(Event::OpenPossible);
        }
        if channel.released {
            self.forget(&channel, cx);
        } else {
            self.detached.insert(channel.id, channel);
        }
    }

    /// What is read after the end opens nothing any more.
    fn count_opened(&mut self, cx: &mut Context<'_>) {
        if self.ended.is_none() {
            self.counted_open += 1;
            cx.counters.channels_opened += 1;
        }
    }

    fn forget(&mut self, channel: &Channel, cx: &mut Context<'_>) {
        self.recharge(channel.charge(), Charge::default());
        self.unaccepted = self
            .unaccepted
            .saturating_sub(usize::from(channel.unaccepted));
        // One that was refused never counted as open.
        if channel.announced {
            if channel.id != ChannelId::HANDSHAKE && self.counted_open > 0 {
                self.counted_open -= 1;
                cx.counters.channels_closed += 1;
            }
            self.push_event(Event::ChannelClosed(channel.id));
        }
    }
}
