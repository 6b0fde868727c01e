//! `nat-node dial`: a connection that is talked on.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::{Multiaddr, PeerId, Swarm, swarm::SwarmEvent};
use libp2p_stream::Behaviour;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    Failure, clock,
    node::{self, Servers, dial_failure},
    print,
    talk::{Talk, milliseconds},
};

/// Options of `dial`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The listener.
    address: Multiaddr,
    /// Seconds to talk for, unless SIGTERM comes before.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[command(flatten)]
    servers: Servers,
}

/// Dials, talks, and tells of it.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (mut swarm, paths) = node::build(&args.servers)?;
    print(&json!({ "event": "dial", "time": clock(), "own": swarm.local_peer_id().to_string() }));
    tokio::spawn(node::tell(paths));
    let begun = Instant::now();
    swarm.dial(args.address)?;
    let peer = connected(&mut swarm).await?;
    let connected_ms = milliseconds(begun.elapsed());
    let control = swarm.behaviour().new_control();
    let (stop, stopped) = watch::channel(false);
    let driving = tokio::spawn(drive(swarm));
    let mut talking = tokio::spawn(Talk::new(control, peer, stopped).run());
    let told = tokio::select! {
        told = &mut talking => Some(told),
        _ = terminate.recv() => None,
        () = tokio::time::sleep(Duration::from_secs(args.seconds)) => None,
        closed = driving => return Err(closed?),
    };
    stop.send_replace(true);
    let mut told = match told {
        Some(told) => told,
        None => talking.await,
    }??;
    if let Some(fields) = told.as_object_mut() {
        fields.insert("connected_ms".to_owned(), json!(connected_ms));
    }
    print(&told);
    Ok(())
}

/// Waits for the connection.
async fn connected(swarm: &mut Swarm<Behaviour>) -> Result<PeerId, Failure> {
    loop {
        let event = swarm.select_next_some().await;
        if let Some(error) = dial_failure(&event) {
            return Err(crate::chain(error).into());
        }
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = event {
            return Ok(peer_id);
        }
    }
}

/// Polls the swarm until the connection ends: why it did.
async fn drive(mut swarm: Swarm<Behaviour>) -> Failure {
    loop {
        if let SwarmEvent::ConnectionClosed { cause, .. } = swarm.select_next_some().await {
            let cause = cause.map_or_else(|| "no reason".to_owned(), |cause| crate::chain(&cause));
            return format!("the connection ended: {cause}").into();
        }
    }
}
