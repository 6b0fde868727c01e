//! `rust-upstream run`: tries a node program against this peer, in both directions.
//!
//! One JSON line per cell, then `N passed, N failed`. A cell that fails only because of a fault of
//! the peer is marked with that fault (see `faults.rs`) and counted by itself.

mod cells;
mod faults;
mod process;
mod stage;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use serde_json::json;

use crate::{
    Failure, print,
    runner::cells::{Cell, Direction, Outcome},
};

/// The options of `run`.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    /// The program to test: a `node` with `listen` and `dial`.
    #[arg(long)]
    node: PathBuf,
    /// Seconds of the idle scenario.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Runs only cells whose scenario contains this text.
    #[arg(long)]
    only: Option<String>,
    /// Runs only one direction.
    #[arg(long)]
    direction: Option<Direction>,
}

/// One line of the results.
#[derive(Debug, Serialize)]
struct Line {
    /// This peer.
    peer: &'static str,
    /// Who dials.
    direction: Direction,
    /// The handshake version.
    ice: &'static str,
    /// What was tried.
    scenario: String,
    /// Whether it worked.
    ok: bool,
    /// How long it took.
    ms: f64,
    /// What came out, or what went wrong with the evidence.
    detail: String,
    /// The fault of the peer that explains the failure.
    #[serde(rename = "peer's fault", skip_serializing_if = "Option::is_none")]
    peers_fault: Option<&'static str>,
}

/// Runs all cells; true if none failed for a reason of ours.
pub async fn run(args: RunArgs) -> Result<bool, Failure> {
    let idle = Duration::from_secs(args.idle);
    let (mut passed, mut failed, mut excused) = (0, 0, 0);
    for cell in cells::all(idle) {
        let wanted = args
            .only
            .as_ref()
            .is_none_or(|only| cell.scenario.contains(only.as_str()))
            && args.direction.is_none_or(|only| only == cell.direction);
        if !wanted {
            continue;
        }
        let line = line(&cell, cell.run(&args.node).await);
        match (line.ok, line.peers_fault) {
            (true, _) => passed += 1,
            (false, Some(_)) => excused += 1,
            (false, None) => failed += 1,
        }
        print(&json!(line));
    }
    println!("{excused} cells cannot work because of the peer's own faults");
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// The line of a cell.
fn line(cell: &Cell, outcome: Outcome) -> Line {
    Line {
        peer: "rust-upstream",
        direction: cell.direction,
        ice: cell.ice,
        scenario: cell.scenario.to_owned(),
        ok: outcome.ok,
        ms: (outcome.took.as_secs_f64() * 1e4).round() / 10.0,
        peers_fault: if outcome.ok {
            None
        } else {
            faults::explain(cell, &outcome.detail)
        },
        detail: outcome.detail,
    }
}
