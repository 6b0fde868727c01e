//! Many connections that do nothing: do all of them live on, what do they cost the listener, and how long does a new
//! dial take in the middle of them?
//!
//!     cargo run --release --example idle_swarm                        # 10,000 connections for 5 minutes
//!     cargo run --release --example idle_swarm -- --connections 2000 --seconds 30
//!
//! The program runs itself: one process listens, several dial, and this one asks them and dials now and then. A
//! connection is known by the addresses of its two ends, so each one to the same listener leaves from a port of its own,
//! and the dialers share the file descriptors that this takes. The exit status is 0 only if no connection was lost and
//! the limits were kept.

mod child;
mod dialer;
mod listener;

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, identity::Keypair, multiaddr::Protocol, swarm::dummy,
};
use libp2p_rtc::{Config, Transport};
use tokio::time::{Instant, sleep};

use crate::{
    child::{Child, cpu, dropped, resident_kib},
    dialer::dial_time,
};

/// Dials of which the median is taken.
const PROBES: usize = 51;

/// Memory counts as settled after this time.
const SETTLE: Duration = Duration::from_secs(5);

/// Many idle connections on one listener.
#[derive(Debug, Parser)]
#[command(name = "idle_swarm")]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    options: Options,
}

/// What the processes do that this program starts.
#[derive(Debug, Subcommand)]
enum Task {
    /// Listen, print the address, answer each line on stdin with a line, end with stdin.
    #[command(hide = true)]
    Listen,
    /// Open connections, print their number, answer each line on stdin with a line, end with stdin.
    #[command(hide = true)]
    Dial {
        /// The listener.
        addr: Multiaddr,
        /// How many.
        count: usize,
    },
}

/// How.
#[derive(Args, Debug)]
struct Options {
    /// How many connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Connections of one dialing process; each takes a file descriptor.
    #[arg(long, default_value_t = 900)]
    per_process: usize,
    /// How long they rest.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Fails above this memory per connection at the listener.
    #[arg(long, default_value_t = 64)]
    max_kib: u64,
    /// Fails if a dial in the middle takes more than this many times as long as one of the empty listener.
    #[arg(long, default_value_t = 2.0)]
    max_slowdown: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let arguments = Arguments::parse();
    let done = match arguments.task {
        Some(Task::Listen) => listener::run().await,
        Some(Task::Dial { addr, count }) => dialer::run(addr, count).await,
        None => measure(&arguments.options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "idle_swarm: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// A node that only connects.
pub(crate) fn swarm() -> Result<Swarm<dummy::Behaviour>, Box<dyn Error>> {
    Ok(
        SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_other_transport(|key| Transport::new(Config::new(key)))?
            .with_behaviour(|_| dummy::Behaviour)?
            // Without streams every connection is unused; here they are to stay.
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(86_400))
            })
            .build(),
    )
}

/// One line on stdout, flushed.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

async fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut listener = Child::start(&["listen"])?;
    let addr: Multiaddr = listener.line().await?.parse()?;
    let empty_dial = dial_time(&addr, PROBES).await?;
    sleep(SETTLE).await;
    let empty_kib = resident_kib(listener.pid())?;
    let started = Instant::now();
    let mut dialers = open(options, &addr).await?;
    print(&format!("| connections opened | {} |", options.connections))?;
    print(&format!(
        "| opened within | {:.1} s |",
        started.elapsed().as_secs_f64()
    ))?;
    sleep(SETTLE).await;
    let per_connection =
        resident_kib(listener.pid())?.saturating_sub(empty_kib) as f64 / options.connections as f64;
    print(&format!(
        "| listener's memory per connection | {per_connection:.1} KiB |"
    ))?;

    let (before, from) = (cpu(listener.pid())?, Instant::now());
    let rest = Duration::from_secs(options.seconds);
    sleep(rest / 2).await;
    let used = (cpu(listener.pid())? - before).as_secs_f64() / from.elapsed().as_secs_f64();
    print(&format!(
        "| listener's processor time | {:.1} % of one core |",
        used * 100.0
    ))?;
    let per_connection_us = used * 1e6 / options.connections as f64;
    print(&format!(
        "| the same per connection | {per_connection_us:.1} us per second |"
    ))?;
    let busy_dial = dial_time(&addr, PROBES).await?;
    print(&format!(
        "| median dial, empty listener | {:.2} ms |",
        millis(empty_dial)
    ))?;
    print(&format!(
        "| median dial, in the middle | {:.2} ms |",
        millis(busy_dial)
    ))?;
    sleep(rest.saturating_sub(from.elapsed())).await;

    print(&format!(
        "| datagrams lost as the listener's buffer was full | {} |",
        dropped(port(&addr).ok_or("no port")?)?
    ))?;
    all_alive(options, &mut listener, &mut dialers).await?;
    if per_connection > options.max_kib as f64 {
        return Err(format!("a connection takes more than {} KiB", options.max_kib).into());
    }
    if busy_dial > empty_dial.mul_f64(options.max_slowdown) {
        return Err(
            format!("a dial takes {busy_dial:?} in the middle, {empty_dial:?} before").into(),
        );
    }
    Ok(())
}

/// Fails if a connection was lost.
async fn all_alive(
    options: &Options,
    listener: &mut Child,
    dialers: &mut [Child],
) -> Result<(), Box<dyn Error>> {
    let mut alive = 0;
    for dialer in dialers {
        alive += dialer.ask().await?;
    }
    let seen = listener.ask().await?;
    print(&format!(
        "| alive after {} s, dialers | {alive} |",
        options.seconds
    ))?;
    print(&format!("| alive, listener | {seen} |"))?;
    if alive != options.connections || seen != options.connections {
        return Err(format!("of {} connections {alive} live on", options.connections).into());
    }
    Ok(())
}

/// Starts the dialers, and waits until all connections are open.
async fn open(options: &Options, addr: &Multiaddr) -> Result<Vec<Child>, Box<dyn Error>> {
    let mut dialers = Vec::new();
    let mut left = options.connections;
    while left > 0 {
        let count = left.min(options.per_process);
        left -= count;
        dialers.push(Child::start(&[
            "dial",
            &addr.to_string(),
            &count.to_string(),
        ])?);
    }
    for dialer in &mut dialers {
        dialer.line().await?;
    }
    Ok(dialers)
}

fn port(addr: &Multiaddr) -> Option<u16> {
    addr.iter().find_map(|part| match part {
        Protocol::Udp(port) => Some(port),
        _ => None,
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
