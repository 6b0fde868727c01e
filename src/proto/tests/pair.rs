//! Two endpoints with one connection between them, its channels in the hands of the test.

use std::time::Duration;

use super::{
    link::Link,
    peer::{Accept, Conn},
    raw::RawPeer,
    secs,
    sim::{Node, Sim},
};
use crate::proto::{ChannelId, CloseReason, ConnectionId, Event, Limits, Read, Write};

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// Where.
    pub(super) node: Node,
    /// Which.
    pub(super) id: ConnectionId,
}

/// A connection between two endpoints.
pub(super) struct Pair {
    /// The network.
    pub(super) sim: Sim,
    /// Who dialed.
    pub(super) dialer: End,
    /// Who was dialed.
    pub(super) listener: End,
}

impl Pair {
    /// With the usual limits.
    pub(super) fn new(rtt: Duration) -> Self {
        Self::with(Limits::default(), Limits::default(), Link::rtt(rtt))
    }

    /// With the dialer's and the listener's limits.
    pub(super) fn with(dialer: Limits, listener: Limits, link: Link) -> Self {
        let mut sim = Sim::new();
        sim.set_default_link(link);
        let nodes = [sim.add_peer(dialer, false), sim.add_peer(listener, true)];
        for node in nodes {
            sim.peer(node).accept = Accept::Manual;
        }
        let (dialed, accepted) = sim.connect(nodes[0], nodes[1]);
        Self {
            sim,
            dialer: End {
                node: nodes[0],
                id: dialed,
            },
            listener: End {
                node: nodes[1],
                id: accepted,
            },
        }
    }

    /// Both ends.
    pub(super) fn ends(&self) -> [End; 2] {
        [self.dialer, self.listener]
    }

    /// The other end.
    pub(super) fn other(&self, end: End) -> End {
        if end.node == self.dialer.node {
            self.listener
        } else {
            self.dialer
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        self.sim.run_for(time);
    }

    /// What the application knows.
    pub(super) fn conn(&mut self, end: End) -> &mut Conn {
        self.sim.peer(end.node).conn(end.id)
    }

    /// Opens a channel.
    pub(super) fn open(&mut self, end: End) -> ChannelId {
        self.sim.open(end.node, end.id)
    }

    /// Opens a channel and waits until the other side has it.
    pub(super) fn stream(&mut self, from: End) -> (ChannelId, ChannelId) {
        let ours = self.open(from);
        (ours, self.accept(self.other(from)))
    }

    /// Waits for an inbound channel.
    #[track_caller]
    pub(super) fn accept(&mut self, end: End) -> ChannelId {
        self.sim.expect("inbound channel", secs(5), |sim| {
            !sim.peer(end.node).conn(end.id).inbound.is_empty()
        });
        self.sim
            .peer(end.node)
            .conn(end.id)
            .inbound
            .pop_front()
            .expect("there is one")
    }

    /// Writes what fits.
    pub(super) fn write(&mut self, end: End, channel: ChannelId, data: &[u8]) -> Write {
        self.sim.act(end.node, |peer, now| {
            peer.endpoint.write(now, end.id, channel, data)
        })
    }

    /// Reads what is there, and says how it ended.
    pub(super) fn read(&mut self, end: End, channel: ChannelId) -> (Vec<u8>, Read) {
        self.sim
            .act(end.node, |peer, now| peer.read_all(now, end.id, channel))
    }

    /// FIN.
    pub(super) fn finish(&mut self, end: End, channel: ChannelId) {
        self.sim.act(end.node, |peer, now| {
            peer.endpoint.finish(now, end.id, channel)
        });
    }

    /// STOP_SENDING.
    pub(super) fn stop(&mut self, end: End, channel: ChannelId) {
        self.sim.act(end.node, |peer, now| {
            peer.endpoint.stop(now, end.id, channel)
        });
    }

    /// RESET.
    pub(super) fn reset(&mut self, end: End, channel: ChannelId) {
        self.sim.act(end.node, |peer, now| {
            peer.endpoint.reset(now, end.id, channel)
        });
    }

    /// Drops the handle.
    pub(super) fn release(&mut self, end: End, channel: ChannelId) {
        self.sim.act(end.node, |peer, now| {
            peer.endpoint.release(now, end.id, channel)
        });
    }

    /// Closes the connection.
    pub(super) fn close(&mut self, end: End) {
        self.sim
            .act(end.node, |peer, now| peer.endpoint.close(now, end.id));
    }

    /// Why the connection ended.
    pub(super) fn closed(&mut self, end: End) -> Option<CloseReason> {
        self.sim.peer(end.node).closed(end.id).cloned()
    }

    /// Whether `ChannelClosed` came for a channel.
    pub(super) fn is_gone(&mut self, end: End, channel: ChannelId) -> bool {
        self.sim
            .peer(end.node)
            .conn(end.id)
            .log
            .contains(&Event::ChannelClosed(channel))
    }

    /// Cuts the network, or mends it.
    pub(super) fn set_down(&mut self, down: bool) {
        self.sim
            .set_down(self.dialer.node, self.listener.node, down);
    }

    /// Asserts that nothing is left of any connection.
    #[track_caller]
    pub(super) fn assert_empty(&mut self) {
        for end in self.ends() {
            let endpoint = &self.sim.peer(end.node).endpoint;
            let left = (
                endpoint.connections(),
                endpoint.routes(),
                endpoint.handshakes(),
            );
            assert_eq!(
                left,
                (0, 0, 0),
                "connections, routes, handshakes of {end:?}"
            );
            assert_eq!(endpoint.poll_timeout(), None);
        }
    }
}

/// A hand-made dialer with one connection to an endpoint.
pub(super) struct RawPair {
    /// The network.
    pub(super) sim: Sim,
    /// The hand-made side.
    pub(super) raw: Node,
    /// The endpoint's end.
    pub(super) end: End,
}

impl RawPair {
    /// With credentials of version 2 and a short way.
    pub(super) fn new() -> Self {
        Self::with(
            "libp2p+webrtc+v2/passwordpasswordpassword",
            "ufrag",
            Limits::default(),
        )
    }

    /// With any credentials and limits.
    pub(super) fn with(server_ufrag: &str, client_ufrag: &str, limits: Limits) -> Self {
        let mut sim = Sim::new();
        sim.set_default_link(Link::rtt(super::ms(20)));
        let node = sim.add_peer(limits, true);
        sim.peer(node).accept = Accept::Manual;
        let raw = RawPeer::new(sim.now(), sim.address(node), server_ufrag, client_ufrag);
        Self::join(sim, node, raw)
    }

    /// Whose chunks and reset requests begin with the last numbers before zero.
    pub(super) fn about_to_wrap() -> Self {
        let mut sim = Sim::new();
        sim.set_default_link(Link::rtt(super::ms(20)));
        let node = sim.listener();
        sim.peer(node).accept = Accept::Manual;
        let mut raw = RawPeer::v2(sim.now(), sim.address(node));
        raw.seed = [0xff; 32];
        Self::join(sim, node, raw)
    }

    fn join(mut sim: Sim, node: Node, raw: RawPeer) -> Self {
        let raw = sim.add_raw(raw);
        sim.expect("connection", secs(5), |sim| {
            sim.raw(raw).connected && sim.peer(node).authenticated().count() == 1
        });
        let id = sim.peer(node).only();
        let end = End { node, id };
        Self { sim, raw, end }
    }

    /// Does something on the hand-made side.
    pub(super) fn raw<T>(&mut self, act: impl FnOnce(&mut RawPeer) -> T) -> T {
        self.sim.act_raw(self.raw, act)
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        self.sim.run_for(time);
    }

    /// The endpoint's next inbound channel, if there is one within a moment.
    pub(super) fn inbound(&mut self) -> Option<ChannelId> {
        self.run(super::ms(50));
        let end = self.end;
        self.sim.peer(end.node).conn(end.id).inbound.pop_front()
    }

    /// Reads what the endpoint has, and how it ended.
    pub(super) fn read(&mut self, channel: ChannelId) -> (Vec<u8>, Read) {
        let end = self.end;
        self.sim
            .act(end.node, |peer, now| peer.read_all(now, end.id, channel))
    }

    /// Whether the connection still works: an echo on a new stream of the hand-made side.
    pub(super) fn is_alive(&mut self, stream: u16) -> bool {
        self.raw(|raw| {
            raw.send_open(stream, 0);
            raw.send_data(stream, b"alive?");
        });
        let Some(channel) = self.inbound() else {
            return false;
        };
        self.read(channel) == (b"alive?".to_vec(), Read::Blocked)
    }
}
