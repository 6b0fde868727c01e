//! Peers that want us to hold more than they are charged for.

use super::{
    link::Link,
    ms,
    pair::{Pair, RawPair},
    raw::{RawPeer, chunk, data_chunk, packet},
    secs,
    sim::{Node, Sim},
};
use crate::proto::{
    CloseReason, DropReason, Limits, Read, engine::sctp::Ppid, error::PeerMisbehaved,
};

/// A listener with a hand-made dialer that is not authenticated and never will be.
fn stranger() -> (Sim, Node, Node) {
    let mut sim = Sim::new();
    let node = sim.listener();
    sim.peer(node).stuck = true;
    let raw = RawPeer::v2(sim.now(), sim.address(node));
    let raw = sim.add_raw(raw);
    sim.expect("SCTP", secs(1), |sim| sim.raw(raw).connected);
    sim.run_for(ms(100));
    (sim, node, raw)
}

#[test]
fn channels_that_are_reset_before_their_open_leave_nothing() {
    let (mut sim, node, raw) = stranger();
    let id = sim.peer(node).only();
    for round in 0..30 {
        sim.act_raw(raw, |raw| {
            if round == 0 || !raw.resets.is_empty() {
                raw.resets.clear();
                for stream in 1..=20_u16 {
                    raw.make_stream(2 * stream);
                    raw.send(2 * stream, Ppid::Binary, &[0; 2000]);
                    raw.reset_stream(2 * stream);
                }
            }
        });
        sim.run_for(ms(80));
    }
    sim.run_for(secs(2));
    assert_eq!(sim.peer(node).closed(id), None);
    let held = sim.peer(node).endpoint.held(id);
    assert!(held.channels <= 1, "only the handshake channel: {held:?}");
    assert_eq!(held.bytes, 0);
}

#[test]
fn a_stranger_that_uses_an_id_of_ours_is_told_goodbye() {
    let (mut sim, node, raw) = stranger();
    let id = sim.peer(node).only();
    sim.act_raw(raw, |raw| {
        for number in 0..50_u16 {
            raw.make_stream(2 * number + 1);
            raw.send(2 * number + 1, Ppid::Binary, &[0]);
        }
    });
    sim.run_for(ms(100));
    assert_eq!(
        sim.peer(node).closed(id),
        Some(&CloseReason::Misbehaved(PeerMisbehaved::StreamOfOurs))
    );
    assert_eq!(sim.peer(node).endpoint.connections(), 0);
    assert_eq!(sim.peer(node).dropped(DropReason::RefusedStream), 0);
}

/// A frame with one byte of payload and a field nobody knows of `pad` bytes.
fn padded_frame(pad: usize) -> Vec<u8> {
    let varint = |value: usize| {
        let (low, high) = (
            (value & 0x7f) as u8 | 0x80,
            (value >> 7 & 0x7f) as u8 | 0x80,
        );
        [low, high, (value >> 14) as u8]
    };
    let mut body = vec![0x12, 1, b'x', 0x7a];
    body.extend(varint(pad));
    body.resize(body.len() + pad, 0);
    let mut frame = varint(body.len()).to_vec();
    frame.extend(body);
    frame
}

#[test]
fn a_byte_in_a_long_frame_is_charged_and_held_as_a_byte() {
    let (mut sim, node, raw) = stranger();
    let id = sim.peer(node).only();
    for _ in 0..20 {
        sim.act_raw(raw, |raw| raw.send(0, Ppid::Binary, &padded_frame(60_000)));
        sim.run_for(ms(30));
    }
    let held = sim.peer(node).endpoint.held(id);
    assert_eq!(held.bytes, 20 * (1 + 64), "{held:?}");
}

#[test]
fn tiny_frames_wait_together_and_are_charged_with_what_they_cost() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    let channel = raw.inbound().unwrap();
    let message: Vec<u8> = [3, 0x12, 1, 7].into_iter().cycle().take(40_000).collect();
    for _ in 0..20 {
        raw.raw(|raw| raw.send(2, Ppid::Binary, &message));
        raw.run(ms(30));
    }
    let held = raw.sim.peer(end.node).endpoint.held(end.id);
    // One message more than fits, in a few pieces.
    let most = Limits::default().max_stream_buffer + 10_000 + 4 * 64;
    assert!(held.bytes > 64_000 && held.bytes <= most, "{held:?}");
    assert_eq!(held.bytes, held.counted);
    let mut read = 0;
    for _ in 0..200 {
        read += raw.read(channel).0.len();
        raw.run(ms(20));
    }
    assert_eq!(read, 20 * 10_000, "nothing is lost");
}

#[test]
fn bytes_from_before_the_open_are_charged_before_and_after_it() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| {
        raw.make_stream(2);
        raw.send_data(2, &[1; 5_000]);
    });
    raw.run(ms(50));
    let before = raw.sim.peer(end.node).endpoint.held(end.id);
    assert!(
        before.counted >= 5_000 && before.counted == before.bytes,
        "{before:?}"
    );
    raw.raw(|raw| raw.send(2, Ppid::Dcep, &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    let channel = raw.inbound().unwrap();
    let after = raw.sim.peer(end.node).endpoint.held(end.id);
    assert!(
        after.counted >= 5_000 && after.counted == after.bytes,
        "{after:?}"
    );
    assert_eq!(raw.read(channel), (vec![1; 5_000], Read::Blocked));
    assert_eq!(raw.sim.peer(end.node).endpoint.held(end.id).counted, 0);
}

#[test]
fn channels_without_open_are_bounded_over_the_connection_and_do_not_stay() {
    let mut raw = RawPair::new();
    let end = raw.end;
    for number in 1..=200_u16 {
        raw.raw(|raw| {
            raw.make_stream(2 * number);
            for _ in 0..6 {
                raw.send(2 * number, Ppid::Binary, &[0; 9_000]);
            }
        });
        raw.run(ms(10));
        let held = raw.sim.peer(end.node).endpoint.held(end.id);
        assert!(held.counted <= 256 * 1024 + 10_000, "{held:?}");
    }
    raw.run(secs(32));
    let held = raw.sim.peer(end.node).endpoint.held(end.id);
    assert_eq!((held.channels, held.counted), (1, 0));
    assert!(raw.is_alive(1000));
}

#[test]
fn a_fin_again_and_again_is_not_answered_while_the_answer_waits() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    raw.inbound().unwrap();
    raw.run(ms(200));
    // From here on nothing of ours is acknowledged.
    raw.raw(|raw| raw.mangle = Some(Box::new(|_| Vec::new())));
    let first = raw.raw(|raw| raw.next_tsn);
    let mut number = 0_u32;
    for _ in 0..50 {
        let mut chunks = Vec::new();
        for _ in 0..50 {
            let ssn = 1_u16.wrapping_add(number as u16);
            chunks.extend(data_chunk(
                first.wrapping_add(number),
                2,
                ssn,
                3,
                &[2, 8, 0],
            ));
            number += 1;
        }
        raw.raw(|raw| raw.send_packet(&packet(raw.tag, &chunks)));
        raw.run(ms(11));
    }
    let queued = raw.sim.peer(end.node).endpoint.send_queue(end.id);
    assert!(queued > 0 && queued < 10, "{queued} bytes");
}

#[test]
fn unfinished_frames_that_fill_the_connection_are_given_up_after_a_while() {
    let mut raw = RawPair::new();
    let end = raw.end;
    let mut part = vec![0x80, 0x80, 0x10];
    part.resize(256 * 1024, 0);
    for number in 1..=5 {
        raw.raw(|raw| {
            raw.send_open(2 * number, 0);
            raw.send(2 * number, Ppid::Binary, &part);
        });
        raw.run(ms(200));
    }
    raw.raw(|raw| raw.send_open(20, 0));
    raw.run(secs(2) + Limits::default().stalled_stream_timeout * 2);
    raw.sim.peer(end.node).conn(end.id).inbound.clear();
    assert!(raw.is_alive(22));
    let stalled = raw.sim.peer(end.node).counters().streams_stalled;
    assert!(
        (1..=2).contains(&stalled),
        "{stalled}: no more than it takes"
    );
}

#[test]
fn before_authentication_the_window_is_small_and_afterwards_it_is_not() {
    let (mut sim, node, raw) = stranger();
    let id = sim.peer(node).only();
    for number in 1..=40_u16 {
        sim.act_raw(raw, |raw| {
            raw.send_open(2 * number, 0);
            for _ in 0..10 {
                raw.send_data(2 * number, &[0; 9_000]);
            }
        });
        sim.run_for(ms(30));
    }
    let window = sim.peer(node).endpoint.window(id);
    assert!(window <= 128 * 1024, "{window}");
    let mut raw = RawPair::new();
    raw.run(ms(100));
    let end = raw.end;
    let window = raw.sim.peer(end.node).endpoint.window(end.id);
    assert_eq!(window, Limits::default().receive_window);
}

/// Packets with every stream named again and again.
#[test]
fn requests_for_all_streams_walk_each_stream_once() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    raw.run(ms(200));
    raw.raw(|raw| raw.mangle = Some(Box::new(|_| Vec::new())));
    let first = raw.raw(|raw| raw.next_tsn);
    let count = 2_000_u32;
    for number in (0..count).step_by(50) {
        let mut chunks = Vec::new();
        for number in number..number + 50 {
            let stream = u16::try_from(4 + 2 * number).unwrap();
            chunks.extend(data_chunk(first.wrapping_add(number), stream, 0, 3, &[0]));
        }
        raw.raw(|raw| raw.send_packet(&packet(raw.tag, &chunks)));
        raw.run(ms(11));
    }
    let last = first.wrapping_add(count - 1);
    // Requests begin with the first TSN of the hand-made peer.
    let mut sequence = u32::from_le_bytes([3; 4]);
    let mut chunks = Vec::new();
    for _ in 0..24 {
        let mut body = Vec::new();
        for _ in 0..2 {
            body.extend([0, 13, 0, 16]);
            body.extend(sequence.to_be_bytes());
            body.extend(0_u32.to_be_bytes());
            body.extend(last.to_be_bytes());
            sequence = sequence.wrapping_add(1);
        }
        chunks.extend(chunk(130, 0, &body));
    }
    raw.raw(|raw| raw.send_packet(&packet(raw.tag, &chunks)));
    raw.run(ms(100));
    let held = raw.sim.peer(end.node).endpoint.held(end.id);
    assert_eq!(held.bytes, 0, "all were reset before their OPEN");
    assert_eq!(raw.sim.peer(end.node).closed(end.id), None);
}

#[test]
fn a_peer_that_denies_a_reset_is_told_goodbye() {
    let mut raw = RawPair::new();
    let end = raw.end;
    // Answers "performed" become "denied".
    raw.raw(|raw| {
        raw.mangle = Some(Box::new(|packet| {
            let mut packet = packet.to_vec();
            if packet.len() >= 28 && packet[12] == 130 && packet[17] == 16 {
                packet[27] = 2;
                packet[8..12].fill(0);
            }
            vec![packet]
        }));
    });
    let channel = raw
        .sim
        .act(end.node, |peer, now| peer.open(now, end.id).unwrap());
    raw.sim.act(end.node, |peer, now| {
        peer.endpoint.reset(now, end.id, channel);
        peer.endpoint.release(now, end.id, channel);
    });
    raw.run(secs(1));
    assert_eq!(
        raw.sim.peer(end.node).closed(end.id),
        Some(&CloseReason::Misbehaved(PeerMisbehaved::ResetDenied))
    );
}

#[test]
fn as_many_streams_as_the_limit_says_can_be_opened_from_either_side() {
    let limits = Limits {
        max_streams: 4,
        ..Limits::default()
    };
    let mut raw = RawPair::with(
        "libp2p+webrtc+v2/passwordpasswordpassword",
        "ufrag",
        limits.clone(),
    );
    let end = raw.end;
    for number in 1..=6 {
        raw.raw(|raw| {
            raw.send_open(2 * number, 0);
            raw.send_data(2 * number, b"hello");
        });
        raw.run(ms(50));
    }
    let conn = raw.sim.peer(end.node).conn(end.id);
    assert_eq!(conn.inbound.len(), 4);
    let peer = raw.sim.peer(end.node);
    assert_eq!(peer.dropped(DropReason::RefusedStream), 2);
    assert_eq!(peer.dropped(DropReason::StrayMessage), 0);
    let mut pair = Pair::with(limits, Limits::default(), Link::rtt(ms(20)));
    let dialer = pair.dialer;
    let opened = (0..6).filter(|_| {
        pair.sim
            .act(dialer.node, |peer, now| peer.open(now, dialer.id))
            .is_some()
    });
    assert_eq!(opened.count(), 4);
}

#[test]
fn between_honest_peers_nothing_is_malformed_or_of_no_use() {
    let mut pair = Pair::new(ms(20));
    let (dialer, listener) = (pair.dialer, pair.listener);
    for _ in 0..10 {
        let (ours, theirs) = pair.stream(dialer);
        pair.write(dialer, ours, &[7; 20_000]);
        pair.run(ms(100));
        pair.read(listener, theirs);
        for (end, channel) in [(dialer, ours), (listener, theirs)] {
            pair.finish(end, channel);
            pair.run(ms(50));
            pair.read(end, channel);
            pair.release(end, channel);
        }
        pair.run(secs(2));
    }
    pair.close(dialer);
    pair.run(secs(2));
    for end in pair.ends() {
        let peer = pair.sim.peer(end.node);
        for reason in [
            DropReason::MalformedSctp,
            DropReason::StrayMessage,
            DropReason::UnusedSctp,
        ] {
            assert_eq!(peer.dropped(reason), 0, "{reason:?}");
        }
    }
}
