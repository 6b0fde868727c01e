//! Tells connections that wait for a better time that the network has changed.
//!
//! The transport watches the interfaces, but only while somebody waits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures::task::AtomicWaker;

use crate::transport::watcher::{Change, Watcher};

/// Changes, counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    changes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who waits. Those that are gone are removed when the next one comes.
    waiting: Vec<Weak<AtomicWaker>>,
    /// The system gives no list of interfaces: nobody is told of changes.
    is_blind: bool,
    watcher: Option<Watcher>,
    /// Of the transport.
    waker: Option<Waker>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// One connection's view of the changes.
#[derive(Debug)]
pub(crate) struct Changes {
    shared: Arc<Shared>,
    seen: u64,
    waker: Option<Arc<AtomicWaker>>,
}

impl Network {
    /// For one more connection.
    pub(crate) fn changes(&self) -> Changes {
        Changes {
            seen: self.shared.changes.load(Ordering::Acquire),
            shared: self.shared.clone(),
            waker: None,
        }
    }

    /// Looks at the interfaces if somebody waits. For the transport.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) {
        let mut changed = false;
        let waiting = {
            let mut state = self.shared.lock();
            state.waker = Some(cx.waker().clone());
            state.waiting.retain(|waker| waker.strong_count() > 0);
            if state.waiting.is_empty() {
                state.watcher = None;
                return;
            }
            state.open_watcher();
            while let Some(watcher) = &mut state.watcher {
                match watcher.poll(cx) {
                    // A way less makes nothing possible.
                    Poll::Ready(Change::Down(_)) => {}
                    Poll::Ready(Change::Up(_)) => changed |= !watcher.is_listing(),
                    Poll::Ready(Change::Failed(error)) => state.give_up(&error),
                    Poll::Pending => break,
                }
            }
            match changed {
                true => state.waiting.clone(),
                false => return,
            }
        };
        self.shared.changes.fetch_add(1, Ordering::AcqRel);
        for waker in waiting.iter().filter_map(Weak::upgrade) {
            waker.wake();
        }
    }
}

impl State {
    fn open_watcher(&mut self) {
        if self.watcher.is_none() && !self.is_blind {
            match Watcher::new() {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => self.give_up(&error),
            }
        }
    }

    fn give_up(&mut self, error: &std::io::Error) {
        tracing::debug!(%error, "the network interfaces cannot be watched");
        self.is_blind = true;
        self.watcher = None;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    /// Whether there was a change since the last one that was told, or since somebody began to wait. Wakes the task at the
    /// next one.
    pub(crate) fn poll_changed(&mut self, cx: &mut Context<'_>) -> bool {
        match &self.waker {
            Some(waker) => waker.register(cx.waker()),
            None => self.wait(cx),
        }
        let changes = self.shared.changes.load(Ordering::Acquire);
        std::mem::replace(&mut self.seen, changes) != changes
    }

    /// Changes are of no interest for now.
    pub(crate) fn rest(&mut self) {
        self.waker = None;
    }

    fn wait(&mut self, cx: &mut Context<'_>) {
        let waker = Arc::new(AtomicWaker::new());
        waker.register(cx.waker());
        self.seen = self.shared.changes.load(Ordering::Acquire);
        let transport = {
            let mut state = self.shared.lock();
            state.waiting.push(Arc::downgrade(&waker));
            state.waker.take()
        };
        self.waker = Some(waker);
        if let Some(transport) = transport {
            transport.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    #[test]
    fn who_waits_hears_of_a_change_once() {
        let network = Network::default();
        let (mut one, mut other) = (network.changes(), network.changes());
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(!one.poll_changed(&mut cx));
        network.shared.changes.fetch_add(1, Ordering::AcqRel);
        assert!(one.poll_changed(&mut cx));
        assert!(!one.poll_changed(&mut cx));
        assert!(!other.poll_changed(&mut cx), "it did not wait then");
    }

    #[tokio::test]
    async fn nobody_who_is_gone_is_remembered() {
        let network = Network::default();
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut here = network.changes();
        here.poll_changed(&mut cx);
        for _ in 0..100 {
            network.changes().poll_changed(&mut cx);
        }
        network.poll(&mut cx);
        assert_eq!(network.shared.lock().waiting.len(), 1);
        here.rest();
        network.poll(&mut cx);
        assert!(
            network.shared.lock().watcher.is_none(),
            "nothing is watched for nobody"
        );
    }
}
