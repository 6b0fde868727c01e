//! How long it takes: round trips from a dial to a connection.

use super::{link::Link, ms, secs, sim::Sim};
use crate::proto::{DialPolicy, Phase, credentials::IceVersion};

/// The round trip of these tests: long against everything else.
const RTT: u64 = 100;

/// Round trips from the dial to the authenticated connection at the dialer, and how many each phase took.
fn round_trips(policy: DialPolicy, jitter: bool) -> (f64, Vec<(Phase, f64)>) {
    let mut sim = Sim::new();
    let mut link = Link::rtt(ms(RTT));
    if jitter {
        link.reorder = 0.2;
    }
    sim.set_default_link(link);
    let (dialer, listener) = (sim.dialer(), sim.listener());
    sim.peer(dialer).noise = true;
    sim.peer(listener).noise = true;
    let id = sim.dial(dialer, listener, policy);
    sim.expect("connection", secs(5), |sim| {
        sim.peer(dialer).is_authenticated(id)
    });
    let in_round_trips = |time: std::time::Duration| time.as_secs_f64() * 1000.0 / RTT as f64;
    let total = in_round_trips(sim.elapsed());
    let phases = sim.peer(dialer).phases.iter();
    (
        total,
        phases
            .map(|(_, phase)| (phase.phase, in_round_trips(phase.duration)))
            .collect(),
    )
}

#[test]
fn a_dial_takes_at_most_six_round_trips() {
    for policy in [DialPolicy::V1, DialPolicy::V2, DialPolicy::Auto] {
        let (total, phases) = round_trips(policy, false);
        eprintln!("{policy:?}: {total:.1} round trips: {phases:.1?}");
        assert!(total <= 6.0, "{policy:?}: {total} round trips: {phases:?}");
        assert_eq!(
            phases.iter().map(|(phase, _)| *phase).collect::<Vec<_>>(),
            [Phase::Ice, Phase::Dtls, Phase::Sctp, Phase::Noise]
        );
    }
}

#[test]
fn the_answer_to_the_first_check_brings_the_first_dtls_flight_with_it() {
    let (_, phases) = round_trips(DialPolicy::V2, false);
    assert_eq!(phases[0].1.round(), 1.0, "{phases:?}");
    assert!(phases[1].1 <= 1.1, "DTLS waits for nothing: {phases:?}");
}

#[test]
fn datagrams_out_of_order_cost_little() {
    for _ in 0..20 {
        let (total, phases) = round_trips(DialPolicy::V2, true);
        assert!(total <= 7.5, "{total} round trips: {phases:?}");
    }
}

#[test]
fn data_of_a_new_stream_arrives_half_a_round_trip_after_it_was_opened() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(RTT)));
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let (id, _) = sim.connect(dialer, listener);
    assert_eq!(
        sim.peer(dialer).conn(id).ready.unwrap().2,
        Some(IceVersion::V2)
    );
    sim.run_for(secs(1));
    let before = sim.elapsed();
    let channel = sim
        .act(dialer, |peer, now| {
            peer.start(now, id, |stream| {
                super::pipe::Pipe::request(stream, 1000).without_end()
            })
        })
        .unwrap();
    sim.expect("echo", secs(1), |sim| {
        sim.peer(dialer).pipe(id, channel).received == 1000
    });
    assert_eq!(
        sim.elapsed() - before,
        ms(RTT),
        "an echo takes exactly one round trip"
    );
}
