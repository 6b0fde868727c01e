//! Figures of the gateway, as lines of JSON: what a key press costs, and how a terminal fares in a flood and beside one.
//!
//!     gateway-figures PROGRAM [--only key-echo|flood|single] [--sessions N] [--floods N] [--flood-bound MS]
//!
//! * `key-echo`: one byte through a terminal session over webrtc-direct and back, beside 64 bytes on a bare libp2p
//!   stream of the same connection, in turns.
//! * `flood`: PROGRAM (`socketpipe`) serves N terminals at once, some of which print without end; the echo of one
//!   more, and the memory of PROGRAM.
//! * `single`: PROGRAM serves one terminal, which prints a file; then one that prints without end, until Ctrl-C.
//!
//! The exit status is 1 if a figure misses its bound: twice the bare stream; the echo beside a flood 50 ms, or what
//! `--flood-bound` says; a second for Ctrl-C. It is also 1 if a session ends or anything printed is missing.
#![expect(clippy::print_stdout, reason = "the results go there")]

mod echo;
mod flood;
mod program;
mod single;

use std::{error::Error, process::ExitCode, time::Duration};

use libp2p::{Swarm, SwarmBuilder, identity::Keypair, swarm::NetworkBehaviour};
use libp2p_rtc::{Config, Transport, socketpipe::Behaviour as SocketPipe};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: gateway-figures PROGRAM [--only key-echo|flood|single] [--sessions N] [--floods N] \
                     [--flood-bound MS]";

/// What cannot fail to be over by then.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(NetworkBehaviour)]
struct Behaviour {
    stream: libp2p_stream::Behaviour,
    socketpipe: SocketPipe,
}

/// A node with our transport.
fn swarm() -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    Ok(
        SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_other_transport(|key| Transport::new(Config::new(key)))?
            .with_behaviour(|_| Behaviour {
                stream: libp2p_stream::Behaviour::new(),
                socketpipe: SocketPipe::new(),
            })?
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build(),
    )
}

/// What to measure.
struct Options {
    program: String,
    /// All, if there is none.
    only: Option<String>,
    sessions: usize,
    floods: usize,
    flood_bound: Duration,
}

impl Options {
    fn parse(
        program: String,
        mut args: impl Iterator<Item = String>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            program,
            only: None,
            sessions: 200,
            floods: 50,
            flood_bound: Duration::from_millis(50),
        };
        while let Some(arg) = args.next() {
            let value = args.next().ok_or(USAGE)?;
            match (arg.as_str(), value.as_str()) {
                ("--only", "key-echo" | "flood" | "single") => options.only = Some(value),
                ("--sessions", _) => options.sessions = value.parse()?,
                ("--floods", _) => options.floods = value.parse()?,
                ("--flood-bound", _) => {
                    options.flood_bound = Duration::from_millis(value.parse()?);
                }
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, figure: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == figure)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // The programs that are measured are in sessions of their own, which no signal to this one reaches: they end with `run`.
    let outcome = tokio::select! {
        outcome = run() => outcome,
        signal = ended() => signal,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gateway-figures: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let program = args.next().ok_or(USAGE)?;
    if program == "crowd" {
        let (Some(invitation), Some(sessions), Some(floods)) =
            (args.next(), args.next(), args.next())
        else {
            return Err(USAGE.into());
        };
        flood::crowd(&invitation, sessions.parse()?, floods.parse()?).await?;
        return Ok(true);
    }
    let options = Options::parse(program, args)?;
    let mut ok = true;
    if options.wants("key-echo") {
        ok &= in_time(echo::run()).await?;
    }
    if options.wants("flood") {
        let Options {
            program,
            sessions,
            floods,
            flood_bound,
            ..
        } = &options;
        ok &= in_time(flood::run(program, *sessions, *floods, *flood_bound)).await?;
    }
    if options.wants("single") {
        ok &= in_time(single::run(&options.program)).await?;
    }
    Ok(ok)
}

/// Waits for a signal that ends programs.
async fn ended() -> Result<bool, Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Err("ended by a signal".into())
}

async fn in_time(
    figure: impl Future<Output = Result<bool, Box<dyn Error>>>,
) -> Result<bool, Box<dyn Error>> {
    tokio::time::timeout(PATIENCE, figure).await?
}

/// The value in the middle, in milliseconds.
fn median(times: &mut [Duration]) -> f64 {
    percentile(times, 50)
}

/// The value that so many of a hundred do not exceed, in milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times
        .get(index)
        .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
