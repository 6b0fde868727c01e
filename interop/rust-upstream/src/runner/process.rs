//! Programs of a cell: started with a JSON-lines output that is collected line by line, ended by
//! signal, and never left behind.

use std::{
    path::Path,
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

/// Lines that wait to be looked at, far more than a scenario prints; those beyond are lost.
const MAX_LINES: usize = 16 * 1024;

/// A running program.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<Value>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts `path` with `args`; `log` becomes its `RUST_LOG`.
    pub fn start(path: &Path, args: &[String], log: &str) -> Result<Self, Failure> {
        let mut child = Command::new(path)
            .args(args)
            .env("RUST_LOG", log)
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let output = child.stdout.take().ok_or("no stdout")?;
        let complaints = child.stderr.take().ok_or("no stderr")?;
        let (sender, lines) = mpsc::channel(MAX_LINES);
        tokio::spawn(read_lines(output, move |line| {
            if let Ok(value) = serde_json::from_str(&line) {
                drop(sender.try_send(value));
            }
        }));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let kept = errors.clone();
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

    /// All lines until the program ends, and whether it ended well; `None` when it had to be
    /// killed after `at_most`.
    pub async fn finish(&mut self, at_most: Duration) -> (Vec<Value>, Option<bool>) {
        let mut all = Vec::new();
        let work = async {
            while let Some(line) = self.lines.recv().await {
                all.push(line);
            }
            self.child.wait().await.map(|status| status.success())
        };
        let ended = tokio::time::timeout(at_most, work).await;
        match ended {
            Ok(Ok(good)) => (all, Some(good)),
            Ok(Err(_)) => (all, Some(false)),
            Err(_) => {
                self.kill().await;
                (all, None)
            }
        }
    }

    /// All lines that are there already.
    pub fn lines_so_far(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// The lines of the error output that contain one of `words`.
    pub fn complaints(&self, words: &[&str]) -> Vec<String> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors
            .iter()
            .filter(|line| words.iter().any(|word| line.contains(word)))
            .cloned()
            .collect()
    }

    /// The error output that is no log line.
    pub fn last_words(&self) -> Option<String> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors
            .iter()
            .rev()
            .find(|line| line.starts_with("node: ") || line.starts_with("rust-upstream: "))
            .cloned()
    }

    /// Asks the program to end, as `kill` does, and waits until it has.
    pub async fn terminate(&mut self) {
        if let Some(pid) = self.child.id() {
            let asked = Command::new("kill").arg(pid.to_string()).status().await;
            let patience = Duration::from_secs(5);
            if asked.is_ok()
                && tokio::time::timeout(patience, self.child.wait())
                    .await
                    .is_ok()
            {
                return;
            }
        }
        self.kill().await;
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
