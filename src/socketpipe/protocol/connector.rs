//! Finds a connection to a peer and opens a stream on it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;
use tokio::sync::oneshot;

use super::{
    RelayPolicy, protocol_of,
    shared::{Ask, Dial, Link, Shared, StreamError},
};
use crate::socketpipe::{
    client::{ConnectError, Connector},
    session::Mode,
    wire::Wire,
};

/// Time for a stream on a connection there is. One that died unnoticed shall not hold up the others.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// Time for a dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// One peer, as the client sees it.
pub(super) struct PeerConnector {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    mode: Mode,
    relay: RelayPolicy,
    /// The connection of the last wire, and whether it is relayed.
    last: Mutex<Option<(ConnectionId, bool)>>,
}

impl PeerConnector {
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        mode: Mode,
        relay: RelayPolicy,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                peer,
                addresses,
                mode,
                relay,
                last: Mutex::new(None),
            }),
        }
    }
}

impl Connector for PeerConnector {
    fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.connect().await })
    }

    fn better(&mut self) -> BoxFuture<'static, Wire> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.better().await })
    }
}

impl Inner {
    fn last(&self) -> Option<(ConnectionId, bool)> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream on the best connection that gives one. The last one comes last: it was lost, or there is a reason to
    /// leave it.
    async fn connect(&self) -> Result<Wire, ConnectError> {
        let mut dialed = false;
        // A relay was all there was, and it is not to be used.
        let mut relay_only = false;
        let mut tried = Vec::new();
        let mut changes = self.shared.changes();
        loop {
            changes.mark_unchanged();
            let mut links = self.shared.links(&self.peer);
            links.retain(|link| !tried.contains(&link.info.id));
            let last = self.last().map(|(id, _)| id);
            links.sort_by_key(|link| (link.info.relayed, Some(link.info.id) == last));
            let Some(link) = links.first() else {
                let found = match std::mem::replace(&mut dialed, true) {
                    false => self.dial(&tried).await,
                    true => Err(ConnectError::new(
                        "no connection to the peer gives a stream",
                    )),
                };
                found.map_err(|error| if relay_only { self.relay_only() } else { error })?;
                continue;
            };
            if link.info.relayed && self.wait_for_direct(&tried).await {
                continue;
            }
            tried.push(link.info.id);
            if link.info.relayed && self.mode == Mode::Tunnel && !self.relay.tunnels {
                relay_only = true;
                continue;
            }
            match self.open(link).await {
                Ok(wire) => return Ok(wire),
                Err(StreamError::Unsupported) => return Err(unsupported(self.mode)),
                Err(StreamError::Failed) => {}
            }
        }
    }

    /// Fatal for a new session only: one that had a direct connection may get another.
    fn relay_only(&self) -> ConnectError {
        let error = match self.last() {
            None => ConnectError::fatal,
            Some(_) => ConnectError::new,
        };
        error("the peer is reached through a relay only, which is not meant for tunnels")
    }

    async fn open(&self, link: &Link) -> Result<Wire, StreamError> {
        let (reply, answer) = oneshot::channel();
        let protocol = protocol_of(self.mode);
        let opening = async {
            let asked = link.asks.send(Ask { protocol, reply }).await;
            asked.map_err(|_| StreamError::Failed)?;
            answer.await.unwrap_or(Err(StreamError::Failed))
        };
        let stream = tokio::time::timeout(OPEN_TIMEOUT, opening)
            .await
            .unwrap_or(Err(StreamError::Failed))?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((link.info.id, link.info.relayed));
        drop(last);
        Ok(Wire::stream(stream).with_label(link.info.to_string()))
    }

    /// Waits for hole punching. Whether there is a direct connection now that was not tried: one that is dead stays in
    /// the list for a while.
    async fn wait_for_direct(&self, tried: &[ConnectionId]) -> bool {
        let waiting = self.direct(tried);
        tokio::time::timeout(self.relay.wait, waiting).await.is_ok()
    }

    async fn direct(&self, tried: &[ConnectionId]) -> Link {
        let mut changes = self.shared.changes();
        loop {
            let links = self.shared.links(&self.peer);
            let direct = |link: &Link| !link.info.relayed && !tried.contains(&link.info.id);
            if let Some(link) = links.into_iter().find(direct) {
                return link;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Dials and waits for a connection that was not tried yet.
    async fn dial(&self, tried: &[ConnectionId]) -> Result<(), ConnectError> {
        let mut changes = self.shared.changes();
        let (failed, failure) = oneshot::channel();
        let dial = Dial {
            peer: self.peer,
            addresses: self.addresses.clone(),
            failed,
        };
        let gone = || ConnectError::fatal("the swarm is gone");
        self.shared.dials.send(dial).await.map_err(|_| gone())?;
        let connected = async {
            loop {
                let links = self.shared.links(&self.peer);
                if links.iter().any(|link| !tried.contains(&link.info.id)) {
                    return Ok(());
                }
                changes.changed().await.map_err(|_| gone())?;
            }
        };
        let failure = async {
            match failure.await {
                Ok(why) => why,
                // Connected: the other branch knows.
                Err(_) => std::future::pending().await,
            }
        };
        let outcome = tokio::time::timeout(DIAL_TIMEOUT, async {
            match futures::future::select(Box::pin(connected), Box::pin(failure)).await {
                futures::future::Either::Left((connected, _)) => connected,
                futures::future::Either::Right((why, _)) => Err(why),
            }
        });
        outcome
            .await
            .unwrap_or_else(|_| Err(ConnectError::new("the peer does not answer")))
    }

    /// A direct connection after a relayed one.
    async fn better(&self) -> Wire {
        if !self.last().is_some_and(|(_, relayed)| relayed) {
            return std::future::pending().await;
        }
        let mut changes = self.shared.changes();
        loop {
            let link = self.direct(&[]).await;
            if let Ok(wire) = self.open(&link).await {
                return wire;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

fn unsupported(mode: Mode) -> ConnectError {
    ConnectError::fatal(match mode {
        Mode::Pty => "the peer does not offer terminals",
        Mode::Tunnel => "the peer does not offer tunnels",
    })
}
