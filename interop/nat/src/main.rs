//! Tools of the laboratory of networks (`interop/nat/run`): a path with delay and loss, echo services, and clients that
//! measure what comes back. They know nothing of SocketPipe; what they talk to is a plain address.
//!
//! Results are lines of JSON on stdout. The exit status is 1 if anything was lost, late beyond patience or wrong.
#![forbid(unsafe_code)]

mod echo;
mod figures;
mod keys;
mod mass;
mod path;
mod pattern;
mod probe;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

/// Any error; it ends up as text on stderr.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "Tools of the laboratory of networks")]
struct Args {
    /// What to be.
    #[command(subcommand)]
    role: Role,
}

/// What this process is to be.
#[derive(Debug, Subcommand)]
enum Role {
    /// Makes two TUN devices and forwards packets between them, late and with losses, until SIGTERM.
    Path(path::Args),
    /// Sends back what comes, by TCP and UDP, until it is killed.
    Echo(echo::Args),
    /// Sends numbered datagrams to an echo, and counts what comes back and when.
    Probe(probe::Args),
    /// Sends a pattern to an echo by TCP, checks every byte that comes back, and tells of pauses.
    Stream(stream::Args),
    /// Gives whoever asks much, and takes as much back; every byte is checked.
    Give(mass::GiveArgs),
    /// The other end of that. Tells how long it took.
    Take(mass::TakeArgs),
    /// Sends single bytes to an echo by TCP, as somebody types, and tells how long each took.
    Keys(keys::Args),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Args::parse().role {
        Role::Path(args) => path::run(args).await,
        Role::Echo(args) => echo::run(args).await,
        Role::Probe(args) => probe::run(args).await,
        Role::Stream(args) => stream::run(args).await,
        Role::Give(args) => mass::give(args).await,
        Role::Take(args) => mass::take(args).await,
        Role::Keys(args) => keys::run(args).await,
    };
    match outcome {
        Ok(result) => {
            print(&result);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("nat-lab: {error}");
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
