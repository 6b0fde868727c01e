//! Bytes through a connection: reading with back-pressure, writing with fairness, timers of channels.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Connection, Context};
use crate::proto::{
    channel::{Channel, Charge, Link, ReceiveHalf, SendHalf},
    config::{LONG_PATH, LONG_PATH_FACTOR, Limits},
    engine::sctp::{MAX_FRAGMENT, Ppid},
    event::{ChannelId, Event, Read, Write},
    frame,
};

/// What one grant lets a writer send before the next in line gets its turn.
const QUANTUM: usize = 32 * 1024;
/// go-libp2p reads the channel through a buffer of 4,096 bytes and fails on a longer message, unless it is the body of a
/// frame whose length came before in a message of its own. That is how it writes itself, and how it is told apart: its
/// first Noise message comes before anything large is sent.
const PIECES_FRAME: usize = 4096;
/// Bytes of messages that may wait to be sent even where the network takes fewer at once. More would wait for seconds on a
/// slow path, and with them whoever waits for an answer to the last of them.
const MESSAGES_AHEAD: usize = 48 * 1024;
/// A window below this share of itself holds up all streams.
const CLOSED_WINDOW_SHARE: u32 = 4;

impl Connection {
    /// Takes messages out of SCTP for the channels that have room.
    ///
    /// What has none stays in SCTP, so that its window closes and the peer stops: that is the back-pressure.
    pub(super) fn read_messages(&mut self, cx: &mut Context<'_>) {
        while self.buffered < cx.limits.max_connection_buffer {
            let Some(stream) = self.read_queue.pop_front() else {
                break;
            };
            self.read_channel(stream, cx);
        }
        let paused = !self.full.is_empty() || !self.read_queue.is_empty();
        self.stall_check = match (paused, self.stall_check) {
            (true, None) => Some(cx.now + cx.limits.stalled_stream_timeout),
            (true, check) => check,
            (false, _) => None,
        };
    }

    fn read_channel(&mut self, stream: u16, cx: &mut Context<'_>) {
        loop {
            let Some(channel) = self.channels.get_mut(&stream) else {
                return;
            };
            channel.queued_for_reading = false;
            if channel.link == Link::Closing {
                return;
            }
            if channel.unread() >= cx.limits.max_stream_buffer {
                self.full.insert(stream);
                return;
            }
            if self.buffered >= cx.limits.max_connection_buffer {
                channel.queued_for_reading = true;
                self.read_queue.push_front(stream);
                return;
            }
            match self.sctp.as_mut().and_then(|sctp| sctp.read(stream)) {
                Some(message) => self.on_message(stream, message, cx),
                None => {
                    channel.has_messages = false;
                    // An end of the stream may have waited for its data to be read.
                    return self.pump_resets(cx);
                }
            }
        }
    }

    fn pump_resets(&mut self, cx: &mut Context<'_>) {
        self.pump_sctp(cx);
    }

    /// The next bytes of a channel.
    pub(crate) fn read(&mut self, id: ChannelId, cx: &mut Context<'_>) -> Read {
        let now = cx.now;
        let Some(channel) = self.channel(id) else {
            return Read::Reset(None);
        };
        let before = channel.charge();
        let mut read = channel.read();
        channel.reader_waits = read == Read::Blocked;
        channel.last_read = Some(now);
        let after = channel.charge();
        self.recharge(before, after);
        if self.full.contains(&id.stream) || !self.read_queue.is_empty() {
            self.resume_reading(id.stream, cx);
            if read == Read::Blocked {
                read = self.read_again(id);
            }
        }
        read
    }

    /// Reading went on because there was room again: there may be bytes now.
    fn read_again(&mut self, id: ChannelId) -> Read {
        let Some(channel) = self.channel(id) else {
            return Read::Reset(None);
        };
        let before = channel.charge();
        let read = channel.read();
        channel.reader_waits = read == Read::Blocked;
        let after = channel.charge();
        self.recharge(before, after);
        read
    }

    /// A channel holds more or less than before.
    pub(super) fn recharge(&mut self, before: Charge, after: Charge) {
        self.buffered = (self.buffered + after.buffered).saturating_sub(before.buffered);
        self.early_buffered = (self.early_buffered + after.early).saturating_sub(before.early);
    }

    /// A channel has room again: goes on reading it, which opens the window.
    pub(super) fn resume_reading(&mut self, stream: u16, cx: &mut Context<'_>) {
        let room = self
            .channels
            .get(&stream)
            .is_none_or(|channel| channel.unread() < cx.limits.max_stream_buffer / 2);
        if room
            && self.full.remove(&stream)
            && let Some(channel) = self.channels.get_mut(&stream)
            && !channel.queued_for_reading
        {
            channel.queued_for_reading = true;
            self.read_queue.push_back(stream);
        }
        if self.read_queue.is_empty() || self.buffered >= cx.limits.max_connection_buffer {
            return;
        }
        self.read_messages(cx);
    }

    /// Bytes that may still be given to SCTP.
    fn send_room(&self, limits: &Limits) -> usize {
        let Some(sctp) = &self.sctp else { return 0 };
        let factor = if sctp.rtt().is_some_and(|rtt| rtt > LONG_PATH) {
            LONG_PATH_FACTOR
        } else {
            1
        };
        let most = limits.max_send_buffer * factor;
        let most = match self.carries_messages() {
            true => most.min(sctp.on_the_way() + sctp.congestion_window().max(MESSAGES_AHEAD)),
            false => most,
        };
        most.saturating_sub(sctp.buffered())
    }

    /// Takes what fits of `data`.
    ///
    /// Bytes queued and unacknowledged are bounded over all channels, because the cost of a packet grows with them.
    /// Writers that found no room are served in turn.
    pub(crate) fn write(&mut self, id: ChannelId, data: &[u8], cx: &mut Context<'_>) -> Write {
        let room = self.send_room(cx.limits);
        let others_wait = !self.writers.is_empty();
        let max_payload = payload_of_full_packets(self.max_frame(cx.limits));
        let Some(channel) = self.channel(id) else {
            return Write::Closed;
        };
        match channel.send {
            SendHalf::Open => {}
            SendHalf::Stopped => return Write::Stopped,
            SendHalf::FinSent | SendHalf::Closed | SendHalf::Reset => return Write::Closed,
        }
        let granted = std::mem::take(&mut channel.writer_granted);
        let allowed = match (granted, others_wait) {
            (true, _) => room.min(QUANTUM).max(max_payload),
            (false, true) => 0,
            (false, false) => room.min(QUANTUM),
        };
        let mut taken = data.len().min(allowed);
        if taken < data.len() && taken > max_payload {
            // Full packets only, as long as there is more.
            taken -= taken % max_payload;
        }
        for payload in data[..taken].chunks(max_payload) {
            let mut message = BytesMut::with_capacity(frame::encoded_len(payload.len(), false));
            frame::encode_data(payload, &mut message);
            if !self.send_message(id.stream, Ppid::Binary, &message.freeze()) {
                return Write::Closed;
            }
        }
        if taken < data.len() {
            self.wait_for_room(id);
        }
        Write::Accepted(taken)
    }

    /// The largest frame this peer can take.
    fn max_frame(&self, limits: &Limits) -> usize {
        if self.reads_in_pieces {
            limits.max_frame_size.min(PIECES_FRAME)
        } else {
            limits.max_frame_size
        }
    }

    /// Sends one message as it is, or nothing: then there is no room, and [`Event::ChannelWritable`] says when there is.
    pub(crate) fn write_message(
        &mut self,
        id: ChannelId,
        message: &Bytes,
        cx: &mut Context<'_>,
    ) -> Write {
        let room = self.send_room(cx.limits);
        let too_long = message.is_empty() || message.len() > self.max_message_size();
        let Some(channel) = self.channel(id) else {
            return Write::Closed;
        };
        if channel.send != SendHalf::Open || !channel.is_raw() || too_long {
            return Write::Closed;
        }
        channel.writer_granted = false;
        if room < message.len() {
            self.wait_for_room(id);
            return Write::Accepted(0);
        }
        match self.send_message(id.stream, Ppid::Binary, message) {
            true => Write::Accepted(message.len()),
            false => Write::Closed,
        }
    }

    fn wait_for_room(&mut self, id: ChannelId) {
        let Some(channel) = self.channel(id) else {
            return;
        };
        if !channel.writer_waits {
            channel.writer_waits = true;
            self.writers.push_back(id.stream);
        }
    }

    /// Lets waiting writers go on, in their order, as far as there is room.
    pub(super) fn grant_writers(&mut self, cx: &Context<'_>) {
        let mut room = self.send_room(cx.limits);
        while room >= QUANTUM.min(cx.limits.max_send_buffer / 4)
            && let Some(stream) = self.writers.pop_front()
        {
            let Some(channel) = self.channels.get_mut(&stream) else {
                continue;
            };
            if std::mem::take(&mut channel.writer_waits) {
                channel.writer_granted = true;
                let id = channel.id;
                self.push_event(Event::ChannelWritable(id));
                room = room.saturating_sub(QUANTUM);
            }
        }
    }

    /// Protects and sends what SCTP has.
    pub(super) fn transmit(&mut self, cx: &mut Context<'_>) {
        let path = self.path();
        let now = cx.now;
        let failed = self.with_dtls(cx, |this, outbox| {
            let Self {
                sctp: Some(sctp),
                dtls,
                ..
            } = this
            else {
                return None;
            };
            let mut failed = None;
            sctp.poll_packets(now, |packet| {
                if failed.is_none() {
                    failed = dtls.send(now, packet, path, outbox).err();
                }
            });
            failed
        });
        if let Some(error) = failed {
            self.end_failed(error.0, cx);
        }
    }

    pub(super) fn set_channel_timer(&mut self, stream: u16, timer: Option<Instant>) {
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut channel.timer, timer) {
            self.channel_timers.remove(&(old, stream));
        }
        if let Some(new) = timer {
            self.channel_timers.insert((new, stream));
        }
    }

    pub(super) fn channel_timeouts(&mut self, cx: &mut Context<'_>) {
        while let Some(&(deadline, stream)) = self.channel_timers.first()
            && deadline <= cx.now
        {
            self.set_channel_timer(stream, None);
            self.channel_timeout(stream, cx);
        }
    }

    fn channel_timeout(&mut self, stream: u16, cx: &mut Context<'_>) {
        self.pay_fin_ack(stream, cx);
        if let Some(channel) = self.channels.get(&stream)
            && channel.link == Link::Early
        {
            let id = channel.id;
            self.reset(id, cx);
            return;
        }
        if self
            .channels
            .get(&stream)
            .is_some_and(|channel| channel.link == Link::Lingering)
        {
            self.close_link(stream);
            return;
        }
        let on_its_way = self
            .sctp
            .as_ref()
            .is_some_and(|sctp| sctp.stream_buffered(stream) > 0);
        let Some(channel) = self.channels.get_mut(&stream) else {
            return;
        };
        if channel.send != SendHalf::FinSent {
            return;
        }
        if on_its_way {
            // The FIN waits behind data that still flows: the time begins when it is out.
            self.set_channel_timer(stream, Some(cx.now + cx.limits.fin_ack_timeout));
        } else {
            channel.on_fin_ack_timeout();
            self.close_if_done(stream, cx);
        }
    }

    /// Resets the streams that nobody reads while the window, which all streams share, is closed because of them.
    pub(super) fn check_stalled(&mut self, cx: &mut Context<'_>) {
        if self.stall_check.is_none_or(|check| check > cx.now) {
            return;
        }
        if self.carries_messages() {
            // There is one channel, and who has it may stop reading for as long as it likes.
            self.stall_check = None;
            return;
        }
        let patience = cx.limits.stalled_stream_timeout;
        self.stall_check = Some(cx.now + patience);
        self.reset_unfinished(cx);
        let closed = cx.limits.receive_window / CLOSED_WINDOW_SHARE;
        if self
            .sctp
            .as_ref()
            .is_none_or(|sctp| sctp.advertised_window() > closed)
        {
            return;
        }
        for id in self.unread_channels(cx.now, patience) {
            cx.counters.streams_stalled += 1;
            self.reset(id, cx);
            self.react_to_reset(id);
        }
    }

    /// Beginnings of frames that do not go on can fill the buffer of the connection, and then nothing is read any more.
    /// The longest ones make room.
    fn reset_unfinished(&mut self, cx: &mut Context<'_>) {
        let (now, patience) = (cx.now, cx.limits.stalled_stream_timeout);
        let late = |channel: &&Channel| {
            let idle = |at: Instant| now.saturating_duration_since(at) >= patience;
            channel.unfinished() > 0 && channel.last_message.is_none_or(idle)
        };
        while self.buffered >= cx.limits.max_connection_buffer
            && let Some(id) = self
                .channels
                .values()
                .filter(late)
                .max_by_key(|channel| channel.unfinished())
                .map(|channel| channel.id)
        {
            cx.counters.streams_stalled += 1;
            self.reset(id, cx);
            self.react_to_reset(id);
        }
    }

    fn unread_channels(&self, now: Instant, patience: Duration) -> Vec<ChannelId> {
        let idle = |since: Option<Instant>| {
            since.is_none_or(|at| now.saturating_duration_since(at) >= patience)
        };
        self.full
            .iter()
            .filter_map(|stream| self.channels.get(stream))
            .filter(|channel| channel.receive == ReceiveHalf::Open && idle(channel.last_read))
            .map(|channel| channel.id)
            .collect()
    }

    fn react_to_reset(&mut self, id: ChannelId) {
        self.push_event(Event::ChannelReadable(id));
        self.push_event(Event::ChannelWritable(id));
    }
}

/// What a connection holds for its channels, as counted one by one.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Channels, those included whose stream is gone.
    pub(crate) channels: usize,
    /// What their buffers hold.
    pub(crate) bytes: usize,
    /// What the connection believes that they hold.
    pub(crate) counted: usize,
}

#[cfg(test)]
impl Connection {
    /// Counts what is held.
    pub(crate) fn held(&self) -> Held {
        let channels = || self.channels.values().chain(self.detached.values());
        Held {
            channels: channels().count(),
            bytes: channels().map(|channel| channel.charge().buffered).sum(),
            counted: self.buffered,
        }
    }

    /// Takes a message as if it had come now.
    pub(crate) fn deliver(&mut self, stream: u16, data: Bytes, cx: &mut Context<'_>) {
        let ppid = Ppid::Binary;
        let message = crate::proto::engine::sctp::Message { ppid, data };
        self.on_message(stream, message, cx);
    }

    /// Bytes queued or not acknowledged.
    pub(crate) fn send_queue(&self) -> usize {
        self.sctp.as_ref().map_or(0, |sctp| sctp.buffered())
    }

    /// The receive window that the peer was last told.
    pub(crate) fn window(&self) -> u32 {
        self.sctp
            .as_ref()
            .map_or(0, |sctp| sctp.advertised_window())
    }
}

/// The payload of the largest frame that fills whole packets: datagrams of equal size leave in one system call, and none
/// is sent half empty.
fn payload_of_full_packets(max_frame: usize) -> usize {
    let whole = max_frame - max_frame % MAX_FRAGMENT;
    frame::max_payload(if whole > 0 { whole } else { max_frame })
}
