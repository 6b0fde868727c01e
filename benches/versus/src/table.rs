//! Measurements as JSON lines and as the markdown table at the end.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::transports::Kind;

/// One figure of one transport.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured; the row of the table.
    pub what: String,
    /// Of which transport.
    pub transport: Kind,
    /// The figure, absent when the measurement failed.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: String,
    /// The amount behind it, or why there is no figure.
    pub note: String,
}

impl Measurement {
    /// The JSON line of this measurement.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("a measurement has only string keys")
    }
}

/// The markdown table: one row per kind of figure in order of first appearance, one column per
/// transport, and the notes below it.
pub fn markdown(measurements: &[Measurement], kinds: &[Kind]) -> String {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for m in measurements {
        match rows.iter_mut().find(|(what, _)| *what == m.what) {
            Some((_, unit)) if unit.is_empty() => *unit = &m.unit,
            Some(_) => {}
            None => rows.push((&m.what, &m.unit)),
        }
    }
    let mut out = String::from("| what | unit |");
    for kind in kinds {
        let _ = write!(out, " {} |", kind.name());
    }
    out.push_str("\n| --- | --- |");
    out.push_str(&" ---: |".repeat(kinds.len()));
    out.push('\n');
    for (what, unit) in &rows {
        let _ = write!(out, "| {what} | {unit} |");
        for kind in kinds {
            let _ = write!(out, " {} |", cell(measurements, what, *kind));
        }
        out.push('\n');
    }
    out.push_str("\nAmounts and remarks:\n\n");
    for m in measurements.iter().filter(|m| !m.note.is_empty()) {
        let _ = writeln!(out, "* {}, {}: {}", m.what, m.transport.name(), m.note);
    }
    out
}

/// The text of one cell.
fn cell(measurements: &[Measurement], what: &str, kind: Kind) -> String {
    match measurements
        .iter()
        .find(|m| m.what == what && m.transport == kind)
    {
        None => "-".to_owned(),
        Some(m) => m.value.map_or_else(|| "failed".to_owned(), number),
    }
}

/// A figure with about three digits that matter.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v == v.trunc() || v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A measurement for the tests.
    fn measurement(what: &str, transport: Kind, value: Option<f64>) -> Measurement {
        Measurement {
            what: what.to_owned(),
            transport,
            value,
            unit: "ms".to_owned(),
            note: String::new(),
        }
    }

    #[test]
    fn puts_every_transport_in_its_column() {
        let all = [
            measurement("dial", Kind::Quic, Some(1.234)),
            measurement("dial", Kind::Webrtc, None),
            measurement("echo", Kind::Quic, Some(250.4)),
        ];
        let table = markdown(&all, &[Kind::Webrtc, Kind::Quic]);
        assert!(table.contains("| dial | ms | failed | 1.23 |"), "{table}");
        assert!(table.contains("| echo | ms | - | 250 |"), "{table}");
    }
}
