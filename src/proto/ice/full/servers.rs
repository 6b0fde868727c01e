//! STUN and TURN servers that come while a full agent is at work: their names take time to resolve.

use std::{net::SocketAddr, time::Instant};

use super::{Context, FullAgent, MAX_SERVERS, Relay, RelayId};
use crate::proto::ice::RelayServer;

impl FullAgent {
    /// One more STUN server. False: there are enough.
    pub(crate) fn add_stun_server(&mut self, server: SocketAddr, cx: &mut Context<'_>) -> bool {
        if self.stun_servers.len() >= MAX_SERVERS {
            return false;
        }
        if !self.stun_servers.contains(&server) {
            self.stun_servers.push(server);
            let hosts: Vec<_> = self.hosts().collect();
            for host in hosts {
                self.gatherer.ask(cx.now, host, &[server], cx.rng);
            }
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
