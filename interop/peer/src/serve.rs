//! Serves protocols: every inbound stream gets a task of its own as soon as it is negotiated.
//!
//! It opens no streams. What a stream carries is the matter of its [`Service`], which may ask for the end of its
//! connection. No queue lies between the connection and the tasks, so that streams which arrive at once are all served.

use std::{
    future::{Ready, ready},
    io,
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
        CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
        FromSwarm, NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};
use tokio::sync::{Semaphore, mpsc};

/// Streams served at the same time on one connection; those beyond are reset.
const MAX_STREAMS: usize = 1024;
/// Connections that wait to be closed.
const MAX_CLOSES: usize = 64;

/// What becomes of the connection when a stream is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Keep,
    /// It is closed.
    HangUp,
}

/// Serves one stream to its end.
type Run = dyn Fn(Stream) -> BoxFuture<'static, io::Result<Verdict>> + Send + Sync;

/// A protocol and what is done with its streams.
#[derive(Clone)]
pub(crate) struct Service {
    /// What the peer asks for.
    pub(crate) protocol: StreamProtocol,
    /// Serves one stream.
    pub(crate) run: Arc<Run>,
}

impl AsRef<str> for Service {
    fn as_ref(&self) -> &str {
        self.protocol.as_ref()
    }
}

/// A connection that is to be closed.
type Close = (PeerId, ConnectionId);

/// Serves the same protocols on every connection.
pub(crate) struct Behaviour {
    services: Arc<[Service]>,
    closing: mpsc::Sender<Close>,
    to_close: mpsc::Receiver<Close>,
}

impl Behaviour {
    /// Serves `services`.
    pub(crate) fn new(services: Vec<Service>) -> Self {
        let (closing, to_close) = mpsc::channel(MAX_CLOSES);
        Self {
            services: services.into(),
            closing,
            to_close,
        }
    }

    /// The handler of one connection.
    fn handler(&self, connection: Close) -> Handler {
        Handler {
            connection,
            services: Arc::clone(&self.services),
            closing: self.closing.clone(),
            permits: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler((peer, connection)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler((peer, connection)))
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

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.to_close.poll_recv(cx) {
            Poll::Ready(Some((peer_id, connection))) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            }),
            _ => Poll::Pending,
        }
    }
}

/// The serving side of one connection.
pub(crate) struct Handler {
    connection: Close,
    services: Arc<[Service]>,
    closing: mpsc::Sender<Close>,
    /// One for each further stream that may be served.
    permits: Arc<Semaphore>,
}

impl Handler {
    /// Starts the task of a stream. It ends with the connection at the latest, when its stream fails.
    fn serve(&self, stream: Stream, service: &Service) {
        let (peer, _) = self.connection;
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(%peer, "too many streams, the new one is dropped");
            return;
        };
        let (served, closing, connection) =
            ((service.run)(stream), self.closing.clone(), self.connection);
        let protocol = service.protocol.clone();
        tokio::spawn(async move {
            match served.await {
                Ok(Verdict::Keep) => {}
                Ok(Verdict::HangUp) => drop(closing.send(connection).await),
                Err(error) => tracing::warn!(%peer, %protocol, %error, "a served stream failed"),
            }
            drop(permit);
        });
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = std::convert::Infallible;
    type ToBehaviour = std::convert::Infallible;
    type InboundProtocol = AnyOf;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(AnyOf(Arc::clone(&self.services)), ())
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
pub(crate) struct AnyOf(Arc<[Service]>);

impl UpgradeInfo for AnyOf {
    type Info = Service;
    type InfoIter = std::vec::IntoIter<Service>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().cloned().collect::<Vec<_>>().into_iter()
    }
}

impl InboundUpgrade<Stream> for AnyOf {
    type Output = (Stream, Service);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, service: Service) -> Self::Future {
        ready(Ok((stream, service)))
    }
}
