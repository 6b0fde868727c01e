//! Peers and strangers that mean harm: the endpoint stays up, its other connections do not notice, nothing piles up.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use rand::{Rng, RngExt, rngs::StdRng};

use super::{
    ms,
    pair::{End, Pair, RawPair},
    peer::Accept,
    pipe::Pipe,
    raw::{RawPeer, chunk, crc32c, data_chunk, packet, valid_check},
    secs,
    sim::{Node, Packet, Sim},
};
use crate::proto::{ChannelId, DialPolicy, Limits, Read, engine::sctp::Ppid};

/// Records what is sent from now on.
fn record(sim: &mut Sim) -> Rc<RefCell<Vec<Packet>>> {
    let record = Rc::new(RefCell::new(Vec::new()));
    let copy = Rc::clone(&record);
    sim.set_filter(move |packet| {
        copy.borrow_mut().push(packet.clone());
        true
    });
    record
}

/// Some change to a datagram or packet.
fn mutate(bytes: &[u8], dice: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..dice.random_range(1..4) {
        let len = bytes.len();
        match dice.random_range(0..6) {
            0 if len > 0 => bytes[dice.random_range(0..len)] ^= 1 << dice.random_range(0..8),
            1 if len > 0 => {
                bytes[dice.random_range(0..len)] = [0, 1, 0x7f, 0x80, 0xff][dice.random_range(0..5)]
            }
            2 => bytes.truncate(dice.random_range(0..=len)),
            3 => bytes.extend((0..dice.random_range(0..40)).map(|_| dice.random::<u8>())),
            4 if len > 4 => {
                let at = dice.random_range(0..len - 4);
                let piece = bytes[at..dice.random_range(at + 1..len)].to_vec();
                let to = dice.random_range(0..len);
                bytes.splice(to..to, piece);
                bytes.truncate(1400);
            }
            _ if len > 1 => drop(bytes.drain(dice.random_range(0..len / 2)..len / 2 + 1)),
            _ => {}
        }
    }
    bytes
}

#[track_caller]
fn assert_echo(sim: &mut Sim, node: Node, end: End) {
    assert_eq!(node, end.node);
    let channel = sim
        .act(node, |peer, now| {
            peer.start(now, end.id, |stream| {
                Pipe::request(stream, 5_000).without_end()
            })
        })
        .expect("a free id");
    sim.expect("echo", secs(5), |sim| {
        sim.peer(node).pipe(end.id, channel).received == 5_000
    });
    sim.act(node, |peer, now| {
        peer.endpoint.release(now, end.id, channel)
    });
}

#[test]
fn random_datagrams_from_anywhere_do_no_harm() {
    let mut pair = Pair::new(ms(10));
    let mut dice = pair.sim.dice();
    for end in pair.ends() {
        pair.sim.peer(end.node).accept = Accept::Echo;
    }
    let addresses = [
        pair.sim.address(pair.dialer.node),
        pair.sim.address(pair.listener.node),
        SocketAddr::from(([172, 16, 0, 1], 1)),
    ];
    for number in 0..6_000 {
        let mut datagram = vec![0; dice.random_range(0..300)];
        dice.fill_bytes(&mut datagram);
        if let Some(first) = datagram.first_mut() {
            // Mostly what is not thrown away by the first byte.
            *first = [0, 1, 20, 21, 22, 23, 24, 25, *first][dice.random_range(0..9)];
        }
        if datagram.len() > 20 && datagram[0] < 2 {
            datagram[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        } else if datagram.len() > 20 {
            datagram[1..5].copy_from_slice(&[0xfe, 0xfd, 0, dice.random_range(0..3)]);
        }
        let to = [pair.dialer.node, pair.listener.node][number % 2];
        pair.sim
            .inject(addresses[dice.random_range(0..3)], to, &datagram);
    }
    for end in pair.ends() {
        assert_eq!(pair.closed(end), None);
        assert_echo(&mut pair.sim, end.node, end);
    }
}

#[test]
fn changed_copies_of_live_traffic_do_no_harm() {
    let mut pair = Pair::new(ms(10));
    let mut dice = pair.sim.dice();
    for end in pair.ends() {
        pair.sim.peer(end.node).accept = Accept::Echo;
    }
    let traffic = record(&mut pair.sim);
    for _ in 0..40 {
        for end in pair.ends() {
            assert_echo(&mut pair.sim, end.node, end);
        }
        pair.run(ms(300));
        let copies: Vec<_> = traffic.borrow_mut().drain(..).collect();
        for Packet {
            from, to, contents, ..
        } in copies
        {
            let node = if to == pair.sim.address(pair.dialer.node) {
                pair.dialer.node
            } else {
                pair.listener.node
            };
            pair.sim.inject(from, node, &mutate(&contents, &mut dice));
            // And unchanged once more, from its source and from elsewhere.
            pair.sim.inject(from, node, &contents);
            if contents[0] >= 20 {
                let elsewhere = SocketAddr::from(([172, 16, 0, 1], 1));
                pair.sim.inject(elsewhere, node, &contents);
            }
        }
    }
    for end in pair.ends() {
        assert_eq!(pair.closed(end), None);
    }
    assert_eq!(pair.sim.peer(pair.listener.node).endpoint.connections(), 1);
}

#[test]
fn a_check_that_is_sent_again_by_somebody_else_does_not_move_the_connection() {
    let mut pair = Pair::new(ms(10));
    let listener = pair.listener;
    pair.sim.peer(pair.dialer.node).accept = Accept::Echo;
    let traffic = record(&mut pair.sim);
    pair.run(secs(7));
    let mut checks = traffic.borrow().clone();
    checks.retain(|check| check.contents[0] == 0 && check.to == pair.sim.address(listener.node));
    assert!(!checks.is_empty());
    for Packet {
        contents: check, ..
    } in checks
    {
        let elsewhere = SocketAddr::from(([172, 16, 0, 1], 1));
        pair.sim.inject(elsewhere, listener.node, &check);
        assert!(pair.conn(listener).moves.is_empty());
        assert_echo(&mut pair.sim, listener.node, listener);
    }
}

#[test]
fn changed_copies_during_the_set_up_break_at_most_that_set_up() {
    let mut succeeded = 0;
    for _ in 0..20 {
        let mut sim = Sim::new();
        sim.set_default_link(super::link::Link::rtt(ms(10)));
        let mut dice = sim.dice();
        let (dialer, listener) = (sim.dialer(), sim.listener());
        let traffic = record(&mut sim);
        let id = sim.dial(dialer, listener, DialPolicy::V2);
        for _ in 0..12 {
            let copies: Vec<_> = traffic.borrow_mut().drain(..).collect();
            for Packet {
                from, to, contents, ..
            } in copies
            {
                let node = if to == sim.address(dialer) {
                    dialer
                } else {
                    listener
                };
                // It overtakes the original.
                sim.inject(from, node, &mutate(&contents, &mut dice));
            }
            sim.run_for(ms(5));
        }
        sim.run_for(secs(12));
        succeeded += usize::from(sim.peer(dialer).is_authenticated(id));
        sim.clear_filter();
        if !sim.peer(dialer).is_authenticated(id) {
            sim.connect(dialer, listener);
        }
        assert_eq!(sim.peer(dialer).endpoint.connections(), 1);
    }
    eprintln!("{succeeded} of 20 set-ups succeeded in spite of it");
}

/// A malicious peer next to a good one.
struct Siege {
    raw: RawPair,
    good: End,
}

impl Siege {
    fn new(limits: Limits) -> Self {
        let mut raw = RawPair::with("libp2p+webrtc+v2/passwordpasswordpassword", "ufrag", limits);
        raw.sim.peer(raw.end.node).accept = Accept::Echo;
        let dialer = raw.sim.dialer();
        let (id, _) = raw.sim.connect(dialer, raw.end.node);
        Self {
            raw,
            good: End { node: dialer, id },
        }
    }

    /// The good connection works, and the endpoint is at rest.
    #[track_caller]
    fn assert_unharmed(&mut self) {
        let good = self.good;
        assert_echo(&mut self.raw.sim, good.node, good);
    }

    /// Whatever became of the malicious connection, nothing is left when the peer is gone.
    #[track_caller]
    fn assert_ends(&mut self) {
        self.raw.raw(|raw| raw.alive = false);
        self.raw.run(secs(40));
        self.assert_unharmed();
        assert_eq!(
            self.raw.sim.peer(self.raw.end.node).endpoint.connections(),
            1
        );
    }
}

#[test]
fn changed_sctp_packets_inside_dtls_do_no_harm_to_others() {
    for _ in 0..12 {
        let mut siege = Siege::new(Limits::default());
        let dice = Rc::new(RefCell::new(siege.raw.sim.dice()));
        siege.raw.raw(|raw| {
            raw.mangle = Some(Box::new(move |packet| {
                let mut dice = dice.borrow_mut();
                let mut packets = vec![packet.to_vec()];
                for _ in 0..3 {
                    let mut changed = mutate(packet, &mut dice);
                    if changed.len() > 12 && dice.random_bool(0.9) {
                        // Tag and checksum stay right, or nothing of it would be looked at.
                        changed[4..8].copy_from_slice(&packet[4..8]);
                        changed[8..12].fill(0);
                        let sum = crc32c(&changed);
                        changed[8..12].copy_from_slice(&sum.to_le_bytes());
                    }
                    packets.push(changed);
                }
                packets
            }));
        });
        for number in 1..30_u16 {
            if siege.raw.raw(|raw| raw.ended) {
                break;
            }
            siege.raw.raw(|raw| {
                if raw.try_open(2 * number) {
                    raw.send_data(2 * number, &[7; 3000]);
                }
                if number > 3 {
                    raw.try_reset(2 * number - 4);
                }
            });
            siege.raw.run(ms(100));
        }
        siege.assert_unharmed();
        siege.assert_ends();
    }
}

#[test]
fn random_chunks_inside_dtls_do_no_harm_to_others() {
    for _ in 0..4 {
        let mut siege = Siege::new(Limits::default());
        let mut dice = siege.raw.sim.dice();
        let kinds = [
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 64, 128, 130, 192, 193, 194, 255,
        ];
        for _ in 0..1_500 {
            let mut chunks = Vec::new();
            for _ in 0..dice.random_range(1..5) {
                let mut body = vec![0; dice.random_range(0..60)];
                dice.fill_bytes(&mut body);
                let tsn = siege.raw.raw(|raw| raw.next_tsn);
                if body.len() > 4 && dice.random_bool(0.7) {
                    let near = tsn.wrapping_add(dice.random_range(0..20)).wrapping_sub(10);
                    body[..4].copy_from_slice(&near.to_be_bytes());
                }
                // ABORT and SHUTDOWN would end the fun at once.
                let kind = match kinds[dice.random_range(0..kinds.len())] {
                    6..=8 | 14 if dice.random_bool(0.999) => 0,
                    kind => kind,
                };
                chunks.extend(chunk(kind, dice.random(), &body));
            }
            siege.raw.raw(|raw| {
                let tag = if chunks[0] == 1 { 0 } else { raw.tag };
                raw.send_packet(&packet(tag, &chunks));
            });
        }
        siege.raw.run(secs(1));
        siege.assert_unharmed();
        siege.assert_ends();
    }
}

#[test]
fn a_peer_that_ignores_the_window_fills_nothing_but_the_window() {
    let limits = Limits::default();
    let mut raw = RawPair::new();
    let end = raw.end;
    raw.raw(|raw| raw.send_open(2, 0));
    let channel = raw.inbound().unwrap();
    let first = raw.raw(|raw| raw.next_tsn);
    // Frames of 1,000 bytes: prefix, tag, length, payload.
    let mut frame = vec![0xe6, 0x07, 0x12, 0xe3, 0x07];
    frame.resize(1_000, 5);
    for number in 0..8_000_u32 {
        let ssn = u16::try_from(1 + number).unwrap();
        raw.raw(|raw| {
            let data = data_chunk(first.wrapping_add(number), 2, ssn, 3, &frame);
            raw.send_packet(&packet(raw.tag, &data));
        });
        if number % 500 == 0 {
            raw.run(ms(20));
        }
    }
    raw.run(secs(1));
    let held = raw.read(channel).0.len();
    let bound = limits.receive_window as usize + limits.max_connection_buffer;
    assert!(held > 500_000 && held <= bound, "{held} bytes were held");
    assert!(
        raw.sim.peer(end.node).closed(end.id).is_none(),
        "the rest was dropped"
    );
}

#[test]
fn a_flood_of_chunks_behind_a_gap_is_bounded() {
    let limits = Limits::default();
    let mut siege = Siege::new(limits.clone());
    siege.raw.raw(|raw| raw.send_open(2, 0));
    siege.raw.run(ms(100));
    let end = siege.raw.end;
    let first = siege.raw.raw(|raw| raw.next_tsn);
    let count = u32::try_from(super::scaled(20_000, 40_000, "chunks")).unwrap();
    for number in 0..count {
        siege.raw.raw(|raw| {
            // Every other TSN is missing, the tiniest of messages, streams all over.
            let tsn = first.wrapping_add(1 + 2 * number);
            let stream = u16::try_from(2 * (number % 30_000)).unwrap();
            let chunks = data_chunk(tsn, stream, 0, 3, &[0]);
            raw.send_packet(&packet(raw.tag, &chunks));
        });
        if number % 1000 == 0 {
            siege.raw.run(ms(10));
        }
    }
    siege.raw.run(secs(1));
    siege.assert_unharmed();
    let opened = siege.raw.sim.peer(end.node).counters().channels_opened;
    assert!(
        opened <= limits.max_streams as u64 + 10,
        "{opened} channels"
    );
    siege.assert_ends();
}

#[test]
fn a_flood_of_opens_stays_within_the_limits() {
    let limits = Limits {
        max_streams: 500,
        ..Limits::default()
    };
    let mut siege = Siege::new(limits.clone());
    let end = siege.raw.end;
    siege.raw.sim.peer(end.node).accept = Accept::Leave;
    for number in 0..3_000_u16 {
        siege.raw.raw(|raw| raw.send_open(2 + 2 * number, 0));
        if number % 100 == 0 {
            siege.raw.run(ms(20));
        }
    }
    siege.raw.run(secs(5));
    let announced = siege.raw.sim.peer(end.node).conn(end.id).live_count();
    assert!(
        announced <= limits.max_unaccepted_streams + 1,
        "{announced} channels were announced"
    );
    siege.raw.sim.peer(end.node).accept = Accept::Echo;
    siege.assert_unharmed();
    siege.assert_ends();
}

#[test]
fn a_flood_of_heartbeats_is_not_answered_with_more_than_was_sent() {
    let mut siege = Siege::new(Limits::default());
    let end = siege.raw.end;
    let before = siege.raw.sim.peer(end.node).counters();
    let mut chunks = Vec::new();
    for _ in 0..50 {
        chunks.extend(chunk(4, 0, &[0, 1, 0, 8, 1, 2, 3, 4]));
    }
    for _ in 0..200 {
        siege
            .raw
            .raw(|raw| raw.send_packet(&packet(raw.tag, &chunks)));
    }
    siege.raw.run(secs(1));
    let after = siege.raw.sim.peer(end.node).counters();
    let (got, gave) = (
        after.bytes_received - before.bytes_received,
        after.bytes_sent - before.bytes_sent,
    );
    assert!(gave <= 3 * got, "{gave} bytes for {got}");
    siege.assert_unharmed();
}

#[test]
fn text_and_empty_messages_are_dropped_and_the_stream_goes_on() {
    let mut raw = RawPair::new();
    raw.raw(|raw| {
        raw.send_open(2, 0);
        raw.send_data(2, b"before ");
    });
    let channel = raw.inbound().unwrap();
    raw.run(ms(50));
    let mut ssn = 2;
    for ppid in [51_u32, 52, 54, 56, 57, 0, 99] {
        raw.raw(|raw| {
            let mut data = data_chunk(raw.next_tsn, 2, ssn, 3, b"nonsense");
            data[12..16].copy_from_slice(&ppid.to_be_bytes());
            raw.send_packet(&packet(raw.tag, &data));
            raw.next_tsn = raw.next_tsn.wrapping_add(1);
        });
        ssn += 1;
    }
    raw.raw(|raw| {
        let data = data_chunk(
            raw.next_tsn,
            2,
            ssn,
            3,
            &[7, 0x12, 5, b'a', b'f', b't', b'e', b'r'],
        );
        raw.send_packet(&packet(raw.tag, &data));
    });
    raw.run(ms(50));
    assert_eq!(raw.read(channel), (b"before after".to_vec(), Read::Blocked));
}

#[test]
fn an_abort_or_a_shutdown_ends_the_connection_at_once() {
    for kind in [6, 7, 8] {
        let mut raw = RawPair::new();
        let end = raw.end;
        raw.raw(|raw| {
            let body = raw.next_tsn.wrapping_sub(1).to_be_bytes();
            let body: &[u8] = if kind == 7 { &body } else { &[] };
            raw.send_packet(&packet(raw.tag, &chunk(kind, 0, body)));
        });
        raw.run(ms(50));
        assert!(
            raw.sim.peer(end.node).closed(end.id).is_some(),
            "chunk {kind}"
        );
        assert_eq!(raw.sim.peer(end.node).endpoint.connections(), 0);
    }
}

#[test]
fn the_handshake_channel_cannot_be_flooded_before_authentication() {
    let limits = Limits::default();
    let mut sim = Sim::new();
    let listener = sim.add_peer(limits.clone(), true);
    sim.peer(listener).stuck = true;
    let raw = RawPeer::v2(sim.now(), sim.address(listener));
    let raw = sim.add_raw(raw);
    sim.expect("SCTP", secs(1), |sim| sim.raw(raw).connected);
    for _ in 0..300 {
        sim.act_raw(raw, |raw| raw.send_data(0, &[1; 16_000]));
        sim.run_for(ms(5));
    }
    let id = sim.peer(listener).only();
    let held = sim
        .act(listener, |peer, now| {
            peer.read_all(now, id, ChannelId::HANDSHAKE)
        })
        .0
        .len();
    assert!(
        held <= limits.receive_window as usize + limits.max_connection_buffer,
        "{held} bytes"
    );
    sim.run_for(secs(12));
    assert_eq!(sim.peer(listener).endpoint.connections(), 0);
}

#[test]
fn checks_with_known_credentials_from_many_addresses_are_bounded() {
    let mut siege = Siege::new(Limits::default());
    let node = siege.raw.end.node;
    let check = valid_check("");
    for number in 0..5_000_u32 {
        let [.., b, c] = number.to_be_bytes();
        siege
            .raw
            .sim
            .inject(SocketAddr::from(([172, 16, b, c], 9)), node, &check);
    }
    assert!(siege.raw.sim.peer(node).endpoint.routes() <= 32 + 1 + 2);
    siege.assert_unharmed();
    siege.assert_ends();
}

#[test]
fn a_peer_that_resets_and_opens_without_pause_is_served_within_the_limits() {
    let mut siege = Siege::new(Limits::default());
    let end = siege.raw.end;
    for round in 0..60 {
        if siege.raw.raw(|raw| raw.ended) {
            break;
        }
        siege.raw.raw(|raw| {
            raw.resets.clear();
            for stream in 1..=40_u16 {
                if raw.try_open(2 * stream) {
                    raw.send(2 * stream, Ppid::Binary, &[2, 0x08, 2]);
                    raw.reset_stream(2 * stream);
                }
            }
        });
        siege.raw.run(ms(15 + round % 20));
    }
    siege.raw.run(secs(3));
    let counters = siege.raw.sim.peer(end.node).counters();
    assert!(counters.channels_closed > 100, "{counters:?}");
    siege.assert_unharmed();
    siege.assert_ends();
}
