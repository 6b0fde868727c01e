//! DTLS 1.2 (RFC 6347) over `dimpl`.
//!
//! Owns one DTLS session: handshake, record protection, goodbye. A connection feeds it datagrams and gets
//! [`DtlsEvent`]s and datagrams to send. Pinning the peer's certificate is the connection's job; it gets the
//! certificate's fingerprint before [`DtlsEvent::Connected`].

mod ciphers;
mod cookie;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dimpl::{
    NamedGroup, SecurityError,
    crypto::{CryptoProvider, SupportedDtls12CipherSuite, aws_lc_rs},
};

use crate::proto::{
    fingerprint::Fingerprint,
    hello::{self, ClientHello, Cookie},
    outbox::Outbox,
};

/// First retransmission of a flight; the path is unknown then, RFC 6347 section 4.2.4.1 names one second, browsers
/// use less. Half a second costs little and halves the wait after a loss.
const FLIGHT_RTO: Duration = Duration::from_millis(500);
/// Largest DTLS datagram: fits every path that carries IPv6 with tunnels (1,280 bytes less headers).
const MTU: usize = 1200;
/// Room for one decrypted record or one datagram.
const RECORD_BUFFER: usize = 2048;
/// Datagrams and bytes that a session takes before its handshake is done, repetitions and all. The engine keeps what it
/// cannot use yet; a handshake has ten datagrams and three kilobytes, and each flight is sent nine times at most.
const MAX_HANDSHAKE_DATAGRAMS: usize = 120;
const MAX_HANDSHAKE_BYTES: usize = 64 * 1024;
/// Datagrams that the engine keeps: more than it ever gets, or it would complain in the log.
const MAX_QUEUE: usize = MAX_HANDSHAKE_DATAGRAMS + 30;
/// A deadline further away than this is no deadline: the engine reports "nothing to do" that way.
const FAR: Duration = Duration::from_secs(3600);

/// The local certificate and its private key are of no use to DTLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate or its private key cannot be used for DTLS: {0}")]
pub(crate) struct IdentityError(String);

/// The local certificate; without `Debug`, because of the key.
#[derive(Clone)]
pub(crate) struct Identity {
    /// The certificate, DER.
    pub(crate) certificate_der: Vec<u8>,
    /// Its private key, PKCS#8 DER.
    pub(crate) private_key_der: Vec<u8>,
}

impl From<Identity> for dimpl::DtlsCertificate {
    fn from(identity: Identity) -> Self {
        Self {
            certificate: identity.certificate_der,
            private_key: identity.private_key_der,
        }
    }
}

/// What all sessions of an endpoint share.
#[derive(Clone, Debug)]
pub(crate) struct DtlsContext {
    plain: Arc<dimpl::Config>,
    cookie: Arc<dimpl::Config>,
    certificate: dimpl::DtlsCertificate,
}

impl DtlsContext {
    /// The same settings with another certificate: to make and check them costs as much as a handshake.
    pub(crate) fn with_identity(&self, identity: Identity) -> Self {
        Self {
            plain: Arc::clone(&self.plain),
            cookie: Arc::clone(&self.cookie),
            certificate: identity.into(),
        }
    }

    /// Checks the certificate and prepares the settings of all sessions.
    pub(crate) fn new(
        identity: Identity,
        handshake_timeout: Duration,
    ) -> Result<Self, IdentityError> {
        Self::with_suites(identity, handshake_timeout, ciphers::suites())
    }

    fn with_suites(
        identity: Identity,
        handshake_timeout: Duration,
        suites: &'static [&'static dyn SupportedDtls12CipherSuite],
    ) -> Result<Self, IdentityError> {
        let config = |cookie| {
            dimpl::Config::builder()
                .mtu(MTU)
                .max_queue_rx(MAX_QUEUE)
                .use_server_cookie(cookie)
                .flight_start_rto(FLIGHT_RTO)
                .flight_retries(8)
                .handshake_timeout(handshake_timeout)
                .with_crypto_provider(provider(suites))
                // Every peer has these; a key pair for P-384 would cost more than all the rest of a handshake.
                .kx_groups(&[NamedGroup::X25519, NamedGroup::Secp256r1])
                .build()
                .map(Arc::new)
                .map_err(|error| IdentityError(error.to_string()))
        };
        let certificate = dimpl::DtlsCertificate::from(identity);
        let plain = config(false)?;
        plain
            .crypto_provider()
            .key_provider
            .load_private_key(&certificate.private_key)
            .map_err(|error| IdentityError(error.to_string()))?;
        Ok(Self {
            plain,
            cookie: config(true)?,
            certificate,
        })
    }
}

/// The cryptography of all sessions.
fn provider(suites: &'static [&'static dyn SupportedDtls12CipherSuite]) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.hmac_provider = &cookie::HMAC;
    provider.cipher_suites = suites;
    provider
}

/// What a session reports.
#[derive(Debug)]
pub(crate) enum DtlsEvent {
    /// The peer's certificate; comes before `Connected`.
    PeerCertificate(Fingerprint),
    /// The handshake is done.
    Connected,
    /// One decrypted record.
    Data(Bytes),
    /// The peer said goodbye: close_notify, or our own louder form of it.
    Closed,
}

/// Where a session's datagrams go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// The peer's address.
    pub(crate) remote: SocketAddr,
    /// Our address, when known.
    pub(crate) local_ip: Option<IpAddr>,
}

/// The session failed for good; the text is the engine's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DtlsError(pub(crate) String);

/// One session.
pub(crate) struct Dtls {
    session: dimpl::Dtls,
    events: VecDeque<DtlsEvent>,
    deadline: Option<Instant>,
    connected: bool,
    /// What the client proved its address with, before there was a session.
    cookie: Option<Cookie>,
    /// Datagrams and bytes of the handshake.
    received: (usize, usize),
    /// Whether our records have explicit nonces (AES-GCM), which [`ciphers`] counts.
    has_explicit_nonces: bool,
}

impl Dtls {
    /// The client; [`Self::handle_timeout`] makes it send its ClientHello.
    pub(crate) fn dialer(context: &DtlsContext, now: Instant) -> Self {
        let mut session = Self::session(Arc::clone(&context.plain), context, now);
        session.set_active(true);
        Self::new(session)
    }

    /// The server.
    pub(crate) fn listener(context: &DtlsContext, now: Instant) -> Self {
        Self::new(Self::session(Arc::clone(&context.plain), context, now))
    }

    /// The server for a client that proved its address with `cookie` before there was a session (RFC 6347 section
    /// 4.2.1): it is brought to where it would be if it had asked for the cookie itself.
    pub(crate) fn listener_behind_cookie(
        context: &DtlsContext,
        now: Instant,
        hello: &ClientHello<'_>,
        cookie: Cookie,
    ) -> Self {
        let session = Self::session(Arc::clone(&context.cookie), context, now);
        let mut this = Self::new(session);
        this.cookie = Some(cookie);
        // What the engine answers has been said.
        let mut said = Outbox::default();
        let path = Path {
            remote: SocketAddr::from(([0; 4], 0)),
            local_ip: None,
        };
        for message_seq in 0..hello.message_seq {
            let earlier = hello::earlier_hello(hello, message_seq);
            // A session that fails here fails again with the next datagram, where it counts.
            this.handle_datagram(now, &earlier, path, &mut said)
                .unwrap_or_default();
        }
        this
    }

    fn session(config: Arc<dimpl::Config>, context: &DtlsContext, now: Instant) -> dimpl::Dtls {
        dimpl::Dtls::new_12(config, context.certificate.clone(), now)
    }

    fn new(session: dimpl::Dtls) -> Self {
        Self {
            session,
            events: VecDeque::new(),
            deadline: None,
            connected: false,
            cookie: None,
            received: (0, 0),
            has_explicit_nonces: false,
        }
    }

    /// Whether a datagram is too much for a handshake; it is to be dropped.
    pub(crate) fn is_flooded(&self, datagram: &[u8]) -> bool {
        let (datagrams, bytes) = self.received;
        !self.connected
            && (datagrams >= MAX_HANDSHAKE_DATAGRAMS
                || bytes + datagram.len() > MAX_HANDSHAKE_BYTES)
    }

    /// Takes one datagram and sends what it calls for.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &[u8],
        path: Path,
        outbox: &mut Outbox,
    ) -> Result<(), DtlsError> {
        if !self.connected {
            // The engine takes the time from its last timeout.
            self.call(|session| session.handle_timeout(now))
                .map_err(fatal)?;
            self.received.0 += 1;
            self.received.1 += datagram.len();
        }
        let cookie = self.cookie.filter(|_| !self.connected);
        let result = self.call(|session| cookie::with(cookie, || session.handle_packet(datagram)));
        self.drain(now, path, outbox);
        match result {
            Err(error) if self.connected && is_goodbye(&error) => {
                self.events.push_back(DtlsEvent::Closed);
                Ok(())
            }
            result => result.map_err(fatal),
        }
    }

    /// Retransmits flights and starts a dialer's handshake.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        path: Path,
        outbox: &mut Outbox,
    ) -> Result<(), DtlsError> {
        let result = self.call(|session| session.handle_timeout(now));
        self.drain(now, path, outbox);
        result.map_err(fatal)
    }

    /// Protects and sends one SCTP packet.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        data: &[u8],
        path: Path,
        outbox: &mut Outbox,
    ) -> Result<(), DtlsError> {
        self.session.send_application_data(data).map_err(fatal)?;
        self.drain(now, path, outbox);
        Ok(())
    }

    /// Says goodbye, so that the peer's application learns of it at once: see [`ciphers`].
    pub(crate) fn close(&mut self, now: Instant, path: Path, outbox: &mut Outbox) {
        // A session that failed cannot say goodbye; there is nothing to do about it.
        if self.session.close().is_ok() {
            self.drain(now, path, outbox);
        }
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Calls the engine where it may come to its keys.
    fn call<T>(&mut self, call: impl FnOnce(&mut dimpl::Dtls) -> T) -> T {
        let (result, explicit) = ciphers::noticing(|| call(&mut self.session));
        self.has_explicit_nonces = explicit.unwrap_or(self.has_explicit_nonces);
        result
    }

    /// Takes all output of the engine, whose queues are short (30 in, 10 out) and fail when they overflow.
    fn drain(&mut self, now: Instant, path: Path, outbox: &mut Outbox) {
        loop {
            let Self {
                session,
                events,
                connected,
                has_explicit_nonces,
                ..
            } = self;
            let step = outbox.push_with(path.remote, path.local_ip, |room| {
                let (len, step) = drain_one(session, room);
                if *has_explicit_nonces && let Some(len) = len {
                    ciphers::write_nonces(&mut room[..len]);
                }
                (len, step)
            });
            match step {
                Step::Sent => {}
                Step::Event(event) => {
                    *connected |= matches!(event, DtlsEvent::Connected);
                    events.push_back(event);
                }
                Step::Ignored => {}
                Step::Done(deadline) => {
                    self.deadline = (deadline < now + FAR).then_some(deadline);
                    return;
                }
            }
        }
    }
}

enum Step {
    Sent,
    Event(DtlsEvent),
    Ignored,
    Done(Instant),
}

fn drain_one(session: &mut dimpl::Dtls, room: &mut [u8]) -> (Option<usize>, Step) {
    debug_assert!(room.len() >= RECORD_BUFFER);
    match session.poll_output(room) {
        dimpl::Output::Packet(packet) => (Some(packet.len()), Step::Sent),
        dimpl::Output::ApplicationData(data) => (
            None,
            Step::Event(DtlsEvent::Data(Bytes::copy_from_slice(data))),
        ),
        dimpl::Output::PeerCert(der) => (
            None,
            Step::Event(DtlsEvent::PeerCertificate(Fingerprint::of_der(der))),
        ),
        dimpl::Output::Connected => (None, Step::Event(DtlsEvent::Connected)),
        dimpl::Output::CloseNotify => (None, Step::Event(DtlsEvent::Closed)),
        dimpl::Output::Timeout(deadline) => (None, Step::Done(deadline)),
        dimpl::Output::BufferTooSmall { needed } => drain_large(session, needed),
        // Keying material for SRTP: this endpoint carries data only.
        _ => (None, Step::Ignored),
    }
}

/// A record larger than a slot; only a peer that ignores every path limit sends one.
fn drain_large(session: &mut dimpl::Dtls, needed: usize) -> (Option<usize>, Step) {
    let mut buffer = vec![0; needed.min(1 << 16)];
    match session.poll_output(&mut buffer) {
        dimpl::Output::ApplicationData(data) => (
            None,
            Step::Event(DtlsEvent::Data(Bytes::copy_from_slice(data))),
        ),
        dimpl::Output::PeerCert(der) => (
            None,
            Step::Event(DtlsEvent::PeerCertificate(Fingerprint::of_der(der))),
        ),
        dimpl::Output::Timeout(deadline) => (None, Step::Done(deadline)),
        _ => (None, Step::Ignored),
    }
}

fn is_goodbye(error: &dimpl::Error) -> bool {
    matches!(
        error,
        dimpl::Error::SecurityError(SecurityError::FatalAlert {
            description: ciphers::USER_CANCELED
        })
    )
}

fn fatal(error: dimpl::Error) -> DtlsError {
    DtlsError(error.to_string())
}
