//! ICE credentials of WebRTC Direct: what the USERNAME of the first packet says about the peer, and what a dialer
//! invents for a new connection ([libp2p WebRTC Direct]).
//!
//! There is no signaling, so the dialer chooses the credentials of both sides and the listener learns them from the
//! USERNAME `<server ufrag>:<client ufrag>` of a STUN Binding request. [`parse_username`] is called for every first
//! packet of anybody, therefore it looks at bytes only, allocates nothing and lets nothing through that could end up
//! in a description. Verifying the packet's integrity and keeping connections is the endpoint's job.
//!
//! [libp2p WebRTC Direct]: https://github.com/libp2p/specs/blob/master/webrtc/webrtc-direct.md

use rand::{Rng, RngExt, distr::Alphanumeric};

#[cfg(test)]
mod tests;

/// Every version of the handshake marks its server ufrag below this prefix; unknown ones must be refused.
const RESERVED_PREFIX: &str = "libp2p+webrtc+";
/// Marks version 1: one string is ufrag and password of both sides.
const V1_PREFIX: &str = "libp2p+webrtc+v1/";
/// Marks version 2: the rest of the server ufrag is the client's password.
const V2_PREFIX: &str = "libp2p+webrtc+v2/";
/// Length of an ICE ufrag in characters (RFC 8839, section 5.4).
const UFRAG_LEN: std::ops::RangeInclusive<usize> = 4..=256;
/// Shortest ICE password in characters (RFC 8839, section 5.4); the longest follows from [`UFRAG_LEN`].
const MIN_PASSWORD_LEN: usize = 22;
/// Random characters we put into a ufrag or password: 190 bits.
const RANDOM_LEN: usize = 32;
/// Random characters rust-libp2p appends to the version 1 prefix; all other implementations use 32.
const UPSTREAM_RUST_RANDOM_LEN: usize = 64;

/// Version of the WebRTC Direct handshake, recognised by the prefix of the server ufrag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum IceVersion {
    /// All four credentials are one string, which browsers can only do by editing ("munging") their own offer.
    V1,
    /// The client keeps the credentials its ICE agent made up.
    V2,
}

impl IceVersion {
    const fn prefix(self) -> &'static str {
        match self {
            Self::V1 => V1_PREFIX,
            Self::V2 => V2_PREFIX,
        }
    }
}

/// A USERNAME that passed every rule; borrows from the packet.
///
/// The server's password, the key of requests and responses, is the server ufrag itself in both versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Username<'a> {
    /// Which handshake the dialer speaks.
    pub(crate) version: IceVersion,
    /// The listener's ufrag and password.
    pub(crate) server_ufrag: &'a str,
    /// The dialer's ufrag.
    pub(crate) client_ufrag: &'a str,
    /// The dialer's password; an ICE-lite listener sends no checks and needs it only to insist that it is valid.
    pub(crate) client_pwd: &'a str,
}

impl Username<'_> {
    /// Whether the dialer is, by the length of its random part, rust-libp2p's own transport (0.10.0-alpha and older).
    pub(crate) fn is_upstream_rust(&self) -> bool {
        self.version == IceVersion::V1
            && self.server_ufrag.len() == V1_PREFIX.len() + UPSTREAM_RUST_RANDOM_LEN
    }
}

/// Why a first packet is dropped; one reason per rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum RejectReason {
    /// The request has no USERNAME at all; found by the caller, kept here to count all reasons in one place.
    MissingUsername,
    /// USERNAME has no colon between two halves.
    MissingColon,
    /// A half is empty.
    EmptyUfrag,
    /// A half is shorter than 4 characters.
    UfragTooShort,
    /// A half is longer than 256 characters.
    UfragTooLong,
    /// A half contains something else than letters, digits, `+` and `/`.
    ForbiddenCharacter,
    /// The server half has the reserved prefix with a version we do not know, which must not be guessed.
    UnknownVersion,
    /// The server half is not one of WebRTC Direct.
    ForeignUfrag,
    /// The client password within the server half is shorter than 22 characters.
    PasswordTooShort,
    /// Version 1, but the halves differ.
    HalvesDiffer,
}

impl RejectReason {
    /// Short text for logs and metric labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::MissingUsername => "missing_username",
            Self::MissingColon => "missing_colon",
            Self::EmptyUfrag => "empty_ufrag",
            Self::UfragTooShort => "ufrag_too_short",
            Self::UfragTooLong => "ufrag_too_long",
            Self::ForbiddenCharacter => "forbidden_character",
            Self::UnknownVersion => "unknown_version",
            Self::ForeignUfrag => "foreign_ufrag",
            Self::PasswordTooShort => "password_too_short",
            Self::HalvesDiffer => "halves_differ",
        }
    }
}

/// Reads the USERNAME of a dialer's check.
///
/// # Errors
///
/// The first rule that is broken. The packet must then be dropped without an answer and without leaving state.
pub(crate) fn parse_username(username: &str) -> Result<Username<'_>, RejectReason> {
    // The first colon separates: ice-chars contain none, and a second one is refused with the second half.
    let (server_ufrag, client_ufrag) =
        username.split_once(':').ok_or(RejectReason::MissingColon)?;
    validate_ufrag(server_ufrag)?;
    validate_ufrag(client_ufrag)?;
    let (version, client_pwd) = if let Some(password) = server_ufrag.strip_prefix(V2_PREFIX) {
        (IceVersion::V2, password)
    } else if server_ufrag.starts_with(V1_PREFIX) {
        (IceVersion::V1, server_ufrag)
    } else if server_ufrag.starts_with(RESERVED_PREFIX) {
        return Err(RejectReason::UnknownVersion);
    } else {
        return Err(RejectReason::ForeignUfrag);
    };
    if client_pwd.len() < MIN_PASSWORD_LEN {
        return Err(RejectReason::PasswordTooShort);
    }
    if version == IceVersion::V1 && server_ufrag != client_ufrag {
        return Err(RejectReason::HalvesDiffer);
    }
    Ok(Username {
        version,
        server_ufrag,
        client_ufrag,
        client_pwd,
    })
}

/// Checks one half of a USERNAME against `ice-ufrag` of RFC 8839.
fn validate_ufrag(ufrag: &str) -> Result<(), RejectReason> {
    if ufrag.is_empty() {
        return Err(RejectReason::EmptyUfrag);
    }
    if ufrag.len() < *UFRAG_LEN.start() {
        return Err(RejectReason::UfragTooShort);
    }
    if ufrag.len() > *UFRAG_LEN.end() {
        return Err(RejectReason::UfragTooLong);
    }
    if !ufrag.bytes().all(is_ice_char) {
        return Err(RejectReason::ForbiddenCharacter);
    }
    Ok(())
}

/// `ice-char` of RFC 8839, section 5.4.
const fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

/// The credentials a dialer made up for one connection attempt.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DialCredentials {
    /// Which handshake is spoken.
    pub(crate) version: IceVersion,
    /// The listener's ufrag; also its password, so the key of requests to it and of its responses.
    pub(crate) server_ufrag: String,
    /// Our ufrag.
    pub(crate) client_ufrag: String,
    /// Our password: the key of checks the listener may send us.
    pub(crate) client_pwd: String,
}

impl DialCredentials {
    /// Makes up new credentials; `rng` must be unpredictable outside tests.
    pub(crate) fn generate(version: IceVersion, rng: &mut impl Rng) -> Self {
        let random = random_ice_string(rng);
        match version {
            IceVersion::V1 => {
                let shared = format!("{}{random}", version.prefix());
                Self {
                    version,
                    server_ufrag: shared.clone(),
                    client_ufrag: shared.clone(),
                    client_pwd: shared,
                }
            }
            IceVersion::V2 => Self {
                version,
                server_ufrag: format!("{}{random}", version.prefix()),
                client_ufrag: random_ice_string(rng),
                client_pwd: random,
            },
        }
    }

    /// USERNAME of requests to the listener.
    pub(crate) fn username(&self) -> String {
        format!("{}:{}", self.server_ufrag, self.client_ufrag)
    }
}

/// Shows only what travels in clear anyway.
impl std::fmt::Debug for DialCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DialCredentials")
            .field("version", &self.version)
            .field("client_ufrag", &self.client_ufrag)
            .finish_non_exhaustive()
    }
}

/// Letters and digits only, as go-libp2p does: no receiver has trouble with those.
fn random_ice_string(rng: &mut impl Rng) -> String {
    rng.sample_iter(Alphanumeric)
        .take(RANDOM_LEN)
        .map(char::from)
        .collect()
}
