//! The session engine: what frames do to a session, for both sides, without input or output.
//!
//! A [`Session`] is fed with frames, each with the label of the transport it came by and the time, and with the bytes
//! of the user or backend. It gives frames for each transport, bytes in order, [`Event`]s and its next deadline. It
//! has no socket, no runtime, no clock and no randomness of its own. Authentication, backends, reconnecting and the
//! transports themselves are the driver's job.
//!
//! # How a driver uses it
//!
//! One task owns a session and its transports; every call of a turn takes the same `now`.
//!
//! 1. Wait for one of: a frame on a transport for which [`Session::wants_frames`], room in a transport, bytes of the
//!    user or backend while [`Session::write_capacity`] is not 0, room for what [`Session::read`] gives,
//!    [`Session::poll_timeout`], a new or broken transport, a command.
//! 2. Tell the session: [`Session::handle_frame`], [`Session::handle_malformed`] (then stop reading that transport),
//!    [`Session::path_lost`], [`Session::connect`], [`Session::resume`], [`Session::attach_channel`],
//!    [`Session::handle_timeout`], [`Session::write`], [`Session::read`], [`Session::close`], …
//! 3. [`Session::poll_event`] until it gives nothing.
//! 4. For each transport with room, [`Session::poll_transmit`] until it gives nothing; flush; back to 1.
//!
//! A transport has room when its own queue is short (a few frames): DATA waits in the session and not behind it, so
//! that Ctrl-C, PONG and CLOSE are never stuck behind a flood. On [`Event::ClosePath`] the driver sends what
//! `poll_transmit` still gives for that path, closes the transport, and forgets it. After [`Event::Closed`] it drops
//! the session; bytes that were received can still be read before.
//!
//! A client makes its session with [`Session::client`] and calls [`Session::connect`] for each transport it opens. A
//! server makes an [`Acceptor`] for each fresh connection; that turns into a session, or hands a RESUME_REQUEST to a
//! session found in [`Sessions`].
//!
//! # How a session changes its transport
//!
//! One mechanism serves all: bytes are numbered, sent bytes are kept until the peer has them, and DATA is taken from
//! every living path by number. On top of it there are two moves. *Main path*: the client connects a new transport
//! and asks to resume there; the answer tells both sides where to go on, and the old transport, dead or alive, is
//! dropped. That is reconnecting, Wi-Fi to cellular, and relay to direct. *DATA only*: a data channel is attached
//! beside the main path, the client leads the switch at a frame boundary, and a lost channel is repaired by a resume
//! on the living main path. Without Session Resume a barrier keeps the order, but a loss cannot be repaired.

use std::{collections::VecDeque, time::Duration};

pub use std::time::Instant;

use bytes::Bytes;

use self::{
    channel::Upgrade,
    closing::Closing,
    config::Settings,
    inbound::Inbound,
    link::{Link, Phase},
    outbound::Outbound,
    path::{Nonce, Nonces, Path},
    terminal::Terminal,
};
use super::frame::{Env, Failure, Frame, SessionId, Signal, Size};

mod acceptor;
mod channel;
mod closing;
mod config;
mod event;
mod inbound;
mod link;
mod outbound;
mod path;
mod receive;
mod registry;
mod terminal;
#[cfg(test)]
mod tests;
mod timing;
mod transmit;

pub(super) use self::link::not_found;
pub use self::{
    acceptor::Acceptor,
    config::{ClientConfig, Overflow, Parameters, ResumeConfig, ServerConfig},
    event::{
        By, End, EndReason, Event, Mode, PathCause, PathId, PathKind, Request, Role, Signaling,
        Stats, Status,
    },
    registry::{Claimant, Sessions},
};

/// Events that wait; above, transports are not read.
const MAX_EVENTS: usize = 256;
/// Room that is worth waking a writer for.
const WORTH_WRITING: usize = 16 * 1024;

/// What is needed to resume.
#[derive(Debug)]
struct Held {
    id: SessionId,
    /// How long the server waits; `None` is without end.
    hold: Option<Duration>,
}

/// One session, either side. See the module for how it is used.
pub struct Session {
    settings: Settings,
    /// The wishes of a client, for its first frame.
    config: Option<Box<ClientConfig>>,
    parameters: Option<Parameters>,
    held: Option<Held>,
    nonces: Nonces,
    link: Link,
    paths: Vec<Path>,
    upgrade: Upgrade,
    closing: Option<Closing>,
    /// Client: the ERROR a CLOSE should follow, and until when.
    error: Option<(Failure, Instant)>,
    outbound: Outbound,
    inbound: Inbound,
    terminal: Terminal,
    events: VecDeque<Event>,
    tally: Tally,
}

/// Small things that are counted or remembered.
#[derive(Debug, Default)]
struct Tally {
    unknown_frames: u32,
    ignored_pings: u64,
    /// The peer was told once that an extension is not supported.
    told_unsupported: bool,
    /// A writer waits for room.
    writer_waits: bool,
    rtt: Option<Duration>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("role", &self.settings.role)
            .field("mode", &self.settings.mode)
            .field("status", &self.status())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A client that has no transport yet; `seed` is fresh randomness.
    pub fn client(config: ClientConfig, seed: [u8; 32]) -> Self {
        let settings = config.settings();
        Self::new(settings, Some(Box::new(config)), seed)
    }

    fn new(settings: Settings, config: Option<Box<ClientConfig>>, seed: [u8; 32]) -> Self {
        Self {
            config,
            parameters: None,
            held: None,
            nonces: Nonces::new(seed),
            link: Link::default(),
            paths: Vec::new(),
            upgrade: Upgrade::default(),
            closing: None,
            error: None,
            outbound: Outbound::new(settings.retained),
            inbound: Inbound::new(settings.pause_reading, settings.under_way()),
            terminal: Terminal::default(),
            events: VecDeque::new(),
            tally: Tally::default(),
            settings,
        }
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether this transport should be read. `false` keeps what the peer sends in the transport: it ignores XOFF, or
    /// sends what only waits. Ask again after any call.
    pub fn wants_frames(&self, path: PathId) -> bool {
        let takes = |path: &Path| !path.retired && !path.is_crowded();
        !self.is_closed()
            && self.events.len() < MAX_EVENTS
            && self.path(path).is_some_and(takes)
            && self.inbound.wants(path)
    }

    /// How many bytes [`Self::write`] takes now. At 0 the user or backend is not to be read; [`Event::Writable`]
    /// follows.
    pub fn write_capacity(&self) -> usize {
        if self.closing.is_some() || self.is_closed() || self.terminal.finished {
            return 0;
        }
        if self.drops_oldest() {
            return self.settings.retained;
        }
        self.outbound.room(self.link.main().is_some())
    }

    /// Whether output is dropped rather than held back.
    fn drops_oldest(&self) -> bool {
        self.settings.overflow == Overflow::DropOldest
            && matches!(self.link.phase, Phase::Detached { .. })
    }

    /// Takes at most [`Self::write_capacity`] bytes off the front of `bytes` and gives their number.
    pub fn write(&mut self, bytes: &mut Bytes) -> usize {
        let taken = bytes.len().min(self.write_capacity());
        if taken > 0 {
            if self.drops_oldest() {
                self.outbound.make_room(taken);
            }
            self.outbound.push(bytes.split_to(taken));
        }
        self.tally.writer_waits |= !bytes.is_empty() || self.write_capacity() == 0;
        taken
    }

    /// The next received bytes, each exactly once and in order. Without any, wait for [`Event::Readable`]. While
    /// nobody reads, the peer is told to stop.
    pub fn read(&mut self, now: Instant) -> Option<Bytes> {
        let bytes = self.inbound.read();
        self.settle(now);
        bytes
    }

    /// No more bytes of ours follow. `false` if half-close is off: close the session instead.
    pub fn finish(&mut self) -> bool {
        if self.settings.half_close && !self.terminal.finished {
            self.terminal.finished = true;
            self.outbound.finish();
        }
        self.settings.half_close
    }

    /// Client: whether the next handshake asks for the WebRTC upgrade: only on a path whose signaling nobody else can
    /// read or change. To be called before [`Self::connect`]; what is agreed stays.
    pub fn ask_for_webrtc(&mut self, ask: bool) {
        if let Some(config) = &mut self.config {
            config.webrtc = ask;
        }
    }

    /// Client: the terminal has this size. Only the last one counts; it is told again after every resume.
    pub fn resize(&mut self, size: Size) {
        self.terminal.set_size(size);
    }

    /// Client: a signal for the program. Lost without a transport: it means the moment.
    pub fn signal(&mut self, signal: Signal) {
        if self.settings.role == Role::Client && self.closing.is_none() {
            self.send_main(Frame::Signal(signal));
        }
    }

    /// Client: a variable for the shell. `false` if it comes too late, is too long, or is one too many.
    pub fn env(&mut self, name: &str, value: &str) -> bool {
        let env = Env {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        self.outbound.sent == 0 && self.terminal.add_env(env)
    }

    /// The values in force, after the handshake.
    pub fn parameters(&self) -> Option<&Parameters> {
        self.parameters.as_ref()
    }

    /// The name of the session, with Session Resume. A secret.
    pub fn session_id(&self) -> Option<&SessionId> {
        self.held.as_ref().map(|held| &held.id)
    }

    /// Last measured time from a PING to its PONG.
    pub fn rtt(&self) -> Option<Duration> {
        self.tally.rtt
    }

    /// Where the session stands.
    pub fn status(&self) -> Status {
        match self.link.phase {
            Phase::Closed => Status::Closed,
            _ if self.closing.is_some() => Status::Closing,
            Phase::Idle | Phase::Opening { .. } => Status::Connecting,
            Phase::Open { main } => Status::Established {
                main,
                data: self.data_path().unwrap_or(main),
            },
            Phase::Detached { .. } => Status::Disconnected,
        }
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        Stats {
            sent: self.outbound.sent,
            received: self.inbound.received,
            repeated: self.outbound.repeated,
            retained: self.outbound.held(),
            buffered: self.inbound.held(),
            unknown_frames: self.tally.unknown_frames,
            ignored_pings: self.tally.ignored_pings,
            rtt: self.tally.rtt,
        }
    }

    /// Queues an event; after the last one there are no more.
    fn tell(&mut self, event: Event) {
        if !self.is_closed() {
            self.events.push_back(event);
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.link.phase, Phase::Closed)
    }

    /// Whether Session Resume is in force.
    fn is_numbered(&self) -> bool {
        self.parameters.is_some_and(|parameters| parameters.resume)
    }

    /// How long a PONG may take.
    fn ping_timeout(&self) -> Duration {
        self.parameters
            .map_or(self.settings.handshake_timeout, |parameters| {
                parameters.ping_timeout
            })
    }

    /// How long the client may take to ask from where to go on: it notices last when it has just heard a PONG.
    fn repair_timeout(&self) -> Duration {
        let interval = self.parameters.map(|parameters| parameters.ping_interval);
        interval.unwrap_or_default() + self.ping_timeout() * 3
    }

    fn path(&self, id: PathId) -> Option<&Path> {
        self.paths.iter().find(|path| path.id == id)
    }

    fn path_mut(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| path.id == id)
    }

    /// Queues a control frame on the main path; without one, or with too many waiting, it is dropped.
    fn send_main(&mut self, frame: Frame) -> bool {
        let main = self.link.main();
        main.and_then(|main| self.path_mut(main))
            .is_some_and(|path| path.send(frame))
    }

    /// Queues a PING of ours. On the path of DATA its answer confirms all DATA that left before it.
    fn ping(&mut self, now: Instant, id: PathId) -> Nonce {
        let nonce = self.nonces.next();
        if let Some(path) = self.path_mut(id) {
            path.ping(now, nonce);
            if self.data_path() == Some(id) {
                self.outbound.mark(nonce);
            }
        }
        nonce
    }

    /// Brings what follows from other state up to date; at the end of every call that changes something.
    fn settle(&mut self, now: Instant) {
        if self.link.resuming.is_none() {
            self.paths.iter_mut().for_each(Path::release);
        }
        let open = !self.is_closed();
        for path in &mut self.paths {
            let listening = open && !path.retired && self.inbound.wants(path.id);
            path.listen(now, listening);
        }
        let room = self.write_capacity();
        if room == 0 {
            self.tally.writer_waits = true;
        } else if self.tally.writer_waits && room >= WORTH_WRITING.min(self.settings.retained / 4) {
            self.tally.writer_waits = false;
            self.tell(Event::Writable);
        }
    }
}
