//! Stream resets on the wire (RFC 6525): one request of ours at a time, the peer's in their order.

use std::time::Instant;

use super::{Control, Sctp};
use crate::proto::engine::sctp::{
    SctpEvent, Verdict,
    wire::{Chunk, Reconfig, before, read_reconfig},
};

/// Streams in one request: it must fit into a packet.
const MAX_STREAMS: usize = 500;

/// Requests of the peer that wait at a time. RFC 6525 section 5.1.1 allows one; pion and webrtc-rs send the next before
/// the first is answered, in any order, and forget for good one that is refused.
const MAX_WAITING: u32 = 32;
/// Streams in a request of the peer: more fit into no packet that a path carries.
const MAX_REQUESTED: usize = 4096;
/// A request so far ahead is none that got here early.
const MAX_AHEAD: u32 = 1024;

/// Results of a request (RFC 6525 section 4.4).
mod result {
    pub(super) const NOTHING_TO_DO: u32 = 0;
    pub(super) const PERFORMED: u32 = 1;
    /// Another request is: try later.
    pub(super) const ALREADY_IN_PROGRESS: u32 = 4;
    pub(super) const BAD_SEQUENCE: u32 = 5;
    pub(super) const IN_PROGRESS: u32 = 6;
}

/// A request of either side.
#[derive(Clone, Debug)]
struct Request {
    sequence: u32,
    /// The streams end behind this TSN; a repetition must not move it.
    last_tsn: u32,
    streams: Vec<u16>,
}

/// Requests in both directions.
#[derive(Debug)]
pub(super) struct Resets {
    next_sequence: u32,
    /// Our request that waits for its answer.
    outstanding: Option<Request>,
    /// When it is repeated.
    pub(super) timer: Option<Instant>,
    /// Number of the peer's next request.
    expected: u32,
    /// Its requests whose data or predecessors have not all arrived.
    waiting: Vec<Request>,
}

impl Resets {
    /// Request numbers begin with the first TSN (RFC 6525 section 4.1).
    pub(super) fn new(first: u32) -> Self {
        Self {
            next_sequence: first,
            outstanding: None,
            timer: None,
            expected: 0,
            waiting: Vec::new(),
        }
    }

    pub(super) fn set_peer_sequence(&mut self, first: u32) {
        self.expected = first;
    }

    /// Number of the peer's last request.
    pub(super) fn answered(&self) -> u32 {
        self.expected.wrapping_sub(1)
    }
}

impl Sctp {
    /// Asks for the resets that are wanted, if no request is under way.
    pub(super) fn request_resets(&mut self, now: Instant) {
        if self.resets.outstanding.is_some() || !self.streams.wants_reset() {
            return;
        }
        let streams = self.streams.take_closing(MAX_STREAMS);
        let sequence = self.resets.next_sequence;
        self.resets.next_sequence = sequence.wrapping_add(1);
        self.resets.outstanding = Some(Request {
            sequence,
            last_tsn: self.sender.last_tsn(),
            streams,
        });
        self.send_request(now);
    }

    fn send_request(&mut self, now: Instant) {
        let Some(Request {
            sequence,
            last_tsn,
            streams,
        }) = self.resets.outstanding.clone()
        else {
            return;
        };
        let request = Reconfig::OutgoingReset {
            sequence,
            last_tsn,
            streams,
        };
        self.resets.timer = Some(now + self.sender.timeout());
        self.push_control(Control::Reset(request));
    }

    pub(super) fn reset_timeout(&mut self, now: Instant) {
        if self.resets.timer.is_some_and(|at| at <= now) {
            self.resets.timer = None;
            self.send_request(now);
        }
    }

    pub(super) fn on_reconfig(&mut self, now: Instant, chunk: &Chunk) -> Verdict {
        for reconfig in read_reconfig(chunk) {
            match reconfig {
                Reconfig::OutgoingReset {
                    sequence,
                    last_tsn,
                    streams,
                } => {
                    self.on_request(Request {
                        sequence,
                        last_tsn,
                        streams,
                    });
                }
                Reconfig::Response { sequence, result } => self.on_response(now, sequence, result),
            }
        }
        self.reopen_window();
        Verdict::Used
    }

    fn on_request(&mut self, request: Request) {
        let sequence = request.sequence;
        let resets = &mut self.resets;
        if before(sequence, resets.expected) {
            // A repetition: the answer was lost. It must not touch a later use of the ids.
            self.answer(sequence, result::PERFORMED);
            return;
        }
        let ahead = sequence.wrapping_sub(resets.expected);
        if ahead >= MAX_AHEAD {
            self.answer(sequence, result::BAD_SEQUENCE);
            return;
        }
        if ahead >= MAX_WAITING || request.streams.len() > MAX_REQUESTED {
            // Not answered, so that one that is only early comes again.
            return;
        }
        if !resets
            .waiting
            .iter()
            .any(|waiting| waiting.sequence == sequence)
        {
            resets.waiting.push(request);
        }
        self.perform_waiting_resets();
        if before(self.resets.answered(), sequence) {
            self.answer(sequence, result::IN_PROGRESS);
        }
    }

    /// Performs the peer's requests in their order, each once its data has arrived and the ids are free of their last
    /// use: a request may be for the next one, of a peer that knows before us that the last is over.
    pub(super) fn perform_waiting_resets(&mut self) {
        let cumulative = self.receiver.cumulative();
        while let Some(index) = self.resets.waiting.iter().position(|request| {
            request.sequence == self.resets.expected
                && !before(cumulative, request.last_tsn)
                && self.streams.may_be_reset(&request.streams)
        }) {
            let Request {
                sequence, streams, ..
            } = self.resets.waiting.swap_remove(index);
            self.resets.expected = sequence.wrapping_add(1);
            self.streams.on_incoming_reset(&streams, &mut self.events);
            self.answer(sequence, result::PERFORMED);
        }
    }

    fn answer(&mut self, sequence: u32, result: u32) {
        self.push_control(Control::Reset(Reconfig::Response { sequence, result }));
    }

    fn on_response(&mut self, now: Instant, sequence: u32, outcome: u32) {
        let Some(request) = self
            .resets
            .outstanding
            .take_if(|request| request.sequence == sequence)
        else {
            return;
        };
        match outcome {
            result::IN_PROGRESS | result::ALREADY_IN_PROGRESS => {
                // The peer waits for data of ours, or is busy with an earlier request: ask again later.
                self.resets.outstanding = Some(request);
                self.resets.timer = Some(now + self.sender.timeout());
            }
            result::PERFORMED | result::NOTHING_TO_DO => {
                self.resets.timer = None;
                self.streams.on_reset_performed(&request.streams);
            }
            _ => {
                // The ids could never be used again, and who waits for their end would wait for ever.
                self.resets.timer = None;
                self.end(SctpEvent::ResetDenied);
            }
        }
    }
}
