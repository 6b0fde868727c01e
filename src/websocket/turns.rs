//! Many futures in one task, of which a few are polled in each turn: [`Turns`].

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::{Stream as _, stream::FuturesUnordered};

/// Futures that are polled in one turn. Each may read four offers and make a call for one of them, some milliseconds of
/// work; the task has other things to do, too.
const PER_TURN: usize = 16;

/// Futures whose owner's task must not be kept from its other work, however many of them have something to do.
pub(crate) struct Turns<F> {
    futures: FuturesUnordered<Counted<F>>,
    /// How many may be polled before the next turn.
    left: Arc<AtomicUsize>,
}

struct Counted<F> {
    future: F,
    left: Arc<AtomicUsize>,
}

impl<F: Future + Unpin> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let less = |left: usize| left.checked_sub(1);
        let order = Ordering::Relaxed;
        if self.left.fetch_update(order, order, less).is_err() {
            // In the next turn, behind those that have waited longer.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.future).poll(cx)
    }
}

impl<F: Future + Unpin> Turns<F> {
    pub(crate) fn new() -> Self {
        Self {
            futures: FuturesUnordered::new(),
            left: Arc::new(AtomicUsize::new(0)),
        }
    }

    pub(crate) fn push(&self, future: F) {
        let left = self.left.clone();
        self.futures.push(Counted { future, left });
    }

    /// The task was polled: it may do as much as in each turn.
    pub(crate) fn begin_turn(&self) {
        self.left.store(PER_TURN, Ordering::Relaxed);
    }

    /// The next future that is ready in this turn. The task is woken for another one where there is more to do.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        match Pin::new(&mut self.futures).poll_next(cx) {
            Poll::Ready(Some(output)) => Poll::Ready(output),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{FutureExt as _, future::BoxFuture, task::noop_waker_ref};

    use super::*;

    /// A future that has much to do at once, and then is done.
    fn busy(polls: Arc<AtomicUsize>) -> BoxFuture<'static, ()> {
        let mut rounds = 0;
        poll_fn(move |cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            rounds += 1;
            cx.waker().wake_by_ref();
            match rounds {
                10 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .boxed()
    }

    #[test]
    fn a_crowd_is_served_a_few_at_a_time_and_nobody_is_forgotten() {
        let polls = Arc::new(AtomicUsize::new(0));
        let mut turns = Turns::new();
        for _ in 0..1000 {
            turns.push(busy(polls.clone()));
        }
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut done = 0;
        for turn in 1..10_000 {
            turns.begin_turn();
            while turns.poll_next(&mut cx).is_ready() {
                done += 1;
            }
            assert!(polls.load(Ordering::Relaxed) <= turn * PER_TURN);
            if done == 1000 {
                return;
            }
        }
        panic!("{done} were done");
    }
}
