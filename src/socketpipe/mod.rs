//! SocketPipe: terminals and TCP services behind frames, on libp2p streams, WebSockets and WebRTC data channels.
//!
//! [`Frame`] and [`FrameCodec`] are the frames and their wire form; [`session`] is the engine that decides what a
//! frame does; both know no socket, runtime or clock. On top of them [`Server`] and [`open`] run sessions over any
//! [`Wire`], [`Behaviour`] and [`Control`] carry them on libp2p streams, and a [`Backend`] is what a session leads to.
//! A server asks a [`Service`] who gets what; [`Gate`] is the ready one.
//!
//! The protocol is the SocketPipe Protocol Specification, 1.0.0-draft (2026-02-09), by its authors at
//! <https://github.com/deftai/socketpipe>: an open draft, superseded by newer work of theirs. Core, Session Resume
//! and WebRTC Transport are implemented; Session Persistence, Multiplexing, File Transfer and Port Forwarding are not.

mod access;
pub mod backend;
mod brake;
mod client;
mod driver;
mod gate;
#[cfg(feature = "gateway")]
pub mod invitation;
mod protocol;
mod server;
pub mod session;
mod targets;
#[cfg(feature = "gateway")]
pub mod tokens;
mod upgrade;
#[cfg(feature = "gateway")]
pub mod websocket;
mod wire;

pub(crate) use crate::frames::codec;
use crate::frames::{code, frame};

#[cfg(all(feature = "gateway", unix))]
pub use self::backend::ShellConfig;
#[cfg(feature = "gateway")]
pub use self::backend::{SshAuth, SshConfig};
pub use self::{
    access::{Access, Grant, OpaqueTokens, Policy, PolicyError, Tokens},
    backend::{Backend, Exit},
    client::{
        ConnectError, Connector, OpenError, RemoteSession, SessionHandle, SessionOptions,
        SessionStatus, exit_of, open,
    },
    code::Code,
    codec::{FrameCodec, FrameError, FrameLimits, HEADER_LEN, decode_message, encode_message},
    frame::{
        Accepted, Capabilities, Close, Data, Env, Failure, Flow, Frame, HandshakeRequest,
        HandshakeResponse, IceCandidate, ResumeRequest, ResumeResponse, SessionId, SessionInfo,
        Signal, Size,
    },
    gate::{Connect, Connecting, Gate, PtyDefault, PtyTargets, TunnelTargets},
    protocol::{
        Behaviour, ConnectionInfo, Control, IncomingSession, IncomingSessions, PTY_PROTOCOL,
        RelayPolicy, TUNNEL_PROTOCOL,
    },
    server::{Opened, Opening, Origin, Outcome, Record, Server, Service, SessionSummary},
    targets::{Allowlist, PatternError},
    upgrade::{Carrier, IceServers, WebRtc},
    wire::{MessagePath, Wire},
};
