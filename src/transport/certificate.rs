//! The DTLS certificate of a node: derive it from the identity, load it, or generate it.
//!
//! Owns the certificate and its private key in DER and their encodings. The transport takes the fingerprint for
//! announced addresses from here and hands both DER blobs to the DTLS engine. Certificates of remote peers are not
//! this module's job: they are compared by fingerprint and never parsed.

use std::{error::Error, fmt};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use libp2p_identity::{KeyType, Keypair};
use multihash::Multihash;
use p256::{
    SecretKey,
    ecdsa::{DerSignature, SigningKey, signature::Signer},
    elliptic_curve::{
        sec1::ToSec1Point,
        zeroize::{Zeroize, Zeroizing},
    },
    pkcs8::{DecodePrivateKey, EncodePrivateKey},
};
use rand::CryptoRng;
use sha2::Sha256;

use crate::proto::fingerprint::Fingerprint;

#[cfg(test)]
mod tests;

/// Keeps the derived key apart from anything else derived from the identity.
const HKDF_INFO: &[u8] = b"libp2p webrtc-direct deterministic cert";
/// Bytes of the derived material that become the serial number; the rest seeds the key.
const SERIAL_LEN: usize = 8;
/// Bytes of the derived material that seed the key: C2SP det-keygen asks for 192 bits.
const KEY_SEED_LEN: usize = 24;
/// Personalization string of C2SP det-keygen for this curve.
const KEYGEN_PERSONALIZATION: &[u8] = b"det ECDSA key gen P-256";
/// Multihash code of sha2-256.
const SHA2_256: u64 = 0x12;

/// Content of `version [0] EXPLICIT INTEGER 2`, that is X.509 version 3.
const VERSION_3: [u8; 5] = [0xa0, 0x03, 0x02, 0x01, 0x02];
/// `AlgorithmIdentifier` of ecdsa-with-SHA256 (RFC 5758, section 3.2), whole element.
const ECDSA_WITH_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
/// Object identifier of commonName (2.5.4.3), whole element.
const COMMON_NAME_OID: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
/// Issuer and subject; nobody reads it.
const COMMON_NAME: &[u8] = b"libp2p-webrtc-direct";
/// Fixed, because a date that depends on the clock would change the certhash.
const NOT_BEFORE: &[u8] = b"200101000000Z";
/// A century: no peer checks it, but some stacks refuse to present an expired certificate.
const NOT_AFTER: &[u8] = b"21200101000000Z";
/// `SubjectPublicKeyInfo` of an uncompressed P-256 point, up to that point (RFC 5480, section 2).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// DER tags used below.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// Why a certificate could not be made or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The identity key does not give its private bytes away, so nothing can be derived from it (RSA).
    #[error("no certificate can be derived from an identity key of type {0}")]
    UnsupportedIdentity(KeyType),
    /// The identity key could not be encoded or used to derive a key.
    #[error("no certificate can be derived from this identity key")]
    Derivation,
    /// The text is not PEM.
    #[error("the text is not valid PEM")]
    Pem(#[source] Box<dyn Error + Send + Sync>),
    /// The text has no PEM block at all.
    #[error("the text is not PEM: it has no line like -----BEGIN CERTIFICATE-----")]
    NotPem,
    /// The PEM has no `CERTIFICATE` block.
    #[error("the PEM contains no certificate")]
    MissingCertificate,
    /// The PEM has neither a `PRIVATE KEY` nor an `EC PRIVATE KEY` block.
    #[error("the PEM contains no private key")]
    MissingPrivateKey,
    /// The private key in the PEM is encrypted; only plain ones can be loaded.
    #[error("the private key is encrypted with a password: store it decrypted")]
    EncryptedPrivateKey,
    /// The certificate is not one DER structure.
    #[error("the certificate is not valid DER")]
    InvalidCertificate,
    /// The private key is not a P-256 key in PKCS#8, or in PEM in SEC1.
    #[error("the private key is not a valid P-256 key")]
    InvalidPrivateKey,
    /// The certificate was made for another key, or is not one for P-256.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
}

/// A DTLS certificate with its private key, ECDSA on the curve P-256.
///
/// The certificate is not the identity of the node: the Noise handshake within the connection proves that. Peers
/// recognise the certificate by the `/certhash/..` component of the multiaddr, so the certificate should stay the same
/// across restarts or announced addresses die. There are three ways to have that:
///
/// * [`Certificate::from_keypair`] derives certificate and key from the node's identity, and needs no storage. Same
///   identity, same certhash; go-libp2p derives the very same certificate.
/// * [`Certificate::from_pem`] and [`Certificate::from_der`] load one that was stored, for example the output of
///   [`Certificate::to_pem`].
/// * [`Certificate::generate`] makes a new random one; use it for nodes that only dial, or store it.
#[derive(Clone)]
pub struct Certificate {
    certificate_der: Vec<u8>,
    /// PKCS#8.
    private_key_der: Zeroizing<Vec<u8>>,
    fingerprint: Fingerprint,
}

impl Certificate {
    /// Derives the certificate from the node's identity.
    ///
    /// The result depends on nothing but the key, so it is the same on every start and on every machine, and the same
    /// as the one [go-libp2p] derives for the same identity. Key and serial number come from [HKDF-SHA256] over the
    /// private key, the key by [C2SP det-keygen] (an HMAC-DRBG of [SP 800-90A]), the signature has the deterministic
    /// nonce of [RFC 6979], and the dates are fixed: 2020 to 2120.
    ///
    /// Whoever learns the identity key can compute the key of the certificate too. Earlier sessions stay confidential:
    /// their keys are ephemeral.
    ///
    /// # Errors
    ///
    /// [`CertificateError::UnsupportedIdentity`] for RSA identities, as their private key cannot be exported. Load or
    /// generate a certificate instead.
    ///
    /// [go-libp2p]: https://github.com/libp2p/go-libp2p/tree/master/p2p/transport/webrtc
    /// [HKDF-SHA256]: https://www.rfc-editor.org/rfc/rfc5869
    /// [C2SP det-keygen]: https://c2sp.org/det-keygen
    /// [SP 800-90A]: https://doi.org/10.6028/NIST.SP.800-90Ar1
    /// [RFC 6979]: https://www.rfc-editor.org/rfc/rfc6979
    pub fn from_keypair(keypair: &Keypair) -> Result<Self, CertificateError> {
        let identity = raw_private_key(keypair)?;
        let material = derive_material(&identity);
        let secret =
            derive_secret_key(&material.key_seed[..]).ok_or(CertificateError::Derivation)?;
        Ok(Self::build(material.serial, &secret))
    }

    /// Generates a new random certificate of the same form as a derived one, valid from 2020 to 2120.
    #[must_use]
    pub fn generate() -> Self {
        Self::generate_with(&mut rand::rng())
    }

    /// The same with randomness of the caller's.
    pub(crate) fn generate_with(rng: &mut impl CryptoRng) -> Self {
        let mut candidate = Zeroizing::new([0; 32]);
        let secret = loop {
            rng.fill_bytes(&mut candidate[..]);
            // Fails for zero and for numbers above the order of the curve, once in four thousand million times.
            if let Ok(secret) = SecretKey::from_slice(&candidate[..]) {
                break secret;
            }
        };
        Self::build(rng.next_u64(), &secret)
    }

    /// Loads a certificate and its private key from PEM.
    ///
    /// The text has to contain a `CERTIFICATE` block and a `PRIVATE KEY` (PKCS#8) or `EC PRIVATE KEY` (SEC1) block, in
    /// any order. The first one of each is used, other blocks are ignored. What `Certificate::serialize_pem` of the
    /// crate `libp2p-webrtc` writes is accepted as well.
    ///
    /// # Errors
    ///
    /// If the text is not PEM, if a block is missing, if the key is encrypted or not one for P-256, or if it does not
    /// belong to the certificate.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let blocks = pem::parse_many(text).map_err(|error| CertificateError::Pem(error.into()))?;
        if blocks.is_empty() {
            return Err(CertificateError::NotPem);
        }
        let certificate = blocks
            .iter()
            .find(|block| block.tag() == "CERTIFICATE")
            .map(|block| block.contents().to_vec());
        let secret = blocks.iter().find_map(|block| match block.tag() {
            // PKCS#8 has a tag for it, SEC1 a header (RFC 1421, section 4.6.1.1).
            "ENCRYPTED PRIVATE KEY" => Some(Err(CertificateError::EncryptedPrivateKey)),
            "EC PRIVATE KEY" if block.headers().get("Proc-Type").is_some() => {
                Some(Err(CertificateError::EncryptedPrivateKey))
            }
            // The second spelling is that of webrtc-rs, on which libp2p-webrtc is built.
            "PRIVATE KEY" | "PRIVATE_KEY" => Some(
                SecretKey::from_pkcs8_der(block.contents())
                    .map_err(|_| CertificateError::InvalidPrivateKey),
            ),
            "EC PRIVATE KEY" => Some(
                SecretKey::from_sec1_der(block.contents())
                    .map_err(|_| CertificateError::InvalidPrivateKey),
            ),
            _ => None,
        });
        let certificate = certificate.ok_or(CertificateError::MissingCertificate)?;
        let secret = secret.ok_or(CertificateError::MissingPrivateKey)??;
        Self::from_parts(certificate, &secret)
    }

    /// Loads a certificate and its private key in PKCS#8, both in DER.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read, if the key is not one for P-256, or if it does not belong to the certificate.
    pub fn from_der(certificate: Vec<u8>, key_pkcs8: Vec<u8>) -> Result<Self, CertificateError> {
        let key_pkcs8 = Zeroizing::new(key_pkcs8);
        let secret = SecretKey::from_pkcs8_der(&key_pkcs8)
            .map_err(|_| CertificateError::InvalidPrivateKey)?;
        Self::from_parts(certificate, &secret)
    }

    /// Certificate and private key in PEM, in the form [`Certificate::from_pem`] reads.
    ///
    /// The text contains the private key: store it where only the node can read it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_many_config(
            &[
                pem::Pem::new("CERTIFICATE", self.certificate_der.as_slice()),
                pem::Pem::new("PRIVATE KEY", self.private_key_der.as_slice()),
            ],
            config,
        )
    }

    /// The certificate in DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The private key in DER (PKCS#8).
    pub(crate) fn private_key_der(&self) -> &[u8] {
        &self.private_key_der
    }

    /// The hash that dialers find in the `/certhash/..` component of our addresses (SHA-256).
    #[must_use]
    pub fn certhash(&self) -> Multihash<64> {
        Multihash::wrap(SHA2_256, self.fingerprint.as_bytes())
            .expect("a SHA-256 digest fits into a multihash of 64 bytes")
    }

    /// The same hash without its multihash header.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Signs a new certificate for `secret`.
    fn build(serial: u64, secret: &SecretKey) -> Self {
        let to_be_signed = to_be_signed(serial, &public_point(secret));
        let signature: DerSignature = SigningKey::from(secret).sign(&to_be_signed);
        let certificate = element(
            SEQUENCE,
            &[
                &to_be_signed,
                &ECDSA_WITH_SHA256,
                &element(BIT_STRING, &[&[0], signature.as_bytes()]),
            ],
        );
        Self::new(certificate, secret)
    }

    /// Combines what was loaded from outside.
    fn from_parts(certificate: Vec<u8>, secret: &SecretKey) -> Result<Self, CertificateError> {
        if !is_one_sequence(&certificate) {
            return Err(CertificateError::InvalidCertificate);
        }
        let spki = [&SPKI_PREFIX[..], &public_point(secret)].concat();
        if !certificate.windows(spki.len()).any(|part| part == spki) {
            return Err(CertificateError::KeyMismatch);
        }
        Ok(Self::new(certificate, secret))
    }

    fn new(certificate_der: Vec<u8>, secret: &SecretKey) -> Self {
        let private_key = secret
            .to_pkcs8_der()
            .expect("a valid P-256 key has a PKCS#8 encoding");
        Self {
            fingerprint: Fingerprint::of_der(&certificate_der),
            certificate_der,
            private_key_der: Zeroizing::new(private_key.as_bytes().to_vec()),
        }
    }
}

/// Shows the fingerprint and nothing of the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// The private key of an identity in the form that go-libp2p calls "raw".
///
/// Ed25519: seed and public key, 64 bytes. Secp256k1: the scalar, 32 bytes. ECDSA: SEC1 DER. These are what the
/// protobuf encoding of a private key carries as data.
fn raw_private_key(keypair: &Keypair) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let protobuf = keypair
        .to_protobuf_encoding()
        .map(Zeroizing::new)
        .map_err(|_| CertificateError::UnsupportedIdentity(keypair.key_type()))?;
    let data = protobuf_data(&protobuf).ok_or(CertificateError::Derivation)?;
    if keypair.key_type() != KeyType::Ecdsa {
        return Ok(Zeroizing::new(data.to_vec()));
    }
    // Encoded again, because the optional parts of SEC1 must all be there to agree with Go: an encoder that leaves one
    // out would change the certhash.
    let secret = SecretKey::from_sec1_der(data).map_err(|_| CertificateError::Derivation)?;
    secret
        .to_sec1_der()
        .map_err(|_| CertificateError::Derivation)
}

/// The `Data` field of a libp2p `PrivateKey` message, which consists of the fields `Type` and `Data` in this order.
fn protobuf_data(message: &[u8]) -> Option<&[u8]> {
    let [0x08, _, 0x12, rest @ ..] = message else {
        return None;
    };
    // Keys that come here are shorter than 128 bytes: one length byte.
    let (&len, data) = rest.split_first()?;
    (usize::from(len) == data.len() && len < 0x80).then_some(data)
}

/// What HKDF makes of an identity.
struct Material {
    serial: u64,
    key_seed: Zeroizing<[u8; KEY_SEED_LEN]>,
}

fn derive_material(identity: &[u8]) -> Material {
    let mut okm = Zeroizing::new([0; SERIAL_LEN + KEY_SEED_LEN]);
    Hkdf::<Sha256>::new(None, identity)
        .expand(HKDF_INFO, &mut okm[..])
        .expect("32 bytes are within what HKDF-SHA256 can give");
    let mut serial = [0; SERIAL_LEN];
    let mut key_seed = Zeroizing::new([0; KEY_SEED_LEN]);
    serial.copy_from_slice(&okm[..SERIAL_LEN]);
    key_seed.copy_from_slice(&okm[SERIAL_LEN..]);
    Material {
        serial: u64::from_be_bytes(serial),
        key_seed,
    }
}

/// Makes a P-256 key from a seed as C2SP det-keygen prescribes it: the first of two outputs of HMAC-DRBG that is a
/// valid scalar. `None` if neither is, which no known seed leads to.
fn derive_secret_key(seed: &[u8]) -> Option<SecretKey> {
    let mut drbg = HmacDrbg::new(seed, KEYGEN_PERSONALIZATION);
    (0..2).find_map(|_| SecretKey::from_slice(&drbg.generate()[..]).ok())
}

/// HMAC-DRBG with SHA-256 (SP 800-90A, section 10.1.2), without reseeding.
struct HmacDrbg {
    key: [u8; 32],
    value: [u8; 32],
    /// Whether the update that ends a request is still to be done.
    used: bool,
}

impl HmacDrbg {
    fn new(seed: &[u8], personalization: &[u8]) -> Self {
        let mut drbg = Self {
            key: [0; 32],
            value: [1; 32],
            used: false,
        };
        drbg.update(&[&[0], seed, personalization]);
        drbg.update(&[&[1], seed, personalization]);
        drbg
    }

    fn generate(&mut self) -> Zeroizing<[u8; 32]> {
        if self.used {
            self.update(&[&[0]]);
        }
        self.used = true;
        self.value = self.hmac(&[]);
        Zeroizing::new(self.value)
    }

    fn update(&mut self, data: &[&[u8]]) {
        self.key = self.hmac(data);
        self.value = self.hmac(&[]);
    }

    /// HMAC over the value and `data`.
    fn hmac(&self, data: &[&[u8]]) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&self.value);
        for part in data {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl Drop for HmacDrbg {
    fn drop(&mut self) {
        self.key.zeroize();
        self.value.zeroize();
    }
}

/// The public key as an uncompressed SEC1 point.
fn public_point(secret: &SecretKey) -> Vec<u8> {
    secret.public_key().to_sec1_point(false).as_bytes().to_vec()
}

/// `TBSCertificate` of RFC 5280, without extensions.
fn to_be_signed(serial: u64, point: &[u8]) -> Vec<u8> {
    let name = name();
    element(
        SEQUENCE,
        &[
            &VERSION_3,
            &integer(serial),
            &ECDSA_WITH_SHA256,
            &name,
            &element(
                SEQUENCE,
                &[
                    &element(UTC_TIME, &[NOT_BEFORE]),
                    &element(GENERALIZED_TIME, &[NOT_AFTER]),
                ],
            ),
            &name,
            &SPKI_PREFIX,
            point,
        ],
    )
}

/// A distinguished name with nothing but the common name.
fn name() -> Vec<u8> {
    let attribute = element(
        SEQUENCE,
        &[&COMMON_NAME_OID, &element(PRINTABLE_STRING, &[COMMON_NAME])],
    );
    element(SEQUENCE, &[&element(SET, &[&attribute])])
}

/// A positive INTEGER, which RFC 5280 (section 4.1.2.2) demands of serial numbers: zero becomes one.
fn integer(value: u64) -> Vec<u8> {
    // A leading zero byte keeps the number positive; DER has no more of them than needed.
    let mut bytes = vec![0];
    bytes.extend_from_slice(&value.max(1).to_be_bytes());
    while bytes[0] == 0 && bytes[1] < 0x80 {
        bytes.remove(0);
    }
    element(INTEGER, &[&bytes])
}

/// A DER element with the concatenation of `parts` as content.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut der = vec![tag];
    match content.len().to_be_bytes() {
        [.., 0, len] if len < 0x80 => der.push(len),
        [.., 0, len] => der.extend_from_slice(&[0x81, len]),
        [.., high, low] => der.extend_from_slice(&[0x82, high, low]),
    }
    der.extend_from_slice(&content);
    der
}

/// Whether `der` is one SEQUENCE from the first to the last byte.
fn is_one_sequence(der: &[u8]) -> bool {
    let content_len = match der {
        [SEQUENCE, len, content @ ..] if *len < 0x80 => Some((usize::from(*len), content.len())),
        [SEQUENCE, 0x81, len, content @ ..] => Some((usize::from(*len), content.len())),
        [SEQUENCE, 0x82, high, low, content @ ..] => Some((
            usize::from(u16::from_be_bytes([*high, *low])),
            content.len(),
        )),
        _ => None,
    };
    content_len.is_some_and(|(announced, actual)| announced == actual)
}
