//! A fresh connection until a session takes it: feeds the engine's acceptor from the wire and back.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

use super::Origin;
use crate::socketpipe::{
    codec::FrameError,
    driver,
    frame::Failure,
    session::{Acceptor, Mode, PathKind, Request, ServerConfig},
    wire::Wire,
};

/// Time for a refusal to reach the client.
const FAREWELL: Duration = Duration::from_secs(5);

/// Who came, and how far it got.
pub(super) struct Door {
    pub(super) mode: Mode,
    pub(super) origin: Origin,
    acceptor: Acceptor,
    timer: Pin<Box<Sleep>>,
    /// The wire ended.
    lost: bool,
    /// What came was no frame: nothing more is read.
    deaf: bool,
}

impl Door {
    pub(super) fn new(
        kind: PathKind,
        mode: Mode,
        origin: Origin,
        config: Arc<ServerConfig>,
    ) -> Self {
        Self {
            mode,
            origin,
            acceptor: Acceptor::new(driver::now(), kind, mode, config),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            lost: false,
            deaf: false,
        }
    }

    /// The next request; `None` when nothing will come of this connection.
    pub(super) async fn request(&mut self, wire: &mut Wire) -> Option<Request> {
        poll_fn(|cx| {
            let request = self.hear(cx, wire);
            self.speak(cx, wire);
            match request {
                None if !self.is_over() => Poll::Pending,
                request => Poll::Ready(request),
            }
        })
        .await
    }

    /// While a request is being decided: whether the client is gone.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<()> {
        // A second request is against the rules, and the acceptor says so.
        drop(self.hear(cx, wire));
        self.speak(cx, wire);
        match self.is_over() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn is_over(&self) -> bool {
        self.lost || self.acceptor.is_finished()
    }

    pub(super) fn refuse(&mut self, failure: Failure) {
        self.acceptor.refuse(driver::now(), failure);
    }

    /// The acceptor with a request that was granted. What it still has to say goes before the session's own frames.
    pub(super) fn into_acceptor(mut self, wire: &mut Wire) -> Acceptor {
        while let Some(frame) = self.acceptor.poll_transmit() {
            wire.send(frame);
        }
        self.acceptor
    }

    /// Sends what waits, then closes.
    pub(super) async fn farewell(mut self, wire: Wire) {
        let frames = std::iter::from_fn(|| self.acceptor.poll_transmit()).collect();
        // In time or not, the wire is dropped.
        drop(tokio::time::timeout(FAREWELL, wire.farewell(frames)).await);
    }

    /// Frames up to a request, and the clock.
    fn hear(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Option<Request> {
        while !self.deaf && !self.is_over() {
            let now = driver::now();
            match wire.poll_next(cx) {
                Poll::Ready(Some(Ok(frame))) => self.acceptor.handle_frame(now, frame),
                Poll::Ready(Some(Err(error))) => {
                    self.deaf = true;
                    self.lost |= matches!(error, FrameError::Io(_));
                    self.acceptor.handle_malformed(now, &error);
                }
                Poll::Ready(None) => self.lost = true,
                Poll::Pending => break,
            }
            if let Some(request) = self.acceptor.poll_request() {
                return Some(request);
            }
        }
        if let Some(deadline) = self.acceptor.poll_timeout() {
            self.timer.as_mut().reset(deadline.into());
            if self.timer.as_mut().poll(cx).is_ready() {
                self.acceptor.handle_timeout(driver::now().max(deadline));
            }
        }
        None
    }

    fn speak(&mut self, cx: &mut Context<'_>, wire: &mut Wire) {
        while let Poll::Ready(Ok(())) = wire.poll_ready(cx) {
            let Some(frame) = self.acceptor.poll_transmit() else {
                break;
            };
            wire.send(frame);
        }
        if let Poll::Ready(Err(_)) = wire.poll_flush(cx) {
            self.lost = true;
        }
    }
}
