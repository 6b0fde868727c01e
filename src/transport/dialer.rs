//! Outgoing connections: which socket a dial leaves from, and the dial itself.
//!
//! Owned by [`Transport`](crate::Transport), which asks here for a socket when no listener's fits. Setting the
//! connection up belongs to the core, proving identities to `connecting`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use libp2p_core::transport::ListenerId;
use libp2p_identity::PeerId;

use crate::{
    proto::{
        CloseReason, Dial, DialPolicy, DtlsContext, Endpoint, Identity, Phase, Side,
        credentials::IceVersion, fingerprint::Fingerprint,
    },
    transport::{
        addr::DialAddr,
        config::{Config, DialMode},
        connecting,
        connection::Connection,
        driver::{Ready, SocketHandle, WeakSocketHandle},
        error::Error,
        socket::Socket,
    },
};

/// How many remote addresses a socket remembers to have dialed: 8192 are some 600 KiB, and more than one node dials in
/// the life of most sockets.
const MAX_DIALED: usize = 8192;

/// How many listeners are remembered to speak v2: some 64 KiB, and more than a node is connected to.
const MAX_VERSIONS: usize = 1024;

/// Makes sockets; shared by the transport and its dial futures.
#[derive(Debug)]
pub(crate) struct SocketFactory {
    pub(crate) config: Arc<Config>,
    versions: Mutex<Versions>,
    /// The sockets of the listeners, which calls may share.
    listening: Mutex<Vec<(ListenerId, WeakSocketHandle)>>,
    /// Made once: checking keys and settings costs as much as a handshake.
    dtls: OnceLock<DtlsContext>,
}

impl SocketFactory {
    /// A factory for sockets with these settings.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
            versions: Mutex::default(),
            listening: Mutex::default(),
            dtls: OnceLock::new(),
        }
    }

    /// The DTLS settings that all sockets share.
    pub(crate) fn dtls(&self) -> Result<DtlsContext, Error> {
        if let Some(dtls) = self.dtls.get() {
            return Ok(dtls.clone());
        }
        let certificate = &self.config.certificate;
        let identity = Identity {
            certificate_der: certificate.certificate_der().to_vec(),
            private_key_der: certificate.private_key_der().to_vec(),
        };
        let dtls = DtlsContext::new(identity, self.config.limits.handshake_timeout)?;
        Ok(self.dtls.get_or_init(|| dtls).clone())
    }

    /// Binds a socket and starts its driver.
    ///
    /// # Errors
    /// Fails without a tokio runtime, with settings out of range, or when the system refuses the address.
    pub(crate) fn bind(
        &self,
        addr: SocketAddr,
        accept_incoming: bool,
    ) -> Result<SocketHandle, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::NoRuntime);
        }
        self.config.limits.validate()?;
        let endpoint = Endpoint::with_dtls(
            self.config.limits.to_proto(),
            self.dtls()?,
            accept_incoming,
            rand::random(),
        );
        let socket = Socket::bind(addr)?;
        Ok(SocketHandle::spawn_with(
            socket,
            endpoint,
            self.config.limits.to_stream(),
            self.config.metrics.clone(),
        ))
    }

    /// Binds a socket for dials of this address family, on a port that the system chooses.
    pub(crate) fn bind_for(&self, remote: SocketAddr) -> Result<SocketHandle, Error> {
        let ip: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.bind(SocketAddr::new(ip, 0), false)
    }

    /// A listener has this socket now.
    pub(crate) fn begin_listening(&self, id: ListenerId, socket: &SocketHandle) {
        self.listeners().push((id, socket.downgrade()));
    }

    /// It is removed.
    pub(crate) fn end_listening(&self, id: ListenerId) {
        self.listeners().retain(|(known, _)| *known != id);
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<(ListenerId, WeakSocketHandle)>> {
        // Nothing can panic while the lock is held.
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket of a listener that calls can share: one that is bound to all addresses, IPv4 before IPv6 because
    /// more peers have it, else one with an address that others reach.
    pub(crate) fn listening(&self) -> Option<SocketHandle> {
        let sockets = self.listeners();
        let sockets = sockets.iter().filter_map(|(_, socket)| socket.upgrade());
        sockets
            .filter(|socket| !socket.local_addr().ip().is_loopback())
            .min_by_key(|socket| {
                let bound = socket.local_addr();
                (!bound.ip().is_unspecified(), bound.is_ipv6())
            })
    }

    /// The policy for a listener with one of these certificates.
    fn policy(&self, certhashes: &[Fingerprint]) -> DialPolicy {
        let mode = self.config.dial_mode;
        if mode == DialMode::Auto && self.versions().any_v2(certhashes) {
            return DialPolicy::V2;
        }
        mode.into()
    }

    fn versions(&self) -> MutexGuard<'_, Versions> {
        // Nothing can panic while the lock is held, and the memory is only a hint.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The remote addresses that were dialed from one socket.
///
/// A second dial to one remote must leave from another port: rust-libp2p 0.10.0-alpha and older listeners keep every
/// source address for ever, and never answer a new connection from it.
#[derive(Debug, Default)]
pub(crate) struct Dialed {
    remotes: HashSet<SocketAddr>,
    /// The same, oldest first.
    order: VecDeque<SocketAddr>,
}

impl Dialed {
    /// True once per remote: it may be dialed from this socket. When the memory is full, the oldest dial is forgotten.
    pub(crate) fn claim(&mut self, remote: SocketAddr) -> bool {
        if !self.remotes.insert(remote) {
            return false;
        }
        self.order.push_back(remote);
        if self.order.len() > MAX_DIALED
            && let Some(oldest) = self.order.pop_front()
        {
            self.remotes.remove(&oldest);
        }
        true
    }
}

/// The sockets that dials share where no listener's socket can be used: one per address family, for as long as a
/// connection uses it.
#[derive(Debug, Default)]
pub(crate) struct DialSockets {
    v4: Option<DialSocket>,
    v6: Option<DialSocket>,
}

/// A socket that only dials. Held weakly: its port is given back with its last connection.
#[derive(Debug)]
struct DialSocket {
    socket: WeakSocketHandle,
    dialed: Dialed,
}

impl DialSockets {
    /// A socket from which `remote` was not dialed before: the shared one, or else a fresh one.
    pub(crate) fn socket_for(
        &mut self,
        remote: SocketAddr,
        factory: &SocketFactory,
    ) -> Result<SocketHandle, Error> {
        let slot = match remote {
            SocketAddr::V4(_) => &mut self.v4,
            SocketAddr::V6(_) => &mut self.v6,
        };
        if let Some(shared) = slot
            && let Some(socket) = shared.socket.upgrade()
        {
            if shared.dialed.claim(remote) {
                return Ok(socket);
            }
            return factory.bind_for(remote);
        }
        let socket = factory.bind_for(remote)?;
        let mut dialed = Dialed::default();
        dialed.claim(remote);
        *slot = Some(DialSocket {
            socket: socket.downgrade(),
            dialed,
        });
        Ok(socket)
    }
}

/// Dials `addr` from `socket`, or from a fresh one if that has a connection to the address already, and proves
/// identities.
pub(crate) async fn dial(
    factory: Arc<SocketFactory>,
    mut socket: SocketHandle,
    addr: DialAddr,
) -> Result<(PeerId, Connection), Error> {
    let policy = factory.policy(&addr.certhashes);
    let attempt = |socket: &SocketHandle| {
        socket.dial(Dial {
            remote: addr.socket,
            policy,
            fingerprints: addr.certhashes.clone(),
        })
    };
    let mut result = attempt(&socket).await;
    if let Err(CloseReason::AddressInUse) = result {
        socket = factory.bind_for(addr.socket)?;
        result = attempt(&socket).await;
    }
    let mut ready: Ready = match result {
        Ok(ready) => ready,
        Err(reason) => {
            if reason == CloseReason::HandshakeTimedOut(Phase::Ice) {
                factory.versions().forget(&addr.certhashes);
            }
            return Err(reason.into());
        }
    };
    if let Some(version) = ready.version {
        factory
            .versions()
            .remember(ready.remote_fingerprint, version);
    }
    ready.connection.keep_socket(socket);
    connecting::authenticate(&factory.config, ready, Side::Dialer, addr.peer).await
}

/// Which listeners answered v2 last time, by certificate. Bounded: the oldest entry gives way.
#[derive(Debug, Default)]
struct Versions {
    last: HashMap<Fingerprint, IceVersion>,
    order: VecDeque<Fingerprint>,
}

impl Versions {
    /// Does a listener with one of these certificates speak v2?
    fn any_v2(&self, certhashes: &[Fingerprint]) -> bool {
        certhashes
            .iter()
            .any(|certhash| self.last.get(certhash) == Some(&IceVersion::V2))
    }

    /// Notes what the listener answered.
    fn remember(&mut self, certhash: Fingerprint, version: IceVersion) {
        if self.last.insert(certhash, version).is_none() {
            self.order.push_back(certhash);
        }
        if self.order.len() > MAX_VERSIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
    }

    /// The listener no longer answers what it did: start over.
    fn forget(&mut self, certhashes: &[Fingerprint]) {
        for certhash in certhashes {
            if self.last.remove(certhash).is_some() {
                self.order.retain(|known| known != certhash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
    }

    fn certhash(n: u16) -> Fingerprint {
        let mut digest = [0; 32];
        digest[..2].copy_from_slice(&n.to_be_bytes());
        Fingerprint::from_bytes(digest)
    }

    #[test]
    fn a_remote_is_dialed_once_per_socket() {
        let mut dialed = Dialed::default();
        assert!(dialed.claim(remote(1)));
        assert!(!dialed.claim(remote(1)));
        assert!(dialed.claim(remote(2)));
    }

    #[test]
    fn a_full_memory_forgets_the_oldest_dial() {
        let mut dialed = Dialed::default();
        for port in 0..MAX_DIALED {
            assert!(dialed.claim(remote(u16::try_from(port).unwrap())));
        }
        assert!(dialed.claim(remote(u16::MAX)));
        assert!(!dialed.claim(remote(1)), "the second is remembered");
        assert!(dialed.claim(remote(0)), "the first is not");
        assert_eq!(dialed.remotes.len(), MAX_DIALED);
        assert_eq!(dialed.order.len(), MAX_DIALED);
    }

    #[test]
    fn remembers_who_speaks_v2_until_it_falls_silent() {
        let mut versions = Versions::default();
        assert!(!versions.any_v2(&[certhash(1)]));
        versions.remember(certhash(1), IceVersion::V2);
        versions.remember(certhash(2), IceVersion::V1);
        assert!(versions.any_v2(&[certhash(2), certhash(1)]));
        assert!(!versions.any_v2(&[certhash(2)]));
        versions.forget(&[certhash(1)]);
        assert!(!versions.any_v2(&[certhash(1)]));
    }

    #[test]
    fn the_memory_of_versions_is_bounded() {
        let mut versions = Versions::default();
        let count = u16::try_from(MAX_VERSIONS).unwrap() + 10;
        for n in 0..count {
            versions.remember(certhash(n), IceVersion::V2);
        }
        assert_eq!(versions.last.len(), MAX_VERSIONS);
        assert_eq!(versions.order.len(), MAX_VERSIONS);
        assert!(!versions.any_v2(&[certhash(0)]));
        assert!(versions.any_v2(&[certhash(count - 1)]));
    }
}
