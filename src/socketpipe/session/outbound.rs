//! Bytes on their way to the peer: not sent yet, and sent but perhaps lost.
//!
//! With Session Resume every piece has a number and is kept until the peer is known to have it: a PONG proves that
//! all DATA sent before its PING on that path has arrived, and a resume says so outright. After a loss sending goes
//! back to the first piece the peer lacks. Without Session Resume a piece is forgotten when it is sent.
//!
//! The session owns it and asks it for the next piece when the path of DATA has room.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::path::Nonce;
use crate::socketpipe::frame::Data;

/// What a kept piece costs beside its bytes, so that many tiny pieces count for what they are.
const PIECE_COST: usize = 64;
/// Largest piece. With header and number it stays within 16 KiB, which every transport takes: data channels of all
/// browsers, libp2p streams over WebRTC, and any turn of a fair scheduler.
const MAX_PIECE: usize = 16 * 1024 - 16;
/// Bytes of the number, which count against the limit on DATA.
const NUMBER_LEN: usize = 8;
/// Bytes that wait while a transport is there: more would only make Ctrl-C slow.
const MAX_UNSENT: usize = 256 * 1024;
/// Sent bytes after which a PING asks for confirmation, if the memory is large enough for that.
const CONFIRM_EVERY: usize = 256 * 1024;

/// A kept piece.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    end: bool,
}

impl Piece {
    fn cost(&self) -> usize {
        self.bytes.len() + PIECE_COST
    }
}

/// Pieces up to a number have left by one path before this PING did.
#[derive(Debug)]
struct Mark {
    upto: u64,
    nonce: Nonce,
    confirmed: bool,
}

/// A peer claims to have received a number that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrongNumber {
    /// It was never sent.
    TooHigh,
    /// What follows it is not kept any more.
    Dropped,
}

/// The sending half of a session.
#[derive(Debug)]
pub(super) struct Outbound {
    numbered: bool,
    limit: usize,
    piece: usize,
    unsent: VecDeque<Bytes>,
    unsent_len: usize,
    /// Numbered pieces, the first has number `base`.
    kept: VecDeque<Piece>,
    kept_cost: usize,
    base: u64,
    /// How many of `kept` have left since sending last went back.
    cursor: usize,
    /// The user has no more bytes; taken when the mark is made a piece.
    end_queued: bool,
    marks: VecDeque<Mark>,
    /// Cost of what has left since the last mark.
    since_mark: usize,
    /// Highest number that ever left.
    highest: u64,
    /// Something that left may be lost: nothing leaves and nothing counts as confirmed before the peer says what it has.
    in_doubt: bool,
    /// The peer said XOFF.
    pub(super) paused: bool,
    /// Bytes sent for the first time, and again.
    pub(super) sent: u64,
    pub(super) repeated: u64,
}

impl Outbound {
    /// Keeps at most `limit` bytes. Nothing is numbered before [`Self::agree`].
    pub(super) fn new(limit: usize) -> Self {
        Self {
            numbered: false,
            limit,
            piece: MAX_PIECE,
            unsent: VecDeque::new(),
            unsent_len: 0,
            kept: VecDeque::new(),
            kept_cost: 0,
            base: 1,
            cursor: 0,
            end_queued: false,
            marks: VecDeque::new(),
            since_mark: 0,
            highest: 0,
            in_doubt: false,
            paused: false,
            sent: 0,
            repeated: 0,
        }
    }

    /// The handshake is done.
    pub(super) fn agree(&mut self, numbered: bool, max_message: u32) {
        self.numbered = numbered;
        let largest = (max_message as usize).saturating_sub(NUMBER_LEN).max(1);
        self.piece = largest.min(MAX_PIECE);
    }

    /// Bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.unsent_len + self.kept_cost
    }

    /// How many bytes [`Self::push`] should be given now; `connected`: somebody is there to take them.
    pub(super) fn room(&self, connected: bool) -> usize {
        let room = self.limit.saturating_sub(self.held());
        if connected {
            room.min(MAX_UNSENT.saturating_sub(self.unsent_len))
        } else {
            room
        }
    }

    /// Takes bytes of the user.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.unsent_len += bytes.len();
        self.unsent.push_back(bytes);
    }

    /// Drops the oldest output until `extra` bytes fit: for terminals that run on without anybody looking.
    pub(super) fn make_room(&mut self, extra: usize) {
        while self.held() + extra > self.limit {
            if self.kept.is_empty() && !self.form_piece() {
                return;
            }
            self.forget_first();
        }
    }

    /// The user has no more bytes.
    pub(super) fn finish(&mut self) {
        self.end_queued = true;
    }

    /// Forgets what was not sent and will not be.
    pub(super) fn discard_unsent(&mut self) {
        self.unsent.clear();
        self.unsent_len = 0;
        self.end_queued = false;
        while self.kept.len() > self.cursor {
            if let Some(piece) = self.kept.pop_back() {
                self.kept_cost -= piece.cost();
            }
        }
    }

    /// Everything was sent.
    pub(super) fn is_drained(&self) -> bool {
        let sent = self.unsent.is_empty() && self.cursor == self.kept.len() && !self.end_queued;
        sent && !self.in_doubt
    }

    /// Something was sent that the peer may not have.
    pub(super) fn has_unconfirmed(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Pieces are being sent again.
    pub(super) fn is_repeating(&self) -> bool {
        self.cursor < self.kept.len()
    }

    /// The next DATA.
    pub(super) fn next(&mut self) -> Option<Data> {
        if self.paused || self.in_doubt {
            return None;
        }
        if self.cursor == self.kept.len() {
            // What cannot be kept is not sent: confirmation makes room. One piece always fits.
            if !self.kept.is_empty() && self.kept_cost + self.piece + PIECE_COST > self.limit {
                return None;
            }
            if !self.form_piece() {
                return None;
            }
        }
        let piece = &self.kept[self.cursor];
        let number = self.base + self.cursor as u64;
        let data = Data {
            number: self.numbered.then_some(number),
            bytes: piece.bytes.clone(),
            end: piece.end,
        };
        self.since_mark += piece.cost();
        if number > self.highest {
            self.highest = number;
            self.sent += data.bytes.len() as u64;
        } else {
            self.repeated += data.bytes.len() as u64;
        }
        self.cursor += 1;
        if !self.numbered {
            self.forget_first();
        }
        Some(data)
    }

    /// Gives a number to the next bytes of the user; false if there are none.
    fn form_piece(&mut self) -> bool {
        let single = self.unsent.len() == 1;
        let Some(first) = self.unsent.front_mut() else {
            if self.end_queued {
                self.end_queued = false;
                self.keep(Bytes::new(), true);
                return true;
            }
            return false;
        };
        let bytes = if first.len() >= self.piece {
            first.split_to(self.piece)
        } else if single {
            std::mem::take(first)
        } else {
            self.join()
        };
        while self.unsent.front().is_some_and(Bytes::is_empty) {
            self.unsent.pop_front();
        }
        self.unsent_len -= bytes.len();
        self.keep(bytes, false);
        true
    }

    /// Copies small writes together.
    fn join(&mut self) -> Bytes {
        let mut joined = BytesMut::with_capacity(self.piece.min(self.unsent_len));
        while joined.len() < self.piece
            && let Some(mut first) = self.unsent.pop_front()
        {
            let rest = first.split_off(first.len().min(self.piece - joined.len()));
            joined.extend_from_slice(&first);
            if !rest.is_empty() {
                self.unsent.push_front(rest);
            }
        }
        joined.freeze()
    }

    fn keep(&mut self, bytes: Bytes, end: bool) {
        let piece = Piece { bytes, end };
        self.kept_cost += piece.cost();
        self.kept.push_back(piece);
    }

    fn forget_first(&mut self) {
        if let Some(piece) = self.kept.pop_front() {
            self.kept_cost -= piece.cost();
            self.base += 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
    }

    /// Whether enough has left by the current path to ask for confirmation.
    pub(super) fn wants_confirmation(&self) -> bool {
        let often = CONFIRM_EVERY.min(self.limit / 8);
        self.numbered && self.since_mark >= often
    }

    /// A PING is queued on the path by which everything has left since the last mark.
    pub(super) fn mark(&mut self, nonce: Nonce) {
        self.since_mark = 0;
        let upto = self.base + self.cursor as u64 - 1;
        let known = self.marks.back().map_or(self.base - 1, |mark| mark.upto);
        if self.numbered && !self.in_doubt && upto > known {
            self.marks.push_back(Mark {
                upto,
                nonce,
                confirmed: false,
            });
        }
    }

    /// That PING was answered. A mark counts when all before it do: they may belong to other paths.
    pub(super) fn confirm(&mut self, nonce: Nonce) {
        for mark in &mut self.marks {
            mark.confirmed |= mark.nonce == nonce;
        }
        while let Some(mark) = self.marks.front().filter(|mark| mark.confirmed) {
            let upto = mark.upto;
            self.marks.pop_front();
            self.forget_upto(upto);
        }
    }

    /// A path that carried DATA is gone, and the session goes on by another: what left by it may be lost, and a PONG on
    /// the other proves nothing about it.
    pub(super) fn doubt(&mut self) {
        self.in_doubt = true;
        self.marks.clear();
    }

    /// Whether the peer has to say what it has.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    fn forget_upto(&mut self, number: u64) {
        while self.base <= number && !self.kept.is_empty() {
            self.forget_first();
        }
    }

    /// The peer has everything up to `received` and nothing after it: sending goes back to there. Gives how many
    /// pieces are sent again.
    pub(super) fn go_back(&mut self, received: u64) -> Result<usize, WrongNumber> {
        if received > self.highest {
            return Err(WrongNumber::TooHigh);
        }
        if received + 1 < self.base {
            return Err(WrongNumber::Dropped);
        }
        self.marks.clear();
        self.in_doubt = false;
        self.since_mark = 0;
        self.forget_upto(received);
        self.cursor = 0;
        let again = (self.highest + 1).saturating_sub(self.base);
        Ok(usize::try_from(again).unwrap_or(usize::MAX))
    }

    /// The peer cannot say what it has: what left is gone, and sending goes on behind it.
    pub(super) fn go_on(&mut self) {
        self.marks.clear();
        self.in_doubt = false;
        self.since_mark = 0;
        self.forget_upto(self.highest);
    }
}
