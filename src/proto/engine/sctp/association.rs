//! The association: set-up, the order of chunks in packets, resets and the end.

mod output;
mod resets;
mod setup;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::resets::Resets;
use super::{
    Message, Ppid, SctpEvent, SctpLimits, StreamGone, Verdict,
    receive::Receiver,
    send::{MTU, Sender},
    streams::Streams,
    wire::{self, Chunk, Chunks, Data, Init, Sack, kind},
};

/// Control chunks that wait for a packet; a peer that asks faster than we answer is not answered.
const MAX_CONTROL: usize = 16;
/// Largest HEARTBEAT that is answered.
const MAX_HEARTBEAT: usize = 512;

/// How far the association is (RFC 9260 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for the peer's INIT.
    Closed,
    /// INIT is out.
    CookieWait,
    /// COOKIE ECHO is out.
    CookieEchoed,
    /// Up.
    Established,
    /// Said goodbye, or heard it, or failed.
    Ended,
}

/// A control chunk to be sent.
#[derive(Clone, Debug)]
enum Control {
    Init,
    InitAck,
    CookieEcho,
    CookieAck,
    Heartbeat,
    HeartbeatAck(Bytes),
    Reset(wire::Reconfig),
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Abort,
}

/// One association.
pub(crate) struct Sctp {
    state: State,
    limits: SctpLimits,
    local_tag: u32,
    first_tsn: u32,
    secret: [u8; 8],
    peer: Option<Init>,
    cookie: Bytes,
    setup_timer: Option<Instant>,
    setup_wait: Duration,
    /// When INIT or INIT ACK left for the first time: its answer measures the round trip.
    setup_sent: Option<Instant>,
    control: VecDeque<Control>,
    sender: Sender,
    receiver: Receiver,
    streams: Streams,
    resets: Resets,
    events: VecDeque<SctpEvent>,
    /// The window that the peer was last told.
    advertised: u32,
}

impl Sctp {
    /// An association that waits for the peer, or with `initiate` sends INIT itself. Both sides may do so at once.
    pub(crate) fn new(limits: SctpLimits, initiate: bool, seed: [u8; 32], now: Instant) -> Self {
        let word =
            |at: usize| u32::from_le_bytes([seed[at], seed[at + 1], seed[at + 2], seed[at + 3]]);
        let first_tsn = word(4);
        let mut secret = [0; 8];
        secret.copy_from_slice(&seed[8..16]);
        let mut this = Self {
            state: State::Closed,
            limits,
            local_tag: word(0).max(1),
            first_tsn,
            secret,
            peer: None,
            cookie: Bytes::new(),
            setup_timer: None,
            setup_wait: setup::FIRST_WAIT,
            setup_sent: None,
            control: VecDeque::new(),
            sender: Sender::new(first_tsn),
            receiver: Receiver::new(0, limits.max_receive_message as usize),
            streams: Streams::new(limits.max_streams),
            resets: Resets::new(first_tsn),
            events: VecDeque::new(),
            advertised: limits.receive_window,
        };
        if initiate {
            this.initiate(now);
        }
        this
    }

    /// Takes one packet that came out of DTLS.
    pub(crate) fn handle_packet(&mut self, now: Instant, packet: Bytes) -> Verdict {
        let Some(tag) = wire::verification_tag(&packet) else {
            return Verdict::Malformed;
        };
        let mut chunks = Chunks::new(&packet);
        let mut data = false;
        let mut verdict = Verdict::Unused;
        let mut sacks = 0;
        let mut last_sack = None;
        for chunk in chunks.by_ref() {
            if !self.may_take(&chunk, tag) {
                verdict = Verdict::Malformed;
                break;
            }
            sacks += usize::from(chunk.kind == kind::SACK);
            if chunk.kind == kind::SACK && sacks > 1 {
                // It costs time for each chunk in flight, and of several only the last says something.
                last_sack = Some(chunk);
                continue;
            }
            data |= chunk.kind == kind::DATA;
            verdict = verdict.and(self.handle_chunk(now, &chunk, packet.len()));
            if self.state == State::Ended {
                break;
            }
        }
        if let Some(chunk) = last_sack {
            verdict = verdict.and(self.handle_chunk(now, &chunk, packet.len()));
        }
        if data && self.state == State::Established {
            self.perform_waiting_resets();
            self.reopen_window();
            self.receiver.end_packet(now);
        }
        if chunks.malformed {
            Verdict::Malformed
        } else {
            verdict
        }
    }

    /// RFC 9260 section 8.5: every packet carries our tag, an INIT none, an ABORT perhaps the peer's.
    fn may_take(&self, chunk: &Chunk, tag: u32) -> bool {
        const TAG_REFLECTED: u8 = 1;
        match chunk.kind {
            kind::INIT => tag == 0,
            kind::ABORT | kind::SHUTDOWN_COMPLETE if chunk.flags & TAG_REFLECTED != 0 => {
                self.peer.as_ref().is_some_and(|peer| peer.tag == tag)
            }
            _ => tag == self.local_tag,
        }
    }

    /// One chunk.
    fn handle_chunk(&mut self, now: Instant, chunk: &Chunk, packet_len: usize) -> Verdict {
        self.note_peer_is_up(chunk);
        let up = self.state == State::Established;
        match chunk.kind {
            kind::INIT => self.on_init(now, chunk),
            kind::INIT_ACK => self.on_init_ack(now, chunk),
            kind::COOKIE_ECHO => self.on_cookie_echo(now, chunk),
            kind::COOKIE_ACK => self.on_cookie_ack(),
            kind::DATA if up => self.on_data(chunk, packet_len),
            kind::SACK if up => self.on_sack(now, chunk),
            kind::RECONFIG if up => self.on_reconfig(now, chunk),
            kind::HEARTBEAT => self.on_heartbeat(chunk),
            kind::ABORT => self.end(SctpEvent::ClosedByPeer),
            // Again if our answer was lost, or if both sides say it at once.
            kind::SHUTDOWN if up || self.state == State::Ended => {
                self.push_control(Control::ShutdownAck);
                self.end(SctpEvent::ClosedByPeer)
            }
            kind::SHUTDOWN_ACK => {
                self.push_control(Control::ShutdownComplete);
                self.end(SctpEvent::ClosedByPeer)
            }
            kind::HEARTBEAT_ACK | kind::SHUTDOWN_COMPLETE => Verdict::Used,
            _ => Verdict::Unused,
        }
    }

    fn end(&mut self, event: SctpEvent) -> Verdict {
        if self.state != State::Ended {
            self.state = State::Ended;
            self.setup_timer = None;
            self.events.push_back(event);
        }
        Verdict::Used
    }

    fn fail(&mut self, reason: &'static str) -> Verdict {
        self.control.clear();
        self.push_control(Control::Abort);
        self.end(SctpEvent::Failed(reason))
    }

    fn push_control(&mut self, control: Control) {
        if self.control.len() < MAX_CONTROL {
            self.control.push_back(control);
        }
    }

    fn on_heartbeat(&mut self, chunk: &Chunk) -> Verdict {
        if chunk.body.len() > MAX_HEARTBEAT {
            return Verdict::Unused;
        }
        self.push_control(Control::HeartbeatAck(Bytes::copy_from_slice(&chunk.body)));
        Verdict::Used
    }

    /// Bytes that count against the window.
    pub(super) fn held(&self) -> usize {
        self.receiver.held() + self.streams.held()
    }

    fn window(&self) -> usize {
        (self.limits.receive_window as usize).saturating_sub(self.held())
    }

    fn on_data(&mut self, chunk: &Chunk, packet_len: usize) -> Verdict {
        let Some(mut data) = Data::read(chunk) else {
            return Verdict::Malformed;
        };
        if data.payload.len() < packet_len / 2 {
            // A few bytes that wait to be read must not keep a whole packet.
            data.payload = Bytes::copy_from_slice(&data.payload);
        }
        let window = self.limits.receive_window as usize;
        // The peer was told that the window is closed: this is a probe.
        let probe = self.advertised == 0 && self.receiver.is_ahead(data.tsn);
        if probe && self.held() + data.payload.len() > window {
            self.receiver.acknowledge_now();
            return Verdict::Used;
        }
        if self
            .receiver
            .handle_data(data, self.held(), window)
            .is_err()
        {
            return self.fail("the peer's SCTP fragments do not make messages");
        }
        for whole in self.receiver.take_whole() {
            self.streams.deliver(whole, &mut self.events);
        }
        Verdict::Used
    }

    fn on_sack(&mut self, now: Instant, chunk: &Chunk) -> Verdict {
        let Some(sack) = Sack::read(chunk) else {
            return Verdict::Malformed;
        };
        let streams = &mut self.streams;
        // Chunks of one stream follow each other: they are counted together.
        let mut run = (0, 0);
        let known = self.sender.handle_sack(now, &sack, |stream, len| {
            if stream != run.0 && run.1 > 0 {
                streams.acknowledged(run.0, run.1);
                run.1 = 0;
            }
            run = (stream, run.1 + len);
        });
        streams.acknowledged(run.0, run.1);
        if known {
            Verdict::Used
        } else {
            Verdict::Malformed
        }
    }

    /// Timers.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.setup_timeout(now);
        if self.state != State::Established {
            return;
        }
        self.sender.handle_timeout(now);
        if self.receiver.poll_timeout().is_some_and(|at| at <= now) {
            self.receiver.acknowledge_now();
        }
        self.reset_timeout(now);
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.state != State::Established {
            return self.setup_timer;
        }
        [
            self.sender.poll_timeout(),
            self.receiver.poll_timeout(),
            self.resets.timer,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<SctpEvent> {
        if self.events.is_empty() {
            self.streams.free_one(&mut self.events);
            self.perform_waiting_resets();
        }
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > 32 {
            self.events = VecDeque::new();
        }
        event
    }

    /// The highest stream that the peer takes (RFC 9260 section 3.3.2: one more is an error, for which some end the
    /// association).
    pub(crate) fn max_stream(&self) -> u16 {
        self.peer
            .as_ref()
            .map_or(0, |peer| peer.inbound.saturating_sub(1))
    }

    /// Makes an outgoing stream usable.
    pub(crate) fn open(&mut self, stream: u16) -> Result<(), StreamGone> {
        if self.streams.open(stream) {
            Ok(())
        } else {
            Err(StreamGone)
        }
    }

    /// Queues one message.
    pub(crate) fn write(
        &mut self,
        stream: u16,
        ppid: Ppid,
        message: &Bytes,
    ) -> Result<(), StreamGone> {
        if self.streams.write(stream, ppid.to_wire(), message.clone()) {
            Ok(())
        } else {
            Err(StreamGone)
        }
    }

    /// The next whole message of a stream.
    pub(crate) fn read(&mut self, stream: u16) -> Option<Message> {
        let (ppid, data) = self.streams.read(stream, &mut self.events)?;
        self.reopen_window();
        Some(Message {
            ppid: Ppid::from_wire(ppid),
            data,
        })
    }

    /// Tells the peer that a window it saw nearly closed is open again; it would find out only by probing.
    fn reopen_window(&mut self) {
        let advertised = self.advertised as usize;
        let full = self.limits.receive_window as usize;
        if advertised < full / 2 && self.window() >= advertised + (full / 4).max(2 * MTU) {
            self.receiver.acknowledge_now();
        }
    }

    /// Lets the peer send more from now on.
    pub(crate) fn widen_window(&mut self, window: u32) {
        self.limits.receive_window = self.limits.receive_window.max(window);
        self.reopen_window();
    }

    /// Resets a stream once what was written is sent; the peer answers with its own reset. What comes is dropped.
    pub(crate) fn reset(&mut self, stream: u16) -> Result<(), StreamGone> {
        let known = self.streams.reset(stream);
        self.reopen_window();
        if known { Ok(()) } else { Err(StreamGone) }
    }

    /// How many streams there are.
    #[cfg(test)]
    pub(super) fn streams(&self) -> usize {
        self.streams.count()
    }

    /// Bytes of this stream not yet acknowledged.
    pub(crate) fn stream_buffered(&self, stream: u16) -> usize {
        self.streams.buffered_of(stream)
    }

    /// Bytes queued or unacknowledged, over all streams.
    pub(crate) fn buffered(&self) -> usize {
        self.streams.buffered()
    }

    /// Bytes that were sent and are not acknowledged, over all streams.
    pub(crate) fn on_the_way(&self) -> usize {
        self.sender.on_the_way()
    }

    /// How many the network takes at once, as far as is known.
    pub(crate) fn congestion_window(&self) -> usize {
        self.sender.window()
    }

    /// Asks the peer for a sign of life: it answers inside DTLS, which nobody else can (RFC 9260 section 8.3).
    pub(crate) fn heartbeat(&mut self) {
        if self.state == State::Established {
            self.push_control(Control::Heartbeat);
        }
    }

    /// Announces the end of the association.
    pub(crate) fn shutdown(&mut self) {
        if self.state == State::Established {
            self.push_control(Control::Shutdown);
            self.state = State::Ended;
        }
    }

    /// The receive window that the peer was last told.
    pub(crate) fn advertised_window(&self) -> u32 {
        self.advertised
    }

    /// Smoothed round-trip time, measured on data.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.sender.rtt()
    }

    /// DATA chunks sent again since the start.
    pub(crate) fn retransmissions(&self) -> u64 {
        self.sender.retransmissions()
    }
}
