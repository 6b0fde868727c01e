//! Deadlines: what happens when nothing happens.

use super::{By, EndReason, Instant, PathId, Role, Session, link::Phase, path::Due};
use crate::socketpipe::{code::Code, frame::Failure};

impl Session {
    /// When [`Self::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let phase = match self.link.phase {
            Phase::Opening { until, .. } => Some(until),
            Phase::Detached { until } => until,
            Phase::Idle | Phase::Open { .. } | Phase::Closed => None,
        };
        let resuming = self.link.resuming.map(|resuming| resuming.until);
        let size = self
            .terminal
            .deadline()
            .filter(|_| !self.outbound.is_repeating());
        [
            phase,
            resuming,
            self.link.stalled,
            self.upgrade.deadline,
            self.gap_deadline(),
            self.barrier_deadline(),
            self.closing_deadline(),
            size,
            self.keep_alive_deadline(),
            self.nudge_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The time of [`Self::poll_timeout`] has come. Too early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_closed() {
            self.phase_timed_out(now);
        }
        if !self.is_closed() {
            self.closing_timed_out(now);
        }
        if !self.is_closed() {
            self.link_timed_out(now);
        }
        if !self.is_closed() {
            self.nudge(now);
            self.keep_alive(now);
        }
        self.apply_size(now);
        self.settle(now);
    }

    fn phase_timed_out(&mut self, now: Instant) {
        match self.link.phase {
            Phase::Opening { until, .. } if now >= until => {
                self.end(By::Local, EndReason::TimedOut);
            }
            Phase::Detached { until: Some(until) } if now >= until => {
                self.end(By::Local, EndReason::Expired);
            }
            _ => {}
        }
    }

    fn link_timed_out(&mut self, now: Instant) {
        let resuming = self.link.resuming.filter(|resuming| now >= resuming.until);
        if let Some(resuming) = resuming {
            // Also for a repair on the main path: without CLOSE, which would end the session.
            self.lose(now, resuming.path);
        }
        if self.link.stalled.is_some_and(|until| now >= until) {
            self.lose_main(now);
        }
        if self.gap_deadline().is_some_and(|until| now >= until) {
            match self.settings.role {
                Role::Client => self.repair(now),
                Role::Server => self.lose_main(now),
            }
        }
        if self.upgrade.deadline.is_some_and(|until| now >= until) {
            self.upgrade_timed_out();
        }
        if self.barrier_deadline().is_some_and(|until| now >= until) {
            self.barrier_timed_out(now);
        }
    }

    /// When DATA of a new path has waited long enough for the end of the old one.
    fn barrier_deadline(&self) -> Option<Instant> {
        let (old, nonce) = self.inbound.guarded()?;
        let since = self.path(old)?.pinged(nonce)?;
        Some(since + self.ping_timeout())
    }

    /// When a missing piece counts as lost.
    fn gap_deadline(&self) -> Option<Instant> {
        let since = self.inbound.gap_since()?;
        let waits = self.link.main().is_some() && self.link.resuming.is_none();
        waits.then(|| since + self.ping_timeout())
    }

    /// The paths whose life is watched.
    fn watched(&self) -> impl Iterator<Item = PathId> + '_ {
        let channel = self.upgrade.channel_path();
        let main = self.link.main();
        self.paths
            .iter()
            .filter(move |path| Some(path.id) == main || Some(path.id) == channel)
            .filter(|path| !path.deaf)
            .map(|path| path.id)
    }

    fn keep_alive_deadline(&self) -> Option<Instant> {
        let parameters = self.parameters?;
        self.watched()
            .filter_map(|id| self.path(id))
            .map(|path| path.deadline(parameters.ping_interval, parameters.ping_timeout))
            .min()
    }

    /// When a path that is not read is to be written to.
    fn nudge_deadline(&self) -> Option<Instant> {
        let interval = self.parameters?.ping_interval;
        let all = self.paths.iter();
        all.filter_map(|path| path.nudge_at(interval)).min()
    }

    fn nudge(&mut self, now: Instant) {
        let Some(parameters) = self.parameters else {
            return;
        };
        for path in &mut self.paths {
            let due = path.nudge_at(parameters.ping_interval);
            if due.is_some_and(|due| now >= due) {
                path.nudge(now, self.nonces.next());
            }
        }
    }

    fn keep_alive(&mut self, now: Instant) {
        let Some(parameters) = self.parameters else {
            return;
        };
        let missed = self.settings.missed_pings;
        let watched: Vec<_> = self.watched().collect();
        for id in watched {
            if self.is_closed() {
                return;
            }
            let (interval, timeout) = (parameters.ping_interval, parameters.ping_timeout);
            let due = self.path_mut(id).map_or(Due::Nothing, |path| {
                path.due(now, interval, timeout, missed)
            });
            match due {
                Due::Nothing => {}
                Due::Ping => {
                    self.ping(now, id);
                }
                Due::Lost => self.silent(now, id),
            }
        }
    }

    /// Nobody answers on this path.
    fn silent(&mut self, now: Instant, id: PathId) {
        if self.link.main() != Some(id) || self.held.is_some() {
            // CLOSE would end the session; this is a loss.
            return self.lose(now, id);
        }
        let failure = Failure::new(Code::PING_TIMEOUT, "no answer to PING");
        self.end_with(failure, By::Local, EndReason::TimedOut);
    }
}
