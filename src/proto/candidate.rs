//! ICE candidates as signaling carries them: the `candidate` attribute of RFC 8839 section 5.1.
//!
//! The text is that of a browser's `RTCIceCandidate.candidate`. Read by descriptions and by whoever passes signaling
//! messages on; which candidates are used is the agent's business. Every field is bounded, because strangers write it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

#[cfg(test)]
mod tests;

/// Longest candidate that is read; those of browsers have 100 to 200 characters.
pub(crate) const MAX_CANDIDATE_LEN: usize = 1024;
/// Longest foundation (RFC 8839 section 5.1).
const MAX_FOUNDATION_LEN: usize = 32;
/// Longest host name (RFC 1035 section 2.3.4).
const MAX_NAME_LEN: usize = 253;
/// Longest ufrag (RFC 8839 section 5.4).
const MAX_UFRAG_LEN: usize = 256;

/// Where a candidate is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// An address, never an IPv4 one in the form of IPv6.
    Ip(IpAddr),
    /// A name, most often `<uuid>.local` of mDNS: browsers hide the addresses of their host so.
    Name(String),
}

/// How a candidate was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CandidateKind {
    /// An address of the host itself.
    Host,
    /// Its address as a STUN server sees it.
    ServerReflexive,
    /// Its address as the peer sees it.
    PeerReflexive,
    /// An address of a TURN server.
    Relayed,
}

impl CandidateKind {
    /// The word of the attribute.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relayed => "relay",
        }
    }
}

/// One candidate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    /// Same for candidates of the same origin.
    pub(crate) foundation: String,
    /// 1, as everything is multiplexed; others are read but of no use.
    pub(crate) component: u16,
    /// UDP. Candidates of other transports are read but of no use.
    pub(crate) udp: bool,
    /// Its priority, 1 to 2^31 - 1.
    pub(crate) priority: u32,
    /// Its host.
    pub(crate) host: Host,
    /// Its port.
    pub(crate) port: u16,
    /// How it was found.
    pub(crate) kind: CandidateKind,
    /// Of which ICE generation it is.
    pub(crate) ufrag: Option<String>,
}

/// Why a text is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CandidateError {
    /// It is longer than any that makes sense.
    #[error("the candidate is too long")]
    TooLong,
    /// It does not begin with `candidate:`.
    #[error("the text is no candidate")]
    NotACandidate,
    /// A field is missing or wrong.
    #[error("the candidate has a bad {0}")]
    Field(&'static str),
}

impl Candidate {
    /// Its address, unless it is a name.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// The same candidate after its name was resolved.
    pub(crate) fn resolved(&self, ip: IpAddr) -> Self {
        Self {
            host: Host::Ip(ip.to_canonical()),
            ..self.clone()
        }
    }

    /// Whether a text says that there are no more candidates: the empty candidate of the browsers' interface.
    pub(crate) fn is_end_mark(text: &str) -> bool {
        let text = text.trim();
        text.is_empty() || text == "candidate:" || text == "a=end-of-candidates"
    }

    /// Reads one: `candidate:…`, with or without `a=` before it.
    pub(crate) fn parse(text: &str) -> Result<Self, CandidateError> {
        if text.len() > MAX_CANDIDATE_LEN {
            return Err(CandidateError::TooLong);
        }
        let text = text.trim_end_matches(['\r', '\n']);
        let text = text.strip_prefix("a=").unwrap_or(text);
        let value = text
            .strip_prefix("candidate:")
            .ok_or(CandidateError::NotACandidate)?;
        Self::parse_value(value)
    }

    fn parse_value(value: &str) -> Result<Self, CandidateError> {
        use CandidateError::Field;
        let mut words = value.split(' ').filter(|word| !word.is_empty());
        let mut next = |name| words.next().ok_or(Field(name));
        let foundation = next("foundation")?;
        let is_ice_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        // Some stacks put other characters into foundations; only what could break a line is refused.
        let printable = foundation.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable || foundation.len() > MAX_FOUNDATION_LEN {
            return Err(Field("foundation"));
        }
        let component = number(next("component")?, 1..=256).ok_or(Field("component"))?;
        let transport = next("transport")?;
        let priority = number(next("priority")?, 1..=0x7fff_ffff).ok_or(Field("priority"))?;
        let host = Host::parse(next("address")?)?;
        let port = number(next("port")?, 0..=65_535).ok_or(Field("port"))?;
        if next("type")? != "typ" {
            return Err(Field("type"));
        }
        let kind = next("type")?.parse()?;
        let mut ufrag = None;
        // What follows are pairs of a name and a value: raddr, rport and extensions, of which only one matters.
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if name == "ufrag" {
                let valid = value.bytes().all(is_ice_char) && value.len() <= MAX_UFRAG_LEN;
                ufrag = Some(valid.then(|| value.to_owned()).ok_or(Field("ufrag"))?);
            }
        }
        Ok(Self {
            foundation: foundation.to_owned(),
            component: u16::try_from(component).map_err(|_| Field("component"))?,
            udp: transport.eq_ignore_ascii_case("udp"),
            priority,
            host,
            port: u16::try_from(port).map_err(|_| Field("port"))?,
            kind,
            ufrag,
        })
    }
}

/// A decimal number without sign, in a range.
fn number(text: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit());
    let value = digits.then(|| text.parse().ok()).flatten()?;
    range.contains(&value).then_some(value)
}

impl Host {
    fn parse(text: &str) -> Result<Self, CandidateError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        let is_name_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let valid = text.bytes().all(is_name_char)
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
            && text.len() <= MAX_NAME_LEN;
        valid
            .then(|| Self::Name(text.to_owned()))
            .ok_or(CandidateError::Field("address"))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for CandidateKind {
    type Err = CandidateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            Self::Host,
            Self::ServerReflexive,
            Self::PeerReflexive,
            Self::Relayed,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or(CandidateError::Field("type"))
    }
}

/// As `RTCIceCandidate.candidate`: begins with `candidate:`, no end of line.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = if self.udp { "udp" } else { "tcp" };
        write!(
            f,
            "candidate:{} {} {transport} {} {} {} typ {}",
            self.foundation,
            self.component,
            self.priority,
            self.host,
            self.port,
            self.kind.as_str()
        )?;
        if self.kind != CandidateKind::Host {
            // Needed by the grammar, told to nobody: where we are is not the peer's business.
            let any: IpAddr = match self.host {
                Host::Ip(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
                Host::Ip(IpAddr::V4(_)) | Host::Name(_) => Ipv4Addr::UNSPECIFIED.into(),
            };
            write!(f, " raddr {any} rport 0")?;
        }
        if !self.udp {
            f.write_str(" tcptype active")?;
        }
        match &self.ufrag {
            Some(ufrag) => write!(f, " ufrag {ufrag}"),
            None => Ok(()),
        }
    }
}
