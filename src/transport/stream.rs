//! [`Stream`]: a libp2p stream to the user, a data channel below.
//!
//! It is one handle on [`StreamShared`], which does the work together with the driver. What the errors mean is listed
//! here and at [`ConnectionError`](crate::ConnectionError); the states of the two directions are the core's matter.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};

use super::shared::StreamShared;

/// An ordered, reliable stream of bytes in both directions, each of which is closed on its own.
///
/// * Writing copies into a bounded buffer. `flush` waits until SCTP has taken everything, `close` until the end of the
///   stream was handed over too; neither waits for the peer to acknowledge. Closing again is fine.
/// * Reading at the end of the stream yields zero bytes, as often as it is asked.
/// * Dropping a stream that was not closed resets it: the peer sees an error, not an end. Unless the peer's end was reached,
///   everything it sent was read and everything written is flushed: then nothing is cut off, and the stream is closed.
///
/// A stream that is not read holds up the others of its connection when its share of the receive window is used up:
/// SCTP has one window for all of them. Read, or drop the stream.
///
/// | what happened | reading | writing, flushing | closing |
/// | --- | --- | --- | --- |
/// | the peer closed its direction | buffered bytes, then 0 | goes on | goes on |
/// | the peer reset the stream | buffered bytes, then `ConnectionReset` | `ConnectionReset` | `ConnectionReset`, `Ok` if closed before |
/// | the peer will not read on (STOP_SENDING) | goes on | `BrokenPipe` | `Ok` |
/// | this side closed | goes on | writing `BrokenPipe`, flushing `Ok` | `Ok` |
/// | this side reset or stopped it | `BrokenPipe` | `ConnectionReset` after a reset | `ConnectionReset` after a reset, `Ok` if closed before |
/// | the connection ended | buffered bytes, then the error of the connection | the error of the connection | the same, `Ok` if closed before |
///
/// The names are of [`io::ErrorKind`]. The error of the connection is a [`ConnectionError`](crate::ConnectionError)
/// inside the [`io::Error`]; there stands which kind each reason has:
///
/// ```
/// use libp2p_rtc::ConnectionError;
///
/// fn has_connection_ended(error: &std::io::Error) -> bool {
///     error.get_ref().is_some_and(|inner| inner.is::<ConnectionError>())
/// }
/// ```
pub struct Stream {
    shared: Arc<StreamShared>,
}

impl Stream {
    pub(crate) fn new(shared: Arc<StreamShared>) -> Self {
        Self { shared }
    }

    pub(super) fn shared(&self) -> &StreamShared {
        &self.shared
    }

    /// Gives the stream up without a word to the peer; what still comes is discarded. For the handshake channel.
    pub(super) fn detach(self) {
        self.shared.detach();
    }

    /// Abandons both directions at once. The peer sees an error, even if it has not read everything yet.
    pub fn reset(&mut self) {
        self.shared.reset();
    }

    /// Tells the peer that nobody will read on, so that it stops sending. Writing is not affected.
    pub fn stop_reading(&mut self) {
        self.shared.stop();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_close(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}
