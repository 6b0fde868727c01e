//! A closer look at the path: checks of our own (RFC 8489 Binding requests with the credentials of both ends), beside those
//! by which every agent keeps its consent.
//!
//! Whoever has reason to believe that the peer is gone, as its signaling has ended, wants to know sooner than ordinary silence
//! tells.

use std::time::{Duration, Instant};

use super::{Asker, Context, FullAgent, Generation};
use crate::proto::{
    ice::{agent::Check, budget::Standing},
    stun::{BindingResponse, TransactionId},
};

/// Pause between two checks; none of them alone decides.
const INTERVAL: Duration = Duration::from_millis(500);
/// Silence after which the path counts as lost: more than the slowest of links takes for one round trip, and six checks.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// Checks under way.
#[derive(Debug)]
pub(super) struct Probe {
    since: Instant,
    next: Instant,
}

impl Probe {
    /// When the path counts as lost.
    pub(super) fn deadline(&self) -> Instant {
        self.since + SILENT_AFTER
    }

    /// When the next check is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Nobody listened before this instant.
    pub(super) fn excuse(&mut self, listening_since: Instant) {
        self.since = self.since.max(listening_since);
    }

    /// Whether what comes now was sent after it began: what was on its way at that time proves nothing.
    pub(super) fn is_answered(&self, now: Instant) -> bool {
        now >= self.since + INTERVAL
    }
}

impl FullAgent {
    /// Looks whether anything comes by the path. It counts as lost if not.
    pub(crate) fn probe(&mut self, now: Instant) {
        if self.selected.is_some() && !self.lost && self.probe.is_none() {
            self.probe = Some(Probe {
                since: now,
                next: now,
            });
        }
    }

    /// The check that is due.
    pub(super) fn next_probe(&mut self, cx: &mut Context<'_>) -> Option<(Asker, Check)> {
        let path = self.selected?;
        let probe = self.probe.as_mut().filter(|probe| probe.next <= cx.now)?;
        probe.next = cx.now + INTERVAL;
        let id = TransactionId::random(cx.rng);
        let mut generations = [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten();
        let on_path = (path.local, path.remote);
        let owner = generations.find(|one| one.selected() == Some(on_path))?;
        let check = Check {
            source: path.local,
            destination: path.remote,
            datagram: owner.request(id, self.tie_breaker)?,
            // It is the path of the connection.
            standing: Standing::Answered,
        };
        Some((Asker::Probe(owner.number), check))
    }

    /// An answer to a check from here. False: it is forged.
    pub(super) fn on_probe_answer(
        &mut self,
        now: Instant,
        number: u32,
        response: &BindingResponse<'_>,
    ) -> bool {
        let is_owner = |one: &&mut Generation| one.number == number;
        let is_theirs = self
            .generations()
            .find(is_owner)
            .is_some_and(|owner| owner.verifies(response));
        if is_theirs {
            self.probe = None;
            self.revive(now);
        }
        is_theirs
    }
}
