//! The implementation of [`libp2p_core::Transport`]: listens, dials, reports.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::SelectAll};
use libp2p_core::{
    Endpoint, Multiaddr,
    transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use libp2p_identity::PeerId;
use tokio_rustls::rustls::ClientConfig;

use super::{
    acceptor::Acceptor,
    addr::{ListenAddr, parse_dial, parse_listen},
    config::Config,
    connection::Connection,
    dialer,
    error::{Error, address_error},
    http::{limit::Shares, server::Room, tls::TlsError},
    listener::Listener,
    network::Network,
    paths::{Paths, Report},
    setup::Connecting,
};
use crate::transport::call::Caller;

/// What the connections of a transport share.
pub(crate) struct Common {
    pub(crate) config: Config,
    /// For the proof of identity over WebRTC.
    pub(crate) webrtc: Arc<crate::Config>,
    caller: Caller,
    pub(crate) network: Network,
    paths: Paths,
    /// Calls that peers began and that are not up yet, by the address of the peer.
    pub(crate) beginning: Arc<Shares>,
    connections: AtomicU64,
    /// Read once: it takes the system a while.
    roots: OnceLock<Arc<ClientConfig>>,
}

impl Common {
    /// For one more connection with this address.
    pub(crate) fn report(&self, address: Multiaddr) -> Report {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        self.paths.report(number, address)
    }

    /// What makes one more call.
    pub(crate) fn caller(&self) -> Caller {
        match &self.config.servers {
            Some(servers) => self.caller.with_servers(&(servers.0)()),
            None => self.caller.clone(),
        }
    }

    /// Whom to believe.
    pub(crate) async fn roots(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(roots) = self.roots.get() {
            return Ok(roots.clone());
        }
        let roots = self.config.roots.clone();
        // Files are read.
        let config = tokio::task::spawn_blocking(move || roots.config()).await;
        let config = config.unwrap_or(Err(TlsError::NoRoots))?;
        Ok(self.roots.get_or_init(|| config).clone())
    }
}

/// A libp2p transport for `/ws/webrtc` addresses: listens and dials.
///
/// It yields `(PeerId, Connection)`: encryption, authentication and multiplexing are part of it, so nothing is negotiated
/// on top. Listening and dialing need a tokio runtime.
///
/// A listener has a TCP port of its own, or shares that of another HTTP server: see [`acceptor`](Self::acceptor).
pub struct Transport {
    pub(super) common: Arc<Common>,
    listeners: SelectAll<Listener>,
    /// Servers of others, and where they listen.
    acceptors: Vec<(ListenAddr, Acceptor)>,
    /// Of the task that polls us: a new listener must be polled although nobody has woken the others.
    waker: Option<Waker>,
}

impl Transport {
    /// A transport with these settings. Binds nothing yet.
    pub fn new(config: Config) -> Self {
        let common = Common {
            webrtc: Arc::new(crate::Config::new(&config.keypair)),
            caller: config.caller(),
            beginning: Shares::new(config.limits.max_new_calls_per_address),
            config,
            network: Network::default(),
            paths: Paths::default(),
            connections: AtomicU64::new(0),
            roots: OnceLock::new(),
        };
        Self {
            common: Arc::new(common),
            listeners: SelectAll::new(),
            acceptors: Vec::new(),
            waker: None,
        }
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.common.config
    }

    /// How the connections of this transport go.
    pub fn paths(&self) -> Paths {
        self.common.paths.clone()
    }

    /// For an HTTP server that listens on this address, with TLS or without: it gives the WebSockets of the path `/webrtc`
    /// to this transport. `listen_on` with that very address then binds nothing and takes them, until the listener is
    /// removed; before and after the server refuses them.
    ///
    /// They have room of their own, [`Limits::max_connections`](super::Limits::max_connections), and take no places of the
    /// server's other guests.
    pub fn acceptor(&mut self, local: SocketAddr, tls: bool) -> Acceptor {
        let config = &self.common.config;
        let room = Room::new(config.limits.max_connections, &config.proxies);
        let acceptor = Acceptor::with_room(room, config.limits.max_message);
        let addr = ListenAddr { socket: local, tls };
        self.acceptors.push((addr, acceptor.clone()));
        acceptor
    }
}

impl libp2p_core::Transport for Transport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = Connecting;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        let Some(listen) = parse_listen(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let limits = &self.common.config.limits;
        limits.validate().map_err(Error::from)?;
        let shared = self.acceptors.iter().find(|(known, acceptor)| {
            // Nobody listens twice on one port.
            *known == listen && !acceptor.is_open()
        });
        let common = self.common.clone();
        let listener = match shared {
            Some((addr, acceptor)) => Listener::on(id, *addr, acceptor, common)?,
            None => Listener::bind(id, listen, common)?,
        };
        self.listeners.push(listener);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let mut listeners = self.listeners.iter_mut();
        let listener = listeners.find(|listener| listener.id() == id);
        listener.is_some_and(Listener::close)
    }

    /// Holes in TCP are not punched: with [`Endpoint::Listener`] the address is none of ours.
    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        if opts.role == Endpoint::Listener {
            return Err(TransportError::MultiaddrNotSupported(addr));
        }
        let target = match parse_dial(&addr) {
            Ok(target) => target,
            Err(error) => return Err(address_error(error, addr)),
        };
        let limits = &self.common.config.limits;
        limits.validate().map_err(Error::from)?;
        Ok(dialer::dial(self.common.clone(), addr, target).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        self.common.network.poll(cx);
        if let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(cx) {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}

/// The time. Also that of tests which stop the clock.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
