//! Programs of a cell: started with a JSON-lines output that is collected line by line, ended by signal, and never left
//! behind.

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use crate::Failure;

/// How much of a program's error output is kept.
const KEPT: usize = 400;
/// How much of one line of it is shown.
const SHOWN: usize = 300;
/// Lines that wait to be looked at, far more than a scenario prints; those beyond are lost.
const MAX_LINES: usize = 16 * 1024;
/// How long a program may take to end when it is asked to.
const ENDING: Duration = Duration::from_secs(5);
/// Log lines that tell of known troubles.
const TROUBLES: [&str; 4] = [
    "panicked at",
    "already exists a stream",
    "read buffer full, dropping message",
    "received non-stun packet without existing connection",
];

/// A running program.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<Value>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts a program with `args` behind the words of its command; `log` becomes its `RUST_LOG`.
    pub fn start(command: &[String], args: &[String], log: &str) -> Result<Self, Failure> {
        let (program, first) = command.split_first().ok_or("no command")?;
        let mut child = Command::new(program)
            .args(first)
            .args(args)
            .env("RUST_LOG", log)
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let output = child.stdout.take().ok_or("no stdout")?;
        let complaints = child.stderr.take().ok_or("no stderr")?;
        let (sender, lines) = mpsc::channel(MAX_LINES);
        tokio::spawn(read_lines(output, move |line| {
            if let Ok(value) = serde_json::from_str(&line) {
                drop(sender.try_send(value));
            }
        }));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&errors);
        tokio::spawn(read_lines(complaints, move |line| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT {
                kept.push(line);
            }
        }));
        Ok(Self {
            child,
            lines,
            errors,
        })
    }

    /// The first line from now on that `wanted` picks something from, within `at_most`.
    pub async fn wait_for<T>(
        &mut self,
        at_most: Duration,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let search = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(found) = wanted(&line) {
                    return Some(found);
                }
            }
            None
        };
        tokio::time::timeout(at_most, search).await.ok().flatten()
    }

    /// All lines until the program ends, and whether it ended well; `None` when it had to be killed after `at_most`.
    pub async fn finish(&mut self, at_most: Duration) -> (Vec<Value>, Option<bool>) {
        let mut all = Vec::new();
        let work = async {
            while let Some(line) = self.lines.recv().await {
                all.push(line);
            }
            self.child.wait().await.map(|status| status.success())
        };
        match tokio::time::timeout(at_most, work).await {
            Ok(Ok(good)) => (all, Some(good)),
            Ok(Err(_)) => (all, Some(false)),
            Err(_) => {
                self.kill().await;
                (all, None)
            }
        }
    }

    /// Forgets the error output so far: it is about another scenario.
    pub fn forget(&self) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.clear();
    }

    /// What the error output tells of a failure: the last line, and lines of known troubles.
    pub fn evidence(&self) -> Vec<String> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<&String> = Vec::new();
        for trouble in TROUBLES {
            found.extend(errors.iter().find(|line| line.contains(trouble)));
        }
        // What is logged below `warn` is no complaint.
        let last = errors.iter().rev().find(|line| {
            !line.trim().is_empty() && !line.contains(" DEBUG ") && !line.contains(" INFO ")
        });
        if let Some(last) = last
            && !found.contains(&last)
        {
            found.push(last);
        }
        found
            .into_iter()
            .map(|line| line.chars().take(SHOWN).collect())
            .collect()
    }

    /// Asks the program to end, as `kill` does, and waits until it has. An error if it does not, or not well.
    pub async fn terminate(&mut self) -> Result<(), Failure> {
        let pid = self.child.id().ok_or("the program has ended by itself")?;
        Command::new("kill").arg(pid.to_string()).status().await?;
        let Ok(ended) = tokio::time::timeout(ENDING, self.child.wait()).await else {
            self.kill().await;
            return Err(format!("does not end {} s after SIGTERM", ENDING.as_secs()).into());
        };
        match ended? {
            status if status.success() => Ok(()),
            status => Err(format!("ends with {status} after SIGTERM").into()),
        }
    }

    /// Ends the program without a goodbye.
    pub async fn kill(&mut self) {
        // It fails only when the program has ended already.
        drop(self.child.kill().await);
    }
}

/// Hands every line to `take`.
async fn read_lines(from: impl AsyncRead + Unpin, mut take: impl FnMut(String)) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        take(line);
    }
}
