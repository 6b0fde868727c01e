//! STUN and TURN servers that come while a full agent is at work: their names take time to resolve.

use std::{net::SocketAddr, time::Instant};

use super::{Context, FullAgent, MAX_SERVERS, Relay, RelayId};
use crate::proto::ice::RelayServer;

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
}
