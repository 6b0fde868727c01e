//! The results: what is printed, stored and reported.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Failure;

/// What came of one scenario in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The peer.
    pub peer: String,
    /// Who dials: `we-dial` or `it-dials`.
    pub direction: String,
    /// The handshake asked for.
    pub ice: String,
    /// What was tried.
    pub scenario: String,
    /// Whether it worked.
    pub ok: bool,
    /// How long it took: what the program measured, else the whole of it.
    pub ms: f64,
    /// What came out, or what went wrong with the evidence.
    #[serde(default)]
    pub detail: Value,
    /// The fault of the peer that explains the failure.
    #[serde(
        rename = "peer's fault",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub peers_fault: Option<String>,
    /// What went wrong at the first try, if this is the second.
    #[serde(
        rename = "first failure",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub first_failure: Option<String>,
}

impl Line {
    /// Whether both are about the same scenario in the same cell.
    pub fn is_same_cell(&self, other: &Self) -> bool {
        (&self.peer, &self.direction, &self.ice, &self.scenario)
            == (&other.peer, &other.direction, &other.ice, &other.scenario)
    }
}

/// Which release of a peer ran, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The peer.
    pub peer: String,
    /// What its program says.
    pub version: String,
    /// The day of the run.
    pub date: String,
    /// How many seconds its quick cells took, 0 where that is not known.
    #[serde(default)]
    pub seconds: u64,
}

/// One line of the results file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// A result.
    Line(Line),
    /// A version.
    Version(Version),
}

impl Record {
    /// The peer it is about.
    fn peer(&self) -> &str {
        match self {
            Self::Line(line) => &line.peer,
            Self::Version(version) => &version.peer,
        }
    }
}

/// The detail of a result as text.
pub fn text(detail: &Value) -> String {
    detail
        .as_str()
        .map_or_else(|| detail.to_string(), ToOwned::to_owned)
}

/// Milliseconds with one digit behind the point.
pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// All records of a results file; none if there is no such file.
pub fn load(path: &Path) -> Result<Vec<Record>, Failure> {
    let Ok(content) = fs::read_to_string(path) else {
        return Ok(Vec::new());
    };
    content
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| format!("{line}: {error}").into()))
        .collect()
}

/// Writes the new records, and keeps the old ones of peers that were not part of this run.
pub fn store(path: &Path, new: &[Record]) -> Result<(), Failure> {
    let fresh: BTreeSet<&str> = new.iter().map(Record::peer).collect();
    // A file of an older form is worth nothing.
    let old = load(path).unwrap_or_default();
    let mut content = String::new();
    for record in old
        .iter()
        .filter(|old| !fresh.contains(old.peer()))
        .chain(new)
    {
        content.push_str(&serde_json::to_string(record)?);
        content.push('\n');
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)?;
    Ok(())
}
