//! Observed addresses with the hash of our certificate, for AutoNAT.
//!
//! Peers tell with identify at which address they see us, and libp2p makes that a candidate for an external address. A
//! peer that was dialed over WebRTC-direct sees an IP address and a port, so the candidate has no `/certhash`: nobody
//! can dial it, and AutoNAT never confirms it. [`Behaviour`] answers such a candidate with those that can be dialed.
//! Put it into the swarm's behaviour beside identify and AutoNAT; other transports' candidates are left alone.
//!
//! It owns the listen addresses of the swarm, from which it takes the hash and the ports. It opens no streams and does
//! not check whether a candidate is reachable.
//!
//! ```
//! use libp2p::{autonat, identify, swarm::NetworkBehaviour};
//!
//! #[derive(NetworkBehaviour)]
//! struct Behaviour {
//!     identify: identify::Behaviour,
//!     candidates: libp2p_rtc::candidates::Behaviour,
//!     autonat: autonat::v2::client::Behaviour,
//! }
//! ```

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p_core::{Endpoint, Multiaddr, multiaddr::Protocol, transport::PortUse};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, ListenAddresses, NetworkBehaviour,
    NewExternalAddrCandidate, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};

/// Candidates that wait for the swarm to take them; more are dropped, and come again with the next peer.
const MAX_WAITING: usize = 64;

/// Answers candidates without `/certhash` with candidates that have it. See the [module](self).
#[derive(Debug, Default)]
pub struct Behaviour {
    listen: ListenAddresses,
    waiting: VecDeque<Multiaddr>,
}

impl Behaviour {
    /// A behaviour that learns everything from the swarm.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn on_candidate(&mut self, observed: &Multiaddr) {
        for addr in completed(observed, self.listen.iter()) {
            if self.waiting.len() < MAX_WAITING && !self.waiting.contains(&addr) {
                self.waiting.push_back(addr);
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.listen.on_swarm_event(&event);
        if let FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }) = event {
            self.on_candidate(addr);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // The swarm polls again after every event, and only its events bring news.
        self.waiting.pop_front().map_or(Poll::Pending, |addr| {
            Poll::Ready(ToSwarm::NewExternalAddrCandidate(addr))
        })
    }
}

/// The dialable forms of an observed address: with the certificate hashes of each of our listeners of its family, at the
/// port that was observed (a NAT may have chosen it) and at the listener's own (the dial may have left from another one).
fn completed<'a>(
    observed: &Multiaddr,
    listen: impl Iterator<Item = &'a Multiaddr>,
) -> Vec<Multiaddr> {
    let Some((ip, port, hashes)) = parts(observed) else {
        return Vec::new();
    };
    if !hashes.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (own_ip, own_port, hashes) in listen.filter_map(parts) {
        let same_family = matches!(
            (&ip, &own_ip),
            (Protocol::Ip4(_), Protocol::Ip4(_)) | (Protocol::Ip6(_), Protocol::Ip6(_))
        );
        if !same_family || hashes.is_empty() {
            continue;
        }
        for port in [port, own_port] {
            let addr = Multiaddr::empty()
                .with(ip.clone())
                .with(Protocol::Udp(port))
                .with(Protocol::WebRTCDirect);
            let addr = hashes.iter().cloned().fold(addr, Multiaddr::with);
            if !found.contains(&addr) {
                found.push(addr);
            }
        }
    }
    found
}

/// IP address, port and certificate hashes of a WebRTC-direct address; a peer id at its end is left out.
fn parts(addr: &Multiaddr) -> Option<(Protocol<'_>, u16, Vec<Protocol<'_>>)> {
    let mut protocols = addr.iter();
    let ip = protocols.next()?;
    let (Some(Protocol::Udp(port)), Some(Protocol::WebRTCDirect)) =
        (protocols.next(), protocols.next())
    else {
        return None;
    };
    let mut hashes = Vec::new();
    for protocol in protocols {
        match protocol {
            Protocol::Certhash(_) => hashes.push(protocol),
            Protocol::P2p(_) => {}
            // Above all `/p2p-circuit`.
            _ => return None,
        }
    }
    Some((ip, port, hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "certhash/uEiCHP_LAS9kzney0KYV4zADNWGPPaGnYyBmyW1_9R_WHJg";

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn texts(observed: &str, listen: &[String]) -> Vec<String> {
        let listen: Vec<_> = listen.iter().map(|text| addr(text)).collect();
        let found = completed(&addr(observed), listen.iter());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_port_of_the_listener_gets_the_hash() {
        let listen = format!("/ip4/10.0.0.1/udp/9090/webrtc-direct/{HASH}");
        assert_eq!(
            texts("/ip4/192.0.2.1/udp/9090/webrtc-direct", &[listen]),
            [format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/{HASH}")]
        );
    }

    #[test]
    fn another_port_is_tried_beside_that_of_the_listener() {
        let listen = [
            format!("/ip4/127.0.0.1/udp/9090/webrtc-direct/{HASH}"),
            format!("/ip4/10.0.0.1/udp/9090/webrtc-direct/{HASH}"),
            format!("/ip6/::1/udp/9091/webrtc-direct/{HASH}"),
            "/ip4/10.0.0.1/udp/9092/quic-v1".to_owned(),
        ];
        assert_eq!(
            texts("/ip4/192.0.2.1/udp/4/webrtc-direct", &listen),
            [
                format!("/ip4/192.0.2.1/udp/4/webrtc-direct/{HASH}"),
                format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/{HASH}"),
            ]
        );
    }

    #[test]
    fn what_has_a_hash_or_belongs_to_others_is_left_alone() {
        let listen = [format!("/ip4/10.0.0.1/udp/9090/webrtc-direct/{HASH}")];
        for observed in [
            &format!("/ip4/192.0.2.1/udp/9090/webrtc-direct/{HASH}"),
            "/ip4/192.0.2.1/udp/9090/quic-v1",
            "/ip4/192.0.2.1/tcp/9090",
            "/ip6/2001:db8::1/udp/9090/webrtc-direct",
            "/ip4/192.0.2.1/udp/9090/webrtc-direct/p2p-circuit",
        ] {
            assert!(texts(observed, &listen).is_empty(), "{observed}");
        }
    }

    #[test]
    fn peers_cannot_fill_the_queue() {
        let mut behaviour = Behaviour::new();
        let own = format!("/ip4/10.0.0.1/udp/9090/webrtc-direct/{HASH}");
        let own = addr(&own);
        behaviour
            .listen
            .on_swarm_event(&FromSwarm::NewListenAddr(libp2p_swarm::NewListenAddr {
                listener_id: libp2p_core::transport::ListenerId::next(),
                addr: &own,
            }));
        for port in 1..1000 {
            behaviour.on_candidate(&addr(&format!("/ip4/192.0.2.1/udp/{port}/webrtc-direct")));
        }
        assert_eq!(behaviour.waiting.len(), MAX_WAITING);
    }
}
