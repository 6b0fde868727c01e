//! The beginning of a DTLS handshake without state (RFC 6347 section 4.2.1): the fixed part of a ClientHello, the
//! cookie that proves its sender's address, and the HelloVerifyRequest that carries it.
//!
//! The endpoint uses it on datagrams of unknown senders, before it keeps anything for them: reading allocates nothing
//! and never panics. When a cookie is asked for, the endpoint decides; the handshake itself is `engine::dtls`.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

#[cfg(test)]
mod tests;

/// How long the cookies of one period are given out; they are taken until the end of the next one.
const PERIOD: Duration = Duration::from_secs(30);
/// A client that was asked more often than this gets no further answer.
const MAX_MESSAGE_SEQ: u16 = 3;

const RECORD_HEADER: usize = 13;
const HANDSHAKE_HEADER: usize = 12;
const VERSION: usize = 2;
const RANDOM: usize = 32;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const DTLS_1_0: [u8; 2] = [0xfe, 0xff];
const DTLS_1_2: [u8; 2] = [0xfe, 0xfd];

/// What a client repeats when it proves its address.
pub(crate) type Cookie = [u8; 32];

/// A HelloVerifyRequest of ours.
pub(crate) const VERIFY_LEN: usize =
    RECORD_HEADER + HANDSHAKE_HEADER + VERSION + 1 + size_of::<Cookie>();

/// The part of a ClientHello that comes before its lists. A long ClientHello travels in fragments; the first has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello<'a> {
    /// How often the client was asked for a cookie.
    pub(crate) message_seq: u16,
    /// Its random; the same in all ClientHellos of one handshake.
    pub(crate) random: [u8; RANDOM],
    /// The cookie; empty in the first one.
    pub(crate) cookie: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// Reads the beginning of a datagram. `None`: it does not begin with the first fragment of a ClientHello.
    pub(crate) fn read(datagram: &'a [u8]) -> Option<Self> {
        let (record, rest) = datagram.split_at_checked(RECORD_HEADER)?;
        let len = usize::from(u16::from_be_bytes([record[11], record[12]]));
        if record[0] != HANDSHAKE || record[3..5] != [0, 0] {
            return None;
        }
        let (header, rest) = rest.get(..len)?.split_at_checked(HANDSHAKE_HEADER)?;
        let fragment_offset = &header[6..9];
        if header[0] != CLIENT_HELLO || fragment_offset != [0, 0, 0] {
            return None;
        }
        let fragment = usize::from(header[9]) << 16
            | usize::from(u16::from_be_bytes([header[10], header[11]]));
        let (_, rest) = rest.get(..fragment)?.split_at_checked(VERSION)?;
        let (random, rest) = rest.split_first_chunk()?;
        let (_session_id, rest) = split_short(rest)?;
        let (cookie, _) = split_short(rest)?;
        let message_seq = u16::from_be_bytes([header[4], header[5]]);
        (message_seq <= MAX_MESSAGE_SEQ).then_some(Self {
            message_seq,
            random: *random,
            cookie,
        })
    }
}

/// A vector whose length has one byte.
fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

/// Makes and checks cookies. Keeps nothing about those who got one.
pub(crate) struct Cookies {
    secret: [u8; 32],
    /// Periods are counted from here: the time of the first cookie.
    since: Option<Instant>,
}

impl Cookies {
    /// Cookies that nobody without `secret` can make.
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            since: None,
        }
    }

    fn period(&mut self, now: Instant) -> u64 {
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since).as_secs() / PERIOD.as_secs()
    }

    /// Of the address and nothing else: an answer to what others sent in a client's name, which is on its way to that
    /// client, must not lead it astray.
    fn mac(&self, period: u64, remote: SocketAddr) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(&period.to_be_bytes());
        let ip = match remote.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        mac.update(&ip.octets());
        mac.update(&remote.port().to_be_bytes());
        mac
    }

    /// The cookie for a client at this address.
    pub(crate) fn make(&mut self, now: Instant, remote: SocketAddr) -> Cookie {
        let period = self.period(now);
        self.mac(period, remote).finalize().into_bytes().into()
    }

    /// The cookie of a ClientHello, if it is one that was given to this address not long ago.
    pub(crate) fn verify(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        hello: &ClientHello<'_>,
    ) -> Option<Cookie> {
        let cookie: Cookie = hello.cookie.try_into().ok()?;
        let period = self.period(now);
        let valid = [Some(period), period.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|period| self.mac(period, remote).verify_slice(&cookie).is_ok());
        (valid && hello.message_seq > 0).then_some(cookie)
    }
}

/// Writes one handshake message as a datagram of its own. It has the number of the ClientHello that it answers, as a
/// record too: so no two different records have one number, and the handshake, which goes on with the next, needs to
/// know nothing of what was said before.
fn datagram(kind: u8, message_seq: u16, body: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let record_len = u16::try_from(HANDSHAKE_HEADER + body.len()).unwrap_or(u16::MAX);
    let mut datagram = Vec::with_capacity(RECORD_HEADER + HANDSHAKE_HEADER + body.len());
    datagram.push(HANDSHAKE);
    datagram.extend_from_slice(&DTLS_1_2);
    // Epoch 0, number of the record in 48 bits.
    datagram.extend_from_slice(&u64::from(message_seq).to_be_bytes());
    datagram.extend_from_slice(&record_len.to_be_bytes());
    datagram.push(kind);
    datagram.extend_from_slice(&len);
    datagram.extend_from_slice(&message_seq.to_be_bytes());
    datagram.extend_from_slice(&[0; 3]);
    datagram.extend_from_slice(&len);
    datagram.extend_from_slice(body);
    datagram
}

/// The answer that asks for `cookie`.
pub(crate) fn verify_request(hello: &ClientHello<'_>, cookie: &Cookie) -> Vec<u8> {
    let mut body = Vec::with_capacity(VERSION + 1 + cookie.len());
    // RFC 6347 section 4.2.1: DTLS 1.0, whatever is negotiated later.
    body.extend_from_slice(&DTLS_1_0);
    body.push(size_of::<Cookie>() as u8);
    body.extend_from_slice(cookie);
    datagram(HELLO_VERIFY_REQUEST, hello.message_seq, &body)
}

/// The ClientHello that must have come as number `message_seq` before this one, as far as it matters: the engine takes
/// the one with the cookie only after it.
pub(crate) fn earlier_hello(hello: &ClientHello<'_>, message_seq: u16) -> Vec<u8> {
    let mut body = Vec::with_capacity(VERSION + RANDOM + 8);
    body.extend_from_slice(&DTLS_1_2);
    body.extend_from_slice(&hello.random);
    // No session, no cookie, one cipher suite, no compression.
    body.extend_from_slice(&[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]);
    datagram(CLIENT_HELLO, message_seq, &body)
}
