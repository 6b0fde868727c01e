//! The state tables of the specification, transition by transition.

use bytes::BytesMut;

use super::*;
use crate::proto::frame;

const MAX: usize = 1 << 14;

fn channel() -> Channel {
    Channel::open(
        ChannelId {
            stream: 2,
            generation: 0,
        },
        MAX,
    )
}

fn flag(flag: Flag) -> Bytes {
    let mut out = BytesMut::new();
    frame::encode_flag(flag, None, &mut out);
    out.freeze()
}

fn data(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    frame::encode_data(payload, &mut out);
    out.freeze()
}

fn raw(bytes: &'static [u8]) -> Bytes {
    Bytes::from_static(bytes)
}

#[test]
fn fin_is_acknowledged_and_reading_ends_after_the_data() {
    let mut channel = channel();
    channel.on_message(data(b"hi"));
    assert!(channel.on_message(flag(Flag::Fin)).fin_received);
    assert_eq!(channel.read(), Read::Data(raw(b"hi")));
    assert_eq!((channel.read(), channel.read()), (Read::Eof, Read::Eof));
}

#[test]
fn data_and_fin_in_one_frame_gives_the_data_first() {
    let mut channel = channel();
    // length 6: flag 0, message "hi"
    channel.on_message(raw(&[6, 0x08, 0, 0x12, 2, b'h', b'i']));
    assert_eq!(
        (channel.read(), channel.read()),
        (Read::Data(raw(b"hi")), Read::Eof)
    );
}

#[test]
fn a_repeated_fin_is_acknowledged_again_and_changes_nothing() {
    let mut channel = channel();
    channel.on_message(flag(Flag::Fin));
    let again = channel.on_message(flag(Flag::Fin));
    assert!(again.fin_repeated && !again.fin_received && !again.readable);
}

#[test]
fn empty_frames_are_no_end_of_file() {
    let mut channel = channel();
    for message in [raw(&[0]), raw(&[2, 0x12, 0])] {
        assert_eq!(channel.on_message(message), Reaction::default());
    }
    assert_eq!(channel.read(), Read::Blocked);
}

#[test]
fn unknown_flags_and_fields_are_skipped() {
    let mut channel = channel();
    channel.on_message(raw(&[2, 0x08, 9]));
    channel.on_message(raw(&[6, 0x28, 1, 0x12, 2, b'h', b'i']));
    assert_eq!(
        (channel.read(), channel.read()),
        (Read::Data(raw(b"hi")), Read::Blocked)
    );
}

#[test]
fn a_reset_comes_after_what_was_received_and_ends_both_halves() {
    let mut channel = channel();
    channel.on_message(data(b"answer"));
    let reaction = channel.on_message(raw(&[4, 0x08, 2, 0x18, 7]));
    assert!(reaction.readable && reaction.send_changed);
    assert_eq!(channel.read(), Read::Data(raw(b"answer")));
    assert_eq!(
        (channel.read(), channel.read()),
        (Read::Reset(Some(7)), Read::Reset(Some(7)))
    );
    assert_eq!(channel.send, SendHalf::Reset);
    assert!(channel.is_done());
}

#[test]
fn a_channel_closed_without_fin_reads_as_reset_and_with_fin_as_end_of_file() {
    let mut cut = channel();
    cut.on_message(data(b"part"));
    cut.on_link_closed();
    assert_eq!(
        (cut.read(), cut.read()),
        (Read::Data(raw(b"part")), Read::Reset(None))
    );

    let mut ended = channel();
    ended.on_message(data(b"all"));
    ended.on_message(flag(Flag::Fin));
    ended.on_link_closed();
    assert_eq!(
        (ended.read(), ended.read()),
        (Read::Data(raw(b"all")), Read::Eof)
    );
}

#[test]
fn stop_sending_ends_writing_without_a_reply() {
    let mut channel = channel();
    let reaction = channel.on_message(flag(Flag::StopSending));
    assert_eq!(
        (reaction.send_changed, reaction.reset, channel.send),
        (true, false, SendHalf::Stopped)
    );
    assert_eq!(channel.read(), Read::Blocked);
}

#[test]
fn stop_sending_after_our_fin_ends_the_wait_for_fin_ack() {
    let mut channel = channel();
    channel.send = SendHalf::FinSent;
    channel.on_message(flag(Flag::StopSending));
    assert_eq!(channel.send, SendHalf::Closed);
}

#[test]
fn fin_ack_counts_only_after_our_fin() {
    let mut early = channel();
    assert_eq!(early.on_message(flag(Flag::FinAck)), Reaction::default());
    assert_eq!(early.send, SendHalf::Open);
    early.send = SendHalf::FinSent;
    early.on_message(flag(Flag::FinAck));
    assert_eq!(early.send, SendHalf::Closed);
}

#[test]
fn after_our_stop_sending_data_is_dropped_and_fin_still_answered() {
    let mut channel = channel();
    channel.on_message(data(b"x"));
    assert!(channel.stop_locally() && !channel.stop_locally());
    assert_eq!(channel.on_message(data(b"y")), Reaction::default());
    assert_eq!(channel.charge(), Charge::default());
    assert!(channel.on_message(flag(Flag::Fin)).fin_received);
    assert_eq!(channel.receive, ReceiveHalf::Finished);
}

#[test]
fn frames_over_the_limit_or_undecodable_call_for_a_reset() {
    for message in [
        raw(&[0xff, 0xff, 0x7f]),
        raw(&[2, 0x12, 5]),
        raw(&[1, 0x0f]),
    ] {
        assert!(channel().on_message(message.clone()).reset, "{message:?}");
    }
}

#[test]
fn a_frame_may_come_in_pieces_on_an_ordered_channel_but_not_on_an_unordered_one() {
    let frame = data(b"pieces");
    let mut ordered = channel();
    ordered.on_message(frame.slice(..1));
    ordered.on_message(frame.slice(1..));
    assert_eq!(ordered.read(), Read::Data(raw(b"pieces")));

    let mut unordered = Channel::early(
        ChannelId {
            stream: 3,
            generation: 0,
        },
        MAX,
    );
    unordered.on_open(true);
    assert!(!unordered.on_message(frame.clone()).reset);
    assert!(unordered.on_message(frame.slice(..3)).reset);
}

#[test]
fn messages_before_the_open_are_kept_up_to_a_bound() {
    let mut channel = Channel::early(
        ChannelId {
            stream: 3,
            generation: 0,
        },
        MAX,
    );
    channel.on_message(data(b"early"));
    assert_eq!(channel.read(), Read::Blocked);
    assert!(channel.on_open(false).readable);
    assert_eq!(channel.read(), Read::Data(raw(b"early")));

    let mut flooded = Channel::early(
        ChannelId {
            stream: 3,
            generation: 0,
        },
        MAX,
    );
    let resets = (0..20)
        .filter(|_| flooded.on_message(data(b"x")).reset)
        .count();
    assert_eq!(resets, 20 - MAX_EARLY_MESSAGES);
}

#[test]
fn the_channel_is_done_when_both_halves_are_and_the_fin_is_acknowledged() {
    let mut channel = channel();
    channel.send = SendHalf::FinSent;
    channel.on_message(flag(Flag::FinAck));
    assert!(!channel.is_done());
    channel.on_message(flag(Flag::Fin));
    channel.owes_fin_ack = true;
    assert!(!channel.is_done());
    channel.owes_fin_ack = false;
    assert!(channel.is_done());
}

#[test]
fn a_fin_that_is_never_acknowledged_counts_as_sent_in_the_end() {
    let mut channel = channel();
    channel.send = SendHalf::FinSent;
    channel.on_fin_ack_timeout();
    assert_eq!(channel.send, SendHalf::Closed);
}
