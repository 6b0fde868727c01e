//! Hole punching: being dialed by a peer behind a NAT that both sides open at the same moment.
//!
//! The swarm "dials" in the role of the listener (DCUtR): packets without meaning leave a listener's socket towards the
//! remote, so that our NAT lets the remote's connection in. That connection arrives at the listener like any other;
//! [`HolePunches`], owned by the transport, hands it to the waiting dial instead of reporting it as incoming.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    time::Duration,
};

use futures::{
    channel::oneshot,
    future::{Either, select},
    pin_mut,
};
use libp2p_identity::PeerId;

use crate::transport::{
    connecting::Connecting,
    connection::Connection,
    driver::SocketHandle,
    error::{Error, Phase},
};

/// Pause between two packets, in milliseconds: random, as in the specification of DCUtR for QUIC.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=200;

/// How long packets are sent: both sides start within a round trip of each other, and a mapping that is not open by then
/// will not open.
const PUNCHING: Duration = Duration::from_secs(5);

/// The remotes that are expected to connect soon.
#[derive(Debug, Default)]
pub(crate) struct HolePunches {
    waiting: HashMap<SocketAddr, oneshot::Sender<Connecting>>,
}

impl HolePunches {
    /// Expects a connection from exactly `remote`.
    ///
    /// # Errors
    /// Fails while another dial waits for the same remote.
    pub(crate) fn expect(
        &mut self,
        remote: SocketAddr,
    ) -> Result<oneshot::Receiver<Connecting>, Error> {
        self.waiting.retain(|_, waiting| !waiting.is_canceled());
        match self.waiting.entry(remote) {
            Entry::Occupied(_) => Err(Error::PunchInProgress(remote)),
            Entry::Vacant(entry) => {
                let (sender, receiver) = oneshot::channel();
                entry.insert(sender);
                Ok(receiver)
            }
        }
    }

    /// Hands the connection to the dial that waits for it; gives it back if none does.
    pub(crate) fn offer(
        &mut self,
        remote: SocketAddr,
        connecting: Connecting,
    ) -> Option<Connecting> {
        match self.waiting.remove(&remote) {
            Some(waiting) => waiting.send(connecting).err(),
            None => Some(connecting),
        }
    }
}

/// Punches until the remote's connection has arrived, then sets it up.
pub(crate) async fn punch(
    socket: SocketHandle,
    remote: SocketAddr,
    arrival: oneshot::Receiver<Connecting>,
    expected: Option<PeerId>,
    timeout: Duration,
) -> Result<(PeerId, Connection), Error> {
    let wait = tokio::time::timeout(timeout, arrival);
    let packets = send_packets(&socket, remote);
    pin_mut!(wait, packets);
    let arrived = match select(wait, packets).await {
        Either::Left((arrived, _)) => arrived,
        Either::Right(((), wait)) => wait.await,
    };
    let connecting = match arrived {
        Ok(Ok(connecting)) => connecting,
        // The transport is gone, and the listener with it.
        Ok(Err(oneshot::Canceled)) => return Err(Error::NoListener),
        Err(_) => return Err(Error::TimedOut { phase: Phase::Ice }),
    };
    let (actual, connection) = connecting.await?;
    match expected {
        Some(expected) if expected != actual => Err(Error::WrongPeerId { expected, actual }),
        _ => Ok((actual, connection)),
    }
}

/// Sends a packet now and then for the time of [`PUNCHING`].
async fn send_packets(socket: &SocketHandle, remote: SocketAddr) {
    let forever = async {
        loop {
            socket.punch(remote);
            let pause = rand::random_range(INTERVAL_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    };
    let _elapsed: Result<(), _> = tokio::time::timeout(PUNCHING, forever).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn connecting() -> Connecting {
        Connecting::from_future(std::future::pending())
    }

    #[test]
    fn gives_the_connection_to_the_dial_that_waits_for_its_address() {
        let mut punches = HolePunches::default();
        let mut arrival = punches.expect(remote(1)).unwrap();
        assert!(punches.offer(remote(2), connecting()).is_some());
        assert!(punches.offer(remote(1), connecting()).is_none());
        assert!(arrival.try_recv().unwrap().is_some());
    }

    #[test]
    fn gives_one_connection_only() {
        let mut punches = HolePunches::default();
        let _arrival = punches.expect(remote(1)).unwrap();
        assert!(punches.offer(remote(1), connecting()).is_none());
        assert!(punches.offer(remote(1), connecting()).is_some());
    }

    #[test]
    fn refuses_two_dials_for_one_address() {
        let mut punches = HolePunches::default();
        let _arrival = punches.expect(remote(1)).unwrap();
        assert!(matches!(
            punches.expect(remote(1)),
            Err(Error::PunchInProgress(addr)) if addr == remote(1)
        ));
    }

    #[test]
    fn forgets_a_dropped_dial() {
        let mut punches = HolePunches::default();
        drop(punches.expect(remote(1)).unwrap());
        assert!(punches.offer(remote(1), connecting()).is_some());
        drop(punches.expect(remote(2)).unwrap());
        let _arrival = punches.expect(remote(3)).unwrap();
        assert_eq!(punches.waiting.len(), 1);
    }
}
