//! One direction of the network between two hosts: when a datagram arrives, whether, and how often.

use std::time::{Duration, Instant};

use rand::{RngExt, rngs::StdRng};

/// Loss in bursts (Gilbert-Elliott): in the bad state everything is lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    /// Chance of a burst to begin with a datagram.
    pub(super) begin: f64,
    /// Chance of it to end with a datagram.
    pub(super) end: f64,
}

/// What the network does to datagrams in one direction. The default does nothing at all.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Time from one end to the other.
    pub(super) latency: Duration,
    /// Up to so much more, without changing the order.
    pub(super) jitter: Duration,
    /// Share of datagrams that are lost, each on its own.
    pub(super) loss: f64,
    /// Loss in bursts.
    pub(super) burst: Option<Burst>,
    /// Share of datagrams that are overtaken by later ones.
    pub(super) reorder: f64,
    /// Share of datagrams that arrive twice.
    pub(super) duplicate: f64,
    /// Longer datagrams are lost.
    pub(super) mtu: usize,
    /// Everything is lost.
    pub(super) down: bool,
    /// Capacity; what would wait longer than [`MAX_QUEUE`] is lost.
    pub(super) bytes_per_second: Option<u64>,
}

/// Longest wait in the queue in front of a link with a capacity.
const MAX_QUEUE: Duration = Duration::from_millis(100);
/// By how much a datagram is late that others overtake.
const OVERTAKEN_BY: Duration = Duration::from_millis(15);

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: None,
            reorder: 0.0,
            duplicate: 0.0,
            mtu: 1500,
            down: false,
            bytes_per_second: None,
        }
    }
}

impl Link {
    /// A perfect link with this round trip.
    pub(super) fn rtt(rtt: Duration) -> Self {
        Self {
            latency: rtt / 2,
            ..Self::default()
        }
    }
}

/// What a link remembers.
#[derive(Debug, Default)]
pub(super) struct LinkState {
    in_burst: bool,
    last_arrival: Option<Instant>,
    free_at: Option<Instant>,
    /// Datagrams lost.
    pub(super) lost: u64,
    /// Datagrams that arrived or will.
    pub(super) carried: u64,
}

impl LinkState {
    /// When copies of a datagram of `len` bytes arrive.
    pub(super) fn arrivals(
        &mut self,
        link: &Link,
        now: Instant,
        len: usize,
        rng: &mut StdRng,
    ) -> Vec<Instant> {
        let queue_end = self.free_at.map_or(now, |at| at.max(now));
        if link.down
            || len > link.mtu
            || rng.random_bool(link.loss)
            || self.is_in_burst(link, rng)
            || queue_end > now + MAX_QUEUE
        {
            self.lost += 1;
            return Vec::new();
        }
        let mut at = queue_end;
        if let Some(rate) = link.bytes_per_second {
            at += Duration::from_secs_f64(len as f64 / rate as f64);
            self.free_at = Some(at);
        }
        at += link.latency + link.jitter.mul_f64(rng.random_range(0.0..1.0));
        if rng.random_bool(link.reorder) {
            at += OVERTAKEN_BY.mul_f64(rng.random_range(0.0..1.0));
        } else {
            at = at.max(self.last_arrival.unwrap_or(at));
            self.last_arrival = Some(at);
        }
        self.carried += 1;
        if rng.random_bool(link.duplicate) {
            return vec![at, at + OVERTAKEN_BY.mul_f64(rng.random_range(0.0..1.0))];
        }
        vec![at]
    }

    fn is_in_burst(&mut self, link: &Link, rng: &mut StdRng) -> bool {
        let Some(burst) = link.burst else {
            return false;
        };
        let change = if self.in_burst {
            burst.end
        } else {
            burst.begin
        };
        self.in_burst ^= rng.random_bool(change);
        self.in_burst
    }
}
