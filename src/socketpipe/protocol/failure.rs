//! Why a peer cannot be reached, in words for people.

use std::{error::Error, io};

use libp2p_core::{Multiaddr, multiaddr::Protocol, transport::TransportError};
use libp2p_swarm::DialError;

use crate::socketpipe::client::ConnectError;

type Tried = (Multiaddr, TransportError<io::Error>);

/// The likeliest reason in one sentence, and below it one line for each address that was tried.
pub(super) fn explain(error: &DialError) -> ConnectError {
    match error {
        DialError::Transport(tried) => explain_tried(tried),
        DialError::NoAddresses => ConnectError::new("no address of the peer is known"),
        DialError::WrongPeerId { obtained, address } => ConnectError::new(format!(
            "another peer answers at {}: {obtained}",
            short(address)
        )),
        DialError::LocalPeerId { .. } => ConnectError::new("this is the peer itself"),
        other => ConnectError::new(chain(other)),
    }
}

fn explain_tried(tried: &[Tried]) -> ConnectError {
    // They are in the order in which they failed: an answer comes before silence, and says more.
    let likeliest = tried.iter().min_by_key(|(_, error)| is_our_own(error));
    let mut message = likeliest.map_or_else(String::new, |(_, error)| chain(error));
    if tried.len() > 1 {
        message = format!("{message} ({} addresses tried)", tried.len());
    }
    let mut error = ConnectError::new(message);
    let lines = tried
        .iter()
        .map(|(address, error)| format!("{}: {}", short(address), chain(error)));
    error.tried = lines.collect();
    error
}

/// Nothing has left this machine, as on one without IPv6: that says nothing about the peer.
fn is_our_own(error: &TransportError<io::Error>) -> bool {
    let TransportError::Other(error) = error else {
        return true;
    };
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref().map(io::Error::kind);
        if matches!(
            kind,
            Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
        ) {
            return true;
        }
        next = cause(error);
    }
    false
}

/// What is below an error: of one that is in an [`io::Error`] the standard library's `source` tells the causes only.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// An error and its causes, without those that only repeat the next one: errors of libp2p often print their causes, too.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        parts.retain(|part| !part.contains(&text));
        parts.push(text);
        next = cause(error);
    }
    parts.retain(|part| !part.is_empty());
    parts.join(": ")
}

/// What a person knows an address by: where and how, without hashes.
fn short(address: &Multiaddr) -> Multiaddr {
    let parts = address.iter();
    parts
        .filter(|part| !matches!(part, Protocol::Certhash(_) | Protocol::P2p(_)))
        .collect()
}

#[cfg(test)]
mod tests {
    use libp2p_identity::PeerId;

    use super::*;
    use crate::Error as WebRtcError;

    /// As libp2p's DNS reports them.
    #[derive(Debug, thiserror::Error)]
    #[error("Multiple dial errors occurred:\n - {0}")]
    struct Wrapped(#[source] io::Error);

    fn tried(address: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Tried {
        let error = io::Error::other(Wrapped(io::Error::other(error)));
        let address = address.parse::<Multiaddr>().unwrap();
        let address = address.with(Protocol::P2p(PeerId::random()));
        (address, TransportError::Other(error))
    }

    #[test]
    fn one_sentence_says_what_is_the_matter_and_a_short_line_each_where() {
        let away = io::Error::from(io::ErrorKind::NetworkUnreachable);
        let failed = vec![
            tried("/ip6/2001:db8::1/tcp/1", away),
            tried("/ip4/192.0.2.1/udp/1/webrtc-direct", WebRtcError::Refused),
            tried("/ip4/192.0.2.1/udp/2/quic-v1", "it timed out"),
            tried("/ip4/192.0.2.1/udp/3/quic-v1", "it timed out"),
        ];
        let error = explain(&DialError::Transport(failed));
        let refused = "nobody listens at the remote address";
        assert_eq!(error.message, format!("{refused} (4 addresses tried)"));
        let first = error.tried.first().unwrap();
        assert!(first.starts_with("/ip6/2001:db8::1/tcp/1: "), "{first}");
        let rest = [
            &format!("/ip4/192.0.2.1/udp/1/webrtc-direct: {refused}"),
            "/ip4/192.0.2.1/udp/2/quic-v1: it timed out",
            "/ip4/192.0.2.1/udp/3/quic-v1: it timed out",
        ];
        assert_eq!(error.tried[1..], rest);
        assert!(!error.fatal);
    }

    #[test]
    fn a_machine_without_network_says_so() {
        let away = || io::Error::from(io::ErrorKind::NetworkUnreachable);
        let error = explain(&DialError::Transport(vec![tried(
            "/ip4/192.0.2.1/tcp/1",
            away(),
        )]));
        assert_eq!(error.message, away().to_string());
    }
}
