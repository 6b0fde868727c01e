//! What all connections of a socket together may send to addresses that have not answered: [`CheckBudget`].
//!
//! Candidates make us send checks to whatever they name. Each connection keeps a pace of its own, but a stranger may have
//! many connections, and point all of them at one address. So connectivity checks to one address share one pace, whoever
//! asked for them, until the address has answered a check of the connection: then its owner wants them.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Addresses remembered at once. One is forgotten when its bucket is full again, some milliseconds after its last check.
const MAX_TARGETS: usize = 4096;
/// How much of its pace an address may have at once: connections begin with a few checks each.
const BURST: Duration = Duration::from_millis(500);

/// How much is known of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Standing {
    /// Somebody has named it.
    Named,
    /// A check of the peer came from there, or from somebody who writes its address on what he sends: that costs him as
    /// many packets. Those who name the address take nothing from those who are there.
    Heard,
    /// It has answered a check.
    Answered,
}

/// The buckets of one socket: for each address when it will be full.
#[derive(Debug, Default)]
pub(crate) struct CheckBudget {
    full: HashMap<(IpAddr, Standing), Instant>,
}

/// What one subscriber has: an IPv4 address, or a /64 of IPv6.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        ip => ip,
    }
}

impl CheckBudget {
    /// Whether a check may be sent there now, of `per_second`.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        ip: IpAddr,
        standing: Standing,
        per_second: u32,
    ) -> bool {
        if standing == Standing::Answered {
            return true;
        }
        if self.full.len() >= MAX_TARGETS {
            self.full.retain(|_, full| *full > now);
        }
        let key = (network(ip), standing);
        if self.full.len() >= MAX_TARGETS && !self.full.contains_key(&key) {
            return false;
        }
        let cost = Duration::from_secs(1) / per_second.max(1);
        let full = self.full.entry(key).or_insert(now);
        let next = (*full).max(now) + cost;
        // One passes, however slow the pace is.
        let is_good = next <= now + BURST.max(cost);
        if is_good {
            *full = next;
        }
        is_good
    }
}

#[cfg(test)]
mod tests {
    use super::{Standing::*, *};

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a time to begin with")]
        Instant::now()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_a_burst_and_then_a_pace() {
        let (mut budget, start) = (CheckBudget::default(), start());
        let target = ip("203.0.113.1");
        let mut sent = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            sent += u32::from(budget.admit(now, target, Named, 100));
        }
        assert!((1040..=1060).contains(&sent), "{sent}");
        assert!(budget.admit(start, target, Answered, 100));
        assert!(budget.admit(start + Duration::from_secs(10), target, Heard, 100));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_others_for_themselves() {
        let (mut budget, now) = (CheckBudget::default(), start());
        let mut admit = |text| budget.admit(now, ip(text), Named, 2);
        assert!(admit("2001:db8::1"));
        assert!(!admit("2001:db8::2:1"));
        assert!(admit("2001:db8:0:1::1"));
        assert!(admit("192.0.2.1") && admit("192.0.2.2"));
        assert!(!admit("::ffff:192.0.2.1"));
    }

    #[test]
    fn addresses_are_forgotten_and_never_too_many() {
        let (mut budget, mut now) = (CheckBudget::default(), start());
        for round in 0..3_u32 {
            for number in 0..10_000_u32 {
                let target = IpAddr::V4((number + round * 10_000).into());
                budget.admit(now, target, Named, 1);
                assert!(budget.full.len() <= MAX_TARGETS);
            }
            now += Duration::from_secs(2);
            assert!(budget.admit(now, ip("203.0.113.1"), Named, 1));
        }
    }
}
