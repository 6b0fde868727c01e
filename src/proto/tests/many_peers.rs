//! Many peers on one socket: they do not disturb each other, and their number costs no more than their number.

use super::{
    link::Link,
    ms,
    pipe::Pipe,
    secs,
    sim::{Node, Sim},
};
use crate::proto::{ConnectionId, DialPolicy};

/// Dialers with their connections.
fn dial_all(sim: &mut Sim, listener: Node, count: usize) -> Vec<(Node, ConnectionId)> {
    (0..count)
        .map(|number| {
            let dialer = sim.dialer();
            let rtt = ms(5 + number as u64 % 100);
            sim.set_link(
                dialer,
                listener,
                Link {
                    loss: 0.005,
                    ..Link::rtt(rtt)
                },
            );
            let policy = [DialPolicy::V1, DialPolicy::V2, DialPolicy::Auto][number % 3];
            (dialer, sim.dial(dialer, listener, policy))
        })
        .collect()
}

#[test]
fn two_hundred_dialers_are_served_at_once_each_with_streams() {
    let (count, streams, size) = (200, 5, 5_000);
    let mut sim = Sim::new();
    let listener = sim.listener();
    let peers = dial_all(&mut sim, listener, count);
    sim.expect("all connections", secs(10), |sim| {
        peers
            .iter()
            .all(|(node, id)| sim.peer(*node).is_authenticated(*id))
    });
    for &(node, id) in &peers {
        for _ in 0..streams {
            sim.act(node, |peer, now| {
                peer.start(now, id, |stream| Pipe::request(stream, size))
            })
            .expect("a free id");
        }
    }
    sim.expect("all echoes", secs(20), |sim| {
        peers
            .iter()
            .all(|(node, id)| sim.peer(*node).conn(*id).over.len() == streams)
    });
    for &(node, id) in &peers {
        assert!(sim.peer(node).conn(id).over.iter().all(Pipe::is_complete));
    }
    assert_eq!(sim.peer(listener).endpoint.connections(), count);
    assert_eq!(
        sim.peer(listener).endpoint.routes(),
        2 * count,
        "an address and credentials each"
    );
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 0);

    // A third leaves, a third vanishes, a third stays.
    for (number, &(node, id)) in peers.iter().enumerate() {
        match number % 3 {
            0 => sim.act(node, |peer, now| peer.endpoint.close(now, id)),
            1 => sim.set_down(node, listener, true),
            _ => {}
        }
    }
    sim.run_for(secs(40));
    assert_eq!(sim.peer(listener).endpoint.connections(), count / 3);
    assert_eq!(sim.peer(listener).endpoint.routes(), 2 * (count / 3));
    for (number, (node, id)) in peers.into_iter().enumerate() {
        assert_eq!(
            sim.peer(node).is_authenticated(id),
            number % 3 == 2,
            "peer {number}"
        );
    }
}

#[test]
fn one_endpoint_dials_and_listens_many_times_on_one_socket() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(20)));
    let hub = sim.listener();
    let others: Vec<_> = (0..40).map(|_| sim.listener()).collect();
    let mut connections = Vec::new();
    for (number, &other) in others.iter().enumerate() {
        let (from, to) = if number % 2 == 0 {
            (hub, other)
        } else {
            (other, hub)
        };
        connections.push((from, sim.dial(from, to, DialPolicy::V2)));
    }
    sim.expect("connections", secs(5), |sim| {
        connections
            .iter()
            .all(|(node, id)| sim.peer(*node).is_authenticated(*id))
    });
    for &(node, id) in &connections {
        sim.act(node, |peer, now| {
            peer.start(now, id, |stream| Pipe::request(stream, 3_000))
        })
        .expect("a free id");
    }
    sim.expect("echoes", secs(5), |sim| {
        connections
            .iter()
            .all(|(node, id)| sim.peer(*node).conn(*id).over.len() == 1)
    });
    sim.run_for(ms(100));
    assert_eq!(sim.peer(hub).endpoint.connections(), 40);
}

#[test]
fn a_busy_peer_does_not_delay_the_others() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(20)));
    let listener = sim.listener();
    let bulk = sim.dialer();
    let (bulk_id, _) = sim.connect(bulk, listener);
    for _ in 0..8 {
        sim.act(bulk, |peer, now| {
            peer.start(now, bulk_id, |stream| Pipe::request(stream, 1 << 20))
        })
        .expect("a free id");
    }
    let quiet = sim.dialer();
    let (id, _) = sim.connect(quiet, listener);
    for _ in 0..10 {
        let start = sim.elapsed();
        let channel = sim.act(quiet, |peer, now| {
            peer.start(now, id, |stream| Pipe::request(stream, 100).without_end())
        });
        let channel = channel.expect("a free id");
        sim.expect("echo", secs(1), |sim| {
            sim.peer(quiet).pipe(id, channel).received == 100
        });
        assert_eq!(sim.elapsed() - start, ms(20));
    }
    assert!(sim.peer(bulk).is_authenticated(bulk_id));
}
