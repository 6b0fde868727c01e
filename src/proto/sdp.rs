//! Session descriptions with one data channel section and nothing else (RFC 8866, RFC 8841, RFC 8829).
//!
//! [`Description`] holds the few values that matter between two ends of data channels; everything else in a
//! description is skipped. Descriptions come from strangers: their size, the lines and the candidates are bounded, and
//! what would be needed for a safe connection must be there. Who may offer what, and when, is the connection's job.

use std::fmt;

#[cfg(test)]
mod tests;

use super::{candidate::Candidate, fingerprint::Fingerprint, ice::MAX_REMOTE_UFRAG_LEN};

/// Longest description: what the length of SocketPipe's messages can say.
pub(crate) const MAX_DESCRIPTION_LEN: usize = 65_535;
/// Candidates that are kept of one description, and of one connection: each makes us send packets to its address.
pub(crate) const MAX_CANDIDATES: usize = 64;
/// Lines of a description; one of a browser has some twenty besides its candidates.
const MAX_LINES: usize = 512;
/// Fingerprints that are kept.
const MAX_FINGERPRINTS: usize = 8;
/// Length of an ICE ufrag. RFC 8839 section 5.4 allows 256, but a check to the peer has to name it.
const UFRAG_LEN: std::ops::RangeInclusive<usize> = 4..=MAX_REMOTE_UFRAG_LEN;
/// Length of an ICE password (RFC 8839 section 5.4).
const PASSWORD_LEN: std::ops::RangeInclusive<usize> = 22..=256;
/// Longest `mid`: it must fit a byte in SocketPipe's messages.
const MAX_MID_LEN: usize = 64;
/// The SCTP port of every implementation, and the only one of ours.
const SCTP_PORT: u16 = 5000;
/// What a peer that names no limit takes (RFC 8841 section 6.1).
const DEFAULT_MAX_MESSAGE: usize = 65_536;

/// Who is the client of DTLS (RFC 8842 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Setup {
    /// Offer: either.
    ActPass,
    /// The sender of the description.
    Active,
    /// The reader of the description.
    Passive,
}

impl Setup {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ActPass => "actpass",
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

/// One end of a connection, as its signaling describes it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// Number of the session and of its description, for the `o=` line; 0 when read.
    pub(crate) origin: (u64, u64),
    /// ICE user name fragment.
    pub(crate) ufrag: String,
    /// ICE password.
    pub(crate) password: String,
    /// The sender is an ICE-lite agent.
    pub(crate) ice_lite: bool,
    /// Hashes of its certificate; at least one.
    pub(crate) fingerprints: Vec<Fingerprint>,
    /// Its DTLS role.
    pub(crate) setup: Setup,
    /// Name of the section.
    pub(crate) mid: String,
    /// Largest message it takes; `usize::MAX` if it has no limit.
    pub(crate) max_message_size: usize,
    /// What was known when it was written.
    pub(crate) candidates: Vec<Candidate>,
    /// No more will follow.
    pub(crate) end_of_candidates: bool,
}

impl fmt::Debug for Description {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description")
            .field("ufrag", &self.ufrag)
            .field("setup", &self.setup)
            .field("candidates", &self.candidates.len())
            .finish_non_exhaustive()
    }
}

/// Why a text is no description that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SdpError {
    /// It has too many bytes or lines.
    #[error("the description is too long")]
    TooLong,
    /// It does not begin with `v=0`.
    #[error("the text is no session description")]
    NotADescription,
    /// There is no data channel section.
    #[error("the description has no section for data channels")]
    NoDataChannels,
    /// There are others, or more than one.
    #[error("the description has sections besides the one for data channels")]
    OtherSections,
    /// The section is there and was refused, with port 0.
    #[error("the description refuses data channels")]
    Refused,
    /// What a connection needs is missing or wrong.
    #[error("the description has a missing or bad {0}")]
    Attribute(&'static str),
}

/// Attributes of the session or of the section; the latter count first.
#[derive(Debug, Default)]
struct Attributes<'a> {
    ufrag: Option<&'a str>,
    password: Option<&'a str>,
    setup: Option<&'a str>,
    mid: Option<&'a str>,
    sctp_port: Option<&'a str>,
    max_message_size: Option<&'a str>,
    ice_lite: bool,
    end_of_candidates: bool,
    fingerprints: Vec<Fingerprint>,
    candidates: Vec<Candidate>,
}

impl<'a> Attributes<'a> {
    fn take(&mut self, attribute: &'a str) {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        match name {
            "ice-ufrag" => self.ufrag = Some(value),
            "ice-pwd" => self.password = Some(value),
            "setup" => self.setup = Some(value),
            "mid" => self.mid = Some(value),
            "sctp-port" => self.sctp_port = Some(value),
            "max-message-size" => self.max_message_size = Some(value),
            "ice-lite" => self.ice_lite = true,
            "end-of-candidates" => self.end_of_candidates = true,
            "fingerprint" => self.take_fingerprint(value),
            "candidate" => self.take_candidate(attribute),
            _ => {}
        }
    }

    /// Other hashes than SHA-256 are skipped: everybody has that one.
    fn take_fingerprint(&mut self, value: &str) {
        let Some((hash, digest)) = value.split_once(' ') else {
            return;
        };
        if hash.eq_ignore_ascii_case("sha-256")
            && self.fingerprints.len() < MAX_FINGERPRINTS
            && let Some(fingerprint) = Fingerprint::from_sdp(digest.trim())
            && !self.fingerprints.contains(&fingerprint)
        {
            self.fingerprints.push(fingerprint);
        }
    }

    /// One that cannot be read costs only itself.
    fn take_candidate(&mut self, attribute: &str) {
        if self.candidates.len() < MAX_CANDIDATES
            && let Ok(candidate) = Candidate::parse(attribute)
        {
            self.candidates.push(candidate);
        }
    }
}

impl Description {
    /// Reads one.
    pub(crate) fn parse(text: &str) -> Result<Self, SdpError> {
        if text.len() > MAX_DESCRIPTION_LEN {
            return Err(SdpError::TooLong);
        }
        let mut session = Attributes::default();
        let mut section = None::<Attributes<'_>>;
        for (index, line) in text.lines().enumerate() {
            if index >= MAX_LINES {
                return Err(SdpError::TooLong);
            }
            if index == 0 && line.trim_end() != "v=0" {
                return Err(SdpError::NotADescription);
            }
            let Some((kind, value)) = line.trim_end().split_once('=') else {
                continue;
            };
            match kind {
                "m" if section.is_some() => return Err(SdpError::OtherSections),
                "m" => {
                    check_section(value)?;
                    section = Some(Attributes::default());
                }
                "a" => section.as_mut().unwrap_or(&mut session).take(value),
                _ => {}
            }
        }
        if text.is_empty() {
            return Err(SdpError::NotADescription);
        }
        Self::from_attributes(session, section.ok_or(SdpError::NoDataChannels)?)
    }

    fn from_attributes(session: Attributes<'_>, section: Attributes<'_>) -> Result<Self, SdpError> {
        use SdpError::Attribute;
        let credential = |value: Option<&str>, len: std::ops::RangeInclusive<usize>| {
            let is_ice_char =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
            value
                .filter(|value| len.contains(&value.len()) && value.bytes().all(is_ice_char))
                .map(str::to_owned)
        };
        let fingerprints = if section.fingerprints.is_empty() {
            session.fingerprints
        } else {
            section.fingerprints
        };
        if fingerprints.is_empty() {
            return Err(Attribute("fingerprint"));
        }
        if section
            .sctp_port
            .is_none_or(|port| port.parse() != Ok(SCTP_PORT))
        {
            return Err(Attribute("sctp-port"));
        }
        Ok(Self {
            origin: (0, 0),
            ufrag: credential(section.ufrag.or(session.ufrag), UFRAG_LEN)
                .ok_or(Attribute("ice-ufrag"))?,
            password: credential(section.password.or(session.password), PASSWORD_LEN)
                .ok_or(Attribute("ice-pwd"))?,
            ice_lite: session.ice_lite,
            fingerprints,
            setup: match section.setup.or(session.setup) {
                Some("actpass") => Setup::ActPass,
                Some("active") => Setup::Active,
                Some("passive") => Setup::Passive,
                _ => return Err(Attribute("setup")),
            },
            mid: mid(section.mid)?,
            max_message_size: max_message_size(section.max_message_size)?,
            candidates: section.candidates,
            end_of_candidates: section.end_of_candidates || session.end_of_candidates,
        })
    }
}

/// The value of an `m=` line: data channels over UDP, or over TCP where that is the default candidate.
fn check_section(value: &str) -> Result<(), SdpError> {
    let mut words = value.split(' ').filter(|word| !word.is_empty());
    let (kind, port) = (words.next(), words.next());
    if kind != Some("application") {
        return Err(SdpError::OtherSections);
    }
    let protocol = words.next();
    let known = matches!(protocol, Some("UDP/DTLS/SCTP" | "TCP/DTLS/SCTP"));
    if !known || words.next() != Some("webrtc-datachannel") {
        return Err(SdpError::NoDataChannels);
    }
    match port.and_then(|port| port.parse::<u16>().ok()) {
        None => Err(SdpError::NoDataChannels),
        Some(0) => Err(SdpError::Refused),
        Some(_) => Ok(()),
    }
}

fn mid(value: Option<&str>) -> Result<String, SdpError> {
    // RFC 5888 section 4: a token. Without one, candidates name the section by its number.
    let Some(value) = value else {
        return Ok(String::new());
    };
    let valid = value.len() <= MAX_MID_LEN
        && value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&byte));
    valid
        .then(|| value.to_owned())
        .ok_or(SdpError::Attribute("mid"))
}

fn max_message_size(value: Option<&str>) -> Result<usize, SdpError> {
    let Some(value) = value else {
        return Ok(DEFAULT_MAX_MESSAGE);
    };
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(0) => Ok(usize::MAX),
        Ok(size) if digits => Ok(size),
        // A number that is too large for us is as good as none.
        Err(_) if digits && value.len() <= 64 => Ok(usize::MAX),
        _ => Err(SdpError::Attribute("max-message-size")),
    }
}

/// As browsers take it, each line with its CRLF.
impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |text: fmt::Arguments<'_>| write!(f, "{text}\r\n");
        let (session, version) = self.origin;
        line(format_args!("v=0"))?;
        line(format_args!("o=- {session} {version} IN IP4 127.0.0.1"))?;
        line(format_args!("s=-"))?;
        line(format_args!("t=0 0"))?;
        line(format_args!("a=group:BUNDLE {}", self.mid))?;
        if self.ice_lite {
            line(format_args!("a=ice-lite"))?;
        }
        line(format_args!(
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"
        ))?;
        line(format_args!("c=IN IP4 0.0.0.0"))?;
        for candidate in &self.candidates {
            line(format_args!("a={candidate}"))?;
        }
        if self.end_of_candidates {
            line(format_args!("a=end-of-candidates"))?;
        }
        line(format_args!("a=ice-ufrag:{}", self.ufrag))?;
        line(format_args!("a=ice-pwd:{}", self.password))?;
        line(format_args!("a=ice-options:trickle"))?;
        for fingerprint in &self.fingerprints {
            line(format_args!(
                "a=fingerprint:sha-256 {}",
                fingerprint.to_sdp()
            ))?;
        }
        line(format_args!("a=setup:{}", self.setup.as_str()))?;
        line(format_args!("a=mid:{}", self.mid))?;
        line(format_args!("a=sctp-port:{SCTP_PORT}"))?;
        let size = match self.max_message_size {
            usize::MAX => 0,
            size => size,
        };
        line(format_args!("a=max-message-size:{size}"))
    }
}
