//! The simulated pair of associations.

use std::{
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::proto::engine::sctp::{Message, Ppid, Sctp, SctpEvent, SctpLimits};

/// What the link does to packets, in percent and milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub(super) delay: u64,
    pub(super) jitter: u64,
    pub(super) loss: u32,
    pub(super) duplicate: u32,
}

/// A packet on its way: when it arrives, a number that keeps the order, where to, its bytes.
type Flying = std::cmp::Reverse<(Instant, u64, usize, Bytes)>;

pub(super) struct Pair {
    pub(super) ends: [Sctp; 2],
    pub(super) now: Instant,
    pub(super) link: Link,
    pub(super) packets: u64,
    rng: StdRng,
    flying: BinaryHeap<Flying>,
}

pub(super) const LIMITS: SctpLimits = SctpLimits {
    receive_window: 1 << 20,
    max_receive_message: 300_000,
    max_streams: 65_536,
};

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    pub(super) fn new(link: Link, seed: u64, initiate: [bool; 2]) -> Self {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let ends = initiate.map(|initiate| Sctp::new(LIMITS, initiate, rng.random(), now));
        Self {
            ends,
            now,
            link,
            packets: 0,
            rng,
            flying: BinaryHeap::new(),
        }
    }

    pub(super) fn connected(link: Link, seed: u64) -> Self {
        let mut pair = Self::new(link, seed, [true, true]);
        let mut up = [false; 2];
        pair.run_until(Duration::from_secs(60), |end, _, event| {
            up[end] |= *event == SctpEvent::Connected;
            up == [true; 2]
        });
        assert_eq!(up, [true; 2], "seed {seed}: no association");
        pair
    }

    fn flush(&mut self) {
        for end in 0..2 {
            let mut out = Vec::new();
            self.ends[end]
                .poll_packets(self.now, |packet| out.push(Bytes::copy_from_slice(packet)));
            for packet in out {
                assert!(packet.len() <= 1160, "a packet of {} bytes", packet.len());
                self.packets += 1;
                let copies = 1 + u32::from(self.rng.random_range(0..100) < self.link.duplicate);
                for _ in 0..copies {
                    if self.rng.random_range(0..100) >= self.link.loss {
                        let delay = self.link.delay + self.rng.random_range(0..=self.link.jitter);
                        let at = self.now + Duration::from_millis(delay);
                        self.flying.push(std::cmp::Reverse((
                            at,
                            self.packets,
                            1 - end,
                            packet.clone(),
                        )));
                    }
                }
            }
        }
    }

    /// Runs until `done` says so after an event, nothing moves any more, or `limit` has passed.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(usize, &mut [Sctp; 2], &SctpEvent) -> bool,
    ) {
        let end_of_time = self.now + limit;
        loop {
            for end in 0..2 {
                while let Some(event) = self.ends[end].poll_event() {
                    if done(end, &mut self.ends, &event) {
                        return;
                    }
                }
            }
            self.flush();
            let arrival = self.flying.peek().map(|packet| packet.0.0);
            let timers = self.ends.iter().filter_map(Sctp::poll_timeout).min();
            let Some(next) = arrival.into_iter().chain(timers).min() else {
                return;
            };
            if next > end_of_time {
                self.now = end_of_time;
                return;
            }
            self.now = self.now.max(next);
            while self
                .flying
                .peek()
                .is_some_and(|packet| packet.0.0 <= self.now)
            {
                if let Some(std::cmp::Reverse((_, _, end, packet))) = self.flying.pop() {
                    self.ends[end].handle_packet(self.now, packet);
                }
            }
            for end in &mut self.ends {
                if end.poll_timeout().is_some_and(|at| at <= self.now) {
                    end.handle_timeout(self.now);
                }
            }
        }
    }

    pub(super) fn settle(&mut self) {
        self.run_until(Duration::from_secs(30), |_, _, _| false);
    }
}

pub(super) fn send(end: &mut Sctp, stream: u16, bytes: &[u8]) {
    end.write(stream, Ppid::Binary, &Bytes::copy_from_slice(bytes))
        .unwrap();
}

pub(super) fn read_all(end: &mut Sctp, stream: u16) -> Vec<Message> {
    std::iter::from_fn(|| end.read(stream)).collect()
}
