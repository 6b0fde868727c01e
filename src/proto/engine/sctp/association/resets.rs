//! Stream resets on the wire (RFC 6525): one request of ours at a time, the peer's in their order.

use std::time::Instant;

use super::{Control, Sctp};
use crate::proto::engine::sctp::wire::{Chunk, Reconfig, before, read_reconfig};

/// Streams in one request: it must fit into a packet.
const MAX_STREAMS: usize = 500;

/// Results of a request (RFC 6525 section 4.4).
mod result {
    pub(super) const NOTHING_TO_DO: u32 = 0;
    pub(super) const PERFORMED: u32 = 1;
    pub(super) const ALREADY_IN_PROGRESS: u32 = 4;
    pub(super) const BAD_SEQUENCE: u32 = 5;
    pub(super) const IN_PROGRESS: u32 = 6;
}

/// Requests in both directions.
#[derive(Debug)]
pub(super) struct Resets {
    next_sequence: u32,
    /// Our request that waits for its answer.
    outstanding: Option<(u32, Vec<u16>)>,
    /// When it is repeated.
    pub(super) timer: Option<Instant>,
    /// Number of the peer's next request.
    expected: u32,
    /// The result of its last one.
    last_result: u32,
    /// A request whose data has not all arrived.
    deferred: Option<(u32, u32, Vec<u16>)>,
}

impl Resets {
    /// Request numbers begin with the first TSN (RFC 6525 section 4.1).
    pub(super) fn new(first: u32) -> Self {
        Self {
            next_sequence: first,
            outstanding: None,
            timer: None,
            expected: 0,
            last_result: result::NOTHING_TO_DO,
            deferred: None,
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
        self.resets.outstanding = Some((sequence, streams));
        self.send_request(now);
    }

    fn send_request(&mut self, now: Instant) {
        let Some((sequence, streams)) = &self.resets.outstanding else {
            return;
        };
        let request = Reconfig::OutgoingReset {
            sequence: *sequence,
            last_tsn: self.sender.last_tsn(),
            streams: streams.clone(),
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

    pub(super) fn on_reconfig(&mut self, now: Instant, chunk: &Chunk) -> bool {
        for reconfig in read_reconfig(chunk) {
            match reconfig {
                Reconfig::OutgoingReset {
                    sequence,
                    last_tsn,
                    streams,
                } => {
                    self.on_request(sequence, last_tsn, streams);
                }
                Reconfig::Response { sequence, result } => self.on_response(now, sequence, result),
            }
        }
        true
    }

    fn on_request(&mut self, sequence: u32, last_tsn: u32, streams: Vec<u16>) {
        let resets = &mut self.resets;
        if sequence == resets.answered() {
            // A repetition: the answer was lost. It must not touch a later use of the ids.
            let result = resets.last_result;
            self.answer(sequence, result);
            return;
        }
        if let Some((deferred, ..)) = resets.deferred {
            let result = if deferred == sequence {
                result::IN_PROGRESS
            } else {
                result::ALREADY_IN_PROGRESS
            };
            self.answer(sequence, result);
            return;
        }
        if sequence != resets.expected {
            self.answer(sequence, result::BAD_SEQUENCE);
            return;
        }
        if before(self.receiver.cumulative(), last_tsn) {
            resets.deferred = Some((sequence, last_tsn, streams));
            self.answer(sequence, result::IN_PROGRESS);
            return;
        }
        self.perform(sequence, &streams);
    }

    fn perform(&mut self, sequence: u32, streams: &[u16]) {
        self.resets.expected = sequence.wrapping_add(1);
        self.resets.last_result = result::PERFORMED;
        self.streams.on_incoming_reset(streams, &mut self.events);
        self.answer(sequence, result::PERFORMED);
    }

    /// Data has arrived: perhaps all that a request waits for.
    pub(super) fn perform_deferred_reset(&mut self) {
        let ready = |(_, last_tsn, _): &(u32, u32, Vec<u16>)| {
            !before(self.receiver.cumulative(), *last_tsn)
        };
        if !self.resets.deferred.as_ref().is_some_and(ready) {
            return;
        }
        if let Some((sequence, _, streams)) = self.resets.deferred.take() {
            self.perform(sequence, &streams);
        }
    }

    fn answer(&mut self, sequence: u32, result: u32) {
        self.push_control(Control::Reset(Reconfig::Response { sequence, result }));
    }

    fn on_response(&mut self, now: Instant, sequence: u32, outcome: u32) {
        let Some((_, streams)) = self
            .resets
            .outstanding
            .take_if(|(outstanding, _)| *outstanding == sequence)
        else {
            return;
        };
        match outcome {
            result::IN_PROGRESS | result::ALREADY_IN_PROGRESS => {
                // The peer waits for data of ours, or is busy with an earlier request: ask again later.
                self.resets.outstanding = Some((sequence, streams));
                self.resets.timer = Some(now + self.sender.timeout());
            }
            _ => {
                let performed = matches!(outcome, result::PERFORMED | result::NOTHING_TO_DO);
                self.resets.timer = None;
                self.streams
                    .on_reset_answered(&streams, performed, &mut self.events);
            }
        }
    }
}
