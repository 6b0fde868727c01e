//! Settings of calls: [`CallConfig`].

use std::net::IpAddr;
#[cfg(feature = "websocket")]
use std::path::PathBuf;

use super::server::IceServer;
use crate::proto::ice::AddressFilter;
#[cfg(feature = "websocket")]
use crate::websocket::TlsRoots;

/// Calls of one [`Caller`](super::Caller) at once: each costs some 100 KiB while data runs and a certificate, two sockets
/// where it offers, and one more and up to 300 KiB for each TURN server it uses.
const MAX_CALLS: usize = 1024;

/// RFC 8445 section 14.2: one check in 5 ms is the fastest pace there is, for all agents of a host together.
const CHECKS_PER_SECOND: u32 = 200;

/// Settings of a [`Caller`](super::Caller).
///
/// The defaults work without any server: connections are made where the two ends reach each other directly. Every setter
/// consumes and returns the value:
///
/// ```
/// use libp2p_rtc::{CallConfig, IceServer};
///
/// # fn main() -> Result<(), libp2p_rtc::IceServerError> {
/// let turn: IceServer = "turn:turn.example.org:3478?transport=tcp".parse()?;
/// let config = CallConfig::new()
///     .with_servers(vec![
///         "stun:stun.example.org".parse()?,
///         turn.with_credentials("user", "secret"),
///     ])
///     .with_max_calls(100);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CallConfig {
    pub(super) servers: Vec<IceServer>,
    pub(super) announced: Vec<IpAddr>,
    pub(super) relay_only: bool,
    pub(super) port: u16,
    pub(super) filter: AddressFilter,
    pub(super) max_calls: usize,
    pub(super) checks_per_second: u32,
    pub(super) mdns: bool,
    #[cfg(feature = "websocket")]
    pub(super) tls_roots: TlsRoots,
}

impl Default for CallConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl CallConfig {
    /// Settings without servers.
    pub fn new() -> Self {
        Self {
            servers: Vec::new(),
            announced: Vec::new(),
            relay_only: false,
            port: 0,
            filter: AddressFilter::ALL,
            max_calls: MAX_CALLS,
            checks_per_second: CHECKS_PER_SECOND,
            mdns: true,
            #[cfg(feature = "websocket")]
            tls_roots: TlsRoots::default(),
        }
    }

    /// STUN servers, which tell how we look from outside, and TURN servers, which pass data on where there is no direct
    /// way. None unless set. The first four of each kind are used.
    pub fn with_servers(mut self, servers: Vec<IceServer>) -> Self {
        self.servers = servers;
        self
    }

    /// Addresses to offer to peers instead of those of the network interfaces, with the port of the socket: those that a
    /// 1:1 NAT (most clouds) maps to this host. Without them all interfaces are offered, except loopback and
    /// link-local IPv6 addresses.
    pub fn with_announced(mut self, addresses: Vec<IpAddr>) -> Self {
        self.announced = addresses;
        self
    }

    /// Offers and uses addresses of TURN servers only, so that peers do not learn those of this host. Off unless set.
    pub fn with_relay_only(mut self, relay_only: bool) -> Self {
        self.relay_only = relay_only;
        self
    }

    /// The UDP port from which answers leave where they use no listening socket of a transport (see
    /// [`Caller`](super::Caller)); kept from the first answer on. 0, the default, is any.
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Whether packets are sent to candidates of a peer with a loopback address. On unless set: peers on one host use
    /// them. A candidate makes this host send connectivity checks (STUN) to its address, whatever is there; a server for
    /// strangers may want to switch this off.
    pub fn with_loopback(mut self, allowed: bool) -> Self {
        self.filter.loopback = allowed;
        self
    }

    /// The same for private addresses (RFC 1918, RFC 6598, fc00::/7). On unless set: peers in one network use them.
    pub fn with_private(mut self, allowed: bool) -> Self {
        self.filter.private = allowed;
        self
    }

    /// The same for link-local addresses (169.254.0.0/16, fe80::/10). On unless set.
    pub fn with_link_local(mut self, allowed: bool) -> Self {
        self.filter.link_local = allowed;
        self
    }

    /// How many connections a [`Caller`](super::Caller) and its clones may have at once, those being made included; more
    /// are refused. Default 1024.
    pub fn with_max_calls(mut self, max: usize) -> Self {
        self.max_calls = max;
        self
    }

    /// How many connectivity checks a second all calls of one socket together send to one IP address (of IPv6: to one /64)
    /// as long as it has answered none of theirs; half a second's worth may be sent at once. Candidates of a peer name
    /// whom they like, so this is what strangers can have this host send to somebody else, however many calls they make.
    /// The same again is there for addresses that peers send checks from, so that a flood does not keep out those who are
    /// there. What is above it counts as lost and is repeated later. Default 200, the fastest pace that RFC 8445 allows for a
    /// host: it sets up some 40 calls a second to peers behind one NAT. At least 1.
    pub fn with_checks_per_second(mut self, checks: u32) -> Self {
        self.checks_per_second = checks.max(1);
        self
    }

    /// Whether candidates that hide their address behind a name of multicast DNS (`….local`, as browsers do) are looked
    /// up in the local network. On unless set. They are skipped otherwise, which costs nothing where the peer reaches us:
    /// its checks show its address.
    pub fn with_mdns(mut self, resolve: bool) -> Self {
        self.mdns = resolve;
        self
    }

    /// Judges `turns:` servers by the certificates in this PEM file instead of those that the system trusts. It is read
    /// when the first such server is asked; where that fails the server is not used.
    #[cfg(feature = "websocket")]
    pub fn with_tls_roots(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls_roots = TlsRoots::File(file.into());
        self
    }
}
