//! Simulations of the protocol core: whole endpoints, virtual time, a network that misbehaves.
//!
//! [`sim`] owns time and the network, [`link`] decides what becomes of a datagram, [`peer`] is an endpoint with an
//! application on top whose channels are [`pipe`]s, [`raw`] a peer that speaks the protocol by hand and so can break
//! it. The scenario files, one for each kind of behaviour, only use these. What a single module does on its own is
//! tested beside that module.
//!
//! `SIMULATION_SEED=<number> cargo test <name>` replays the network of a failed run; the seed is printed with every
//! failure. DTLS draws some randomness of its own, so a replay is close, not exact, and tests judge outcomes.

mod backpressure;
mod contract;
mod first_contact;
mod handshake;
mod hostile;
mod hostile_dtls;
mod hostile_memory;
mod lifetime;
mod link;
mod lossy;
mod many_peers;
mod nat;
mod newcomers;
mod opening;
mod pair;
mod peer;
mod pipe;
mod random_interaction;
mod raw;
mod round_trips;
mod signaled;
mod sim;
mod stream_ids;
mod streams;
mod turn;

use std::time::Duration;

use p256::{SecretKey, pkcs8::EncodePrivateKey};

#[cfg(feature = "socketpipe")]
pub(crate) use self::signaled::Channel;
pub(super) use self::sim::client_hello;
use super::{Identity, fingerprint::Fingerprint};

/// The golden certificate of the deterministic derivation (Ed25519 seed 00 01 .. 1f), DER.
const CERTIFICATE: &str = "308201353081dba003020102020900cca8608f147a2fc0300a06082a8648ce3d040302301f311d301b06035504\
    0313146c69627032702d7765627274632d6469726563743020170d3230303130313030303030305a180f32313230303130313030303030305a\
    301f311d301b060355040313146c69627032702d7765627274632d6469726563743059301306072a8648ce3d020106082a8648ce3d03010703\
    420004fa4d28e8163d577f326d5cb5766056e89694ccce08215c67e559b64a66109e4a2282573a1fa10f25f069a806ec086314192ddbaf5263\
    e91edd85c97e6fc35abb300a06082a8648ce3d0403020349003046022100e10754a0823a5c1842b37b8cc0a390c5a0bfeba3362b076221da1d\
    ea71fc1a33022100e7a5c2b92ad2134cd97f3700612b53b6d077b54a5938636a1ed9a20865c1c3b1";
/// Its private scalar.
const PRIVATE_SCALAR: &str = "5db42caada90eb1c3554fa1d9fe5112107f6c1f9ddbc7d90bce4bae075fd7d80";
/// Its fingerprint.
const FINGERPRINT: &str = "dd6e2d63b0f0619e187a031f64771637a0418a71dcd8b9d78c6c69b1f4256491";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The certificate of all simulated peers.
pub(in crate::proto) fn identity() -> Identity {
    let key = SecretKey::from_slice(&unhex(PRIVATE_SCALAR)).unwrap();
    Identity {
        certificate_der: unhex(CERTIFICATE),
        private_key_der: key.to_pkcs8_der().unwrap().as_bytes().to_vec(),
    }
}

/// Its fingerprint.
fn fingerprint() -> Fingerprint {
    Fingerprint::of_der(&unhex(CERTIFICATE))
}

/// Milliseconds.
const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Seconds.
const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// How much of a long test to run: all of it in release builds or with `SIMULATION_FULL` set, else as much as is quick
/// enough without optimisation. Says so.
pub(crate) fn scaled(quick: usize, full: usize, what: &str) -> usize {
    let all = !cfg!(debug_assertions) || std::env::var_os("SIMULATION_FULL").is_some();
    let count = if all { full } else { quick };
    eprintln!("{count} {what} ({full} in release builds or with SIMULATION_FULL=1)");
    count
}

#[test]
fn the_golden_certificate_has_its_published_fingerprint() {
    assert_eq!(fingerprint().as_bytes()[..], unhex(FINGERPRINT)[..]);
}
