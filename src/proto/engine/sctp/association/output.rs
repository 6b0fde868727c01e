//! Packets: which chunks leave together, and when.

use std::time::Instant;

use super::{Control, Sctp, State};
use crate::proto::engine::sctp::{
    send::MTU,
    wire::{DATA_HEADER, Writer, kind},
};

/// The information parameter of a HEARTBEAT (RFC 9260 section 3.3.5); that an answer comes is all we want to know.
const HEARTBEAT_INFO: [u8; 8] = [0, 1, 0, 8, 0, 0, 0, 0];
/// Room that a SACK takes at most, gap blocks and duplicates included.
const SACK_ROOM: usize = 16 + 4 * 64 + 4 * 16;

impl Sctp {
    /// Packets to protect and send; `send` is called once for each. Acknowledgements leave here only, so that one
    /// answers a whole batch of input.
    pub(crate) fn poll_packets(&mut self, now: Instant, mut send: impl FnMut(&[u8])) {
        let mut writer = Writer::default();
        if self.state == State::Established {
            self.request_resets_when_sent(now);
        }
        self.send_control(&mut writer, &mut send);
        if self.state == State::Established {
            self.send_data(now, &mut writer, &mut send);
            // Streams whose last data has just left.
            self.request_resets(now);
            self.send_control(&mut writer, &mut send);
            if self.receiver.ack_is_due() {
                self.begin(&mut writer);
                self.write_sack(&mut writer);
                self.finish(&mut writer, &mut send);
            }
        }
    }

    /// A request names the last TSN, so it goes behind the data that is about to leave.
    fn request_resets_when_sent(&mut self, now: Instant) {
        if self.streams.is_idle() {
            self.request_resets(now);
        }
    }

    fn begin(&self, writer: &mut Writer) {
        writer.begin(self.peer.as_ref().map_or(0, |peer| peer.tag));
    }

    fn finish(&self, writer: &mut Writer, send: &mut impl FnMut(&[u8])) {
        if !writer.is_empty() {
            let checksum = !self.peer.as_ref().is_some_and(|peer| peer.zero_checksum)
                || self.state != State::Established;
            send(writer.finish(checksum));
        }
    }

    /// Each in a packet of its own: set-up chunks must be (RFC 9260 section 6.10), the others are rare.
    fn send_control(&mut self, writer: &mut Writer, send: &mut impl FnMut(&[u8])) {
        while let Some(control) = self.control.pop_front() {
            match &control {
                Control::Init => writer.begin(0),
                _ => self.begin(writer),
            }
            self.write_control(&control, writer);
            self.finish(writer, send);
        }
        if self.control.capacity() > 8 {
            self.control.shrink_to_fit();
        }
    }

    fn write_control(&self, control: &Control, writer: &mut Writer) {
        match control {
            Control::Init => writer.init(&self.own_init(bytes::Bytes::new())),
            Control::InitAck => writer.init(&self.own_init(self.own_cookie())),
            Control::CookieEcho => writer.plain(kind::COOKIE_ECHO, &self.cookie),
            Control::CookieAck => writer.plain(kind::COOKIE_ACK, &[]),
            Control::Heartbeat => writer.plain(kind::HEARTBEAT, &HEARTBEAT_INFO),
            Control::HeartbeatAck(info) => writer.plain(kind::HEARTBEAT_ACK, info),
            Control::Reset(reconfig) => writer.reconfig(reconfig, self.resets.answered()),
            Control::Shutdown => {
                writer.plain(kind::SHUTDOWN, &self.receiver.cumulative().to_be_bytes())
            }
            Control::ShutdownAck => writer.plain(kind::SHUTDOWN_ACK, &[]),
            Control::ShutdownComplete => writer.plain(kind::SHUTDOWN_COMPLETE, &[]),
            Control::Abort => writer.plain(kind::ABORT, &[]),
        }
    }

    fn write_sack(&mut self, writer: &mut Writer) {
        let window = u32::try_from(self.window()).unwrap_or(u32::MAX);
        let (cumulative, gaps, duplicates) = self.receiver.take_ack();
        writer.sack(cumulative, window, &gaps, &duplicates);
        self.advertised = window;
    }

    /// First what was lost, then new data, as far as windows and packets allow.
    fn send_data(&mut self, now: Instant, writer: &mut Writer, send: &mut impl FnMut(&[u8])) {
        while self.has_data_to_send() {
            self.begin(writer);
            self.sender.begin_packet();
            if self.receiver.ack_is_pending() {
                self.write_sack(writer);
            }
            while let Some(data) = self.sender.resend(now, MTU - writer.len()) {
                writer.data(&data, true);
            }
            while let Some(len) = self.streams.next_len() {
                let wire_len = (DATA_HEADER + len).next_multiple_of(4);
                if writer.len() + wire_len > MTU || !self.sender.may_send(len) {
                    break;
                }
                let Some(data) = self.streams.next_fragment() else {
                    break;
                };
                let data = self.sender.send(now, data);
                // The end of a long flight asks for its acknowledgement (RFC 7053). A short one does not: it would cost
                // the packet that the answer saves.
                let ends = self.streams.is_idle() && self.sender.is_long_flight();
                writer.data(&data, ends || self.sender.is_limited());
            }
            // A SACK may have taken the room of a full fragment: that goes into the next packet.
            let wrote = !writer.is_empty();
            self.finish(writer, send);
            if !wrote {
                return;
            }
        }
    }

    fn has_data_to_send(&self) -> bool {
        self.sender.has_lost()
            || self
                .streams
                .next_len()
                .is_some_and(|len| self.sender.may_send(len))
    }
}

const _: () = assert!(SACK_ROOM + 40 < MTU, "a SACK fits into a packet");
