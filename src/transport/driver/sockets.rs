//! The UDP sockets of a driver: the one that it is for and, while there are calls, one of the other address family.
//!
//! Connections of webrtc-direct live on the first alone. A call uses both families, because neither side knows which
//! of them leads to the other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    proto::Transmit,
    transport::socket::{Datagram, Sent, Socket},
};

/// Datagrams of one socket in one turn, or a few more. Everything is fed to the core before anything is sent, so that one
/// acknowledgement answers a batch. Measured: 64 to 1024 cost the same for one stream; a larger batch would only make
/// everybody else wait longer, this one takes about half a millisecond.
const MAX_DATAGRAMS: usize = 256;

/// Pause in receiving after an error that is not ICMP's. Such errors (no memory, interface down) tend to persist, and
/// asking again at once would burn a core.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Sockets {
    main: Half,
    companion: Option<Half>,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    /// The one that the driver is for.
    Main,
    /// The other one, which only calls use.
    Companion,
}

/// One of the two.
struct Half {
    socket: Socket,
    /// No receiving before this instant.
    receive_after: Option<Instant>,
}

impl Sockets {
    pub(super) fn new(main: Socket) -> Self {
        Self {
            main: Half::new(main),
            companion: None,
        }
    }

    /// Binds the second socket, if the first is bound to all addresses of its family. Its address.
    pub(super) fn open_companion(&mut self) -> Option<SocketAddr> {
        let bound = self.main.socket.local_addr();
        if self.companion.is_none() && bound.ip().is_unspecified() {
            let any: IpAddr = match bound {
                SocketAddr::V4(_) => Ipv6Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED.into(),
            };
            self.companion = Socket::bind((any, 0).into())
                .inspect_err(|error| tracing::debug!(%error, "calls use one address family only"))
                .ok()
                .map(Half::new);
        }
        let companion = self.companion.as_ref();
        companion.map(|half| half.socket.local_addr())
    }

    /// Closes the second socket. True if there was one.
    pub(super) fn close_companion(&mut self) -> bool {
        self.companion.take().is_some()
    }

    fn all(&mut self) -> impl Iterator<Item = (Which, &mut Half)> {
        let companion = self.companion.as_mut();
        let companion = companion.map(|half| (Which::Companion, half));
        std::iter::once((Which::Main, &mut self.main)).chain(companion)
    }

    /// See [`Socket::poll_unreachable`].
    pub(super) fn poll_unreachable(&mut self, cx: &mut Context<'_>) -> Poll<SocketAddr> {
        for (_, half) in self.all() {
            if let Poll::Ready(remote) = half.socket.poll_unreachable(cx) {
                return Poll::Ready(remote);
            }
        }
        Poll::Pending
    }

    /// Hands over at most a batch from each. True when there may be more.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        mut deliver: impl FnMut(Which, Datagram<'_>),
    ) -> bool {
        let mut more = false;
        for (which, half) in self.all() {
            more |= half.receive(cx, now, |datagram| deliver(which, datagram));
        }
        more
    }

    /// When a socket that rests is to be asked again.
    pub(super) fn receive_after(&self) -> Option<Instant> {
        let companion = self.companion.as_ref();
        let pauses = [
            self.main.receive_after,
            companion.and_then(|half| half.receive_after),
        ];
        pauses.into_iter().flatten().min()
    }

    /// See [`Socket::poll_send`].
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        transmit: &Transmit,
        offset: &mut usize,
    ) -> Poll<Sent> {
        let fits = self.main.socket.local_addr().is_ipv4() == transmit.destination.is_ipv4();
        let half = match &mut self.companion {
            Some(companion) if !fits => companion,
            _ => &mut self.main,
        };
        half.socket.poll_send(cx, transmit, offset)
    }

    /// Lets the first socket rest, as after an error.
    #[cfg(test)]
    pub(super) fn rest_until(&mut self, at: Instant) {
        self.main.receive_after = Some(at);
    }
}

impl Half {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            receive_after: None,
        }
    }

    /// See [`Sockets::receive`]. An error is one of the system, not of a datagram.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        mut deliver: impl FnMut(Datagram<'_>),
    ) -> bool {
        if self.receive_after.is_some_and(|at| now < at) {
            return false;
        }
        self.receive_after = None;
        let mut datagrams = 0;
        while datagrams < MAX_DATAGRAMS {
            match self.socket.poll_recv(cx, &mut deliver) {
                Poll::Ready(Ok(count)) => datagrams += count,
                Poll::Ready(Err(error)) => {
                    datagrams += 1;
                    tracing::debug!(%error, "cannot receive");
                    if !Socket::is_icmp(&error) {
                        self.receive_after = Some(now + RECEIVE_PAUSE);
                        return false;
                    }
                }
                Poll::Pending => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::UdpSocket};

    use super::*;

    #[tokio::test]
    async fn a_socket_that_rests_does_not_hold_up_the_other() {
        #[expect(clippy::disallowed_methods, reason = "the test is the shell here")]
        let now = Instant::now();
        let any = (Ipv4Addr::UNSPECIFIED, 0).into();
        let mut sockets = Sockets::new(Socket::bind(any).unwrap());
        let companion = sockets.open_companion().expect("there is IPv6");
        let ports = [sockets.main.socket.local_addr().port(), companion.port()];
        let v4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let mut heard = Vec::new();
        for (rests, other) in [
            (Which::Main, Which::Companion),
            (Which::Companion, Which::Main),
        ] {
            v4.send_to(b"4", (Ipv4Addr::LOCALHOST, ports[0])).unwrap();
            v6.send_to(b"6", (Ipv6Addr::LOCALHOST, ports[1])).unwrap();
            let until = now + RECEIVE_PAUSE;
            for (which, half) in sockets.all() {
                half.receive_after = (which == rests).then_some(until);
            }
            assert_eq!(sockets.receive_after(), Some(until));
            let mut listen = async |now, wanted| {
                poll_fn(|cx| {
                    sockets.receive(cx, now, |which, _| heard.push(which));
                    match heard.contains(&wanted) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
                std::mem::take(&mut heard)
            };
            assert_eq!(listen(now, other).await, [other]);
            assert_eq!(listen(until, rests).await, [rests]);
        }
    }
}
