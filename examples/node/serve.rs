//! Serves protocols: every inbound stream gets a task of its own as soon as it is negotiated.
//!
//! [`Behaviour`] is for protocols that only ever answer. It opens no streams and has nothing to report to the swarm;
//! what a stream carries is the matter of its [`Service`]. No queue lies between the connection and the tasks, so that
//! streams which arrive at once are all served, up to [`MAX_STREAMS`].

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io, iter, slice,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{DeniedUpgrade, InboundUpgrade, UpgradeInfo},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};
use tokio::sync::Semaphore;

/// Streams served at the same time on one connection; those beyond are reset.
const MAX_STREAMS: usize = 1024;

/// A protocol and what is done with its streams.
#[derive(Clone)]
pub(crate) struct Service {
    /// What the peer asks for.
    pub(crate) protocol: StreamProtocol,
    /// Serves one stream to its end.
    pub(crate) run: fn(Stream) -> BoxFuture<'static, io::Result<()>>,
}

impl AsRef<str> for Service {
    fn as_ref(&self) -> &str {
        self.protocol.as_ref()
    }
}

/// Serves the same protocols on every connection.
pub(crate) struct Behaviour {
    services: &'static [Service],
}

impl Behaviour {
    /// Serves `services`.
    pub(crate) fn new(services: &'static [Service]) -> Self {
        Self { services }
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler {
            peer,
            services: self.services,
            permits: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// The serving side of one connection.
pub(crate) struct Handler {
    peer: PeerId,
    services: &'static [Service],
    /// One for each further stream that may be served.
    permits: Arc<Semaphore>,
}

impl Handler {
    /// Starts the task of a stream. It ends with the connection at the latest, when its stream fails.
    fn serve(&self, stream: Stream, service: &Service) {
        let peer = self.peer;
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::debug!(%peer, "too many streams, the new one is dropped");
            return;
        };
        let served = (service.run)(stream);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%peer, %error, "a stream failed");
            }
            drop(permit);
        });
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = AnyOf;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(AnyOf(self.services), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
            protocol: (stream, service),
            ..
        }) = event
        {
            self.serve(stream, &service);
        }
    }
}

/// Negotiates one of the services and yields the bare stream with it.
pub(crate) struct AnyOf(&'static [Service]);

impl UpgradeInfo for AnyOf {
    type Info = Service;
    type InfoIter = iter::Cloned<slice::Iter<'static, Service>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().cloned()
    }
}

impl InboundUpgrade<Stream> for AnyOf {
    type Output = (Stream, Service);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, service: Service) -> Self::Future {
        ready(Ok((stream, service)))
    }
}
