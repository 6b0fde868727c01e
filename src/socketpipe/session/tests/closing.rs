//! The end: nothing written before it is cut off, both ends learn why, and nobody waits for ever.

use std::time::Duration;

use super::pair::{Pair, Seat};
use crate::socketpipe::{
    Code, Failure, Flow, Frame,
    session::{
        By, ClientConfig, EndReason, Event, Mode, PathCause, PathId, ServerConfig, Signaling,
        Status,
    },
};

const MAIN: PathId = PathId(1);

fn open() -> Pair {
    let mut client = ClientConfig::new(Mode::Pty);
    client.webrtc = true;
    let server = ServerConfig {
        webrtc: true,
        ..ServerConfig::default()
    };
    Pair::open(client, server)
}

fn close_code(seat: &Seat) -> (By, Code, String) {
    let end = seat.end().expect("it is over");
    match &end.reason {
        EndReason::Close(close) => (end.by, close.code, close.message.clone()),
        other => panic!("another end: {other:?}"),
    }
}

#[test]
fn what_was_written_before_close_arrives_before_it() {
    let mut pair = open();
    pair.server().write(250_000);
    let now = pair.now;
    pair.server()
        .session
        .close(now, Code::BACKEND_CLOSED, "exit=3");
    assert_eq!(pair.server().session.status(), Status::Closing);
    assert_eq!(pair.server().write(1), 0);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.client.received, 250_000);
    let told = ("exit=3".to_owned(), Code::BACKEND_CLOSED);
    assert_eq!(
        close_code(&pair.client),
        (By::Remote, told.1, told.0.clone())
    );
    assert_eq!(close_code(pair.server()), (By::Local, told.1, told.0));
    for seat in [&pair.client, pair.server.as_ref().expect("accepted")] {
        assert!(seat.saw(&Event::ClosePath {
            path: MAIN,
            cause: PathCause::Closed,
        }));
        assert!(matches!(seat.events.last(), Some(Event::Closed(_))));
        assert_eq!(seat.session.poll_timeout(), None);
    }
}

#[test]
fn close_does_not_overtake_data_on_the_channel() {
    let mut pair = open();
    let now = pair.now;
    let offer = Signaling::Offer("v=0".to_owned());
    pair.client.session.signal_webrtc(now, offer);
    pair.run(Duration::from_secs(1));
    pair.delay = Duration::from_millis(400);
    assert!(pair.attach().is_some());
    pair.run(Duration::from_secs(3));
    for wire in &mut pair.wires {
        if wire.id == MAIN {
            wire.delay = Duration::ZERO;
        }
    }
    pair.server().write(200_000);
    let now = pair.now;
    pair.server().session.close(now, Code::NORMAL, "");
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.client.received, 200_000);
    assert_eq!(close_code(&pair.client).1, Code::NORMAL);
}

#[test]
fn both_may_close_at_once() {
    let mut pair = open();
    let now = pair.now;
    pair.client.session.close(now, Code::USER, "bye");
    pair.server().session.close(now, Code::GOING_AWAY, "");
    pair.run(Duration::from_secs(1));
    assert_eq!(close_code(&pair.client).0, By::Local);
    assert_eq!(close_code(pair.server()).0, By::Local);
}

#[test]
fn an_unanswered_close_is_dropped_after_five_seconds() {
    let mut pair = open();
    pair.silence(MAIN);
    let now = pair.now;
    pair.client.session.close(now, Code::USER, "");
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.client.end(), None);
    pair.run(Duration::from_secs(2));
    assert_eq!(
        close_code(&pair.client),
        (By::Local, Code::USER, String::new())
    );
}

#[test]
fn the_tail_and_the_reason_wait_for_a_client_that_comes_back() {
    let mut pair = open();
    pair.cut(MAIN);
    pair.server().write(5000);
    let now = pair.now;
    pair.server()
        .session
        .close(now, Code::BACKEND_CLOSED, "exit=0");
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.server().end(), None);
    pair.connect();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.client.received, 5000);
    assert_eq!(close_code(&pair.client).1, Code::BACKEND_CLOSED);
    assert!(pair.server().end().is_some());
}

#[test]
fn a_tail_lost_together_with_its_close_is_sent_again() {
    let mut pair = open();
    pair.server().write(5000);
    let now = pair.now;
    pair.server().session.close(now, Code::BACKEND_CLOSED, "");
    pair.run(Duration::from_millis(1));
    pair.cut(MAIN);
    assert_eq!(pair.client.received, 0);
    pair.connect();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.client.received, 5000);
    assert_eq!(close_code(&pair.client).1, Code::BACKEND_CLOSED);
}

#[test]
fn a_client_without_transport_ends_at_once() {
    let mut pair = open();
    pair.cut(MAIN);
    let now = pair.now;
    pair.client.session.close(now, Code::USER, "");
    pair.run(Duration::ZERO);
    assert_eq!(close_code(&pair.client).1, Code::USER);
}

/// The client begins to move to a second path; afterwards the delays are these, in milliseconds.
fn moving(old: u64, new: u64) -> Pair {
    let mut pair = open();
    pair.client.write(5000);
    for wire in &mut pair.wires {
        wire.delay = Duration::from_millis(old);
    }
    pair.delay = Duration::from_millis(new);
    pair.connect();
    pair
}

#[test]
fn a_close_during_a_move_reaches_the_server_wherever_it_is() {
    for (old, new) in [(5, 50), (50, 5), (20, 20)] {
        for after in [0, 4, 12, 52, 57, 70, 99, 200] {
            let mut pair = moving(old, new);
            pair.run(Duration::from_millis(after));
            pair.client.write(1000);
            let had_main = matches!(pair.client.session.status(), Status::Established { .. });
            let now = pair.now;
            pair.client.session.close(now, Code::USER, "bye");
            pair.run(Duration::from_secs(2));
            let case = format!("{old} ms, {new} ms, closed after {after} ms");
            assert!(pair.client.end().is_some(), "the client: {case}");
            assert!(pair.server().end().is_some(), "the server: {case}");
            assert_eq!(close_code(pair.server()).1, Code::USER, "{case}");
            // Without a main path nothing waits for a client that ends.
            let sent = if had_main { 6000 } else { 5000 };
            assert_eq!(pair.server().received, sent, "{case}");
        }
    }
}

#[test]
fn an_abort_during_a_move_reaches_the_server_wherever_it_is() {
    for after in [0, 12, 52, 57, 70, 99] {
        let mut pair = moving(5, 50);
        pair.run(Duration::from_millis(after));
        let now = pair.now;
        pair.client.session.abort(now, Code::USER, "");
        pair.run(Duration::from_secs(2));
        assert!(
            pair.client.end().is_some() && pair.server().end().is_some(),
            "after {after} ms"
        );
    }
}

#[test]
fn a_close_whose_answer_is_late_is_told_on_the_new_path_too() {
    let mut pair = moving(5, 4000);
    pair.silence(MAIN);
    let now = pair.now;
    pair.client.session.close(now, Code::USER, "");
    pair.run(Duration::from_secs(40));
    assert_eq!(close_code(&pair.client).1, Code::USER);
    assert_eq!(close_code(pair.server()).1, Code::USER);
}

#[test]
fn a_close_during_a_move_does_not_wait_for_paths_that_are_gone() {
    let mut pair = moving(5, 50);
    let new = pair.wires.last().expect("the new one").id;
    let now = pair.now;
    pair.client.session.close(now, Code::USER, "");
    pair.cut(MAIN);
    pair.run(Duration::ZERO);
    assert_eq!(pair.client.end(), None);
    pair.cut(new);
    pair.run(Duration::ZERO);
    assert_eq!(
        close_code(&pair.client),
        (By::Local, Code::USER, String::new())
    );
    assert!(!pair.client.saw(&Event::Disconnected));
}

#[test]
fn abort_tells_the_error_and_drops_what_was_not_sent() {
    let mut pair = open();
    pair.server().write(250_000);
    let now = pair.now;
    pair.server()
        .session
        .abort(now, Code::CONNECT_FAILED, "the backend broke");
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.client.received, 0);
    let failure = Failure::new(Code::CONNECT_FAILED, "the backend broke");
    assert_eq!(
        pair.client.end().map(|end| &end.reason),
        Some(&EndReason::Failed(failure))
    );
    assert_eq!(close_code(pair.server()).1, Code::CONNECT_FAILED);
}

#[test]
fn a_session_that_is_aborted_waits_for_nobody_whose_path_is_lost() {
    let mut pair = open();
    pair.server().write(5000);
    pair.run(Duration::from_millis(1));
    let now = pair.now;
    pair.server().session.abort(now, Code::POLICY, "no more");
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.server().end(), None, "the answer is awaited");
    pair.cut(MAIN);
    pair.run(Duration::ZERO);
    assert_eq!(
        close_code(pair.server()),
        (By::Local, Code::POLICY, "no more".to_owned())
    );
}

#[test]
fn an_error_without_close_ends_the_session_after_five_seconds() {
    let mut pair = open();
    let now = pair.now;
    let failure = Failure::new(Code::BACKEND_CLOSED, "backend closed");
    pair.client
        .session
        .handle_frame(now, MAIN, Frame::Error(failure.clone()));
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.client.end(), None);
    pair.run(Duration::from_secs(2));
    assert_eq!(
        pair.client.end().map(|end| &end.reason),
        Some(&EndReason::Failed(failure))
    );
}

#[test]
fn an_error_of_a_client_counts_as_close() {
    let mut pair = open();
    let now = pair.now;
    let failure = Failure::new(Code::PROTOCOL_ERROR, "no");
    pair.server()
        .session
        .handle_frame(now, MAIN, Frame::Error(failure));
    pair.run(Duration::from_secs(1));
    assert_eq!(
        close_code(pair.server()),
        (By::Remote, Code::PROTOCOL_ERROR, "no".to_owned())
    );
}

#[test]
fn a_peer_that_takes_nothing_does_not_hold_the_end_for_ever() {
    let mut pair = open();
    pair.silence(MAIN);
    pair.server().write(250_000);
    let now = pair.now;
    pair.server().session.close(now, Code::GOING_AWAY, "");
    pair.run(Duration::from_secs(400));
    assert!(pair.server().end().is_some());
}

#[test]
fn a_paused_peer_gets_the_rest_when_it_goes_on() {
    let mut pair = open();
    let now = pair.now;
    let session = &mut pair.server().session;
    session.handle_frame(now, MAIN, Frame::FlowControl(Flow::Pause));
    pair.server().write(1000);
    pair.server().session.close(now, Code::BACKEND_CLOSED, "");
    pair.run(Duration::from_secs(120));
    assert_eq!(pair.client.received, 0);
    let now = pair.now;
    pair.server()
        .session
        .handle_frame(now, MAIN, Frame::FlowControl(Flow::Resume));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.client.received, 1000);
    assert_eq!(close_code(&pair.client).1, Code::BACKEND_CLOSED);
}
