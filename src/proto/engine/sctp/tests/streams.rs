//! Turns of streams, order of messages, resets and what is counted.

use std::collections::VecDeque;

use super::*;
use SctpEvent::{Opened, Readable, Reset, ResetComplete};

/// Streams and what they reported.
struct Case {
    streams: Streams,
    events: VecDeque<SctpEvent>,
}

impl Case {
    fn new() -> Self {
        Self::with_max(100)
    }

    fn with_max(max: usize) -> Self {
        let streams = Streams::new(max);
        let events = VecDeque::new();
        Self { streams, events }
    }

    /// With these streams open.
    fn open(ids: &[u16]) -> Self {
        let mut case = Self::new();
        ids.iter().for_each(|&id| assert!(case.streams.open(id)));
        case
    }

    fn write(&mut self, id: u16, data: &[u8]) -> bool {
        self.streams.write(id, 53, Bytes::copy_from_slice(data))
    }

    /// A message of the peer, whose one byte is its number.
    fn receive(&mut self, id: u16, ssn: u16) {
        self.deliver(id, Some(ssn), &[ssn as u8]);
    }

    fn deliver(&mut self, id: u16, ssn: Option<u16>, data: &[u8]) {
        let data = Bytes::copy_from_slice(data);
        let whole = Whole {
            stream: id,
            ssn,
            ppid: 53,
            data,
        };
        self.streams.deliver(whole, &mut self.events);
    }

    fn read(&mut self, id: u16) -> Option<Vec<u8>> {
        let message = self.streams.read(id, &mut self.events);
        message.map(|(_, data)| data.to_vec())
    }

    fn peer_resets(&mut self, ids: &[u16]) {
        self.streams.on_incoming_reset(ids, &mut self.events);
    }

    /// Our requests go out and are answered.
    fn performed(&mut self) -> Vec<u16> {
        let ids = self.streams.take_closing(500);
        self.streams.on_reset_performed(&ids);
        ids
    }

    /// As the association reports them: an id is free when all before was seen.
    fn events(&mut self) -> Vec<SctpEvent> {
        let mut seen = Vec::new();
        loop {
            if self.events.is_empty() {
                self.streams.free_one(&mut self.events);
            }
            match self.events.pop_front() {
                Some(event) => seen.push(event),
                None => return seen,
            }
        }
    }

    /// Sends all there is: stream, number, flags, length of each fragment.
    fn fragments(&mut self) -> Vec<(u16, u16, u8, usize)> {
        std::iter::from_fn(|| self.streams.next_fragment())
            .map(|data| (data.stream, data.ssn, data.flags, data.payload.len()))
            .collect()
    }

    fn sent_streams(&mut self) -> Vec<u16> {
        self.fragments().iter().map(|fragment| fragment.0).collect()
    }
}

#[test]
fn streams_take_turns_by_message() {
    let mut case = Case::open(&[2, 4, 6]);
    for id in [2, 2, 2, 4, 4, 6] {
        case.write(id, b"x");
    }
    assert_eq!(case.sent_streams(), [2, 4, 6, 2, 4, 2]);
    assert!(case.streams.is_idle());
    assert_eq!(case.streams.next_len(), None);
}

#[test]
fn nothing_comes_between_the_fragments_of_a_message() {
    let mut case = Case::open(&[2, 4]);
    case.write(2, &[0; 2 * MAX_FRAGMENT + 5]);
    case.write(2, b"x");
    assert_eq!(case.streams.next_len(), Some(MAX_FRAGMENT));
    assert_eq!(case.streams.next_fragment().unwrap().flags, flag::BEGIN);
    case.write(4, b"yy");
    let rest = [
        (2, 0, 0, MAX_FRAGMENT),
        (2, 0, flag::END, 5),
        (4, 0, flag::BEGIN | flag::END, 2),
        (2, 1, flag::BEGIN | flag::END, 1),
    ];
    assert_eq!(case.fragments(), rest);
}

#[test]
fn message_numbers_wrap_around() {
    let mut case = Case::open(&[2]);
    case.streams.streams.get_mut(&2).unwrap().next_ssn = u16::MAX;
    case.write(2, b"x");
    case.write(2, b"y");
    let numbers: Vec<u16> = case.fragments().iter().map(|fragment| fragment.1).collect();
    assert_eq!(numbers, [u16::MAX, 0]);

    case.streams.streams.get_mut(&2).unwrap().expected_ssn = u16::MAX;
    for ssn in [1, 0, u16::MAX] {
        case.receive(2, ssn);
    }
    let read: Vec<_> = std::iter::from_fn(|| case.read(2)).collect();
    assert_eq!(read, [[255], [0], [1]]);
}

#[test]
fn an_empty_message_is_not_sent() {
    let mut case = Case::open(&[2]);
    assert!(case.write(2, b""));
    assert!(case.streams.is_idle());
    assert_eq!(case.streams.buffered(), 0);
}

#[test]
fn bytes_count_until_they_are_acknowledged() {
    let mut case = Case::open(&[2, 4]);
    case.write(2, &[0; 3000]);
    case.write(4, &[0; 10]);
    case.fragments();
    assert_eq!(case.streams.buffered(), 3010);
    case.streams.acknowledged(2, 1132);
    assert_eq!(case.streams.buffered_of(2), 1868);
    assert_eq!(case.streams.buffered(), 1878);
}

#[test]
fn messages_are_read_in_their_order() {
    let mut case = Case::new();
    case.receive(3, 2);
    assert_eq!(case.events(), [Opened(3)]);
    assert_eq!(case.read(3), None);
    case.receive(3, 1);
    assert_eq!(case.events(), []);
    case.receive(3, 0);
    assert_eq!(case.events(), [Readable(3)], "also after it was opened");
    let read: Vec<_> = std::iter::from_fn(|| case.read(3)).collect();
    assert_eq!(read, [[0], [1], [2]]);
    assert_eq!(case.streams.held(), 0);
}

#[test]
fn unordered_messages_are_read_as_they_come() {
    let mut case = Case::new();
    case.receive(3, 1);
    case.deliver(3, None, b"now");
    assert_eq!(case.read(3).unwrap(), b"now");
    assert_eq!(case.read(3), None);
}

#[test]
fn a_number_that_comes_twice_is_taken_once() {
    let mut case = Case::new();
    for _ in 0..3 {
        case.receive(3, 1);
    }
    assert_eq!(case.streams.held(), 1 + OVERHEAD);
    case.receive(3, 0);
    assert_eq!(std::iter::from_fn(|| case.read(3)).count(), 2);
    assert_eq!(case.streams.held(), 0);
}

#[test]
fn when_we_reset_first_the_id_is_free_after_the_peers_reset() {
    let mut case = Case::open(&[2]);
    assert!(case.streams.reset(2));
    assert!(!case.write(2, b"too late"));
    assert!(!case.streams.open(2));
    assert_eq!(case.performed(), [2]);
    assert_eq!(case.events(), []);
    case.peer_resets(&[2]);
    assert_eq!(case.events(), [ResetComplete(2)], "we need no news of it");
    assert!(case.streams.open(2));
}

#[test]
fn when_the_peer_resets_first_ours_follows_by_itself() {
    let mut case = Case::open(&[2]);
    case.peer_resets(&[2]);
    assert_eq!(case.events(), [Reset(2)]);
    assert!(!case.write(2, b"nobody reads it"));
    assert_eq!(case.performed(), [2]);
    assert_eq!(case.events(), [ResetComplete(2)]);
}

#[test]
fn resets_may_cross() {
    let mut case = Case::open(&[2]);
    case.streams.reset(2);
    let ids = case.streams.take_closing(500);
    case.peer_resets(&[2]);
    assert!(!case.streams.wants_reset(), "it is requested already");
    assert_eq!(case.events(), []);
    case.streams.on_reset_performed(&ids);
    assert_eq!(case.events(), [ResetComplete(2)]);
}

#[test]
fn our_reset_waits_until_everything_is_sent() {
    let mut case = Case::open(&[2]);
    case.write(2, &[0; 2000]);
    case.write(2, b"x");
    case.streams.reset(2);
    for _ in 0..3 {
        assert!(!case.streams.wants_reset());
        assert!(case.streams.next_fragment().is_some());
    }
    assert!(case.streams.wants_reset());
}

#[test]
fn the_peers_reset_is_told_when_everything_is_read() {
    let mut case = Case::new();
    case.receive(3, 0);
    case.receive(3, 1);
    case.peer_resets(&[3]);
    assert_eq!(case.performed(), [3]);
    assert_eq!(case.events(), [Opened(3), Readable(3)]);
    assert!(case.read(3).is_some());
    assert_eq!(case.events(), []);
    assert!(case.read(3).is_some());
    assert_eq!(case.events(), [Reset(3), ResetComplete(3)]);
}

#[test]
fn what_nobody_will_read_is_dropped() {
    let mut case = Case::new();
    case.receive(3, 0);
    case.receive(3, 7);
    case.streams.reset(3);
    assert_eq!(case.streams.held(), 0);
    assert_eq!(case.read(3), None);
    case.receive(3, 1);
    assert_eq!(case.streams.held(), 0);
    assert_eq!(case.events(), [Opened(3)]);
}

#[test]
fn a_stream_given_up_with_messages_unread_after_the_peers_reset_comes_free() {
    for answered_first in [true, false] {
        let mut case = Case::new();
        case.receive(3, 0);
        case.peer_resets(&[3]);
        if answered_first {
            case.performed();
        }
        assert!(case.streams.reset(3));
        assert_eq!(case.streams.held(), 0);
        case.performed();
        assert_eq!(case.events(), [Opened(3), ResetComplete(3)]);
        assert_eq!(case.streams.count(), 0);
    }
}

#[test]
fn messages_behind_a_missing_one_are_dropped_at_the_reset() {
    let mut case = Case::new();
    case.receive(3, 1);
    case.peer_resets(&[3]);
    assert_eq!(case.streams.held(), 0);
    assert_eq!(case.events(), [Opened(3), Reset(3)]);
}

#[test]
fn what_waits_to_be_sent_is_dropped_when_the_peer_resets() {
    let mut case = Case::open(&[2, 4]);
    case.write(2, b"a");
    case.write(4, b"bb");
    case.write(2, b"c");
    case.peer_resets(&[2]);
    assert_eq!(case.streams.buffered(), 2);
    assert_eq!(case.sent_streams(), [4]);
    assert_eq!(case.performed(), [2]);
    case.streams.acknowledged(4, 2);
    assert_eq!(case.streams.buffered(), 0);
}

#[test]
fn a_half_sent_message_is_finished_before_our_reset() {
    let mut case = Case::open(&[2, 4]);
    case.write(2, &[0; 2000]);
    case.write(2, b"dropped");
    case.write(4, b"x");
    case.streams.next_fragment();
    case.peer_resets(&[2]);
    assert!(!case.streams.wants_reset());
    assert_eq!(case.streams.buffered(), 2001);
    let rest = [(2, 0, flag::END, 868), (4, 0, flag::BEGIN | flag::END, 1)];
    assert_eq!(case.fragments(), rest);
    assert!(case.streams.is_idle());
    assert_eq!(case.performed(), [2]);
}

#[test]
fn the_next_use_of_an_id_begins_with_what_came_early() {
    let mut case = Case::open(&[3]);
    case.streams.reset(3);
    let ids = case.streams.take_closing(500);
    case.peer_resets(&[3]);
    // The peer has answered, so that the id is free for it; its answer is late.
    case.receive(3, 0);
    case.receive(3, 1);
    assert_eq!(case.events(), []);
    assert_eq!(case.streams.held(), 2 * (1 + OVERHEAD), "they count");
    case.streams.on_reset_performed(&ids);
    assert_eq!(case.events(), [ResetComplete(3), Opened(3), Readable(3)]);
    assert_eq!(std::iter::from_fn(|| case.read(3)).count(), 2);
    assert_eq!(case.streams.held(), 0);
}

#[test]
fn the_next_use_begins_only_when_the_end_of_the_last_was_seen() {
    let mut case = Case::new();
    case.receive(3, 0);
    case.peer_resets(&[3]);
    case.performed();
    case.deliver(3, Some(0), b"next use");
    assert_eq!(case.events(), [Opened(3)]);
    assert_eq!(case.read(3).unwrap(), [0]);
    assert_eq!(case.read(3), None, "of this use");
    assert_eq!(case.events.pop_front(), Some(Reset(3)));
    // The reader acts on that; it must not hit the next use.
    case.streams.reset(3);
    assert_eq!(case.events(), [ResetComplete(3), Opened(3)]);
    assert_eq!(case.read(3).unwrap(), b"next use");
    assert!(case.write(3, b"usable"));
}

#[test]
fn late_acknowledgements_of_the_last_use_are_not_taken_for_the_next() {
    let mut case = Case::open(&[2, 4]);
    case.write(2, &[0; 100]);
    case.write(4, &[0; 1000]);
    case.fragments();
    case.streams.reset(2);
    case.performed();
    case.peer_resets(&[2]);
    assert_eq!(case.events(), [ResetComplete(2)]);
    assert_eq!(case.streams.buffered(), 1100, "on its way");
    case.streams.open(2);
    case.write(2, &[0; 30]);
    assert_eq!(case.streams.buffered_of(2), 30);
    case.streams.acknowledged(2, 100);
    assert_eq!(case.streams.buffered_of(2), 30);
    assert_eq!(case.streams.buffered(), 1030);
    case.streams.acknowledged(2, 30);
    case.streams.acknowledged(4, 1000);
    assert_eq!(case.streams.buffered(), 0);
    assert!(case.streams.stale.is_empty());
}

#[test]
fn all_streams_are_those_that_were_not_reset_before() {
    let mut case = Case::open(&[2, 4]);
    case.peer_resets(&[]);
    case.peer_resets(&[]);
    assert_eq!(case.events(), [Reset(2), Reset(4)]);
    assert!(case.streams.unreset.is_empty());
    case.performed();
    case.events();
    assert!(case.streams.open(4), "a next use");
    case.peer_resets(&[]);
    assert_eq!(case.events(), [Reset(4)]);
}

#[test]
fn a_stream_that_is_reset_gives_up_its_turn_and_the_others_keep_theirs() {
    let mut case = Case::open(&[2, 4, 6]);
    for id in [2, 4, 6] {
        assert!(case.streams.write(id, 53, Bytes::from_static(b"x")));
    }
    case.peer_resets(&[4]);
    let order: Vec<_> = std::iter::from_fn(|| case.streams.next_fragment())
        .map(|data| data.stream)
        .collect();
    assert_eq!(order, [2, 6]);
    assert!(case.streams.is_idle());
    assert_eq!(case.streams.next_len(), None);
}

#[test]
fn a_reset_of_no_stream_in_particular_is_one_of_all() {
    let mut case = Case::open(&[2, 4]);
    case.receive(3, 0);
    case.peer_resets(&[]);
    assert_eq!(case.events(), [Opened(3), Reset(2), Reset(4)]);
    assert!(case.read(3).is_some());
    assert_eq!(case.events(), [Reset(3)]);
}

#[test]
fn unknown_and_repeated_ids_in_a_reset_do_nothing() {
    let mut case = Case::open(&[2]);
    case.peer_resets(&[8, 2, 2, 9]);
    case.peer_resets(&[2]);
    assert_eq!(case.events(), [Reset(2)]);
    assert_eq!(case.performed(), [2]);
    case.peer_resets(&[2]);
    assert_eq!(case.events(), [ResetComplete(2)]);
    case.peer_resets(&[2]);
    assert_eq!(case.events(), []);
}

#[test]
fn requests_take_so_many_streams_at_a_time() {
    let ids: Vec<u16> = (0..30).collect();
    let mut case = Case::open(&ids);
    ids.iter().for_each(|&id| assert!(case.streams.reset(id)));
    assert_eq!(case.streams.take_closing(20), ids[..20]);
    assert!(case.streams.wants_reset());
    assert_eq!(case.streams.take_closing(20), ids[20..]);
    assert!(!case.streams.wants_reset());
}

#[test]
fn one_stream_too_many_is_reset_and_not_remembered() {
    let mut case = Case::with_max(2);
    for id in 1..=5 {
        case.receive(id, 0);
    }
    assert_eq!(case.streams.count(), 2);
    assert_eq!(case.streams.held(), 2 * (1 + OVERHEAD));
    assert_eq!(case.events(), [Opened(1), Opened(2)]);
    assert_eq!(case.performed(), [3, 4, 5]);
    case.peer_resets(&[3, 4, 5]);
    assert_eq!(case.events(), []);
    // With room again the same id is welcome.
    case.streams.reset(1);
    case.performed();
    case.peer_resets(&[1]);
    assert_eq!(case.events(), [ResetComplete(1)]);
    case.receive(3, 0);
    assert_eq!(case.events(), [Opened(3)]);
}
