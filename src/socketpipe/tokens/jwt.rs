//! JSON Web Tokens (RFC 7519): signed by the server itself or by somebody it trusts, so that nothing has to be stored.

use std::fmt;

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode, errors::ErrorKind,
};
use serde::{Deserialize, Serialize};

use super::{TokenTerms, expired, from_unix, mode_name, mode_of, not_valid, unix};
use crate::socketpipe::frame::Failure;

/// Tokens for other services signed with the same key are not for us.
const AUDIENCE: &str = "socketpipe";
/// HMAC keys shorter than the hash are weak (RFC 7518 section 3.2).
const MIN_SECRET: usize = 32;

/// What our tokens claim. `exp` must be there; a limit that is not understood makes the token invalid.
#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    #[serde(default)]
    sub: String,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<String>,
}

/// A key of signed tokens.
pub struct JwtKey {
    algorithm: Algorithm,
    verify: DecodingKey,
    sign: Option<EncodingKey>,
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKey")
            .field("algorithm", &self.algorithm)
            .field("can_sign", &self.sign.is_some())
            .finish_non_exhaustive()
    }
}

/// A key that cannot be used, or a token that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// HS256 needs more bytes.
    #[error("the secret of HS256 tokens must have at least {MIN_SECRET} bytes")]
    ShortSecret,
    /// Not a PEM file of an Ed25519 key.
    #[error("no Ed25519 key in PEM form")]
    Key(#[source] jsonwebtoken::errors::Error),
    /// Only the public half is here.
    #[error("this key can check tokens but not sign them")]
    CannotSign,
    /// These always end.
    #[error("signed tokens need an expiry")]
    NoExpiry,
    /// These cannot be counted.
    #[error("signed tokens cannot be limited to a number of uses")]
    Uses,
}

impl JwtKey {
    /// A shared secret: checks and signs.
    ///
    /// # Errors
    ///
    /// If it is too short.
    pub fn hs256(secret: &[u8]) -> Result<Self, JwtError> {
        if secret.len() < MIN_SECRET {
            return Err(JwtError::ShortSecret);
        }
        Ok(Self {
            algorithm: Algorithm::HS256,
            verify: DecodingKey::from_secret(secret),
            sign: Some(EncodingKey::from_secret(secret)),
        })
    }

    /// An Ed25519 public key in PEM: checks only.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn eddsa(public_pem: &[u8]) -> Result<Self, JwtError> {
        Ok(Self {
            algorithm: Algorithm::EdDSA,
            verify: DecodingKey::from_ed_pem(public_pem).map_err(JwtError::Key)?,
            sign: None,
        })
    }

    /// The private key (PKCS #8, PEM) as well: signs, too.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn with_eddsa_private(mut self, private_pem: &[u8]) -> Result<Self, JwtError> {
        self.sign = Some(EncodingKey::from_ed_pem(private_pem).map_err(JwtError::Key)?);
        Ok(self)
    }

    /// Whether this key can make tokens.
    pub fn can_sign(&self) -> bool {
        self.sign.is_some()
    }

    /// Makes a token.
    ///
    /// # Errors
    ///
    /// If the key cannot sign, or a token of this kind cannot have these terms.
    pub fn issue(&self, terms: &TokenTerms) -> Result<String, JwtError> {
        let key = self.sign.as_ref().ok_or(JwtError::CannotSign)?;
        if terms.uses.is_some() {
            return Err(JwtError::Uses);
        }
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            sub: terms.label.clone(),
            exp: unix(terms.expires.ok_or(JwtError::NoExpiry)?),
            mode: terms.mode.map(|mode| mode_name(mode).to_owned()),
            peer: terms.peer.map(|peer| peer.to_string()),
            targets: terms.targets.as_ref().map(ToString::to_string),
        };
        encode(&Header::new(self.algorithm), &claims, key).map_err(JwtError::Key)
    }

    /// `None`: not signed with this key.
    fn check(&self, token: &[u8]) -> Option<Result<Claims, Failure>> {
        // One algorithm per key: what the token says of itself decides nothing.
        let mut rules = Validation::new(self.algorithm);
        rules.leeway = 0;
        rules.validate_nbf = true;
        rules.set_audience(&[AUDIENCE]);
        rules.set_required_spec_claims(&["exp", "aud"]);
        match decode::<Claims>(token, &self.verify, &rules) {
            Ok(decoded) => Some(Ok(decoded.claims)),
            Err(error) => match error.kind() {
                ErrorKind::ExpiredSignature => Some(Err(expired())),
                _ => None,
            },
        }
    }
}

/// What a signed token is good for.
pub(super) fn check(keys: &[JwtKey], token: &[u8]) -> Result<TokenTerms, Failure> {
    let claims = keys
        .iter()
        .find_map(|key| key.check(token))
        .ok_or_else(not_valid)??;
    terms(claims).ok_or_else(not_valid)
}

fn terms(claims: Claims) -> Option<TokenTerms> {
    Some(TokenTerms {
        label: claims.sub,
        mode: match claims.mode {
            Some(name) => Some(mode_of(&name)?),
            None => None,
        },
        peer: claims.peer.map(|peer| peer.parse()).transpose().ok()?,
        targets: claims.targets.map(|list| list.parse()).transpose().ok()?,
        expires: Some(from_unix(claims.exp)),
        uses: None,
    })
}
