//! The swarm of both suites.

use std::{net::IpAddr, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    multiaddr::Protocol,
    ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use libp2p_rtc::{Config, Transport};

use crate::{Failure, settings::Settings};

/// The suites end a listener when they want to.
const IDLE: Duration = Duration::from_secs(3600);

/// What a node speaks.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) ping: ping::Behaviour,
    identify: identify::Behaviour,
    pub(crate) stream: libp2p_stream::Behaviour,
}

/// A node that pings so often.
pub(crate) fn build(ping_interval: Duration) -> Result<Swarm<Behaviour>, Failure> {
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key)))?
        .with_behaviour(|key| Behaviour {
            ping: ping::Behaviour::new(ping::Config::new().with_interval(ping_interval)),
            identify: identify::Behaviour::new(identify::Config::new(
                "/unified-testing/1.0.0".into(),
                key.public(),
            )),
            stream: libp2p_stream::Behaviour::new(),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build())
}

/// Listens and waits for the first address that another container can reach.
pub(crate) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    settings: &Settings,
) -> Result<String, Failure> {
    let addr = Multiaddr::empty()
        .with(settings.listener_ip.into())
        .with(Protocol::Udp(0))
        .with(Protocol::WebRTCDirect);
    swarm.listen_on(addr)?;
    let peer = *swarm.local_peer_id();
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. }
                if reachable(&address) || settings.listener_ip.is_loopback() =>
            {
                return Ok(format!("{address}/p2p/{peer}"));
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                return Err(format!("the listener has closed: {reason:?}").into());
            }
            event => eprintln!("{event:?}"),
        }
    }
}

fn reachable(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => !IpAddr::V4(ip).is_loopback(),
        Some(Protocol::Ip6(ip)) => !IpAddr::V6(ip).is_loopback(),
        _ => false,
    }
}

/// Dials and waits for the connection.
pub(crate) async fn dial(swarm: &mut Swarm<Behaviour>, addr: &str) -> Result<PeerId, Failure> {
    swarm.dial(addr.trim().parse::<Multiaddr>()?)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            event => eprintln!("{event:?}"),
        }
    }
}
