//! Opening streams: what is refused, what is kept until it can be used, how many there may be.

use super::{
    ms,
    pair::{Pair, RawPair},
    peer::Accept,
    raw::{RawPeer, crc32c},
    secs,
    sim::Sim,
};
use crate::proto::{ChannelId, DropReason, Limits, Read, engine::sctp::Ppid, frame::Flag};

#[test]
fn streams_beyond_the_limit_have_to_wait_and_are_told_when() {
    let limits = Limits {
        max_streams: 10,
        ..Limits::default()
    };
    let mut pair = Pair::with(
        limits.clone(),
        Limits::default(),
        super::link::Link::rtt(ms(20)),
    );
    let (dialer, listener) = (pair.dialer, pair.listener);
    // The handshake channel does not count.
    let channels: Vec<_> = (0..10).map(|_| pair.stream(dialer)).collect();
    let refused = pair
        .sim
        .act(dialer.node, |peer, now| peer.open(now, dialer.id));
    assert_eq!(refused, None);
    assert_eq!(pair.conn(dialer).open_possible, 0);
    let (ours, theirs) = channels[4];
    pair.release(dialer, ours);
    pair.run(ms(60));
    pair.release(listener, theirs);
    pair.run(secs(1));
    assert_eq!(pair.conn(dialer).open_possible, 1);
    assert_eq!(
        pair.open(dialer).stream,
        22,
        "the next one; the free one rests"
    );

    // What the peer opens beyond our limit is refused.
    let mut pair = Pair::with(Limits::default(), limits, super::link::Link::rtt(ms(20)));
    let [dialer, listener] = pair.ends();
    let channels: Vec<_> = (0..12).map(|_| pair.open(dialer)).collect();
    pair.run(secs(1));
    assert_eq!(pair.conn(listener).inbound.len(), 10);
    assert_eq!(pair.read(dialer, channels[9]).1, Read::Blocked);
    assert_eq!(pair.read(dialer, channels[11]).1, Read::Reset(None));
}

#[test]
fn the_end_of_a_stream_of_the_peer_makes_room_for_one_of_ours() {
    let limits = Limits {
        max_streams: 2,
        ..Limits::default()
    };
    let mut pair = Pair::with(Limits::default(), limits, super::link::Link::rtt(ms(20)));
    let [dialer, listener] = pair.ends();
    let streams = [pair.stream(dialer), pair.stream(dialer)];
    let refused = pair
        .sim
        .act(listener.node, |peer, now| peer.open(now, listener.id));
    assert_eq!(refused, None);
    let (theirs, ours) = streams[0];
    pair.release(dialer, theirs);
    pair.release(listener, ours);
    pair.run(secs(3));
    assert_eq!(pair.conn(listener).open_possible, 1);
    assert_eq!(pair.open(listener).stream, 1);
}

#[test]
fn streams_that_nobody_takes_are_refused_after_256() {
    let mut pair = Pair::new(ms(20));
    let (dialer, listener) = (pair.dialer, pair.listener);
    pair.sim.peer(listener.node).accept = Accept::Leave;
    let channels: Vec<_> = (0..257).map(|_| pair.open(dialer)).collect();
    pair.run(secs(1));
    assert!(
        channels[..256]
            .iter()
            .all(|channel| pair.read(dialer, *channel).1 == Read::Blocked)
    );
    assert_eq!(pair.read(dialer, channels[256]).1, Read::Reset(None));

    // Taking one makes room for one.
    let taken = ChannelId {
        stream: channels[0].stream,
        generation: 1,
    };
    pair.sim.act(listener.node, |peer, _| {
        peer.endpoint.accepted(listener.id, taken)
    });
    pair.sim.act(listener.node, |peer, _| {
        peer.endpoint.accepted(listener.id, taken)
    });
    let more = [pair.open(dialer), pair.open(dialer)];
    pair.run(secs(1));
    assert_eq!(pair.read(dialer, more[0]).1, Read::Blocked);
    assert_eq!(
        pair.read(dialer, more[1]).1,
        Read::Reset(None),
        "accepting twice counts once"
    );
}

#[test]
fn an_open_with_the_wrong_parity_is_refused() {
    let mut raw = RawPair::new();
    raw.raw(|raw| raw.send_open(1, 0));
    assert_eq!(raw.inbound(), None);
    raw.run(secs(1));
    assert!(!raw.raw(|raw| raw.is_acknowledged(1)));
    assert_eq!(raw.raw(|raw| raw.resets.clone()), [1]);
    assert!(raw.is_alive(2));
    // Our own stream 1 is not harmed.
    let end = raw.end;
    let ours = raw.sim.open(end.node, end.id);
    raw.sim.act(end.node, |peer, now| {
        peer.endpoint.write(now, end.id, ours, b"ours")
    });
    raw.run(ms(50));
    let frames = raw.raw(|raw| raw.frames(ours.stream));
    assert!(
        frames.iter().any(|frame| frame.message == b"ours"[..]),
        "{frames:?}"
    );
}

#[test]
fn an_open_on_a_stream_in_use_is_not_acknowledged_and_changes_nothing() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| {
        raw.send_open(2, 0);
        raw.send_data(2, b"one");
    });
    let channel = raw.inbound().unwrap();
    let open = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    raw.raw(|raw| {
        raw.send(2, Ppid::Dcep, &open);
        raw.send_data(2, b"two");
    });
    assert_eq!(raw.inbound(), None);
    assert_eq!(raw.read(channel), (b"onetwo".to_vec(), Read::Blocked));

    let ours = raw.sim.open(end.node, end.id);
    raw.run(ms(50));
    raw.raw(|raw| {
        raw.send(ours.stream, Ppid::Dcep, &open);
        raw.send_data(ours.stream, b"three");
    });
    assert_eq!(raw.inbound(), None);
    assert_eq!(raw.read(ours), (b"three".to_vec(), Read::Blocked));
    let acks = raw.raw(|raw| {
        raw.messages
            .iter()
            .filter(|(_, ppid, data)| *ppid == Ppid::Dcep && data[..] == [2])
            .count()
    });
    assert_eq!(acks, 1);
    assert!(raw.sim.peer(end.node).dropped(DropReason::StrayMessage) >= 2);
}

#[test]
fn label_and_protocol_of_an_open_do_not_matter() {
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.make_stream(2);
        raw.send(
            2,
            Ppid::Dcep,
            b"\x03\0\0\0\0\0\0\0\0\x05\0\x10label/ipfs/ping/1.0.0",
        );
        raw.send_data(2, b"hi");
    });
    let channel = raw.inbound().unwrap();
    assert_eq!(raw.read(channel).0, b"hi");
    assert!(raw.raw(|raw| raw.is_acknowledged(2)));
}

#[test]
fn broken_channel_messages_are_ignored() {
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.send_open(2, 0);
        for message in [
            &[2_u8][..],
            &[3],
            &[3, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0],
            &[77; 40],
            &[0],
        ] {
            raw.send(2, Ppid::Dcep, message);
        }
        raw.send_data(2, b"fine");
    });
    let channel = raw.inbound().unwrap();
    assert_eq!(raw.read(channel).0, b"fine");
}

/// Sets the unordered bit of every DATA chunk of a stream, and lets its packets leave in reverse order.
fn unordered(stream: u16) -> super::raw::Mangle {
    let mut held: Vec<Vec<u8>> = Vec::new();
    Box::new(move |packet| {
        let mut packet = packet.to_vec();
        if packet[12] != 0 || packet.get(20..22) != Some(&stream.to_be_bytes()) {
            return vec![packet];
        }
        packet[13] |= 0x04;
        packet[8..12].fill(0);
        let sum = crc32c(&packet);
        packet[8..12].copy_from_slice(&sum.to_le_bytes());
        held.push(packet);
        if held.len() < 3 {
            return Vec::new();
        }
        held.drain(..).rev().collect()
    })
}

#[test]
fn an_unordered_open_is_taken_and_its_messages_are_frames_of_their_own() {
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.send_open(2, 0x80);
    });
    let channel = raw.inbound().unwrap();
    assert!(raw.raw(|raw| raw.is_acknowledged(2)));
    for piece in [&b"a"[..], b"b", b"c"] {
        raw.raw(|raw| {
            raw.mangle.get_or_insert_with(|| unordered(2));
            raw.send_data(2, piece);
        });
    }
    raw.run(secs(3));
    // The last overtook the others on the way, and nothing waits for those before it.
    assert_eq!(raw.read(channel), (b"cba".to_vec(), Read::Blocked));
    assert!(raw.is_alive(4));
}

#[test]
fn messages_that_come_before_their_open_are_kept() {
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.make_stream(2);
        raw.send_data(2, b"early ");
        raw.send_data(2, b"data, ");
    });
    assert_eq!(raw.inbound(), None);
    raw.raw(|raw| {
        raw.send(2, Ppid::Dcep, &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        raw.send_data(2, b"late data");
    });
    let channel = raw.inbound().unwrap();
    assert_eq!(
        raw.read(channel),
        (b"early data, late data".to_vec(), Read::Blocked)
    );
}

#[test]
fn too_much_before_an_open_resets_the_stream() {
    let mut raw = RawPair::new();
    for number in 0..200 {
        raw.raw(|raw| {
            if number == 0 {
                raw.make_stream(2);
            }
            raw.send_data(2, &[1; 1000]);
        });
        raw.run(ms(30));
        if raw.raw(|raw| raw.flags(2).contains(&Flag::ResetStream)) {
            break;
        }
    }
    raw.run(secs(1));
    assert_eq!(raw.raw(|raw| raw.flags(2)), [Flag::ResetStream]);
    assert!(raw.is_alive(4));
}

#[test]
fn streams_opened_before_authentication_are_announced_after_it() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    sim.peer(listener).accept = Accept::Manual;
    sim.peer(listener).stuck = true;
    let raw = RawPeer::v2(sim.now(), sim.address(listener));
    let raw = sim.add_raw(raw);
    sim.expect("SCTP", secs(1), |sim| sim.raw(raw).connected);
    sim.act_raw(raw, |raw| {
        for stream in [2, 4, 6] {
            raw.send_open(stream, 0);
            raw.send_data(stream, b"early");
        }
    });
    sim.run_for(ms(500));
    let id = sim.peer(listener).only();
    assert!(sim.peer(listener).conn(id).inbound.is_empty());
    sim.act(listener, |peer, now| {
        peer.conn(id).authenticated = Some(now);
        peer.endpoint.authenticated(now, id);
    });
    let inbound = sim.peer(listener).conn(id).inbound.clone();
    assert_eq!(
        inbound
            .iter()
            .map(|channel| channel.stream)
            .collect::<Vec<_>>(),
        [2, 4, 6]
    );
    for channel in inbound {
        let read = sim.act(listener, |peer, now| peer.read_all(now, id, channel));
        assert_eq!(read.0, b"early");
    }
}

#[test]
fn too_many_streams_before_authentication_end_the_connection() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    sim.peer(listener).stuck = true;
    let raw = RawPeer::v2(sim.now(), sim.address(listener));
    let raw = sim.add_raw(raw);
    sim.expect("SCTP", secs(1), |sim| sim.raw(raw).connected);
    sim.act_raw(raw, |raw| {
        (1..=200).for_each(|stream| raw.send_open(2 * stream, 0))
    });
    sim.run_for(secs(1));
    let id = sim.peer(listener).only();
    assert!(sim.peer(listener).closed(id).is_some());
    assert_eq!(sim.peer(listener).endpoint.connections(), 0);
}
