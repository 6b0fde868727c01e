//! Two sessions under each cipher suite.

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use dimpl::crypto::Dtls12CipherSuite;

use super::{Dtls, DtlsContext, DtlsEvent, Path, ciphers};
use crate::proto::outbox::Outbox;

const SUITES: [Dtls12CipherSuite; 3] = [
    Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
    Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
    Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
];

/// Two sessions whose datagrams reach the other at once.
struct Sessions {
    now: Instant,
    dialer: Dtls,
    listener: Dtls,
    /// All datagrams, in both directions.
    sent: Vec<Vec<u8>>,
}

impl Sessions {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn connected(suite: Dtls12CipherSuite) -> Self {
        let suites = Box::leak(vec![ciphers::adapted(suite).unwrap()].into_boxed_slice());
        let identity = crate::proto::tests::identity();
        let context = DtlsContext::with_suites(identity, Duration::from_secs(10), suites).unwrap();
        let now = Instant::now();
        let mut sessions = Self {
            now,
            dialer: Dtls::dialer(&context, now),
            listener: Dtls::listener(&context, now),
            sent: Vec::new(),
        };
        let mut outbox = Outbox::default();
        sessions
            .dialer
            .handle_timeout(now, path(), &mut outbox)
            .unwrap();
        sessions.exchange(outbox, true);
        assert!(sessions.dialer.connected && sessions.listener.connected);
        sessions
    }

    /// Passes on what is in the outbox, and all that comes of it.
    fn exchange(&mut self, outbox: Outbox, mut from_dialer: bool) {
        let mut datagrams = datagrams(outbox);
        while !datagrams.is_empty() {
            let mut answers = Outbox::default();
            let to = if from_dialer {
                &mut self.listener
            } else {
                &mut self.dialer
            };
            for datagram in &datagrams {
                to.handle_datagram(self.now, datagram, path(), &mut answers)
                    .unwrap();
            }
            self.sent.append(&mut datagrams);
            datagrams = self::datagrams(answers);
            from_dialer = !from_dialer;
        }
    }

    fn send(&mut self, from_dialer: bool, data: &[u8]) {
        let mut outbox = Outbox::default();
        let from = if from_dialer {
            &mut self.dialer
        } else {
            &mut self.listener
        };
        from.send(self.now, data, path(), &mut outbox).unwrap();
        self.exchange(outbox, from_dialer);
    }

    fn received(&mut self, by_dialer: bool) -> Vec<u8> {
        let by = if by_dialer {
            &mut self.dialer
        } else {
            &mut self.listener
        };
        let events = std::iter::from_fn(|| by.poll_event());
        let data = events.filter_map(|event| match event {
            DtlsEvent::Data(data) => Some(data.to_vec()),
            _ => None,
        });
        data.collect::<Vec<_>>().concat()
    }
}

fn path() -> Path {
    Path {
        remote: SocketAddr::from(([192, 0, 2, 1], 9)),
        local_ip: None,
    }
}

fn datagrams(mut outbox: Outbox) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    while let Some(transmit) = outbox.pop() {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        datagrams.extend(transmit.contents.chunks(size).map(<[u8]>::to_vec));
    }
    datagrams
}

/// Header and beginning of the body of each record.
fn records(datagram: &[u8]) -> Vec<([u8; 8], [u8; 8])> {
    let mut records = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = 13 + usize::from(u16::from_be_bytes([rest[11], rest[12]]));
        let mut body = [0; 8];
        let head = &rest[13..length.min(21)];
        body[..head.len()].copy_from_slice(head);
        records.push((rest[3..11].try_into().unwrap(), body));
        rest = &rest[length..];
    }
    records
}

#[test]
fn data_goes_both_ways_under_each_cipher_suite() {
    for suite in SUITES {
        let mut sessions = Sessions::connected(suite);
        for from_dialer in [true, false] {
            for number in 0..100_u8 {
                sessions.send(from_dialer, &[number; 1_000]);
            }
            let expected: Vec<u8> = (0..100_u8).flat_map(|number| [number; 1_000]).collect();
            assert_eq!(sessions.received(!from_dialer), expected, "{suite:?}");
        }
    }
}

#[test]
fn the_nonces_of_aes_gcm_are_the_numbers_of_the_records() {
    for suite in &SUITES[..2] {
        let mut sessions = Sessions::connected(*suite);
        sessions.send(true, b"one");
        sessions.send(false, b"two");
        sessions.send(false, b"three");
        let all = sessions.sent.iter().flat_map(|datagram| records(datagram));
        let encrypted: Vec<_> = all.filter(|(number, _)| number[..2] != [0, 0]).collect();
        // The last message of the handshake of either side, and the data.
        assert_eq!(encrypted.len(), 5, "{suite:?}");
        for (number, nonce) in encrypted {
            assert_eq!(nonce, number, "{suite:?}");
        }
    }
}

#[test]
fn no_two_records_of_chacha20_begin_alike() {
    // It has no nonces on the wire: what stands in their place is encrypted, and stays.
    let mut sessions = Sessions::connected(SUITES[2]);
    for _ in 0..10 {
        sessions.send(true, &[0; 64]);
    }
    let all = sessions.sent.iter().flat_map(|datagram| records(datagram));
    let encrypted = all.filter(|(number, _)| number[..2] != [0, 0]);
    let (numbers, bodies): (HashSet<_>, HashSet<_>) = encrypted.unzip();
    assert!(numbers.is_disjoint(&bodies));
    assert_eq!(bodies.len(), 12);
}
