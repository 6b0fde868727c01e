//! The figures of the perf suite.

use std::fmt::{self, Display, Formatter};

/// Five figures, with the outliers (beyond 1.5 interquartile ranges) left out of the extremes.
#[derive(Debug, PartialEq)]
pub(crate) struct Statistics {
    min: f64,
    q1: f64,
    median: f64,
    q3: f64,
    max: f64,
    outliers: Vec<f64>,
    samples: Vec<f64>,
}

impl Statistics {
    /// None without samples.
    pub(crate) fn new(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let (q1, median, q3) = (
            quantile(&samples, 0.25)?,
            quantile(&samples, 0.5)?,
            quantile(&samples, 0.75)?,
        );
        let fence = 1.5 * (q3 - q1);
        let (inside, outliers): (Vec<f64>, Vec<f64>) = samples
            .iter()
            .partition(|sample| (q1 - fence..=q3 + fence).contains(*sample));
        Some(Self {
            min: *inside.first().or(samples.first())?,
            q1,
            median,
            q3,
            max: *inside.last().or(samples.last())?,
            outliers,
            samples,
        })
    }

    /// A mapping of the report.
    pub(crate) fn section(&self, name: &str, unit: Unit) -> String {
        let list = |values: &[f64]| {
            let texts: Vec<String> = values.iter().map(|value| unit.text(*value)).collect();
            texts.join(", ")
        };
        let mut text = format!("{name}:\n  iterations: {}\n", self.samples.len());
        for (field, value) in [
            ("min", self.min),
            ("q1", self.q1),
            ("median", self.median),
            ("q3", self.q3),
            ("max", self.max),
        ] {
            text += &format!("  {field}: {}\n", unit.text(value));
        }
        text + &format!(
            "  outliers: [{}]\n  samples: [{}]\n  unit: {unit}\n",
            list(&self.outliers),
            list(&self.samples)
        )
    }
}

/// Linear between the samples, which are sorted.
fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let place = share * samples.len().checked_sub(1)? as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    Some(samples[low] + (samples[high] - samples[low]) * place.fract())
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    Gbps,
    Milliseconds,
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::Gbps => format!("{value:.2}"),
            Self::Milliseconds => format!("{value:.3}"),
        }
    }
}

impl Display for Unit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gbps => "Gbps",
            Self::Milliseconds => "ms",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Statistics, Unit};

    #[test]
    fn outliers_do_not_count_as_extremes() {
        let statistics = Statistics::new(vec![5.0, 1.0, 2.0, 3.0, 4.0, 100.0]).unwrap();
        assert_eq!(statistics.outliers, [100.0]);
        assert_eq!((statistics.min, statistics.max), (1.0, 5.0));
        assert_eq!(
            (statistics.q1, statistics.median, statistics.q3),
            (2.25, 3.5, 4.75)
        );
    }

    #[test]
    fn one_sample_is_all_of_them_and_none_is_nothing() {
        let statistics = Statistics::new(vec![7.0]).unwrap();
        assert_eq!(
            (statistics.min, statistics.median, statistics.max),
            (7.0, 7.0, 7.0)
        );
        assert_eq!(Statistics::new(Vec::new()), None);
    }

    #[test]
    fn a_section_is_indented_by_two_spaces() {
        let text = Statistics::new(vec![1.0, 2.0])
            .unwrap()
            .section("upload", Unit::Gbps);
        assert_eq!(
            text,
            "upload:\n  iterations: 2\n  min: 1.00\n  q1: 1.25\n  median: 1.50\n  q3: 1.75\n  max: 2.00\n  \
             outliers: []\n  samples: [1.00, 2.00]\n  unit: Gbps\n"
        );
    }
}
