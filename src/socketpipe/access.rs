//! Who may open sessions.
//!
//! [`Access`] combines the proven peer id of a libp2p connection and the token of the handshake under a [`Policy`].
//! It keeps the list of peers; tokens are judged by a [`Tokens`], because their form is the program's business. It
//! does not know targets.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};

use super::{
    code::Code,
    frame::Failure,
    server::{Opening, Origin},
    session::Mode,
    targets::Allowlist,
};

/// What lets somebody in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The peer id is listed. With an empty list nobody comes in.
    #[default]
    Peers,
    /// A valid token, from anybody.
    Token,
    /// Both.
    Both,
    /// A token that names the peer id it was issued for; stolen, it is worthless.
    Bound,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peers => "peers",
            Self::Token => "token",
            Self::Both => "both",
            Self::Bound => "bound",
        })
    }
}

/// A word that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy `{0}`: expected peers, token, both or bound")]
pub struct PolicyError(String);

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "peers" => Ok(Self::Peers),
            "token" => Ok(Self::Token),
            "both" => Ok(Self::Both),
            "bound" => Ok(Self::Bound),
            other => Err(PolicyError(other.to_owned())),
        }
    }
}

/// What somebody who was let in may do.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Who it is, for logs: a peer id or the label of a token.
    pub label: String,
    /// The peer the token was issued for.
    pub peer: Option<PeerId>,
    /// Targets the token is limited to; never more than the server's own. `None`: all of those.
    pub targets: Option<Allowlist>,
    /// End of the token's life.
    pub expires: Option<SystemTime>,
    /// Nothing but the token let them in. [`Access`] says so; what [`Tokens`] say here does not count.
    pub by_token: bool,
}

/// Judges tokens.
pub trait Tokens: Send + Sync + 'static {
    /// What the token grants; 1000 or 1001 if nothing. Never called with an empty token. Must not tell by its time
    /// how much of a token is right.
    fn check(&self, token: &[u8], opening: &Opening) -> Result<Grant, Failure>;
}

/// Fixed secrets with a label each.
#[derive(Default)]
pub struct OpaqueTokens {
    by_hash: HashMap<[u8; 32], Grant>,
}

impl fmt::Debug for OpaqueTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.by_hash.values().map(|grant| &grant.label);
        f.debug_list().entries(labels).finish()
    }
}

impl OpaqueTokens {
    /// Adds a token. Empty ones never let anybody in.
    pub fn insert(&mut self, token: &[u8], grant: Grant) {
        self.by_hash.insert(Sha256::digest(token).into(), grant);
    }
}

impl Tokens for OpaqueTokens {
    fn check(&self, token: &[u8], _opening: &Opening) -> Result<Grant, Failure> {
        // Found by its hash: how long a failure takes says nothing about the tokens that exist.
        let hash: [u8; 32] = Sha256::digest(token).into();
        let grant = self.by_hash.get(&hash).ok_or_else(bad_token)?;
        let expired = grant
            .expires
            .is_some_and(|expires| super::server::wall_clock() >= expires);
        match expired {
            true => Err(Failure::new(Code::AUTH_EXPIRED, "the token has expired")),
            false => Ok(grant.clone()),
        }
    }
}

/// Who may come in. Clones share the list of peers, which can be edited while a server runs.
#[derive(Clone)]
pub struct Access {
    pty: Policy,
    tunnel: Policy,
    peers: Arc<RwLock<BTreeSet<PeerId>>>,
    tokens: Option<Arc<dyn Tokens>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("pty", &self.pty)
            .field("tunnel", &self.tunnel)
            .field("peers", &self.peers().len())
            .field("tokens", &self.tokens.is_some())
            .finish()
    }
}

impl Default for Access {
    /// Listed peers only, and none is listed.
    fn default() -> Self {
        Self::new(Policy::Peers, Policy::Peers)
    }
}

impl Access {
    /// These policies, no peers, no tokens.
    pub fn new(pty: Policy, tunnel: Policy) -> Self {
        Self {
            pty,
            tunnel,
            peers: Arc::default(),
            tokens: None,
        }
    }

    /// Tokens are judged by this.
    #[must_use]
    pub fn with_tokens(mut self, tokens: impl Tokens) -> Self {
        self.tokens = Some(Arc::new(tokens));
        self
    }

    /// Lists a peer.
    pub fn allow_peer(&self, peer: PeerId) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.insert(peer);
    }

    /// Takes a peer off the list; sessions it has are not ended. `false` if it was not listed.
    pub fn forget_peer(&self, peer: &PeerId) -> bool {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.remove(peer)
    }

    /// The listed peers.
    pub fn peers(&self) -> Vec<PeerId> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().copied().collect()
    }

    /// Whether this is a listed peer.
    pub fn is_listed(&self, origin: &Origin) -> bool {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        origin.peer.is_some_and(|peer| peers.contains(&peer))
    }

    /// Lets in or refuses with 1000, 1001 or 1002. Over a WebSocket nobody has a proven peer id: a token is needed
    /// under [`Policy::Peers`], too, and [`Policy::Both`] and [`Policy::Bound`] let nobody in.
    pub fn check(&self, opening: &Opening) -> Result<Grant, Failure> {
        let policy = match opening.mode {
            Mode::Pty => self.pty,
            Mode::Tunnel => self.tunnel,
        };
        let mut grant = self.check_policy(policy, opening)?;
        grant.by_token = policy == Policy::Token && grant.peer.is_none();
        Ok(grant)
    }

    fn check_policy(&self, policy: Policy, opening: &Opening) -> Result<Grant, Failure> {
        let Some(peer) = opening.origin.peer else {
            return match policy {
                Policy::Peers | Policy::Token => self.check_token(opening),
                Policy::Both | Policy::Bound => Err(Failure::new(
                    Code::AUTH_INSUFFICIENT,
                    "this server asks for a proven peer id: connect over libp2p",
                )),
            };
        };
        if matches!(policy, Policy::Peers | Policy::Both) && !self.is_listed(&opening.origin) {
            return Err(Failure::new(
                Code::AUTH_INSUFFICIENT,
                format!("this server does not list peer {peer}; ask its owner to add it"),
            ));
        }
        if policy == Policy::Peers {
            let label = peer.to_string();
            return Ok(Grant {
                label,
                ..Grant::default()
            });
        }
        let grant = self.check_token(opening)?;
        if policy == Policy::Bound && grant.peer.is_none() {
            return Err(Failure::new(
                Code::AUTH_INSUFFICIENT,
                "this server takes only tokens that name a peer",
            ));
        }
        Ok(grant)
    }

    fn check_token(&self, opening: &Opening) -> Result<Grant, Failure> {
        if opening.token.is_empty() {
            return Err(Failure::new(
                Code::AUTH_FAILED,
                "this server asks for a token",
            ));
        }
        let tokens = self.tokens.as_ref().ok_or_else(bad_token)?;
        let grant = tokens.check(&opening.token, opening)?;
        // Whatever the policy: a token for one peer is nobody else's.
        if grant.peer.is_some() && grant.peer != opening.origin.peer {
            return Err(Failure::new(
                Code::AUTH_INSUFFICIENT,
                "the token was issued for another peer",
            ));
        }
        Ok(grant)
    }
}

fn bad_token() -> Failure {
    Failure::new(Code::AUTH_FAILED, "the token is not valid")
}

#[cfg(test)]
mod tests;
