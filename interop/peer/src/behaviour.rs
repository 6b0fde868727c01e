//! The swarm of a peer: the transport under test with identify, ping and streams.

use std::time::Duration;

use libp2p::{
    Swarm, identify,
    identity::Keypair,
    ping,
    swarm::{self, NetworkBehaviour},
};

use crate::{Failure, Ice, Implementation, Settings, protocols, serve};

/// Longer than any scenario: the program that dials says when it is over.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a peer speaks.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    /// Tells who we are.
    pub(crate) identify: identify::Behaviour,
    /// Answers pings and keeps the connection awake.
    pub(crate) ping: ping::Behaviour,
    /// Serves the protocols of the checks.
    pub(crate) serve: serve::Behaviour,
    /// Opens streams for the checks.
    pub(crate) stream: libp2p_stream::Behaviour,
}

/// How a swarm is made.
pub(crate) struct Plan {
    /// Always the same identity for the same number.
    pub(crate) seed: Option<u64>,
    /// The handshake of dials.
    pub(crate) ice: Ice,
    /// How far the pings of the swarm itself are apart.
    pub(crate) ping_interval: Duration,
    /// How the served protocols write.
    pub(crate) writer: protocols::Writer,
}

/// A swarm on the transport under test.
pub(crate) fn build(
    implementation: &Implementation,
    plan: &Plan,
) -> Result<Swarm<Behaviour>, Failure> {
    let key = identity(plan.seed)?;
    let identify = identify::Config::new("/interop/1.0.0".into(), key.public()).with_agent_version(
        format!("{}/{}", implementation.name, implementation.version),
    );
    let behaviour = Behaviour {
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(plan.ping_interval)),
        serve: serve::Behaviour::new(protocols::served(plan.writer)),
        stream: libp2p_stream::Behaviour::new(),
    };
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_max_negotiating_inbound_streams(1024);
    let peer = key.public().to_peer_id();
    let transport = (implementation.transport)(&Settings {
        key,
        seed: plan.seed,
        ice: plan.ice,
    })?;
    Ok(Swarm::new(transport, behaviour, peer, config))
}

/// With a seed always the same identity: an Ed25519 key whose secret is the seed as a number of 32 bytes.
fn identity(seed: Option<u64>) -> Result<Keypair, Failure> {
    let Some(seed) = seed else {
        return Ok(Keypair::generate_ed25519());
    };
    let mut secret = [0; 32];
    secret[24..].copy_from_slice(&seed.to_be_bytes());
    Ok(Keypair::ed25519_from_bytes(secret)?)
}
