//! Wishes of both sides and what they agree on.

use std::time::Duration;

use bytes::Bytes;

use super::event::{Mode, Role};
use crate::socketpipe::frame::{Accepted, Capabilities, HandshakeRequest};

/// Version of the protocol we speak.
pub(super) const MAJOR: u8 = 1;
/// Its minor part.
pub(super) const MINOR: u8 = 0;

/// Default of the protocol for the time between PINGs.
const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(30);
/// Default of the protocol for the time to a PONG.
const DEFAULT_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of the protocol for the largest DATA.
const DEFAULT_MAX_MESSAGE: u32 = 65_536;
/// A server answers smaller wishes with this: below, headers and numbers weigh too much.
const MIN_MAX_MESSAGE: u32 = 1024;
/// A server keeps at least this much output, as the protocol demands.
const MIN_RETAINED: usize = 64 * 1024;
/// A server waits at least this long for a lost client, as the protocol demands.
const MIN_HOLD: Duration = Duration::from_secs(60);
/// Number of the flag of the WebRTC upgrade, which the published text does not give.
const WEBRTC_BIT: u8 = 6;
/// Bytes nobody reads before the peer is asked to stop: xterm.js practice.
const DEFAULT_PAUSE: usize = 512 * 1024;
/// What a client keeps of a tunnel: so much may be unconfirmed, and so much of a client that is told to stop may be under way.
const RETAINED_OF_TUNNEL: usize = 4 * 1024 * 1024;

/// What a client wants.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Terminal or TCP connection.
    pub mode: Mode,
    /// Name or address of the target; empty with port 0 is the server's default target.
    pub host: String,
    /// Port of the target.
    pub port: u16,
    /// What lets us in; may be empty where the peer id does.
    pub token: Bytes,
    /// Ask for Session Resume. Default true: without it a lost transport loses bytes.
    pub resume: bool,
    /// Ask for the WebRTC upgrade. Default false: only a driver that can do it may. [`open`](crate::socketpipe::open)
    /// can, and sets this itself for each connection: true where the options have
    /// [`webrtc`](crate::socketpipe::SessionOptions::webrtc()) and nobody between can change an offer.
    pub webrtc: bool,
    /// Number of the flag that stands for it, which the published text leaves open: 6 (default) or 7. With any other,
    /// which are those of other extensions, the upgrade is neither asked for nor accepted.
    pub webrtc_bit: u8,
    /// Time between PINGs; zero (default) leaves it to the server.
    pub ping_interval: Duration,
    /// Time to wait for a PONG; zero (default) leaves it to the server.
    pub ping_timeout: Duration,
    /// Largest DATA we take; 0 (default) is 65,536.
    pub max_message: u32,
    /// Bytes kept to be sent again. Default 64 KiB for a terminal, 4 MiB for a tunnel.
    pub retained: usize,
    /// Bytes nobody reads before the server is told to stop; it goes on below a quarter. Default 512 KiB.
    pub pause_reading: usize,
    /// PINGs without answer that end a path. Default 1; 2 suits mobile networks.
    pub missed_pings: u8,
    /// End a terminal, too, when a data channel is lost without Session Resume. Default false.
    pub strict: bool,
    /// Understand and send the end of one direction, in tunnels. Default false; only between two of our own ends.
    pub half_close: bool,
    /// Time for an answer to the first frame of a connection. Default 30 s: the server may dial its backend first.
    pub handshake_timeout: Duration,
}

impl ClientConfig {
    /// The defaults for this mode.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            host: String::new(),
            port: 0,
            token: Bytes::new(),
            resume: true,
            webrtc: false,
            webrtc_bit: WEBRTC_BIT,
            ping_interval: Duration::ZERO,
            ping_timeout: Duration::ZERO,
            max_message: 0,
            retained: match mode {
                Mode::Pty => 64 * 1024,
                Mode::Tunnel => RETAINED_OF_TUNNEL,
            },
            pause_reading: DEFAULT_PAUSE,
            missed_pings: 1,
            strict: false,
            half_close: false,
            handshake_timeout: Duration::from_secs(30),
        }
    }

    /// The first frame of a new session.
    pub(super) fn request(&self) -> HandshakeRequest {
        let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
        HandshakeRequest {
            capabilities: flag(self.resume, Capabilities::RESUME)
                .with(flag(self.webrtc, webrtc_flag(self.webrtc_bit))),
            major: MAJOR,
            minor: MINOR,
            port: self.port,
            ping_interval: seconds(self.ping_interval),
            ping_timeout: seconds(self.ping_timeout),
            max_message: self.max_message,
            host: self.host.clone(),
            token: self.token.clone(),
        }
    }

    /// What the engine has to know of it.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            role: Role::Client,
            mode: self.mode,
            retained: self.retained,
            overflow: Overflow::Pause,
            hold: None,
            pause_reading: self.pause_reading,
            missed_pings: self.missed_pings.max(1),
            strict: self.strict,
            half_close: self.half_close && self.mode == Mode::Tunnel,
            handshake_timeout: self.handshake_timeout,
        }
    }
}

/// What a server offers. The default is right for most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Largest DATA. Default 65,536, at least 1,024.
    pub max_message: u32,
    /// Time between PINGs; clients may ask for less. Default 30 s, 5 to 600 s.
    pub ping_interval: Duration,
    /// Time to wait for a PONG. Default 10 s, 2 to 60 s.
    pub ping_timeout: Duration,
    /// Session Resume, or none. Default: on.
    pub resume: Option<ResumeConfig>,
    /// Accept the WebRTC upgrade. Default false: only a driver that can do it may. A
    /// [`Server`](crate::socketpipe::Server) sets this itself: true where it was made
    /// [`with_webrtc`](crate::socketpipe::Server::with_webrtc) and nobody between can change an offer.
    pub webrtc: bool,
    /// Number of the flag that stands for it, see [`ClientConfig::webrtc_bit`].
    pub webrtc_bit: u8,
    /// Accept the upgrade without Session Resume, too, at the risk of lost bytes. Default false.
    pub webrtc_without_resume: bool,
    /// Bytes the backend does not take before the client is told to stop; it goes on below a quarter. Default 512 KiB.
    pub pause_reading: usize,
    /// PINGs without answer that end a path. Default 1; 2 suits mobile networks.
    pub missed_pings: u8,
    /// End a terminal, too, when a data channel is lost without Session Resume. Default false.
    pub strict: bool,
    /// Understand and send the end of one direction, in tunnels. Default false; only between two of our own ends.
    pub half_close: bool,
    /// Time for the first frame of a connection. Default 10 s.
    pub handshake_timeout: Duration,
}

/// How long and how much a server keeps for a client that lost its transport.
#[derive(Clone, Copy, Debug)]
pub struct ResumeConfig {
    /// How long. Default 300 s, at least 60 s.
    pub hold: Duration,
    /// Bytes of output kept until the client is known to have them. Default 1 MiB, at least 64 KiB.
    pub retained: usize,
    /// What happens when that is full and no client is there. Default: the backend waits.
    pub overflow: Overflow,
}

impl Default for ResumeConfig {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(300),
            retained: 1024 * 1024,
            overflow: Overflow::Pause,
        }
    }
}

/// What happens when output fills the memory of a session without client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The backend is not read until a client is back: nothing is lost.
    Pause,
    /// Terminals only: the backend runs on and the oldest output is dropped; a resume is then refused with 4002.
    DropOldest,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_message: DEFAULT_MAX_MESSAGE,
            ping_interval: DEFAULT_PING_INTERVAL,
            ping_timeout: DEFAULT_PING_TIMEOUT,
            resume: Some(ResumeConfig::default()),
            webrtc: false,
            webrtc_bit: WEBRTC_BIT,
            webrtc_without_resume: false,
            pause_reading: DEFAULT_PAUSE,
            missed_pings: 1,
            strict: false,
            half_close: false,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl ServerConfig {
    /// The values in force for this client.
    pub(super) fn negotiate(&self, request: &HandshakeRequest) -> Parameters {
        let wished = request.capabilities;
        // Session Persistence implies Session Resume.
        let resume = self.resume.is_some()
            && (wished.contains(Capabilities::RESUME)
                || wished.contains(Capabilities::PERSISTENCE));
        let webrtc = self.webrtc
            && has_webrtc(wished, self.webrtc_bit)
            && (resume || self.webrtc_without_resume);
        let interval = match request.ping_interval {
            0 => self.ping_interval,
            wish => self.ping_interval.min(Duration::from_secs(wish.into())),
        };
        let size = match request.max_message {
            0 => DEFAULT_MAX_MESSAGE,
            wish => wish,
        };
        let ping_interval = interval.clamp(Duration::from_secs(5), Duration::from_secs(600));
        let ping_timeout = self
            .ping_timeout
            .clamp(Duration::from_secs(2), Duration::from_secs(60));
        Parameters {
            // The smaller of both, and ours is the smallest there is.
            minor: MINOR,
            ping_interval,
            ping_timeout: ping_timeout.min(ping_interval - Duration::from_secs(1)),
            max_message: size.min(self.max_message).max(MIN_MAX_MESSAGE),
            resume,
            webrtc,
            webrtc_bit: self.webrtc_bit,
        }
    }

    /// Session Resume within the bounds of the protocol.
    pub(super) fn resume_config(&self) -> ResumeConfig {
        let config = self.resume.unwrap_or_default();
        ResumeConfig {
            hold: config.hold.max(MIN_HOLD),
            retained: config.retained.max(MIN_RETAINED),
            overflow: config.overflow,
        }
    }

    /// What the engine has to know of it.
    pub(super) fn settings(&self, mode: Mode) -> Settings {
        let resume = self.resume_config();
        Settings {
            role: Role::Server,
            mode,
            retained: resume.retained,
            overflow: match mode {
                Mode::Pty => resume.overflow,
                // A gap in a TCP stream is corruption.
                Mode::Tunnel => Overflow::Pause,
            },
            hold: Some(resume.hold),
            pause_reading: self.pause_reading,
            missed_pings: self.missed_pings.max(1),
            strict: self.strict,
            half_close: self.half_close && mode == Mode::Tunnel,
            handshake_timeout: self.handshake_timeout,
        }
    }
}

/// The values in force, the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameters {
    /// Minor version of the protocol.
    pub minor: u8,
    /// Time without a frame after which a PING is sent.
    pub ping_interval: Duration,
    /// Time to wait for its PONG.
    pub ping_timeout: Duration,
    /// Largest DATA, its number included.
    pub max_message: u32,
    /// Session Resume is on.
    pub resume: bool,
    /// The WebRTC upgrade may be tried.
    pub webrtc: bool,
    /// Number of the flag that says so.
    pub webrtc_bit: u8,
}

impl Parameters {
    /// What the response of a server says; zeros mean defaults. Nothing counts that we did not ask for.
    pub(super) fn from_response(accepted: &Accepted, config: &ClientConfig) -> Self {
        let seconds = |value: u16, default: Duration| match value {
            0 => default,
            value => Duration::from_secs(value.into()),
        };
        Self {
            minor: accepted.minor,
            ping_interval: seconds(accepted.ping_interval, DEFAULT_PING_INTERVAL),
            ping_timeout: seconds(accepted.ping_timeout, DEFAULT_PING_TIMEOUT),
            max_message: match accepted.max_message {
                0 => DEFAULT_MAX_MESSAGE,
                size => size,
            },
            resume: config.resume && accepted.capabilities.contains(Capabilities::RESUME),
            webrtc: config.webrtc && has_webrtc(accepted.capabilities, config.webrtc_bit),
            webrtc_bit: config.webrtc_bit,
        }
    }

    /// The response of a server.
    pub(super) fn to_response(self) -> Accepted {
        let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
        Accepted {
            capabilities: flag(self.resume, Capabilities::RESUME)
                .with(flag(self.webrtc, webrtc_flag(self.webrtc_bit))),
            major: MAJOR,
            minor: self.minor,
            ping_interval: seconds(self.ping_interval),
            ping_timeout: seconds(self.ping_timeout),
            max_message: self.max_message,
        }
    }
}

/// `capability` or none.
fn flag(on: bool, capability: Capabilities) -> Capabilities {
    if on { capability } else { Capabilities::NONE }
}

/// The flag of the WebRTC upgrade; none for a number that is another extension's.
fn webrtc_flag(bit: u8) -> Capabilities {
    match bit {
        6 | 7 => Capabilities::from_bits(1 << bit),
        _ => Capabilities::NONE,
    }
}

fn has_webrtc(capabilities: Capabilities, bit: u8) -> bool {
    let flag = webrtc_flag(bit);
    flag != Capabilities::NONE && capabilities.contains(flag)
}

/// The configuration of either side as the engine uses it.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) role: Role,
    pub(super) mode: Mode,
    /// Bytes kept to be sent again.
    pub(super) retained: usize,
    /// Whether the oldest of them may be dropped.
    pub(super) overflow: Overflow,
    /// Server: how long a session waits for its client.
    pub(super) hold: Option<Duration>,
    /// Unread bytes that stop the peer.
    pub(super) pause_reading: usize,
    /// Unanswered PINGs that end a path.
    pub(super) missed_pings: u8,
    /// A lost data channel ends a terminal, too.
    pub(super) strict: bool,
    /// Half-close is understood.
    pub(super) half_close: bool,
    /// Time for the first answer on a connection.
    pub(super) handshake_timeout: Duration,
}

impl Settings {
    /// What is read of a peer that was told to stop. In a tunnel that is all that may be under way: what confirms our bytes
    /// comes behind it, and a target may read no more before ours have been taken. Bytes for a terminal are few.
    pub(super) fn under_way(&self) -> usize {
        match self.mode {
            Mode::Pty => self.pause_reading,
            Mode::Tunnel => RETAINED_OF_TUNNEL.max(self.pause_reading),
        }
    }
}
