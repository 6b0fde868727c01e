//! What the program holds of the protocol.

use std::{fmt, sync::Arc, time::Duration};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;

use super::{ConnectionInfo, IncomingSessions, connector::PeerConnector, shared::Shared};
use crate::socketpipe::{
    client::{self, Connector, OpenError, RemoteSession, SessionOptions},
    session::Mode,
};

/// Streams of peers that wait to be taken.
const MAX_INCOMING: usize = 64;

/// What to do when a peer is reached through a relay only. Relays cut a circuit after minutes and a few hundred
/// kilobytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayPolicy {
    /// How long to wait for a direct connection, which hole punching may bring. Default 5 s.
    pub wait: Duration,
    /// Open tunnels through relays, too. Default false: only terminals.
    pub tunnels: bool,
}

impl Default for RelayPolicy {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(5),
            tunnels: false,
        }
    }
}

/// Opens sessions and accepts them. Clones are equal.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    relay: RelayPolicy,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            relay: RelayPolicy::default(),
        }
    }

    /// The same with another policy for relays.
    #[must_use]
    pub fn with_relay_policy(mut self, relay: RelayPolicy) -> Self {
        self.relay = relay;
        self
    }

    /// Offers the protocols to peers from now on, until the value is dropped. `None` while another one lives.
    pub fn accept(&self) -> Option<IncomingSessions> {
        let receiver = self.shared.accept(MAX_INCOMING)?;
        Some(IncomingSessions { receiver })
    }

    /// Opens a session with a peer; dials it, at addresses the swarm knows, if it is not connected. Returns after the
    /// handshake. The session follows the peer from connection to connection.
    pub async fn open(
        &self,
        peer: PeerId,
        options: SessionOptions,
    ) -> Result<RemoteSession, OpenError> {
        self.open_at(peer, Vec::new(), options).await
    }

    /// The same with addresses to dial beside those the swarm knows.
    pub async fn open_at(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        options: SessionOptions,
    ) -> Result<RemoteSession, OpenError> {
        let mode = options.config.mode;
        client::open(options, self.connector(peer, addresses, mode)).await
    }

    /// Makes wires to a peer: for [`open`](client::open), beside other ways to the same server.
    pub fn connector(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        mode: Mode,
    ) -> impl Connector + use<> {
        PeerConnector::new(self.shared.clone(), peer, addresses, mode, self.relay)
    }

    /// The connections of a peer, best first.
    pub fn connections(&self, peer: &PeerId) -> Vec<ConnectionInfo> {
        let links = self.shared.links(peer);
        links.into_iter().map(|link| link.info).collect()
    }
}
