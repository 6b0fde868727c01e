//! The receiving half of an association: which TSNs arrived, whole messages out of fragments, when to acknowledge.
//!
//! Owns what has arrived and is not part of a whole message yet. Whole messages go to `streams`, which put them in
//! order and hold them for the application; both count against the one receive window. Without message interleaving
//! the fragments of a message have consecutive TSNs (RFC 9260 section 6.9), so in order there is at most one message
//! in progress.

use std::{
    collections::{BTreeMap, VecDeque},
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

/// Fragments of one message with consecutive TSNs. Joining runs moves the fewer fragments, so that a peer that sends
/// them in the worst order costs no more than one that sends them in the best.
#[derive(Debug)]
struct Run {
    fragments: VecDeque<Data>,
    /// Their user data.
    len: usize,
}

impl Run {
    fn new(data: Data) -> Self {
        let len = data.payload.len();
        let mut fragments = VecDeque::with_capacity(1);
        fragments.push_back(data);
        Self { fragments, len }
    }

    fn count(&self) -> u64 {
        self.fragments.len() as u64
    }

    fn held(&self) -> usize {
        self.len + OVERHEAD * self.fragments.len()
    }

    /// Whether `next`, whose TSNs follow, goes on with the same message.
    fn is_continued_by(&self, next: &Self) -> bool {
        let (Some(last), Some(first)) = (self.fragments.back(), next.fragments.front()) else {
            return false;
        };
        last.flags & flag::END == 0 && first.flags & flag::BEGIN == 0 && last.stream == first.stream
    }

    fn is_whole(&self) -> bool {
        let has = |data: Option<&Data>, wanted| data.is_some_and(|data| data.flags & wanted != 0);
        has(self.fragments.front(), flag::BEGIN) && has(self.fragments.back(), flag::END)
    }

    fn append(&mut self, mut next: Self) {
        self.len += next.len;
        if next.fragments.len() <= self.fragments.len() {
            self.fragments.append(&mut next.fragments);
        } else {
            while let Some(data) = self.fragments.pop_back() {
                next.fragments.push_front(data);
            }
            self.fragments = next.fragments;
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The cumulative TSN, extended so that it never wraps.
    cumulative: u64,
    /// Chunks beyond it that are not part of a delivered message, by the first TSN of their run.
    parked: BTreeMap<u64, Run>,
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
    pub(super) fn take_whole(&mut self) -> std::vec::Drain<'_, Whole> {
        self.whole.drain(..)
    }

    fn extend(&self, tsn: u32) -> u64 {
        let distance = tsn.wrapping_sub(self.cumulative as u32) as i32;
        self.cumulative.wrapping_add_signed(i64::from(distance))
    }

    /// Takes one chunk. `held` is what counts against the window, here and elsewhere. What exceeds the window is
    /// dropped, with some patience, because the peer does not know what we count beside the bytes, and more of it for
    /// a chunk that fills a gap, because what came after it waits for it.
    pub(super) fn handle_data(
        &mut self,
        data: Data,
        held: usize,
        window: usize,
    ) -> Result<(), Violation> {
        let tsn = self.extend(data.tsn);
        if tsn <= self.cumulative || self.is_in_ranges(tsn) {
            if self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(data.tsn);
            }
            self.ack = Ack::Now;
            return Ok(());
        }
        let highest = self.ranges.last().map_or(self.cumulative, |&(_, end)| end);
        let limit = if tsn < highest {
            2 * window
        } else {
            window + window / 2
        };
        if held + data.payload.len() > limit || tsn > self.cumulative + MAX_AHEAD {
            self.ack = Ack::Now;
            return Ok(());
        }
        if data.flags & flag::IMMEDIATE != 0 {
            self.ack = Ack::Now;
        }
        // A gap is reported at once, and so is its end (RFC 9260 section 6.7).
        let had_gap = !self.ranges.is_empty();
        if tsn == self.cumulative + 1 {
            self.cumulative = tsn;
            self.append(data)?;
            self.advance()?;
        } else {
            self.park(tsn, data)?;
        }
        if had_gap || !self.ranges.is_empty() {
            self.ack = Ack::Now;
        }
        Ok(())
    }

    /// Whether nothing that came after it has arrived.
    pub(super) fn is_ahead(&self, tsn: u32) -> bool {
        self.extend(tsn) > self.ranges.last().map_or(self.cumulative, |&(_, end)| end)
    }

    fn is_in_ranges(&self, tsn: u64) -> bool {
        let index = self.ranges.partition_point(|&(_, end)| end < tsn);
        self.ranges
            .get(index)
            .is_some_and(|&(start, _)| start <= tsn)
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
        self.cumulative = end;
        let mut next = start;
        while let Some(entry) = self.parked.first_entry()
            && *entry.key() <= end
        {
            let (first, run) = entry.remove_entry();
            self.skip_delivered(next, first)?;
            next = first + run.count();
            self.held -= run.held();
            for data in run.fragments {
                self.append(data)?;
            }
        }
        self.skip_delivered(next, end + 1)
    }

    /// Chunks that are not parked were delivered already, as whole messages: no other may be open before them.
    fn skip_delivered(&self, from: u64, to: u64) -> Result<(), Violation> {
        if from < to && !self.partial.is_empty() {
            Err(Violation::Fragmentation)
        } else {
            Ok(())
        }
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
            self.held -= self.partial_len + OVERHEAD * self.partial.len();
            self.whole
                .extend(join(self.partial.iter(), self.partial_len));
            self.partial.clear();
            self.partial.shrink_to(64);
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
    fn park(&mut self, tsn: u64, data: Data) -> Result<(), Violation> {
        self.insert_range(tsn);
        let (mut first, mut run) = (tsn, Run::new(data));
        self.held += run.held();
        let before = self.parked.range(..tsn).next_back();
        if let Some((&start, before)) = before
            && start + before.count() == tsn
            && before.is_continued_by(&run)
            && let Some(mut before) = self.parked.remove(&start)
        {
            before.append(run);
            (first, run) = (start, before);
        }
        if self
            .parked
            .get(&(tsn + 1))
            .is_some_and(|after| run.is_continued_by(after))
            && let Some(after) = self.parked.remove(&(tsn + 1))
        {
            run.append(after);
        }
        if !run.is_whole() {
            self.parked.insert(first, run);
            return Ok(());
        }
        self.held -= run.held();
        self.check_size(run.len)?;
        self.whole.extend(join(run.fragments.iter(), run.len));
        Ok(())
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

/// `None` only without fragments.
fn join<'a>(fragments: impl Iterator<Item = &'a Data> + Clone, len: usize) -> Option<Whole> {
    let first = fragments.clone().next()?;
    let mut bytes = BytesMut::with_capacity(len);
    fragments.for_each(|fragment| bytes.extend_from_slice(&fragment.payload));
    Some(whole(first, bytes.freeze()))
}

#[cfg(test)]
#[path = "tests/receive.rs"]
mod tests;
