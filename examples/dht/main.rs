//! A node of a distributed hash table (Kademlia) that speaks WebRTC-direct and nothing else, and commands that use such
//! a table. Made to be copied: `docs/dht.md` says what to change in it for an application of its own.
//!
//!     dht run [--listen MULTIADDR]... [--bootstrap MULTIADDR]...
//!     dht put KEY VALUE --bootstrap MULTIADDR
//!     dht get KEY --bootstrap MULTIADDR
//!     dht provide KEY --bootstrap MULTIADDR
//!     dht find KEY --bootstrap MULTIADDR
//!
//! `run` and `provide` are servers: they keep their identity, their port and the addresses of the peers they know in a
//! folder, so that their own address stays the same and they come back without a bootstrap node. `put`, `get` and `find`
//! are clients: no table ever holds their address, and they end when they are done.

mod command_line;
mod folder;
mod keys;
mod node;
mod output;
mod query;
mod serve;

use std::{error::Error, process::ExitCode};

use clap::Parser as _;

use crate::{
    command_line::{Arguments, Command},
    output::Output,
};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let output = Output::new(arguments.options.json);
    match run(arguments, output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&output::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments, output: Output) -> Result<(), Box<dyn Error>> {
    let Arguments { command, options } = arguments;
    match command {
        Command::Run => serve::run(&options, None, output).await,
        Command::Provide { key } => serve::run(&options, Some(&key), output).await,
        Command::Put { key, value } => query::put(&options, &key, value, output).await,
        Command::Get { key } => query::get(&options, &key, output).await,
        Command::Find { key } => query::find(&options, &key, output).await,
    }
}
