//! A channel of messages over a simulated network, for tests of what the messages carry.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::world::{
    End::{self, Answerer, Offerer},
    World,
};
use crate::proto::{ChannelId, tests::link::Link};

/// Both ends of a channel: 0 is the offerer, 1 the answerer.
pub(crate) struct Channel {
    world: World,
    channels: [ChannelId; 2],
}

impl Channel {
    /// A channel between hosts that are so far from each other, on a network that loses this share of datagrams.
    pub(crate) fn open(latency: Duration, loss: f64) -> Self {
        let mut link = Link::rtt(latency * 2);
        link.loss = loss;
        let mut world = World::new(link);
        let channels = world.connect();
        Self { world, channels }
    }

    fn end(end: usize) -> End {
        if end == 0 { Offerer } else { Answerer }
    }

    pub(crate) fn now(&self) -> Instant {
        self.world.sim.now()
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        self.world.run(time);
    }

    /// Sends a message; false if there is no room.
    pub(crate) fn send(&mut self, end: usize, message: &Bytes) -> bool {
        self.world.send(Self::end(end), self.channels[end], message)
    }

    /// The next message, if there is one.
    pub(crate) fn receive(&mut self, end: usize) -> Option<Bytes> {
        self.world.receive(Self::end(end), self.channels[end])
    }

    /// Everything is lost from now on, or no longer.
    pub(crate) fn cut(&mut self, is_cut: bool) {
        let [one, two] = [Offerer, Answerer].map(|end| self.world.node(end));
        self.world.sim.set_down(one, two, is_cut);
    }

    /// Whether this end has found out since the last time it was asked.
    pub(crate) fn has_lost_its_path(&mut self, end: usize) -> bool {
        let lost = std::mem::take(&mut self.world.conn(Self::end(end)).lost);
        !lost.is_empty()
    }

    /// Begins an ICE restart.
    pub(crate) fn restart(&mut self) {
        self.world.restart();
    }

    /// Whether both ends have a path now.
    pub(crate) fn has_path(&mut self) -> bool {
        [Offerer, Answerer].into_iter().all(|end| {
            let id = self.world.id(end);
            let path = self.world.peer(end).endpoint.selected_path(id);
            path.is_some_and(|(_, lost)| !lost)
        })
    }
}
