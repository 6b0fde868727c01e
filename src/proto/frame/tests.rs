use proptest::prelude::*;

use super::*;

/// What go-libp2p accepts.
const LIMIT: usize = 263_168;

fn data(payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_data(payload, &mut out);
    out.to_vec()
}

fn flag(flag: Flag, error_code: Option<u32>) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_flag(flag, error_code, &mut out);
    out.to_vec()
}

fn message(payload: &[u8]) -> Frame {
    Frame {
        message: Bytes::copy_from_slice(payload),
        ..Frame::default()
    }
}

/// Takes all frames out of a decoder.
fn drain(decoder: &mut FrameDecoder) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame);
    }
    Ok(frames)
}

/// Decodes pieces as they would arrive.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::new(LIMIT);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        frames.extend(drain(&mut decoder)?);
    }
    assert!(decoder.is_empty(), "frames end with the input");
    Ok(frames)
}

/// Decodes the body of one frame.
fn decode_body(body: &[u8]) -> Result<Frame, FrameError> {
    let mut frame = BytesMut::new();
    put_varint(body.len() as u64, &mut frame);
    frame.put_slice(body);
    decode([&frame[..]]).map(|mut frames| frames.remove(0))
}

#[test]
fn control_frames_have_the_bytes_every_implementation_sends() {
    assert_eq!(flag(Flag::Fin, None), [2, 8, 0]);
    assert_eq!(flag(Flag::StopSending, None), [2, 8, 1]);
    assert_eq!(flag(Flag::ResetStream, None), [2, 8, 2]);
    assert_eq!(flag(Flag::FinAck, None), [2, 8, 3]);
    assert_eq!(flag(Flag::StopSending, Some(0)), [4, 8, 1, 0x18, 0]);
    assert_eq!(flag(Flag::ResetStream, Some(300)), [5, 8, 2, 0x18, 0xac, 2]);
}

#[test]
fn data_has_the_bytes_every_implementation_sends() {
    assert_eq!(data(b"hi"), [4, 0x12, 2, b'h', b'i']);
}

#[test]
fn an_empty_payload_is_not_sent() {
    assert!(data(b"").is_empty());
    assert_eq!(encoded_len(0, false), 0);
}

#[test]
fn the_largest_payload_fills_a_frame_of_the_specification() {
    assert_eq!(max_payload(16384), 16379);
    assert_eq!(encoded_len(16379, false), 16384);
    assert_eq!(encoded_len(16377, true), 16384);
    assert_eq!(encoded_len(0, true), 3);
}

#[test]
fn the_largest_payload_is_the_largest_for_every_frame_size() {
    for max_frame in 0..40_000 {
        let payload_len = max_payload(max_frame);

        assert!(encoded_len(payload_len, false) <= max_frame);
        assert!(encoded_len(payload_len + 1, false) > max_frame);
    }
}

#[test]
fn announced_and_encoded_length_agree() {
    for payload_len in [1, 2, 125, 126, 127, 128, 16379, 16380, 16384, 70_000] {
        assert_eq!(
            data(&vec![7; payload_len]).len(),
            encoded_len(payload_len, false)
        );
    }
}

#[test]
fn a_frame_may_be_split_at_any_byte() {
    let frame = [data(&[9; 200]), flag(Flag::Fin, None)].concat();
    for at in 0..=frame.len() {
        let frames = decode([&frame[..at], &frame[at..]]).unwrap();

        assert_eq!(frames.len(), 2, "split at {at}");
        assert_eq!(frames[0], message(&[9; 200]));
        assert_eq!(frames[1].flag, Some(Flag::Fin));
    }
}

#[test]
fn a_message_may_hold_several_frames() {
    let frames = decode([&[data(b"one"), data(b"two"), flag(Flag::Fin, None)].concat()[..]]);

    let frames = frames.unwrap();
    assert_eq!(frames[0], message(b"one"));
    assert_eq!(frames[1], message(b"two"));
    assert_eq!(frames[2].flag, Some(Flag::Fin));
}

#[test]
fn messages_may_be_pushed_before_the_frames_are_taken() {
    let bytes = [data(b"one"), data(b"two")].concat();
    let mut decoder = FrameDecoder::new(LIMIT);
    for byte in bytes {
        decoder.push(Bytes::copy_from_slice(&[byte]));
    }

    assert_eq!(
        drain(&mut decoder),
        Ok(vec![message(b"one"), message(b"two")])
    );
}

#[test]
fn a_frame_may_carry_data_flag_and_error_code() {
    let frame = decode_body(&[0x12, 2, b'h', b'i', 8, 2, 0x18, 7]).unwrap();

    assert_eq!(
        frame,
        Frame {
            flag: Some(Flag::ResetStream),
            message: Bytes::from_static(b"hi"),
            error_code: Some(7),
        }
    );
}

#[test]
fn a_frame_may_be_empty() {
    assert_eq!(decode([&[0][..]]), Ok(vec![Frame::default()]));
    assert_eq!(decode_body(&[0x12, 0]), Ok(Frame::default()));
}

#[test]
fn an_unknown_flag_counts_as_none() {
    for code in [4, 5, 0x7f] {
        assert_eq!(decode_body(&[8, code, 0x12, 1, b'x']), Ok(message(b"x")));
    }
    // A negative enum value has ten bytes.
    let negative = [8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    assert_eq!(decode_body(&negative), Ok(Frame::default()));
}

#[test]
fn of_repeated_fields_the_last_counts() {
    let frame = decode_body(&[8, 0, 8, 3, 0x12, 1, b'a', 0x12, 1, b'b', 0x18, 1, 0x18, 2]).unwrap();

    assert_eq!(frame.flag, Some(Flag::FinAck));
    assert_eq!(frame.message, "b");
    assert_eq!(frame.error_code, Some(2));
}

#[test]
fn unknown_fields_of_every_wire_type_are_skipped() {
    let unknown: [&[u8]; 5] = [
        &[0x20, 0x96, 0x01],                   // field 4, varint
        &[0x29, 1, 2, 3, 4, 5, 6, 7, 8],       // field 5, 64 bits
        &[0x32, 3, 1, 2, 3],                   // field 6, bytes
        &[0x3d, 1, 2, 3, 4],                   // field 7, 32 bits
        &[0x80, 0x80, 0x80, 0x80, 0x08, 0x05], // a field number of five bytes
    ];
    for field in unknown {
        let body = [field, &[8, 0, 0x12, 1, b'x'], field].concat();

        let frame = decode_body(&body).unwrap();

        assert_eq!(frame.flag, Some(Flag::Fin), "{field:?}");
        assert_eq!(frame.message, "x", "{field:?}");
    }
}

#[test]
fn known_fields_of_another_wire_type_are_skipped() {
    let body = [0x0a, 1, 0, 0x10, 5, 0x1d, 1, 2, 3, 4];

    assert_eq!(decode_body(&body), Ok(Frame::default()));
}

#[test]
fn rejects_groups_and_impossible_fields() {
    // Start and end of a group, wire types 6 and 7, field number zero.
    for tag in [0x23, 0x24, 0x26, 0x27, 0x00, 0x02] {
        assert_eq!(decode_body(&[tag, 0]), Err(FrameError::InvalidField));
    }
}

#[test]
fn rejects_fields_beyond_the_end_of_the_frame() {
    let bodies: [&[u8]; 7] = [
        &[8],
        &[8, 0x80],
        &[0x12],
        &[0x12, 2, 1],
        &[0x29, 1, 2, 3, 4, 5, 6, 7],
        &[0x3d, 1, 2, 3],
        &[0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
    ];
    for body in bodies {
        assert_eq!(decode_body(body), Err(FrameError::Truncated), "{body:?}");
    }
}

#[test]
fn rejects_numbers_of_more_than_64_bits() {
    let too_long = [
        8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
    ];
    let too_large = [8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2];

    assert_eq!(decode_body(&too_long), Err(FrameError::VarintTooLong));
    assert_eq!(decode_body(&too_large), Err(FrameError::VarintTooLong));
    assert_eq!(decode([&[0x80; 10][..]]), Err(FrameError::VarintTooLong));
}

#[test]
fn rejects_an_announced_length_above_the_limit_before_the_body_arrives() {
    let mut decoder = FrameDecoder::new(300);
    decoder.push(Bytes::from_static(&[0xad, 0x02]));

    assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge));

    let mut decoder = FrameDecoder::new(300);
    decoder.push(Bytes::from_static(&[0xac, 0x02]));

    assert_eq!(decoder.next_frame(), Ok(None));
}

#[test]
fn an_error_is_final_and_frees_memory() {
    let mut decoder = FrameDecoder::new(10);
    decoder.push(Bytes::from([&[11][..], &data(b"valid")].concat()));

    assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge));
    assert_eq!(decoder.buffered(), 0);
    decoder.push(Bytes::from(data(b"valid")));
    assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge));
    assert_eq!(decoder.buffered(), 0);
}

#[test]
fn a_payload_that_is_most_of_its_message_is_not_copied_and_a_small_one_does_not_keep_it() {
    let received = Bytes::from([data(b"first"), data(&[1; 1000])].concat());
    let range = received.as_ptr_range();
    let mut decoder = FrameDecoder::new(LIMIT);
    decoder.push(received.clone());

    let shared: Vec<_> = drain(&mut decoder)
        .unwrap()
        .iter()
        .map(|frame| range.contains(&frame.message.as_ptr()))
        .collect();
    assert_eq!(shared, [false, true]);
}

#[test]
fn a_small_payload_between_fields_that_are_skipped_keeps_nothing_else() {
    // Field 15, unknown, fills the frame.
    let mut body = vec![0x12, 1, b'x', 0x7a, 0x80, 0x08];
    body.resize(6 + 1024, 0);
    let mut message = BytesMut::new();
    put_varint(body.len() as u64, &mut message);
    message.put_slice(&body);
    let message = message.freeze();
    for pieces in [
        vec![message.clone()],
        vec![message.slice(..500), message.slice(500..)],
    ] {
        let mut decoder = FrameDecoder::new(LIMIT);
        for piece in pieces {
            // Alone in its memory, so that a reference to it shows.
            let piece = Bytes::from(piece.to_vec());
            decoder.push(piece.clone());
            for frame in drain(&mut decoder).unwrap() {
                assert_eq!(frame.message, b"x"[..]);
                let exact = frame.message.try_into_mut().expect("shares no memory");
                assert!(exact.capacity() < 100, "{} bytes", exact.capacity());
            }
        }
    }
}

#[test]
fn a_body_that_follows_its_prefix_in_another_message_is_not_copied() {
    let frame = data(&[1; 1000]);
    let mut decoder = FrameDecoder::new(LIMIT);
    decoder.push(Bytes::copy_from_slice(&frame[..2]));
    assert_eq!(decoder.next_frame(), Ok(None));
    let body = Bytes::copy_from_slice(&frame[2..]);
    let range = body.as_ptr_range();
    decoder.push(body.clone());

    let frame = decoder.next_frame().unwrap().unwrap();

    assert!(range.contains(&frame.message.as_ptr()));
}

#[test]
fn an_idle_decoder_holds_no_memory() {
    let frame = data(&[1; 1000]);
    let mut decoder = FrameDecoder::new(LIMIT);
    for piece in frame.chunks(300) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = decoder.next_frame().unwrap() {
            assert_eq!(frame.message.len(), 1000);
        }
    }
    let whole = Bytes::from(frame);
    decoder.push(whole.clone());
    drop(drain(&mut decoder).unwrap());

    assert!(decoder.is_empty());
    assert_eq!(decoder.buffered(), 0);
    assert_eq!(decoder.body.capacity(), 0);
    assert!(whole.is_unique(), "the decoder still refers to a message");
}

#[test]
fn memory_grows_with_what_arrived_and_stays_below_the_limit() {
    let mut decoder = FrameDecoder::new(LIMIT);
    let mut prefix = BytesMut::new();
    put_varint(LIMIT as u64, &mut prefix);
    decoder.push(prefix.freeze());
    let mut received = 0;
    while received < LIMIT - 1 {
        let piece = Bytes::from(vec![0; 1000.min(LIMIT - 1 - received)]);
        received += piece.len();
        decoder.push(piece);

        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.buffered(), received);
        assert!(decoder.body.capacity() <= LIMIT.min(2 * received));
    }
}

#[test]
fn a_partial_frame_is_noticed() {
    let frame = data(&[1; 200]);
    for len in 1..frame.len() {
        let mut decoder = FrameDecoder::new(LIMIT);
        decoder.push(Bytes::copy_from_slice(&frame[..len]));

        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(!decoder.is_empty(), "{len} bytes");
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..400).prop_map(|payload| data(&payload)),
        (0_u64..4, any::<Option<u32>>())
            .prop_map(|(code, error)| flag(Flag::from_code(code).unwrap(), error)),
    ]
}

proptest! {
    #[test]
    fn encoded_data_is_read_back(payload in proptest::collection::vec(any::<u8>(), 1..20_000)) {
        let encoded = data(&payload);

        prop_assert_eq!(decode([&encoded[..]]), Ok(vec![message(&payload)]));
    }

    #[test]
    fn an_encoded_flag_is_read_back(code in 0_u64..4, error_code: Option<u32>) {
        let expected = Frame { flag: Flag::from_code(code), message: Bytes::new(), error_code };

        let encoded = flag(Flag::from_code(code).unwrap(), error_code);

        prop_assert_eq!(decode([&encoded[..]]), Ok(vec![expected]));
    }

    #[test]
    fn any_split_gives_the_same_frames(
        frames in proptest::collection::vec(any_frame(), 1..8),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let stream = frames.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);

        let expected: Vec<Frame> = frames.iter().map(|frame| decode([&frame[..]]).unwrap().remove(0)).collect();

        prop_assert_eq!(decode(pieces), Ok(expected));
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10),
    ) {
        let mut decoder = FrameDecoder::new(64);
        for piece in pieces {
            decoder.push(Bytes::from(piece));
            if drain(&mut decoder).is_err() {
                break;
            }
            prop_assert!(decoder.buffered() <= 64);
        }
    }
}
