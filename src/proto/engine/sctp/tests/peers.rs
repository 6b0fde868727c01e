//! Against another implementation, the crate `sctp-proto`, in virtual time.
//!
//! It cannot take an INIT while it initiates, so exactly one side does.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event,
    Payload, PayloadProtocolIdentifier, ServerConfig, StreamEvent, TransportConfig,
};

use super::link::{LIMITS, read_all, send};
use crate::proto::engine::sctp::{Sctp, SctpEvent, Verdict};

const DELAY: Duration = Duration::from_millis(5);
const SIZES: [usize; 12] = [
    1,
    2,
    3,
    1131,
    1132,
    1133,
    1160,
    5000,
    20_000,
    65_535,
    131_072,
    200 * 1024,
];

/// The other implementation.
struct Other {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    remote: SocketAddr,
}

impl Other {
    fn new(initiates: bool) -> Self {
        let transport = TransportConfig::default()
            .with_max_send_message_size(300_000)
            .with_max_receive_message_size(300_000)
            .with_max_receive_buffer_size(1 << 20)
            .with_max_init_retransmits(None);
        let transport = Arc::new(transport);
        let remote = SocketAddr::from(([127, 0, 0, 1], 5000));
        let mut server = ServerConfig::new();
        server.transport = Arc::clone(&transport);
        let server = (!initiates).then(|| Arc::new(server));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::new()), server);
        let mut client = ClientConfig::new();
        client.transport = transport;
        let association = initiates.then(|| endpoint.connect(client, remote).unwrap());
        Self {
            endpoint,
            association,
            remote,
        }
    }

    fn handle_packet(&mut self, now: Instant, packet: Bytes) {
        match self.endpoint.handle(now, self.remote, None, None, packet) {
            Some((handle, DatagramEvent::NewAssociation(new))) => {
                self.association = Some((handle, new))
            }
            Some((_, DatagramEvent::AssociationEvent(event))) => self.get().handle_event(event),
            None => {}
        }
    }

    fn get(&mut self) -> &mut Association {
        &mut self
            .association
            .as_mut()
            .expect("it is known after the first packet")
            .1
    }

    fn poll_packets(&mut self, now: Instant, out: &mut Vec<Bytes>) {
        let mut take = |payload| {
            if let Payload::RawEncode(packets) = payload {
                out.extend(packets);
            }
        };
        while let Some(transmit) = self.endpoint.poll_transmit() {
            take(transmit.payload);
        }
        if let Some((handle, association)) = &mut self.association {
            while let Some(transmit) = association.poll_transmit(now) {
                take(transmit.payload);
            }
            while let Some(event) = association.poll_endpoint_event() {
                self.endpoint.handle_event(*handle, event);
            }
        }
    }
}

/// What happened so far: messages by stream, ends of streams, states.
#[derive(Debug, Default)]
struct Seen {
    up: bool,
    down: bool,
    messages: BTreeMap<u16, Vec<Bytes>>,
    resets: Vec<u16>,
    completed: Vec<u16>,
}

struct Pair {
    ours: Sctp,
    other: Other,
    now: Instant,
    loss: u32,
    rng: StdRng,
    /// When it arrives, whether it is for us, its bytes.
    flying: VecDeque<(Instant, bool, Bytes)>,
    we_saw: Seen,
    it_saw: Seen,
}

impl Pair {
    #[expect(
        clippy::disallowed_methods,
        reason = "an origin for virtual time, which the other side reads, too"
    )]
    fn connected(other_initiates: bool, loss: u32, seed: u64) -> Self {
        let other = Other::new(other_initiates);
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let ours = Sctp::new(LIMITS, !other_initiates, rng.random(), now);
        let mut pair = Self {
            ours,
            other,
            now,
            loss,
            rng,
            flying: VecDeque::new(),
            we_saw: Seen::default(),
            it_saw: Seen::default(),
        };
        pair.run_until("both are up", |pair| pair.we_saw.up && pair.it_saw.up);
        pair
    }

    fn read_ours(&mut self) {
        while let Some(event) = self.ours.poll_event() {
            match event {
                SctpEvent::Connected => self.we_saw.up = true,
                SctpEvent::Opened(id) | SctpEvent::Readable(id) => {
                    let messages = read_all(&mut self.ours, id)
                        .into_iter()
                        .map(|message| message.data);
                    self.we_saw.messages.entry(id).or_default().extend(messages);
                }
                SctpEvent::Reset(id) => self.we_saw.resets.push(id),
                SctpEvent::ResetComplete(id) => self.we_saw.completed.push(id),
                SctpEvent::ClosedByPeer => self.we_saw.down = true,
                SctpEvent::ResetDenied => panic!("a reset was denied"),
                SctpEvent::Failed(text) => panic!("{text}"),
            }
        }
    }

    fn read_other(&mut self) {
        let Some((_, association)) = &mut self.other.association else {
            return;
        };
        while let Some(event) = association.poll() {
            match event {
                Event::Connected => self.it_saw.up = true,
                Event::AssociationLost { .. } => self.it_saw.down = true,
                Event::Stream(StreamEvent::Opened { .. }) => {
                    // The stream is made known by accepting it.
                    while association.accept_stream().is_some() {}
                }
                Event::Stream(StreamEvent::Finished { id }) => self.it_saw.resets.push(id),
                Event::Stream(StreamEvent::ResetComplete { id }) => self.it_saw.completed.push(id),
                Event::Stream(StreamEvent::ResetFailed { id, reason }) => {
                    panic!("stream {id}: {reason:?}")
                }
                _ => {}
            }
            for id in association.stream_ids() {
                let Ok(mut stream) = association.stream(id) else {
                    continue;
                };
                while let Ok(Some(message)) = stream.read() {
                    let mut bytes = vec![0; message.len()];
                    message.read(&mut bytes).unwrap();
                    self.it_saw
                        .messages
                        .entry(id)
                        .or_default()
                        .push(bytes.into());
                }
            }
        }
    }

    fn flush(&mut self) {
        let mut packets = Vec::new();
        self.ours.poll_packets(self.now, |packet| {
            packets.push((false, Bytes::copy_from_slice(packet)))
        });
        let mut out = Vec::new();
        self.other.poll_packets(self.now, &mut out);
        packets.extend(out.into_iter().map(|packet| (true, packet)));
        for (for_us, packet) in packets {
            if self.rng.random_range(0..100) >= self.loss {
                self.flying.push_back((self.now + DELAY, for_us, packet));
            }
        }
    }

    /// Both sides run until `done`, for two minutes at most.
    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end_of_time = self.now + Duration::from_secs(120);
        loop {
            self.read_ours();
            self.read_other();
            if done(self) {
                return;
            }
            self.flush();
            let other = self
                .other
                .association
                .as_ref()
                .and_then(|(_, association)| association.poll_timeout());
            let timers = [
                self.flying.front().map(|flying| flying.0),
                self.ours.poll_timeout(),
                other,
            ];
            let next = timers.into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next < end_of_time) else {
                panic!(
                    "never: {what}; we saw {:?}, it saw {:?}",
                    self.we_saw, self.it_saw
                );
            };
            self.now = self.now.max(next);
            while self
                .flying
                .front()
                .is_some_and(|flying| flying.0 <= self.now)
            {
                let Some((_, for_us, packet)) = self.flying.pop_front() else {
                    break;
                };
                if for_us {
                    assert_eq!(self.ours.handle_packet(self.now, packet), Verdict::Used);
                } else {
                    self.other.handle_packet(self.now, packet);
                }
            }
            self.ours.handle_timeout(self.now);
            if let Some((_, association)) = &mut self.other.association {
                association.handle_timeout(self.now);
            }
        }
    }

    fn other_opens(&mut self, id: u16) {
        self.other
            .get()
            .open_stream(id, PayloadProtocolIdentifier::Binary)
            .unwrap();
    }

    fn other_sends(&mut self, id: u16, bytes: &[u8]) {
        let written = self
            .other
            .get()
            .stream(id)
            .unwrap()
            .write_with_ppi(bytes, PayloadProtocolIdentifier::Binary);
        assert_eq!(written.unwrap(), bytes.len());
    }
}

fn body(n: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 + n) as u8).collect()
}

/// Each case with either side as the initiator, without loss and with it.
fn each_case(seeds: u64, case: impl Fn(Pair)) {
    for other_initiates in [false, true] {
        for seed in 0..seeds {
            let loss = if seed == 0 { 0 } else { 5 };
            case(Pair::connected(other_initiates, loss, seed));
        }
    }
}

#[test]
fn messages_of_all_sizes_pass_both_ways() {
    each_case(4, |mut pair| {
        pair.ours.open(2).unwrap();
        pair.other_opens(3);
        let bodies: Vec<_> = SIZES
            .iter()
            .enumerate()
            .map(|(n, &size)| body(n, size))
            .collect();
        for body in &bodies {
            send(&mut pair.ours, 2, body);
            pair.other_sends(3, body);
        }
        let count = |seen: &Seen, id| seen.messages.get(&id).map_or(0, Vec::len);
        pair.run_until("all messages", |pair| {
            count(&pair.it_saw, 2) == SIZES.len() && count(&pair.we_saw, 3) == SIZES.len()
        });
        assert!(pair.it_saw.messages[&2] == bodies && pair.we_saw.messages[&3] == bodies);
        pair.run_until("all acknowledged", |pair| pair.ours.buffered() == 0);
        assert_eq!(pair.ours.held(), 0);
    });
}

#[test]
fn many_streams_at_once_pass_both_ways() {
    each_case(3, |mut pair| {
        for id in 0..100 {
            pair.ours.open(2 * id).unwrap();
            pair.other_opens(2 * id + 1);
            for n in 0..3 {
                send(&mut pair.ours, 2 * id, &body(n, 100 * usize::from(id) + 1));
                pair.other_sends(2 * id + 1, &body(n, 100 * usize::from(id) + 1));
            }
        }
        let complete = |seen: &Seen| {
            seen.messages.len() == 100 && seen.messages.values().all(|all| all.len() == 3)
        };
        pair.run_until("all messages", |pair| {
            complete(&pair.we_saw) && complete(&pair.it_saw)
        });
    });
}

#[test]
fn we_reset_a_stream_and_use_its_id_again() {
    each_case(4, |mut pair| {
        for round in 1..=8 {
            pair.ours.open(2).unwrap();
            send(&mut pair.ours, 2, &body(round, 9000));
            pair.ours.reset(2).unwrap();
            pair.run_until("the reset is complete", |pair| {
                pair.we_saw.completed.len() == round && pair.it_saw.resets.len() == round
            });
            assert_eq!(pair.it_saw.messages[&2].len(), round);
        }
        assert_eq!(pair.ours.streams(), 0);
    });
}

#[test]
fn the_peer_resets_a_stream_and_uses_its_id_again() {
    each_case(4, |mut pair| {
        for round in 1..=8 {
            pair.other_opens(3);
            pair.other_sends(3, &body(round, 9000));
            pair.run_until("it arrived", |pair| {
                pair.we_saw
                    .messages
                    .get(&3)
                    .is_some_and(|all| all.len() == round)
            });
            pair.other.get().stream(3).unwrap().close().unwrap();
            pair.run_until("the reset is complete", |pair| {
                pair.we_saw.completed.len() == round && pair.it_saw.completed.len() == round
            });
            assert_eq!(pair.we_saw.resets.len(), round);
        }
        assert_eq!(pair.ours.streams(), 0);
    });
}

#[test]
fn both_reset_many_streams_while_data_flows() {
    each_case(3, |mut pair| {
        let ids: Vec<u16> = (0..40).collect();
        for &id in &ids {
            if id % 2 == 0 {
                pair.ours.open(id).unwrap()
            } else {
                pair.other_opens(id)
            }
        }
        pair.ours.open(1000).unwrap();
        for &id in &ids {
            if id % 2 == 0 {
                send(&mut pair.ours, id, b"hello")
            } else {
                pair.other_sends(id, b"hello")
            }
            send(&mut pair.ours, 1000, &[0; 5000]);
        }
        let heard = |pair: &Pair| pair.we_saw.messages.len() + pair.it_saw.messages.len() > 40;
        pair.run_until("all streams are known", heard);
        for &id in &ids {
            if id % 2 == 0 {
                pair.ours.reset(id).unwrap();
            } else {
                pair.other.get().stream(id).unwrap().close().unwrap();
            }
            send(&mut pair.ours, 1000, &[0; 5000]);
        }
        pair.run_until("all resets", |pair| {
            pair.we_saw.completed.len() == ids.len() && pair.ours.buffered() == 0
        });
        assert_eq!(pair.ours.streams(), 1);
    });
}

#[test]
fn either_side_may_say_goodbye() {
    each_case(1, |mut pair| {
        pair.ours.shutdown();
        pair.run_until("it heard it", |pair| pair.it_saw.down);
    });
    each_case(1, |mut pair| {
        pair.other.get().shutdown().unwrap();
        pair.run_until("we heard it", |pair| pair.we_saw.down);
    });
}
