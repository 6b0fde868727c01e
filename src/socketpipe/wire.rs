//! One transport of a session: frames in, frames out.
//!
//! Owns the bytes between a transport and the engine, and nothing else: what a frame means is the session's business.
//! [`Wire::stream`] is for byte streams (libp2p), [`Wire::messages`] for WebSockets and data channels. The driver
//! reads and writes wires; servers and connectors make them.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use asynchronous_codec::{Decoder, Encoder};
use bytes::{Buf, Bytes, BytesMut};
use futures::{
    AsyncRead, AsyncWrite, Sink, Stream, StreamExt as _,
    stream::{self, BoxStream},
};

use super::{
    codec::{FrameCodec, FrameError, FrameLimits, decode_message, encode_message},
    frame::Frame,
    session::PathKind,
    upgrade::Carrier,
};
use crate::way::{Named, Route, Way};

/// Bytes asked of a byte stream at once.
const READ_SIZE: usize = 16 * 1024;
/// Encoded bytes above which a byte stream has no room: enough to join small frames, too little for DATA to queue.
const SEND_MARK: usize = 8 * 1024;

/// A transport that carries one frame per binary message.
///
/// A text message is to be given as an empty one, which is an error of the peer. The end of the stream and errors mean
/// that the transport is lost. `poll_ready` is the brake: the sink should hold a message or two, not more.
pub trait MessagePath:
    Stream<Item = io::Result<Bytes>> + Sink<Bytes, Error = io::Error> + Send + Unpin + 'static
{
}

impl<T> MessagePath for T where
    T: Stream<Item = io::Result<Bytes>> + Sink<Bytes, Error = io::Error> + Send + Unpin + 'static
{
}

/// Frames over any transport.
trait FrameIo: Send {
    /// The next frame; `None` when there will be no more.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, FrameError>>>;
    /// Whether a frame can be taken.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Takes a frame; only after `poll_ready`.
    fn send(&mut self, frame: Frame) -> Result<(), FrameError>;
    /// Everything taken has left.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Nothing more will be sent.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A transport that is open.
pub struct Wire {
    kind: PathKind,
    label: String,
    is_private: bool,
    carrier: Carrier,
    /// Of a stream that has told which way it goes.
    way: Option<Followed>,
    io: Box<dyn FrameIo>,
}

/// The way of a stream while it lives.
struct Followed {
    /// The label without it.
    base: String,
    is_webrtc: bool,
    /// The last one there was: a stream whose path is silent does not go another way.
    route: Option<Route>,
    changes: BoxStream<'static, Option<Route>>,
}

impl Followed {
    fn new(way: Way, base: String) -> Self {
        let Way {
            is_webrtc,
            mut route,
        } = way;
        let now = *route.borrow_and_update();
        let changes = stream::unfold(route, |mut route| async {
            route.changed().await.ok()?;
            let now = *route.borrow_and_update();
            Some((now, route))
        });
        Self {
            base,
            is_webrtc,
            route: now,
            changes: changes.fuse().boxed(),
        }
    }

    fn label(&self) -> String {
        let Self {
            base,
            is_webrtc,
            route,
            ..
        } = self;
        format!("{base} ({})", Named(*is_webrtc, *route))
    }

    fn carrier(&self) -> Carrier {
        match (self.is_webrtc, self.route) {
            (false, _) => Carrier::StreamWebSocket,
            (true, Some(Route { relayed: true, .. })) => Carrier::StreamWebRtcRelayed,
            (true, _) => Carrier::StreamWebRtcDirect,
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("kind", &self.kind)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// A byte stream: a libp2p stream, or anything that is as ordered and secure.
    pub fn stream(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            kind: PathKind::Stream,
            label: String::new(),
            is_private: false,
            carrier: Carrier::Stream,
            way: None,
            io: Box::new(StreamIo::new(io)),
        }
    }

    /// A transport of messages.
    pub fn messages(kind: PathKind, io: impl MessagePath) -> Self {
        Self {
            kind,
            label: String::new(),
            is_private: false,
            carrier: match kind {
                PathKind::Stream => Carrier::Stream,
                PathKind::WebSocket => Carrier::WebSocket,
                PathKind::DataChannel => Carrier::WebRtcDirect,
            },
            way: None,
            io: Box::new(MessageIo {
                io,
                limits: FrameLimits::default(),
            }),
        }
    }

    /// A name for people: where this leads, how.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// What carries it, as far as its connection tells.
    #[must_use]
    pub(super) fn carried_by(mut self, carrier: Carrier) -> Self {
        self.carrier = carrier;
        self
    }

    /// The way its stream goes; what it is called so far stays the beginning of its label.
    #[must_use]
    pub(super) fn going(mut self, way: Option<Way>) -> Self {
        if let Some(way) = way {
            let way = Followed::new(way, std::mem::take(&mut self.label));
            (self.label, self.carrier) = (way.label(), way.carrier());
            self.way = Some(way);
        }
        self
    }

    /// Whether it goes another way now than it did.
    pub(super) fn poll_moved(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(way) = &mut self.way else {
            return false;
        };
        let mut moved = false;
        while let Poll::Ready(Some(route)) = way.changes.poll_next_unpin(cx) {
            moved |= way.is_webrtc && route.is_some() && route != way.route;
            way.route = route.or(way.route);
        }
        if moved {
            (self.label, self.carrier) = (way.label(), way.carrier());
        }
        moved
    }

    /// Nobody between the ends can change what this carries: TLS, or both on one machine. WebRTC is set up over such
    /// WebSockets only, because whoever can change an offer can put himself in between.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.is_private = true;
        self
    }

    /// Whether WebRTC may be set up over this.
    pub(super) fn may_signal(&self) -> bool {
        self.is_private && self.kind == PathKind::WebSocket
    }

    pub(super) fn set_label(&mut self, label: String) {
        self.label = label;
    }

    /// What carries the frames.
    pub fn kind(&self) -> PathKind {
        self.kind
    }

    /// The same as a list of sessions names it.
    pub(super) fn carrier(&self) -> Carrier {
        self.carrier
    }

    /// The name for people, perhaps empty.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, FrameError>>> {
        self.io.poll_next(cx)
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_ready(cx)
    }

    /// A frame that cannot be written is dropped: its fields are ours, so it is a fault of ours and not of the peer.
    pub(super) fn send(&mut self, frame: Frame) {
        if let Err(error) = self.io.send(frame) {
            tracing::debug!(%error, "frame not sent");
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_flush(cx)
    }

    /// Flushes, closes our direction, and waits for the end of the other, so that nothing unread turns the orderly end
    /// into a reset that overtakes our last frame.
    pub(super) async fn farewell(mut self, frames: Vec<Frame>) {
        for frame in frames {
            if std::future::poll_fn(|cx| self.poll_ready(cx))
                .await
                .is_err()
            {
                return;
            }
            self.send(frame);
        }
        let closed = std::future::poll_fn(|cx| {
            ready!(self.io.poll_flush(cx))?;
            self.io.poll_close(cx)
        });
        if closed.await.is_err() {
            return;
        }
        while let Some(Ok(_)) = std::future::poll_fn(|cx| self.poll_next(cx)).await {}
    }
}

/// Frames on a byte stream.
struct StreamIo<S> {
    io: S,
    codec: FrameCodec,
    input: BytesMut,
    output: BytesMut,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> StreamIo<S> {
    fn new(io: S) -> Self {
        Self {
            io,
            codec: FrameCodec::new(FrameLimits::default()),
            input: BytesMut::new(),
            output: BytesMut::new(),
            ended: false,
        }
    }

    /// Reads once.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = self.input.len();
        self.input.resize(held + READ_SIZE, 0);
        let outcome = Pin::new(&mut self.io).poll_read(cx, &mut self.input[held..]);
        let more = match &outcome {
            Poll::Ready(Ok(more)) => *more,
            _ => 0,
        };
        self.input.truncate(held + more);
        if self.input.is_empty() {
            // Idle sessions keep no buffer.
            self.input = BytesMut::new();
        }
        if let Poll::Ready(Ok(0)) = outcome {
            self.ended = true;
        }
        outcome.map_ok(|_| ())
    }

    /// Writes until at most `rest` bytes are left.
    fn poll_drain(&mut self, cx: &mut Context<'_>, rest: usize) -> Poll<io::Result<()>> {
        while self.output.len() > rest {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
        }
        if self.output.is_empty() && self.output.capacity() > 0 {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> FrameIo for StreamIo<S> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, FrameError>>> {
        loop {
            match self.codec.decode(&mut self.input) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.ended => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            if let Err(error) = ready!(self.poll_fill(cx)) {
                return Poll::Ready(Some(Err(FrameError::Io(error))));
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx, SEND_MARK)
    }

    fn send(&mut self, frame: Frame) -> Result<(), FrameError> {
        self.codec.encode(frame, &mut self.output)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx, 0))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

/// Frames in messages.
struct MessageIo<M> {
    io: M,
    limits: FrameLimits,
}

impl<M: MessagePath> FrameIo for MessageIo<M> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, FrameError>>> {
        let message = ready!(Pin::new(&mut self.io).poll_next(cx));
        Poll::Ready(message.map(|message| {
            let frame = decode_message(message?, &self.limits)?;
            Ok(frame)
        }))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_ready(cx)
    }

    fn send(&mut self, frame: Frame) -> Result<(), FrameError> {
        let message = encode_message(&frame)?;
        Ok(Pin::new(&mut self.io).start_send(message)?)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
