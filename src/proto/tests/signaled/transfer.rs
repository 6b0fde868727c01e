//! What the channels carry: messages as they are, and libp2p streams.

use bytes::Bytes;

use super::world::{
    End::{self, Answerer, Offerer},
    World, messages,
};
use crate::proto::{
    Event, Read, Write,
    connection::Application,
    tests::{link::Link, ms, scaled, secs},
};

#[test]
fn messages_arrive_whole_and_in_order_whatever_the_network_and_the_signaling_do() {
    let runs = scaled(6, 40, "networks");
    for run in 0..runs {
        let mut link = Link::rtt(ms(20 + 20 * (run as u64 % 5)));
        link.loss = 0.01 * (run % 6) as f64;
        link.jitter = ms(5);
        link.reorder = 0.02;
        let mut world = World::new(link);
        world.delay = ms(500 * (run as u64 % 6) / 5);
        let channels = world.connect();
        world.transfer(Offerer, channels, 30, secs(60));
        world.transfer(Answerer, channels, 30, secs(60));
    }
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_nothing_grows() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    let message = Bytes::from(vec![7; 16_384]);
    let mut sent = 0;
    // Longer than any patience with streams that are not read.
    world.run_until(secs(60), |world| {
        while world.send(Offerer, channels[0], &message) {
            sent += 1;
        }
        false
    });
    assert!((20..250).contains(&sent), "{sent} messages were taken");
    assert!(world.closed(Offerer).is_none() && world.closed(Answerer).is_none());
    let held = {
        let id = world.id(Answerer);
        world.peer(Answerer).endpoint.held(id)
    };
    assert!(held.bytes <= 256 * 1024, "{held:?}");
    let mut received = 0;
    world.conn(Offerer).log.clear();
    world.expect("rest", secs(20), |world| {
        while let Some(arrived) = world.receive(Answerer, channels[1]) {
            assert_eq!(arrived, message);
            received += 1;
        }
        received == sent
    });
    let writable = Event::ChannelWritable(channels[0]);
    assert!(world.conn(Offerer).log.contains(&writable));
    assert!(world.send(Offerer, channels[0], &message));
}

#[test]
fn messages_that_are_too_long_or_empty_are_refused_where_they_are_written() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.tamper = Some(|text| text.replace("size:262144", "size:1000"));
    let channels = world.connect();
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    assert_eq!(world.peer(Offerer).endpoint.max_message_size(id), 1000);
    for len in [0, 1001] {
        let message = Bytes::from(vec![0; len]);
        let written = world.sim.act(node, |peer, now| {
            peer.endpoint.write_message(now, id, channels[0], &message)
        });
        assert_eq!(written, Write::Closed, "{len}");
    }
    assert!(world.send(Offerer, channels[0], &Bytes::from(vec![0; 1000])));
}

#[test]
fn no_more_than_16_kib_are_sent_at_once_whatever_the_peer_takes() {
    let mut world = World::new(Link::rtt(ms(40)));
    world.connect();
    for end in End::BOTH {
        let id = world.id(end);
        assert_eq!(world.peer(end).endpoint.max_message_size(id), 16_384);
    }
}

#[test]
fn a_peer_that_sends_before_it_acknowledges_the_channel_is_heard() {
    let mut world = World::new(Link::rtt(ms(200)));
    world.offer();
    world.expect("end of the set-up", secs(5), |world| {
        world.conn(Offerer).ready.is_some()
    });
    assert!(world.conn(Offerer).inbound.is_empty(), "no answer came yet");
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    world.sim.act(node, |peer, now| {
        peer.endpoint
            .deliver(now, id, 1, Bytes::from_static(b"early"));
    });
    let channel = world.conn(Offerer).inbound.pop_front().expect("it is open");
    let early = world.receive(Offerer, channel);
    assert_eq!(early.as_deref(), Some(&b"early"[..]));
    // The acknowledgement opens nothing twice.
    world.run(secs(1));
    assert!(world.conn(Offerer).inbound.is_empty());
}

#[test]
fn a_channel_with_another_name_is_closed() {
    for (label, protocol) in [("other", "socketpipe/1.0"), ("socketpipe", "")] {
        let other = Application::Messages {
            label,
            protocol,
            open: true,
        };
        let mut world = World::with(Link::rtt(ms(40)), [other, messages(false)]);
        world.offer();
        world.run(secs(3));
        assert!(world.conn(Answerer).ready.is_some());
        for end in End::BOTH {
            assert!(world.conn(end).inbound.is_empty(), "{label} {protocol}");
        }
    }
}

#[test]
fn what_was_sent_before_the_end_of_a_channel_can_be_read() {
    let mut world = World::new(Link::rtt(ms(40)));
    let channels = world.connect();
    let (node, id) = (world.node(Offerer), world.id(Offerer));
    assert!(world.send(Offerer, channels[0], &Bytes::from_static(b"last words")));
    world.sim.act(node, |peer, now| {
        peer.endpoint.release(now, id, channels[0]);
    });
    world.run(secs(2));
    let read = world.receive(Answerer, channels[1]);
    assert_eq!(read.as_deref(), Some(&b"last words"[..]));
    let (node, id) = (world.node(Answerer), world.id(Answerer));
    let end = world
        .sim
        .act(node, |peer, now| peer.endpoint.read(now, id, channels[1]));
    assert_eq!(end, Read::Eof);
}

#[test]
fn libp2p_runs_noise_and_streams_over_it_as_over_webrtc_direct() {
    let libp2p = [Application::Libp2p, Application::Libp2p];
    let mut world = World::with(Link::rtt(ms(40)), libp2p);
    for end in End::BOTH {
        world.peer(end).noise = true;
    }
    world.offer();
    world.expect("authentication", secs(5), |world| {
        End::BOTH.into_iter().all(|end| {
            world
                .peer(end)
                .connections
                .values()
                .any(|conn| conn.authenticated.is_some())
        })
    });
    // DTLS roles do not follow from who offered: the answerer is the client, and has the even ids.
    for (end, parity) in [(Offerer, 1), (Answerer, 0)] {
        let (node, id) = (world.node(end), world.id(end));
        let channel = world.sim.open(node, id);
        assert_eq!(channel.stream % 2, parity);
        assert_ne!(channel.stream, 0);
        let data = b"over a stream";
        let written = world.sim.act(node, |peer, now| {
            let written = peer.endpoint.write(now, id, channel, data);
            peer.endpoint.finish(now, id, channel);
            written
        });
        assert_eq!(written, Write::Accepted(data.len()));
        let other = if end == Offerer { Answerer } else { Offerer };
        world.expect("stream", secs(2), |world| {
            !world.conn(other).inbound.is_empty()
        });
        let inbound = world.conn(other).inbound.pop_front().unwrap();
        let (node, id) = (world.node(other), world.id(other));
        world.run(ms(200));
        let (bytes, after) = world
            .sim
            .act(node, |peer, now| peer.read_all(now, id, inbound));
        assert_eq!((bytes.as_slice(), after), (&data[..], Read::Eof));
    }
}

#[test]
fn both_ends_learn_the_certificate_of_the_other_for_the_prologue() {
    let libp2p = [Application::Libp2p, Application::Libp2p];
    let mut world = World::with(Link::rtt(ms(40)), libp2p);
    world.offer();
    world.run(secs(2));
    let expected = End::BOTH.map(|end| world.call(end).fingerprint);
    let seen = End::BOTH.map(|end| world.conn(end).ready.unwrap().1);
    assert_eq!(seen, [expected[1], expected[0]]);
    assert_eq!(world.conn(Offerer).ready.unwrap().2, None);
}
