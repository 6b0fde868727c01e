//! Whatever breaks, moves and stalls: no byte is lost, doubled or out of order, and memory stays bounded.

use std::time::Duration;

use proptest::prelude::*;

use super::pair::{Pair, Seat};
use crate::socketpipe::session::{
    ClientConfig, EndReason, Mode, PathKind, ResumeConfig, ServerConfig, Status,
};
use crate::socketpipe::{Capabilities, Code};

/// Bytes a server keeps: its floor, so that the runs reach it.
const RETAINED: usize = 64 * 1024;
/// Bytes a client keeps.
const CLIENT_RETAINED: usize = 32 * 1024;
/// Unread bytes that stop a peer.
const PAUSE: usize = 24 * 1024;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Write {
        client: bool,
        length: usize,
    },
    Wait(u64),
    Delay(u64),
    /// All wires of this kind break; noticed or not.
    Cut {
        channel: bool,
        silent: bool,
    },
    /// The client opens one more connection while the old one still works.
    Move,
    Attach,
    Leave {
        client: bool,
    },
    Reads {
        client: bool,
        on: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), prop_oneof![1..200usize, 1..60_000usize])
            .prop_map(|(client, length)| Step::Write { client, length }),
        5 => prop_oneof![0..5u64, 0..200u64, 0..40_000u64].prop_map(Step::Wait),
        2 => (0..500u64).prop_map(Step::Delay),
        2 => any::<(bool, bool)>().prop_map(|(channel, silent)| Step::Cut { channel, silent }),
        1 => Just(Step::Move),
        2 => Just(Step::Attach),
        1 => any::<bool>().prop_map(|client| Step::Leave { client }),
        1 => any::<(bool, bool)>().prop_map(|(client, on)| Step::Reads { client, on }),
    ]
}

fn configs(mode: Mode) -> (ClientConfig, ServerConfig) {
    let mut client = ClientConfig::new(mode);
    client.webrtc = true;
    client.retained = CLIENT_RETAINED;
    client.pause_reading = PAUSE;
    let server = ServerConfig {
        webrtc: true,
        pause_reading: PAUSE,
        resume: Some(ResumeConfig {
            retained: RETAINED,
            ..ResumeConfig::default()
        }),
        ..ServerConfig::default()
    };
    (client, server)
}

fn check(seat: &Seat, retained: usize) {
    let stats = seat.session.stats();
    assert!(stats.retained <= retained + 4096, "{stats:?}");
    assert!(stats.buffered <= 2 * PAUSE + RETAINED + 20_000, "{stats:?}");
    assert!(seat.end().is_none(), "ended: {:?}", seat.end());
}

fn cut(pair: &mut Pair, channel: bool, silent: bool) {
    let of_kind = |kind| (kind == PathKind::DataChannel) == channel;
    let wires = pair.wires.iter().filter(|wire| of_kind(wire.kind));
    let ids: Vec<_> = wires.map(|wire| wire.id).collect();
    for id in ids {
        if silent {
            pair.silence(id);
        } else {
            pair.cut(id);
        }
    }
}

fn apply(pair: &mut Pair, step: &Step) {
    match *step {
        Step::Write {
            client: true,
            length,
        } => {
            pair.client.write(length);
        }
        Step::Write { length, .. } => {
            pair.server().write(length);
        }
        Step::Wait(ms) => pair.run(Duration::from_millis(ms)),
        Step::Delay(ms) => {
            pair.delay = Duration::from_millis(ms);
            let delay = pair.delay;
            if let Some(wire) = pair.wires.last_mut() {
                wire.delay = delay;
            }
        }
        Step::Cut { channel, silent } => cut(pair, channel, silent),
        Step::Move => {
            if let Status::Established { .. } = pair.client.session.status() {
                pair.connect();
            }
        }
        Step::Attach => {
            // As after an offer: READY is taken within its time only.
            let signaling = crate::socketpipe::session::Signaling::Offer("offer".to_owned());
            let now = pair.now;
            pair.client.session.signal_webrtc(now, signaling);
            pair.attach();
        }
        Step::Leave { client } => {
            let now = pair.now;
            let seat = if client {
                &mut pair.client
            } else {
                pair.server()
            };
            seat.session.leave_channel(now);
        }
        Step::Reads { client, on } => {
            let seat = if client {
                &mut pair.client
            } else {
                pair.server()
            };
            seat.reads = on;
        }
    }
}

fn run(mode: Mode, steps: &[Step]) {
    let (client, server) = configs(mode);
    let mut pair = Pair::open(client, server);
    pair.reconnect = Some(Duration::from_millis(300));
    for step in steps {
        apply(&mut pair, step);
        check(&pair.client, CLIENT_RETAINED);
        check(pair.server(), RETAINED);
    }
    pair.client.reads = true;
    pair.server().reads = true;
    // A break that nobody has noticed takes a PING interval and a timeout to be found, at most twice (a lost channel
    // is repaired on a main path that may be dead, too), then a reconnection.
    pair.run(Duration::from_secs(180));
    check(&pair.client, CLIENT_RETAINED);
    check(pair.server(), RETAINED);
    let server = pair.server();
    let (received, written) = (server.received, server.written);
    assert_eq!(received, pair.client.written, "to the server");
    assert_eq!(pair.client.received, written, "to the client");
    let now = pair.now;
    pair.server()
        .session
        .close(now, Code::BACKEND_CLOSED, "exit=0");
    pair.run(Duration::from_secs(60));
    for seat in [&pair.client, pair.server.as_ref().expect("accepted")] {
        let end = seat.end().expect("both ends know that it is over");
        assert!(
            matches!(&end.reason, EndReason::Close(close) if close.code == Code::BACKEND_CLOSED)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn no_byte_is_lost_doubled_or_reordered(
        tunnel: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(if tunnel { Mode::Tunnel } else { Mode::Pty }, &steps);
    }
}

#[test]
fn the_configuration_of_the_runs_agrees_on_both_extensions() {
    let (client, server) = configs(Mode::Pty);
    let request = client.request();
    assert!(
        request
            .capabilities
            .contains(Capabilities::RESUME.with(Capabilities::WEBRTC))
    );
    let parameters = server.negotiate(&request);
    assert!(parameters.resume && parameters.webrtc);
}
