//! How the connections of a transport go, for people.
//!
//! A swarm sees one connection with one address, whatever carries it. [`Paths`] says what that is now.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use tokio::sync::watch;

use crate::way::{Named, Route};

/// What carries the streams that are opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// The WebSocket itself.
    WebSocket,
    /// WebRTC.
    WebRtc {
        /// The peer's address, as we see it; that of a TURN server, if it is relayed by one of the peer's.
        remote: SocketAddr,
        /// A TURN server passes everything on: ours or, as far as it said so, the peer's.
        relayed: bool,
    },
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WebSocket => Named(false, None).fmt(f),
            Self::WebRtc { remote, relayed } => Named(true, Some(Route { remote, relayed })).fmt(f),
        }
    }
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionPath {
    /// The peer at its other end.
    pub peer: PeerId,
    /// What was dialed, or where the peer's WebSocket comes from: the address the swarm knows it by.
    pub address: Multiaddr,
    /// How it goes now.
    pub path: Path,
}

type Table = BTreeMap<u64, ConnectionPath>;

/// How all connections of a transport go. Clones see the same.
#[derive(Clone, Debug)]
pub struct Paths {
    table: Arc<watch::Sender<Table>>,
    seen: watch::Receiver<Table>,
}

impl Default for Paths {
    fn default() -> Self {
        let (table, seen) = watch::channel(Table::new());
        Self {
            table: Arc::new(table),
            seen,
        }
    }
}

impl Paths {
    /// All connections, oldest first.
    pub fn all(&self) -> Vec<ConnectionPath> {
        self.table.borrow().values().cloned().collect()
    }

    /// Those with this peer.
    pub fn of(&self, peer: &PeerId) -> Vec<Path> {
        let table = self.table.borrow();
        let theirs = table.values().filter(|known| known.peer == *peer);
        theirs.map(|known| known.path).collect()
    }

    /// Waits until something differs from what this clone saw last: a connection came, went, or goes another way.
    pub async fn changed(&mut self) {
        // There is a sender in `self`.
        self.seen.changed().await.unwrap_or_default();
    }

    /// For one more connection; `number` is its own.
    pub(crate) fn report(&self, number: u64, address: Multiaddr) -> Report {
        Report {
            table: self.table.clone(),
            number,
            address,
            told: None,
        }
    }
}

/// What a connection says of itself, until it is dropped.
#[derive(Debug)]
pub(crate) struct Report {
    table: Arc<watch::Sender<Table>>,
    number: u64,
    address: Multiaddr,
    told: Option<Path>,
}

impl Report {
    /// It goes this way now.
    pub(crate) fn tell(&mut self, peer: PeerId, path: Path) {
        if self.told.replace(path) == Some(path) {
            return;
        }
        tracing::debug!(%peer, %path, "path of a connection");
        let entry = ConnectionPath {
            peer,
            address: self.address.clone(),
            path,
        };
        self.table
            .send_modify(|table| drop(table.insert(self.number, entry)));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.told.is_some() {
            self.table
                .send_modify(|table| drop(table.remove(&self.number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn tells_the_path_of_each_connection_while_it_lives() {
        let mut paths = Paths::default();
        let (peer, other) = (PeerId::random(), PeerId::random());
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1/ws/webrtc".parse().unwrap();
        let mut first = paths.report(1, address.clone());
        let mut second = paths.report(2, address);
        assert!(paths.changed().now_or_never().is_none());
        first.tell(peer, Path::WebSocket);
        second.tell(other, Path::WebSocket);
        assert!(paths.changed().now_or_never().is_some());
        let remote = "192.0.2.1:1".parse().unwrap();
        let direct = Path::WebRtc {
            remote,
            relayed: false,
        };
        first.tell(peer, direct);
        assert_eq!(paths.of(&peer), [direct]);
        assert_eq!(paths.all().len(), 2);
        assert!(paths.changed().now_or_never().is_some());
        first.tell(peer, direct);
        assert!(paths.changed().now_or_never().is_none(), "nothing new");
        drop((first, second));
        assert!(paths.all().is_empty());
    }
}
