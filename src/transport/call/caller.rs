//! [`Caller`]: makes calls, and picks the socket of each.

use std::{
    collections::BTreeSet,
    fmt,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt as _, future::BoxFuture};
use libp2p_identity::Keypair;

use super::{
    Application, Call, CallConfig, CallError, CallEvent, IceServer, IceServerReport,
    IceServerState, Names, Owner, ServerReports, Signal, SocketHandle, health::Health,
    servers::Servers, tls::Tls,
};
use crate::{
    proto::{Identity, ice::AddressFilter, sdp::Description},
    transport::{
        Certificate, Config, Error,
        dialer::SocketFactory,
        driver::{NewCall, WeakSocketHandle},
        shared::CallShared,
    },
};

/// Makes connections through signaling: WebRTC as browsers know it, with full ICE.
///
/// It has no methods of its own to make them: SocketPipe and the transport `/ws/webrtc` take one and make calls with it
/// when peers ask for them. Cheap to clone; clones count their calls together, unless
/// [`counted_apart`](Self::counted_apart).
///
/// # Sockets
///
/// An answer leaves from a listening socket of the [`Transport`](crate::Transport) that the caller comes from
/// ([`Transport::caller`](crate::Transport::caller)), if one listens on all interfaces or on one that is no loopback: a
/// node behind a firewall needs one open UDP port for everything. Where there is none, a pair of sockets is bound (IPv4
/// and IPv6) that the answers share. An offer leaves from sockets of its own, as in browsers, because one pair of
/// addresses can carry one connection only, and two nodes may have several. All sockets are closed with the last
/// connection that uses them.
#[derive(Clone)]
pub struct Caller {
    inner: Arc<Inner>,
    help: Arc<Help>,
    /// Where those call from whom it answers, if that is known.
    from: Option<IpAddr>,
}

struct Inner {
    config: CallConfig,
    sockets: Arc<Sockets>,
    calls: Arc<AtomicUsize>,
}

/// What calls share that are counted apart.
struct Sockets {
    factory: Arc<SocketFactory>,
    names: Names,
    health: Health,
    tls: Arc<Tls>,
    answering: Mutex<Answering>,
}

/// The sockets that answers share where no transport listens.
#[derive(Default)]
struct Answering {
    shared: Option<WeakSocketHandle>,
    /// The same, where its port was chosen: nobody else shall have it in between.
    kept: Option<SocketHandle>,
}

/// What the driver needs for a call besides the call itself.
pub(crate) struct Help {
    /// See [`CallConfig::with_announced`].
    pub(crate) announced: Vec<IpAddr>,
    /// Those of them that no interface has: packets cannot leave from them.
    pub(crate) foreign: BTreeSet<IpAddr>,
    /// See [`CallConfig::with_relay_only`].
    pub(crate) relay_only: bool,
    /// See [`CallConfig::with_checks_per_second`].
    pub(crate) checks_per_second: u32,
    /// Which addresses of the peer may be tried.
    pub(crate) filter: AddressFilter,
    /// Looks names of candidates up, unless they are to be skipped.
    pub(crate) names: Option<Names>,
    servers: Arc<Servers>,
}

impl Help {
    fn new(config: &CallConfig, sockets: &Sockets, servers: &[IceServer], owner: Owner) -> Self {
        let (health, tls) = (sockets.health.clone(), Arc::clone(&sockets.tls));
        let announced = config.announced.clone();
        let is_foreign = |ip: &IpAddr| std::net::UdpSocket::bind((*ip, 0)).is_err();
        Self {
            foreign: announced.iter().copied().filter(is_foreign).collect(),
            announced,
            relay_only: config.relay_only,
            checks_per_second: config.checks_per_second,
            filter: config.filter,
            names: config.mdns.then(|| sockets.names.clone()),
            servers: Arc::new(Servers::new(servers, owner, health, tls)),
        }
    }

    /// What came of asking the server with this number.
    pub(crate) fn report(&self, number: usize, state: IceServerState) {
        self.servers.report(number, state);
    }

    /// Whether there are servers to be found.
    pub(crate) fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// A task that finds all servers but those with these numbers.
    pub(crate) fn find_servers(
        &self,
        call: Arc<CallShared>,
        in_use: BTreeSet<usize>,
    ) -> BoxFuture<'static, ()> {
        Arc::clone(&self.servers).open(call, in_use).boxed()
    }
}

/// One of the calls that a caller may have at once. Gives its place back when dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(calls: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let more = |count| (count < max).then_some(count + 1);
        calls
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Self(Arc::clone(calls)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Caller {
    /// A caller with sockets of its own. Binds nothing yet.
    pub fn new(config: CallConfig) -> Self {
        // The certificate of the sockets themselves is never shown: they take no connections but calls.
        let settings = Config::new(&Keypair::generate_ed25519());
        Self::with_sockets(config, Arc::new(SocketFactory::new(settings)))
    }

    /// A caller that answers from the listening sockets of a transport.
    pub(crate) fn with_sockets(config: CallConfig, factory: Arc<SocketFactory>) -> Self {
        Self::with_names(config, factory, Names::default())
    }

    pub(super) fn with_names(
        config: CallConfig,
        factory: Arc<SocketFactory>,
        names: Names,
    ) -> Self {
        // Here the owner of the host is told; servers that come later may come from anybody.
        let is_useless = |server: &&IceServer| server.is_turn() && !server.has_credentials();
        for server in config.servers.iter().filter(is_useless) {
            tracing::warn!(%server, "the TURN server will not be used: it has no valid credentials");
        }
        let sockets = Sockets {
            factory,
            names,
            health: Health::new(),
            tls: Arc::new(Tls::new(&config)),
            answering: Mutex::default(),
        };
        Self {
            help: Arc::new(Help::new(&config, &sockets, &config.servers, Owner::Us)),
            inner: Arc::new(Inner {
                config,
                sockets: Arc::new(sockets),
                calls: Arc::default(),
            }),
            from: None,
        }
    }

    /// The connections there are now, those being made included.
    pub fn calls(&self) -> usize {
        self.inner.calls.load(Ordering::Relaxed)
    }

    /// The settings in force.
    pub fn config(&self) -> &CallConfig {
        &self.inner.config
    }

    /// The same with other servers: credentials for TURN servers last for some minutes, and are given out per session.
    pub fn with_servers(&self, servers: &[IceServer]) -> Self {
        self.with_servers_of(servers, Owner::Us)
    }

    /// The same, of whomever.
    pub(crate) fn with_servers_of(&self, servers: &[IceServer], owner: Owner) -> Self {
        let (config, sockets) = (&self.inner.config, &self.inner.sockets);
        Self {
            inner: Arc::clone(&self.inner),
            help: Arc::new(Help::new(config, sockets, servers, owner)),
            from: self.from,
        }
    }

    /// The same for somebody who calls from this address: what is shared among all calls, as lookups of names, is given in
    /// turn among addresses.
    #[cfg_attr(
        not(feature = "websocket"),
        expect(dead_code, reason = "sessions are those of users who were let in")
    )]
    pub(crate) fn called_from(&self, address: IpAddr) -> Self {
        Self {
            from: Some(address),
            ..self.clone()
        }
    }

    /// What has become of the STUN and TURN servers that its calls have asked, those of its clones and of callers that were
    /// made of it included. Each change is also logged, at level `warn` when a server is of no use, unless the server was
    /// named by a peer.
    pub fn server_reports(&self) -> ServerReports {
        self.inner.sockets.health.reports()
    }

    /// Asks each of its servers once, and tells what came of it: for those who want to know before the first call does. It
    /// takes as long as a call may, 9 s at most, when one of them does not answer. Needs a tokio runtime.
    pub async fn check_servers(&self) -> Vec<IceServerReport> {
        match self.offer(Application::Libp2p) {
            Ok(mut call) => {
                // All are known when the call has no more candidates to tell, or has waited for them for too long.
                loop {
                    match poll_fn(|cx| call.poll_event(cx)).await {
                        CallEvent::Signal(Signal::EndOfCandidates { .. })
                        | CallEvent::Closed(_) => break,
                        _ => {}
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "no server can be asked"),
        }
        self.server_reports().all()
    }

    /// The same sockets and settings for somebody else, with at most so many calls that are counted for themselves:
    /// whoever may make calls there uses up none of those here.
    #[must_use]
    pub fn counted_apart(&self, max_calls: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                config: self.inner.config.clone().with_max_calls(max_calls),
                sockets: Arc::clone(&self.inner.sockets),
                calls: Arc::default(),
            }),
            help: Arc::clone(&self.help),
            from: self.from,
        }
    }

    /// Begins a call with an offer, which is its first event.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) fn offer(&self, application: Application) -> Result<Call, CallError> {
        self.begin(application, None)
    }

    /// Begins a call with the offer of a peer. The answer is its first event.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) fn answer(&self, application: Application, offer: &str) -> Result<Call, CallError> {
        let offer = Description::parse(offer)?;
        self.begin(application, Some(Box::new(offer)))
    }

    fn begin(
        &self,
        application: Application,
        offer: Option<Box<Description>>,
    ) -> Result<Call, CallError> {
        let place = Place::take(&self.inner.calls, self.inner.config.max_calls)
            .ok_or(CallError::TooMany)?;
        let offers = offer.is_none();
        let socket = self.socket(offers)?;
        let certificate = Certificate::generate();
        let identity = Identity {
            certificate_der: certificate.certificate_der().to_vec(),
            private_key_der: certificate.private_key_der().to_vec(),
        };
        let dtls = self.inner.sockets.factory.dtls()?.with_identity(identity);
        let is_libp2p = application == Application::Libp2p;
        let fingerprint = certificate.fingerprint();
        let (shared, handle) = socket.call(|shared| NewCall {
            shared,
            application,
            dtls,
            fingerprint,
            offer,
            help: Arc::clone(&self.help),
            from: self.from,
            place,
        });
        Ok(Call::new(shared, handle, fingerprint, (is_libp2p, offers)))
    }

    /// The socket of a call, see [`Caller`].
    fn socket(&self, offers: bool) -> Result<SocketHandle, Error> {
        if offers {
            return self.bind(0);
        }
        let sockets = &self.inner.sockets;
        if let Some(listening) = sockets.factory.listening() {
            return Ok(listening);
        }
        let mut answering = sockets
            .answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let shared = answering.shared.as_ref();
        if let Some(socket) = shared.and_then(WeakSocketHandle::upgrade) {
            return Ok(socket);
        }
        let port = self.inner.config.port;
        let socket = self.bind(port)?;
        answering.shared = Some(socket.downgrade());
        answering.kept = (port != 0).then(|| socket.clone());
        Ok(socket)
    }

    /// A socket of our own; the driver gives it one of the other family.
    fn bind(&self, port: u16) -> Result<SocketHandle, Error> {
        let factory = &self.inner.sockets.factory;
        factory
            .bind((Ipv4Addr::UNSPECIFIED, port).into(), false)
            .or_else(|error| match error {
                // There are hosts without IPv4. A port that another program has is the fault of the settings.
                Error::Io(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    factory.bind((Ipv6Addr::UNSPECIFIED, port).into(), false)
                }
                error => Err(error),
            })
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("config", &self.inner.config)
            .field("calls", &self.inner.calls)
            .finish_non_exhaustive()
    }
}
