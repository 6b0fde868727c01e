//! Sessions over libp2p: `/socketpipe/pty/1.0.0` and `/socketpipe/tunnel/1.0.0`, one stream each.
//!
//! [`Behaviour`] goes into the swarm, [`Control`] opens sessions, [`IncomingSessions`] gives those of others, on any
//! connection of the swarm: WebRTC, QUIC, TCP, relayed. Who may come in is not decided here but by the server they
//! are given to. The behaviour is one of our own and not `libp2p-stream`: a session has to choose the connection its
//! stream opens on, to leave one that died unnoticed and to move from a relay to a direct one; and it has to know
//! which one that was.
//!
//! Streams are as private as the connection. Every libp2p transport in use is encrypted by Noise or TLS; in a swarm
//! with plaintext connections terminals are not to be offered.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncWrite as _, Stream as _};
use libp2p_core::{ConnectedPoint, Multiaddr, multiaddr::Protocol};
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, Stream, StreamProtocol};
use tokio::sync::mpsc;

use super::{
    server::{Origin, Server},
    session::Mode,
    upgrade::Carrier,
    wire::Wire,
};
use crate::way::{self, Way};

mod behaviour;
mod connector;
mod control;
mod failure;
mod handler;
mod shared;

pub use self::{
    behaviour::Behaviour,
    control::{Control, RelayPolicy},
};

/// Terminals.
pub const PTY_PROTOCOL: StreamProtocol = StreamProtocol::new("/socketpipe/pty/1.0.0");
/// TCP connections.
pub const TUNNEL_PROTOCOL: StreamProtocol = StreamProtocol::new("/socketpipe/tunnel/1.0.0");
/// The same for `ipfs p2p forward`, which forwards to names that begin so.
const PTY_ALIAS: StreamProtocol = StreamProtocol::new("/x/socketpipe/pty/1.0.0");
const TUNNEL_ALIAS: StreamProtocol = StreamProtocol::new("/x/socketpipe/tunnel/1.0.0");

fn protocol_of(mode: Mode) -> StreamProtocol {
    match mode {
        Mode::Pty => PTY_PROTOCOL,
        Mode::Tunnel => TUNNEL_PROTOCOL,
    }
}

fn mode_of(protocol: &StreamProtocol) -> Mode {
    match *protocol == PTY_PROTOCOL || *protocol == PTY_ALIAS {
        true => Mode::Pty,
        false => Mode::Tunnel,
    }
}

/// A connection of the swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its id in the swarm.
    pub id: ConnectionId,
    /// The address of the peer.
    pub address: Multiaddr,
    /// Whether it goes through a relay.
    pub relayed: bool,
}

impl ConnectionInfo {
    fn new(id: ConnectionId, endpoint: &ConnectedPoint) -> Self {
        Self {
            id,
            address: endpoint.get_remote_address().clone(),
            relayed: endpoint.is_relayed(),
        }
    }

    /// What its address tells of how its streams are carried.
    fn carrier(&self) -> Carrier {
        let has = |wanted: Protocol<'_>| self.address.iter().any(|part| part == wanted);
        let is_websocket = |part| matches!(part, Protocol::Ws(_) | Protocol::Wss(_));
        if self.relayed {
            Carrier::StreamCircuit
        } else if has(Protocol::WebRTCDirect) {
            Carrier::StreamDirectTransport
        } else if has(Protocol::QuicV1) || has(Protocol::Quic) {
            Carrier::StreamQuic
        } else if self.address.iter().any(is_websocket) {
            Carrier::StreamWebSocket
        } else if self
            .address
            .iter()
            .any(|part| matches!(part, Protocol::Tcp(_)))
        {
            Carrier::StreamTcp
        } else {
            Carrier::Stream
        }
    }

    /// A wire on a fresh stream of this connection, and the way the stream goes if it knows more than the address tells.
    fn wire(&self, mut stream: Stream) -> (Wire, Option<Way>) {
        // Nothing was written; the flush is only to have the stream polled. Whoever waits for something flushes again.
        let mut cx = Context::from_waker(Waker::noop());
        let (flushed, way) = way::ask(|| Pin::new(&mut stream).poll_flush(&mut cx));
        if let Poll::Ready(Err(error)) = flushed {
            tracing::debug!(%error, "a stream failed at once");
        }
        let wire = Wire::stream(stream)
            .with_label(self.to_string())
            .carried_by(self.carrier())
            .going(way.clone());
        (wire, way)
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.relayed { "relayed" } else { "direct" };
        write!(f, "{kind} {}", self.address)
    }
}

/// A stream somebody opened to us; nothing of it was read yet. To be served at once, in a task of its own.
#[derive(Debug)]
#[non_exhaustive]
pub struct IncomingSession {
    /// Who.
    pub peer: PeerId,
    /// Terminal or TCP connection.
    pub mode: Mode,
    /// On which connection.
    pub connection: ConnectionInfo,
    /// The stream.
    pub stream: Stream,
}

/// Streams others open to us. While it lives, peers see that the protocols are offered. A few wait; what comes while
/// those are not taken is dropped.
#[derive(Debug)]
pub struct IncomingSessions {
    receiver: mpsc::Receiver<IncomingSession>,
}

impl futures::Stream for IncomingSessions {
    type Item = IncomingSession;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<IncomingSession>> {
        self.receiver.poll_recv(cx)
    }
}

impl IncomingSessions {
    /// Serves all that come, each in a task, until the behaviour is gone.
    pub async fn serve(mut self, server: Server) {
        while let Some(incoming) =
            std::future::poll_fn(|cx| Pin::new(&mut self).poll_next(cx)).await
        {
            tokio::spawn(server.serve_incoming(incoming));
        }
    }
}

impl Server {
    /// [`Server::serve`] for a stream of a peer.
    pub fn serve_incoming(
        &self,
        incoming: IncomingSession,
    ) -> impl Future<Output = ()> + Send + use<> {
        let origin = Origin::peer(incoming.peer).at(&incoming.connection.address);
        let (wire, _) = incoming.connection.wire(incoming.stream);
        self.serve(wire, incoming.mode, origin)
    }
}
