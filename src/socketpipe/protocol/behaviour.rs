//! The behaviour: keeps track of connections, dials for controls.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p_core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    behaviour::ConnectionEstablished,
    dial_opts::{DialOpts, PeerCondition},
};
use tokio::sync::mpsc;

use super::{
    ConnectionInfo, Control,
    failure::explain,
    handler::Handler,
    shared::{Dial, Shared},
};

/// Streams one connection is asked for at once.
const MAX_ASKS: usize = 16;
/// Dials that wait for the swarm.
const MAX_DIALS: usize = 16;

/// Carries sessions on the streams of a swarm. Emits no events; use its [`Control`].
pub struct Behaviour {
    shared: Arc<Shared>,
    dials: mpsc::Receiver<Dial>,
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour").finish_non_exhaustive()
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::new()
    }
}

impl Behaviour {
    /// Offers nothing until a control accepts.
    pub fn new() -> Self {
        let (sender, dials) = mpsc::channel(MAX_DIALS);
        Self {
            shared: Arc::new(Shared::new(sender)),
            dials,
        }
    }

    /// A control; all of them are equal.
    pub fn control(&self) -> Control {
        Control::new(self.shared.clone())
    }

    fn handler(&self, peer: PeerId, connection: ConnectionId) -> Handler {
        let (sender, asks) = mpsc::channel(MAX_ASKS);
        self.shared.prepare(connection, sender);
        Handler::new(peer, connection, self.shared.clone(), asks)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let info = ConnectionInfo::new(connection_id, endpoint);
                self.shared.established(peer_id, info);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => self.shared.closed(peer_id, connection_id),
            // Somebody else dials already: that dial counts.
            FromSwarm::DialFailure(DialFailure {
                error: DialError::DialPeerConditionFalse(_),
                ..
            }) => {}
            FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error,
                ..
            }) => self.shared.dial_failed(&peer, &explain(error)),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        // Never `None`: the shared half holds a sender.
        let Poll::Ready(Some(dial)) = self.dials.poll_recv(cx) else {
            return Poll::Pending;
        };
        self.shared.wait(dial.peer, dial.failed);
        let opts = DialOpts::peer_id(dial.peer);
        let opts = match dial.addresses.is_empty() {
            true => opts.condition(PeerCondition::NotDialing).build(),
            false => opts
                .addresses(dial.addresses)
                .extend_addresses_through_behaviour()
                .condition(PeerCondition::NotDialing)
                .build(),
        };
        Poll::Ready(ToSwarm::Dial { opts })
    }
}
