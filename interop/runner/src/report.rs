//! `docs/interop.md`: the matrix as it came out, the peers' faults with what showed them, nothing written by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use crate::{
    Failure,
    faults::{FAULTS, Fault},
    line::{Line, Record, Version, text},
    scenarios::ORDER,
};

/// What the file begins with.
const PREFACE: &str = include_str!("preface.md");
/// How much of a detail is shown as evidence.
const SHOWN: usize = 400;
/// Mark of a scenario that a peer does not have.
const NONE: &str = "–";

/// Writes the file.
pub fn write(root: &Path, records: &[Record]) -> Result<(), Failure> {
    let (mut lines, mut versions) = (Vec::new(), Vec::new());
    for record in records {
        match record {
            Record::Line(line) => lines.push(line),
            Record::Version(version) => versions.push(version),
        }
    }
    if lines.is_empty() {
        return Err("there are no results to report: run the matrix first".into());
    }
    versions.sort_by(|a, b| a.peer.cmp(&b.peer));
    let mut page = PREFACE.to_owned();
    write_versions(&mut page, &versions, &lines)?;
    write_matrix(&mut page, &lines)?;
    write_faults(&mut page, &lines)?;
    write_failures(&mut page, &lines)?;
    write_cells(&mut page, &lines)?;
    fs::write(root.join("docs/interop.md"), page)?;
    Ok(())
}

/// Which releases ran, when, with what score.
fn write_versions(page: &mut String, versions: &[&Version], lines: &[&Line]) -> std::fmt::Result {
    page.push_str("\n## Peers\n\n| peer | version | day | passed | peer's fault | failed |\n");
    page.push_str("| --- | --- | --- | ---: | ---: | ---: |\n");
    for version in versions {
        let score = Score::of(lines.iter().filter(|line| line.peer == version.peer));
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            version.peer, version.version, version.date, score.passed, score.excused, score.failed
        )?;
    }
    Ok(())
}

/// The overview: scenarios by peers.
fn write_matrix(page: &mut String, lines: &[&Line]) -> std::fmt::Result {
    let peers: BTreeSet<&str> = lines.iter().map(|line| line.peer.as_str()).collect();
    page.push_str("\n## Matrix\n\n");
    page.push_str(
        "`a / b` means that a of b cells passed; a cell is one direction with one handshake.\n\n",
    );
    let heads: Vec<&str> = peers.iter().copied().collect();
    writeln!(page, "| scenario | {} |", heads.join(" | "))?;
    writeln!(page, "| --- |{}", " --- |".repeat(heads.len()))?;
    for scenario in scenarios(lines) {
        let cells: Vec<String> = peers
            .iter()
            .map(|peer| {
                let score = Score::of(
                    lines
                        .iter()
                        .filter(|line| line.peer == *peer && line.scenario == scenario),
                );
                score.mark()
            })
            .collect();
        writeln!(page, "| {scenario} | {} |", cells.join(" | "))?;
    }
    Ok(())
}

/// The peers' faults, each with its evidence from these results.
fn write_faults(page: &mut String, lines: &[&Line]) -> std::fmt::Result {
    page.push_str("\n## Peers' faults\n\n");
    page.push_str("Cells that cannot pass whatever this crate does. A failure counts as one only if it shows the symptom;\n");
    page.push_str("all of them are tried again in every run.\n");
    let mut shown: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        if let Some(fault) = &line.peers_fault {
            shown.entry(fault).or_default().push(line);
        }
    }
    for (what, lines) in &shown {
        let peers: BTreeSet<&str> = lines.iter().map(|line| line.peer.as_str()).collect();
        let peers: Vec<&str> = peers.into_iter().collect();
        writeln!(page, "\n### {}\n\n{what}.\n", peers.join(", "))?;
        let names: BTreeSet<String> = lines
            .iter()
            .map(|line| format!("{} ({}, {})", line.scenario, line.direction, line.ice))
            .collect();
        let names: Vec<String> = names.into_iter().collect();
        writeln!(page, "Seen in: {}. For example:\n", names.join(", "))?;
        if let Some(first) = lines.first() {
            writeln!(page, "    {}", evidence(first))?;
        }
    }
    let ran = |fault: &&Fault| lines.iter().any(|line| line.peer.starts_with(fault.peers));
    let unseen: Vec<&Fault> = FAULTS
        .iter()
        .filter(ran)
        .filter(|fault| !shown.contains_key(fault.what))
        .collect();
    if !unseen.is_empty() {
        page.push_str("\n### Known, but not seen in this run\n\n");
        for fault in unseen {
            writeln!(page, "* {}: {}.", fault.peers, fault.what)?;
        }
    }
    Ok(())
}

/// What failed through no known fault of a peer.
fn write_failures(page: &mut String, lines: &[&Line]) -> std::fmt::Result {
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| !line.ok && line.peers_fault.is_none())
        .collect();
    page.push_str("\n## Failures\n\n");
    if failed.is_empty() {
        page.push_str("None.\n");
    }
    let again: Vec<_> = lines
        .iter()
        .filter_map(|line| Some((line, line.first_failure.as_ref().filter(|_| line.ok)?)))
        .collect();
    if !again.is_empty() {
        page.push_str("\nPassed at the second try only:\n\n");
    }
    for (line, first) in again {
        let words: String = first
            .replace(['\n', '\r'], " ")
            .chars()
            .take(SHOWN)
            .collect();
        writeln!(
            page,
            "* {}, {}, {}, {}: first `{}`",
            line.peer,
            line.direction,
            line.ice,
            line.scenario,
            words.replace('`', "'")
        )?;
    }
    for line in failed {
        writeln!(
            page,
            "* {}, {}, {}, {}: `{}`",
            line.peer,
            line.direction,
            line.ice,
            line.scenario,
            evidence(line).replace('`', "'")
        )?;
    }
    Ok(())
}

/// The times: one table per peer.
fn write_cells(page: &mut String, lines: &[&Line]) -> std::fmt::Result {
    page.push_str("\n## Times\n\nMilliseconds, as the dialer measured them.\n");
    let peers: BTreeSet<&str> = lines.iter().map(|line| line.peer.as_str()).collect();
    for peer in peers {
        let of_peer: Vec<&Line> = lines
            .iter()
            .copied()
            .filter(|line| line.peer == peer)
            .collect();
        let mut cells: Vec<(&str, &str)> = Vec::new();
        for line in &of_peer {
            let cell = (line.direction.as_str(), line.ice.as_str());
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        let heads: Vec<String> = cells
            .iter()
            .map(|(direction, ice)| format!("{direction}, {ice}"))
            .collect();
        writeln!(page, "\n### {peer}\n\n| scenario | {} |", heads.join(" | "))?;
        writeln!(page, "| --- |{}", " ---: |".repeat(heads.len()))?;
        for scenario in scenarios(&of_peer) {
            let marks: Vec<String> = cells
                .iter()
                .map(|(direction, ice)| {
                    let found = of_peer.iter().find(|line| {
                        line.scenario == scenario
                            && line.direction == *direction
                            && line.ice == *ice
                    });
                    found.map_or_else(|| NONE.to_owned(), |line| mark(line))
                })
                .collect();
            writeln!(page, "| {scenario} | {} |", marks.join(" | "))?;
        }
    }
    Ok(())
}

/// One cell of a table of times.
fn mark(line: &Line) -> String {
    match (line.ok, &line.peers_fault) {
        (true, _) if line.ms >= 10.0 => format!("{:.0}", line.ms),
        (true, _) => format!("{:.1}", line.ms),
        (false, Some(_)) => "peer's fault".to_owned(),
        (false, None) => "**failed**".to_owned(),
    }
}

/// The scenarios that occur: those of the matrix in its order, then the others.
fn scenarios<'a>(lines: &[&'a Line]) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for line in lines {
        if !found.contains(&line.scenario.as_str()) {
            found.push(&line.scenario);
        }
    }
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    found.sort_by_key(|name| place(name).unwrap_or(ORDER.len()));
    found
}

/// The first words of what went wrong, on one line.
fn evidence(line: &Line) -> String {
    let words = text(&line.detail).replace(['\n', '\r'], " ");
    words.chars().take(SHOWN).collect()
}

/// How many cells came out how.
#[derive(Default)]
struct Score {
    passed: usize,
    excused: usize,
    failed: usize,
}

impl Score {
    /// Counts.
    fn of<'a, 'b: 'a>(lines: impl Iterator<Item = &'a &'b Line>) -> Self {
        let mut score = Self::default();
        for line in lines {
            match (line.ok, &line.peers_fault) {
                (true, _) => score.passed += 1,
                (false, Some(_)) => score.excused += 1,
                (false, None) => score.failed += 1,
            }
        }
        score
    }

    /// A cell of the overview.
    fn mark(&self) -> String {
        let all = self.passed + self.excused + self.failed;
        match self {
            _ if all == 0 => NONE.to_owned(),
            Self { failed: 1.., .. } => format!("**failed** {} / {all}", self.passed),
            Self { excused: 0, .. } => format!("ok {} / {all}", self.passed),
            Self { passed: 0, .. } => "peer's fault".to_owned(),
            _ => format!("{} / {all}, peer's fault", self.passed),
        }
    }
}
