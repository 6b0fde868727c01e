//! Nodes with the transport `/ws/webrtc` on loopback, polled by hand.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "no test file uses every helper, and a test fails by panicking"
)]

use std::net::{IpAddr, Ipv4Addr};

use libp2p_identity::Keypair;
use libp2p_rtc::{
    CallConfig, Caller,
    websocket::{Config, Transport},
};

use crate::common::Node;

pub(crate) const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0/ws/webrtc";

/// Calls on loopback only.
pub(crate) fn calls() -> CallConfig {
    CallConfig::new().with_announced(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

/// A node that calls over loopback.
pub(crate) fn node() -> Node<Transport> {
    node_with(calls(), |config| config)
}

/// A node that takes part in no call, as one without UDP.
pub(crate) fn node_without_webrtc() -> Node<Transport> {
    node_with(calls().with_max_calls(0), |config| config)
}

/// A node with these calls and settings.
pub(crate) fn node_with(
    calls: CallConfig,
    change: impl FnOnce(Config) -> Config,
) -> Node<Transport> {
    let keypair = Keypair::generate_ed25519();
    let config = Config::new(&keypair).with_caller(Caller::new(calls));
    Node {
        transport: Transport::new(change(config)),
        peer: keypair.public().to_peer_id(),
    }
}
