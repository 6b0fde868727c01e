//! The interoperability peer made of upstream `libp2p-webrtc` 0.10.0-alpha, and the runner that
//! tries our node against it in both directions.
//!
//! `listen` and `dial` follow the contract of this repository's `node` example, so the runner can
//! also be pointed at this program itself: that shows what upstream can do with upstream.

mod checks;
mod dial;
mod listen;
mod peer;
mod runner;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

/// Any error; it ends up as text in a result.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "Interoperability peer: libp2p-webrtc 0.10.0-alpha")]
struct Args {
    /// What to be.
    #[command(subcommand)]
    role: Role,
}

/// What this process is to be.
#[derive(Debug, Subcommand)]
enum Role {
    /// Prints its addresses and serves identify, ping and /echo/1.0.0 until SIGTERM.
    Listen(listen::ListenArgs),
    /// Dials and tries scenarios, one JSON line each; exit status 0 only if all worked.
    Dial(dial::DialArgs),
    /// Tries a node program against this one, both directions.
    Run(runner::RunArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    peer::choose_provider();
    let outcome = match Args::parse().role {
        Role::Listen(args) => listen::run(args).await.map(|()| true),
        Role::Dial(args) => dial::run(args).await,
        Role::Run(args) => runner::run(args).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rust-upstream: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one line at once, even into a pipe.
fn print(value: &Value) {
    use std::io::Write as _;
    println!("{value}");
    // Nobody can be told when the output is gone.
    let _ = std::io::stdout().flush();
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
