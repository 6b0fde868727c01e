//! Two endpoints in the hands of chance: any order of calls, losses and delays, against a small model of streams.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    link::Link,
    ms,
    peer::Accept,
    secs,
    sim::{Node, Sim},
};
use crate::proto::{ChannelId, ConnectionId, DialPolicy, Limits, Read, Write};

/// One step. Sides are 0 (dialer) and 1 (listener); an index chooses among the side's channels.
#[derive(Clone, Debug)]
enum Op {
    /// Lets so many milliseconds pass.
    Advance(u64),
    /// Loses the next datagrams.
    Drop(u32),
    /// The dialer gets another address.
    Rebind,
    /// Calls with nothing to do.
    Poke(usize),
    Open(usize),
    Write(usize, Index, usize),
    Read(usize, Index),
    Finish(usize, Index),
    Stop(usize, Index),
    Reset(usize, Index),
    Release(usize, Index),
    Close(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let side = 0..2_usize;
    let channel = || (0..2_usize, any::<Index>());
    prop_oneof![
        10 => (0..300_u64).prop_map(Op::Advance),
        2 => (0..8_u32).prop_map(Op::Drop),
        1 => Just(Op::Rebind),
        1 => side.clone().prop_map(Op::Poke),
        8 => side.clone().prop_map(Op::Open),
        14 => (channel(), 1..20_000_usize).prop_map(|((side, channel), len)| Op::Write(side, channel, len)),
        14 => channel().prop_map(|(side, channel)| Op::Read(side, channel)),
        5 => channel().prop_map(|(side, channel)| Op::Finish(side, channel)),
        1 => channel().prop_map(|(side, channel)| Op::Stop(side, channel)),
        1 => channel().prop_map(|(side, channel)| Op::Reset(side, channel)),
        3 => channel().prop_map(|(side, channel)| Op::Release(side, channel)),
    ]
}

/// Many steps; in one case of four the connection is closed before the end.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        3 => vec(op(), 1..120),
        1 => (vec(op(), 1..60), 0..2_usize, vec(op(), 1..20)).prop_map(|(mut ops, side, rest)| {
            ops.push(Op::Close(side));
            ops.extend(rest);
            ops
        }),
    ]
}

/// What one side did with a stream, and what it saw.
#[derive(Clone, Debug, Default)]
struct Half {
    /// Bytes the endpoint took.
    written: usize,
    finished: bool,
    stopped: bool,
    /// By `reset`, or by dropping the handle before FIN.
    reset: bool,
    released: bool,
    /// Bytes read; all of them were right.
    read: usize,
    end: Option<Read>,
}

/// Both sides of a stream; the first belongs to the side that opened it.
type Halves = [Half; 2];

/// The channels of one side, with the number of the stream once it is known.
#[derive(Default)]
struct Side {
    channels: Vec<(ChannelId, Option<usize>)>,
}

/// The byte that belongs at a place of a stream in one direction. The first four name the stream.
fn byte(stream: usize, from_opener: bool, at: usize) -> u8 {
    match at {
        0..4 => stream.to_le_bytes()[at],
        _ => (stream * 7 + at * 31 + (at >> 8) + usize::from(from_opener)).to_le_bytes()[0],
    }
}

/// Buffers so small that they are often full; nobody is reset for being slow.
fn narrow() -> Limits {
    Limits {
        receive_window: 64 * 1024,
        max_receive_frame_size: 32 * 1024,
        max_stream_buffer: 8 * 1024,
        max_connection_buffer: 24 * 1024,
        max_send_buffer: 32 * 1024,
        stalled_stream_timeout: secs(3600),
        ..Limits::default()
    }
}

struct World {
    sim: Sim,
    nodes: [Node; 2],
    ids: [ConnectionId; 2],
    sides: [Side; 2],
    streams: Vec<(usize, Halves)>,
    closed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut sim = Sim::with_seed(seed);
        let limits = if seed & 2 == 0 {
            Limits::default()
        } else {
            narrow()
        };
        let nodes = [
            sim.add_peer(limits.clone(), false),
            sim.add_peer(limits, true),
        ];
        for node in nodes {
            sim.peer(node).accept = Accept::Manual;
        }
        let policy = [DialPolicy::V1, DialPolicy::V2][usize::from(seed.is_multiple_of(2))];
        let id = sim.dial(nodes[0], nodes[1], policy);
        sim.expect("connection", secs(10), |sim| {
            sim.peer(nodes[0]).is_authenticated(id)
                && sim.peer(nodes[1]).authenticated().count() == 1
        });
        let ids = [id, sim.peer(nodes[1]).only()];
        sim.set_default_link(Link {
            reorder: 0.02,
            duplicate: 0.02,
            loss: if seed & 4 == 0 { 0.0 } else { 0.03 },
            ..Link::rtt(ms(20))
        });
        Self {
            sim,
            nodes,
            ids,
            sides: Default::default(),
            streams: Vec::new(),
            closed: false,
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Advance(millis) => self.sim.run_for(ms(*millis)),
            Op::Drop(count) => {
                let mut left = *count;
                self.sim.set_filter(move |_| {
                    left = left.saturating_sub(1);
                    left == 0
                });
            }
            Op::Rebind => drop(self.sim.rebind(self.nodes[0])),
            Op::Poke(side) => self.sim.act(self.nodes[*side], |peer, now| {
                peer.endpoint.handle_timeout(now);
                peer.endpoint.process(now);
                peer.endpoint.process(now);
            }),
            Op::Open(side) => self.open(*side),
            Op::Write(side, index, len) => {
                self.on_channel(*side, index, |world, at| world.write(at, *len))
            }
            Op::Read(side, index) => self.on_channel(*side, index, Self::read),
            Op::Finish(side, index) => self.on_channel(*side, index, Self::finish),
            Op::Stop(side, index) => self.on_channel(*side, index, Self::stop),
            Op::Reset(side, index) => self.on_channel(*side, index, Self::reset),
            Op::Release(side, index) => self.on_channel(*side, index, Self::release),
            Op::Close(side) => self.close(*side),
        }
        self.take_inbound();
    }

    fn open(&mut self, side: usize) {
        let (node, id) = (self.nodes[side], self.ids[side]);
        if let Some(channel) = self.sim.act(node, |peer, now| peer.open(now, id)) {
            self.sides[side]
                .channels
                .push((channel, Some(self.streams.len())));
            self.streams.push((side, Halves::default()));
            // The name goes first, so that the other side knows which stream it is.
            let at = (side, self.sides[side].channels.len() - 1);
            self.write(at, 4);
        }
    }

    fn take_inbound(&mut self) {
        for side in 0..2 {
            let id = self.ids[side];
            while let Some(channel) = self.sim.peer(self.nodes[side]).conn(id).inbound.pop_front() {
                self.sides[side].channels.push((channel, None));
            }
        }
    }

    fn on_channel(
        &mut self,
        side: usize,
        index: &Index,
        act: impl FnOnce(&mut Self, (usize, usize)),
    ) {
        let count = self.sides[side].channels.len();
        if count > 0 {
            act(self, (side, index.index(count)));
        }
    }

    fn channel(&self, at: (usize, usize)) -> (ChannelId, Option<usize>) {
        self.sides[at.0].channels[at.1]
    }

    /// Our half and the other's, if the stream is known.
    fn halves(&mut self, at: (usize, usize)) -> Option<(bool, &mut Half, &mut Half)> {
        let (opener, halves) = &mut self.streams[self.sides[at.0].channels[at.1].1?];
        let [first, second] = halves;
        let is_opener = *opener == at.0;
        Some(if is_opener {
            (true, first, second)
        } else {
            (false, second, first)
        })
    }

    fn write(&mut self, at: (usize, usize), len: usize) {
        let (channel, Some(number)) = self.channel(at) else {
            return;
        };
        let id = self.ids[at.0];
        let (is_opener, half, _) = self.halves(at).expect("it is known");
        let half_was = half.clone();
        if half_was.released {
            return;
        }
        // The name must not be cut in two.
        let len = if half_was.written == 0 {
            len.max(4)
        } else {
            len
        };
        let data: Vec<u8> = (0..len)
            .map(|offset| byte(number, is_opener, half_was.written + offset))
            .collect();
        let result = self.sim.act(self.nodes[at.0], |peer, now| {
            peer.endpoint.write(now, id, channel, &data)
        });
        let closed = self.closed;
        let (_, half, other) = self.halves(at).expect("it is known");
        match result {
            Write::Accepted(taken) => {
                assert!(
                    taken <= len && !half.finished && !half.reset,
                    "{taken} bytes taken after the end"
                );
                half.written += taken;
            }
            Write::Stopped => assert!(
                other.stopped || other.released || closed,
                "nobody sent STOP_SENDING"
            ),
            Write::Closed => {
                // A peer that dropped its handle closes the data channel once its FIN is acknowledged.
                let gone = other.reset || other.released || closed;
                let reason = half.finished || half.reset || gone;
                assert!(reason, "writing ended without a reason: {half:?} {other:?}");
            }
        }
    }

    fn read(&mut self, at: (usize, usize)) {
        let (channel, _) = self.channel(at);
        let id = self.ids[at.0];
        let (bytes, end) = self.sim.act(self.nodes[at.0], |peer, now| {
            peer.read_all(now, id, channel)
        });
        let known = &mut self.sides[at.0].channels[at.1].1;
        if known.is_none() && bytes.len() >= 4 {
            // The four bytes were written in one go, so they arrive in one go.
            let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            *known = Some(number as usize);
        }
        let closed = self.closed;
        let number = self.channel(at).1;
        let Some((is_opener, half, other)) = self.halves(at) else {
            assert!(bytes.is_empty());
            return;
        };
        if half.released {
            return;
        }
        let from = half.read;
        let number = number.expect("it is known");
        let right = bytes
            .iter()
            .enumerate()
            .all(|(offset, got)| *got == byte(number, !is_opener, from + offset));
        assert!(right, "the bytes read are not those written");
        half.read += bytes.len();
        assert!(half.read <= other.written, "more bytes read than written");
        // Who said STOP_SENDING asks in vain.
        if half.stopped {
            return;
        }
        match end {
            Read::Eof => assert!(
                other.finished && half.read == other.written,
                "end of file too early: {half:?} {other:?}"
            ),
            Read::Reset(_) => assert!(
                half.reset || other.reset || closed,
                "a reset out of nothing: {half:?} {other:?}"
            ),
            Read::Blocked | Read::Data(_) => {}
        }
        if let Some(before) = &half.end {
            assert!(
                *before == end || matches!(end, Read::Reset(_)),
                "{before:?} became {end:?}"
            );
        }
        half.end = (end != Read::Blocked).then_some(end);
    }

    fn finish(&mut self, at: (usize, usize)) {
        let (channel, _) = self.channel(at);
        let id = self.ids[at.0];
        let Some((_, half, _)) = self.halves(at) else {
            return;
        };
        if half.released {
            return;
        }
        half.finished = true;
        self.sim.act(self.nodes[at.0], |peer, now| {
            peer.endpoint.finish(now, id, channel)
        });
    }

    fn stop(&mut self, at: (usize, usize)) {
        let (channel, _) = self.channel(at);
        let id = self.ids[at.0];
        let Some((_, half, _)) = self.halves(at) else {
            return;
        };
        half.stopped = true;
        self.sim.act(self.nodes[at.0], |peer, now| {
            peer.endpoint.stop(now, id, channel)
        });
    }

    fn reset(&mut self, at: (usize, usize)) {
        let (channel, _) = self.channel(at);
        let id = self.ids[at.0];
        let Some((_, half, _)) = self.halves(at) else {
            return;
        };
        half.reset = true;
        self.sim.act(self.nodes[at.0], |peer, now| {
            peer.endpoint.reset(now, id, channel)
        });
    }

    fn release(&mut self, at: (usize, usize)) {
        let (channel, _) = self.channel(at);
        let id = self.ids[at.0];
        // A stream whose name is not known yet cannot be booked.
        let Some((_, half, _)) = self.halves(at) else {
            return;
        };
        half.released = true;
        half.reset |= !half.finished;
        self.sim.act(self.nodes[at.0], |peer, now| {
            peer.endpoint.release(now, id, channel)
        });
    }

    fn close(&mut self, side: usize) {
        self.closed = true;
        let id = self.ids[side];
        self.sim
            .act(self.nodes[side], |peer, now| peer.endpoint.close(now, id));
    }

    /// With a network that works again, everything that was promised happens.
    fn settle(&mut self) {
        self.sim.clear_filter();
        for _ in 0..60 {
            self.sim.run_for(ms(500));
            self.take_inbound();
            for side in 0..2 {
                for index in 0..self.sides[side].channels.len() {
                    self.read((side, index));
                }
            }
        }
        if self.closed {
            return;
        }
        for (node, id) in self.nodes.into_iter().zip(self.ids) {
            assert_eq!(self.sim.peer(node).closed(id), None);
        }
        // A stream whose opener found no room for its name stays unknown to the other side.
        let named = |halves: &Halves| halves[0].written >= 4;
        for (_, halves) in self.streams.iter().filter(|(_, halves)| named(halves)) {
            for (reader, writer) in [(&halves[0], &halves[1]), (&halves[1], &halves[0])] {
                let undisturbed = [reader, writer].iter().all(|half| !half.reset)
                    && !reader.stopped
                    && !reader.released;
                if undisturbed {
                    assert_eq!(
                        reader.read, writer.written,
                        "bytes are missing: {reader:?} {writer:?}"
                    );
                    let expected = writer.finished.then_some(Read::Eof);
                    assert_eq!(reader.end, expected, "{writer:?}");
                }
            }
        }
    }

    /// In the end nothing is left.
    fn end(mut self) {
        for side in 0..2 {
            for index in 0..self.sides[side].channels.len() {
                let (channel, _) = self.channel((side, index));
                let id = self.ids[side];
                self.sim.act(self.nodes[side], |peer, now| {
                    peer.endpoint.release(now, id, channel)
                });
            }
        }
        self.sim.run_for(secs(15));
        if !self.closed {
            for node in self.nodes {
                let counters = self.sim.peer(node).counters();
                assert_eq!(
                    counters.channels_opened,
                    counters.channels_closed,
                    "channels are left at {node:?}: {:?}\n{}",
                    self.sides.each_ref().map(|side| &side.channels),
                    self.sim.describe()
                );
            }
            self.close(1);
        }
        self.sim.run_for(secs(31));
        for node in self.nodes {
            let endpoint = &self.sim.peer(node).endpoint;
            assert_eq!((endpoint.connections(), endpoint.routes()), (0, 0));
        }
    }
}

fn run(seed: u64, ops: &[Op]) {
    let mut world = World::new(seed);
    for op in ops {
        world.apply(op);
    }
    world.settle();
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: u32::try_from(super::scaled(48, 500, "cases")).unwrap(),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_order_of_calls_breaks_the_promises_of_a_stream(seed: u64, ops in ops()) {
        run(seed, &ops);
    }
}
