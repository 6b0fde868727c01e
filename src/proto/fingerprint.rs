//! SHA-256 fingerprints of DTLS certificates and the Noise prologue made of them ([libp2p WebRTC Direct]).
//!
//! A fingerprint is the bridge between three worlds: the DTLS certificate, the `/certhash` of a multiaddr and the
//! prologue that ties the Noise handshake to the DTLS session. Only SHA-256 exists here because it is the one hash
//! every implementation must support and because the prologue needs the same hash on both sides. Multiaddrs are not
//! this module's business.
//!
//! [libp2p WebRTC Direct]: https://github.com/libp2p/specs/blob/master/webrtc/webrtc-direct.md

use std::fmt::{self, Write as _};

use sha2::{Digest, Sha256};

/// Multihash code of sha2-256.
const SHA2_256: u8 = 0x12;
/// Bytes of a SHA-256 digest.
const DIGEST_LEN: u8 = 32;
/// Code, length and digest of a multihash.
const MULTIHASH_LEN: usize = 2 + DIGEST_LEN as usize;
/// Start of every prologue.
const PROLOGUE_PREFIX: &[u8] = b"libp2p-webrtc-noise:";

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fingerprint([u8; DIGEST_LEN as usize]);

impl Fingerprint {
    /// Hashes a certificate.
    pub(crate) fn of_der(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// Takes a digest that was computed or announced elsewhere.
    pub(crate) const fn from_bytes(digest: [u8; DIGEST_LEN as usize]) -> Self {
        Self(digest)
    }

    /// The digest.
    pub(crate) const fn as_bytes(&self) -> &[u8; DIGEST_LEN as usize] {
        &self.0
    }

    /// The digest as a multihash, the content of `/certhash` and of the prologue.
    pub(crate) fn to_multihash_bytes(self) -> [u8; MULTIHASH_LEN] {
        let mut multihash = [0; MULTIHASH_LEN];
        multihash[0] = SHA2_256;
        multihash[1] = DIGEST_LEN;
        multihash[2..].copy_from_slice(&self.0);
        multihash
    }

    /// Upper-case hex pairs joined with colons, as in the `fingerprint` attribute of SDP (RFC 8122, section 5).
    pub(crate) fn to_sdp(self) -> String {
        let mut text = String::with_capacity(self.0.len() * 3);
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(text, "{separator}{byte:02X}").expect("writing to a string never fails");
        }
        text
    }

    /// Reads that form, in whatever case.
    pub(crate) fn from_sdp(text: &str) -> Option<Self> {
        let mut digest = [0; DIGEST_LEN as usize];
        let mut pairs = text.split(':');
        for byte in &mut digest {
            let pair = pairs.next().filter(|pair| pair.len() == 2)?;
            let digits = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| digits)?;
        }
        pairs.next().is_none().then_some(Self(digest))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.to_sdp())
    }
}

/// The Noise prologue of a connection.
///
/// The order is that of the connection, the same on both sides: first the certificate of the side that dialed, then
/// the certificate of the side that listened.
pub(crate) fn noise_prologue(dialer: &Fingerprint, listener: &Fingerprint) -> Vec<u8> {
    [
        PROLOGUE_PREFIX,
        &dialer.to_multihash_bytes(),
        &listener.to_multihash_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALER: [u8; 32] = [
        0x3e, 0x79, 0xaf, 0x40, 0xd6, 0x05, 0x96, 0x17, 0xa0, 0xd8, 0x3b, 0x83, 0xa5, 0x2c, 0xe7,
        0x3b, 0x0c, 0x1f, 0x37, 0xa7, 0x2c, 0x60, 0x43, 0xad, 0x29, 0x69, 0xe2, 0x35, 0x1b, 0xdc,
        0xa8, 0x70,
    ];
    const LISTENER: [u8; 32] = [
        0x30, 0xfc, 0x9f, 0x46, 0x9c, 0x20, 0x74, 0x19, 0xdf, 0xdd, 0x0a, 0xab, 0x5f, 0x27, 0xa8,
        0x6c, 0x97, 0x3c, 0x94, 0xe4, 0x05, 0x48, 0xdb, 0x93, 0x75, 0xcc, 0xa2, 0xe9, 0x15, 0x97,
        0x3b, 0x99,
    ];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn prologue_matches_the_published_vector() {
        let prologue = noise_prologue(
            &Fingerprint::from_bytes(DIALER),
            &Fingerprint::from_bytes(LISTENER),
        );

        assert_eq!(
            hex(&prologue),
            "6c69627032702d7765627274632d6e6f6973653a\
             12203e79af40d6059617a0d83b83a52ce73b0c1f37a72c6043ad2969e2351bdca870\
             122030fc9f469c207419dfdd0aab5f27a86c973c94e40548db9375cca2e915973b99"
        );
    }

    #[test]
    fn prologue_depends_on_who_dialed() {
        let (a, b) = (
            Fingerprint::from_bytes(DIALER),
            Fingerprint::from_bytes(LISTENER),
        );

        assert_ne!(noise_prologue(&a, &b), noise_prologue(&b, &a));
    }

    #[test]
    fn hashes_with_sha_256() {
        assert_eq!(
            hex(Fingerprint::of_der(b"abc").as_bytes()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn sdp_form_is_upper_case_pairs() {
        let text = Fingerprint::from_bytes(DIALER).to_sdp();

        assert_eq!(
            text,
            "3E:79:AF:40:D6:05:96:17:A0:D8:3B:83:A5:2C:E7:3B:\
             0C:1F:37:A7:2C:60:43:AD:29:69:E2:35:1B:DC:A8:70"
        );
        assert_eq!(
            format!("{:?}", Fingerprint::from_bytes(DIALER)),
            format!("Fingerprint({text})")
        );
    }

    #[test]
    fn multihash_names_algorithm_and_length() {
        let multihash = Fingerprint::from_bytes(DIALER).to_multihash_bytes();

        assert_eq!(multihash[..2], [0x12, 0x20]);
        assert_eq!(multihash[2..], DIALER);
    }
}
