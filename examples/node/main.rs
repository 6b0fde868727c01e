//! A small node for trying the transport out, and the peer of the interoperability tests.
//!
//!     node listen [MULTIADDR] [--seed N]
//!     node dial MULTIADDR [--ice auto|v1|v2] [--pings N] [--echo BYTES] [--streams N] [--seed N]
//!
//! Every result is one line of JSON on stdout; what went wrong is on stderr, and then the exit status is not 0.
//! `listen` ends on SIGINT or SIGTERM. Both commands close their connections before they exit.

mod command_line;
mod dial;
mod farewell;
mod listen;
mod output;
mod protocols;
mod serve;
mod stop;

use std::{error::Error, process::ExitCode, time::Duration};

use libp2p::{Swarm, SwarmBuilder, identify, identity::Keypair, ping, swarm::NetworkBehaviour};
use libp2p_rtc::{Config, Transport};

use crate::{
    command_line::{Command, Options},
    output::{Closed, chain, complain},
};

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

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the results has seen enough.
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            complain(&chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    match command_line::parse(std::env::args().skip(1))? {
        Command::Help => output::print(command_line::USAGE),
        Command::Listen(options) => listen::run(options).await,
        Command::Dial(options) => dial::run(options).await,
    }
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
