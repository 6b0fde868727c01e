//! What this crate changes of the ciphers of records, which `dimpl` leaves to its provider.
//!
//! **The goodbye** of a session is a fatal alert instead of close_notify. A browser takes close_notify for the end of the
//! DTLS transport alone; `connectionState`, the only thing that js-libp2p looks at, waits for ICE to miss its consent
//! checks, five to ten seconds later. A fatal alert makes it `failed` at once (measured: 5 ms in Firefox, 7 ms in
//! Chromium). go-libp2p and libdatachannel treat both alike. `dimpl` can say close_notify only, so an alert close_notify
//! (RFC 5246 section 7.2.1) is encrypted as a fatal user_canceled.
//!
//! **The nonces** of AES-GCM are counted. `dimpl` draws the explicit half, 64 bits, at random, and two are equal
//! after some billions of records. Here it is the record's epoch and sequence number, as RFC 5288 section 3 proposes and
//! RFC 9325 section 7.2.1 asks for: the cipher encrypts with that, and [`write_nonces`] puts it into the finished datagrams, in
//! the place of what `dimpl` has drawn.

use std::{cell::Cell, ops::Range, sync::OnceLock};

use dimpl::{
    CryptoError, HashAlgorithm,
    crypto::{
        Aad, Buf, Cipher, Dtls12CipherSuite, Nonce, SupportedDtls12CipherSuite, TmpBuf, aws_lc_rs,
    },
};

/// The content type of alerts (RFC 5246 section 6.2.1), and its place in the additional data of a record.
const ALERT: u8 = 21;
const CONTENT_TYPE: usize = 8;
/// Level and description of the alert that `dimpl` says.
const WARNING_CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// user_canceled (RFC 5246 section 7.2.2): the only description that blames nobody.
pub(super) const USER_CANCELED: u8 = 90;
const FATAL_USER_CANCELED: [u8; 2] = [2, USER_CANCELED];

/// Header of a record (RFC 6347 section 4.1): type, version, epoch, sequence number, length.
const RECORD_HEADER: usize = 13;
/// Epoch and sequence number, in the header of a record and in its additional data (RFC 6347 section 4.1.2.1).
const NUMBER_IN_HEADER: Range<usize> = 3..11;
const NUMBER_IN_AAD: Range<usize> = 0..8;
/// The nonce of AES-GCM (RFC 5288 section 3): a secret half that is fixed, and one that travels with the record.
const EXPLICIT_NONCE: Range<usize> = 4..12;

thread_local! {
    /// Whether the newest cipher of this thread has explicit nonces.
    static EXPLICIT_NONCES: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Calls a session and tells whether its records have explicit nonces, when it has made its ciphers in that call: `dimpl`
/// does not say which suite was chosen.
pub(super) fn noticing<T>(call: impl FnOnce() -> T) -> (T, Option<bool>) {
    EXPLICIT_NONCES.set(None);
    let result = call();
    (result, EXPLICIT_NONCES.take())
}

/// The cipher suites of all sessions. Their order decides when we dial, as the server takes the first of the client's list
/// that it knows: AES-GCM where the processor has instructions for it and needs less time that way, else
/// ChaCha20-Poly1305.
pub(super) fn suites() -> &'static [&'static dyn SupportedDtls12CipherSuite] {
    static SUITES: OnceLock<&'static [&'static dyn SupportedDtls12CipherSuite]> = OnceLock::new();
    SUITES.get_or_init(|| {
        let mut wanted = [
            Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
            Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
            Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
        ];
        if !has_aes_instructions() {
            wanted.swap(0, 1);
        }
        // Once per process: the engine wants the list for ever.
        Box::leak(wanted.into_iter().filter_map(adapted).collect())
    })
}

/// Whether the processor has instructions for AES and for the multiplication of GCM.
fn has_aes_instructions() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// This cipher suite with the ciphers described above. Lives for ever, as the engine wants it.
pub(super) fn adapted(
    wanted: Dtls12CipherSuite,
) -> Option<&'static dyn SupportedDtls12CipherSuite> {
    let known = aws_lc_rs::default_provider().cipher_suites;
    let suite = known.iter().find(|suite| suite.suite() == wanted)?;
    Some(Box::leak(Box::new(Suite(*suite))))
}

/// A cipher suite with adapted ciphers.
#[derive(Debug)]
struct Suite(&'static dyn SupportedDtls12CipherSuite);

impl SupportedDtls12CipherSuite for Suite {
    fn suite(&self) -> Dtls12CipherSuite {
        self.0.suite()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.0.hash_algorithm()
    }

    fn key_lengths(&self) -> (usize, usize, usize) {
        self.0.key_lengths()
    }

    fn explicit_nonce_len(&self) -> usize {
        self.0.explicit_nonce_len()
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn min_protected_fragment_len(&self) -> usize {
        self.0.min_protected_fragment_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        let cipher = self.0.create_cipher(key)?;
        let has_explicit_nonce = self.0.explicit_nonce_len() == EXPLICIT_NONCE.len();
        EXPLICIT_NONCES.set(Some(has_explicit_nonce));
        Ok(Box::new(Adapted {
            cipher,
            has_explicit_nonce,
        }))
    }
}

/// A cipher that says goodbye aloud and counts its nonces.
#[derive(Debug)]
struct Adapted {
    cipher: Box<dyn Cipher>,
    has_explicit_nonce: bool,
}

impl Cipher for Adapted {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        if aad.get(CONTENT_TYPE) == Some(&ALERT) {
            say_it_aloud(plaintext.as_mut());
        }
        let nonce = if self.has_explicit_nonce {
            counted(nonce, &aad).ok_or(CryptoError::InvalidNonce)?
        } else {
            nonce
        };
        self.cipher.encrypt(plaintext, aad, nonce)
    }

    fn decrypt(
        &mut self,
        ciphertext: &mut TmpBuf<'_>,
        aad: Aad,
        nonce: Nonce,
    ) -> Result<(), CryptoError> {
        self.cipher.decrypt(ciphertext, aad, nonce)
    }
}

/// The nonce with the record's number in its second half.
fn counted(mut nonce: Nonce, aad: &Aad) -> Option<Nonce> {
    let number = aad.0.get(NUMBER_IN_AAD)?;
    nonce.0.get_mut(EXPLICIT_NONCE)?.copy_from_slice(number);
    Some(nonce)
}

/// Puts the counted nonces into the encrypted records of a datagram of a session under AES-GCM.
pub(super) fn write_nonces(datagram: &mut [u8]) {
    let mut rest = datagram;
    while let Some((header, body)) = rest.split_at_mut_checked(RECORD_HEADER) {
        let &mut [_, _, _, epoch_high, epoch_low, .., length_high, length_low] = header else {
            return;
        };
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let Some((record, next)) = body.split_at_mut_checked(length) else {
            return;
        };
        let is_encrypted = (epoch_high, epoch_low) != (0, 0);
        if is_encrypted
            && let Some(number) = header.get(NUMBER_IN_HEADER)
            && let Some(nonce) = record.get_mut(..EXPLICIT_NONCE.len())
        {
            nonce.copy_from_slice(number);
        }
        rest = next;
    }
}

fn say_it_aloud(alert: &mut [u8]) {
    if alert == WARNING_CLOSE_NOTIFY {
        alert.copy_from_slice(&FATAL_USER_CANCELED);
    }
}

#[cfg(test)]
mod tests {
    use super::{say_it_aloud, write_nonces};

    #[test]
    fn only_close_notify_becomes_fatal() {
        for (said, heard) in [
            (&[1, 0][..], &[2, 90][..]),
            (&[2, 40], &[2, 40]),
            (&[1, 90], &[1, 90]),
            (&[1, 0, 0], &[1, 0, 0]),
        ] {
            let mut alert = said.to_vec();
            say_it_aloud(&mut alert);
            assert_eq!(alert, heard);
        }
    }

    #[test]
    fn the_number_of_each_encrypted_record_becomes_its_nonce() {
        let record = |epoch: u8, number: u8, length: u8| {
            let mut record = vec![23, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 1, number, 0, length];
            record.resize(13 + usize::from(length), 0xaa);
            record
        };
        let mut datagram = [record(0, 1, 20), record(1, 2, 24), record(1, 3, 30)].concat();
        write_nonces(&mut datagram);
        let mut wanted = [record(0, 1, 20), record(1, 2, 24), record(1, 3, 30)];
        wanted[1][13..21].copy_from_slice(&[0, 1, 0, 0, 0, 0, 1, 2]);
        wanted[2][13..21].copy_from_slice(&[0, 1, 0, 0, 0, 0, 1, 3]);
        assert_eq!(datagram, wanted.concat());
    }

    #[test]
    fn what_is_no_whole_record_stays_as_it_is() {
        let whole = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4];
        for len in 0..=whole.len() {
            let mut datagram = whole[..len].to_vec();
            write_nonces(&mut datagram);
            assert_eq!(datagram, whole[..len]);
        }
    }
}
