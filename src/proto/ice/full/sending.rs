//! What a full agent sends, and when: checks, queries, messages to TURN servers.

use std::time::Instant;

use super::{
    Asker, Context, FullAgent, Generation, IceEvent, LOST_AFTER, MAX_TRANSACTIONS, Probe, Relay,
    RouteChange, ServerNews, Transaction,
};
use crate::proto::ice::{
    agent::Check,
    budget::Standing,
    relay::{RelayState, RelayTransmit},
};

impl FullAgent {
    /// A datagram to the peer by the relay of the path.
    pub(crate) fn wrap(&mut self, now: Instant, datagram: &[u8]) -> Option<RelayTransmit> {
        let path = self.selected?;
        let relay = self
            .relays
            .iter_mut()
            .find(|relay| Some(relay.id) == path.relay)?;
        let contents = relay.wrap(now, path.remote, datagram)?;
        Some(RelayTransmit {
            relay: relay.id,
            contents,
        })
    }

    /// Gives allocations back.
    pub(crate) fn close(&mut self, cx: &mut Context<'_>) {
        for relay in &mut self.relays {
            relay.delete(cx.now);
        }
        self.poll_relays(cx);
    }

    /// When [`Self::process`] has something to do.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let lost = self.selected.filter(|_| !self.lost).map(|_| self.lost_at());
        let probe = self.probe.as_ref().map(Probe::next);
        let relays = self.relays.iter().filter_map(Relay::poll_timeout).min();
        let checks = self
            .generations()
            .filter_map(Generation::poll_timeout)
            .min();
        [lost, probe, relays, checks, self.gatherer.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the path counts as lost, if nothing comes until then.
    fn lost_at(&self) -> Instant {
        let lost = self.heard + LOST_AFTER;
        match &self.probe {
            Some(probe) => lost.min(probe.deadline()),
            None => lost,
        }
    }

    /// Timers, and what is to be sent.
    pub(crate) fn process(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        for generation in [Some(&mut self.current), self.previous.as_mut()]
            .into_iter()
            .flatten()
        {
            if generation.poll_timeout().is_none_or(|due| due <= now) {
                generation.handle_timeout(now);
            }
        }
        self.settle(now);
        if self.selected.is_some() && self.lost_at() <= now {
            self.lose();
        }
        self.poll_relays(cx);
        self.drop_failed_relays();
        self.add_relayed(now);
        self.send_queries(cx);
        self.send_checks(cx);
        self.tell_end();
        cx.routes.append(&mut self.routes);
    }

    fn tell_end(&mut self) {
        let allocating = |relay: &Relay| relay.state() == RelayState::Allocating;
        if !self.told_end
            && !self.more_to_come
            && self.gatherer.is_done()
            && !self.relays.iter().any(allocating)
        {
            self.told_end = true;
            self.events.push_back(IceEvent::EndOfCandidates);
        }
    }

    fn poll_relays(&mut self, cx: &mut Context<'_>) {
        for relay in &mut self.relays {
            let id = relay.id;
            relay.poll(cx.now, |contents| {
                cx.relayed.push_back(RelayTransmit {
                    relay: id,
                    contents,
                });
            });
        }
    }

    fn drop_failed_relays(&mut self) {
        let failed = |relay: &mut Relay| relay.state() == RelayState::Failed;
        for relay in self.relays.extract_if(.., failed) {
            self.routes.push(RouteChange::RemoveRelay(relay.id));
            let news = ServerNews::RelayFailed(relay.id, relay.failure());
            self.events.push_back(IceEvent::Server(news));
        }
    }

    fn send_queries(&mut self, cx: &mut Context<'_>) {
        while let Some((id, base, server, datagram)) = self.gatherer.poll(cx.now) {
            self.remember(Transaction {
                id,
                asker: Asker::Gatherer,
                local: base,
                remote: server,
            });
            cx.outbox.push(server, Some(base.ip()), &datagram);
        }
        for server in self.gatherer.take_silent() {
            let news = ServerNews::StunSilent(server);
            self.events.push_back(IceEvent::Server(news));
        }
    }

    fn remember(&mut self, transaction: Transaction) {
        if self.transactions.iter().any(|one| one.id == transaction.id) {
            return;
        }
        if self.transactions.len() >= MAX_TRANSACTIONS
            && let Some(oldest) = self.transactions.pop_front()
        {
            self.routes.push(RouteChange::RemoveTransaction(oldest.id));
        }
        self.routes
            .push(RouteChange::AddTransaction(transaction.id));
        self.transactions.push_back(transaction);
    }

    fn send_checks(&mut self, cx: &mut Context<'_>) {
        let mut checks = Vec::new();
        for generation in self.generations() {
            let number = generation.number;
            while let Some(check) = generation.poll_check() {
                checks.push((Asker::Generation(number), check));
            }
        }
        checks.extend(self.next_probe(cx));
        for (asker, check) in checks {
            let Check {
                source,
                destination,
                ref datagram,
                ..
            } = check;
            if let Some(id) = check.transaction() {
                if self.signaling_ended && check.standing == Standing::Named {
                    continue;
                }
                let (ip, rate) = (destination.ip(), self.checks_per_second);
                if !cx.checks.admit(cx.now, ip, check.standing, rate) {
                    // As if it were lost: it is repeated.
                    continue;
                }
                self.remember(Transaction {
                    id,
                    asker,
                    local: source,
                    remote: destination,
                });
            }
            let relay = self
                .relays
                .iter_mut()
                .find(|relay| relay.address() == Some(source));
            match relay {
                Some(relay) => {
                    relay.permit(cx.now, destination);
                    if let Some(contents) = relay.wrap(cx.now, destination, datagram) {
                        cx.relayed.push_back(RelayTransmit {
                            relay: relay.id,
                            contents,
                        });
                    }
                }
                None => cx.outbox.push(destination, Some(source.ip()), datagram),
            }
        }
    }
}
