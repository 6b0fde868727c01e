//! The call of a connection: how it is begun and how it ends.

use std::{net::IpAddr, time::Instant};

use super::{Lane, Lanes};
use crate::transport::call::{Application, Call, CallError};

impl Lanes {
    /// Of an inbound connection: where it comes from.
    pub(crate) fn called_from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// A call with the peer's offer, in place of the one there may be. It counts for the peer's address until it is up.
    pub(super) fn answer(&mut self, offer: &str) -> Result<Call, CallError> {
        self.drop_call();
        let Some(from) = self.from else {
            return self.common.caller().answer(Application::Libp2p, offer);
        };
        let place = self.common.beginning.take(from);
        self.beginning = Some(place.ok_or(CallError::TooManyFromAddress)?);
        let caller = self.common.caller().called_from(from);
        caller.answer(Application::Libp2p, offer)
    }

    pub(super) fn set_call(&mut self, now: Instant, call: Result<Call, CallError>) {
        match call {
            Ok(call) => self.call = Some(call),
            Err(error) => {
                tracing::debug!(%error, "no call");
                self.conversation.call_failed(now);
            }
        }
    }

    pub(super) fn drop_call(&mut self) {
        self.call = None;
        self.beginning = None;
        self.webrtc = Lane::None;
        self.path = None;
    }
}
