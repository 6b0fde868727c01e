//! The addresses that a listener of either transport announces: its own, or those of all network interfaces, kept current.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll, ready},
};

use libp2p_core::{
    Multiaddr,
    transport::{ListenerId, TransportEvent},
};

use super::watcher::{Change, Watcher};

/// See the module's documentation.
pub(crate) struct Interfaces {
    listener: ListenerId,
    bound: SocketAddr,
    /// Only for a wildcard address.
    watcher: Option<Watcher>,
    /// A concrete address that was not told yet.
    own: Option<IpAddr>,
    /// Addresses announced and not expired.
    announced: BTreeSet<IpAddr>,
}

impl Interfaces {
    /// For a listener whose socket is bound to this address.
    ///
    /// # Errors
    /// When it is bound to all addresses, and the system gives no list of interfaces.
    pub(crate) fn new(listener: ListenerId, bound: SocketAddr) -> io::Result<Self> {
        let any = bound.ip().is_unspecified();
        Ok(Self {
            listener,
            bound,
            watcher: any.then(Watcher::new).transpose()?,
            own: (!any).then(|| bound.ip()),
            announced: BTreeSet::new(),
        })
    }

    /// The next change, as the swarm is told of it; `address` is the form in which an address of this listener is announced.
    pub(crate) fn poll<U, E: From<io::Error>>(
        &mut self,
        cx: &mut Context<'_>,
        address: impl Fn(IpAddr) -> Multiaddr,
    ) -> Poll<TransportEvent<U, E>> {
        let listener_id = self.listener;
        Poll::Ready(match ready!(self.poll_change(cx)) {
            Change::Up(ip) => TransportEvent::NewAddress {
                listener_id,
                listen_addr: address(ip),
            },
            Change::Down(ip) => TransportEvent::AddressExpired {
                listener_id,
                listen_addr: address(ip),
            },
            Change::Failed(error) => TransportEvent::ListenerError {
                listener_id,
                error: error.into(),
            },
        })
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        if let Some(own) = self.own.take() {
            self.announced.insert(own);
            return Poll::Ready(Change::Up(own));
        }
        let Some(watcher) = &mut self.watcher else {
            return Poll::Pending;
        };
        loop {
            let change = ready!(watcher.poll(cx));
            let is_told = match &change {
                Change::Up(ip) => is_announced(self.bound, *ip) && self.announced.insert(*ip),
                Change::Down(ip) => self.announced.remove(ip),
                Change::Failed(_) => true,
            };
            if is_told {
                return Poll::Ready(change);
            }
        }
    }

    /// The listener has ended for this reason: what the swarm is told, and nothing after it.
    pub(crate) fn close<U, E>(
        &mut self,
        reason: Result<(), E>,
        address: impl Fn(IpAddr) -> Multiaddr,
    ) -> impl Iterator<Item = TransportEvent<U, E>> {
        self.watcher = None;
        self.own = None;
        let listener_id = self.listener;
        let announced = std::mem::take(&mut self.announced).into_iter();
        let expired = announced.map(move |ip| TransportEvent::AddressExpired {
            listener_id,
            listen_addr: address(ip),
        });
        expired.chain(std::iter::once(TransportEvent::ListenerClosed {
            listener_id,
            reason,
        }))
    }
}

/// Is an interface address announced for a wildcard socket?
///
/// Link-local IPv6 addresses are not: they need a zone, which a multiaddress cannot carry.
fn is_announced(bound: SocketAddr, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => bound.is_ipv4(),
        IpAddr::V6(ip) => bound.is_ipv6() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn announces_addresses_of_its_family_only() {
        assert!(is_announced(addr("0.0.0.0:1"), ip("192.0.2.1")));
        assert!(is_announced(addr("0.0.0.0:1"), ip("127.0.0.1")));
        assert!(!is_announced(addr("0.0.0.0:1"), ip("::1")));
        assert!(is_announced(addr("[::]:1"), ip("2001:db8::1")));
        assert!(!is_announced(addr("[::]:1"), ip("192.0.2.1")));
    }

    #[test]
    fn does_not_announce_link_local_addresses() {
        assert!(!is_announced(addr("[::]:1"), ip("fe80::1")));
    }
}
