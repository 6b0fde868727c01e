//! Peers and strangers that mean harm.

use std::collections::BTreeSet;

use rand::RngExt as _;

use super::world::{
    End::{self, Answerer, Offerer},
    World,
};
use crate::proto::{
    CloseReason, DropReason, Phase, Side,
    candidate::Candidate,
    ice::CandidateUse,
    sdp::MAX_CANDIDATES,
    tests::{link::Link, ms, secs},
};

#[test]
fn ten_thousand_candidates_cost_no_more_than_64_and_do_not_keep_the_right_one_out() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.connect();
    let (node, id) = (world.node(Answerer), world.id(Answerer));
    let mut used = [0; 2];
    for number in 0..10_000_u32 {
        let [.., a, b] = number.to_be_bytes();
        let text = format!("candidate:1 1 udp 2130706431 203.{a}.{b}.1 9000 typ host");
        let candidate = Candidate::parse(&text).unwrap();
        let taken = world.sim.act(node, |peer, now| {
            peer.endpoint.add_candidate(now, id, &candidate)
        });
        used[usize::from(taken == CandidateUse::Taken)] += 1;
    }
    assert!((1..=MAX_CANDIDATES).contains(&used[1]), "{used:?}");
    world.sim.astray.clear();
    world.run(secs(60));
    let tried: BTreeSet<_> = world.sim.astray.iter().map(|packet| packet.to).collect();
    assert!(tried.len() <= MAX_CANDIDATES, "{}", tried.len());
    // Each was tried a few times and then no more.
    let packets = world.sim.astray.len();
    assert!(packets <= 10 * MAX_CANDIDATES, "{packets} packets");
    assert!(world.closed(Answerer).is_none());
}

/// Calls of strangers at an answerer, all of whose candidates are ports of one address; how many packets go there.
fn packets_to_a_victim(calls: usize) -> usize {
    let mut world = World::new(Link::rtt(ms(40)));
    let mut stranger = World::new(Link::rtt(ms(40)));
    let call = stranger.call(Offerer);
    let node = stranger.node(Offerer);
    let mut offer = stranger.sim.act(node, |peer, now| {
        let (id, offer) = peer.endpoint.offer(now, call).unwrap();
        peer.add_signaled(id, Side::Dialer);
        offer
    });
    let victim = |port| format!("candidate:1 1 udp 1 203.0.113.1 {port} typ host");
    offer.candidates = (1..=16)
        .map(|port| Candidate::parse(&victim(port)).unwrap())
        .collect();
    let node = world.node(Answerer);
    for _ in 0..calls {
        let call = world.call(Answerer);
        world.sim.act(node, |peer, now| {
            let (id, _) = peer.endpoint.accept_offer(now, call, &offer).unwrap();
            peer.add_signaled(id, Side::Listener);
        });
    }
    world.run(secs(15));
    world.sim.astray.len()
}

#[test]
fn calls_of_strangers_share_one_pace_towards_one_address() {
    let one = packets_to_a_victim(1);
    // Ten seconds at 200 a second, and what may be sent at once.
    let many = packets_to_a_victim(100);
    assert!(many <= 10 * 200 + 100, "{one} for one call, {many} for 100");
    assert!(many > one, "{one}, {many}");
}

#[test]
fn who_has_a_path_and_hangs_up_has_nobody_else_checked_any_more() {
    let packets_after = |hangs_up: bool| {
        let mut world = World::new(Link::rtt(ms(40)));
        let channels = world.connect();
        let (node, id) = (world.node(Answerer), world.id(Answerer));
        for port in 1..=16 {
            let text = format!("candidate:1 1 udp 1 203.0.113.1 {port} typ host");
            let candidate = Candidate::parse(&text).unwrap();
            world.sim.act(node, |peer, now| {
                peer.endpoint.add_candidate(now, id, &candidate)
            });
        }
        world.run(ms(100));
        if hangs_up {
            world
                .sim
                .act(node, |peer, now| peer.endpoint.signaling_ended(now, id));
        }
        world.sim.astray.clear();
        world.run(secs(60));
        // The path itself is looked after as before.
        assert!(world.conn(Answerer).lost.is_empty());
        world.transfer(Offerer, channels, 5, secs(10));
        world.sim.astray.len()
    };
    assert!(packets_after(false) > 0, "nothing was to be stopped");
    assert_eq!(packets_after(true), 0);
}

#[test]
fn candidates_that_come_before_the_answer_are_kept_but_not_all() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.delay = secs(1);
    world.offer();
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    let mut kept = 0;
    for port in 1..1000 {
        let text = format!("candidate:1 1 udp 1 203.0.113.1 {port} typ host");
        let candidate = Candidate::parse(&text).unwrap();
        let taken = world.sim.act(node, |peer, now| {
            peer.endpoint.add_candidate(now, id, &candidate)
        });
        kept += usize::from(taken == CandidateUse::Taken);
    }
    assert_eq!(kept, MAX_CANDIDATES);
    assert!(
        world.sim.astray.is_empty(),
        "nothing is sent before the answer"
    );
}

/// A description with another fingerprint, if it is one of this kind.
fn tampered(text: &str, kind: &str) -> String {
    let mut changed = String::new();
    for line in text.split_inclusive('\n') {
        let digest = line.strip_prefix("a=fingerprint:sha-256 ");
        match digest.filter(|_| text.contains(kind)) {
            Some(digest) => {
                let first = if digest.starts_with('A') { "B" } else { "A" };
                changed += &format!("a=fingerprint:sha-256 {first}{}", &digest[1..]);
            }
            None => changed += line,
        }
    }
    changed
}

#[test]
fn a_certificate_that_was_not_announced_ends_the_connection_on_either_side() {
    let offer_only: fn(&str) -> String = |text| tampered(text, "setup:actpass");
    let answer_only: fn(&str) -> String = |text| tampered(text, "setup:active");
    for (tamper, who) in [(offer_only, Answerer), (answer_only, Offerer)] {
        let mut world = World::new(Link::rtt(ms(40)));
        world.tamper = Some(tamper);
        world.offer();
        world.run(secs(12));
        assert_eq!(world.closed(who), Some(CloseReason::CertificateMismatch));
        for end in End::BOTH {
            assert!(world.conn(end).ready.is_none(), "{end:?}");
            assert!(world.closed(end).is_some());
        }
    }
}

#[test]
fn an_offer_with_the_ufrag_of_another_session_leads_nowhere() {
    let mut victim = World::new(Link::rtt(ms(40)));
    victim.connect();
    let mut world = World::new(Link::rtt(ms(40)));
    world.tamper = Some(|text| {
        let mut changed = String::new();
        for line in text.split_inclusive('\n') {
            match line.starts_with("a=ice-ufrag:") {
                true => changed += "a=ice-ufrag:someoneElses\r\n",
                false => changed += line,
            }
        }
        changed
    });
    world.offer();
    world.run(secs(12));
    for end in End::BOTH {
        let timed_out = CloseReason::HandshakeTimedOut(Phase::Ice);
        assert_eq!(world.closed(end), Some(timed_out));
    }
}

#[test]
fn a_restart_with_another_certificate_is_refused() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.connect();
    let id = world.id(Answerer);
    let mut stranger = World::new(Link::rtt(ms(40)));
    let call = stranger.call(Answerer);
    let node = stranger.node(Offerer);
    let (_, offer) = stranger.sim.act(node, |peer, now| {
        let offer = peer.endpoint.offer(now, call).unwrap();
        peer.add_signaled(offer.0, Side::Dialer);
        offer
    });
    let node = world.node(Answerer);
    let refused = world.sim.act(node, |peer, now| {
        peer.endpoint.accept_restart(now, id, &offer)
    });
    assert_eq!(
        refused,
        Err(crate::proto::connection::SignalError::OtherCertificate)
    );
    world.run(secs(1));
    assert!(world.closed(Answerer).is_none());
}

#[test]
fn checks_without_the_password_are_counted_and_change_nothing() {
    let mut world = World::new(Link::rtt(ms(40)));
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let taken = std::rc::Rc::clone(&seen);
    let target = world.sim.address(world.node(Answerer));
    world.sim.set_filter(move |packet| {
        if packet.to == target && packet.contents[..2] == [0, 1] {
            taken.borrow_mut().push(packet.contents.clone());
        }
        true
    });
    world.connect();
    let check = seen.borrow()[0].clone();
    let mut dice = world.sim.dice();
    let routes = world.peer(Answerer).endpoint.routes();
    let node = world.node(Answerer);
    for port in 1..500_u16 {
        let mut forged = check.clone();
        // Somewhere in the priority or the integrity, not in the checksum behind them, which need not be there.
        let at = forged.len() - 9 - dice.random_range(0..32_usize);
        forged[at] ^= 1 << dice.random_range(0..8);
        world.sim.inject(
            std::net::SocketAddr::from(([203, 0, 113, 9], port)),
            node,
            &forged,
        );
    }
    let dropped = world.peer(Answerer).dropped(DropReason::BadIntegrity)
        + world.peer(Answerer).dropped(DropReason::MalformedStun);
    assert_eq!(dropped, 499);
    assert!(world.peer(Answerer).endpoint.routes() <= routes + 8);
}

#[test]
fn repeated_checks_from_many_addresses_reach_a_limit() {
    let mut world = World::new(Link::rtt(ms(40)));
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let taken = std::rc::Rc::clone(&seen);
    let target = world.sim.address(world.node(Answerer));
    world.sim.set_filter(move |packet| {
        if packet.to == target && packet.contents[..2] == [0, 1] {
            taken.borrow_mut().push(packet.contents.clone());
        }
        true
    });
    let channels = world.connect();
    let check = seen.borrow()[0].clone();
    let node = world.node(Answerer);
    world.sim.astray.clear();
    for port in 1..5000_u16 {
        world.sim.inject(
            std::net::SocketAddr::from(([203, 0, 113, 9], port)),
            node,
            &check,
        );
    }
    assert!(world.peer(Answerer).dropped(DropReason::TooManyAddresses) > 4000);
    world.run(secs(30));
    let tried: BTreeSet<_> = world.sim.astray.iter().map(|packet| packet.to).collect();
    assert!(tried.len() <= MAX_CANDIDATES, "{}", tried.len());
    // The path stays where it is: whoever repeats a check cannot answer ours.
    world.transfer(Offerer, channels, 5, secs(5));
}
