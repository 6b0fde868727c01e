//! The UDP sockets of a driver: the one that it is for and, while there are calls, one of the other address family.
//!
//! Connections of webrtc-direct live on the first alone. A call uses both families, because neither side knows which
//! of them leads to the other.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
};

use crate::{
    proto::Transmit,
    transport::socket::{Datagram, Sent, Socket},
};

/// Datagrams of one socket in one turn, or a few more. Everything is fed to the core before anything is sent, so that one
/// acknowledgement answers a batch. Measured: 64 to 1024 cost the same for one stream; a larger batch would only make
/// everybody else wait longer, this one takes about half a millisecond.
const MAX_DATAGRAMS: usize = 256;

/// See the module.
pub(super) struct Sockets {
    main: Socket,
    companion: Option<Socket>,
}

impl Sockets {
    pub(super) fn new(main: Socket) -> Self {
        Self {
            main,
            companion: None,
        }
    }

    /// Binds the second socket, if the first is bound to all addresses of its family. Its address.
    pub(super) fn open_companion(&mut self) -> Option<SocketAddr> {
        let bound = self.main.local_addr();
        if self.companion.is_none() && bound.ip().is_unspecified() {
            let any: IpAddr = match bound {
                SocketAddr::V4(_) => Ipv6Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED.into(),
            };
            self.companion = Socket::bind((any, 0).into())
                .inspect_err(|error| tracing::debug!(%error, "calls use one address family only"))
                .ok();
        }
        self.companion.as_ref().map(Socket::local_addr)
    }

    /// Closes the second socket. True if there was one.
    pub(super) fn close_companion(&mut self) -> bool {
        self.companion.take().is_some()
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Socket> {
        std::iter::once(&mut self.main).chain(&mut self.companion)
    }

    /// See [`Socket::poll_unreachable`].
    pub(super) fn poll_unreachable(&mut self, cx: &mut Context<'_>) -> Poll<SocketAddr> {
        for socket in self.all() {
            if let Poll::Ready(remote) = socket.poll_unreachable(cx) {
                return Poll::Ready(remote);
            }
        }
        Poll::Pending
    }

    /// Hands over at most a batch from each. True when there may be more; an error is one of the system, not of a
    /// datagram.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut deliver: impl FnMut(Datagram<'_>),
    ) -> io::Result<bool> {
        let mut more = false;
        for socket in self.all() {
            more |= receive_from(socket, cx, &mut deliver)?;
        }
        Ok(more)
    }

    /// See [`Socket::poll_send`].
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        transmit: &Transmit,
        offset: &mut usize,
    ) -> Poll<Sent> {
        let fits = self.main.local_addr().is_ipv4() == transmit.destination.is_ipv4();
        match &mut self.companion {
            Some(companion) if !fits => companion.poll_send(cx, transmit, offset),
            _ => self.main.poll_send(cx, transmit, offset),
        }
    }
}

fn receive_from(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    deliver: &mut impl FnMut(Datagram<'_>),
) -> io::Result<bool> {
    let mut datagrams = 0;
    while datagrams < MAX_DATAGRAMS {
        match socket.poll_recv(cx, &mut *deliver) {
            Poll::Ready(Ok(count)) => datagrams += count,
            Poll::Ready(Err(error)) => {
                datagrams += 1;
                tracing::debug!(%error, "cannot receive");
                if !Socket::is_icmp(&error) {
                    return Err(error);
                }
            }
            Poll::Pending => return Ok(false),
        }
    }
    Ok(true)
}
