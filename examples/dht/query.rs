//! `dht put`, `dht get` and `dht find`: one question to the table each, then the end.

use std::error::Error;

use futures::StreamExt as _;
use libp2p::{
    PeerId, Swarm,
    identity::Keypair,
    kad::{
        self, GetClosestPeersOk, GetProvidersOk, GetRecordOk, PutRecordError, PutRecordOk, QueryId,
        QueryResult, Quorum, Record,
    },
    swarm::SwarmEvent,
};
use serde_json::json;

use crate::{
    command_line::Options,
    folder::Folder,
    keys,
    node::{self, Behaviour, BehaviourEvent},
    output::{Output, chain, complain},
};

/// Stores a record at the nodes closest to its key.
pub(crate) async fn put(
    options: &Options,
    key: &str,
    value: String,
    output: Output,
) -> Result<(), Box<dyn Error>> {
    let mut swarm = client(options)?;
    let record = Record::new(keys::record(key), value.into_bytes());
    // All of them: with less, this program would end before the others have the record.
    let query = swarm.behaviour_mut().kad.put_record(record, Quorum::All)?;
    let stored = match progress(&mut swarm, query).await.0 {
        QueryResult::PutRecord(Ok(PutRecordOk { .. })) => kad::K_VALUE.get(),
        QueryResult::PutRecord(Err(
            PutRecordError::QuorumFailed { success, .. } | PutRecordError::Timeout { success, .. },
        )) => success.len(),
        other => return Err(format!("unexpected {other:?}").into()),
    };
    node::farewell(swarm).await;
    if stored == 0 {
        return Err("no node took the record".into());
    }
    output.say(
        &format!("{key} is stored at {stored} nodes"),
        &json!({ "event": "stored", "key": key, "nodes": stored }),
    )?;
    Ok(())
}

/// Prints the first record found.
pub(crate) async fn get(
    options: &Options,
    key: &str,
    output: Output,
) -> Result<(), Box<dyn Error>> {
    let mut swarm = client(options)?;
    let query = swarm.behaviour_mut().kad.get_record(keys::record(key));
    let result = progress(&mut swarm, query).await.0;
    node::farewell(swarm).await;
    let QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) = result else {
        return Err(format!("nobody has {key}").into());
    };
    let value = String::from_utf8_lossy(&found.record.value);
    output.say(
        &value,
        &json!({ "event": "found", "key": key, "value": value }),
    )?;
    Ok(())
}

/// Prints who provides a key, and at which addresses.
pub(crate) async fn find(
    options: &Options,
    key: &str,
    output: Output,
) -> Result<(), Box<dyn Error>> {
    let mut swarm = client(options)?;
    let query = swarm.behaviour_mut().kad.get_providers(keys::provider(key));
    let mut providers = Vec::new();
    loop {
        let (result, last) = progress(&mut swarm, query).await;
        if let QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders {
            providers: found,
            ..
        })) = result
        {
            for peer in found {
                if !providers.contains(&peer) {
                    providers.push(peer);
                }
            }
        }
        if last {
            break;
        }
    }
    for peer in &providers {
        let addrs = addresses(&mut swarm, *peer).await;
        output.say(
            &format!("{peer} provides {key}, at {}", addrs.join(", ")),
            &json!({ "event": "provider", "key": key, "peer": peer.to_string(), "addrs": addrs }),
        )?;
    }
    node::farewell(swarm).await;
    if providers.is_empty() {
        return Err(format!("nobody provides {key}").into());
    }
    Ok(())
}

/// A node that nobody asks, with an identity of its own: one of the same folder may be running.
fn client(options: &Options) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let mut swarm = node::build(
        Keypair::generate_ed25519(),
        &options.protocol,
        kad::Mode::Client,
    )?;
    let folder = Folder::existing(&options.folder);
    let mut known = false;
    for addr in options
        .bootstrap
        .iter()
        .chain(&folder.addresses()?)
        .chain(&folder.peers()?)
    {
        if !node::enter(&mut swarm, addr) {
            return Err(format!("{addr}: its /p2p is missing").into());
        }
        known = true;
    }
    if !known {
        let folder = options.folder.display();
        return Err(format!("no node is known in {folder}: name one with --bootstrap").into());
    }
    Ok(swarm)
}

/// What a peer's neighbours say about its addresses.
async fn addresses(swarm: &mut Swarm<Behaviour>, peer: PeerId) -> Vec<String> {
    let query = swarm.behaviour_mut().kad.get_closest_peers(peer);
    let QueryResult::GetClosestPeers(Ok(GetClosestPeersOk { peers, .. })) =
        progress(swarm, query).await.0
    else {
        return Vec::new();
    };
    let found = peers.into_iter().find(|info| info.peer_id == peer);
    found
        .into_iter()
        .flat_map(|info| info.addrs)
        .map(|addr| addr.to_string())
        .collect()
}

/// The next result of a query, and whether it is the last.
async fn progress(swarm: &mut Swarm<Behaviour>, query: QueryId) -> (QueryResult, bool) {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                ..
            })) if id == query => return (result, step.last),
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                complain(&format!("{peer} cannot be reached: {}", chain(&error)));
            }
            _ => {}
        }
    }
}
