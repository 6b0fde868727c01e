//! What can go wrong outside, sorted by what the caller can do about it.
//!
//! Errors of other crates sit in private fields; `source()` leads to them. The reasons themselves are found by the
//! protocol core ([`CloseReason`]); this file only translates.

use std::{fmt, io, net::SocketAddr};

use libp2p_core::transport::TransportError;
use libp2p_identity::PeerId;

use crate::{
    proto::{self, CloseReason},
    transport::{addr::DialAddrError, config::ConfigError},
};

/// Why listening, dialing or setting a connection up failed.
///
/// The text of an error does not repeat its [`source`](std::error::Error::source): print the whole chain. libp2p wraps
/// this error: its `TransportError` prints nothing of its own, so that `{error}` of what `Swarm::listen_on` gives is
/// empty, and its `DialError` holds one error per address.
///
/// ```
/// fn describe(error: &dyn std::error::Error) -> String {
///     let mut texts = vec![error.to_string()];
///     let mut source = error.source();
///     while let Some(error) = source {
///         texts.push(error.to_string());
///         source = error.source();
///     }
///     texts.retain(|text| !text.is_empty());
///     texts.join(": ")
/// }
/// let error = libp2p_core::transport::TransportError::Other(libp2p_rtc::Error::NoCerthash);
/// assert_eq!(error.to_string(), "");
/// assert_eq!(describe(&error), "the address has no certificate hash");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address to dial carries no certificate hash, so the peer's certificate could not be checked.
    #[error("the address has no certificate hash")]
    NoCerthash,
    /// The address carries certificate hashes, none of them sha2-256, the only function supported.
    #[error("no certificate hash in the address uses sha2-256")]
    UnsupportedCerthash,
    /// `0.0.0.0` and `::` can be listened on, not dialed.
    #[error("the unspecified address cannot be dialed")]
    UnspecifiedAddress,
    /// Port zero can be listened on, not dialed.
    #[error("port zero cannot be dialed")]
    ZeroPort,
    /// A link-local IPv6 address means nothing without the interface, which an address of this transport cannot name.
    #[error(
        "a link-local IPv6 address needs a scope (the interface), which the address cannot name"
    )]
    MissingScope,
    /// A value in [`Config`](crate::Config) is out of its range.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// DTLS cannot use the configured certificate or its key.
    #[error("the certificate or its key cannot be used")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system refused a socket or the list of network interfaces.
    #[error("the operating system refused a socket or the list of interfaces")]
    Io(#[from] io::Error),
    /// Sockets need a tokio runtime: call from within one.
    #[error("there is no tokio runtime to run the socket on")]
    NoRuntime,
    /// Nobody listens at the address: the system reported the port as unreachable.
    #[error("nobody listens at the remote address")]
    Refused,
    /// The connection was not set up in time; `phase` says how far it got.
    #[error("the connection was not set up in time, it stood at {phase}")]
    TimedOut {
        /// The step that did not finish. [`Phase::Ice`] means that nobody answered at all: nobody is there, a firewall
        /// drops the packets, or another transport holds the port. A listener that is full, or that has no room for
        /// another set-up ([`Limits::max_handshakes`](crate::Limits::max_handshakes)), looks like a silent one in
        /// [`Phase::Dtls`]: it answers the address check, because that costs it nothing, and keeps silent from then on.
        phase: Phase,
    },
    /// The peer presented a certificate that matches no hash in the dialed address.
    #[error("the peer's certificate matches no certificate hash in the address")]
    CertificateMismatch,
    /// The peer proved another identity than the one in the dialed address.
    #[error("expected peer {expected} but {actual} answered")]
    WrongPeerId {
        /// The identity in the address.
        expected: PeerId,
        /// The identity the peer has proven.
        actual: PeerId,
    },
    /// The Noise handshake, which proves the peer's identity, failed.
    #[error("the peer's identity cannot be verified")]
    Noise(#[source] NoiseError),
    /// The connection ended while it was being set up.
    #[error("the connection ended while it was set up")]
    Connection(#[source] ConnectionError),
    /// The task that serves a listener's socket has ended by itself: the runtime shuts down, or it panicked. Listen again:
    /// [`Listeners`](crate::Listeners) says when.
    #[error("the task that serves the socket has ended")]
    SocketEnded,
    /// A hole can only be punched from the socket of a listener, and none fits the remote address.
    #[error("no listener can take the connection that the remote is to open")]
    NoListener,
    /// A hole is being punched to this address already.
    #[error("a hole is being punched to {0} already")]
    PunchInProgress(SocketAddr),
}

impl From<Error> for TransportError<Error> {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<CloseReason> for Error {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Refused => Self::Refused,
            CloseReason::CertificateMismatch => Self::CertificateMismatch,
            CloseReason::HandshakeTimedOut(phase) => Self::TimedOut {
                phase: phase.into(),
            },
            CloseReason::Local
            | CloseReason::Remote
            | CloseReason::TimedOut
            | CloseReason::AddressInUse
            | CloseReason::Replaced
            | CloseReason::Misbehaved(_)
            | CloseReason::Signaling(_)
            | CloseReason::Engine(_) => Self::Connection(ConnectionError(reason)),
        }
    }
}

impl From<proto::IdentityError> for Error {
    fn from(error: proto::IdentityError) -> Self {
        Self::Certificate(Box::new(error))
    }
}

/// Splits what is wrong with a dialed address into "not ours" and "ours, but not dialable".
pub(crate) fn address_error(
    error: DialAddrError,
    addr: libp2p_core::Multiaddr,
) -> TransportError<Error> {
    TransportError::Other(match error {
        DialAddrError::NotWebRtcDirect => return TransportError::MultiaddrNotSupported(addr),
        DialAddrError::NoCerthash => Error::NoCerthash,
        DialAddrError::UnsupportedHash => Error::UnsupportedCerthash,
        DialAddrError::UnspecifiedAddress => Error::UnspecifiedAddress,
        DialAddrError::ZeroPort => Error::ZeroPort,
        DialAddrError::MissingScope => Error::MissingScope,
    })
}

/// The steps of setting a connection up, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// The address check (STUN).
    Ice,
    /// The encryption handshake (DTLS).
    Dtls,
    /// The association that carries the streams (SCTP).
    Sctp,
    /// The proof of identity (Noise).
    Noise,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ice => "the address check",
            Self::Dtls => "the DTLS handshake",
            Self::Sctp => "the SCTP handshake",
            Self::Noise => "the Noise handshake",
        })
    }
}

impl From<proto::Phase> for Phase {
    fn from(phase: proto::Phase) -> Self {
        match phase {
            proto::Phase::Ice => Self::Ice,
            proto::Phase::Dtls => Self::Dtls,
            proto::Phase::Sctp => Self::Sctp,
            proto::Phase::Noise => Self::Noise,
        }
    }
}

/// Why a connection ended. Every handle of one connection reports the same reason.
///
/// A [`Stream`](crate::Stream) of the connection gives it inside an [`io::Error`] (see
/// [`get_ref`](io::Error::get_ref)), whose kind tells the reasons apart, as [`kind`](Self::kind) does here:
///
/// | what happened | `io::ErrorKind` | predicate |
/// | --- | --- | --- |
/// | this side closed the connection | `NotConnected` | [`is_local`](Self::is_local) |
/// | the peer closed it | `ConnectionReset` | [`is_remote`](Self::is_remote) |
/// | the peer made a new connection from the same address | `ConnectionReset` | [`is_replaced`](Self::is_replaced) |
/// | the peer fell silent, or the set-up took too long | `TimedOut` | [`is_timeout`](Self::is_timeout) |
/// | nobody listens at the remote address | `ConnectionRefused` | [`is_refused`](Self::is_refused) |
/// | the peer's certificate is not the one in its address | `PermissionDenied` | |
/// | the socket has a connection to that address already | `AddrInUse` | |
/// | the peer broke the protocol | `InvalidData` | [`is_misbehaviour`](Self::is_misbehaviour) |
/// | signaled: the peer's description cannot be used | `InvalidData` | |
/// | DTLS or SCTP gave up | `ConnectionAborted` | |
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionError(CloseReason);

impl ConnectionError {
    /// The peer closed the connection in an orderly way.
    pub fn is_remote(&self) -> bool {
        self.0 == CloseReason::Remote
    }

    /// This side closed the connection.
    pub fn is_local(&self) -> bool {
        self.0 == CloseReason::Local
    }

    /// The peer fell silent, or the set-up took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.0,
            CloseReason::TimedOut | CloseReason::HandshakeTimedOut(_)
        )
    }

    /// The peer began a new connection from the same address, which ends the old one: it was restarted.
    pub fn is_replaced(&self) -> bool {
        self.0 == CloseReason::Replaced
    }

    /// Nobody listens at the remote address.
    pub fn is_refused(&self) -> bool {
        self.0 == CloseReason::Refused
    }

    /// The peer broke a rule of the protocol.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self.0, CloseReason::Misbehaved(_))
    }

    /// What the connection's streams report, see the table above.
    pub fn kind(&self) -> io::ErrorKind {
        match self.0 {
            CloseReason::Local => io::ErrorKind::NotConnected,
            CloseReason::Remote | CloseReason::Replaced => io::ErrorKind::ConnectionReset,
            CloseReason::TimedOut | CloseReason::HandshakeTimedOut(_) => io::ErrorKind::TimedOut,
            CloseReason::Refused => io::ErrorKind::ConnectionRefused,
            CloseReason::CertificateMismatch => io::ErrorKind::PermissionDenied,
            CloseReason::AddressInUse => io::ErrorKind::AddrInUse,
            CloseReason::Misbehaved(_) | CloseReason::Signaling(_) => io::ErrorKind::InvalidData,
            CloseReason::Engine(_) => io::ErrorKind::ConnectionAborted,
        }
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        Self::new(error.kind(), error)
    }
}

impl From<CloseReason> for ConnectionError {
    fn from(reason: CloseReason) -> Self {
        Self(reason)
    }
}

/// The failure of the Noise handshake; `source()` has the details.
#[derive(Debug, thiserror::Error)]
#[error("the Noise handshake failed")]
pub struct NoiseError(#[source] libp2p_noise::Error);

impl From<libp2p_noise::Error> for Error {
    fn from(error: libp2p_noise::Error) -> Self {
        Self::Noise(NoiseError(error))
    }
}
