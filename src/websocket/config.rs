//! Settings of the transport.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use libp2p_identity::Keypair;

use super::{
    http::{
        limit::RateLimiter,
        tls::{ServerTls, TlsRoots},
    },
    link::MAX_DATA,
};
use crate::transport::{
    call::{CallConfig, Caller, IceServer},
    config::{ConfigError, YEAR, check},
};

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

/// Limits and times; each field has a setter at [`Config`]. Listening and dialing fail when one is out of its range: times
/// are more than zero and at most a year.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// A dial whose WebRTC is not up after this time goes on over the plain WebSocket; WebRTC goes on beside it. Default
    /// 6 s: `SwarmBuilder` ends a dial after 10 s, and the rest is for TCP, TLS and the handshakes on the WebSocket. What
    /// can be connected directly is, as a rule, after one. Zero begins with the WebSocket at once.
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
    /// most. Default 1,024, at least 1. More wait in the system's queue; where the server is
    /// somebody else's ([`Acceptor`](super::Acceptor)) they are refused.
    pub max_connections: usize,
    /// WebRTC connections of one address (of IPv6: of one /64) that are being made at once, inbound only; further offers from
    /// there are refused, and their connections go on over the WebSocket and try again later. Default 128: each takes a key
    /// pair, a handful of packets a second and, if nothing comes of it, ten seconds, and what comes to something counts for a
    /// moment only. It is far below the number of calls in all
    /// ([`CallConfig::with_max_calls`](crate::CallConfig::with_max_calls), 1,024), so that one address leaves room for others,
    /// and high because everybody behind one NAT, on this host, or behind a proxy that is not among
    /// [`Config::with_proxies`] comes from one address; the limit is theirs together. At least 1.
    pub max_new_calls_per_address: usize,
    /// Bytes of one message of the peer on the plain WebSocket. Default 65,536, the default of SocketPipe; this side sends
    /// 32,768 at most, so less cannot be set.
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
            max_new_calls_per_address: 128,
            max_message: 65_536,
        }
    }
}

impl Limits {
    /// Checks every range that the fields document.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let times = [
            ("webrtc_timeout", self.webrtc_timeout),
            ("retry_after", self.retry_after),
            ("handshake_timeout", self.handshake_timeout),
        ];
        for (setting, value) in times {
            check(!value.is_zero(), setting, "more than zero")?;
        }
        for (setting, value) in times
            .into_iter()
            .chain([("fallback_after", self.fallback_after)])
        {
            check(value <= YEAR, setting, "at most a year")?;
        }
        check(self.max_connections >= 1, "max_connections", "at least 1")?;
        check(
            self.max_new_calls_per_address >= 1,
            "max_new_calls_per_address",
            "at least 1",
        )?;
        check(
            usize::try_from(self.max_message).is_ok_and(|max| max >= MAX_DATA),
            "max_message",
            "at least 32768",
        )
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

    /// Sets [`Limits::max_new_calls_per_address`].
    pub fn with_max_new_calls_per_address(mut self, calls: usize) -> Self {
        self.limits.max_new_calls_per_address = calls;
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

#[cfg(test)]
mod tests {
    use libp2p_core::{
        Endpoint, Multiaddr, Transport as _,
        transport::{DialOpts, ListenerId, PortUse, TransportError},
    };

    use super::*;
    use crate::websocket::{Error, Transport};

    /// Both use them, and neither may panic over them later.
    #[tokio::test]
    async fn limits_that_cannot_work_are_told_when_listening_and_dialing() {
        let keypair = Keypair::generate_ed25519();
        let config = || Config::new(&keypair);
        let zero = Duration::ZERO;
        for (config, setting) in [
            (
                config().with_fallback_after(Duration::MAX),
                "fallback_after",
            ),
            (
                config().with_webrtc_timeout(Duration::MAX),
                "webrtc_timeout",
            ),
            (config().with_webrtc_timeout(zero), "webrtc_timeout"),
            (config().with_retry_after(Duration::MAX), "retry_after"),
            (config().with_retry_after(zero), "retry_after"),
            (
                config().with_handshake_timeout(Duration::MAX),
                "handshake_timeout",
            ),
            (config().with_handshake_timeout(zero), "handshake_timeout"),
            (config().with_max_connections(0), "max_connections"),
            (
                config().with_max_new_calls_per_address(0),
                "max_new_calls_per_address",
            ),
            (config().with_max_message(32_767), "max_message"),
        ] {
            let mut transport = Transport::new(config);
            let addr: Multiaddr = "/ip4/127.0.0.1/tcp/0/ws/webrtc".parse().unwrap();
            let listened = transport.listen_on(ListenerId::next(), addr).unwrap_err();
            let opts = DialOpts {
                role: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            };
            let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1/ws/webrtc".parse().unwrap();
            let Err(dialed) = transport.dial(addr, opts) else {
                panic!("{setting} was taken");
            };
            for error in [listened, dialed] {
                let TransportError::Other(Error::Limits(error)) = error else {
                    panic!("{setting}: {error}");
                };
                assert_eq!(error.setting(), setting);
            }
        }
    }

    #[tokio::test]
    async fn the_largest_and_smallest_limits_work() {
        let config = Config::new(&Keypair::generate_ed25519())
            .with_fallback_after(Duration::ZERO)
            .with_webrtc_timeout(YEAR)
            .with_retry_after(YEAR)
            .with_handshake_timeout(YEAR)
            .with_max_connections(usize::MAX)
            .with_max_message(32_768);
        let mut transport = Transport::new(config);
        let addr: Multiaddr = "/ip4/127.0.0.1/tcp/0/ws/webrtc".parse().unwrap();
        transport.listen_on(ListenerId::next(), addr).unwrap();
        transport.acceptor("127.0.0.1:1".parse().unwrap(), false);
    }
}
