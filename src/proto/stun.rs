//! The part of STUN ([RFC 8489]) that ICE connectivity checks need: read and write Binding requests, their success
//! and their error responses, with short-term credentials (MESSAGE-INTEGRITY) and FINGERPRINT.
//!
//! The demultiplexer calls [`is_stun`] and [`parse`] on datagrams of unknown senders, so parsing allocates nothing and
//! never panics. A parsed message borrows the datagram and owns no state. Which request deserves an answer, roles,
//! nomination and retransmission are the business of the callers.
//!
//! [RFC 8489]: https://www.rfc-editor.org/rfc/rfc8489

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha1::Sha1;

#[cfg(test)]
mod tests;

/// Type, length, magic cookie and transaction id (RFC 8489, section 5).
const HEADER_LEN: usize = 20;
/// Tells STUN from everything else that shares the port (RFC 8489, section 5).
const MAGIC_COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
/// The checksum is mixed with the letters "STUN" (RFC 8489, section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Bytes of an HMAC-SHA1.
const INTEGRITY_LEN: usize = 20;
/// Attributes below this number must be understood by the receiver (RFC 8489, section 14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

const MAPPED_ADDRESS: u16 = 0x0001;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;

/// Ties a response to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TransactionId(pub [u8; 12]);

impl TransactionId {
    /// Draws a fresh id; RFC 8489 (section 5) asks for 96 uniformly random bits.
    pub(crate) fn random(rng: &mut impl Rng) -> Self {
        let mut id = [0; 12];
        rng.fill_bytes(&mut id);
        Self(id)
    }
}

/// The role the sender of a request claims, with its tie-breaker (RFC 8445, section 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IceRole {
    /// The sender nominates.
    Controlling(u64),
    /// The sender waits for a nomination.
    Controlled(u64),
}

/// Why a datagram is not a usable STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StunError {
    /// Shorter than a header, or the first two bits or the cookie are wrong.
    #[error("not a STUN message")]
    NotStun,
    /// The length field is no multiple of four or disagrees with the datagram.
    #[error("STUN length field is wrong")]
    Length,
    /// An attribute reaches beyond the end of the message.
    #[error("STUN attribute is truncated")]
    Truncated,
    /// An attribute with this number has an impossible value.
    #[error("STUN attribute {0:#06x} is malformed")]
    Malformed(u16),
    /// FINGERPRINT is not the last attribute or does not match the message.
    #[error("STUN fingerprint is wrong")]
    Fingerprint,
    /// The message needs an understanding of attributes we do not have; it must not be processed.
    #[error("STUN message has unknown attributes that must be understood")]
    UnknownAttributes(UnknownAttributes),
}

/// The first few unknown comprehension-required attributes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownAttributes {
    types: [u16; Self::CAPACITY],
    len: usize,
}

impl UnknownAttributes {
    /// A message with more of them is refused just the same; the rest are not listed.
    const CAPACITY: usize = 8;

    const fn new() -> Self {
        Self {
            types: [0; Self::CAPACITY],
            len: 0,
        }
    }

    fn push(&mut self, attribute: u16) {
        if let Some(slot) = self.types.get_mut(self.len) {
            *slot = attribute;
            self.len += 1;
        }
    }

    /// Attribute numbers in the order of the message.
    pub(crate) fn as_slice(&self) -> &[u16] {
        &self.types[..self.len]
    }
}

/// A well-formed STUN message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message<'a> {
    /// A connectivity check of the peer.
    BindingRequest(BindingRequest<'a>),
    /// An answer that reports our address as the peer sees it.
    BindingSuccess(BindingResponse<'a>),
    /// An answer that refuses a check.
    BindingError(BindingResponse<'a>),
    /// STUN, but nothing ICE checks use: an indication or another method.
    Other,
}

/// MESSAGE-INTEGRITY and the bytes it covers.
#[derive(Clone, Copy, Debug)]
struct Integrity<'a> {
    covered: &'a [u8],
    mac: &'a [u8],
}

impl Integrity<'_> {
    fn verify(&self, key: &[u8]) -> bool {
        hmac(self.covered, key).verify_slice(self.mac).is_ok()
    }
}

/// Starts the HMAC over `message`, a STUN message up to but without MESSAGE-INTEGRITY.
///
/// The length field enters the HMAC as if the message ended after MESSAGE-INTEGRITY (RFC 8489, section 14.5).
fn hmac(message: &[u8], key: &[u8]) -> Hmac<Sha1> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of any length");
    let body_len = message.len() - HEADER_LEN + 4 + INTEGRITY_LEN;
    mac.update(&message[..2]);
    mac.update(&length_field(body_len));
    mac.update(&message[4..]);
    mac
}

fn length_field(len: usize) -> [u8; 2] {
    u16::try_from(len)
        .expect("a STUN message fits in a datagram")
        .to_be_bytes()
}

/// A Binding request; the values are claims until [`BindingRequest::verify`] said yes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindingRequest<'a> {
    transaction_id: TransactionId,
    attributes: Attributes<'a>,
}

impl<'a> BindingRequest<'a> {
    /// The id the response has to repeat.
    pub(crate) fn transaction_id(&self) -> TransactionId {
        self.transaction_id
    }

    /// `<receiver's ufrag>:<sender's ufrag>`.
    pub(crate) fn username(&self) -> Option<&'a str> {
        self.attributes.username
    }

    /// Whether the controlling side nominates the pair with this check.
    pub(crate) fn use_candidate(&self) -> bool {
        self.attributes.use_candidate
    }

    /// The role the sender believes it has.
    pub(crate) fn role(&self) -> Option<IceRole> {
        self.attributes.role
    }

    /// Priority the sender would give a peer-reflexive candidate learned from this check.
    pub(crate) fn priority(&self) -> Option<u32> {
        self.attributes.priority
    }

    /// Whether the request carries MESSAGE-INTEGRITY at all.
    #[cfg(any(test, feature = "__fuzzing"))]
    pub(crate) fn has_integrity(&self) -> bool {
        self.attributes.integrity.is_some()
    }

    /// Whether the request carries MESSAGE-INTEGRITY made with `key`.
    pub(crate) fn verify(&self, key: &[u8]) -> bool {
        self.attributes.verify(key)
    }
}

/// A Binding success or error response; the values are claims until [`BindingResponse::verify`] said yes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindingResponse<'a> {
    transaction_id: TransactionId,
    attributes: Attributes<'a>,
}

impl BindingResponse<'_> {
    /// The id of the request this answers.
    pub(crate) fn transaction_id(&self) -> TransactionId {
        self.transaction_id
    }

    /// Where the request came from as the responder saw it.
    pub(crate) fn mapped_address(&self) -> Option<SocketAddr> {
        self.attributes.mapped_address
    }

    /// The number of an error response, 300 to 699.
    pub(crate) fn error_code(&self) -> Option<u16> {
        self.attributes.error_code
    }

    /// Whether there is a MESSAGE-INTEGRITY at all.
    pub(crate) fn has_integrity(&self) -> bool {
        self.attributes.integrity.is_some()
    }

    /// Whether the response carries MESSAGE-INTEGRITY made with `key`.
    pub(crate) fn verify(&self, key: &[u8]) -> bool {
        self.attributes.verify(key)
    }
}

/// What the attributes of one message say. Of repeated attributes the first counts (RFC 8489, section 14).
#[derive(Clone, Copy, Debug, Default)]
struct Attributes<'a> {
    username: Option<&'a str>,
    use_candidate: bool,
    role: Option<IceRole>,
    priority: Option<u32>,
    mapped_address: Option<SocketAddr>,
    error_code: Option<u16>,
    integrity: Option<Integrity<'a>>,
}

impl<'a> Attributes<'a> {
    fn verify(&self, key: &[u8]) -> bool {
        self.integrity
            .is_some_and(|integrity| integrity.verify(key))
    }

    /// Reads all attributes of a message with a checked header.
    fn parse(datagram: &'a [u8], id: TransactionId) -> Result<Self, StunError> {
        let mut attributes = Self::default();
        let mut unknown = UnknownAttributes::new();
        let mut offset = HEADER_LEN;
        while let Some(header) = datagram.get(offset..offset + 4) {
            let attribute = u16::from_be_bytes([header[0], header[1]]);
            let value_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let end = offset + 4 + value_len.next_multiple_of(4);
            if end > datagram.len() {
                return Err(StunError::Truncated);
            }
            let value = &datagram[offset + 4..offset + 4 + value_len];
            if attribute == FINGERPRINT {
                if end != datagram.len() || !fingerprint_matches(&datagram[..offset], value) {
                    return Err(StunError::Fingerprint);
                }
            } else if attributes.integrity.is_none() {
                // What follows MESSAGE-INTEGRITY is not protected by it and must be ignored (section 14.5).
                attributes.read(attribute, value, &datagram[..offset], id, &mut unknown)?;
            }
            offset = end;
        }
        if !unknown.as_slice().is_empty() {
            return Err(StunError::UnknownAttributes(unknown));
        }
        Ok(attributes)
    }

    /// Takes one attribute in; `before` is the message up to it.
    fn read(
        &mut self,
        attribute: u16,
        value: &'a [u8],
        before: &'a [u8],
        id: TransactionId,
        unknown: &mut UnknownAttributes,
    ) -> Result<(), StunError> {
        let malformed = StunError::Malformed(attribute);
        match attribute {
            USERNAME => {
                let username = std::str::from_utf8(value).map_err(|_| malformed)?;
                self.username.get_or_insert(username);
            }
            MESSAGE_INTEGRITY => {
                if value.len() != INTEGRITY_LEN {
                    return Err(malformed);
                }
                self.integrity = Some(Integrity {
                    covered: before,
                    mac: value,
                });
            }
            ERROR_CODE => {
                let code = decode_error_code(value).ok_or(malformed)?;
                self.error_code.get_or_insert(code);
            }
            XOR_MAPPED_ADDRESS => {
                let address = decode_xor_address(value, id).ok_or(malformed)?;
                self.mapped_address.get_or_insert(address);
            }
            PRIORITY => {
                let priority = value.try_into().map_err(|_| malformed)?;
                self.priority
                    .get_or_insert_with(|| u32::from_be_bytes(priority));
            }
            USE_CANDIDATE => {
                if !value.is_empty() {
                    return Err(malformed);
                }
                self.use_candidate = true;
            }
            ICE_CONTROLLED | ICE_CONTROLLING => {
                let tie_breaker = u64::from_be_bytes(value.try_into().map_err(|_| malformed)?);
                self.role.get_or_insert(if attribute == ICE_CONTROLLING {
                    IceRole::Controlling(tie_breaker)
                } else {
                    IceRole::Controlled(tie_breaker)
                });
            }
            // Known, but without a use in checks with short-term credentials.
            MAPPED_ADDRESS | UNKNOWN_ATTRIBUTES | REALM | NONCE => {}
            _ if attribute < COMPREHENSION_OPTIONAL => unknown.push(attribute),
            _ => {}
        }
        Ok(())
    }
}

/// Whether `datagram` may be STUN: the two zero bits (RFC 7983) and the magic cookie are there.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN && datagram[0] < 4 && datagram[4..8] == MAGIC_COOKIE
}

/// Reads one datagram as a STUN message.
///
/// # Errors
///
/// If it is not exactly one well-formed message, if a FINGERPRINT does not match, or if a Binding message contains
/// attributes that must be understood and are not. The right answer to each of these is to drop the datagram.
pub(crate) fn parse(datagram: &[u8]) -> Result<Message<'_>, StunError> {
    if !is_stun(datagram) {
        return Err(StunError::NotStun);
    }
    let body_len = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    if body_len % 4 != 0 || body_len != datagram.len() - HEADER_LEN {
        return Err(StunError::Length);
    }
    let mut id = [0; 12];
    id.copy_from_slice(&datagram[8..HEADER_LEN]);
    let transaction_id = TransactionId(id);
    let message_type = u16::from_be_bytes([datagram[0], datagram[1]]);
    if !matches!(
        message_type,
        BINDING_REQUEST | BINDING_SUCCESS | BINDING_ERROR
    ) {
        return Ok(Message::Other);
    }
    let attributes = Attributes::parse(datagram, transaction_id)?;
    let response = BindingResponse {
        transaction_id,
        attributes,
    };
    Ok(match message_type {
        BINDING_SUCCESS => Message::BindingSuccess(response),
        BINDING_ERROR => Message::BindingError(response),
        _ => Message::BindingRequest(BindingRequest {
            transaction_id,
            attributes,
        }),
    })
}

/// Checks a FINGERPRINT value against the message before that attribute (RFC 8489, section 14.7).
fn fingerprint_matches(before: &[u8], value: &[u8]) -> bool {
    value == fingerprint(before)
}

fn fingerprint(before: &[u8]) -> [u8; 4] {
    (crc32fast::hash(before) ^ FINGERPRINT_XOR).to_be_bytes()
}

/// Reads class and number of ERROR-CODE; the reason phrase is for people and not kept.
fn decode_error_code(value: &[u8]) -> Option<u16> {
    let [_, _, class, number, ..] = value else {
        return None;
    };
    let class = u16::from(class & 0b111);
    (matches!(class, 3..=6) && *number < 100).then(|| class * 100 + u16::from(*number))
}

/// Reads XOR-MAPPED-ADDRESS (RFC 8489, section 14.2).
fn decode_xor_address(value: &[u8], id: TransactionId) -> Option<SocketAddr> {
    let [_, family, port_high, port_low, address @ ..] = value else {
        return None;
    };
    let port = u16::from_be_bytes([port_high ^ MAGIC_COOKIE[0], port_low ^ MAGIC_COOKIE[1]]);
    let ip = match (family, address.len()) {
        (1, 4) => {
            let mut octets: [u8; 4] = address.try_into().ok()?;
            xor_address(&mut octets, id);
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        (2, 16) => {
            let mut octets: [u8; 16] = address.try_into().ok()?;
            xor_address(&mut octets, id);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Mixes address bytes with the cookie and the transaction id; doing it twice gives the address back.
fn xor_address(octets: &mut [u8], id: TransactionId) {
    for (octet, mask) in octets.iter_mut().zip(MAGIC_COOKIE.iter().chain(&id.0)) {
        *octet ^= mask;
    }
}

/// Content of a connectivity check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestParams<'a> {
    /// Fresh for every request that is not a retransmission.
    pub(crate) transaction_id: TransactionId,
    /// `<receiver's ufrag>:<our ufrag>`.
    pub(crate) username: &'a str,
    /// The receiver's ICE password.
    pub(crate) key: &'a [u8],
    /// Our role and tie-breaker.
    pub(crate) role: IceRole,
    /// Priority for a peer-reflexive candidate.
    pub(crate) priority: u32,
    /// Whether this check nominates its pair.
    pub(crate) use_candidate: bool,
}

/// Appends a Binding request to `out`.
pub(crate) fn encode_binding_request(params: &RequestParams<'_>, out: &mut Vec<u8>) {
    let mut writer = Writer::new(BINDING_REQUEST, params.transaction_id, out);
    writer.attribute(USERNAME, params.username.as_bytes());
    match params.role {
        IceRole::Controlling(tie_breaker) => {
            writer.attribute(ICE_CONTROLLING, &tie_breaker.to_be_bytes());
        }
        IceRole::Controlled(tie_breaker) => {
            writer.attribute(ICE_CONTROLLED, &tie_breaker.to_be_bytes());
        }
    }
    writer.attribute(PRIORITY, &params.priority.to_be_bytes());
    if params.use_candidate {
        writer.attribute(USE_CANDIDATE, &[]);
    }
    writer.finish(params.key);
}

/// Appends a Binding request without credentials to `out`, as STUN servers answer it.
pub(crate) fn encode_plain_request(id: TransactionId, out: &mut Vec<u8>) {
    // Dropped unfinished: it has no attributes.
    Writer::new(BINDING_REQUEST, id, out);
}

/// Appends a Binding success response to `out`; `mapped` is the source of the request.
pub(crate) fn encode_binding_success(
    id: TransactionId,
    mapped: SocketAddr,
    key: &[u8],
    out: &mut Vec<u8>,
) {
    let mut value = [0; 20];
    value[2..4].copy_from_slice(&mapped.port().to_be_bytes());
    value[2] ^= MAGIC_COOKIE[0];
    value[3] ^= MAGIC_COOKIE[1];
    let len = match mapped.ip() {
        IpAddr::V4(ip) => {
            value[1] = 1;
            value[4..8].copy_from_slice(&ip.octets());
            8
        }
        IpAddr::V6(ip) => {
            value[1] = 2;
            value[4..].copy_from_slice(&ip.octets());
            20
        }
    };
    xor_address(&mut value[4..len], id);
    let mut writer = Writer::new(BINDING_SUCCESS, id, out);
    writer.attribute(XOR_MAPPED_ADDRESS, &value[..len]);
    writer.finish(key);
}

/// Appends a Binding error response to `out`; `code` is 300 to 699, `reason` a short phrase.
pub(crate) fn encode_binding_error(
    id: TransactionId,
    code: u16,
    reason: &str,
    key: &[u8],
    out: &mut Vec<u8>,
) {
    debug_assert!(matches!(code, 300..=699), "no STUN error code: {code}");
    let [.., class] = (code / 100).to_be_bytes();
    let [.., number] = (code % 100).to_be_bytes();
    let mut value = vec![0, 0, class, number];
    value.extend_from_slice(reason.as_bytes());
    let mut writer = Writer::new(BINDING_ERROR, id, out);
    writer.attribute(ERROR_CODE, &value);
    writer.finish(key);
}

/// Builds one message at the end of a buffer.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    fn new(message_type: u16, id: TransactionId, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&message_type.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&MAGIC_COOKIE);
        out.extend_from_slice(&id.0);
        Self { out, start }
    }

    fn attribute(&mut self, attribute: u16, value: &[u8]) {
        self.out.extend_from_slice(&attribute.to_be_bytes());
        self.out.extend_from_slice(&length_field(value.len()));
        self.out.extend_from_slice(value);
        let padding = value.len().next_multiple_of(4) - value.len();
        self.out.extend_from_slice(&[0; 3][..padding]);
    }

    /// Seals the message with MESSAGE-INTEGRITY and FINGERPRINT.
    fn finish(mut self, key: &[u8]) {
        let mac = hmac(&self.out[self.start..], key).finalize().into_bytes();
        self.attribute(MESSAGE_INTEGRITY, &mac);
        // FINGERPRINT covers the length field too, and that already counts the 8 bytes of FINGERPRINT itself.
        let body_len = self.out.len() - self.start - HEADER_LEN + 8;
        self.out[self.start + 2..self.start + 4].copy_from_slice(&length_field(body_len));
        let checksum = fingerprint(&self.out[self.start..]);
        self.attribute(FINGERPRINT, &checksum);
    }
}
