//! Ids of streams and their reuse, and the handshake channel with its own id.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use super::{
    link::Link,
    ms,
    pair::{Pair, RawPair},
    pipe::Pipe,
    raw::{RawPeer, crc32c},
    secs,
    sim::{Node, Sim},
};
use crate::proto::{ChannelId, ConnectionId, Event, Limits, Read, Write, frame::Flag};

#[test]
fn the_dialer_opens_even_streams_from_two_and_the_listener_odd_ones() {
    let mut pair = Pair::new(ms(20));
    let streams =
        |pair: &mut Pair, end| -> Vec<u16> { (0..4).map(|_| pair.open(end).stream).collect() };
    let [dialer, listener] = pair.ends();
    assert_eq!(streams(&mut pair, dialer), [2, 4, 6, 8]);
    assert_eq!(streams(&mut pair, listener), [1, 3, 5, 7]);
}

/// Two endpoints that use an id again as soon as it is free.
fn reusing_at_once() -> Pair {
    let limits = || Limits {
        min_resting_streams: 0,
        ..Limits::default()
    };
    Pair::with(limits(), limits(), Link::rtt(ms(20)))
}

#[test]
fn an_id_rests_before_it_is_used_again() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let (id, _) = sim.connect(dialer, listener);
    let ids = in_turn(&mut sim, dialer, id, 600, 1);
    assert!((128..=140).contains(&ids), "{ids} ids");
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
fn numbers_that_wrap_around_are_nothing_special() {
    let mut raw = RawPair::about_to_wrap();
    raw.raw(|raw| raw.send_open(2, 0));
    let channel = raw.inbound().unwrap();
    let first = raw.raw(|raw| raw.next_tsn);
    assert!(
        first.wrapping_add(50) < 100,
        "{first} is close to zero, on one side or the other"
    );
    for number in 0..100_u8 {
        raw.raw(|raw| raw.send_data(2, &[number]));
        raw.run(ms(3));
    }
    raw.run(ms(100));
    let expected: Vec<u8> = (0..100).collect();
    assert_eq!(raw.read(channel).0, expected);
    // Reset requests are numbered from the same place.
    for stream in 10..40 {
        raw.raw(|raw| raw.send_open(2 * stream, 0));
        let channel = raw.inbound().unwrap();
        raw.raw(|raw| raw.reset_stream(2 * stream));
        raw.run(ms(100));
        assert_eq!(raw.read(channel).1, Read::Reset(None));
        assert_eq!(raw.raw(|raw| raw.resets.pop()), Some(2 * stream));
    }
}

#[test]
fn a_stream_carries_more_messages_than_its_sequence_number_counts() {
    let mut pair = Pair::new(ms(2));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    let count = 70_000_u32;
    let mut got = 0_u32;
    for batch in 0..count / 100 {
        pair.sim.act(dialer.node, |peer, now| {
            for number in 0..100_u32 {
                let number = batch * 100 + number;
                let taken = peer
                    .endpoint
                    .write(now, dialer.id, ours, &number.to_be_bytes());
                assert_eq!(taken, Write::Accepted(4));
            }
        });
        pair.run(ms(4));
        for number in pair.read(listener, theirs).0.chunks(4) {
            assert_eq!(number, got.to_be_bytes());
            got += 1;
        }
    }
    assert_eq!(got, count);
}

#[test]
fn the_next_use_of_an_id_may_begin_and_end_before_the_peer_knows_that_the_last_is_over() {
    let mut pair = reusing_at_once();
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
    let mut pair = reusing_at_once();
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

#[test]
fn no_more_streams_are_opened_than_the_peer_takes_and_a_free_one_is_used_again() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(20)));
    let node = sim.listener();
    let mut raw = RawPeer::v2(sim.now(), sim.address(node));
    // INIT and INIT ACK: eight inbound streams.
    raw.mangle = Some(Box::new(|packet| {
        let mut changed = packet.to_vec();
        if matches!(packet[12], 1 | 2) {
            changed[26..28].copy_from_slice(&8_u16.to_be_bytes());
            changed[8..12].fill(0);
            let sum = crc32c(&changed);
            changed[8..12].copy_from_slice(&sum.to_le_bytes());
        }
        vec![changed]
    }));
    let raw = sim.add_raw(raw);
    sim.expect("connection", secs(5), |sim| {
        sim.raw(raw).connected && sim.peer(node).authenticated().count() == 1
    });
    let id = sim.peer(node).only();
    let open = |sim: &mut Sim| sim.act(node, |peer, now| peer.open(now, id));
    let channels: Vec<_> = std::iter::from_fn(|| open(&mut sim)).take(9).collect();
    let streams: Vec<_> = channels.iter().map(|channel| channel.stream).collect();
    assert_eq!(streams, [1, 3, 5, 7]);
    sim.act(node, |peer, now| {
        peer.endpoint.release(now, id, channels[1])
    });
    sim.expect("a free id", secs(5), |sim| {
        sim.peer(node).conn(id).open_possible == 1
    });
    assert_eq!(open(&mut sim).map(|channel| channel.stream), Some(3));
    assert_eq!(open(&mut sim), None);
    assert_eq!(sim.peer(node).closed(id), None);
}
