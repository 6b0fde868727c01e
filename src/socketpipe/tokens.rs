//! The tokens of the gateway: opaque ones, for any number of sessions or for one, and JSON Web Tokens.
//!
//! A [`TokenStore`] is the [`Tokens`] of the program. It owns the hashes of the opaque tokens (never the tokens
//! themselves) and the keys of the signed ones ([`JwtKey`]), hands out new tokens, and counts how often one may still
//! be used. It does not know files: the program saves what [`TokenStore::saved`] gives it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::{
    access::{Grant, Tokens},
    code::Code,
    frame::Failure,
    server::{Opening, wall_clock},
    session::Mode,
    targets::Allowlist,
};

mod jwt;
#[cfg(test)]
mod tests;

pub use self::jwt::{JwtError, JwtKey};

/// Random bytes of a new token: nobody guesses them, and a QR code stays small.
const TOKEN_LEN: usize = 20;
/// Opaque tokens at once: each check compares with all of them.
const MAX_TOKENS: usize = 4096;
/// Peers that redeemed one token and may come back with it.
const MAX_REDEEMERS: usize = 64;

/// What a token lets its holder do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenTerms {
    /// Who it is for, in lists and logs.
    pub label: String,
    /// The only mode it is good for; `None`: both.
    pub mode: Option<Mode>,
    /// The only peer it is good for.
    pub peer: Option<PeerId>,
    /// The only targets it is good for, the server's default target aside; never more than the server's own.
    pub targets: Option<Allowlist>,
    /// End of its life.
    pub expires: Option<SystemTime>,
    /// Sessions it opens; `None`: any number. A peer that opened one may come back.
    pub uses: Option<u32>,
}

impl TokenTerms {
    /// Any number of sessions of both modes, for ever.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            ..Self::default()
        }
    }

    /// Good once.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.uses = Some(1);
        self
    }

    /// For this mode only.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// For so long.
    #[must_use]
    pub fn valid_for(mut self, life: Duration) -> Self {
        self.expires = wall_clock().checked_add(life);
        self
    }

    fn grant(&self) -> Grant {
        Grant {
            label: self.label.clone(),
            peer: self.peer,
            targets: self.targets.clone(),
            expires: self.expires,
            ..Grant::default()
        }
    }

    /// Whether the token is good for this.
    fn check(&self, opening: &Opening) -> Result<(), Failure> {
        if self.expires.is_some_and(|expires| wall_clock() >= expires) {
            return Err(expired());
        }
        match self.mode.is_none_or(|mode| mode == opening.mode) {
            true => Ok(()),
            false => Err(Failure::new(
                Code::AUTH_INSUFFICIENT,
                match opening.mode {
                    Mode::Pty => "the token is not for terminals",
                    Mode::Tunnel => "the token is not for port forwarding",
                },
            )),
        }
    }
}

/// An opaque token.
struct Entry {
    hash: [u8; 32],
    terms: TokenTerms,
    redeemed_by: BTreeSet<PeerId>,
    /// Comes from the configuration: not saved.
    fixed: bool,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    keys: Vec<JwtKey>,
    changed: bool,
}

/// All tokens of a server. Clones share them.
#[derive(Clone, Default)]
pub struct TokenStore {
    table: Arc<Mutex<Table>>,
}

impl fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        let labels = table.entries.iter().map(|entry| &entry.terms.label);
        f.debug_list().entries(labels).finish()
    }
}

/// There are as many tokens as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_TOKENS} tokens already; revoke some")]
pub struct TooManyTokens;

impl TokenStore {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is complete before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tokens signed with this key from now on.
    pub fn add_key(&self, key: JwtKey) {
        self.table().keys.push(key);
    }

    /// A token of the configuration. Empty ones never let anybody in.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn add_fixed(&self, token: &[u8], terms: TokenTerms) -> Result<(), TooManyTokens> {
        self.insert(hash(token), terms, true)
    }

    /// Makes a new token. This is the only time it can be seen.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn issue(&self, terms: TokenTerms) -> Result<String, TooManyTokens> {
        let token = new_token();
        self.insert(hash(token.as_bytes()), terms, false)?;
        Ok(token)
    }

    fn insert(&self, hash: [u8; 32], terms: TokenTerms, fixed: bool) -> Result<(), TooManyTokens> {
        let mut table = self.table();
        let now = wall_clock();
        let is_dead = |entry: &Entry| {
            !entry.fixed && entry.terms.expires.is_some_and(|expires| expires <= now)
        };
        if table.entries.len() >= MAX_TOKENS {
            table.entries.retain(|entry| !is_dead(entry));
        }
        if table.entries.len() >= MAX_TOKENS {
            return Err(TooManyTokens);
        }
        table.entries.push(Entry {
            hash,
            terms,
            redeemed_by: BTreeSet::new(),
            fixed,
        });
        table.changed |= !fixed;
        Ok(())
    }

    /// Takes back all tokens with this label and says how many there were. Running sessions go on.
    pub fn revoke(&self, label: &str) -> usize {
        let mut table = self.table();
        let before = table.entries.len();
        table.entries.retain(|entry| entry.terms.label != label);
        let gone = before - table.entries.len();
        table.changed |= gone > 0;
        gone
    }

    /// What the opaque tokens are good for.
    pub fn terms(&self) -> Vec<TokenTerms> {
        let table = self.table();
        table
            .entries
            .iter()
            .map(|entry| entry.terms.clone())
            .collect()
    }

    /// Counts a use of the token this session was opened with. To be called when it is open: until then nothing is
    /// used up, so that a backend that is down costs no invitation.
    ///
    /// # Errors
    ///
    /// If another session was faster. The session must be dropped then.
    pub fn redeem(&self, opening: &Opening) -> Result<(), Failure> {
        let mut table = self.table();
        let Some(entry) = table.find(&opening.token) else {
            return Ok(());
        };
        let changed = entry.redeem(opening)?;
        table.changed |= changed;
        Ok(())
    }

    /// The issued tokens in a form to be saved, if they have changed since the last call.
    pub fn saved(&self) -> Option<Vec<SavedToken>> {
        let mut table = self.table();
        if !std::mem::take(&mut table.changed) {
            return None;
        }
        let issued = table.entries.iter().filter(|entry| !entry.fixed);
        Some(issued.map(SavedToken::of).collect())
    }

    /// Adds what was saved; entries that cannot be read are left out.
    pub fn restore(&self, saved: Vec<SavedToken>) {
        let entries = saved.into_iter().filter_map(SavedToken::entry);
        self.table().entries.extend(entries.take(MAX_TOKENS));
    }
}

impl Table {
    /// The entry of a token. All entries are compared, each in constant time.
    fn find(&mut self, token: &[u8]) -> Option<&mut Entry> {
        let hash = hash(token);
        let (mut found, mut at) = (Choice::from(0), 0_u32);
        for (index, entry) in (0_u32..).zip(&self.entries) {
            let same = entry.hash.ct_eq(&hash);
            at.conditional_assign(&index, same);
            found |= same;
        }
        bool::from(found).then(|| &mut self.entries[at as usize])
    }
}

/// Says whether a token is good, without counting: see [`TokenStore::redeem`].
impl Tokens for TokenStore {
    fn check(&self, token: &[u8], opening: &Opening) -> Result<Grant, Failure> {
        let mut table = self.table();
        if let Some(entry) = table.find(token) {
            entry.terms.check(opening)?;
            entry.uses_left(opening)?;
            return Ok(entry.terms.grant());
        }
        let terms = jwt::check(&table.keys, token)?;
        terms.check(opening)?;
        Ok(terms.grant())
    }
}

impl Entry {
    /// How many sessions of this kind it still opens; `None`: any number.
    fn uses_left(&self, opening: &Opening) -> Result<Option<u32>, Failure> {
        let peer = opening.origin.peer;
        match self.terms.uses {
            _ if peer.is_some_and(|peer| self.redeemed_by.contains(&peer)) => Ok(None),
            Some(0) => Err(Failure::new(
                Code::AUTH_FAILED,
                "the token was used already; ask for another invitation",
            )),
            uses => Ok(uses),
        }
    }

    /// Counts a use. Whether anything changed.
    fn redeem(&mut self, opening: &Opening) -> Result<bool, Failure> {
        let Some(uses) = self.uses_left(opening)? else {
            return Ok(false);
        };
        self.terms.uses = Some(uses - 1);
        if let Some(peer) = opening.origin.peer
            && self.redeemed_by.len() < MAX_REDEEMERS
        {
            self.redeemed_by.insert(peer);
        }
        Ok(true)
    }
}

/// An issued token as it is saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedToken {
    sha256: String,
    label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uses: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    redeemed_by: Vec<String>,
}

impl SavedToken {
    fn of(entry: &Entry) -> Self {
        let terms = &entry.terms;
        Self {
            sha256: HEXLOWER.encode(&entry.hash),
            label: terms.label.clone(),
            mode: terms.mode.map(|mode| mode_name(mode).to_owned()),
            peer: terms.peer.map(|peer| peer.to_string()),
            targets: terms.targets.as_ref().map(ToString::to_string),
            expires: terms.expires.map(unix),
            uses: terms.uses,
            redeemed_by: entry.redeemed_by.iter().map(PeerId::to_string).collect(),
        }
    }

    fn entry(self) -> Option<Entry> {
        let hash = HEXLOWER.decode(self.sha256.as_bytes()).ok()?;
        let terms = TokenTerms {
            label: self.label,
            mode: self
                .mode
                .map(|name| mode_of(&name).ok_or(()))
                .transpose()
                .ok()?,
            peer: self.peer.map(|peer| peer.parse()).transpose().ok()?,
            targets: self.targets.map(|list| list.parse()).transpose().ok()?,
            expires: self.expires.map(from_unix),
            uses: self.uses,
        };
        Some(Entry {
            hash: hash.try_into().ok()?,
            terms,
            redeemed_by: self
                .redeemed_by
                .iter()
                .filter_map(|peer| peer.parse().ok())
                .collect(),
            fixed: false,
        })
    }
}

/// A random token, which no command line takes for an option.
fn new_token() -> String {
    loop {
        let token = BASE64URL_NOPAD.encode(&rand::random::<[u8; TOKEN_LEN]>());
        if !token.starts_with('-') {
            return token;
        }
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Pty => "pty",
        Mode::Tunnel => "tunnel",
    }
}

fn mode_of(name: &str) -> Option<Mode> {
    match name {
        "pty" => Some(Mode::Pty),
        "tunnel" => Some(Mode::Tunnel),
        _ => None,
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn from_unix(seconds: u64) -> SystemTime {
    // Beyond what the clock can show is as good as for ever; a century is, too.
    let century = Duration::from_secs(100 * 365 * 86_400);
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or_else(|| wall_clock() + century)
}

fn expired() -> Failure {
    Failure::new(Code::AUTH_EXPIRED, "the token has expired")
}

fn not_valid() -> Failure {
    Failure::new(Code::AUTH_FAILED, "the token is not valid")
}
