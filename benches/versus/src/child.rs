//! The listener process as the measuring process sees it: started, asked, waited for, ended.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use libp2p::Multiaddr;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    Failure,
    serve::{Figures, Hello, ServeArgs},
};

/// How often figures are read while waiting for them to settle.
const INTERVAL: Duration = Duration::from_millis(250);
/// Memory counts as settled when it moved less than this over [`CALM`] readings, in KiB.
const WOBBLE_KIB: u64 = 64;
/// Equal readings that make a settled one.
const CALM: usize = 4;
/// Longest wait for memory to settle.
const SETTLE_AT_MOST: Duration = Duration::from_secs(8);

/// A running listener process.
pub struct Listener {
    process: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    addr: Multiaddr,
}

impl Listener {
    /// Starts this program as a listener and waits for its address.
    pub async fn start(args: ServeArgs) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--transport", args.transport.name()])
            .args(["--seed", &args.seed.to_string()])
            .args(["--port", &args.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if args.no_streams {
            command.arg("--no-streams");
        }
        let mut process = command.spawn()?;
        let questions = process.stdin.take().ok_or("the listener has no stdin")?;
        let output = process.stdout.take().ok_or("the listener has no stdout")?;
        let mut answers = BufReader::new(output).lines();
        let line = answers.next_line().await?;
        let hello: Hello = serde_json::from_str(&line.ok_or("the listener ended at once")?)?;
        Ok(Self {
            process,
            questions,
            answers,
            addr: hello.addr,
        })
    }

    /// Where it listens, with the peer id.
    pub fn addr(&self) -> &Multiaddr {
        &self.addr
    }

    /// Its figures right now.
    pub async fn figures(&mut self) -> Result<Figures, Failure> {
        self.questions.write_all(b"figures\n").await?;
        let line = tokio::time::timeout(Duration::from_secs(20), self.answers.next_line())
            .await
            .map_err(|_| "the listener gave no figures within 20 s")??;
        Ok(serde_json::from_str(&line.ok_or("the listener ended")?)?)
    }

    /// Its figures once its memory has settled.
    pub async fn settled(&mut self) -> Result<Figures, Failure> {
        let start = Instant::now();
        let mut recent: Vec<u64> = Vec::new();
        loop {
            let figures = self.figures().await?;
            recent.push(figures.rss_kib);
            if recent.len() > CALM {
                recent.remove(0);
            }
            let low = recent.iter().min().copied().unwrap_or(0);
            let high = recent.iter().max().copied().unwrap_or(0);
            let calm = recent.len() == CALM && high - low < WOBBLE_KIB;
            if calm || start.elapsed() > SETTLE_AT_MOST {
                return Ok(figures);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Waits until it has `want` connections or `at_most` has passed; tells how many it has.
    pub async fn wait_for_connections(
        &mut self,
        want: usize,
        at_most: Duration,
    ) -> Result<usize, Failure> {
        let start = Instant::now();
        loop {
            let open = self.figures().await?.connections;
            if open == want || start.elapsed() > at_most {
                return Ok(open);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Kills it without a goodbye and waits until it is gone.
    pub async fn kill(mut self) -> Result<(), Failure> {
        self.process.kill().await?;
        Ok(())
    }
}
