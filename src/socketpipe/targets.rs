//! Which targets clients may reach.
//!
//! [`Allowlist`] holds patterns and answers two questions: may this name and port be tried at all, and may it lead to
//! this address. It resolves nothing and dials nothing. Empty, it permits nothing.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// Patterns of targets, separated by commas or spaces.
///
/// * `db.example.com:5432`, `*.example.com:443`, `*:22`: names. They may lead to public addresses only, whatever DNS
///   says, unless an address pattern permits that address as well. Only the exact name `localhost` leads to loopback.
/// * `10.0.0.0/8:22`, `[fd00::/8]:22`, `127.0.0.1:8080`: addresses.
/// * Ports: one, a range `8000-8100`, or `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowlist {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    host: Host,
    first: u16,
    last: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// Every name, and every public address.
    Any,
    /// This name, in lower case.
    Name(String),
    /// Names below this one, which begins with a dot.
    Below(String),
    /// Addresses of this network.
    Net(IpAddr, u8),
}

/// A pattern that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "target pattern `{0}`: expected host:port, *.domain:port or network/length:port, with a port, a range a-b or *"
)]
pub struct PatternError(String);

impl Allowlist {
    /// Whether the list is empty: nothing is permitted.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// These patterns and those of `other`.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.patterns.extend(other.patterns);
        self
    }

    /// Whether this host, a name or an address, may be tried.
    pub fn permits_host(&self, host: &str, port: u16) -> bool {
        if let Ok(address) = IpAddr::from_str(host) {
            return self.permits_address(host, SocketAddr::new(address, port));
        }
        let name = canonical_name(host);
        !name.is_empty()
            && self
                .of_port(port)
                .any(|pattern| pattern.host.is_named(&name))
    }

    /// Whether this host may lead to this address.
    pub fn permits_address(&self, host: &str, address: SocketAddr) -> bool {
        let ip = canonical(address.ip());
        if self
            .of_port(address.port())
            .any(|pattern| pattern.host.holds(ip))
        {
            return true;
        }
        if IpAddr::from_str(host).is_ok() {
            return is_public(ip)
                && self
                    .of_port(address.port())
                    .any(|pattern| pattern.host == Host::Any);
        }
        let name = canonical_name(host);
        self.of_port(address.port()).any(|pattern| {
            pattern.host.is_named(&name)
                && (is_public(ip)
                    || (ip.is_loopback() && pattern.host == Host::Name("localhost".to_owned())))
        })
    }

    fn of_port(&self, port: u16) -> impl Iterator<Item = &Pattern> {
        self.patterns
            .iter()
            .filter(move |pattern| (pattern.first..=pattern.last).contains(&port))
    }
}

impl Host {
    fn is_named(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name(this) => this == name,
            Self::Below(domain) => name.ends_with(domain.as_str()),
            Self::Net(..) => false,
        }
    }

    fn holds(&self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::Net(IpAddr::V4(net), length), IpAddr::V4(ip)) => same_prefix(
                u128::from(net.to_bits()) << 96,
                u128::from(ip.to_bits()) << 96,
                *length,
            ),
            (Self::Net(IpAddr::V6(net), length), IpAddr::V6(ip)) => {
                same_prefix(net.to_bits(), ip.to_bits(), *length)
            }
            _ => false,
        }
    }
}

fn same_prefix(one: u128, two: u128, length: u8) -> bool {
    length == 0 || (one ^ two) >> (128 - u32::from(length)) == 0
}

/// Names are compared in lower case and without the dot of the root.
fn canonical_name(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// IPv4 in IPv6 clothes is IPv4: mapped, and behind the well-known NAT64 prefix (RFC 6052).
fn canonical(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => ip,
    }
}

/// Whether an address belongs to the Internet at large and not to the server's own surroundings (IANA registries of
/// special-purpose addresses).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = a == 0
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
        || ip.is_documentation()
        || a >= 224;
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    // Only 2000::/3 is global unicast; Teredo, documentation and 6to4 (which hides IPv4) are taken out of it.
    (a & 0xe000) == 0x2000 && !(a == 0x2001 && (b == 0 || b == 0xdb8)) && a != 0x2002 && a != 0x3fff
}

impl FromStr for Allowlist {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let patterns = text
            .split([',', ' ', '\n', '\t'])
            .filter(|part| !part.is_empty())
            .map(|part| Pattern::parse(part).ok_or_else(|| PatternError(part.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let (first, last) = match port.split_once('-') {
            _ if port == "*" => (1, u16::MAX),
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None => (port.parse().ok()?, port.parse().ok()?),
        };
        let valid = first > 0 && first <= last;
        valid.then_some(Self {
            host: Host::parse(host)?,
            first,
            last,
        })
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let (net, length) = match bare.split_once('/') {
            Some((net, length)) => (net, Some(length)),
            None => (bare, None),
        };
        if let Ok(ip) = IpAddr::from_str(net) {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            let length = length.map_or(Some(most), |length| length.parse().ok())?;
            return (length <= most).then_some(Self::Net(ip, length));
        }
        let (name, below) = match bare.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (bare, false),
        };
        let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if length.is_some() || name.is_empty() || bare != text || !name.chars().all(is_label) {
            return None;
        }
        let name = canonical_name(name);
        Some(match below {
            true => Self::Below(format!(".{name}")),
            false => Self::Name(name),
        })
    }
}

impl fmt::Display for Allowlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.patterns.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{pattern}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Below(name) => write!(f, "*{name}")?,
            Host::Net(IpAddr::V4(ip), 32) => ip.fmt(f)?,
            Host::Net(IpAddr::V4(ip), length) => write!(f, "{ip}/{length}")?,
            Host::Net(IpAddr::V6(ip), length) => write!(f, "[{ip}/{length}]")?,
        }
        match (self.first, self.last) {
            (1, u16::MAX) => f.write_str(":*"),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests;
