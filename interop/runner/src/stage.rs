//! A cell: one peer, one direction, one handshake. Starts its two programs, looks at what they print, and says who
//! noticed what.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    Failure,
    line::{Line, ms, text},
    peers::{OURS, OURS_WITH_COOKIES, Peer, command},
    process::Program,
    scenarios::{CONNECT, Direction, Scenario},
};

/// So many programs of waiting cells start at the same time: a start takes a processor for seconds, in Python at least.
static STARTS: Semaphore = Semaphore::const_new(3);

/// The longest one run of a dialer may take.
const AT_MOST: Duration = Duration::from_secs(150);
/// How long a program may take to print its address, or to connect.
const START: Duration = Duration::from_secs(30);
/// How soon the end of a connection has to be noticed.
pub const NOTICE_MS: f64 = 1000.0;
/// How long the listener is watched for it.
const WATCH_CLOSE: Duration = Duration::from_secs(5);
/// How soon the silence of a killed program has to be noticed.
const NOTICE_KILL: Duration = Duration::from_secs(30);
/// How long either side is watched for it: some take longer than they should, and then it is good to know how long.
const WATCH_KILL: Duration = Duration::from_secs(60);
/// How long a killed program has been connected.
const BEFORE_KILL: Duration = Duration::from_secs(1);
/// So often a dial is tried that got lost, see [`Peer::lost`]. `connect-20-times` counts how often that is.
const DIALS: usize = 3;
/// One lost dial in so many is tolerated when dials are repeated: upstream loses 1 in 100 to itself.
const TOLERATED: usize = 10;
/// How many dials that are.
const REPEATED: usize = 20;
/// The identity of listeners that start again.
const SEED: &str = "11";
/// What we log.
const OUR_LOG: &str = "warn";
/// What a peer in Rust logs.
const PEER_LOG: &str = "warn,libp2p_webrtc=debug";

/// What came of a scenario: how long it took and what it tells.
pub type Outcome = Result<(f64, Value), Failure>;

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The top of the repository.
    pub root: PathBuf,
    /// The peer.
    pub peer: &'static Peer,
    /// Who dials.
    pub direction: Direction,
    /// The handshake.
    pub ice: &'static str,
}

/// A listening program and its address.
pub struct Listener {
    /// The program.
    pub program: Program,
    /// Where it can be dialed.
    pub addr: String,
}

/// One run of a dialer.
struct Run {
    lines: Vec<Value>,
    ended: Option<bool>,
    evidence: Vec<String>,
}

impl Cell {
    /// The line for an outcome.
    pub fn line(&self, scenario: &str, outcome: Outcome) -> Line {
        let (ok, ms, detail) = match outcome {
            Ok((ms, detail)) => (true, ms, detail),
            Err(error) => (false, 0.0, json!(error.to_string())),
        };
        Line {
            peer: self.peer.name.to_owned(),
            direction: self.direction.name().to_owned(),
            ice: self.ice.to_owned(),
            scenario: scenario.to_owned(),
            ok,
            ms,
            detail,
            peers_fault: None,
            first_failure: None,
        }
    }

    /// The command of the peer or of our program, and what it logs.
    fn program(&self, peers: bool) -> (Vec<String>, &'static str) {
        if peers {
            (command(&self.root, self.peer.program), PEER_LOG)
        } else {
            (command(&self.root, OURS), OUR_LOG)
        }
    }

    /// Starts the listener and waits for its address.
    pub async fn listen(&self, addr: &str, options: &[&str]) -> Result<Listener, Failure> {
        let (command, log) = self.program(self.direction == Direction::WeDial);
        Self::start_listener(&command, log, addr, options).await
    }

    async fn start_listener(
        command: &[String],
        log: &str,
        addr: &str,
        options: &[&str],
    ) -> Result<Listener, Failure> {
        let mut args = vec!["listen", addr, "--events"];
        args.extend_from_slice(options);
        let args: Vec<String> = args.into_iter().map(ToOwned::to_owned).collect();
        let mut program = Program::start(command, &args, log)?;
        let addr = program
            .wait_for(START, |line| line["addr"].as_str().map(ToOwned::to_owned))
            .await;
        match addr {
            Some(addr) => Ok(Listener { program, addr }),
            None => Err(blame(
                "the listener printed no address",
                &program.evidence(),
                None,
            )),
        }
    }

    /// Starts a dialer.
    fn dial(&self, addr: &str, options: &[&str]) -> Result<Program, Failure> {
        let (command, log) = self.program(self.direction == Direction::ItDials);
        let mut args = vec!["dial", addr, "--ice", self.ice];
        args.extend_from_slice(options);
        let args: Vec<String> = args.into_iter().map(ToOwned::to_owned).collect();
        Program::start(&command, &args, log)
    }

    /// Runs a dialer to its end; again, if it gets lost.
    async fn dialed(&self, addr: &str, options: &[&str]) -> Result<Run, Failure> {
        let mut lost = 0;
        loop {
            let mut dialer = self.dial(addr, options)?;
            let (lines, ended) = dialer.finish(AT_MOST).await;
            let run = Run {
                lines,
                ended,
                evidence: dialer.evidence(),
            };
            lost += 1;
            if lost == DIALS || !self.is_lost(&run) {
                return Ok(run);
            }
        }
    }

    /// Whether a dial failed as those do that get lost.
    fn is_lost(&self, run: &Run) -> bool {
        match run.result("connected") {
            Ok(_) => false,
            Err(error) => {
                let error = error.to_string();
                self.ice != "v2" && self.peer.lost.iter().any(|text| error.contains(text))
            }
        }
    }

    /// Runs scenarios on as few connections as possible: those behind one that fails are tried again on a connection
    /// that it cannot have spoilt.
    pub async fn series(
        &self,
        listener: &Listener,
        scenarios: &[Scenario],
    ) -> Vec<(&'static str, Outcome)> {
        let mut pending = scenarios.to_vec();
        let mut done: Vec<(&'static str, Outcome)> = Vec::new();
        while !pending.is_empty() {
            listener.program.forget();
            let run = match self.dialed(&listener.addr, &options_of(&pending)).await {
                Ok(run) => run,
                Err(error) => {
                    let error = error.to_string();
                    done.extend(
                        pending
                            .iter()
                            .map(|one| (one.name, Err(error.clone().into()))),
                    );
                    return done;
                }
            };
            let connected = run.result("connected");
            let mut failed = false;
            pending.retain(|one| {
                let outcome = match (&connected, run.result(one.result)) {
                    (Err(error), _) => Err(format!("not connected: {error}").into()),
                    (_, Err(_)) if failed => return true,
                    (_, outcome) => outcome,
                };
                failed |= outcome.is_err();
                let outcome = outcome.map_err(|error: Failure| {
                    blame(&error.to_string(), &run.evidence, Some(listener))
                });
                done.push((one.name, outcome));
                false
            });
            let unexplained = !failed && run.ended != Some(true);
            if let (true, Some((_, last))) = (unexplained, done.last_mut()) {
                *last = Err(blame(&run.bad_end(), &run.evidence, Some(listener)));
            }
        }
        done
    }

    /// Whether our listener is dialed, which can ask for cookies.
    pub fn listens_with_cookies(&self) -> bool {
        self.direction == Direction::ItDials || self.peer.program == OURS
    }

    /// The dialer proves its address with a cookie before our listener keeps anything of it.
    pub async fn with_cookie(&self) -> Outcome {
        let command = command(&self.root, OURS_WITH_COOKIES);
        let listener = Self::start_listener(&command, OUR_LOG, ANYWHERE, &[]).await?;
        let run = self.dialed(&listener.addr, &["--echo", "1000"]).await?;
        let outcome = run.result("echo").and_then(|_| run.result("connected"));
        outcome.map_err(|error| blame(&error.to_string(), &run.evidence, Some(&listener)))
    }

    /// The listener closes when asked to; the dialer has to notice.
    pub async fn close_by_listener(&self) -> Outcome {
        let listener = self.listen(ANYWHERE, &[]).await?;
        let run = self.dialed(&listener.addr, &["--remote-close"]).await?;
        let outcome = run.connected_and("remote-close");
        let (_, detail) =
            outcome.map_err(|error| blame(&error.to_string(), &run.evidence, Some(&listener)))?;
        match detail["noticed_ms"].as_f64() {
            Some(ms) if ms <= NOTICE_MS => Ok((ms, detail)),
            _ => Err(format!("noticed too late: {detail}").into()),
        }
    }

    /// The dialer says goodbye; the listener has to notice.
    pub async fn close_by_dialer(&self) -> Outcome {
        let mut listener = self.listen(ANYWHERE, &[]).await?;
        let run = self.dialed(&listener.addr, &[]).await?;
        let connected = run.connected_and("connected");
        connected.map_err(|error| blame(&error.to_string(), &run.evidence, Some(&listener)))?;
        if run.ended != Some(true) {
            return Err(blame(&run.bad_end(), &run.evidence, Some(&listener)));
        }
        let start = Instant::now();
        let closed = listener.program.wait_for(WATCH_CLOSE, closed).await;
        let took = ms(start.elapsed());
        match closed {
            Some(cause) if took <= NOTICE_MS => Ok((took, json!({ "cause": cause }))),
            Some(_) => Err(format!("noticed {took:.0} ms after the dialer had ended").into()),
            None => {
                let text = format!("still connected after {} s", WATCH_CLOSE.as_secs());
                Err(blame(&text, &run.evidence, Some(&listener)))
            }
        }
    }

    /// The listener ends and starts again at its port; its stored address is still good.
    pub async fn restart(&self) -> Outcome {
        let seed = ["--seed", SEED];
        let mut listener = self.listen(ANYWHERE, &seed).await?;
        let stored = listener.addr.clone();
        let first = self.dialed(&stored, &[]).await?;
        let connected = first.connected_and("connected");
        connected.map_err(|error| {
            blame(
                &format!("before: {error}"),
                &first.evidence,
                Some(&listener),
            )
        })?;
        listener.program.terminate().await?;
        let (place, _) = stored
            .split_once("/certhash/")
            .ok_or("an address without certhash")?;
        let again = self.listen(place, &seed).await?;
        if again.addr != stored {
            return Err(format!("announces {} after {stored}", again.addr).into());
        }
        let second = self.dialed(&stored, &["--echo", "1000"]).await?;
        let outcome = second.connected_and("connected");
        let outcome = outcome.and_then(|found| second.result("echo").map(|_| found));
        outcome.map_err(|error| blame(&format!("after: {error}"), &second.evidence, Some(&again)))
    }

    /// Nothing is said for a while.
    pub async fn idle(&self, seconds: u64) -> Outcome {
        let starting = STARTS.acquire().await?;
        let listener = self.listen(ANYWHERE, &[]).await?;
        for tried in 1.. {
            let mut dialer = self.dial(&listener.addr, &["--idle", &seconds.to_string()])?;
            let connected = dialer.wait_for(START, |line| {
                (line["result"] == "connected").then(|| line.clone())
            });
            let mut lines: Vec<Value> = connected.await.into_iter().collect();
            let run = Run {
                lines: lines.clone(),
                ended: Some(false),
                evidence: dialer.evidence(),
            };
            if tried < DIALS && self.is_lost(&run) {
                continue;
            }
            drop(starting);
            let (more, ended) = dialer.finish(AT_MOST).await;
            lines.extend(more);
            let run = Run {
                lines,
                ended,
                evidence: dialer.evidence(),
            };
            return run
                .connected_and("idle")
                .map_err(|error| blame(&error.to_string(), &run.evidence, Some(&listener)));
        }
        Err("never tried".into())
    }

    /// One side is killed; the other has to notice.
    pub async fn kill(&self, listener_dies: bool) -> Outcome {
        let starting = STARTS.acquire().await?;
        let mut listener = self.listen(ANYWHERE, &[]).await?;
        let patience = (WATCH_KILL + BEFORE_KILL).as_secs().to_string();
        let mut dialer = self.waiting_dialer(&listener, &patience).await?;
        drop(starting);
        tokio::time::sleep(BEFORE_KILL).await;
        let start = Instant::now();
        let noticed = if listener_dies {
            listener.program.kill().await;
            let (lines, _) = dialer.finish(WATCH_KILL).await;
            let result = lines.iter().find(|line| line["result"] == "wait-close");
            result.filter(|line| line["ok"] == true).cloned()
        } else {
            dialer.kill().await;
            let noticed = listener.program.wait_for(WATCH_KILL, closed).await;
            noticed.map(Value::from)
        };
        let took = start.elapsed();
        match noticed {
            Some(detail) if took <= NOTICE_KILL => Ok((ms(took), detail)),
            Some(_) => Err(format!("noticed after {} s only", took.as_secs()).into()),
            None => {
                let text = format!("still connected after {} s", took.as_secs());
                Err(blame(&text, &dialer.evidence(), Some(&listener)))
            }
        }
    }

    /// A dialer that is connected and waits for the end.
    async fn waiting_dialer(
        &self,
        listener: &Listener,
        patience: &str,
    ) -> Result<Program, Failure> {
        for tried in 1.. {
            let mut dialer = self.dial(&listener.addr, &["--wait-close", patience])?;
            let waiting = dialer.wait_for(START, |line| {
                let refused = line["result"] == "connected" && line["ok"] != true;
                match line["event"] == "waiting" {
                    true => Some(Ok(())),
                    false => refused.then(|| Err(text(&line["detail"]))),
                }
            });
            let error = match waiting.await {
                Some(Ok(())) => return Ok(dialer),
                Some(Err(error)) => error,
                None => "nothing more is printed".to_owned(),
            };
            if tried == DIALS || !self.peer.lost.iter().any(|text| error.contains(text)) {
                let text = format!("not connected: {error}");
                return Err(blame(&text, &dialer.evidence(), Some(listener)));
            }
        }
        Err("never tried".into())
    }

    /// Dials again and again, each time from a fresh process; none of them is tried twice.
    pub async fn repeat(&self, listener: &Listener) -> Outcome {
        let start = Instant::now();
        let mut failures = Vec::new();
        for _ in 0..REPEATED {
            let mut dialer = self.dial(&listener.addr, &[])?;
            let (lines, ended) = dialer.finish(AT_MOST).await;
            let evidence = dialer.evidence();
            let run = Run {
                lines,
                ended,
                evidence,
            };
            if let Err(error) = run.result("connected") {
                failures.push(blame(&error.to_string(), &run.evidence, None).to_string());
            }
        }
        let good = REPEATED - failures.len();
        let text = match failures.first() {
            None => format!("{good} of {REPEATED}"),
            Some(first) => format!("{good} of {REPEATED}, first failure: {first}"),
        };
        if failures.len() > REPEATED / TOLERATED {
            return Err(text.into());
        }
        Ok((ms(start.elapsed()), json!(text)))
    }

    /// Bulk data in messages that a peer with a small buffer can read.
    pub async fn small_messages(&self) -> Outcome {
        let listener = self.listen(ANYWHERE, &["--small-frames"]).await?;
        let options = ["--small-frames", "--echo", "1048576"];
        let run = self.dialed(&listener.addr, &options).await?;
        run.connected_and("echo")
            .map_err(|error| blame(&error.to_string(), &run.evidence, Some(&listener)))
    }

    /// Both sides announce the same certificate and identity for the same seed.
    pub async fn same_certhash(&self) -> Outcome {
        let mut announced = Vec::new();
        for direction in [Direction::WeDial, Direction::ItDials] {
            let cell = Self {
                direction,
                ..self.clone()
            };
            let listener = cell.listen(ANYWHERE, &["--seed", SEED]).await?;
            let (_, names) = listener
                .addr
                .split_once("/certhash/")
                .ok_or("an address without certhash")?;
            announced.push(names.to_owned());
        }
        match announced.as_slice() {
            [peers, ours] if peers == ours => Ok((0.0, json!(ours))),
            _ => Err(format!("the peer's and ours differ: {}", announced.join(" ")).into()),
        }
    }
}

/// Where listeners listen.
pub const ANYWHERE: &str = "/ip4/127.0.0.1/udp/0/webrtc-direct";

impl Run {
    /// The result of this name, or why it is none.
    fn result(&self, name: &str) -> Outcome {
        match self.lines.iter().rev().find(|line| line["result"] == name) {
            Some(line) if line["ok"] == true => Ok((
                line["ms"].as_f64().unwrap_or_default(),
                line["detail"].clone(),
            )),
            Some(line) => Err(text(&line["detail"]).into()),
            None if self.ended.is_none() => {
                Err(format!("no result `{name}` within {} s", AT_MOST.as_secs()).into())
            }
            None => Err(format!("no result `{name}`").into()),
        }
    }

    /// The same, behind a connection that was made and a dialer that ended well.
    fn connected_and(&self, name: &str) -> Outcome {
        let connected = self.result("connected");
        connected.map_err(|error| format!("not connected: {error}"))?;
        let found = self.result(name)?;
        if self.ended == Some(true) {
            Ok(found)
        } else {
            Err(self.bad_end().into())
        }
    }

    /// That the dialer did not end well, and what of its results may be the reason.
    fn bad_end(&self) -> String {
        let bad = self
            .lines
            .iter()
            .filter(|line| line["result"].is_string() && line["ok"] != true);
        let bad: Vec<String> = bad
            .map(|line| format!("{}: {}", text(&line["result"]), text(&line["detail"])))
            .collect();
        format!("the dialer did not end well; {}", bad.join("; "))
    }
}

/// The end of a connection, as a listener prints it.
fn closed(line: &Value) -> Option<String> {
    (line["event"] == "closed").then(|| text(&line["detail"]))
}

/// What a dialer is told for these scenarios; each option once.
fn options_of(scenarios: &[Scenario]) -> Vec<&'static str> {
    let mut told: Vec<&[&str]> = Vec::new();
    for one in scenarios {
        if one.name != CONNECT && !told.contains(&one.options) {
            told.push(one.options);
        }
    }
    told.concat()
}

/// A failure with what both programs had to say about it.
fn blame(text: &str, dialer: &[String], listener: Option<&Listener>) -> Failure {
    let mut text = text.to_owned();
    if !dialer.is_empty() {
        text = format!("{text}; stderr: {}", dialer.join(" | "));
    }
    let listener = listener.map(|listener| listener.program.evidence());
    if let Some(words) = listener.filter(|words| !words.is_empty()) {
        text = format!("{text}; listener's stderr: {}", words.join(" | "));
    }
    text.into()
}
