//! The goodbye of a session: a fatal alert instead of close_notify.
//!
//! A browser takes close_notify for the end of the DTLS transport alone; `connectionState`, the only thing that
//! js-libp2p looks at, waits for ICE to miss its consent checks, five to ten seconds later. A fatal alert makes it
//! `failed` at once (measured: 5 ms in Firefox, 7 ms in Chromium). go-libp2p and libdatachannel treat both alike.
//!
//! `dimpl` can say close_notify only, but it leaves the encryption of records to its provider. [`aloud`] wraps that:
//! an alert close_notify (RFC 5246 section 7.2.1) is encrypted as a fatal user_canceled. Everything else passes through.

use dimpl::{
    CryptoError, HashAlgorithm,
    crypto::{Aad, Buf, Cipher, Dtls12CipherSuite, Nonce, SupportedDtls12CipherSuite, TmpBuf},
};

/// The content type of alerts (RFC 5246 section 6.2.1), and its place in the additional data of a record.
const ALERT: u8 = 21;
const CONTENT_TYPE: usize = 8;
/// Level and description of the alert that `dimpl` says.
const WARNING_CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// user_canceled (RFC 5246 section 7.2.2): the only description that blames nobody.
pub(super) const USER_CANCELED: u8 = 90;
const FATAL_USER_CANCELED: [u8; 2] = [2, USER_CANCELED];

/// This cipher suite with ciphers that say goodbye aloud. Lives for ever, as the engine wants it: not to be called for
/// each session.
pub(super) fn aloud(
    suite: &'static dyn SupportedDtls12CipherSuite,
) -> &'static dyn SupportedDtls12CipherSuite {
    Box::leak(Box::new(Suite(suite)))
}

/// A cipher suite whose ciphers say goodbye aloud.
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
        Ok(Box::new(LoudGoodbye(cipher)))
    }
}

/// A cipher that turns close_notify into a fatal alert.
#[derive(Debug)]
struct LoudGoodbye(Box<dyn Cipher>);

impl Cipher for LoudGoodbye {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        if aad.get(CONTENT_TYPE) == Some(&ALERT) {
            say_it_aloud(plaintext.as_mut());
        }
        self.0.encrypt(plaintext, aad, nonce)
    }

    fn decrypt(
        &mut self,
        ciphertext: &mut TmpBuf<'_>,
        aad: Aad,
        nonce: Nonce,
    ) -> Result<(), CryptoError> {
        self.0.decrypt(ciphertext, aad, nonce)
    }
}

fn say_it_aloud(alert: &mut [u8]) {
    if alert == WARNING_CLOSE_NOTIFY {
        alert.copy_from_slice(&FATAL_USER_CANCELED);
    }
}

#[cfg(test)]
mod tests {
    use super::say_it_aloud;

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
}
