//! Runs one session: moves frames between its wires and the engine, and bytes between the engine and its far end.
//!
//! A [`Driver`] owns a session, the wires it lives on, and the far end: a backend on the server, the user's pipe on a
//! client. It does what has to be done for both and tells its owner ([`server`](super::server),
//! [`client`](super::client)) what concerns only one of them. All of it happens in one task and nothing queues
//! outside the engine, so memory is bounded by the engine's limits and a slow reader stops the far end.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{io::ReadBuf, time::Sleep};

use super::{
    backend::{Backend, Control, Exit},
    brake::Brake,
    code::Code,
    codec::FrameError,
    frame::{Failure, ResumeRequest},
    session::{Event, Instant, PathId, Session},
    upgrade::{Upgrade, WebRtc},
    wire::Wire,
};

mod channel;

/// Bytes taken from the far end at once: one piece of DATA.
const READ_SIZE: usize = 16 * 1024;
/// Frames taken from or given to one wire before the others have their turn.
const MAX_FRAMES: usize = 32;
/// Rounds of work before the task yields to others: few, since a key of another session waits for all that flood.
const MAX_ROUNDS: usize = 2;
/// Time for a wire to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

/// The clock; paused in tests that pause the runtime's.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A name no other wire of this process has.
fn next_path() -> PathId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    PathId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A wire of the session.
struct Lane {
    id: PathId,
    wire: Wire,
    /// What came was no frame: nothing more is read.
    deaf: bool,
}

/// What is left to do between the far end and the session.
#[derive(Default)]
struct FarEnd {
    /// Bytes for it that it has not taken yet.
    pending: Bytes,
    /// It has no more bytes.
    ended: bool,
    /// Its end was told to the session, one way or the other.
    reported: bool,
    /// It takes no more bytes.
    broken: bool,
    /// The peer has no more bytes.
    peer_ended: bool,
    /// It was told so.
    shut: bool,
}

/// A session at work.
pub(super) struct Driver {
    session: Session,
    lanes: Vec<Lane>,
    far: Box<dyn Backend>,
    /// Of a terminal on the server.
    brake: Option<Brake>,
    is_client: bool,
    /// Close the session when the far end has nothing more at hand.
    wish: Option<(Code, String)>,
    state: FarEnd,
    scratch: Box<[u8]>,
    timer: Pin<Box<Sleep>>,
    told: VecDeque<Event>,
    leaving: FuturesUnordered<BoxFuture<'static, ()>>,
    /// The WebRTC connection beside the main wire, if there may be one.
    upgrade: Option<Upgrade>,
    closed: bool,
}

impl Driver {
    /// Client: a session that has no wire yet, and the pipe of its user.
    pub(super) fn client(session: Session, far: Box<dyn Backend>, webrtc: Option<WebRtc>) -> Self {
        let mut driver = Self::new(session, far, true);
        driver.upgrade = webrtc.map(|webrtc| Upgrade::new(webrtc, true));
        driver
    }

    fn new(session: Session, far: Box<dyn Backend>, is_client: bool) -> Self {
        Self {
            session,
            lanes: Vec::new(),
            far,
            brake: None,
            is_client,
            wish: None,
            state: FarEnd::default(),
            scratch: vec![0; READ_SIZE].into(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            told: VecDeque::new(),
            leaving: FuturesUnordered::new(),
            upgrade: None,
            closed: false,
        }
    }

    /// Server: the session that `open` makes of a label lives on this wire. Terminals have a brake. Most sessions agree
    /// to no upgrade, and have nothing for it.
    pub(super) fn server(
        wire: Wire,
        far: Box<dyn Backend>,
        (webrtc, brake): (Option<&WebRtc>, Option<Brake>),
        open: impl FnOnce(PathId) -> Option<Session>,
    ) -> Option<Self> {
        let id = next_path();
        let mut driver = Self::new(open(id)?, far, false);
        let agreed = driver.session.parameters();
        driver.upgrade = webrtc
            .filter(|_| agreed.is_some_and(|agreed| agreed.webrtc))
            .map(|webrtc| Upgrade::new(webrtc.clone(), false));
        driver.brake = brake;
        driver.attach(id, wire);
        driver.main_changed(id);
        Some(driver)
    }

    fn attach(&mut self, id: PathId, wire: Wire) {
        let deaf = false;
        self.lanes.push(Lane { id, wire, deaf });
    }

    /// Client: a main transport is open.
    pub(super) fn connect(&mut self, wire: Wire) -> PathId {
        let id = next_path();
        let asks = self.upgrade.is_some() && wire.may_signal();
        self.session.ask_for_webrtc(asks);
        self.session.connect(now(), id, wire.kind());
        self.attach(id, wire);
        id
    }

    /// Server: the session shall go on on this wire.
    pub(super) fn resume(
        &mut self,
        wire: Wire,
        request: &ResumeRequest,
    ) -> Result<(), (Wire, Failure)> {
        let id = next_path();
        match self.session.resume(now(), id, wire.kind(), request) {
            Ok(()) => {
                self.attach(id, wire);
                Ok(())
            }
            Err(failure) => Err((wire, failure)),
        }
    }

    /// Closes the session behind the bytes the far end has at hand.
    pub(super) fn close(&mut self, code: Code, message: String) {
        self.wish = Some((code, message));
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Whether it still has this wire.
    pub(super) fn has(&self, path: PathId) -> bool {
        self.lanes.iter().any(|lane| lane.id == path)
    }

    /// The name of the wire with this label.
    pub(super) fn label(&self, path: PathId) -> &str {
        let lane = self.lanes.iter().find(|lane| lane.id == path);
        lane.map_or("", |lane| lane.wire.label())
    }

    /// Works until there is something its owner has to know. To be polled again after any change of the session.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut rounds = 0;
        loop {
            if let Some(event) = self.told.pop_front() {
                return Poll::Ready(event);
            }
            if !self.work(cx) {
                return Poll::Pending;
            }
            rounds += 1;
            if rounds == MAX_ROUNDS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// One round; whether anything happened.
    fn work(&mut self, cx: &mut Context<'_>) -> bool {
        let now = now();
        if let Some(brake) = &mut self.brake {
            brake.poll(cx);
        }
        let mut busy = self.hear(cx, now);
        busy |= self.follow_wires(cx);
        busy |= self.advance_upgrade(cx, now);
        busy |= self.read_far(cx, now);
        busy |= self.write_far(cx, now);
        busy |= self.take_events();
        busy |= self.speak(cx, now);
        busy |= self.take_events();
        self.poll_leaving(cx);
        busy | self.watch_clock(cx, now)
    }

    /// Frames of the peer.
    fn hear(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut busy = false;
        let mut lost = Vec::new();
        for lane in &mut self.lanes {
            for _ in 0..MAX_FRAMES {
                if lane.deaf || !self.session.wants_frames(lane.id) {
                    break;
                }
                let Poll::Ready(next) = lane.wire.poll_next(cx) else {
                    break;
                };
                busy = true;
                match next {
                    Some(Ok(frame)) => self.session.handle_frame(now, lane.id, frame),
                    Some(Err(FrameError::Io(error))) => {
                        tracing::debug!(%error, "wire lost");
                        lost.push(lane.id);
                        break;
                    }
                    Some(Err(error)) => {
                        lane.deaf = true;
                        self.session.handle_malformed(now, lane.id, &error);
                    }
                    None => {
                        lost.push(lane.id);
                        break;
                    }
                }
            }
        }
        self.lose(now, &lost);
        busy
    }

    fn lose(&mut self, now: Instant, lost: &[PathId]) {
        self.lanes.retain(|lane| !lost.contains(&lane.id));
        for path in lost {
            self.session.path_lost(now, *path);
            drop(self.channel_left(*path));
        }
    }

    /// Bytes of the far end. Small ones are joined as far as they are there already; nothing waits for more.
    fn read_far(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.state.ended {
            return self.grant_wish(now) || self.report_end(cx, now);
        }
        let room = self.session.write_capacity().min(READ_SIZE);
        if room == 0 {
            // Without a wire nothing will make room.
            let stuck = self.lanes.is_empty();
            return stuck && self.grant_wish(now);
        }
        if self.brake.as_ref().is_some_and(Brake::waits) {
            return false;
        }
        let mut buf = ReadBuf::new(&mut self.scratch[..room]);
        while buf.remaining() > 0 {
            let before = buf.filled().len();
            match self.far.poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > before => {}
                Poll::Ready(outcome) => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "backend lost");
                    }
                    self.state.ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        let mut bytes = Bytes::copy_from_slice(buf.filled());
        let count = bytes.len();
        if let Some(brake) = self.brake.as_mut().filter(|_| count > 0) {
            brake.printed(count);
        }
        self.session.write(&mut bytes);
        debug_assert!(bytes.is_empty(), "the session takes what it has room for");
        if count == 0 && self.grant_wish(now) {
            return true;
        }
        count > 0 || self.state.ended
    }

    fn grant_wish(&mut self, now: Instant) -> bool {
        let Some((code, message)) = self.wish.take() else {
            return false;
        };
        self.session.close(now, code, &message);
        true
    }

    /// The far end has no more bytes: half-close if that is agreed, otherwise the end of the session.
    fn report_end(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.state.reported || self.closed {
            return false;
        }
        if !self.state.peer_ended && !self.state.broken && self.session.finish() {
            return false;
        }
        let Poll::Ready(exit) = self.far.poll_exit(cx) else {
            return false;
        };
        self.state.reported = true;
        let (code, message) = match exit {
            // Only the pipe of a client has nothing to tell: its user is gone.
            Exit::Closed if self.is_client => (Code::NORMAL, String::new()),
            exit => exit.into_close(),
        };
        self.session.close(now, code, &message);
        true
    }

    /// Bytes for the far end.
    fn write_far(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut busy = false;
        for _ in 0..MAX_FRAMES {
            if self.state.pending.is_empty() {
                let Some(bytes) = self.session.read(now) else {
                    return self.shut_far(cx) | busy;
                };
                self.state.pending = bytes;
                busy = true;
                continue;
            }
            if self.state.broken {
                self.state.pending.clear();
                continue;
            }
            match self.far.poll_write(cx, &self.state.pending) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    busy = true;
                    if let Some(brake) = &mut self.brake {
                        brake.typed();
                    }
                    bytes::Buf::advance(&mut self.state.pending, count);
                }
                Poll::Ready(_) => {
                    busy = true;
                    self.state.broken = true;
                }
                Poll::Pending => return busy,
            }
        }
        busy
    }

    /// All bytes of the peer were written: tells the far end if there will be no more.
    fn shut_far(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.state.peer_ended || self.closed;
        if self.state.shut || !over {
            return false;
        }
        let Poll::Ready(outcome) = self.far.poll_shutdown(cx) else {
            return false;
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "backend not shut down");
        }
        self.state.shut = true;
        true
    }

    /// What the session has to say: to the far end, to wires, to the owner.
    fn take_events(&mut self) -> bool {
        let mut busy = false;
        while let Some(event) = self.session.poll_event() {
            busy = true;
            match event {
                Event::Readable | Event::Writable => {}
                Event::ReadEnd => self.state.peer_ended = true,
                Event::Resize(size) => self.far.control(Control::Resize(size)),
                Event::Signal(signal) => self.far.control(Control::Signal(signal)),
                Event::Env(env) => self.far.control(Control::Env(env)),
                Event::ClosePath { path, .. } => self.release(path),
                Event::Signaling(message) => self.on_signaling(message),
                Event::UpgradeFailed => self.upgrade_failed(),
                event => {
                    self.watch_main(&event);
                    self.closed |= matches!(event, Event::Closed(_));
                    self.told.push_back(event);
                }
            }
        }
        busy
    }

    /// The session leaves this wire.
    fn release(&mut self, path: PathId) {
        let Some(index) = self.lanes.iter().position(|lane| lane.id == path) else {
            return;
        };
        let lane = self.lanes.swap_remove(index);
        let now = now();
        let frames = std::iter::from_fn(|| self.session.poll_transmit(now, path)).collect();
        // A data channel needs its connection as long as it says goodbye.
        let connection = self.channel_left(path);
        let farewell = tokio::time::timeout(FAREWELL, lane.wire.farewell(frames));
        self.leaving.push(Box::pin(async move {
            // In time or not, the wire is dropped.
            drop(farewell.await);
            drop(connection);
        }));
    }

    /// Frames for the peer, as far as the wires have room.
    fn speak(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut busy = false;
        let mut lost = Vec::new();
        for lane in &mut self.lanes {
            match Self::speak_on(&mut self.session, lane, cx, now) {
                Ok(sent) => busy |= sent,
                Err(error) => {
                    tracing::debug!(%error, "wire lost");
                    lost.push(lane.id);
                }
            }
        }
        busy |= !lost.is_empty();
        self.lose(now, &lost);
        busy
    }

    fn speak_on(
        session: &mut Session,
        lane: &mut Lane,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> io::Result<bool> {
        let mut busy = false;
        for _ in 0..MAX_FRAMES {
            let Poll::Ready(ready) = lane.wire.poll_ready(cx) else {
                break;
            };
            ready?;
            let Some(frame) = session.poll_transmit(now, lane.id) else {
                break;
            };
            lane.wire.send(frame);
            busy = true;
        }
        if let Poll::Ready(outcome) = lane.wire.poll_flush(cx) {
            outcome?;
        }
        Ok(busy)
    }

    /// The next deadline.
    fn watch_clock(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Some(deadline) = self.session.poll_timeout() else {
            return false;
        };
        let due = deadline <= now || {
            let deadline = tokio::time::Instant::from_std(deadline);
            if self.timer.deadline() != deadline {
                self.timer.as_mut().reset(deadline);
            }
            self.timer.as_mut().poll(cx).is_ready()
        };
        if due {
            self.session.handle_timeout(self::now().max(deadline));
        }
        due
    }

    /// After the session is over: the far end gets the bytes that came, for which it has this time, and is dropped;
    /// wires get their last frames.
    pub(super) async fn finish(mut self, last_bytes: Duration) {
        let delivered = std::future::poll_fn(|cx| {
            let now = now();
            while self.write_far(cx, now) {}
            self.poll_leaving(cx);
            match self.state.shut || self.state.broken {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        if tokio::time::timeout(last_bytes, delivered).await.is_err() {
            tracing::debug!("the last bytes of a session were not taken");
        }
        let Self {
            far,
            leaving,
            upgrade,
            ..
        } = self;
        drop((far, upgrade));
        // Each has its own time limit.
        leaving.collect::<()>().await;
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = self.leaving.poll_next_unpin(cx) {}
    }
}
