//! Two endpoints with a live connection between them, into which the fuzzer throws datagrams and calls.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    proto::{ChannelId, ConnectionId, Dial, DialPolicy, Endpoint, Event, Identity, Read, Write},
    transport::{Certificate, Limits},
};

/// Datagrams remembered for replay.
const MAX_REMEMBERED: usize = 64;

struct Pair {
    now: Instant,
    ends: [Endpoint; 2],
    ids: [Option<ConnectionId>; 2],
    channels: [Vec<ChannelId>; 2],
    remembered: Vec<Vec<u8>>,
}

fn address(end: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, end as u8 + 1], 4000))
}

impl Pair {
    fn connected() -> Option<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "an arbitrary origin for virtual time"
        )]
        let now = Instant::now();
        let certificate = Certificate::generate_with(&mut StdRng::seed_from_u64(1));
        let identity = || Identity {
            certificate_der: certificate.certificate_der().to_vec(),
            private_key_der: certificate.private_key_der().to_vec(),
        };
        let limits = Limits::default().to_proto();
        let end = |seed| Endpoint::new(limits.clone(), identity(), true, [seed; 32]).ok();
        let mut pair = Self {
            now,
            ends: [end(1)?, end(2)?],
            ids: [None; 2],
            channels: [Vec::new(), Vec::new()],
            remembered: Vec::new(),
        };
        let dial = Dial {
            remote: address(1),
            policy: DialPolicy::V2,
            fingerprints: vec![certificate.fingerprint()],
        };
        pair.ids[0] = Some(pair.ends[0].dial(now, dial));
        for _ in 0..20 {
            pair.step();
        }
        pair.ids.iter().all(Option::is_some).then_some(pair)
    }

    /// Lets both ends work and carries their datagrams over.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        for end in 0..2 {
            self.ends[end].process(self.now);
            while let Some((id, event)) = self.ends[end].poll_event() {
                self.on_event(end, id, &event);
            }
            self.ends[end].process(self.now);
            while let Some(transmit) = self.ends[end].poll_transmit() {
                let size = transmit
                    .segment_size
                    .unwrap_or(transmit.contents.len())
                    .max(1);
                for datagram in transmit.contents.chunks(size) {
                    if self.remembered.len() < MAX_REMEMBERED {
                        self.remembered.push(datagram.to_vec());
                    }
                    self.ends[1 - end].handle_datagram(self.now, None, address(end), datagram);
                }
            }
        }
    }

    fn on_event(&mut self, end: usize, id: ConnectionId, event: &Event) {
        match event {
            Event::Incoming { .. } => self.ids[end] = Some(id),
            Event::Ready { .. } => self.ends[end].authenticated(self.now, id),
            Event::ChannelOpened(channel) => self.channels[end].push(*channel),
            Event::ChannelReadable(channel) => {
                while let Read::Data(_) = self.ends[end].read(self.now, id, *channel) {}
            }
            Event::OpenPossible
            | Event::ChannelWritable(_)
            | Event::ChannelClosed(_)
            | Event::AddressChanged(_)
            | Event::Candidate(_)
            | Event::EndOfCandidates
            | Event::PathSelected { .. }
            | Event::PathLost
            | Event::Server(_)
            | Event::Closed(_) => {}
        }
    }

    /// One call of an application or one datagram of a stranger.
    fn act(&mut self, what: u8, argument: u8, payload: &[u8]) {
        let end = usize::from(what & 1);
        let Some(id) = self.ids[end] else { return };
        let channel = match self.channels[end].as_slice() {
            [] => ChannelId::HANDSHAKE,
            channels => channels[usize::from(argument) % channels.len()],
        };
        let now = self.now;
        let endpoint = &mut self.ends[end];
        match what >> 1 {
            0 => endpoint.handle_datagram(now, None, address(1 - end), payload),
            1 => endpoint.handle_datagram(now, None, address(usize::from(argument) + 2), payload),
            2 => self.replay(end, argument, payload),
            3 => self.channels[end].extend(endpoint.open(now, id)),
            4 => match endpoint.write(now, id, channel, payload) {
                Write::Accepted(taken) => assert!(taken <= payload.len()),
                Write::Stopped | Write::Closed => {}
            },
            5 => endpoint.finish(now, id, channel),
            6 => endpoint.stop(now, id, channel),
            7 => endpoint.reset(now, id, channel),
            8 => endpoint.release(now, id, channel),
            9 => endpoint.close(now, id),
            10 => {
                self.now += Duration::from_millis(u64::from(argument) * 100);
                self.ends[end].handle_timeout(self.now);
            }
            _ => self.step(),
        }
    }

    /// A datagram that was sent before, with some bytes changed.
    fn replay(&mut self, end: usize, argument: u8, changes: &[u8]) {
        let count = self.remembered.len().max(1);
        let Some(mut datagram) = self.remembered.get(usize::from(argument) % count).cloned() else {
            return;
        };
        let len = datagram.len().max(1);
        for change in changes.chunks_exact(2) {
            if let Some(byte) = datagram.get_mut(usize::from(change[0]) % len) {
                *byte ^= change[1];
            }
        }
        self.ends[end].handle_datagram(self.now, None, address(1 - end), &datagram);
    }
}

/// Runs what `data` describes: records of a command, an argument, a length and a payload.
pub(super) fn run(mut data: &[u8]) {
    let Some(mut pair) = Pair::connected() else {
        panic!("two endpoints connect");
    };
    while let [what, argument, len, rest @ ..] = data {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        pair.act(*what % 24, *argument, payload);
        pair.step();
        data = rest;
    }
}
