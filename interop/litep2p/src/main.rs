//! The interoperability peer made of litep2p 0.16 with its `webrtc` feature.
//!
//! It follows the contract of this repository's peers, as far as litep2p can: its WebRTC transport
//! only listens, so `dial` always fails and says why.

mod certificate;
mod listen;
mod service;
mod streams;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Any error; it ends up as text on stderr.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The release of litep2p this program is pinned to.
const VERSION: &str = "v0.16.0";

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "Interoperability peer: litep2p 0.16")]
struct Args {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What this process is to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Prints its addresses and serves until SIGTERM or SIGINT.
    Listen(listen::ListenArgs),
    /// Fails: litep2p cannot dial over WebRTC.
    Dial {
        /// Where to dial, and the scenarios; all of it is ignored.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<String>,
    },
    /// Prints which library this is.
    Version,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match Args::parse().command {
        Command::Listen(args) => match listen::run(args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("litep2p-peer: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Dial { .. } => {
            let detail = "litep2p's WebRTC transport cannot dial";
            print(&json!({ "result": "connected", "ok": false, "ms": 0, "detail": detail }));
            ExitCode::FAILURE
        }
        Command::Version => {
            print(&json!({ "peer": "litep2p", "version": VERSION }));
            ExitCode::SUCCESS
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
