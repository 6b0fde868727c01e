//! The addresses that a listener announces: its own, or those of all network interfaces, kept current.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use if_watch::{IfEvent, tokio::IfWatcher};

/// What has changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// An address is to be announced.
    Up(IpAddr),
    /// It is one no longer.
    Down(IpAddr),
    /// The interfaces cannot be watched any more. The addresses stay as they were last known.
    Failed(io::Error),
}

/// See the module's documentation.
pub(crate) struct Interfaces {
    bound: SocketAddr,
    /// Only for a wildcard address.
    watcher: Option<IfWatcher>,
    /// A concrete address that was not told yet.
    own: Option<IpAddr>,
    /// Addresses announced and not expired.
    announced: BTreeSet<IpAddr>,
}

impl Interfaces {
    /// For a socket that is bound to this address.
    ///
    /// # Errors
    /// When it is bound to all addresses, and the system gives no list of interfaces.
    pub(crate) fn new(bound: SocketAddr) -> io::Result<Self> {
        let any = bound.ip().is_unspecified();
        Ok(Self {
            bound,
            watcher: any.then(IfWatcher::new).transpose()?,
            own: (!any).then(|| bound.ip()),
            announced: BTreeSet::new(),
        })
    }

    /// The next change.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        if let Some(own) = self.own.take() {
            self.announced.insert(own);
            return Poll::Ready(Change::Up(own));
        }
        while let Some(watcher) = &mut self.watcher {
            let Poll::Ready(event) = watcher.poll_if_event(cx) else {
                return Poll::Pending;
            };
            match event {
                Ok(IfEvent::Up(net))
                    if is_announced(self.bound, net.addr())
                        && self.announced.insert(net.addr()) =>
                {
                    return Poll::Ready(Change::Up(net.addr()));
                }
                Ok(IfEvent::Down(net)) if self.announced.remove(&net.addr()) => {
                    return Poll::Ready(Change::Down(net.addr()));
                }
                Ok(IfEvent::Up(_) | IfEvent::Down(_)) => {}
                Err(error) => {
                    // The watcher would repeat it for ever.
                    self.watcher = None;
                    return Poll::Ready(Change::Failed(error));
                }
            }
        }
        Poll::Pending
    }

    /// Nothing is announced any more: what was.
    pub(crate) fn close(&mut self) -> BTreeSet<IpAddr> {
        self.watcher = None;
        self.own = None;
        std::mem::take(&mut self.announced)
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
