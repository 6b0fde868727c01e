//! Invitations: all that is needed to reach one server, in one string.
//!
//! `socketpipe:1:` and a JSON object in base64url; as a link it follows the `#` of the page's address. Made by the
//! program, read by the program and the page. This is the form only: nothing here says whether anything can be reached
//! or whether the token is good. The string is as secret as the token in it, so `Debug` does not show that.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use libp2p_core::{Multiaddr, multiaddr::Protocol};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use super::session::Mode;

/// Begins every invitation of every version.
const SCHEME: &str = "socketpipe:";
/// Begins those of this version.
const PREFIX: &str = "socketpipe:1:";
/// Most characters after the prefix.
const MAX_LENGTH: usize = 8192;
/// Most multiaddrs.
const MAX_ADDRESSES: usize = 16;
/// Most bytes of the WebSocket URL.
const MAX_URL: usize = 2048;
/// Most bytes of the token.
const MAX_TOKEN: usize = 4096;
/// Most bytes of the target host, as in HANDSHAKE_REQUEST.
const MAX_HOST: usize = 255;
/// Most characters of the name.
const MAX_NAME: usize = 64;

/// What is needed to reach one server.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Addresses of one peer, each with its id, best first.
    pub addresses: Vec<Multiaddr>,
    /// WebSocket URL of the same server; empty if it has none.
    pub websocket: String,
    /// What lets the holder in.
    pub token: String,
    /// Terminal or TCP connection.
    pub mode: Mode,
    /// Target, empty for the server's default.
    pub host: String,
    /// Its port, 0 for the server's default.
    pub port: u16,
    /// For people.
    pub name: String,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation")
            .field("addresses", &self.addresses)
            .field("websocket", &self.websocket)
            .field("token_len", &self.token.len())
            .field("mode", &self.mode)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("name", &self.name)
            .finish()
    }
}

/// Why a string is no invitation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// The prefix is missing.
    #[error("this is no invitation: one begins with `socketpipe:1:`")]
    NoInvitation,
    /// Another version.
    #[error("this invitation is of a version this program does not know")]
    Version,
    /// More characters than any invitation has.
    #[error("this invitation is too long")]
    TooLong,
    /// Not base64url, not JSON, or fields of the wrong type.
    #[error("this invitation is damaged; was all of it copied?")]
    Damaged,
    /// A field has a value it cannot have.
    #[error("this invitation is damaged: its {0} is wrong")]
    Field(&'static str),
    /// Nothing to connect to.
    #[error("this invitation names no address")]
    NoAddress,
}

/// The JSON object.
#[derive(Serialize, Deserialize)]
struct Fields {
    #[serde(default)]
    a: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    w: String,
    #[serde(default)]
    t: String,
    #[serde(default = "pty")]
    m: String,
    #[serde(default)]
    h: String,
    #[serde(default)]
    p: u16,
    #[serde(default)]
    n: String,
}

fn pty() -> String {
    "pty".to_owned()
}

impl Invitation {
    /// An invitation to a server's default target of this mode, without any address yet.
    pub fn new(mode: Mode, token: impl Into<String>) -> Self {
        Self {
            addresses: Vec::new(),
            websocket: String::new(),
            token: token.into(),
            mode,
            host: String::new(),
            port: 0,
            name: String::new(),
        }
    }

    /// The peer all addresses lead to.
    pub fn peer(&self) -> Option<PeerId> {
        self.addresses.first().and_then(peer_of)
    }

    /// The link that opens the page with this invitation. A fragment is never sent to a server.
    pub fn link(&self, page: &str) -> String {
        format!("{}#{self}", page.split('#').next().unwrap_or_default())
    }

    fn check(fields: Fields) -> Result<Self, InvitationError> {
        let limits = [
            (fields.w.len() <= MAX_URL, "WebSocket address"),
            (fields.t.len() <= MAX_TOKEN, "token"),
            (fields.h.len() <= MAX_HOST, "host"),
            (fields.a.len() <= MAX_ADDRESSES, "address list"),
            (is_websocket(&fields.w), "WebSocket address"),
        ];
        if let Some((_, what)) = limits.iter().find(|(good, _)| !good) {
            return Err(InvitationError::Field(what));
        }
        let addresses = parse_addresses(&fields.a)?;
        if addresses.is_empty() && fields.w.is_empty() {
            return Err(InvitationError::NoAddress);
        }
        Ok(Self {
            addresses,
            websocket: fields.w,
            token: fields.t,
            mode: match fields.m.as_str() {
                "pty" => Mode::Pty,
                "tunnel" => Mode::Tunnel,
                _ => return Err(InvitationError::Field("mode")),
            },
            host: fields.h,
            port: fields.p,
            name: presentable(&fields.n),
        })
    }
}

/// Addresses of protocols this program does not know are skipped: a newer server may have more ways in.
fn parse_addresses(texts: &[String]) -> Result<Vec<Multiaddr>, InvitationError> {
    let wrong = InvitationError::Field("address list");
    if texts.iter().any(|text| !text.starts_with('/')) {
        return Err(wrong);
    }
    let addresses: Vec<Multiaddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    let first = addresses.first().and_then(peer_of);
    let same = addresses
        .iter()
        .all(|address| first.is_some() && peer_of(address) == first);
    match same {
        true => Ok(addresses),
        false => Err(wrong),
    }
}

/// The peer an address ends in.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Empty, or `ws(s)://host...` without user name and fragment, which would only hide where it leads.
fn is_websocket(url: &str) -> bool {
    let rest = url
        .strip_prefix("wss://")
        .or_else(|| url.strip_prefix("ws://"));
    let Some(rest) = rest else {
        return url.is_empty();
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '`');
    !authority.is_empty()
        && !authority.contains('@')
        && !rest.contains('#')
        && rest.chars().all(plain)
}

/// A name that can be shown: no control, no format characters, not long.
fn presentable(name: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let clean: String = name.chars().filter(|c| !hidden(*c)).collect();
    clean.trim().chars().take(MAX_NAME).collect()
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = Fields {
            a: self.addresses.iter().map(ToString::to_string).collect(),
            w: self.websocket.clone(),
            t: self.token.clone(),
            m: match self.mode {
                Mode::Pty => pty(),
                Mode::Tunnel => "tunnel".to_owned(),
            },
            h: self.host.clone(),
            p: self.port,
            n: self.name.clone(),
        };
        let json = serde_json::to_vec(&fields).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&json))
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    /// Takes the string itself or a link with it; broken lines are joined.
    fn from_str(text: &str) -> Result<Self, InvitationError> {
        let start = text.find(SCHEME).ok_or(InvitationError::NoInvitation)?;
        let encoded = text[start..]
            .strip_prefix(PREFIX)
            .ok_or(InvitationError::Version)?;
        let joined: String = encoded
            .chars()
            .filter(|c| !c.is_whitespace())
            .take(MAX_LENGTH + 1)
            .collect();
        if joined.len() > MAX_LENGTH {
            return Err(InvitationError::TooLong);
        }
        let json = BASE64URL_NOPAD
            .decode(joined.trim_end_matches('=').as_bytes())
            .map_err(|_| InvitationError::Damaged)?;
        // An array would pass for an object otherwise.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(InvitationError::Damaged);
        }
        let fields = serde_json::from_slice(&json).map_err(|_| InvitationError::Damaged)?;
        Self::check(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: &str = "socketpipe:1:eyJhIjpbXSwidyI6IndzOi8vMTI3LjAuMC4xOjgwODAvcHR5IiwidCI6ImFiYyIsIm0iOiJwdHkiLCJoIjoiIiwicCI6MCwibiI6Im4ifQ";
    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn of_json(json: &str) -> Result<Invitation, InvitationError> {
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(json.as_bytes())).parse()
    }

    fn sample() -> Invitation {
        Invitation {
            websocket: "ws://127.0.0.1:8080/pty".to_owned(),
            name: "n".to_owned(),
            ..Invitation::new(Mode::Pty, "abc")
        }
    }

    #[test]
    fn writes_and_reads_the_vector() {
        assert_eq!(sample().to_string(), VECTOR);
        assert_eq!(VECTOR.parse(), Ok(sample()));
    }

    #[test]
    fn reads_it_in_a_link_with_broken_lines_and_padding() {
        let (head, tail) = VECTOR.split_at(40);
        let link = format!("  http://127.0.0.1:8080/#{head}\r\n {tail}=\n");
        assert_eq!(link.parse(), Ok(sample()));
        assert_eq!(
            sample().link("http://127.0.0.1:8080/#old"),
            format!("http://127.0.0.1:8080/#{VECTOR}")
        );
    }

    #[test]
    fn reads_addresses_of_one_peer_and_skips_unknown_protocols() {
        let read = of_json(&format!(
            r#"{{"a":["/ip4/127.0.0.1/tcp/1/p2p/{PEER}","/newer/thing"],"x":1}}"#
        ))
        .unwrap();
        assert_eq!(read.addresses.len(), 1);
        assert_eq!(read.peer().unwrap().to_string(), PEER);
        assert_eq!((read.mode, read.port), (Mode::Pty, 0));
    }

    #[test]
    fn refuses_addresses_without_peer() {
        let read = of_json(r#"{"a":["/ip4/127.0.0.1/tcp/1"]}"#);
        assert_eq!(read, Err(InvitationError::Field("address list")));
    }

    #[test]
    fn says_what_is_wrong() {
        let damaged = InvitationError::Damaged;
        let field = InvitationError::Field;
        let long = "a".repeat(MAX_LENGTH + 1);
        let cases = [
            ("hello", InvitationError::NoInvitation),
            ("socketpipe:2:abc", InvitationError::Version),
            ("socketpipe:1:!", damaged.clone()),
            (&format!("socketpipe:1:{long}"), InvitationError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(Invitation::from_str(text), Err(error), "{text:.20}");
        }
        let cases = [
            ("[]", damaged.clone()),
            (r#"{"w":"ws://a/","p":65536}"#, damaged),
            (r#"{"w":"ws://a/","m":"x"}"#, field("mode")),
            (r#"{"w":"http://a/"}"#, field("WebSocket address")),
            (r#"{"w":"ws://u@a/"}"#, field("WebSocket address")),
            (r#"{"w":"ws://a/#x"}"#, field("WebSocket address")),
            (r#"{"t":"x"}"#, InvitationError::NoAddress),
        ];
        for (json, error) in cases {
            assert_eq!(of_json(json), Err(error), "{json}");
        }
    }

    #[test]
    fn names_are_fit_to_be_shown() {
        let read = of_json(r#"{"w":"ws://a/","n":" \u001b[2J\u202eb\u200bc "}"#).unwrap();
        assert_eq!(read.name, "[2Jbc");
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let invitation = Invitation::new(Mode::Pty, "very-secret");
        assert!(!format!("{invitation:?}").contains("secret"));
    }
}
