//! What a distributed hash table needs of the transport: addresses that can be stored and dialed again, and that other
//! behaviours of libp2p (Kademlia, identify, AutoNAT, mDNS) understand.
//!
//! Tests that need network interfaces of their own run in a network namespace; where that is not allowed they say so and
//! pass.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network_namespace;
#[expect(dead_code, reason = "the test needs a part of it")]
#[path = "../examples/dht_swarm/node.rs"]
mod node;

use std::{collections::HashSet, time::Duration};

use futures::{StreamExt as _, future::join_all};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, autonat, identify,
    identity::Keypair,
    mdns,
    multiaddr::Protocol,
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts, dummy},
};
use libp2p_rtc::{Config, Transport, candidates};
use node::{Node, Plan, TransportKind};

/// Far more than anything on a loopback takes.
const PATIENCE: Duration = Duration::from_secs(120);

const LOOPBACK: &str = "/ip4/127.0.0.1/udp/0/webrtc-direct";

/// Addresses for documentation (RFC 5737): nobody has them.
const INTERFACE_NET: &str = "198.51.100.1/24";
const INTERFACE_IP: &str = "198.51.100.1";

/// Fails instead of hanging.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

fn swarm<B: NetworkBehaviour>(behaviour: impl FnOnce(&Keypair) -> B) -> Swarm<B> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .try_init()
        .ok();
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|key| Transport::new(Config::new(key)))
        .unwrap()
        .with_behaviour(|key| behaviour(key))
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

fn is_dialable(addr: &Multiaddr) -> bool {
    addr.iter()
        .any(|part| matches!(part, Protocol::Certhash(_)))
}

fn has_ip(addr: &Multiaddr, ip: &str) -> bool {
    addr.to_string().starts_with(&format!("/ip4/{ip}/"))
}

mod table {
    use super::*;

    fn plan() -> Plan {
        Plan {
            kind: TransportKind::Webrtc,
            identity: Keypair::generate_ed25519(),
            listen: LOOPBACK.parse().unwrap(),
            protocol: StreamProtocol::new("/libp2p-rtc/kad/1.0.0"),
            idle: PATIENCE,
            counters: Default::default(),
        }
    }

    async fn nodes(count: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node::start(plan()).await.unwrap());
        }
        let (first, others) = nodes.split_first().unwrap();
        let joined = others
            .iter()
            .map(|node| node.join(vec![first.addr.clone()]));
        assert!(join_all(joined).await.into_iter().all(|joined| joined));
        nodes
    }

    #[tokio::test]
    async fn finds_records_and_providers() {
        soon(async {
            let nodes = nodes(8).await;
            assert!(nodes[1].put("/rtc/a", b"value".to_vec()).await > 0);
            assert_eq!(nodes[6].get("/rtc/a").await.as_deref(), Some(&b"value"[..]));
            assert_eq!(nodes[6].get("/rtc/b").await, None);
            assert!(nodes[2].provide("content").await);
            assert_eq!(
                nodes[7].find("content").await,
                HashSet::from([nodes[2].peer()])
            );
        })
        .await;
    }

    /// The restarted nodes have lost their records. Half of the copies are left.
    #[tokio::test]
    async fn finds_records_after_half_of_it_was_restarted_at_the_same_addresses() {
        soon(async {
            let nodes = nodes(10).await;
            for at in 0..20 {
                let key = format!("/rtc/{at}");
                assert!(nodes[at % 10].put(&key, vec![7; at]).await > 0);
            }
            let mut stay = nodes;
            let gone = stay.split_off(5);
            let mut stored = Vec::new();
            for node in &stay {
                stored.push(node.status().await.unwrap().known);
            }
            let mut back = Vec::new();
            for node in gone {
                let addr = node.addr.clone();
                let node = Node::start(node.stop().await.unwrap()).await.unwrap();
                assert_eq!(node.addr, addr);
                back.push(node);
            }
            let mut redials = 0;
            for (node, known) in stay.iter().zip(&stored) {
                for peer in &back {
                    let Some(addrs) = known.get(&peer.peer()) else {
                        continue;
                    };
                    node.dial(peer.peer(), addrs.clone()).await.unwrap();
                    redials += 1;
                }
            }
            assert!(redials > 0);
            for node in &back {
                assert!(node.join(vec![stay[0].addr.clone()]).await);
            }
            for at in 0..20 {
                let asked = [&stay, &back][at % 2];
                let found = asked[at % 5].get(&format!("/rtc/{at}")).await;
                assert_eq!(found, Some(vec![7; at]), "record {at}");
            }
        })
        .await;
    }
}

/// identify and AutoNAT.
mod reachability {
    use super::*;

    #[derive(NetworkBehaviour)]
    struct Client {
        identify: identify::Behaviour,
        candidates: candidates::Behaviour,
        autonat: autonat::v2::client::Behaviour,
    }

    #[derive(NetworkBehaviour)]
    struct Server {
        identify: identify::Behaviour,
        autonat: autonat::v2::server::Behaviour,
    }

    fn identify(key: &Keypair) -> identify::Behaviour {
        identify::Behaviour::new(identify::Config::new("/test/1.0.0".into(), key.public()))
    }

    fn client() -> Swarm<Client> {
        let config =
            autonat::v2::client::Config::default().with_probe_interval(Duration::from_millis(100));
        swarm(|key| Client {
            identify: identify(key),
            candidates: candidates::Behaviour::new(),
            autonat: autonat::v2::client::Behaviour::new(rand::make_rng(), config),
        })
    }

    fn server() -> Swarm<Server> {
        swarm(|key| Server {
            identify: identify(key),
            autonat: autonat::v2::server::Behaviour::new(rand::make_rng()),
        })
    }

    async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
        swarm.listen_on(LOOPBACK.parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                return address;
            }
        }
    }

    /// Drives both until the client reports what is looked for.
    async fn until<T>(
        client: &mut Swarm<Client>,
        server: &mut Swarm<Server>,
        mut wanted: impl FnMut(SwarmEvent<ClientEvent>) -> Option<T>,
    ) -> T {
        soon(async {
            loop {
                tokio::select! {
                    event = client.select_next_some() => {
                        if let Some(found) = wanted(event) {
                            return found;
                        }
                    }
                    _ = server.select_next_some() => {}
                }
            }
        })
        .await
    }

    #[tokio::test]
    async fn an_observed_address_becomes_a_candidate_that_can_be_dialed() {
        let (mut client, mut server) = (client(), server());
        let own = listen(&mut client).await;
        let addr = listen(&mut server).await;
        client.dial(addr).unwrap();
        let mut bare = false;
        let candidate = until(&mut client, &mut server, |event| match event {
            SwarmEvent::NewExternalAddrCandidate { address } if is_dialable(&address) => {
                Some(address)
            }
            SwarmEvent::NewExternalAddrCandidate { .. } => {
                bare = true;
                None
            }
            _ => None,
        })
        .await;
        // The dial left from the listener's port, so what the server saw is the listener.
        assert_eq!(candidate, own);
        assert!(bare, "identify's own candidate comes first");
        // AutoNAT dials meanwhile, the bare candidate too.
        let opts = DialOpts::unknown_peer_id().address(candidate).build();
        let dial = opts.connection_id();
        server.dial(opts).unwrap();
        soon(async {
            loop {
                tokio::select! {
                    _ = client.select_next_some() => {}
                    event = server.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { connection_id, .. } if connection_id == dial => return,
                        SwarmEvent::OutgoingConnectionError { connection_id, error, .. }
                            if connection_id == dial => panic!("{error:?}"),
                        _ => {}
                    }
                }
            }
        })
        .await;
    }

    #[tokio::test]
    async fn autonat_confirms_an_address() {
        let (mut client, mut server) = (client(), server());
        let own = listen(&mut client).await;
        let addr = listen(&mut server).await;
        client.dial(addr).unwrap();
        let confirmed = until(&mut client, &mut server, |event| match event {
            SwarmEvent::ExternalAddrConfirmed { address } => Some(address),
            _ => None,
        })
        .await;
        assert_eq!(confirmed, own);
    }
}

/// Tests with interfaces of their own.
mod namespaces {
    use super::{
        network_namespace::{enter, ip},
        *,
    };

    /// An interface with [`INTERFACE_IP`]: one end of a cable. Not every kernel has interfaces of the type `dummy`.
    fn add_interface() {
        ip("link add dht0 type veth peer name dht1");
        ip("link set dht1 up");
        ip(&format!("addr add {INTERFACE_NET} dev dht0"));
        ip("link set dht0 up multicast on");
    }

    async fn next_address<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> (bool, Multiaddr) {
        soon(async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { address, .. } => return (true, address),
                    SwarmEvent::ExpiredListenAddr { address, .. } => return (false, address),
                    _ => {}
                }
            }
        })
        .await
    }

    #[tokio::test]
    async fn a_wildcard_listener_announces_and_withdraws_addresses_of_interfaces() {
        if !enter("namespaces::a_wildcard_listener_announces_and_withdraws_addresses_of_interfaces")
        {
            return;
        }
        let mut listener = swarm(|_| dummy::Behaviour);
        listener
            .listen_on("/ip4/0.0.0.0/udp/0/webrtc-direct".parse().unwrap())
            .unwrap();
        let (is_new, first) = next_address(&mut listener).await;
        assert!(is_new && has_ip(&first, "127.0.0.1"), "{first}");
        add_interface();
        let (is_new, added) = next_address(&mut listener).await;
        assert!(is_new && has_ip(&added, INTERFACE_IP), "{added}");
        for addr in [&first, &added] {
            let mut dialer = swarm(|_| dummy::Behaviour);
            dialer.dial(addr.clone()).unwrap();
            soon(async {
                loop {
                    tokio::select! {
                        _ = listener.select_next_some() => {}
                        event = dialer.select_next_some() => match event {
                            SwarmEvent::ConnectionEstablished { .. } => return,
                            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{addr}: {error:?}"),
                            _ => {}
                        }
                    }
                }
            })
            .await;
        }
        ip(&format!("addr del {INTERFACE_NET} dev dht0"));
        assert_eq!(next_address(&mut listener).await, (false, added.clone()));
        ip(&format!("addr add {INTERFACE_NET} dev dht0"));
        assert_eq!(next_address(&mut listener).await, (true, added.clone()));
        ip("link del dht0");
        assert_eq!(next_address(&mut listener).await, (false, added));
    }

    #[tokio::test]
    async fn mdns_finds_a_node_without_internet() {
        if !enter("namespaces::mdns_finds_a_node_without_internet") {
            return;
        }
        add_interface();
        let node = || {
            swarm(|key| {
                let config = mdns::Config::default();
                mdns::tokio::Behaviour::new(config, key.public().to_peer_id()).unwrap()
            })
        };
        let mut nodes = [node(), node()];
        for node in &mut nodes {
            node.listen_on("/ip4/0.0.0.0/udp/0/webrtc-direct".parse().unwrap())
                .unwrap();
        }
        let [mut near, mut far] = nodes;
        let far_peer = *far.local_peer_id();
        let connected = async {
            loop {
                tokio::select! {
                    _ = far.select_next_some() => {}
                    event = near.select_next_some() => match event {
                        SwarmEvent::Behaviour(mdns::Event::Discovered(found)) => dial(&mut near, far_peer, found),
                        SwarmEvent::ConnectionEstablished { peer_id, .. } => return peer_id,
                        SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error:?}"),
                        _ => {}
                    }
                }
            }
        };
        assert_eq!(soon(connected).await, far_peer);
    }

    /// Dials what mDNS has found of this peer.
    fn dial(
        swarm: &mut Swarm<mdns::tokio::Behaviour>,
        peer: PeerId,
        found: Vec<(PeerId, Multiaddr)>,
    ) {
        for (id, addr) in found {
            if id == peer && has_ip(&addr, INTERFACE_IP) {
                assert!(is_dialable(&addr), "{addr}");
                swarm.dial(addr).unwrap();
                return;
            }
        }
    }
}

/// A string of a TXT record (RFC 1035, section 3.3) has at most 255 bytes, and libp2p-mdns leaves longer addresses out.
#[test]
fn the_longest_address_fits_into_a_string_of_a_dns_record() {
    let hash = "certhash/uEiCHP_LAS9kzney0KYV4zADNWGPPaGnYyBmyW1_9R_WHJg";
    let addr: Multiaddr =
        format!("/ip6/2001:db8:1111:2222:3333:4444:5555:6666/udp/65535/webrtc-direct/{hash}")
            .parse()
            .unwrap();
    let addr = addr.with(Protocol::P2p(
        Keypair::generate_ed25519().public().to_peer_id(),
    ));
    let record = format!("dnsaddr={addr}");
    assert!(record.len() <= 255, "{} bytes", record.len());
}
