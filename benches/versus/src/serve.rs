//! The listener process: `versus serve`. Prints its address as one JSON line, answers every line
//! on its standard input with a line of figures about itself, and ends when that input ends, so
//! that it never outlives the process which measures.

use futures::StreamExt as _;
use libp2p::{Multiaddr, identity::Keypair};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    Failure, exchange,
    node::{Node, PROTOCOL, Setup},
    proc,
    transports::Kind,
};

/// How the listener process is started.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ServeArgs {
    /// The transport to listen with.
    #[arg(long)]
    pub transport: Kind,
    /// Fills the secret key, so that a restarted listener keeps its identity.
    #[arg(long)]
    pub seed: u8,
    /// The UDP port, 0 for any.
    #[arg(long)]
    pub port: u16,
    /// Leaves out the stream behaviour.
    #[arg(long)]
    pub no_streams: bool,
}

/// The first line a listener prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Where it listens, with the peer id.
    pub addr: Multiaddr,
}

/// The figures of a listener process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// The highest resident memory so far, in KiB.
    pub peak_kib: u64,
    /// CPU time used so far, in milliseconds.
    pub cpu_ms: u64,
    /// Open file descriptors.
    pub fds: usize,
    /// Tokio tasks that are alive.
    pub tasks: usize,
    /// Open connections.
    pub connections: usize,
}

/// Runs the listener until its standard input ends.
pub async fn run(args: ServeArgs) -> Result<(), Failure> {
    let node = Node::start(Setup {
        kind: args.transport,
        keypair: Keypair::ed25519_from_bytes([args.seed; 32])?,
        listen: Some(args.port),
        streams: !args.no_streams,
    })
    .await?;
    if !args.no_streams {
        serve_streams(&node)?;
    }
    let addr = node.addr().ok_or("the listener has no address")?.clone();
    println!("{}", serde_json::to_string(&Hello { addr })?);
    let mut questions = BufReader::new(tokio::io::stdin()).lines();
    while questions.next_line().await?.is_some() {
        println!("{}", serde_json::to_string(&figures(&node)?)?);
    }
    Ok(())
}

/// Accepts streams and serves each in a task of its own.
fn serve_streams(node: &Node) -> Result<(), Failure> {
    let mut incoming = node
        .control()?
        .accept(PROTOCOL)
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            // A stream that fails shows at the dialer, where it is measured.
            tokio::spawn(async move { drop(exchange::serve(stream).await) });
        }
    });
    Ok(())
}

/// The figures right now.
fn figures(node: &Node) -> Result<Figures, Failure> {
    let pid = std::process::id();
    let (rss_kib, peak_kib) = proc::rss_kib(pid)?;
    Ok(Figures {
        rss_kib,
        peak_kib,
        cpu_ms: u64::try_from(proc::cpu(pid)?.as_millis())?,
        fds: proc::fds(pid)?,
        tasks: tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        connections: node.connections(),
    })
}
