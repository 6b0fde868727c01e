//! The server of sessions, for libp2p streams and WebSockets alike.
//!
//! A [`Server`] takes fresh connections one by one ([`Server::serve`]): it runs the handshake, asks its [`Service`]
//! who may come in and where to, and runs the session that comes of it; a connection that wants to resume is handed
//! to the task of its session. It owns the table of sessions and the limits on strangers. It does not listen and does
//! not know tokens, peers or targets: those are the service's.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p_identity::PeerId;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    backend::Backend,
    brake::Brakes,
    code::Code,
    frame::{Failure, HandshakeRequest, ResumeRequest},
    session::{End, Mode, ServerConfig, Sessions},
    upgrade::{Carrier, WebRtc},
    wire::Wire,
};

mod door;
mod running;
mod visit;

use self::door::Door;

/// Sessions at once, if the service's owner does not say otherwise.
const DEFAULT_MAX_SESSIONS: usize = 1024;
/// Connections of one unknown peer that have not been let in yet.
const MAX_STRANGERS_PER_PEER: usize = 2;
/// The same of all unknown peers together.
const MAX_STRANGERS: usize = 64;
/// Time for the service to decide and to connect the backend.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for all sessions to end at a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(6);

/// Decides who gets what, and connects it.
pub trait Service: Send + Sync + 'static {
    /// Lets in and connects, or refuses; the client sees code and sentence. There are 10 s for it.
    fn open(&self, opening: Opening) -> BoxFuture<'static, Result<Opened, Failure>>;

    /// Whether this is somebody known. Others may have two connections at once that are not let in yet.
    fn knows(&self, _origin: &Origin) -> bool {
        false
    }

    /// A session ended, or one or its resume was refused: one call for each, for the audit.
    fn ended(&self, _record: &Record) {}
}

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The proven peer, on libp2p. Its sessions can be resumed by the same one only.
    pub peer: Option<PeerId>,
    /// The remote address, for logs.
    pub address: Option<String>,
}

impl Origin {
    /// A libp2p peer.
    pub fn peer(peer: PeerId) -> Self {
        Self {
            peer: Some(peer),
            address: None,
        }
    }

    /// Somebody of whom only the address is known.
    pub fn address(address: impl fmt::Display) -> Self {
        Self {
            peer: None,
            address: Some(address.to_string()),
        }
    }

    /// The same with an address.
    #[must_use]
    pub fn at(mut self, address: impl fmt::Display) -> Self {
        self.address = Some(address.to_string());
        self
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.peer, &self.address) {
            (Some(peer), _) => peer.fmt(f),
            (None, Some(address)) => address.fmt(f),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// What somebody asks for.
#[derive(Clone)]
#[non_exhaustive]
pub struct Opening {
    /// Terminal or TCP connection.
    pub mode: Mode,
    /// Who asks.
    pub origin: Origin,
    /// Target; empty with port 0 is the server's default.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What they present, perhaps empty.
    pub token: Bytes,
}

impl Opening {
    /// A request for the default target without a token.
    pub fn new(mode: Mode, origin: Origin) -> Self {
        Self {
            mode,
            origin,
            host: String::new(),
            port: 0,
            token: Bytes::new(),
        }
    }

    /// Whether the server's default target is meant.
    pub fn is_default(&self) -> bool {
        self.host.is_empty() && self.port == 0
    }

    fn of(mode: Mode, origin: Origin, request: HandshakeRequest) -> Self {
        Self {
            mode,
            origin,
            host: request.host,
            port: request.port,
            token: request.token,
        }
    }

    /// The target for people.
    pub fn target(&self) -> String {
        match self.is_default() {
            true => "default".to_owned(),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("mode", &self.mode)
            .field("origin", &self.origin)
            .field("target", &self.target())
            .field("token_len", &self.token.len())
            .finish()
    }
}

/// Let in and connected.
pub struct Opened {
    /// The far end.
    pub backend: Box<dyn Backend>,
    /// Who it is: a peer id or the label of a token.
    pub label: String,
    /// Where it leads.
    pub target: String,
    /// After this the session cannot be resumed.
    pub expires: Option<SystemTime>,
    /// The token alone let it in, so that whoever shows it again may resume the session where no peer is proven, or
    /// from there where one is. Otherwise a session stays on the kind of path it was opened on.
    pub by_token: bool,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("label", &self.label)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// One line of the audit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// Number of the session in this process; 0 for a refused handshake.
    pub number: u64,
    /// Where it came from.
    pub origin: Origin,
    /// Who it was; empty if nobody was let in.
    pub label: String,
    /// Terminal or TCP connection.
    pub mode: Mode,
    /// Where it led.
    pub target: String,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// Bytes to the client.
    pub sent: u64,
    /// Bytes of the client.
    pub received: u64,
    /// All that carried them, in no order; nothing for a refused handshake.
    pub carriers: Vec<Carrier>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The handshake was refused.
    Refused(Failure),
    /// The session ended.
    Ended(End),
    /// The server stopped in the middle of it.
    Dropped,
}

/// A session that runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionSummary {
    /// Number of the session in this process.
    pub number: u64,
    /// Where it came from.
    pub origin: Origin,
    /// Who it is.
    pub label: String,
    /// Terminal or TCP connection.
    pub mode: Mode,
    /// Where it leads.
    pub target: String,
    /// When it began.
    pub started: SystemTime,
    /// Whether the client is there; otherwise the session waits for it, or has ended.
    pub connected: bool,
    /// Whether it has ended, and only its last bytes are still on their way.
    pub ended: bool,
    /// What carries the bytes now, while the client is there.
    pub carrier: Option<Carrier>,
    /// Bytes to the client so far.
    pub sent: u64,
    /// Bytes of the client so far.
    pub received: u64,
}

/// What reaches a session in its task.
enum Command {
    Resume(Handover),
    End(Code, String),
}

/// A fresh connection for a session, and the way back for it if the session does not want it.
struct Handover {
    wire: Wire,
    request: ResumeRequest,
    reply: oneshot::Sender<Result<(), (Wire, Failure)>>,
}

/// Figures others may look at while a session runs.
#[derive(Debug, Default)]
struct Meter {
    connected: AtomicBool,
    ended: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    /// Bit of what carries the bytes now, see [`bit`]; 0 is nothing.
    carrier: AtomicU16,
    /// Bits of all that did.
    carriers: AtomicU16,
}

/// A carrier in a set of them.
fn bit(carrier: Carrier) -> u16 {
    let place = Carrier::ALL.iter().position(|known| *known == carrier);
    place.map_or(0, |place| 1 << place)
}

impl Meter {
    fn carried_by(&self, carrier: Option<Carrier>) {
        let carrier = carrier.map_or(0, bit);
        self.carrier.store(carrier, Ordering::Relaxed);
        self.carriers.fetch_or(carrier, Ordering::Relaxed);
    }

    fn carrier(&self) -> Option<Carrier> {
        carriers(self.carrier.load(Ordering::Relaxed)).next()
    }

    fn carriers(&self) -> Vec<Carrier> {
        carriers(self.carriers.load(Ordering::Relaxed)).collect()
    }
}

fn carriers(bits: u16) -> impl Iterator<Item = Carrier> {
    let is_in = move |carrier: &Carrier| bits & bit(*carrier) != 0;
    Carrier::ALL.into_iter().filter(is_in)
}

/// A session as the table knows it.
struct Entry {
    summary: SessionSummary,
    meter: Arc<Meter>,
    commands: mpsc::Sender<Command>,
    #[cfg(feature = "gateway")]
    ticket: Option<Ticket>,
}

/// What lets the client of a session that may use WebRTC learn of TURN servers.
#[cfg(feature = "gateway")]
struct Ticket {
    /// Hash of the token the session was opened with.
    token: [u8; 32],
    /// Names the session to TURN servers, and nobody else.
    label: String,
}

#[derive(Default)]
struct Table {
    by_id: Sessions<mpsc::Sender<Command>>,
    running: HashMap<u64, Entry>,
    strangers: HashMap<PeerId, usize>,
}

struct Shared {
    /// For connections that may not use WebRTC, and for those that may.
    config: Arc<ServerConfig>,
    upgrading: Option<(Arc<ServerConfig>, WebRtc)>,
    service: Arc<dyn Service>,
    max_sessions: usize,
    table: Mutex<Table>,
    brakes: Brakes,
    next: AtomicU64,
    /// Number of sessions; whoever shuts down waits for 0.
    count: watch::Sender<usize>,
    closing: AtomicBool,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is complete before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may be agreed on this connection.
    fn config_for(&self, wire: &Wire) -> &Arc<ServerConfig> {
        match &self.upgrading {
            Some((config, _)) if wire.may_signal() => config,
            _ => &self.config,
        }
    }

    fn webrtc(&self) -> Option<&WebRtc> {
        self.upgrading.as_ref().map(|(_, webrtc)| webrtc)
    }
}

/// Serves sessions. A cheap handle: clones serve the same table.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("sessions", &self.shared.table().running.len())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server without sessions.
    pub fn new(config: ServerConfig, service: impl Service) -> Self {
        Self::with_max_sessions(config, service, DEFAULT_MAX_SESSIONS)
    }

    /// The same with another limit on sessions at once (default 1,024).
    pub fn with_max_sessions(
        config: ServerConfig,
        service: impl Service,
        max_sessions: usize,
    ) -> Self {
        Self::make(config, service, max_sessions, None)
    }

    /// The same; clients of private WebSockets ([`Wire::private`]) may move their sessions to WebRTC. What
    /// [`ServerConfig::webrtc`] says does not matter.
    pub fn with_webrtc(
        config: ServerConfig,
        service: impl Service,
        max_sessions: usize,
        webrtc: WebRtc,
    ) -> Self {
        Self::make(config, service, max_sessions, Some(webrtc))
    }

    fn make(
        mut config: ServerConfig,
        service: impl Service,
        max_sessions: usize,
        webrtc: Option<WebRtc>,
    ) -> Self {
        config.webrtc = true;
        let upgrading = webrtc.map(|webrtc| (Arc::new(config.clone()), webrtc));
        config.webrtc = false;
        let shared = Shared {
            config: Arc::new(config),
            upgrading,
            service: Arc::new(service),
            max_sessions,
            table: Mutex::default(),
            brakes: Brakes::default(),
            next: AtomicU64::new(1),
            count: watch::Sender::new(0),
            closing: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Serves one fresh connection until it, or the session it opened, ends. To be spawned; dropping it kills the
    /// session and its backend.
    pub fn serve(
        &self,
        wire: Wire,
        mode: Mode,
        origin: Origin,
    ) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            let Some(stranger) = Stranger::admit(&shared, &origin) else {
                tracing::debug!(%origin, "too many connections of strangers");
                return;
            };
            let config = shared.config_for(&wire);
            let door = Door::new(wire.kind(), mode, origin, config.clone());
            visit::serve(shared, wire, door, stranger).await;
        }
    }

    /// The sessions that run, oldest first.
    pub fn sessions(&self) -> Vec<SessionSummary> {
        let table = self.shared.table();
        let mut all: Vec<_> = table.running.values().map(Entry::summary).collect();
        all.sort_by_key(|session| session.number);
        all
    }

    /// What the session that was opened with this token is called towards TURN servers, if one runs that may use WebRTC;
    /// of several the newest.
    #[cfg(feature = "gateway")]
    pub(super) fn turn_label(&self, token: &[u8]) -> Option<String> {
        let hash = ticket_hash(token)?;
        let table = self.shared.table();
        let tickets = table
            .running
            .iter()
            .filter_map(|(number, entry)| Some((number, entry.ticket.as_ref()?)));
        let theirs = tickets.filter(|(_, ticket)| ticket.token == hash);
        let newest = theirs.max_by_key(|(number, _)| **number);
        newest.map(|(_, ticket)| ticket.label.clone())
    }

    /// Ends a session; `false` if there is none with this number. Unsent output is dropped.
    pub fn end_session(&self, number: u64, code: Code, message: &str) -> bool {
        let table = self.shared.table();
        table.running.get(&number).is_some_and(|entry| {
            // A full queue means that it is being ended or resumed this very moment.
            let command = Command::End(code, message.to_owned());
            entry.commands.try_send(command).is_ok()
        })
    }

    /// Ends all sessions and refuses new ones. Returns when all have said goodbye, at most 6 s later.
    pub async fn shutdown(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        for session in self.sessions() {
            self.end_session(session.number, Code::GOING_AWAY, "the server stops");
        }
        let mut count = self.shared.count.subscribe();
        let done = count.wait_for(|count| *count == 0);
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, done).await.is_err() {
            tracing::debug!("sessions are left at the shutdown");
        }
    }
}

impl Entry {
    fn summary(&self) -> SessionSummary {
        SessionSummary {
            connected: self.meter.connected.load(Ordering::Relaxed),
            ended: self.meter.ended.load(Ordering::Relaxed),
            carrier: self.meter.carrier(),
            sent: self.meter.sent.load(Ordering::Relaxed),
            received: self.meter.received.load(Ordering::Relaxed),
            ..self.summary.clone()
        }
    }
}

/// The place of a connection that is not let in yet.
struct Stranger {
    shared: Arc<Shared>,
    peer: Option<PeerId>,
}

impl Stranger {
    /// A place, if there is one. Known peers need none; connections without a peer id are limited where they listen.
    fn admit(shared: &Arc<Shared>, origin: &Origin) -> Option<Self> {
        let peer = origin.peer.filter(|_| !shared.service.knows(origin));
        if let Some(peer) = peer {
            let mut table = shared.table();
            let all: usize = table.strangers.values().sum();
            let here = table.strangers.entry(peer).or_default();
            if *here >= MAX_STRANGERS_PER_PEER || all >= MAX_STRANGERS {
                if *here == 0 {
                    table.strangers.remove(&peer);
                }
                return None;
            }
            *here += 1;
        }
        let shared = shared.clone();
        Some(Self { shared, peer })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut table = self.shared.table();
        if let Some(here) = table.strangers.get_mut(&peer) {
            *here -= 1;
            if *here == 0 {
                table.strangers.remove(&peer);
            }
        }
    }
}

/// Hashes are compared, so that the time tells nothing about tokens. No token is no ticket.
#[cfg(feature = "gateway")]
fn ticket_hash(token: &[u8]) -> Option<[u8; 32]> {
    use sha2::Digest as _;

    (!token.is_empty()).then(|| sha2::Sha256::digest(token).into())
}

/// The wall clock, for audits and expiry of tokens only.
#[expect(
    clippy::disallowed_methods,
    reason = "records and tokens name wall time"
)]
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}
