//! A libp2p node for the laboratory of networks (`interop/nat/run`): the transports `/ws/webrtc` and WebRTC Direct as a user
//! makes them, with STUN and TURN servers. One end serves an echo, the other one talks to it and tells how that went.
//!
//! Results and news are lines of JSON on stdout, news with the time in microseconds since 1970, as the scripts have it. The
//! exit status is 1 if there was no connection, or if a byte came back that was not sent.
#![forbid(unsafe_code)]

mod dial;
mod listen;
mod node;
mod talk;

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand};
use serde_json::Value;

/// Any error; it ends up as text on stderr.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "A libp2p node for the laboratory of networks")]
struct Args {
    /// What to be.
    #[command(subcommand)]
    role: Role,
}

/// What this process is to be.
#[derive(Debug, Subcommand)]
enum Role {
    /// Prints its addresses and how its connections go, and sends back what comes, until SIGTERM.
    Listen(listen::Args),
    /// Dials, prints how the connection goes, talks to the echo, and tells how that went.
    Dial(dial::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let outcome = match Args::parse().role {
        Role::Listen(args) => listen::run(args).await,
        Role::Dial(args) => dial::run(args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nat-node: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An error with all its causes, unless a text already contains its cause.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}

/// Microseconds since 1970.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// Prints one line at once, even into a pipe.
fn print(value: &Value) {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    // Nobody can be told when the output is gone.
    drop(writeln!(output, "{value}"));
    drop(output.flush());
}
