//! An independent client: SocketPipe's WebRTC upgrade, and the libp2p transport `/ws/webrtc`, with the crate `webrtc`.
//!
//! It shares no code with what it tests: frames, signaling and framing are written here once more, after the documents, and
//! ICE, DTLS and SCTP are those of webrtc-rs. Results are lines of JSON; the exit status is 1 if anything was wrong. Logs as
//! `RUST_LOG` says, on stderr.
#![forbid(unsafe_code)]

mod address;
mod call;
mod checks;
mod client;
mod dial;
mod frame;
mod gate;
mod pipe;
mod plain;
mod report;
mod stream;
mod upgrade;
mod websocket;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

/// Any error; it ends up as text in a result.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// No run takes longer, whatever waits for what.
const PATIENCE: Duration = Duration::from_secs(180);

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "An independent client of WebRTC that is signaled over WebSockets")]
struct Args {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Opens a SocketPipe session, and moves it to a data channel and back.
    Upgrade(upgrade::Args),
    /// Dials a libp2p node by its /ws/webrtc address, and tries what the connection is good for.
    Dial(dial::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // webrtc takes the cryptography of the process, and there is no default where a build has two of them. It only fails
    // when a choice was made already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let run = async {
        match Args::parse().command {
            Command::Upgrade(args) => upgrade::run(args).await,
            Command::Dial(args) => dial::run(args).await,
        }
    };
    match tokio::time::timeout(PATIENCE, run).await {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("webrtc-rs: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("webrtc-rs: not done within {PATIENCE:?}");
            ExitCode::FAILURE
        }
    }
}
