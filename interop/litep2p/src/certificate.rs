//! A DTLS certificate that depends on the seed only, so that the announced address survives a
//! restart. litep2p itself generates a fresh one for every start, but takes a foreign one.

use litep2p::transport::webrtc::DtlsCertificate;
use p256::{
    SecretKey,
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::EncodePrivateKey as _,
};
use sha2::{Digest as _, Sha256};

use crate::Failure;

/// DER tags used here.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// `AlgorithmIdentifier` of ecdsa-with-SHA256, RFC 5758 section 3.2.
const ECDSA_WITH_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

/// `AlgorithmIdentifier` of an elliptic curve key on P-256, RFC 5480 section 2.1.1.
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];

/// The object identifier of a common name, RFC 5280 appendix A.1.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// The certificate of `seed`.
pub fn of_seed(seed: u64) -> Result<DtlsCertificate, Failure> {
    let secret = secret_key(seed)?;
    let der = self_signed(&SigningKey::from(&secret));
    let key = secret.to_pkcs8_der()?;
    Ok(DtlsCertificate::load(der, key.as_bytes().to_vec())?)
}

/// The key of `seed`.
fn secret_key(seed: u64) -> Result<SecretKey, Failure> {
    let mut hash = Sha256::new();
    hash.update(b"litep2p-peer certificate");
    hash.update(seed.to_be_bytes());
    Ok(SecretKey::from_slice(&hash.finalize())?)
}

/// A self-signed X.509 certificate; RFC 6979 makes the signature the same each time.
fn self_signed(key: &SigningKey) -> Vec<u8> {
    let name = tlv(
        SEQUENCE,
        &[&tlv(
            SET,
            &[&tlv(
                SEQUENCE,
                &[&COMMON_NAME, &tlv(UTF8_STRING, &[b"litep2p-peer"])],
            )],
        )],
    );
    let validity = tlv(
        SEQUENCE,
        &[
            &tlv(UTC_TIME, &[b"200101000000Z"]),
            &tlv(GENERALIZED_TIME, &[b"21200101000000Z"]),
        ],
    );
    let point = key.verifying_key().to_sec1_point(false);
    let public_key = tlv(
        SEQUENCE,
        &[&P256, &tlv(BIT_STRING, &[&[0], point.as_bytes()])],
    );
    let to_be_signed = tlv(
        SEQUENCE,
        &[
            &tlv(VERSION, &[&tlv(INTEGER, &[&[2]])]),
            &tlv(INTEGER, &[&[1]]),
            &ECDSA_WITH_SHA256,
            &name,
            &validity,
            &name,
            &public_key,
        ],
    );
    let signature: Signature = key.sign(&to_be_signed);
    tlv(
        SEQUENCE,
        &[
            &to_be_signed,
            &ECDSA_WITH_SHA256,
            &tlv(BIT_STRING, &[&[0], signature.to_der().as_bytes()]),
        ],
    )
}

/// One DER element made of `parts`.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut element = vec![tag];
    match content.len() {
        short @ 0..=0x7f => element.push(short as u8),
        // DER allows the shortest form only.
        medium @ 0x80..=0xff => element.extend([0x81, medium as u8]),
        long => {
            element.push(0x82);
            element.extend((long as u16).to_be_bytes());
        }
    }
    element.extend(content);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_certhash() {
        let certhash = |seed| of_seed(seed).unwrap().certhash_b64();
        assert_eq!(certhash(7), certhash(7));
        assert_ne!(certhash(7), certhash(8));
    }
}
