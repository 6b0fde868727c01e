//! STUN and TURN servers as users write them: [`IceServer`].

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// Ports of RFC 7064 section 3.2 and RFC 7065 section 3.2.
const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;
/// Longest host name (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;
/// Longest user name (RFC 8489 section 14.3) and what is taken for a password.
const MAX_CREDENTIAL: usize = 508;

/// What leads to a server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Kind {
    /// STUN over UDP.
    Stun,
    /// TURN over UDP.
    TurnUdp,
    /// TURN over TCP.
    TurnTcp,
    /// TURN over TLS over TCP.
    TurnTls,
}

/// A STUN or TURN server, read from the form of RFC 7064 and RFC 7065.
///
/// | | |
/// | --- | --- |
/// | `stun:stun.example.org`, `stun:192.0.2.1:3478` | STUN over UDP |
/// | `turn:turn.example.org`, `turn:turn.example.org:3478?transport=udp` | TURN over UDP |
/// | `turn:[2001:db8::1]:3478?transport=tcp` | TURN over TCP |
/// | `turns:turn.example.org`, `turns:turn.example.org:443?transport=tcp` | TURN over TLS; with the feature `websocket` only |
///
/// Without a port it is 3478, and 5349 for `turns:`. TURN servers need [credentials](Self::with_credentials). Names are
/// resolved by the system, anew for every connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IceServer {
    pub(super) kind: Kind,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: String,
    pub(super) credential: String,
}

/// Why a text names no server that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IceServerError {
    /// It begins with none of `stun:`, `turn:`, `turns:`.
    #[error("the address of a server begins with stun:, turn: or turns:")]
    Scheme,
    /// There is no host, or what stands there is none.
    #[error("the address of the server has no valid host")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the port of the server is no number from 1 to 65535")]
    Port,
    /// The transport is neither `udp` nor `tcp`, or not one of this scheme.
    #[error(
        "the transport of the server is none that its scheme knows (udp or tcp for turn:, tcp for turns:)"
    )]
    Transport,
    /// `turns:` needs TLS, which this build does not have.
    #[error("turns: needs TLS, which is part of the feature \"websocket\"")]
    NoTls,
}

impl IceServer {
    /// The user and the password of a TURN server (RFC 8489 section 9.2); those in common use last some minutes
    /// ([`Caller::with_servers`](super::Caller::with_servers) brings fresh ones).
    pub fn with_credentials(
        mut self,
        username: impl Into<String>,
        credential: impl Into<String>,
    ) -> Self {
        self.username = username.into();
        self.credential = credential.into();
        self
    }

    /// Whether it is a TURN server.
    pub fn is_turn(&self) -> bool {
        self.kind != Kind::Stun
    }

    /// Whether there are credentials that a server can be asked with.
    pub(super) fn has_credentials(&self) -> bool {
        let fits = |text: &str| (1..=MAX_CREDENTIAL).contains(&text.len());
        fits(&self.username) && fits(&self.credential)
    }
}

impl FromStr for IceServer {
    type Err = IceServerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once(':').ok_or(IceServerError::Scheme)?;
        let (authority, query) = match rest.split_once('?') {
            Some((authority, query)) => (authority, Some(query)),
            None => (rest, None),
        };
        let transport = match query {
            None => None,
            Some("transport=udp") => Some(false),
            Some("transport=tcp") => Some(true),
            Some(_) => return Err(IceServerError::Transport),
        };
        let kind = match (scheme.to_ascii_lowercase().as_str(), transport) {
            ("stun", None) => Kind::Stun,
            ("turn", None | Some(false)) => Kind::TurnUdp,
            ("turn", Some(true)) => Kind::TurnTcp,
            ("turns", None | Some(true)) => Kind::TurnTls,
            ("stun" | "turns", _) => return Err(IceServerError::Transport),
            _ => return Err(IceServerError::Scheme),
        };
        if kind == Kind::TurnTls && !cfg!(feature = "websocket") {
            return Err(IceServerError::NoTls);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None if kind == Kind::TurnTls => TLS_PORT,
            None => PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or(IceServerError::Port)?,
        };
        Ok(Self {
            kind,
            host: host.to_owned(),
            port,
            username: String::new(),
            credential: String::new(),
        })
    }
}

/// The host, without brackets, and the port behind it.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), IceServerError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, behind) = rest.split_once(']').ok_or(IceServerError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| IceServerError::Host)?;
        return match behind.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if behind.is_empty() => Ok((host, None)),
            None => Err(IceServerError::Port),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_host_char =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let valid = (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(is_host_char);
    valid.then_some((host, port)).ok_or(IceServerError::Host)
}

/// As it is read, with the port.
impl fmt::Display for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, transport) = match self.kind {
            Kind::Stun => ("stun", ""),
            Kind::TurnUdp => ("turn", "?transport=udp"),
            Kind::TurnTcp => ("turn", "?transport=tcp"),
            Kind::TurnTls => ("turns", "?transport=tcp"),
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}:[{}]:{}{transport}", self.host, self.port),
            false => write!(f, "{scheme}:{}:{}{transport}", self.host, self.port),
        }
    }
}

/// Without the credentials.
impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IceServer").field(&self.to_string()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, IceServerError> {
        text.parse().map(|server: IceServer| server.to_string())
    }

    #[test]
    fn reads_the_forms_of_the_rfcs() {
        for (text, whole) in [
            ("stun:stun.example.org", "stun:stun.example.org:3478"),
            ("STUN:192.0.2.1:19302", "stun:192.0.2.1:19302"),
            ("turn:a.b", "turn:a.b:3478?transport=udp"),
            ("turn:a.b:99?transport=udp", "turn:a.b:99?transport=udp"),
            (
                "turn:[2001:db8::1]:5?transport=tcp",
                "turn:[2001:db8::1]:5?transport=tcp",
            ),
            ("stun:[::1]", "stun:[::1]:3478"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(whole), "{text}");
            assert_eq!(read(whole).as_deref(), Ok(whole), "{whole}");
        }
    }

    #[cfg(feature = "websocket")]
    #[test]
    fn tls_has_a_port_of_its_own() {
        assert_eq!(
            read("turns:a.b").as_deref(),
            Ok("turns:a.b:5349?transport=tcp")
        );
        assert_eq!(
            read("turns:a.b:443?transport=tcp").as_deref(),
            Ok("turns:a.b:443?transport=tcp")
        );
    }

    #[cfg(not(feature = "websocket"))]
    #[test]
    fn tls_is_refused_with_the_feature_that_has_it() {
        let error = read("turns:a.b").unwrap_err();
        assert_eq!(error, IceServerError::NoTls);
        assert!(error.to_string().contains("websocket"));
    }

    #[test]
    fn refuses_what_is_no_server() {
        use IceServerError::{Host, Port, Scheme, Transport};
        for (text, error) in [
            ("", Scheme),
            ("http://a.b", Scheme),
            ("stuns:a.b", Scheme),
            ("stun:", Host),
            ("stun://a.b", Host),
            ("stun:a b", Host),
            ("turn:user@a.b", Host),
            ("turn:[::1", Host),
            ("turn:[a.b]:3", Host),
            ("turn:::1", Host),
            ("turn:a.b:", Port),
            ("turn:a.b:0", Port),
            ("turn:a.b:65536", Port),
            ("turn:[::1]3478", Port),
            ("turn:a.b?transport=sctp", Transport),
            ("turn:a.b?x=y", Transport),
            ("turns:a.b?transport=udp", Transport),
            ("stun:a.b?transport=udp", Transport),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
    }

    #[test]
    fn shows_no_credentials() {
        let server: IceServer = "turn:a.b".parse().unwrap();
        let server = server.with_credentials("somebody", "hunter2");
        let shown = format!("{server:?} {server}");
        assert!(
            !shown.contains("somebody") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert!(server.has_credentials() && server.is_turn());
    }
}
