//! The browsers: `interop/js/run.mjs` drives them and prints lines of the same kind, which are taken over here.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    Failure,
    line::{Line, text},
    output::{Output, print},
    peers::OURS,
    scenarios::{CLOSE_BY_DIALER, CLOSE_BY_LISTENER},
};

/// The longest one browser may take.
const AT_MOST: Duration = Duration::from_secs(8 * 60);

/// Other names of the same scenarios.
const ALIASES: [(&str, &str); 2] = [
    ("connection-close", CLOSE_BY_DIALER),
    ("remote-close", CLOSE_BY_LISTENER),
];

/// Runs one browser through all of its cells. The versions it tells of are given back by peer.
pub async fn run(
    root: &Path,
    browser: &str,
    idle: u64,
    output: &Output,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut child = Command::new("node")
        .arg(root.join("interop/js/run.mjs"))
        .arg("--node")
        .arg(root.join(OURS[0]))
        .args(["--only", browser, "--idle", &idle.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let mut versions = BTreeMap::new();
    let mut failures = 0;
    let work = async {
        while let Some(line) = lines.next_line().await? {
            let Ok(value) = serde_json::from_str::<Value>(&line) else {
                // What cannot run is said in other words.
                if line.starts_with("SKIPPED") {
                    print(&line);
                }
                continue;
            };
            if let (Some(peer), Some(version)) = (value["peer"].as_str(), value["version"].as_str())
            {
                versions.insert(peer.to_owned(), version.to_owned());
            }
            let Some(line) = parse(value) else {
                continue;
            };
            failures += usize::from(!line.ok);
            output.line(line);
        }
        child.wait().await
    };
    let status = match tokio::time::timeout(AT_MOST, work).await {
        Ok(status) => status?,
        Err(_) => return Err(format!("no end after {} s", AT_MOST.as_secs()).into()),
    };
    if !status.success() && failures == 0 {
        return Err(format!("run.mjs ended with {status}").into());
    }
    if versions.is_empty() && failures == 0 {
        return Err("run.mjs printed no result".into());
    }
    Ok(versions)
}

/// A result among what is printed.
fn parse(value: Value) -> Option<Line> {
    let mut line: Line = serde_json::from_value(value).ok()?;
    if line.direction == "it-is-dialed" {
        "we-dial".clone_into(&mut line.direction);
    }
    if let Some((_, name)) = ALIASES.iter().find(|(alias, _)| *alias == line.scenario) {
        (*name).clone_into(&mut line.scenario);
    }
    if !line.ok {
        line.detail = Value::from(text(&line.detail));
    }
    Some(line)
}
