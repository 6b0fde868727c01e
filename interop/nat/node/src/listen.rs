//! `nat-node listen`: an echo for everybody.

use futures::{AsyncReadExt as _, StreamExt as _, io::copy};
use libp2p::{Multiaddr, multiaddr::Protocol, swarm::SwarmEvent};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Failure,
    node::{self, ECHO, Servers},
    print,
};

/// Options of `listen`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Where to listen.
    #[arg(required = true)]
    addresses: Vec<Multiaddr>,
    #[command(flatten)]
    servers: Servers,
}

/// Serves until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (mut swarm, paths) = node::build(&args.servers)?;
    let mut streams = swarm.behaviour().new_control().accept(ECHO)?;
    for address in args.addresses {
        swarm.listen_on(address)?;
    }
    tokio::spawn(node::tell(paths));
    let own = *swarm.local_peer_id();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            event = swarm.select_next_some() => if let SwarmEvent::NewListenAddr { address, .. } = event {
                print(&json!({ "event": "listening", "address": address.with(Protocol::P2p(own)) }));
            },
            Some((_, stream)) = streams.next() => {
                tokio::spawn(async move {
                    let (reader, mut writer) = stream.split();
                    // It ends with the stream, in whatever way that does: the other end tells of it.
                    drop(copy(reader, &mut writer).await);
                });
            }
        }
    }
}
