//! Who may begin a handshake, and on what proof: floods in the name of others, and attempts on connections that exist.

use std::net::{IpAddr, SocketAddr};

use super::{
    link::Link,
    ms,
    pair::Pair,
    raw::{RawPeer, valid_check},
    secs,
    sim::{Node, Sim, client_hello},
};
use crate::proto::{
    CloseReason, DialPolicy, DropReason, DtlsContext, Limits,
    engine::dtls::{Dtls, Path},
    outbox::Outbox,
};

/// An address in a network of its own.
fn stranger(number: u32) -> SocketAddr {
    let [.., a, b, c] = number.to_be_bytes();
    SocketAddr::from(([172, 16 + (a & 15), b, c], 9))
}

/// The same with a network for each.
fn spread(number: u32) -> SocketAddr {
    let [.., b, c] = number.to_be_bytes();
    SocketAddr::from(([172, b, c, 1], 9))
}

/// Begins handshakes in the name of others.
fn forge(
    sim: &mut Sim,
    listener: Node,
    numbers: std::ops::Range<u32>,
    from: impl Fn(u32) -> SocketAddr,
) {
    let hello = client_hello();
    for number in numbers {
        let from = from(number);
        sim.inject(from, listener, &valid_check(&number.to_string()));
        sim.inject(from, listener, &hello);
    }
}

/// A DTLS client at any address, whose handshake ends when it has proven that it gets what is sent there.
struct Client {
    from: SocketAddr,
    dtls: Dtls,
    outbox: Outbox,
}

impl Client {
    fn new(sim: &Sim, context: &DtlsContext, from: SocketAddr) -> Self {
        Self {
            from,
            dtls: Dtls::dialer(context, sim.now()),
            outbox: Outbox::default(),
        }
    }

    fn path(&self) -> Path {
        Path {
            remote: self.from,
            local_ip: None,
        }
    }

    fn datagram(&mut self) -> Vec<u8> {
        self.outbox.pop().expect("it has something to say").contents
    }

    fn hello(&mut self, sim: &Sim) -> Vec<u8> {
        let path = self.path();
        self.dtls
            .handle_timeout(sim.now(), path, &mut self.outbox)
            .unwrap();
        self.datagram()
    }

    /// Answers what was sent to the address lately, if that is a demand for a cookie.
    fn answer(&mut self, sim: &mut Sim) -> Option<Vec<u8>> {
        let sent = std::mem::take(&mut sim.astray);
        let demand = sent
            .into_iter()
            .rfind(|packet| packet.to == self.from && is_demand(&packet.contents))?;
        let path = self.path();
        self.dtls
            .handle_datagram(sim.now(), &demand.contents, path, &mut self.outbox)
            .unwrap();
        Some(self.datagram())
    }
}

impl Client {
    /// Takes everything that was sent astray for its own, and gives what it answers.
    fn converse(&mut self, sim: &mut Sim) -> Vec<Vec<u8>> {
        let path = self.path();
        for packet in std::mem::take(&mut sim.astray) {
            if packet.contents[0] >= 20 {
                self.dtls
                    .handle_datagram(sim.now(), &packet.contents, path, &mut self.outbox)
                    .unwrap();
            }
        }
        let mut answers = Vec::new();
        while let Some(transmit) = self.outbox.pop() {
            let size = transmit.segment_size.unwrap_or(transmit.contents.len());
            answers.extend(transmit.contents.chunks(size).map(<[u8]>::to_vec));
        }
        answers
    }
}

/// Credentials of its own for each address.
fn name(from: SocketAddr) -> String {
    from.to_string()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "x")
}

/// A HelloVerifyRequest.
fn is_demand(datagram: &[u8]) -> bool {
    datagram[0] == 22 && datagram[13] == 3
}

fn context() -> DtlsContext {
    DtlsContext::new(super::identity(), secs(10)).unwrap()
}

/// Begins a handshake from an address that can be proven. True: it was asked to.
fn begin(sim: &mut Sim, listener: Node, context: &DtlsContext, from: SocketAddr) -> bool {
    let mut client = Client::new(sim, context, from);
    sim.inject(from, listener, &valid_check(&name(from)));
    let hello = client.hello(sim);
    sim.inject(from, listener, &hello);
    let Some(again) = client.answer(sim) else {
        return false;
    };
    sim.inject(from, listener, &again);
    true
}

#[test]
fn handshakes_in_flight_are_capped_and_a_full_table_empties_by_itself() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes: 40,
        ..Limits::default()
    };
    let (listener, dialer) = (sim.add_peer(limits, true), sim.dialer());
    let context = context();
    let asked = (0..60).filter(|&number| begin(&mut sim, listener, &context, spread(number)));
    assert_eq!(asked.count(), 50, "ten without, within one second");
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 40);
    assert_eq!(
        sim.peer(listener).dropped(DropReason::TooManyHandshakes),
        20
    );
    assert_eq!(sim.peer(listener).endpoint.connections(), 40);
    sim.run_for(secs(11));
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 0);
    assert_eq!(sim.peer(listener).endpoint.routes(), 0);
    sim.connect(dialer, listener);
}

#[test]
fn forged_addresses_take_half_of_the_places_at_most_and_a_dial_does_not_notice() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(40)));
    let (listener, dialer) = (sim.listener(), sim.dialer());
    let mut number = 0;
    let mut flood = |sim: &mut Sim, count| {
        forge(sim, listener, number..number + count, spread);
        number += count;
        sim.astray.clear();
    };
    for _ in 0..4 {
        flood(&mut sim, 300);
        sim.run_for(secs(1));
    }
    let half = Limits::default().max_handshakes / 2;
    assert_eq!(sim.peer(listener).endpoint.handshakes(), half);
    for _ in 0..5 {
        let id = sim.dial(dialer, listener, DialPolicy::V2);
        for _ in 0..10 {
            flood(&mut sim, 30);
            sim.run_for(ms(50));
        }
        assert!(sim.peer(dialer).is_authenticated(id));
        sim.act(dialer, |peer, now| peer.endpoint.close(now, id));
        sim.run_for(ms(100));
    }
}

#[test]
fn a_demand_for_a_cookie_keeps_nothing_and_is_smaller_than_what_it_answers() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes: 2,
        ..Limits::default()
    };
    let listener = sim.add_peer(limits, true);
    forge(&mut sim, listener, 0..1, spread);
    sim.astray.clear();
    let (sent, received) = {
        let counters = sim.peer(listener).counters();
        (counters.bytes_sent, counters.bytes_received)
    };
    forge(&mut sim, listener, 1..100, spread);
    let endpoint = &sim.peer(listener).endpoint;
    assert_eq!((endpoint.handshakes(), endpoint.connections()), (1, 1));
    assert_eq!(sim.peer(listener).dropped(DropReason::NoCookie), 99);
    let counters = sim.peer(listener).counters();
    assert!(counters.bytes_sent - sent < counters.bytes_received - received);
    let demands = sim
        .astray
        .iter()
        .filter(|packet| is_demand(&packet.contents));
    assert_eq!(demands.count(), 99);
}

#[test]
fn a_cookie_is_of_no_use_at_another_address_nor_twice_the_time_later() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes: 1,
        ..Limits::default()
    };
    let (listener, context) = (sim.add_peer(limits, true), context());
    let (here, there) = (spread(1), spread(2));
    let mut client = Client::new(&sim, &context, here);
    for from in [here, there] {
        sim.inject(from, listener, &valid_check(&name(from)));
    }
    let hello = client.hello(&sim);
    sim.inject(here, listener, &hello);
    let again = client
        .answer(&mut sim)
        .expect("one place, so all are asked");
    sim.inject(there, listener, &again);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 0);
    sim.run_for(secs(61));
    sim.inject(here, listener, &valid_check("later"));
    sim.inject(here, listener, &again);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 0);
    assert_eq!(sim.peer(listener).dropped(DropReason::NoCookie), 3);
    assert!(begin(&mut sim, listener, &context, spread(3)));
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 1);
}

/// Cuts a handshake message that fills a datagram in two.
fn fragments(datagram: &[u8], at: usize) -> [Vec<u8>; 2] {
    let (head, body) = datagram.split_at(25);
    [(0, &body[..at]), (at, &body[at..])].map(|(offset, part)| {
        let mut fragment = head.to_vec();
        let len = u16::try_from(part.len()).unwrap();
        fragment[10] += u8::from(offset > 0) + 10;
        fragment[11..13].copy_from_slice(&(12 + len).to_be_bytes());
        fragment[19..22].copy_from_slice(&u32::try_from(offset).unwrap().to_be_bytes()[1..]);
        fragment[22..25].copy_from_slice(&u32::from(len).to_be_bytes()[1..]);
        fragment.extend_from_slice(part);
        fragment
    })
}

#[test]
fn a_client_hello_in_fragments_is_asked_and_taken_like_any_other() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes: 1,
        ..Limits::default()
    };
    let (listener, context) = (sim.add_peer(limits, true), context());
    let from = spread(1);
    let mut client = Client::new(&sim, &context, from);
    sim.inject(from, listener, &valid_check("fragments"));
    for fragment in fragments(&client.hello(&sim), 50) {
        sim.inject(from, listener, &fragment);
    }
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 0);
    let again = client.answer(&mut sim).expect("asked for a cookie");
    for fragment in fragments(&again, 80) {
        sim.inject(from, listener, &fragment);
    }
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 1);
    let flight = sim.astray.iter().find(|packet| packet.to == from).unwrap();
    // ServerHello, which has the number after that of the demand.
    assert_eq!((flight.contents[13], flight.contents[18]), (2, 1));
}

#[test]
fn a_full_table_makes_room_for_proof_where_there_was_none_for_a_second() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(20)));
    let limits = Limits {
        max_handshakes: 8,
        ..Limits::default()
    };
    let (listener, dialer, context) = (sim.add_peer(limits, true), sim.dialer(), context());
    for number in 0..2 {
        forge(&mut sim, listener, 2 * number..2 * number + 2, spread);
        sim.run_for(secs(1));
    }
    for number in 0..4 {
        assert!(begin(&mut sim, listener, &context, spread(100 + number)));
    }
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 8);
    sim.connect(dialer, listener);
    assert_eq!(sim.peer(listener).dropped(DropReason::TooManyHandshakes), 0);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 7);
}

#[test]
fn no_more_handshakes_begin_without_proof_than_the_rate_allows() {
    let hello = client_hello();
    let mut sim = Sim::new();
    let (listener, dialer) = (sim.listener(), sim.dialer());
    // A fatal alert in clear frees the place again.
    let alert = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
    let mut begun = 0;
    for number in 0..600 {
        let from = spread(number);
        sim.inject(from, listener, &valid_check(&number.to_string()));
        sim.inject(from, listener, &hello);
        begun += sim.peer(listener).endpoint.handshakes();
        sim.inject(from, listener, &alert);
        assert_eq!(sim.peer(listener).endpoint.handshakes(), 0);
    }
    assert_eq!(begun, Limits::default().max_handshakes / 4);
    sim.connect(dialer, listener);
}

#[test]
fn a_dial_succeeds_while_spoofed_handshakes_hang() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(20)));
    let (listener, dialer) = (sim.listener(), sim.dialer());
    for round in 0..2 {
        forge(&mut sim, listener, 100 * round..100 * round + 100, spread);
        sim.run_for(secs(1));
    }
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 200);
    sim.connect(dialer, listener);
}

#[test]
fn under_pressure_a_dialer_pays_a_round_trip_and_still_connects() {
    let mut sim = Sim::new();
    sim.set_default_link(Link::rtt(ms(100)));
    let limits = Limits {
        max_handshakes: 8,
        ..Limits::default()
    };
    let (listener, dialer) = (sim.add_peer(limits, true), sim.dialer());
    sim.connect(dialer, listener);
    let calm = sim.elapsed();
    forge(&mut sim, listener, 0..6, spread);
    let other = sim.dialer();
    let before = sim.elapsed();
    sim.connect(other, listener);
    let pressed = sim.elapsed() - before;
    assert!(
        pressed > calm,
        "{pressed:?} under pressure, {calm:?} without"
    );
    assert!(
        pressed < calm + ms(150),
        "{pressed:?} under pressure, {calm:?} without"
    );
}

#[test]
fn handshakes_from_one_network_are_capped_and_others_go_on() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes_per_subnet: 5,
        ..Limits::default()
    };
    let (listener, dialer, context) = (sim.add_peer(limits, true), sim.dialer(), context());
    let v4 = |number: u32| {
        let [.., low] = number.to_be_bytes();
        SocketAddr::from(([172, 16, 3, low], 9))
    };
    forge(&mut sim, listener, 0..9, v4);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 2, "half of them");
    for number in 10..19 {
        assert!(begin(&mut sim, listener, &context, v4(number)));
    }
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 5);
    assert_eq!(sim.peer(listener).dropped(DropReason::TooManyFromSubnet), 6);
    for number in 0..9 {
        let ip = "2001:db8:1::".parse::<IpAddr>().unwrap();
        begin(
            &mut sim,
            listener,
            &context,
            SocketAddr::new(ip, 10 + number),
        );
    }
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 10);
    sim.connect(dialer, listener);
    sim.run_for(secs(11));
    // The places are free again.
    forge(&mut sim, listener, 0..2, v4);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 2);
}

#[test]
fn a_flood_from_one_network_fills_half_its_share_and_nobody_elses() {
    let mut sim = Sim::new();
    let (listener, dialer, context) = (sim.listener(), sim.dialer(), context());
    let from = |number: u32| SocketAddr::from(([172, 16, 5, 1], 1000 + number as u16));
    forge(&mut sim, listener, 0..500, from);
    let share = Limits::default().max_handshakes_per_subnet;
    assert_eq!(sim.peer(listener).endpoint.handshakes(), share / 2);
    // Neither is its network shut out.
    assert!(begin(&mut sim, listener, &context, stranger(0x0505)));
    assert!(begin(&mut sim, listener, &context, from(600)));
    assert_eq!(sim.peer(listener).endpoint.handshakes(), share / 2 + 2);
    sim.connect(dialer, listener);
}

#[test]
fn loopback_is_not_limited_by_network() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes_per_subnet: 5,
        ..Limits::default()
    };
    let listener = sim.add_peer(limits, true);
    forge(&mut sim, listener, 0..9, |number| {
        SocketAddr::from(([127, 0, 0, 1], 10 + u16::try_from(number).unwrap()))
    });
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 9);
}

#[test]
fn a_forged_client_hello_never_ends_an_idle_connection() {
    for offset in 0..20 {
        let mut pair = Pair::new(ms(50));
        pair.run(secs(20) + ms(offset * 250));
        let victim = pair.sim.address(pair.dialer.node);
        forge(&mut pair.sim, pair.listener.node, 0..1, |_| victim);
        pair.run(secs(1));
        for end in pair.ends() {
            assert_eq!(pair.closed(end), None, "at {offset}");
        }
    }
    let mut pair = Pair::new(ms(50));
    let victim = pair.sim.address(pair.dialer.node);
    for second in 0..30 {
        pair.run(secs(1));
        forge(
            &mut pair.sim,
            pair.listener.node,
            second..second + 1,
            |_| victim,
        );
    }
    assert_eq!(pair.closed(pair.listener), None);
    assert_eq!(pair.sim.peer(pair.listener.node).endpoint.connections(), 1);
}

#[test]
fn a_forged_client_hello_does_not_end_a_set_up_in_progress() {
    // From when the listener has heard of it on.
    for start in 3..25 {
        let mut sim = Sim::new();
        sim.set_default_link(Link::rtt(ms(50)));
        let (dialer, listener) = (sim.dialer(), sim.listener());
        let victim = sim.address(dialer);
        let id = sim.dial(dialer, listener, DialPolicy::V2);
        sim.run_for(ms(10 * start));
        for number in 0..10 {
            forge(&mut sim, listener, number..number + 1, |_| victim);
            sim.run_for(ms(10));
        }
        sim.run_for(secs(2));
        assert!(sim.peer(dialer).is_authenticated(id), "from {start}0 ms on");
        assert_eq!(sim.peer(dialer).closed(id), None);
    }
}

#[test]
fn a_dialer_that_restarted_is_back_two_round_trips_after_its_dial_however_late_it_spoke() {
    for pause in [0, 100, 2_000, 20_000] {
        let mut pair = Pair::new(ms(100));
        let (dialer, listener) = (pair.dialer, pair.listener);
        let calm = pair.sim.elapsed();
        pair.run(ms(pause));
        pair.sim.restart(dialer.node, Limits::default(), false);
        let before = pair.sim.elapsed();
        let id = pair.sim.dial(dialer.node, listener.node, DialPolicy::V2);
        pair.sim.expect("connection", secs(2), |sim| {
            sim.peer(dialer.node).is_authenticated(id)
        });
        let took = pair.sim.elapsed() - before;
        assert!(took < calm + ms(150), "{took:?} instead of {calm:?}");
        pair.run(ms(100));
        assert_eq!(pair.closed(listener), Some(CloseReason::Replaced));
        assert_eq!(pair.sim.peer(listener.node).endpoint.connections(), 1);
    }
}

#[test]
fn a_newcomer_at_another_address_of_a_connection_takes_that_and_the_connection_goes_on() {
    let mut sim = Sim::new();
    let (listener, context) = (sim.listener(), context());
    let raw = RawPeer::v2(sim.now(), sim.address(listener));
    let raw = sim.add_raw(raw);
    sim.expect("connection", secs(1), |sim| {
        sim.raw(raw).connected && sim.peer(listener).authenticated().count() == 1
    });
    let id = sim.peer(listener).only();
    let second = spread(1);
    sim.inject(second, listener, &valid_check(""));
    assert_eq!(sim.peer(listener).endpoint.routes(), 2 + 1);
    assert!(begin(&mut sim, listener, &context, second), "on proof only");
    assert_eq!(sim.peer(listener).closed(id), None);
    let endpoint = &sim.peer(listener).endpoint;
    assert_eq!((endpoint.connections(), endpoint.handshakes()), (2, 1));
    assert_eq!(endpoint.routes(), 2 + 2, "an address and a name each");
    sim.run_for(secs(40));
    assert_eq!(sim.peer(listener).closed(id), None);
    let endpoint = &sim.peer(listener).endpoint;
    assert_eq!((endpoint.connections(), endpoint.routes()), (1, 1 + 1));
}

#[test]
fn who_was_asked_for_a_cookie_is_asked_again_when_the_pressure_is_gone() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes: 8,
        ..Limits::default()
    };
    let (listener, context) = (sim.add_peer(limits, true), context());
    forge(&mut sim, listener, 0..2, spread);
    let from = spread(100);
    let mut client = Client::new(&sim, &context, from);
    sim.inject(from, listener, &valid_check(&name(from)));
    let hello = client.hello(&sim);
    sim.inject(from, listener, &hello);
    let again = client.answer(&mut sim).expect("asked for a cookie");
    sim.run_for(secs(1));
    // Nobody else is asked now.
    assert!(!begin(&mut sim, listener, &context, spread(101)));
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 3);
    // Another check and the ClientHello again, both from before the demand came.
    sim.inject(from, listener, &valid_check(&name(from)));
    sim.inject(from, listener, &hello);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 3);
    sim.inject(from, listener, &again);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 4);
}

#[test]
fn who_is_refused_for_its_network_takes_no_place_from_another() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes: 8,
        max_handshakes_per_subnet: 6,
        ..Limits::default()
    };
    let (listener, context) = (sim.add_peer(limits, true), context());
    forge(&mut sim, listener, 0..2, spread);
    sim.run_for(secs(1));
    let from = |number: u16| SocketAddr::from(([10, 9, 9, 1], 100 + number));
    for number in 0..6 {
        begin(&mut sim, listener, &context, from(number));
    }
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 8);
    assert!(begin(&mut sim, listener, &context, from(6)));
    assert_eq!(sim.peer(listener).dropped(DropReason::TooManyFromSubnet), 1);
    assert_eq!(sim.peer(listener).endpoint.handshakes(), 8);
}

#[test]
fn a_client_of_two_addresses_makes_one_connection_whichever_it_speaks_from() {
    for repeated in [false, true] {
        let (mut sim, context) = (Sim::new(), context());
        let listener = sim.listener();
        let [first, second] = [spread(1), spread(2)];
        for from in [first, second] {
            sim.inject(from, listener, &valid_check(""));
        }
        let mut client = Client::new(&sim, &context, first);
        let hello = client.hello(&sim);
        sim.inject(first, listener, &hello);
        if repeated {
            sim.inject(second, listener, &hello);
            let endpoint = &sim.peer(listener).endpoint;
            assert_eq!((endpoint.connections(), endpoint.routes()), (1, 2 + 1));
        }
        for datagram in client.converse(&mut sim) {
            sim.inject(second, listener, &datagram);
        }
        assert_eq!(sim.peer(listener).connections.len(), 1, "DTLS is done");
        let endpoint = &sim.peer(listener).endpoint;
        assert_eq!((endpoint.connections(), endpoint.routes()), (1, 2 + 1));
    }
}

#[test]
fn another_client_with_the_credentials_of_a_connection_does_not_become_a_part_of_it() {
    let (mut sim, context) = (Sim::new(), context());
    let listener = sim.listener();
    let [first, second] = [spread(1), spread(2)];
    for from in [first, second] {
        sim.inject(from, listener, &valid_check(""));
    }
    for from in [first, second] {
        let hello = Client::new(&sim, &context, from).hello(&sim);
        sim.inject(from, listener, &hello);
    }
    assert_eq!(sim.peer(listener).endpoint.connections(), 2);
}

#[test]
fn who_starts_again_in_the_middle_of_a_set_up_takes_its_own_place_though_all_are_taken() {
    let mut sim = Sim::new();
    let limits = Limits {
        max_handshakes: 1,
        ..Limits::default()
    };
    let (listener, context) = (sim.add_peer(limits, true), context());
    let from = spread(1);
    assert!(begin(&mut sim, listener, &context, from));
    let mut again = Client::new(&sim, &context, from);
    sim.inject(from, listener, &valid_check("again"));
    let hello = again.hello(&sim);
    sim.inject(from, listener, &hello);
    let proof = again.answer(&mut sim).expect("it is asked");
    sim.inject(from, listener, &proof);
    assert_eq!(sim.peer(listener).dropped(DropReason::TooManyHandshakes), 0);
    for datagram in again.converse(&mut sim) {
        sim.inject(from, listener, &datagram);
    }
    assert_eq!(sim.peer(listener).connections.len(), 1, "DTLS is done");
    let endpoint = &sim.peer(listener).endpoint;
    assert_eq!((endpoint.connections(), endpoint.routes()), (1, 2));
}
