//! The driver's table of connections and their streams: moves data between the core and the shared halves.
//!
//! Owned by the driver, which calls it for every entry of the ready list and every event of the core. It owns the
//! bytes on their way from a writer to the core. When to call it, and the network, are the driver's matter.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::Span;

use super::{
    super::{
        Stream,
        shared::{ConnectionShared, Next, Opening, SocketShared, StreamShared, Wakes},
    },
    Incoming, Pending,
    calls::{Call, Calls},
    messages::Messages,
};
use crate::proto::{
    ChannelId, CloseReason, ConnectionId, Dial, Endpoint, Event, Read, Side, Transmit, Write,
    credentials::IceVersion, fingerprint::Fingerprint,
};

/// The shortest time between two samples of one connection's round-trip time: often enough for a histogram over
/// minutes, and so seldom that a busy connection does not outweigh the others.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// All connections of one socket that have, or had, a handle.
pub(super) struct Table {
    pub(super) socket: Arc<SocketShared>,
    /// Round-trip times of the connections in use, not taken yet.
    rtts: Vec<Duration>,
    pub(super) connections: HashMap<ConnectionId, Entry>,
    pub(super) calls: Calls,
    /// How many of them are not closing yet.
    live: usize,
}

/// One connection.
pub(super) struct Entry {
    pub(super) shared: Arc<ConnectionShared>,
    /// Of one that was signaled.
    pub(super) call: Option<Box<Call>>,
    /// Those that have a handle.
    streams: BTreeMap<ChannelId, StreamEntry>,
    /// An outbound stream was asked for and the core has no id for it.
    open_waiting: bool,
    /// We have asked the core to close it.
    closing: bool,
    /// When its round-trip time was sampled last.
    sampled: Option<Instant>,
    span: Span,
}

/// One stream.
struct StreamEntry {
    shared: Arc<StreamShared>,
    /// Taken from the writer; the first `written` bytes are in the core.
    out: Vec<u8>,
    written: usize,
    /// The core takes no more until it reports.
    blocked: bool,
}

impl Table {
    pub(super) fn new(socket: Arc<SocketShared>) -> Self {
        Self {
            calls: Calls::new(socket.local_addr()),
            socket,
            rtts: Vec::new(),
            connections: HashMap::new(),
            live: 0,
        }
    }

    /// The samples of round-trip times since the last call.
    pub(super) fn take_rtts(&mut self) -> impl Iterator<Item = Duration> {
        self.rtts.drain(..)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Are all connections, if any, on their way out?
    pub(super) fn is_closing(&self) -> bool {
        self.live == 0
    }

    /// Are there connections that were signaled?
    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// The address of the second socket, which calls use.
    pub(super) fn set_companion(&mut self, companion: Option<SocketAddr>) {
        self.calls.hosts.set_companion(companion);
    }

    /// Packets cannot leave from an address that only a NAT in front of this host has: the system chooses.
    pub(super) fn correct_source(&self, transmit: &mut Transmit) {
        transmit.source_ip = transmit.source_ip.filter(|ip| !self.calls.is_foreign(*ip));
    }

    pub(super) fn insert(
        &mut self,
        id: ConnectionId,
        shared: Arc<ConnectionShared>,
        span: Span,
    ) -> &mut Entry {
        self.live += 1;
        let entry = Entry {
            shared,
            call: None,
            streams: BTreeMap::new(),
            open_waiting: false,
            closing: false,
            sampled: None,
            span,
        };
        self.connections.entry(id).insert_entry(entry).into_mut()
    }

    /// Starts a connection for `shared`.
    pub(super) fn dial(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        dial: Dial,
        shared: Arc<ConnectionShared>,
        wakes: &mut Wakes,
    ) {
        if shared.is_released() {
            return;
        }
        let remote = dial.remote;
        let id = endpoint.dial(now, dial);
        shared.assign(id);
        self.insert(id, shared, span(id, remote, Side::Dialer));
        // What was asked for while it had no id.
        self.visit_connection(endpoint, now, id, wakes);
    }

    /// Does what the handle of a connection asks for.
    pub(super) fn visit_connection(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        wakes: &mut Wakes,
    ) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        let asks = entry.shared.take_asks();
        if asks.authenticated {
            endpoint.authenticated(now, id);
        }
        if asks.open {
            entry.open(endpoint, now, id, wakes);
        }
        if asks.close && !entry.closing {
            entry.closing = true;
            self.live -= 1;
            entry.span.in_scope(|| tracing::debug!("closing"));
            endpoint.close(now, id);
        }
        if entry.call.is_some() {
            self.serve_call(endpoint, now, id, wakes);
        }
    }

    /// Does what the handle of a stream asks for and moves its bytes.
    pub(super) fn visit_stream(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        (id, channel): (ConnectionId, ChannelId),
        wakes: &mut Wakes,
    ) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        self.rtts.extend(entry.sample(endpoint, now, id));
        let Some(stream) = entry.streams.get_mut(&channel) else {
            entry.visit_messages(endpoint, now, channel, wakes);
            return;
        };
        let asks = stream.shared.take_asks();
        if asks.accepted {
            endpoint.accepted(id, channel);
        }
        if asks.stop {
            endpoint.stop(now, id, channel);
        }
        if asks.reset {
            stream.out = Vec::new();
            stream.written = 0;
            endpoint.reset(now, id, channel);
        }
        if asks.detach {
            entry.remove_stream(channel);
            discard(endpoint, now, id, channel);
            return;
        }
        if asks.release {
            entry.remove_stream(channel);
            if asks.finish {
                endpoint.finish(now, id, channel);
            }
            endpoint.release(now, id, channel);
            return;
        }
        if asks.read {
            stream.pump_read(endpoint, now, id, channel, wakes);
        }
        if !stream.blocked {
            stream.pump_write(endpoint, now, id, channel, wakes);
        }
    }

    /// Passes on what the core reports.
    pub(super) fn handle_event(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        event: Event,
        wakes: &mut Wakes,
    ) {
        match event {
            // Calls take no part in these, which are by far the most.
            Event::ChannelReadable(_) | Event::ChannelWritable(_) | Event::ChannelClosed(_) => {
                return self.handle_channel_event(endpoint, now, id, event, wakes);
            }
            Event::Incoming { remote, local_ip } => {
                return self.incoming(id, remote, local_ip, wakes);
            }
            _ => {}
        }
        let Some(event) = self.handle_call_event(endpoint, now, id, event, wakes) else {
            return;
        };
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        match event {
            Event::Ready {
                remote_fingerprint,
                version,
            } => entry.ready(endpoint, now, id, (remote_fingerprint, version), wakes),
            Event::ChannelOpened(channel) => {
                let stream = entry.add_stream(endpoint, now, id, channel, wakes);
                entry.shared.push_inbound(stream, wakes);
            }
            Event::OpenPossible => {
                if entry.open_waiting {
                    entry.open(endpoint, now, id, wakes);
                }
            }
            Event::AddressChanged(address) => {
                entry
                    .span
                    .in_scope(|| tracing::debug!(%address, "the peer has a new address"));
                entry.shared.set_address(address, wakes);
            }
            Event::Closed(reason) => self.closed(endpoint, now, id, reason, wakes),
            // Handled above.
            Event::Incoming { .. }
            | Event::ChannelReadable(_)
            | Event::ChannelWritable(_)
            | Event::ChannelClosed(_)
            | Event::Candidate(_)
            | Event::EndOfCandidates
            | Event::PathSelected { .. }
            | Event::PathLost
            | Event::Server(_) => {}
        }
    }

    /// A channel has something to read or room to write, or is over.
    fn handle_channel_event(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        event: Event,
        wakes: &mut Wakes,
    ) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        match event {
            Event::ChannelReadable(channel) => {
                self.rtts.extend(entry.sample(endpoint, now, id));
                if let Some(stream) = entry.streams.get_mut(&channel) {
                    stream.pump_read(endpoint, now, id, channel, wakes);
                } else if let Some(messages) = entry.messages(channel) {
                    messages.pump_read(endpoint, now, wakes);
                } else if channel == ChannelId::HANDSHAKE {
                    discard(endpoint, now, id, channel);
                }
            }
            Event::ChannelWritable(channel) => {
                if let Some(stream) = entry.streams.get_mut(&channel) {
                    stream.unblock(endpoint, now, id, channel, wakes);
                } else if let Some(messages) = entry.messages(channel) {
                    messages.pump_write(endpoint, now, wakes);
                }
            }
            Event::ChannelClosed(channel) => {
                if let Some(stream) = entry.streams.get_mut(&channel) {
                    stream.pump_read(endpoint, now, id, channel, wakes);
                    stream.unblock(endpoint, now, id, channel, wakes);
                } else if let Some(messages) = entry.messages(channel) {
                    messages.pump_read(endpoint, now, wakes);
                    messages.pump_write(endpoint, now, wakes);
                }
            }
            _ => {}
        }
    }

    fn incoming(
        &mut self,
        id: ConnectionId,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        wakes: &mut Wakes,
    ) {
        let shared = ConnectionShared::new(Arc::clone(&self.socket), Some(id));
        let span = span(id, remote, Side::Listener);
        self.insert(id, Arc::clone(&shared), span);
        let incoming = Incoming {
            pending: Pending::new(shared, None),
            remote,
            local_ip,
        };
        self.socket.push_incoming(incoming, wakes);
    }

    fn closed(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        reason: CloseReason,
        wakes: &mut Wakes,
    ) {
        if let Some(mut entry) = self.connections.remove(&id) {
            if !entry.closing {
                self.live -= 1;
            }
            // What came with the goodbye, or waits in the core because the reader did: the last chance to take it.
            for (&channel, stream) in &mut entry.streams {
                stream.pump_read(endpoint, now, id, channel, wakes);
            }
            let mut reason = reason;
            if let Some(call) = &mut entry.call {
                if let Some(messages) = &call.messages {
                    messages.pump_read(endpoint, now, wakes);
                }
                reason = call.refused.take().unwrap_or(reason);
                self.forget_call(id, call);
            }
            entry.close(reason, wakes);
        }
    }

    /// The driver ends: nobody may wait for it.
    pub(super) fn close_all(&mut self, wakes: &mut Wakes) {
        self.live = 0;
        for (_, entry) in self.connections.drain() {
            entry.close(CloseReason::Local, wakes);
        }
    }
}

fn span(id: ConnectionId, remote: SocketAddr, side: Side) -> Span {
    tracing::debug_span!("connection", id = id.0, %remote, ?side)
}

/// Reads away what comes on a channel that was detached, so that it holds nothing up.
fn discard(endpoint: &mut Endpoint, now: Instant, id: ConnectionId, channel: ChannelId) {
    while let Read::Data(_) = endpoint.read(now, id, channel) {}
}

impl Entry {
    /// Makes both halves of a stream.
    fn add_stream(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        channel: ChannelId,
        wakes: &mut Wakes,
    ) -> Stream {
        let shared = StreamShared::new(Arc::clone(&self.shared), id, channel);
        let handle = Stream::new(Arc::clone(&shared));
        let mut stream = StreamEntry {
            shared,
            out: Vec::new(),
            written: 0,
            blocked: false,
        };
        // What is there already, and from then on the core reports.
        stream.pump_read(endpoint, now, id, channel, wakes);
        self.streams.insert(channel, stream);
        handle
    }

    /// The round-trip time, once per [`SAMPLE_INTERVAL`]. Called where data moves, so that an idle connection, whose time
    /// does not change, is not counted again and again.
    fn sample(&mut self, endpoint: &Endpoint, now: Instant, id: ConnectionId) -> Option<Duration> {
        if self
            .sampled
            .is_some_and(|sampled| now.saturating_duration_since(sampled) < SAMPLE_INTERVAL)
        {
            return None;
        }
        let rtt = endpoint.path_stats(id)?.rtt?;
        self.sampled = Some(now);
        Some(rtt)
    }

    fn remove_stream(&mut self, channel: ChannelId) {
        self.streams.remove(&channel);
        if self.streams.is_empty() {
            // An emptied map keeps a node, which most connections do not need again soon.
            self.streams = BTreeMap::new();
        }
    }

    fn ready(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        (remote_fingerprint, version): (Fingerprint, Option<IceVersion>),
        wakes: &mut Wakes,
    ) {
        self.span
            .in_scope(|| tracing::debug!(?version, "ready for Noise"));
        let handshake = self.add_stream(endpoint, now, id, ChannelId::HANDSHAKE, wakes);
        let opening = Opening {
            handshake,
            remote_fingerprint,
            version,
        };
        self.shared.set_ready(opening, wakes);
    }

    /// Opens the outbound stream that was asked for, now or when the core has an id for it.
    fn open(&mut self, endpoint: &mut Endpoint, now: Instant, id: ConnectionId, wakes: &mut Wakes) {
        let channel = endpoint.open(now, id);
        self.open_waiting = channel.is_none();
        if let Some(channel) = channel {
            let stream = self.add_stream(endpoint, now, id, channel, wakes);
            self.shared.set_opened(stream, wakes);
        }
    }

    /// The channel of messages, if this is it.
    fn messages(&self, channel: ChannelId) -> Option<&Messages> {
        let messages = self.call.as_ref()?.messages.as_ref()?;
        (messages.channel == channel).then_some(messages)
    }

    /// Does what the handle of the channel of messages asks for.
    fn visit_messages(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        channel: ChannelId,
        wakes: &mut Wakes,
    ) {
        let gone = self
            .messages(channel)
            .is_some_and(|messages| !messages.visit(endpoint, now, wakes));
        if let Some(call) = self.call.as_mut().filter(|_| gone) {
            call.messages = None;
        }
    }

    /// Tells all handles. The connection first: streams ask it for the reason.
    fn close(mut self, reason: CloseReason, wakes: &mut Wakes) {
        self.span
            .in_scope(|| tracing::debug!(%reason, "connection closed"));
        self.shared.close(reason.clone(), wakes);
        if let Some(call) = &mut self.call {
            call.close(reason, wakes);
        }
        for stream in self.streams.values() {
            stream.shared.close(wakes);
        }
    }
}

impl StreamEntry {
    fn pump_read(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        channel: ChannelId,
        wakes: &mut Wakes,
    ) {
        self.shared.fill(wakes, || endpoint.read(now, id, channel));
    }

    /// The core takes data again, or never will.
    fn unblock(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        channel: ChannelId,
        wakes: &mut Wakes,
    ) {
        self.blocked = false;
        // With nothing to write, an empty write tells whether the direction is still open.
        if !self.is_pending() && !self.write(endpoint, now, id, channel, wakes) {
            return;
        }
        self.pump_write(endpoint, now, id, channel, wakes);
    }

    /// Are there bytes that the core has not taken?
    fn is_pending(&self) -> bool {
        self.written < self.out.len()
    }

    /// Moves the writer's bytes to the core until one of them has no more, or no room.
    fn pump_write(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        channel: ChannelId,
        wakes: &mut Wakes,
    ) {
        loop {
            let next = self
                .shared
                .advance(&mut self.out, &mut self.written, self.blocked, wakes);
            match next {
                Next::Write => {
                    if !self.write(endpoint, now, id, channel, wakes) {
                        return;
                    }
                }
                Next::Finish => {
                    endpoint.finish(now, id, channel);
                    self.shared.finished(wakes);
                    return;
                }
                Next::Wait => return,
            }
        }
    }

    /// Offers the rest of `out` to the core. False when it will never take more.
    fn write(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        id: ConnectionId,
        channel: ChannelId,
        wakes: &mut Wakes,
    ) -> bool {
        let rest = &self.out[self.written..];
        match endpoint.write(now, id, channel, rest) {
            Write::Accepted(n) => {
                self.blocked = n < rest.len();
                self.written += n;
                true
            }
            Write::Stopped => {
                self.shared.write_stopped(wakes);
                self.give_up();
                false
            }
            Write::Closed => {
                self.shared.write_closed(wakes);
                self.give_up();
                false
            }
        }
    }

    fn give_up(&mut self) {
        self.out = Vec::new();
        self.written = 0;
    }
}
