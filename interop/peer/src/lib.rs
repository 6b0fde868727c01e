//! An interoperability peer over any transport of rust-libp2p: `listen`, `dial` and `version`.
//!
//! The programs of the `interop` folder hand their transport to [`run`]; what they serve and check is the same for all
//! of them, so that a difference in the results is a difference of the transports. The contract, which peers in other
//! languages follow too, is in `interop/README.md`. Starting programs and judging their results is the runner's job.

mod behaviour;
mod checks;
mod dial;
mod farewell;
mod listen;
mod protocols;
mod serve;
mod session;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use libp2p::{
    PeerId,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identity::Keypair,
};
use serde_json::{Value, json};

/// Any error; it ends up as text in a result.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A transport as the swarm wants it.
pub type Muxed = Boxed<(PeerId, StreamMuxerBox)>;

/// What makes a peer of its own.
#[derive(Debug)]
pub struct Implementation {
    /// Its name in the results.
    pub name: &'static str,
    /// The version of the transport.
    pub version: &'static str,
    /// Whether it can only dial through a listener of its own.
    pub listens_to_dial: bool,
    /// Makes the transport.
    pub transport: fn(&Settings) -> Result<Muxed, Failure>,
}

/// What a transport is made of.
#[derive(Debug)]
pub struct Settings {
    /// The identity.
    pub key: Keypair,
    /// What the identity was made of, if it shall be the same at the next start.
    pub seed: Option<u64>,
    /// The handshake of dials.
    pub ice: Ice,
}

/// The form of the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ice {
    /// Whatever the implementation prefers.
    #[default]
    Auto,
    /// With the ufrag as the password on both sides.
    V1,
    /// With the password in the server's ufrag.
    V2,
}

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "Interoperability peer of libp2p WebRTC Direct")]
struct Args {
    /// What to be.
    #[command(subcommand)]
    role: Role,
}

/// What this process is to be.
#[derive(Debug, Subcommand)]
enum Role {
    /// Prints its addresses and serves until SIGTERM.
    Listen(listen::ListenArgs),
    /// Dials and tries scenarios, one JSON line each; exit status 0 only if all worked.
    Dial(dial::DialArgs),
    /// Prints name and version.
    Version,
}

/// The main function of a peer program. Logs as `RUST_LOG` says, on stderr.
pub async fn run(implementation: &Implementation) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let outcome = match Args::parse().role {
        Role::Listen(args) => listen::run(implementation, args).await.map(|()| true),
        Role::Dial(args) => dial::run(implementation, args).await,
        Role::Version => {
            print(&json!({ "peer": implementation.name, "version": implementation.version }));
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}: {error}", implementation.name);
            ExitCode::FAILURE
        }
    }
}

/// Prints one line at once, even into a pipe.
fn print(value: &Value) {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    // Nobody can be told when the output is gone.
    drop(writeln!(output, "{value}"));
    drop(output.flush());
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
