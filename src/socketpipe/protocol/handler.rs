//! One connection of the swarm: opens streams that are asked for, takes those of the peer.
#![expect(
    unnameable_types,
    reason = "types of a behaviour's handler are public and nobody's business"
)]

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use libp2p_core::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionHandler, ConnectionHandlerEvent, ConnectionId, Stream, StreamProtocol,
    StreamUpgradeError, SubstreamProtocol,
    handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    IncomingSession, mode_of,
    shared::{Ask, Shared, StreamError},
};

/// Names to negotiate; nothing else happens to the stream.
#[derive(Debug)]
pub struct Upgrade {
    protocols: Vec<StreamProtocol>,
}

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.protocols.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _protocol: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Who waits for a stream that is being negotiated.
#[derive(Debug)]
pub struct Waiting {
    reply: oneshot::Sender<Result<Stream, StreamError>>,
}

/// Handler of [`Behaviour`](super::Behaviour).
pub struct Handler {
    peer: PeerId,
    connection: ConnectionId,
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("peer", &self.peer)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Handler {
    pub(super) fn new(
        peer: PeerId,
        connection: ConnectionId,
        shared: Arc<Shared>,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        Self {
            peer,
            connection,
            shared,
            asks,
        }
    }

    fn incoming(&self, stream: Stream, protocol: &StreamProtocol) {
        let Some(connection) = self.shared.find(&self.peer, self.connection) else {
            tracing::debug!("incoming session on a connection that is not established");
            return;
        };
        self.shared.deliver(IncomingSession {
            peer: self.peer,
            mode: mode_of(protocol),
            connection,
            stream,
        });
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Waiting;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        let protocols = self.shared.offered();
        SubstreamProtocol::new(Upgrade { protocols }, ())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, Waiting, Infallible>> {
        // `None`: the behaviour has forgotten the connection, which ends soon.
        while let Poll::Ready(Some(Ask { protocol, reply })) = self.asks.poll_recv(cx) {
            if reply.is_closed() {
                continue;
            }
            let protocols = vec![protocol];
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Upgrade { protocols }, Waiting { reply }),
            });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Waiting>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                info: (),
            }) => self.incoming(stream, &protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info,
            }) => drop(info.reply.send(Ok(stream))),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => StreamError::Unsupported,
                    _ => StreamError::Failed,
                };
                drop(info.reply.send(Err(error)));
            }
            _ => {}
        }
    }
}
