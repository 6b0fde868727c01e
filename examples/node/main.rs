//! A small node for trying the transport out, and the peer of the interoperability tests.
//!
//!     node listen [MULTIADDR] [--seed N]
//!     node dial MULTIADDR [--ice auto|v1|v2] [--pings N] [--echo BYTES] [--streams N] [--seed N]
//!
//! Every result is one line of JSON on stdout; what went wrong is on stderr, and then the exit status is not 0.
//! `listen` ends on SIGINT or SIGTERM. Both commands close their connections before they exit.
#![expect(clippy::print_stdout, reason = "the results go there")]

mod dial;
mod farewell;
mod listen;
mod protocols;
mod serve;

use std::{error::Error, io::Write as _, process::ExitCode, time::Duration};

use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, identify, identity::Keypair, ping, swarm::NetworkBehaviour,
};
use libp2p_rtc::{Config, DialMode, Transport};

const USAGE: &str = "usage: node listen [MULTIADDR] [--seed N]
       node dial MULTIADDR [--ice auto|v1|v2] [--pings N] [--echo BYTES] [--streams N] [--seed N]";

/// How long a connection without streams stays: the program that dials says when it is over.
const IDLE: Duration = Duration::from_secs(3600);

/// What a node does.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    serve: serve::Behaviour,
    /// Opens streams for the checks of `dial`; it serves nothing, because it drops streams that arrive at once.
    stream: libp2p_stream::Behaviour,
}

/// The command line.
#[derive(Default)]
pub(crate) struct Options {
    addr: Option<Multiaddr>,
    seed: Option<u64>,
    ice: DialMode,
    pings: Option<usize>,
    echo: usize,
    streams: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let command = args.next().ok_or(USAGE)?;
    let options = parse(args)?;
    match command.as_str() {
        "listen" => listen::run(options).await,
        "dial" => dial::run(options).await,
        _ => Err(USAGE.into()),
    }
}

/// The options after the command.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            options.addr = Some(arg.parse()?);
            continue;
        }
        let value = args.next().ok_or(USAGE)?;
        match arg.as_str() {
            "--seed" => options.seed = Some(value.parse()?),
            "--ice" => {
                options.ice = match value.as_str() {
                    "auto" => DialMode::Auto,
                    "v1" => DialMode::V1,
                    "v2" => DialMode::V2,
                    _ => return Err(USAGE.into()),
                }
            }
            "--pings" => options.pings = Some(value.parse()?),
            "--echo" => options.echo = value.parse()?,
            "--streams" => options.streams = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

/// A node with our transport and nothing else.
pub(crate) fn swarm(options: &Options) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let mode = options.ice;
    let swarm = SwarmBuilder::with_existing_identity(identity(options.seed)?)
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key).with_dial_mode(mode)))?
        .with_behaviour(|key| Behaviour {
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(Duration::from_millis(200)),
            ),
            identify: identify::Behaviour::new(identify::Config::new(
                "/libp2p-rtc/node/1.0.0".into(),
                key.public(),
            )),
            serve: serve::Behaviour::new(&protocols::SERVED),
            stream: libp2p_stream::Behaviour::new(),
        })?
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(IDLE)
                .with_max_negotiating_inbound_streams(1024)
        })
        .build();
    Ok(swarm)
}

/// With a seed always the same identity, and thus always the same address.
fn identity(seed: Option<u64>) -> Result<Keypair, Box<dyn Error>> {
    let Some(seed) = seed else {
        return Ok(Keypair::generate_ed25519());
    };
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&seed.to_be_bytes());
    Ok(Keypair::ed25519_from_bytes(bytes)?)
}

/// One result. Flushed, for a reader at the other end of a pipe waits for it.
pub(crate) fn print(json: &str) -> std::io::Result<()> {
    println!("{json}");
    std::io::stdout().flush()
}

/// Text of a peer as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        if !text.contains(&error_text) {
            text = format!("{text}: {error_text}");
        }
        cause = error.source();
    }
    text
}
