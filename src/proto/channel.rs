//! One libp2p stream: two independent halves and the message framing between them and the data channel.
//!
//! Pure state, no input or output: the connection feeds it whole messages, asks what they call for ([`Reaction`]) and
//! carries it out. Specification: libp2p WebRTC, "Multiplexing" (framing, flags and their states); RFC 8832 for ids.

use std::{collections::VecDeque, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    event::{ChannelId, Read},
    frame::{Flag, Frame, FrameDecoder},
};

/// What a piece of data costs beside its bytes while it waits to be read; counted, so that many tiny ones cannot eat
/// memory.
const PIECE_OVERHEAD: usize = 64;
/// Payloads shorter than this are joined, as long as the piece they make is shorter than the other.
const SMALL_PAYLOAD: usize = 512;
const JOINED_PIECE: usize = 4096;
/// Messages kept from before the channel's OPEN.
const MAX_EARLY_MESSAGES: usize = 8;
/// Their bytes.
const MAX_EARLY_BYTES: usize = 64 * 1024;

/// Our sending half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendHalf {
    /// Data may be sent.
    Open,
    /// FIN is out, FIN_ACK is awaited.
    FinSent,
    /// The peer has everything, or we waited long enough.
    Closed,
    /// The peer sent STOP_SENDING.
    Stopped,
    /// Reset by either side.
    Reset,
}

/// Our receiving half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiveHalf {
    /// Data may come.
    Open,
    /// We sent STOP_SENDING: data is dropped, flags count.
    Discarding,
    /// FIN came.
    Finished,
    /// RESET came, or the channel was closed without FIN: that must never look like an end of file.
    Reset(Option<u32>),
}

/// How far the data channel under the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// A message came before the OPEN.
    Early,
    /// In use.
    Open,
    /// Done; the peer, which opened it, is given time to close it.
    Lingering,
    /// Our SCTP reset is on its way.
    Closing,
}

/// What a message or timer calls for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reaction {
    /// FIN arrived: acknowledge it.
    pub(crate) fin_received: bool,
    /// It arrived again: acknowledge it, unless an acknowledgement is still on its way.
    pub(crate) fin_repeated: bool,
    /// The peer broke the framing: tell it with RESET and close the channel.
    pub(crate) reset: bool,
    /// There is something new to read.
    pub(crate) readable: bool,
    /// The sending half changed: a waiting writer must learn it.
    pub(crate) send_changed: bool,
    /// The message was the length of a frame and nothing else.
    pub(crate) prefix_alone: bool,
}

impl Reaction {
    fn merge(&mut self, other: Self) {
        self.fin_received |= other.fin_received;
        self.fin_repeated |= other.fin_repeated;
        self.reset |= other.reset;
        self.readable |= other.readable;
        self.send_changed |= other.send_changed;
        self.prefix_alone |= other.prefix_alone;
    }
}

/// Bytes that a channel holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charge {
    /// All of them, and what they cost beside.
    pub(crate) buffered: usize,
    /// Those among them that came before the OPEN.
    pub(crate) early: usize,
}

/// One channel.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its name.
    pub(crate) id: ChannelId,
    /// Our sending half.
    pub(crate) send: SendHalf,
    /// Our receiving half.
    pub(crate) receive: ReceiveHalf,
    /// The data channel under it.
    pub(crate) link: Link,
    /// The application's handle is gone.
    pub(crate) released: bool,
    /// The application was told of it; before that there are no events about it.
    pub(crate) announced: bool,
    /// The application has not taken it yet (inbound).
    pub(crate) unaccepted: bool,
    /// `read` said `Blocked`: the next news is an event.
    pub(crate) reader_waits: bool,
    /// In the queue of writers that wait for room.
    pub(crate) writer_waits: bool,
    /// May write once although others wait.
    pub(crate) writer_granted: bool,
    /// SCTP has messages for it.
    pub(crate) has_messages: bool,
    /// In the queue of channels to be read.
    pub(crate) queued_for_reading: bool,
    /// A FIN_ACK is owed.
    pub(crate) owes_fin_ack: bool,
    /// Its timer.
    pub(crate) timer: Option<Instant>,
    /// When the application last took bytes.
    pub(crate) last_read: Option<Instant>,
    /// When the last message came.
    pub(crate) last_message: Option<Instant>,
    /// Messages are the application's as they are, without frames and flags.
    raw: bool,
    unordered: bool,
    max_frame: usize,
    decoder: FrameDecoder,
    received: VecDeque<Bytes>,
    received_len: usize,
    /// Small payloads of the message in hand, joined.
    joined: BytesMut,
    early: Vec<Bytes>,
}

impl Channel {
    /// A channel that is open on our side.
    pub(crate) fn open(id: ChannelId, max_frame: usize) -> Self {
        Self {
            id,
            send: SendHalf::Open,
            receive: ReceiveHalf::Open,
            link: Link::Open,
            released: false,
            announced: true,
            unaccepted: false,
            reader_waits: true,
            writer_waits: false,
            writer_granted: false,
            has_messages: false,
            queued_for_reading: false,
            owes_fin_ack: false,
            timer: None,
            last_read: None,
            last_message: None,
            raw: false,
            unordered: false,
            max_frame,
            decoder: FrameDecoder::new(max_frame),
            received: VecDeque::new(),
            received_len: 0,
            joined: BytesMut::new(),
            early: Vec::new(),
        }
    }

    /// The same for messages without frames and flags.
    pub(crate) fn into_raw(self) -> Self {
        Self { raw: true, ..self }
    }

    /// Whether its messages have no frames.
    pub(crate) fn is_raw(&self) -> bool {
        self.raw
    }

    /// A channel of which a message came, but no OPEN yet.
    pub(crate) fn early(id: ChannelId, max_frame: usize) -> Self {
        Self {
            link: Link::Early,
            announced: false,
            ..Self::open(id, max_frame)
        }
    }

    /// The peer's OPEN arrived. Messages from before it are decoded now.
    pub(crate) fn on_open(&mut self, unordered: bool) -> Reaction {
        self.link = Link::Open;
        self.unaccepted = true;
        self.unordered = unordered;
        let mut reaction = Reaction::default();
        for message in std::mem::take(&mut self.early) {
            reaction.merge(self.on_message(message));
        }
        reaction
    }

    /// Takes one binary message.
    pub(crate) fn on_message(&mut self, message: Bytes) -> Reaction {
        match self.link {
            Link::Early => self.keep_early(message),
            Link::Lingering | Link::Closing => Reaction::default(),
            Link::Open if self.raw => self.take_raw(message),
            Link::Open if self.unordered => self.decode_whole(message),
            Link::Open => {
                self.decoder.push(message);
                self.decode()
            }
        }
    }

    fn take_raw(&mut self, message: Bytes) -> Reaction {
        let readable = self.receive == ReceiveHalf::Open && !message.is_empty();
        if readable {
            self.push_piece(message);
        }
        Reaction {
            readable,
            ..Reaction::default()
        }
    }

    fn keep_early(&mut self, message: Bytes) -> Reaction {
        let held = self.early_len();
        if self.early.len() >= MAX_EARLY_MESSAGES || held + message.len() > MAX_EARLY_BYTES {
            return Reaction {
                reset: true,
                ..Reaction::default()
            };
        }
        self.early.push(message);
        Reaction::default()
    }

    /// On an unordered channel each message is decoded on its own: pieces of two messages must never be joined.
    fn decode_whole(&mut self, message: Bytes) -> Reaction {
        self.decoder = FrameDecoder::new(self.max_frame);
        self.decoder.push(message);
        let mut reaction = self.decode();
        reaction.reset |= !self.decoder.is_empty();
        reaction
    }

    fn decode(&mut self) -> Reaction {
        let reaction = self.decode_frames();
        self.end_piece();
        reaction
    }

    fn decode_frames(&mut self) -> Reaction {
        let mut reaction = Reaction::default();
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => reaction.merge(self.on_frame(frame)),
                Ok(None) => {
                    reaction.prefix_alone = self.decoder.ends_behind_prefix();
                    return reaction;
                }
                Err(_) => {
                    return Reaction {
                        reset: true,
                        ..reaction
                    };
                }
            }
        }
    }

    /// Data first, then the flag (go, js and litep2p send both in one frame).
    fn on_frame(&mut self, frame: Frame) -> Reaction {
        let mut reaction = Reaction::default();
        if !frame.message.is_empty() && self.receive == ReceiveHalf::Open {
            self.on_payload(frame.message);
            reaction.readable = true;
        }
        match frame.flag {
            Some(Flag::Fin) => reaction.merge(self.on_fin()),
            Some(Flag::FinAck) => reaction.send_changed = self.move_send(SendHalf::Closed),
            Some(Flag::StopSending) => reaction.send_changed = self.move_send(SendHalf::Stopped),
            Some(Flag::ResetStream) => reaction.merge(self.on_reset(frame.error_code)),
            None => {}
        }
        reaction
    }

    /// A peer may send a byte to a frame: they wait together.
    fn on_payload(&mut self, payload: Bytes) {
        if payload.len() < SMALL_PAYLOAD {
            self.joined.extend_from_slice(&payload);
            if self.joined.len() >= JOINED_PIECE {
                self.end_piece();
            }
        } else {
            self.end_piece();
            self.push_piece(payload);
        }
    }

    fn end_piece(&mut self) {
        if !self.joined.is_empty() {
            let piece = std::mem::take(&mut self.joined).freeze();
            self.push_piece(piece);
        }
    }

    fn push_piece(&mut self, piece: Bytes) {
        self.received_len += piece.len() + PIECE_OVERHEAD;
        self.received.push_back(piece);
    }

    fn on_fin(&mut self) -> Reaction {
        let first = matches!(self.receive, ReceiveHalf::Open | ReceiveHalf::Discarding);
        let mut reaction = Reaction {
            fin_received: first,
            fin_repeated: !first,
            ..Reaction::default()
        };
        match self.receive {
            ReceiveHalf::Open => {
                self.receive = ReceiveHalf::Finished;
                reaction.readable = true;
            }
            ReceiveHalf::Discarding => self.receive = ReceiveHalf::Finished,
            // A repeated FIN is acknowledged again and has no other effect.
            ReceiveHalf::Finished | ReceiveHalf::Reset(_) => {}
        }
        reaction
    }

    /// Transitions of the sending half that the peer causes.
    fn move_send(&mut self, to: SendHalf) -> bool {
        let next = match (self.send, to) {
            // A FIN_ACK without a FIN says nothing.
            (SendHalf::FinSent, SendHalf::Closed) => SendHalf::Closed,
            (SendHalf::Open, SendHalf::Stopped) => SendHalf::Stopped,
            // No FIN_ACK is to be awaited any more.
            (SendHalf::FinSent, SendHalf::Stopped) => SendHalf::Closed,
            (SendHalf::Open | SendHalf::FinSent, SendHalf::Reset) => SendHalf::Reset,
            (now, _) => now,
        };
        let changed = next != self.send;
        self.send = next;
        changed
    }

    /// RESET by the peer ends both halves, as go, js and rust-libp2p have it. What came before is still read, as over yamux
    /// and QUIC: who answers and then drops the stream, like libp2p's AutoNAT, has sent its answer.
    pub(crate) fn on_reset(&mut self, code: Option<u32>) -> Reaction {
        let mut reaction = Reaction {
            send_changed: self.move_send(SendHalf::Reset),
            ..Reaction::default()
        };
        if matches!(self.receive, ReceiveHalf::Open | ReceiveHalf::Discarding) {
            self.receive = ReceiveHalf::Reset(code);
            reaction.readable = true;
        }
        reaction
    }

    /// The peer closed the data channel. Without FIN before it this is a reset.
    pub(crate) fn on_link_closed(&mut self) -> Reaction {
        if self.link == Link::Early {
            // Nobody was told of it and nobody will take it.
            self.released = true;
            self.early = Vec::new();
        }
        self.link = Link::Closing;
        if self.raw && self.receive == ReceiveHalf::Open {
            // There is no other way to end a channel of messages: what came before can still be read.
            self.receive = ReceiveHalf::Finished;
            return Reaction {
                send_changed: self.move_send(SendHalf::Reset),
                readable: true,
                ..Reaction::default()
            };
        }
        self.on_reset(None)
    }

    /// We gave up waiting for FIN_ACK: delivery is unknown.
    pub(crate) fn on_fin_ack_timeout(&mut self) {
        if self.send == SendHalf::FinSent {
            self.send = SendHalf::Closed;
        }
    }

    /// We reset both halves.
    pub(crate) fn reset_locally(&mut self) {
        self.send = SendHalf::Reset;
        // What is dropped unread must not look like an end of file to who reads in another task.
        let whole = self.receive == ReceiveHalf::Finished && self.received.is_empty();
        if !whole && !matches!(self.receive, ReceiveHalf::Reset(_)) {
            self.receive = ReceiveHalf::Reset(None);
        }
        self.drop_received();
        self.early = Vec::new();
        self.decoder = FrameDecoder::new(self.max_frame);
    }

    /// We will not read on. True: STOP_SENDING is to be sent.
    pub(crate) fn stop_locally(&mut self) -> bool {
        self.drop_received();
        let open = self.receive == ReceiveHalf::Open;
        if open {
            self.receive = ReceiveHalf::Discarding;
        }
        open
    }

    fn drop_received(&mut self) {
        self.received = VecDeque::new();
        self.received_len = 0;
        self.joined = BytesMut::new();
    }

    /// The next bytes for the application, or why there are none.
    pub(crate) fn read(&mut self) -> Read {
        if let Some(bytes) = self.received.pop_front() {
            self.received_len -= bytes.len() + PIECE_OVERHEAD;
            if self.received.is_empty() && self.received.capacity() > 32 {
                self.received = VecDeque::new();
            }
            return Read::Data(bytes);
        }
        match self.receive {
            ReceiveHalf::Open => Read::Blocked,
            ReceiveHalf::Finished => Read::Eof,
            // After our own STOP_SENDING nothing is given out any more.
            ReceiveHalf::Discarding => Read::Eof,
            ReceiveHalf::Reset(code) => Read::Reset(code),
        }
    }

    fn early_len(&self) -> usize {
        self.early
            .iter()
            .map(|message| message.len() + PIECE_OVERHEAD)
            .sum()
    }

    /// Bytes held: from before the OPEN, decoded and not read, and of the frame in progress.
    pub(crate) fn charge(&self) -> Charge {
        let early = self.early_len();
        Charge {
            buffered: early + self.received_len + self.decoder.buffered(),
            early,
        }
    }

    /// Bytes of the frame in progress.
    pub(crate) fn unfinished(&self) -> usize {
        self.decoder.buffered()
    }

    /// Decoded bytes that were not read, and what they cost beside.
    pub(crate) fn unread(&self) -> usize {
        self.received_len
    }

    /// Whether the application wants to hear about it.
    pub(crate) fn has_listener(&self) -> bool {
        self.announced && !self.released
    }

    /// Neither side will send on it any more: the data channel can be closed.
    pub(crate) fn is_done(&self) -> bool {
        let sent = matches!(
            self.send,
            SendHalf::Closed | SendHalf::Stopped | SendHalf::Reset
        );
        let received = match self.receive {
            ReceiveHalf::Finished | ReceiveHalf::Reset(_) => true,
            ReceiveHalf::Discarding => self.released,
            ReceiveHalf::Open => false,
        };
        sent && received && !self.owes_fin_ack
    }
}

#[cfg(test)]
#[path = "channel/tests.rs"]
mod tests;
