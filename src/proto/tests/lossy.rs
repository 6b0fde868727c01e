//! Bad networks: whatever they lose, delay, repeat or reorder, the bytes arrive, in order and once.

use super::{
    link::{Burst, Link},
    ms,
    pipe::Pipe,
    secs,
    sim::{Node, Sim},
};
use crate::proto::{ConnectionId, DialPolicy};

/// Bytes each way.
const TOTAL: u64 = 1 << 20;
/// Streams that share them.
const STREAMS: u64 = 4;

/// Waits until everything is echoed, and says how long it took.
#[track_caller]
fn echoes(sim: &mut Sim, dialer: Node, id: ConnectionId, what: &str) -> std::time::Duration {
    let start = sim.elapsed();
    for _ in 0..STREAMS {
        let pipe = |stream| Pipe::request(stream, TOTAL / STREAMS);
        sim.act(dialer, |peer, now| peer.start(now, id, pipe))
            .expect("a free id");
    }
    let count = usize::try_from(STREAMS).unwrap();
    sim.expect(what, secs(120), |sim| {
        let conn = sim.peer(dialer).conn(id);
        conn.closed.is_some() || conn.over.len() == count
    });
    let conn = sim.peer(dialer).conn(id);
    assert_eq!(conn.closed, None, "{what}");
    assert!(
        conn.over.iter().all(Pipe::is_complete),
        "{what}: {:?}",
        conn.over
    );
    assert!(
        conn.over
            .iter()
            .all(|pipe| pipe.received == TOTAL / STREAMS),
        "{what}: {:?}",
        conn.over
    );
    sim.elapsed() - start
}

/// One transfer each way over a link that is bad from the first packet on.
fn transfer(link: Link, what: &str) -> std::time::Duration {
    let mut sim = Sim::new();
    sim.set_default_link(link);
    let (dialer, listener) = (sim.dialer(), sim.listener());
    // The set-up may fail under loss; that is for the application to repeat.
    let id = (0..5)
        .find_map(|_| {
            let id = sim.dial(dialer, listener, DialPolicy::V2);
            sim.run_until(secs(11), |sim| sim.peer(dialer).is_authenticated(id))
                .then_some(id)
        })
        .expect("one dial of five succeeds");
    echoes(&mut sim, dialer, id, what)
}

#[test]
fn a_mebibyte_each_way_arrives_intact_over_every_mix_of_loss_and_delay() {
    for loss in [0.0, 0.01, 0.05] {
        for rtt in [0, 50, 200] {
            for disorder in [0.0, 0.05] {
                let link = Link {
                    loss,
                    reorder: disorder,
                    duplicate: disorder,
                    ..Link::rtt(ms(rtt))
                };
                let what =
                    format!("loss {loss}, round trip {rtt} ms, {disorder} reordered and repeated");
                let took = transfer(link, &what);
                eprintln!("{what}: {took:?}");
            }
        }
    }
}

#[test]
fn a_mebibyte_each_way_survives_loss_in_bursts_and_jitter() {
    let burst = Burst {
        begin: 0.005,
        end: 0.2,
    };
    let link = Link {
        burst: Some(burst),
        jitter: ms(30),
        ..Link::rtt(ms(40))
    };
    let took = transfer(link, "bursts");
    eprintln!("bursts and jitter: {took:?}");
}

#[test]
fn a_mebibyte_each_way_survives_a_narrow_link_with_a_short_queue() {
    let link = Link {
        bytes_per_second: Some(500_000),
        ..Link::rtt(ms(40))
    };
    let took = transfer(link, "narrow link");
    eprintln!("500 kB/s with a queue of 100 ms: {took:?}");
    assert!(took < secs(12), "{took:?}");
}

#[test]
fn nothing_sent_is_longer_than_the_smallest_path_of_ipv6_carries() {
    let link = Link {
        mtu: 1232,
        ..Link::rtt(ms(20))
    };
    let took = transfer(link, "small packets only");
    assert!(took < secs(3), "{took:?}");
}

#[test]
fn a_bad_link_is_still_used_to_a_good_part() {
    // One per cent of loss on a path of 50 ms: the window of RFC 9260 carries some hundred kilobytes a second.
    let took = transfer(
        Link {
            loss: 0.01,
            ..Link::rtt(ms(50))
        },
        "one per cent",
    );
    assert!(took < secs(15), "{took:?}");
    let took = transfer(
        Link {
            loss: 0.05,
            ..Link::rtt(ms(50))
        },
        "five per cent",
    );
    assert!(took < secs(30), "{took:?}");
}

#[test]
fn the_round_trip_is_measured_right_and_nothing_is_sent_twice_without_need() {
    for rtt in [1, 20, 100, 300] {
        for loss in [0.0, 0.02] {
            let mut sim = Sim::new();
            sim.set_default_link(Link::rtt(ms(rtt)));
            let (dialer, listener) = (sim.dialer(), sim.listener());
            let (id, _) = sim.connect(dialer, listener);
            sim.set_default_link(Link {
                loss,
                ..Link::rtt(ms(rtt))
            });
            echoes(&mut sim, dialer, id, "echo");
            let stats = sim
                .peer(dialer)
                .endpoint
                .path_stats(id)
                .expect("it is there");
            let measured = stats.rtt.expect("it is measured");
            // An acknowledgement may wait for more to acknowledge.
            let patience = if loss > 0.0 { ms(80) } else { ms(25) };
            let most = ms(rtt) * 5 / 4 + patience;
            assert!(
                measured >= ms(rtt) && measured <= most,
                "{measured:?} of {rtt} ms, loss {loss}"
            );
            let again = stats.retransmissions;
            assert_eq!(
                again > 0,
                loss > 0.0,
                "{again} sent again, loss {loss}, round trip {rtt} ms"
            );
            let counted = sim.peer(dialer).counters().retransmissions;
            assert_eq!(counted, again);
        }
    }
}

#[test]
fn short_outages_during_a_transfer_are_made_good() {
    let mut sim = Sim::new();
    sim.set_default_link(Link {
        bytes_per_second: Some(1_000_000),
        ..Link::rtt(ms(40))
    });
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let (id, _) = sim.connect(dialer, listener);
    for _ in 0..STREAMS {
        sim.act(dialer, |peer, now| {
            peer.start(now, id, |stream| Pipe::request(stream, TOTAL))
        })
        .expect("a free id");
    }
    for _ in 0..4 {
        sim.run_for(ms(500));
        sim.set_down(dialer, listener, true);
        sim.run_for(secs(2));
        sim.set_down(dialer, listener, false);
    }
    let count = usize::try_from(STREAMS).unwrap();
    sim.expect("all echoes", secs(60), |sim| {
        sim.peer(dialer).conn(id).over.len() == count
    });
    assert!(sim.peer(dialer).conn(id).over.iter().all(Pipe::is_complete));
}

#[test]
fn an_address_change_during_a_transfer_costs_time_and_no_byte() {
    let mut sim = Sim::new();
    sim.set_default_link(Link {
        bytes_per_second: Some(1_000_000),
        loss: 0.01,
        ..Link::rtt(ms(40))
    });
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let (id, accepted) = sim.connect(dialer, listener);
    for _ in 0..STREAMS {
        sim.act(dialer, |peer, now| {
            peer.start(now, id, |stream| Pipe::request(stream, TOTAL))
        })
        .expect("a free id");
    }
    for _ in 0..3 {
        sim.run_for(ms(700));
        sim.rebind(dialer);
    }
    let count = usize::try_from(STREAMS).unwrap();
    sim.expect("all echoes", secs(120), |sim| {
        sim.peer(dialer).conn(id).over.len() == count
    });
    assert!(sim.peer(dialer).conn(id).over.iter().all(Pipe::is_complete));
    let address = sim.address(dialer);
    let moves = &sim.peer(listener).conn(accepted).moves;
    assert_eq!(moves.last(), Some(&address));
}
