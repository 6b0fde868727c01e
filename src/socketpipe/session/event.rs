//! What the engine tells its driver, and the words both use.

use std::time::Duration;

use super::config::Parameters;
use crate::socketpipe::frame::{Close, Env, Failure, IceCandidate, SessionId, Signal, Size};

/// Label of a transport of a session, chosen by the driver and never used twice in the life of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(pub u64);

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathKind {
    /// A libp2p stream: a byte stream that may carry every frame.
    Stream,
    /// A WebSocket: messages that may carry every frame.
    WebSocket,
    /// A WebRTC data channel beside a WebSocket: DATA, PING, PONG, CLOSE and nothing that opens a session.
    DataChannel,
}

/// What the bytes are; chosen by URL path or protocol id, never by a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A terminal.
    Pty,
    /// A TCP connection.
    Tunnel,
}

/// Side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Opens the session.
    Client,
    /// Has the backend.
    Server,
}

/// WebRTC messages, which the engine carries and does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signaling {
    /// Client: a session description; also for an ICE restart.
    Offer(String),
    /// Server: the answer, empty to refuse.
    Answer(String),
    /// Either: a candidate, or the mark that there are no more.
    Candidate(IceCandidate),
}

/// Something the driver or the user has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Client: the server accepted. A server knows from `Acceptor::accept`.
    Established(Parameters),
    /// The session goes on, on this main path.
    Resumed {
        /// The path.
        path: PathId,
    },
    /// There is no main path. A client connects again, after a pause of its choice; a server waits.
    Disconnected,
    /// `Session::read` has something.
    Readable,
    /// `Session::write` takes bytes again.
    Writable,
    /// No more bytes follow those that can be read (half-close).
    ReadEnd,
    /// Server: the size of the terminal, clamped to 1..=4096; after a resume it comes behind the replay.
    Resize(Size),
    /// Server: a signal.
    Signal(Signal),
    /// Server: a variable, before any DATA.
    Env(Env),
    /// A WebRTC message of the peer.
    Signaling(Signaling),
    /// No data channel came up within 10 s: close the peer connection, the session goes on without.
    UpgradeFailed,
    /// Our DATA leaves by this path from now on.
    DataPath(PathId),
    /// A data channel broke in a terminal without Session Resume: bytes on their way in either direction are gone, and
    /// nobody knows how many. A client has the program draw its screen again.
    DataLost,
    /// Send what `Session::poll_transmit` still gives for this path, then close the transport.
    ClosePath {
        /// The path.
        path: PathId,
        /// Why.
        cause: PathCause,
    },
    /// The session is over. Last event, once; every path has had its `ClosePath` before.
    Closed(End),
}

/// Why a transport is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathCause {
    /// The session lives on another one now.
    Replaced,
    /// The session is over.
    Closed,
    /// The peer does not answer on it, or lost something on it.
    Lost,
    /// The session has no use for it.
    Unused,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Who ended it.
    pub by: By,
    /// Why.
    pub reason: EndReason,
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// This side.
    Local,
    /// The peer.
    Remote,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// CLOSE, with its code and sentence.
    Close(Close),
    /// The peer sent ERROR.
    Failed(Failure),
    /// The server refused the handshake.
    Refused(Failure),
    /// The server refused to resume. The path stays open: a new session may begin on it.
    ResumeRefused {
        /// What the server said.
        failure: Failure,
        /// Where.
        path: PathId,
    },
    /// The peer did not answer in time.
    TimedOut,
    /// Nobody came back in the time a session is held.
    Expired,
    /// A transport broke and the session cannot be resumed.
    TransportLost,
    /// The peer broke a rule; this is what it was told.
    PeerMisbehaved(Failure),
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not open yet.
    Connecting,
    /// Open.
    Established {
        /// Path of control frames.
        main: PathId,
        /// Path of our DATA.
        data: PathId,
    },
    /// Open, but no transport.
    Disconnected,
    /// CLOSE is on its way.
    Closing,
    /// Over.
    Closed,
}

/// Figures of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of the user sent, repetitions not counted.
    pub sent: u64,
    /// Bytes of the peer delivered.
    pub received: u64,
    /// Bytes sent again after a loss.
    pub repeated: u64,
    /// Bytes kept until the peer is known to have them, and bytes not sent yet.
    pub retained: usize,
    /// Bytes received that nobody has read, or that wait for others before them.
    pub buffered: usize,
    /// Frames of unknown type.
    pub unknown_frames: u32,
    /// PINGs that were too many to be answered.
    pub ignored_pings: u64,
    /// Last measured time from a PING to its PONG.
    pub rtt: Option<Duration>,
}

/// A request of a fresh connection that somebody has to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Open a session.
    Handshake(crate::socketpipe::frame::HandshakeRequest),
    /// Go on with one.
    Resume(crate::socketpipe::frame::ResumeRequest),
}

impl Request {
    /// The id to resume, if it is a resume.
    pub fn session_id(&self) -> Option<&SessionId> {
        match self {
            Self::Handshake(_) => None,
            Self::Resume(request) => Some(&request.id),
        }
    }
}
