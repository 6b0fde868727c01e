//! A session of the server from its handshake to its end.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Command, Entry, Handover, Meter, Opened, Outcome, Record, SessionSummary, Shared, door::Door,
    wall_clock,
};
#[cfg(feature = "gateway")]
use super::{Ticket, ticket_hash};
#[cfg(feature = "gateway")]
use crate::socketpipe::upgrade::Carrier;
use crate::socketpipe::{
    code::Code,
    driver::{self, Driver},
    frame::{Failure, SessionId},
    session::{Claimant, Event, Mode, Status, not_found},
    wire::Wire,
};

/// Connections that wait for one session; the newest wins anyway.
const MAX_COMMANDS: usize = 4;

/// The session's place in the table; leaves it and writes the record however the task ends.
struct Place {
    shared: Arc<Shared>,
    summary: SessionSummary,
    meter: Arc<Meter>,
    id: Option<SessionId>,
    outcome: Outcome,
}

impl Place {
    fn take(
        shared: Arc<Shared>,
        summary: SessionSummary,
        id: Option<SessionId>,
        token: &[u8],
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let meter = Arc::new(Meter::default());
        let peer = summary.origin.peer.map(|peer| peer.to_bytes());
        let claimant = Claimant {
            peer: peer.as_deref(),
            token,
        };
        let mut table = shared.table();
        if let Some(id) = &id {
            let by_id = &mut table.by_id;
            by_id.insert(id, summary.mode, &claimant, commands.clone());
        }
        let entry = Entry {
            summary: summary.clone(),
            meter: meter.clone(),
            commands,
            #[cfg(feature = "gateway")]
            ticket: None,
        };
        table.running.insert(summary.number, entry);
        shared.count.send_replace(table.running.len());
        drop(table);
        Self {
            shared,
            summary,
            meter,
            id,
            outcome: Outcome::Dropped,
        }
    }

    /// Lets the client ask for servers.
    #[cfg(feature = "gateway")]
    fn hand_out(&self, ticket: Option<Ticket>) {
        let mut table = self.shared.table();
        if let Some(entry) = table.running.get_mut(&self.summary.number) {
            entry.ticket = ticket;
        }
    }

    fn note(&self, driver: &Driver) {
        let stats = driver.session().stats();
        let connected = matches!(driver.session().status(), Status::Established { .. });
        self.meter.carried_by(driver.carrier());
        self.meter.connected.store(connected, Ordering::Relaxed);
        self.meter.sent.store(stats.sent, Ordering::Relaxed);
        self.meter.received.store(stats.received, Ordering::Relaxed);
    }
}

impl Place {
    /// The session is over: nobody finds it any more, and those who have are told.
    fn leave(&mut self, commands: &mut mpsc::Receiver<Command>) {
        if let Some(id) = self.id.take() {
            self.shared.table().by_id.remove(&id);
        }
        self.meter.connected.store(false, Ordering::Relaxed);
        self.meter.ended.store(true, Ordering::Relaxed);
        self.meter.carried_by(None);
        commands.close();
        while let Ok(command) = commands.try_recv() {
            if let Command::Resume(Handover { wire, reply, .. }) = command {
                drop(reply.send(Err((wire, not_found()))));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if let Some(id) = &self.id {
            table.by_id.remove(id);
        }
        table.running.remove(&self.summary.number);
        let left = table.running.len();
        drop(table);
        let summary = self.summary.clone();
        self.shared.service.ended(&Record {
            number: summary.number,
            origin: summary.origin,
            label: summary.label,
            mode: summary.mode,
            target: summary.target,
            started: summary.started,
            ended: wall_clock(),
            sent: self.meter.sent.load(Ordering::Relaxed),
            received: self.meter.received.load(Ordering::Relaxed),
            carriers: self.meter.carriers(),
            outcome: self.outcome.clone(),
        });
        self.shared.count.send_replace(left);
    }
}

/// Runs the session that was granted at this door for this token.
pub(super) async fn run(
    shared: Arc<Shared>,
    door: Door,
    mut wire: Wire,
    opened: Opened,
    token: Bytes,
) {
    let (mode, origin) = (door.mode, door.origin.clone());
    let acceptor = door.into_acceptor(&mut wire);
    let brake = (mode == Mode::Pty).then(|| shared.brakes.brake());
    let driver = Driver::server(wire, opened.backend, (shared.webrtc(), brake), |path| {
        acceptor.accept(driver::now(), path, rand::random(), rand::random())
    });
    // Nothing is open any more if the client has closed meanwhile.
    let Some(mut driver) = driver else { return };
    let summary = SessionSummary {
        number: shared.next.fetch_add(1, Ordering::Relaxed),
        origin,
        label: opened.label,
        mode,
        target: opened.target,
        started: wall_clock(),
        connected: true,
        ended: false,
        carrier: None,
        sent: 0,
        received: 0,
    };
    let id = driver.session().session_id().cloned();
    let (sender, mut commands) = mpsc::channel(MAX_COMMANDS);
    #[cfg(feature = "gateway")]
    let ticket = ticket(&driver, &token);
    let token = if opened.by_token { token } else { Bytes::new() };
    let mut place = Place::take(shared, summary, id, &token, sender);
    #[cfg(feature = "gateway")]
    place.hand_out(ticket);
    drop(token);
    poll_fn(|cx| work(cx, &mut driver, &mut commands, &mut place, opened.expires)).await;
    place.leave(&mut commands);
    driver.finish(last_bytes(mode)).await;
}

/// Lets the client of a session ask for the servers of WebRTC, by the token it has shown: of one that agreed to WebRTC of its
/// own, and of one on a connection that is signaled by a WebSocket of ours.
#[cfg(feature = "gateway")]
fn ticket(driver: &Driver, token: &[u8]) -> Option<Ticket> {
    let parameters = driver.session().parameters()?;
    let is_signaled = driver.carrier().is_some_and(Carrier::is_signaled);
    let token = ticket_hash(token).filter(|_| parameters.webrtc || is_signaled)?;
    let label = format!("{:016x}", rand::random::<u64>());
    Some(Ticket { token, label })
}

/// How long the backend may take for the last bytes of a client that is gone. What a terminal has not read by then
/// nobody waits for; a service may be slow.
fn last_bytes(mode: Mode) -> Duration {
    match mode {
        Mode::Pty => Duration::from_secs(1),
        Mode::Tunnel => Duration::from_secs(60),
    }
}

/// Until the session is over.
fn work(
    cx: &mut Context<'_>,
    driver: &mut Driver,
    commands: &mut mpsc::Receiver<Command>,
    place: &mut Place,
    expires: Option<SystemTime>,
) -> Poll<()> {
    while let Poll::Ready(Some(command)) = commands.poll_recv(cx) {
        obey(driver, command, expires);
    }
    loop {
        let polled = driver.poll(cx);
        place.note(driver);
        match polled {
            Poll::Ready(Event::Closed(end)) => {
                place.outcome = Outcome::Ended(end);
                return Poll::Ready(());
            }
            Poll::Ready(_) => {}
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn obey(driver: &mut Driver, command: Command, expires: Option<SystemTime>) {
    match command {
        Command::End(code, message) => {
            driver.session_mut().abort(driver::now(), code, &message);
        }
        Command::Resume(Handover {
            wire,
            request,
            reply,
        }) => {
            let expired = expires.is_some_and(|expires| wall_clock() >= expires);
            let outcome = match expired {
                true => Err((
                    wire,
                    Failure::new(Code::AUTH_EXPIRED, "the token has expired"),
                )),
                false => driver.resume(wire, &request),
            };
            // Whoever brought the wire may be gone; then the wire goes with it.
            drop(reply.send(outcome));
        }
    }
}
