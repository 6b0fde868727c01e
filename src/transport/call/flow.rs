//! What leads to a TURN server: a UDP socket, or a TCP or TLS stream, of its own for each allocation.
//!
//! A [`Flow`] is opened by `servers.rs` and handed to the driver, which runs it as a task when the core wants it. The
//! task moves bytes and understands none of them; what the driver and the task exchange is bounded in
//! [`RelayShared`].

use std::{
    future::poll_fn,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::{Either, select};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UdpSocket,
    time::sleep,
};

use crate::transport::shared::RelayShared;

/// Read at once: the largest datagram that means anything, and enough of a stream to be worth a call.
const READ_SIZE: usize = 16 * 1024;

/// Reads in one turn of the task.
const MAX_READS: usize = 64;

/// How long the last messages may take when the call has ended, and what waits before them: the server gives the
/// allocation up by itself, so they are worth no more than this.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stream of bytes to a server.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What leads to a TURN server. Dropping it closes it.
pub(crate) enum Flow {
    /// Connected to the server.
    Udp(UdpSocket),
    /// TCP, or TLS over it, and the address of ours that it leaves from.
    Stream(Box<dyn ByteStream>, Option<IpAddr>),
}

impl Flow {
    /// The address of ours that it leaves from.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Udp(socket) => socket.local_addr().ok().map(|address| address.ip()),
            Self::Stream(_, local_ip) => *local_ip,
        }
    }

    /// Moves bytes until either side ends.
    pub(crate) async fn run(self, shared: Arc<RelayShared>) {
        let mut pump = Pump {
            flow: self,
            shared: Arc::clone(&shared),
            sending: Vec::new(),
            sent: 0,
            is_done: false,
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
        };
        let work = pin!(async {
            poll_fn(|cx| pump.poll(cx)).await?;
            poll_fn(|cx| pump.poll_farewell(cx)).await;
            Ok::<_, io::Error>(())
        });
        let patience = pin!(async {
            poll_fn(|cx| shared.poll_closing(cx)).await;
            sleep(FAREWELL).await;
        });
        match select(work, patience).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(error), _)) => {
                tracing::debug!(%error, "the way to a TURN server has ended");
            }
            Either::Right(_) => tracing::debug!("a TURN server takes no goodbye"),
        }
        shared.end();
    }
}

/// A flow at work.
struct Pump {
    flow: Flow,
    shared: Arc<RelayShared>,
    /// On its way, of which `sent` bytes have left.
    sending: Vec<u8>,
    sent: usize,
    /// There will be nothing more to send.
    is_done: bool,
    buffer: Box<[u8]>,
}

impl Pump {
    /// Ready when the driver is done with the flow, or when it failed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_send(cx)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..MAX_READS {
            if self.shared.poll_room(cx).is_pending() {
                return Poll::Pending;
            }
            ready!(self.poll_receive(cx))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what is left. Messages that are asked for in the meantime are none: the call has ended.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.flow {
            Flow::Udp(_) => Poll::Ready(()),
            Flow::Stream(stream, _) => Pin::new(stream).poll_shutdown(cx).map(|_| ()),
        }
    }

    /// Sends all there is. Ready when there will be no more.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.sending.len() {
                let rest = &self.sending[self.sent..];
                let count = match &mut self.flow {
                    Flow::Udp(socket) => match ready!(socket.poll_send(cx, rest)) {
                        // A datagram leaves whole, or is lost as datagrams are.
                        Ok(_) => rest.len(),
                        Err(error) if is_transient(&error) => rest.len(),
                        Err(error) => return Poll::Ready(Err(error)),
                    },
                    Flow::Stream(stream, _) => ready!(Pin::new(stream).poll_write(cx, rest))?,
                };
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += count;
            }
            (self.sending, self.sent) = (Vec::new(), 0);
            if self.is_done {
                return Poll::Ready(Ok(()));
            }
            match self.shared.poll_outbound(cx) {
                Poll::Ready(Some(message)) => self.sending = message,
                Poll::Ready(None) => self.is_done = true,
                Poll::Pending => {
                    if let Flow::Stream(stream, _) = &mut self.flow {
                        ready!(Pin::new(stream).poll_flush(cx))?;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match &mut self.flow {
            Flow::Udp(socket) => {
                let result = ready!(socket.poll_recv(cx, &mut buffer));
                if let Err(error) = result
                    && !is_transient(&error)
                {
                    return Poll::Ready(Err(error));
                }
            }
            Flow::Stream(stream, _) => {
                ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
        if !buffer.filled().is_empty() {
            self.shared.push_inbound(buffer.filled());
        }
        Poll::Ready(Ok(()))
    }
}

/// Errors of UDP that are about a datagram, not about the socket: ICMP, routes that are gone for a moment, full queues.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
        PermissionDenied,
    };
    matches!(
        error.kind(),
        ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::{proto::ice::RelayId, transport::shared::{SocketShared, StreamLimits}};

    /// A flow whose other end takes `room` bytes and reads nothing.
    fn stuck(room: usize) -> (Flow, Arc<RelayShared>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(room);
        let socket = SocketShared::new(([127, 0, 0, 1], 1).into(), StreamLimits::default());
        let shared = RelayShared::new(socket, RelayId(1), None);
        (Flow::Stream(Box::new(ours), None), shared, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_nothing_holds_no_flow_whose_call_has_ended() {
        let (flow, shared, _theirs) = stuck(10);
        shared.push_outbound(vec![0; 1000]);
        let mut running = pin!(flow.run(Arc::clone(&shared)));
        assert!((&mut running).now_or_never().is_none());
        shared.close();
        let ended = timeout(2 * FAREWELL, running).await;
        assert!(ended.is_ok(), "it waits for the server");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_gets_the_last_messages() {
        use tokio::io::AsyncReadExt as _;

        let (flow, shared, mut theirs) = stuck(10);
        shared.push_outbound(vec![7; 1000]);
        let mut running = pin!(flow.run(Arc::clone(&shared)));
        assert!((&mut running).now_or_never().is_none());
        shared.push_outbound(vec![8; 1000]);
        shared.close();
        let mut read = Vec::new();
        let (_, end) = futures::future::join(running, theirs.read_to_end(&mut read)).await;
        assert_eq!(end.unwrap(), 2000);
        assert!(read.ends_with(&[8; 1000]));
    }
}
