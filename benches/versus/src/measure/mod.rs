//! The rows of the comparison. Each is one function that runs in a process of its own, for one
//! transport, and prints its measurements; a hang or panic of a transport costs that cell only.

mod burst;
mod close;
mod dial;
mod echo;
mod flood;
mod idle;
mod loss;
mod redial;
mod stream;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Failure, amounts::Amounts, serve::ServeArgs, table::Measurement, transports::Kind};

/// The identity seed of every listener.
const SEED: u8 = 17;

/// A row, or a group of rows that come from one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Row {
    /// Dials one after the other.
    Dial,
    /// Many dials at once.
    Burst,
    /// Throughput of one stream and the CPU time it costs.
    Stream,
    /// Memory of idle connections at the listener.
    Idle,
    /// Round trips of small messages.
    Echo,
    /// One stream over a path that loses 1 %.
    Loss,
    /// What is left after connections were closed.
    Close,
    /// Dials of a stored address, also after the listener's restart.
    Redial,
    /// Memory and service under a flood of signed STUN requests.
    Flood,
}

impl Row {
    /// Whether the row means anything for a transport.
    pub fn applies_to(self, kind: Kind) -> bool {
        self != Self::Flood || kind != Kind::Quic
    }

    /// The figure that stands for the row when the cell fails.
    pub fn headline(self) -> &'static str {
        match self {
            Self::Dial => "dial p50",
            Self::Burst => "dials at once that succeed",
            Self::Stream => "one stream, dialer to listener",
            Self::Idle => "listener memory per idle connection",
            Self::Echo => "echo of 64 bytes p50",
            Self::Loss => "one stream, 1 % loss",
            Self::Close => "memory above the start, round 1",
            Self::Redial => "re-dials that work",
            Self::Flood => "listener growth per 100,000 STUN requests",
        }
    }

    /// The longest a cell may take before it counts as hanging.
    pub fn at_most(self) -> Duration {
        Duration::from_secs(100)
    }
}

/// One row for one transport.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// The row.
    pub row: Row,
    /// The transport.
    pub kind: Kind,
    /// How much to do.
    pub amounts: Amounts,
}

impl Cell {
    /// Runs the measurement, against the clock.
    pub async fn run(self) -> Result<(), Failure> {
        let at_most = self.row.at_most();
        match tokio::time::timeout(at_most, self.measure()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no end after {} s", at_most.as_secs()).into()),
        }
    }

    /// Runs the measurement.
    async fn measure(self) -> Result<(), Failure> {
        match self.row {
            Row::Dial => dial::run(self).await,
            Row::Burst => burst::run(self).await,
            Row::Stream => stream::run(self).await,
            Row::Idle => idle::run(self).await,
            Row::Echo => echo::run(self).await,
            Row::Loss => loss::run(self).await,
            Row::Close => close::run(self).await,
            Row::Redial => redial::run(self).await,
            Row::Flood => flood::run(self).await,
        }
    }

    /// How the listener of this cell is started.
    fn listener(self, streams: bool) -> ServeArgs {
        ServeArgs {
            transport: self.kind,
            seed: SEED,
            port: 0,
            no_streams: !streams,
        }
    }

    /// Prints a figure.
    fn emit(self, what: &str, value: f64, unit: &str, note: impl Into<String>) {
        let measurement = Measurement {
            what: what.to_owned(),
            transport: self.kind,
            value: Some(value),
            unit: unit.to_owned(),
            note: note.into(),
        };
        println!("{}", measurement.line());
    }
}

/// The value below which the fraction `q` of the samples lies; 0 without samples.
fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let Some(last) = samples.len().checked_sub(1) else {
        return 0.0;
    };
    samples[(last as f64 * q).round() as usize]
}

/// The middle of the samples.
fn median(samples: &mut [f64]) -> f64 {
    quantile(samples, 0.5)
}

/// KiB as MiB.
fn mib(kib: f64) -> f64 {
    kib / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_quantiles_of_unsorted_samples() {
        let mut samples: Vec<f64> = (0..101).rev().map(f64::from).collect();
        assert_eq!(median(&mut samples), 50.0);
        assert_eq!(quantile(&mut samples, 0.99), 99.0);
        assert_eq!(median(&mut []), 0.0);
    }
}
