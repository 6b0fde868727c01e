//! The scenarios of the upgrade, each on networks of every kind: up to 500 ms between the two paths, up to 5 % of
//! packets lost, either of which delays what is behind it. The byte stream is the same on both ends, or the session
//! ends and both know it.

use std::time::Duration;

use proptest::prelude::*;

use super::pair::{Pair, Seat};
use crate::socketpipe::{
    Code, Frame, Size,
    session::{
        ClientConfig, EndReason, Event, Mode, PathId, PathKind, ServerConfig, Signaling, Status,
    },
};

const MAIN: PathId = PathId(1);

/// A network, and what the session agreed on.
#[derive(Clone, Debug)]
struct World {
    tunnel: bool,
    resume: bool,
    /// Delay of the WebSocket and of the channel, in milliseconds.
    main: u64,
    channel: u64,
    /// Thousandths.
    loss: u64,
    dice: u64,
}

fn world() -> impl Strategy<Value = World> {
    let delays = (0..=500u64, 0..=500u64);
    (any::<(bool, bool)>(), delays, 0..=50u64, any::<u64>()).prop_map(
        |((tunnel, resume), (main, channel), loss, dice)| World {
            tunnel,
            resume,
            main,
            channel,
            loss,
            dice,
        },
    )
}

impl World {
    fn mode(&self) -> Mode {
        match self.tunnel {
            true => Mode::Tunnel,
            false => Mode::Pty,
        }
    }

    fn open(&self) -> Pair {
        let mut client = ClientConfig::new(self.mode());
        client.webrtc = true;
        client.resume = self.resume;
        let server = ServerConfig {
            webrtc: true,
            webrtc_without_resume: true,
            ..ServerConfig::default()
        };
        let mut pair = Pair::open(client, server);
        pair.shuffle(self.dice);
        pair.loss = self.loss;
        pair.delay = Duration::from_millis(self.channel);
        for wire in &mut pair.wires {
            wire.delay = Duration::from_millis(self.main);
        }
        offer(&mut pair);
        pair
    }

    /// A session with both its streams on the channel, and something on its way.
    fn upgraded(&self) -> (Pair, PathId) {
        let mut pair = self.open();
        pair.run(Duration::from_secs(2));
        let channel = pair.attach().expect("agreed");
        load(&mut pair, 20);
        pair.run(Duration::from_secs(60));
        for client in [true, false] {
            let status = seat(&mut pair, client).session.status();
            assert!(
                matches!(status, Status::Established { data, .. } if data == channel),
                "{status:?}"
            );
        }
        (pair, channel)
    }
}

fn offer(pair: &mut Pair) {
    let now = pair.now;
    let offer = Signaling::Offer("v=0".to_owned());
    assert!(pair.client.session.signal_webrtc(now, offer));
}

fn seat(pair: &mut Pair, client: bool) -> &mut Seat {
    match client {
        true => &mut pair.client,
        false => pair.server(),
    }
}

/// Both write, now and again.
fn load(pair: &mut Pair, times: u32) {
    for _ in 0..times {
        pair.client.write(7000);
        pair.server().write(7000);
        pair.run(Duration::from_millis(20));
    }
}

/// Everything written is there.
fn assert_exact(pair: &mut Pair) {
    let (received, written) = (pair.server().received, pair.server().written);
    assert_eq!(received, pair.client.written, "to the server");
    assert_eq!(pair.client.received, written, "to the client");
}

fn ended(pair: &mut Pair) -> [Option<EndReason>; 2] {
    [true, false].map(|client| {
        let end = seat(pair, client).end();
        end.map(|end| end.reason.clone())
    })
}

/// The session goes on, and what is written now arrives.
fn assert_alive(pair: &mut Pair) {
    load(pair, 3);
    pair.run(Duration::from_secs(60));
    assert_eq!(ended(pair), [None, None]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_switch_under_load_keeps_every_byte_in_its_place(world in world(), wait in 0..3000u64) {
        let mut pair = world.open();
        load(&mut pair, 10);
        pair.run(Duration::from_millis(wait));
        prop_assume!(pair.attach().is_some());
        load(&mut pair, 40);
        pair.run(Duration::from_secs(180));
        assert_exact(&mut pair);
        assert_alive(&mut pair);
        assert_exact(&mut pair);
    }

    #[test]
    fn ready_and_the_time_limit_may_cross(
        world in world(),
        server_at in 8800..10_400u64,
        client_after in 0..600u64,
    ) {
        let mut pair = world.open();
        pair.run(Duration::from_millis(server_at));
        let (channel, now) = (pair.channel(), pair.now);
        let opened = pair.server().session.attach_channel(now, channel, 16 * 1024);
        load(&mut pair, 2);
        pair.run(Duration::from_millis(client_after));
        let now = pair.now;
        let given_up = pair.client.saw(&Event::UpgradeFailed);
        let both = !given_up && pair.client.session.attach_channel(now, channel, 16 * 1024);
        if !both {
            // Its connection is closed; the server sees the channel end.
            pair.cut(channel);
        }
        load(&mut pair, 40);
        pair.run(Duration::from_secs(120));
        prop_assert_eq!(ended(&mut pair), [None, None]);
        assert_exact(&mut pair);
        let on = |seat: &mut Seat| match seat.session.status() {
            Status::Established { data, .. } => data,
            other => panic!("{other:?}"),
        };
        let (client, server) = (on(&mut pair.client), on(pair.server()));
        prop_assert_eq!(client, server, "opened: {}, by both: {}", opened, both);
    }

    #[test]
    fn a_client_that_ignores_ready_stays_on_the_websocket(world in world()) {
        let mut pair = world.open();
        let (channel, now) = (pair.channel(), pair.now);
        pair.run(Duration::from_secs(1));
        prop_assert!(pair.server().session.attach_channel(now, channel, 16 * 1024));
        load(&mut pair, 40);
        pair.run(Duration::from_secs(9));
        load(&mut pair, 10);
        pair.run(Duration::from_secs(60));
        assert_exact(&mut pair);
        let status = pair.server().session.status();
        let stays = matches!(status, Status::Established { main, data } if main == data);
        prop_assert!(stays);
    }

    #[test]
    fn a_terminal_may_be_resized_by_the_channel(world in world()) {
        let world = World { tunnel: false, ..world };
        let (mut pair, channel) = world.upgraded();
        let now = pair.now;
        let size = Size { columns: 99, rows: 33, ..Size::default() };
        pair.server().session.handle_frame(now, channel, Frame::Resize(size));
        pair.run(Duration::from_secs(1));
        prop_assert!(pair.server().saw(&Event::Resize(size)));
        assert_alive(&mut pair);
        assert_exact(&mut pair);
    }

    #[test]
    fn pongs_that_overtake_data_do_no_harm_where_it_is_numbered(world in world()) {
        let world = World { resume: true, ..world };
        let mut pair = world.open();
        pair.hasty_pongs = true;
        pair.run(Duration::from_secs(2));
        prop_assert!(pair.attach().is_some());
        load(&mut pair, 60);
        pair.run(Duration::from_secs(180));
        prop_assert_eq!(ended(&mut pair), [None, None]);
        assert_exact(&mut pair);
    }

    #[test]
    fn a_channel_killed_without_notice_loses_no_byte_or_ends_the_session(
        world in world(),
        noticed: bool,
        first in 0..400u64,
    ) {
        let (mut pair, channel) = world.upgraded();
        let exact = world.resume || world.tunnel;
        pair.client.exact = exact;
        pair.server().exact = exact;
        load(&mut pair, 5);
        match noticed {
            true => {
                // By the one end before the other.
                let now = pair.now;
                pair.client.session.path_lost(now, channel);
                pair.silence(channel);
                pair.run(Duration::from_millis(first));
                let now = pair.now;
                pair.server().session.path_lost(now, channel);
            }
            false => pair.silence(channel),
        }
        load(&mut pair, 10);
        pair.run(Duration::from_secs(180));
        if world.resume {
            prop_assert_eq!(ended(&mut pair), [None, None]);
            assert_exact(&mut pair);
            assert_alive(&mut pair);
            assert_exact(&mut pair);
        } else if world.tunnel {
            prop_assert!(ended(&mut pair).iter().all(Option::is_some));
        } else {
            // Bytes may be missing, which both know; the terminal goes on.
            prop_assert_eq!(ended(&mut pair), [None, None]);
            prop_assert!(pair.client.saw(&Event::DataLost));
        }
    }

    #[test]
    fn a_websocket_killed_while_the_channel_lives_is_a_loss_of_both(
        world in world(),
        noticed: bool,
        again: bool,
    ) {
        let world = World { resume: true, ..world };
        let (mut pair, _) = world.upgraded();
        pair.reconnect = Some(Duration::from_millis(300));
        load(&mut pair, 5);
        match noticed {
            true => pair.cut(MAIN),
            false => pair.silence(MAIN),
        }
        load(&mut pair, 20);
        pair.run(Duration::from_secs(120));
        prop_assert_eq!(ended(&mut pair), [None, None]);
        assert_exact(&mut pair);
        prop_assert!(pair.wires.iter().all(|wire| wire.kind != PathKind::DataChannel
            || wire.up.is_empty() && wire.down.is_empty()));
        if again {
            offer(&mut pair);
            pair.run(Duration::from_secs(2));
            prop_assert!(pair.attach().is_some());
            load(&mut pair, 20);
            pair.run(Duration::from_secs(60));
            assert_exact(&mut pair);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn close_comes_behind_a_mebibyte_that_is_queued_on_the_channel(world in world(), by_client: bool) {
        let (mut pair, _) = world.upgraded();
        // As much as is taken; the rest as room comes.
        let goal = seat(&mut pair, by_client).written + 1024 * 1024;
        for _ in 0..3000 {
            let left = goal - seat(&mut pair, by_client).written;
            if left == 0 {
                break;
            }
            seat(&mut pair, by_client).write(left as usize);
            pair.run(Duration::from_millis(20));
        }
        prop_assert_eq!(seat(&mut pair, by_client).written, goal);
        let now = pair.now;
        seat(&mut pair, by_client).session.close(now, Code::NORMAL, "");
        pair.run(Duration::from_secs(240));
        for reason in ended(&mut pair) {
            let orderly = matches!(&reason, Some(EndReason::Close(close)) if close.code == Code::NORMAL);
            prop_assert!(orderly, "{:?}", reason);
        }
        let received = seat(&mut pair, !by_client).received;
        prop_assert_eq!(received, goal);
    }
}
