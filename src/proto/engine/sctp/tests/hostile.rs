//! Peers that mean harm: nothing panics, memory and answers stay bounded.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{
    link::{Link, Pair, read_all, send},
    raw::{FIRST, Raw, WHOLE, chunk, init},
};
use crate::proto::engine::sctp::{
    SctpEvent, SctpLimits,
    wire::{Reconfig, Writer, flag, kind},
};

const SMALL: SctpLimits = SctpLimits {
    receive_window: 100_000,
    max_receive_message: 30_000,
    max_streams: 200,
};
/// A packet may exceed the bound by its own chunks.
const SLACK: usize = 70_000;

/// What always holds.
fn check(raw: &Raw, limits: SctpLimits) {
    assert!(
        raw.sctp.held() <= 2 * limits.receive_window as usize + SLACK,
        "{} bytes held",
        raw.sctp.held()
    );
    assert!(
        raw.sctp.streams() <= limits.max_streams,
        "{} streams",
        raw.sctp.streams()
    );
}

/// An association in one of the states, with data of its own under way when it is up.
fn in_state(state: u32) -> Raw {
    match state {
        0 => Raw::closed(SMALL, false),
        1 => Raw::closed(SMALL, true),
        2 => {
            let mut raw = Raw::closed(SMALL, true);
            raw.feed(|writer| writer.init(&init(Bytes::from_static(b"cookie"))));
            raw
        }
        3 => {
            let mut raw = Raw::established(SMALL);
            for id in 0..20 {
                raw.sctp.open(id).unwrap();
                send(&mut raw.sctp, id, &[1; 3000]);
            }
            raw.sctp.reset(5).unwrap();
            raw.sent();
            raw
        }
        _ => {
            let mut raw = Raw::established(SMALL);
            raw.sctp.shutdown();
            raw
        }
    }
}

/// A chunk that is well formed, with numbers near those in use or anywhere.
fn random_chunk(rng: &mut StdRng, writer: &mut Writer) {
    let near = |rng: &mut StdRng, base: u32| match rng.random_range(0..8) {
        0 => rng.random(),
        1 => base.wrapping_sub(rng.random_range(0..70)),
        _ => base.wrapping_add(rng.random_range(0..70)),
    };
    match rng.random_range(0..12) {
        0..6 => {
            let mut data = chunk(
                0,
                rng.random_range(0..30),
                0,
                rng.random(),
                &vec![0; rng.random_range(1..60)],
            );
            data.tsn = near(rng, FIRST);
            data.ssn = near(rng, 0) as u16;
            if rng.random_bool(0.8) {
                data.flags |= WHOLE;
            }
            writer.data(&data, rng.random());
        }
        6 | 7 => {
            let mut gaps = Vec::new();
            let mut at: u16 = 1;
            for _ in 0..rng.random_range(0..4) {
                let start = at.saturating_add(rng.random_range(1..9));
                at = start.saturating_add(rng.random_range(0..9));
                gaps.push((start, at));
            }
            writer.sack(near(rng, 1), near(rng, 5000), &gaps, &[rng.random()]);
        }
        8 | 9 => {
            let streams = (0..rng.random_range(0..5))
                .map(|_| rng.random_range(0..30))
                .collect();
            let request = Reconfig::OutgoingReset {
                sequence: near(rng, FIRST),
                last_tsn: near(rng, FIRST),
                streams,
            };
            let response = Reconfig::Response {
                sequence: near(rng, 1),
                result: rng.random_range(0..8),
            };
            writer.reconfig(
                if rng.random() { &request } else { &response },
                rng.random(),
            );
        }
        10 => writer.plain(kind::HEARTBEAT, &vec![0; rng.random_range(0..900)]),
        _ => {
            let mut body = vec![0; rng.random_range(0..80)];
            rng.fill_bytes(&mut body);
            writer.plain(rng.random_range(0..16), &body);
        }
    }
}

#[test]
fn nothing_panics_and_all_stays_bounded_whatever_arrives() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut raw = in_state(seed as u32 % 5);
        for _ in 0..60 {
            let count = rng.random_range(1..8);
            raw.feed(|writer| (0..count).for_each(|_| random_chunk(&mut rng, writer)));
            check(&raw, SMALL);
            for event in raw.events() {
                if let SctpEvent::Opened(id) | SctpEvent::Readable(id) = event
                    && rng.random_bool(0.5)
                {
                    read_all(&mut raw.sctp, id);
                }
            }
            if rng.random_bool(0.1) {
                // Whether the stream is there does not matter here.
                raw.sctp.reset(rng.random_range(0..30)).unwrap_or_default();
            }
            raw.wait(rng.random_range(0..300));
            assert!(raw.sent().len() < 1000, "seed {seed}");
        }
        while raw.sctp.poll_event().is_some() {}
        for id in 0..30 {
            read_all(&mut raw.sctp, id);
            raw.sctp.reset(id).unwrap_or_default();
        }
        assert!(
            raw.sctp.held() <= SMALL.receive_window as usize * 2,
            "seed {seed}"
        );
    }
}

/// The packets of a real conversation, from its first on.
fn recorded() -> Vec<Bytes> {
    let mut packets = Vec::new();
    let mut pair = Pair::connected(Link::default(), 5);
    for id in 0..10 {
        pair.ends[0].open(id).unwrap();
        send(&mut pair.ends[0], id, &[id as u8; 2500]);
        pair.ends[0].reset(id).unwrap();
    }
    for _ in 0..20 {
        for end in 0..2 {
            let mut out = Vec::new();
            pair.ends[end]
                .poll_packets(pair.now, |packet| out.push(Bytes::copy_from_slice(packet)));
            for packet in out {
                packets.push(packet.clone());
                pair.ends[1 - end].handle_packet(pair.now, packet);
            }
        }
    }
    assert!(packets.len() > 20);
    packets
}

#[test]
fn real_packets_with_faults_do_no_harm() {
    let packets = recorded();
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut raw = in_state(seed as u32 % 5);
        for _ in 0..100 {
            let mut packet = BytesMut::from(&packets[rng.random_range(0..packets.len())][..]);
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(12..packet.len());
                packet[at] = rng.random();
            }
            if rng.random_bool(0.2) {
                packet.truncate(rng.random_range(0..packet.len()));
            }
            // The tag is known and there is no checksum: both are no obstacle inside DTLS.
            if packet.len() >= 12 {
                packet[4..8]
                    .copy_from_slice(&if rng.random_bool(0.9) { raw.tag } else { 0 }.to_be_bytes());
                packet[8..12].fill(0);
            }
            raw.sctp.handle_packet(raw.now, packet.freeze());
            check(&raw, SMALL);
            raw.events();
            raw.wait(rng.random_range(0..100));
            assert!(raw.sent().len() < 1000, "seed {seed}");
        }
    }
}

#[test]
fn arbitrary_bytes_do_no_harm() {
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut raw = in_state(seed as u32 % 5);
        for _ in 0..100 {
            let mut packet = vec![0; rng.random_range(0..120)];
            rng.fill_bytes(&mut packet);
            if packet.len() >= 12 {
                packet[4..8].copy_from_slice(&raw.tag.to_be_bytes());
                packet[8..12].fill(0);
            }
            raw.sctp.handle_packet(raw.now, packet.into());
            check(&raw, SMALL);
        }
    }
}

#[test]
fn floods_are_answered_boundedly() {
    for state in 0..5 {
        let mut raw = in_state(state);
        raw.sent();
        for n in 0..2000 {
            raw.feed(|writer| writer.plain(kind::HEARTBEAT, &[0; 100]));
            raw.feed(|writer| writer.init(&init(Bytes::new())));
            raw.request(n % 3, 0, &[9]);
            raw.feed(|writer| writer.plain(kind::COOKIE_ECHO, b"guess"));
            raw.feed(|writer| writer.plain(kind::SHUTDOWN_ACK, &[]));
        }
        assert!(raw.sent().len() <= 50, "state {state}");
    }
}

#[test]
fn one_byte_on_each_of_all_streams_makes_no_more_streams_than_allowed() {
    let mut raw = Raw::established(SMALL);
    let mut refused = 0;
    for first in (0..65_500).step_by(50) {
        raw.feed(|writer| {
            for id in first..first + 50 {
                writer.data(&chunk(id, id as u16, 0, WHOLE, b"x"), false);
            }
        });
        check(&raw, SMALL);
        for event in raw.events() {
            if let SctpEvent::Opened(id) = event {
                read_all(&mut raw.sctp, id);
            }
        }
        for reset in raw.sent_resets() {
            if let Reconfig::OutgoingReset {
                sequence, streams, ..
            } = reset
            {
                refused += streams.len();
                raw.response(sequence, 1);
            }
        }
    }
    assert_eq!(raw.sctp.streams(), SMALL.max_streams);
    assert!(refused + SMALL.max_streams > 65_000, "{refused} were told");
}

#[test]
fn large_packets_that_fill_a_gap_are_bounded() {
    let mut raw = Raw::established(SMALL);
    raw.data(10_000, 3, 9999, WHOLE, b"x");
    for tsn in 0..1000 {
        raw.data(tsn, 3, tsn as u16, WHOLE, &[0; 15_000]);
        check(&raw, SMALL);
    }
}

#[test]
fn numbers_all_around_the_circle_are_bounded() {
    let mut raw = Raw::established(SMALL);
    for tsn in 0..20_000u32 {
        raw.data(tsn, 3, (tsn * 7919) as u16, WHOLE, b"x");
        check(&raw, SMALL);
    }
    raw.sctp.reset(3).unwrap();
    assert_eq!(raw.sctp.held(), 0);
}

#[test]
fn fragments_without_end_are_bounded() {
    for (flags, step) in [
        (0, 1),
        (0, 2),
        (flag::BEGIN, 1),
        (flag::END, 1),
        (flag::BEGIN, 3),
    ] {
        let mut raw = Raw::established(SMALL);
        // Behind a gap, so that they do not fail at once, and beyond every bound.
        for tsn in (1..40_000).step_by(step) {
            raw.data(tsn, 3, 0, flags, b"x");
            check(&raw, SMALL);
        }
        assert!(raw.events().is_empty());
    }
    // In order until the window or the largest message says no.
    let mut raw = Raw::established(SMALL);
    raw.data(0, 3, 0, flag::BEGIN, &[0; 1000]);
    for tsn in 1..1000 {
        raw.data(tsn, 3, 0, 0, &[0; 1000]);
        check(&raw, SMALL);
    }
    assert!(matches!(raw.events()[..], [SctpEvent::Failed(_)]));
}

#[test]
fn acknowledgements_of_everything_but_the_first_chunk_are_bounded() {
    let mut raw = Raw::established(SMALL);
    raw.sctp.open(2).unwrap();
    let mut sent = 0;
    for _ in 0..100 {
        for _ in 0..20 {
            send(&mut raw.sctp, 2, &[0; 1000]);
        }
        sent += raw.sent_data().len();
        let last = u16::try_from(sent.min(65_000)).unwrap();
        if last > 1 {
            raw.sack(0, 1 << 20, &[(2, last)]);
        }
    }
    assert!(raw.sctp.buffered() <= 2_000_000);
    // And of what was never sent.
    for gaps in [&[(2, 65_535)][..], &[(60_000, 60_001)], &[]] {
        assert!(!raw.sack(60_000, 1 << 20, gaps));
    }
    assert_eq!(raw.sctp.rtt(), Some(std::time::Duration::ZERO));
}

#[test]
fn requests_for_streams_that_are_not_there_do_nothing() {
    let mut raw = Raw::established(SMALL);
    let all: Vec<u16> = (0..500).collect();
    for number in 0..100 {
        raw.request(number, 0, &all);
        assert_eq!(
            raw.sent_resets(),
            [Reconfig::Response {
                sequence: FIRST + number,
                result: 1
            }]
        );
    }
    raw.request(100, 0, &[]);
    assert_eq!(raw.sctp.streams(), 0);
    assert!(raw.events().is_empty());
}

#[test]
fn requests_that_wait_are_bounded() {
    let mut raw = Raw::established(SMALL);
    let mut answers = BTreeMap::new();
    for number in 1..2000 {
        raw.request(number, 0, &[1]);
        for answer in raw.sent_resets() {
            if let Reconfig::Response { sequence, result } = answer {
                answers.insert(sequence - FIRST, result);
            }
        }
    }
    // One with more streams than a packet holds waits neither.
    let mut raw_large = Raw::established(SMALL);
    raw_large.request(0, 0, &[1; 5000]);
    assert!(raw_large.sent_resets().is_empty());
    let waiting = answers.values().filter(|&&result| result == 6).count();
    assert!(waiting < 40, "{waiting} wait");
}
