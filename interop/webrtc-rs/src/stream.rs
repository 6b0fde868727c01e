//! The byte stream that has to stay whole: a counter, sent to an echo in numbered pieces and checked when it comes back.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{Failure, frame::Frame};

/// Bytes on their way to the echo and back: as datagrams they fit into the receive buffer that a socket has by default, so that
/// none is lost before there is a cut.
const WINDOW: u64 = 80 * 1024;
/// The largest piece. With header and number it fits into what every stack takes on a data channel.
const MAX_PIECE: u64 = 12_000;
/// Pieces of the server that wait for one before them: all of a window, were they of one byte.
const MAX_AHEAD: usize = 256 * 1024;

/// A way that DATA takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    WebSocket,
    Channel,
}

/// Counts of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Bytes sent for the first time.
    pub(crate) sent: u64,
    /// Bytes received for the first time.
    pub(crate) received: u64,
}

/// A piece that was sent.
#[derive(Clone, Copy, Debug)]
struct Piece {
    number: u64,
    place: u64,
    length: u64,
}

/// Both directions of the stream.
pub(crate) struct Stream {
    /// Bytes sent, each counted once.
    sent: u64,
    /// Bytes that came back, in order.
    received: u64,
    /// Number of the next piece.
    next: u64,
    /// Number of the last piece received with all before it.
    last: u64,
    /// Sent, and not come back yet: who cannot show it may not have it.
    kept: VecDeque<Piece>,
    /// Of those, the ones that have to be sent again.
    again: VecDeque<Piece>,
    /// Received, with others missing before.
    ahead: BTreeMap<u64, Bytes>,
    /// Lengths of pieces.
    chance: StdRng,
    websocket: Carried,
    channel: Carried,
    /// Pieces that came twice.
    pub(crate) doubled: u64,
    /// Number of the first piece that came by the channel since the server moved to it.
    moved_at: Option<u64>,
}

impl Stream {
    /// A stream whose pieces have lengths of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            sent: 0,
            received: 0,
            next: 1,
            last: 0,
            kept: VecDeque::new(),
            again: VecDeque::new(),
            ahead: BTreeMap::new(),
            chance: StdRng::seed_from_u64(seed),
            websocket: Carried::default(),
            channel: Carried::default(),
            doubled: 0,
            moved_at: None,
        }
    }

    /// What went this way.
    pub(crate) fn carried(&self, way: Way) -> Carried {
        match way {
            Way::WebSocket => self.websocket,
            Way::Channel => self.channel,
        }
    }

    fn carried_mut(&mut self, way: Way) -> &mut Carried {
        match way {
            Way::WebSocket => &mut self.websocket,
            Way::Channel => &mut self.channel,
        }
    }

    /// Bytes that came back.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Number of the last piece received with all before it, for RESUME_REQUEST.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether all that was sent has come back.
    pub(crate) fn is_complete(&self) -> bool {
        self.sent == self.received && self.again.is_empty()
    }

    /// The next DATA to send by this way, if there is room; `more` says whether there shall be new bytes.
    pub(crate) fn next_frame(&mut self, way: Way, more: bool) -> Option<Frame> {
        let piece = match self.again.pop_front() {
            Some(piece) => piece,
            None if more => self.new_piece()?,
            None => return None,
        };
        if piece.place == self.sent {
            self.sent += piece.length;
            self.next += 1;
            self.kept.push_back(piece);
            self.carried_mut(way).sent += piece.length;
        }
        let bytes = (piece.place..piece.place + piece.length).map(byte_at);
        Some(Frame::Data {
            number: piece.number,
            bytes: bytes.collect(),
        })
    }

    fn new_piece(&mut self) -> Option<Piece> {
        let room = WINDOW.saturating_sub(self.sent - self.received);
        (room >= MAX_PIECE).then(|| Piece {
            number: self.next,
            place: self.sent,
            length: self.chance.random_range(1..=MAX_PIECE),
        })
    }

    /// DATA came.
    pub(crate) fn take(&mut self, way: Way, number: u64, bytes: Bytes) -> Result<(), Failure> {
        match way {
            Way::Channel => {
                let moved_at = self.moved_at.get_or_insert(number);
                *moved_at = number.min(*moved_at);
            }
            Way::WebSocket if self.moved_at.is_some_and(|moved_at| number > moved_at) => {
                return Err(format!(
                    "DATA {number} came by WebSocket, when the server had moved to the channel"
                )
                .into());
            }
            Way::WebSocket => {}
        }
        if number <= self.last || self.ahead.contains_key(&number) {
            self.doubled += 1;
            return Ok(());
        }
        if self.ahead.len() >= MAX_AHEAD {
            return Err("too many pieces ahead of a missing one".into());
        }
        self.carried_mut(way).received += u64::try_from(bytes.len())?;
        self.ahead.insert(number, bytes);
        while let Some(bytes) = self.ahead.remove(&(self.last + 1)) {
            self.last += 1;
            self.check(&bytes)?;
        }
        Ok(())
    }

    /// DATA that is no part of the stream, before it begins.
    pub(crate) fn skip(&mut self, number: u64) -> Result<(), Failure> {
        if number != self.last + 1 {
            return Err(format!("DATA {number} came behind {}", self.last).into());
        }
        self.last = number;
        Ok(())
    }

    /// Bytes in order.
    fn check(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for byte in bytes {
            if self.received == self.sent || *byte != byte_at(self.received) {
                return Err(format!("byte {} is not the one that was sent", self.received).into());
            }
            self.received += 1;
        }
        let back = |piece: &Piece| piece.place + piece.length <= self.received;
        while self.kept.front().is_some_and(back) {
            self.kept.pop_front();
        }
        Ok(())
    }

    /// The server resumes: it begins with `start` and has received all up to `received`, which has to be sent no more.
    pub(crate) fn resume(&mut self, start: u64, received: Option<u64>) -> Result<(), Failure> {
        let received = received.ok_or("the server does not say what it has received")?;
        if start != self.last + 1 {
            return Err(format!("the server begins with {start} behind {}", self.last).into());
        }
        if received >= self.next {
            return Err(format!("the server has received {received} of {}", self.next - 1).into());
        }
        let missing = |piece: &&Piece| piece.number > received;
        self.again = self.kept.iter().filter(missing).copied().collect();
        let first_missing = self.again.front().map_or(self.next, |piece| piece.number);
        if first_missing != received + 1 {
            return Err(format!("the server lacks {}, which it had echoed", received + 1).into());
        }
        // What is ahead is sent again, as the pieces that lie before it.
        self.ahead.clear();
        self.moved_at = None;
        Ok(())
    }

    /// The number of pieces that wait to be sent again.
    pub(crate) fn to_repeat(&self) -> usize {
        self.again.len()
    }
}

/// The byte at this place: of the big-endian numbers 0, 1, 2, ... the one that lies there.
pub(crate) fn byte_at(place: u64) -> u8 {
    (place / 8).to_be_bytes()[usize::try_from(place % 8).unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers and bytes of a frame of DATA.
    fn data(frame: Frame) -> (u64, Bytes) {
        match frame {
            Frame::Data { number, bytes } => (number, bytes),
            other => panic!("{other:?}"),
        }
    }

    /// Sends as much as there is room for; gives the pieces as an echo would return them, one for one.
    fn fill(stream: &mut Stream, way: Way) -> Vec<(u64, Bytes)> {
        std::iter::from_fn(|| stream.next_frame(way, true))
            .map(data)
            .collect()
    }

    #[test]
    fn pieces_in_any_order_by_two_ways_make_one_stream() {
        let mut stream = Stream::new(1);
        let pieces = fill(&mut stream, Way::WebSocket);
        assert!(pieces.len() > 10);
        let (first, second) = pieces.split_at(10);
        for (number, bytes) in second {
            stream.take(Way::Channel, *number, bytes.clone()).unwrap();
        }
        assert_eq!(stream.received(), 0);
        for (number, bytes) in first {
            stream.take(Way::WebSocket, *number, bytes.clone()).unwrap();
        }
        assert!(stream.is_complete());
        let carried = stream.carried(Way::Channel).received;
        assert_eq!(
            carried + stream.carried(Way::WebSocket).received,
            stream.received()
        );
    }

    #[test]
    fn a_wrong_byte_and_a_byte_too_many_are_seen() {
        let mut stream = Stream::new(1);
        let mut pieces = fill(&mut stream, Way::WebSocket).into_iter();
        let (number, bytes) = pieces.next().unwrap();
        let mut wrong = bytes.to_vec();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(stream.take(Way::WebSocket, number, wrong.into()).is_err());
        let mut other = Stream::new(1);
        let all: Vec<u8> = fill(&mut other, Way::WebSocket)
            .into_iter()
            .flat_map(|(_, bytes)| bytes)
            .chain([0])
            .collect();
        assert!(other.take(Way::WebSocket, 1, all.into()).is_err());
    }

    #[test]
    fn data_on_the_old_way_behind_the_move_is_seen() {
        let mut stream = Stream::new(1);
        let pieces = fill(&mut stream, Way::WebSocket);
        let (number, bytes) = pieces[4].clone();
        stream.take(Way::Channel, number, bytes).unwrap();
        let (number, bytes) = pieces[3].clone();
        stream.take(Way::WebSocket, number, bytes).unwrap();
        let (number, bytes) = pieces[5].clone();
        assert!(stream.take(Way::WebSocket, number, bytes).is_err());
    }

    #[test]
    fn what_the_server_lacks_is_sent_again_and_nothing_else() {
        let mut stream = Stream::new(1);
        let pieces = fill(&mut stream, Way::Channel);
        for (number, bytes) in &pieces[..5] {
            stream.take(Way::Channel, *number, bytes.clone()).unwrap();
        }
        assert!(stream.resume(5, Some(8)).is_err(), "begins too early");
        assert!(stream.resume(6, None).is_err(), "cannot know");
        assert!(stream.resume(6, Some(1000)).is_err(), "never sent");
        assert!(stream.resume(6, Some(3)).is_err(), "echoed already");
        stream.resume(6, Some(8)).unwrap();
        let repeated: Vec<_> = (0..stream.to_repeat())
            .map(|_| data(stream.next_frame(Way::WebSocket, false).unwrap()))
            .collect();
        assert_eq!(repeated, pieces[8..]);
        assert!(stream.next_frame(Way::WebSocket, false).is_none());
    }
}
