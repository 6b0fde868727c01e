//! One UDP socket: batches in, batches out.
//!
//! [`Socket`] wraps `quinn-udp` over tokio: several datagrams per system call in both directions (GRO, GSO), the local
//! address of each datagram, and ICMP errors. It owns the receive buffers, which are reused for ever. Only the driver
//! uses it. What a datagram means is not its job, and neither is any queue: what cannot be sent now stays with the caller.

mod icmp;
#[cfg(test)]
mod tests;

use std::{
    array,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn_udp::{RecvMeta, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket, runtime};

use self::icmp::ErrorQueue;
use crate::proto::Transmit;

/// Buffers filled by one receive call. With GRO each may hold up to 64 datagrams of one sender, so a bulk transfer
/// needs few; more of them save calls when many peers send a little.
const SLOTS: usize = 16;

/// The largest UDP payload, and so the most that GRO puts together.
const SLOT_SIZE: usize = 65_535;

/// The most that one send call may carry: the largest UDP payload over IPv4, whose length field counts its header too.
const MAX_SEND: usize = 65_507;

/// Asked of the system for each direction. It gives what its own limits allow.
const SYSTEM_BUFFER: usize = 4 * 1024 * 1024;

/// A received datagram; borrows the socket's buffer.
pub(crate) struct Datagram<'a> {
    /// The local address it was sent to, where the system tells.
    pub(crate) local_ip: Option<IpAddr>,
    /// The sender.
    pub(crate) remote: SocketAddr,
    /// Never empty.
    pub(crate) contents: &'a [u8],
}

/// What became of a [`Socket::poll_send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// Handed to the system, or dropped by it; UDP gives no other promise.
    Done,
    /// The system knows no way to the destination.
    Unreachable,
}

/// See the module.
pub(crate) struct Socket {
    io: Arc<UdpSocket>,
    state: UdpSocketState,
    local_addr: SocketAddr,
    errors: ErrorQueue,
    /// `SLOTS` times `SLOT_SIZE` bytes; the system backs only what was ever touched with memory.
    buffers: Box<[u8]>,
}

/// Sets the options of `quinn-udp`.
fn socket_state(io: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(io.into())?;
    if let Err(error) = state.enable_transport_errors(io.into()) {
        tracing::debug!(%error, "unreachable peers are found by timeout only");
    }
    Ok(state)
}

/// Errors of sending from an address that this host does not have.
fn is_lost_address(kind: io::ErrorKind) -> bool {
    icmp::is_unreachable(kind)
        || matches!(
            kind,
            io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable
        )
}

impl Socket {
    /// Binds a socket. IPv6 sockets take IPv6 only, so that both families can use one port number.
    ///
    /// Fails outside a tokio runtime.
    pub(crate) fn bind(addr: SocketAddr) -> io::Result<Self> {
        if runtime::Handle::try_current().is_err() {
            return Err(io::Error::other("no tokio runtime"));
        }
        let domain = socket2::Domain::for_address(addr);
        let socket =
            socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        // Losing these costs speed only.
        for result in [
            socket.set_recv_buffer_size(SYSTEM_BUFFER),
            socket.set_send_buffer_size(SYSTEM_BUFFER),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, "the socket keeps its default buffer");
            }
        }
        let io = Arc::new(UdpSocket::from_std(socket.into())?);
        let state = socket_state(&io)?;
        Ok(Self {
            local_addr: io.local_addr()?,
            errors: ErrorQueue::new(Arc::clone(&io)),
            io,
            state,
            buffers: vec![0; SLOTS * SLOT_SIZE].into_boxed_slice(),
        })
    }

    /// The bound address, with the port that the system chose.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Receives with one system call and hands over the datagrams one by one; their number.
    ///
    /// An error is none of the socket's own: it goes on working.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        mut deliver: impl FnMut(Datagram<'_>),
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let mut meta = [RecvMeta::default(); SLOTS];
            match self.try_recv(&mut meta) {
                Ok(0) => {}
                Ok(filled) => {
                    let datagrams = self.split(&meta[..filled], &mut deliver);
                    return Poll::Ready(Ok(datagrams));
                }
                Err(error) => {
                    self.errors.note(&error);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Fills the slots; zero when nothing is there.
    fn try_recv(&mut self, meta: &mut [RecvMeta; SLOTS]) -> io::Result<usize> {
        let mut chunks = self.buffers.chunks_exact_mut(SLOT_SIZE);
        let mut slices: [IoSliceMut<'_>; SLOTS] = array::from_fn(|_| {
            IoSliceMut::new(chunks.next().expect("the buffer has a chunk for each slot"))
        });
        let mut filled = 0;
        let result = self.io.try_io(Interest::READABLE, || {
            filled = self.state.recv((&*self.io).into(), &mut slices, meta)?;
            if filled < SLOTS {
                // Fewer than fit: the socket is empty. Saying so here clears tokio's readiness without another call;
                // what arrives meanwhile sets it again.
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(filled),
        }
    }

    /// Takes apart what GRO has put together. The number of datagrams.
    fn split(&self, meta: &[RecvMeta], deliver: &mut impl FnMut(Datagram<'_>)) -> usize {
        let mut datagrams = 0;
        for (meta, buffer) in meta.iter().zip(self.buffers.chunks_exact(SLOT_SIZE)) {
            let stride = meta.stride.max(1);
            for contents in buffer[..meta.len].chunks(stride) {
                datagrams += 1;
                deliver(Datagram {
                    local_ip: meta.dst_ip,
                    remote: meta.addr,
                    contents,
                });
            }
        }
        datagrams
    }

    /// Sends what follows the first `offset` bytes of a transmit and moves `offset` on. When it is `Pending`, the same
    /// transmit and offset must be given again.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        transmit: &Transmit,
        offset: &mut usize,
    ) -> Poll<Sent> {
        let mut outcome = Sent::Done;
        let mut source_ip = transmit.source_ip;
        // A socket reports a past ICMP error in place of its next operation: once more is not a second failure.
        let mut retried = false;
        while *offset < transmit.contents.len() {
            let rest = &transmit.contents[*offset..];
            let (length, segment_size) = self.portion(rest.len(), transmit.segment_size);
            let portion = quinn_udp::Transmit {
                destination: transmit.destination,
                ecn: None,
                contents: &rest[..length],
                segment_size,
                src_ip: source_ip,
            };
            let result = self.io.try_io(Interest::WRITABLE, || {
                self.state.try_send((&*self.io).into(), &portion)
            });
            match result {
                Ok(()) => *offset += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(self.io.poll_send_ready(cx)).is_err() {
                        // The runtime is shutting down.
                        *offset += length;
                    }
                }
                Err(error) if icmp::is_unreachable(error.kind()) && !retried => {
                    self.errors.note(&error);
                    retried = true;
                }
                Err(error) if source_ip.is_some() && is_lost_address(error.kind()) => {
                    // The address may be gone from this host: the system chooses another, and the peer's checks decide
                    // what to make of it.
                    source_ip = None;
                    self.restore_segmentation();
                }
                Err(_) if segment_size.is_some() && self.state.max_gso_segments() == 1 => {
                    // The network card cannot segment; the state remembers that and the portions get smaller.
                }
                Err(error) => {
                    tracing::debug!(%error, destination = %transmit.destination, "cannot send");
                    if icmp::is_unreachable(error.kind()) {
                        outcome = Sent::Unreachable;
                    }
                    *offset += length;
                }
            }
        }
        Poll::Ready(outcome)
    }

    /// `quinn-udp` takes `EINVAL` for missing GSO and gives it up for good; a new state finds out again.
    fn restore_segmentation(&mut self) {
        if self.state.max_gso_segments() == 1
            && let Ok(state) = socket_state(&self.io)
        {
            self.state = state;
        }
    }

    /// How much of `rest` bytes one call may take, and the segment size to say when that is several datagrams.
    fn portion(&self, rest: usize, segment_size: Option<usize>) -> (usize, Option<usize>) {
        let Some(segment_size) = segment_size.filter(|size| (1..rest).contains(size)) else {
            return (rest, None);
        };
        let segments = (MAX_SEND / segment_size).clamp(1, self.state.max_gso_segments().max(1));
        let length = rest.min(segments * segment_size);
        (length, (length > segment_size).then_some(segment_size))
    }

    /// Is this error of [`poll_recv`](Self::poll_recv) about a datagram that was sent earlier?
    pub(crate) fn is_icmp(error: &io::Error) -> bool {
        icmp::is_unreachable(error.kind())
            // Windows reports an ICMP message about an earlier datagram so.
            || error.kind() == io::ErrorKind::ConnectionReset
    }

    /// The next destination that ICMP reported as unreachable; `Pending` until there is one. Only Linux tells.
    pub(crate) fn poll_unreachable(&mut self, cx: &mut Context<'_>) -> Poll<SocketAddr> {
        self.errors.poll(cx)
    }
}
