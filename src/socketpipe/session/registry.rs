//! Finds the session a RESUME_REQUEST asks for.
//!
//! Owns no session, only what the driver needs to reach one, and the rule who may. Sessions are found by a hash of
//! their name, so that the time of a failure tells nothing about the names that exist.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{Mode, link::not_found};
use crate::socketpipe::frame::{Failure, SessionId};

/// Who opened a session, or who wants to go on with it.
#[derive(Clone, Copy, Default)]
pub struct Claimant<'a> {
    /// The peer id, where the transport proves one.
    pub peer: Option<&'a [u8]>,
    /// The token that let the session in, or the one shown for it; empty is none.
    pub token: &'a [u8],
}

impl std::fmt::Debug for Claimant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimant")
            .field("has_peer", &self.peer.is_some())
            .field("token_len", &self.token.len())
            .finish()
    }
}

/// The sessions of one server by name; `K` is how the driver reaches one.
#[derive(Debug)]
pub struct Sessions<K> {
    entries: HashMap<[u8; 32], Entry<K>>,
}

#[derive(Debug)]
struct Entry<K> {
    mode: Mode,
    peer: Option<Box<[u8]>>,
    /// Hash of the token.
    token: Option<[u8; 32]>,
    key: K,
}

impl<K> Entry<K> {
    /// Where both times a peer was proven it must be the same one, and where both times none was, the name suffices, as
    /// published. Between the two kinds the token says that it is the same client; without one there is no way.
    fn is_held_by(&self, claimant: &Claimant<'_>) -> bool {
        match (self.peer.as_deref(), claimant.peer) {
            (Some(opened), Some(claims)) => opened == claims,
            (None, None) => true,
            // Compared as hashes: the time tells nothing about the token.
            _ => self.token.is_some() && self.token == token_hash(claimant.token),
        }
    }
}

impl<K> Default for Sessions<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
        }
    }
}

impl<K> Sessions<K> {
    /// Notes a session that was opened by this claimant. Give no token if the session must not leave the kind of path
    /// it was opened on.
    pub fn insert(&mut self, id: &SessionId, mode: Mode, opened_by: &Claimant<'_>, key: K) {
        let entry = Entry {
            mode,
            peer: opened_by.peer.map(Into::into),
            token: token_hash(opened_by.token),
            key,
        };
        self.entries.insert(hash(id.as_bytes()), entry);
    }

    /// The session with this name, for a request on this endpoint by this claimant. All failures are the same one.
    pub fn find(&self, id: &SessionId, mode: Mode, claimant: &Claimant<'_>) -> Result<&K, Failure> {
        self.entries
            .get(&hash(id.as_bytes()))
            .filter(|entry| entry.mode == mode && entry.is_held_by(claimant))
            .map(|entry| &entry.key)
            .ok_or_else(not_found)
    }

    /// Forgets a session.
    pub fn remove(&mut self, id: &SessionId) -> Option<K> {
        let removed = self.entries.remove(&hash(id.as_bytes()));
        removed.map(|entry| entry.key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn token_hash(token: &[u8]) -> Option<[u8; 32]> {
    (!token.is_empty()).then(|| hash(token))
}

fn hash(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}
