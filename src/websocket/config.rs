//! Settings of the transport.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use libp2p_identity::Keypair;

use super::http::{
    limit::RateLimiter,
    tls::{ServerTls, TlsRoots},
};
use crate::transport::call::{CallConfig, Caller, IceServer};

/// Gives the servers for one call.
#[derive(Clone)]
pub(crate) struct Servers(pub(crate) Arc<dyn Fn() -> Vec<IceServer> + Send + Sync>);

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").finish_non_exhaustive()
    }
}

/// Settings of a [`Transport`](super::Transport).
///
/// [`Config::new`] works for everybody. Every setter consumes and returns the value:
///
/// ```
/// use std::time::Duration;
/// use libp2p_rtc::websocket::Config;
///
/// let keypair = libp2p_identity::Keypair::generate_ed25519();
/// let config = Config::new(&keypair).with_fallback_after(Duration::from_secs(3));
/// assert_eq!(config.limits().fallback_after, Duration::from_secs(3));
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) keypair: Keypair,
    pub(crate) caller: Option<Caller>,
    pub(crate) servers: Option<Servers>,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) roots: TlsRoots,
    pub(crate) proxies: Vec<IpAddr>,
    pub(crate) limiter: RateLimiter,
    pub(crate) limits: Limits,
}

/// Limits and times; each field has a setter at [`Config`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// A dial whose WebRTC is not up after this time goes on over the plain WebSocket; WebRTC goes on beside it. Default
    /// 6 s: `SwarmBuilder` ends a dial after 10 s, and the rest is for TCP, TLS and the handshakes on the WebSocket. What
    /// can be connected directly is, as a rule, after one.
    pub fallback_after: Duration,
    /// Time for one attempt at WebRTC, and for a lost path to come back, before the streams on it fail. Default 10 s; an
    /// attempt also ends with [`Limits::handshake_timeout`](crate::Limits::handshake_timeout) of the sockets below, 9 s
    /// by default. Listeners add 5 s: their dialers decide.
    pub webrtc_timeout: Duration,
    /// Pause before WebRTC is tried again after an attempt failed, doubled each time up to 5 min. Default 5 s. When the
    /// network changes it is tried at once.
    pub retry_after: Duration,
    /// Time for the whole set-up of a connection, from TCP to the proof of identity. Default 20 s. Dials and the upgrades
    /// of listeners also end with the connection timeout of the swarm.
    pub handshake_timeout: Duration,
    /// Inbound connections at once, those still being set up included, of which one address (a proxy aside) has half at
    /// most. Default 1,024. More wait in the system's queue.
    pub max_connections: usize,
    /// Bytes of one message of the peer on the plain WebSocket. Default 65,536, the default of SocketPipe; this side sends
    /// 32,768 at most.
    pub max_message: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fallback_after: Duration::from_secs(6),
            webrtc_timeout: Duration::from_secs(10),
            retry_after: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(20),
            max_connections: 1024,
            max_message: 65_536,
        }
    }
}

impl Config {
    /// Settings for the node with this identity.
    pub fn new(keypair: &Keypair) -> Self {
        Self {
            keypair: keypair.clone(),
            caller: None,
            servers: None,
            tls: None,
            roots: TlsRoots::default(),
            proxies: Vec::new(),
            limiter: RateLimiter::default(),
            limits: Limits::default(),
        }
    }

    /// Makes the WebRTC connections with this, above all with its STUN and TURN servers. Unless set, there are none, and
    /// the sockets are of its own. To share those of WebRTC Direct, take
    /// [`Transport::caller`](crate::Transport::caller) of that transport.
    pub fn with_caller(mut self, caller: Caller) -> Self {
        self.caller = Some(caller);
        self
    }

    /// Asks for the STUN and TURN servers of each WebRTC connection instead of using those of the caller: credentials of
    /// TURN servers are good for a short time. It is called while connections are polled, so it must not block.
    pub fn with_servers(
        mut self,
        servers: impl Fn() -> Vec<IceServer> + Send + Sync + 'static,
    ) -> Self {
        self.servers = Some(Servers(Arc::new(servers)));
        self
    }

    /// The certificate for listening with TLS.
    pub fn with_tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Whom to believe when dialing with TLS. Unless set, the certificates of the system.
    pub fn with_roots(mut self, roots: TlsRoots) -> Self {
        self.roots = roots;
        self
    }

    /// Addresses of proxies in front of our own ports, whose `X-Forwarded-For` is believed. None unless set.
    pub fn with_proxies(mut self, proxies: Vec<IpAddr>) -> Self {
        self.proxies = proxies;
        self
    }

    /// How often one address may open a WebSocket on our own ports; several listeners may share one.
    pub fn with_limiter(mut self, limiter: RateLimiter) -> Self {
        self.limiter = limiter;
        self
    }

    /// Replaces all limits at once.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets [`Limits::fallback_after`].
    pub fn with_fallback_after(mut self, fallback_after: Duration) -> Self {
        self.limits.fallback_after = fallback_after;
        self
    }

    /// Sets [`Limits::webrtc_timeout`].
    pub fn with_webrtc_timeout(mut self, webrtc_timeout: Duration) -> Self {
        self.limits.webrtc_timeout = webrtc_timeout;
        self
    }

    /// Sets [`Limits::retry_after`].
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.limits.retry_after = retry_after;
        self
    }

    /// Sets [`Limits::handshake_timeout`].
    pub fn with_handshake_timeout(mut self, handshake_timeout: Duration) -> Self {
        self.limits.handshake_timeout = handshake_timeout;
        self
    }

    /// Sets [`Limits::max_connections`].
    pub fn with_max_connections(mut self, max_connections: usize) -> Self {
        self.limits.max_connections = max_connections;
        self
    }

    /// Sets [`Limits::max_message`].
    pub fn with_max_message(mut self, max_message: u32) -> Self {
        self.limits.max_message = max_message;
        self
    }

    /// The limits as they were set.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What makes the calls.
    pub(crate) fn caller(&self) -> Caller {
        match &self.caller {
            Some(caller) => caller.clone(),
            None => Caller::new(CallConfig::default()),
        }
    }
}
