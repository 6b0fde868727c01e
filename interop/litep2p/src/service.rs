//! A served protocol as litep2p wants it.

use futures::StreamExt as _;
use litep2p::{
    PeerId,
    codec::ProtocolCodec,
    protocol::{Direction, TransportEvent, TransportService, UserProtocol},
    types::protocol::ProtocolName,
};
use tokio::{sync::watch, task::JoinSet};

use crate::streams::{After, Kind};

/// One protocol; litep2p runs it as a task of its own.
pub struct Service {
    /// What it serves.
    kind: Kind,
    /// Turns true when all connections are to be closed.
    stop: watch::Receiver<bool>,
}

impl Service {
    /// Serves `kind` until `stop`.
    pub fn new(kind: Kind, stop: watch::Receiver<bool>) -> Self {
        Self { kind, stop }
    }
}

#[async_trait::async_trait]
impl UserProtocol for Service {
    fn protocol(&self) -> ProtocolName {
        ProtocolName::from(self.kind.protocol())
    }

    fn codec(&self) -> ProtocolCodec {
        ProtocolCodec::Unspecified
    }

    async fn run(mut self: Box<Self>, mut service: TransportService) -> litep2p::Result<()> {
        let mut connected: Vec<PeerId> = Vec::new();
        let mut served = JoinSet::new();
        loop {
            tokio::select! {
                event = service.next() => match event {
                    Some(TransportEvent::ConnectionEstablished { peer, .. }) => connected.push(peer),
                    Some(TransportEvent::ConnectionClosed { peer }) => {
                        connected.retain(|other| *other != peer);
                    }
                    Some(TransportEvent::SubstreamOpened {
                        peer, substream, direction: Direction::Inbound, ..
                    }) => {
                        let kind = self.kind;
                        served.spawn(async move { (peer, kind.serve(substream).await) });
                    }
                    Some(_) => {}
                    None => return Ok(()),
                },
                Some(outcome) = served.join_next() => match outcome {
                    Ok((peer, Ok(After::HangUp))) => service.force_close(peer)?,
                    Ok((_, Ok(After::Stay))) => {}
                    Ok((peer, Err(error))) => {
                        eprintln!("{}: {peer}: {error}", self.kind.protocol());
                    }
                    Err(error) => eprintln!("{}: {error}", self.kind.protocol()),
                },
                Ok(()) = self.stop.changed() => {
                    for peer in connected.drain(..) {
                        // It is no error if the peer was faster.
                        service.force_close(peer).ok();
                    }
                }
            }
        }
    }
}
