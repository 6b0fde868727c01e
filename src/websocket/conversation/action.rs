//! What goes into a conversation and comes out of it.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    frames::{code::Code, frame::Frame},
    transport::call::Signal,
};

/// Times that can be set; see `Limits` of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// When the plain lane begins, if WebRTC is not up.
    pub(crate) fallback: Duration,
    /// Time for a call, from the offer to the proof of identity, and for a lost one to come back.
    pub(crate) webrtc: Duration,
    /// First pause before a further call.
    pub(crate) retry: Duration,
}

/// What the owner is to do, in order.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Send it.
    Send(Frame),
    /// Make a call, in place of the one there may be.
    Offer,
    /// Make a call with this offer, in place of the one there may be.
    Answer(String),
    /// Give it to the call.
    Signal(Signal),
    /// Have the call restart ICE.
    Restart,
    /// Have the call look whether its path is still there.
    Probe,
    /// Drop the call and everything on it.
    Drop,
    /// Begin the plain lane.
    StartPlain,
    /// Bytes for the plain lane.
    Data(Bytes),
    /// The peer sends no more on the plain lane.
    EndOfData,
    /// Nothing more is said: close the WebSocket behind what was sent.
    End(Ended),
}

/// Why nothing more is said on a WebSocket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// We closed it.
    Local,
    /// The peer said CLOSE or ERROR.
    Remote(Code, String),
    /// The peer broke a rule.
    Violation(Code, &'static str),
    /// The peer showed no sign of life.
    Silent,
    /// The connection below ended or failed.
    Lost,
}

impl Ended {
    /// Whether it may come of the end of the peer itself.
    pub(super) fn may_be_of_peer(&self) -> bool {
        match self {
            Self::Remote(..) | Self::Silent | Self::Lost => true,
            Self::Local | Self::Violation(..) => false,
        }
    }
}
