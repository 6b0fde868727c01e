//! The contract between the core and its shell: what calls may come when, and what they may count on.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use super::{
    link::Link,
    ms,
    pair::{End, Pair},
    peer::Accept,
    raw::valid_check,
    secs,
    sim::Sim,
};
use crate::proto::{CloseReason, DialPolicy, Phase, Side, Write};

const RTT: u64 = 20;

#[test]
fn an_open_before_authentication_is_answered_by_an_event_after_it() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    for node in [dialer, listener] {
        sim.peer(node).stuck = true;
        sim.peer(node).accept = Accept::Manual;
    }
    let id = sim.dial(dialer, listener, DialPolicy::V2);
    assert_eq!(
        sim.act(dialer, |peer, now| peer.endpoint.open(now, id)),
        None
    );
    sim.run_for(secs(1));
    assert_eq!(
        sim.act(dialer, |peer, now| peer.endpoint.open(now, id)),
        None
    );
    assert_eq!(sim.peer(dialer).conn(id).open_possible, 0);
    sim.act(dialer, |peer, now| {
        peer.conn(id).authenticated = Some(now);
        peer.endpoint.authenticated(now, id);
    });
    assert_eq!(sim.peer(dialer).conn(id).open_possible, 1);
    sim.open(dialer, id);
}

#[test]
fn being_authenticated_twice_is_once() {
    let mut pair = Pair::new(ms(RTT));
    for end in pair.ends() {
        pair.sim.act(end.node, |peer, now| {
            peer.endpoint.authenticated(now, end.id)
        });
    }
    pair.run(secs(20));
    for end in pair.ends() {
        assert_eq!(pair.closed(end), None);
        assert_eq!(pair.sim.peer(end.node).endpoint.handshakes(), 0);
    }
}

#[test]
fn closing_at_any_moment_of_the_set_up_leaves_nothing_on_either_side() {
    for after in (0..70).step_by(3) {
        for side in [Side::Dialer, Side::Listener] {
            let mut sim = Sim::new();
            sim.set_default_link(Link::rtt(ms(RTT)));
            let (dialer, listener) = (sim.dialer(), sim.listener());
            let id = sim.dial(dialer, listener, DialPolicy::V2);
            sim.run_for(ms(after));
            let closed = match side {
                Side::Dialer => {
                    sim.act(dialer, |peer, now| peer.endpoint.close(now, id));
                    assert_eq!(sim.peer(dialer).closed(id), Some(&CloseReason::Local));
                    true
                }
                Side::Listener => {
                    let known: Vec<_> = sim.peer(listener).connections.keys().copied().collect();
                    for id in &known {
                        sim.act(listener, |peer, now| peer.endpoint.close(now, *id));
                    }
                    !known.is_empty()
                }
            };
            sim.run_for(secs(41));
            for node in [dialer, listener] {
                let endpoint = &sim.peer(node).endpoint;
                let left = (
                    endpoint.connections(),
                    endpoint.routes(),
                    endpoint.handshakes(),
                );
                let expected = if closed { (0, 0, 0) } else { left };
                assert_eq!(left, expected, "{node:?}, {side:?} closed after {after} ms");
            }
        }
    }
}

#[test]
fn each_phase_of_a_set_up_is_reported_once_on_each_side() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(RTT)));
    let (dialer, listener) = (sim.dialer(), sim.listener());
    sim.connect(dialer, listener);
    let phases = |sim: &mut Sim, node| -> Vec<_> {
        sim.peer(node)
            .phases
            .iter()
            .map(|(_, phase)| (phase.side, phase.phase, phase.ok))
            .collect()
    };
    let all = [Phase::Ice, Phase::Dtls, Phase::Sctp, Phase::Noise];
    assert_eq!(
        phases(&mut sim, dialer),
        all.map(|phase| (Side::Dialer, phase, true))
    );
    assert_eq!(
        phases(&mut sim, listener),
        [Phase::Dtls, Phase::Sctp, Phase::Noise].map(|phase| (Side::Listener, phase, true))
    );
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let remote = SocketAddr::from(([172, 16, 0, 1], 9));
    let now = sim.now();
    for local in ["10.0.0.77", "2001:db8::77"] {
        let local: IpAddr = local.parse().unwrap();
        let endpoint = &mut sim.peer(listener).endpoint;
        endpoint.handle_datagram(now, Some(local), remote, &valid_check("a"));
        endpoint.process(now);
        let answer = endpoint.poll_transmit().expect("an answer");
        assert_eq!(
            (answer.destination, answer.source_ip),
            (remote, Some(local))
        );
    }
}

#[test]
fn a_write_of_nothing_does_nothing() {
    let mut pair = Pair::new(ms(RTT));
    let (ours, theirs) = pair.stream(pair.dialer);
    let (dialer, listener) = (pair.dialer, pair.listener);
    assert_eq!(pair.write(dialer, ours, b""), Write::Accepted(0));
    pair.run(secs(1));
    assert_eq!(pair.read(listener, theirs).0, b"");
    pair.conn(listener).log.clear();
    assert_eq!(pair.write(dialer, ours, b"x"), Write::Accepted(1));
}

#[test]
fn an_idle_connection_is_called_seldom() {
    let mut pair = Pair::new(ms(RTT));
    pair.stream(pair.dialer);
    pair.run(secs(60));
    let before = pair.ends().map(|end| pair.sim.turns(end.node));
    pair.run(secs(3600));
    for (end, before) in pair.ends().into_iter().zip(before) {
        let turns = pair.sim.turns(end.node) - before;
        assert!(turns < 4 * 3600 / 5, "{turns} turns in an hour of {end:?}");
    }
}

#[test]
fn a_host_that_slept_for_an_hour_loses_its_connections_and_goes_on() {
    for dialer_sleeps in [true, false] {
        let mut pair = Pair::new(ms(RTT));
        let (dialer, listener) = (pair.dialer, pair.listener);
        let sleeper = if dialer_sleeps { dialer } else { listener };
        let (ours, _) = pair.stream(dialer);
        pair.write(dialer, ours, b"before");
        pair.sim.sleep(sleeper.node);
        pair.run(secs(3600));
        pair.sim.wake(sleeper.node);
        // It has not heard the other, but has not listened either.
        assert_eq!(pair.closed(sleeper), None);
        pair.run(secs(26));
        for end in pair.ends() {
            assert_eq!(pair.closed(end), Some(CloseReason::TimedOut), "{end:?}");
        }
        pair.assert_empty();
        let (dialed, accepted) = pair.sim.connect(dialer.node, listener.node);
        (pair.dialer.id, pair.listener.id) = (dialed, accepted);
        let (ours, theirs) = pair.stream(pair.dialer);
        pair.write(pair.dialer, ours, b"after");
        pair.run(ms(RTT));
        assert_eq!(pair.read(pair.listener, theirs).0, b"after");
    }
}

#[test]
fn a_host_that_slept_for_ten_seconds_keeps_its_connections() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.run(secs(10));
    pair.sim.sleep(dialer.node);
    pair.run(secs(10));
    pair.sim.wake(dialer.node);
    pair.run(secs(5));
    pair.write(dialer, ours, b"good morning");
    pair.run(secs(1));
    assert_eq!(pair.read(listener, theirs).0, b"good morning");
}

#[test]
fn a_silent_listener_is_asked_more_often_before_it_is_given_up() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    pair.run(secs(10));
    let to = pair.sim.address(listener.node);
    let asked = Rc::new(Cell::new(false));
    let seen = Rc::clone(&asked);
    pair.sim.set_filter(move |packet| {
        seen.set(seen.get() || packet.to == to);
        packet.to != to
    });
    let mut times = Vec::new();
    while pair.closed(dialer).is_none() {
        pair.run(ms(10));
        if asked.take() {
            times.push(pair.sim.elapsed());
        }
    }
    let end = times.pop().expect("a goodbye");
    let late = times.iter().filter(|at| **at + secs(9) > end);
    assert!(late.count() >= 2);
    times.push(end);
    for pair in times.windows(2).filter(|pair| pair[0] + secs(9) > end) {
        assert!(pair[1] - pair[0] < ms(3_100), "{times:?}");
    }
}

/// As processes do on a machine that is suspended, or that others keep busy.
#[test]
fn when_both_hosts_stood_still_for_an_hour_their_connection_goes_on() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.run(secs(10));
    for first in pair.ends() {
        let last = pair.other(first);
        pair.sim.sleep(first.node);
        pair.sim.sleep(last.node);
        pair.run(secs(3600));
        pair.sim.wake(first.node);
        pair.run(secs(10));
        pair.sim.wake(last.node);
        pair.run(secs(60));
    }
    pair.write(dialer, ours, b"good morning");
    pair.run(secs(1));
    assert_eq!(pair.read(listener, theirs).0, b"good morning");
}

#[test]
fn a_host_that_stands_still_again_and_again_notices_that_its_peer_is_gone() {
    let mut pair = Pair::new(ms(RTT));
    let dialer = pair.dialer;
    pair.run(secs(10));
    pair.sim.set_filter(|_| false);
    // A third of the time it listens, and 25 seconds of silence are enough.
    for _ in 0..12 {
        pair.run(secs(3));
        pair.sim.sleep(dialer.node);
        pair.run(secs(6));
        pair.sim.wake(dialer.node);
    }
    assert_eq!(pair.closed(dialer), Some(CloseReason::TimedOut));
}

#[test]
fn dropping_an_inbound_stream_that_was_never_taken_refuses_it() {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    pair.release(listener, theirs);
    pair.run(secs(1));
    assert!(matches!(
        pair.read(dialer, ours).1,
        crate::proto::Read::Reset(_)
    ));
    pair.release(dialer, ours);
    pair.run(secs(1));
    assert!(pair.is_gone(dialer, ours) && pair.is_gone(listener, theirs));
}

#[test]
fn the_streams_of_a_connection_that_ended_are_not_counted_as_open() {
    let mut pair = Pair::new(ms(20));
    let [dialer, listener] = pair.ends();
    for from in [dialer, dialer, listener] {
        pair.stream(from);
    }
    let open = |pair: &mut Pair, end: End| {
        let counters = pair.sim.peer(end.node).counters();
        counters.channels_opened - counters.channels_closed
    };
    assert_eq!([dialer, listener].map(|end| open(&mut pair, end)), [3, 3]);
    pair.sim
        .act(dialer.node, |peer, now| peer.endpoint.close(now, dialer.id));
    pair.run(secs(1));
    assert_eq!([dialer, listener].map(|end| open(&mut pair, end)), [0, 0]);
}
