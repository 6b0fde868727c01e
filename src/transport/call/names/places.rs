//! Places for work that many ask for: [`Places`] gives them in turn among those who ask, and nobody has more than half.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Who asks: the network that somebody calls from. Those whom we call, and who bring no address, are one.
pub(super) type Asker = Option<IpAddr>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Places {
    /// Places that one asker may have at once.
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Those who have places or wait for some.
    askers: BTreeMap<Asker, Share>,
    /// Those who wait, each once, in the order in which they get a place.
    turns: VecDeque<Asker>,
}

#[derive(Debug, Default)]
struct Share {
    held: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// None where nobody wanted it.
    places: Option<Arc<Places>>,
    asker: Asker,
}

impl Places {
    /// So many for all.
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            most: all.div_ceil(2),
            state: Mutex::new(State {
                free: all,
                askers: BTreeMap::new(),
                turns: VecDeque::new(),
            }),
        })
    }

    /// Places that nobody has.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.lock().free
    }

    /// Waits for a place.
    pub(super) async fn take(self: &Arc<Self>, asker: Asker) -> Option<Place> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            let share = state.askers.entry(asker).or_default();
            // Calls that end wait no longer.
            share.waiting.retain(|waiting| !waiting.is_closed());
            share.waiting.push_back(sender);
            if !state.turns.contains(&asker) {
                state.turns.push_back(asker);
            }
            self.give(&mut state);
        }
        receiver.await.ok()
    }

    /// Gives what is free to those who wait.
    fn give(self: &Arc<Self>, state: &mut State) {
        let State {
            free,
            askers,
            turns,
        } = state;
        while *free > 0 {
            let may_have_one = |asker: &Asker| {
                let share = askers.get(asker);
                share.is_some_and(|share| share.held < self.most)
            };
            let Some(index) = turns.iter().position(may_have_one) else {
                return;
            };
            let Some(asker) = turns.remove(index) else {
                return;
            };
            let Some(share) = askers.get_mut(&asker) else {
                continue;
            };
            while let Some(waiting) = share.waiting.pop_front() {
                let places = Some(Arc::clone(self));
                match waiting.send(Place { places, asker }) {
                    Ok(()) => {
                        share.held += 1;
                        *free -= 1;
                        break;
                    }
                    // Nothing is to be given back: it was not taken yet.
                    Err(mut place) => place.places = None,
                }
            }
            if !share.waiting.is_empty() {
                turns.push_back(asker);
            } else if share.held == 0 {
                askers.remove(&asker);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(places) = self.places.take() else {
            return;
        };
        let mut state = places.lock();
        state.free += 1;
        if let Some(share) = state.askers.get_mut(&self.asker) {
            share.held = share.held.saturating_sub(1);
            if share.held == 0 && share.waiting.is_empty() {
                state.askers.remove(&self.asker);
            }
        }
        places.give(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;

    fn ip(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    type Waiting = BoxFuture<'static, Option<Place>>;

    /// Asks so often; gives what came at once, and the rest.
    fn ask(places: &Arc<Places>, who: u8, count: usize) -> (Vec<Place>, Vec<Waiting>) {
        let (mut taken, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let places = places.clone();
            let mut asking = async move { places.take(Some(ip(who))).await }.boxed();
            match (&mut asking).now_or_never() {
                Some(place) => taken.push(place.unwrap()),
                None => waiting.push(asking),
            }
        }
        (taken, waiting)
    }

    #[test]
    fn one_who_asks_for_everything_leaves_half_to_others() {
        let places = Places::new(8);
        let (taken, _waiting) = ask(&places, 1, 100);
        assert_eq!(taken.len(), 4);
        assert_eq!(ask(&places, 2, 100).0.len(), 4);
    }

    #[test]
    fn places_go_in_turn_among_those_who_wait() {
        let places = Places::new(4);
        let (mut first, mut many) = ask(&places, 1, 100);
        let (_second, _many) = ask(&places, 2, 100);
        assert_eq!(places.free(), 0);
        let (none, mut late) = ask(&places, 3, 1);
        assert!(none.is_empty());
        // Those before have one turn each at most.
        for _ in 0..2 {
            first.pop();
            if let Some(place) = late[0].as_mut().now_or_never() {
                assert!(place.is_some());
                return;
            }
            let fetched = |one: &mut Waiting| one.as_mut().now_or_never().flatten();
            first.extend(many.iter_mut().find_map(fetched));
        }
        panic!("a hundred others were served before");
    }

    #[test]
    fn who_waits_no_longer_keeps_no_place() {
        let places = Places::new(2);
        let (taken, waiting) = ask(&places, 1, 3);
        let (other, others) = ask(&places, 2, 3);
        drop((waiting, others));
        assert_eq!(ask(&places, 1, 1).1.len(), 1, "one may have half");
        assert!(places.lock().askers[&Some(ip(1))].waiting.len() <= 1);
        drop((taken, other));
        assert_eq!(places.free(), 2);
        assert!(places.lock().askers.is_empty() && places.lock().turns.is_empty());
    }

    #[test]
    fn a_place_that_was_given_and_not_fetched_is_given_back() {
        let places = Places::new(2);
        let (taken, waiting) = ask(&places, 1, 2);
        drop(taken);
        assert_eq!(places.free(), 1, "it waits to be fetched");
        drop(waiting);
        assert_eq!(places.free(), 2);
    }
}
