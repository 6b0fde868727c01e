//! From an open WebSocket to a proven identity: [`Setup`] for both roles, [`Connecting`] as listeners give it to the swarm.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use futures::FutureExt as _;
use libp2p_identity::PeerId;
use tokio::time::Sleep;

use super::{
    connection::Connection,
    error::{Error, Phase},
    lanes::Lanes,
};

/// A connection whose peer is still to prove who it is. Dropping it ends it.
pub(crate) struct Setup {
    /// Taken when it is there.
    lanes: Option<Box<Lanes>>,
    deadline: Pin<Box<Sleep>>,
}

impl Setup {
    /// Must be done by `deadline`.
    pub(crate) fn new(lanes: Lanes, deadline: Instant) -> Self {
        Self {
            lanes: Some(Box::new(lanes)),
            deadline: Box::pin(tokio::time::sleep_until(deadline.into())),
        }
    }

    /// Ready when the peer can be asked who it is; that costs signatures, and is left to whoever takes it from there.
    pub(crate) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let lanes = self.drive(cx, false)?;
        if lanes.has_begun() {
            return Poll::Ready(Ok(()));
        }
        let phase = lanes.phase();
        self.poll_late(cx, phase).map(Err)
    }

    fn drive(&mut self, cx: &mut Context<'_>, may_prove: bool) -> Result<&Lanes, Error> {
        let lanes = self.lanes.take();
        let mut lanes = lanes.expect("a future is not polled after it was ready");
        if may_prove {
            lanes.allow_proofs();
        }
        lanes.drive(cx);
        if lanes.is_over() || lanes.is_wrong() {
            return Err(lanes.into_failure());
        }
        Ok(self.lanes.insert(lanes))
    }

    fn poll_late(&mut self, cx: &mut Context<'_>, phase: Phase) -> Poll<Error> {
        self.deadline
            .poll_unpin(cx)
            .map(|()| Error::TimedOut { phase })
    }
}

impl Future for Setup {
    type Output = Result<(PeerId, Connection), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let lanes = self.drive(cx, true)?;
        let (proven, phase) = (lanes.proven(), lanes.phase());
        if let Some(peer) = proven
            && let Some(lanes) = self.lanes.take()
        {
            return Poll::Ready(Ok((peer, Connection::new(lanes))));
        }
        self.poll_late(cx, phase).map(Err)
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").finish_non_exhaustive()
    }
}

/// An inbound connection that is being set up; resolves to the peer's identity and the connection.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct Connecting(pub(crate) Setup);

impl Future for Connecting {
    type Output = Result<(PeerId, Connection), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}
