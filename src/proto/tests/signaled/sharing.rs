//! One socket for connections that were signaled and for webrtc-direct.

use super::world::{
    End::{Answerer, Offerer},
    World,
};
use crate::proto::{
    CloseReason, DialPolicy, Limits,
    tests::{link::Link, ms, peer::Accept, secs},
};

#[test]
fn a_listener_of_webrtc_direct_takes_signaled_connections_on_the_same_socket() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    let dialer = world.sim.add_peer(Limits::default(), false);
    let listener = world.node(Answerer);
    world.sim.peer(dialer).accept = Accept::Manual;
    let id = world.sim.dial(dialer, listener, DialPolicy::V2);
    world.expect("direct connection", secs(5), |world| {
        world.sim.peer(dialer).is_authenticated(id)
    });
    world.transfer(Offerer, channels, 10, secs(5));
    let channel = world.sim.open(dialer, id);
    world.sim.act(dialer, |peer, now| {
        peer.endpoint.write(now, id, channel, b"direct")
    });
    world.run(ms(200));
    assert_eq!(world.peer(Answerer).counters().channels_opened, 2);
}

#[test]
fn a_socket_of_calls_carries_calls_and_answers_nobody_else() {
    for policy in [DialPolicy::V1, DialPolicy::V2] {
        let mut world = World::new(Link::rtt(ms(40)));
        for end in [Offerer, Answerer] {
            world.peer(end).for_calls = true;
        }
        let channels = world.connect();
        let dialer = world.sim.add_peer(Limits::default(), false);
        let (listener, stranger) = (world.node(Answerer), world.sim.address(dialer));
        world.sim.set_filter(move |packet| {
            assert_ne!(packet.to, stranger, "it is answered");
            true
        });
        world.sim.dial(dialer, listener, policy);
        world.run(secs(15));
        assert_eq!(world.peer(Answerer).connections.len(), 1, "{policy:?}");
        world.transfer(Offerer, channels, 10, secs(5));
        let id = world.id(Offerer);
        let offerer = world.node(Offerer);
        world
            .sim
            .act(offerer, |peer, now| peer.endpoint.close(now, id));
        world.run(secs(3));
        assert_eq!(world.closed(Answerer), Some(CloseReason::Remote));
    }
}

#[test]
fn an_address_that_lives_for_one_connection_is_not_taken_by_another() {
    let mut world = World::new(Link::rtt(ms(40)));
    let (offerer, answerer) = (world.node(Offerer), world.node(Answerer));
    // The offerer dials the same socket from its own: both connections would use one pair of addresses.
    let direct = world.sim.dial(offerer, answerer, DialPolicy::V2);
    world.expect("direct connection", secs(5), |world| {
        world.peer(Offerer).is_authenticated(direct)
    });
    world.offer();
    world.run(secs(12));
    assert!(world.peer(Offerer).closed(direct).is_none());
    assert!(
        world.closed(Offerer).is_some(),
        "it finds no way of its own"
    );
}

#[test]
fn nothing_is_left_of_connections_that_ended() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.connect();
    let (node, id) = (world.node(Answerer), world.id(Answerer));
    world
        .sim
        .act(node, |peer, now| peer.endpoint.close(now, id));
    world.run(secs(3));
    for end in [Offerer, Answerer] {
        assert!(world.closed(end).is_some());
        assert_eq!(world.peer(end).endpoint.routes(), 0);
        assert_eq!(world.peer(end).endpoint.connections(), 0);
    }
}
