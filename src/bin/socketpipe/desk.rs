//! The service of the program: the library's gate with two doors, tokens that are counted, audit and recordings.

use std::{net::IpAddr, sync::Arc};

use futures::future::BoxFuture;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use libp2p_rtc::socketpipe::{
    Access, Code, Failure, Gate, Opened, Opening, Origin, Outcome, Policy, Record, Service,
    session::Mode, tokens::TokenStore, websocket::RateLimiter,
};

use crate::{
    Failed,
    audit::Audit,
    config::{Config, Rule},
    recording::Recording,
    state::State,
};

/// Issued tokens, in the state directory.
pub(crate) const TOKENS: &str = "tokens.json";

/// Decides who gets what. Clones are equal.
#[derive(Clone)]
pub(crate) struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    /// By the rules of the configuration.
    gate: Gate,
    /// For listed peers, where the rule is `any`.
    members: Gate,
    any_pty: bool,
    any_tunnel: bool,
    tokens: TokenStore,
    state: State,
    audit: Audit,
    recording: Option<Recording>,
    limiter: RateLimiter,
}

impl Desk {
    pub(crate) fn new(
        config: &Config,
        state: &State,
        tokens: TokenStore,
        limiter: RateLimiter,
    ) -> Result<Self, Failed> {
        let policy = |rule| match rule {
            Rule::Any => Policy::Token,
            Rule::Strict(policy) => policy,
        };
        let rules = &config.access;
        let access =
            Access::new(policy(rules.pty), policy(rules.tunnel)).with_tokens(tokens.clone());
        let mut gate = Gate::new(access);
        config.terminal.apply(&mut gate)?;
        if let Some(target) = &config.tunnel.default {
            gate.tunnel.default = Some(crate::destination::host_port(target)?);
        }
        gate.tunnel.allow = config.tunnel.allow.0.clone();
        let mut members = gate.clone();
        members.access = Access::default();
        let path = config.audit.file.clone();
        let path = path.unwrap_or_else(|| state.file("audit.jsonl"));
        let audit = Audit::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let recording = config
            .recording
            .directory
            .clone()
            .map(|directory| Recording {
                directory,
                input: config.recording.input,
            });
        if let Some(recording) = &recording {
            recording.prepare().map_err(|error| {
                format!("recordings in {}: {error}", recording.directory.display())
            })?;
        }
        let desk = Self {
            inner: Arc::new(Inner {
                gate,
                members,
                any_pty: rules.pty == Rule::Any,
                any_tunnel: rules.tunnel == Rule::Any,
                tokens,
                state: state.clone(),
                audit,
                recording,
                limiter,
            }),
        };
        for peer in &rules.peers {
            desk.allow_peer(*peer);
        }
        Ok(desk)
    }

    pub(crate) fn allow_peer(&self, peer: PeerId) {
        self.inner.gate.access.allow_peer(peer);
        self.inner.members.access.allow_peer(peer);
    }

    pub(crate) fn forget_peer(&self, peer: &PeerId) -> bool {
        self.inner.members.access.forget_peer(peer);
        self.inner.gate.access.forget_peer(peer)
    }

    pub(crate) fn peers(&self) -> Vec<PeerId> {
        self.inner.gate.access.peers()
    }

    pub(crate) fn tokens(&self) -> &TokenStore {
        &self.inner.tokens
    }

    /// Writes the tokens down if they have changed.
    pub(crate) fn save_tokens(&self) {
        if let Some(saved) = self.inner.tokens.saved()
            && let Err(error) = self.inner.state.save(TOKENS, &saved)
        {
            tracing::error!(%error, "the tokens cannot be saved");
        }
    }

    async fn admit(self, opening: Opening) -> Result<Opened, Failure> {
        let inner = &self.inner;
        let address = address_of(&opening.origin);
        if address.is_some_and(|address| !inner.limiter.may_try(address))
            && !self.knows(&opening.origin)
        {
            return Err(Failure::new(
                Code::CONNECT_FAILED,
                "too many failed attempts from your address; wait a little",
            ));
        }
        let any = match opening.mode {
            Mode::Pty => inner.any_pty,
            Mode::Tunnel => inner.any_tunnel,
        };
        if any && inner.members.access.is_listed(&opening.origin) {
            let opened = inner.members.open(opening.clone()).await?;
            return self.record(&opening, opened);
        }
        let opened = inner.gate.open(opening.clone()).await?;
        let redeemed = inner.tokens.redeem(&opening);
        self.save_tokens();
        redeemed?;
        self.record(&opening, opened)
    }

    fn record(&self, opening: &Opening, mut opened: Opened) -> Result<Opened, Failure> {
        let recording = self.inner.recording.as_ref();
        if let Some(recording) = recording.filter(|_| opening.mode == Mode::Pty) {
            opened.backend = recording
                .wrap(opened.backend, &opened.label)
                .map_err(|error| {
                    tracing::error!(%error, "no recording, no session");
                    Failure::new(Code::CONNECT_FAILED, "the session cannot be recorded")
                })?;
        }
        Ok(opened)
    }
}

/// Somebody guesses, or has an old token or session.
fn is_a_guess(code: Code) -> bool {
    matches!(
        code,
        Code::AUTH_FAILED | Code::AUTH_EXPIRED | Code::SESSION_NOT_FOUND
    )
}

/// The IP address somebody comes from. `None` for those behind a relay, who share one.
fn address_of(origin: &Origin) -> Option<IpAddr> {
    let text = origin.address.as_deref()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let address: Multiaddr = text.parse().ok()?;
    let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
    let found = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    });
    found.filter(|_| !relayed)
}

impl Service for Desk {
    fn open(&self, opening: Opening) -> BoxFuture<'static, Result<Opened, Failure>> {
        Box::pin(self.clone().admit(opening))
    }

    fn knows(&self, origin: &Origin) -> bool {
        self.inner.gate.knows(origin)
    }

    fn ended(&self, record: &Record) {
        self.inner.gate.ended(record);
        self.inner.audit.write(record);
        if let Outcome::Refused(failure) = &record.outcome
            && is_a_guess(failure.code)
            && let Some(address) = address_of(&record.origin)
        {
            self.inner.limiter.failed(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_behind_a_relay_are_not_taken_for_the_relay() {
        let relayed = "/ip4/192.0.2.1/udp/1/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
        for (text, found) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("/ip4/192.0.2.1/tcp/1", Some("192.0.2.1")),
            ("/ip6/2001:db8::1/udp/1/quic-v1", Some("2001:db8::1")),
            (relayed, None),
            ("nonsense", None),
        ] {
            let origin = Origin::address(text);
            let expected = found.map(|address| address.parse().unwrap());
            assert_eq!(address_of(&origin), expected, "{text}");
        }
    }
}
