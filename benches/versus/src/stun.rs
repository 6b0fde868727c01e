//! A STUN encoder for exactly one message: the connectivity check a WebRTC-direct dialer opens
//! with (RFC 8489, RFC 8445 section 7.1), correctly signed. Written here so that the flood does
//! not depend on the code under test.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::rng::SplitMix;

/// Bytes of a message header, RFC 8489 section 5.
const HEADER: usize = 20;
/// Bytes of a MESSAGE-INTEGRITY attribute with its header.
const INTEGRITY: usize = 24;
/// Bytes of a FINGERPRINT attribute with its header.
const FINGERPRINT: usize = 8;
/// RFC 8489 section 5.
const MAGIC: u32 = 0x2112_a442;
/// RFC 8489 section 14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// The characters ICE credentials are made of, RFC 8445 section 15.4.
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Which libp2p handshake a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Both halves of USERNAME are the same string, also the password.
    V1,
    /// The server half carries the client's password, the client half its own ufrag.
    V2,
}

/// A signed Binding Request with fresh credentials and transaction id.
pub fn check(version: Version, rng: &mut SplitMix) -> Vec<u8> {
    let (server, client) = match version {
        Version::V1 => {
            let both = format!("libp2p+webrtc+v1/{}", text(rng, 32));
            (both.clone(), both)
        }
        Version::V2 => (format!("libp2p+webrtc+v2/{}", text(rng, 24)), text(rng, 8)),
    };
    let mut message = Vec::with_capacity(192);
    message.extend_from_slice(&0x0001_u16.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(&MAGIC.to_be_bytes());
    message.extend_from_slice(&rng.next().to_be_bytes());
    message.extend_from_slice(&rng.next().to_be_bytes()[..4]);
    attribute(
        &mut message,
        0x0006,
        format!("{server}:{client}").as_bytes(),
    );
    attribute(&mut message, 0x0024, &0x6e7f_1eff_u32.to_be_bytes());
    attribute(&mut message, 0x802a, &rng.next().to_be_bytes());
    sign(&mut message, server.as_bytes());
    message
}

/// Whether `answer` is the success response to `request`.
pub fn answers(answer: &[u8], request: &[u8]) -> bool {
    answer.len() >= HEADER && answer[..2] == [0x01, 0x01] && answer[8..HEADER] == request[8..HEADER]
}

/// Random ICE characters.
fn text(rng: &mut SplitMix, len: usize) -> String {
    (0..len)
        .map(|_| char::from(ICE_CHARS[(rng.next() % 64) as usize]))
        .collect()
}

/// Appends one attribute, padded to four bytes.
fn attribute(message: &mut Vec<u8>, code: u16, value: &[u8]) {
    message.extend_from_slice(&code.to_be_bytes());
    message.extend_from_slice(&(value.len() as u16).to_be_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Appends MESSAGE-INTEGRITY and FINGERPRINT; each is computed with the length field already
/// counting it (RFC 8489 sections 14.5 and 14.7).
fn sign(message: &mut Vec<u8>, password: &[u8]) {
    count_in(message, INTEGRITY);
    let mut mac = Hmac::<Sha1>::new_from_slice(password).expect("HMAC takes keys of any length");
    mac.update(message);
    let tag = mac.finalize().into_bytes();
    attribute(message, 0x0008, &tag);
    count_in(message, FINGERPRINT);
    let crc = crc32fast::hash(message) ^ FINGERPRINT_XOR;
    attribute(message, 0x8028, &crc.to_be_bytes());
}

/// Writes the length field for a message that will grow by `more` bytes.
fn count_in(message: &mut [u8], more: usize) {
    let length = (message.len() + more - HEADER) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_well_formed() {
        for version in [Version::V1, Version::V2] {
            let message = check(version, &mut SplitMix::new(5));
            assert_eq!(message.len() % 4, 0);
            let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
            assert_eq!(length + HEADER, message.len());
            let body = &message[..message.len() - FINGERPRINT];
            let crc = message[message.len() - 4..].to_vec();
            assert_eq!(crc, (crc32fast::hash(body) ^ FINGERPRINT_XOR).to_be_bytes());
        }
    }

    /// The sample request of RFC 5769 section 2.1, with its SOFTWARE and credentials.
    #[test]
    fn signs_as_the_published_vector() {
        let mut message = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
        message.extend_from_slice(&[
            0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
        ]);
        attribute(&mut message, 0x8022, b"STUN test client");
        attribute(&mut message, 0x0024, &[0x6e, 0x00, 0x01, 0xff]);
        attribute(
            &mut message,
            0x8029,
            &[0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36],
        );
        // The vector pads USERNAME with spaces instead of zeros.
        attribute(&mut message, 0x0006, b"evtj:h6vY");
        let end = message.len();
        message[end - 3..].fill(b' ');
        sign(&mut message, b"VOkJxbRl1RmTxUk/WvJxBt");
        let tag = [
            0x9a, 0xea, 0xa7, 0x0c, 0xbf, 0xd8, 0xcb, 0x56, 0x78, 0x1e, 0xf2, 0xb5, 0xb2, 0xd3,
            0xf2, 0x49, 0xc1, 0xb5, 0x71, 0xa2,
        ];
        assert_eq!(message[end + 4..end + 24], tag);
        assert_eq!(message[message.len() - 4..], [0xe5, 0x7a, 0x3b, 0xcf]);
    }
}
