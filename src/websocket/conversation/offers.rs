//! How often a peer may offer: each offer makes keys, sockets and packets.

use std::time::{Duration, Instant};

/// Offers at once: a first one, a restart, and one for good measure.
const BURST: u32 = 4;
/// One more in this time. Dialers wait five seconds at least, and restarts are no use more often.
const REFILL: Duration = Duration::from_secs(2);

/// A bucket of tokens.
#[derive(Debug)]
pub(crate) struct Offers {
    /// When it would have been empty, had nothing been taken since.
    base: Instant,
}

impl Offers {
    /// A full one.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            base: now.checked_sub(REFILL * BURST).unwrap_or(now),
        }
    }

    /// Whether there may be one more.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        let full = now.checked_sub(REFILL * BURST).unwrap_or(self.base);
        let base = self.base.max(full);
        let is_good = base + REFILL <= now;
        self.base = if is_good { base + REFILL } else { base };
        is_good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_time_decides() {
        #[expect(clippy::disallowed_methods, reason = "a time to begin with")]
        let start = Instant::now();
        let mut offers = Offers::new(start);
        assert!((0..BURST).all(|_| offers.admit(start)));
        assert!(!offers.admit(start));
        assert!(!offers.admit(start + REFILL - Duration::from_millis(1)));
        assert!(offers.admit(start + REFILL));
        assert!(!offers.admit(start + REFILL));
        let later = start + REFILL * 100;
        assert!(
            (0..BURST).all(|_| offers.admit(later)),
            "no more than a burst is saved"
        );
        assert!(!offers.admit(later));
    }
}
