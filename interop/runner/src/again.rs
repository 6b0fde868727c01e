//! The second try of what failed without showing a known fault of its peer.
//!
//! Hundreds of scenarios with real programs on a busy machine have races that none of the two sides can help. Such a
//! scenario is tried once more, with fresh programs and nothing beside it. It passes only then, the line keeps what
//! went wrong first, and the summary and the report name it: a fault that shows now and then stays visible.

use std::{collections::BTreeMap, path::Path};

use crate::{
    Failure, browsers, cells,
    line::{Line, Record, text},
    output::Output,
    peers::PEERS,
    scenarios::{
        CLOSE_BY_DIALER, CLOSE_BY_LISTENER, COOKIE, DIALER_KILLED, DIALS, FIRST_RUN, IDLE,
        LISTENER_KILLED, RESTART, SAME_CERTHASH, SECOND_RUN, SMALL_MESSAGES,
    },
    stage::{ANYWHERE, Cell, Outcome},
};

/// Tries all failures once more.
pub async fn try_again(root: &Path, idle: u64, output: &Output) {
    let mut of_browsers: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for first in output.failures() {
        let peer = PEERS.iter().find(|peer| peer.name == first.peer);
        let Some(peer) = peer else {
            of_browsers
                .entry(first.peer.clone())
                .or_default()
                .push(first);
            continue;
        };
        let cell = cells(root, peer)
            .into_iter()
            .find(|cell| cell.direction.name() == first.direction && cell.ice == first.ice);
        if let Some(cell) = cell
            && let Some(outcome) = scenario(&cell, &first.scenario, idle).await
        {
            output.second(&first, cell.line(&first.scenario, outcome));
        }
    }
    for (name, failures) in of_browsers {
        let second = Output::default();
        if browsers::run(root, &name, idle, &second).await.is_err() {
            continue;
        }
        for first in failures {
            let found = second
                .records()
                .into_iter()
                .find_map(|record| match record {
                    Record::Line(line) if line.is_same_cell(&first) => Some(line),
                    _ => None,
                });
            if let Some(line) = found {
                output.second(&first, line);
            }
        }
        output.adopt(second.records());
    }
}

/// One scenario by itself; none of that name, no outcome.
async fn scenario(cell: &Cell, name: &str, idle: u64) -> Option<Outcome> {
    Some(match name {
        CLOSE_BY_LISTENER => cell.close_by_listener().await,
        CLOSE_BY_DIALER => cell.close_by_dialer().await,
        RESTART => cell.restart().await,
        COOKIE => cell.with_cookie().await,
        IDLE => cell.idle(idle).await,
        LISTENER_KILLED | DIALER_KILLED => cell.kill(name == LISTENER_KILLED).await,
        SMALL_MESSAGES => cell.small_messages().await,
        SAME_CERTHASH => cell.same_certhash().await,
        DIALS => match cell.listen(ANYWHERE, &[]).await {
            Ok(listener) => cell.repeat(&listener).await,
            Err(error) => Err(error),
        },
        _ => {
            let one = FIRST_RUN
                .iter()
                .chain(SECOND_RUN)
                .copied()
                .find(|one| one.name == name)?;
            let outcome: Result<Outcome, Failure> = async {
                let listener = cell.listen(ANYWHERE, &[]).await?;
                let mut outcomes = cell.series(&listener, &[one]).await;
                let (_, outcome) = outcomes.pop().ok_or("nothing came of it")?;
                Ok(outcome)
            }
            .await;
            outcome.unwrap_or_else(Err)
        }
    })
}

impl Output {
    /// What failed through no known fault of a peer.
    fn failures(&self) -> Vec<Line> {
        let lines = self
            .records()
            .into_iter()
            .filter_map(|record| match record {
                Record::Line(line) if !line.ok && line.peers_fault.is_none() => Some(line),
                _ => None,
            });
        lines.collect()
    }

    /// What a first try that broke off did not come to: it counts as if it had. The second one has printed it.
    fn adopt(&self, second: Vec<Record>) {
        for record in second {
            let Record::Line(line) = &record else {
                continue;
            };
            let is_known =
                |known: &Record| matches!(known, Record::Line(known) if known.is_same_cell(line));
            if !self.records().iter().any(is_known) {
                self.keep(record);
            }
        }
    }

    /// The second try of a failure: it stands, with the evidence of the first.
    fn second(&self, first: &Line, mut line: Line) {
        line.first_failure = Some(text(&first.detail));
        self.replace(first, line);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(scenario: &str, ok: bool, detail: &str) -> Line {
        Line {
            peer: "self".to_owned(),
            direction: "we-dial".to_owned(),
            ice: "v1".to_owned(),
            scenario: scenario.to_owned(),
            ok,
            ms: 0.0,
            detail: json!(detail),
            peers_fault: None,
            first_failure: None,
        }
    }

    #[test]
    fn a_second_try_takes_the_place_of_the_first_and_keeps_its_evidence() {
        let output = Output::default();
        output.line(line("connect", true, ""));
        output.line(line("reset", false, "too late"));
        let failures = output.failures();
        assert_eq!(failures.len(), 1);
        output.second(&failures[0], line("reset", true, ""));
        assert!(output.summary());
        assert_eq!(output.records().len(), 2);
        let kept = output.records().into_iter().any(|record| {
            matches!(record, Record::Line(line) if line.first_failure.as_deref() == Some("too late"))
        });
        assert!(kept);

        let output = Output::default();
        output.line(line("reset", false, "too late"));
        output.second(
            &line("reset", false, "too late"),
            line("reset", false, "again"),
        );
        assert!(!output.summary(), "two failures are a failure");
    }

    #[test]
    fn what_only_the_second_try_came_to_counts() {
        let output = Output::default();
        output.line(line("connect", false, "lost"));
        output.second(&line("connect", false, "lost"), line("connect", true, ""));
        let second = Output::default();
        second.line(line("connect", true, ""));
        second.line(line("reset", true, ""));
        output.adopt(second.records());
        assert_eq!(output.records().len(), 2);
        assert!(output.summary());
        second.line(line("idle", false, "gone"));
        output.adopt(second.records());
        assert!(!output.summary(), "a failure of the second try is one");
    }
}
