//! libp2p-ping over this transport.
//!
//! Its responder waits for the second ping of a stream with a future that it has made and not polled, so a muxer that
//! wakes only the readers of streams leaves that ping unanswered.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{
    Swarm, SwarmBuilder, ping,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use libp2p_core::{Multiaddr, multiaddr::Protocol};
use libp2p_rtc::{Config, Transport};

const PATIENCE: Duration = Duration::from_secs(60);

/// A node that pings at this interval.
fn node(interval: Duration) -> Swarm<ping::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|keypair| Transport::new(Config::new(keypair)))
        .unwrap()
        .with_behaviour(|_| ping::Behaviour::new(ping::Config::new().with_interval(interval)))
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

async fn listen(swarm: &mut Swarm<ping::Behaviour>) -> Multiaddr {
    let addr = "/ip4/127.0.0.1/udp/0/webrtc-direct".parse().unwrap();
    swarm.listen_on(addr).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address.with(Protocol::P2p(*swarm.local_peer_id()));
        }
    }
}

#[tokio::test]
async fn a_responder_that_does_nothing_else_answers_every_ping() {
    // It pings once, and then its connection has no timer of its own that would wake it.
    let mut responder = node(Duration::from_secs(3600));
    let mut pinger = node(Duration::from_millis(10));
    let addr = listen(&mut responder).await;
    pinger.dial(DialOpts::from(addr)).unwrap();
    tokio::spawn(async move {
        loop {
            responder.select_next_some().await;
        }
    });
    let pings = async {
        let mut answered = 0;
        while answered < 10 {
            if let SwarmEvent::Behaviour(event) = pinger.select_next_some().await {
                event.result.expect("the ping is answered");
                answered += 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE, pings).await.unwrap();
}
