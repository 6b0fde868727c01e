use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use super::{
    AddressFilter, CandidateUse, Credentials, MAX_REMOTE_UFRAG_LEN,
    agent::{Check, Generation, Local, MAX_PORTS},
};
use crate::proto::{
    candidate::{Candidate, CandidateKind},
    sdp::MAX_CANDIDATES,
    stun::{self, Message},
};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn host(text: &str) -> Local {
    Local {
        kind: CandidateKind::Host,
        address: address(text),
        base: address(text),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for virtual time"
)]
fn start() -> Instant {
    Instant::now()
}

/// Two generations that know each other, with a host candidate each.
fn pair(controlling: [bool; 2]) -> ([Generation; 2], Instant) {
    let now = start();
    let mut rng = StdRng::seed_from_u64(7);
    let mut make = |index: usize| {
        let credentials = Credentials::generate(&mut rng);
        Generation::new(0, credentials, controlling[index], index as u64 + 1, now)
    };
    let mut ends = [make(0), make(1)];
    let told = [
        ends[0].add_local(host("10.0.0.1:4000")).unwrap(),
        ends[1].add_local(host("10.0.0.2:4000")).unwrap(),
    ];
    let credentials = [ends[0].local().clone(), ends[1].local().clone()];
    for (end, other) in [(0, 1), (1, 0)] {
        ends[end].set_remote(now, credentials[other].clone(), AddressFilter::ALL);
        let used = ends[end].add_remote(&told[other], AddressFilter::ALL);
        assert_eq!(used, CandidateUse::Taken);
    }
    (ends, now)
}

/// Carries checks and answers for a while.
fn exchange(ends: &mut [Generation; 2], mut now: Instant, time: Duration) {
    let until = now + time;
    while now < until {
        for from in [0, 1] {
            while let Some(Check {
                source,
                destination,
                datagram,
                ..
            }) = ends[from].poll_check()
            {
                let to = &mut ends[1 - from];
                match stun::parse(&datagram).unwrap() {
                    Message::BindingRequest(request) => {
                        assert!(to.owns(&request));
                        to.on_request(now, destination, source, &request);
                    }
                    Message::BindingSuccess(response) | Message::BindingError(response) => {
                        to.on_response(now, destination, source, &response);
                    }
                    Message::Other => panic!("nothing else is sent"),
                }
            }
        }
        now += Duration::from_millis(20);
        ends[0].handle_timeout(now);
        ends[1].handle_timeout(now);
    }
}

#[test]
fn two_ends_agree_on_a_path() {
    let (mut ends, now) = pair([true, false]);
    exchange(&mut ends, now, Duration::from_millis(200));
    let here = (address("10.0.0.1:4000"), address("10.0.0.2:4000"));
    assert_eq!(ends[0].selected(), Some(here));
    assert_eq!(ends[1].selected(), Some((here.1, here.0)));
}

#[test]
fn two_ends_agree_on_a_path_of_ipv6_where_they_have_both() {
    let (mut ends, now) = pair([true, false]);
    for (end, text) in [(0, "[2001:db8::1]:4000"), (1, "[2001:db8::2]:4000")] {
        let told = ends[end].add_local(host(text)).unwrap();
        let used = ends[1 - end].add_remote(&told, AddressFilter::ALL);
        assert_eq!(used, CandidateUse::Taken);
    }
    exchange(&mut ends, now, Duration::from_secs(1));
    let here = (address("[2001:db8::1]:4000"), address("[2001:db8::2]:4000"));
    assert_eq!(ends[0].selected(), Some(here));
    assert_eq!(ends[1].selected(), Some((here.1, here.0)));
}

#[test]
fn candidates_of_ours_that_come_late_make_no_more_pairs_than_there_may_be() {
    let (mut ends, _) = pair([true, false]);
    for last in 1..MAX_CANDIDATES {
        let text = format!("candidate:1 1 udp 1 10.1.0.{last} 4000 typ host");
        let used = ends[0].add_remote(&Candidate::parse(&text).unwrap(), AddressFilter::ALL);
        assert_eq!(used, CandidateUse::Taken);
    }
    let late = (1..9).filter_map(|last| ends[0].add_local(host(&format!("10.0.1.{last}:4000"))));
    // Two of ours and 64 of the peer's are 128 pairs.
    assert_eq!(late.count(), 1);
}

#[test]
fn a_role_conflict_is_settled_either_way() {
    for both in [true, false] {
        let (mut ends, now) = pair([both, both]);
        exchange(&mut ends, now, Duration::from_secs(2));
        let [first, second] = &ends;
        assert_ne!(first.is_controlling(), second.is_controlling());
        assert!(first.selected().is_some() && second.selected().is_some());
    }
}

#[test]
fn a_reply_with_a_wrong_key_or_from_nowhere_is_not_believed() {
    let (mut ends, now) = pair([true, false]);
    ends[0].handle_timeout(now + Duration::from_millis(20));
    let check = ends[0].poll_check().unwrap();
    let Ok(Message::BindingRequest(request)) = stun::parse(&check.datagram) else {
        panic!("a check is a request")
    };
    let mut forged = Vec::new();
    stun::encode_binding_success(
        request.transaction_id(),
        check.source,
        b"wrong",
        &mut forged,
    );
    let Ok(Message::BindingSuccess(response)) = stun::parse(&forged) else {
        panic!("an answer")
    };
    assert!(!ends[0].on_response(now, check.source, check.destination, &response));
    assert_eq!(ends[0].selected(), None);
}

#[test]
fn candidates_that_are_of_no_use_are_ignored_and_names_are_given_back() {
    let (mut ends, _) = pair([true, false]);
    let mut add = |text: &str| {
        let candidate = Candidate::parse(&format!("candidate:{text}")).unwrap();
        ends[0].add_remote(&candidate, AddressFilter::ALL)
    };
    for useless in [
        "1 2 udp 1 10.0.0.3 4000 typ host",
        "1 1 tcp 1 10.0.0.3 9 typ host tcptype active",
        "1 1 udp 1 10.0.0.3 0 typ host",
        "1 1 udp 1 0.0.0.0 4000 typ host",
        "1 1 udp 1 255.255.255.255 4000 typ host",
        "1 1 udp 1 ff02::1 4000 typ host",
        "1 1 udp 1 10.0.0.3 4000 typ host ufrag another",
    ] {
        assert_eq!(add(useless), CandidateUse::Ignored, "{useless}");
    }
    assert_eq!(
        add("1 1 udp 1 a-name.local 4000 typ host"),
        CandidateUse::Name("a-name.local".to_owned())
    );
}

#[test]
fn the_filter_keeps_checks_away_from_where_they_must_not_go() {
    let strict = AddressFilter {
        loopback: false,
        private: false,
        link_local: false,
    };
    for (text, kind) in [
        ("127.0.0.1:1", "loopback"),
        ("[::1]:1", "loopback"),
        ("[::ffff:127.0.0.1]:1", "loopback"),
        ("10.0.0.1:1", "private"),
        ("192.168.1.1:1", "private"),
        ("100.64.0.1:1", "private"),
        ("[fd00::1]:1", "private"),
        ("169.254.169.254:1", "link-local"),
        ("[fe80::1]:1", "link-local"),
    ] {
        assert!(!strict.allows(address(text)), "{text} is {kind}");
        assert!(AddressFilter::ALL.allows(address(text)), "{text}");
    }
    assert!(strict.allows(address("198.51.100.1:1")));
    assert!(strict.allows(address("[2001:db8::1]:1")));
}

#[test]
fn the_longest_ufrag_of_a_peer_is_checked_like_any_other() {
    let now = start();
    let mut rng = StdRng::seed_from_u64(7);
    let credentials = Credentials::generate(&mut rng);
    let mut end = Generation::new(0, credentials.clone(), true, 1, now);
    end.add_local(host("10.0.0.1:4000")).unwrap();
    let remote = Credentials {
        ufrag: "a".repeat(MAX_REMOTE_UFRAG_LEN),
        ..credentials
    };
    end.set_remote(now, remote.clone(), AddressFilter::ALL);
    let candidate = Candidate::parse("candidate:1 1 udp 1 10.0.0.2 4000 typ host").unwrap();
    end.add_remote(&candidate, AddressFilter::ALL);
    end.handle_timeout(now + Duration::from_secs(1));
    let check = end.poll_check().expect("the candidate is checked");
    let Message::BindingRequest(request) = stun::parse(&check.datagram).unwrap() else {
        panic!("it is a request");
    };
    let (theirs, _) = request.username().unwrap().split_once(':').unwrap();
    assert_eq!(theirs, remote.ufrag);
}

#[test]
fn few_ports_of_one_address_are_tried() {
    let ([mut end, _], _) = pair([true, false]);
    let used = |end: &mut Generation, ip: &str| {
        (1..=64)
            .filter(|port| {
                let text = format!("candidate:1 1 udp 1 {ip} {port} typ host");
                let candidate = Candidate::parse(&text).unwrap();
                end.add_remote(&candidate, AddressFilter::ALL) == CandidateUse::Taken
            })
            .count()
    };
    assert_eq!(used(&mut end, "192.0.2.1"), MAX_PORTS);
    assert_eq!(used(&mut end, "192.0.2.2"), MAX_PORTS);
}
