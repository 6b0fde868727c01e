//! Where results go: printed at once, kept for the file, counted.

use std::{
    io::Write as _,
    sync::{Mutex, PoisonError},
};

use crate::{
    faults::explain,
    line::{Line, Record, Version, text},
};

/// The results of a run.
#[derive(Debug, Default)]
pub struct Output {
    records: Mutex<Vec<Record>>,
}

impl Output {
    /// Takes a result; says whether it worked.
    pub fn line(&self, mut line: Line) -> bool {
        if !line.ok && line.peers_fault.is_none() {
            line.peers_fault = explain(&line).map(|fault| fault.what.to_owned());
        }
        let ok = line.ok;
        self.record(Record::Line(line));
        ok
    }

    /// Puts a second try in the place of the first.
    pub fn replace(&self, first: &Line, mut line: Line) {
        if !line.ok && line.peers_fault.is_none() {
            line.peers_fault = explain(&line).map(|fault| fault.what.to_owned());
        }
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|record| !matches!(record, Record::Line(old) if old.is_same_cell(first)));
        drop(records);
        self.record(Record::Line(line));
    }

    /// Takes a version.
    pub fn version(&self, version: Version) {
        self.record(Record::Version(version));
    }

    /// Prints and keeps.
    fn record(&self, record: Record) {
        if let Ok(text) = serde_json::to_string(&record) {
            print(&text);
        }
        self.keep(record);
    }

    /// Keeps what is printed already.
    pub fn keep(&self, record: Record) {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(record);
    }

    /// Everything so far.
    pub fn records(&self) -> Vec<Record> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.clone()
    }

    /// Prints the failures again and the score; true if nothing failed through no known fault of a peer.
    pub fn summary(&self) -> bool {
        let (mut passed, mut excused, mut failed) = (0, 0, 0);
        for record in self.records() {
            let Record::Line(line) = record else {
                continue;
            };
            if let (true, Some(first)) = (line.ok, &line.first_failure) {
                print(&format!(
                    "AT THE SECOND TRY {} {} {} {}, first: {first}",
                    line.peer, line.direction, line.ice, line.scenario
                ));
            }
            match (line.ok, &line.peers_fault) {
                (true, _) => passed += 1,
                (false, Some(_)) => excused += 1,
                (false, None) => {
                    failed += 1;
                    let detail = text(&line.detail);
                    print(&format!(
                        "FAILED {} {} {} {}: {detail}",
                        line.peer, line.direction, line.ice, line.scenario
                    ));
                }
            }
        }
        print(&format!("{excused} cells fail through the peer's fault"));
        print(&format!("{passed} passed, {failed} failed"));
        failed == 0
    }
}

/// Prints a line at once, even into a pipe.
pub fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    // Nobody can be told when the output is gone.
    drop(writeln!(output, "{text}"));
    drop(output.flush());
}
