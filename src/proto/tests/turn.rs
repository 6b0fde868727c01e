//! A STUN and TURN server in the simulation.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use turn_client_proto::{
    stun::{self, agent::Transmit},
    types::TransportType,
};
use turn_server_proto::{
    api::{TurnServerApi as _, TurnServerPollRet},
    server::TurnServer,
};

use crate::proto::ice::Cutter;

/// The user it knows, and the password.
pub(super) const USER: (&str, &str) = ("1795245074:session", "a short-lived secret");
/// First port of its allocations.
pub(super) const FIRST_RELAY_PORT: u16 = 50_000;
/// How many there are at most.
pub(super) const MAX_RELAYS: u16 = 32;

/// A server at one address.
pub(super) struct TurnHost {
    server: TurnServer,
    address: SocketAddr,
    epoch: Instant,
    out: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    allocations: u16,
    streams: HashMap<SocketAddr, Cutter>,
}

impl TurnHost {
    pub(super) fn new(address: SocketAddr, stream: bool, epoch: Instant) -> Self {
        let transport = match stream {
            true => TransportType::Tcp,
            false => TransportType::Udp,
        };
        let mut server = TurnServer::new(transport, address, "example.org".to_owned());
        server.add_user(USER.0.to_owned(), USER.1.to_owned());
        Self {
            server,
            address,
            epoch,
            out: Vec::new(),
            allocations: 0,
            streams: HashMap::new(),
        }
    }

    /// Whether this address of it is that of a stream.
    pub(super) fn is_stream(&self, address: SocketAddr) -> bool {
        address == self.address && self.server.transport() == TransportType::Tcp
    }

    /// Allocations since the start.
    pub(super) fn allocations(&self) -> u16 {
        self.allocations
    }

    fn time(&self, now: Instant) -> stun::Instant {
        stun::Instant::from_nanos((now - self.epoch).as_nanos().try_into().unwrap())
    }

    pub(super) fn receive(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let transport = match to == self.address {
            true => self.server.transport(),
            false => TransportType::Udp,
        };
        if transport == TransportType::Udp {
            return self.receive_message(now, (from, to), transport, data);
        }
        // The server of the crate knows no padding, which the protocol demands on streams.
        let mut messages = Vec::new();
        let cutter = self.streams.entry(from).or_default();
        cutter
            .push(data, |message| messages.push(message.to_vec()))
            .expect("the client keeps to the framing");
        for message in messages {
            self.receive_message(now, (from, to), transport, &message);
        }
    }

    fn receive_message(
        &mut self,
        now: Instant,
        (from, to): (SocketAddr, SocketAddr),
        transport: TransportType,
        data: &[u8],
    ) {
        let time = self.time(now);
        let transmit = Transmit::new(data.to_vec(), transport, from, to);
        if let Some(answer) = self.server.recv(transmit, time) {
            let answer = answer.build();
            // turn-server-proto 0.7.3 addresses its answers to plain Binding requests to itself.
            let to = match answer.to == self.address {
                true => from,
                false => answer.to,
            };
            self.out.push((answer.from, to, answer.data.to_vec()));
        }
    }

    /// What it sends: from where, to where; and when it has to be asked again.
    #[expect(clippy::type_complexity, reason = "two results of one turn")]
    pub(super) fn turn(
        &mut self,
        now: Instant,
    ) -> (Vec<(SocketAddr, SocketAddr, Vec<u8>)>, Option<Instant>) {
        let time = self.time(now);
        let mut deadline = None;
        for _ in 0..64 {
            match self.server.poll(time) {
                TurnServerPollRet::WaitUntil(at) => {
                    let wait = at
                        .saturating_duration_since(time)
                        .max(Duration::from_millis(1));
                    deadline = Some(now + wait.min(Duration::from_secs(60)));
                    break;
                }
                TurnServerPollRet::AllocateSocket {
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                } => {
                    assert!(self.allocations < MAX_RELAYS);
                    let port = FIRST_RELAY_PORT + self.allocations;
                    self.allocations += 1;
                    self.server.allocated_socket(
                        transport,
                        listen_addr,
                        client_addr,
                        allocation_transport,
                        family,
                        Ok(SocketAddr::new(self.address.ip(), port)),
                        time,
                    );
                }
                TurnServerPollRet::TcpConnect { .. }
                | TurnServerPollRet::TcpClose { .. }
                | TurnServerPollRet::SocketClose { .. } => {}
            }
        }
        while let Some(transmit) = self.server.poll_transmit(time) {
            self.out.push((transmit.from, transmit.to, transmit.data));
        }
        let mut out = std::mem::take(&mut self.out);
        for (from, _, message) in &mut out {
            if self.is_stream(*from) {
                message.resize(message.len().next_multiple_of(4), 0);
            }
        }
        (out, deadline)
    }
}
