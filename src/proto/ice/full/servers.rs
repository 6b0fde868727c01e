//! The STUN and TURN servers of a full agent: they may come while it is at work, as their names take time to resolve; what
//! comes by relays, and the candidates that these are.

use std::{net::SocketAddr, time::Instant};

use super::{Context, FullAgent, IceEvent, Local, MAX_SERVERS, Relay, RelayId, ServerNews};
use crate::proto::{candidate::CandidateKind, ice::RelayServer};

impl FullAgent {
    /// One more address of a STUN server. False: there are enough.
    pub(crate) fn add_stun_server(&mut self, server: SocketAddr, cx: &mut Context<'_>) -> bool {
        if self.stun_servers.contains(&server) {
            return true;
        }
        // Each has an address of either family.
        let family = |known: &&SocketAddr| known.is_ipv4() == server.is_ipv4();
        if self.stun_servers.iter().filter(family).count() >= MAX_SERVERS {
            return false;
        }
        self.stun_servers.push(server);
        let hosts: Vec<_> = self.hosts().collect();
        for host in hosts {
            self.gatherer.ask(cx.now, host, &[server], cx.rng);
        }
        true
    }

    /// One more TURN server. False: there are enough.
    pub(crate) fn add_relay(&mut self, id: RelayId, server: &RelayServer, now: Instant) -> bool {
        let room = self.relays.len() < MAX_SERVERS;
        if room {
            self.relays.push(Relay::new(id, server, now));
        }
        room
    }

    /// Whether servers and addresses of ours are to come; when not, the peer is told the end of our candidates.
    pub(crate) fn set_more_to_come(&mut self, more: bool) {
        self.more_to_come = more;
    }

    /// Bytes came by the flow of a relay; datagrams of peers are given to `datagram`.
    pub(crate) fn handle_relay(
        &mut self,
        now: Instant,
        id: RelayId,
        bytes: &[u8],
        datagram: impl FnMut(SocketAddr, &[u8]),
    ) {
        let Some(relay) = self.relays.iter_mut().find(|relay| relay.id == id) else {
            return;
        };
        relay.handle_data(now, bytes, datagram);
        self.add_relayed(now);
    }

    /// The flow of a relay is gone.
    pub(crate) fn relay_closed(&mut self, now: Instant, id: RelayId) {
        let address = self.relay_address(id);
        if let Some(relay) = self.relays.iter_mut().find(|relay| relay.id == id) {
            relay.close();
        }
        if let Some(address) = address {
            self.remove_host(address, now);
        }
    }

    /// Makes candidates of new allocations, and forgets those that ended.
    pub(super) fn add_relayed(&mut self, now: Instant) {
        let gone: Vec<SocketAddr> = self
            .locals
            .iter()
            .filter(|local| local.kind == CandidateKind::Relayed)
            .map(|local| local.base)
            .filter(|base| {
                !self
                    .relays
                    .iter()
                    .any(|relay| relay.address() == Some(*base))
            })
            .collect();
        for base in gone {
            self.remove_host(base, now);
        }
        let address = |relay: &Relay| Some((relay.id, relay.address()?));
        let addresses: Vec<_> = self.relays.iter().filter_map(address).collect();
        for (relay, address) in addresses {
            if self.locals.iter().any(|local| local.address == address) {
                continue;
            }
            let news = ServerNews::RelayAllocated(relay);
            self.events.push_back(IceEvent::Server(news));
            self.add_local(Local {
                kind: CandidateKind::Relayed,
                address,
                base: address,
            });
            for peer in self.current.remotes() {
                for relay in &mut self.relays {
                    relay.permit(now, peer);
                }
            }
        }
    }
}
