//! One transport of a session: what waits to leave by it, its PINGs, and whether it still lives.
//!
//! Owned by the session, which decides what is sent and what a dead path means. Control frames wait here in order;
//! DATA does not, it is drawn from the session when the transport has room.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Instant, PathId, PathKind};
use crate::socketpipe::frame::Frame;

/// Waiting control frames above which the transport is not read: what waits is mostly answers to the peer.
const MAX_WAITING: usize = 64;
/// Waiting control frames that are never exceeded by frames of our own user.
const MAX_OWN_WAITING: usize = 256;
/// PINGs that are answered at once; ten more each second and one for each [`DATA_PER_PING`].
const PING_BURST: u32 = 32;
/// DATA that earns its sender one more PING: senders confirm their DATA by PINGs.
const DATA_PER_PING: usize = 8 * 1024;
/// Time that earns one more PING.
const TIME_PER_PING: Duration = Duration::from_millis(100);

/// Payload of our PINGs.
pub(super) type Nonce = [u8; 16];

/// Source of nonces: a hash of a seed and a counter, so that nobody can answer a PING before it was sent.
pub(super) struct Nonces {
    seed: [u8; 32],
    count: u64,
}

impl Nonces {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, count: 0 }
    }

    pub(super) fn next(&mut self) -> Nonce {
        self.count += 1;
        let hash = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.count.to_be_bytes())
            .finalize();
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&hash[..16]);
        nonce
    }
}

/// A control frame that waits.
#[derive(Debug)]
pub(super) enum Waiting {
    /// As it is.
    Frame(Frame),
    /// RESUME_REQUEST: its number is filled in when it leaves.
    Resume,
    /// A PING of ours: its clock starts when it leaves.
    Ping(Nonce),
}

/// A PING of ours without answer.
#[derive(Debug)]
struct Ping {
    nonce: Nonce,
    /// When it left, or when it was queued as long as it has not.
    since: Instant,
}

/// What a path needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// A PING.
    Ping,
    /// It is dead.
    Lost,
}

/// One transport.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) kind: PathKind,
    waiting: VecDeque<Waiting>,
    pings: VecDeque<Ping>,
    missed: u8,
    /// When the last frame came.
    heard: Instant,
    /// PINGs of the peer that will be answered, and since when they are counted.
    budget: u32,
    budget_since: Instant,
    /// DATA received that has not earned a PING yet.
    data_received: usize,
    /// PINGs of the peer whose answers wait, see [`Self::withhold`].
    withheld: Vec<Bytes>,
    /// It is not read at present by our own choice.
    pub(super) deaf: bool,
    /// Since when, or when it was last written to for that reason.
    nudged: Instant,
    /// The session goes on without it; only what waits may still leave.
    pub(super) retired: bool,
}

impl Path {
    pub(super) fn new(now: Instant, id: PathId, kind: PathKind) -> Self {
        Self {
            id,
            kind,
            waiting: VecDeque::new(),
            pings: VecDeque::new(),
            missed: 0,
            heard: now,
            budget: PING_BURST,
            budget_since: now,
            data_received: 0,
            withheld: Vec::new(),
            deaf: false,
            nudged: now,
            retired: false,
        }
    }

    /// Queues a control frame. The peer cannot make the queue long, see [`Self::is_crowded`]; the user could, and
    /// loses the frame then.
    pub(super) fn send(&mut self, frame: Frame) -> bool {
        let room = self.waiting.len() < MAX_OWN_WAITING;
        if room {
            self.waiting.push_back(Waiting::Frame(frame));
        }
        room
    }

    /// Queues a RESUME_REQUEST.
    pub(super) fn send_resume(&mut self) {
        self.waiting.push_back(Waiting::Resume);
    }

    /// Queues a PING of ours.
    pub(super) fn ping(&mut self, now: Instant, nonce: Nonce) {
        self.waiting.push_back(Waiting::Ping(nonce));
        self.pings.push_back(Ping { nonce, since: now });
    }

    /// The next control frame.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Waiting> {
        let next = self.waiting.pop_front()?;
        if let Waiting::Ping(nonce) = &next
            && let Some(ping) = self.pings.iter_mut().find(|ping| ping.nonce == *nonce)
        {
            ping.since = now;
        }
        Some(next)
    }

    /// Whether the transport should not be read until some of what waits has left.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.len() + self.withheld.len() >= MAX_WAITING
    }

    /// The session goes on without this path; only this frame may still leave by it.
    pub(super) fn retire(&mut self, last: Option<Frame>) {
        self.retired = true;
        self.pings.clear();
        self.withheld.clear();
        self.waiting.clear();
        self.waiting.extend(last.map(Waiting::Frame));
    }

    /// A frame came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.missed = 0;
    }

    /// When the last one came.
    pub(super) fn heard_at(&self) -> Instant {
        self.heard
    }

    /// Notes whether the transport is read. Silence while it is not means nothing.
    pub(super) fn listen(&mut self, now: Instant, listening: bool) {
        if self.deaf && listening {
            self.heard = now;
            for ping in &mut self.pings {
                ping.since = now;
            }
        }
        if !self.deaf && !listening {
            self.nudged = now;
        }
        self.deaf = !listening;
    }

    /// When a path that is not read has to be written to. Nobody would notice otherwise that the peer is gone: its end
    /// is behind what is not read.
    pub(super) fn nudge_at(&self, interval: Duration) -> Option<Instant> {
        (self.deaf && !self.retired).then(|| self.nudged + interval)
    }

    /// Writes to it, with a PING whose answer nobody waits for.
    pub(super) fn nudge(&mut self, now: Instant, nonce: Nonce) {
        self.nudged = now;
        if self.waiting.is_empty() {
            self.waiting
                .push_back(Waiting::Frame(Frame::Ping(Bytes::copy_from_slice(&nonce))));
        }
    }

    /// DATA of this length came.
    pub(super) fn data_received(&mut self, length: usize) {
        self.data_received += length;
        let earned = self.data_received / DATA_PER_PING;
        self.data_received %= DATA_PER_PING;
        let earned = u32::try_from(earned).unwrap_or(PING_BURST);
        self.budget = self.budget.saturating_add(earned).min(PING_BURST);
    }

    /// Keeps a PING of the peer for later: its answer would confirm DATA that a RESUME_REQUEST under way on another
    /// path does not count, and the peer would forget what it is about to be asked for.
    pub(super) fn withhold(&mut self, now: Instant, payload: Bytes) -> bool {
        let allowed = self.spend(now);
        if allowed {
            self.withheld.push(payload);
        }
        allowed
    }

    /// Answers what was kept.
    pub(super) fn release(&mut self) {
        for payload in self.withheld.drain(..) {
            self.waiting.push_back(Waiting::Frame(Frame::Pong(payload)));
        }
    }

    /// Queues the answer to a PING of the peer, behind all that has left by this path; false if it sends too many.
    pub(super) fn answer(&mut self, now: Instant, payload: Bytes) -> bool {
        let allowed = self.spend(now);
        if allowed {
            self.waiting.push_back(Waiting::Frame(Frame::Pong(payload)));
        }
        allowed
    }

    /// Takes one from the PINGs the peer may send.
    fn spend(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.budget_since);
        let earned = passed.as_millis() / TIME_PER_PING.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(PING_BURST);
            self.budget = self.budget.saturating_add(earned).min(PING_BURST);
            self.budget_since = now;
        }
        let allowed = self.budget > 0;
        self.budget -= u32::from(allowed);
        allowed
    }

    /// A PONG came: its nonce and the time it took, if it answers one of our PINGs.
    pub(super) fn answered(&mut self, now: Instant, payload: &[u8]) -> Option<(Nonce, Duration)> {
        let found = self
            .pings
            .iter()
            .position(|ping| ping.nonce.as_slice() == payload)?;
        let ping = self.pings.remove(found)?;
        Some((ping.nonce, now.saturating_duration_since(ping.since)))
    }

    /// Since when this PING of ours has had time to be answered; none if it was, or if the path is not read.
    pub(super) fn pinged(&self, nonce: Nonce) -> Option<Instant> {
        let ping = self.pings.iter().find(|ping| ping.nonce == nonce)?;
        (!self.deaf).then_some(ping.since)
    }

    /// Whether a PING of ours has no answer.
    pub(super) fn has_open_ping(&self) -> bool {
        !self.pings.is_empty()
    }

    /// When [`Self::due`] has to be asked again.
    pub(super) fn deadline(&self, interval: Duration, timeout: Duration) -> Instant {
        match self.pings.front() {
            // Any frame is a sign of life, not only the PONG.
            Some(ping) => ping.since.max(self.heard) + timeout,
            None => self.heard + interval,
        }
    }

    /// What keep-alive demands now.
    pub(super) fn due(
        &mut self,
        now: Instant,
        interval: Duration,
        timeout: Duration,
        missed_pings: u8,
    ) -> Due {
        if now < self.deadline(interval, timeout) {
            return Due::Nothing;
        }
        if self.pings.is_empty() {
            return Due::Ping;
        }
        self.missed += 1;
        if self.missed >= missed_pings {
            return Due::Lost;
        }
        for ping in &mut self.pings {
            ping.since = now;
        }
        Due::Ping
    }
}
