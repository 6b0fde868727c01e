//! The cells: which program dials with which options, and what has to come out.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;

use crate::{Failure, runner::process::Program};

/// The longest an ordinary scenario may take.
const AT_MOST: Duration = Duration::from_secs(100);
/// How long a program may take to print its address.
const START: Duration = Duration::from_secs(20);
/// How long either side has to notice that the other is gone.
const NOTICE: Duration = Duration::from_secs(40);
/// When this peer closes a connection in the close scenario.
const CLOSE_AFTER_MS: &str = "1500";
/// What the node logs so that a closed connection shows.
const NODE_LOG: &str = "warn,libp2p_swarm=debug";
/// What this peer logs.
const PEER_LOG: &str = "warn,libp2p_webrtc=debug";

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The node under test dials this peer.
    WeDial,
    /// This peer dials the node under test.
    ItDials,
}

/// What a cell does after the programs are started.
#[derive(Clone, Debug)]
enum Action {
    /// Runs the dialer to its end; the results with these names must be there.
    Dial {
        /// More options for the dialer.
        options: Vec<String>,
        /// The results that count.
        results: &'static [&'static str],
    },
    /// The listener ends (asked to, or killed); the dialer has to notice.
    ListenerEnds {
        /// Whether it is killed without a goodbye.
        killed: bool,
    },
    /// The listener closes the connection; the dialer has to notice.
    ListenerCloses,
    /// The dialer ends; the listener has to notice.
    DialerEnds,
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Who dials.
    pub direction: Direction,
    /// The handshake version asked for.
    pub ice: &'static str,
    /// Its name.
    pub scenario: &'static str,
    action: Action,
}

/// What came out of a cell.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it worked.
    pub ok: bool,
    /// How long it took: what the program measured, else the whole cell.
    pub took: Duration,
    /// What came out, or what went wrong.
    pub detail: String,
}

/// All cells.
pub fn all(idle: Duration) -> Vec<Cell> {
    let mut cells = Vec::new();
    for ice in ["v1", "auto"] {
        cells.extend(dials(Direction::WeDial, ice, idle));
    }
    // Pings of 200 ms apart, because `node dial` cannot rest.
    let pings = (idle.as_secs() * 5).max(1);
    cells.push(dial(
        Direction::WeDial,
        "v1",
        "a minute of pings",
        &["--pings", &pings.to_string()],
        &["ping"],
    ));
    cells.push(dial(
        Direction::WeDial,
        "v2",
        "connect",
        &[],
        &["connected"],
    ));
    cells.extend(dials(Direction::ItDials, "v1", idle));
    for (direction, scenario, action) in [
        (
            Direction::WeDial,
            "close, by the peer",
            Action::ListenerCloses,
        ),
        (
            Direction::WeDial,
            "close, the peer is killed",
            Action::ListenerEnds { killed: true },
        ),
        (Direction::WeDial, "close, by us", Action::DialerEnds),
        (
            Direction::ItDials,
            "close, by us",
            Action::ListenerEnds { killed: false },
        ),
        (
            Direction::ItDials,
            "close, we are killed",
            Action::ListenerEnds { killed: true },
        ),
        (Direction::ItDials, "close, by the peer", Action::DialerEnds),
    ] {
        cells.push(Cell {
            direction,
            ice: "v1",
            scenario,
            action,
        });
    }
    cells
}

/// The cells that are one run of a dialer.
fn dials(direction: Direction, ice: &'static str, idle: Duration) -> Vec<Cell> {
    let mut cells = vec![
        dial(direction, ice, "connect", &[], &["connected"]),
        dial(direction, ice, "identify", &[], &["identify"]),
        dial(direction, ice, "ping x20", &["--pings", "20"], &["ping"]),
        dial(
            direction,
            ice,
            "echo 1 MiB",
            &["--echo", "1048576"],
            &["echo"],
        ),
        dial(
            direction,
            ice,
            "echo 16 MiB",
            &["--echo", "16777216"],
            &["echo"],
        ),
    ];
    let streams = ["--streams", "100"];
    match direction {
        Direction::WeDial => {
            // `node dial --echo` closes its direction and reads to the end.
            cells.push(dial(
                direction,
                ice,
                "half-close",
                &["--echo", "1000"],
                &["echo"],
            ));
            let both = "streams, 100 in turn and 100 parallel";
            cells.push(dial(direction, ice, both, &streams, &["streams"]));
        }
        Direction::ItDials => {
            cells.push(dial(
                direction,
                ice,
                "half-close",
                &["--half-close"],
                &["half_close"],
            ));
            cells.push(dial(
                direction,
                ice,
                "streams, 100 in turn",
                &streams,
                &["streams_in_turn"],
            ));
            cells.push(dial(
                direction,
                ice,
                "streams, 100 parallel",
                &streams,
                &["streams_parallel"],
            ));
            let idle = idle.as_secs().to_string();
            let rest = ["--pings", "0", "--idle", &idle];
            cells.push(dial(direction, ice, "idle", &rest, &["idle"]));
        }
    }
    cells
}

/// A cell that is one run of a dialer.
fn dial(
    direction: Direction,
    ice: &'static str,
    scenario: &'static str,
    options: &[&str],
    results: &'static [&'static str],
) -> Cell {
    let options = options.iter().map(ToString::to_string).collect();
    Cell {
        direction,
        ice,
        scenario,
        action: Action::Dial { options, results },
    }
}

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
        let start = Instant::now();
        let outcome = match self.stage(node).await {
            Ok(mut stage) => match &self.action {
                Action::Dial { options, results } => self.dial(&mut stage, options, results).await,
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
            (line["result"] == "connected" && line["ok"] != Value::Bool(false)).then_some(())
        });
        if connected.await.is_none() {
            return Err(self.blame("not connected", &dialer, stage));
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

/// A text with the last words and the panics of a program behind it.
fn evidence(text: &str, program: &Program) -> String {
    let mut text = text.to_owned();
    if let Some(words) = program.last_words() {
        text = format!("{text}; {words}");
    }
    if let Some(panic) = program.complaints(&["panicked at"]).first() {
        text = format!("{text}; {panic}");
    }
    text
}
