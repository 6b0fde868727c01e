//! The process that listens.

use std::error::Error;

use futures::StreamExt as _;
use libp2p::swarm::SwarmEvent;

use crate::{child::questions, print, swarm};

/// Until stdin ends; each line on it is answered with the number of connections.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let mut swarm = swarm()?;
    swarm.listen_on("/ip4/127.0.0.1/udp/0/webrtc-direct".parse()?)?;
    let mut questions = questions();
    loop {
        tokio::select! {
            question = questions.next_line() => {
                if question?.is_none() {
                    return Ok(());
                }
                let open = swarm.network_info().connection_counters().num_established();
                print(&open.to_string())?;
            }
            event = swarm.select_next_some() => {
                if let SwarmEvent::NewListenAddr { address, .. } = event {
                    print(&format!("{address}/p2p/{}", swarm.local_peer_id()))?;
                }
            }
        }
    }
}
