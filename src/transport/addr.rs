//! Multiaddrs of WebRTC Direct, read and written; no sockets, no state.
//!
//! The transport calls this for every address it is asked to listen on or to dial, and to report addresses. Names
//! (`/dns4` and the like) are resolved by another layer before an address comes here.
//!
//! ```text
//! /ip4/<address>|/ip6/<address>  /udp/<port>  /webrtc-direct  [/certhash/<hash>]...  [/p2p/<peer>]
//! ```

use std::net::{IpAddr, SocketAddr};

use libp2p_core::{
    Multiaddr,
    multiaddr::{Iter, Protocol},
};
use libp2p_identity::PeerId;
use multihash::Multihash;

use crate::proto::fingerprint::Fingerprint;

#[cfg(test)]
mod tests;

/// Multihash code of sha2-256, the only hash every implementation must support.
const SHA2_256: u64 = 0x12;

/// A dialable address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DialAddr {
    /// Where to send to.
    pub(crate) socket: SocketAddr,
    /// The certificates the listener may present, at least one.
    pub(crate) certhashes: Vec<Fingerprint>,
    /// Announced hashes of an algorithm we do not support.
    pub(crate) unsupported_hashes: usize,
    /// Who is expected to answer.
    pub(crate) peer: Option<PeerId>,
}

/// Why an address cannot be dialed by this transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialAddrError {
    /// Another transport's address, or one that leads through a relay.
    #[error("not a WebRTC Direct address")]
    NotWebRtcDirect,
    /// The listener's certificate cannot be checked without a hash of it.
    #[error("the address has no certhash")]
    NoCerthash,
    /// None of the certhashes is SHA-256.
    #[error("the address has no certhash of a supported algorithm")]
    UnsupportedHash,
    /// `0.0.0.0` or `::`, which are for listening.
    #[error("the address is the unspecified address")]
    UnspecifiedAddress,
    /// Port 0, which is for listening.
    #[error("the address has port zero")]
    ZeroPort,
    /// A link-local IPv6 address, which needs the interface beside it.
    #[error("the address is link-local and has no scope")]
    MissingScope,
}

/// The parts of any WebRTC Direct address.
struct Parts {
    socket: SocketAddr,
    certhashes: Vec<Multihash<64>>,
    peer: Option<PeerId>,
}

/// Takes an address apart; `None` if anything is missing, out of order or too much.
fn parse(addr: &Multiaddr) -> Option<Parts> {
    let mut protocols = addr.iter();
    let socket = parse_socket(&mut protocols)?;
    let Some(Protocol::WebRTCDirect) = protocols.next() else {
        return None;
    };
    let mut certhashes = Vec::new();
    let mut peer = None;
    for protocol in protocols {
        match (protocol, peer) {
            (Protocol::Certhash(hash), None) => certhashes.push(hash),
            (Protocol::P2p(id), None) => peer = Some(id),
            // Above all `/p2p-circuit`: such an address belongs to the relay transport.
            _ => return None,
        }
    }
    Some(Parts {
        socket,
        certhashes,
        peer,
    })
}

fn parse_socket(protocols: &mut Iter<'_>) -> Option<SocketAddr> {
    let ip = match protocols.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Udp(port) = protocols.next()? else {
        return None;
    };
    Some(SocketAddr::new(ip, port))
}

/// The socket address to bind for a listen request; `None` if the request is for another transport.
///
/// Certhashes and a peer id are ignored: they are there if somebody listens again on an address that was announced.
pub(crate) fn parse_listen(addr: &Multiaddr) -> Option<SocketAddr> {
    parse(addr).map(|parts| parts.socket)
}

/// Reads an address to dial.
///
/// # Errors
///
/// If the address is not one of WebRTC Direct, or is one that nobody can answer on or be checked on.
pub(crate) fn parse_dial(addr: &Multiaddr) -> Result<DialAddr, DialAddrError> {
    let Parts {
        socket,
        certhashes: announced,
        peer,
    } = parse(addr).ok_or(DialAddrError::NotWebRtcDirect)?;
    if socket.ip().is_unspecified() {
        return Err(DialAddrError::UnspecifiedAddress);
    }
    if socket.port() == 0 {
        return Err(DialAddrError::ZeroPort);
    }
    if needs_scope(socket) {
        return Err(DialAddrError::MissingScope);
    }
    if announced.is_empty() {
        return Err(DialAddrError::NoCerthash);
    }
    let certhashes: Vec<_> = announced.iter().filter_map(fingerprint).collect();
    if certhashes.is_empty() {
        return Err(DialAddrError::UnsupportedHash);
    }
    Ok(DialAddr {
        socket,
        unsupported_hashes: announced.len() - certhashes.len(),
        certhashes,
        peer,
    })
}

/// Is it an address that the system refuses without the number of an interface (RFC 4007, section 11)?
pub(crate) fn needs_scope(socket: SocketAddr) -> bool {
    matches!(socket.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The fingerprint in a certhash; `None` for other algorithms and for digests of a wrong length.
fn fingerprint(hash: &Multihash<64>) -> Option<Fingerprint> {
    if hash.code() != SHA2_256 {
        return None;
    }
    hash.digest().try_into().ok().map(Fingerprint::from_bytes)
}

/// The address to announce for a listener that presents one of these certificates.
///
/// The certificate in use must come first: go-libp2p and js-libp2p look at no other.
pub(crate) fn listen_addr(socket: SocketAddr, certhashes: &[Fingerprint]) -> Multiaddr {
    let mut addr = remote_addr(socket);
    for certhash in certhashes {
        let multihash = Multihash::wrap(SHA2_256, certhash.as_bytes())
            .expect("a SHA-256 digest fits into a multihash of 64 bytes");
        addr.push(Protocol::Certhash(multihash));
    }
    addr
}

/// The address of a peer that dialed us, without a certhash: nobody can dial it.
pub(crate) fn remote_addr(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip())
        .with(Protocol::Udp(socket.port()))
        .with(Protocol::WebRTCDirect)
}
