//! One of the two ways by which the streams of a connection can go, and how far it has come.

use std::task::{Context, Poll};

use futures::{FutureExt as _, future::BoxFuture};
use libp2p_identity::PeerId;

use crate::websocket::error::Error;

/// Identities are proven by one lane after the other; a connection is there with the first.
pub(super) enum Lane<B, L> {
    /// Not there, or no longer.
    None,
    /// The peer can be asked for its identity.
    Begun(B),
    /// It is.
    Proving(BoxFuture<'static, Result<(PeerId, L), Error>>),
    /// It carries streams.
    Up(L),
}

impl<B, L> Lane<B, L> {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn is_begun(&self) -> bool {
        matches!(self, Self::Begun(_))
    }

    /// The lane, if it carries streams.
    pub(super) fn up(&mut self) -> Option<&mut L> {
        match self {
            Self::Up(lane) => Some(lane),
            Self::None | Self::Begun(_) | Self::Proving(_) => None,
        }
    }

    /// Begins the proof by `prove`, and goes on with it.
    pub(super) fn poll_proof(
        &mut self,
        cx: &mut Context<'_>,
        prove: impl FnOnce(B) -> BoxFuture<'static, Result<(PeerId, L), Error>>,
    ) -> Poll<Result<(PeerId, L), Error>> {
        *self = match std::mem::replace(self, Self::None) {
            Self::Begun(begun) => Self::Proving(prove(begun)),
            other => other,
        };
        match self {
            Self::Proving(proof) => proof.poll_unpin(cx),
            Self::None | Self::Begun(_) | Self::Up(_) => Poll::Pending,
        }
    }
}
