//! The end of a session: CLOSE in both directions, without cutting off what was sent before it.

use std::time::Duration;

use super::{
    By, End, EndReason, Event, Instant, PathCause, PathId, Role, Session, link::Phase, path::Nonce,
};
use crate::socketpipe::{
    code::Code,
    frame::{Close, Failure, Frame},
};

/// Time for the answer to CLOSE, and for the CLOSE that should follow ERROR.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without progress after which what was not sent before CLOSE is given up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How far the end is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Ours: DATA is sent first. Since when there was no progress.
    Drain { since: Instant },
    /// Ours: the last DATA left by the data channel; this PING on it shows that it has arrived.
    Check { nonce: Nonce, until: Instant },
    /// Ours: CLOSE was sent.
    Answer { until: Instant },
    /// The peer's: this PING on the data channel shows that its last DATA has arrived; then we answer.
    Reply { nonce: Nonce, until: Instant },
}

/// An end that has begun.
#[derive(Debug)]
pub(super) struct Closing {
    /// Ours, or the one to answer.
    pub(super) close: Close,
    pub(super) step: Step,
    /// Ours, and nobody is to come back for what was not sent.
    aborted: bool,
}

impl Closing {
    fn new(close: Close, step: Step) -> Self {
        Self {
            close,
            step,
            aborted: false,
        }
    }
}

impl Session {
    /// Ends the session in order: all that was written is sent, then CLOSE, and its answer is awaited for 5 s. Without
    /// a main path a client ends at once; a server with Session Resume keeps the tail and the CLOSE for a client that
    /// comes back in time.
    pub fn close(&mut self, now: Instant, code: Code, message: &str) {
        if self.closing.is_some() || self.is_closed() {
            return;
        }
        let close = self.our_close(code, message);
        match self.link.phase {
            Phase::Open { .. } => self.begin_close(now, close),
            Phase::Detached { .. } if self.settings.role == Role::Server => {
                self.begin_close(now, close);
            }
            _ => {
                self.close_opening(&close);
                self.end(By::Local, EndReason::Close(close));
            }
        }
        self.settle(now);
    }

    fn begin_close(&mut self, now: Instant, close: Close) {
        self.closing = Some(Closing::new(close, Step::Drain { since: now }));
        self.advance_closing(now);
    }

    /// Client: tells a server that has not answered a handshake or a resume yet. During a move that is beside the main
    /// path, which the server may have left.
    fn close_opening(&mut self, close: &Close) {
        let resuming = self.link.resuming.map(|resuming| resuming.path);
        let path = match self.link.phase {
            Phase::Opening { path, .. } => Some(path),
            Phase::Open { main } => resuming.filter(|path| *path != main),
            Phase::Detached { .. } => resuming,
            Phase::Idle | Phase::Closed => None,
        };
        if let Some(path) = path.and_then(|path| self.path_mut(path)) {
            path.send(Frame::Close(close.clone()));
        }
    }

    /// Ends the session without sending what was not sent. A server sends ERROR first if the code is one.
    pub fn abort(&mut self, now: Instant, code: Code, message: &str) {
        if self.is_closed() {
            return;
        }
        let close = self.our_close(code, message);
        self.outbound.discard_unsent();
        if self.link.main().is_some() {
            self.send_error(code, message);
            self.closing = Some(Closing {
                aborted: true,
                ..Closing::new(close, Step::Drain { since: now })
            });
            self.send_close(now);
        } else {
            self.close_opening(&close);
            self.end(By::Local, EndReason::Close(close));
        }
        self.settle(now);
    }

    fn our_close(&self, code: Code, message: &str) -> Close {
        Close {
            by_client: self.settings.role == Role::Client,
            code,
            message: message.to_owned(),
        }
    }

    /// ERROR, which only servers may send.
    fn send_error(&mut self, code: Code, message: &str) {
        if self.settings.role == Role::Server && code.is_error() {
            self.send_main(Frame::Error(Failure::new(code, message)));
        }
    }

    /// Takes the next step to the end if it is possible.
    pub(super) fn advance_closing(&mut self, now: Instant) {
        let Some(Closing {
            step: Step::Drain { .. },
            ..
        }) = self.closing
        else {
            return;
        };
        let settled = self.link.main().is_some()
            && self.link.stalled.is_none()
            && !self.link.is_repairing()
            && self.outbound.is_drained();
        if !settled {
            return;
        }
        match self.upgrade.channel_path() {
            Some(channel) if self.upgrade.on_channel() => {
                let nonce = self.ping(now, channel);
                let until = now + self.ping_timeout();
                self.step(Step::Check { nonce, until });
            }
            _ => self.send_close(now),
        }
    }

    fn step(&mut self, step: Step) {
        if let Some(closing) = &mut self.closing {
            closing.step = step;
        }
    }

    fn send_close(&mut self, now: Instant) {
        let until = now + ANSWER_TIMEOUT;
        if let Some(closing) = &self.closing {
            let frame = Frame::Close(closing.close.clone());
            self.send_main(frame);
            self.step(Step::Answer { until });
        }
    }

    /// CLOSE of ours was sent, behind all DATA.
    pub(super) fn has_sent_close(&self) -> bool {
        let step = self.closing.as_ref().map(|closing| closing.step);
        matches!(step, Some(Step::Answer { .. }))
    }

    /// DATA has left, or may leave again.
    pub(super) fn closing_progress(&mut self, now: Instant) {
        if let Some(Closing {
            step: Step::Drain { since },
            ..
        }) = &mut self.closing
        {
            *since = now;
        }
    }

    /// A PING of ours was answered.
    pub(super) fn closing_confirmed(&mut self, now: Instant, confirmed: Nonce) {
        match self.closing.as_ref().map(|closing| closing.step) {
            Some(Step::Check { nonce, .. }) if nonce == confirmed => self.send_close(now),
            Some(Step::Reply { nonce, .. }) if nonce == confirmed => self.reply(),
            _ => {}
        }
    }

    /// The peer has sent CLOSE, or ERROR where it may not.
    pub(super) fn on_close(&mut self, now: Instant, path: PathId, close: Close) {
        if close.code == Code::REPLACED && self.replaced_by_ourselves(path) {
            return self.lose(now, path);
        }
        let step = self.closing.as_ref().map(|closing| closing.step);
        if let Some(Step::Reply { .. }) = step {
            return;
        }
        if let (Some(Step::Answer { .. }), Some(closing)) = (step, &self.closing) {
            // Recognized by state, not by its flag: both sides may have begun at once.
            let reason = EndReason::Close(closing.close.clone());
            return self.end(By::Local, reason);
        }
        let carrying = self.upgrade.carrying();
        if let Some(channel) = carrying.filter(|channel| *channel != path && step.is_none()) {
            let nonce = self.ping(now, channel);
            let until = now + self.ping_timeout();
            self.closing = Some(Closing::new(close, Step::Reply { nonce, until }));
        } else {
            self.closing = Some(Closing::new(close, Step::Answer { until: now }));
            self.reply();
        }
    }

    /// Client: whether it was a resume of our own that took the session away from this path: one whose answer is still
    /// on its way, or one that was given up and overtaken by a later one.
    fn replaced_by_ourselves(&mut self, path: PathId) -> bool {
        if self.settings.role != Role::Client || self.link.main() != Some(path) {
            return false;
        }
        let moving = self.link.resuming.is_some() && !self.link.is_repairing();
        let overtaken = !moving && self.link.abandoned > 0;
        self.link.abandoned -= u32::from(overtaken);
        moving || overtaken
    }

    /// Answers the peer's CLOSE and is done.
    fn reply(&mut self) {
        if let Some(closing) = self.closing.take() {
            self.send_main(Frame::Close(closing.close.clone()));
            let reason = match self.error.take() {
                Some((failure, _)) => EndReason::Failed(failure),
                None => EndReason::Close(closing.close),
            };
            self.end(By::Remote, reason);
        }
    }

    /// Client: ERROR came; CLOSE should follow.
    pub(super) fn on_error(&mut self, now: Instant, path: PathId, failure: Failure) {
        match self.settings.role {
            Role::Server => {
                let close = Close {
                    by_client: true,
                    code: failure.code,
                    message: failure.message,
                };
                self.on_close(now, path, close);
            }
            Role::Client if self.link.is_repairing() && failure.code == Code::INVALID_STATE => {
                // The server knows RESUME_REQUEST only as the first frame of a connection.
                self.lose_main(now);
            }
            Role::Client => {
                let until = now + ANSWER_TIMEOUT;
                self.error.get_or_insert((failure, until));
            }
        }
    }

    /// When the end has to go on by itself.
    pub(super) fn closing_deadline(&self) -> Option<Instant> {
        let error = self.error.as_ref().map(|(_, until)| *until);
        let step = self.closing.as_ref().map(|closing| closing.step);
        let step = match step {
            // As long as DATA of the peer comes, its last piece is on its way.
            Some(Step::Reply { until, .. }) => {
                let heard = self.upgrade.channel_path().and_then(|id| self.path(id));
                let heard = heard.map(|path| path.heard_at() + self.ping_timeout());
                Some(until.max(heard.unwrap_or(until)))
            }
            Some(Step::Drain { since }) => {
                // A peer that asked us to wait is waited for; without a path the session's own time limit counts.
                let runs = self.link.main().is_some() && !self.outbound.paused;
                runs.then(|| since + DRAIN_TIMEOUT)
            }
            Some(Step::Check { until, .. } | Step::Answer { until }) => Some(until),
            None => None,
        };
        error.into_iter().chain(step).min()
    }

    /// One of these times has come.
    pub(super) fn closing_timed_out(&mut self, now: Instant) {
        if self.closing_deadline().is_none_or(|due| now < due) {
            return;
        }
        if let Some((failure, _)) = self.error.take_if(|(_, until)| now >= *until) {
            return self.end(By::Remote, EndReason::Failed(failure));
        }
        let Some(closing) = &self.closing else { return };
        match closing.step {
            Step::Drain { .. } => {
                self.outbound.discard_unsent();
                self.send_close(now);
            }
            Step::Check { .. } => self.send_close(now),
            Step::Reply { .. } => self.reply(),
            Step::Answer { .. } => {
                let close = closing.close.clone();
                self.close_opening(&close);
                self.end(By::Local, EndReason::Close(close));
            }
        }
    }

    /// The main path was lost while the session was ending.
    pub(super) fn detach_while_closing(&mut self, now: Instant) {
        let Some(closing) = &self.closing else { return };
        let close = closing.close.clone();
        let is_server = self.settings.role == Role::Server;
        if !is_server && self.link.resuming.is_some() && !matches!(closing.step, Step::Reply { .. })
        {
            // The server may have moved already: CLOSE follows when it says so, or when the time is over.
            if !matches!(closing.step, Step::Answer { .. }) {
                let until = now + ANSWER_TIMEOUT;
                self.step(Step::Answer { until });
            }
            return;
        }
        let keep = !closing.aborted;
        let keep = keep
            && match closing.step {
                Step::Drain { .. } | Step::Check { .. } => is_server,
                // The tail may be lost with the path; a client that lacks it will come back for it.
                Step::Answer { .. } => is_server && self.outbound.has_unconfirmed(),
                Step::Reply { .. } => return self.end(By::Remote, EndReason::Close(close)),
            };
        if keep {
            self.step(Step::Drain { since: now });
        } else {
            self.end(By::Local, EndReason::Close(close));
        }
    }

    /// Client: no path leads to the server any more, nor is one being tried. What ends has ended; the rest waits for
    /// the next path.
    pub(super) fn disconnected(&mut self) {
        let is_client = self.settings.role == Role::Client;
        match self.closing.take_if(|_| is_client) {
            Some(Closing { close, .. }) => self.end(By::Local, EndReason::Close(close)),
            None => self.tell(Event::Disconnected),
        }
    }

    /// The peer has broken a rule: it is told, and the session is over.
    pub(super) fn violation(&mut self, failure: Failure) {
        let reason = EndReason::PeerMisbehaved(failure.clone());
        self.end_with(failure, By::Local, reason);
    }

    /// Tells the peer and ends at once, without waiting for an answer.
    pub(super) fn end_with(&mut self, failure: Failure, by: By, reason: EndReason) {
        let close = self.our_close(failure.code, &failure.message);
        self.send_error(failure.code, &failure.message);
        self.close_opening(&close);
        self.send_main(Frame::Close(close));
        self.end(by, reason);
    }

    /// The transport is gone and nothing can be resumed.
    pub(super) fn end_without_transport(&mut self) {
        let closing = self.closing.take();
        match closing {
            Some(Closing {
                close,
                step: Step::Answer { .. },
                ..
            }) => self.end(By::Local, EndReason::Close(close)),
            Some(Closing {
                close,
                step: Step::Reply { .. },
                ..
            }) => self.end(By::Remote, EndReason::Close(close)),
            _ => self.end(By::Remote, EndReason::TransportLost),
        }
    }

    /// The session is over.
    pub(super) fn end(&mut self, by: By, reason: EndReason) {
        if self.is_closed() {
            return;
        }
        self.link.phase = Phase::Closed;
        self.link.resuming = None;
        self.link.stalled = None;
        self.closing = None;
        self.upgrade.forget();
        for path in self.paths.iter().filter(|path| !path.retired) {
            self.events.push_back(Event::ClosePath {
                path: path.id,
                cause: PathCause::Closed,
            });
        }
        self.events.push_back(Event::Closed(End { by, reason }));
    }
}
