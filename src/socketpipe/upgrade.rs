//! The WebRTC connection beside a session's WebSocket: when it is tried, what is signaled, what becomes of it.
//!
//! Of what DATA does when there is a data channel, or no longer one, and of the 10 s a connection may take, the engine
//! knows ([`session`](super::session)); ICE, DTLS and channels are a call's. Here they come together: an [`Upgrade`]
//! belongs to the driver of one session, has at most one call at a time, and says what the driver has to do in [`Step`]s.
//!
//! A client begins when its session is open on a path it may signal on. What fails is tried again after a pause that
//! grows, and at once when a connection is lost that had worked, when the addresses of this machine change, or when the
//! session came to another WebSocket. A path of the network that is lost is first sought anew by an ICE restart. A server
//! answers.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{Caller, IceServer};

mod attempt;
mod machine;
mod network;
#[cfg(test)]
mod tests;

pub(super) use self::machine::{Step, Upgrade};

/// Pause after the first failure; it doubles with each (SocketPipe leaves it open; WebRTC that did not come up rarely does
/// a moment later).
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What carries the bytes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Carrier {
    /// A libp2p stream on a connection of another kind than those that follow.
    Stream,
    /// A libp2p stream on a connection by TCP.
    StreamTcp,
    /// A libp2p stream on a connection by QUIC.
    StreamQuic,
    /// A libp2p stream on a connection by the transport `/webrtc-direct`.
    StreamDirectTransport,
    /// A libp2p stream by way of a relay of libp2p.
    StreamCircuit,
    /// A libp2p stream on a WebSocket, that of a connection by `/ws/webrtc` for one.
    StreamWebSocket,
    /// A libp2p stream on a connection by `/ws/webrtc`, by WebRTC from one end to the other.
    StreamWebRtcDirect,
    /// The same by way of a TURN server.
    StreamWebRtcRelayed,
    /// A WebSocket.
    WebSocket,
    /// A WebRTC data channel that leads from one end to the other.
    WebRtcDirect,
    /// A WebRTC data channel by way of a TURN server.
    WebRtcRelayed,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Stream,
        Self::StreamTcp,
        Self::StreamQuic,
        Self::StreamDirectTransport,
        Self::StreamCircuit,
        Self::StreamWebSocket,
        Self::StreamWebRtcDirect,
        Self::StreamWebRtcRelayed,
        Self::WebSocket,
        Self::WebRtcDirect,
        Self::WebRtcRelayed,
    ];

    /// Whether it is a libp2p stream on a connection that a WebSocket belongs to.
    #[cfg(feature = "gateway")]
    pub(super) fn is_signaled(self) -> bool {
        matches!(
            self,
            Self::StreamWebSocket | Self::StreamWebRtcDirect | Self::StreamWebRtcRelayed
        )
    }

    /// A few words for lists and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "libp2p",
            Self::StreamTcp => "libp2p tcp",
            Self::StreamQuic => "libp2p quic",
            Self::StreamDirectTransport => "libp2p webrtc-direct",
            Self::StreamCircuit => "libp2p relayed",
            Self::StreamWebSocket => "libp2p websocket",
            Self::StreamWebRtcDirect => "libp2p webrtc direct",
            Self::StreamWebRtcRelayed => "libp2p webrtc relayed",
            Self::WebSocket => "websocket",
            Self::WebRtcDirect => "webrtc direct",
            Self::WebRtcRelayed => "webrtc relayed",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names the STUN and TURN servers for one connection.
pub trait IceServers: Send + Sync + 'static {
    /// Asked before each attempt, because credentials of TURN servers are good for a short time. Whoever cannot say gives
    /// the reason, and the connection is tried without; so it is after 5 s.
    fn servers(&self) -> BoxFuture<'static, Result<Vec<IceServer>, String>>;
}

/// How sessions get a WebRTC data channel beside their WebSocket. Cheap to clone.
#[derive(Clone)]
pub struct WebRtc {
    caller: Caller,
    servers: Option<Arc<dyn IceServers>>,
    delay: Duration,
    first_pause: Duration,
    longest_pause: Duration,
}

impl fmt::Debug for WebRtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRtc")
            .field("caller", &self.caller)
            .field("asks_for_servers", &self.servers.is_some())
            .finish_non_exhaustive()
    }
}

impl WebRtc {
    /// Connections are made by this caller, with the servers it was configured with.
    pub fn new(caller: Caller) -> Self {
        Self {
            caller,
            servers: None,
            delay: Duration::ZERO,
            first_pause: FIRST_PAUSE,
            longest_pause: LONGEST_PAUSE,
        }
    }

    /// Asks for the servers of each connection instead.
    #[must_use]
    pub fn with_servers(mut self, servers: impl IceServers) -> Self {
        self.servers = Some(Arc::new(servers));
        self
    }

    /// Client: begins so long after the session has opened, which spares short ones the work. Default at once.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Client: the pause after a connection did not come up, which doubles with each, and the longest one. Default 30 s and
    /// 10 min.
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest.max(first);
        self
    }

    /// The pause after so many failures in a row. Many clients of one server shall not come in the same instant.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = self
            .first_pause
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled
            .min(self.longest_pause)
            .mul_f64(rand::random_range(0.75..1.0))
    }
}
