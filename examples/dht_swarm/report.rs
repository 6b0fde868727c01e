//! The figures of a trial, and their table.

use std::{error::Error, fs, io};

use serde_json::{Value, json};

/// The figures of one transport.
#[derive(Debug)]
pub(crate) struct Report {
    /// The transport's name.
    pub(crate) name: String,
    /// What was measured and its value, in the order of the table.
    pub(crate) rows: Vec<(String, String)>,
    /// Why the trial did not hold, if it did not.
    pub(crate) failure: Option<String>,
}

impl Report {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rows: Vec::new(),
            failure: None,
        }
    }

    pub(crate) fn row(&mut self, what: &str, value: impl ToString) {
        self.rows.push((what.to_owned(), value.to_string()));
    }

    /// Notes what was expected and is not so.
    pub(crate) fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }

    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn to_json(&self) -> String {
        json!({ "name": self.name, "rows": self.rows, "failure": self.failure }).to_string()
    }

    pub(crate) fn from_json(text: &str) -> Result<Self, Box<dyn Error>> {
        let value: Value = serde_json::from_str(text)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = value["rows"].as_array().ok_or("no rows")?;
        Ok(Self {
            name: text(&value["name"]),
            rows: rows
                .iter()
                .map(|row| (text(&row[0]), text(&row[1])))
                .collect(),
            failure: value["failure"].as_str().map(str::to_owned),
        })
    }
}

/// Several transports side by side; all have the same rows.
pub(crate) fn table(reports: &[Report]) -> String {
    let mut lines = Vec::new();
    let names: Vec<_> = reports.iter().map(|report| report.name.as_str()).collect();
    lines.push(format!("| what | {} |", names.join(" | ")));
    lines.push(format!("| --- |{}", " ---: |".repeat(reports.len())));
    for at in 0..reports
        .iter()
        .map(|report| report.rows.len())
        .max()
        .unwrap_or(0)
    {
        let what = reports
            .iter()
            .find_map(|report| report.rows.get(at))
            .map_or("", |row| &row.0);
        let values = reports
            .iter()
            .map(|report| report.rows.get(at).map_or("-", |row| &row.1));
        lines.push(format!(
            "| {what} | {} |",
            values.collect::<Vec<_>>().join(" | ")
        ));
    }
    lines.join("\n")
}

/// Resident memory of this process, in KiB; proc_pid_status(5).
pub(crate) fn resident_kib() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = field.and_then(|rest| rest.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/status has no VmRSS"))
}
