//! How often one address may try, a bucket of tokens for each, refilled with time; and how many connections it may
//! have.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use crate::proto::ice::network;

/// Addresses remembered at once. When there are more, those that have been quiet are forgotten.
const MAX_ADDRESSES: usize = 16 * 1024;
/// Attempts that a failed authentication counts as.
const COST_OF_FAILURE: f64 = 5.0;

/// Limits attempts by address. Clones share the table.
#[derive(Clone)]
pub struct RateLimiter {
    burst: f64,
    per_second: f64,
    buckets: Arc<Mutex<HashMap<IpAddr, Bucket>>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("burst", &self.burst)
            .field("per_second", &self.per_second)
            .finish_non_exhaustive()
    }
}

impl Default for RateLimiter {
    /// 200 at once and 20 per second: a browser that opens many forwarded connections passes, guessing does not pay.
    fn default() -> Self {
        Self::new(200, 20)
    }
}

impl RateLimiter {
    /// So many attempts at once, so many per second on average.
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self {
            burst: f64::from(burst.max(1)),
            per_second: f64::from(per_second),
            buckets: Arc::default(),
        }
    }

    /// Whether this address may try now.
    pub(crate) fn admit(&self, address: IpAddr) -> bool {
        self.with(address, Instant::now(), |bucket| {
            let good = bucket.tokens >= 1.0;
            if good {
                bucket.tokens -= 1.0;
            }
            good
        })
    }

    /// Whether this address has not failed too often lately; counts nothing.
    pub fn may_try(&self, address: IpAddr) -> bool {
        self.with(address, Instant::now(), |bucket| bucket.tokens >= 1.0)
    }

    /// This address failed to authenticate: it may try less often.
    pub fn failed(&self, address: IpAddr) {
        self.with(address, Instant::now(), |bucket| {
            bucket.tokens = (bucket.tokens - COST_OF_FAILURE).max(0.0);
        });
    }

    fn with<T>(&self, address: IpAddr, now: Instant, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_ADDRESSES {
            buckets.retain(|_, bucket| self.level(bucket, now) < self.burst);
        }
        if buckets.len() >= MAX_ADDRESSES {
            // All of them have just tried: this is an attack from everywhere, and nobody is remembered.
            buckets.clear();
        }
        let bucket = buckets.entry(network(address)).or_insert(Bucket {
            tokens: self.burst,
            filled: now,
        });
        bucket.tokens = self.level(bucket, now);
        bucket.filled = now;
        act(bucket)
    }

    fn level(&self, bucket: &Bucket, now: Instant) -> f64 {
        let time = now.saturating_duration_since(bucket.filled).as_secs_f64();
        (bucket.tokens + time * self.per_second).min(self.burst)
    }
}

/// How many connections one address may have at once: somebody who opens all of them keeps everybody else out.
#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Shares {
    /// So many each.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    /// A place for one more connection of this address, if it has not as many as it may.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let address = network(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        let shares = self.clone();
        Some(Share { shares, address })
    }
}

/// One of the connections of an address, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = &self.shares.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_time_decides() {
        let limiter = RateLimiter::new(3, 2);
        let home = ip("192.0.2.1");
        assert!((0..3).all(|_| limiter.admit(home)));
        assert!(!limiter.admit(home));
        assert!(limiter.admit(ip("192.0.2.2")), "others are not concerned");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(limiter.admit(home));
        assert!(!limiter.admit(home));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_cost_more() {
        let limiter = RateLimiter::new(6, 1);
        let home = ip("192.0.2.1");
        assert!(limiter.admit(home) && limiter.may_try(home));
        limiter.failed(home);
        assert!(!limiter.admit(home) && !limiter.may_try(home));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limiter.may_try(home) && limiter.may_try(home) && limiter.admit(home));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_subscriber_count_together() {
        let limiter = RateLimiter::new(1, 1);
        assert!(limiter.admit(ip("2001:db8::1")));
        assert!(!limiter.admit(ip("2001:db8::2")));
        assert!(limiter.admit(ip("2001:db8:0:1::1")));
        assert!(limiter.admit(ip("192.0.2.1")));
        assert!(!limiter.admit(ip("::ffff:192.0.2.1")));
    }

    #[test]
    fn an_address_has_its_share_of_the_connections_and_gives_it_back() {
        let shares = Shares::new(2);
        let mut held: Vec<_> = (0..2).map(|_| shares.take(ip("2001:db8::1"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(ip("2001:db8::2")).is_none(), "the same network");
        assert!(shares.take(ip("192.0.2.1")).is_some(), "another one");
        held.pop();
        assert!(shares.take(ip("2001:db8::2")).is_some());
        held.clear();
        assert!(shares.taken.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let limiter = RateLimiter::new(2, 1);
        for number in 0..40_000_u32 {
            limiter.admit(IpAddr::V4(number.into()));
        }
        assert!(limiter.buckets.lock().unwrap().len() <= MAX_ADDRESSES);
    }
}
