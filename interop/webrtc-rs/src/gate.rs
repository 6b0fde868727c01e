//! A UDP socket that can be cut: what a network does that drops all UDP, without the rights to change one.

use std::{
    any::Any,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use tokio::net::UdpSocket;
use webrtc::util::{Conn, Error};

/// The result type of [`Conn`].
type Outcome<T> = Result<T, Error>;

/// Whether datagrams pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    closed: Arc<AtomicBool>,
}

impl Gate {
    /// Lets nothing through any more, in either direction and without a word.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Lets all through again.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// The socket behind a gate.
#[derive(Debug)]
pub(crate) struct GatedSocket {
    socket: UdpSocket,
    gate: Gate,
}

impl GatedSocket {
    /// A socket of its own port.
    pub(crate) async fn bind(gate: Gate) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
        Ok(Self { socket, gate })
    }
}

/// The socket is used by a multiplexer, which asks for addresses with each datagram.
fn unconnected() -> Error {
    Error::Other("this socket is not connected".to_owned())
}

#[async_trait]
impl Conn for GatedSocket {
    async fn connect(&self, _: SocketAddr) -> Outcome<()> {
        Err(unconnected())
    }

    async fn recv(&self, _: &mut [u8]) -> Outcome<usize> {
        Err(unconnected())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> Outcome<(usize, SocketAddr)> {
        loop {
            let received = self.socket.recv_from(buffer).await?;
            if !self.gate.is_closed() {
                return Ok(received);
            }
        }
    }

    async fn send(&self, _: &[u8]) -> Outcome<usize> {
        Err(unconnected())
    }

    async fn send_to(&self, bytes: &[u8], target: SocketAddr) -> Outcome<usize> {
        match self.gate.is_closed() {
            true => Ok(bytes.len()),
            false => Ok(self.socket.send_to(bytes, target).await?),
        }
    }

    fn local_addr(&self) -> Outcome<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        None
    }

    async fn close(&self) -> Outcome<()> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
