//! The main path of a session: opening it, losing it, and going on on another one.

use super::{
    By, ClientConfig, EndReason, Event, Instant, Mode, Parameters, PathCause, PathId, PathKind,
    Role, Session, closing::Step, path::Path,
};
use crate::socketpipe::{
    code::Code,
    frame::{
        Accepted, Close, Failure, Frame, HandshakeResponse, ResumeRequest, ResumeResponse,
        SessionInfo,
    },
};

/// Dropped paths whose last frame has not left; beyond, the oldest is forgotten.
const MAX_RETIRED: usize = 4;

/// Where a session is between its first and its last path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Client: no path yet.
    #[default]
    Idle,
    /// Client: HANDSHAKE_REQUEST was sent.
    Opening { path: PathId, until: Instant },
    /// There is a main path.
    Open { main: PathId },
    /// There is none; the session waits until then.
    Detached { until: Option<Instant> },
    /// Over.
    Closed,
}

/// Client: RESUME_REQUEST was sent on this path, which may be the main one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resuming {
    pub(super) path: PathId,
    pub(super) until: Instant,
}

/// The main path.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) phase: Phase,
    pub(super) resuming: Option<Resuming>,
    /// Server: the data channel is lost, and DATA waits for the RESUME_REQUEST that says from where.
    pub(super) stalled: Option<Instant>,
    /// Client: the kind of the path the session was opened on.
    pub(super) opened_on: Option<PathKind>,
    /// Client: resumes given up without an answer. Each may still reach the server and win over a later one.
    pub(super) abandoned: u32,
}

impl Link {
    pub(super) fn main(&self) -> Option<PathId> {
        match self.phase {
            Phase::Open { main } => Some(main),
            _ => None,
        }
    }

    /// A resume on the main path itself is going on.
    pub(super) fn is_repairing(&self) -> bool {
        let path = self.resuming.map(|resuming| resuming.path);
        path.is_some() && path == self.main()
    }
}

impl Session {
    /// A server session: its client has this path and gets the good news.
    pub(super) fn open(
        &mut self,
        now: Instant,
        path: PathId,
        kind: PathKind,
        parameters: Parameters,
        info: Option<SessionInfo>,
    ) {
        self.agree(parameters, path);
        let mut path = Path::new(now, path, kind);
        path.send(Frame::HandshakeResponse(HandshakeResponse::Accepted(
            parameters.to_response(),
        )));
        if let Some(info) = info {
            self.held = Some(super::Held {
                id: info.id.clone(),
                hold: self.settings.hold,
            });
            path.send(Frame::SessionId(info));
        }
        self.link.phase = Phase::Open { main: path.id };
        self.paths.push(path);
    }

    fn agree(&mut self, parameters: Parameters, main: PathId) {
        self.parameters = Some(parameters);
        self.outbound
            .agree(parameters.resume, parameters.max_message);
        self.inbound.agree(parameters.resume, main);
    }

    /// Client: a transport that may carry every frame is open. The first one opens the session. A later one, after a
    /// loss or while another still works, resumes it there; the older one is dropped when the server has agreed.
    pub fn connect(&mut self, now: Instant, path: PathId, kind: PathKind) {
        let until = now + self.settings.handshake_timeout;
        let Some(config) = &self.config else {
            return self.close_unused(path);
        };
        let mut new = Path::new(now, path, kind);
        match self.link.phase {
            Phase::Idle => {
                new.send(Frame::HandshakeRequest(config.request()));
                self.link.phase = Phase::Opening { path, until };
            }
            Phase::Open { .. } | Phase::Detached { .. } if self.held.is_some() => {
                if self.link.is_repairing() {
                    // The main path is given up: what is lost on the channel is repaired on the new path.
                    self.lose_main(now);
                } else if let Some(older) = self.link.resuming.take() {
                    self.link.abandoned += 1;
                    self.drop_path(older.path, PathCause::Replaced);
                }
                new.send_resume();
                self.link.resuming = Some(Resuming { path, until });
            }
            _ => return self.close_unused(path),
        }
        self.paths.push(new);
        self.settle(now);
    }

    fn close_unused(&mut self, path: PathId) {
        if !self.is_closed() {
            let cause = PathCause::Unused;
            self.tell(Event::ClosePath { path, cause });
        }
    }

    /// Client: the server has answered HANDSHAKE_REQUEST.
    pub(super) fn on_handshake_response(&mut self, path: PathId, response: HandshakeResponse) {
        match (response, &self.config) {
            (HandshakeResponse::Accepted(accepted), Some(config)) => {
                match parameters(&accepted, config) {
                    Ok(parameters) => {
                        self.agree(parameters, path);
                        self.link.opened_on = self.path(path).map(|path| path.kind);
                        self.link.phase = Phase::Open { main: path };
                        self.tell(Event::Established(parameters));
                    }
                    Err(failure) => self.violation(failure),
                }
            }
            (HandshakeResponse::Refused(failure), _) => {
                self.end(By::Remote, EndReason::Refused(failure));
            }
            (HandshakeResponse::Accepted(_), None) => {}
        }
    }

    /// Client: the session can be resumed under this name.
    pub(super) fn on_session_id(&mut self, info: SessionInfo) {
        if self.is_numbered() && self.held.is_none() {
            let seconds = u64::from(info.timeout);
            self.held = Some(super::Held {
                id: info.id,
                hold: (seconds > 0).then(|| std::time::Duration::from_secs(seconds)),
            });
        }
    }

    /// Server: a RESUME_REQUEST for this session came on a fresh connection. When it is accepted the path belongs to
    /// this session and older ones are dropped: the newest wins. When not, the failure is for `Acceptor::refuse`.
    pub fn resume(
        &mut self,
        now: Instant,
        path: PathId,
        kind: PathKind,
        request: &ResumeRequest,
    ) -> Result<(), Failure> {
        self.check_resume(request)?;
        let again = self.outbound.go_back(request.last).map_err(wrong_number)?;
        if let Some(old) = self.link.main().filter(|old| *old != path) {
            let last = Frame::Close(Close {
                by_client: false,
                code: Code::REPLACED,
                message: "replaced by another connection".to_owned(),
            });
            self.retire(old, Some(last));
        }
        let mut new = Path::new(now, path, kind);
        new.send(Frame::ResumeResponse(ResumeResponse::Accepted {
            start: request.last + 1,
            count: u32::try_from(again).unwrap_or(u32::MAX),
            received: Some(self.inbound.last()),
        }));
        self.paths.push(new);
        self.go_on(now, path);
        Ok(())
    }

    /// Server: a RESUME_REQUEST on the main path: DATA was lost on the data channel.
    pub(super) fn on_resume_request(
        &mut self,
        now: Instant,
        path: PathId,
        request: &ResumeRequest,
    ) {
        let checked = self
            .check_resume(request)
            .and_then(|()| self.outbound.go_back(request.last).map_err(wrong_number));
        let response = match checked {
            Ok(again) => ResumeResponse::Accepted {
                start: request.last + 1,
                count: u32::try_from(again).unwrap_or(u32::MAX),
                received: Some(self.inbound.last()),
            },
            Err(failure) => ResumeResponse::Refused(failure),
        };
        let accepted = matches!(response, ResumeResponse::Accepted { .. });
        self.send_main(Frame::ResumeResponse(response));
        if accepted {
            self.go_on(now, path);
        }
    }

    fn check_resume(&self, request: &ResumeRequest) -> Result<(), Failure> {
        let known = self
            .held
            .as_ref()
            .is_some_and(|held| held.id.same_as(&request.id));
        if !known || self.is_closed() || self.settings.role != Role::Server {
            return Err(not_found());
        }
        // Nobody can have received more than all numbers there are.
        match request.last {
            u64::MAX => Err(wrong_number(super::outbound::WrongNumber::TooHigh)),
            _ => Ok(()),
        }
    }

    /// Both: the session has this main path now and DATA goes back to what the peer lacks.
    fn go_on(&mut self, now: Instant, path: PathId) {
        // An attempt goes on where its signaling does; one on another path has to be made anew.
        let is_trying = self.upgrade.channel_path().is_none() && self.link.main() == Some(path);
        if !is_trying && let Some(channel) = self.upgrade.forget() {
            self.retire(channel, None);
        }
        self.link.phase = Phase::Open { main: path };
        self.link.resuming = None;
        self.link.stalled = None;
        self.outbound.paused = false;
        self.inbound.resumed(self.settings.role == Role::Server);
        self.terminal.tell_again();
        self.tell(Event::Resumed { path });
        if let Some(closing) = &mut self.closing {
            closing.step = Step::Drain { since: now };
        }
        self.settle(now);
    }

    /// Client: the server has answered RESUME_REQUEST.
    pub(super) fn on_resume_response(
        &mut self,
        now: Instant,
        path: PathId,
        response: ResumeResponse,
    ) {
        match response {
            ResumeResponse::Accepted {
                start, received, ..
            } => {
                if start > self.inbound.last() + 1 {
                    return self.violation(Failure::new(
                        Code::SEQUENCE_MISMATCH,
                        "the replay begins behind what is missing",
                    ));
                }
                if !self.go_back(received) {
                    return;
                }
                if let Some(old) = self.link.main().filter(|old| *old != path) {
                    self.retire(old, None);
                }
                self.go_on(now, path);
            }
            ResumeResponse::Refused(failure) => self.on_resume_refused(now, path, failure),
        }
    }

    /// Client: repeats what the server lacks, if it says so.
    fn go_back(&mut self, received: Option<u64>) -> bool {
        let Some(received) = received else {
            // A doubled command is worse than a lost key; a gap in a TCP stream is corruption.
            let lost = self.settings.mode == Mode::Tunnel && self.outbound.has_unconfirmed();
            if lost {
                self.violation(Failure::new(
                    Code::SEQUENCE_MISMATCH,
                    "the server does not say what it has received",
                ));
            } else {
                self.outbound.go_on();
            }
            return !lost;
        };
        let outcome = self.outbound.go_back(received);
        if let Err(reason) = outcome {
            self.violation(wrong_number(reason));
        }
        outcome.is_ok()
    }

    /// Client: no resume on this path. If another one still works, the session stays there.
    pub(super) fn on_resume_refused(&mut self, now: Instant, path: PathId, failure: Failure) {
        self.link.resuming = None;
        if self.link.main().is_some_and(|main| main != path) {
            self.drop_path(path, PathCause::Unused);
            if self.outbound.is_in_doubt() {
                self.repair(now);
            }
        } else if self.is_of_another_kind(path) && failure.code == Code::SESSION_NOT_FOUND {
            // It may only mean "not by this kind of path": the session can be bound to the peer.
            self.drop_path(path, PathCause::Unused);
            self.disconnected();
        } else {
            // The path is left to the driver for a fresh session.
            self.paths.retain(|known| known.id != path);
            self.end(By::Remote, EndReason::ResumeRefused { failure, path });
        }
    }

    /// Client: whether this path, and no main path, is of another kind than the session was opened on.
    fn is_of_another_kind(&self, path: PathId) -> bool {
        let detached = matches!(self.link.phase, Phase::Detached { .. });
        detached
            && self
                .path(path)
                .is_some_and(|path| Some(path.kind) != self.link.opened_on)
    }

    /// A transport ended without the session's doing. Unknown and finished paths are ignored.
    pub fn path_lost(&mut self, now: Instant, path: PathId) {
        let known = self.path(path).is_some_and(|known| !known.retired);
        self.paths.retain(|known| known.id != path);
        if known && !self.is_closed() {
            self.without_path(now, path);
        }
        self.settle(now);
    }

    /// Drops the main path as dead.
    pub(super) fn lose_main(&mut self, now: Instant) {
        if let Some(main) = self.link.main() {
            self.lose(now, main);
        }
    }

    /// Drops a path as dead.
    pub(super) fn lose(&mut self, now: Instant, path: PathId) {
        if self.is_closed() {
            return;
        }
        self.drop_path(path, PathCause::Lost);
        self.without_path(now, path);
    }

    /// Draws the conclusions from a path that is gone.
    fn without_path(&mut self, now: Instant, path: PathId) {
        if self
            .link
            .resuming
            .is_some_and(|resuming| resuming.path == path)
        {
            self.link.resuming = None;
            self.link.abandoned += 1;
            match self.link.phase {
                Phase::Detached { .. } => self.disconnected(),
                // A move has failed that was to tell what got lost on the channel.
                Phase::Open { main } if main != path && self.outbound.is_in_doubt() => {
                    self.repair(now);
                }
                _ => {}
            }
        }
        match self.link.phase {
            Phase::Opening { path: opening, .. } if opening == path => {
                self.link.phase = Phase::Idle;
                self.tell(Event::Disconnected);
            }
            Phase::Open { main } if main == path => self.detach(now),
            Phase::Open { .. } if self.upgrade.is_channel(path) => self.channel_lost(now),
            _ => {}
        }
    }

    /// There is no main path any more.
    fn detach(&mut self, now: Instant) {
        if let Some(channel) = self.upgrade.forget() {
            // Nothing is lost: what the channel still carries is sent again after the resume.
            self.drop_path(channel, PathCause::Lost);
        }
        self.link.stalled = None;
        let Some(held) = &self.held else {
            return self.end_without_transport();
        };
        let until = held.hold.map(|hold| now + hold);
        self.link.phase = Phase::Detached { until };
        if self.closing.is_some() {
            self.detach_while_closing(now);
        }
        if !self.is_closed() && self.link.resuming.is_none() {
            self.tell(Event::Disconnected);
        }
    }

    /// Removes a path at once.
    pub(super) fn drop_path(&mut self, path: PathId, cause: PathCause) {
        self.paths.retain(|known| known.id != path);
        // In a tunnel without numbers something may be missing now: the session ends, and what waits is not delivered.
        if self.is_numbered() || self.settings.mode == Mode::Pty {
            self.inbound.path_gone(path);
        }
        self.tell(Event::ClosePath { path, cause });
    }

    /// The session goes on without a path, which may still send one frame.
    fn retire(&mut self, path: PathId, last: Option<Frame>) {
        if let Some(known) = self.path_mut(path) {
            known.retire(last);
        }
        self.inbound.path_gone(path);
        let cause = PathCause::Replaced;
        self.tell(Event::ClosePath { path, cause });
        let retired = self.paths.iter().filter(|path| path.retired).count();
        if retired > MAX_RETIRED
            && let Some(oldest) = self.paths.iter().position(|path| path.retired)
        {
            self.paths.remove(oldest);
        }
    }
}

/// What the server's response says, if it can be lived with.
fn parameters(accepted: &Accepted, config: &ClientConfig) -> Result<Parameters, Failure> {
    if accepted.major != super::config::MAJOR {
        return Err(Failure::new(
            Code::UNSUPPORTED_VERSION,
            "only version 1 is known",
        ));
    }
    Ok(Parameters::from_response(accepted, config))
}

/// No such session, or not for this peer: the same words, so that nothing can be learned.
pub(crate) fn not_found() -> Failure {
    Failure::new(Code::SESSION_NOT_FOUND, "no such session")
}

fn wrong_number(reason: super::outbound::WrongNumber) -> Failure {
    use super::outbound::WrongNumber;
    match reason {
        WrongNumber::TooHigh => {
            Failure::new(Code::SEQUENCE_MISMATCH, "the last number was never sent")
        }
        WrongNumber::Dropped => Failure::new(
            Code::BUFFER_OVERFLOW,
            "output was dropped while no client was there",
        ),
    }
}
