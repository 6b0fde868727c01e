//! What an association makes of single packets: set-up, resets, windows, the end.

use std::time::Duration;

use bytes::Bytes;

use super::{
    link::{LIMITS, Link, Pair, read_all, send},
    raw::{FIRST, Raw, WHOLE, init},
};
use crate::proto::engine::sctp::{
    SctpEvent,
    wire::{Reconfig, kind},
};

const IN_PROGRESS: u32 = 6;
const PERFORMED: u32 = 1;
const BAD_SEQUENCE: u32 = 5;

fn answer(number: u32, result: u32) -> Reconfig {
    Reconfig::Response {
        sequence: FIRST.wrapping_add(number),
        result,
    }
}

#[test]
fn a_packet_with_another_tag_is_dropped() {
    let mut raw = Raw::established(LIMITS);
    raw.tag ^= 1;
    assert!(!raw.data(0, 3, 0, WHOLE, b"x"));
    assert!(raw.events().is_empty());
}

#[test]
fn a_repeated_cookie_echo_is_answered_again() {
    let mut raw = Raw::established(LIMITS);
    let cookie = raw.cookie.clone();
    assert!(raw.feed(|writer| writer.plain(kind::COOKIE_ECHO, &cookie)));
    assert_eq!(raw.sent()[0].kind, kind::COOKIE_ACK);
    assert!(raw.events().is_empty());
    assert!(!raw.feed(|writer| writer.plain(kind::COOKIE_ECHO, b"not it")));
    assert!(raw.sent().is_empty());
}

#[test]
fn a_cookie_that_fits_no_packet_is_refused() {
    for (len, taken) in [(1024, true), (1025, false), (9000, false)] {
        let mut raw = Raw::closed(LIMITS, true);
        raw.sent();
        assert_eq!(
            raw.feed(|writer| writer.init(&init(vec![1; len].into()))),
            taken
        );
        assert_eq!(raw.sent().len(), usize::from(taken));
    }
}

#[test]
fn an_acknowledgement_does_not_keep_a_full_packet_from_leaving() {
    let mut raw = Raw::established(LIMITS);
    raw.data(0, 3, 0, WHOLE, b"x");
    raw.sctp.open(2).unwrap();
    send(&mut raw.sctp, 2, &[0; 3000]);
    let kinds: Vec<u8> = raw.sent().iter().map(|chunk| chunk.kind).collect();
    assert_eq!(kinds, [kind::SACK, kind::DATA, kind::DATA, kind::DATA]);
}

#[test]
fn a_reset_request_names_the_same_end_whenever_it_is_repeated() {
    let mut raw = Raw::established(LIMITS);
    raw.sctp.open(2).unwrap();
    raw.sctp.open(4).unwrap();
    send(&mut raw.sctp, 2, b"x");
    raw.sctp.reset(2).unwrap();
    let first = raw.sent_resets();
    assert_eq!(
        first,
        [Reconfig::OutgoingReset {
            sequence: 1,
            last_tsn: 1,
            streams: vec![2]
        }]
    );
    send(&mut raw.sctp, 4, b"y");
    assert_eq!(raw.sent_data(), [2]);
    raw.wait(1000);
    assert_eq!(raw.sent_resets(), first);
    // The peer is not ready, then it is.
    raw.response(1, IN_PROGRESS);
    assert!(raw.sent_resets().is_empty());
    raw.wait(2000);
    assert_eq!(raw.sent_resets(), first);
    raw.response(1, PERFORMED);
    raw.wait(5000);
    assert!(raw.sent_resets().is_empty());
}

#[test]
fn one_request_is_out_at_a_time() {
    let mut raw = Raw::established(LIMITS);
    for id in [2, 4] {
        raw.sctp.open(id).unwrap();
        raw.sctp.reset(id).unwrap();
        assert_eq!(raw.sent_resets().len(), usize::from(id == 2));
    }
    raw.response(77, PERFORMED);
    assert!(raw.sent_resets().is_empty(), "an answer to something else");
    raw.response(1, PERFORMED);
    assert_eq!(
        raw.sent_resets(),
        [Reconfig::OutgoingReset {
            sequence: 2,
            last_tsn: 0,
            streams: vec![4]
        }]
    );
}

#[test]
fn a_request_waits_for_the_data_before_it() {
    let mut raw = Raw::established(LIMITS);
    raw.data(0, 3, 0, WHOLE, b"a");
    raw.request(0, 3, &[3]);
    assert_eq!(raw.sent_resets(), [answer(0, IN_PROGRESS)]);
    raw.data(2, 3, 2, WHOLE, b"c");
    assert!(raw.sent_resets().is_empty());
    raw.data(1, 3, 1, WHOLE, b"b");
    assert_eq!(raw.sent_resets()[0], answer(0, PERFORMED));
    assert_eq!(read_all(&mut raw.sctp, 3).len(), 3);
    assert_eq!(raw.events().last(), Some(&SctpEvent::Reset(3)));
}

#[test]
fn requests_that_arrive_out_of_order_are_all_performed() {
    let mut raw = Raw::established(LIMITS);
    for id in 0..3 {
        raw.data(id, id as u16, 0, WHOLE, b"x");
        read_all(&mut raw.sctp, id as u16);
    }
    raw.events();
    raw.sent();
    raw.request(2, 3, &[2]);
    raw.request(1, 3, &[1]);
    assert_eq!(
        raw.sent_resets(),
        [answer(2, IN_PROGRESS), answer(1, IN_PROGRESS)]
    );
    assert!(raw.events().is_empty());
    raw.request(0, 3, &[0]);
    assert_eq!(raw.events(), [0, 1, 2].map(SctpEvent::Reset));
    let answers: Vec<_> = raw.sent_resets().into_iter().take(3).collect();
    assert_eq!(answers, [0, 1, 2].map(|number| answer(number, PERFORMED)));
}

#[test]
fn a_request_behind_one_that_waits_for_data_is_not_lost() {
    let mut raw = Raw::established(LIMITS);
    raw.data(1, 3, 1, WHOLE, b"b");
    raw.request(0, 1, &[5]);
    raw.request(1, 2, &[3]);
    assert_eq!(
        raw.sent_resets(),
        [answer(0, IN_PROGRESS), answer(1, IN_PROGRESS)]
    );
    raw.data(0, 3, 0, WHOLE, b"a");
    let answers: Vec<_> = raw.sent_resets().into_iter().take(2).collect();
    assert_eq!(answers, [answer(0, PERFORMED), answer(1, PERFORMED)]);
}

#[test]
fn a_repeated_request_does_not_touch_the_next_use_of_the_id() {
    let mut raw = Raw::established(LIMITS);
    raw.data(0, 3, 0, WHOLE, b"first use");
    read_all(&mut raw.sctp, 3);
    raw.request(0, 1, &[3]);
    raw.sent();
    raw.response(1, PERFORMED);
    raw.data(1, 3, 0, WHOLE, b"second use");
    raw.events();
    for number in [0, u32::MAX, u32::MAX - 5] {
        raw.request(number, 1, &[3]);
        assert_eq!(raw.sent_resets(), [answer(number, PERFORMED)]);
    }
    assert!(raw.events().is_empty());
    assert_eq!(read_all(&mut raw.sctp, 3).len(), 1);
}

#[test]
fn a_second_request_for_an_unread_stream_does_not_hold_up_others() {
    let mut raw = Raw::established(LIMITS);
    raw.data(0, 3, 0, WHOLE, b"unread");
    raw.request(0, 1, &[3]);
    raw.sent();
    raw.request(1, 1, &[3]);
    raw.request(2, 1, &[5]);
    assert_eq!(
        raw.sent_resets(),
        [answer(1, PERFORMED), answer(2, PERFORMED)]
    );
    assert_eq!(read_all(&mut raw.sctp, 3).len(), 1);
    raw.response(1, PERFORMED);
    let seen = [
        SctpEvent::Opened(3),
        SctpEvent::Reset(3),
        SctpEvent::ResetComplete(3),
    ];
    assert_eq!(raw.events(), seen);
}

#[test]
fn a_request_for_the_next_use_of_an_id_waits_for_the_end_of_the_last() {
    let mut raw = Raw::established(LIMITS);
    raw.data(0, 3, 0, WHOLE, b"first use");
    raw.request(0, 1, &[3]);
    raw.sent();
    raw.data(1, 3, 0, WHOLE, b"second use");
    raw.request(1, 2, &[3]);
    assert_eq!(raw.sent_resets(), [answer(1, IN_PROGRESS)]);
    raw.response(1, PERFORMED);
    read_all(&mut raw.sctp, 3);
    let seen = [
        SctpEvent::Opened(3),
        SctpEvent::Reset(3),
        SctpEvent::ResetComplete(3),
        SctpEvent::Opened(3),
    ];
    assert_eq!(raw.events(), seen);
    assert_eq!(raw.sent_resets()[0], answer(1, PERFORMED));
    assert_eq!(read_all(&mut raw.sctp, 3)[0].data, b"second use"[..]);
    assert_eq!(raw.events(), [SctpEvent::Reset(3)]);
}

#[test]
fn a_request_far_ahead_is_refused_and_one_a_little_too_far_comes_again() {
    let mut raw = Raw::established(LIMITS);
    raw.request(5000, 0, &[3]);
    assert_eq!(raw.sent_resets(), [answer(5000, BAD_SEQUENCE)]);
    raw.request(40, 0, &[3]);
    assert!(raw.sent_resets().is_empty());
}

#[test]
fn giving_up_an_unread_stream_opens_the_window_at_once() {
    let mut raw = Raw::established(LIMITS);
    for tsn in 0..1000 {
        raw.data(tsn, 3, tsn as u16, WHOLE, &[0; 1100]);
    }
    let full = raw.sent_sack().unwrap();
    assert!(full.window < LIMITS.receive_window / 4);
    raw.sctp.reset(3).unwrap();
    let open = raw.sent_sack().expect("an update of the window");
    assert_eq!(open.window, LIMITS.receive_window);
}

#[test]
fn the_end_of_a_use_is_seen_before_the_next_begins() {
    let mut raw = Raw::established(LIMITS);
    raw.data(0, 3, 0, WHOLE, b"first use");
    raw.request(0, 1, &[3]);
    raw.sent();
    raw.response(1, PERFORMED);
    raw.data(1, 3, 0, WHOLE, b"second use");
    assert_eq!(raw.events(), [SctpEvent::Opened(3)]);
    assert_eq!(
        read_all(&mut raw.sctp, 3)[0].data,
        b"first use"[..],
        "and nothing else"
    );
    assert_eq!(raw.sctp.poll_event(), Some(SctpEvent::Reset(3)));
    raw.sctp.reset(3).unwrap();
    assert_eq!(
        raw.events(),
        [SctpEvent::ResetComplete(3), SctpEvent::Opened(3)]
    );
    assert_eq!(read_all(&mut raw.sctp, 3)[0].data, b"second use"[..]);
}

#[test]
fn a_few_bytes_do_not_keep_a_large_packet() {
    let mut raw = Raw::established(LIMITS);
    let mut writer = crate::proto::engine::sctp::wire::Writer::default();
    writer.begin(raw.tag);
    writer.data(&super::raw::chunk(0, 3, 0, WHOLE, b"x"), false);
    writer.plain(kind::HEARTBEAT, &[0; 16_000]);
    let packet = Bytes::copy_from_slice(writer.finish(true));
    raw.sctp.handle_packet(raw.now, packet.clone());
    assert_eq!(raw.events(), [SctpEvent::Opened(3)]);
    assert!(packet.is_unique());
}

#[test]
fn a_goodbye_is_answered_as_often_as_it_comes() {
    let mut raw = Raw::established(LIMITS);
    for _ in 0..3 {
        raw.feed(|writer| writer.plain(kind::SHUTDOWN, &FIRST.to_be_bytes()));
        assert_eq!(raw.sent()[0].kind, kind::SHUTDOWN_ACK);
    }
    assert_eq!(raw.events(), [SctpEvent::ClosedByPeer], "told once");
    // We said it, too.
    let mut raw = Raw::established(LIMITS);
    raw.sctp.shutdown();
    assert_eq!(raw.sent()[0].kind, kind::SHUTDOWN);
    raw.feed(|writer| writer.plain(kind::SHUTDOWN, &FIRST.to_be_bytes()));
    assert_eq!(raw.sent()[0].kind, kind::SHUTDOWN_ACK);
    raw.feed(|writer| writer.plain(kind::SHUTDOWN_ACK, &[]));
    assert_eq!(raw.sent()[0].kind, kind::SHUTDOWN_COMPLETE);
    assert!(raw.events().is_empty());
}

#[test]
fn a_violation_ends_the_association_with_an_abort() {
    let mut raw = Raw::established(LIMITS);
    for _ in 0..100 {
        raw.feed(|writer| writer.plain(kind::HEARTBEAT, b"in the way"));
    }
    raw.data(0, 3, 0, 0, b"continues nothing");
    assert!(matches!(raw.events()[..], [SctpEvent::Failed(_)]));
    let kinds: Vec<u8> = raw.sent().iter().map(|chunk| chunk.kind).collect();
    assert_eq!(kinds, [kind::ABORT]);
    assert_eq!(raw.sctp.poll_timeout(), None);
}

#[test]
fn a_path_that_was_gone_for_seconds_is_used_again_within_a_few_round_trips() {
    let mut pair = Pair::connected(
        Link {
            delay: 50,
            ..Link::default()
        },
        9,
    );
    pair.ends[0].open(2).unwrap();
    let total = 3000;
    for _ in 0..total {
        send(&mut pair.ends[0], 2, &[1; 1000]);
    }
    let mut read = 0;
    let mut run = |pair: &mut Pair, millis| {
        pair.run_until(Duration::from_millis(millis), |end, ends, _| {
            read += if end == 1 {
                read_all(&mut ends[1], 2).len()
            } else {
                0
            };
            read == total
        });
        read
    };
    let before = run(&mut pair, 650);
    assert!((200..1500).contains(&before), "{before}");
    pair.link.loss = 100;
    run(&mut pair, 5000);
    pair.link.loss = 0;
    // Two seconds for the time-out, and some twenty round trips.
    assert_eq!(run(&mut pair, 4000), total);
}

#[test]
fn of_the_acknowledgements_in_one_packet_those_in_the_middle_are_passed_over() {
    // One that speaks of what was never sent spoils its packet, if it is looked at.
    let spoiled = |tsns: &[u32]| {
        let mut raw = Raw::established(LIMITS);
        !raw.feed(|writer| {
            for tsn in tsns {
                writer.sack(*tsn, 1 << 20, &[], &[]);
            }
        })
    };
    assert!(spoiled(&[9]));
    assert!(spoiled(&[0, 9]) && spoiled(&[9, 0]));
    assert!(!spoiled(&[0, 9, 0]));
}
