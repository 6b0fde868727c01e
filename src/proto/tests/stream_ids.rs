//! Opening streams: ids, their reuse, order of arrival, limits, and the handshake channel.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use super::{
    ms,
    pair::{Pair, RawPair},
    peer::Accept,
    pipe::Pipe,
    raw::{RawPeer, crc32c},
    secs,
    sim::{Node, Sim},
};
use crate::proto::{
    ChannelId, ConnectionId, DropReason, Event, Limits, Read, Write, engine::sctp::Ppid,
    frame::Flag,
};

#[test]
fn the_dialer_opens_even_streams_from_two_and_the_listener_odd_ones() {
    let mut pair = Pair::new(ms(20));
    let streams =
        |pair: &mut Pair, end| -> Vec<u16> { (0..4).map(|_| pair.open(end).stream).collect() };
    let [dialer, listener] = pair.ends();
    assert_eq!(streams(&mut pair, dialer), [2, 4, 6, 8]);
    assert_eq!(streams(&mut pair, listener), [1, 3, 5, 7]);
}

/// Opens `count` streams in turn, each with an echo, and says how many different ids were used.
fn in_turn(sim: &mut Sim, dialer: Node, id: ConnectionId, count: usize, at_once: usize) -> usize {
    let mut ids = BTreeSet::new();
    let mut opened = 0;
    while opened < count {
        let batch = at_once.min(count - opened);
        for _ in 0..batch {
            let channel = sim.act(dialer, |peer, now| {
                peer.start(now, id, |stream| Pipe::request(stream, 100))
            });
            ids.insert(channel.expect("a free id").stream);
        }
        opened += batch;
        sim.expect("echoes", secs(60), |sim| {
            let conn = sim.peer(dialer).conn(id);
            conn.pipes.is_empty() && conn.over.len() == opened
        });
    }
    assert!(sim.peer(dialer).conn(id).over.iter().all(Pipe::is_complete));
    ids.len()
}

#[test]
fn one_connection_carries_a_hundred_thousand_streams_in_turn() {
    let count = super::scaled(10_000, 100_000, "streams in turn");
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let (id, accepted) = sim.connect(dialer, listener);
    let ids = in_turn(&mut sim, dialer, id, count, 25);
    assert!(ids <= 1_000, "{ids} ids for 25 streams at a time");
    sim.run_for(secs(1));
    assert_eq!(sim.peer(listener).conn(accepted).over.len(), count);
    for node in [dialer, listener] {
        let counters = sim.peer(node).counters();
        let count = u64::try_from(count).unwrap();
        assert_eq!(
            (counters.channels_opened, counters.channels_closed),
            (count, count)
        );
    }
}

#[test]
fn ten_thousand_streams_are_open_at_once() {
    let count = super::scaled(3_000, 10_000, "streams at once");
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let (id, accepted) = sim.connect(dialer, listener);
    let channels: Vec<_> = (0..count)
        .map(|number| {
            if number % 100 == 0 {
                sim.run_for(ms(10));
            }
            sim.act(dialer, |peer, now| {
                peer.start(now, id, |stream| Pipe::request(stream, 50).without_end())
            })
            .expect("a free id")
        })
        .collect();
    sim.expect("echoes on all", secs(30), |sim| {
        channels
            .iter()
            .all(|channel| sim.peer(dialer).pipe(id, *channel).received == 50)
    });
    assert_eq!(sim.peer(listener).conn(accepted).pipes.len(), count);
    for channel in channels {
        sim.act(dialer, |peer, now| peer.endpoint.release(now, id, channel));
    }
    sim.expect("an empty connection", secs(30), |sim| {
        sim.peer(dialer).conn(id).pipes.is_empty()
            && sim.peer(listener).conn(accepted).pipes.is_empty()
    });
    assert!(sim.peer(dialer).is_authenticated(id));
}

#[test]
fn streams_beyond_the_limit_have_to_wait_and_are_told_when() {
    let limits = Limits {
        max_streams: 11,
        ..Limits::default()
    };
    let mut pair = Pair::with(
        limits.clone(),
        Limits::default(),
        super::link::Link::rtt(ms(20)),
    );
    let (dialer, listener) = (pair.dialer, pair.listener);
    // The handshake channel counts too.
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
    assert_eq!(pair.open(dialer).stream, ours.stream);

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
    let (mut data, end) = raw.read(channel);
    data.sort_unstable();
    assert_eq!((&data[..], end), (&b"abc"[..], Read::Blocked));
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

/// Opens, uses and closes stream 2 from the hand-made side. All packets of that time are kept.
fn use_and_close(raw: &mut RawPair, packets: &Rc<RefCell<Vec<Vec<u8>>>>) {
    let record = Rc::clone(packets);
    raw.raw(|raw| {
        raw.mangle = Some(Box::new(move |packet| {
            record.borrow_mut().push(packet.to_vec());
            vec![packet.to_vec()]
        }));
        raw.send_open(2, 0);
        raw.send_data(2, b"old");
        raw.send_flag(2, Flag::Fin);
    });
    let channel = raw.inbound().unwrap();
    let end = raw.end;
    assert_eq!(raw.read(channel), (b"old".to_vec(), Read::Eof));
    raw.sim.act(end.node, |peer, now| {
        peer.endpoint.finish(now, end.id, channel);
        peer.endpoint.release(now, end.id, channel);
    });
    raw.run(ms(50));
    raw.raw(|raw| raw.send_flag(2, Flag::FinAck));
    raw.run(ms(1_200));
    assert_eq!(raw.raw(|raw| std::mem::take(&mut raw.resets)), [2]);
    raw.raw(|raw| raw.mangle = None);
}

#[test]
fn late_packets_of_an_old_stream_do_not_touch_its_successor() {
    let mut raw = RawPair::new();
    let packets = Rc::default();
    use_and_close(&mut raw, &packets);
    raw.raw(|raw| {
        raw.send_open(2, 0);
        raw.send_data(2, b"new ");
    });
    let channel = raw.inbound().expect("the id can be used again");
    assert_eq!(raw.read(channel), (b"new ".to_vec(), Read::Blocked));
    for packet in packets.borrow().iter() {
        raw.raw(|raw| raw.send_packet(packet));
        raw.run(ms(30));
    }
    raw.raw(|raw| raw.send_data(2, b"stream"));
    raw.run(secs(2));
    assert_eq!(raw.read(channel), (b"stream".to_vec(), Read::Blocked));
}

#[test]
fn the_next_use_of_an_id_may_begin_and_end_before_the_peer_knows_that_the_last_is_over() {
    let mut pair = Pair::new(ms(20));
    let [dialer, listener] = pair.ends();
    let (first, theirs) = pair.stream(listener);
    pair.run(secs(1));
    pair.reset(listener, first);
    pair.run(ms(15));
    // The listener's answer to the dialer's reset is lost: only the listener knows that both are done.
    pair.sim.link_mut(listener.node, dialer.node).down = true;
    pair.run(ms(10));
    pair.sim.link_mut(listener.node, dialer.node).down = false;
    let second = pair.open(listener);
    assert_eq!(second.stream, first.stream);
    pair.write(listener, second, b"second");
    pair.reset(listener, second);
    pair.run(secs(3));
    let accepted = pair.accept(dialer);
    assert_eq!(pair.read(dialer, accepted).1, Read::Reset(None));
    for (end, channel) in [
        (dialer, theirs),
        (dialer, accepted),
        (listener, first),
        (listener, second),
    ] {
        pair.release(end, channel);
        pair.run(secs(1));
        assert!(
            pair.is_gone(end, channel),
            "{channel:?} of {end:?} is still there"
        );
    }
    let (third, theirs) = pair.stream(listener);
    assert_eq!(third.stream, first.stream);
    pair.write(listener, third, b"third");
    pair.run(ms(100));
    assert_eq!(pair.read(dialer, theirs).0, b"third");
}

#[test]
fn an_id_is_not_given_out_again_before_both_directions_are_reset() {
    let mut pair = Pair::new(ms(20));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.run(secs(1));
    pair.release(dialer, ours);
    // Our reset is on its way, the peer's is not here yet.
    let next = pair.open(dialer);
    assert_ne!(next.stream, ours.stream);
    pair.run(ms(100));
    pair.release(listener, theirs);
    pair.run(secs(1));
    let again = pair.open(dialer);
    assert_eq!(again.stream, ours.stream);
    assert_ne!(again.generation, ours.generation);
    // The old name leads nowhere, above all not to the new stream.
    pair.write(dialer, again, b"new");
    assert_eq!(pair.write(dialer, ours, b"old"), Write::Closed);
    assert_eq!(pair.read(dialer, ours).1, Read::Reset(None));
    pair.reset(dialer, ours);
    pair.run(ms(100));
    pair.accept(listener);
    let accepted = pair.accept(listener);
    assert_eq!(
        pair.read(listener, accepted),
        (b"new".to_vec(), Read::Blocked)
    );
}

#[test]
fn the_handshake_channel_may_stay_open_get_a_fin_or_be_closed_and_used_again() {
    // Left open, as go and js do: every other test. FIN, as rust-libp2p does:
    let mut raw = RawPair::new();
    raw.raw(|raw| raw.send_flag(0, Flag::Fin));
    raw.run(secs(20));
    assert!(raw.is_alive(2));
    assert!(
        raw.raw(|raw| raw.flags(0)).is_empty(),
        "a FIN there is ignored"
    );
    assert_eq!(raw.raw(|raw| raw.resets.clone()), [0_u16; 0]);

    // Reset, as litep2p does, and used again as an ordinary stream:
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.send_data(0, b"noise"));
    raw.run(ms(50));
    assert_eq!(raw.read(ChannelId::HANDSHAKE).0, b"noise");
    raw.raw(|raw| raw.reset_stream(0));
    raw.run(secs(1));
    assert_eq!(
        raw.raw(|raw| raw.resets.clone()),
        [0],
        "the reset is completed"
    );
    assert!(raw.is_alive(2));
    raw.raw(|raw| {
        raw.send_open(0, 0);
        raw.send_data(0, b"reused");
    });
    let channel = raw.inbound().expect("stream 0 is an ordinary stream now");
    assert_eq!(channel.stream, 0);
    assert_ne!(channel, ChannelId::HANDSHAKE);
    assert_eq!(raw.read(channel), (b"reused".to_vec(), Read::Blocked));
    raw.raw(|raw| raw.send_flag(0, Flag::Fin));
    raw.run(ms(50));
    assert_eq!(raw.read(channel), (Vec::new(), Read::Eof));
    raw.sim.act(end.node, |peer, now| {
        peer.endpoint.finish(now, end.id, channel);
        peer.endpoint.release(now, end.id, channel);
    });
    raw.run(ms(50));
    raw.raw(|raw| raw.send_flag(0, Flag::FinAck));
    raw.run(ms(1_200));
    assert_eq!(raw.raw(|raw| raw.resets.clone()), [0, 0]);
    let log = &raw.sim.peer(end.node).conn(end.id).log;
    assert!(log.contains(&Event::ChannelClosed(channel)));
    assert!(raw.is_alive(4));
}

#[test]
fn the_endpoint_never_gives_out_stream_zero() {
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.reset_stream(0));
    raw.run(secs(1));
    for _ in 0..50 {
        assert_ne!(raw.sim.open(end.node, end.id).stream, 0);
    }
}
