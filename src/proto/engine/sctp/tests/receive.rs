//! TSNs, fragments and acknowledgements of the receiving half.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::*;

const B: u8 = flag::BEGIN;
const E: u8 = flag::END;
const M: u8 = 0;
const WINDOW: usize = 1 << 20;
const MAX_MESSAGE: usize = 100_000;

#[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn receiver() -> Receiver {
    Receiver::new(1, MAX_MESSAGE)
}

fn chunk(tsn: u32, stream: u16, flags: u8, payload: &[u8]) -> Data {
    let payload = Bytes::copy_from_slice(payload);
    Data {
        tsn,
        stream,
        ssn: 0,
        ppid: 53,
        flags,
        payload,
    }
}

fn take(receiver: &mut Receiver, data: Data) -> Result<Vec<Bytes>, Violation> {
    let held = receiver.held();
    receiver.handle_data(data, held, WINDOW)?;
    Ok(receiver.take_whole().map(|whole| whole.data).collect())
}

/// A chunk with these flags whose payload is its TSN.
fn feed(receiver: &mut Receiver, tsn: u32, flags: u8) -> Vec<Bytes> {
    take(receiver, chunk(tsn, 2, flags, &[tsn as u8])).unwrap()
}

fn gaps(receiver: &mut Receiver) -> Vec<(u16, u16)> {
    receiver.take_ack().1
}

#[test]
fn whole_messages_pass_through() {
    let mut receiver = receiver();
    for tsn in 1..10 {
        assert_eq!(feed(&mut receiver, tsn, B | E), [vec![tsn as u8]]);
        assert_eq!(receiver.cumulative(), tsn);
    }
    assert_eq!(receiver.held(), 0);
}

#[test]
fn fragments_are_joined() {
    let mut receiver = receiver();
    assert!(feed(&mut receiver, 1, B).is_empty());
    assert!(feed(&mut receiver, 2, M).is_empty());
    assert_eq!(receiver.held(), 2 * (1 + OVERHEAD));
    assert_eq!(feed(&mut receiver, 3, E), [vec![1, 2, 3]]);
    assert_eq!(receiver.held(), 0);
}

#[test]
fn fragments_are_joined_in_whatever_order_they_arrive() {
    // Five messages of 1, 2, 3, 4 and 5 fragments; two of one stream follow each other.
    let mut chunks = Vec::new();
    let mut expected = Vec::new();
    for (count, stream) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 1)] {
        let first = chunks.len() as u32 + 1;
        for n in 0..count {
            let flags = if n == 0 { B } else { 0 } | if n == count - 1 { E } else { 0 };
            chunks.push(chunk(first + n, stream, flags, &[(first + n) as u8]));
        }
        expected.push((first..first + count).map(|n| n as u8).collect::<Vec<_>>());
    }
    let mut rng = StdRng::seed_from_u64(1);
    for first in [1, u32::MAX - 7, u32::MAX, 0] {
        for _ in 0..500 {
            let mut receiver = Receiver::new(first, MAX_MESSAGE);
            chunks.shuffle(&mut rng);
            let mut got = Vec::new();
            for data in &chunks {
                let mut data = data.clone();
                data.tsn = data.tsn.wrapping_sub(1).wrapping_add(first);
                got.extend(take(&mut receiver, data).unwrap());
            }
            got.sort();
            assert_eq!(got, expected);
            assert_eq!(receiver.cumulative(), first.wrapping_add(14));
            assert_eq!(receiver.held(), 0);
            assert!(receiver.parked.is_empty() && receiver.ranges.is_empty());
        }
    }
}

#[test]
fn a_message_behind_a_gap_does_not_wait_for_it() {
    let mut receiver = receiver();
    assert!(feed(&mut receiver, 4, B).is_empty());
    assert_eq!(feed(&mut receiver, 5, E), [vec![4, 5]]);
    assert_eq!(feed(&mut receiver, 7, B | E), [vec![7]]);
    assert_eq!(receiver.held(), 0);
    assert_eq!(receiver.cumulative(), 0);
}

#[test]
fn gaps_are_reported_and_merge() {
    let mut receiver = receiver();
    for tsn in [3, 5, 9, 8] {
        feed(&mut receiver, tsn, B | E);
    }
    assert_eq!(gaps(&mut receiver), [(3, 3), (5, 5), (8, 9)]);
    feed(&mut receiver, 4, B | E);
    assert_eq!(gaps(&mut receiver), [(3, 5), (8, 9)]);
    feed(&mut receiver, 1, B | E);
    assert_eq!(gaps(&mut receiver), [(2, 4), (7, 8)]);
    feed(&mut receiver, 2, B | E);
    assert_eq!(
        (receiver.cumulative(), gaps(&mut receiver)),
        (5, vec![(3, 4)])
    );
    feed(&mut receiver, 7, B | E);
    feed(&mut receiver, 6, B | E);
    assert_eq!((receiver.cumulative(), gaps(&mut receiver)), (9, vec![]));
}

#[test]
fn gap_blocks_fit_into_a_packet() {
    let mut receiver = receiver();
    for n in 1..500 {
        feed(&mut receiver, 2 * n, B | E);
    }
    let gaps = gaps(&mut receiver);
    assert_eq!(gaps.len(), MAX_GAPS);
    assert_eq!(gaps[63], (128, 128), "the first ones");
}

#[test]
fn numbers_wrap_around() {
    for first in [u32::MAX - 1, u32::MAX, 0, 1 << 31] {
        let mut receiver = Receiver::new(first, MAX_MESSAGE);
        let at = |n: u32| first.wrapping_add(n);
        assert_eq!(feed(&mut receiver, at(0), B | E).len(), 1);
        assert_eq!(feed(&mut receiver, at(3), B | E).len(), 1);
        assert_eq!(gaps(&mut receiver), [(3, 3)]);
        assert_eq!(feed(&mut receiver, at(2), B | E).len(), 1);
        assert_eq!(feed(&mut receiver, at(1), B | E).len(), 1);
        assert_eq!(receiver.cumulative(), at(3));
        // What came before is known on the other side of zero, too.
        assert!(feed(&mut receiver, at(0), B | E).is_empty());
        assert!(feed(&mut receiver, first.wrapping_sub(5), B | E).is_empty());
        assert_eq!(receiver.take_ack().2, [at(0), first.wrapping_sub(5)]);
    }
}

#[test]
fn duplicates_are_dropped_and_reported_at_once() {
    let mut receiver = receiver();
    feed(&mut receiver, 1, B | E);
    feed(&mut receiver, 3, B | E);
    receiver.take_ack();
    assert!(feed(&mut receiver, 1, B | E).is_empty());
    assert!(feed(&mut receiver, 3, B | E).is_empty());
    assert!(receiver.ack_is_due());
    assert_eq!(receiver.take_ack().2, [1, 3]);
    for _ in 0..100 {
        feed(&mut receiver, 1, B | E);
    }
    assert_eq!(receiver.take_ack().2.len(), MAX_DUPLICATES);
    assert!(receiver.take_ack().2.is_empty(), "once");
}

#[test]
fn what_exceeds_the_window_is_dropped_and_the_peer_told() {
    let mut receiver = receiver();
    let held = WINDOW + WINDOW / 2;
    receiver
        .handle_data(chunk(1, 2, B | E, b"x"), held, WINDOW)
        .unwrap();
    assert_eq!(receiver.cumulative(), 0);
    assert_eq!(receiver.take_whole().count(), 0);
    assert!(receiver.ack_is_due());
    receiver
        .handle_data(chunk(1, 2, B | E, b"x"), held - 1, WINDOW)
        .unwrap();
    assert_eq!(receiver.cumulative(), 1);
}

#[test]
fn what_fills_a_gap_is_taken_beyond_the_window_within_bounds() {
    let mut receiver = receiver();
    feed(&mut receiver, 4, B | E);
    let data = |tsn| chunk(tsn, 2, B | E, b"x");
    receiver
        .handle_data(data(5), 2 * WINDOW - 1, WINDOW)
        .unwrap();
    assert_eq!(gaps(&mut receiver), [(4, 4)], "not in a gap");
    receiver
        .handle_data(data(2), 2 * WINDOW - 1, WINDOW)
        .unwrap();
    assert_eq!(gaps(&mut receiver), [(2, 2), (4, 4)]);
    receiver.handle_data(data(1), 2 * WINDOW, WINDOW).unwrap();
    assert_eq!(receiver.cumulative(), 0, "too much");
}

#[test]
fn chunks_too_far_ahead_are_dropped() {
    let mut receiver = receiver();
    feed(&mut receiver, MAX_AHEAD as u32, B);
    assert_eq!(receiver.parked.len(), 1);
    for tsn in [MAX_AHEAD as u32 + 1, 1 << 30, (1 << 31) - 1] {
        feed(&mut receiver, tsn, B);
        assert_eq!(receiver.parked.len(), 1, "{tsn}");
    }
}

#[test]
fn a_message_of_the_largest_size_is_taken_and_a_larger_one_is_not() {
    for (size, taken) in [(MAX_MESSAGE, true), (MAX_MESSAGE + 1, false)] {
        // In one chunk, in fragments, in fragments behind a gap.
        let mut receiver = receiver();
        assert_eq!(
            take(&mut receiver, chunk(1, 2, B | E, &vec![0; size])).is_ok(),
            taken
        );
        for first in [1, 2] {
            let mut receiver = Receiver::new(1, MAX_MESSAGE);
            take(&mut receiver, chunk(first, 2, B, &vec![0; size - 1])).unwrap();
            assert_eq!(
                take(&mut receiver, chunk(first + 1, 2, E, &[0])).is_ok(),
                taken
            );
        }
    }
}

#[test]
fn fragments_that_make_no_message_are_a_violation() {
    let fails = |chunks: &[(u32, u16, u8)]| {
        let mut receiver = receiver();
        chunks.iter().any(|&(tsn, stream, flags)| {
            let taken = take(&mut receiver, chunk(tsn, stream, flags, b"x"));
            taken == Err(Violation::Fragmentation)
        })
    };
    assert!(fails(&[(1, 2, M)]), "continues nothing");
    assert!(fails(&[(1, 2, E)]), "ends nothing");
    assert!(fails(&[(1, 2, B), (2, 2, B)]), "begins within another");
    assert!(fails(&[(1, 2, B), (2, 2, B | E)]), "whole within another");
    assert!(fails(&[(1, 2, B), (2, 4, E)]), "of another stream");
    assert!(
        fails(&[(2, 2, B), (3, 4, E), (1, 2, B | E)]),
        "of another stream, behind a gap"
    );
    assert!(
        fails(&[(2, 2, B | E), (1, 2, B)]),
        "a whole one within, early"
    );
    assert!(
        fails(&[(3, 2, B | E), (2, 2, B), (1, 2, B | E)]),
        "one that is never ended, early"
    );
    assert!(
        fails(&[(2, 2, M), (1, 2, B | E)]),
        "continues nothing, early"
    );
    assert!(!fails(&[(2, 2, E), (1, 2, B)]));
}

#[test]
fn fragments_in_the_worst_order_cost_little() {
    // Every other one first, so that each later one joins two runs.
    let count = MAX_AHEAD as u32 - 2;
    let mut receiver = receiver();
    for tsn in (2..count).step_by(2).chain((3..count).step_by(2)) {
        feed(&mut receiver, tsn, M);
    }
    // And each before all that came so far.
    for tsn in (count..MAX_AHEAD as u32).rev() {
        feed(&mut receiver, tsn, M);
    }
    assert_eq!(receiver.parked.len(), 1);
    assert_eq!(receiver.ranges.len(), 1);
    assert!(receiver.held() <= MAX_AHEAD as usize * (1 + OVERHEAD));
}

#[test]
fn every_second_packet_is_acknowledged_at_once() {
    let now = origin();
    let mut receiver = receiver();
    feed(&mut receiver, 1, B | E);
    receiver.end_packet(now);
    assert!(receiver.ack_is_pending() && !receiver.ack_is_due());
    assert_eq!(receiver.poll_timeout(), Some(now + ACK_DELAY));
    feed(&mut receiver, 2, B | E);
    receiver.end_packet(now + ACK_DELAY / 2);
    assert!(receiver.ack_is_due());
    assert_eq!(receiver.poll_timeout(), None);
    receiver.take_ack();
    assert!(!receiver.ack_is_pending());
}

#[test]
fn a_delay_counts_from_the_first_packet_and_ends() {
    let now = origin();
    let mut receiver = receiver();
    feed(&mut receiver, 1, B | E);
    receiver.end_packet(now);
    receiver.acknowledge_now();
    assert!(receiver.ack_is_due());
    receiver.take_ack();
    feed(&mut receiver, 2, B | E);
    receiver.end_packet(now);
    assert!(!receiver.ack_is_due(), "counting begins anew");
}

#[test]
fn a_chunk_that_asks_for_it_is_acknowledged_at_once() {
    let mut receiver = receiver();
    feed(&mut receiver, 1, B | E | flag::IMMEDIATE);
    receiver.end_packet(origin());
    assert!(receiver.ack_is_due());
}

#[test]
fn a_gap_is_reported_at_once_and_so_is_its_end() {
    let mut receiver = receiver();
    feed(&mut receiver, 2, B | E);
    assert!(receiver.ack_is_due());
    receiver.take_ack();
    feed(&mut receiver, 1, B | E);
    assert!(receiver.ack_is_due());
}

#[test]
fn unordered_messages_have_no_number() {
    let mut receiver = receiver();
    for (tsn, flags, ssn) in [(1, B | E, Some(0)), (2, B | E | flag::UNORDERED, None)] {
        receiver
            .handle_data(chunk(tsn, 2, flags, b"x"), 0, WINDOW)
            .unwrap();
        assert_eq!(receiver.take_whole().next().unwrap().ssn, ssn);
    }
}
