//! The data channel beside the main path: the switch, its order, its loss.

use std::time::Duration;

use bytes::Bytes;

use super::pair::Pair;
use crate::socketpipe::{
    Code, Data, Frame, IceCandidate, Size,
    session::{
        ClientConfig, EndReason, Event, Mode, PathCause, PathId, ServerConfig, Session, Signaling,
        Status,
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
fn the_very_first_data_may_come_by_the_channel_before_that_of_the_main_path() {
    for resume in [true, false] {
        let mut pair = open_with(Mode::Tunnel, resume);
        offer(&mut pair);
        pair.run(Duration::from_secs(1));
        set_delay(&mut pair, MAIN, Duration::from_millis(300));
        pair.delay = Duration::ZERO;
        let channel = pair.attach().expect("agreed");
        // Just before READY is there.
        pair.run(Duration::from_millis(290));
        pair.client.write(100);
        pair.run(Duration::from_millis(20));
        assert!(pair.client.saw(&Event::DataPath(channel)));
        pair.client.write(100);
        pair.run(Duration::from_millis(100));
        assert_eq!(pair.server().received, 0);
        pair.run(Duration::from_secs(2));
        assert_exact(&mut pair);
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

/// What the server's driver is told when this many candidates come.
fn told_candidates(pair: &mut Pair, count: usize) -> usize {
    let now = pair.now;
    let session = &mut pair.server().session;
    for _ in 0..count {
        let candidate = IceCandidate {
            candidate: "candidate:1".to_owned(),
            mid: String::new(),
            index: 0,
        };
        session.handle_frame(now, MAIN, Frame::IceCandidate(candidate));
    }
    let events = std::iter::from_fn(|| session.poll_event());
    events
        .filter(|event| matches!(event, Event::Signaling(Signaling::Candidate(_))))
        .count()
}

#[test]
fn candidates_beyond_the_cap_are_dropped_until_the_next_offer() {
    let mut pair = open_with(Mode::Pty, true);
    assert_eq!(told_candidates(&mut pair, 10_000), 64);
    offer(&mut pair);
    pair.run(Duration::from_secs(1));
    assert_eq!(told_candidates(&mut pair, 10_000), 64);
}

#[test]
fn offers_come_within_a_budget_and_are_refused_beyond_it() {
    let mut pair = open_with(Mode::Pty, true);
    let mut now = pair.now;
    let session = &mut pair.server().session;
    let mut taken = |session: &mut Session, count: usize, wait: u64| {
        now += Duration::from_secs(wait);
        for _ in 0..count {
            session.handle_frame(now, MAIN, Frame::WebRtcOffer("v=0".to_owned()));
        }
        while session.poll_transmit(now, MAIN).is_some() {}
        std::iter::from_fn(|| session.poll_event())
            .filter(|event| matches!(event, Event::Signaling(Signaling::Offer(_))))
            .count()
    };
    assert_eq!(taken(session, 60, 0), 8);
    assert_eq!(taken(session, 60, 4), 0);
    assert_eq!(taken(session, 60, 6), 2);
    assert_eq!(taken(session, 60, 600), 8);
    let now = pair.now + Duration::from_secs(610);
    let session = &mut pair.server().session;
    session.handle_frame(now, MAIN, Frame::WebRtcOffer("v=0".to_owned()));
    assert_eq!(
        session.poll_transmit(now, MAIN),
        Some(Frame::WebRtcAnswer(String::new()))
    );
}

#[test]
fn a_ready_of_an_attempt_that_was_given_up_does_not_count_for_the_next() {
    let mut pair = open_with(Mode::Pty, true);
    offer(&mut pair);
    pair.run(Duration::from_secs(11));
    offer(&mut pair);
    let now = pair.now;
    let session = &mut pair.client.session;
    session.handle_frame(now, MAIN, Frame::WebRtcReady);
    session.handle_frame(now, MAIN, Frame::WebRtcAnswer("v=0".to_owned()));
    assert!(session.attach_channel(now, PathId(50), 16 * 1024));
    assert_eq!(session.poll_transmit(now, PathId(50)), None);
    session.handle_frame(now, MAIN, Frame::WebRtcReady);
    let first = session.poll_transmit(now, PathId(50));
    assert!(matches!(first, Some(Frame::Ping(_))), "{first:?}");
}

#[test]
fn an_offer_that_replaces_a_living_connection_has_a_time_limit_of_its_own() {
    let (mut pair, channel) = upgraded(Mode::Pty, true);
    let now = pair.now;
    let session = &mut pair.server().session;
    session.handle_frame(now, MAIN, Frame::WebRtcOffer("v=0".to_owned()));
    // The driver finds another certificate in it.
    session.path_lost(now, channel);
    assert!(session.signal_webrtc(now, Signaling::Answer("v=0".to_owned())));
    session.handle_timeout(now + Duration::from_secs(10));
    let failed = std::iter::from_fn(|| session.poll_event());
    assert!(
        failed
            .into_iter()
            .any(|event| event == Event::UpgradeFailed)
    );
}

#[test]
fn the_number_of_the_flag_can_be_configured() {
    let agreed = |client_bit, server_bit| {
        let mut client = ClientConfig::new(Mode::Pty);
        client.webrtc = true;
        client.webrtc_bit = client_bit;
        let server = ServerConfig {
            webrtc: true,
            webrtc_bit: server_bit,
            ..ServerConfig::default()
        };
        let mut pair = Pair::open(client, server);
        let client = pair.client.session.parameters().map(|p| p.webrtc);
        let server = pair.server().session.parameters().map(|p| p.webrtc);
        assert_eq!(client, server, "{client_bit} {server_bit}");
        client
    };
    assert_eq!(agreed(6, 6), Some(true));
    assert_eq!(agreed(7, 7), Some(true));
    assert_eq!(agreed(6, 7), Some(false));
    // Those of other extensions never stand for it.
    assert_eq!(agreed(1, 1), Some(false));
    assert_eq!(agreed(255, 255), Some(false));
}

#[test]
fn a_client_asks_for_the_upgrade_where_signaling_is_private_only() {
    let mut client = ClientConfig::new(Mode::Tunnel);
    client.webrtc = true;
    let server = ServerConfig {
        webrtc: true,
        ..ServerConfig::default()
    };
    let mut pair = Pair::new(client, server);
    pair.client.session.ask_for_webrtc(false);
    pair.connect();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.attach(), None);
}

#[test]
fn without_resume_a_terminal_that_lost_bytes_is_drawn_again() {
    let (mut pair, channel) = upgraded(Mode::Pty, false);
    let size = Size {
        columns: 80,
        rows: 24,
        ..Size::default()
    };
    pair.client.session.resize(size);
    pair.run(Duration::from_secs(1));
    pair.server().events.clear();
    pair.cut(channel);
    pair.run(Duration::from_secs(1));
    assert!(pair.client.saw(&Event::DataLost));
    let sizes: Vec<_> = pair
        .server()
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Resize(size) => Some(size.rows),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [23, 24]);
}

/// Without resume: a peer that has used the channel and never answers the PING of the barrier.
fn without_answer(mode: Mode) -> (Pair, PathId) {
    let mut pair = open_with(mode, false);
    offer(&mut pair);
    pair.run(Duration::from_secs(1));
    let channel = PathId(50);
    let now = pair.now;
    let session = &mut pair.server().session;
    assert!(session.attach_channel(now, channel, 16 * 1024));
    let data = |bytes: &'static [u8]| {
        Frame::Data(Data {
            number: None,
            bytes: Bytes::from_static(bytes),
            end: false,
        })
    };
    session.handle_frame(now, MAIN, data(b"a"));
    session.handle_frame(now, channel, data(b"b"));
    while session.poll_transmit(now, MAIN).is_some() {}
    assert_eq!(session.read(now), Some(Bytes::from_static(b"a")));
    assert_eq!(session.read(now), None, "it waits for the answer");
    // Signs of life, but not that answer.
    for seconds in 1..12 {
        let now = now + Duration::from_secs(seconds);
        session.handle_frame(now, MAIN, Frame::Ping(Bytes::new()));
        session.handle_timeout(now);
    }
    pair.now += Duration::from_secs(12);
    (pair, channel)
}

#[test]
fn a_barrier_without_answer_ends_a_tunnel_and_gives_a_terminal_what_there_is() {
    let (mut pair, channel) = without_answer(Mode::Pty);
    let now = pair.now;
    let session = &mut pair.server().session;
    assert_eq!(session.read(now), Some(Bytes::from_static(b"b")));
    assert!(matches!(session.status(),
        Status::Established { main, data } if main == data));
    let mut events = std::iter::from_fn(|| session.poll_event());
    assert!(events.any(|event| event
        == Event::ClosePath {
            path: channel,
            cause: PathCause::Lost
        }));
    let (mut pair, _) = without_answer(Mode::Tunnel);
    let now = pair.now;
    let session = &mut pair.server().session;
    assert_eq!(session.status(), Status::Closed);
    assert_eq!(
        session.read(now),
        None,
        "its place in the stream is not known"
    );
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
