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

use crate::{proto::ice::RefreshAnswer, transport::shared::RelayShared};

/// Read at once: the largest datagram that means anything, and enough of a stream to be worth a call.
const READ_SIZE: usize = 16 * 1024;

/// Reads in one turn of the task.
const MAX_READS: usize = 64;

/// How long the last messages and their answer may take when the call has ended, and what waits before them: the server
/// gives the allocation up by itself, so they are worth no more than this.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stream of bytes of whatever kind: to a TURN server, or below a WebSocket.
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
            answer: RefreshAnswer::default(),
            is_answered: false,
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
        };
        let work = pin!(async {
            poll_fn(|cx| pump.poll(cx)).await?;
            poll_fn(|cx| pump.poll_farewell(cx)).await
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
    /// To the last message, which gives the allocation back.
    answer: RefreshAnswer,
    is_answered: bool,
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

    /// Sends what is left and waits for the answer: coturn drops a message if it reads the end of a TLS stream right
    /// behind it, and any server may if the stream breaks because we have not read what it sent. Only then is the stream
    /// ended.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Flow::Stream(stream, _) = &mut self.flow else {
            return Poll::Ready(Ok(()));
        };
        let mut stream = Pin::new(stream);
        for _ in 0..MAX_READS {
            if self.is_answered {
                return stream.poll_shutdown(cx);
            }
            // It is read meanwhile: a server may not take anything before it got rid of its own.
            let _flushed = stream.as_mut().poll_flush(cx)?;
            let mut buffer = ReadBuf::new(&mut self.buffer);
            ready!(stream.as_mut().poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            self.is_answered = bytes.is_empty() || self.answer.is_in(bytes);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
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
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{
        proto::ice::RelayId,
        transport::shared::{SocketShared, StreamLimits},
    };

    /// How the answer to a Refresh begins.
    const ANSWER: [u8; 8] = [0x01, 0x04, 0, 8, 0x21, 0x12, 0xa4, 0x42];

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
    async fn a_stream_ends_when_the_last_message_is_answered_and_not_before() {
        let (flow, shared, mut theirs) = stuck(1000);
        let begun = Instant::now();
        shared.push_outbound(vec![7; 100]);
        shared.close();
        let mut running = pin!(flow.run(Arc::clone(&shared)));
        assert!((&mut running).now_or_never().is_none());
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        // Data of the peer, the middle of a message first; none of it is the answer.
        theirs
            .write_all(&[&[9; 99], &ANSWER[..7]].concat())
            .await
            .unwrap();
        assert!((&mut running).now_or_never().is_none());
        let ended = theirs.read(&mut [0]).now_or_never();
        assert!(ended.is_none(), "it does not wait for the answer");
        theirs.write_all(&ANSWER[7..]).await.unwrap();
        let (_, end) = futures::future::join(running, theirs.read(&mut [0])).await;
        assert_eq!((end.unwrap(), begun.elapsed()), (0, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_the_server_ends_waits_for_no_answer() {
        let (flow, shared, theirs) = stuck(1000);
        let begun = Instant::now();
        shared.close();
        drop(theirs);
        flow.run(shared).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_gets_the_last_messages() {
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
