//! DTLS datagrams that no peer sends: too large, or too many for a handshake.

use std::net::SocketAddr;

use super::{
    ms,
    pair::Pair,
    raw::valid_check,
    sim::{Sim, client_hello},
};
use crate::proto::DropReason;

/// A fragment of a handshake message that never becomes whole.
fn fragment(number: u16, len: usize) -> Vec<u8> {
    let mut datagram = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0];
    datagram.extend((100 + number).to_be_bytes());
    datagram.extend(u16::try_from(len + 12).unwrap().to_be_bytes());
    datagram.push(11);
    datagram.extend([0xff, 0xff, 0xf0]);
    datagram.extend((3 + number).to_be_bytes());
    datagram.extend([0; 3]);
    datagram.extend(&u32::try_from(len).unwrap().to_be_bytes()[1..]);
    datagram.resize(datagram.len() + len, 0);
    datagram
}

#[test]
fn a_half_open_handshake_takes_so_many_datagrams_and_bytes_and_no_more() {
    for (len, most) in [(1, 120), (1_900, 34)] {
        let mut sim = Sim::new();
        let listener = sim.listener();
        let from = SocketAddr::from(([172, 16, 0, 1], 9));
        sim.inject(from, listener, &valid_check("n"));
        sim.inject(from, listener, &client_hello());
        for number in 0..300 {
            sim.inject(from, listener, &fragment(number, len));
        }
        let peer = sim.peer(listener);
        let dropped = peer.dropped(DropReason::HandshakeFlood);
        assert!(dropped >= 300 - most, "{dropped} of 300");
        // Nobody complained and nothing else ended it.
        assert_eq!(peer.endpoint.handshakes(), 1);
    }
}

#[test]
fn dtls_larger_than_any_path_carries_is_dropped_unseen() {
    let mut pair = Pair::new(ms(10));
    let victim = pair.sim.address(pair.dialer.node);
    let listener = pair.listener.node;
    for len in [1_900, 2_100, 60_000_usize] {
        let mut record = vec![23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0xff, 1];
        record.extend(u16::try_from(len).unwrap().to_be_bytes());
        record.resize(13 + len, 7);
        pair.sim.inject(victim, listener, &record);
    }
    let dropped = pair.sim.peer(listener).dropped(DropReason::OversizedDtls);
    assert_eq!(dropped, 2);
    let (ours, theirs) = pair.stream(pair.dialer);
    pair.write(pair.dialer, ours, b"alive");
    pair.run(ms(50));
    assert_eq!(pair.read(pair.listener, theirs).0, b"alive");
}

#[test]
fn fragments_from_the_future_do_not_stay_in_the_way_of_data() {
    let mut pair = Pair::new(ms(10));
    // Another dial, with leftovers in the listener's engine.
    let (dialer, listener) = (pair.sim.dialer(), pair.listener.node);
    let from = pair.sim.address(dialer);
    let id = pair
        .sim
        .dial(dialer, listener, crate::proto::DialPolicy::V2);
    pair.run(ms(6));
    for number in 0..60 {
        pair.sim.inject(from, listener, &fragment(20 + number, 10));
    }
    pair.run(ms(500));
    assert!(pair.sim.peer(dialer).is_authenticated(id));
    let channel = pair.sim.open(dialer, id);
    for _ in 0..200 {
        pair.sim.act(dialer, |peer, now| {
            peer.endpoint.write(now, id, channel, &[1; 1000])
        });
        pair.run(ms(10));
    }
    assert_eq!(pair.sim.peer(dialer).closed(id), None);
}

/// A record that was never protected.
fn record(kind: u8, epoch: u8, number: u8, body: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, number];
    record.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    record.extend(body);
    record
}

#[test]
fn no_forged_record_ends_a_connection_in_either_role() {
    let mut pair = Pair::new(ms(10));
    let (ours, theirs) = pair.stream(pair.dialer);
    let mut forged = Vec::new();
    for epoch in 0..3 {
        for number in [0, 1, 5, 200] {
            for kind in 19..28 {
                for len in [0, 1, 2, 40] {
                    forged.push(record(kind, epoch, number, &vec![2; len]));
                }
            }
            for level in [1, 2] {
                for description in [0, 10, 40, 90] {
                    forged.push(record(21, epoch, number, &[level, description]));
                }
            }
            for message in 0..25 {
                for seq in 0..8 {
                    let header = [message, 0, 0, 30, 0, seq, 0, 0, 0, 0, 0, 30];
                    forged.push(record(22, epoch, number, &[&header[..], &[0; 30]].concat()));
                }
            }
        }
    }
    let ends = pair.ends();
    for to in ends {
        let from = pair.sim.address(pair.other(to).node);
        for datagram in &forged {
            pair.sim.inject(from, to.node, datagram);
        }
        // Several in one datagram are another path.
        for some in forged.chunks(7) {
            pair.sim.inject(from, to.node, &some.concat());
        }
        pair.run(ms(100));
    }
    assert_eq!(ends.map(|end| pair.closed(end)), [None, None]);
    pair.write(pair.dialer, ours, b"alive");
    pair.run(ms(50));
    assert_eq!(pair.read(pair.listener, theirs).0, b"alive");
}
