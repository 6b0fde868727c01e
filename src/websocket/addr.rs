//! Multiaddrs of this transport, read and written; no sockets, no state.
//!
//! ```text
//! /ip4|ip6|dns|dns4|dns6/<host>  /tcp/<port>  /ws | /tls[/sni/<name>]/ws | /wss  /webrtc  [/p2p/<peer>]
//! ```

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use libp2p_core::{
    Multiaddr,
    multiaddr::{Iter, Protocol},
};
use libp2p_identity::PeerId;

#[cfg(test)]
mod tests;

/// Longest name of a host (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(String, Family),
}

/// Which addresses of a name may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// `dns`
    Any,
    /// `dns4`
    V4,
    /// `dns6`
    V6,
}

impl Family {
    /// Whether the name may be reached there.
    pub(crate) fn has(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// A dialable address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DialAddr {
    /// Where to connect to.
    pub(crate) host: Host,
    /// The TCP port.
    pub(crate) port: u16,
    /// TLS, and not in the clear.
    pub(crate) tls: bool,
    /// The name in the server's certificate, if it is not the host.
    pub(crate) name: Option<String>,
    /// Who is expected to answer.
    pub(crate) peer: Option<PeerId>,
}

impl DialAddr {
    /// What the server is called, to HTTP and TLS. An IPv6 address has no brackets.
    pub(crate) fn server_name(&self) -> String {
        match (&self.name, &self.host) {
            (Some(name), _) | (None, Host::Name(name, _)) => name.clone(),
            (None, Host::Ip(ip)) => ip.to_string(),
        }
    }

    /// The URL of its WebSocket.
    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.server(), super::PATH)
    }

    /// The URL of the HTTP server, without a path.
    pub(crate) fn server(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        let host = match (&self.name, &self.host) {
            (None, Host::Ip(IpAddr::V6(ip))) => format!("[{ip}]"),
            _ => self.server_name(),
        };
        format!("{scheme}://{host}:{}", self.port)
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddr {
    /// Where.
    pub(crate) socket: SocketAddr,
    /// With TLS.
    pub(crate) tls: bool,
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at(self.socket.ip()).fmt(f)
    }
}

impl ListenAddr {
    /// The address by which others reach it at this one of the addresses it is bound to.
    pub(crate) fn at(&self, ip: IpAddr) -> Multiaddr {
        let addr = Multiaddr::from(ip).with(Protocol::Tcp(self.socket.port()));
        let addr = match self.tls {
            true => addr.with(Protocol::Tls),
            false => addr,
        };
        addr.with(Protocol::Ws("/".into())).with(Protocol::WebRTC)
    }
}

/// Why an address cannot be dialed by this transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddrError {
    /// Another transport's address, or one that leads through a relay.
    NotOurs,
    /// `0.0.0.0` or `::`, which are for listening.
    UnspecifiedAddress,
    /// Port 0, which is for listening.
    ZeroPort,
    /// A link-local IPv6 address, which needs the interface beside it.
    MissingScope,
    /// A name that cannot be one of a host.
    Name,
}

/// The parts of any address of this transport; `None` if anything is missing, out of order or too much.
fn parse(addr: &Multiaddr) -> Option<DialAddr> {
    let mut protocols = addr.iter();
    let host = match protocols.next()? {
        Protocol::Ip4(ip) => Host::Ip(ip.into()),
        Protocol::Ip6(ip) => Host::Ip(ip.into()),
        Protocol::Dns(name) => Host::Name(name.into_owned(), Family::Any),
        Protocol::Dns4(name) => Host::Name(name.into_owned(), Family::V4),
        Protocol::Dns6(name) => Host::Name(name.into_owned(), Family::V6),
        _ => return None,
    };
    let Protocol::Tcp(port) = protocols.next()? else {
        return None;
    };
    let (tls, name) = parse_websocket(&mut protocols)?;
    let Protocol::WebRTC = protocols.next()? else {
        return None;
    };
    let peer = match protocols.next() {
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
        None => None,
    };
    // Above all `/p2p-circuit`: such an address belongs to the relay transport.
    protocols.next().is_none().then_some(DialAddr {
        host,
        port,
        tls,
        name,
        peer,
    })
}

/// Whether there is TLS, and the name in the certificate. The path is always the one of this transport.
fn parse_websocket(protocols: &mut Iter<'_>) -> Option<(bool, Option<String>)> {
    let is_root = |path: &str| path == "/";
    match protocols.next()? {
        Protocol::Ws(path) if is_root(&path) => Some((false, None)),
        Protocol::Wss(path) if is_root(&path) => Some((true, None)),
        Protocol::Tls => match protocols.next()? {
            Protocol::Ws(path) if is_root(&path) => Some((true, None)),
            Protocol::Sni(name) => match protocols.next()? {
                Protocol::Ws(path) if is_root(&path) => Some((true, Some(name.into_owned()))),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// What to bind for a listen request; `None` if the request is for another transport. A peer id is ignored.
pub(crate) fn parse_listen(addr: &Multiaddr) -> Option<ListenAddr> {
    let parts = parse(addr)?;
    match (parts.host, parts.name) {
        (Host::Ip(ip), None) => Some(ListenAddr {
            socket: SocketAddr::new(ip, parts.port),
            tls: parts.tls,
        }),
        _ => None,
    }
}

/// Reads an address to dial.
///
/// # Errors
///
/// If the address is not one of this transport, or is one that nobody can answer on.
pub(crate) fn parse_dial(addr: &Multiaddr) -> Result<DialAddr, AddrError> {
    let parts = parse(addr).ok_or(AddrError::NotOurs)?;
    match &parts.host {
        Host::Ip(ip) if ip.is_unspecified() => return Err(AddrError::UnspecifiedAddress),
        Host::Ip(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
            return Err(AddrError::MissingScope);
        }
        Host::Name(name, _) if !is_name(name) => return Err(AddrError::Name),
        Host::Ip(_) | Host::Name(..) => {}
    }
    if parts.name.as_deref().is_some_and(|name| !is_name(name)) {
        return Err(AddrError::Name);
    }
    match parts.port {
        0 => Err(AddrError::ZeroPort),
        _ => Ok(parts),
    }
}

/// Whether it can be the name of a host; what is not could end the host in a URL.
fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_good)
}

/// The address of a peer that connected to us: nobody can dial it.
pub(crate) fn remote_addr(socket: SocketAddr, tls: bool) -> Multiaddr {
    ListenAddr { socket, tls }.at(socket.ip())
}
