//! An endpoint with a connection that is set up through signaling, into which the fuzzer throws descriptions,
//! candidates, datagrams, and what TURN servers may say.

use std::{
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    proto::{
        ConnectionId, DtlsContext, Endpoint, Event, Identity, Read,
        candidate::Candidate,
        connection::{Application, Call},
        fingerprint::Fingerprint,
        ice::{AddressFilter, IceConfig, RelayId, RelayServer, RelayTransport},
        sdp::Description,
    },
    transport::{Certificate, Limits},
};

/// Calls of one input.
const MAX_CALLS: usize = 200;
/// Messages of ours that are remembered, to be answered.
const MAX_REMEMBERED: usize = 32;
/// Class bits of STUN responses: success and error.
const CLASSES: [u16; 2] = [0x0100, 0x0110];

struct Target {
    now: Instant,
    endpoint: Endpoint,
    id: ConnectionId,
    relays: [RelayId; 2],
    /// What was sent: by which relay or to the network.
    sent: Vec<(Option<RelayId>, Vec<u8>)>,
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 4000))
}

/// A certificate, made once: it costs more than most inputs.
fn dtls() -> &'static (DtlsContext, Fingerprint) {
    static DTLS: OnceLock<(DtlsContext, Fingerprint)> = OnceLock::new();
    DTLS.get_or_init(|| {
        let certificate = Certificate::generate_with(&mut StdRng::seed_from_u64(1));
        let identity = Identity {
            certificate_der: certificate.certificate_der().to_vec(),
            private_key_der: certificate.private_key_der().to_vec(),
        };
        let dtls = DtlsContext::new(identity, Duration::from_secs(10));
        let dtls = dtls.expect("a fresh certificate can be used");
        (dtls, certificate.fingerprint())
    })
}

impl Target {
    fn new() -> Option<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "an arbitrary origin for virtual time"
        )]
        let now = Instant::now();
        let limits = Limits::default().to_proto();
        let (dtls, fingerprint) = dtls();
        let mut endpoint = Endpoint::with_dtls(limits, dtls.clone(), true, [1; 32]);
        let server = |transport| RelayServer {
            address: address(200),
            transport,
            username: "user".to_owned(),
            password: "password".to_owned(),
        };
        let call = Call {
            application: Application::Messages {
                label: "socketpipe",
                protocol: "socketpipe/1.0",
                open: true,
            },
            fingerprint: *fingerprint,
            dtls: dtls.clone(),
            ice: IceConfig {
                hosts: vec![address(1)],
                filter: AddressFilter::ALL,
                relay_only: false,
                checks_per_second: 200,
                more_to_come: false,
            },
        };
        let (id, offer) = endpoint.offer(now, call).ok()?;
        assert_eq!(
            Description::parse(&offer.to_string()).map(|read| read.ufrag),
            Ok(offer.ufrag)
        );
        endpoint.add_stun_server(now, id, address(201));
        let relays = [
            endpoint.add_relay(now, id, &server(RelayTransport::Udp))?,
            endpoint.add_relay(now, id, &server(RelayTransport::Stream))?,
        ];
        let mut target = Self {
            now,
            endpoint,
            id,
            relays,
            sent: Vec::new(),
        };
        target.settle();
        Some(target)
    }

    fn remember(&mut self, relay: Option<RelayId>, message: &[u8]) {
        if self.sent.len() >= MAX_REMEMBERED {
            self.sent.remove(0);
        }
        self.sent.push((relay, message.to_vec()));
    }

    fn settle(&mut self) {
        self.endpoint.process(self.now);
        while let Some((id, event)) = self.endpoint.poll_event() {
            if let Event::ChannelReadable(channel) = event {
                while let Read::Data(_) = self.endpoint.read(self.now, id, channel) {}
            }
        }
        self.endpoint.process(self.now);
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let size = transmit
                .segment_size
                .unwrap_or(transmit.contents.len())
                .max(1);
            for datagram in transmit.contents.chunks(size) {
                self.remember(None, datagram);
            }
        }
        while let Some(message) = self.endpoint.poll_relay() {
            self.remember(Some(message.relay), &message.contents);
        }
    }

    /// A response to a message of ours, with these attributes.
    fn answer(&mut self, which: u8, payload: &[u8]) {
        let Some((&class, attributes)) = payload.split_first() else {
            return;
        };
        let Some((relay, request)) = self.sent.get(usize::from(which) % self.sent.len().max(1))
        else {
            return;
        };
        let Some(&[first, second]) = request.get(..2) else {
            return;
        };
        let class = CLASSES[usize::from(class & 1)];
        let kind = u16::from_be_bytes([first, second]) | class;
        let length = u16::try_from(attributes.len()).unwrap_or(u16::MAX);
        let mut message = kind.to_be_bytes().to_vec();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(request.get(4..20).unwrap_or_default());
        message.extend_from_slice(attributes);
        match *relay {
            Some(relay) => self.endpoint.handle_relay(self.now, relay, &message),
            None => {
                self.endpoint
                    .handle_datagram(self.now, None, address(201), &message);
            }
        }
    }

    fn call(&mut self, what: u8, argument: u8, payload: &[u8]) {
        let (now, id) = (self.now, self.id);
        let text = std::str::from_utf8(payload).unwrap_or_default();
        match what % 8 {
            0 => self
                .endpoint
                .handle_datagram(now, None, address(argument), payload),
            1 => {
                let relay = self.relays[usize::from(argument & 1)];
                self.endpoint.handle_relay(now, relay, payload);
            }
            2 => self.answer(argument, payload),
            3 => self.now += Duration::from_millis(u64::from(argument) * 20),
            4 => {
                if let Ok(candidate) = Candidate::parse(text) {
                    self.endpoint.add_candidate(now, id, &candidate);
                }
            }
            5 => {
                if let Ok(answer) = Description::parse(text) {
                    // Refused out of turn, which is no failure.
                    self.endpoint.accept_answer(now, id, &answer).unwrap_or(());
                }
            }
            6 => drop(self.endpoint.restart(now, id)),
            _ => {
                let relay = self.relays[usize::from(argument & 1)];
                self.endpoint.relay_closed(now, relay);
            }
        }
        self.endpoint.handle_timeout(self.now);
        self.settle();
    }
}

/// Calls: what, an argument, the length of the payload in two bytes, the payload.
pub(super) fn run(mut data: &[u8]) {
    let Some(mut target) = Target::new() else {
        return;
    };
    for _ in 0..MAX_CALLS {
        let Some((&[what, argument, high, low], rest)) = data.split_first_chunk() else {
            return;
        };
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        target.call(what, argument, payload);
        data = rest;
    }
}
