//! The runner of the interoperability matrix: every peer, both directions, one JSON line per scenario.
//!
//! It builds nothing (`interop/run` does) and knows nothing of the wire: it starts programs that follow the contract of
//! `interop/README.md`, ours on the other side, and judges what they print. Quick scenarios run in turn; those that only
//! wait run side by side at the end, together with the browsers.

mod again;
mod browsers;
mod faults;
mod line;
mod output;
mod peers;
mod process;
mod report;
mod scenarios;
mod stage;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    line::{Line, Version},
    output::{Output, print},
    peers::{PEERS, Peer, command, is_meant},
    process::Program,
    scenarios::{
        CLOSE_BY_DIALER, CLOSE_BY_LISTENER, COOKIE, DIALER_KILLED, DIALS, Direction, FIRST_RUN,
        IDLE, LISTENER_KILLED, RESTART, SAME_CERTHASH, SECOND_RUN, SMALL_MESSAGES,
    },
    stage::{ANYWHERE, Cell, Outcome},
};

/// Any error; it ends up as text in a result.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// So many cells wait at the same time.
const SIDE_BY_SIDE: usize = 36;
/// How long a program may take to tell its version.
const VERSION: Duration = Duration::from_secs(30);
/// The browsers, and the start of their names in the results.
const BROWSERS: [(&str, &str); 2] = [("chromium", "js-chromium"), ("firefox", "js-firefox")];

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(about = "Runs the interoperability matrix and writes its report")]
struct Args {
    /// The top of the repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Only peers whose name starts so; "js" is js-libp2p in Node and in all browsers.
    #[arg(long)]
    only: Option<String>,
    /// Only cells of this direction.
    #[arg(long)]
    direction: Option<String>,
    /// Peers that cannot run here, by name.
    #[arg(long)]
    skip: Vec<String>,
    /// Seconds of the idle scenario.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// The day, for the report.
    #[arg(long, default_value = "")]
    date: String,
    /// Also writes docs/interop.md.
    #[arg(long)]
    report: bool,
    /// Runs nothing, only writes docs/interop.md from the stored results.
    #[arg(long)]
    report_only: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = run(args) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    };
    match outcome.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("interop: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the matrix; true if nothing failed that should not.
async fn run(args: Args) -> Result<bool, Failure> {
    let root = args.root.canonicalize()?;
    let results = root.join("target/interop/results.jsonl");
    let mut good = true;
    if !args.report_only {
        let output = Arc::new(Output::default());
        let missing = matrix(&root, &args, &output).await?;
        again::try_again(&root, args.idle, &output).await;
        line::store(&results, &output.records())?;
        good = output.summary();
        for what in &missing {
            print(&format!("SKIPPED {what}"));
        }
        if !missing.is_empty() && std::env::var("CI").is_ok_and(|ci| ci == "true") {
            eprintln!("interop: in CI nothing may be skipped");
            good = false;
        }
    }
    if args.report || args.report_only {
        report::write(&root, &line::load(&results)?)?;
    }
    Ok(good)
}

/// Runs all cells. What could not run is given back.
async fn matrix(root: &Path, args: &Args, output: &Arc<Output>) -> Result<Vec<String>, Failure> {
    let only = args.only.as_deref();
    let is_skipped = |name: &str| args.skip.iter().any(|skip| name.starts_with(skip.as_str()));
    let (mut missing, mut waiting) = (Vec::new(), Vec::new());
    for peer in PEERS.iter().filter(|peer| peer.is_meant(only)) {
        if is_skipped(peer.name) || !peer.is_there(root) {
            missing.push(format!("{}: it needs {}", peer.name, peer.needs));
            continue;
        }
        let start = Instant::now();
        let cells: Vec<Cell> = cells(root, peer)
            .into_iter()
            .filter(|cell| {
                let direction = args.direction.as_deref();
                direction.is_none_or(|only| only == cell.direction.name())
            })
            .collect();
        for cell in cells {
            if quick(&cell, output).await {
                waiting.push(cell);
            }
        }
        output.version(Version {
            peer: peer.name.to_owned(),
            version: version(root, peer).await?,
            date: args.date.clone(),
            seconds: start.elapsed().as_secs(),
        });
    }
    let browsers = async {
        for (browser, name) in BROWSERS {
            // The names of a browser's cells go on behind its own.
            if !is_meant(name, only) && !only.is_some_and(|only| only.starts_with(name)) {
                continue;
            }
            if is_skipped(name) {
                missing.push(format!("{name}: see what interop/run says"));
                continue;
            }
            browse(root, browser, name, args, output).await;
        }
    };
    tokio::join!(browsers, slow(waiting, args.idle, output));
    Ok(missing)
}

/// All cells of a peer.
fn cells(root: &Path, peer: &'static Peer) -> Vec<Cell> {
    let cell = |direction, ice| Cell {
        root: root.to_owned(),
        peer,
        direction,
        ice,
    };
    let we_dial = peer.we_dial.iter().map(|ice| cell(Direction::WeDial, *ice));
    let it_dials = peer
        .it_dials
        .iter()
        .map(|ice| cell(Direction::ItDials, *ice));
    we_dial.chain(it_dials).collect()
}

/// Runs the quick scenarios of a cell; true if it is worth to try the slow ones.
async fn quick(cell: &Cell, output: &Output) -> bool {
    let listener = match cell.listen(ANYWHERE, &[]).await {
        Ok(listener) => listener,
        Err(error) => {
            output.line(cell.line(FIRST_RUN[0].name, Err(error)));
            return false;
        }
    };
    let connect_only = cell.peer.connect_only.contains(&(cell.direction, cell.ice));
    let first = if connect_only {
        &FIRST_RUN[..1]
    } else {
        FIRST_RUN
    };
    let mut connected = true;
    for (name, outcome) in cell.series(&listener, first).await {
        connected &= name != FIRST_RUN[0].name || outcome.is_ok();
        output.line(cell.line(name, outcome));
    }
    if connect_only || !connected {
        return false;
    }
    for (name, outcome) in cell.series(&listener, SECOND_RUN).await {
        output.line(cell.line(name, outcome));
    }
    if cell.listens_with_cookies() {
        output.line(cell.line(COOKIE, cell.with_cookie().await));
    }
    if !cell.peer.deaf {
        output.line(cell.line(CLOSE_BY_LISTENER, cell.close_by_listener().await));
        output.line(cell.line(CLOSE_BY_DIALER, cell.close_by_dialer().await));
    }
    output.line(cell.line(RESTART, cell.restart().await));
    let first_of_peer = cell.ice == "v1";
    if cell.peer.fragile && first_of_peer {
        output.line(cell.line(DIALS, cell.repeat(&listener).await));
        output.line(cell.line(SMALL_MESSAGES, cell.small_messages().await));
    }
    if cell.peer.same_certhash && first_of_peer && cell.direction == Direction::WeDial {
        output.line(cell.line(SAME_CERTHASH, cell.same_certhash().await));
    }
    true
}

/// Runs the scenarios that wait, side by side.
async fn slow(cells: Vec<Cell>, idle: u64, output: &Arc<Output>) {
    let permits = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut tasks = JoinSet::new();
    for cell in cells {
        let closes: &[&str] = if cell.peer.deaf {
            &[CLOSE_BY_LISTENER, CLOSE_BY_DIALER]
        } else {
            &[]
        };
        for scenario in [IDLE, LISTENER_KILLED, DIALER_KILLED]
            .into_iter()
            .chain(closes.iter().copied())
        {
            let (cell, permits, output) = (cell.clone(), Arc::clone(&permits), Arc::clone(output));
            tasks.spawn(async move {
                let permit = permits.acquire_owned().await;
                let outcome: Outcome = match scenario {
                    IDLE => cell.idle(idle).await,
                    CLOSE_BY_LISTENER => cell.close_by_listener().await,
                    CLOSE_BY_DIALER => cell.close_by_dialer().await,
                    scenario => cell.kill(scenario == LISTENER_KILLED).await,
                };
                drop(permit);
                output.line(cell.line(scenario, outcome));
            });
        }
    }
    while let Some(joined) = tasks.join_next().await {
        if let Err(error) = joined {
            print(&format!("a task failed: {error}"));
        }
    }
}

/// Runs one browser.
async fn browse(root: &Path, browser: &str, name: &str, args: &Args, output: &Output) {
    let start = Instant::now();
    match browsers::run(root, browser, args.idle, output).await {
        Ok(versions) => {
            for (peer, version) in versions {
                output.version(Version {
                    peer,
                    version,
                    date: args.date.clone(),
                    seconds: start.elapsed().as_secs(),
                });
            }
        }
        Err(error) => {
            output.line(Line {
                peer: name.to_owned(),
                direction: Direction::ItDials.name().to_owned(),
                ice: "-".to_owned(),
                scenario: "launch".to_owned(),
                ok: false,
                ms: 0.0,
                detail: error.to_string().into(),
                peers_fault: None,
                first_failure: None,
            });
        }
    }
}

/// What a peer says about itself.
async fn version(root: &Path, peer: &Peer) -> Result<String, Failure> {
    let mut program = Program::start(
        &command(root, peer.program),
        &["version".to_owned()],
        "warn",
    )?;
    let version = program
        .wait_for(VERSION, |line| {
            let (peer, version) = (line["peer"].as_str()?, line["version"].as_str()?);
            Some(format!("{peer} {version}"))
        })
        .await;
    Ok(version.ok_or_else(|| format!("{} tells no version", peer.name))?)
}
