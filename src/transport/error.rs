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
    /// A value in [`Config`](crate::Config) is out of its range or contradicts another one.
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
        /// The step that did not finish. [`Phase::Ice`] means that nobody answered at all.
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
    })
}

/// The steps of setting a connection up, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

    /// The peer broke a rule of the protocol.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self.0, CloseReason::Misbehaved(_))
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
