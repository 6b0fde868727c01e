//! Session Resume: numbers at their edges, newest wins, the repair of what the client sent, expiry.

use std::time::Duration;

use bytes::Bytes;

use super::pair::Pair;
use crate::socketpipe::{
    Code, Data, Frame, HandshakeResponse, ResumeRequest, ResumeResponse, SessionId, SessionInfo,
    Size,
    frame::{Accepted, Capabilities},
    session::{
        Claimant, ClientConfig, EndReason, Event, Mode, Overflow, PathCause, PathId, PathKind,
        ResumeConfig, ServerConfig, Session, Sessions, Status,
    },
};

const MAIN: PathId = PathId(1);
const SECOND: PathId = PathId(9);

fn open() -> Pair {
    Pair::open(ClientConfig::new(Mode::Pty), ServerConfig::default())
}

fn resume_request(id: SessionId, last: u64) -> ResumeRequest {
    let token = Bytes::new();
    ResumeRequest { id, last, token }
}

/// Server that has sent this many numbered pieces of one byte.
fn server_with(pieces: usize, config: ServerConfig) -> Pair {
    let mut pair = Pair::open(ClientConfig::new(Mode::Pty), config);
    let now = pair.now;
    let seat = pair.server();
    for _ in 0..pieces {
        seat.write(1);
        assert!(matches!(
            seat.session.poll_transmit(now, MAIN),
            Some(Frame::Data(_))
        ));
    }
    pair
}

fn ask(pair: &mut Pair, last: u64) -> Result<(u64, u32, Option<u64>), Code> {
    let now = pair.now;
    let session = &mut pair.server().session;
    let id = session.session_id().expect("resume is agreed").clone();
    let request = resume_request(id, last);
    session
        .resume(now, SECOND, PathKind::Stream, &request)
        .map_err(|failure| failure.code)?;
    match session.poll_transmit(now, SECOND) {
        Some(Frame::ResumeResponse(ResumeResponse::Accepted {
            start,
            count,
            received,
        })) => Ok((start, count, received)),
        other => panic!("not the response: {other:?}"),
    }
}

#[test]
fn the_replay_begins_behind_the_last_number_received() {
    let mut pair = server_with(5, ServerConfig::default());
    assert_eq!(ask(&mut pair, 2), Ok((3, 3, Some(0))));
    let now = pair.now;
    let session = &mut pair.server().session;
    let numbers: Vec<_> = std::iter::from_fn(|| session.poll_transmit(now, SECOND))
        .map(|frame| match frame {
            Frame::Data(data) => data.number,
            other => panic!("not DATA: {other:?}"),
        })
        .collect();
    assert_eq!(numbers, [Some(3), Some(4), Some(5)]);
}

#[test]
fn nothing_is_replayed_when_nothing_is_missing() {
    let mut pair = server_with(5, ServerConfig::default());
    assert_eq!(ask(&mut pair, 5), Ok((6, 0, Some(0))));
}

#[test]
fn a_number_that_was_never_sent_is_a_mismatch() {
    let mut pair = server_with(5, ServerConfig::default());
    assert_eq!(ask(&mut pair, 6), Err(Code::SEQUENCE_MISMATCH));
    assert_eq!(ask(&mut pair, u64::MAX), Err(Code::SEQUENCE_MISMATCH));
    assert_eq!(ask(&mut pair, 5), Ok((6, 0, Some(0))));
}

#[test]
fn another_name_is_not_found() {
    let mut pair = server_with(1, ServerConfig::default());
    let now = pair.now;
    let id = SessionId::new(vec![8; 32]).expect("an id");
    let request = resume_request(id, 0);
    let session = &mut pair.server().session;
    let refused = session.resume(now, SECOND, PathKind::Stream, &request);
    assert_eq!(
        refused.map_err(|failure| failure.code),
        Err(Code::SESSION_NOT_FOUND)
    );
    assert!(matches!(
        session.status(),
        Status::Established { main: MAIN, .. }
    ));
}

fn by<'a>(peer: Option<&'a [u8]>, token: &'a [u8]) -> Claimant<'a> {
    Claimant { peer, token }
}

/// Whether a session opened by the first is given to the second.
fn passes(opened_by: &Claimant<'_>, claimant: &Claimant<'_>) -> bool {
    let id = SessionId::new(vec![8; 32]).expect("an id");
    let mut sessions = Sessions::default();
    sessions.insert(&id, Mode::Pty, opened_by, 1);
    match sessions.find(&id, Mode::Pty, claimant) {
        Ok(key) => *key == 1,
        Err(failure) => {
            assert_eq!(failure.code, Code::SESSION_NOT_FOUND);
            false
        }
    }
}

#[test]
fn sessions_are_found_by_name_and_endpoint() {
    let id = SessionId::new(vec![8; 32]).expect("an id");
    let other = SessionId::new(vec![9; 32]).expect("an id");
    let nobody = by(None, b"");
    let mut sessions = Sessions::default();
    sessions.insert(&id, Mode::Pty, &nobody, 1);
    assert_eq!(sessions.find(&id, Mode::Pty, &nobody), Ok(&1));
    assert!(sessions.find(&other, Mode::Pty, &nobody).is_err());
    assert!(sessions.find(&id, Mode::Tunnel, &nobody).is_err());
    assert_eq!(sessions.remove(&id), Some(1));
    assert!(sessions.is_empty() && sessions.find(&id, Mode::Pty, &nobody).is_err());
}

#[test]
fn on_the_same_kind_of_path_the_peer_counts_and_no_token() {
    let alice = by(Some(b"alice"), b"token");
    assert!(passes(&alice, &by(Some(b"alice"), b"")));
    assert!(passes(&alice, &by(Some(b"alice"), b"another")));
    assert!(!passes(&alice, &by(Some(b"mallory"), b"token")));
    assert!(passes(&by(None, b"token"), &by(None, b"")));
}

#[test]
fn on_another_kind_of_path_the_same_token_counts() {
    for (opened_by, there) in [(Some(&b"alice"[..]), None), (None, Some(&b"bob"[..]))] {
        let opened = by(opened_by, b"token");
        assert!(passes(&opened, &by(there, b"token")));
        for wrong in [&b""[..], b"toke", b"tokens"] {
            assert!(!passes(&opened, &by(there, wrong)), "{wrong:?}");
        }
        // Let in without a token that may travel: no token does.
        for any in [&b""[..], b"token"] {
            assert!(!passes(&by(opened_by, b""), &by(there, any)), "{any:?}");
        }
    }
}

#[test]
fn the_memory_holds_its_limit_exactly_and_the_backend_waits() {
    let config = ServerConfig {
        resume: Some(ResumeConfig {
            retained: 64 * 1024,
            ..ResumeConfig::default()
        }),
        ..ServerConfig::default()
    };
    let mut pair = Pair::open(ClientConfig::new(Mode::Pty), config);
    pair.cut(MAIN);
    pair.run(Duration::from_secs(1));
    let seat = pair.server();
    assert_eq!(seat.write(64 * 1024 + 1), 64 * 1024);
    assert_eq!(seat.session.write_capacity(), 0);
    pair.connect();
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.client.received, 64 * 1024);
    assert!(pair.server().saw(&Event::Writable));
}

#[test]
fn a_terminal_that_runs_on_drops_output_and_then_refuses_to_resume() {
    let config = ServerConfig {
        resume: Some(ResumeConfig {
            retained: 64 * 1024,
            overflow: Overflow::DropOldest,
            ..ResumeConfig::default()
        }),
        ..ServerConfig::default()
    };
    let mut pair = Pair::open(ClientConfig::new(Mode::Pty), config);
    pair.cut(MAIN);
    let seat = pair.server();
    for _ in 0..10 {
        assert_eq!(seat.write(20_000), 20_000);
        assert!(seat.session.stats().retained <= 64 * 1024);
    }
    assert_eq!(ask(&mut pair, 0), Err(Code::BUFFER_OVERFLOW));
    pair.connect();
    pair.run(Duration::from_secs(1));
    let end = pair.client.end().expect("the client is told");
    assert!(
        matches!(&end.reason, EndReason::ResumeRefused { failure, .. }
        if failure.code == Code::BUFFER_OVERFLOW)
    );
}

#[test]
fn a_lost_transport_costs_no_byte_in_either_direction() {
    for mode in [Mode::Pty, Mode::Tunnel] {
        let mut pair = Pair::open(ClientConfig::new(mode), ServerConfig::default());
        pair.reconnect = Some(Duration::from_millis(100));
        pair.client.write(50_000);
        pair.server().write(50_000);
        pair.run(Duration::from_millis(12));
        pair.cut(MAIN);
        pair.client.write(1000);
        pair.run(Duration::from_millis(50));
        // Nobody noticed a second break in the middle of the replay.
        pair.run(Duration::from_millis(60));
        let second = pair.wires.last().expect("connected again").id;
        pair.silence(second);
        pair.run(Duration::from_secs(120));
        let (received, written) = (pair.server().received, pair.server().written);
        assert_eq!(received, pair.client.written);
        assert_eq!(pair.client.received, written);
    }
}

#[test]
fn a_session_moves_to_a_better_connection_while_the_old_one_works() {
    let mut pair = open();
    pair.client.write(40_000);
    pair.server().write(200_000);
    pair.run(Duration::from_millis(15));
    pair.delay = Duration::from_millis(1);
    let direct = pair.connect();
    pair.client.write(10_000);
    pair.run(Duration::from_secs(5));
    assert!(matches!(pair.client.session.status(),
        Status::Established { main, data } if main == direct && data == direct));
    let replaced = Event::ClosePath {
        path: MAIN,
        cause: PathCause::Replaced,
    };
    assert!(pair.client.saw(&replaced) && pair.server().saw(&replaced));
    assert!(!pair.client.saw(&Event::Disconnected) && !pair.server().saw(&Event::Disconnected));
    assert_eq!(pair.client.received, 200_000);
    assert_eq!(pair.server.as_ref().map(|seat| seat.received), Some(50_000));
}

#[test]
fn what_arrives_on_the_old_path_during_a_slow_move_is_not_confirmed_away() {
    let mut pair = open();
    pair.delay = Duration::from_millis(800);
    let slow = pair.connect();
    for _ in 0..60 {
        pair.server().write(20_000);
        pair.run(Duration::from_millis(30));
    }
    pair.run(Duration::from_secs(60));
    assert!(
        matches!(pair.client.session.status(), Status::Established { main, .. } if main == slow)
    );
    assert_eq!(
        pair.client.received,
        pair.server.as_ref().map_or(0, |seat| seat.written)
    );
}

#[test]
fn a_failed_move_leaves_the_session_where_it_is() {
    let mut pair = open();
    let better = pair.connect();
    pair.silence(better);
    pair.run(Duration::from_secs(60));
    assert!(matches!(
        pair.client.session.status(),
        Status::Established { main: MAIN, .. }
    ));
    pair.server().write(100);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.client.received, 100);
}

#[test]
fn a_resume_overtaken_by_a_later_one_does_not_end_the_session() {
    let mut pair = open();
    pair.reconnect = Some(Duration::from_millis(10));
    let slow = pair.connect();
    if let Some(wire) = pair.wires.iter_mut().find(|wire| wire.id == slow) {
        wire.delay = Duration::from_millis(463);
    }
    pair.run(Duration::ZERO);
    pair.delay = Duration::ZERO;
    pair.connect();
    pair.server().write(100);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.client.end(), None);
    assert_eq!(pair.client.received, 100);
}

#[test]
fn another_connection_with_the_name_takes_the_session_over() {
    let mut pair = open();
    assert!(ask(&mut pair, 0).is_ok());
    pair.run(Duration::from_secs(1));
    let end = pair.client.end().expect("the older one is told");
    assert!(matches!(&end.reason, EndReason::Close(close) if close.code == Code::REPLACED));
    assert!(matches!(
        pair.server().session.status(),
        Status::Established { main: SECOND, .. }
    ));
}

#[test]
fn a_session_nobody_comes_back_to_expires() {
    let mut pair = open();
    pair.cut(MAIN);
    pair.run(Duration::from_secs(299));
    assert_eq!(pair.server().end(), None);
    pair.run(Duration::from_secs(2));
    for seat in [&pair.client, pair.server.as_ref().expect("accepted")] {
        assert_eq!(seat.end().map(|end| &end.reason), Some(&EndReason::Expired));
    }
    assert_eq!(ask(&mut pair, 0), Err(Code::SESSION_NOT_FOUND));
}

#[test]
fn the_size_is_told_again_and_applied_behind_the_replay() {
    let mut pair = open();
    let size = |columns| Size {
        columns,
        rows: 40,
        ..Size::default()
    };
    pair.client.session.resize(size(80));
    pair.run(Duration::from_secs(1));
    pair.cut(MAIN);
    pair.server().write(60_000);
    pair.client.session.resize(size(100));
    pair.server().events.clear();
    pair.connect();
    pair.run(Duration::from_millis(35));
    let applied = |pair: &mut Pair| pair.server().saw(&Event::Resize(size(100)));
    pair.run(Duration::from_secs(1));
    assert!(applied(&mut pair));
    assert_eq!(pair.client.received, 60_000);
}

#[test]
fn the_server_drops_numbers_it_has_seen() {
    let mut pair = open();
    let now = pair.now;
    let seat = pair.server();
    for number in [1, 2, 1, 2, 3] {
        let data = Data {
            number: Some(number),
            bytes: Bytes::from(vec![number as u8]),
            end: false,
        };
        seat.session.handle_frame(now, MAIN, Frame::Data(data));
    }
    let read: Vec<_> = std::iter::from_fn(|| seat.session.read(now))
        .flatten()
        .collect();
    assert_eq!(read, [1, 2, 3]);
}

/// A client whose server answers a resume without the appended number, as published.
fn resumed_by_a_published_server(mode: Mode) -> (Session, crate::socketpipe::session::Instant) {
    let now = super::pair::beginning();
    let mut client = Session::client(ClientConfig::new(mode), [0; 32]);
    client.connect(now, MAIN, PathKind::WebSocket);
    let accepted = Accepted {
        capabilities: Capabilities::RESUME,
        major: 1,
        minor: 0,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
    };
    client.handle_frame(
        now,
        MAIN,
        Frame::HandshakeResponse(HandshakeResponse::Accepted(accepted)),
    );
    let info = SessionInfo {
        id: SessionId::new(vec![1; 16]).expect("an id"),
        timeout: 0,
        retained: 65_536,
    };
    client.handle_frame(now, MAIN, Frame::SessionId(info));
    client.write(&mut Bytes::from_static(b"rm -r x\r"));
    while client.poll_transmit(now, MAIN).is_some() {}
    client.path_lost(now, MAIN);
    client.connect(now, SECOND, PathKind::WebSocket);
    assert!(matches!(
        client.poll_transmit(now, SECOND),
        Some(Frame::ResumeRequest(request)) if request.last == 0
    ));
    let response = ResumeResponse::Accepted {
        start: 1,
        count: 0,
        received: None,
    };
    client.handle_frame(now, SECOND, Frame::ResumeResponse(response));
    (client, now)
}

#[test]
fn a_terminal_does_not_repeat_to_a_server_that_cannot_say_what_it_has() {
    let (mut client, now) = resumed_by_a_published_server(Mode::Pty);
    assert_eq!(client.poll_transmit(now, SECOND), None);
    client.write(&mut Bytes::from_static(b"y"));
    assert!(matches!(client.poll_transmit(now, SECOND),
        Some(Frame::Data(data)) if data.number == Some(2) && &data.bytes[..] == b"y"));
}

#[test]
fn a_tunnel_ends_rather_than_have_a_gap() {
    let (mut client, now) = resumed_by_a_published_server(Mode::Tunnel);
    assert!(matches!(client.poll_transmit(now, SECOND),
        Some(Frame::Close(close)) if close.code == Code::SEQUENCE_MISMATCH));
    assert_eq!(client.status(), Status::Closed);
}

#[test]
fn a_client_that_cannot_repeat_may_go_on_in_a_terminal_only() {
    for (mode, ends) in [(Mode::Pty, false), (Mode::Tunnel, true)] {
        let mut pair = Pair::open(ClientConfig::new(mode), ServerConfig::default());
        assert!(ask(&mut pair, 0).is_ok());
        let now = pair.now;
        let session = &mut pair.server().session;
        let data = Data {
            number: Some(7),
            bytes: Bytes::from_static(b"k"),
            end: false,
        };
        session.handle_frame(now, SECOND, Frame::Data(data));
        assert_eq!(session.status() == Status::Closed, ends, "{mode:?}");
    }
}

#[test]
fn confirmed_output_is_not_kept() {
    let mut pair = open();
    for _ in 0..64 {
        pair.server().write(60_000);
        pair.run(Duration::from_millis(200));
    }
    let retained = pair.server().session.stats().retained;
    assert!(retained < 256 * 1024, "{retained} bytes kept");
    assert_eq!(
        pair.client.received,
        pair.server.as_ref().map_or(0, |seat| seat.written)
    );
}
