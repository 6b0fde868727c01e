//! ICMP errors of a socket, found in its error queue.
//!
//! Owned by [`Socket`](super::Socket). It reports destinations that ICMP calls unreachable, so that dialing a dead port
//! fails at once. `quinn-udp` can read the queue too, but gives the address of the host that sent the ICMP message,
//! without a port; reading it with plain `recvfrom` gives the destination of the datagram that failed, which names the
//! connection. Whether that matters is the core's decision: ICMP is not authenticated.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::net::UdpSocket;

/// Errors that ICMP "destination unreachable" turns into.
pub(super) fn is_unreachable(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// The socket's error queue.
pub(super) struct ErrorQueue {
    io: Arc<UdpSocket>,
    /// The kind of the error that a call on the socket returned in place of its result. It belongs to the entry at the
    /// front of the queue, which does not carry one that plain `recvfrom` shows.
    noted: Option<io::ErrorKind>,
    unreachable: VecDeque<SocketAddr>,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    ready: Option<futures::future::BoxFuture<'static, io::Result<tokio::io::Ready>>>,
}

impl ErrorQueue {
    pub(super) fn new(io: Arc<UdpSocket>) -> Self {
        Self {
            io,
            noted: None,
            unreachable: VecDeque::new(),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            ready: None,
        }
    }

    /// Remembers an error that a send or receive call returned.
    pub(super) fn note(&mut self, error: &io::Error) {
        self.noted = Some(error.kind());
    }

    /// The next unreachable destination.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SocketAddr> {
        loop {
            if let Some(remote) = self.unreachable.pop_front() {
                return Poll::Ready(remote);
            }
            if self.poll_fill(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl ErrorQueue {
    /// Other systems do not tell an unconnected socket.
    fn poll_fill(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        self.noted = None;
        Poll::Pending
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl ErrorQueue {
    /// `MSG_ERRQUEUE` of `<linux/socket.h>`, the same on every architecture.
    const MSG_ERRQUEUE: i32 = 0x2000;

    /// Entries taken at once, so that a flood of ICMP cannot hold the driver up.
    const BATCH: usize = 64;

    /// Waits until the queue has entries and takes a batch of them.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let io = &self.io;
        let ready = self.ready.get_or_insert_with(|| {
            let io = Arc::clone(io);
            Box::pin(async move { io.ready(tokio::io::Interest::ERROR).await })
        });
        let result = std::task::ready!(ready.as_mut().poll(cx));
        self.ready = None;
        if result.is_err() {
            // The runtime is shutting down: nothing will come.
            return Poll::Pending;
        }
        self.drain();
        Poll::Ready(())
    }

    /// Takes a batch from the queue.
    fn drain(&mut self) {
        let Self {
            io,
            noted,
            unreachable,
            ..
        } = self;
        // Inside `try_io`, so that tokio forgets the readiness when the queue is empty and an entry that arrives
        // meanwhile brings it back.
        let result = io.try_io(tokio::io::Interest::ERROR, || {
            for _ in 0..Self::BATCH {
                // The error of the entry at the front, unless a call on the socket has returned (and cleared) it.
                let pending = io.take_error().ok().flatten().map(|error| error.kind());
                let kind = noted.take().or(pending);
                let mut payload = [std::mem::MaybeUninit::uninit(); 1];
                let Ok((_, destination)) = socket2::SockRef::from(&**io)
                    .recv_from_with_flags(&mut payload, Self::MSG_ERRQUEUE)
                else {
                    return Err(io::ErrorKind::WouldBlock.into());
                };
                if kind.is_some_and(is_unreachable) {
                    unreachable.extend(destination.as_socket());
                }
            }
            Ok(())
        });
        if result.is_err() {
            *noted = None;
        }
    }
}
