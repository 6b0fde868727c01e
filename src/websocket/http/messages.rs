//! A WebSocket as a transport of frames: binary messages, nothing else.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::transport::call::ByteStream;

/// Above the largest frame any extension has: what is longer is refused before it is stored.
pub(crate) const MAX_MESSAGE: usize = 128 * 1024;
/// Read buffer of a connection; it is there while the connection is idle, too.
const READ_BUFFER: usize = 16 * 1024;
/// Bytes that may wait in the socket's own queue before it has no room for another message.
const WRITE_BUFFER: usize = 16 * 1024;
/// Type of DATA, whose size limit stands for that of all messages.
const DATA: u8 = 0x10;

/// The connection below a [`Socket`], of whatever kind.
pub(crate) type Io = Box<dyn ByteStream>;

/// A WebSocket of either side, over TCP or TLS.
pub(crate) type Socket = Messages<Io>;

/// Settings of both sides, for messages of so many bytes, [`MAX_MESSAGE`] at most.
pub(crate) fn config(max_message: usize) -> WebSocketConfig {
    let max = max_message.min(MAX_MESSAGE);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 4 * MAX_MESSAGE)
        .max_message_size(Some(max))
        .max_frame_size(Some(max))
}

/// One WebSocket.
pub(crate) struct Messages<S> {
    socket: WebSocketStream<S>,
    /// How to say goodbye.
    farewell: CloseCode,
    closing: bool,
}

impl<S> Messages<S> {
    pub(crate) fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            farewell: CloseCode::Normal,
            closing: false,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for Messages<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let item = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => Some(Ok(bytes)),
                Some(Ok(Message::Text(_))) => {
                    self.farewell = CloseCode::Unsupported;
                    Some(Ok(Bytes::new()))
                }
                // Answered by the library; the end follows a Close.
                Some(Ok(
                    Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
                )) => {
                    continue;
                }
                Some(Err(Error::Capacity(CapacityError::MessageTooLong { size, .. }))) => {
                    self.farewell = CloseCode::Size;
                    Some(Ok(header_of(size)))
                }
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => None,
                Some(Err(error)) => Some(Err(io_error(error))),
            };
            return Poll::Ready(item);
        }
    }
}

/// The header of a frame of this size, which no reader takes: the peer shall hear why.
fn header_of(size: usize) -> Bytes {
    let mut header = BytesMut::with_capacity(8);
    header.put_slice(&[DATA, 0, 0, 0]);
    header.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    header.freeze()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Bytes> for Messages<S> {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_ready(cx).map_err(io_error)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> io::Result<()> {
        Pin::new(&mut self.socket)
            .start_send(Message::Binary(message))
            .map_err(io_error)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut socket = Pin::new(&mut this.socket);
        if !this.closing {
            this.closing = true;
            let frame = CloseFrame {
                code: this.farewell,
                reason: "".into(),
            };
            match socket.as_mut().start_send(Message::Close(Some(frame))) {
                Ok(()) => {}
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(io_error(error))),
            }
        }
        socket.poll_flush(cx).map_err(io_error)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::ConnectionAborted.into(),
        other => io::Error::other(other),
    }
}
