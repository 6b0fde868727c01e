//! Sessions on a real data channel: ICE, DTLS and SCTP of both ends over a simulated network that is slow and loses
//! datagrams, beside a WebSocket with another delay. No byte is lost, doubled or out of order.

use std::time::Duration;

use super::pair::Pair;
use crate::{
    proto::tests::{Channel, scaled},
    socketpipe::{
        Code, Frame, FrameLimits, decode_message, encode_message,
        session::{
            ClientConfig, EndReason, Mode, PathId, ServerConfig, Session, Signaling, Status,
        },
    },
};

/// How often frames change between queues and channel.
const QUANTUM: Duration = Duration::from_millis(5);

/// Two sessions and both their paths.
struct Net {
    pair: Pair,
    channel: Channel,
    path: PathId,
}

/// A network: delays of the WebSocket and of the channel in milliseconds, lost datagrams in percent.
#[derive(Clone, Copy, Debug)]
struct Kind {
    main: u64,
    channel: u64,
    loss: u32,
    mode: Mode,
    resume: bool,
}

/// A few of all networks there are, evenly.
fn kinds() -> impl Iterator<Item = Kind> {
    let count = scaled(6, 48, "networks");
    (0..count as u32).map(|number| Kind {
        main: u64::from(number * 7 % 11) * 50,
        channel: u64::from(number * 3 % 8) * 250 / 7,
        loss: number % 6,
        mode: match number % 2 {
            0 => Mode::Tunnel,
            _ => Mode::Pty,
        },
        resume: number % 3 != 2,
    })
}

impl Net {
    fn open(kind: Kind) -> Self {
        eprintln!("{kind:?}");
        let mut client = ClientConfig::new(kind.mode);
        client.webrtc = true;
        client.resume = kind.resume;
        let server = ServerConfig {
            webrtc: true,
            webrtc_without_resume: true,
            ..ServerConfig::default()
        };
        let mut pair = Pair::open(client, server);
        for wire in &mut pair.wires {
            wire.delay = Duration::from_millis(kind.main);
        }
        pair.loss = u64::from(kind.loss * 10);
        let now = pair.now;
        let offer = Signaling::Offer("v=0".to_owned());
        assert!(pair.client.session.signal_webrtc(now, offer));
        pair.run(Duration::from_secs(2));
        let latency = Duration::from_millis(kind.channel);
        let channel = Channel::open(latency, f64::from(kind.loss) / 100.0);
        Self {
            path: PathId(u64::MAX),
            pair,
            channel,
        }
    }

    /// The channel is given to both.
    fn attach(&mut self) {
        self.path = self.pair.attach().expect("agreed");
        let wires = &mut self.pair.wires;
        let wire = wires.iter_mut().find(|wire| wire.id == self.path);
        wire.expect("it is there").foreign = true;
    }

    /// Frames change between the queues of the sessions and the channel.
    fn carry(&mut self) {
        let now = self.pair.now;
        let wires = &mut self.pair.wires;
        let Some(wire) = wires.iter_mut().find(|wire| wire.id == self.path) else {
            return;
        };
        for end in [0, 1] {
            let queue = if end == 0 {
                &mut wire.up
            } else {
                &mut wire.down
            };
            while let Some((_, frame)) = queue.front() {
                // The end of a channel is told by its connection, which has none here.
                let Some(frame) = frame else {
                    queue.pop_front();
                    continue;
                };
                let message = encode_message(frame).expect("what is sent can be written");
                assert!(message.len() <= 16 * 1024, "{} bytes", message.len());
                if !self.channel.send(end, &message) {
                    break;
                }
                queue.pop_front();
            }
        }
        let server = self.pair.server.as_mut().expect("it has accepted");
        for (end, session) in [(0, &mut self.pair.client.session), (1, &mut server.session)] {
            deliver(&mut self.channel, end, session, self.path, now);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.channel.now() + time;
        while self.channel.now() < until {
            self.carry();
            self.pair.run(QUANTUM);
            self.channel.run(QUANTUM);
        }
    }

    fn load(&mut self, times: u32) {
        for _ in 0..times {
            self.pair.client.write(6000);
            self.pair.server().write(6000);
            self.run(Duration::from_millis(20));
        }
    }

    fn is_exact(&mut self) -> bool {
        let (received, written) = (self.pair.server().received, self.pair.server().written);
        received == self.pair.client.written && self.pair.client.received == written
    }

    /// Waits until everything has arrived.
    fn settle(&mut self, time: Duration) {
        let mut left = time;
        while !self.is_exact() {
            assert!(!left.is_zero(), "not all has arrived");
            let step = Duration::from_millis(500).min(left);
            self.run(step);
            left -= step;
        }
    }

    fn is_on_the_channel(&mut self) -> bool {
        let on = |session: &Session| matches!(session.status(), Status::Established { data, .. } if data == self.path);
        let server = self.pair.server.as_ref().expect("it has accepted");
        on(&self.pair.client.session) && on(&server.session)
    }
}

/// Gives a session what it takes of what has arrived.
fn deliver(
    channel: &mut Channel,
    end: usize,
    session: &mut Session,
    path: PathId,
    now: std::time::Instant,
) {
    while session.wants_frames(path)
        && let Some(message) = channel.receive(end)
    {
        let frame = decode_message(message, &FrameLimits::default());
        session.handle_frame(now, path, frame.expect("what was sent can be read"));
    }
}

#[test]
fn a_switch_under_load_keeps_every_byte_in_its_place() {
    for kind in kinds() {
        let mut net = Net::open(kind);
        net.load(10);
        net.attach();
        net.load(60);
        net.settle(Duration::from_secs(120));
        assert!(net.is_on_the_channel());
    }
}

#[test]
fn a_path_that_comes_back_by_an_ice_restart_costs_nothing() {
    for kind in kinds().take(4) {
        let mut net = Net::open(kind);
        net.attach();
        net.load(20);
        net.settle(Duration::from_secs(120));
        net.channel.cut(true);
        net.load(20);
        let mut waited = 0;
        while !net.channel.has_lost_its_path(0) {
            waited += 1;
            assert!(waited < 200, "nobody notices");
            net.run(Duration::from_millis(50));
        }
        net.channel.cut(false);
        net.channel.restart();
        net.settle(Duration::from_secs(120));
        assert!(net.channel.has_path() && net.is_on_the_channel());
        assert_eq!(net.pair.client.session.stats().repeated, 0);
    }
}

#[test]
fn a_path_that_does_not_come_back_is_left_within_ten_seconds_and_nothing_is_lost() {
    for kind in kinds().filter(|kind| kind.resume).take(4) {
        let mut net = Net::open(kind);
        net.attach();
        net.load(20);
        net.settle(Duration::from_secs(120));
        net.channel.cut(true);
        net.load(10);
        // The connection tells both ends, as the driver does; the client asks on the WebSocket for what is missing.
        let mut left = [false; 2];
        for _ in 0..200 {
            net.run(Duration::from_millis(50));
            for end in [0, 1] {
                if !left[end] && net.channel.has_lost_its_path(end) {
                    left[end] = true;
                    let now = net.pair.now;
                    let server = net.pair.server.as_mut().expect("it has accepted");
                    let session = match end {
                        0 => &mut net.pair.client.session,
                        _ => &mut server.session,
                    };
                    session.path_lost(now, net.path);
                }
            }
        }
        assert_eq!(left, [true, true], "within 10 s");
        net.settle(Duration::from_secs(120));
        assert!(!net.is_on_the_channel());
    }
}

#[test]
fn close_comes_behind_all_that_is_queued_on_the_channel() {
    for kind in kinds().skip(2).step_by(2) {
        let mut net = Net::open(kind);
        net.attach();
        net.load(20);
        net.settle(Duration::from_secs(120));
        // What the engine takes at once, and what the channel does.
        let goal = net.pair.server().written + 350_000;
        while net.pair.server().written < goal {
            let left = goal - net.pair.server().written;
            net.pair.server().write(left as usize);
            net.run(Duration::from_millis(20));
        }
        let now = net.pair.now;
        let session = &mut net.pair.server().session;
        session.close(now, Code::BACKEND_CLOSED, "exit=0");
        let mut waited = 0;
        while net.pair.client.end().is_none() || net.pair.server().end().is_none() {
            waited += 1;
            assert!(waited < 600, "it does not end in a minute");
            net.run(Duration::from_millis(100));
        }
        let end = net.pair.client.end().map(|end| end.reason.clone());
        assert!(
            matches!(&end, Some(EndReason::Close(close)) if close.code == Code::BACKEND_CLOSED),
            "{end:?}"
        );
        assert_eq!(net.pair.client.received, goal);
    }
}

#[test]
fn no_frame_on_a_channel_is_longer_than_what_all_take() {
    let data = crate::socketpipe::Data {
        number: Some(u64::MAX),
        bytes: vec![0; 16 * 1024 - 16].into(),
        end: false,
    };
    let message = encode_message(&Frame::Data(data)).expect("it can be written");
    assert_eq!(message.len(), 16 * 1024);
}
