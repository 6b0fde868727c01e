//! The sending half of an association: fragments in flight, what the peer acknowledged, how fast to send.
//!
//! Owns the TSNs we assign and everything sent but not acknowledged. Which message is next is decided by `streams`; which
//! packet a chunk travels in by the association. Congestion control is that of RFC 9260 section 7 with a milder
//! reduction; losses are found by counting packets and by time (as RACK, RFC 8985, does it), because acknowledgements
//! come once per batch and three of them may take long.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::wire::{Data, Sack, before};

/// A full packet, as congestion control counts.
pub(super) const MTU: usize = 1160;
/// First window (RFC 6928: ten packets).
const INITIAL_WINDOW: usize = 10 * MTU;
/// The window never falls below this, so that three later packets can report a loss.
const MIN_WINDOW: usize = 4 * MTU;
/// The window never grows beyond this; what may be queued is bounded by the owner.
const MAX_WINDOW: usize = 16 << 20;
/// A chunk is lost when one sent so many packets later has arrived.
const REORDERING: u64 = 3;
/// Reordering within less time than this is none.
const MIN_PATIENCE: Duration = Duration::from_millis(1);
/// First retransmission time-out, its lower and its upper bound. The lower one is above the 200 ms for which peers
/// delay acknowledgements; the upper one keeps a path that comes back from being idle for long.
const RTO_INITIAL: Duration = Duration::from_millis(1000);
const RTO_MIN: Duration = Duration::from_millis(250);
const RTO_MAX: Duration = Duration::from_millis(2000);
/// What the time-out leaves above the round trip at least: on a steady path the variation comes to nothing, and a
/// time-out of one round trip would be spurious.
const RTO_SLACK: Duration = Duration::from_millis(50);
/// Added to two round trips before the tail of a flight is probed: the 20 ms for which this crate delays acknowledgements,
/// and timers that come late.
const PROBE_SLACK: Duration = Duration::from_millis(30);
/// A flight of more bytes asks for its acknowledgement.
const LONG_FLIGHT: usize = 4 * MTU;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    /// To be sent again.
    Lost,
    /// Arrived, out of order.
    Acknowledged,
}

#[derive(Debug)]
struct Sent {
    data: Data,
    at: Instant,
    /// The packet it travelled in, counted from the first one.
    packet: u64,
    state: State,
    again: bool,
}

/// What one SACK told.
#[derive(Debug, Default)]
struct News {
    /// Bytes that arrived.
    bytes: usize,
    /// Round trip of the latest chunk among them that was sent once.
    rtt: Option<Duration>,
}

/// Round trip and time-out (RFC 9260 section 6.3).
#[derive(Debug)]
struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
    timeout: Duration,
    backoff: u32,
}

impl RoundTrip {
    fn sample(&mut self, rtt: Duration) {
        let smoothed = match self.smoothed {
            None => {
                self.variation = rtt / 2;
                rtt
            }
            Some(old) => {
                self.variation = (self.variation * 3 + old.abs_diff(rtt)) / 4;
                (old * 7 + rtt) / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.timeout = (smoothed + (self.variation * 4).max(RTO_SLACK)).clamp(RTO_MIN, RTO_MAX);
        self.backoff = 0;
    }

    fn timeout(&self) -> Duration {
        (self.timeout * (1 << self.backoff.min(4))).min(RTO_MAX)
    }
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Sender {
    next_tsn: u32,
    /// Chunks after the cumulative acknowledgement, in TSN order.
    sent: VecDeque<Sent>,
    /// Bytes on their way: neither acknowledged nor lost.
    flying: usize,
    /// Chunks to be sent again, and a TSN that none of them comes before.
    lost: usize,
    lost_from: u32,
    /// Packets begun.
    packet: u64,
    peer_window: usize,
    window: usize,
    threshold: usize,
    /// Losses up to this TSN belong to a reduction already made.
    recovery: Option<u32>,
    round_trip: RoundTrip,
    /// The latest sent of the packets that arrived, and when it left.
    newest: Option<(u64, Instant)>,
    retransmit_at: Option<Instant>,
    probe_at: Option<Instant>,
    probing: bool,
    retransmissions: u64,
}

impl Sender {
    /// Begins with this TSN.
    pub(super) fn new(first_tsn: u32) -> Self {
        Self {
            next_tsn: first_tsn,
            sent: VecDeque::new(),
            flying: 0,
            lost: 0,
            lost_from: first_tsn,
            packet: 0,
            peer_window: 0,
            window: INITIAL_WINDOW,
            threshold: usize::MAX,
            recovery: None,
            round_trip: RoundTrip {
                smoothed: None,
                variation: Duration::ZERO,
                timeout: RTO_INITIAL,
                backoff: 0,
            },
            newest: None,
            retransmit_at: None,
            probe_at: None,
            probing: false,
            retransmissions: 0,
        }
    }

    /// The receive window that the peer's INIT names.
    pub(super) fn set_peer_window(&mut self, window: u32) {
        self.peer_window = window as usize;
    }

    /// A round trip that something else than data measured.
    pub(super) fn sample_round_trip(&mut self, rtt: Duration) {
        self.round_trip.sample(rtt);
    }

    /// The TSN of the last chunk that was given one.
    pub(super) fn last_tsn(&self) -> u32 {
        self.next_tsn.wrapping_sub(1)
    }

    /// Everything up to here is acknowledged.
    pub(super) fn acknowledged_tsn(&self) -> u32 {
        self.next_tsn
            .wrapping_sub(u32::try_from(self.sent.len()).unwrap_or(u32::MAX))
            .wrapping_sub(1)
    }

    /// Smoothed round-trip time.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.round_trip.smoothed
    }

    /// Chunks sent again.
    pub(super) fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    /// The time-out for chunks that are not data.
    pub(super) fn timeout(&self) -> Duration {
        self.round_trip.timeout()
    }

    /// Whether `len` more bytes of new data may be sent now.
    pub(super) fn may_send(&self, len: usize) -> bool {
        if self.lost > 0 {
            return false;
        }
        // With nothing on its way one chunk may always go: it probes a window that is closed (RFC 9260 section 6.1).
        self.flying == 0
            || (self.flying + len <= self.window && self.flying + len <= self.peer_window)
    }

    /// What is sent from here on travels in the next packet.
    pub(super) fn begin_packet(&mut self) {
        self.packet += 1;
    }

    /// Gives new data its TSN and keeps it until it is acknowledged.
    pub(super) fn send(&mut self, now: Instant, mut data: Data) -> Data {
        data.tsn = self.next_tsn;
        self.next_tsn = self.next_tsn.wrapping_add(1);
        self.flying += data.payload.len();
        let packet = self.packet;
        self.sent.push_back(Sent {
            data: data.clone(),
            at: now,
            packet,
            state: State::InFlight,
            again: false,
        });
        let timeout = now + self.round_trip.timeout();
        self.retransmit_at.get_or_insert(timeout);
        self.arm_probe(now);
        data
    }

    fn arm_probe(&mut self, now: Instant) {
        if !self.probing {
            self.probe_at = self
                .round_trip
                .smoothed
                .map(|rtt| now + rtt * 2 + PROBE_SLACK);
        }
    }

    /// The next chunk to be sent again, if it has at most `room` bytes on the wire and the window allows it.
    pub(super) fn resend(&mut self, now: Instant, room: usize) -> Option<Data> {
        if self.lost == 0 {
            return None;
        }
        let window = self.window;
        let front = self.acknowledged_tsn().wrapping_add(1);
        let skipped = if before(front, self.lost_from) {
            self.lost_from.wrapping_sub(front) as usize
        } else {
            0
        };
        let (index, chunk) = self
            .sent
            .iter_mut()
            .enumerate()
            .skip(skipped)
            .find(|(_, chunk)| chunk.state == State::Lost)?;
        let len = chunk.data.payload.len();
        if chunk.data.wire_len() > room || (self.flying > 0 && self.flying + len > window) {
            return None;
        }
        chunk.state = State::InFlight;
        chunk.at = now;
        chunk.packet = self.packet;
        chunk.again = true;
        let data = chunk.data.clone();
        self.lost_from = data.tsn.wrapping_add(1);
        self.lost -= 1;
        self.flying += len;
        self.retransmissions += 1;
        let timeout = now + self.round_trip.timeout();
        if index == 0 {
            // RFC 9260 section 7.2.4: the time begins anew with the earliest chunk.
            self.retransmit_at = Some(timeout);
        } else {
            self.retransmit_at.get_or_insert(timeout);
        }
        self.arm_probe(now);
        Some(data)
    }

    /// Takes a SACK. False: it speaks of what was never sent. `release` learns of each chunk that arrived.
    pub(super) fn handle_sack(
        &mut self,
        now: Instant,
        sack: &Sack,
        mut release: impl FnMut(u16, usize),
    ) -> bool {
        let acknowledged = self.acknowledged_tsn();
        if before(self.last_tsn(), sack.highest()) {
            return false;
        }
        if before(sack.cumulative, acknowledged) {
            // Overtaken by a newer one.
            return true;
        }
        let count = sack.cumulative.wrapping_sub(acknowledged) as usize;
        let before_flying = self.flying;
        let mut news = News::default();
        for _ in 0..count {
            let Some(chunk) = self.sent.pop_front() else {
                break;
            };
            if self.arrive(now, &chunk, &mut news) {
                release(chunk.data.stream, chunk.data.payload.len());
            }
        }
        self.handle_gaps(now, sack, &mut news, &mut release);
        self.peer_window = sack.window as usize;
        if news.bytes > 0 {
            if let Some(rtt) = news.rtt {
                self.round_trip.sample(rtt);
            }
            self.probing = false;
            self.round_trip.backoff = 0;
            self.grow(sack.cumulative, news.bytes, before_flying);
            self.find_losses(sack.highest());
            self.arm_probe(now);
        }
        self.rearm(now, count > 0);
        true
    }

    /// One chunk reached the peer. False: that was known.
    fn arrive(&mut self, now: Instant, chunk: &Sent, news: &mut News) -> bool {
        let len = chunk.data.payload.len();
        match chunk.state {
            State::InFlight => self.flying = self.flying.saturating_sub(len),
            State::Lost => self.lost -= 1,
            State::Acknowledged => return false,
        }
        news.bytes += len;
        let rtt = now.saturating_duration_since(chunk.at);
        // Karn's rule: what was sent twice measures nothing. Of the others the one sent last: acknowledgements of
        // earlier ones may be old, because a SACK has room for so many gaps only.
        if !chunk.again {
            news.rtt = Some(news.rtt.map_or(rtt, |least| least.min(rtt)));
        }
        // So soon after it was sent again, it is the first copy that arrived (RFC 8985 section 6.2).
        let first_copy = chunk.again
            && self
                .round_trip
                .smoothed
                .is_some_and(|smoothed| rtt < smoothed / 2);
        if !first_copy {
            self.newest = self.newest.max(Some((chunk.packet, chunk.at)));
        }
        true
    }

    fn handle_gaps(
        &mut self,
        now: Instant,
        sack: &Sack,
        news: &mut News,
        release: &mut impl FnMut(u16, usize),
    ) {
        // Not borrowed from `self` while its counters change.
        let mut sent = std::mem::take(&mut self.sent);
        for offset in sack.gaps().flat_map(|(start, end)| start..=end) {
            // Offsets count from the cumulative TSN, which is one before the front.
            let Some(chunk) = sent.get_mut(usize::from(offset) - 1) else {
                break;
            };
            if self.arrive(now, chunk, news) {
                chunk.state = State::Acknowledged;
                release(chunk.data.stream, chunk.data.payload.len());
                chunk.data.payload = Bytes::new();
            }
        }
        self.sent = sent;
    }

    /// RFC 9260 section 7.2: slow start, then one packet a round trip; only while the window is in use.
    fn grow(&mut self, cumulative: u32, arrived: usize, flying: usize) {
        if let Some(recovery) = self.recovery {
            if !before(cumulative, recovery) {
                self.recovery = None;
            } else if self.window >= self.threshold {
                // After a time-out the window is below the threshold and grows at once, from almost nothing.
                return;
            }
        }
        if flying + 2 * MTU < self.window {
            return;
        }
        let growth = if self.window < self.threshold {
            arrived
        } else {
            (MTU * arrived / self.window).max(1)
        };
        self.window = (self.window + growth).min(MAX_WINDOW);
    }

    /// Chunks that later packets overtook by too much are lost. Above `highest` the peer told nothing.
    fn find_losses(&mut self, highest: u32) {
        let Some((newest_packet, newest)) = self.newest else {
            return;
        };
        let patience = (self.round_trip.smoothed.unwrap_or_default() / 4).max(MIN_PATIENCE);
        let mut found = None;
        for chunk in &mut self.sent {
            if !before(chunk.data.tsn, highest) {
                break;
            }
            if chunk.state != State::InFlight {
                continue;
            }
            let overtaken = chunk.packet + REORDERING <= newest_packet;
            let outrun = chunk.at + patience < newest;
            if overtaken || outrun {
                chunk.state = State::Lost;
                self.lost += 1;
                self.flying = self.flying.saturating_sub(chunk.data.payload.len());
                found.get_or_insert(chunk.data.tsn);
            }
        }
        let Some(first) = found else { return };
        self.resend_from(first);
        if self.recovery.is_none() {
            self.reduce();
        }
    }

    /// Chunks from this one on were marked as lost.
    fn resend_from(&mut self, tsn: u32) {
        if before(tsn, self.lost_from) {
            self.lost_from = tsn;
        }
    }

    /// Once per window: to seven tenths, as CUBIC (RFC 9438) does.
    fn reduce(&mut self) {
        self.recovery = Some(self.last_tsn());
        self.window = (self.window * 7 / 10).max(MIN_WINDOW);
        self.threshold = self.window;
    }

    fn rearm(&mut self, now: Instant, advanced: bool) {
        if self.sent.is_empty() {
            self.retransmit_at = None;
            self.probe_at = None;
            self.sent.shrink_to(16);
        } else if advanced {
            self.retransmit_at = Some(now + self.round_trip.timeout());
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match (self.retransmit_at, self.probe_at) {
            (Some(retransmit), Some(probe)) => Some(retransmit.min(probe)),
            (retransmit, probe) => retransmit.or(probe),
        }
    }

    /// Probes the tail of a flight, or gives all of it up for lost.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.retransmit_at.is_some_and(|at| at <= now) {
            self.on_retransmission_timeout(now);
        } else if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = None;
            self.probing = true;
            self.resend_last();
        }
    }

    /// RFC 9260 section 6.3.3.
    fn on_retransmission_timeout(&mut self, now: Instant) {
        self.probe_at = None;
        // A window that takes no full packet drops what it does not take: that is not congestion.
        let closed = self.peer_window < MTU;
        for chunk in &mut self.sent {
            if chunk.state == State::InFlight {
                chunk.state = State::Lost;
                self.lost += 1;
            }
        }
        self.lost_from = self.acknowledged_tsn().wrapping_add(1);
        self.flying = 0;
        let first = self.round_trip.backoff == 0;
        self.round_trip.backoff = (self.round_trip.backoff + 1).min(4);
        if !closed {
            if first {
                self.threshold = (self.window / 2).max(MIN_WINDOW);
            }
            self.window = MIN_WINDOW;
            self.recovery = Some(self.last_tsn());
        }
        self.retransmit_at = (!self.sent.is_empty()).then(|| now + self.round_trip.timeout());
    }

    /// The last chunk goes again: its acknowledgement tells what else is missing.
    fn resend_last(&mut self) {
        if let Some(chunk) = self
            .sent
            .iter_mut()
            .rev()
            .find(|chunk| chunk.state == State::InFlight)
        {
            chunk.state = State::Lost;
            self.lost += 1;
            self.flying = self.flying.saturating_sub(chunk.data.payload.len());
            let tsn = chunk.data.tsn;
            self.resend_from(tsn);
        }
    }

    /// Something is to be sent again.
    pub(super) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Bytes that are on their way.
    pub(super) fn on_the_way(&self) -> usize {
        self.flying
    }

    /// How many bytes the network takes at once, as far as is known.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Much is on its way.
    pub(super) fn is_long_flight(&self) -> bool {
        self.flying > LONG_FLIGHT
    }

    /// More is not to be expected soon: the window is used up or everything is lost.
    pub(super) fn is_limited(&self) -> bool {
        !self.may_send(MTU)
    }
}

#[cfg(test)]
#[path = "tests/send.rs"]
mod tests;
