//! The channel of messages of a call: [`MessageChannel`].

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Sink, Stream};

use crate::transport::shared::MessagesShared;

/// A data channel that carries messages as they are, in order and without loss.
///
/// It holds two messages in each direction. A reader that stops stops the peer, a peer that stops stops the writer.
/// `poll_flush` waits until the core has everything, not until the peer has it.
///
/// The stream ends when either side closed the channel, behind what came before; when the connection ended, reading and
/// writing give a [`ConnectionError`](crate::ConnectionError) inside the [`io::Error`]. There is no half of a data
/// channel: closing ends both directions. Dropping it closes it.
pub(crate) struct MessageChannel {
    shared: Arc<MessagesShared>,
}

impl MessageChannel {
    pub(crate) fn new(shared: Arc<MessagesShared>) -> Self {
        Self { shared }
    }

    /// The longest message that can be sent, in bytes: what the peer takes, and 16 KiB at most. A longer one, or an empty
    /// one, is an error of kind `InvalidInput`, and nothing else changes.
    pub(crate) fn max_message(&self) -> usize {
        self.shared.max_message()
    }
}

impl Stream for MessageChannel {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.poll_read(cx)
    }
}

impl Sink<Bytes> for MessageChannel {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_room(cx)
    }

    fn start_send(self: Pin<&mut Self>, message: Bytes) -> io::Result<()> {
        self.shared.send(message)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_close(cx)
    }
}

impl Drop for MessageChannel {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl fmt::Debug for MessageChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageChannel").finish_non_exhaustive()
    }
}
