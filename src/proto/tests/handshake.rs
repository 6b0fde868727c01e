//! From a dial to a connection, or to the right reason why there is none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    fingerprint,
    link::Link,
    ms,
    raw::RawPeer,
    secs,
    sim::{Packet, Sim},
};
use crate::proto::{
    CloseReason, Dial, DialPolicy, DropReason, Limits, Phase, Side, credentials::IceVersion,
    fingerprint::Fingerprint, stun,
};

/// The version a check asks for, if the packet is one.
fn version(packet: &Packet) -> Option<IceVersion> {
    let Ok(stun::Message::BindingRequest(request)) = stun::parse(&packet.contents) else {
        return None;
    };
    match request.username()? {
        name if name.starts_with("libp2p+webrtc+v1/") => Some(IceVersion::V1),
        name if name.starts_with("libp2p+webrtc+v2/") => Some(IceVersion::V2),
        _ => None,
    }
}

fn connects_with(
    policy: DialPolicy,
    refused: Option<IceVersion>,
) -> (IceVersion, std::time::Duration) {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(20)));
    let (dialer, listener) = (sim.dialer(), sim.listener());
    sim.set_filter(move |packet| refused.is_none() || version(packet) != refused);
    let id = sim.dial(dialer, listener, policy);
    sim.expect("connection", secs(5), |sim| {
        sim.peer(dialer).is_authenticated(id)
    });
    let took = sim.elapsed();
    sim.run_for(ms(50));
    let (_, print, dialed) = sim.peer(dialer).conn(id).ready.unwrap();
    let accepted = sim.peer(listener).only();
    let (_, other_print, seen) = sim.peer(listener).conn(accepted).ready.unwrap();
    assert_eq!((print, other_print), (fingerprint(), fingerprint()));
    assert_eq!(dialed, seen);
    (dialed.expect("dials have a version"), took)
}

#[test]
fn both_versions_connect_and_both_sides_agree_which() {
    assert_eq!(connects_with(DialPolicy::V1, None).0, IceVersion::V1);
    assert_eq!(connects_with(DialPolicy::V2, None).0, IceVersion::V2);
}

#[test]
fn an_automatic_dial_takes_version_1_at_once_where_it_is_answered() {
    let (version, took) = connects_with(DialPolicy::Auto, None);
    assert_eq!(version, IceVersion::V1);
    assert!(took < ms(300), "{took:?}");
}

#[test]
fn an_automatic_dial_takes_version_2_where_version_1_is_refused() {
    let (version, took) = connects_with(DialPolicy::Auto, Some(IceVersion::V1));
    assert_eq!(version, IceVersion::V2);
    assert!(took < ms(1500), "{took:?}");
}

#[test]
fn an_automatic_dial_reaches_a_peer_that_knows_only_version_1() {
    let (version, _) = connects_with(DialPolicy::Auto, Some(IceVersion::V2));
    assert_eq!(version, IceVersion::V1);
}

#[test]
fn a_version_the_peer_does_not_know_times_out() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    sim.set_filter(|packet| version(packet) != Some(IceVersion::V2));
    let id = sim.dial(dialer, listener, DialPolicy::V2);
    sim.run_for(secs(11));
    assert_eq!(
        sim.peer(dialer).closed(id),
        Some(&CloseReason::HandshakeTimedOut(Phase::Ice))
    );
}

#[test]
fn lost_first_packets_only_cost_time() {
    for lost in 1..=8 {
        let mut sim = Sim::new();
        sim.set_default_link(Link::rtt(ms(20)));
        let (dialer, listener) = (sim.dialer(), sim.listener());
        let mut count = 0;
        sim.set_filter(move |_| {
            count += 1;
            count > lost
        });
        let id = sim.dial(dialer, listener, DialPolicy::V2);
        let limit = secs(8);
        sim.expect("connection", limit, |sim| {
            sim.peer(dialer).is_authenticated(id)
        });
    }
}

#[test]
fn each_single_lost_datagram_of_the_set_up_is_made_good() {
    for lost in 1..=30 {
        let mut sim = Sim::new();
        sim.set_default_link(Link::rtt(ms(20)));
        let (dialer, listener) = (sim.dialer(), sim.listener());
        sim.peer(dialer).noise = true;
        sim.peer(listener).noise = true;
        let mut count = 0;
        sim.set_filter(move |_| {
            count += 1;
            count != lost
        });
        let id = sim.dial(dialer, listener, DialPolicy::V2);
        assert!(
            sim.run_until(secs(5), |sim| {
                sim.peer(dialer).is_authenticated(id)
                    && sim.peer(listener).authenticated().count() == 1
            }),
            "datagram {lost} lost\n{}",
            sim.describe()
        );
    }
}

#[test]
fn a_silent_peer_times_out_after_the_limit() {
    let mut sim = Sim::new();
    let dialer = sim.dialer();
    let dial = Dial {
        remote: SocketAddr::from(([10, 9, 9, 9], 1)),
        policy: DialPolicy::Auto,
        fingerprints: vec![fingerprint()],
    };
    let id = sim.dial_with(dialer, dial);
    sim.run_for(ms(9900));
    assert_eq!(sim.peer(dialer).closed(id), None);
    sim.run_for(ms(200));
    assert_eq!(
        sim.peer(dialer).closed(id),
        Some(&CloseReason::HandshakeTimedOut(Phase::Ice))
    );
    let phase = sim.peer(dialer).phases.pop().unwrap().1;
    assert_eq!(
        (phase.phase, phase.ok, phase.side),
        (Phase::Ice, false, Side::Dialer)
    );
    assert_eq!(
        (
            sim.peer(dialer).endpoint.connections(),
            sim.peer(dialer).endpoint.routes()
        ),
        (0, 0)
    );
    // Checks of both versions, and a ClientHello now and then: no flood towards a host that says nothing.
    assert!(sim.astray.len() < 50, "{} datagrams", sim.astray.len());
}

#[test]
fn a_peer_that_stops_after_the_checks_times_out_in_dtls_on_both_sides() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    // The listener's DTLS never arrives.
    sim.set_filter(|packet| {
        packet.from.port() == 4000
            && (stun::is_stun(&packet.contents) || packet.from.ip() == dialer_ip())
    });
    let id = sim.dial(dialer, listener, DialPolicy::V2);
    sim.run_for(ms(500));
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 1);
    sim.run_for(secs(11));
    assert_eq!(
        sim.peer(dialer).closed(id),
        Some(&CloseReason::HandshakeTimedOut(Phase::Dtls))
    );
    let endpoint = &sim.peer(listener).endpoint;
    assert_eq!(
        (
            endpoint.handshakes(),
            endpoint.connections(),
            endpoint.routes()
        ),
        (0, 0, 0)
    );
}

/// The first host's address.
fn dialer_ip() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))
}

#[test]
fn a_peer_that_is_never_authenticated_times_out_in_noise_on_both_sides() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    sim.peer(dialer).stuck = true;
    sim.peer(listener).stuck = true;
    let id = sim.dial(dialer, listener, DialPolicy::V2);
    sim.run_for(secs(1));
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 1);
    sim.run_for(secs(10));
    let accepted = sim.peer(listener).only();
    let reasons = [
        sim.peer(dialer).closed(id).cloned(),
        sim.peer(listener).closed(accepted).cloned(),
    ];
    // Whoever is first says goodbye to the other.
    let timed_out = CloseReason::HandshakeTimedOut(Phase::Noise);
    assert!(reasons.contains(&Some(timed_out.clone())), "{reasons:?}");
    assert!(
        reasons
            .iter()
            .flatten()
            .all(|reason| *reason == timed_out || *reason == CloseReason::Remote),
        "{reasons:?}"
    );
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 0);
}

#[test]
fn a_wrong_certificate_ends_the_dial_and_the_peer_hears_it() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let dial = Dial {
        remote: sim.address(listener),
        policy: DialPolicy::V2,
        fingerprints: vec![Fingerprint::of_der(b"another certificate")],
    };
    let id = sim.dial_with(dialer, dial);
    sim.run_for(secs(1));
    assert_eq!(
        sim.peer(dialer).closed(id),
        Some(&CloseReason::CertificateMismatch)
    );
    assert!(sim.peer(dialer).conn(id).ready.is_none());
    assert_eq!(sim.peer(dialer).endpoint.connections(), 0);
    sim.run_for(secs(11));
    assert_eq!(sim.peer(listener).endpoint.connections(), 0);
    assert_eq!(sim.peer(listener).authenticated().count(), 0);
}

#[test]
fn any_of_several_certificates_in_the_address_will_do() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let dial = Dial {
        remote: sim.address(listener),
        policy: DialPolicy::V2,
        fingerprints: vec![Fingerprint::of_der(b"the old certificate"), fingerprint()],
    };
    let id = sim.dial_with(dialer, dial);
    sim.expect("connection", secs(1), |sim| {
        sim.peer(dialer).is_authenticated(id)
    });
}

#[test]
fn an_icmp_answer_refuses_a_dial_but_not_a_connection() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(20)));
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let remote = sim.address(listener);
    let refused = sim.dial(dialer, listener, DialPolicy::V2);
    sim.act(dialer, |peer, now| {
        peer.endpoint.handle_unreachable(now, remote)
    });
    assert_eq!(
        sim.peer(dialer).closed(refused),
        Some(&CloseReason::Refused)
    );
    sim.run_for(secs(1));

    let (id, _) = sim.connect(dialer, listener);
    sim.act(dialer, |peer, now| {
        peer.endpoint.handle_unreachable(now, remote)
    });
    sim.run_for(secs(10));
    assert!(sim.peer(dialer).is_authenticated(id), "ICMP can be forged");
}

#[test]
fn a_second_dial_to_the_same_address_is_refused_while_the_first_lives() {
    let mut sim = Sim::new();
    let (dialer, listener) = (sim.dialer(), sim.listener());
    let first = sim.dial(dialer, listener, DialPolicy::V2);
    let second = sim.dial(dialer, listener, DialPolicy::V2);
    assert_eq!(
        sim.peer(dialer).closed(second),
        Some(&CloseReason::AddressInUse)
    );
    sim.expect("connection", secs(1), |sim| {
        sim.peer(dialer).is_authenticated(first)
    });
    let third = sim.dial(dialer, listener, DialPolicy::V2);
    assert_eq!(
        sim.peer(dialer).closed(third),
        Some(&CloseReason::AddressInUse)
    );
    assert!(sim.peer(dialer).is_authenticated(first));
}

#[test]
fn two_listeners_that_dial_each_other_get_one_connection_or_two_but_never_none() {
    for later in [0, 1, 5, 9, 10, 11, 15, 20, 25, 30, 45, 60, 200] {
        for policy in [DialPolicy::V1, DialPolicy::V2, DialPolicy::Auto] {
            let mut sim = Sim::new();
            sim.set_default_link(Link::rtt(ms(20)));
            let (a, b) = (sim.listener(), sim.listener());
            let from_a = sim.dial(a, b, policy);
            sim.run_for(ms(later));
            let from_b = sim.dial(b, a, policy);
            sim.run_for(secs(12));
            let outcomes = [
                sim.peer(a).closed(from_a).cloned(),
                sim.peer(b).closed(from_b).cloned(),
            ];
            let up = [
                sim.peer(a).authenticated().count(),
                sim.peer(b).authenticated().count(),
            ];
            assert!(
                up[0] >= 1 && up[0] == up[1],
                "{up:?} connections, {outcomes:?}, the second {later} ms later"
            );
        }
    }
}

#[test]
fn connections_are_capped_on_both_sides() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_connections: 2,
        ..Limits::default()
    };
    let listener = sim.add_peer(limits.clone(), true);
    for _ in 0..2 {
        let dialer = sim.dialer();
        sim.connect(dialer, listener);
    }
    let late = sim.dialer();
    let id = sim.dial(late, listener, DialPolicy::V2);
    sim.run_for(secs(11));
    assert!(sim.peer(late).closed(id).is_some());
    assert!(sim.peer(listener).dropped(DropReason::TooManyConnections) > 0);
    assert_eq!(sim.peer(listener).endpoint.connections(), 2);

    let dialer = sim.add_peer(limits, false);
    let ids: Vec<_> = (0..3)
        .map(|_| {
            let listener = sim.listener();
            sim.dial(dialer, listener, DialPolicy::V2)
        })
        .collect();
    sim.run_for(secs(1));
    let up = ids
        .iter()
        .filter(|id| sim.peer(dialer).is_authenticated(**id))
        .count();
    assert_eq!(up, 2);
    assert!(sim.peer(dialer).closed(ids[2]).is_some());
}

#[test]
fn a_hand_made_dialer_of_either_version_connects() {
    let v1 = "libp2p+webrtc+v1/0123456789abcdef0123456789abcdef";
    for (server, client) in [
        (v1, v1),
        ("libp2p+webrtc+v2/passwordpasswordpassword", "abcd"),
    ] {
        let mut sim = Sim::new();
        let listener = sim.listener();
        let raw = RawPeer::new(sim.now(), sim.address(listener), server, client);
        let raw = sim.add_raw(raw);
        sim.expect("connection", secs(1), |sim| {
            sim.raw(raw).connected && sim.peer(listener).authenticated().count() == 1
        });
    }
}

#[test]
fn an_endpoint_that_does_not_listen_says_nothing() {
    let mut sim = Sim::new();
    let (a, b) = (sim.dialer(), sim.dialer());
    let id = sim.dial(a, b, DialPolicy::V2);
    sim.run_for(secs(11));
    assert_eq!(
        sim.peer(a).closed(id),
        Some(&CloseReason::HandshakeTimedOut(Phase::Ice))
    );
    assert!(sim.peer(b).dropped(DropReason::NotListening) > 0);
    assert_eq!(sim.peer(b).counters().datagrams_sent, 0);

    // Once it listens it does.
    sim.act(b, |peer, _| peer.endpoint.set_accept_incoming(true));
    sim.connect(a, b);
    sim.act(b, |peer, _| peer.endpoint.set_accept_incoming(false));
    sim.run_for(secs(40));
    assert_eq!(
        sim.peer(b).authenticated().count(),
        1,
        "live connections stay when listening ends"
    );
}

#[test]
fn a_punch_is_one_small_datagram_of_no_protocol() {
    let mut sim = Sim::new();
    let (a, b) = (sim.listener(), sim.listener());
    let remote = sim.address(b);
    sim.act(a, |peer, now| peer.endpoint.punch(now, remote));
    sim.run_for(ms(1));
    assert_eq!(sim.peer(b).dropped(DropReason::Unclassified), 1);
    assert_eq!(
        sim.peer(a).endpoint.connections() + sim.peer(b).endpoint.connections(),
        0
    );
}
