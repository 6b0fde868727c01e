//! How a cell runs: starts its two programs, looks at what they print, and says who noticed what.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Failure,
    runner::{
        cells::{Action, Cell, Direction, Outcome},
        process::Program,
    },
};

/// The longest an ordinary scenario may take.
const AT_MOST: Duration = Duration::from_secs(100);
/// How long a program may take to print its address.
const START: Duration = Duration::from_secs(20);
/// How long either side has to notice that the other is gone.
const NOTICE: Duration = Duration::from_secs(40);
/// One lost dial in so many is tolerated when dials are repeated: upstream loses 1 in 100 to itself.
const TOLERATED: usize = 10;
/// So often a dial is tried that never got as far as a connection. With two busy cores upstream leaves the checks of
/// 1 dial in 100 unanswered, from whatever program; `connect, 20 times` counts how often.
const DIALS: usize = 3;
/// How a lost dial shows.
const LOST: [&str; 2] = ["not set up in time", "Timeout has been reached"];
/// When this peer closes a connection in the close scenario.
const CLOSE_AFTER_MS: &str = "1500";
/// What the node logs so that a closed connection shows.
const NODE_LOG: &str = "warn,libp2p_swarm=debug";
/// What this peer logs.
const PEER_LOG: &str = "warn,libp2p_webrtc=debug";

/// The programs of a cell while it runs.
struct Stage {
    listener: Program,
    dialer_path: PathBuf,
    addr: String,
    dialer_log: &'static str,
}

impl Cell {
    /// Runs the cell against the node program.
    pub async fn run(&self, node: &Path) -> Outcome {
        let mut outcome = self.run_once(node).await;
        for lost in 1..DIALS {
            let excused = self.ice != "v2" && !matches!(self.action, Action::Repeat(_));
            if outcome.ok || !excused || !LOST.iter().any(|text| outcome.detail.contains(text)) {
                break;
            }
            outcome = self.run_once(node).await;
            outcome.detail = format!("{}; {lost} dials lost before", outcome.detail);
        }
        outcome
    }

    /// Runs the cell one time.
    async fn run_once(&self, node: &Path) -> Outcome {
        let start = Instant::now();
        let outcome = match self.stage(node).await {
            Ok(mut stage) => match &self.action {
                Action::Dial { options, results } => self.dial(&mut stage, options, results).await,
                Action::Repeat(count) => self.repeat(&mut stage, *count).await,
                Action::ListenerEnds { killed } => {
                    self.listener_ends(&mut stage, Some(*killed)).await
                }
                Action::ListenerCloses => self.listener_ends(&mut stage, None).await,
                Action::DialerEnds => self.dialer_ends(&mut stage).await,
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok((took, detail)) => Outcome {
                ok: true,
                took: took.unwrap_or_else(|| start.elapsed()),
                detail,
            },
            Err(error) => Outcome {
                ok: false,
                took: start.elapsed(),
                detail: error.to_string(),
            },
        }
    }

    /// Starts the listener and waits for its address.
    async fn stage(&self, node: &Path) -> Result<Stage, Failure> {
        let own = std::env::current_exe()?;
        let mut args = vec![
            "listen".to_owned(),
            "/ip4/127.0.0.1/udp/0/webrtc-direct".to_owned(),
        ];
        let (path, dialer_path, log, dialer_log) = match self.direction {
            Direction::WeDial => {
                args.push("--events".to_owned());
                if matches!(self.action, Action::ListenerCloses) {
                    args.extend(["--close-after".to_owned(), CLOSE_AFTER_MS.to_owned()]);
                }
                (own, node.to_owned(), PEER_LOG, NODE_LOG)
            }
            Direction::ItDials => (node.to_owned(), own, NODE_LOG, PEER_LOG),
        };
        let mut listener = Program::start(&path, &args, log)?;
        let addr = listener
            .wait_for(START, |line| line["addr"].as_str().map(str::to_owned))
            .await;
        Ok(Stage {
            addr: addr.ok_or_else(|| evidence("the listener printed no address", &listener))?,
            listener,
            dialer_path,
            dialer_log,
        })
    }

    /// Starts the dialer.
    fn start_dialer(&self, stage: &Stage, options: &[String]) -> Result<Program, Failure> {
        let mut args = vec!["dial".to_owned(), stage.addr.clone()];
        if self.direction == Direction::WeDial {
            args.extend(["--ice".to_owned(), self.ice.to_owned()]);
        }
        args.extend_from_slice(options);
        Program::start(&stage.dialer_path, &args, stage.dialer_log)
    }

    /// Runs the dialer to its end and looks at its results.
    async fn dial(
        &self,
        stage: &mut Stage,
        options: &[String],
        results: &[&str],
    ) -> Result<(Option<Duration>, String), Failure> {
        let mut dialer = self.start_dialer(stage, options)?;
        let (lines, ended) = dialer.finish(AT_MOST).await;
        let mut found = Vec::new();
        for name in results {
            let line = lines.iter().rev().find(|line| line["result"] == **name);
            match line {
                Some(line) if line["ok"] != Value::Bool(false) => found.push(line.clone()),
                Some(line) => return Err(self.blame(&line["detail"].to_string(), &dialer, stage)),
                None => {
                    let text = match ended {
                        None => format!("no result `{name}` within {} s", AT_MOST.as_secs()),
                        Some(_) => format!("no result `{name}`"),
                    };
                    return Err(self.blame(&text, &dialer, stage));
                }
            }
        }
        // Other results of the same run have cells of their own; a node ends at its first fault.
        if self.direction == Direction::WeDial && ended != Some(true) {
            return Err(self.blame("the dialer did not end well", &dialer, stage));
        }
        let ms = found.first().and_then(|line| line["ms"].as_f64());
        let took = ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
        Ok((took, Value::from(found).to_string()))
    }

    /// Runs the dialer again and again; each time from a fresh process.
    async fn repeat(
        &self,
        stage: &mut Stage,
        count: usize,
    ) -> Result<(Option<Duration>, String), Failure> {
        let mut failures = Vec::new();
        for _ in 0..count {
            if let Err(error) = self.dial(stage, &[], &["connected"]).await {
                failures.push(error.to_string());
            }
        }
        let good = count - failures.len();
        let text = match failures.first() {
            None => format!("{good} of {count}"),
            Some(first) => format!("{good} of {count}, first failure: {first}"),
        };
        if failures.len() <= count / TOLERATED {
            Ok((None, text))
        } else {
            Err(text.into())
        }
    }

    /// Ends the listener, or lets it close the connection, and waits for the dialer to notice.
    async fn listener_ends(
        &self,
        stage: &mut Stage,
        killed: Option<bool>,
    ) -> Result<(Option<Duration>, String), Failure> {
        let options = match self.direction {
            // A node that pings for ever ends when its connection does.
            Direction::WeDial => ["--pings", "100000"].map(str::to_owned).to_vec(),
            Direction::ItDials => {
                let notice = NOTICE.as_secs().to_string();
                vec!["--wait-close".to_owned(), notice]
            }
        };
        let mut dialer = self.start_dialer(stage, &options)?;
        let connected = dialer.wait_for(START, |line| {
            (line["result"] == "connected").then(|| line.clone())
        });
        match connected.await {
            Some(line) if line["ok"] != Value::Bool(false) => {}
            line => {
                let text = format!("not connected: {}", line.unwrap_or_default()["detail"]);
                return Err(self.blame(&text, &dialer, stage));
            }
        }
        // Identify and the first pings shall be over.
        tokio::time::sleep(Duration::from_secs(1)).await;
        match killed {
            Some(true) => stage.listener.kill().await,
            Some(false) => stage.listener.terminate().await,
            None => {
                let closed = |line: &Value| (line["event"] == "closed").then_some(());
                if stage.listener.wait_for(START, closed).await.is_none() {
                    return Err(self.blame("the listener did not close", &dialer, stage));
                }
            }
        }
        let start = Instant::now();
        let (lines, ended) = dialer.finish(NOTICE + Duration::from_secs(5)).await;
        let took = start.elapsed();
        let noticed = match self.direction {
            Direction::WeDial => ended == Some(false),
            Direction::ItDials => lines
                .iter()
                .any(|line| line["result"] == "remote_close" && line["ok"] == true),
        };
        if !noticed {
            let text = format!("still connected after {:.0} s", took.as_secs_f64());
            return Err(self.blame(&text, &dialer, stage));
        }
        let words = dialer.last_words().unwrap_or_default();
        Ok((
            Some(took),
            format!("noticed after {:.1} s {words}", took.as_secs_f64()),
        ))
    }

    /// Lets the dialer end and waits for the listener to notice.
    async fn dialer_ends(&self, stage: &mut Stage) -> Result<(Option<Duration>, String), Failure> {
        let mut dialer = self.start_dialer(stage, &[])?;
        let (_, ended) = dialer.finish(AT_MOST).await;
        if ended != Some(true) {
            return Err(self.blame("the dialer did not end well", &dialer, stage));
        }
        let start = Instant::now();
        while start.elapsed() < NOTICE {
            let closed = match self.direction {
                Direction::WeDial => stage
                    .listener
                    .lines_so_far()
                    .iter()
                    .any(|line| line["event"] == "closed"),
                // The swarm logs it; the node itself prints nothing.
                Direction::ItDials => !stage.listener.complaints(&["Connection closed"]).is_empty(),
            };
            if closed {
                let took = start.elapsed();
                return Ok((
                    Some(took),
                    format!("noticed after {:.1} s", took.as_secs_f64()),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let text = format!("still counts the connection {} s later", NOTICE.as_secs());
        Err(self.blame(&text, &dialer, stage))
    }

    /// A failure with what both programs had to say about it.
    fn blame(&self, text: &str, dialer: &Program, stage: &mut Stage) -> Failure {
        let text = evidence(text, dialer);
        let events: Vec<String> = stage
            .listener
            .lines_so_far()
            .iter()
            .filter(|line| line["event"] == "stream-failed" || line["event"] == "incoming-failed")
            .map(ToString::to_string)
            .take(3)
            .collect();
        let mut text = evidence(&text, &stage.listener);
        if !events.is_empty() {
            text = format!("{text}; listener: {}", events.join(" "));
        }
        text.into()
    }
}

/// A text with the last words of a program behind it, and with what it logged of known troubles.
fn evidence(text: &str, program: &Program) -> String {
    let mut text = text.to_owned();
    if let Some(words) = program.last_words() {
        text = format!("{text}; {words}");
    }
    for word in ["panicked at", "already exists a stream"] {
        if let Some(complaint) = program.complaints(&[word]).first() {
            text = format!("{text}; {complaint}");
        }
    }
    text
}
