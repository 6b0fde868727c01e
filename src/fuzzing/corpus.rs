//! Replays the committed samples of every fuzz target, so that what fuzzing once found stays fixed.

use std::{fs, panic::catch_unwind, path::Path};

use crate::fuzzing;

/// Runs `target` on every file of its corpus.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).expect("every target has a corpus") {
        let path = entry.expect("the corpus can be listed").path();
        let sample = fs::read(&path).expect("the sample can be read");
        let outcome = catch_unwind(|| target(&sample));
        assert!(outcome.is_ok(), "{} makes the target panic", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "the corpus {name} is empty");
}

#[test]
fn stun_samples() {
    replay("stun", fuzzing::stun);
}

#[test]
fn client_hello_samples() {
    replay("client_hello", fuzzing::client_hello);
}

#[test]
fn username_samples() {
    replay("username", fuzzing::username);
}

#[test]
fn frame_samples() {
    replay("frame", fuzzing::frame);
}

#[test]
fn dcep_samples() {
    replay("dcep", fuzzing::dcep);
}

#[test]
fn sdp_samples() {
    replay("sdp", fuzzing::sdp);
}

#[test]
fn candidate_samples() {
    replay("candidate", fuzzing::candidate);
}

#[test]
fn mdns_samples() {
    replay("mdns", fuzzing::mdns);
}

#[test]
fn multiaddr_samples() {
    replay("multiaddr", fuzzing::multiaddr);
}

#[test]
fn signaled_samples() {
    replay("signaled", fuzzing::signaled);
}

#[test]
fn endpoint_samples() {
    replay("endpoint", fuzzing::endpoint);
}

#[cfg(feature = "socketpipe")]
#[test]
fn socketpipe_frame_samples() {
    replay("socketpipe_frame", fuzzing::socketpipe_frame);
}

#[cfg(feature = "socketpipe")]
#[test]
fn socketpipe_session_samples() {
    replay("socketpipe_session", fuzzing::socketpipe_session);
}
