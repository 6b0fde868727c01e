//! Why connections end and packets are dropped.
//!
//! A datagram never causes an error, only a [`DropReason`] that is counted. A connection ends with exactly one
//! [`CloseReason`], the first one recorded.

use std::fmt;

use super::connection::SignalError;

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CloseReason {
    /// We closed it.
    #[error("the connection was closed on this side")]
    Local,
    /// The peer closed it (close_notify, SCTP SHUTDOWN or ABORT).
    #[error("the peer closed the connection")]
    Remote,
    /// No valid packet for the idle timeout.
    #[error("the peer has gone silent")]
    TimedOut,
    /// The set-up took too long.
    #[error("the peer did not finish the connection set-up in time ({0})")]
    HandshakeTimedOut(Phase),
    /// ICMP says that nobody listens there.
    #[error("nothing listens at the peer's address")]
    Refused,
    /// The certificate is none of those in the address.
    #[error("the peer's certificate is not the one in its address")]
    CertificateMismatch,
    /// Another connection to this address uses the socket.
    #[error("the socket is in use for this address")]
    AddressInUse,
    /// The same address began a new connection.
    #[error("the peer began a new connection from the same address")]
    Replaced,
    /// A rule of the protocol was broken.
    #[error("the peer broke the protocol: {0}")]
    Misbehaved(PeerMisbehaved),
    /// A description that came through signaling cannot be used.
    #[error("the peer's description of the connection cannot be used: {0}")]
    Signaling(SignalError),
    /// DTLS or SCTP gave up.
    #[error("the connection failed: {0}")]
    Engine(EngineError),
}

/// What the engine said when it gave up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EngineError(pub(crate) String);

/// A rule of the specification that a peer broke so that the whole connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerMisbehaved {
    /// Finished DTLS without a certificate (libp2p WebRTC Direct: the certificate is part of the Noise prologue).
    #[error("it sent no certificate")]
    NoCertificate,
    /// Opened more channels before it was authenticated than are buffered.
    #[error("it opened too many streams before it was authenticated")]
    TooManyEarlyChannels,
    /// Used a stream id that only we give out (RFC 8832 section 6), before it was authenticated.
    #[error("it used a stream of ours before it was authenticated")]
    StreamOfOurs,
    /// Refused to reset a stream that is over (RFC 6525 section 4.4).
    #[error("it refused to reset a stream")]
    ResetDenied,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Connectivity checks.
    Ice,
    /// The DTLS handshake.
    Dtls,
    /// The SCTP handshake.
    Sctp,
    /// Noise, in the shell.
    Noise,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ice => "no answer to connectivity checks",
            Self::Dtls => "DTLS handshake",
            Self::Sctp => "SCTP handshake",
            Self::Noise => "Noise handshake",
        })
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub(crate) const ALL: [Self; [$($text),+].len()] = [$(Self::$name),+];
            /// How many there are.
            pub(crate) const COUNT: usize = Self::ALL.len();

            /// A stable name, for metrics.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Neither STUN nor DTLS by its first byte (RFC 7983).
    Unclassified => "unclassified",
    /// STUN that does not decode.
    MalformedStun => "malformed_stun",
    /// A STUN message that is no Binding Request or answers none of ours.
    UnexpectedStun => "unexpected_stun",
    /// USERNAME is missing or breaks a rule of the reject table.
    BadUsername => "bad_username",
    /// MESSAGE-INTEGRITY is missing or wrong.
    BadIntegrity => "bad_integrity",
    /// A request with ICE-CONTROLLED: this side is the controlled one and does not switch.
    RoleConflict => "role_conflict",
    /// USERNAME is not that of the connection with this address.
    ForeignUsername => "foreign_username",
    /// This endpoint takes no inbound connections.
    NotListening => "not_listening",
    /// DTLS from an address that passed no check.
    UncheckedAddress => "unchecked_address",
    /// The first DTLS record of an address is no ClientHello.
    NotClientHello => "not_client_hello",
    /// A DTLS datagram that is larger than any path carries.
    OversizedDtls => "oversized_dtls",
    /// A ClientHello without cookie, where one is needed: it was answered with one (RFC 6347 section 4.2.1).
    NoCookie => "no_cookie",
    /// More datagrams than a DTLS handshake has, repetitions and all.
    HandshakeFlood => "handshake_flood",
    /// Too many connections.
    TooManyConnections => "too_many_connections",
    /// Too many handshakes in flight.
    TooManyHandshakes => "too_many_handshakes",
    /// Too many handshakes in flight from this network.
    TooManyFromSubnet => "too_many_from_subnet",
    /// The connection has too many addresses already.
    TooManyAddresses => "too_many_addresses",
    /// The answer would exceed three times what an unproven address sent.
    Amplification => "amplification",
    /// An SCTP packet that does not decode, has another's tag or speaks of what was never sent.
    MalformedSctp => "malformed_sctp",
    /// An SCTP packet that is of no use: late, repeated, or of a kind that needs no answer. Honest peers send some.
    UnusedSctp => "unused_sctp",
    /// A stream of the peer that was refused with a reset: too many, or its id is one of ours.
    RefusedStream => "refused_stream",
    /// A message on a channel that is not open.
    StrayMessage => "stray_message",
    /// A late packet of a closed connection.
    AfterClose => "after_close",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_reasons_have_distinct_names_in_counter_order() {
        let names: std::collections::BTreeSet<_> = DropReason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .collect();
        assert_eq!(names.len(), DropReason::COUNT);
        assert!(
            DropReason::ALL
                .iter()
                .enumerate()
                .all(|(index, &reason)| reason as usize == index)
        );
    }
}
