//! The frames of SocketPipe 1.0 as values.
//!
//! Knows the meaning of fields and flags; how they lie on the wire is in `codec`, what they do to a session in
//! `session`. Everybody above exchanges these values. Numbers and layouts follow the SocketPipe Protocol
//! Specification, 1.0.0-draft (core, Session Resume, WebRTC Transport).

use std::fmt;

use bytes::Bytes;

use super::code::Code;

/// One frame, either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// Client: first frame of a new session.
    HandshakeRequest(HandshakeRequest),
    /// Server: the answer to it.
    HandshakeResponse(HandshakeResponse),
    /// Bytes of the user or the backend.
    Data(Data),
    /// Client: the terminal has this size.
    Resize(Size),
    /// Client: signal for the program behind the terminal.
    Signal(Signal),
    /// Client: variable for the shell, before the first DATA.
    Env(Env),
    /// Stop or go on sending DATA.
    FlowControl(Flow),
    /// To be answered by a PONG with the same payload.
    Ping(Bytes),
    /// Answer to a PING.
    Pong(Bytes),
    /// End of the session, and the answer to that.
    Close(Close),
    /// Server: something is wrong.
    Error(Failure),
    /// Server: the session can be resumed under this id.
    SessionId(SessionInfo),
    /// Client: first frame on a new connection of a known session.
    ResumeRequest(ResumeRequest),
    /// Server: the answer to it.
    ResumeResponse(ResumeResponse),
    /// Client: session description of a WebRTC connection to come.
    WebRtcOffer(String),
    /// Server: the answer to it; empty means refused.
    WebRtcAnswer(String),
    /// One more address of the sender, or the mark that there are no more.
    IceCandidate(IceCandidate),
    /// Server: its end of the data channel is open.
    WebRtcReady,
    /// A type this version does not know, by its number; the payload is skipped and never stored.
    Unknown(u8),
}

/// Extensions, as bits of the flags of both handshake frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u8);

impl Capabilities {
    /// No extension.
    pub const NONE: Self = Self(0);
    /// Session Resume.
    pub const RESUME: Self = Self(1 << 1);
    /// Session Persistence, which implies Session Resume.
    pub const PERSISTENCE: Self = Self(1 << 2);
    /// Multiplexing.
    pub const MULTIPLEXING: Self = Self(1 << 3);
    /// File Transfer.
    pub const FILE_TRANSFER: Self = Self(1 << 4);
    /// Port Forwarding.
    pub const PORT_FORWARDING: Self = Self(1 << 5);
    /// WebRTC Transport. The published text gives the flag no number; this is our choice.
    pub const WEBRTC: Self = Self(1 << 6);

    /// The extensions with these flag bits; bit 0 is none and is dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & !1)
    }

    /// The flag bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Payload of HANDSHAKE_REQUEST. A number of 0 asks for the default.
#[derive(Clone, PartialEq, Eq)]
pub struct HandshakeRequest {
    /// What the client can do.
    pub capabilities: Capabilities,
    /// Major version of the protocol.
    pub major: u8,
    /// Minor version of the protocol.
    pub minor: u8,
    /// Port of the target; 0 with an empty host asks for the server's own default target.
    pub port: u16,
    /// Wished time between PINGs in seconds.
    pub ping_interval: u16,
    /// Wished time to wait for a PONG in seconds.
    pub ping_timeout: u16,
    /// Largest payload of DATA the client takes.
    pub max_message: u32,
    /// Name or address of the target.
    pub host: String,
    /// What the client presents to be let in.
    pub token: Bytes,
}

impl fmt::Debug for HandshakeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tokens are secrets and must not reach a log.
        f.debug_struct("HandshakeRequest")
            .field("capabilities", &self.capabilities)
            .field("version", &(self.major, self.minor))
            .field("host", &self.host)
            .field("port", &self.port)
            .field("ping_interval", &self.ping_interval)
            .field("ping_timeout", &self.ping_timeout)
            .field("max_message", &self.max_message)
            .field("token_len", &self.token.len())
            .finish()
    }
}

/// HANDSHAKE_RESPONSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeResponse {
    /// The session is open.
    Accepted(Accepted),
    /// It is not.
    Refused(Failure),
}

/// Payload and flags of a successful HANDSHAKE_RESPONSE: the values in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What both sides can do.
    pub capabilities: Capabilities,
    /// Major version of the protocol.
    pub major: u8,
    /// Minor version of the protocol.
    pub minor: u8,
    /// Time between PINGs in seconds.
    pub ping_interval: u16,
    /// Time to wait for a PONG in seconds.
    pub ping_timeout: u16,
    /// Largest payload of DATA.
    pub max_message: u32,
}

/// DATA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// Place in its direction, from 1, one step per frame; present when Session Resume is agreed.
    pub number: Option<u64>,
    /// The bytes.
    pub bytes: Bytes,
    /// Flag bit 0 on a frame without bytes: the sender has no more. Ours; others see empty DATA, which has no effect.
    pub end: bool,
}

/// RESIZE: size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
    /// Width in pixels, 0 if unknown.
    pub width: u16,
    /// Height in pixels, 0 if unknown.
    pub height: u16,
}

/// SIGNAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Interrupt the foreground.
    Int,
    /// Ask the session to end.
    Term,
    /// The terminal is gone.
    Hup,
    /// End at once.
    Kill,
    /// A number without meaning to us.
    Unknown(u8),
}

impl Signal {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Int => 1,
            Self::Term => 2,
            Self::Hup => 3,
            Self::Kill => 4,
            Self::Unknown(number) => number,
        }
    }

    /// The signal with this number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Int,
            2 => Self::Term,
            3 => Self::Hup,
            4 => Self::Kill,
            other => Self::Unknown(other),
        }
    }
}

/// ENV: one variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Env {
    /// Its name, at most 255 bytes.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// FLOW_CONTROL: what the receiver of the frame shall do with its DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// XOFF.
    Pause,
    /// XON.
    Resume,
}

/// CLOSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Whether the client began it; an answer repeats what it answers.
    pub by_client: bool,
    /// Why.
    pub code: Code,
    /// For people. After [`Code::BACKEND_CLOSED`] the first word is `exit=<n>` or `signal=<NAME>` if that is known.
    pub message: String,
}

/// A code with a sentence: ERROR and refusing responses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What for programs.
    pub code: Code,
    /// What for people, at most 255 bytes on the wire.
    pub message: String,
}

impl Failure {
    /// A failure with this sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Name of a session; whoever knows it may resume the session, so it is never logged.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Bytes);

impl SessionId {
    /// The id of these bytes; `None` if there are none or more than 255.
    pub fn new(bytes: impl Into<Bytes>) -> Option<Self> {
        let bytes = bytes.into();
        (1..=255).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether both are the same, found in a time that does not tell where they differ.
    pub fn same_as(&self, other: &Self) -> bool {
        let differences = self
            .0
            .iter()
            .zip(&other.0)
            .fold(0, |seen, (one, two)| seen | (one ^ two));
        self.0.len() == other.0.len() && differences == 0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({} secret bytes)", self.0.len())
    }
}

/// SESSION_ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The name to resume under.
    pub id: SessionId,
    /// Seconds the session waits for its client; 0 is without end.
    pub timeout: u32,
    /// Bytes of output kept for a resume.
    pub retained: u32,
}

/// RESUME_REQUEST.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeRequest {
    /// The session.
    pub id: SessionId,
    /// Number of the last DATA received; 0 is none.
    pub last: u64,
    /// The token of the handshake, for a path of another kind than the session was opened on. Appended by us; empty, it
    /// is not there at all.
    pub token: Bytes,
}

impl fmt::Debug for ResumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeRequest")
            .field("id", &self.id)
            .field("last", &self.last)
            .field("token_len", &self.token.len())
            .finish()
    }
}

/// RESUME_RESPONSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeResponse {
    /// The session goes on here.
    Accepted {
        /// Number of the first DATA that follows.
        start: u64,
        /// How many are sent again.
        count: u32,
        /// Number of the last DATA the server received. Appended by us; without it the client cannot know.
        received: Option<u64>,
    },
    /// It does not.
    Refused(Failure),
}

/// ICE_CANDIDATE, as browsers show it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IceCandidate {
    /// The candidate attribute; empty when there are no more.
    pub candidate: String,
    /// Media section by name; empty: by index.
    pub mid: String,
    /// Media section by index; 0xFFFF is unknown.
    pub index: u16,
}
