//! What strangers get out of a listener: nothing, unless they keep to every rule.

use std::net::SocketAddr;

use super::{
    raw::{RawPeer, check, valid_check},
    secs,
    sim::{Node, Sim, client_hello},
};
use crate::proto::{
    DropReason, Limits,
    stun::{self, IceRole, Message},
};

const V1: &str = "libp2p+webrtc+v1/";
const V2: &str = "libp2p+webrtc+v2/";

/// An address that no host has.
fn stranger(number: u32) -> SocketAddr {
    let [.., a, b, c] = number.to_be_bytes();
    SocketAddr::from(([172, 16 + (a & 15), b, c], 9))
}

/// Asserts that the listener kept and said nothing, and counted `count` drops for this reason only.
#[track_caller]
fn assert_untouched(sim: &mut Sim, listener: Node, reason: DropReason, count: u64, what: &str) {
    let peer = sim.peer(listener);
    let counters = peer.counters();
    assert_eq!(
        counters.dropped[reason as usize], count,
        "{what}: {reason:?}"
    );
    assert_eq!(
        counters.dropped.iter().sum::<u64>(),
        count,
        "{what}: {:?}",
        counters.dropped
    );
    assert_eq!(counters.datagrams_sent, 0, "{what}: answered");
    assert_eq!(
        (peer.endpoint.connections(), peer.endpoint.routes()),
        (0, 0),
        "{what}: kept"
    );
    assert_eq!(peer.endpoint.poll_timeout(), None, "{what}: has a timer");
}

fn rejects(username: &str) {
    let mut sim = Sim::new();
    let listener = sim.listener();
    // The key is right for every reading of the name, so that only the name can be the reason.
    let key = username
        .split_once(':')
        .map_or(username, |(server, _)| server);
    let datagram = check(username, key, IceRole::Controlling(1), 1);
    sim.inject(stranger(1), listener, &datagram);
    assert_untouched(&mut sim, listener, DropReason::BadUsername, 1, username);
    // And it vouches for nothing.
    sim.inject(stranger(1), listener, &client_hello());
    assert_eq!(
        sim.peer(listener).dropped(DropReason::UncheckedAddress),
        1,
        "{username:?}"
    );
    assert_eq!(sim.peer(listener).endpoint.connections(), 0, "{username:?}");
}

fn accepts(username: &str) {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let key = username
        .split_once(':')
        .expect("a valid name has two halves")
        .0;
    sim.inject(
        stranger(1),
        listener,
        &check(username, key, IceRole::Controlling(1), 1),
    );
    assert_eq!(sim.astray.len(), 1, "no answer to {username:?}");
    assert_eq!(
        sim.peer(listener).endpoint.routes(),
        0,
        "{username:?} leaves no route behind"
    );
    sim.inject(stranger(1), listener, &client_hello());
    assert_eq!(sim.peer(listener).endpoint.connections(), 1, "{username:?}");
}

#[test]
fn every_row_of_the_reject_table_is_silent_and_leaves_nothing() {
    let password = "0123456789abcdefABCDEF";
    let long = "x".repeat(257);
    let rows = [
        String::new(),
        ":".into(),
        format!("{V2}{password}"),
        format!("{V2}{password}:"),
        format!(":{V2}{password}"),
        format!("{V2}{password}:abc"),
        format!("abc:{V2}{password}"),
        format!("{V2}{password}:{long}"),
        format!("{V2}{}:abcd", "x".repeat(240)),
        format!("{V2}{}:abcd", "x".repeat(21)),
        format!("{V1}abc:{V1}abc"),
        format!("{V1}{password}:abcd"),
        format!("{V1}{password}:{V1}{password}x"),
        format!("{V1}{password}:{V2}{password}"),
        format!("libp2p+webrtc+v3/{password}:abcd"),
        format!("libp2p+webrtc+{password}:abcd"),
        format!("LIBP2P+WEBRTC+V2/{password}:abcd"),
        format!("{password}{password}:{password}{password}"),
        "abcd:efgh".into(),
        format!(
            "{}{password}:{}{password}",
            "\0".repeat(17),
            "\0".repeat(17)
        ),
        format!("{V2}{password}:ab:cd"),
        format!("{V2}{password}:abcd\r\na=candidate:1 1 udp 1 10.0.0.1 1 typ host"),
        format!("{V2}{password}\r\na=candidate:abcd"),
    ];
    for row in rows {
        rejects(&row);
    }
    for forbidden in [' ', '\t', '\r', '\n', '%', '=', '#', '-', '_', 'é', '\0'] {
        rejects(&format!("{V2}{password}{forbidden}:abcd"));
        rejects(&format!("{V2}{password}:abcd{forbidden}"));
        rejects(&format!(
            "{V1}{password}{forbidden}:{V1}{password}{forbidden}"
        ));
    }
}

#[test]
fn the_rows_next_to_the_reject_table_are_answered() {
    let password = "0123456789abcdefABCD+/";
    accepts(&format!("{V2}{password}:abcd"));
    accepts(&format!("{V2}{password}:{}", "x".repeat(256)));
    accepts(&format!("{V2}{}:abcd", "x".repeat(239)));
    accepts(&format!("{V1}{password}:{V1}{password}"));
    accepts(&format!("{V1}hello:{V1}hello"));
    accepts(&format!("{V1}{}:{V1}{}", "x".repeat(239), "x".repeat(239)));
}

#[test]
fn a_check_without_username_or_integrity_or_with_another_key_is_dropped() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let bare = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[5; 12]].concat();
    sim.inject(stranger(1), listener, &bare);
    assert_untouched(
        &mut sim,
        listener,
        DropReason::BadUsername,
        1,
        "no USERNAME",
    );

    let mut sim = Sim::new();
    let listener = sim.listener();
    let username = format!("{V2}0123456789abcdefABCDEF:abcd");
    for key in ["", "abcd", "0123456789abcdefABCDEF", &username] {
        sim.inject(
            stranger(1),
            listener,
            &check(&username, key, IceRole::Controlling(1), 1),
        );
    }
    assert_untouched(&mut sim, listener, DropReason::BadIntegrity, 4, "wrong key");

    let mut sim = Sim::new();
    let listener = sim.listener();
    let mut unsigned = vec![
        0,
        1,
        0,
        4 + u8::try_from(username.len().next_multiple_of(4)).unwrap(),
    ];
    unsigned.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    unsigned.extend_from_slice(&[5; 12]);
    unsigned.extend_from_slice(&[0, 6, 0, u8::try_from(username.len()).unwrap()]);
    unsigned.extend_from_slice(username.as_bytes());
    unsigned.resize(unsigned.len().next_multiple_of(4), 0);
    sim.inject(stranger(1), listener, &unsigned);
    assert_untouched(
        &mut sim,
        listener,
        DropReason::BadIntegrity,
        1,
        "no MESSAGE-INTEGRITY",
    );
}

#[test]
fn a_peer_that_claims_the_controlled_role_gets_no_answer() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let server = format!("{V2}0123456789abcdefABCDEF");
    let username = format!("{server}:abcd");
    sim.inject(
        stranger(1),
        listener,
        &check(&username, &server, IceRole::Controlled(u64::MAX), 1),
    );
    assert_untouched(
        &mut sim,
        listener,
        DropReason::RoleConflict,
        1,
        "ICE-CONTROLLED",
    );
}

#[test]
fn nonsense_is_counted_by_kind_and_dropped() {
    let check = valid_check("");
    let cut = &check[..check.len() - 4];
    let mut bad_fingerprint = check.clone();
    *bad_fingerprint.last_mut().unwrap() ^= 1;
    let mut indication = check.clone();
    indication[1] = 0x11;
    let mut response = Vec::new();
    let id = stun::TransactionId([1; 12]);
    stun::encode_binding_success(id, stranger(2), b"key", &mut response);
    let rows: [(&[u8], DropReason); 9] = [
        (&[], DropReason::Unclassified),
        (&[0; 40], DropReason::Unclassified),
        (&[100; 40], DropReason::Unclassified),
        (&[200; 1200], DropReason::Unclassified),
        (cut, DropReason::MalformedStun),
        (&bad_fingerprint, DropReason::MalformedStun),
        (&indication, DropReason::UnexpectedStun),
        (&response, DropReason::UnexpectedStun),
        (&[23; 100], DropReason::UncheckedAddress),
    ];
    for (datagram, reason) in rows {
        let mut sim = Sim::new();
        let listener = sim.listener();
        sim.inject(stranger(1), listener, datagram);
        assert_untouched(&mut sim, listener, reason, 1, &format!("{datagram:?}"));
    }
}

#[test]
fn dtls_is_only_taken_from_a_checked_address_and_only_a_client_hello_at_first() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let hello = client_hello();
    sim.inject(stranger(1), listener, &hello);
    assert_untouched(
        &mut sim,
        listener,
        DropReason::UncheckedAddress,
        1,
        "no check",
    );

    // The check of one port vouches for no other.
    sim.inject(stranger(2), listener, &valid_check(""));
    let mut neighbour = stranger(2);
    neighbour.set_port(10);
    sim.inject(neighbour, listener, &hello);
    assert_eq!(sim.peer(listener).dropped(DropReason::UncheckedAddress), 2);

    let mut server_hello = hello.clone();
    server_hello[13] = 2;
    let mut next_epoch = hello.clone();
    next_epoch[4] = 1;
    for other in [
        &server_hello[..],
        &next_epoch,
        &[21, 254, 253],
        &[23; 60],
        &[20; 14],
    ] {
        sim.inject(stranger(2), listener, other);
    }
    assert_eq!(sim.peer(listener).dropped(DropReason::NotClientHello), 5);
    assert_eq!(
        (
            sim.peer(listener).endpoint.connections(),
            sim.peer(listener).endpoint.routes()
        ),
        (0, 0)
    );

    sim.inject(stranger(2), listener, &hello);
    assert_eq!(sim.peer(listener).endpoint.connections(), 1);
}

#[test]
fn a_check_vouches_for_its_address_for_half_a_minute_and_for_one_client_hello() {
    let hello = client_hello();
    let mut sim = Sim::new();
    let listener = sim.listener();
    sim.inject(stranger(1), listener, &valid_check("a"));
    sim.inject(stranger(2), listener, &valid_check("b"));
    sim.run_for(secs(25));
    sim.inject(stranger(1), listener, &hello);
    assert_eq!(sim.peer(listener).endpoint.connections(), 1);
    sim.run_for(secs(11));
    assert_eq!(
        sim.peer(listener).endpoint.connections(),
        0,
        "the handshake went nowhere"
    );
    for number in [1, 2] {
        sim.inject(stranger(number), listener, &hello);
    }
    assert_eq!(sim.peer(listener).endpoint.connections(), 0);
    assert_eq!(sim.peer(listener).dropped(DropReason::UncheckedAddress), 2);
}

#[test]
fn the_answer_to_a_check_goes_back_where_it_came_from_and_names_the_source() {
    for remote in ["172.16.0.9:77", "[2001:db8::9]:77"] {
        let mut sim = Sim::new();
        let listener = sim.listener();
        let remote: SocketAddr = remote.parse().unwrap();
        sim.inject(remote, listener, &valid_check(""));
        let answer = sim.astray.pop().expect("an answer");
        assert_eq!(answer.to, remote);
        let Ok(Message::BindingSuccess(response)) = stun::parse(&answer.contents) else {
            panic!("no success response")
        };
        assert_eq!(response.mapped_address(), Some(remote));
        assert!(response.verify(format!("{V2}passwordpasswordpassword").as_bytes()));
        assert!(
            answer.contents.len() <= valid_check("").len(),
            "an answer is no longer than its request"
        );
    }
}

#[test]
fn a_check_that_nominates_nothing_is_checked_back() {
    let (server, client) = (format!("{V2}passwordpasswordpassword"), "clientclient");
    let mut sim = Sim::new();
    let listener = sim.listener();
    let mut full_agent = Vec::new();
    stun::encode_binding_request(
        &stun::RequestParams {
            transaction_id: stun::TransactionId([7; 12]),
            username: &format!("{server}:{client}"),
            key: server.as_bytes(),
            role: IceRole::Controlling(1),
            priority: 1,
            use_candidate: false,
        },
        &mut full_agent,
    );
    sim.inject(stranger(1), listener, &full_agent);
    let check = sim
        .astray
        .pop()
        .expect("a check behind the answer")
        .contents;
    let answer = sim.astray.pop().expect("an answer").contents;
    assert!(matches!(
        stun::parse(&answer),
        Ok(Message::BindingSuccess(_))
    ));
    let Ok(Message::BindingRequest(request)) = stun::parse(&check) else {
        panic!("no request")
    };
    assert_eq!(request.username(), Some(&*format!("{client}:{server}")));
    assert!(request.verify(b"passwordpasswordpassword"));
    assert!(!request.use_candidate(), "the peer nominates");
    assert!(matches!(request.role(), Some(IceRole::Controlled(_))));
    assert!(answer.len() + check.len() <= 2 * full_agent.len());

    sim.inject(stranger(1), listener, &full_agent);
    assert_eq!(sim.astray.len(), 1, "once, and then only answered");
    sim.astray.clear();

    // What comes back is expected, and nothing was kept.
    let mut response = Vec::new();
    let id = request.transaction_id();
    stun::encode_binding_success(id, stranger(1), b"any", &mut response);
    sim.inject(stranger(1), listener, &response);
    let peer = sim.peer(listener);
    assert_eq!(peer.counters().dropped.iter().sum::<u64>(), 0);
    assert_eq!(
        (peer.endpoint.connections(), peer.endpoint.routes()),
        (0, 0)
    );
}

#[test]
fn a_flood_of_valid_checks_is_answered_and_keeps_a_table_of_fixed_size() {
    let checks = u32::try_from(super::scaled(30_000, 100_000, "checks")).unwrap();
    let kept = 2_000;
    let mut sim = Sim::new();
    let limits = Limits {
        max_checked_addresses: kept,
        ..Limits::default()
    };
    let listener = sim.add_peer(limits, true);
    let check = valid_check("");
    for number in 0..checks {
        sim.inject(stranger(number), listener, &check);
        assert_eq!(sim.astray.len(), 1, "check {number} was answered once");
        sim.astray.clear();
    }
    let peer = sim.peer(listener);
    assert_eq!(
        (
            peer.endpoint.connections(),
            peer.endpoint.routes(),
            peer.endpoint.handshakes()
        ),
        (0, 0, 0)
    );
    assert_eq!(peer.endpoint.poll_timeout(), None);
    // What is kept shows in whose ClientHello is taken: the last ones', nobody else's.
    let begins = |sim: &mut Sim, number: u32| {
        let before = sim.peer(listener).endpoint.connections();
        sim.inject(stranger(number), listener, &client_hello());
        sim.peer(listener).endpoint.connections() > before
    };
    let kept = u32::try_from(kept).unwrap();
    assert!(
        !begins(&mut sim, 0)
            && !begins(&mut sim, checks / 2)
            && !begins(&mut sim, checks - kept - 1)
    );
    assert!(begins(&mut sim, checks - kept + 1) && begins(&mut sim, checks - 1));
}

#[test]
fn checks_from_five_addresses_make_one_connection() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let raw = RawPeer::v2(sim.now(), sim.address(listener));
    for number in 0..4 {
        sim.inject(stranger(number), listener, &valid_check(""));
    }
    let raw = sim.add_raw(raw);
    sim.expect("connection", secs(1), |sim| sim.raw(raw).connected);
    for number in 0..4 {
        sim.inject(stranger(number), listener, &valid_check(""));
    }
    assert_eq!(sim.peer(listener).endpoint.connections(), 1);
    assert_eq!(
        sim.peer(listener).endpoint.routes(),
        5 + 1,
        "five addresses and the credentials"
    );
    // A ClientHello from such an address is the same peer's, not another connection.
    sim.inject(stranger(1), listener, &client_hello());
    assert_eq!(sim.peer(listener).endpoint.connections(), 1);
    sim.run_for(secs(60));
    assert_eq!(
        sim.peer(listener).authenticated().count(),
        1,
        "{}",
        sim.describe()
    );
}

#[test]
fn the_33rd_address_of_a_connection_is_refused_and_the_others_stay() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let raw = RawPeer::v2(sim.now(), sim.address(listener));
    let raw = sim.add_raw(raw);
    sim.expect("connection", secs(1), |sim| sim.raw(raw).connected);
    for number in 1..=40 {
        sim.astray.clear();
        sim.inject(stranger(number), listener, &valid_check(""));
        assert_eq!(
            sim.astray.len(),
            usize::from(number <= 31),
            "address {number}"
        );
    }
    assert_eq!(sim.peer(listener).dropped(DropReason::TooManyAddresses), 9);
    assert_eq!(sim.peer(listener).endpoint.routes(), 32 + 1);
    sim.inject(stranger(1), listener, &valid_check(""));
    assert_eq!(sim.peer(listener).endpoint.connections(), 1);
}

#[test]
fn an_address_of_one_connection_cannot_take_part_in_another() {
    let mut sim = Sim::new();
    let listener = sim.listener();
    let peers: Vec<_> = ["one", "two"]
        .iter()
        .map(|name| {
            let server = format!("{V2}passwordpasswordpassword{name}");
            let raw = RawPeer::new(
                sim.now(),
                sim.address(listener),
                &server,
                &format!("ufrag{name}"),
            );
            sim.add_raw(raw)
        })
        .collect();
    sim.expect("connections", secs(1), |sim| {
        sim.peer(listener).authenticated().count() == 2
    });
    let sent = sim.peer(listener).counters().datagrams_sent;
    let first = sim.address(peers[0]);
    sim.inject(first, listener, &valid_check("two"));
    assert_eq!(sim.peer(listener).dropped(DropReason::ForeignUsername), 1);
    assert_eq!(sim.peer(listener).counters().datagrams_sent, sent);
}

#[test]
fn a_spoofed_address_gets_at_most_three_times_what_was_sent_in_its_name() {
    let hello = client_hello();
    for extra in [0, 1, 5] {
        let mut sim = Sim::new();
        let listener = sim.listener();
        let victim = stranger(1);
        let mut sent = 0;
        for datagram in [&valid_check("")[..], &hello] {
            sim.inject(victim, listener, datagram);
            sent += datagram.len();
        }
        for _ in 0..extra {
            sim.inject(victim, listener, &hello);
            sent += hello.len();
        }
        sim.run_for(secs(30));
        let received: usize = sim
            .astray
            .iter()
            .filter(|packet| packet.to == victim)
            .map(|packet| packet.contents.len())
            .sum();
        assert!(
            received > 0 && received <= 3 * sent,
            "{received} bytes for {sent}"
        );
        assert!(
            sim.peer(listener).dropped(DropReason::Amplification) > 0,
            "the flight was repeated without budget"
        );
        assert_eq!(sim.peer(listener).endpoint.connections(), 0);
    }
}
