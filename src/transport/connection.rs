//! [`Connection`]: the muxer that the swarm polls.
//!
//! It is the one owner of a connection outside the driver, over [`ConnectionShared`](super::shared::ConnectionShared);
//! dropping it closes the connection. Setting a connection up is not its job: see
//! [`Connecting`](super::Connecting).

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use libp2p_core::{
    Multiaddr,
    multiaddr::Protocol,
    muxing::{StreamMuxer, StreamMuxerEvent},
};
use libp2p_identity::PeerId;

use super::{Stream, driver::SocketHandle, shared::ConnectionHandle};
use crate::{ConnectionError, proto::CloseReason};

/// A connection to one peer.
///
/// Dropping it closes it, as [`poll_close`](StreamMuxer::poll_close) does: what the streams have flushed is still sent,
/// for a bounded time. Streams may outlive it and report errors then.
pub struct Connection {
    handle: ConnectionHandle,
    /// Of a dialed connection: as long as it lives, later dials may leave from its socket.
    socket: Option<SocketHandle>,
}

impl Connection {
    pub(crate) fn new(handle: ConnectionHandle) -> Self {
        Self {
            handle,
            socket: None,
        }
    }

    /// Keeps the socket usable for further dials for the life of the connection.
    pub(crate) fn keep_socket(&mut self, socket: SocketHandle) {
        self.socket = Some(socket);
    }

    /// Why the connection ended, once it has.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.handle.close_reason()
    }

    /// Keeps the handshake channel open for the life of the connection, at no cost: some peers take its end for the end
    /// of the connection.
    pub(crate) fn keep_handshake(&self, handshake: Stream) {
        handshake.detach();
    }

    /// Noise is done: from now on streams that the peer opens are handed out.
    pub(crate) fn authenticated(&self, peer: PeerId) {
        tracing::debug!(%peer, "connection authenticated");
        self.handle.authenticated();
    }
}

#[cfg(test)]
impl Connection {
    /// To see when the last reference to the connection is gone.
    pub(super) fn downgrade(&self) -> std::sync::Weak<super::shared::ConnectionShared> {
        self.handle.downgrade()
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        self.handle.poll_inbound(cx).map_err(ConnectionError::from)
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        self.handle.poll_outbound(cx).map_err(ConnectionError::from)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.handle.poll_close(cx).map(Ok)
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        self.handle
            .poll_event(cx)
            .map_ok(|address| StreamMuxerEvent::AddressChange(multiaddr(address)))
            .map_err(ConnectionError::from)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The address of a connected peer. Without certificate hash: a dialer's certificate is none that could be dialed.
fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(address.ip().into())
        .with(Protocol::Udp(address.port()))
        .with(Protocol::WebRTCDirect)
}
