//! `socketpipe`: terminals and TCP services behind a libp2p node, from both sides.
//!
//! The protocol and everything that could be of use to other programs is in the library; here are the command line,
//! the configuration, files and the terminal of the user. What a command prints goes to stdout, what went wrong and
//! how things stand to stderr; with `--json` each line of both is one JSON object.

mod args;
mod audit;
mod config;
mod connect;
mod control;
mod desk;
mod destination;
mod forward;
mod manage;
mod node;
mod output;
mod recording;
mod serve;
mod servers;
mod state;
mod terminal;
mod time;
mod transports;
mod ways;

use std::{error::Error, process::ExitCode};

use clap::Parser as _;

use crate::{
    args::{Args, Command},
    output::Output,
};

/// Something that ends the program, with a sentence about it.
type Failed = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.json);
    // Of a terminal the small numbers are those of the program in it.
    let status = match args.command {
        Command::Connect(_) => connect::NO_STATUS,
        _ => 1,
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SOCKETPIPE_LOG")
                // What a peer sends must not write here; that library has errors for it.
                .unwrap_or_else(|_| "error,yamux=off".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return output.failed(&error, status),
    };
    let outcome = runtime.block_on(run(args, &output));
    // A thread may still wait for a key.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => output.failed(error.as_ref(), status),
    }
}

/// The exit status of the command, or why it failed.
async fn run(args: Args, output: &Output) -> Result<u8, Failed> {
    let state = state::find(args.state.clone())?;
    match args.command {
        Command::Serve(options) => serve::run(state, options, output).await,
        Command::Connect(options) => connect::run(state, options, output).await,
        Command::Forward(options) => forward::run(state, options, output).await,
        Command::Invite(options) => manage::invite(state, options, output).await,
        Command::Peers(options) => manage::peers(state, options, output).await,
        Command::Sessions(options) => manage::sessions(state, options, output).await,
    }
}
