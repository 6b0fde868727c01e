//! Rules of an open session: what breaks one, flow control, keep-alive, PINGs.

use std::time::Duration;

use bytes::Bytes;

use super::pair::Pair;
use crate::socketpipe::{
    Capabilities, Code, Data, Failure, Flow, Frame, FrameError, HandshakeRequest,
    HandshakeResponse, Signal, Size,
    session::{ClientConfig, End, EndReason, Event, Mode, PathCause, PathId, ServerConfig, Status},
};

const MAIN: PathId = PathId(1);

fn open() -> Pair {
    Pair::open(ClientConfig::new(Mode::Pty), ServerConfig::default())
}

fn without_resume(mode: Mode) -> Pair {
    let mut config = ClientConfig::new(mode);
    config.resume = false;
    Pair::open(config, ServerConfig::default())
}

/// What the server sends when it gets this frame, and how the session ends.
fn answer_to(frame: Frame) -> (Vec<Frame>, Option<End>) {
    let mut pair = open();
    let now = pair.now;
    let session = &mut pair.server().session;
    session.handle_frame(now, MAIN, frame);
    let frames = std::iter::from_fn(|| session.poll_transmit(now, MAIN)).collect();
    let end = std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        Event::Closed(end) => Some(end),
        _ => None,
    });
    (frames, end)
}

fn assert_told(frame: Frame, code: Code) {
    let shown = format!("{frame:?}");
    let (frames, end) = answer_to(frame);
    assert!(
        matches!(&frames[..], [Frame::Error(failure), Frame::Close(close)]
            if failure.code == code && close.code == code && !close.by_client),
        "{shown}: {frames:?}"
    );
    let end = end.expect("the session is over");
    assert!(matches!(end.reason, EndReason::PeerMisbehaved(failure) if failure.code == code));
}

#[test]
fn a_second_handshake_and_frames_of_servers_are_the_wrong_state() {
    let request = HandshakeRequest {
        capabilities: Capabilities::NONE,
        major: 1,
        minor: 0,
        port: 0,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: String::new(),
        token: Bytes::new(),
    };
    let refused = HandshakeResponse::Refused(Failure::new(Code::AUTH_FAILED, ""));
    for frame in [
        Frame::HandshakeRequest(request),
        Frame::HandshakeResponse(refused),
        Frame::WebRtcReady,
        Frame::WebRtcAnswer(String::new()),
    ] {
        assert_told(frame, Code::INVALID_STATE);
    }
}

#[test]
fn data_above_the_agreed_size_is_too_large() {
    let data = |length: usize| {
        Frame::Data(Data {
            number: Some(1),
            bytes: vec![0; length].into(),
            end: false,
        })
    };
    assert_told(data(65_537), Code::MESSAGE_TOO_LARGE);
    assert_eq!(answer_to(data(65_536)).1, None);
}

#[test]
fn a_malformed_frame_ends_the_session_with_its_code() {
    let mut pair = open();
    let now = pair.now;
    let session = &mut pair.server().session;
    session.handle_malformed(now, MAIN, &FrameError::Reserved(1));
    let frames: Vec<_> = std::iter::from_fn(|| session.poll_transmit(now, MAIN)).collect();
    assert!(
        matches!(&frames[..], [Frame::Error(failure), Frame::Close(_)]
        if failure.code == Code::INVALID_MESSAGE)
    );
    pair.run(Duration::from_secs(1));
    // The client sees the code, too: its wire got what was polled here, so only the end of the transport is left.
    assert_eq!(pair.server().session.status(), Status::Closed);
}

#[test]
fn a_client_tells_a_server_that_misbehaves_by_close() {
    let mut pair = open();
    let now = pair.now;
    let session = &mut pair.client.session;
    session.handle_frame(now, MAIN, Frame::Signal(Signal::Int));
    pair.run(Duration::from_secs(1));
    let told = pair.server().end().expect("the server is told").clone();
    assert!(matches!(told.reason, EndReason::Close(close)
        if close.code == Code::INVALID_STATE && close.by_client));
}

#[test]
fn unknown_frames_are_ignored_until_there_are_too_many() {
    let mut pair = open();
    let now = pair.now;
    let session = &mut pair.server().session;
    for _ in 0..64 {
        session.handle_frame(now, MAIN, Frame::Unknown(0xa0));
    }
    assert_eq!(session.poll_transmit(now, MAIN), None);
    session.handle_frame(now, MAIN, Frame::Unknown(0xa0));
    assert!(
        matches!(session.poll_transmit(now, MAIN), Some(Frame::Error(failure))
        if failure.code == Code::PROTOCOL_ERROR)
    );
    assert_eq!(session.stats().unknown_frames, 65);
}

#[test]
fn frames_of_other_extensions_are_answered_once() {
    let mut pair = open();
    let now = pair.now;
    let session = &mut pair.server().session;
    for kind in [0x54, 0x70, 0x80, 0x90] {
        session.handle_frame(now, MAIN, Frame::Unknown(kind));
    }
    session.handle_frame(now, MAIN, Frame::WebRtcOffer("v=0".to_owned()));
    let frames: Vec<_> = std::iter::from_fn(|| session.poll_transmit(now, MAIN)).collect();
    assert!(matches!(&frames[..], [Frame::Error(failure)] if failure.code == Code::INVALID_STATE));
    assert!(matches!(session.status(), Status::Established { .. }));
}

#[test]
fn a_ping_is_answered_with_its_payload() {
    let payload = Bytes::from_static(b"anything");
    let (frames, end) = answer_to(Frame::Ping(payload.clone()));
    assert_eq!(frames, [Frame::Pong(payload)]);
    assert_eq!(end, None);
}

#[test]
fn a_flood_of_pings_is_answered_within_a_budget_and_stops_being_read() {
    let mut pair = open();
    let now = pair.now;
    let session = &mut pair.server().session;
    for _ in 0..1000 {
        session.handle_frame(now, MAIN, Frame::Ping(Bytes::new()));
    }
    let frames = std::iter::from_fn(|| session.poll_transmit(now, MAIN)).count();
    assert!(frames < 64, "{frames} answers");
    assert_eq!(session.stats().ignored_pings, 1000 - frames as u64);
    // Ten more a second.
    let later = now + Duration::from_secs(1);
    for _ in 0..1000 {
        session.handle_frame(later, MAIN, Frame::Ping(Bytes::new()));
    }
    let frames = std::iter::from_fn(|| session.poll_transmit(later, MAIN)).count();
    assert!((10..=11).contains(&frames), "{frames} answers");
}

#[test]
fn xoff_stops_data_and_nothing_else() {
    let mut pair = open();
    let now = pair.now;
    let seat = pair.server();
    seat.session
        .handle_frame(now, MAIN, Frame::FlowControl(Flow::Pause));
    assert_eq!(seat.write(100), 100);
    seat.session
        .handle_frame(now, MAIN, Frame::Ping(Bytes::new()));
    assert_eq!(
        seat.session.poll_transmit(now, MAIN),
        Some(Frame::Pong(Bytes::new()))
    );
    assert_eq!(seat.session.poll_transmit(now, MAIN), None);
    seat.session
        .handle_frame(now, MAIN, Frame::FlowControl(Flow::Resume));
    assert!(matches!(
        seat.session.poll_transmit(now, MAIN),
        Some(Frame::Data(_))
    ));
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_memory_stays_bounded() {
    let mut pair = open();
    pair.client.reads = false;
    let mut written = 0;
    for _ in 0..2000 {
        written += pair.server().write(100_000);
        pair.run(Duration::from_millis(20));
    }
    let (client, server) = (pair.client.session.stats(), pair.server().session.stats());
    assert!(written < 4 * 1024 * 1024, "{written} bytes were taken");
    assert!(client.buffered <= 1_200_000, "{client:?}");
    assert!(server.retained <= 1_100_000, "{server:?}");
    assert_eq!(pair.server().session.write_capacity(), 0);
    // Control goes on, and nobody takes the other for dead.
    pair.client.session.signal(Signal::Int);
    pair.run(Duration::from_secs(120));
    assert!(pair.server().saw(&Event::Signal(Signal::Int)));
    pair.server().events.clear();
    pair.client.reads = true;
    pair.run(Duration::from_secs(1));
    assert!(pair.server().saw(&Event::Writable));
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.client.received, written as u64);
}

#[test]
fn an_idle_session_stays_open_by_pings() {
    let mut pair = open();
    pair.run(Duration::from_secs(3600));
    assert!(matches!(
        pair.client.session.status(),
        Status::Established { .. }
    ));
    assert!(pair.client.session.rtt().is_some());
    assert_eq!(pair.client.session.stats().retained, 0);
}

#[test]
fn a_silent_path_is_lost_after_interval_and_timeout() {
    let mut pair = open();
    pair.silence(MAIN);
    pair.run(Duration::from_secs(35));
    assert_ne!(pair.client.session.status(), Status::Disconnected);
    pair.run(Duration::from_secs(10));
    let lost = Event::ClosePath {
        path: MAIN,
        cause: PathCause::Lost,
    };
    assert!(pair.client.saw(&lost) && pair.client.saw(&Event::Disconnected));
    assert!(pair.server().saw(&lost) && pair.server().saw(&Event::Disconnected));
}

#[test]
fn without_resume_a_silent_path_ends_the_session_with_ping_timeout() {
    let mut pair = without_resume(Mode::Pty);
    pair.silence(MAIN);
    pair.run(Duration::from_secs(45));
    for seat in [&pair.client, pair.server.as_ref().expect("accepted")] {
        assert_eq!(
            seat.end().map(|end| &end.reason),
            Some(&EndReason::TimedOut)
        );
    }
}

#[test]
fn without_resume_a_lost_transport_ends_the_session() {
    let mut pair = without_resume(Mode::Tunnel);
    pair.cut(MAIN);
    pair.run(Duration::from_secs(1));
    for seat in [&pair.client, pair.server.as_ref().expect("accepted")] {
        assert_eq!(
            seat.end().map(|end| &end.reason),
            Some(&EndReason::TransportLost)
        );
    }
}

#[test]
fn without_resume_data_is_not_numbered_and_not_kept() {
    let mut pair = without_resume(Mode::Pty);
    let now = pair.now;
    let seat = pair.server();
    seat.write(10);
    assert!(matches!(seat.session.poll_transmit(now, MAIN),
        Some(Frame::Data(data)) if data.number.is_none()));
    assert_eq!(seat.session.stats().retained, 0);
}

#[test]
fn sizes_of_a_dragged_window_are_one() {
    let mut pair = open();
    for columns in 1..=100 {
        pair.client.session.resize(Size {
            columns,
            rows: 40,
            ..Size::default()
        });
        pair.run(Duration::from_millis(1));
    }
    pair.run(Duration::from_secs(1));
    let sizes: Vec<_> = pair
        .server()
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Resize(size) => Some(size.columns),
            _ => None,
        })
        .collect();
    assert!(sizes.len() < 10, "{sizes:?}");
    assert_eq!(sizes.last(), Some(&100));
}

#[test]
fn small_writes_travel_together() {
    let mut pair = open();
    let now = pair.now;
    let seat = pair.server();
    for _ in 0..100 {
        seat.write(7);
    }
    assert!(matches!(seat.session.poll_transmit(now, MAIN),
        Some(Frame::Data(data)) if data.bytes.len() == 700));
}

#[test]
fn half_close_tells_the_end_of_one_direction_between_two_that_know_it() {
    let mut client = ClientConfig::new(Mode::Tunnel);
    client.half_close = true;
    let server = ServerConfig {
        half_close: true,
        ..ServerConfig::default()
    };
    let mut pair = Pair::open(client, server);
    pair.client.write(1000);
    assert!(pair.client.session.finish());
    assert_eq!(pair.client.session.write_capacity(), 0);
    pair.run(Duration::from_secs(1));
    assert!(pair.server().saw(&Event::ReadEnd));
    assert_eq!(pair.server().received, 1000);
    assert_eq!(pair.server().write(5), 5);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.client.received, 5);
    assert!(!open().client.session.finish(), "off by default");
}

#[test]
fn a_path_that_is_not_read_is_written_to_so_that_its_end_is_noticed() {
    let config = ServerConfig::default();
    let mut pair = Pair::open(ClientConfig::new(Mode::Pty), config);
    let (mut now, main) = (pair.now, MAIN);
    let session = &mut pair.server().session;
    let mut number = 0;
    while session.wants_frames(main) {
        number += 1;
        let data = Data {
            number: Some(number),
            bytes: vec![7; 16 * 1024].into(),
            end: false,
        };
        session.handle_frame(now, main, Frame::Data(data));
    }
    while session.poll_transmit(now, main).is_some() {}
    for _ in 0..3 {
        now += Duration::from_secs(30);
        session.handle_timeout(now);
        let sent: Vec<_> = std::iter::from_fn(|| session.poll_transmit(now, main)).collect();
        assert!(matches!(sent[..], [Frame::Ping(_)]), "{sent:?}");
        assert!(session.poll_timeout().is_some_and(|due| due > now));
    }
    // What cannot leave does not pile up.
    for _ in 0..100 {
        now += Duration::from_secs(30);
        session.handle_timeout(now);
    }
    let sent = std::iter::from_fn(|| session.poll_transmit(now, main));
    assert_eq!(sent.count(), 1);
}
