//! How connections end, on purpose and otherwise, and that nothing is left of them.

use std::{cell::RefCell, rc::Rc};

use super::{
    link::Link,
    ms,
    pair::Pair,
    pipe::Pipe,
    secs,
    sim::{Node, Sim},
};
use crate::proto::{ChannelId, CloseReason, DialPolicy, Event, Limits, Read, Write};

const RTT: u64 = 20;

/// Within this time each side notices that the other is gone.
const NOTICE: std::time::Duration = secs(30);

#[test]
fn a_close_is_noticed_at_once_on_the_other_side() {
    for from_dialer in [true, false] {
        let mut pair = Pair::new(ms(RTT));
        let end = if from_dialer {
            pair.dialer
        } else {
            pair.listener
        };
        let other = pair.other(end);
        pair.run(secs(1));
        pair.close(end);
        assert_eq!(
            pair.closed(end),
            Some(CloseReason::Local),
            "nothing is to be flushed"
        );
        pair.run(ms(RTT / 2));
        assert_eq!(pair.closed(other), Some(CloseReason::Remote));
        pair.assert_empty();
    }
}

#[test]
fn closing_flushes_what_was_written() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    let data = vec![5; 32_000];
    assert_eq!(pair.write(dialer, ours, &data), Write::Accepted(data.len()));
    pair.finish(dialer, ours);
    pair.close(dialer);
    assert_eq!(pair.closed(dialer), None, "not before the data is there");
    let mut got = Vec::new();
    let mut end = Read::Blocked;
    for _ in 0..1000 {
        pair.run(ms(1));
        if pair.closed(listener).is_none() {
            let (more, now) = pair.read(listener, theirs);
            got.extend(more);
            end = now;
        }
    }
    assert_eq!((got.len(), end), (data.len(), Read::Eof));
    assert_eq!(pair.closed(dialer), Some(CloseReason::Local));
    assert_eq!(pair.closed(listener), Some(CloseReason::Remote));
    pair.assert_empty();
}

/// Both ends of a stream whose writer sent data, FIN and goodbye, and what it sent, which the reader has not got yet.
fn held_until_goodbye(data: &[u8]) -> (Pair, ChannelId, Vec<Vec<u8>>) {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.run(secs(1));
    assert_eq!(pair.read(listener, theirs), (Vec::new(), Read::Blocked));
    let held = Rc::new(RefCell::new(Vec::new()));
    let (sink, to) = (Rc::clone(&held), pair.sim.address(listener.node));
    pair.sim.set_filter(move |packet| {
        if packet.to == to {
            sink.borrow_mut().push(packet.contents.clone());
        }
        packet.to != to
    });
    assert_eq!(pair.write(dialer, ours, data), Write::Accepted(data.len()));
    pair.finish(dialer, ours);
    pair.close(dialer);
    pair.run(secs(3));
    assert_eq!(pair.closed(dialer), Some(CloseReason::Local));
    (pair, theirs, held.take())
}

#[test]
fn data_that_comes_in_one_batch_with_the_goodbye_is_read_before_the_end() {
    let data = vec![9; 3_000];
    let (mut pair, theirs, held) = held_until_goodbye(&data);
    let (listener, now) = (pair.listener, pair.sim.now());
    let from = pair.sim.address(pair.dialer.node);
    let endpoint = &mut pair.sim.peer(listener.node).endpoint;
    for datagram in &held {
        endpoint.handle_datagram(now, None, from, datagram);
    }
    endpoint.process(now);
    assert_eq!((endpoint.connections(), endpoint.routes()), (0, 0));
    let mut got = Vec::new();
    let mut end = Read::Blocked;
    let mut closed = false;
    while let Some((id, event)) = endpoint.poll_event() {
        assert!(!closed, "{event:?} after the end");
        assert_eq!(id, listener.id);
        closed = event == Event::Closed(CloseReason::Remote);
        if event == Event::ChannelReadable(theirs) {
            end = loop {
                match endpoint.read(now, id, theirs) {
                    Read::Data(bytes) => got.extend_from_slice(&bytes),
                    end => break end,
                }
            };
        }
        if closed {
            // A reader that was late may still come now.
            assert_eq!(endpoint.read(now, id, theirs), Read::Eof);
        }
    }
    assert!(closed);
    assert_eq!((got, end), (data, Read::Eof));
    // Nothing is kept of it once the application knows.
    assert_eq!(endpoint.read(now, listener.id, theirs), Read::Reset(None));
}

#[test]
fn closing_gives_up_flushing_after_its_time() {
    let mut pair = Pair::new(ms(RTT));
    let dialer = pair.dialer;
    let (ours, _) = pair.stream(dialer);
    pair.set_down(true);
    pair.write(dialer, ours, b"nobody hears this");
    pair.close(dialer);
    pair.run(ms(1_900));
    assert_eq!(pair.closed(dialer), None);
    pair.run(ms(200));
    assert_eq!(pair.closed(dialer), Some(CloseReason::Local));
}

#[test]
fn both_sides_may_close_in_the_same_moment() {
    let mut pair = Pair::new(ms(RTT));
    pair.run(secs(1));
    for end in pair.ends() {
        pair.close(end);
        pair.close(end);
    }
    pair.run(secs(1));
    for end in pair.ends() {
        assert_eq!(pair.closed(end), Some(CloseReason::Local));
    }
    pair.assert_empty();
}

#[test]
fn nothing_can_be_opened_while_closing() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, _) = pair.stream(dialer);
    pair.write(dialer, ours, b"to be flushed");
    pair.close(dialer);
    assert_eq!(
        pair.sim
            .act(dialer.node, |peer, now| peer.endpoint.open(now, dialer.id)),
        None
    );
    pair.open(listener);
    pair.run(secs(1));
    assert!(pair.conn(dialer).inbound.is_empty());
    pair.assert_empty();
}

/// Closes one side while its goodbye is lost, and says how long the other side, which writes or not, believes.
fn believes_for(from_dialer: bool, writes: bool) -> std::time::Duration {
    let mut pair = Pair::new(ms(RTT));
    let end = if from_dialer {
        pair.dialer
    } else {
        pair.listener
    };
    let other = pair.other(end);
    let (ours, _) = pair.stream(other);
    pair.run(secs(1));
    pair.set_down(true);
    pair.close(end);
    pair.run(ms(100));
    pair.set_down(false);
    let start = pair.sim.elapsed();
    if writes {
        pair.write(other, ours, b"are you there?");
    }
    pair.sim.expect("end", NOTICE, |sim| {
        sim.peer(other.node).closed(other.id).is_some()
    });
    let took = pair.sim.elapsed() - start;
    pair.assert_empty();
    took
}

#[test]
fn a_lost_goodbye_is_repeated_to_a_peer_that_still_talks() {
    for from_dialer in [true, false] {
        let took = believes_for(from_dialer, true);
        assert!(took < ms(100), "dialer closes: {from_dialer}, {took:?}");
    }
}

#[test]
fn a_lost_goodbye_is_found_out_without_traffic_too() {
    for from_dialer in [true, false] {
        believes_for(from_dialer, false);
    }
}

#[test]
fn a_goodbye_is_not_repeated_without_end() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    pair.run(secs(1));
    // The goodbye never gets through, the other side talks on.
    pair.sim.link_mut(dialer.node, listener.node).down = true;
    pair.close(dialer);
    let sent = pair.sim.peer(dialer.node).counters().datagrams_sent;
    let (ours, from) = (
        pair.sim.address(dialer.node),
        pair.sim.address(listener.node),
    );
    assert_ne!(ours, from);
    for _ in 0..1000 {
        pair.sim.inject(from, dialer.node, &[23; 100]);
    }
    assert!(pair.sim.peer(dialer.node).counters().datagrams_sent - sent < 10);
}

#[test]
fn a_peer_that_vanished_is_noticed_within_30_seconds_on_either_side() {
    for busy in [false, true] {
        let mut pair = Pair::new(ms(RTT));
        let streams: Vec<_> = pair
            .ends()
            .iter()
            .map(|end| (*end, pair.stream(*end).0))
            .collect();
        pair.run(secs(60));
        pair.set_down(true);
        for (end, channel) in streams {
            if busy {
                pair.write(end, channel, &[1; 10_000]);
            }
        }
        pair.run(secs(15));
        for end in pair.ends() {
            assert_eq!(pair.closed(end), None, "a short outage is survived");
        }
        pair.run(secs(15));
        for end in pair.ends() {
            assert_eq!(
                pair.closed(end),
                Some(CloseReason::TimedOut),
                "{end:?}, busy: {busy}"
            );
        }
        pair.assert_empty();
    }
}

#[test]
fn an_outage_of_15_seconds_costs_nothing_but_time() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.set_down(true);
    pair.write(dialer, ours, b"late");
    pair.run(secs(15));
    pair.set_down(false);
    pair.run(secs(4));
    assert_eq!(pair.read(listener, theirs).0, b"late");
}

#[test]
fn consent_checks_keep_an_idle_connection_alive_for_a_week() {
    let hours = super::scaled(8, 7 * 24, "hours") as u64;
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    let before = pair.sim.peer(dialer.node).counters();
    let time = secs(hours * 3600);
    pair.run(time);
    for end in pair.ends() {
        assert_eq!(pair.closed(end), None);
    }
    pair.write(dialer, ours, b"still here");
    pair.run(ms(RTT));
    assert_eq!(pair.read(listener, theirs).0, b"still here");
    // And costs little: a few datagrams every keep-alive interval.
    let after = pair.sim.peer(dialer.node).counters();
    let bytes = after.bytes_sent - before.bytes_sent + after.bytes_received - before.bytes_received;
    assert!(bytes / time.as_secs() < 200, "{bytes} bytes in {time:?}");
}

#[test]
fn an_idle_connection_survives_loss() {
    let link = Link {
        loss: 0.03,
        ..Link::rtt(ms(RTT))
    };
    let mut pair = Pair::new(ms(RTT));
    pair.sim.set_default_link(link);
    pair.run(secs(600));
    for end in pair.ends() {
        assert_eq!(pair.closed(end), None);
    }
}

#[test]
fn nothing_is_left_of_a_thousand_connections() {
    let count = super::scaled(400, 1_000, "connections");
    let mut sim = Sim::new();
    let listener = sim.listener();
    let dialers: Vec<_> = (0..20).map(|_| sim.dialer()).collect();
    for round in 0..count / dialers.len() {
        let ids: Vec<_> = dialers
            .iter()
            .map(|&dialer| (dialer, sim.dial(dialer, listener, DialPolicy::V2)))
            .collect();
        sim.expect("connections", secs(5), |sim| {
            ids.iter()
                .all(|(dialer, id)| sim.peer(*dialer).is_authenticated(*id))
        });
        for (number, (dialer, id)) in ids.into_iter().enumerate() {
            sim.act(dialer, |peer, now| {
                peer.start(now, id, |stream| Pipe::request(stream, 10))
            });
            match (number + round) % 3 {
                0 => sim.act(dialer, |peer, now| peer.endpoint.close(now, id)),
                1 => {
                    sim.run_for(ms(1));
                    let last = sim.peer(listener).authenticated().last().unwrap();
                    sim.act(listener, |peer, now| peer.endpoint.close(now, last));
                }
                _ => {}
            }
        }
        sim.run_for(ms(500));
        let left: Vec<_> = dialers
            .iter()
            .flat_map(|dialer| {
                sim.peer(*dialer)
                    .authenticated()
                    .map(|id| (*dialer, id))
                    .collect::<Vec<_>>()
            })
            .collect();
        for (dialer, id) in left {
            sim.act(dialer, |peer, now| peer.endpoint.close(now, id));
        }
        sim.run_for(ms(500));
    }
    sim.run_for(secs(30));
    assert_eq!(sim.peer(listener).connections.len(), count);
    for node in dialers.into_iter().chain([listener]) {
        assert_nothing_left(&mut sim, node);
    }
}

fn assert_nothing_left(sim: &mut Sim, node: Node) {
    let endpoint = &sim.peer(node).endpoint;
    let left = (
        endpoint.connections(),
        endpoint.routes(),
        endpoint.handshakes(),
    );
    assert_eq!(
        left,
        (0, 0, 0),
        "connections, routes, handshakes of {node:?}"
    );
    assert_eq!(endpoint.poll_timeout(), None);
}

#[test]
fn a_dial_right_after_a_close_succeeds_from_the_same_address() {
    for from_dialer in [true, false] {
        let mut pair = Pair::new(ms(RTT));
        let (dialer, listener) = (pair.dialer, pair.listener);
        for round in 0..5 {
            let end = if from_dialer {
                pair.dialer
            } else {
                pair.listener
            };
            pair.close(end);
            pair.sim.expect("end", secs(1), |sim| {
                sim.peer(dialer.node).closed(pair.dialer.id).is_some()
            });
            let before = pair.sim.elapsed();
            let (dialed, accepted) = pair.sim.connect(dialer.node, listener.node);
            let took = pair.sim.elapsed() - before;
            assert!(took < ms(10 * RTT), "round {round}: {took:?}");
            (pair.dialer.id, pair.listener.id) = (dialed, accepted);
        }
        let (ours, theirs) = pair.stream(pair.dialer);
        pair.write(pair.dialer, ours, b"fresh");
        pair.run(ms(RTT));
        assert_eq!(pair.read(pair.listener, theirs).0, b"fresh");
    }
}

#[test]
fn a_dialer_that_restarted_replaces_its_dead_connection() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    pair.run(secs(10));
    pair.sim.restart(dialer.node, Limits::default(), false);
    let id = pair.sim.dial(dialer.node, listener.node, DialPolicy::V2);
    pair.sim.expect("connection", secs(10), |sim| {
        sim.peer(dialer.node).is_authenticated(id)
    });
    let took = pair.sim.elapsed();
    pair.run(secs(1));
    assert_eq!(
        pair.closed(listener),
        Some(CloseReason::Replaced),
        "after {took:?}"
    );
    assert_eq!(pair.sim.peer(listener.node).authenticated().count(), 1);
    assert_eq!(pair.sim.peer(listener.node).endpoint.connections(), 1);
}

#[test]
fn a_forged_client_hello_does_not_replace_a_connection_that_is_alive() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let from = pair.sim.address(dialer.node);
    let flight = [
        super::raw::valid_check("forged"),
        super::sim::client_hello(),
    ];
    for _ in 0..20 {
        pair.run(secs(1));
        for datagram in &flight {
            pair.sim.inject(from, listener.node, datagram);
        }
        let (ours, theirs) = pair.stream(dialer);
        pair.write(dialer, ours, b"alive");
        pair.run(ms(RTT));
        assert_eq!(pair.read(listener, theirs).0, b"alive");
    }
    for end in pair.ends() {
        assert_eq!(pair.closed(end), None);
    }
}

#[test]
fn a_listener_that_restarted_is_noticed_within_30_seconds() {
    for busy in [false, true] {
        let mut pair = Pair::new(ms(RTT));
        let (dialer, listener) = (pair.dialer, pair.listener);
        let (ours, _) = pair.stream(dialer);
        pair.run(secs(10));
        pair.sim.restart(listener.node, Limits::default(), true);
        if busy {
            pair.write(dialer, ours, b"hello?");
        }
        pair.run(NOTICE);
        assert!(
            pair.closed(dialer).is_some(),
            "it answers checks, but it has forgotten us; busy: {busy}"
        );
    }
}

#[test]
fn a_connection_follows_its_dialer_to_another_address() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.run(secs(3));
    let new = pair.sim.rebind(dialer.node);
    pair.write(dialer, ours, b"from elsewhere");
    pair.sim
        .expect("data from the new address", secs(10), |sim| {
            !sim.act(listener.node, |peer, now| {
                peer.read_all(now, listener.id, theirs)
            })
            .0
            .is_empty()
        });
    assert_eq!(pair.conn(listener).moves, [new]);
    pair.write(listener, theirs, b"and back");
    pair.run(secs(3));
    assert_eq!(pair.read(dialer, ours).0, b"and back");
    // Again and again, as long as it stays below the limit of addresses.
    for _ in 0..10 {
        pair.sim.rebind(dialer.node);
        pair.run(secs(20));
    }
    pair.write(dialer, ours, b"still the same");
    pair.run(secs(3));
    assert_eq!(pair.read(listener, theirs).0, b"still the same");
    for end in pair.ends() {
        assert_eq!(pair.closed(end), None);
    }
    pair.close(dialer);
    pair.run(secs(1));
    pair.assert_empty();
}

#[test]
fn a_dialer_that_moves_often_does_not_use_up_its_addresses() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    for _ in 0..100 {
        pair.sim.rebind(dialer.node);
        pair.run(secs(10));
    }
    let (ours, theirs) = pair.stream(dialer);
    pair.write(dialer, ours, b"here");
    pair.run(secs(1));
    assert_eq!(pair.read(listener, theirs).0, b"here");
}

#[test]
fn a_datagram_from_a_strange_address_does_not_move_a_connection() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    let stranger = "172.16.0.1:5".parse().unwrap();
    let record = Rc::new(RefCell::new(Vec::new()));
    let copy = Rc::clone(&record);
    pair.sim.set_filter(move |packet| {
        copy.borrow_mut().push(packet.contents.clone());
        packet.contents[0] < 4
    });
    pair.write(dialer, ours, b"x");
    pair.run(ms(RTT));
    // Records seen on the way, sent by somebody else: no check vouches for the address.
    let records: Vec<_> = record
        .borrow()
        .iter()
        .filter(|datagram| datagram[0] >= 20)
        .cloned()
        .collect();
    assert!(!records.is_empty());
    for datagram in records {
        pair.sim.inject(stranger, listener.node, &datagram);
    }
    pair.sim.clear_filter();
    pair.run(secs(5));
    assert!(pair.conn(listener).moves.is_empty());
    assert_eq!(pair.read(listener, theirs).0, b"x");
}

#[test]
fn an_unknown_connection_or_channel_is_no_fault() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, _) = pair.stream(dialer);
    let unknown = crate::proto::ConnectionId(99);
    let stale = ChannelId {
        generation: 77,
        ..ours
    };
    pair.sim.act(dialer.node, |peer, now| {
        for (id, channel) in [(unknown, ours), (dialer.id, stale)] {
            let endpoint = &mut peer.endpoint;
            endpoint.authenticated(now, id);
            endpoint.accepted(id, channel);
            assert_eq!(endpoint.write(now, id, channel, b"x"), Write::Closed);
            assert_eq!(endpoint.read(now, id, channel), Read::Reset(None));
            endpoint.finish(now, id, channel);
            endpoint.stop(now, id, channel);
            endpoint.reset(now, id, channel);
            endpoint.release(now, id, channel);
        }
        assert_eq!(peer.endpoint.open(now, unknown), None);
        assert_eq!(peer.endpoint.path_stats(unknown), None);
        peer.endpoint.close(now, unknown);
    });
    pair.run(secs(1));
    assert_eq!((pair.closed(dialer), pair.closed(listener)), (None, None));
    assert!(
        !pair
            .conn(dialer)
            .log
            .iter()
            .any(|event| matches!(event, Event::ChannelClosed(_)))
    );
}
