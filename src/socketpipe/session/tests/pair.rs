//! A client and a server with wires that delay, break and come back. Virtual time, no randomness of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::socketpipe::{
    Frame,
    session::{
        Acceptor, Claimant, ClientConfig, End, Event, Instant, PathId, PathKind, Request,
        ServerConfig, Session, Sessions,
    },
};

/// Frames a wire takes before its sender has to wait.
const WIRE_ROOM: usize = 4;

/// One transport: two ordered queues; `None` is its end.
pub(super) struct Wire {
    pub(super) id: PathId,
    pub(super) kind: PathKind,
    pub(super) delay: Duration,
    pub(super) up: VecDeque<(Instant, Option<Frame>)>,
    pub(super) down: VecDeque<(Instant, Option<Frame>)>,
    /// What is sent vanishes and nobody is told.
    pub(super) silent: bool,
    /// Somebody else carries what is in the queues.
    pub(super) foreign: bool,
}

/// One end and what it has seen.
pub(super) struct Seat {
    pub(super) session: Session,
    pub(super) events: Vec<Event>,
    /// Bytes written so far and bytes received so far, both checked against the same endless pattern.
    pub(super) written: u64,
    pub(super) received: u64,
    pub(super) reads: bool,
    /// Nothing may be missing.
    pub(super) exact: bool,
}

/// Byte `index` of what every user writes.
fn pattern(index: u64) -> u8 {
    (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Seat {
    fn new(session: Session) -> Self {
        Self {
            session,
            events: Vec::new(),
            written: 0,
            received: 0,
            reads: true,
            exact: true,
        }
    }

    /// Writes as much of the next `length` bytes of the pattern as is taken.
    pub(super) fn write(&mut self, length: usize) -> usize {
        let start = self.written;
        let mut bytes: Bytes = (start..start + length as u64).map(pattern).collect();
        let taken = self.session.write(&mut bytes);
        self.written += taken as u64;
        taken
    }

    /// Reads everything and checks it.
    pub(super) fn read(&mut self, now: Instant) {
        while let Some(bytes) = self.session.read(now) {
            let start = self.received;
            self.received += bytes.len() as u64;
            let expected: Vec<_> = (start..self.received).map(pattern).collect();
            if self.exact && bytes != expected {
                let at = bytes
                    .iter()
                    .zip(&expected)
                    .position(|(one, two)| one != two);
                panic!("byte {start} and {at:?} is another one");
            }
        }
    }

    pub(super) fn end(&self) -> Option<&End> {
        self.events.iter().find_map(|event| match event {
            Event::Closed(end) => Some(end),
            _ => None,
        })
    }

    pub(super) fn saw(&self, wanted: &Event) -> bool {
        self.events.contains(wanted)
    }
}

/// Both ends.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) client: Seat,
    pub(super) server: Option<Seat>,
    pub(super) acceptors: Vec<(PathId, Acceptor)>,
    pub(super) sessions: Sessions<()>,
    pub(super) config: Arc<ServerConfig>,
    pub(super) wires: Vec<Wire>,
    pub(super) mode: super::super::Mode,
    next_id: u64,
    /// The client connects again this long after it lost its last path.
    pub(super) reconnect: Option<Duration>,
    reconnect_at: Option<Instant>,
    pub(super) delay: Duration,
    /// Share of frames, in thousandths, whose first packet is lost: they and those behind them come later.
    pub(super) loss: u64,
    dice: u64,
    /// PONGs of the client overtake what it has sent before them, as with a peer that does not keep to the rule.
    pub(super) hasty_pongs: bool,
}

/// Time until a reliable transport sends a packet again, at least.
const REPEATED_AFTER: Duration = Duration::from_millis(200);

#[expect(
    clippy::disallowed_methods,
    reason = "virtual time needs a beginning, and there is no other way to make an instant"
)]
pub(super) fn beginning() -> Instant {
    Instant::now()
}

impl Pair {
    /// Both ends before anything was sent.
    pub(super) fn new(client: ClientConfig, config: ServerConfig) -> Self {
        Self {
            now: beginning(),
            mode: client.mode,
            client: Seat::new(Session::client(client, [1; 32])),
            server: None,
            acceptors: Vec::new(),
            sessions: Sessions::default(),
            config: Arc::new(config),
            wires: Vec::new(),
            next_id: 0,
            reconnect: None,
            reconnect_at: None,
            delay: Duration::from_millis(10),
            loss: 0,
            dice: 1,
            hasty_pongs: false,
        }
    }

    /// An open session.
    pub(super) fn open(client: ClientConfig, config: ServerConfig) -> Self {
        let mut pair = Self::new(client, config);
        pair.connect();
        pair.run(Duration::from_secs(1));
        assert!(pair.client.session.parameters().is_some());
        pair
    }

    pub(super) fn server(&mut self) -> &mut Seat {
        self.server.as_mut().expect("the server has accepted")
    }

    fn wire(&mut self, kind: PathKind) -> PathId {
        self.next_id += 1;
        let id = PathId(self.next_id);
        self.wires.push(Wire {
            id,
            kind,
            delay: self.delay,
            up: VecDeque::new(),
            down: VecDeque::new(),
            silent: false,
            foreign: false,
        });
        id
    }

    /// How much later a frame comes because packets of it are lost.
    fn stall(&mut self, delay: Duration) -> Duration {
        let mut again = REPEATED_AFTER.max(delay * 2);
        let mut stall = Duration::ZERO;
        loop {
            // xorshift64
            self.dice ^= self.dice << 13;
            self.dice ^= self.dice >> 7;
            self.dice ^= self.dice << 17;
            if self.dice % 1000 >= self.loss {
                return stall;
            }
            stall += again;
            again *= 2;
        }
    }

    /// Other losses than with another number.
    pub(super) fn shuffle(&mut self, number: u64) {
        self.dice = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    }

    /// The client opens a transport and uses it.
    pub(super) fn connect(&mut self) -> PathId {
        let id = self.wire(PathKind::Stream);
        let config = Arc::clone(&self.config);
        let acceptor = Acceptor::new(self.now, PathKind::Stream, self.mode, config);
        self.acceptors.push((id, acceptor));
        self.reconnect_at = None;
        self.client.session.connect(self.now, id, PathKind::Stream);
        id
    }

    /// A data channel comes about; neither session knows it yet.
    pub(super) fn channel(&mut self) -> PathId {
        self.wire(PathKind::DataChannel)
    }

    /// A data channel opens at both ends.
    pub(super) fn attach(&mut self) -> Option<PathId> {
        let id = self.channel();
        let now = self.now;
        let seat = self.server.as_mut()?;
        let agreed = seat.session.attach_channel(now, id, 16 * 1024)
            && self.client.session.attach_channel(now, id, 16 * 1024);
        if !agreed {
            seat.session.path_lost(now, id);
            self.wires.retain(|wire| wire.id != id);
        }
        agreed.then_some(id)
    }

    /// A transport breaks and both ends notice; what is under way is lost.
    pub(super) fn cut(&mut self, id: PathId) {
        self.wires.retain(|wire| wire.id != id);
        self.acceptors.retain(|(path, _)| *path != id);
        self.client.session.path_lost(self.now, id);
        if let Some(server) = &mut self.server {
            server.session.path_lost(self.now, id);
        }
    }

    /// A transport breaks and nobody notices.
    pub(super) fn silence(&mut self, id: PathId) {
        if let Some(wire) = self.wires.iter_mut().find(|wire| wire.id == id) {
            wire.silent = true;
            wire.up.clear();
            wire.down.clear();
        }
    }

    /// Lets time pass until nothing is left to do at that time.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            while self.turn() {}
            let next = self.next_time().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.now = next.max(self.now);
        }
        self.now = until;
        while self.turn() {}
    }

    fn next_time(&self) -> Option<Instant> {
        let heads = self
            .wires
            .iter()
            .filter(|wire| !wire.foreign)
            .flat_map(|wire| [wire.up.front(), wire.down.front()])
            .flatten()
            .map(|(due, _)| *due);
        let server = self.server.as_ref();
        let timeouts = [
            self.client.session.poll_timeout(),
            server.and_then(|server| server.session.poll_timeout()),
            self.reconnect_at,
        ];
        heads
            .chain(timeouts.into_iter().flatten())
            .chain(
                self.acceptors
                    .iter()
                    .filter_map(|(_, at)| at.poll_timeout()),
            )
            .filter(|due| *due > self.now)
            .min()
    }

    /// One turn of everybody; whether anything happened.
    fn turn(&mut self) -> bool {
        let now = self.now;
        let mut busy = self.deliver();
        busy |= self.decide();
        for seat in [Some(&mut self.client), self.server.as_mut()]
            .into_iter()
            .flatten()
        {
            if seat.session.poll_timeout().is_some_and(|due| due <= now) {
                seat.session.handle_timeout(now);
                busy = true;
            }
            if seat.reads {
                seat.read(now);
            }
        }
        for (_, acceptor) in &mut self.acceptors {
            acceptor.handle_timeout(now);
        }
        if self.reconnect_at.is_some_and(|due| due <= now) {
            self.connect();
            busy = true;
        }
        busy |= self.drain_events();
        busy | self.transmit()
    }

    fn deliver(&mut self) -> bool {
        let now = self.now;
        let mut busy = false;
        for index in 0..self.wires.len() {
            if self.wires[index].foreign {
                continue;
            }
            let id = self.wires[index].id;
            while self.wires[index]
                .up
                .front()
                .is_some_and(|(due, _)| *due <= now)
            {
                let acceptor = self.acceptors.iter_mut().find(|(path, _)| *path == id);
                if let Some((_, acceptor)) = acceptor {
                    if acceptor.is_finished() {
                        break;
                    }
                    match self.wires[index].up.pop_front() {
                        Some((_, Some(frame))) => acceptor.handle_frame(now, frame),
                        _ => self.acceptors.retain(|(path, _)| *path != id),
                    }
                    busy = true;
                    break;
                }
                let Some(server) = &mut self.server else {
                    break;
                };
                busy |= hand_over(now, id, &mut server.session, &mut self.wires[index].up);
                if !server.session.wants_frames(id) {
                    break;
                }
            }
            while self.wires[index]
                .down
                .front()
                .is_some_and(|(due, _)| *due <= now)
            {
                let queue = &mut self.wires[index].down;
                if !hand_over(now, id, &mut self.client.session, queue) {
                    break;
                }
                busy = true;
            }
        }
        busy
    }

    /// The server's policy: everybody may.
    fn decide(&mut self) -> bool {
        let now = self.now;
        let mut busy = false;
        for (id, mut acceptor) in std::mem::take(&mut self.acceptors) {
            let request = acceptor.poll_request();
            busy |= request.is_some();
            self.flush_acceptor(id, &mut acceptor);
            match request {
                Some(Request::Handshake(_)) => {
                    let session = acceptor.accept(now, id, [7; 32], [2; 32]);
                    let session = session.expect("a handshake is open");
                    if let Some(name) = session.session_id() {
                        self.sessions
                            .insert(name, self.mode, &Claimant::default(), ());
                    }
                    self.server = Some(Seat::new(session));
                    continue;
                }
                Some(Request::Resume(request)) => {
                    let found = self
                        .sessions
                        .find(&request.id, self.mode, &Claimant::default())
                        .cloned();
                    let server = self.server.as_mut().expect("the server has accepted");
                    let resumed = found
                        .and_then(|()| server.session.resume(now, id, PathKind::Stream, &request));
                    match resumed {
                        Ok(()) => continue,
                        Err(failure) => acceptor.refuse(now, failure),
                    }
                }
                None => {}
            }
            self.flush_acceptor(id, &mut acceptor);
            if acceptor.is_finished() {
                self.hang_up(id, false);
            } else {
                self.acceptors.push((id, acceptor));
            }
        }
        busy
    }

    fn flush_acceptor(&mut self, id: PathId, acceptor: &mut Acceptor) {
        while let Some(frame) = acceptor.poll_transmit() {
            self.put(id, false, Some(frame));
        }
    }

    fn put(&mut self, id: PathId, up: bool, frame: Option<Frame>) {
        let now = self.now;
        let delay = self.wires.iter().find(|wire| wire.id == id);
        let Some(delay) = delay.map(|wire| wire.delay) else {
            return;
        };
        let late = self.stall(delay);
        if let Some(wire) = self.wires.iter_mut().find(|wire| wire.id == id) {
            let due = now + delay + late;
            let queue = if up { &mut wire.up } else { &mut wire.down };
            if up && self.hasty_pongs && matches!(frame, Some(Frame::Pong(_))) && !wire.silent {
                let due = queue.front().map_or(due, |(first, _)| due.min(*first));
                queue.push_front((due, frame));
                return;
            }
            // A queue stays in order when its delay gets shorter.
            let due = queue.back().map_or(due, |(last, _)| due.max(*last));
            if !wire.silent {
                queue.push_back((due, frame));
            }
        }
    }

    fn hang_up(&mut self, id: PathId, client: bool) {
        self.put(id, client, None);
    }

    fn drain_events(&mut self) -> bool {
        let mut busy = false;
        for client in [true, false] {
            loop {
                let seat = if client {
                    Some(&mut self.client)
                } else {
                    self.server.as_mut()
                };
                let Some(event) = seat.and_then(|seat| seat.session.poll_event()) else {
                    break;
                };
                busy = true;
                if let Event::ClosePath { path, .. } = event {
                    while let Some(frame) = self.poll_transmit(client, path) {
                        self.put(path, client, Some(frame));
                    }
                    self.hang_up(path, client);
                }
                if client && event == Event::Disconnected {
                    self.reconnect_at = self.reconnect.map(|pause| self.now + pause);
                }
                let seat = if client {
                    Some(&mut self.client)
                } else {
                    self.server.as_mut()
                };
                if let Some(seat) = seat {
                    seat.events.push(event);
                }
            }
        }
        busy
    }

    fn poll_transmit(&mut self, client: bool, path: PathId) -> Option<Frame> {
        let seat = if client {
            Some(&mut self.client)
        } else {
            self.server.as_mut()
        };
        seat?.session.poll_transmit(self.now, path)
    }

    fn transmit(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.wires.len() {
            let id = self.wires[index].id;
            while self.wires[index].up.len() < WIRE_ROOM
                && let Some(frame) = self.poll_transmit(true, id)
            {
                self.put(id, true, Some(frame));
                busy = true;
            }
            while self.wires[index].down.len() < WIRE_ROOM
                && let Some(frame) = self.poll_transmit(false, id)
            {
                self.put(id, false, Some(frame));
                busy = true;
            }
        }
        busy
    }
}

/// Gives the next frame of a wire to its receiver, if that takes it.
fn hand_over(
    now: Instant,
    id: PathId,
    session: &mut Session,
    queue: &mut VecDeque<(Instant, Option<Frame>)>,
) -> bool {
    let is_end = matches!(queue.front(), Some((_, None)));
    let known = session.wants_frames(id) || is_end || !session.watches(id);
    if !known {
        return false;
    }
    match queue.pop_front() {
        Some((_, Some(frame))) => session.handle_frame(now, id, frame),
        _ => session.path_lost(now, id),
    }
    true
}

impl Session {
    /// Whether frames of this path still matter.
    fn watches(&self, id: PathId) -> bool {
        self.path(id).is_some_and(|path| !path.retired)
    }
}
