//! Finds a connection to a peer and opens a stream on it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;
use tokio::{sync::oneshot, time::Instant};

use super::{
    RelayPolicy, protocol_of,
    shared::{Ask, Dial, Link, Shared, StreamError},
};
use crate::socketpipe::{
    client::{ConnectError, Connector},
    session::Mode,
    wire::Wire,
};
use crate::way::Way;

/// Time for a stream on a connection there is. One that died unnoticed shall not hold up the others.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// Time for a dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// A session follows its connection to WebRTC at once, if it did not do so in this time.
const CALM: Duration = Duration::from_secs(300);
/// Otherwise it waits to see whether WebRTC lasts, longer with each move: a path that comes and goes shall not drag the
/// session along.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
    /// The last wire.
    last: Mutex<Option<Last>>,
    moves: Mutex<Moves>,
}

/// Where a wire leads.
#[derive(Clone)]
struct Last {
    connection: ConnectionId,
    relayed: bool,
    /// On a connection that has more than one.
    way: Option<Way>,
}

/// Moves to WebRTC within one connection.
#[derive(Default)]
struct Moves {
    last: Option<Instant>,
    pause: Duration,
}

impl Moves {
    /// How long WebRTC must last before the session follows it once more.
    fn next_pause(&mut self, now: Instant) -> Duration {
        let is_calm = self.last.is_none_or(|last| now - last >= CALM);
        self.last = Some(now);
        self.pause = match is_calm {
            true => Duration::ZERO,
            false => (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
        };
        self.pause
    }
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
                moves: Mutex::default(),
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
    fn last(&self) -> Option<Last> {
        let last = self.last.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This wire is handed out.
    fn hand_out(&self, (wire, to): (Wire, Last)) -> Wire {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(to);
        wire
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
            let last = self.last().map(|last| last.connection);
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
                Ok(opened) => return Ok(self.hand_out(opened)),
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

    async fn open(&self, link: &Link) -> Result<(Wire, Last), StreamError> {
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
        let (wire, way) = link.info.wire(stream);
        let to = Last {
            connection: link.info.id,
            relayed: link.info.relayed,
            way,
        };
        Ok((wire, to))
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

    /// A direct connection after a relayed one; the other lane of a connection when that is the better one now.
    async fn better(&self) -> Wire {
        match self.last() {
            Some(last) if last.relayed => self.better_than_relayed().await,
            Some(Last {
                connection,
                way: Some(way),
                ..
            }) => self.other_lane(connection, way).await,
            Some(_) | None => std::future::pending().await,
        }
    }

    /// WebRTC when it has come up, the WebSocket when WebRTC is silent: a stream stays on the lane it was opened on.
    async fn other_lane(&self, connection: ConnectionId, mut way: Way) -> Wire {
        let mut pause = Duration::ZERO;
        while way.is_outdone().await {
            if !way.is_webrtc && pause.is_zero() {
                let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
                pause = moves.next_pause(Instant::now());
            }
            tokio::time::sleep(pause).await;
            if way.is_outdone().now_or_never().is_none() {
                // It did not last.
                pause = Duration::ZERO;
                continue;
            }
            let mut links = self.shared.links(&self.peer);
            links.retain(|link| link.info.id == connection);
            let Some(link) = links.first() else { break };
            if let Ok(opened) = self.open(link).await
                && let Some(new) = &opened.1.way
                && new.is_webrtc != way.is_webrtc
            {
                return self.hand_out(opened);
            }
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
        // The connection ends, and with it the wire that is in use.
        std::future::pending().await
    }

    async fn better_than_relayed(&self) -> Wire {
        let mut changes = self.shared.changes();
        loop {
            let link = self.direct(&[]).await;
            if let Ok(opened) = self.open(&link).await {
                return self.hand_out(opened);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_comes_and_goes_does_not_drag_a_session_along() {
        let mut moves = Moves::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            now += Duration::from_secs(70);
            pauses.push(moves.next_pause(now).as_secs());
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(moves.next_pause(now + CALM), Duration::ZERO);
    }
}
