//! The WebRTC upgrade from end to end: sessions of the library's server and client, on WebSockets in memory and on data
//! channels over real UDP sockets, through everything that can happen to either. The byte stream is the same on both
//! ends; nothing is left behind.
#![cfg(feature = "socketpipe")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "what the tests wait for takes real time"
)]

mod socketpipe_memory;
mod socketpipe_upgrade_common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt as _;
use libp2p_rtc::socketpipe::{
    Capabilities, Carrier, Exit, Frame, HandshakeResponse, IceCandidate, Outcome, SessionStatus,
    Size,
    backend::Control,
    exit_of,
    session::{EndReason, Mode, ServerConfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    time::Instant,
};

#[cfg(feature = "gateway")]
use crate::socketpipe_upgrade_common::wire::Wires;
use crate::socketpipe_upgrade_common::{World, calls, piece, read, soon, until};

/// How long a session may stand still because its way was cut.
const TIME_TO_FALL_BACK: Duration = Duration::from_secs(10);

const BOTH: [Mode; 2] = [Mode::Tunnel, Mode::Pty];

fn is_offer(frame: &Frame) -> bool {
    matches!(frame, Frame::WebRtcOffer(_))
}

fn is_refusal(frame: &Frame) -> bool {
    matches!(frame, Frame::WebRtcAnswer(sdp) if sdp.is_empty())
}

/// What a server says that takes clients that cannot resume, too.
fn without_resume() -> ServerConfig {
    let mut config = ServerConfig::default();
    config.webrtc_without_resume = true;
    config
}

#[tokio::test]
async fn bytes_move_to_the_channel_under_load_in_both_directions() {
    for (mode, resume, websocket, udp) in [
        (Mode::Tunnel, true, 0, 0),
        (Mode::Pty, true, 200, 2),
        (Mode::Tunnel, false, 150, 0),
        (Mode::Pty, false, 2, 40),
    ] {
        let mut world = World::with(mode, without_resume(), calls());
        world.options.config.resume = resume;
        world.net.delay = Duration::from_millis(websocket);
        world.net.path.delay(Duration::from_millis(udp));
        world.net.path.lose_every(33);
        let ends = world.open().await;
        let handle = ends.session.handle();
        let load = ends.load();
        world.await_carrier(&handle, Carrier::WebRtcDirect).await;
        let ends = load.stop().await.exchange(100_000).await;
        assert!(ends.up > 100_000 && ends.down > 100_000);
        let SessionStatus::Connected { path } = handle.status() else {
            panic!("{:?}", handle.status());
        };
        assert!(path.starts_with("webrtc direct 127.0.0.1:"), "{path}");
        assert_eq!(handle.stats().repeated, 0);
        ends.close().await;
        let record = world.record().await;
        let both = [Carrier::WebSocket, Carrier::WebRtcDirect];
        assert_eq!(record.carriers, both);
        world.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn what_is_typed_arrives_by_the_channel_and_control_by_the_websocket() {
    let mut world = World::new(Mode::Pty);
    let mut ends = world.upgraded().await.exchange(10).await;
    let carried = world.net.path.carried();
    let size = Size {
        columns: 91,
        rows: 17,
        ..Size::default()
    };
    ends.session.handle().resize(size);
    assert_eq!(
        soon(ends.controls.next()).await,
        Some(Control::Resize(size))
    );
    assert!(world.net.count(|frame| matches!(frame, Frame::Resize(_))) > 0);
    let ends = ends.exchange(1).await;
    assert!(world.net.path.carried() > carried);
    world.finish(ends).await;
}

#[tokio::test]
async fn a_channel_killed_without_notice_is_left_within_ten_seconds_and_comes_back() {
    for mode in BOTH {
        let mut world = World::new(mode);
        let (handle, load) = world.loaded().await;
        until("much is on its way", || handle.stats().sent > 200_000).await;
        world.net.path.cut(true);
        let cut = Instant::now();
        world.await_carrier(&handle, Carrier::WebSocket).await;
        let stood = cut.elapsed();
        assert!(stood < TIME_TO_FALL_BACK, "{stood:?}");
        let ends = load.stop().await.exchange(100_000).await;
        // The client asked for another path, then gave up, then tried anew.
        assert!(world.net.count(is_offer) >= 2);
        world.net.path.cut(false);
        world.await_carrier(&handle, Carrier::WebRtcDirect).await;
        let ends = ends.exchange(100_000).await;
        world.finish(ends).await;
    }
}

#[tokio::test]
async fn a_path_that_comes_back_in_time_keeps_its_channel() {
    let mut world = World::new(Mode::Tunnel);
    let (handle, load) = world.loaded().await;
    world.net.path.cut(true);
    // The client notices, and offers an ICE restart on the WebSocket.
    let net = world.net.clone();
    until("the client restarts ICE", || net.count(is_offer) == 2).await;
    world.net.path.cut(false);
    let ends = load.stop().await.exchange(100_000).await;
    assert_eq!(handle.carrier(), Some(Carrier::WebRtcDirect));
    assert_eq!(handle.stats().repeated, 0, "the channel lost nothing");
    let answers = |frame: &Frame| matches!(frame, Frame::WebRtcAnswer(sdp) if !sdp.is_empty());
    until("the server answers it", || net.count(answers) == 2).await;
    let ready = |frame: &Frame| matches!(frame, Frame::WebRtcReady);
    assert_eq!(net.count(ready), 1, "it is the same channel");
    world.finish(ends).await;
}

#[tokio::test]
async fn a_websocket_killed_while_the_channel_lives_takes_it_along_and_both_come_back() {
    for mode in BOTH {
        let mut world = World::new(mode);
        let (handle, load) = world.loaded().await;
        until("much is on its way", || handle.stats().sent > 200_000).await;
        world.net.cut();
        let resumed = |frame: &Frame| matches!(frame, Frame::ResumeResponse(_));
        let net = world.net.clone();
        until("the session goes on", || net.count(resumed) == 1).await;
        until("WebRTC is offered anew", || net.count(is_offer) == 2).await;
        world.await_carrier(&handle, Carrier::WebRtcDirect).await;
        let ends = load.stop().await.exchange(100_000).await;
        world.finish(ends).await;
    }
}

#[tokio::test]
async fn close_comes_behind_a_mebibyte_that_is_queued_on_the_channel() {
    const ALL: u64 = 1024 * 1024;
    for resume in [true, false] {
        for mode in BOTH {
            let mut world = World::with(mode, without_resume(), calls());
            world.options.config.resume = resume;
            world.net.path.delay(Duration::from_millis(20));
            world.net.path.lose_every(50);
            let ends = world.upgraded().await;
            let handle = ends.session.handle();
            let (mut session, mut far) = (ends.session, ends.far);
            // The program ends when its last byte is written; the client begins to read then.
            let writing = tokio::spawn(async move {
                far.write_all(&piece(0, ALL)).await.unwrap();
                far.shutdown().await.unwrap();
                far
            });
            until("as much as the queues hold is on its way", || {
                world.server.sessions()[0].sent > 400_000
            })
            .await;
            soon(read(&mut session, 0, ALL)).await;
            drop(soon(writing).await.unwrap());
            assert_eq!(soon(session.read(&mut [0])).await.unwrap(), 0);
            assert_eq!(exit_of(&soon(handle.ended()).await), Exit::Code(7));
            drop(session);
            world.assert_nothing_left().await;
        }
    }
}

#[tokio::test]
async fn the_user_s_last_bytes_on_the_channel_are_not_cut_off() {
    let mut world = World::new(Mode::Tunnel);
    world.net.path.delay(Duration::from_millis(20));
    let ends = world.upgraded().await;
    let handle = ends.session.handle();
    let (mut session, mut far) = (ends.session, ends.far);
    let writing = tokio::spawn(async move {
        session.write_all(&piece(0, 1_000_000)).await.unwrap();
        session.flush().await.unwrap();
    });
    soon(read(&mut far, 0, 1_000_000)).await;
    soon(writing).await.unwrap();
    assert_eq!(soon(far.read(&mut [0])).await.unwrap(), 0);
    soon(handle.ended()).await;
    world.assert_nothing_left().await;
}

#[tokio::test]
async fn ready_behind_the_time_limit_changes_nothing() {
    let mut world = World::new(Mode::Tunnel);
    // The first READY comes after the client has given up a channel that is open on both ends, and offers another one.
    let late = Arc::new(Mutex::new(None));
    let (held, net) = (late.clone(), world.net.clone());
    world.net.down = Some(Arc::new(move |frame| match frame {
        Frame::WebRtcReady if net.count(is_offer) == 1 => {
            *held.lock().unwrap() = Some(frame);
            vec![]
        }
        Frame::WebRtcAnswer(_) => held
            .lock()
            .unwrap()
            .take()
            .into_iter()
            .chain([frame])
            .collect(),
        frame => vec![frame],
    }));
    let began = Instant::now();
    let ends = world.open().await;
    let handle = ends.session.handle();
    let load = ends.load();
    let net = world.net.clone();
    let ready = |frame: &Frame| matches!(frame, Frame::WebRtcReady);
    until("READY comes late", || net.count(ready) >= 1).await;
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(9), "{waited:?}");
    assert!(late.lock().unwrap().is_none());
    world.await_carrier(&handle, Carrier::WebRtcDirect).await;
    let ends = load.stop().await;
    assert_eq!(net.count(is_offer), 2, "the second attempt succeeds");
    assert_eq!(net.count(ready), 2);
    world.finish(ends).await;
}

/// On TCP and UDP, with READY on its way while the client gives up, a little earlier and a little later. The client decides:
/// whatever it does, both ends do the same.
#[cfg(feature = "gateway")]
#[tokio::test]
async fn ready_that_crosses_the_time_limit_leaves_every_byte_in_its_place() {
    let mut world = World::new(Mode::Tunnel);
    let mut wires = Wires::to(world.server.clone()).await;
    let mut sessions = Vec::new();
    // By at most 20 ms nobody can say which comes first: two of those.
    for around in [-500_i64, -20, 0, 0, 20, 500] {
        let millis = 10_000_u64.saturating_add_signed(around);
        let (connector, seen) = wires.with_ready_after(Duration::from_millis(millis)).await;
        let ends = world.open_by(connector).await;
        sessions.push((around, seen, ends.session.handle(), ends.load()));
    }
    let mut given_up = Vec::new();
    for (around, seen, handle, load) in sessions {
        until("the first READY arrives", || seen.readies() > 0).await;
        until("the session is on a channel", || {
            handle.carrier() == Some(Carrier::WebRtcDirect)
        })
        .await;
        let ends = load.stop().await.exchange(100_000).await;
        assert!(ends.up > 100_000 && ends.down > 100_000);
        assert_eq!(handle.carrier(), Some(Carrier::WebRtcDirect));
        assert_eq!(handle.losses(), 0);
        if seen.offers() > 1 {
            given_up.push(around);
        }
        ends.close().await;
    }
    let (early, late) = (given_up.contains(&-500), given_up.contains(&500));
    assert!(!early && late, "given up: {given_up:?}");
    drop(wires);
    world.assert_nothing_left().await;
}

#[tokio::test]
async fn without_resume_a_lost_channel_ends_a_tunnel() {
    let mut world = World::with(Mode::Tunnel, without_resume(), calls());
    world.options.config.resume = false;
    let ends = world.upgraded().await.exchange(1000).await;
    world.net.path.cut(true);
    let end = soon(ends.session.ended()).await;
    let lost = matches!(end.reason, EndReason::TransportLost | EndReason::Failed(_));
    assert!(lost, "{end:?}");
    drop(ends);
    let record = world.record().await;
    assert!(matches!(record.outcome, Outcome::Ended(_)), "{record:?}");
    world.net.path.cut(false);
    world.assert_nothing_left().await;
}

#[tokio::test]
async fn without_resume_a_terminal_goes_on_is_drawn_again_and_its_user_is_told() {
    let mut world = World::with(Mode::Pty, without_resume(), calls());
    world.options.config.resume = false;
    let size = Size {
        columns: 80,
        rows: 24,
        ..Size::default()
    };
    world.options = world.options.clone().size(size);
    let mut ends = world.upgraded().await.exchange(1000).await;
    assert_eq!(
        soon(ends.controls.next()).await,
        Some(Control::Resize(size))
    );
    let handle = ends.session.handle();
    world.net.path.cut(true);
    world.await_carrier(&handle, Carrier::WebSocket).await;
    assert_eq!(handle.losses(), 1);
    for rows in [23, 24] {
        let told = soon(ends.controls.next()).await;
        assert_eq!(told, Some(Control::Resize(Size { rows, ..size })));
    }
    // Nothing was on its way, so that nothing is missing.
    let ends = ends.exchange(1000).await;
    ends.close().await;
    world.net.path.cut(false);
    world.assert_nothing_left().await;
}

#[tokio::test]
async fn a_refused_upgrade_leaves_the_session_on_the_websocket_and_is_tried_again() {
    let mut world = World::with(
        Mode::Tunnel,
        ServerConfig::default(),
        calls().with_max_calls(1),
    );
    let first = world.upgraded().await;
    let second = world.open().await;
    let net = world.net.clone();
    until("the server refuses, again and again", || {
        net.count(is_refusal) >= 2
    })
    .await;
    let second = second.exchange(100_000).await;
    let handle = second.session.handle();
    assert_eq!(handle.carrier(), Some(Carrier::WebSocket));
    first.close().await;
    until("the second has the place", || {
        handle.carrier() == Some(Carrier::WebRtcDirect)
    })
    .await;
    world.finish(second.exchange(100_000).await).await;
}

#[tokio::test]
async fn offers_stay_off_websockets_that_others_could_change() {
    let mut world = World::new(Mode::Tunnel);
    world.net.private = false;
    let ends = world.open().await.exchange(1000).await;
    let agreed = world.net.seen().into_iter().find_map(|frame| match frame {
        Frame::HandshakeRequest(request) => Some(request.capabilities.bits()),
        _ => None,
    });
    assert_eq!(
        agreed,
        Some(0b10),
        "the client asks for Session Resume only"
    );
    assert_eq!(world.net.count(is_offer), 0);
    world.finish(ends).await;
}

#[tokio::test]
async fn a_client_that_asks_all_the_same_is_told_that_it_was_not_agreed() {
    let mut world = World::new(Mode::Tunnel);
    world.net.private = false;
    world.options.webrtc = None;
    // The client asks on its own, and the server takes the WebSocket for one that others could change.
    world.net.up = Some(Arc::new(|frame| match frame {
        Frame::HandshakeRequest(mut request) => {
            request.capabilities = Capabilities::from_bits(0b0100_0010);
            vec![Frame::HandshakeRequest(request)]
        }
        frame => vec![frame],
    }));
    let ends = world.open().await.exchange(1000).await;
    let repeated = world.net.seen().into_iter().find_map(|frame| match frame {
        Frame::HandshakeResponse(HandshakeResponse::Accepted(accepted)) => {
            Some(accepted.capabilities.bits())
        }
        _ => None,
    });
    assert_eq!(repeated, Some(0b10));
    world.finish(ends).await;
}

#[tokio::test]
async fn an_offer_without_fingerprint_is_refused() {
    let mut world = World::new(Mode::Tunnel);
    world.net.up = Some(Arc::new(|frame| match frame {
        Frame::WebRtcOffer(sdp) => {
            let lines = sdp
                .lines()
                .filter(|line| !line.starts_with("a=fingerprint"));
            let sdp = lines.map(|line| format!("{line}\r\n")).collect();
            vec![Frame::WebRtcOffer(sdp)]
        }
        frame => vec![frame],
    }));
    let ends = world.open().await;
    let net = world.net.clone();
    until("the server refuses", || net.count(is_refusal) > 0).await;
    let ends = ends.exchange(1000).await;
    assert_eq!(ends.session.handle().carrier(), Some(Carrier::WebSocket));
    world.finish(ends).await;
}

#[tokio::test]
async fn an_offer_with_what_belongs_to_another_session_leads_nowhere() {
    // The certificate, and the name of the ICE agent.
    for prefix in ["a=fingerprint:", "a=ice-ufrag:"] {
        let mut world = World::new(Mode::Tunnel);
        let first = world.upgraded().await;
        let theirs = world.net.seen().into_iter().find_map(|frame| match frame {
            Frame::WebRtcOffer(sdp) => {
                let line = sdp.lines().find(|line| line.starts_with(prefix));
                line.map(str::to_owned)
            }
            _ => None,
        });
        let theirs = theirs.unwrap();
        world.net.up = Some(Arc::new(move |frame| match frame {
            Frame::WebRtcOffer(sdp) => {
                let lines = sdp.lines().map(|line| match line.starts_with(prefix) {
                    true => format!("{theirs}\r\n"),
                    false => format!("{line}\r\n"),
                });
                vec![Frame::WebRtcOffer(lines.collect())]
            }
            frame => vec![frame],
        }));
        let offers = world.net.count(is_offer);
        let second = world.open().await.exchange(1000).await;
        let net = world.net.clone();
        // The attempt comes to nothing, and another one follows.
        until("it fails", || net.count(is_offer) >= offers + 2).await;
        let second = second.exchange(1000).await;
        assert_eq!(second.session.handle().carrier(), Some(Carrier::WebSocket));
        let first = first.exchange(1000).await;
        let carrier = first.session.handle().carrier();
        assert_eq!(carrier, Some(Carrier::WebRtcDirect));
        first.close().await;
        world.finish(second).await;
    }
}

#[tokio::test]
async fn of_ten_thousand_candidates_few_are_tried_and_the_session_goes_on() {
    let early = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let late = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let ports = [&early, &late].map(|socket| socket.local_addr().unwrap().port());
    let mut world = World::new(Mode::Tunnel);
    world.net.up = Some(Arc::new(move |frame| {
        let is_offer = is_offer(&frame);
        let mut frames = vec![frame];
        let ports = (0..10_000_u32).map(|number| match number {
            0 => ports[0],
            9_999 => ports[1],
            number => 1024 + u16::try_from(number).unwrap(),
        });
        if is_offer {
            frames.extend(ports.enumerate().map(|(number, port)| {
                Frame::IceCandidate(IceCandidate {
                    candidate: format!(
                        "candidate:{number} 1 udp 2130706431 127.0.0.1 {port} typ host"
                    ),
                    mid: "0".to_owned(),
                    index: 0,
                })
            }));
        }
        frames
    }));
    let ends = world.open().await.exchange(100_000).await;
    let mut buffer = [0; 2048];
    let (length, _) = soon(early.recv_from(&mut buffer)).await.unwrap();
    assert!(length >= 20, "a check");
    let ends = ends.exchange(100_000).await;
    world.finish(ends).await;
    let nothing = late.try_recv_from(&mut buffer);
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_peer_that_ignores_ready_stays_on_the_websocket() {
    let mut world = World::new(Mode::Pty);
    world.net.down = Some(Arc::new(|frame| match frame {
        Frame::WebRtcReady => vec![],
        frame => vec![frame],
    }));
    let ends = world.open().await;
    let load = ends.load();
    let net = world.net.clone();
    until("another attempt", || net.count(is_offer) == 2).await;
    let ends = load.stop().await.exchange(1000).await;
    let sessions = world.server.sessions();
    assert_eq!(sessions[0].carrier, Some(Carrier::WebSocket));
    ends.close().await;
    let record = world.record().await;
    assert_eq!(record.carriers, [Carrier::WebSocket]);
    world.assert_nothing_left().await;
}

#[tokio::test]
async fn a_client_that_reconnects_on_another_network_has_its_upgrade_at_once() {
    let mut world = World::new(Mode::Pty);
    let ends = world.upgraded().await;
    let handle = ends.session.handle();
    handle.reconnect_now();
    let net = world.net.clone();
    until("WebRTC is offered anew", || net.count(is_offer) == 2).await;
    let ends = ends.exchange(10_000).await;
    world.await_carrier(&handle, Carrier::WebRtcDirect).await;
    world.finish(ends.exchange(10_000).await).await;
}

#[tokio::test]
async fn sessions_that_the_server_ends_leave_nothing_on_either_way() {
    let mut world = World::new(Mode::Tunnel);
    let ends = world.upgraded().await.exchange(1000).await;
    soon(world.server.shutdown()).await;
    let end = soon(ends.session.ended()).await;
    assert!(matches!(end.reason, EndReason::Close(_)), "{end:?}");
    assert!(matches!(world.record().await.outcome, Outcome::Ended(_)));
    drop(ends);
    world.assert_nothing_left().await;
}

#[tokio::test]
async fn a_session_whose_last_bytes_are_not_taken_yet_is_shown_as_ended() {
    let mut world = World::new(Mode::Tunnel);
    let mut ends = world.open().await;
    // More than the far end takes, which does not read.
    ends.session.write_all(&piece(0, 200_000)).await.unwrap();
    let handle = ends.session.handle();
    drop(ends.session);
    soon(handle.ended()).await;
    until("the session has ended", || {
        let sessions = world.server.sessions();
        sessions[0].ended && !sessions[0].connected && sessions[0].carrier.is_none()
    })
    .await;
    soon(read(&mut ends.far, 0, 200_000)).await;
    world.assert_nothing_left().await;
}

/// The target reads no more while what it sends back waits for the client, whose confirmations come behind what it sends.
#[cfg(feature = "gateway")]
#[tokio::test]
async fn a_tunnel_to_an_echo_never_stands_still() {
    const ALL: u64 = 96 << 20;
    const STILL: Duration = Duration::from_secs(5);
    let mut world = World::new(Mode::Tunnel);
    world.options.webrtc = None;
    let mut wires = Wires::to(world.server.clone()).await;
    let (connector, _) = wires.with_ready_after(Duration::ZERO).await;
    let ends = world.open_by(connector).await;
    let (mut reader, mut writer) = tokio::io::split(ends.session);
    let (mut far_reader, mut far_writer) = tokio::io::split(ends.far);
    let echo = tokio::spawn(async move { tokio::io::copy(&mut far_reader, &mut far_writer).await });
    let writing = tokio::spawn(async move {
        for at in (0..ALL).step_by(1 << 20) {
            writer.write_all(&piece(at, 1 << 20)).await.unwrap();
        }
        writer
    });
    for at in (0..ALL).step_by(64 * 1024) {
        let reading = read(&mut reader, at, at + 64 * 1024);
        let read = tokio::time::timeout(STILL, reading).await;
        assert!(read.is_ok(), "nothing for {STILL:?} behind {at}");
    }
    drop((reader, writing.await.unwrap()));
    echo.await.unwrap().unwrap();
    drop(wires);
    world.assert_nothing_left().await;
}
