//! Bytes arrive whole, in order and once; streams end and their ids come back.

use std::time::Duration;

use super::link::{Link, Pair, read_all, send};
use crate::proto::engine::sctp::SctpEvent;

/// Sends `count` messages of up to `size` bytes on each of `streams` and checks what arrives.
fn exchange(link: Link, seed: u64, streams: u16, count: usize, size: usize) {
    let mut pair = Pair::connected(link, seed);
    let body =
        |stream: u16, n: usize| vec![(n as u8).wrapping_add(stream as u8); 1 + (n * 7919) % size];
    for stream in 0..streams {
        pair.ends[0].open(stream * 2).unwrap();
        for n in 0..count {
            send(&mut pair.ends[0], stream * 2, &body(stream, n));
        }
    }
    let mut received = vec![0; usize::from(streams)];
    pair.run_until(Duration::from_secs(600), |end, ends, event| {
        if let (1, SctpEvent::Opened(id) | SctpEvent::Readable(id)) = (end, event) {
            for message in read_all(&mut ends[1], *id) {
                let n = &mut received[usize::from(id / 2)];
                assert_eq!(
                    message.data,
                    body(id / 2, *n),
                    "seed {seed}: message {n} of stream {id}"
                );
                *n += 1;
            }
        }
        false
    });
    assert_eq!(received, vec![count; usize::from(streams)], "seed {seed}");
    assert_eq!(pair.ends[0].buffered(), 0);
}

#[test]
fn messages_arrive_over_a_perfect_link() {
    exchange(Link::default(), 1, 3, 50, 20_000);
}

#[test]
fn messages_arrive_whatever_the_link_does() {
    for seed in 0..60 {
        let link = Link {
            delay: seed % 7 * 10,
            jitter: seed % 5 * 4,
            loss: (seed % 4 * 5) as u32,
            duplicate: (seed % 3 * 5) as u32,
        };
        exchange(link, seed, 1 + (seed % 4) as u16, 30, 12_000);
    }
}

#[test]
fn one_side_or_both_may_begin() {
    for initiate in [[true, false], [false, true], [true, true]] {
        for seed in 0..40 {
            let link = Link {
                delay: 5,
                jitter: 9,
                loss: (seed % 5 * 8) as u32,
                duplicate: 10,
            };
            let mut pair = Pair::new(link, seed, initiate);
            let mut up = [0; 2];
            pair.run_until(Duration::from_secs(120), |end, _, event| {
                up[end] += u32::from(*event == SctpEvent::Connected);
                false
            });
            assert_eq!(up, [1, 1], "seed {seed}, {initiate:?}");
        }
    }
}

#[test]
fn ids_come_back_after_both_directions_are_reset() {
    for seed in 0..30 {
        let link = Link {
            delay: 3,
            jitter: 5,
            loss: (seed % 3 * 10) as u32,
            duplicate: 5,
        };
        let mut pair = Pair::connected(link, seed);
        for round in 0..10 {
            pair.ends[0].open(2).unwrap();
            send(&mut pair.ends[0], 2, &[round; 5000]);
            pair.ends[0].reset(2).unwrap();
            let mut told = Vec::new();
            pair.run_until(Duration::from_secs(60), |end, ends, event| {
                if let (1, SctpEvent::Opened(2) | SctpEvent::Readable(2)) = (end, event) {
                    let messages = read_all(&mut ends[1], 2);
                    assert!(
                        messages
                            .iter()
                            .all(|message| message.data[..] == [round; 5000])
                    );
                }
                told.push((end, event.clone()));
                false
            });
            for end in 0..2 {
                let complete = told
                    .iter()
                    .filter(|(at, event)| (*at, event) == (end, &SctpEvent::ResetComplete(2)));
                assert_eq!(
                    complete.count(),
                    1,
                    "seed {seed}, round {round}, end {end}: {told:?}"
                );
            }
        }
    }
}

#[test]
fn an_unread_stream_closes_the_window_and_reading_opens_it_at_once() {
    let mut pair = Pair::connected(
        Link {
            delay: 10,
            ..Link::default()
        },
        3,
    );
    pair.ends[0].open(2).unwrap();
    for _ in 0..400 {
        send(&mut pair.ends[0], 2, &[7; 8000]);
    }
    pair.settle();
    let held = pair.ends[1].advertised_window();
    assert!(held < 20_000, "{held}");
    let (mut read, start) = (0, pair.now);
    read += read_all(&mut pair.ends[1], 2).len();
    pair.run_until(Duration::from_secs(5), |end, ends, _| {
        if end == 1 {
            read += read_all(&mut ends[1], 2).len();
        }
        read == 400
    });
    assert_eq!(read, 400);
    assert!(
        pair.now - start < Duration::from_millis(600),
        "{:?}",
        pair.now - start
    );
}

#[test]
fn one_lost_tail_costs_less_than_a_retransmission_time_out() {
    let mut pair = Pair::connected(
        Link {
            delay: 10,
            ..Link::default()
        },
        4,
    );
    pair.ends[0].open(2).unwrap();
    send(&mut pair.ends[0], 2, b"measure the round trip");
    pair.settle();
    read_all(&mut pair.ends[1], 2);
    send(&mut pair.ends[0], 2, b"lost");
    pair.ends[0].poll_packets(pair.now, |_| {});
    let start = pair.now;
    let mut got = false;
    pair.run_until(Duration::from_secs(5), |end, ends, _| {
        got |= end == 1 && !read_all(&mut ends[1], 2).is_empty();
        got
    });
    assert!(
        got && pair.now - start < Duration::from_millis(120),
        "{:?}",
        pair.now - start
    );
}
