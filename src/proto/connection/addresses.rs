//! The addresses of the peer: the one it uses, the others that lead here, and when it moves.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{Connection, Context, Limits};
use crate::proto::{event::Event, stun::BindingRequest};

/// How long an address without checks is kept: as long as consent lasts (RFC 7675 section 5.1).
const ADDRESS_LIFETIME: Duration = Duration::from_secs(30);

/// The peer has as many addresses as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyAddresses;

impl Connection {
    /// The path, and whether nothing comes by it any more.
    #[cfg(test)]
    pub(crate) fn selected_path(&self) -> Option<(crate::proto::ice::Selected, bool)> {
        let agent = &self.call()?.agent;
        Some((agent.selected()?, agent.is_lost()))
    }

    /// Signaled: looks whether anything comes by the path; tells [`Event::PathLost`] if not.
    pub(crate) fn probe(&mut self, now: Instant) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.probe(now);
        }
    }

    /// Signaled: nothing more will be told of the peer.
    pub(crate) fn signaling_ended(&mut self) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.signaling_ended();
        }
    }

    /// The peer's current address.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The address its first packet came from.
    pub(crate) fn origin(&self) -> SocketAddr {
        self.origin
    }

    /// All addresses that lead here.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        std::iter::once(self.remote).chain(self.addresses.iter().map(|(address, _)| *address))
    }

    /// The peer is at another of its addresses.
    pub(super) fn move_to(&mut self, remote: SocketAddr) {
        let known = self
            .addresses
            .iter_mut()
            .find(|(address, _)| *address == remote);
        if let Some((address, _)) = known {
            std::mem::swap(address, &mut self.remote);
            self.push_event(Event::AddressChanged(remote));
        }
    }

    /// A check from the peer, whose integrity the endpoint verified against our half, and which it answered. How many
    /// bytes both had counts towards what an unproven address gets.
    pub(crate) fn handle_request(
        &mut self,
        remote: SocketAddr,
        request: &BindingRequest<'_>,
        received: usize,
        sent: usize,
        cx: &Context<'_>,
    ) {
        self.last_received = cx.now;
        if let Some(unproven) = self
            .setup
            .as_mut()
            .and_then(|setup| setup.unproven.as_mut())
        {
            // What another address sends earns this one nothing.
            if remote == self.remote {
                unproven.receive(received);
                unproven.send(sent);
            }
        }
        if remote == self.remote {
            self.remote_seen = cx.now;
            return;
        }
        let known = self
            .addresses
            .iter_mut()
            .find(|(address, _)| *address == remote);
        let Some((_, seen)) = known else { return };
        *seen = cx.now;
        // A dialer renominates when its network changes (RFC 8445 section 8.1.1). A check that somebody saw can be sent
        // again from anywhere, so it moves nothing while the old address is alive; a DTLS record from the new one does.
        let silent = cx.now.saturating_duration_since(self.remote_seen);
        if request.use_candidate() && silent >= cx.limits.keepalive_interval * 2 {
            self.remote_seen = cx.now;
            self.move_to(remote);
        }
    }

    /// One more address of the same peer. An address that it left long ago makes room and is given back; without such a
    /// one the new address is refused, because old ones must not be pushed out by strangers.
    pub(crate) fn add_address(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        limits: &Limits,
    ) -> Result<Option<SocketAddr>, TooManyAddresses> {
        let mut left = None;
        if self.addresses.len() + 1 >= limits.max_addresses_per_connection {
            let index = self
                .addresses
                .iter()
                .position(|(_, seen)| now.saturating_duration_since(*seen) > ADDRESS_LIFETIME)
                .ok_or(TooManyAddresses)?;
            left = Some(self.addresses.swap_remove(index).0);
        }
        self.addresses.push((remote, now));
        Ok(left)
    }

    /// One of the other addresses leads here no more.
    pub(crate) fn remove_address(&mut self, remote: SocketAddr) {
        self.addresses.retain(|(address, _)| *address != remote);
    }

    /// Our address, as the peer's packets name it.
    pub(crate) fn set_local_ip(&mut self, local_ip: Option<IpAddr>) {
        if local_ip.is_some() {
            self.local_ip = local_ip;
        }
    }
}
