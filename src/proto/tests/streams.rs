//! The two halves of a stream, transition by transition, through the whole stack.

use std::time::Duration;

use super::{
    ms,
    pair::{End, Pair, RawPair},
    secs,
};
use crate::proto::{
    ChannelId, CloseReason, Event, Limits, Read, Write, engine::sctp::Ppid, frame::Flag,
};

const RTT: u64 = 20;

fn pair() -> Pair {
    Pair::new(ms(RTT))
}

/// Nothing more to come at the moment.
fn open(data: &[u8]) -> (Vec<u8>, Read) {
    (data.to_vec(), Read::Blocked)
}

/// All of it and the end.
fn ended(data: &[u8]) -> (Vec<u8>, Read) {
    (data.to_vec(), Read::Eof)
}

fn reset() -> (Vec<u8>, Read) {
    (Vec::new(), Read::Reset(None))
}

#[test]
fn a_request_with_fin_and_a_response_with_fin_is_a_whole_stream() {
    for from_dialer in [true, false] {
        let mut pair = pair();
        let client = if from_dialer {
            pair.dialer
        } else {
            pair.listener
        };
        let server = pair.other(client);
        let (ours, theirs) = pair.stream(client);
        assert_eq!(pair.write(client, ours, b"request"), Write::Accepted(7));
        pair.finish(client, ours);
        assert_eq!(
            pair.write(client, ours, b"more"),
            Write::Closed,
            "nothing after FIN"
        );
        pair.run(ms(RTT));
        assert_eq!(pair.read(server, theirs), ended(b"request"));
        assert_eq!(pair.write(server, theirs, b"response"), Write::Accepted(8));
        pair.run(ms(RTT));
        assert_eq!(pair.read(client, ours), open(b"response"));
        pair.finish(server, theirs);
        pair.run(ms(4 * RTT));
        // The end can be read again and again, also when the data channel is gone.
        for _ in 0..3 {
            assert_eq!(pair.read(client, ours), ended(b""));
            assert_eq!(pair.read(server, theirs), ended(b""));
            pair.run(secs(1));
        }
        assert!(!pair.is_gone(client, ours), "the handle is still there");
        pair.release(client, ours);
        pair.release(server, theirs);
        pair.run(ms(4 * RTT));
        assert!(pair.is_gone(client, ours) && pair.is_gone(server, theirs));
    }
}

#[test]
fn both_sides_may_finish_in_the_same_moment() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    for (end, channel) in [(dialer, ours), (listener, theirs)] {
        assert_eq!(pair.write(end, channel, b"last"), Write::Accepted(4));
        pair.finish(end, channel);
        pair.finish(end, channel);
    }
    pair.run(ms(2 * RTT));
    assert_eq!(pair.read(dialer, ours), ended(b"last"));
    assert_eq!(pair.read(listener, theirs), ended(b"last"));
    pair.release(dialer, ours);
    pair.release(listener, theirs);
    pair.run(secs(1));
    assert!(pair.is_gone(dialer, ours) && pair.is_gone(listener, theirs));
}

#[test]
fn fin_waits_behind_the_data_before_it() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    let data = vec![7; 30_000];
    assert_eq!(pair.write(dialer, ours, &data), Write::Accepted(data.len()));
    pair.finish(dialer, ours);
    pair.release(dialer, ours);
    pair.run(secs(2));
    assert_eq!(
        pair.read(listener, theirs),
        ended(&data),
        "a dropped handle after FIN loses nothing"
    );
    pair.release(listener, theirs);
    pair.run(secs(1));
    assert!(pair.is_gone(dialer, ours) && pair.is_gone(listener, theirs));
}

#[test]
fn stop_sending_ends_the_writer_and_leaves_the_other_direction_open() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.write(dialer, ours, b"unwanted");
    pair.run(ms(RTT));
    pair.stop(listener, theirs);
    pair.run(ms(RTT));
    assert_eq!(
        pair.read(listener, theirs).0,
        b"",
        "nothing is given out after it"
    );
    assert!(
        pair.conn(dialer)
            .log
            .contains(&Event::ChannelWritable(ours)),
        "a writer that waits learns it"
    );
    assert_eq!(pair.write(dialer, ours, b"more"), Write::Stopped);
    assert_eq!(pair.write(listener, theirs, b"answer"), Write::Accepted(6));
    pair.finish(listener, theirs);
    pair.run(ms(2 * RTT));
    assert_eq!(pair.read(dialer, ours), ended(b"answer"));
    pair.finish(dialer, ours);
    pair.release(dialer, ours);
    pair.release(listener, theirs);
    pair.run(secs(1));
    assert!(pair.is_gone(dialer, ours) && pair.is_gone(listener, theirs));
}

#[test]
fn stop_sending_after_fin_ends_the_wait_for_its_acknowledgement() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    let channel = raw.inbound().unwrap();
    raw.sim.act(end.node, |peer, now| {
        peer.endpoint.finish(now, end.id, channel);
    });
    raw.run(ms(50));
    raw.raw(|raw| {
        raw.send_flag(2, Flag::StopSending);
        raw.send_flag(2, Flag::Fin);
    });
    raw.run(ms(1_200));
    assert_eq!(
        raw.raw(|raw| raw.resets.clone()),
        [2],
        "the data channel is closed without a FIN_ACK"
    );
}

#[test]
fn reset_ends_both_halves_on_both_sides_and_is_no_end_of_file() {
    for after_fin in [false, true] {
        let mut pair = pair();
        let (dialer, listener) = (pair.dialer, pair.listener);
        let (ours, theirs) = pair.stream(dialer);
        pair.write(dialer, ours, b"part");
        if after_fin {
            pair.finish(listener, theirs);
        }
        pair.run(ms(2 * RTT));
        pair.reset(dialer, ours);
        pair.run(ms(RTT));
        assert_eq!(pair.read(listener, theirs).1, Read::Reset(None));
        assert_eq!(pair.read(listener, theirs), reset(), "again");
        assert_eq!(pair.write(listener, theirs, b"x"), Write::Closed);
        assert_eq!(pair.write(dialer, ours, b"x"), Write::Closed);
        let expected = if after_fin {
            Read::Eof
        } else {
            Read::Reset(None)
        };
        assert_eq!(pair.read(dialer, ours).1, expected);
        pair.release(dialer, ours);
        pair.release(listener, theirs);
        pair.run(secs(1));
        assert!(pair.is_gone(dialer, ours) && pair.is_gone(listener, theirs));
    }
}

#[test]
fn a_local_reset_drops_unread_data_and_says_so() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.write(dialer, ours, b"all of it");
    pair.finish(dialer, ours);
    pair.run(ms(2 * RTT));
    pair.reset(listener, theirs);
    assert_eq!(
        pair.read(listener, theirs),
        reset(),
        "whoever reads in another task must not take it for the end"
    );
}

#[test]
fn a_reader_that_waits_is_woken_by_data_fin_and_reset() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    let wakes = |pair: &mut Pair| {
        pair.run(ms(2 * RTT));
        let log = &mut pair.conn(listener).log;
        let count = log
            .iter()
            .filter(|event| **event == Event::ChannelReadable(theirs))
            .count();
        log.clear();
        count
    };
    assert_eq!(pair.read(listener, theirs), open(b""));
    pair.write(dialer, ours, b"a");
    assert_eq!(wakes(&mut pair), 1);
    pair.write(dialer, ours, b"b");
    assert_eq!(wakes(&mut pair), 0, "one wake-up until it has read");
    assert_eq!(pair.read(listener, theirs), open(b"ab"));
    pair.reset(dialer, ours);
    assert_eq!(wakes(&mut pair), 1);
    assert_eq!(pair.read(listener, theirs), reset());

    let (ours, theirs) = pair.stream(dialer);
    assert_eq!(pair.read(listener, theirs), open(b""));
    pair.finish(dialer, ours);
    pair.run(ms(2 * RTT));
    assert!(
        pair.conn(listener)
            .log
            .contains(&Event::ChannelReadable(theirs))
    );
}

#[test]
fn a_dropped_handle_resets_the_stream() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.write(dialer, ours, b"half of it");
    pair.release(dialer, ours);
    pair.run(ms(2 * RTT));
    let (data, end) = pair.read(listener, theirs);
    assert_eq!(data, b"half of it");
    assert_eq!(
        end,
        reset().1,
        "data that was cut off never looks like all of it"
    );
    pair.release(listener, theirs);
    pair.run(secs(1));
    assert!(pair.is_gone(dialer, ours) && pair.is_gone(listener, theirs));
}

#[test]
fn a_reader_that_goes_away_after_its_fin_stops_the_writer() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.write(dialer, ours, b"request");
    pair.finish(dialer, ours);
    pair.release(dialer, ours);
    pair.run(ms(2 * RTT));
    assert_eq!(
        pair.read(listener, theirs),
        ended(b"request"),
        "FIN and its data arrive all the same"
    );
    assert_eq!(
        pair.write(listener, theirs, b"answer to nobody"),
        Write::Stopped
    );
    pair.release(listener, theirs);
    pair.run(secs(1));
    assert!(pair.is_gone(dialer, ours) && pair.is_gone(listener, theirs));
}

#[test]
fn a_fin_that_is_never_acknowledged_gives_up_after_ten_seconds() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    let channel = raw.inbound().unwrap();
    raw.raw(|raw| raw.send_flag(2, Flag::Fin));
    raw.run(ms(50));
    raw.sim.act(end.node, |peer, now| {
        peer.endpoint.write(now, end.id, channel, b"all");
        peer.endpoint.finish(now, end.id, channel);
        peer.endpoint.release(now, end.id, channel);
    });
    raw.run(ms(9_900));
    assert_eq!(raw.raw(|raw| raw.flags(2)), [Flag::FinAck, Flag::Fin]);
    assert_eq!(raw.raw(|raw| raw.resets.clone()), [0_u16; 0], "not yet");
    raw.run(ms(1_500));
    assert_eq!(raw.raw(|raw| raw.resets.clone()), [2]);
    assert!(raw.is_alive(4), "the connection goes on");
}

#[test]
fn a_fin_behind_data_that_still_flows_is_not_given_up() {
    let limits = Limits {
        fin_ack_timeout: secs(3),
        ..Limits::default()
    };
    let mut pair = Pair::with(limits, Limits::default(), super::link::Link::rtt(ms(RTT)));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    assert_eq!(pair.write(dialer, ours, b"slow"), Write::Accepted(4));
    pair.set_down(true);
    pair.write(dialer, ours, b" path");
    pair.finish(dialer, ours);
    pair.run(secs(8));
    pair.set_down(false);
    pair.run(secs(4));
    assert_eq!(pair.read(listener, theirs), ended(b"slow path"));
}

#[test]
fn data_and_fin_in_one_frame_gives_the_data_first() {
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.send_open(2, 0);
        raw.send_last_data(2, b"all of it");
    });
    let channel = raw.inbound().unwrap();
    assert_eq!(raw.read(channel), ended(b"all of it"));
    assert_eq!(raw.raw(|raw| raw.flags(2)), [Flag::FinAck]);
    raw.raw(|raw| raw.send_flag(2, Flag::Fin));
    raw.run(ms(50));
    assert_eq!(
        raw.raw(|raw| raw.flags(2)),
        [Flag::FinAck, Flag::FinAck],
        "a repeated FIN is acknowledged again"
    );
    assert_eq!(raw.read(channel), ended(b""));
}

#[test]
fn a_data_channel_that_closes_without_fin_is_a_reset() {
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.send_open(2, 0);
        raw.send_data(2, b"some");
    });
    let channel = raw.inbound().unwrap();
    raw.raw(|raw| raw.reset_stream(2));
    raw.run(secs(1));
    assert!(matches!(raw.read(channel).1, Read::Reset(None)));
    assert_eq!(
        raw.raw(|raw| raw.resets.clone()),
        [2],
        "the reset is answered"
    );
    assert!(raw.is_alive(4));
}

#[test]
fn a_frame_in_any_two_pieces_and_several_in_one_message_are_the_same_bytes() {
    let mut raw = RawPair::new();
    let frames = [
        2, 0x08, 3, 4, 0x12, 2, b'a', b'b', 0, 2, 0x12, 0, 5, 0x12, 1, b'c', 0x20, 1,
    ];
    for cut in 0..=frames.len() {
        let stream = 2 + 2 * u16::try_from(cut).unwrap();
        raw.raw(|raw| {
            raw.send_open(stream, 0);
            for piece in [&frames[..cut], &frames[cut..]] {
                if !piece.is_empty() {
                    raw.send(stream, Ppid::Binary, piece);
                }
            }
        });
        let channel = raw.inbound().unwrap();
        assert_eq!(raw.read(channel), open(b"abc"), "cut at {cut}");
    }
}

#[test]
fn a_peer_that_sends_the_length_of_a_frame_alone_gets_frames_of_4096_bytes_at_most() {
    for (alone, at_most) in [(false, 8192), (true, 4096)] {
        let mut raw = RawPair::new();
        let end = raw.end;
        raw.raw(|raw| {
            raw.send_open(2, 0);
            if alone {
                raw.send(2, Ppid::Binary, &[3]);
                raw.send(2, Ppid::Binary, &[0x12, 1, b'a']);
            } else {
                raw.send(2, Ppid::Binary, &[3, 0x12, 1, b'a']);
            }
        });
        let channel = raw.inbound().unwrap();
        assert_eq!(raw.read(channel), open(b"a"));
        let data = [7; 20_000];
        raw.sim.act(end.node, |peer, now| {
            let written = peer.endpoint.write(now, end.id, channel, &data);
            assert!(matches!(written, Write::Accepted(20_000)), "{written:?}");
        });
        raw.run(ms(100));
        let sizes: Vec<usize> = raw.raw(|raw| raw.messages(2));
        let longest = *sizes.iter().max().unwrap();
        assert!(longest <= at_most && longest > at_most - 1200, "{longest}");
    }
}

#[test]
fn a_frame_may_have_256_kibibytes_and_not_many_more() {
    let payload = vec![3; 256 * 1024];
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.send_open(2, 0);
        raw.send_data(2, &payload);
    });
    let channel = raw.inbound().unwrap();
    let mut got = Vec::new();
    for _ in 0..200 {
        raw.run(ms(5));
        got.extend(raw.read(channel).0);
    }
    assert_eq!(got.len(), payload.len());
    raw.raw(|raw| {
        raw.send_open(4, 0);
        raw.send_data(4, &[3; 264 * 1024]);
    });
    let channel = raw.inbound().unwrap();
    raw.run(secs(2));
    assert_eq!(raw.read(channel), reset());
    assert!(raw.is_alive(6));
}

#[test]
fn broken_frames_reset_their_stream_and_no_other() {
    let too_large = [0xff, 0xff, 0xff, 0x7f];
    let broken: [&[u8]; 4] = [&too_large, &[2, 0x12, 9], &[1, 0x0f], &[0xff; 12]];
    let mut raw = RawPair::new();
    for (number, message) in (0_u16..).zip(broken) {
        let stream = 2 + 2 * number;
        raw.raw(|raw| {
            raw.send_open(stream, 0);
            raw.send(stream, Ppid::Binary, message);
        });
        let channel = raw.inbound().unwrap();
        assert_eq!(raw.read(channel), reset(), "{message:?}");
        assert_eq!(
            raw.raw(|raw| raw.flags(stream)),
            [Flag::ResetStream],
            "{message:?}"
        );
    }
    assert!(raw.is_alive(100));
}

fn lose(pair: &mut Pair, how: u32, dialer: End, ours: ChannelId) {
    match how {
        0 => pair.release(dialer, ours),
        1 => pair.reset(dialer, ours),
        2 => pair.close(dialer),
        _ => pair.set_down(true),
    }
}

#[test]
fn data_that_was_cut_off_never_ends_with_end_of_file() {
    for how in 0..4 {
        for wait in [0, 5, 11, 15, 30, 60] {
            let mut pair = pair();
            let (dialer, listener) = (pair.dialer, pair.listener);
            let (ours, theirs) = pair.stream(dialer);
            let data = vec![1; 30_000];
            pair.write(dialer, ours, &data);
            pair.run(ms(wait));
            lose(&mut pair, how, dialer, ours);
            let mut got = Vec::new();
            let mut end = Read::Blocked;
            for _ in 0..400 {
                pair.run(ms(100));
                let (more, now) = pair.read(listener, theirs);
                got.extend(more);
                end = now;
                if end != Read::Blocked {
                    break;
                }
            }
            assert_eq!(end, Read::Reset(None), "way {how} after {wait} ms");
            assert!(data.starts_with(&got));
        }
    }
}

#[test]
fn streams_of_a_connection_that_ends_are_reset_at_once() {
    let mut pair = pair();
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.close(dialer);
    pair.run(ms(500));
    assert_eq!(pair.closed(dialer), Some(CloseReason::Local));
    assert_eq!(pair.closed(listener), Some(CloseReason::Remote));
    for (end, channel) in [(dialer, ours), (listener, theirs)] {
        assert_eq!(pair.read(end, channel), reset());
        assert_eq!(pair.write(end, channel, b"x"), Write::Closed);
        for act in [Pair::finish, Pair::stop, Pair::reset, Pair::release] {
            act(&mut pair, end, channel);
        }
        assert_eq!(
            pair.sim
                .act(end.node, |peer, now| peer.endpoint.open(now, end.id)),
            None
        );
        pair.close(end);
    }
    pair.run(secs(30));
    pair.assert_empty();
}

/// When the endpoint acknowledged a FIN that it got at once.
fn fin_ack_after(server_ufrag: &str, client_ufrag: &str, finish_first: bool) -> Duration {
    let mut raw = RawPair::with(server_ufrag, client_ufrag, Limits::default());
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    let channel = raw.inbound().unwrap();
    if finish_first {
        raw.sim.act(end.node, |peer, now| {
            peer.endpoint.finish(now, end.id, channel)
        });
        raw.run(ms(50));
    }
    raw.raw(|raw| raw.send_flag(2, Flag::Fin));
    let start = raw.sim.elapsed();
    let node = raw.raw;
    raw.sim.expect("FIN_ACK", secs(5), |sim| {
        sim.raw(node).flags(2).contains(&Flag::FinAck)
    });
    raw.sim.elapsed() - start
}

#[test]
fn fin_ack_is_held_back_only_towards_nodes_that_misread_it() {
    let of_len = |len: usize| format!("libp2p+webrtc+v1/{}", "x".repeat(len));
    let rust = of_len(64);
    let others = of_len(32);
    let delayed = fin_ack_after(&rust, &rust, false);
    assert!(delayed >= ms(100) && delayed < ms(200), "{delayed:?}");
    for (server, client) in [
        (&others[..], &others[..]),
        ("libp2p+webrtc+v2/passwordpasswordpassword", "ufrag"),
        (&format!("libp2p+webrtc+v2/{}", "x".repeat(64)), "ufrag"),
    ] {
        let prompt = fin_ack_after(server, client, false);
        assert!(prompt < ms(50), "{server}: {prompt:?}");
    }
    let finished = fin_ack_after(&rust, &rust, true);
    assert!(
        finished < ms(50),
        "it has read everything once our FIN is out: {finished:?}"
    );
}

#[test]
fn a_fin_ack_that_is_held_back_leaves_with_our_fin() {
    let rust = format!("libp2p+webrtc+v1/{}", "x".repeat(64));
    let mut raw = RawPair::with(&rust, &rust, Limits::default());
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    let channel = raw.inbound().unwrap();
    raw.raw(|raw| raw.send_flag(2, Flag::Fin));
    raw.run(ms(30));
    raw.sim.act(end.node, |peer, now| {
        peer.endpoint.write(now, end.id, channel, b"response");
        peer.endpoint.finish(now, end.id, channel);
    });
    raw.run(ms(30));
    let frames = raw.raw(|raw| raw.frames(2));
    assert_eq!(frames[0].message, &b"response"[..]);
    assert_eq!(
        raw.raw(|raw| raw.flags(2)),
        [Flag::Fin, Flag::FinAck],
        "after the response, not before"
    );
}
