//! A Kademlia table of many nodes in one process, on loopback: is every record found again after half of the nodes were
//! stopped and started anew, and the others have dialed them at the addresses they had stored?
//!
//!     cargo run --release --example dht_swarm -- --nodes 200
//!     cargo run --release --example dht_swarm -- --nodes 200 --transport quic
//!     cargo run --release --example dht_swarm -- serve --nodes 20
//!
//! Without `--transport` the program runs itself once per transport, so that neither's memory counts for the other, and
//! prints one table. `serve` only brings the nodes up and prints their addresses as lines of JSON, for programs that
//! need a table to try themselves on. What a node of an application looks like is in `examples/dht`.

mod node;
mod report;
mod trial;

use std::{
    error::Error,
    io::{self, Write as _},
    process::{Command, ExitCode, Stdio},
};

use clap::{Args, Parser, Subcommand};
use libp2p::Multiaddr;

use crate::{node::TransportKind, report::Report};

/// A Kademlia table of many nodes in one process.
#[derive(Debug, Parser)]
#[command(name = "dht_swarm")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    options: Options,
}

/// What to do other than the trial.
#[derive(Debug, Subcommand)]
enum Task {
    /// Bring the nodes up, print `{"addr":"..."}` for each, the bootstrap node first, and serve until SIGINT or SIGTERM.
    Serve,
}

/// How.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How many nodes.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(4..), global = true)]
    pub(crate) nodes: u16,
    /// How many records are put, and got twice.
    #[arg(long, default_value_t = 1000)]
    pub(crate) records: usize,
    /// Measure this transport only.
    #[arg(long, global = true)]
    pub(crate) transport: Option<TransportKind>,
    /// Where the nodes listen, port 0; the default is on 127.0.0.1.
    #[arg(long, value_name = "MULTIADDR", global = true)]
    pub(crate) listen: Option<Multiaddr>,
    /// Seconds after which unused connections are closed.
    #[arg(long, default_value_t = 300, global = true)]
    pub(crate) idle: u64,
    /// The name of the table's protocol.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "/libp2p-rtc/kad/1.0.0",
        global = true
    )]
    pub(crate) protocol: String,
    /// Print the figures as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("dht_swarm: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let options = &arguments.options;
    if let Some(Task::Serve) = arguments.command {
        return runtime()?.block_on(trial::serve(options));
    }
    let Some(kind) = options.transport else {
        let kinds = [TransportKind::Webrtc, TransportKind::Quic];
        let reports: Vec<_> = kinds
            .into_iter()
            .map(in_own_process)
            .collect::<Result<_, _>>()?;
        print(&report::table(&reports))?;
        return compared(&reports);
    };
    let report = runtime()?.block_on(trial::run(options, kind))?;
    if options.json {
        print(&report.to_json())?;
    } else {
        print(&report::table(std::slice::from_ref(&report)))?;
    }
    report.verdict().map_err(Into::into)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

/// The same command line again, for one transport.
fn in_own_process(kind: TransportKind) -> Result<Report, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .args(["--json", "--transport", kind.name()])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    // With what did not hold, if the figures could be taken all the same.
    Report::from_json(text.trim()).map_err(|error| {
        format!(
            "{} gave no figures ({}): {error}",
            kind.name(),
            output.status
        )
        .into()
    })
}

/// This crate has to hold; what the other transport does not is told.
fn compared(reports: &[Report]) -> Result<(), Box<dyn Error>> {
    for report in reports {
        match report.verdict() {
            Err(reason) if report.name == TransportKind::Webrtc.name() => return Err(reason.into()),
            Err(reason) => say(&format!("{}: {reason}", report.name)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// A result.
pub(crate) fn print(text: &str) -> Result<(), Box<dyn Error>> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// What happens meanwhile.
pub(crate) fn say(text: &str) {
    // There is nobody left to tell that it does not work.
    writeln!(io::stderr(), "{text}").ok();
}
