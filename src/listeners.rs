//! Listens again where a listener has ended.

use std::{collections::HashMap, time::Duration};

use libp2p_core::{Multiaddr, multiaddr::Protocol, transport::ListenerId};
use tokio::time::{Instant, sleep_until};

/// Before the first try to listen again: nothing that ends a listener is over at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Before all later ones; a try costs nothing. A listener that lived so long begins with the first pause again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The listeners of a swarm, of which each shall be there as long as the swarm is.
///
/// A swarm reports the end of a listener, as with [`Error::SocketEnded`](crate::Error::SocketEnded), and leaves it at that:
/// a node that does nothing then can be reached no more. This keeps the addresses, and says when to listen on one again:
/// after 1 s, then after pauses that double up to 60 s. It never gives up. For listeners of every transport.
///
/// ```
/// # use libp2p_core::{Multiaddr, transport::ListenerId};
/// # async fn drive(
/// #     (id, address): (ListenerId, Multiaddr),
/// #     mut listen_on: impl FnMut(&Multiaddr) -> Result<ListenerId, std::io::Error>,
/// # ) {
/// let mut listeners = libp2p_rtc::Listeners::default();
/// // After `Swarm::listen_on`:
/// listeners.opened(id, address);
/// // With `SwarmEvent::ListenerClosed`:
/// if let Some(ended) = listeners.ended(id) {
///     eprintln!("{} has ended, next try in {:?}", ended.address, ended.pause);
/// }
/// // In the loop that drives the swarm, beside its events:
/// let due = listeners.due().await;
/// match listen_on(due.address()) {
///     Ok(id) => listeners.reopened(due, id),
///     Err(_) => drop(listeners.failed(due)),
/// }
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Listeners {
    open: HashMap<ListenerId, Open>,
    waiting: Vec<(Instant, Due)>,
}

#[derive(Debug)]
struct Open {
    address: Multiaddr,
    since: Instant,
    /// Before it is opened again.
    pause: Duration,
}

/// An address that is not listened on, and for how long there will be no try.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Ended {
    /// What was listened on.
    pub address: Multiaddr,
    /// The time until the next try.
    pub pause: Duration,
}

/// An address to listen on now. To be given back to [`Listeners::reopened`] or [`Listeners::failed`].
#[derive(Debug)]
#[must_use = "it is forgotten unless it is given back"]
pub struct Due {
    address: Multiaddr,
    /// Before the next try, if there has to be one.
    pause: Duration,
}

impl Due {
    /// What to listen on.
    pub fn address(&self) -> &Multiaddr {
        &self.address
    }
}

impl Listeners {
    /// There is a listener on this address.
    pub fn opened(&mut self, id: ListenerId, address: Multiaddr) {
        let pause = FIRST_PAUSE;
        self.insert(id, Due { address, pause });
    }

    /// It has this address. If it was free to choose its port, it shall have the same one next time: others know it.
    pub fn found(&mut self, id: ListenerId, address: &Multiaddr) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let port = address.iter().find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        });
        if let Some(port) = port {
            let parts = open.address.iter().map(|part| match part {
                Protocol::Tcp(0) => Protocol::Tcp(port),
                Protocol::Udp(0) => Protocol::Udp(port),
                part => part,
            });
            open.address = parts.collect();
        }
    }

    /// It has ended by itself. `None` if it is not one of these.
    pub fn ended(&mut self, id: ListenerId) -> Option<Ended> {
        let open = self.open.remove(&id)?;
        let pause = match open.since.elapsed() < LONGEST_PAUSE {
            true => open.pause,
            false => FIRST_PAUSE,
        };
        let address = open.address;
        Some(self.wait(Due { address, pause }))
    }

    /// Waits until an address is to be listened on again; for ever, where all are. Nothing is lost if it is not awaited to
    /// its end.
    pub async fn due(&mut self) -> Due {
        let times = self.waiting.iter().enumerate();
        let next = times.min_by_key(|(_, (time, _))| *time);
        let Some((index, &(time, _))) = next else {
            return std::future::pending().await;
        };
        sleep_until(time).await;
        self.waiting.swap_remove(index).1
    }

    /// It is listened on again, by this listener.
    pub fn reopened(&mut self, due: Due, id: ListenerId) {
        self.insert(id, due);
    }

    /// It cannot be listened on yet.
    pub fn failed(&mut self, due: Due) -> Ended {
        self.wait(due)
    }

    fn insert(&mut self, id: ListenerId, due: Due) {
        let open = Open {
            address: due.address,
            since: Instant::now(),
            pause: due.pause,
        };
        self.open.insert(id, open);
    }

    fn wait(&mut self, due: Due) -> Ended {
        let Due { address, pause } = due;
        let ended = Ended {
            address: address.clone(),
            pause,
        };
        let due = Due {
            address,
            pause: (2 * pause).min(LONGEST_PAUSE),
        };
        self.waiting.push((Instant::now() + pause, due));
        ended
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::{advance, timeout};

    use super::*;

    const ADDRESS: &str = "/ip4/0.0.0.0/udp/0/webrtc-direct";

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    /// Those of a swarm with one listener.
    fn one() -> (Listeners, ListenerId) {
        let mut listeners = Listeners::default();
        let id = ListenerId::next();
        listeners.opened(id, address(ADDRESS));
        (listeners, id)
    }

    /// Ends the listener, opens it again, and tells after how many seconds.
    async fn again(listeners: &mut Listeners, id: ListenerId) -> (u64, ListenerId) {
        let (start, new) = (Instant::now(), ListenerId::next());
        let ended = listeners.ended(id).unwrap();
        let due = listeners.due().await;
        assert_eq!(start.elapsed().as_secs(), ended.pause.as_secs());
        listeners.reopened(due, new);
        (ended.pause.as_secs(), new)
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_grow_and_end_when_a_listener_has_lived() {
        let (mut listeners, mut id) = one();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let (pause, new) = again(&mut listeners, id).await;
            pauses.push(pause);
            id = new;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        advance(LONGEST_PAUSE).await;
        assert_eq!(again(&mut listeners, id).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_taken_is_tried_for_ever() {
        let (mut listeners, id) = one();
        listeners.ended(id).unwrap();
        for _ in 0..100 {
            let due = listeners.due().await;
            assert_eq!(*due.address(), address(ADDRESS));
            let ended = listeners.failed(due);
            assert!(ended.pause <= LONGEST_PAUSE, "{ended:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_comes_back_on_the_port_it_had() {
        let (mut listeners, id) = one();
        listeners.found(id, &address("/ip4/192.0.2.1/udp/4001/webrtc-direct"));
        let ended = listeners.ended(id).unwrap();
        let expected = address("/ip4/0.0.0.0/udp/4001/webrtc-direct");
        assert_eq!(ended.address, expected);
        assert_eq!(*listeners.due().await.address(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_to_the_end_loses_nothing() {
        let (mut listeners, id) = one();
        assert!(listeners.due().now_or_never().is_none(), "all are there");
        let stranger = ListenerId::next();
        assert_eq!(listeners.ended(stranger), None);
        listeners.ended(id).unwrap();
        let short = FIRST_PAUSE / 2;
        timeout(short, listeners.due()).await.unwrap_err();
        drop(timeout(FIRST_PAUSE, listeners.due()).await.unwrap());
    }
}
