//! The addresses that calls of a socket offer to their peers.
//!
//! A socket that is bound to all addresses has those of the network interfaces, which come and go; one bound to a single
//! address has that. Owned by the table, and watched only while there are calls.

use std::{
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use crate::transport::watcher::{Change, Watcher};

/// Interface addresses that are kept: several times what the core offers of them.
const MAX_ADDRESSES: usize = 64;

/// What has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HostChange {
    /// An interface has this address now.
    Up(IpAddr),
    /// It has it no more.
    Down(IpAddr),
    /// These were all there are at this moment.
    AllKnown,
}

/// See the module.
pub(super) struct Hosts {
    bound: SocketAddr,
    /// The address of the socket of the other family.
    companion: Option<SocketAddr>,
    watcher: Option<Watcher>,
    stage: Stage,
    ips: Vec<IpAddr>,
}

/// How much is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody has asked.
    Idle,
    /// Nothing yet.
    Asked,
    /// The system has begun to tell.
    Telling,
    /// The addresses of this moment; the end of a call's candidates waits for that.
    Known,
}

impl Hosts {
    pub(super) fn new(bound: SocketAddr) -> Self {
        Self {
            bound,
            companion: None,
            watcher: None,
            stage: Stage::Idle,
            ips: Vec::new(),
        }
    }

    /// Begins to watch the interfaces, where the socket is bound to all.
    pub(super) fn begin(&mut self) {
        if self.stage != Stage::Idle {
            return;
        }
        self.stage = Stage::Known;
        if !self.bound.ip().is_unspecified() {
            self.ips = vec![self.bound.ip()];
            return;
        }
        match Watcher::new() {
            Ok(watcher) => (self.watcher, self.stage) = (Some(watcher), Stage::Asked),
            Err(error) => tracing::debug!(%error, "the addresses of this host are not known"),
        }
    }

    /// Whether the system has told all addresses of this moment.
    pub(super) fn are_known(&self) -> bool {
        self.stage == Stage::Known
    }

    /// There are no calls any more.
    pub(super) fn end(&mut self) {
        *self = Self::new(self.bound);
    }

    /// The address of the second socket.
    pub(super) fn set_companion(&mut self, companion: Option<SocketAddr>) {
        self.companion = companion;
    }

    /// The next change that matters.
    pub(super) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<HostChange> {
        while let Some(watcher) = &mut self.watcher {
            let Poll::Ready(change) = watcher.poll(cx) else {
                // What there is comes at once; no mark stands behind it.
                if self.stage == Stage::Telling {
                    self.stage = Stage::Known;
                    return Poll::Ready(HostChange::AllKnown);
                }
                return Poll::Pending;
            };
            if self.stage == Stage::Asked {
                self.stage = Stage::Telling;
            }
            match change {
                Change::Up(ip) => {
                    let is_new = is_offered(ip) && !self.ips.contains(&ip);
                    if is_new && self.ips.len() < MAX_ADDRESSES {
                        self.ips.push(ip);
                        return Poll::Ready(HostChange::Up(ip));
                    }
                }
                Change::Down(ip) => {
                    self.ips.retain(|known| *known != ip);
                    return Poll::Ready(HostChange::Down(ip));
                }
                Change::Failed(error) => {
                    tracing::debug!(%error, "the addresses of this host are watched no more");
                    self.watcher = None;
                    self.stage = Stage::Known;
                    return Poll::Ready(HostChange::AllKnown);
                }
            }
        }
        Poll::Pending
    }

    /// What a call offers: the addresses that were configured for it, or those of the host.
    pub(super) fn addresses(&self, announced: &[IpAddr]) -> Vec<SocketAddr> {
        let ips = match announced {
            [] => &self.ips,
            announced => announced,
        };
        ips.iter().filter_map(|ip| self.address(*ip)).collect()
    }

    /// An address with the port of the socket of its family.
    pub(super) fn address(&self, ip: IpAddr) -> Option<SocketAddr> {
        [Some(self.bound), self.companion]
            .into_iter()
            .flatten()
            .find(|bound| bound.is_ipv4() == ip.is_ipv4())
            .map(|bound| SocketAddr::new(ip, bound.port()))
    }

    /// The addresses of the interfaces, or the one that the socket is bound to.
    pub(super) fn ips(&self) -> &[IpAddr] {
        &self.ips
    }
}

/// Not those of the host itself, nor link-local ones of IPv6, which mean nothing without the interface.
fn is_offered(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_family_has_the_port_of_its_socket() {
        let mut hosts = Hosts::new(addr("0.0.0.0:1"));
        let announced = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        assert_eq!(hosts.addresses(&announced), [addr("192.0.2.1:1")]);
        hosts.set_companion(Some(addr("[::]:2")));
        let both = [addr("192.0.2.1:1"), addr("[2001:db8::1]:2")];
        assert_eq!(hosts.addresses(&announced), both);
    }

    #[test]
    fn a_socket_with_one_address_offers_that() {
        let mut hosts = Hosts::new(addr("192.0.2.1:9"));
        hosts.begin();
        assert_eq!(hosts.addresses(&[]), [addr("192.0.2.1:9")]);
        hosts.end();
        assert!(hosts.addresses(&[]).is_empty());
    }

    #[test]
    fn addresses_that_only_this_host_knows_are_not_offered() {
        for (ip, offered) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("10.0.0.1", true),
            ("169.254.1.1", true),
            ("fd00::2", true),
        ] {
            assert_eq!(is_offered(ip.parse().unwrap()), offered, "{ip}");
        }
    }
}
