//! What behaviour, handlers and controls know together: the connections of each peer, and who waits for one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, Stream, StreamProtocol};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    ConnectionInfo, IncomingSession, PTY_ALIAS, PTY_PROTOCOL, TUNNEL_ALIAS, TUNNEL_PROTOCOL,
};
use crate::socketpipe::client::ConnectError;

/// Why a stream did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamError {
    /// The peer does not offer the protocol.
    Unsupported,
    /// The connection failed or takes too long.
    Failed,
}

/// A stream to open.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) protocol: StreamProtocol,
    pub(super) reply: oneshot::Sender<Result<Stream, StreamError>>,
}

/// A peer to dial.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) peer: PeerId,
    /// Where to, beside what the swarm knows.
    pub(super) addresses: Vec<Multiaddr>,
    /// Told why if it fails.
    pub(super) failed: oneshot::Sender<ConnectError>,
}

/// A connection and the way to its handler.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) info: ConnectionInfo,
    pub(super) asks: mpsc::Sender<Ask>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    links: HashMap<PeerId, Vec<Link>>,
    /// Handlers whose connection is not established in the eyes of the swarm yet.
    pending: HashMap<ConnectionId, mpsc::Sender<Ask>>,
    waiting: HashMap<PeerId, Vec<oneshot::Sender<ConnectError>>>,
    inbound: Option<mpsc::Sender<IncomingSession>>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Changes with every connection that comes or goes.
    changed: watch::Sender<()>,
    pub(super) dials: mpsc::Sender<Dial>,
}

impl Shared {
    pub(super) fn new(dials: mpsc::Sender<Dial>) -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            dials,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handler of a connection is made.
    pub(super) fn prepare(&self, id: ConnectionId, asks: mpsc::Sender<Ask>) {
        self.state().pending.insert(id, asks);
    }

    pub(super) fn established(&self, peer: PeerId, info: ConnectionInfo) {
        let mut state = self.state();
        let Some(asks) = state.pending.remove(&info.id) else {
            return;
        };
        state
            .links
            .entry(peer)
            .or_default()
            .push(Link { info, asks });
        state.waiting.remove(&peer);
        // Another behaviour may have refused a connection whose handler was made.
        state.pending.retain(|_, asks| !asks.is_closed());
        drop(state);
        self.changed.send_replace(());
    }

    pub(super) fn closed(&self, peer: PeerId, id: ConnectionId) {
        let mut state = self.state();
        if let Some(links) = state.links.get_mut(&peer) {
            links.retain(|link| link.info.id != id);
            if links.is_empty() {
                state.links.remove(&peer);
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Somebody waits for a dial of this peer.
    pub(super) fn wait(&self, peer: PeerId, failed: oneshot::Sender<ConnectError>) {
        let mut state = self.state();
        let waiting = state.waiting.entry(peer).or_default();
        waiting.retain(|waiting| !waiting.is_closed());
        waiting.push(failed);
    }

    pub(super) fn dial_failed(&self, peer: &PeerId, why: &ConnectError) {
        let waiting = self.state().waiting.remove(peer);
        for waiting in waiting.into_iter().flatten() {
            // Who waited may have found another way.
            drop(waiting.send(why.clone()));
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The connections of a peer, best first: direct before relayed, new before old, since an old one may be dead.
    pub(super) fn links(&self, peer: &PeerId) -> Vec<Link> {
        let mut links: Vec<Link> = self.state().links.get(peer).cloned().unwrap_or_default();
        links.reverse();
        links.sort_by_key(|link| link.info.relayed);
        links
    }

    /// Whether this connection lives.
    pub(super) fn find(&self, peer: &PeerId, id: ConnectionId) -> Option<ConnectionInfo> {
        let state = self.state();
        let links = state.links.get(peer)?;
        let link = links.iter().find(|link| link.info.id == id)?;
        Some(link.info.clone())
    }

    /// Begins to accept; `None` if somebody does already.
    pub(super) fn accept(&self, capacity: usize) -> Option<mpsc::Receiver<IncomingSession>> {
        let mut state = self.state();
        if state
            .inbound
            .as_ref()
            .is_some_and(|sender| !sender.is_closed())
        {
            return None;
        }
        let (sender, receiver) = mpsc::channel(capacity);
        state.inbound = Some(sender);
        Some(receiver)
    }

    /// The protocols peers may open to us.
    pub(super) fn offered(&self) -> Vec<StreamProtocol> {
        let state = self.state();
        match state
            .inbound
            .as_ref()
            .is_some_and(|sender| !sender.is_closed())
        {
            true => vec![PTY_PROTOCOL, TUNNEL_PROTOCOL, PTY_ALIAS, TUNNEL_ALIAS],
            false => Vec::new(),
        }
    }

    pub(super) fn deliver(&self, incoming: IncomingSession) {
        let sender = self.state().inbound.clone();
        if sender.is_none_or(|sender| sender.try_send(incoming).is_err()) {
            tracing::debug!("incoming session dropped: nobody takes it");
        }
    }
}
