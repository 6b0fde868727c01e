//! `litep2p-peer listen`.

use std::{collections::HashSet, time::Duration};

use futures::StreamExt as _;
use litep2p::{
    Litep2p, Litep2pEvent,
    config::{ConfigBuilder, Litep2pConfig},
    crypto::ed25519::{Keypair, SecretKey},
    protocol::libp2p::{identify, ping},
    transport::webrtc::config::Config as WebRtcConfig,
    types::{ConnectionId, multiaddr::Multiaddr},
};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

use crate::{Failure, VERSION, certificate, print, service::Service, streams::Kind};

/// Longer than any scenario; litep2p closes connections without substreams after 5 s by default.
const KEEP_ALIVE: Duration = Duration::from_secs(600);

/// How long connections may take to close at the end.
const CLOSING: Duration = Duration::from_secs(2);

/// The options of `listen`.
#[derive(clap::Args, Debug)]
pub struct ListenArgs {
    /// Where to listen.
    #[arg(default_value = "/ip4/127.0.0.1/udp/0/webrtc-direct")]
    addr: Multiaddr,
    /// The same number gives the same identity and certificate.
    #[arg(long)]
    seed: Option<u64>,
    /// Also prints what happens to connections.
    #[arg(long)]
    events: bool,
}

/// Listens and serves until SIGTERM or SIGINT.
pub async fn run(args: ListenArgs) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    let mut node = Litep2p::new(config(&args, &stopped)?)?;
    for addr in node.listen_addresses() {
        print(&json!({ "addr": addr.to_string() }));
    }
    let mut open: HashSet<ConnectionId> = HashSet::new();
    loop {
        tokio::select! {
            event = node.next_event() => match event {
                Some(event) => report(event, args.events, &mut open),
                None => return Err("litep2p has ended".into()),
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    stop.send_replace(true);
    let closed = timeout(CLOSING, async {
        while !open.is_empty() {
            match node.next_event().await {
                Some(event) => report(event, args.events, &mut open),
                None => break,
            }
        }
    });
    if closed.await.is_err() {
        eprintln!("litep2p-peer: {} connections did not close", open.len());
    }
    Ok(())
}

/// What litep2p is made of here.
fn config(args: &ListenArgs, stop: &watch::Receiver<bool>) -> Result<Litep2pConfig, Failure> {
    let (identify, identified) = identify::Config::new(
        "/litep2p-peer/1.0.0".into(),
        Some(format!("litep2p/{VERSION}")),
    );
    let (ping, pinged) = ping::Config::default();
    // litep2p stops a protocol that nobody listens to.
    tokio::spawn(identified.for_each(|_| async {}));
    tokio::spawn(pinged.for_each(|_| async {}));
    let mut builder = ConfigBuilder::new()
        .with_libp2p_identify(identify)
        .with_libp2p_ping(ping)
        .with_keep_alive_timeout(KEEP_ALIVE)
        .with_webrtc(WebRtcConfig {
            listen_addresses: vec![args.addr.clone()],
            certificate: args.seed.map(certificate::of_seed).transpose()?,
            ..WebRtcConfig::default()
        });
    for kind in Kind::ALL {
        builder = builder.with_user_protocol(Box::new(Service::new(kind, stop.clone())));
    }
    if let Some(seed) = args.seed {
        let mut bytes = [0; 32];
        bytes[24..].copy_from_slice(&seed.to_be_bytes());
        builder = builder.with_keypair(Keypair::from(SecretKey::try_from_bytes(bytes)?));
    }
    Ok(builder.build())
}

/// Follows the connections, and prints what happens to them if asked to.
fn report(event: Litep2pEvent, events: bool, open: &mut HashSet<ConnectionId>) {
    let line = match event {
        Litep2pEvent::ConnectionEstablished { peer, endpoint } => {
            open.insert(endpoint.connection_id());
            json!({ "event": "connected", "peer": peer.to_string() })
        }
        Litep2pEvent::ConnectionClosed {
            peer,
            connection_id,
        } => {
            open.remove(&connection_id);
            json!({ "event": "closed", "peer": peer.to_string(), "detail": null })
        }
        _ => return,
    };
    if events {
        print(&line);
    }
}
