//! The WebSocket of a connection: frames in, frames out, the bytes of the plain lane between them.
//!
//! Owned by `lanes`, which polls it. Frames of signaling go before DATA; both wait while the peer does not read, and then
//! nothing is read either, so that a peer that asks and never listens costs a few messages and no more.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Sink as _, Stream as _};

use super::{http::messages::Socket, pipe::PipeEnd};
use crate::frames::{
    codec::{FrameError, FrameLimits, decode_message, encode_message},
    frame::{Data, Frame},
};

/// Frames that may wait before nothing more is read: an answer, and what a call has to say at once.
const MAX_WAITING: usize = 64;
/// Bytes of DATA in one message.
pub(crate) const MAX_DATA: usize = 32 * 1024;

/// What came.
pub(crate) enum Received {
    /// A frame.
    Frame(Frame),
    /// Something that is no frame.
    Nonsense(FrameError),
    /// Nothing more comes.
    Lost,
}

/// See the module's documentation.
pub(crate) struct Link {
    socket: Socket,
    limits: FrameLimits,
    waiting: VecDeque<Frame>,
    /// Something was given to the socket since it was flushed last.
    is_dirty: bool,
    /// The lane's last byte was sent, and the end behind it.
    data_ended: bool,
}

impl Link {
    /// Frames on this WebSocket, with DATA of at most so many bytes.
    pub(crate) fn new(socket: Socket, max_message: u32) -> Self {
        let limits = FrameLimits {
            max_message,
            ..FrameLimits::default()
        };
        Self {
            socket,
            limits,
            waiting: VecDeque::new(),
            is_dirty: false,
            data_ended: false,
        }
    }

    /// What comes next, unless too much waits to be sent.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if !self.has_room() {
            // Whoever makes room polls us again.
            return Poll::Pending;
        }
        let message = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                tracing::debug!(%error, "the WebSocket failed");
                return Poll::Ready(Received::Lost);
            }
            None => return Poll::Ready(Received::Lost),
        };
        Poll::Ready(match decode_message(message, &self.limits) {
            Ok(frame) => Received::Frame(frame),
            Err(error) => Received::Nonsense(error),
        })
    }

    /// Whether little enough waits to be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    /// Whether the lane's last byte has left.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.data_ended && self.waiting.is_empty() && !self.is_dirty
    }

    /// Queues a frame. Who calls this has read at most one frame for it, or a few events of a call.
    pub(crate) fn send(&mut self, frame: Frame) {
        self.waiting.push_back(frame);
    }

    /// Sends what waits, then bytes of the lane. Ready when all of it has left; an error means that the WebSocket is lost.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        lane: Option<&PipeEnd>,
    ) -> Poll<Result<(), ()>> {
        let was_full = !self.has_room();
        let sent = self.poll_fill(cx, lane);
        if was_full && self.has_room() {
            cx.waker().wake_by_ref();
        }
        if sent == Poll::Ready(Err(())) {
            return sent;
        }
        if self.is_dirty {
            ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(drop)?;
            self.is_dirty = false;
        }
        sent
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, lane: Option<&PipeEnd>) -> Poll<Result<(), ()>> {
        loop {
            let is_empty = self.waiting.is_empty();
            if is_empty && (lane.is_none() || self.data_ended) {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(drop)?;
            let frame = match (self.waiting.pop_front(), lane) {
                (Some(frame), _) => frame,
                (None, Some(lane)) => match lane.poll_take(cx, MAX_DATA) {
                    Poll::Ready(bytes) => self.data(bytes),
                    Poll::Pending => return Poll::Ready(Ok(())),
                },
                (None, None) => return Poll::Ready(Ok(())),
            };
            self.give(&frame)?;
        }
    }

    /// The lane's bytes as a frame, or its end.
    fn data(&mut self, bytes: Option<Bytes>) -> Frame {
        self.data_ended = bytes.is_none();
        Frame::Data(Data {
            number: None,
            end: bytes.is_none(),
            bytes: bytes.unwrap_or_default(),
        })
    }

    fn give(&mut self, frame: &Frame) -> Result<(), ()> {
        let message = match encode_message(frame) {
            Ok(message) => message,
            // Its fields are ours, so it is a fault of ours and not of the peer.
            Err(error) => {
                tracing::debug!(%error, "frame not sent");
                return Ok(());
            }
        };
        self.is_dirty = true;
        Pin::new(&mut self.socket).start_send(message).map_err(drop)
    }

    /// Closes the WebSocket behind what was sent.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        ready!(self.poll_send(cx, None))?;
        Pin::new(&mut self.socket).poll_close(cx).map_err(drop)
    }
}
