//! Readers that are slower than writers: nothing grows without bound, nothing is lost, and nobody else has to suffer.

use std::time::Duration;

use super::{
    link::Link,
    ms,
    pair::{End, Pair},
    peer::{Accept, Conn},
    pipe::Pipe,
    secs,
    sim::{Node, Sim},
};
use crate::proto::{
    ChannelId, ConnectionId, Event, Limits, Read, Write,
    config::{LONG_PATH, LONG_PATH_FACTOR},
};

const RTT: u64 = 20;

/// Bytes that a connection may hold on both sides together: what the writer's endpoint took and the reader's has not
/// given out yet.
fn bound(limits: &Limits) -> u64 {
    assert!(ms(RTT) > LONG_PATH);
    let send = limits.max_send_buffer * LONG_PATH_FACTOR;
    let receive = limits.receive_window as usize + limits.max_connection_buffer;
    // One grant may be under way.
    (send + receive + 64 * 1024) as u64
}

/// One dialer that writes and one listener that does as the test says.
struct Flow {
    sim: Sim,
    writer: Node,
    reader: Node,
    id: ConnectionId,
    accepted: ConnectionId,
}

impl Flow {
    fn new(link: Link) -> Self {
        Self::with(link, Limits::default())
    }

    fn with(link: Link, limits: Limits) -> Self {
        let mut sim = Sim::new();
        sim.set_default_link(link);
        let (writer, reader) = (sim.dialer(), sim.add_peer(limits, true));
        sim.peer(reader).accept = Accept::Sink;
        let (id, accepted) = sim.connect(writer, reader);
        Self {
            sim,
            writer,
            reader,
            id,
            accepted,
        }
    }

    /// A stream on which the writer sends `total` bytes; the reader reads at once, or not at all.
    fn start(&mut self, total: u64, reading: bool) -> ChannelId {
        let id = self.id;
        let reader = self.reader;
        let ours = self.sim.act(self.writer, |peer, now| {
            peer.start(now, id, |stream| Pipe::upload(stream, total))
        });
        if let Some(ours) = ours.filter(|_| !reading) {
            self.sim.peer(reader).unread.insert(ours.stream);
        }
        ours.expect("a free id")
    }

    /// The reader's pipe, once it has the stream.
    fn theirs(&mut self, ours: ChannelId) -> Option<ChannelId> {
        let pipes = &self.sim.peer(self.reader).conn(self.accepted).pipes;
        pipes
            .keys()
            .find(|theirs| theirs.stream == ours.stream)
            .copied()
    }

    /// Lets the reader read a stream.
    fn resume(&mut self, ours: ChannelId) {
        let (theirs, accepted) = (self.theirs(ours), self.accepted);
        self.sim.act(self.reader, |peer, now| {
            peer.unread.remove(&ours.stream);
            if let Some(theirs) = theirs {
                peer.pipe(accepted, theirs).reading = true;
                peer.pump(now, accepted, theirs);
            }
        });
    }

    /// Reads a few pieces.
    fn read_some(&mut self, ours: ChannelId, pieces: u32) {
        let (theirs, accepted) = (self.theirs(ours).expect("it is open"), self.accepted);
        self.sim.act(self.reader, |peer, now| {
            peer.pump_pieces(now, accepted, theirs, pieces)
        });
    }

    /// Bytes the writer's endpoint took of the stream that uses this id now or did so last.
    fn sent(&mut self, ours: ChannelId) -> u64 {
        Self::of(self.sim.peer(self.writer).conn(self.id), ours, |pipe| {
            pipe.sent
        })
    }

    /// Bytes the reader took.
    fn received(&mut self, ours: ChannelId) -> u64 {
        Self::of(
            self.sim.peer(self.reader).conn(self.accepted),
            ours,
            |pipe| pipe.received,
        )
    }

    fn of(conn: &Conn, channel: ChannelId, figure: impl Fn(&Pipe) -> u64) -> u64 {
        let pipes = conn.pipes.values().chain(conn.over.iter().rev());
        pipes
            .into_iter()
            .find(|pipe| pipe.stream == channel.stream)
            .map_or(0, figure)
    }

    /// Whether all streams that were started are over, and every byte was right.
    fn is_complete(&mut self, count: usize) -> bool {
        let (id, accepted) = (self.id, self.accepted);
        let sent = self
            .sim
            .peer(self.writer)
            .conn(id)
            .over
            .iter()
            .filter(|pipe| pipe.is_complete())
            .count();
        let received = self
            .sim
            .peer(self.reader)
            .conn(accepted)
            .over
            .iter()
            .filter(|pipe| pipe.is_complete())
            .count();
        sent == count && received == count
    }
}

#[test]
fn a_reader_that_pauses_stops_the_writer_and_loses_nothing() {
    let total = 6 << 20;
    let mut flow = Flow::new(Link::rtt(ms(RTT)));
    let stream = flow.start(total, false);
    flow.sim.run_for(secs(5));
    let held = flow.sent(stream);
    assert!(held > 1 << 20, "the buffers are used: {held}");
    assert!(
        held <= bound(&Limits::default()),
        "{held} bytes are held for a reader that does not read"
    );
    flow.sim.run_for(secs(3));
    assert_eq!(flow.sent(stream), held, "the writer has stopped");
    flow.resume(stream);
    let node = flow.reader;
    let accepted = flow.accepted;
    flow.sim.expect("all data", secs(60), |sim| {
        !sim.peer(node).conn(accepted).over.is_empty()
    });
    flow.sim.run_for(secs(1));
    assert!(flow.is_complete(1));
}

#[test]
fn a_slow_reader_gets_everything_while_little_is_held() {
    let total = 3 << 20;
    let limits = Limits::default();
    let mut flow = Flow::new(Link::rtt(ms(RTT)));
    let stream = flow.start(total, false);
    for _ in 0..2000 {
        flow.sim.run_for(ms(50));
        if flow
            .sim
            .peer(flow.reader)
            .conn(flow.accepted)
            .pipes
            .is_empty()
        {
            break;
        }
        flow.read_some(stream, 8);
        let held = flow.sent(stream).saturating_sub(flow.received(stream));
        assert!(held <= bound(&limits), "{held} bytes are held");
    }
    flow.sim.run_for(secs(1));
    assert!(flow.is_complete(1), "{}", flow.sim.describe());
}

#[test]
fn many_streams_that_nobody_reads_share_one_bound() {
    let limits = Limits::default();
    let mut flow = Flow::new(Link::rtt(ms(RTT)));
    let streams: Vec<_> = (0..100).map(|_| flow.start(1 << 20, false)).collect();
    flow.sim.run_for(secs(5));
    let held: u64 = streams.iter().map(|stream| flow.sent(*stream)).sum();
    assert!(held <= bound(&limits), "{held} bytes are held");
}

#[test]
fn a_writer_to_a_peer_that_vanished_is_stopped() {
    let mut flow = Flow::new(Link::rtt(ms(RTT)));
    let stream = flow.start(64 << 20, true);
    flow.sim.set_down(flow.writer, flow.reader, true);
    let before = flow.sent(stream);
    flow.sim.run_for(secs(20));
    let taken = flow.sent(stream) - before;
    assert!(
        taken <= (Limits::default().max_send_buffer * LONG_PATH_FACTOR) as u64,
        "{taken} bytes for nobody"
    );
}

#[test]
fn an_unread_stream_does_not_slow_its_neighbours_while_it_fits_the_window() {
    let mut alone = Flow::new(Link::rtt(ms(RTT)));
    let time_for = |flow: &mut Flow| {
        let start = flow.sim.elapsed();
        flow.start(2 << 20, true);
        let (reader, accepted) = (flow.reader, flow.accepted);
        flow.sim.expect("transfer", secs(60), |sim| {
            !sim.peer(reader).conn(accepted).over.is_empty()
        });
        flow.sim.elapsed() - start
    };
    let undisturbed = time_for(&mut alone);
    let mut flow = Flow::new(Link::rtt(ms(RTT)));
    for _ in 0..4 {
        flow.start(100_000, false);
    }
    flow.sim.run_for(secs(1));
    let disturbed = time_for(&mut flow);
    assert!(
        disturbed <= undisturbed * 2,
        "{disturbed:?} next to unread streams, {undisturbed:?} alone"
    );
}

/// Pauses the reader until the window is closed, then lets it go on; how long until twice as much is there?
fn reopening(rtt: u64) -> Duration {
    let mut flow = Flow::new(Link::rtt(ms(rtt)));
    let stream = flow.start(16 << 20, false);
    flow.sim.run_for(secs(8));
    let held = u64::from(Limits::default().receive_window);
    let start = flow.sim.elapsed();
    flow.resume(stream);
    for _ in 0..2000 {
        if flow.received(stream) >= held + 300_000 {
            break;
        }
        flow.sim.run_for(ms(1));
    }
    flow.sim.elapsed() - start
}

#[test]
fn the_window_reopens_quickly_after_a_pause() {
    for rtt in [0, 20, 50] {
        let took = reopening(rtt);
        eprintln!("{rtt} ms round trip: new data {took:?} after the pause");
        assert!(took < ms(300), "round trip {rtt} ms: {took:?}");
    }
}

#[test]
fn the_window_reopens_although_its_announcement_is_lost() {
    let mut flow = Flow::new(Link::rtt(ms(RTT)));
    let stream = flow.start(4 << 20, false);
    flow.sim.run_for(secs(5));
    let (writer, reader, accepted) = (flow.writer, flow.reader, flow.accepted);
    flow.sim.link_mut(reader, writer).down = true;
    flow.resume(stream);
    flow.sim.run_for(ms(5));
    flow.sim.link_mut(reader, writer).down = false;
    flow.sim.expect("all data", secs(20), |sim| {
        !sim.peer(reader).conn(accepted).over.is_empty()
    });
    flow.sim.run_for(secs(1));
    assert!(flow.is_complete(1));
}

#[test]
fn a_stream_that_keeps_the_window_closed_is_reset_and_the_others_go_on() {
    let mut flow = Flow::new(Link::rtt(ms(RTT)));
    let stuck = flow.start(64 << 20, false);
    flow.sim.run_for(secs(1));
    let other = flow.start(2 << 20, true);
    flow.sim.run_for(secs(7));
    assert!(
        flow.received(other) < 2 << 20,
        "the window is closed for all"
    );
    assert_eq!(
        flow.sim.peer(flow.reader).counters().streams_stalled,
        0,
        "not before its time"
    );
    let (reader, accepted) = (flow.reader, flow.accepted);
    flow.sim.expect("the other stream", secs(10), |sim| {
        let conn = sim.peer(reader).conn(accepted);
        conn.over
            .iter()
            .any(|pipe| pipe.received == 2 << 20 && pipe.is_complete())
    });
    assert_eq!(flow.sim.peer(reader).counters().streams_stalled, 1);
    flow.resume(stuck);
    flow.sim.run_for(secs(1));
    let conn = flow.sim.peer(reader).conn(accepted);
    assert!(
        conn.over
            .iter()
            .any(|pipe| pipe.end == Some(Read::Reset(None))),
        "the reader learns it: no end of file"
    );
    let id = flow.id;
    let conn = flow.sim.peer(flow.writer).conn(id);
    assert!(
        conn.over
            .iter()
            .any(|pipe| matches!(pipe.end, Some(Read::Reset(_)))),
        "and so does the writer"
    );
}

#[test]
fn a_slow_reader_is_not_taken_for_a_stalled_one() {
    let limits = Limits {
        stalled_stream_timeout: secs(3),
        ..Limits::default()
    };
    let mut flow = Flow::with(Link::rtt(ms(RTT)), limits);
    let stream = flow.start(4 << 20, false);
    for _ in 0..30 {
        flow.sim.run_for(secs(1));
        flow.read_some(stream, 2);
    }
    assert_eq!(flow.sim.peer(flow.reader).counters().streams_stalled, 0);
    assert!(flow.received(stream) > 0);
}

/// Fills the window with a stream that nobody reads, gives that up in some way, and waits for another stream.
fn freed_by(act: fn(&mut Pair, End, ChannelId)) -> Duration {
    let mut pair = Pair::new(ms(RTT));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let (ours, theirs) = pair.stream(dialer);
    for _ in 0..500 {
        pair.write(dialer, ours, &[1; 30_000]);
        pair.run(ms(5));
    }
    let second = pair.open(dialer);
    let mut waits = matches!(pair.write(dialer, second, b"waits"), Write::Accepted(0));
    pair.run(secs(1));
    assert!(
        pair.conn(listener).inbound.is_empty(),
        "the window is closed"
    );
    act(&mut pair, listener, theirs);
    let start = pair.sim.elapsed();
    for _ in 0..3000 {
        pair.run(ms(1));
        if waits
            && pair
                .conn(dialer)
                .log
                .contains(&Event::ChannelWritable(second))
        {
            waits = pair.write(dialer, second, b"waits") == Write::Accepted(0);
        }
        if let Some(&accepted) = pair.conn(listener).inbound.front()
            && pair.read(listener, accepted).0 == b"waits"
        {
            break;
        }
    }
    pair.sim.elapsed() - start
}

#[test]
fn giving_up_an_unread_stream_frees_the_window_for_the_others() {
    for (name, act) in [
        ("stop", Pair::stop as fn(&mut Pair, End, ChannelId)),
        ("reset", Pair::reset),
        ("release", Pair::release),
    ] {
        let took = freed_by(act);
        eprintln!("{name}: {took:?}");
        assert!(took < ms(1500), "{name}: {took:?}");
    }
}

#[test]
fn fifty_bulk_writers_are_served_alike_and_leave_room_for_a_small_message() {
    let link = Link {
        bytes_per_second: Some(5_000_000),
        ..Link::rtt(ms(RTT))
    };
    let mut flow = Flow::new(link);
    flow.sim.peer(flow.reader).accept = Accept::Sink;
    let streams: Vec<_> = (0..50).map(|_| flow.start(64 << 20, true)).collect();
    flow.sim.run_for(secs(4));
    let received: Vec<_> = streams
        .iter()
        .map(|stream| flow.received(*stream))
        .collect();
    let (least, most) = (
        received.iter().min().unwrap(),
        received.iter().max().unwrap(),
    );
    eprintln!("50 writers got through between {least} and {most} bytes in 4 s");
    assert!(*least > 0 && most / least <= 4, "{received:?}");

    flow.sim.peer(flow.reader).accept = Accept::Echo;
    let id = flow.id;
    let small = flow.sim.act(flow.writer, |peer, now| {
        peer.start(now, id, |stream| Pipe::request(stream, 100))
    });
    let small = small.expect("a free id");
    let start = flow.sim.elapsed();
    let writer = flow.writer;
    flow.sim.expect("echo", secs(10), |sim| {
        sim.peer(writer)
            .conn(id)
            .pipes
            .get(&small)
            .is_none_or(|pipe| pipe.received == 100)
    });
    let took = flow.sim.elapsed() - start;
    eprintln!("a small message next to 50 bulk writers took {took:?}");
    assert!(took < ms(1500), "{took:?}");
}

#[test]
fn a_small_message_is_not_stuck_behind_one_bulk_writer() {
    let link = Link {
        bytes_per_second: Some(5_000_000),
        ..Link::rtt(ms(RTT))
    };
    let mut flow = Flow::new(link);
    flow.start(64 << 20, true);
    flow.sim.run_for(secs(2));
    flow.sim.peer(flow.reader).accept = Accept::Echo;
    for _ in 0..10 {
        let id = flow.id;
        let small = flow.sim.act(flow.writer, |peer, now| {
            peer.start(now, id, |stream| Pipe::request(stream, 100))
        });
        let small = small.expect("a free id");
        let (start, writer) = (flow.sim.elapsed(), flow.writer);
        flow.sim.expect("echo", secs(10), |sim| {
            sim.peer(writer)
                .conn(id)
                .pipes
                .get(&small)
                .is_none_or(|pipe| pipe.received == 100)
        });
        let took = flow.sim.elapsed() - start;
        assert!(took < ms(600), "{took:?}");
        flow.sim.run_for(ms(137));
    }
}

#[test]
fn a_writer_that_waits_is_told_that_its_stream_was_stopped_or_reset() {
    for stop in [true, false] {
        let mut pair = Pair::new(ms(RTT));
        let (dialer, listener) = (pair.dialer, pair.listener);
        let (ours, theirs) = pair.stream(dialer);
        for _ in 0..200 {
            pair.write(dialer, ours, &[1; 60_000]);
            pair.run(ms(5));
        }
        let last = pair.write(dialer, ours, &[1; 60_000]);
        assert!(
            matches!(last, Write::Accepted(taken) if taken < 60_000),
            "{last:?}"
        );
        pair.run(secs(1));
        pair.conn(dialer).log.clear();
        if stop {
            pair.stop(listener, theirs);
        } else {
            pair.reset(listener, theirs);
        }
        pair.run(ms(4 * RTT));
        let told = Event::ChannelWritable(ours);
        assert!(
            pair.conn(dialer).log.contains(&told),
            "stop: {stop}, {:?}",
            pair.conn(dialer).log
        );
        let expected = if stop { Write::Stopped } else { Write::Closed };
        assert_eq!(pair.write(dialer, ours, b"x"), expected);
    }
}

#[test]
fn a_stream_whose_open_waits_behind_what_nobody_reads_is_not_given_up() {
    let narrow = Limits {
        max_stream_buffer: 8 * 1024,
        max_connection_buffer: 24 * 1024,
        stalled_stream_timeout: secs(3600),
        ..Limits::default()
    };
    let mut pair = Pair::with(Limits::default(), narrow, Link::rtt(ms(20)));
    let (dialer, listener) = (pair.dialer, pair.listener);
    let streams: Vec<_> = (0..4).map(|_| pair.stream(dialer)).collect();
    for (ours, _) in &streams {
        pair.write(dialer, *ours, &[1; 12_000]);
    }
    pair.run(secs(1));
    let late = pair.open(dialer);
    pair.write(dialer, late, b"late");
    pair.run(secs(20));
    for (_, theirs) in streams {
        for _ in 0..3 {
            pair.read(listener, theirs);
        }
    }
    pair.run(secs(1));
    let accepted = pair.accept(listener);
    assert_eq!(
        pair.read(listener, accepted),
        (b"late".to_vec(), Read::Blocked)
    );
}
