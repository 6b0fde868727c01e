//! Figures of the gateway, as lines of JSON: what a key press costs, and how it fares beside a flood.
//!
//!     gateway-figures PROGRAM [--sessions N] [--floods N] [--flood-bound MS]
//!
//! * `key_echo`: one byte through a terminal session over webrtc-direct and back, beside 64 bytes on a bare libp2p
//!   stream of the same connection, in turns.
//! * `flood`: PROGRAM (`socketpipe`) serves N terminals at once, some of which print without end; the echo of one
//!   more, and the memory of PROGRAM.
//!
//! The exit status is 1 if a figure misses its bound: twice the bare stream, and the echo beside a flood 50 ms, or what
//! `--flood-bound` says.
#![expect(clippy::print_stdout, reason = "the results go there")]

mod echo;
mod flood;
mod program;

use std::{error::Error, process::ExitCode, time::Duration};

use libp2p::{Swarm, SwarmBuilder, identity::Keypair, swarm::NetworkBehaviour};
use libp2p_rtc::{Config, Transport, socketpipe::Behaviour as SocketPipe};

const USAGE: &str = "usage: gateway-figures PROGRAM [--sessions N] [--floods N] [--flood-bound MS]";

/// What cannot fail to be over by then.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(NetworkBehaviour)]
struct Behaviour {
    stream: libp2p_stream::Behaviour,
    socketpipe: SocketPipe,
}

/// A node with our transport.
fn swarm() -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    Ok(
        SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_other_transport(|key| Transport::new(Config::new(key)))?
            .with_behaviour(|_| Behaviour {
                stream: libp2p_stream::Behaviour::new(),
                socketpipe: SocketPipe::new(),
            })?
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build(),
    )
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gateway-figures: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let program = args.next().ok_or(USAGE)?;
    if program == "crowd" {
        let (Some(invitation), Some(sessions), Some(floods)) =
            (args.next(), args.next(), args.next())
        else {
            return Err(USAGE.into());
        };
        flood::crowd(&invitation, sessions.parse()?, floods.parse()?).await?;
        return Ok(true);
    }
    let (mut sessions, mut floods, mut bound) = (200, 50, 50);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(USAGE)?.parse()?;
        match arg.as_str() {
            "--sessions" => sessions = value,
            "--floods" => floods = value,
            "--flood-bound" => bound = value,
            _ => return Err(USAGE.into()),
        }
    }
    let bound = Duration::from_millis(u64::try_from(bound)?);
    let echo = tokio::time::timeout(PATIENCE, echo::run()).await??;
    let flood =
        tokio::time::timeout(PATIENCE, flood::run(&program, sessions, floods, bound)).await??;
    Ok(echo && flood)
}

/// The value in the middle, in milliseconds.
fn median(times: &mut [Duration]) -> f64 {
    percentile(times, 50)
}

/// The value that so many of a hundred do not exceed, in milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times
        .get(index)
        .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
