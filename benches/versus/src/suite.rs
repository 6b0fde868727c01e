//! The whole comparison: every row for every transport, each in a process of its own, and the
//! table at the end.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use clap::ValueEnum as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
};

use crate::{
    Failure,
    measure::Row,
    table::{self, Measurement},
    transports::Kind,
};

/// How long a cell may take to end after its time is over.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the chosen rows for the chosen transports (all where none is chosen). Fails if a cell of
/// this repository's transport failed; failures of the others are results.
pub async fn run(rows: &[Row], kinds: &[Kind], quick: bool) -> Result<(), Failure> {
    let rows = if rows.is_empty() {
        Row::value_variants()
    } else {
        rows
    };
    let kinds = if kinds.is_empty() {
        Kind::all()
    } else {
        kinds.to_vec()
    };
    let start = Instant::now();
    let mut all = Vec::new();
    for row in rows {
        for kind in &kinds {
            if row.applies_to(*kind) {
                all.extend(cell(*row, *kind, quick).await?);
            }
        }
    }
    println!("\n{}", table::markdown(&all, &kinds));
    println!("Took {:.0} s.", start.elapsed().as_secs_f64());
    let failed = all
        .iter()
        .filter(|m| m.transport == Kind::Rtc && m.value.is_none())
        .count();
    if failed > 0 {
        return Err(format!("{failed} measurements of rtc failed").into());
    }
    Ok(())
}

/// Runs one cell and passes its lines on; a failure becomes a measurement without a value.
async fn cell(row: Row, kind: Kind, quick: bool) -> Result<Vec<Measurement>, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let name = row.to_possible_value().ok_or("a row without a name")?;
    command
        .args(["cell", "--row", name.get_name()])
        .args(["--transport", kind.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if quick {
        command.arg("--quick");
    }
    let mut process = command.spawn()?;
    let mut lines = BufReader::new(process.stdout.take().ok_or("a cell without stdout")?).lines();
    let mut errors = process.stderr.take().ok_or("a cell without stderr")?;
    let errors = tokio::spawn(async move {
        let mut text = Vec::new();
        drop(errors.read_to_end(&mut text).await);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut results = Vec::new();
    let work = async {
        while let Some(line) = lines.next_line().await? {
            println!("{line}");
            results.push(serde_json::from_str::<Measurement>(&line)?);
        }
        Ok::<_, Failure>(process.wait().await?)
    };
    // A cell watches its own clock; this is for one that cannot.
    let fault = match tokio::time::timeout(row.at_most() + GRACE, work).await {
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(_)) => Some(last_line(&errors.await?)),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => {
            process.kill().await?;
            Some(format!(
                "killed after {} s",
                (row.at_most() + GRACE).as_secs()
            ))
        }
    };
    if let Some(fault) = fault {
        let failed = Measurement {
            what: row.headline().to_owned(),
            transport: kind,
            value: None,
            unit: String::new(),
            note: fault,
        };
        println!("{}", failed.line());
        results.push(failed);
    }
    Ok(results)
}

/// The last line of a text that says anything.
fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("ended without a word").to_owned()
}
