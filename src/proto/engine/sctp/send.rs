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

use super::wire::{Data, Sack, before};

/// A full packet, as congestion control counts.
pub(super) const MTU: usize = 1160;
/// First window (RFC 6928: ten packets).
const INITIAL_WINDOW: usize = 10 * MTU;
/// The window never falls below this, so that three later packets can report a loss.
const MIN_WINDOW: usize = 4 * MTU;
/// The window never grows beyond this; what may be queued is bounded by the owner.
const MAX_WINDOW: usize = 16 << 20;
/// A chunk is lost when one sent so many chunks later has arrived.
const REORDERING: u32 = 3;
/// First retransmission time-out, its lower and its upper bound. The lower one is above the 200 ms for which peers
/// delay acknowledgements; the upper one keeps a path that comes back from being idle for long.
const RTO_INITIAL: Duration = Duration::from_millis(1000);
const RTO_MIN: Duration = Duration::from_millis(250);
const RTO_MAX: Duration = Duration::from_millis(2000);
/// Added to two round trips before the tail of a flight is probed: the peer's scheduling and our timer's.
const PROBE_SLACK: Duration = Duration::from_millis(15);

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
    state: State,
    again: bool,
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
        self.timeout = (smoothed + self.variation * 4).clamp(RTO_MIN, RTO_MAX);
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
    lost: usize,
    peer_window: usize,
    window: usize,
    threshold: usize,
    /// Losses up to this TSN belong to a reduction already made.
    recovery: Option<u32>,
    round_trip: RoundTrip,
    /// When the latest of the chunks that arrived was sent.
    newest: Option<Instant>,
    /// When the latest of those that this SACK brought was sent, if it measures the round trip.
    measured: Option<Instant>,
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
            measured: None,
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

    /// Gives new data its TSN and keeps it until it is acknowledged.
    pub(super) fn send(&mut self, now: Instant, mut data: Data) -> Data {
        data.tsn = self.next_tsn;
        self.next_tsn = self.next_tsn.wrapping_add(1);
        self.flying += data.payload.len();
        self.sent.push_back(Sent {
            data: data.clone(),
            at: now,
            state: State::InFlight,
            again: false,
        });
        self.retransmit_at
            .get_or_insert(now + self.round_trip.timeout());
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
        let chunk = self
            .sent
            .iter_mut()
            .find(|chunk| chunk.state == State::Lost)?;
        let len = chunk.data.payload.len();
        if chunk.data.wire_len() > room || (self.flying > 0 && self.flying + len > window) {
            return None;
        }
        chunk.state = State::InFlight;
        chunk.at = now;
        chunk.again = true;
        let data = chunk.data.clone();
        self.lost -= 1;
        self.flying += len;
        self.retransmissions += 1;
        self.retransmit_at
            .get_or_insert(now + self.round_trip.timeout());
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
        let mut arrived = 0;
        for _ in 0..count {
            let Some(chunk) = self.sent.pop_front() else {
                break;
            };
            let len = chunk.data.payload.len();
            if self.arrive(chunk.state, chunk.at, chunk.again, len) {
                arrived += len;
                release(chunk.data.stream, len);
            }
        }
        arrived += self.handle_gaps(sack, &mut release);
        self.peer_window = sack.window as usize;
        let advanced = count > 0;
        if arrived > 0 {
            self.probing = false;
            self.round_trip.backoff = 0;
            if let Some(at) = self.measured.take() {
                self.round_trip.sample(now.saturating_duration_since(at));
            }
            self.grow(sack.cumulative, arrived, before_flying);
            self.find_losses(sack.highest());
            self.arm_probe(now);
        }
        self.rearm(now, advanced);
        true
    }

    /// One chunk reached the peer. False: that was known.
    fn arrive(&mut self, state: State, at: Instant, again: bool, len: usize) -> bool {
        match state {
            State::InFlight => self.flying = self.flying.saturating_sub(len),
            State::Lost => self.lost -= 1,
            State::Acknowledged => return false,
        }
        self.newest = self.newest.max(Some(at));
        // Karn's rule: what was sent twice measures nothing. Of the others the one sent last: acknowledgements of
        // earlier ones may be old, because a SACK has room for so many gaps only.
        if !again {
            self.measured = self.measured.max(Some(at));
        }
        true
    }

    fn handle_gaps(&mut self, sack: &Sack, release: &mut impl FnMut(u16, usize)) -> usize {
        let mut arrived = 0;
        for offset in sack.gaps().flat_map(|(start, end)| start..=end) {
            // Offsets count from the cumulative TSN, which is one before the front.
            let Some(chunk) = self.sent.get_mut(usize::from(offset) - 1) else {
                break;
            };
            let (state, at, again) = (chunk.state, chunk.at, chunk.again);
            let (stream, payload) = (chunk.data.stream, std::mem::take(&mut chunk.data.payload));
            chunk.state = State::Acknowledged;
            if self.arrive(state, at, again, payload.len()) {
                arrived += payload.len();
                release(stream, payload.len());
            }
        }
        arrived
    }

    /// RFC 9260 section 7.2: slow start, then one packet a round trip; only while the window is in use.
    fn grow(&mut self, cumulative: u32, arrived: usize, flying: usize) {
        if let Some(recovery) = self.recovery {
            if before(cumulative, recovery) {
                return;
            }
            self.recovery = None;
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

    /// Chunks that later ones overtook by too much are lost.
    fn find_losses(&mut self, highest: u32) {
        let Some(newest) = self.newest else { return };
        let patience = self.round_trip.smoothed.unwrap_or_default() / 8;
        let mut found = false;
        for chunk in &mut self.sent {
            if !before(chunk.data.tsn, highest) {
                break;
            }
            if chunk.state != State::InFlight {
                continue;
            }
            let overtaken = !chunk.again
                && highest.wrapping_sub(chunk.data.tsn) >= REORDERING
                && chunk.at <= newest;
            let outrun = chunk.at + patience < newest;
            if overtaken || outrun {
                chunk.state = State::Lost;
                self.lost += 1;
                self.flying = self.flying.saturating_sub(chunk.data.payload.len());
                found = true;
            }
        }
        if found && self.recovery.is_none() {
            self.reduce();
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
        let closed = self.peer_window == 0;
        for chunk in &mut self.sent {
            if chunk.state == State::InFlight {
                chunk.state = State::Lost;
                self.lost += 1;
            }
        }
        self.flying = 0;
        self.round_trip.backoff = (self.round_trip.backoff + 1).min(4);
        if !closed {
            self.threshold = (self.window / 2).max(MIN_WINDOW);
            self.window = MIN_WINDOW;
            // Slow start follows, whatever was under way.
            self.recovery = None;
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
        }
    }

    /// Something is to be sent again.
    pub(super) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// More is not to be expected soon: the window is used up or everything is lost.
    pub(super) fn is_limited(&self) -> bool {
        !self.may_send(MTU)
    }
}

#[cfg(test)]
#[path = "tests/send.rs"]
mod tests;
