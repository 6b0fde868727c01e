//! Figures of a set of times.

use std::time::Duration;

use serde_json::{Value, json};

/// What is said of a set of times, in milliseconds.
pub(crate) fn of_times(times: &mut [Duration]) -> Value {
    times.sort_unstable();
    json!({
        "count": times.len(),
        "p50_ms": percentile(times, 50),
        "p90_ms": percentile(times, 90),
        "p99_ms": percentile(times, 99),
        "max_ms": percentile(times, 100),
    })
}

/// The smallest of the sorted times that so many of a hundred do not exceed, in milliseconds.
fn percentile(times: &[Duration], percent: usize) -> Option<f64> {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().map(milliseconds)
}

/// With three digits behind the point.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let mut times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let figures = of_times(&mut times);
        assert_eq!(figures["p50_ms"], 100.0);
        assert_eq!(figures["p90_ms"], 180.0);
        assert_eq!(figures["p99_ms"], 198.0);
        assert_eq!(figures["max_ms"], 200.0);
        assert_eq!(of_times(&mut [])["p50_ms"], Value::Null);
    }
}
