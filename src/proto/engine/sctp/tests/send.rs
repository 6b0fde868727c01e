//! Windows, round trips, losses and timers of the sending half.

use super::*;
use crate::proto::engine::sctp::wire::{Chunks, Writer, flag};

const FULL: usize = 1132;
const WIDE: u32 = 1 << 30;

#[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn sack(cumulative: u32, window: u32, gaps: &[(u16, u16)]) -> Sack {
    let mut writer = Writer::default();
    writer.begin(1);
    writer.sack(cumulative, window, gaps, &[]);
    let packet = Bytes::copy_from_slice(writer.finish(true));
    let chunk = Chunks::new(&packet).next().unwrap();
    Sack::read(&chunk).unwrap()
}

fn fragment(len: usize) -> Data {
    let flags = flag::BEGIN | flag::END;
    let payload = Bytes::from(vec![1; len]);
    Data {
        tsn: 0,
        stream: 2,
        ssn: 0,
        ppid: 53,
        flags,
        payload,
    }
}

/// A sender, its clock, and what the peer's acknowledgements released.
struct Case {
    sender: Sender,
    now: Instant,
    released: Vec<usize>,
}

impl Case {
    /// The first TSN is 1.
    fn new() -> Self {
        Self::from_tsn(1)
    }

    fn from_tsn(first: u32) -> Self {
        let mut sender = Sender::new(first);
        sender.set_peer_window(WIDE);
        Self {
            sender,
            now: origin(),
            released: Vec::new(),
        }
    }

    /// Sends `count` packets of one chunk each.
    fn send(&mut self, count: u32) {
        for _ in 0..count {
            self.send_packet(&[FULL]);
        }
    }

    fn send_packet(&mut self, chunks: &[usize]) {
        self.sender.begin_packet();
        for &len in chunks {
            self.sender.send(self.now, fragment(len));
        }
    }

    /// A SACK with a wide window `after` milliseconds.
    fn ack(&mut self, after: u64, cumulative: u32, gaps: &[(u16, u16)]) -> bool {
        self.ack_with(after, cumulative, WIDE, gaps)
    }

    fn ack_with(&mut self, after: u64, cumulative: u32, window: u32, gaps: &[(u16, u16)]) -> bool {
        self.now += ms(after);
        let released = &mut self.released;
        self.sender
            .handle_sack(self.now, &sack(cumulative, window, gaps), |_, len| {
                released.push(len);
            })
    }

    /// Resends what is lost, each in a packet of its own.
    fn resend(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| {
            self.sender.begin_packet();
            self.sender.resend(self.now, MTU).map(|data| data.tsn)
        })
        .collect()
    }

    /// Lets the next timer fire; how long that took.
    fn fire(&mut self) -> Duration {
        let at = self.sender.poll_timeout().unwrap();
        let waited = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        self.sender.handle_timeout(self.now);
        waited
    }

    /// Fills the window and acknowledges all of it after `rtt`.
    fn round(&mut self, rtt: u64) {
        while self.sender.may_send(FULL) {
            self.send(1);
        }
        let last = self.sender.last_tsn();
        assert!(self.ack(rtt, last, &[]));
    }
}

#[test]
fn ten_packets_may_leave_before_the_first_answer() {
    let mut case = Case::new();
    let mut sent = 0;
    while case.sender.may_send(FULL) {
        case.send(1);
        sent += 1;
    }
    assert_eq!(sent, 10);
}

#[test]
fn slow_start_doubles_the_window_in_a_round_trip() {
    let mut case = Case::new();
    case.round(100);
    assert_eq!(case.sender.window, INITIAL_WINDOW + 10 * FULL);
    case.round(100);
    assert!(case.sender.window > 4 * INITIAL_WINDOW - 5 * MTU);
}

#[test]
fn a_window_that_is_not_used_does_not_grow() {
    let mut case = Case::new();
    for tsn in 1..50 {
        case.send(1);
        case.ack(10, tsn, &[]);
    }
    assert_eq!(case.sender.window, INITIAL_WINDOW);
}

#[test]
fn above_the_threshold_the_window_grows_by_a_packet_in_a_round_trip() {
    let mut case = Case::new();
    case.sender.threshold = INITIAL_WINDOW;
    case.round(100);
    let grown = case.sender.window - INITIAL_WINDOW;
    assert!((MTU * 9 / 10..=MTU).contains(&grown), "{grown}");
}

#[test]
fn the_window_has_a_bound() {
    let mut case = Case::new();
    case.sender.window = MAX_WINDOW - 10;
    case.round(100);
    assert_eq!(case.sender.window, MAX_WINDOW);
}

#[test]
fn the_peers_window_is_not_exceeded() {
    let mut case = Case::new();
    case.sender.set_peer_window(2 * FULL as u32);
    case.send(2);
    assert!(!case.sender.may_send(1));
    // Both arrived and wait to be read.
    case.ack_with(10, 2, 0, &[]);
    assert!(case.sender.may_send(FULL), "one chunk probes it");
    case.send(1);
    assert!(!case.sender.may_send(1));
}

#[test]
fn a_chunk_that_three_packets_overtook_is_lost() {
    let mut case = Case::new();
    case.send(4);
    case.ack(10, 0, &[(2, 3)]);
    assert!(!case.sender.has_lost());
    case.ack(0, 0, &[(2, 4)]);
    assert_eq!(case.resend(), [1]);
}

#[test]
fn chunks_of_one_packet_count_once() {
    let mut case = Case::new();
    case.send_packet(&[100]);
    case.send_packet(&[100; 8]);
    case.ack(10, 0, &[(2, 9)]);
    assert!(!case.sender.has_lost(), "one packet overtook it");
}

#[test]
fn a_chunk_that_a_much_later_one_overtook_is_lost() {
    let mut case = Case::new();
    case.send(1);
    case.ack(80, 1, &[]);
    case.send(1);
    case.now += ms(10);
    case.send(1);
    case.ack(80, 1, &[(2, 2)]);
    assert!(
        !case.sender.has_lost(),
        "within a quarter of the round trip"
    );
    case.now += ms(15);
    case.send(1);
    case.ack(80, 1, &[(2, 3)]);
    assert_eq!(case.resend(), [2]);
}

#[test]
fn a_chunk_sent_again_can_be_lost_again() {
    let mut case = Case::new();
    case.send(5);
    case.ack(100, 0, &[(2, 5)]);
    assert_eq!(case.resend(), [1]);
    case.send(4);
    case.ack(100, 0, &[(2, 9)]);
    assert_eq!(case.resend(), [1]);
    assert_eq!(case.sender.retransmissions(), 2);
}

#[test]
fn losses_of_one_flight_reduce_the_window_once() {
    let mut case = Case::new();
    case.send(10);
    case.ack(100, 0, &[(2, 4)]);
    // It grew by what arrived before.
    let reduced = (INITIAL_WINDOW + 3 * FULL) * 7 / 10;
    assert_eq!(case.sender.window, reduced);
    case.ack(1, 0, &[(2, 4), (6, 10)]);
    assert!(case.sender.has_lost());
    assert_eq!(case.sender.window, reduced);
    case.resend();
    case.ack(100, 10, &[]);
    // The next flight.
    case.send(5);
    case.ack(100, 10, &[(2, 5)]);
    assert!(case.sender.window < reduced);
}

#[test]
fn the_window_does_not_fall_below_four_packets() {
    let mut case = Case::new();
    let mut acknowledged = 0;
    for _ in 0..20 {
        case.send(5);
        case.ack(100, acknowledged, &[(2, 5)]);
        case.resend();
        acknowledged += 5;
        case.ack(100, acknowledged, &[]);
        assert!(case.sender.window >= MIN_WINDOW);
    }
}

#[test]
fn what_was_sent_twice_measures_no_round_trip() {
    let mut case = Case::new();
    case.send(1);
    case.fire();
    case.resend();
    case.ack(5, 1, &[]);
    assert_eq!(case.sender.rtt(), None);
    case.send(1);
    case.ack(40, 2, &[]);
    assert_eq!(case.sender.rtt(), Some(ms(40)));
}

#[test]
fn an_acknowledgement_measures_the_chunk_that_was_sent_last() {
    let mut case = Case::new();
    case.send(1);
    case.now += ms(150);
    case.send(1);
    case.ack(50, 2, &[]);
    assert_eq!(case.sender.rtt(), Some(ms(50)));
}

#[test]
fn the_late_first_copy_of_a_resent_chunk_makes_nothing_else_lost() {
    let mut case = Case::new();
    case.send(1);
    case.ack(100, 1, &[]);
    case.send(5);
    case.fire();
    assert_eq!(case.resend(), [6], "the probe");
    // Too soon for the second copy.
    case.ack(5, 1, &[(5, 5)]);
    assert!(!case.sender.has_lost());
}

#[test]
fn the_time_out_stays_above_a_steady_round_trip() {
    let mut case = Case::new();
    for tsn in 1..100 {
        case.send(1);
        case.ack(600, tsn, &[]);
    }
    assert_eq!(case.sender.timeout(), ms(600) + RTO_SLACK);
    for tsn in 100..200 {
        case.send(1);
        case.ack(1, tsn, &[]);
    }
    assert_eq!(case.sender.timeout(), RTO_MIN);
}

#[test]
fn time_outs_grow_up_to_a_bound_and_fall_back_when_something_arrives() {
    let mut case = Case::new();
    case.send(1);
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push(case.fire().as_millis());
        assert_eq!(case.resend(), [1]);
    }
    assert_eq!(waits, [1000, 2000, 2000, 2000]);
    case.ack(10, 1, &[]);
    assert_eq!(case.sender.timeout(), RTO_INITIAL);
    assert_eq!(case.sender.poll_timeout(), None);
}

#[test]
fn after_a_time_out_all_is_sent_again_in_slow_start() {
    let mut case = Case::new();
    for _ in 0..5 {
        case.round(100);
    }
    let (window, first) = (case.sender.window, case.sender.last_tsn() + 1);
    while case.sender.may_send(FULL) {
        case.send(1);
    }
    let last = case.sender.last_tsn();
    // The probe first, then the time-out.
    case.fire();
    case.resend();
    case.fire();
    assert_eq!(case.sender.window, MIN_WINDOW);
    assert_eq!(case.sender.threshold, window / 2);
    let (mut next, mut rounds) = (first, 0);
    while next <= last {
        let sent = case.resend();
        assert!(sent.iter().copied().eq(next..next + sent.len() as u32));
        next += sent.len() as u32;
        case.ack(100, next - 1, &[]);
        rounds += 1;
    }
    // Four packets a round would take some eighty.
    assert!(rounds < 16, "{rounds} rounds");
}

#[test]
fn only_the_first_of_several_time_outs_lowers_the_threshold() {
    let mut case = Case::new();
    for _ in 0..5 {
        case.round(100);
    }
    let window = case.sender.window;
    case.send(1);
    for _ in 0..6 {
        case.fire();
        case.resend();
    }
    assert_eq!(case.sender.threshold, window / 2);
}

#[test]
fn a_closed_window_is_probed_and_is_not_congestion() {
    for left in [0, 500] {
        let mut case = Case::new();
        case.send(10);
        case.ack_with(10, 10, left, &[]);
        let window = case.sender.window;
        case.send(1);
        for _ in 0..5 {
            case.fire();
            // The peer has no room and says so.
            case.resend();
            case.ack_with(10, 10, left, &[]);
        }
        assert_eq!(case.sender.window, window);
        case.ack(10, 11, &[]);
        assert!(case.sender.may_send(FULL));
    }
}

#[test]
fn the_end_of_a_flight_is_probed_after_two_round_trips() {
    let mut case = Case::new();
    case.send(1);
    case.ack(50, 1, &[]);
    case.send(5);
    let waited = case.fire();
    assert_eq!(waited, ms(100) + PROBE_SLACK);
    assert_eq!(case.resend(), [6], "the last one");
    assert_eq!(
        case.sender.window, INITIAL_WINDOW,
        "a probe reduces nothing"
    );
    // Its answer shows that the others are missing.
    case.ack(50, 1, &[(5, 5)]);
    assert_eq!(case.resend(), [2, 3, 4, 5]);
}

#[test]
fn there_is_one_probe_until_something_arrives() {
    let mut case = Case::new();
    case.send(1);
    case.ack(50, 1, &[]);
    case.send(1);
    let probe = case.fire();
    case.resend();
    let second = case.fire();
    assert!(probe < second, "{probe:?}, {second:?}");
    assert_eq!(case.sender.round_trip.backoff, 1, "a time-out");
}

#[test]
fn gaps_alone_do_not_put_off_the_time_out_but_sending_the_earliest_again_does() {
    let mut case = Case::new();
    case.send(4);
    let due = case.sender.retransmit_at;
    case.ack(100, 0, &[(2, 2)]);
    case.ack(100, 0, &[(2, 3)]);
    assert_eq!(case.sender.retransmit_at, due);
    case.ack(100, 0, &[(2, 4)]);
    assert_eq!(case.resend(), [1]);
    let timeout = case.sender.timeout();
    assert_eq!(case.sender.retransmit_at, Some(case.now + timeout));
}

#[test]
fn lost_chunks_leave_in_order_as_far_as_the_window_allows() {
    let mut case = Case::new();
    case.send(10);
    case.now += ms(1000);
    case.sender.handle_timeout(case.now);
    assert_eq!(case.resend(), [1, 2, 3, 4]);
    assert!(!case.sender.may_send(1), "what was lost goes first");
    case.ack(10, 0, &[(2, 2)]);
    let window = case.sender.window / FULL;
    assert_eq!(case.resend().first(), Some(&5));
    assert!(case.sender.flying <= window * FULL);
}

#[test]
fn a_chunk_without_room_in_the_packet_waits_for_the_next() {
    let mut case = Case::new();
    case.send(1);
    case.fire();
    assert!(case.sender.resend(case.now, 1000).is_none());
    assert!(case.sender.has_lost());
    assert_eq!(case.resend(), [1]);
}

#[test]
fn what_arrived_is_released_once_and_not_sent_again() {
    let mut case = Case::new();
    case.send_packet(&[10]);
    case.send_packet(&[20]);
    case.send_packet(&[30]);
    case.ack(10, 0, &[(2, 2)]);
    case.ack(10, 0, &[(2, 2)]);
    case.now += ms(1000);
    case.sender.handle_timeout(case.now);
    assert_eq!(case.resend(), [1, 3]);
    case.ack(10, 3, &[]);
    assert_eq!(case.released, [20, 10, 30]);
    assert_eq!(case.sender.flying, 0);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    let mut case = Case::new();
    case.send(3);
    for (cumulative, gaps) in [(4, &[][..]), (0, &[(2, 4)]), (3, &[(2, 2)]), (1 << 30, &[])] {
        assert!(!case.ack(1, cumulative, gaps), "{cumulative} {gaps:?}");
    }
    assert_eq!(case.sender.acknowledged_tsn(), 0);
    assert!(case.released.is_empty());
}

#[test]
fn an_overtaken_acknowledgement_changes_nothing() {
    let mut case = Case::new();
    case.send(5);
    case.ack(10, 4, &[]);
    assert!(case.ack_with(1, 2, 7, &[]));
    assert_eq!(case.sender.acknowledged_tsn(), 4);
    assert_eq!(case.sender.peer_window, WIDE as usize);
}

#[test]
fn numbers_wrap_around() {
    for first in [u32::MAX - 4, u32::MAX, 0, 1 << 31] {
        let mut case = Case::from_tsn(first);
        let before_first = first.wrapping_sub(1);
        case.send(10);
        assert_eq!(case.sender.last_tsn(), first.wrapping_add(9));
        case.ack(10, before_first, &[(2, 6)]);
        assert_eq!(case.resend(), [first]);
        case.ack(10, before_first, &[(2, 6), (8, 10)]);
        case.ack(10, first.wrapping_add(8), &[]);
        assert_eq!(case.sender.acknowledged_tsn(), first.wrapping_add(8));
        case.ack(10, first.wrapping_add(9), &[]);
        assert_eq!(case.released.len(), 10);
        assert_eq!(case.sender.poll_timeout(), None);
    }
}
