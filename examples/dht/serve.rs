//! `dht run` and `dht provide`: a node that others ask, until it is told to stop.

use std::{collections::BTreeSet, error::Error, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, identify,
    kad::{self, AddProviderError, AddProviderOk, QueryResult},
    multiaddr::Protocol,
    swarm::SwarmEvent,
};
use libp2p_rtc::{Due, Ended, Listeners};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    command_line::Options,
    folder::Folder,
    keys,
    node::{self, Behaviour, BehaviourEvent},
    output::{Output, chain, complain},
};

/// How often the routing table is written to disk.
const KEEP: Duration = Duration::from_secs(10);

/// A running node.
struct Node<'a> {
    swarm: Swarm<Behaviour>,
    listeners: Listeners,
    folder: Folder,
    output: Output,
    /// Where to begin; empty as soon as the node has begun.
    bootstrap: Vec<Multiaddr>,
    /// Where this node can be reached.
    addresses: BTreeSet<Multiaddr>,
    /// What it announces as a provider.
    provides: Option<&'a str>,
    /// Is that announced already?
    announced: bool,
}

/// Runs a node; `provides` is what it announces itself as a provider of.
pub(crate) async fn run(
    options: &Options,
    provides: Option<&str>,
    output: Output,
) -> Result<(), Box<dyn Error>> {
    let stop = stop_signal()?;
    let folder = Folder::create(&options.folder)?;
    let mut swarm = node::build(folder.identity()?, &options.protocol, kad::Mode::Server)?;
    let port = folder.port()?;
    let mut listeners = Listeners::default();
    for addr in &options.listen {
        let addr = with_port(addr, port);
        let id = swarm
            .listen_on(addr.clone())
            .map_err(|error| format!("{addr}: {}", chain(&error)))?;
        listeners.opened(id, addr);
    }
    let bootstrap = options.bootstrap.iter().cloned().chain(folder.peers()?);
    let bootstrap: Vec<_> = bootstrap.collect();
    if let Some(addr) = bootstrap.iter().find(|addr| node::peer_of(addr).is_none()) {
        return Err(format!("{addr}: its /p2p is missing").into());
    }
    let mut node = Node {
        swarm,
        listeners,
        folder,
        output,
        bootstrap,
        addresses: BTreeSet::new(),
        provides,
        announced: false,
    };
    let outcome = node.serve(stop).await;
    let kept = node.keep();
    node::farewell(node.swarm).await;
    outcome.and(kept)
}

impl Node<'_> {
    async fn serve(&mut self, stop: impl Future<Output = ()>) -> Result<(), Box<dyn Error>> {
        let mut stop = std::pin::pin!(stop);
        let mut keep = interval(KEEP);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                _ = keep.tick() => self.keep()?,
                due = self.listeners.due() => self.listen_again(due),
                event = self.swarm.select_next_some() => self.on_event(event)?,
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> Result<(), Box<dyn Error>> {
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                self.listeners.found(listener_id, &address);
                self.on_address(address)?;
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                let full = address.with(Protocol::P2p(*self.swarm.local_peer_id()));
                self.output.say(
                    &format!("no longer reached at {full}"),
                    &json!({ "expired": full }),
                )?;
                self.addresses.remove(&full);
            }
            SwarmEvent::ListenerError { error, .. } => complain(&chain(&error)),
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } => {
                if let Some(ended) = self.listeners.ended(listener_id) {
                    complain_of_end(&ended, &chain(&error));
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                self.on_failure(peer_id, &error)?
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                node::learn(&mut self.swarm, peer_id, &info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event)?,
            _ => {}
        }
        Ok(())
    }

    fn listen_again(&mut self, due: Due) {
        match self.swarm.listen_on(due.address().clone()) {
            Ok(id) => self.listeners.reopened(due, id),
            Err(error) => complain_of_end(&self.listeners.failed(due), &chain(&error)),
        }
    }

    fn on_address(&mut self, address: Multiaddr) -> Result<(), Box<dyn Error>> {
        // Kademlia tells others external addresses only. Those of the interfaces are right where no NAT is in between;
        // behind one, the address that AutoNAT confirms has to be added instead.
        self.swarm.add_external_address(address.clone());
        let full = address.with(Protocol::P2p(*self.swarm.local_peer_id()));
        self.output
            .say(&full.to_string(), &json!({ "addr": full }))?;
        self.addresses.insert(full);
        self.folder
            .keep_addresses(&Vec::from_iter(self.addresses.iter().cloned()))?;
        // Kademlia looks for itself as soon as its table has a peer, and so finds its neighbours. Not before there is an
        // address: they would not learn where we are.
        for addr in std::mem::take(&mut self.bootstrap) {
            node::enter(&mut self.swarm, &addr);
        }
        Ok(())
    }

    fn on_failure(
        &mut self,
        peer: Option<PeerId>,
        error: &libp2p::swarm::DialError,
    ) -> Result<(), Box<dyn Error>> {
        let Some(peer) = peer else { return Ok(()) };
        let reason = chain(error);
        self.output.say(
            &format!("{peer} cannot be reached: {reason}"),
            &json!({ "event": "unreachable", "peer": peer.to_string(), "reason": reason }),
        )?;
        Ok(())
    }

    fn on_kad(&mut self, event: kad::Event) -> Result<(), Box<dyn Error>> {
        match event {
            kad::Event::RoutingUpdated {
                peer,
                is_new_peer: true,
                addresses,
                ..
            } => {
                let addrs: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                self.output.say(
                    &format!("knows {peer} at {}", addrs.join(", ")),
                    &json!({ "event": "peer", "peer": peer.to_string(), "addrs": addrs }),
                )?;
            }
            kad::Event::OutboundQueryProgressed {
                result: QueryResult::Bootstrap(Ok(done)),
                ..
            } if done.num_remaining == 0 => {
                let known = node::known(&mut self.swarm).len();
                self.output.say(
                    &format!("looked for its neighbours: {known} addresses known"),
                    &json!({ "event": "bootstrapped", "known": known }),
                )?;
                self.provide()?;
            }
            kad::Event::OutboundQueryProgressed {
                result: QueryResult::StartProviding(result),
                ..
            } => self.on_provided(result)?,
            _ => {}
        }
        Ok(())
    }

    /// Announces what this node provides, once it knows its neighbours. Kademlia repeats it later.
    fn provide(&mut self) -> Result<(), Box<dyn Error>> {
        if let Some(text) = self.provides
            && !std::mem::replace(&mut self.announced, true)
        {
            self.swarm
                .behaviour_mut()
                .kad
                .start_providing(keys::provider(text))?;
        }
        Ok(())
    }

    fn on_provided(
        &mut self,
        result: Result<AddProviderOk, AddProviderError>,
    ) -> Result<(), Box<dyn Error>> {
        let Some(text) = self.provides else {
            return Ok(());
        };
        match result {
            Ok(_) => {
                let cid = keys::cid(text);
                self.output.say(
                    &format!("provides {text}, CID {cid}"),
                    &json!({ "event": "providing", "key": text, "cid": cid }),
                )?;
            }
            // Kademlia tries again with its publication interval.
            Err(error) => complain(&format!("{text} is not announced: {error}")),
        }
        Ok(())
    }

    /// Writes what must survive a restart.
    fn keep(&mut self) -> Result<(), Box<dyn Error>> {
        let known = node::known(&mut self.swarm);
        // A node that has lost its network has not lost the addresses that it knew.
        if !known.is_empty() {
            self.folder.keep_peers(&known)?;
        }
        Ok(())
    }
}

fn complain_of_end(ended: &Ended, reason: &str) {
    let seconds = ended.pause.as_secs();
    complain(&format!(
        "does not listen on {} any more ({reason}), next try in {seconds} s",
        ended.address
    ));
}

/// The address with this port in the place of port 0.
fn with_port(addr: &Multiaddr, port: u16) -> Multiaddr {
    addr.iter()
        .map(|part| match part {
            Protocol::Udp(0) => Protocol::Udp(port),
            part => part,
        })
        .collect()
}

/// Resolves on SIGINT or SIGTERM.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Resolves on Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
