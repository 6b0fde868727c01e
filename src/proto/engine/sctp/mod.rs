//! SCTP for data channels (RFC 9260 with RFC 6525 stream resets, RFC 7053, RFC 9653), without input or output.
//!
//! Owns one association inside one DTLS session. A connection feeds it decrypted packets, asks it for messages when it
//! has room for them, and takes packets to protect; nobody else calls it. Time and randomness are arguments. What a
//! message means (DCEP, frames, flags) is not its job.
//!
//! A packet that does not decode, does not carry our tag or speaks of what was never sent is dropped and changes
//! nothing. What is held for the application, out of order or half complete, counts against one receive window.
//! Partial reliability is not offered, so no peer may use it; libp2p needs none.

mod association;
mod receive;
mod send;
mod streams;
#[cfg(test)]
mod tests;
mod wire;

use bytes::Bytes;

pub(crate) use self::{association::Sctp, streams::MAX_FRAGMENT};

/// Payload protocol identifiers of RFC 8831 section 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ppid {
    /// DCEP control message.
    Dcep,
    /// Binary data.
    Binary,
    /// Text, empty messages, unknown identifiers: nothing libp2p sends.
    Other,
}

impl Ppid {
    fn from_wire(number: u32) -> Self {
        match number {
            50 => Self::Dcep,
            53 => Self::Binary,
            _ => Self::Other,
        }
    }

    fn to_wire(self) -> u32 {
        match self {
            Self::Dcep => 50,
            Self::Binary | Self::Other => 53,
        }
    }
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// What it is.
    pub(crate) ppid: Ppid,
    /// Its bytes.
    pub(crate) data: Bytes,
}

/// What an association reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SctpEvent {
    /// Both sides agree that it is up.
    Connected,
    /// A stream that was not there before has a message.
    Opened(u16),
    /// A stream has a message.
    Readable(u16),
    /// The peer reset the stream and everything before was read; nothing more will come on it.
    Reset(u16),
    /// Both directions of the reset are done: the id may be used again.
    ResetComplete(u16),
    /// The peer shut the association down or aborted it.
    ClosedByPeer,
    /// The peer refused to reset a stream that is over.
    ResetDenied,
    /// The peer broke the protocol; the association is of no use any more.
    Failed(&'static str),
}

/// Sizes that the owner decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SctpLimits {
    /// Bytes the peer may send before we read them.
    pub(crate) receive_window: u32,
    /// Largest message we take.
    pub(crate) max_receive_message: u32,
    /// Streams the peer may bring about.
    pub(crate) max_streams: usize,
}

/// What a packet was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Something.
    Used,
    /// Nothing, though nothing is wrong with it: it came late, or twice, or is of a kind that needs no answer.
    Unused,
    /// It does not decode, has another's tag or speaks of what was never sent.
    Malformed,
}

impl Verdict {
    /// Of two parts of one packet together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Malformed, _) | (_, Self::Malformed) => Self::Malformed,
            (Self::Used, _) | (_, Self::Used) => Self::Used,
            (Self::Unused, Self::Unused) => Self::Unused,
        }
    }
}

/// An action on a stream that is gone or being reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamGone;
