//! Finds the session a RESUME_REQUEST asks for.
//!
//! Owns no session, only what the driver needs to reach one. Sessions are found by a hash of their name, so that the
//! time of a failure tells nothing about the names that exist.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{Mode, link::not_found};
use crate::socketpipe::frame::{Failure, SessionId};

/// The sessions of one server by name; `K` is how the driver reaches one.
#[derive(Debug)]
pub struct Sessions<K> {
    entries: HashMap<[u8; 32], Entry<K>>,
}

#[derive(Debug)]
struct Entry<K> {
    mode: Mode,
    owner: Option<Box<[u8]>>,
    key: K,
}

impl<K> Default for Sessions<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
        }
    }
}

impl<K> Sessions<K> {
    /// Notes a session. With an `owner` (a peer id) only the same one may resume it; without, the name suffices.
    pub fn insert(&mut self, id: &SessionId, mode: Mode, owner: Option<&[u8]>, key: K) {
        let owner = owner.map(Into::into);
        self.entries.insert(hash(id), Entry { mode, owner, key });
    }

    /// The session with this name, for a request on this endpoint by this peer. All failures are the same one.
    pub fn find(&self, id: &SessionId, mode: Mode, owner: Option<&[u8]>) -> Result<&K, Failure> {
        self.entries
            .get(&hash(id))
            .filter(|entry| entry.mode == mode)
            .filter(|entry| entry.owner.is_none() || entry.owner.as_deref() == owner)
            .map(|entry| &entry.key)
            .ok_or_else(not_found)
    }

    /// Forgets a session.
    pub fn remove(&mut self, id: &SessionId) -> Option<K> {
        self.entries.remove(&hash(id)).map(|entry| entry.key)
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

fn hash(id: &SessionId) -> [u8; 32] {
    Sha256::digest(id.as_bytes()).into()
}
