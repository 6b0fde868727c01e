//! The receiving half of an association: which TSNs arrived, whole messages out of fragments, when to acknowledge.
//!
//! Owns what has arrived and is not part of a whole message yet. Whole messages go to `streams`, which put them in
//! order and hold them for the application; both count against the one receive window. Without message interleaving
//! the fragments of a message have consecutive TSNs (RFC 9260 section 6.9), so in order there is at most one message
//! in progress.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::wire::{Data, flag};

/// How long an acknowledgement may wait for more packets. RFC 9260 section 6.2 allows 500 ms; a sender that waits for
/// it before it resets a stream should not wait long, and what answers at once carries it anyway.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// Packets that one acknowledgement may answer without being hurried.
const ACK_EVERY: u32 = 2;
/// Chunks beyond the cumulative TSN that are taken at all; a full window of full packets has a thousand.
const MAX_AHEAD: u64 = 16_384;
/// Gap blocks in one SACK: they must fit into a packet beside DATA.
const MAX_GAPS: usize = 64;
/// Duplicates reported in one SACK.
const MAX_DUPLICATES: usize = 16;
/// What a held chunk or message costs beside its bytes; counted, so that many tiny ones cannot eat memory.
pub(super) const OVERHEAD: usize = 64;

/// A whole message.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    /// Its stream.
    pub(super) stream: u16,
    /// Its place in the stream, unless it is unordered.
    pub(super) ssn: Option<u16>,
    /// Payload protocol identifier.
    pub(super) ppid: u32,
    /// Its bytes.
    pub(super) data: Bytes,
}

/// The peer broke the rules of fragmentation or the size limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// A fragment that continues nothing, or a message that begins within another.
    Fragmentation,
    /// A message over the limit.
    TooLarge,
}

/// When the next acknowledgement leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ack {
    None,
    Delayed(Instant),
    Now,
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The cumulative TSN, extended so that it never wraps.
    cumulative: u64,
    /// Chunks beyond it that are not part of a delivered message.
    parked: BTreeMap<u64, Data>,
    /// Ranges of TSNs beyond it, inclusive, ascending, never touching.
    ranges: Vec<(u64, u64)>,
    /// The message in progress.
    partial: Vec<Data>,
    partial_len: usize,
    /// Bytes held here, overhead included.
    held: usize,
    duplicates: Vec<u32>,
    ack: Ack,
    packets: u32,
    max_message: usize,
    /// Whole messages, in the order they became whole.
    whole: Vec<Whole>,
}

impl Receiver {
    /// `first_tsn` is the TSN of the peer's first chunk.
    pub(super) fn new(first_tsn: u32, max_message: usize) -> Self {
        Self {
            cumulative: (1 << 32) + u64::from(first_tsn.wrapping_sub(1)),
            parked: BTreeMap::new(),
            ranges: Vec::new(),
            partial: Vec::new(),
            partial_len: 0,
            held: 0,
            duplicates: Vec::new(),
            ack: Ack::None,
            packets: 0,
            max_message,
            whole: Vec::new(),
        }
    }

    /// The cumulative TSN.
    pub(super) fn cumulative(&self) -> u32 {
        self.cumulative as u32
    }

    /// Bytes held, overhead included.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Messages that became whole, in order.
    pub(super) fn take_whole(&mut self) -> Vec<Whole> {
        std::mem::take(&mut self.whole)
    }

    fn extend(&self, tsn: u32) -> u64 {
        let distance = tsn.wrapping_sub(self.cumulative as u32) as i32;
        self.cumulative.wrapping_add_signed(i64::from(distance))
    }

    /// Takes one chunk. `room` is what the window leaves: a chunk that does not fit is dropped, unless it fills a gap,
    /// because then what came after it waits for it.
    pub(super) fn handle_data(
        &mut self,
        data: Data,
        room: usize,
        window: usize,
    ) -> Result<(), Violation> {
        let tsn = self.extend(data.tsn);
        let known = tsn <= self.cumulative
            || self
                .ranges
                .iter()
                .any(|&(start, end)| (start..=end).contains(&tsn));
        if known {
            if self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(data.tsn);
            }
            self.ack = Ack::Now;
            return Ok(());
        }
        let highest = self.ranges.last().map_or(self.cumulative, |&(_, end)| end);
        let fills_gap = tsn < highest && self.held < 2 * window;
        let fits = data.payload.len() <= room || fills_gap;
        if !fits || tsn > self.cumulative + MAX_AHEAD {
            self.ack = Ack::Now;
            return Ok(());
        }
        if data.flags & flag::IMMEDIATE != 0 {
            self.ack = Ack::Now;
        }
        if tsn == self.cumulative + 1 {
            self.cumulative = tsn;
            self.append(data)?;
            self.advance()?;
        } else {
            self.park(tsn, data);
        }
        if !self.ranges.is_empty() {
            self.ack = Ack::Now;
        }
        Ok(())
    }

    /// After all chunks of a packet.
    pub(super) fn end_packet(&mut self, now: Instant) {
        self.packets += 1;
        match self.ack {
            _ if self.packets >= ACK_EVERY => self.ack = Ack::Now,
            Ack::None => self.ack = Ack::Delayed(now + ACK_DELAY),
            Ack::Delayed(_) | Ack::Now => {}
        }
    }

    /// What was parked behind the cumulative TSN follows in order.
    fn advance(&mut self) -> Result<(), Violation> {
        let Some(&(start, end)) = self.ranges.first() else {
            return Ok(());
        };
        if start != self.cumulative + 1 {
            return Ok(());
        }
        self.ranges.remove(0);
        for tsn in start..=end {
            self.cumulative = tsn;
            if let Some(data) = self.parked.remove(&tsn) {
                self.held -= data.payload.len() + OVERHEAD;
                self.append(data)?;
            } else if !self.partial.is_empty() {
                // Delivered already as part of a whole message: nothing may be open before it.
                return Err(Violation::Fragmentation);
            }
        }
        Ok(())
    }

    /// The next chunk in TSN order.
    fn append(&mut self, data: Data) -> Result<(), Violation> {
        let begins = data.flags & flag::BEGIN != 0;
        let ends = data.flags & flag::END != 0;
        if begins != self.partial.is_empty() {
            return Err(Violation::Fragmentation);
        }
        if begins && ends {
            self.check_size(data.payload.len())?;
            self.whole.push(whole(&data, data.payload.clone()));
            return Ok(());
        }
        if self
            .partial
            .first()
            .is_some_and(|first| first.stream != data.stream)
        {
            return Err(Violation::Fragmentation);
        }
        self.check_size(self.partial_len + data.payload.len())?;
        self.partial_len += data.payload.len();
        self.held += data.payload.len() + OVERHEAD;
        self.partial.push(data);
        if ends {
            let fragments = std::mem::take(&mut self.partial);
            self.held -= self.partial_len + OVERHEAD * fragments.len();
            self.whole.push(join(&fragments, self.partial_len));
            self.partial_len = 0;
        }
        Ok(())
    }

    fn check_size(&self, len: usize) -> Result<(), Violation> {
        if len > self.max_message {
            Err(Violation::TooLarge)
        } else {
            Ok(())
        }
    }

    /// A chunk beyond a gap. If it completes a message, that need not wait for the gap: other streams lose nothing.
    fn park(&mut self, tsn: u64, data: Data) {
        self.insert_range(tsn);
        self.held += data.payload.len() + OVERHEAD;
        self.parked.insert(tsn, data);
        let Some(first) = self.find(tsn, flag::BEGIN, |tsn| tsn - 1) else {
            return;
        };
        let Some(last) = self.find(tsn, flag::END, |tsn| tsn + 1) else {
            return;
        };
        let fragments: Vec<_> = (first..=last)
            .filter_map(|tsn| self.parked.remove(&tsn))
            .collect();
        let len = fragments.iter().map(|data| data.payload.len()).sum();
        self.held -= len + OVERHEAD * fragments.len();
        // One over the limit is dropped here; its stream stays behind for good, which harms nobody else.
        if len <= self.max_message {
            self.whole.push(join(&fragments, len));
        }
    }

    /// From `tsn` in one direction over fragments of the same message to the one with `wanted`.
    fn find(&self, tsn: u64, wanted: u8, step: impl Fn(u64) -> u64) -> Option<u64> {
        let stream = self.parked.get(&tsn)?.stream;
        let other = if wanted == flag::BEGIN {
            flag::END
        } else {
            flag::BEGIN
        };
        let mut at = tsn;
        loop {
            let data = self.parked.get(&at).filter(|data| data.stream == stream)?;
            if at != tsn && data.flags & other != 0 {
                return None;
            }
            if data.flags & wanted != 0 {
                return Some(at);
            }
            at = step(at);
        }
    }

    fn insert_range(&mut self, tsn: u64) {
        let index = self.ranges.partition_point(|&(_, end)| end + 1 < tsn);
        match self.ranges.get_mut(index) {
            Some((start, _)) if *start == tsn + 1 => *start = tsn,
            Some((start, end)) if *start <= tsn && *end + 1 == tsn => {
                *end = tsn;
                self.merge(index);
            }
            _ => self.ranges.insert(index, (tsn, tsn)),
        }
    }

    fn merge(&mut self, index: usize) {
        if let (Some(&(start, end)), Some(&(next_start, next_end))) =
            (self.ranges.get(index), self.ranges.get(index + 1))
            && end + 1 == next_start
        {
            self.ranges[index] = (start, next_end);
            self.ranges.remove(index + 1);
        }
    }

    /// Whether an acknowledgement is to leave now.
    pub(super) fn ack_is_due(&self) -> bool {
        self.ack == Ack::Now
    }

    /// Whether one waits.
    pub(super) fn ack_is_pending(&self) -> bool {
        self.ack != Ack::None
    }

    /// Acknowledge with the next packet.
    pub(super) fn acknowledge_now(&mut self) {
        self.ack = Ack::Now;
    }

    /// When the delayed acknowledgement is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.ack {
            Ack::Delayed(at) => Some(at),
            Ack::None | Ack::Now => None,
        }
    }

    /// What the next SACK says; it counts as sent.
    pub(super) fn take_ack(&mut self) -> (u32, Vec<(u16, u16)>, Vec<u32>) {
        self.ack = Ack::None;
        self.packets = 0;
        let offset = |tsn: u64| u16::try_from(tsn - self.cumulative).ok();
        let gaps = self
            .ranges
            .iter()
            .take(MAX_GAPS)
            .filter_map(|&(start, end)| Some((offset(start)?, offset(end)?)))
            .collect();
        (
            self.cumulative as u32,
            gaps,
            std::mem::take(&mut self.duplicates),
        )
    }
}

fn whole(data: &Data, bytes: Bytes) -> Whole {
    Whole {
        stream: data.stream,
        ssn: (data.flags & flag::UNORDERED == 0).then_some(data.ssn),
        ppid: data.ppid,
        data: bytes,
    }
}

fn join(fragments: &[Data], len: usize) -> Whole {
    let mut bytes = BytesMut::with_capacity(len);
    fragments
        .iter()
        .for_each(|fragment| bytes.extend_from_slice(&fragment.payload));
    let empty = Data {
        tsn: 0,
        stream: 0,
        ssn: 0,
        ppid: 0,
        flags: 0,
        payload: Bytes::new(),
    };
    whole(fragments.first().unwrap_or(&empty), bytes.freeze())
}

#[cfg(test)]
#[path = "tests/receive.rs"]
mod tests;
