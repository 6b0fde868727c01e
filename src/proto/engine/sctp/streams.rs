//! The streams of an association: messages waiting to be sent, messages waiting to be read, and resets (RFC 6525).
//!
//! A stream here is the pair of both directions that a data channel uses (RFC 8831 section 6.7): when the peer resets
//! its side, ours is reset too, and the id is free when both are. Messages of different streams leave in turn, so
//! that one bulk stream delays the others by no more than what is in flight. Owns no TSNs: those are `send` and
//! `receive`.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry};

use bytes::Bytes;

use super::{
    SctpEvent,
    receive::{OVERHEAD, Whole},
    wire::{Data, flag},
};

/// User data of one chunk of a full packet.
pub(crate) const MAX_FRAGMENT: usize = 1132;

/// Our direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Open,
    /// To be reset when its queue is empty.
    Closing,
    /// Named in a request.
    Requested,
    /// The peer performed the reset.
    Reset,
}

/// The peer's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Incoming {
    Open,
    /// We gave the stream up: what comes is dropped.
    Discarded,
    /// The peer reset it; there may be messages to read.
    Reset,
    /// The reader knows.
    Told,
}

#[derive(Debug)]
struct Stream {
    outgoing: Outgoing,
    queue: VecDeque<(u32, Bytes)>,
    /// Bytes of the first message that were sent.
    offset: usize,
    next_ssn: u16,
    /// Bytes queued and not acknowledged.
    buffered: usize,
    incoming: Incoming,
    expected_ssn: u16,
    readable: VecDeque<(u32, Bytes)>,
    /// Messages whose predecessors are missing, by their number.
    early: BTreeMap<u16, (u32, Bytes)>,
    /// Messages of the next use of the id, which came before this use was over.
    successor: Vec<Whole>,
    /// Its place among those with something to send.
    turn: Option<u64>,
}

impl Stream {
    fn new() -> Self {
        Self {
            outgoing: Outgoing::Open,
            queue: VecDeque::new(),
            offset: 0,
            next_ssn: 0,
            buffered: 0,
            incoming: Incoming::Open,
            expected_ssn: 0,
            readable: VecDeque::new(),
            early: BTreeMap::new(),
            successor: Vec::new(),
            turn: None,
        }
    }

    fn held(&self) -> usize {
        let queued = self.readable.iter().chain(self.early.values());
        queued.map(|(_, data)| data.len() + OVERHEAD).sum()
    }

    /// False: there is such a message already.
    fn push(&mut self, whole: Whole) -> bool {
        match whole.ssn {
            Some(ssn) if ssn != self.expected_ssn => {
                if self.early.contains_key(&ssn) {
                    return false;
                }
                self.early.insert(ssn, (whole.ppid, whole.data));
            }
            Some(_) => {
                self.readable.push_back((whole.ppid, whole.data));
                self.expected_ssn = self.expected_ssn.wrapping_add(1);
                while let Some(message) = self.early.remove(&self.expected_ssn) {
                    self.readable.push_back(message);
                    self.expected_ssn = self.expected_ssn.wrapping_add(1);
                }
            }
            None => self.readable.push_back((whole.ppid, whole.data)),
        }
        true
    }

    fn is_over(&self) -> bool {
        self.outgoing == Outgoing::Reset && self.incoming == Incoming::Told
    }
}

/// All streams.
#[derive(Debug)]
pub(super) struct Streams {
    streams: BTreeMap<u16, Stream>,
    /// How many the peer may bring about.
    max: usize,
    /// Streams with something to send, in turn; each has one place.
    turns: BTreeMap<u64, u16>,
    next_turn: u64,
    /// Streams that the peer has not reset: a request for all streams is for these.
    unreset: BTreeSet<u16>,
    /// Streams to be named in the next reset request.
    closing: BTreeSet<u16>,
    /// Streams that are over, until the reader knows: it acts on one event before it sees the next.
    over: VecDeque<u16>,
    held: usize,
    buffered: usize,
    /// Bytes of earlier uses of an id that are not acknowledged yet.
    stale: BTreeMap<u16, usize>,
    /// The stream whose message is half sent: nothing may come between its fragments.
    current: Option<u16>,
}

impl Streams {
    /// None yet; the peer may bring about `max` of them.
    pub(super) fn new(max: usize) -> Self {
        Self {
            streams: BTreeMap::new(),
            max,
            turns: BTreeMap::new(),
            next_turn: 0,
            unreset: BTreeSet::new(),
            closing: BTreeSet::new(),
            over: VecDeque::new(),
            held: 0,
            buffered: 0,
            stale: BTreeMap::new(),
            current: None,
        }
    }

    /// Makes a stream usable. False: it is in use, or its last use is not over.
    pub(super) fn open(&mut self, id: u16) -> bool {
        let free = !self.streams.contains_key(&id);
        if free {
            self.streams.insert(id, Stream::new());
            self.unreset.insert(id);
        }
        free
    }

    /// Queues a message. False: the stream is gone or closing.
    pub(super) fn write(&mut self, id: u16, ppid: u32, data: Bytes) -> bool {
        let Some(stream) = self
            .streams
            .get_mut(&id)
            .filter(|stream| stream.outgoing == Outgoing::Open)
        else {
            return false;
        };
        if data.is_empty() {
            return true;
        }
        if stream.queue.is_empty() {
            stream.turn = Some(self.next_turn);
            self.turns.insert(self.next_turn, id);
            self.next_turn += 1;
        }
        stream.buffered += data.len();
        self.buffered += data.len();
        stream.queue.push_back((ppid, data));
        true
    }

    /// Bytes queued or unacknowledged, over all streams.
    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    /// The same of one stream.
    pub(super) fn buffered_of(&self, id: u16) -> usize {
        self.streams.get(&id).map_or(0, |stream| stream.buffered)
    }

    /// Bytes of a stream reached the peer.
    pub(super) fn acknowledged(&mut self, id: u16, len: usize) {
        self.buffered = self.buffered.saturating_sub(len);
        let mut len = len;
        if !self.stale.is_empty()
            && let Some(stale) = self.stale.get_mut(&id)
        {
            let part = len.min(*stale);
            *stale -= part;
            len -= part;
            if *stale == 0 {
                self.stale.remove(&id);
            }
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.buffered = stream.buffered.saturating_sub(len);
        }
    }

    fn next_stream(&self) -> Option<u16> {
        let first = || self.turns.first_key_value().map(|(_, id)| *id);
        self.current.or_else(first)
    }

    /// Size of the next fragment, if there is one.
    pub(super) fn next_len(&self) -> Option<usize> {
        let id = self.next_stream()?;
        let stream = self.streams.get(&id)?;
        let (_, message) = stream.queue.front()?;
        Some((message.len() - stream.offset).min(MAX_FRAGMENT))
    }

    /// Whether anything waits to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.turns.is_empty()
    }

    /// The next fragment, without TSN.
    pub(super) fn next_fragment(&mut self) -> Option<Data> {
        let id = self.next_stream()?;
        let stream = self.streams.get_mut(&id)?;
        let (ppid, message) = stream.queue.front()?;
        let start = stream.offset;
        let end = message.len().min(start + MAX_FRAGMENT);
        let last = end == message.len();
        let mut flags = if start == 0 { flag::BEGIN } else { 0 };
        flags |= if last { flag::END } else { 0 };
        let payload = message.slice(start..end);
        let data = Data {
            tsn: 0,
            stream: id,
            ssn: stream.next_ssn,
            ppid: *ppid,
            flags,
            payload,
        };
        stream.offset = end;
        self.current = Some(id);
        if last {
            self.end_message(id);
        }
        Some(data)
    }

    fn end_message(&mut self, id: u16) {
        self.current = None;
        self.turns.pop_first();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.queue.pop_front();
        stream.offset = 0;
        stream.next_ssn = stream.next_ssn.wrapping_add(1);
        stream.turn = None;
        if !stream.queue.is_empty() {
            stream.turn = Some(self.next_turn);
            self.turns.insert(self.next_turn, id);
            self.next_turn += 1;
        } else {
            if stream.queue.capacity() > 32 {
                stream.queue = VecDeque::new();
            }
            if stream.outgoing == Outgoing::Closing {
                self.closing.insert(id);
            }
        }
    }

    /// Bytes held for the application, overhead included.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// How many streams there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.streams.len()
    }

    /// Takes a whole message. One of a stream too many is dropped and our side of its stream reset, which needs no
    /// memory of it: the peer resets its own side in turn.
    pub(super) fn deliver(&mut self, whole: Whole, events: &mut VecDeque<SctpEvent>) {
        let id = whole.stream;
        let room = self.streams.len() < self.max;
        let (stream, fresh) = match self.streams.entry(id) {
            Entry::Occupied(entry) => (entry.into_mut(), false),
            Entry::Vacant(entry) if room => {
                self.unreset.insert(id);
                (entry.insert(Stream::new()), true)
            }
            Entry::Vacant(_) => {
                self.closing.insert(id);
                return;
            }
        };
        let cost = whole.data.len() + OVERHEAD;
        match stream.incoming {
            Incoming::Discarded => return,
            Incoming::Reset | Incoming::Told => {
                self.held += cost;
                stream.successor.push(whole);
                return;
            }
            Incoming::Open => {}
        }
        let before = stream.readable.len();
        if !stream.push(whole) {
            return;
        }
        self.held += cost;
        if fresh {
            events.push_back(SctpEvent::Opened(id));
        } else if stream.readable.len() > before {
            events.push_back(SctpEvent::Readable(id));
        }
    }

    /// The next message of a stream.
    pub(super) fn read(
        &mut self,
        id: u16,
        events: &mut VecDeque<SctpEvent>,
    ) -> Option<(u32, Bytes)> {
        let stream = self.streams.get_mut(&id)?;
        let message = stream.readable.pop_front();
        if let Some((_, data)) = &message {
            self.held -= data.len() + OVERHEAD;
        }
        if stream.readable.is_empty() && stream.readable.capacity() > 32 {
            stream.readable = VecDeque::new();
        }
        self.tell_reset(id, events);
        message
    }

    /// We close a stream: our direction is reset when its queue is sent, what comes is dropped.
    pub(super) fn reset(&mut self, id: u16) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        let incoming = match stream.incoming {
            Incoming::Open | Incoming::Discarded => Incoming::Discarded,
            // Nobody will read the rest, and nobody need be told.
            Incoming::Reset | Incoming::Told => Incoming::Told,
        };
        if stream.incoming != incoming {
            stream.incoming = incoming;
            self.held -= stream.held();
            stream.readable = VecDeque::new();
            stream.early = BTreeMap::new();
        }
        if stream.outgoing == Outgoing::Open {
            stream.outgoing = Outgoing::Closing;
            if stream.queue.is_empty() {
                self.closing.insert(id);
            }
        }
        self.finish(id);
        true
    }

    /// The peer reset its direction of `ids` (all streams if none are named). Ours follows.
    pub(super) fn on_incoming_reset(&mut self, ids: &[u16], events: &mut VecDeque<SctpEvent>) {
        let ids: Vec<u16> = if ids.is_empty() {
            self.unreset.iter().copied().collect()
        } else {
            ids.to_vec()
        };
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            match stream.incoming {
                Incoming::Open => stream.incoming = Incoming::Reset,
                // We closed it ourselves: the reader does not wait for news.
                Incoming::Discarded => stream.incoming = Incoming::Told,
                Incoming::Reset | Incoming::Told => continue,
            }
            self.unreset.remove(&id);
            // Nothing behind a hole will come any more.
            let lost: usize = stream
                .early
                .values()
                .map(|(_, data)| data.len() + OVERHEAD)
                .sum();
            self.held -= lost;
            stream.early = BTreeMap::new();
            self.drop_unsent(id);
            self.tell_reset(id, events);
            self.finish(id);
        }
    }

    /// Whether none of these streams has a next use that waits for the end of the last. Without one, a second reset
    /// means the use that was reset already (webrtc-rs answers our reset with one, whoever was first), and to wait
    /// until that is read would hold up the resets of all other streams.
    pub(super) fn may_be_reset(&self, ids: &[u16]) -> bool {
        let waits = |id: &u16| {
            self.streams
                .get(id)
                .is_some_and(|stream| !stream.successor.is_empty())
        };
        !ids.iter().any(waits)
    }

    /// Nobody reads what we had queued: the peer closed the channel. A message that is half sent is finished.
    fn drop_unsent(&mut self, id: u16) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.outgoing == Outgoing::Open {
            stream.outgoing = Outgoing::Closing;
        }
        if stream.queue.is_empty() {
            if stream.outgoing == Outgoing::Closing {
                self.closing.insert(id);
            }
            return;
        }
        let keep = usize::from(self.current == Some(id));
        let dropped: usize = stream
            .queue
            .iter()
            .skip(keep)
            .map(|(_, data)| data.len())
            .sum();
        stream.queue.truncate(keep);
        stream.buffered = stream.buffered.saturating_sub(dropped);
        self.buffered = self.buffered.saturating_sub(dropped);
        if keep == 0 {
            if let Some(turn) = stream.turn.take() {
                self.turns.remove(&turn);
            }
            if stream.outgoing == Outgoing::Closing {
                self.closing.insert(id);
            }
        }
    }

    fn tell_reset(&mut self, id: u16, events: &mut VecDeque<SctpEvent>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.incoming == Incoming::Reset && stream.readable.is_empty() {
            stream.incoming = Incoming::Told;
            events.push_back(SctpEvent::Reset(id));
            self.finish(id);
        }
    }

    /// The streams of the next reset request, at most `max` of them.
    pub(super) fn take_closing(&mut self, max: usize) -> Vec<u16> {
        let ids: Vec<u16> = self.closing.iter().copied().take(max).collect();
        for id in &ids {
            self.closing.remove(id);
            if let Some(stream) = self.streams.get_mut(id) {
                stream.outgoing = Outgoing::Requested;
            }
        }
        ids
    }

    /// Whether a reset request is wanted.
    pub(super) fn wants_reset(&self) -> bool {
        !self.closing.is_empty()
    }

    /// The peer performed our request for `ids`.
    pub(super) fn on_reset_performed(&mut self, ids: &[u16]) {
        for &id in ids {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            if stream.outgoing == Outgoing::Requested {
                stream.outgoing = Outgoing::Reset;
                self.finish(id);
            }
        }
    }

    fn finish(&mut self, id: u16) {
        if self.streams.get(&id).is_some_and(Stream::is_over) {
            self.over.push_back(id);
        }
    }

    /// Frees the id of one stream that is over in both directions; its next use begins with what came early. To be
    /// called when the reader has seen all events before.
    pub(super) fn free_one(&mut self, events: &mut VecDeque<SctpEvent>) {
        while let Some(id) = self.over.pop_front() {
            if !self.streams.get(&id).is_some_and(Stream::is_over) {
                continue;
            }
            let Some(stream) = self.streams.remove(&id) else {
                continue;
            };
            if stream.buffered > 0 {
                // It has arrived, or the peer would not have performed the reset, but no SACK said so yet.
                *self.stale.entry(id).or_default() += stream.buffered;
            }
            events.push_back(SctpEvent::ResetComplete(id));
            for whole in stream.successor {
                self.held -= whole.data.len() + OVERHEAD;
                self.deliver(whole, events);
            }
            return;
        }
    }
}

#[cfg(test)]
#[path = "tests/streams.rs"]
mod tests;
