//! The data channel beside the main path: the switch, its order, its loss.

use std::time::Duration;

use bytes::Bytes;

use super::pair::Pair;
use crate::socketpipe::{
    Code, Frame, IceCandidate,
    session::{
        ClientConfig, EndReason, Event, Mode, PathCause, PathId, ServerConfig, Signaling, Status,
    },
};

const MAIN: PathId = PathId(1);

fn open_with(mode: Mode, resume: bool) -> Pair {
    let mut client = ClientConfig::new(mode);
    client.webrtc = true;
    client.resume = resume;
    let server = ServerConfig {
        webrtc: true,
        webrtc_without_resume: true,
        ..ServerConfig::default()
    };
    Pair::open(client, server)
}

fn offer(pair: &mut Pair) {
    let now = pair.now;
    let offer = Signaling::Offer("v=0".to_owned());
    assert!(pair.client.session.signal_webrtc(now, offer));
}

/// A session whose DATA runs on a channel in both directions.
fn upgraded(mode: Mode, resume: bool) -> (Pair, PathId) {
    let mut pair = open_with(mode, resume);
    offer(&mut pair);
    pair.run(Duration::from_secs(1));
    let channel = pair.attach().expect("agreed");
    pair.run(Duration::from_secs(1));
    for seat in [&pair.client, pair.server.as_ref().expect("accepted")] {
        assert!(matches!(seat.session.status(),
            Status::Established { main: MAIN, data } if data == channel));
        assert!(seat.saw(&Event::DataPath(channel)));
    }
    (pair, channel)
}

fn assert_exact(pair: &mut Pair) {
    let (received, written) = (pair.server().received, pair.server().written);
    assert_eq!(received, pair.client.written);
    assert_eq!(pair.client.received, written);
}

fn set_delay(pair: &mut Pair, path: PathId, delay: Duration) {
    for wire in pair.wires.iter_mut().filter(|wire| wire.id == path) {
        wire.delay = delay;
    }
}

#[test]
fn the_switch_under_load_keeps_the_order_whatever_the_skew() {
    for resume in [true, false] {
        for (main, channel) in [(0, 500), (500, 0), (10, 10), (250, 1)] {
            let mut pair = open_with(Mode::Tunnel, resume);
            set_delay(&mut pair, MAIN, Duration::from_millis(main));
            offer(&mut pair);
            pair.run(Duration::from_secs(1));
            pair.delay = Duration::from_millis(channel);
            pair.client.write(100_000);
            pair.server().write(100_000);
            pair.run(Duration::from_millis(20));
            assert!(pair.attach().is_some());
            for _ in 0..40 {
                pair.client.write(5000);
                pair.server().write(5000);
                pair.run(Duration::from_millis(25));
            }
            pair.run(Duration::from_secs(120));
            assert_exact(&mut pair);
            assert!(pair.client.received > 250_000);
        }
    }
}

#[test]
fn a_server_waits_for_the_client_to_use_the_channel() {
    let mut pair = open_with(Mode::Pty, true);
    offer(&mut pair);
    pair.run(Duration::from_secs(1));
    let now = pair.now;
    let session = &mut pair.server().session;
    assert!(session.attach_channel(now, PathId(50), 16 * 1024));
    assert_eq!(session.poll_transmit(now, MAIN), Some(Frame::WebRtcReady));
    session.write(&mut Bytes::from_static(b"x"));
    assert_eq!(session.poll_transmit(now, PathId(50)), None);
    assert!(matches!(
        session.poll_transmit(now, MAIN),
        Some(Frame::Data(_))
    ));
    session.handle_frame(now, PathId(50), Frame::Ping(Bytes::new()));
    session.write(&mut Bytes::from_static(b"y"));
    let frames: Vec<_> = std::iter::from_fn(|| session.poll_transmit(now, PathId(50))).collect();
    assert!(matches!(frames.last(), Some(Frame::Data(_))), "{frames:?}");
}

#[test]
fn a_channel_that_is_not_agreed_or_too_narrow_is_not_used() {
    let mut plain = Pair::open(ClientConfig::new(Mode::Pty), ServerConfig::default());
    assert_eq!(plain.attach(), None);
    let mut pair = open_with(Mode::Pty, true);
    let now = pair.now;
    assert!(!pair.client.session.attach_channel(now, PathId(50), 1024));
}

#[test]
fn a_lost_channel_is_repaired_on_the_living_main_path() {
    for silent in [false, true] {
        let (mut pair, channel) = upgraded(Mode::Tunnel, true);
        pair.client.write(60_000);
        pair.server().write(60_000);
        pair.run(Duration::from_millis(5));
        if silent {
            pair.silence(channel);
        } else {
            pair.cut(channel);
        }
        pair.run(Duration::from_secs(90));
        assert_exact(&mut pair);
        assert_eq!(pair.client.received, 60_000);
        assert!(pair.client.saw(&Event::Resumed { path: MAIN }));
        assert!(!pair.client.saw(&Event::Disconnected));
    }
}

#[test]
fn bytes_lost_on_a_channel_that_was_left_are_repaired() {
    let (mut pair, channel) = upgraded(Mode::Pty, true);
    pair.silence(channel);
    pair.client.write(1);
    pair.run(Duration::ZERO);
    let now = pair.now;
    assert!(pair.client.session.leave_channel(now));
    pair.run(Duration::from_secs(120));
    assert_exact(&mut pair);
}

#[test]
fn an_answer_on_the_main_path_does_not_confirm_what_a_channel_lost() {
    let (mut pair, channel) = upgraded(Mode::Pty, true);
    pair.delay = Duration::from_millis(200);
    pair.connect();
    pair.client.write(60_000);
    pair.run(Duration::from_millis(5));
    // The repair has to wait for the resume on the way; PINGs on the main path go on meanwhile.
    pair.cut(channel);
    pair.run(Duration::from_secs(120));
    assert_exact(&mut pair);
    assert_eq!(pair.client.end(), None);
}

#[test]
fn data_goes_back_to_the_main_path_on_purpose() {
    let (mut pair, _) = upgraded(Mode::Tunnel, true);
    set_delay(&mut pair, MAIN, Duration::from_millis(300));
    pair.client.write(100_000);
    pair.server().write(100_000);
    pair.run(Duration::from_millis(5));
    let now = pair.now;
    assert!(pair.client.session.leave_channel(now));
    assert!(pair.server().session.leave_channel(now));
    pair.run(Duration::from_secs(30));
    assert_exact(&mut pair);
    assert!(pair.client.saw(&Event::DataPath(MAIN)));
}

#[test]
fn first_data_after_a_resume_may_be_overtaken_on_the_main_path() {
    let (mut pair, _) = upgraded(Mode::Pty, true);
    pair.cut(MAIN);
    pair.connect();
    pair.run(Duration::from_secs(1));
    pair.delay = Duration::from_millis(50);
    offer(&mut pair);
    assert!(pair.attach().is_some());
    pair.run(Duration::from_secs(1));
    for client in [true, false] {
        let now = pair.now;
        let seat = if client {
            &mut pair.client
        } else {
            pair.server()
        };
        seat.write(1);
        pair.run(Duration::ZERO);
        let seat = if client {
            &mut pair.client
        } else {
            pair.server()
        };
        assert!(seat.session.leave_channel(now));
        seat.write(1);
    }
    pair.run(Duration::from_secs(60));
    assert_exact(&mut pair);
}

#[test]
fn a_lost_main_path_takes_the_channel_with_it() {
    let (mut pair, channel) = upgraded(Mode::Tunnel, true);
    pair.reconnect = Some(Duration::from_millis(100));
    pair.client.write(60_000);
    pair.server().write(60_000);
    pair.run(Duration::from_millis(5));
    pair.cut(MAIN);
    pair.run(Duration::from_secs(5));
    let lost = Event::ClosePath {
        path: channel,
        cause: PathCause::Lost,
    };
    assert!(pair.client.saw(&lost));
    assert_exact(&mut pair);
}

#[test]
fn without_resume_a_lost_channel_ends_a_tunnel_and_not_a_terminal() {
    let (mut pair, channel) = upgraded(Mode::Tunnel, false);
    pair.cut(channel);
    pair.run(Duration::from_secs(1));
    for seat in [&pair.client, pair.server.as_ref().expect("accepted")] {
        assert_eq!(
            seat.end().map(|end| &end.reason),
            Some(&EndReason::TransportLost)
        );
    }
    let (mut pair, channel) = upgraded(Mode::Pty, false);
    pair.cut(channel);
    pair.client.write(10);
    pair.run(Duration::from_secs(1));
    assert_exact(&mut pair);
    assert!(pair.client.saw(&Event::DataPath(MAIN)));
}

#[test]
fn an_upgrade_that_takes_ten_seconds_is_given_up() {
    let mut pair = open_with(Mode::Pty, true);
    offer(&mut pair);
    pair.run(Duration::from_secs(9));
    assert!(!pair.client.saw(&Event::UpgradeFailed));
    pair.run(Duration::from_secs(2));
    assert!(pair.client.saw(&Event::UpgradeFailed));
    assert!(pair.server().saw(&Event::UpgradeFailed));
    // READY of the attempt that was given up changes nothing.
    let now = pair.now;
    pair.client
        .session
        .handle_frame(now, MAIN, Frame::WebRtcReady);
    pair.client.write(10);
    pair.run(Duration::from_secs(1));
    assert_exact(&mut pair);
}

#[test]
fn candidates_beyond_the_cap_are_dropped() {
    let mut pair = open_with(Mode::Pty, true);
    let now = pair.now;
    let session = &mut pair.server().session;
    for _ in 0..10_000 {
        let candidate = IceCandidate {
            candidate: "candidate:1".to_owned(),
            mid: String::new(),
            index: 0,
        };
        session.handle_frame(now, MAIN, Frame::IceCandidate(candidate));
    }
    let told = std::iter::from_fn(|| session.poll_event()).count();
    assert_eq!(told, 64);
}

#[test]
fn frames_that_belong_on_the_main_path_are_refused_on_the_channel() {
    let (mut pair, channel) = upgraded(Mode::Pty, true);
    let now = pair.now;
    let session = &mut pair.server().session;
    session.handle_frame(now, channel, Frame::WebRtcOffer(String::new()));
    assert!(
        matches!(session.poll_transmit(now, MAIN), Some(Frame::Error(failure))
        if failure.code == Code::INVALID_STATE)
    );
}

#[test]
fn the_main_path_stays_alive_by_pings_while_data_runs_on_the_channel() {
    let (mut pair, _) = upgraded(Mode::Pty, true);
    for _ in 0..100 {
        pair.server().write(1000);
        pair.run(Duration::from_secs(3));
    }
    pair.silence(MAIN);
    for _ in 0..15 {
        pair.server().write(1000);
        pair.run(Duration::from_secs(3));
    }
    assert!(pair.client.saw(&Event::Disconnected));
}
