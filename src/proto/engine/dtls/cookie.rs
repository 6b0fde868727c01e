//! Cookies that were made before there was a session.
//!
//! The engine makes the cookie of a session itself, with a secret that nobody else knows, and so it needs a session for
//! each client that has yet to prove its address. Its HMAC is the one thing about a cookie that can be chosen: while a
//! session that was begun behind a cookie takes a datagram, it comes out as that cookie.

use std::{cell::Cell, sync::OnceLock};

use dimpl::{
    CryptoError,
    crypto::{HashAlgorithm, HmacProvider, aws_lc_rs},
};

use crate::proto::hello::Cookie;

thread_local! {
    static COOKIE: Cell<Option<Cookie>> = const { Cell::new(None) };
}

/// Lets `act` take `cookie` for the right one.
pub(super) fn with<T>(cookie: Option<Cookie>, act: impl FnOnce() -> T) -> T {
    COOKIE.set(cookie);
    let result = act();
    COOKIE.set(None);
    result
}

/// The HMAC of all sessions.
pub(super) static HMAC: CookieHmac = CookieHmac;

/// HMAC, but for the cookie in hand.
#[derive(Debug)]
pub(super) struct CookieHmac;

fn inner() -> &'static dyn HmacProvider {
    static INNER: OnceLock<&'static dyn HmacProvider> = OnceLock::new();
    *INNER.get_or_init(|| aws_lc_rs::default_provider().hmac_provider)
}

impl HmacProvider for CookieHmac {
    // Of DTLS 1.2 only the cookie is made with this one; keys and Finished use the other.
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match COOKIE.get() {
            Some(cookie) => Ok(cookie),
            None => inner().hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        inner().hmac(hash, key, data, out)
    }
}
