//! How the two directions of a stream end, and what the application is told then.
//!
//! [`StreamShared`](super::StreamShared) keeps one of each; who moves them, and when, is decided there.

use std::io;

/// The reading direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadEnd {
    Open,
    /// FIN, after what is buffered.
    Eof,
    /// RESET by the peer, after what is buffered.
    Reset,
    /// Stopped or reset by us.
    Stopped,
}

/// The writing direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WriteEnd {
    Open,
    /// FIN follows what is buffered.
    Closing,
    /// FIN was handed over.
    Finished,
    /// The peer sent STOP_SENDING.
    Stopped,
    /// Reset by the peer, or given up because it broke a rule.
    Reset,
    /// Reset by us.
    ResetHere,
}

impl ReadEnd {
    /// What reading gives when nothing is buffered, unless there is more to come.
    pub(super) fn result(self) -> Option<io::Result<usize>> {
        match self {
            Self::Open => None,
            Self::Eof => Some(Ok(0)),
            Self::Reset => Some(Err(reset_by_peer())),
            Self::Stopped => Some(Err(broken_pipe("the stream is closed for reading"))),
        }
    }
}

impl WriteEnd {
    /// Why nothing can be written any more.
    pub(super) fn error(self) -> Option<io::Error> {
        match self {
            Self::Open => None,
            Self::Closing | Self::Finished => Some(broken_pipe("the stream is closed for writing")),
            Self::Stopped => Some(broken_pipe("the peer has stopped reading")),
            Self::Reset => Some(reset_by_peer()),
            Self::ResetHere => Some(reset("the stream was reset on this side")),
        }
    }

    /// What flushing and closing give when there is nothing left to do for them.
    pub(super) fn result(self) -> Option<io::Result<()>> {
        match self {
            Self::Open | Self::Closing => None,
            Self::Finished | Self::Stopped => Some(Ok(())),
            Self::Reset | Self::ResetHere => self.error().map(Err),
        }
    }
}

/// For both directions.
fn reset_by_peer() -> io::Error {
    reset("the peer reset the stream")
}

/// For a stream that has not ended as it should.
fn reset(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, text)
}

/// For a direction that carries nothing more.
fn broken_pipe(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, text)
}
