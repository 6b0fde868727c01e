//! The addresses behind the names of candidates, by multicast DNS.
//!
//! A lookup is a task of its call, which ends with it. It asks on all interfaces and takes the first answer: a wrong one
//! costs a check that nobody answers.

mod places;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, time::timeout};

use self::places::Places;
use crate::proto::{
    ice::network,
    mdns::{GROUP, Name},
};

/// Lookups of all calls of a caller at once, whatever peers name: each sends two datagrams per interface. More wait, and
/// whoever calls from one address has at most half: a name that nobody answers for takes its place for three seconds.
const MAX_LOOKUPS: usize = 32;

/// Interfaces that are asked on.
const MAX_INTERFACES: usize = 8;

/// When the question is repeated (RFC 6762 section 5.2: not before a second) and when it is given up.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Longest message that is read: a datagram of Ethernet (RFC 6762 section 17).
const MAX_MESSAGE: usize = 9000;

/// Who asks, and where.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    group: SocketAddrV4,
    /// In place of the interfaces of the host, where there are any.
    via: Option<Ipv4Addr>,
    places: Arc<Places>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            group: GROUP,
            via: None,
            places: Places::new(MAX_LOOKUPS),
        }
    }
}

impl Names {
    /// Asks elsewhere.
    #[cfg(test)]
    pub(super) fn in_group(group: SocketAddrV4, via: Ipv4Addr) -> Self {
        Self {
            group,
            via: Some(via),
            ..Self::default()
        }
    }

    /// Lookups that could begin now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.places.free()
    }

    /// The address of a name, if somebody answers for it. `interfaces` are the addresses of this host; `from` is where the
    /// one calls from who named it.
    pub(crate) async fn find(
        &self,
        name: &Name,
        interfaces: &[IpAddr],
        from: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let _place = self.places.take(from.map(network)).await?;
        let v4 = interfaces.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let mut via: Vec<_> = v4.take(MAX_INTERFACES).collect();
        if let (Some(other), false) = (self.via, via.is_empty()) {
            via = vec![other];
        }
        let found = self.ask(name, &via).await;
        found.unwrap_or_else(|error| {
            tracing::debug!(%error, "names of peers cannot be looked up");
            None
        })
    }

    async fn ask(&self, name: &Name, via: &[Ipv4Addr]) -> io::Result<Option<IpAddr>> {
        let socket = self.socket(via)?;
        let query = name.query();
        let mut buffer = vec![0; MAX_MESSAGE];
        for wait in WAITS {
            self.send(&socket, &query, via).await?;
            let answer = async {
                loop {
                    let len = socket.recv(&mut buffer).await?;
                    if let Some(address) = name.answer(&buffer[..len]) {
                        return Ok(address);
                    }
                }
            };
            if let Ok(answer) = timeout(wait, answer).await {
                return answer.map(Some);
            }
        }
        Ok(None)
    }

    /// Answers go to the group, so the socket must have its port. Others on this host have it too.
    fn socket(&self, via: &[Ipv4Addr]) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.group.port());
        socket.bind(&any.into())?;
        for ip in via {
            if let Err(error) = socket.join_multicast_v4(self.group.ip(), ip) {
                tracing::debug!(%error, %ip, "an interface has no multicast");
            }
        }
        UdpSocket::from_std(socket.into())
    }

    async fn send(&self, socket: &UdpSocket, query: &[u8], via: &[Ipv4Addr]) -> io::Result<()> {
        for ip in via {
            socket2::SockRef::from(socket).set_multicast_if_v4(ip)?;
            if let Err(error) = socket.send_to(query, self.group).await {
                tracing::debug!(%error, %ip, "an interface takes no question");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv6Addr;

    use futures::FutureExt as _;

    use super::*;

    /// A group on loopback with a port that nobody else has.
    pub(crate) fn group() -> SocketAddrV4 {
        let probe = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), port)
    }

    /// Answers for one name with an address, at the `nth` question only, as a browser does: to the group.
    pub(crate) async fn answer_for(names: Names, name: Name, address: Ipv4Addr, nth: usize) {
        let socket = names.socket(&[Ipv4Addr::LOCALHOST]).unwrap();
        let query = name.query();
        let mut heard = 0;
        let mut buffer = [0; 512];
        loop {
            let len = socket.recv(&mut buffer).await.unwrap();
            if buffer[..len] != query[..] {
                continue;
            }
            heard += 1;
            if heard != nth {
                continue;
            }
            let mut answer = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
            // The first question is the name, a type and a class.
            let end = (query.len() - 12) / 2 + 12 - 4;
            answer.extend_from_slice(&query[12..end]);
            answer.extend([0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4]);
            answer.extend(address.octets());
            names
                .send(&socket, &answer, &[Ipv4Addr::LOCALHOST])
                .await
                .unwrap();
        }
    }

    /// What a host has, of which the group on loopback is asked instead.
    const INTERFACES: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))];

    fn name() -> Name {
        Name::parse("768527e2-58b4-45e7-8822-d3e36f19e808.local").unwrap()
    }

    #[tokio::test]
    async fn a_name_that_somebody_answers_for_is_found() {
        let names = Names::in_group(group(), Ipv4Addr::LOCALHOST);
        let address = Ipv4Addr::new(192, 0, 2, 9);
        let answering = tokio::spawn(answer_for(names.clone(), name(), address, 1));
        // The question may come before the other side listens; then the second finds it.
        let found = names.find(&name(), &INTERFACES, None).await;
        assert_eq!(found, Some(address.into()));
        answering.abort();
    }

    #[tokio::test]
    async fn a_question_that_is_not_answered_is_asked_again_and_then_given_up() {
        let names = Names::in_group(group(), Ipv4Addr::LOCALHOST);
        let other = Name::parse("00000000-58b4-45e7-8822-d3e36f19e808.local").unwrap();
        let address = Ipv4Addr::new(192, 0, 2, 9);
        let answering = tokio::spawn(answer_for(names.clone(), name(), address, 2));
        tokio::task::yield_now().await;
        let (found, nothing) = futures::future::join(
            names.find(&name(), &INTERFACES, None),
            names.find(&other, &INTERFACES, None),
        )
        .await;
        assert_eq!((found, nothing), (Some(address.into()), None));
        answering.abort();
    }

    #[tokio::test]
    async fn one_address_with_many_names_does_not_delay_another() {
        let names = Names::in_group(group(), Ipv4Addr::LOCALHOST);
        let address = Ipv4Addr::new(192, 0, 2, 9);
        let answering = tokio::spawn(answer_for(names.clone(), name(), address, 1));
        let nobody = Name::parse("00000000-58b4-45e7-8822-d3e36f19e808.local").unwrap();
        let many: Vec<_> = (0..256_u128)
            .map(|number| {
                // Somebody with a /64 has as many addresses.
                let from = Ipv6Addr::from_bits((0x2001_0db8 << 96) | number);
                names.find(&nobody, &INTERFACES, Some(from.into()))
            })
            .collect();
        let mut many = std::pin::pin!(futures::future::join_all(many));
        assert!((&mut many).now_or_never().is_none());
        let (name, from) = (name(), Some(IpAddr::from([192, 0, 2, 1])));
        let found = names.find(&name, &INTERFACES, from);
        // A question for which nobody answers takes its place until then.
        let found = timeout(WAITS[0] + WAITS[1], found).await;
        assert_eq!(found, Ok(Some(address.into())));
        answering.abort();
    }

    #[tokio::test]
    async fn only_so_many_names_are_looked_up_at_once() {
        let names = Names::in_group(group(), Ipv4Addr::LOCALHOST);
        let address = Ipv4Addr::new(192, 0, 2, 9);
        let answering = tokio::spawn(answer_for(names.clone(), name(), address, 1));
        let mut others = Vec::new();
        for number in 0..MAX_LOOKUPS {
            let from = IpAddr::from([192, 0, 2, u8::from(number % 2 == 0)]);
            others.extend(names.places.take(Some(from)).now_or_never());
        }
        assert_eq!(others.len(), MAX_LOOKUPS);
        let name = name();
        let mut waiting = names.find(&name, &INTERFACES, None).boxed();
        assert_eq!(waiting.as_mut().now_or_never(), None, "it has to wait");
        drop(others);
        let found = waiting.await;
        assert_eq!(found, Some(address.into()));
        assert_eq!(names.free(), MAX_LOOKUPS);
        answering.abort();
    }
}
