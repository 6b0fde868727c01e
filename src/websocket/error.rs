//! What can go wrong outside, sorted by what the caller can do about it.

use std::{fmt, io};

use libp2p_core::{Multiaddr, transport::TransportError, upgrade::NegotiationError};
use libp2p_identity::PeerId;

use super::{
    addr::AddrError,
    conversation::Ended,
    http::{client::UpgradeError, tls::TlsError},
};
use crate::{ConfigError, ConnectionError as WebRtcError, Error as SetupError};

/// Why listening, dialing or setting a connection up failed.
///
/// The text of an error does not repeat its [`source`](std::error::Error::source): print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `0.0.0.0` and `::` can be listened on, not dialed.
    #[error("the unspecified address cannot be dialed")]
    UnspecifiedAddress,
    /// Port zero can be listened on, not dialed.
    #[error("port zero cannot be dialed")]
    ZeroPort,
    /// A link-local IPv6 address means nothing without the interface, which a multiaddress cannot name.
    #[error(
        "a link-local IPv6 address needs a scope (the interface), which the address cannot name"
    )]
    MissingScope,
    /// A name in the address cannot be one of a host.
    #[error("the address has a name that cannot be one of a host")]
    Name,
    /// A limit of the configuration is out of its range.
    #[error("a limit of the configuration is out of its range")]
    Limits(#[from] ConfigError),
    /// Listening with TLS needs a certificate and its key.
    #[error("there is no certificate to listen with TLS")]
    NoCertificate,
    /// TLS cannot be used: above all, the system has no certificates to judge servers by.
    #[error("TLS cannot be used")]
    TlsConfig(#[from] TlsError),
    /// The operating system refused a socket or the list of network interfaces.
    #[error("the operating system refused a socket or the list of interfaces")]
    Io(#[from] io::Error),
    /// Sockets need a tokio runtime: call from within one.
    #[error("there is no tokio runtime to run the sockets on")]
    NoRuntime,
    /// The name of the host has no address of the kind that is asked for.
    #[error("the name of the host has no such address")]
    Resolve(#[source] io::Error),
    /// Nothing listens at the address.
    #[error("nothing listens at the remote address")]
    Refused,
    /// The TCP connection failed, or ended before there was a WebSocket.
    #[error("the TCP connection failed")]
    Tcp(#[source] io::Error),
    /// The TLS handshake failed; above all, the server's certificate is not one for this host.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// There is an HTTP server, and it answers with something other than a WebSocket.
    #[error("the server answers with HTTP status {status}{}{text}", if .text.is_empty() { "" } else { ": " })]
    Http {
        /// The status of its answer.
        status: u16,
        /// The first line of what it says about it, without control characters; perhaps nothing.
        text: String,
    },
    /// What the server answers begins no WebSocket.
    #[error("the server does not open a WebSocket")]
    WebSocket(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection was not set up in time.
    #[error("the connection was not set up in time, it stood at {phase}")]
    TimedOut {
        /// The step that did not finish.
        phase: Phase,
    },
    /// The peer proved another identity than the one in the dialed address.
    #[error("expected peer {expected} but {actual} answered")]
    WrongPeerId {
        /// The identity in the address, or the one that was proven before on the same WebSocket.
        expected: PeerId,
        /// The identity the peer has proven.
        actual: PeerId,
    },
    /// The Noise handshake, which proves the peer's identity, failed.
    #[error("the peer's identity cannot be verified")]
    Noise(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The peer does not speak Noise and yamux on the plain WebSocket.
    #[error("the peer and this node have no protocol in common")]
    Negotiation(#[source] NegotiationError),
    /// The plain WebSocket connection failed while it was set up.
    #[error("the connection over the WebSocket failed")]
    Lane(#[source] io::Error),
    /// WebRTC failed, and the plain WebSocket was gone.
    #[error("WebRTC failed")]
    WebRtc(#[source] SetupError),
    /// The connection ended while it was being set up.
    #[error("the connection ended while it was set up")]
    Connection(#[source] ConnectionError),
}

impl From<Error> for TransportError<Error> {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<libp2p_noise::Error> for Error {
    fn from(error: libp2p_noise::Error) -> Self {
        Self::Noise(Box::new(error))
    }
}

impl From<NegotiationError> for Error {
    fn from(error: NegotiationError) -> Self {
        Self::Negotiation(error)
    }
}

impl From<SetupError> for Error {
    /// Failures that mean the same on either lane are the same error.
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::WrongPeerId { expected, actual } => Self::WrongPeerId { expected, actual },
            SetupError::Noise(noise) => Self::Noise(Box::new(noise)),
            other => Self::WebRtc(other),
        }
    }
}

impl From<UpgradeError> for Error {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::Status { status, text } => Self::Http {
                status: status.as_u16(),
                text,
            },
            other => Self::WebSocket(Box::new(other)),
        }
    }
}

/// Splits what is wrong with a dialed address into "not ours" and "ours, but not dialable".
pub(crate) fn address_error(error: AddrError, addr: Multiaddr) -> TransportError<Error> {
    TransportError::Other(match error {
        AddrError::NotOurs => return TransportError::MultiaddrNotSupported(addr),
        AddrError::UnspecifiedAddress => Error::UnspecifiedAddress,
        AddrError::ZeroPort => Error::ZeroPort,
        AddrError::MissingScope => Error::MissingScope,
        AddrError::Name => Error::Name,
    })
}

/// The steps of setting a connection up, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// The name of the host is resolved, and TCP connected.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The answer of the HTTP server.
    Http,
    /// WebRTC: signaling, ICE, DTLS, SCTP and Noise.
    WebRtc,
    /// Noise and yamux on the plain WebSocket, after WebRTC was not there in time.
    WebSocket,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "the TCP connection",
            Self::Tls => "the TLS handshake",
            Self::Http => "the answer of the HTTP server",
            Self::WebRtc => "WebRTC",
            Self::WebSocket => "the handshakes on the plain WebSocket",
        })
    }
}

/// Why a connection ended: the last of its lanes did, for this reason.
///
/// A stream of the connection gives an [`io::Error`] of its lane; on WebRTC that holds a
/// [`libp2p_rtc::ConnectionError`](crate::ConnectionError).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionError(Reason);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Reason {
    /// The WebSocket ended.
    WebSocket(Ended),
    /// WebRTC did, later than the WebSocket.
    WebRtc(WebRtcError),
    /// The WebSocket is open, but nobody opens a lane on it.
    NoLane,
}

impl ConnectionError {
    /// The WebSocket ended, and there was nothing else.
    pub(crate) fn websocket(ended: Ended) -> Self {
        Self(Reason::WebSocket(ended))
    }

    /// WebRTC ended, and there was nothing else.
    pub(crate) fn webrtc(error: WebRtcError) -> Self {
        Self(Reason::WebRtc(error))
    }

    /// All lanes ended, and no other one came.
    pub(crate) fn no_lane() -> Self {
        Self(Reason::NoLane)
    }

    /// This side closed the connection.
    pub fn is_local(&self) -> bool {
        match &self.0 {
            Reason::WebSocket(ended) => *ended == Ended::Local,
            Reason::WebRtc(error) => error.is_local(),
            Reason::NoLane => false,
        }
    }

    /// The peer closed the connection in an orderly way.
    pub fn is_remote(&self) -> bool {
        match &self.0 {
            Reason::WebSocket(ended) => {
                matches!(ended, Ended::Remote(code, _) if !code.is_error())
            }
            Reason::WebRtc(error) => error.is_remote(),
            Reason::NoLane => false,
        }
    }

    /// The peer fell silent.
    pub fn is_timeout(&self) -> bool {
        match &self.0 {
            Reason::WebSocket(ended) => *ended == Ended::Silent,
            Reason::WebRtc(error) => error.is_timeout(),
            Reason::NoLane => false,
        }
    }

    /// The peer broke a rule of the protocol.
    pub fn is_misbehaviour(&self) -> bool {
        match &self.0 {
            Reason::WebSocket(ended) => matches!(ended, Ended::Violation(..)),
            Reason::WebRtc(error) => error.is_misbehaviour(),
            Reason::NoLane => false,
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::WebSocket(Ended::Local) => {
                f.write_str("the connection was closed on this side")
            }
            Reason::WebSocket(Ended::Remote(code, message)) if message.is_empty() => {
                write!(f, "the peer closed the WebSocket ({code})")
            }
            Reason::WebSocket(Ended::Remote(code, message)) => {
                write!(f, "the peer closed the WebSocket ({code}): {message}")
            }
            Reason::WebSocket(Ended::Violation(_, why)) => {
                write!(f, "the peer broke the protocol: {why}")
            }
            Reason::WebSocket(Ended::Silent) => f.write_str("the peer has gone silent"),
            Reason::WebSocket(Ended::Lost) => f.write_str("the WebSocket was lost"),
            Reason::WebRtc(_) => f.write_str("WebRTC ended, and the WebSocket was gone"),
            Reason::NoLane => f.write_str("the peer opens no connection on the WebSocket"),
        }
    }
}

impl std::error::Error for ConnectionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Reason::WebRtc(error) => Some(error),
            Reason::WebSocket(_) | Reason::NoLane => None,
        }
    }
}
