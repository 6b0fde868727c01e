//! Bytes of the peer: put into order over changing paths, then kept until somebody reads them.
//!
//! With Session Resume the numbers decide: what is old is dropped, what is ahead waits. Without, the first DATA on
//! another path starts a barrier: DATA of the new path waits until a PING on the old one is answered, because all
//! that was sent on the old path has arrived by then. The session owns it, sends that PING, and stops the peer when
//! too much is unread.

use std::collections::{BTreeMap, VecDeque, btree_map::Entry};

use bytes::Bytes;

use super::{Instant, PathId, path::Nonce};
use crate::socketpipe::frame::Data;

/// What a waiting piece costs beside its bytes.
const PIECE_COST: usize = 64;
/// DATA that waits for other DATA before it; above that, a path whose DATA waits is not read.
const MAX_AHEAD: usize = 1024 * 1024;
/// DATA ahead of its turn that is kept at most. What is beyond is dropped: no peer that keeps to the rules comes near, as the
/// missing piece is on the one path that is still read.
const MOST_AHEAD: usize = 2 * MAX_AHEAD;

/// What DATA did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is delivered, waits, or was there before.
    Fine,
    /// It came by another path than the DATA before it: a barrier is needed, `barrier` takes its nonce.
    NewPath {
        /// Where the DATA before it came from.
        old: PathId,
    },
    /// After a resume the peer went on behind what was lost.
    Skipped,
}

/// DATA of a new path that waits for the end of the old one.
#[derive(Debug)]
struct Barrier {
    new: PathId,
    nonce: Option<Nonce>,
    waiting: VecDeque<Data>,
}

/// The receiving half of a session.
#[derive(Debug)]
pub(super) struct Inbound {
    numbered: bool,
    /// Number of the next piece to deliver.
    next: u64,
    /// With the path each has come by, while that is there.
    ahead: BTreeMap<u64, (Option<PathId>, Data)>,
    ahead_cost: usize,
    /// When the oldest gap appeared.
    gap_since: Option<Instant>,
    /// The session was just resumed: the next number tells whether the peer repeats what was lost.
    just_resumed: bool,
    /// Path of the DATA that is delivered; without numbers only.
    current: Option<PathId>,
    /// The main path, where DATA begins even if the first to come is on another one.
    main: Option<PathId>,
    barrier: Option<Barrier>,
    unread: VecDeque<Bytes>,
    /// Cost of `unread`.
    unread_len: usize,
    /// Unread bytes that stop the peer.
    pause: usize,
    /// What is still read of a peer that was told to stop.
    under_way: usize,
    /// The peer was told to stop.
    stopped: bool,
    /// The peer has no more bytes.
    pub(super) ended: bool,
    /// Some DATA has come.
    pub(super) begun: bool,
    /// Bytes delivered.
    pub(super) received: u64,
}

impl Inbound {
    /// Stops the peer above `pause` unread bytes, and takes so many more that were `under_way` then.
    pub(super) fn new(pause: usize, under_way: usize) -> Self {
        Self {
            numbered: false,
            next: 1,
            ahead: BTreeMap::new(),
            ahead_cost: 0,
            gap_since: None,
            just_resumed: false,
            current: None,
            main: None,
            barrier: None,
            unread: VecDeque::new(),
            unread_len: 0,
            pause: pause.max(1),
            under_way,
            stopped: false,
            ended: false,
            begun: false,
            received: 0,
        }
    }

    /// The handshake is done, on this path.
    pub(super) fn agree(&mut self, numbered: bool, main: PathId) {
        self.numbered = numbered;
        self.main = Some(main);
    }

    /// Number of the last piece received without a gap before it.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Takes DATA that came by `path`; `main`: by the path on which a session is resumed.
    pub(super) fn take(&mut self, now: Instant, path: PathId, main: bool, data: Data) -> Taken {
        self.begun = true;
        if self.numbered {
            self.take_numbered(now, path, main, data)
        } else {
            self.take_in_turn(path, data)
        }
    }

    fn take_numbered(&mut self, now: Instant, path: PathId, main: bool, data: Data) -> Taken {
        // A peer that does not number its DATA counts it all the same.
        let number = data.number.unwrap_or(self.next);
        let mut taken = Taken::Fine;
        if main && std::mem::take(&mut self.just_resumed) && number > self.next {
            self.next = number;
            taken = Taken::Skipped;
        }
        if number > self.next {
            let cost = self.ahead_cost + data.bytes.len() + PIECE_COST;
            if cost <= MOST_AHEAD
                && let Entry::Vacant(place) = self.ahead.entry(number)
            {
                place.insert((Some(path), data));
                self.ahead_cost = cost;
            }
        } else if number == self.next {
            self.next += 1;
            self.deliver(data);
            self.deliver_ahead();
        }
        self.gap_since = match self.ahead.is_empty() {
            true => None,
            false => self.gap_since.or(Some(now)),
        };
        taken
    }

    /// Delivers what waited for the piece just delivered.
    fn deliver_ahead(&mut self) {
        while let Some((_, data)) = self.ahead.remove(&self.next) {
            self.ahead_cost -= data.bytes.len() + PIECE_COST;
            self.next += 1;
            self.deliver(data);
            // The gap that counts is the one behind this piece; it is younger.
            self.gap_since = None;
        }
    }

    fn take_in_turn(&mut self, path: PathId, data: Data) -> Taken {
        let first = self.main.unwrap_or(path);
        let current = *self.current.get_or_insert(first);
        if let Some(barrier) = &mut self.barrier
            && barrier.new == path
        {
            self.ahead_cost += data.bytes.len() + PIECE_COST;
            barrier.waiting.push_back(data);
            return Taken::Fine;
        }
        if path == current {
            self.deliver(data);
            return Taken::Fine;
        }
        self.ahead_cost += data.bytes.len() + PIECE_COST;
        self.barrier = Some(Barrier {
            new: path,
            nonce: None,
            waiting: VecDeque::from([data]),
        });
        Taken::NewPath { old: current }
    }

    /// The PING of the barrier has this nonce.
    pub(super) fn guard(&mut self, nonce: Nonce) {
        if let Some(barrier) = &mut self.barrier {
            barrier.nonce = Some(nonce);
        }
    }

    /// A PING was answered: if it was the barrier's, what waited is delivered.
    pub(super) fn confirm(&mut self, nonce: Nonce) {
        if self
            .barrier
            .as_ref()
            .is_some_and(|barrier| barrier.nonce == Some(nonce))
        {
            self.lift_barrier();
        }
    }

    /// Where the PING of the barrier was sent, if DATA waits for its answer.
    pub(super) fn guarded(&self) -> Option<(PathId, Nonce)> {
        self.current.zip(self.barrier.as_ref()?.nonce)
    }

    /// Its PING is not answered: what waited is taken as it is.
    pub(super) fn give_up_barrier(&mut self) {
        self.lift_barrier();
    }

    /// Nothing more comes by the old path.
    fn lift_barrier(&mut self) {
        if let Some(barrier) = self.barrier.take() {
            self.current = Some(barrier.new);
            for data in barrier.waiting {
                self.ahead_cost -= data.bytes.len() + PIECE_COST;
                self.deliver(data);
            }
        }
    }

    /// A path is gone for good.
    pub(super) fn path_gone(&mut self, path: PathId) {
        // What is missing now comes again by another path, perhaps by one whose DATA waits.
        for (from, _) in self.ahead.values_mut() {
            *from = None;
        }
        if self.current == Some(path) {
            self.lift_barrier();
        }
        if self.current == Some(path) {
            self.current = None;
        }
    }

    fn deliver(&mut self, data: Data) {
        self.ended |= data.end;
        if !data.bytes.is_empty() {
            self.received += data.bytes.len() as u64;
            self.unread_len += data.bytes.len() + PIECE_COST;
            self.unread.push_back(data.bytes);
        }
    }

    /// The peer sends everything again that is not delivered: what waits is not needed. `may_skip`: it may be one that
    /// cannot, and goes on behind what was lost.
    pub(super) fn resumed(&mut self, may_skip: bool) {
        self.ahead.clear();
        self.ahead_cost = 0;
        self.gap_since = None;
        self.just_resumed = may_skip;
        // Flow control starts anew.
        self.stopped = false;
    }

    /// DATA may come by a second path from now on, and be ahead of its turn for that reason.
    pub(super) fn expect_two_paths(&mut self) {
        self.just_resumed = false;
    }

    /// Next unread piece.
    pub(super) fn read(&mut self) -> Option<Bytes> {
        let bytes = self.unread.pop_front()?;
        self.unread_len -= bytes.len() + PIECE_COST;
        Some(bytes)
    }

    /// Whether something can be read.
    pub(super) fn is_readable(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Bytes that wait, delivered or not.
    pub(super) fn held(&self) -> usize {
        self.unread_len + self.ahead_cost
    }

    /// Whether the peer is to be told now to stop (`Some(true)`) or to go on.
    pub(super) fn flow(&mut self) -> Option<bool> {
        let stop = match self.stopped {
            false => self.unread_len > self.pause,
            true => self.unread_len >= self.pause / 4,
        };
        let changed = stop != self.stopped;
        self.stopped = stop;
        changed.then_some(stop)
    }

    /// Whether DATA of this path has a place to go. If not, either the peer ignores that it was told to stop, or its
    /// DATA would only wait for that of another path.
    pub(super) fn wants(&self, path: PathId) -> bool {
        let full = self.unread_len >= self.pause.saturating_add(self.under_way);
        !full && (self.ahead_cost < MAX_AHEAD || !self.would_wait(path))
    }

    /// Whether more DATA of this path would be ahead of its turn.
    fn would_wait(&self, path: PathId) -> bool {
        match &self.barrier {
            Some(barrier) => barrier.new == path,
            // What is on one path is in order: behind a piece that waits there is none that is missing.
            None => self.ahead.values().any(|(from, _)| *from == Some(path)),
        }
    }

    /// Since when a piece is missing.
    pub(super) fn gap_since(&self) -> Option<Instant> {
        self.gap_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBSOCKET: PathId = PathId(1);
    const CHANNEL: PathId = PathId(2);
    /// Largest piece here.
    const PIECE: usize = 60_000;

    struct Receiver {
        inbound: Inbound,
        now: Instant,
    }

    impl Receiver {
        fn new() -> Self {
            let mut inbound = Inbound::new(usize::MAX, 0);
            inbound.agree(true, WEBSOCKET);
            #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
            let now = Instant::now();
            Self { inbound, now }
        }

        /// One piece, if the path is read.
        fn take(&mut self, path: PathId, number: u64, len: usize) -> bool {
            let wanted = self.inbound.wants(path);
            if wanted {
                let data = Data {
                    number: Some(number),
                    end: false,
                    bytes: vec![0; len].into(),
                };
                self.inbound.take(self.now, path, path == WEBSOCKET, data);
            }
            wanted
        }
    }

    #[test]
    fn two_paths_that_take_turns_ahead_are_both_stopped() {
        let mut receiver = Receiver::new();
        for number in 0..1_000 {
            receiver.take(WEBSOCKET, 10_000 + number, PIECE);
            receiver.take(CHANNEL, 20_000 + number, 1);
        }
        assert!(receiver.inbound.held() <= MAX_AHEAD + 2 * (PIECE + PIECE_COST));
    }

    #[test]
    fn pieces_in_turn_open_no_way_for_more_that_wait() {
        let mut receiver = Receiver::new();
        for number in 0..1_000 {
            receiver.take(WEBSOCKET, 10_000 + number, PIECE);
            assert!(receiver.take(CHANNEL, 1 + number, 1));
            receiver.inbound.read();
        }
        assert!(receiver.inbound.held() <= MAX_AHEAD + PIECE + PIECE_COST);
    }

    #[test]
    fn the_path_that_brings_what_is_missing_is_read_however_often_the_peer_changes_it() {
        let mut receiver = Receiver::new();
        let paths = [WEBSOCKET, CHANNEL];
        // Each path has the next 40 pieces, in turn; the other one comes first, as far as it is read.
        let numbers = |path: usize, count: u64| (count / 40 * 80) + count % 40 + 40 * path as u64;
        let mut done = [0_u64; 2];
        while done != [400, 400] {
            let before = done;
            for (index, path) in paths.iter().enumerate().rev() {
                while done[index] < 400 {
                    let number = 1 + numbers(index, done[index]);
                    if !receiver.take(*path, number, PIECE) {
                        break;
                    }
                    done[index] += 1;
                    receiver.inbound.read();
                }
            }
            assert_ne!(done, before, "nobody is read");
        }
        assert_eq!(receiver.inbound.last(), 800);
    }

    #[test]
    fn when_a_path_is_gone_the_other_may_bring_what_is_missing() {
        let mut receiver = Receiver::new();
        let mut number = 100;
        while receiver.take(WEBSOCKET, number, PIECE) {
            number += 1;
        }
        receiver.inbound.path_gone(CHANNEL);
        assert!(receiver.take(WEBSOCKET, 1, PIECE));
    }

    #[test]
    fn what_is_far_ahead_of_its_turn_is_not_kept_whoever_sends_it() {
        let mut receiver = Receiver::new();
        for number in 0..1_000 {
            receiver.take(WEBSOCKET, 10_000 + number, PIECE);
            receiver.inbound.path_gone(CHANNEL);
        }
        assert!(receiver.inbound.held() <= MOST_AHEAD);
    }
}
