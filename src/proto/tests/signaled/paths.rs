//! Which path is found: direct, through NATs, by TURN servers; and what happens when it breaks.

use std::net::{IpAddr, SocketAddr};

use super::world::{
    End::{self, Answerer, Offerer},
    World,
};
use crate::proto::{
    CloseReason,
    connection::SignalError,
    ice::{RelayFailure, RelayTransport, ServerNews},
    tests::{link::Link, ms, nat::NatKind, secs, turn::USER},
};

#[test]
fn hosts_that_reach_each_other_connect_directly() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    assert!(!world.is_relayed(Offerer) && !world.is_relayed(Answerer));
    world.transfer(Offerer, channels, 20, secs(10));
    world.transfer(Answerer, channels, 20, secs(10));
}

#[test]
fn a_channel_is_open_within_a_second_on_a_path_of_40_milliseconds() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.connect();
    assert!(world.sim.elapsed() < secs(1), "{:?}", world.sim.elapsed());
}

#[test]
fn hosts_behind_cone_nats_find_each_other_with_a_stun_server() {
    let mut world = World::new(Link::rtt(ms(20))).behind(NatKind::Cone);
    let channels = world.connect();
    assert!(!world.is_relayed(Offerer) && !world.is_relayed(Answerer));
    world.transfer(Offerer, channels, 10, secs(10));
}

#[test]
fn four_stun_servers_may_have_an_address_of_either_family() {
    let mut world = World::new(Link::rtt(ms(20)));
    world.connect();
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    let taken = ["192.0.2.1", "2001:db8::1"].map(|ip| {
        let ip: IpAddr = ip.parse().unwrap();
        let ports = 1..=6;
        let taken = ports.filter(|port| {
            let server = SocketAddr::new(ip, *port);
            world.sim.act(node, |peer, now| {
                peer.endpoint.add_stun_server(now, id, server)
            })
        });
        taken.count()
    });
    assert_eq!(taken, [4, 4]);
}

#[test]
fn hosts_behind_symmetric_nats_need_a_relay() {
    for transport in [RelayTransport::Udp, RelayTransport::Stream] {
        let mut world = World::new(Link::rtt(ms(20))).behind(NatKind::Symmetric);
        let server = world.turn(Offerer, transport, USER.1);
        let channels = world.connect();
        assert_eq!(world.sim.allocations(server), 1);
        assert!(world.is_relayed(Offerer), "{transport:?}");
        for end in [Offerer, Answerer] {
            let last = world.conn(end).paths.last().copied();
            assert!(last.is_some_and(|(.., relayed)| relayed), "{end:?} knows");
        }
        world.transfer(Offerer, channels, 20, secs(10));
        world.transfer(Answerer, channels, 20, secs(10));
    }
}

#[test]
fn two_relays_can_be_used_at_once() {
    let mut world = World::new(Link::rtt(ms(20)));
    for end in [Offerer, Answerer] {
        world.turn(end, RelayTransport::Udp, USER.1);
        world.hide(end);
    }
    let channels = world.connect();
    assert!(world.is_relayed(Offerer) && world.is_relayed(Answerer));
    world.transfer(Offerer, channels, 20, secs(10));
}

#[test]
fn an_end_that_hides_tells_no_address_of_its_own() {
    let mut world = World::new(Link::rtt(ms(20)));
    world.turn(Offerer, RelayTransport::Udp, USER.1);
    world.hide(Offerer);
    let hidden = world.sim.address(world.node(Offerer));
    world.sim.set_filter(move |packet| {
        assert!(packet.from != hidden, "sent to {}", packet.to);
        true
    });
    world.connect();
    assert!(world.is_relayed(Offerer));
}

#[test]
fn without_a_relay_symmetric_nats_keep_hosts_apart() {
    let mut world = World::new(Link::rtt(ms(20))).behind(NatKind::Symmetric);
    world.offer();
    world.run(secs(12));
    for end in [Offerer, Answerer] {
        let closed = world.closed(end);
        assert!(
            matches!(closed, Some(CloseReason::HandshakeTimedOut(_))),
            "{closed:?}"
        );
    }
}

#[test]
fn a_relay_that_refuses_us_costs_only_itself() {
    let mut world = World::new(Link::rtt(ms(20)));
    let server = world.turn(Offerer, RelayTransport::Udp, "a wrong password");
    world.connect();
    assert_eq!(world.sim.allocations(server), 0);
    world.expect("end of candidates", secs(20), |world| {
        world.conn(Offerer).all_candidates
    });
    let told = world.conn(Offerer).servers.clone();
    let [ServerNews::RelayFailed(_, RelayFailure::Refused(401))] = told[..] else {
        panic!("{told:?}");
    };
}

#[test]
fn a_relay_that_is_not_there_costs_only_itself() {
    let mut world = World::new(Link::rtt(ms(20)));
    let server = world.turn(Offerer, RelayTransport::Udp, USER.1);
    world.sim.sleep(server);
    world.connect();
    world.expect("end of candidates", secs(20), |world| {
        world.conn(Offerer).all_candidates
    });
    let told = world.conn(Offerer).servers.clone();
    let [ServerNews::RelayFailed(_, RelayFailure::Silent)] = told[..] else {
        panic!("{told:?}");
    };
}

#[test]
fn servers_that_answer_and_those_that_do_not_are_told_apart() {
    let mut world = World::new(Link::rtt(ms(20))).behind(NatKind::Cone);
    world.turn(Offerer, RelayTransport::Stream, USER.1);
    world.connect();
    let told = world.conn(Offerer).servers.clone();
    let works = |news: &ServerNews| {
        matches!(
            news,
            ServerNews::StunAnswers(_) | ServerNews::RelayAllocated(_)
        )
    };
    assert!(told.len() == 2 && told.iter().all(works), "{told:?}");
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    let nobody = SocketAddr::from(([203, 0, 113, 1], 3478));
    world.sim.act(node, |peer, now| {
        peer.endpoint.add_stun_server(now, id, nobody)
    });
    let silent = ServerNews::StunSilent(nobody);
    world.expect("word of the server", secs(7), |world| {
        world.conn(Offerer).servers.last() == Some(&silent)
    });
    world.run(secs(30));
    assert_eq!(world.conn(Offerer).servers.len(), 3, "it is told once");
}

#[test]
fn allocation_and_permissions_are_refreshed_for_an_hour() {
    let mut world = World::new(Link::rtt(ms(20)));
    world.turn(Offerer, RelayTransport::Udp, USER.1);
    world.hide(Offerer);
    let channels = world.connect();
    world.sim.run_for(secs(3600));
    world.transfer(Offerer, channels, 5, secs(5));
    world.transfer(Answerer, channels, 5, secs(5));
    assert_eq!(world.conn(Offerer).paths.len(), 1);
}

#[test]
fn an_idle_connection_keeps_its_path_for_an_hour() {
    let mut world = World::new(Link::rtt(ms(40))).behind(NatKind::Cone);
    let channels = world.connect();
    world.sim.run_for(secs(3600));
    assert!(world.conn(Offerer).lost.is_empty());
    world.transfer(Answerer, channels, 5, secs(5));
}

#[test]
fn a_path_that_goes_silent_is_reported_and_reported_again_when_it_comes_back() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    let (a, b) = (world.node(Offerer), world.node(Answerer));
    world.sim.set_down(a, b, true);
    for end in [Offerer, Answerer] {
        world.expect("loss of the path", secs(9), |world| {
            !world.conn(end).lost.is_empty()
        });
    }
    let paths = world.conn(Offerer).paths.len();
    world.sim.set_down(a, b, false);
    world.expect("path", secs(6), |world| {
        world.conn(Offerer).paths.len() > paths
    });
    world.transfer(Offerer, channels, 5, secs(10));
}

/// Looks whether the path of this end is still there.
fn probe(world: &mut World, end: End) {
    let (node, id) = (world.node(end), world.id(end));
    world
        .sim
        .act(node, |peer, now| peer.endpoint.probe(now, id));
}

#[test]
fn a_closer_look_at_a_dead_path_takes_three_seconds() {
    for end in [Offerer, Answerer] {
        let mut world = World::new(Link::rtt(ms(400)));
        let channels = world.connect();
        let (a, b) = (world.node(Offerer), world.node(Answerer));
        world.run(secs(5));
        // What is on its way does not count.
        let words = bytes::Bytes::from_static(b"last words");
        let channel = channels[end.other().index()];
        assert!(world.send(end.other(), channel, &words));
        world.run(ms(10));
        world.sim.set_down(a, b, true);
        probe(&mut world, end);
        world.run(ms(3010));
        assert_eq!(world.conn(end).lost.len(), 1, "{end:?}");
    }
}

#[test]
fn a_closer_look_at_a_living_path_costs_nothing_however_slow_it_is() {
    for rtt in [ms(40), ms(1200)] {
        let mut world = World::new(Link::rtt(rtt));
        let channels = world.connect();
        for end in [Offerer, Answerer, Offerer, Answerer] {
            world.run(secs(5));
            probe(&mut world, end);
        }
        world.run(secs(10));
        for end in [Offerer, Answerer] {
            assert!(world.conn(end).lost.is_empty(), "{end:?} at {rtt:?}");
        }
        world.transfer(Offerer, channels, 5, secs(30));
    }
}

#[test]
fn who_looks_and_stands_still_himself_finds_no_path_lost() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    world.run(secs(5));
    let node = world.node(Offerer);
    probe(&mut world, Offerer);
    world.sim.sleep(node);
    world.run(secs(4));
    world.sim.wake(node);
    world.run(secs(10));
    assert!(world.conn(Offerer).lost.is_empty());
    world.transfer(Offerer, channels, 5, secs(10));
}

#[test]
fn a_path_is_not_lost_because_both_hosts_stood_still() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    for end in [Offerer, Answerer] {
        let node = world.node(end);
        world.sim.sleep(node);
    }
    world.run(secs(10));
    for end in [Offerer, Answerer] {
        let node = world.node(end);
        world.sim.wake(node);
    }
    world.run(secs(10));
    for end in [Offerer, Answerer] {
        assert!(world.conn(end).lost.is_empty(), "{end:?}");
    }
    world.transfer(Offerer, channels, 5, secs(10));
}

#[test]
fn a_connection_without_a_path_ends() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.connect();
    let (a, b) = (world.node(Offerer), world.node(Answerer));
    world.sim.set_down(a, b, true);
    world.run(secs(40));
    for end in [Offerer, Answerer] {
        assert_eq!(world.closed(end), Some(CloseReason::TimedOut));
        assert_eq!(world.peer(end).endpoint.routes(), 0);
    }
}

#[test]
fn an_ice_restart_finds_the_way_by_a_relay_when_the_direct_one_breaks() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.turn(Offerer, RelayTransport::Stream, USER.1);
    let channels = world.connect();
    assert!(!world.is_relayed(Offerer));
    let (a, b) = (world.node(Offerer), world.node(Answerer));
    world.sim.set_down(a, b, true);
    world.expect("loss of the path", secs(9), |world| {
        !world.conn(Offerer).lost.is_empty()
    });
    world.restart();
    world.expect("relayed path", secs(9), |world| world.is_relayed(Offerer));
    world.transfer(Offerer, channels, 20, secs(10));
    world.transfer(Answerer, channels, 20, secs(10));
}

#[test]
fn a_lite_answerer_is_nominated_by_the_offerer_and_a_lite_offerer_by_the_answerer() {
    for (lite, full) in [(Answerer, Offerer), (Offerer, Answerer)] {
        let mut world = World::new(Link::rtt(ms(40)));
        // The description alone: it is a full agent that is told to be none. It settles the roles all the same.
        world.tamper = Some(match lite {
            Answerer => |text| lite_if(text, "setup:active"),
            Offerer => |text| lite_if(text, "setup:actpass"),
        });
        let channels = world.connect();
        world.transfer(full, channels, 5, secs(5));
    }
}

fn lite_if(text: &str, kind: &str) -> String {
    match text.contains(kind) {
        true => text.replace("m=application", "a=ice-lite\r\nm=application"),
        false => text.to_owned(),
    }
}

#[test]
fn data_flows_on_while_ice_restarts() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.delay = secs(2);
    let channels = world.connect();
    for _ in 0..3 {
        world.restart();
        world.transfer(Offerer, channels, 10, ms(1500));
        world.run(secs(5));
    }
    let lost = world.conn(Offerer).lost.len() + world.conn(Answerer).lost.len();
    assert_eq!(lost, 0);
    // One ufrag, a few transactions and the address: nothing of the generations before.
    world.run(secs(1));
    assert!(world.peer(Offerer).endpoint.routes() < 12);
}

#[test]
fn restarts_that_follow_one_another_too_fast_are_refused() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.connect();
    let (offerer, answerer) = (world.node(Offerer), world.node(Answerer));
    let (ours, theirs) = (world.id(Offerer), world.id(Answerer));
    let mut refused = 0;
    for _ in 0..10 {
        let offer = world
            .sim
            .act(offerer, |peer, now| peer.endpoint.restart(now, ours));
        // A second restart before the answer to the first is no offer at all.
        let Ok(offer) = offer else {
            refused += 1;
            continue;
        };
        let answer = world.sim.act(answerer, |peer, now| {
            peer.endpoint.accept_restart(now, theirs, &offer)
        });
        match answer {
            Ok(answer) => world.sim.act(offerer, |peer, now| {
                peer.endpoint.accept_answer(now, ours, &answer).unwrap();
            }),
            Err(error) => {
                assert_eq!(error, SignalError::TooOften);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 9);
    world.run(secs(2));
    assert!(world.closed(Offerer).is_none() && world.conn(Offerer).lost.is_empty());
}

#[test]
fn an_ice_restart_finds_a_host_at_its_new_address() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    let old = world.sim.address(node);
    let new = world.sim.rebind(node);
    world.sim.act(node, |peer, now| {
        peer.endpoint.add_host(now, id, new);
        peer.endpoint.remove_host(now, id, old);
    });
    assert_eq!(world.conn(Offerer).lost.len(), 1);
    world.restart();
    world.expect("path", secs(5), |world| {
        let (path, lost) = world.peer(Offerer).endpoint.selected_path(id).unwrap();
        path.local == new && !lost
    });
    world.transfer(Offerer, channels, 5, secs(10));
    world.transfer(Answerer, channels, 5, secs(10));
}

#[test]
fn a_nat_that_forgets_its_mappings_is_survived() {
    let mut world = World::new(Link::rtt(ms(40))).behind(NatKind::Cone);
    let channels = world.connect();
    let node = world.node(Offerer);
    world.sim.nat(node).forget();
    world.run(secs(9));
    if !world.conn(Answerer).lost.is_empty() || !world.conn(Offerer).lost.is_empty() {
        world.restart();
    }
    world.transfer(Offerer, channels, 5, secs(12));
    world.transfer(Answerer, channels, 5, secs(12));
}

#[test]
fn closing_gives_the_allocation_back() {
    let mut world = World::new(Link::rtt(ms(20)));
    world.turn(Offerer, RelayTransport::Udp, USER.1);
    world.hide(Offerer);
    world.connect();
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    world
        .sim
        .act(node, |peer, now| peer.endpoint.close(now, id));
    world.expect("end", secs(5), |world| {
        world.closed(Offerer).is_some() && world.closed(Answerer).is_some()
    });
    assert_eq!(world.closed(Offerer), Some(CloseReason::Local));
    assert_eq!(world.closed(Answerer), Some(CloseReason::Remote));
    assert_eq!(world.peer(Offerer).endpoint.routes(), 0);
}

#[test]
fn a_flow_that_breaks_takes_its_path_with_it() {
    let mut world = World::new(Link::rtt(ms(20)));
    world.turn(Offerer, RelayTransport::Stream, USER.1);
    world.hide(Offerer);
    let channels = world.connect();
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    let (path, _) = world.peer(Offerer).endpoint.selected_path(id).unwrap();
    let relay = path.relay.expect("the path is relayed");
    world.sim.act(node, |peer, now| {
        peer.endpoint.relay_closed(now, relay);
    });
    assert_eq!(world.conn(Offerer).lost.len(), 1);
    // What is written now goes nowhere, and does no harm.
    assert!(world.send(Offerer, channels[0], &bytes::Bytes::from_static(b"lost")));
    world.run(secs(1));
    assert!(world.closed(Offerer).is_none());
}
