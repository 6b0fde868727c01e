//! Addresses of a server: of its node, of its page, and what they have to do with each other.

use std::net::IpAddr;

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Whether an address is what a listener made of this one: the same kind of IP and the same transport.
pub(super) fn is_instance(wished: &Multiaddr, found: &Multiaddr) -> bool {
    let kind = |address: &Multiaddr| -> Vec<&'static str> {
        let tags = address.protocol_stack();
        tags.filter(|tag| !matches!(*tag, "certhash" | "p2p"))
            .collect()
    };
    let any = wished.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_unspecified(),
        Protocol::Ip6(ip) => ip.is_unspecified(),
        _ => false,
    });
    kind(wished) == kind(found) && (any || wished.iter().next() == found.iter().next())
}

/// The page may be called by an address of this machine, and that may be announced, too.
pub(super) fn without_repeats(addresses: impl Iterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    let mut all = Vec::new();
    for address in addresses {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

/// `https://host/` to `wss://host/`.
pub(super) fn websocket_of(page: &str) -> String {
    page.replacen("http", "ws", 1)
}

/// `https://host/` to `/dns/host/tcp/443/tls/ws/webrtc`. `None` for a page that is not at the root: there is no address
/// for that.
pub(super) fn address_of(page: &str) -> Option<Multiaddr> {
    let url: hyper::Uri = page.parse().ok()?;
    let tls = match url.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = url.host()?.trim_matches(['[', ']']);
    let host = match host.parse::<IpAddr>() {
        Ok(ip) => Multiaddr::from(ip),
        Err(_) => Multiaddr::empty().with(Protocol::Dns(host.into())),
    };
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let base = host.with(Protocol::Tcp(port));
    let base = if tls { base.with(Protocol::Tls) } else { base };
    let address = base.with(Protocol::Ws("/".into())).with(Protocol::WebRTC);
    matches!(url.path(), "" | "/").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_an_address_for_libp2p() {
        let of = |page| address_of(page).map(|address| address.to_string());
        for (page, address) in [
            (
                "https://example.com",
                "/dns/example.com/tcp/443/tls/ws/webrtc",
            ),
            (
                "https://example.com:8443/",
                "/dns/example.com/tcp/8443/tls/ws/webrtc",
            ),
            ("http://[2001:db8::1]/", "/ip6/2001:db8::1/tcp/80/ws/webrtc"),
            ("http://192.0.2.1:8080", "/ip4/192.0.2.1/tcp/8080/ws/webrtc"),
        ] {
            assert_eq!(of(page).as_deref(), Some(address));
        }
        for page in [
            "",
            "example.com",
            "https://example.com/terminal/",
            "ftp://example.com",
        ] {
            assert_eq!(of(page), None, "{page}");
        }
    }
}
