//! Golden vectors, refused frames, round trips.

use asynchronous_codec::{Decoder as _, Encoder as _};
use proptest::prelude::*;

use super::*;
use crate::frames::frame::{
    Accepted, Capabilities, Close, Data, Env, Failure, Flow, HandshakeRequest, HandshakeResponse,
    IceCandidate, ResumeRequest, ResumeResponse, SessionId, SessionInfo, Signal, Size,
};

fn unhex(text: &str) -> Bytes {
    let digit = |index| u8::from_str_radix(&text[index..index + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    decode_message(Bytes::copy_from_slice(bytes), &FrameLimits::default())
}

/// A frame with this header and payload, whatever they are.
fn raw(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, flags, 0, 0];
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// All frames of a stream that comes in these pieces, and the error that ended it.
fn stream<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FrameError>) {
    let mut codec = FrameCodec::default();
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn id() -> SessionId {
    SessionId::new((0..16).collect::<Bytes>()).expect("16 bytes")
}

fn request(capabilities: Capabilities, host: &str, port: u16, token: &'static str) -> Frame {
    Frame::HandshakeRequest(HandshakeRequest {
        capabilities,
        major: 1,
        minor: 0,
        port,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: host.to_owned(),
        token: Bytes::from_static(token.as_bytes()),
    })
}

/// The frames that open, resume and upgrade a session.
fn session_vectors() -> Vec<(Frame, &'static str)> {
    let both = Capabilities::RESUME.with(Capabilities::WEBRTC);
    vec![
        (
            request(both, "localhost", 22, "abc"),
            "014200000000001b010000160000000000000000096c6f63616c686f73740003616263",
        ),
        (
            request(Capabilities::NONE, "", 0, ""),
            "010000000000000f010000000000000000000000000000",
        ),
        (
            Frame::HandshakeResponse(HandshakeResponse::Accepted(Accepted {
                capabilities: both,
                major: 1,
                minor: 0,
                ping_interval: 30,
                ping_timeout: 10,
                max_message: 65_536,
            })),
            "024300000000000a0100001e000a00010000",
        ),
        (
            Frame::HandshakeResponse(HandshakeResponse::Refused(Failure::new(
                Code::AUTH_EXPIRED,
                "expired",
            ))),
            "020000000000000a03e90765787069726564",
        ),
        (
            Frame::SessionId(SessionInfo {
                id: id(),
                timeout: 300,
                retained: 65_536,
            }),
            "500000000000001910000102030405060708090a0b0c0d0e0f0000012c00010000",
        ),
        (
            Frame::ResumeRequest(ResumeRequest {
                id: id(),
                last: 2,
                token: Bytes::new(),
            }),
            "510000000000001910000102030405060708090a0b0c0d0e0f0000000000000002",
        ),
        (
            Frame::ResumeResponse(ResumeResponse::Accepted {
                start: 3,
                count: 3,
                received: None,
            }),
            "520100000000000c000000000000000300000003",
        ),
        (
            Frame::ResumeResponse(ResumeResponse::Refused(Failure::new(
                Code::SESSION_EXPIRED,
                "expired",
            ))),
            "520000000000000a0fa10765787069726564",
        ),
    ]
}

/// The frames of the WebRTC upgrade that have a layout of their own.
fn upgrade_vectors() -> Vec<(Frame, &'static str)> {
    vec![
        (
            candidate("candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host"),
            "620000000000003a003463616e6469646174653a312031207564702032313330373036343331203139322e302e322e3120353030302074797020686f737401300000",
        ),
        (candidate(""), "6200000000000006000001300000"),
        (Frame::WebRtcReady, "6300000000000000"),
    ]
}

fn candidate(text: &str) -> Frame {
    Frame::IceCandidate(IceCandidate {
        // The vector names port 5000.
        candidate: text.replace("50000", "5000"),
        mid: "0".to_owned(),
        index: 0,
    })
}

/// The frames inside a session.
fn core_vectors() -> Vec<(Frame, &'static str)> {
    let data = |number| {
        Frame::Data(Data {
            number,
            bytes: Bytes::from_static(b"ls\r"),
            end: false,
        })
    };
    let payload = unhex("deadbeef");
    vec![
        (data(None), "10000000000000036c730d"),
        (data(Some(1)), "100200000000000b00000000000000016c730d"),
        (
            Frame::Resize(Size {
                columns: 120,
                rows: 40,
                width: 0,
                height: 0,
            }),
            "20000000000000080078002800000000",
        ),
        (Frame::Signal(Signal::Int), "210000000000000101"),
        (
            Frame::Env(Env {
                name: "TERM".to_owned(),
                value: "xterm-256color".to_owned(),
            }),
            "2200000000000015045445524d000e787465726d2d323536636f6c6f72",
        ),
        (Frame::FlowControl(Flow::Pause), "2300000000000000"),
        (Frame::FlowControl(Flow::Resume), "2301000000000000"),
        (Frame::Ping(payload.clone()), "3000000000000004deadbeef"),
        (Frame::Pong(payload), "3100000000000004deadbeef"),
        (
            Frame::Close(Close {
                by_client: true,
                code: Code::NORMAL,
                message: String::new(),
            }),
            "4001000000000003000000",
        ),
        (
            Frame::Error(Failure::new(Code::BACKEND_CLOSED, "backend closed")),
            "f00000000000001107d30e6261636b656e6420636c6f736564",
        ),
    ]
}

fn vectors() -> Vec<(Frame, &'static str)> {
    let mut all = session_vectors();
    all.extend(upgrade_vectors());
    all.extend(core_vectors());
    all
}

#[test]
fn encodes_the_golden_vectors() {
    for (frame, hex) in vectors() {
        assert_eq!(encode_message(&frame).unwrap(), unhex(hex), "{frame:?}");
    }
}

#[test]
fn decodes_the_golden_vectors_as_messages() {
    for (frame, hex) in vectors() {
        assert_eq!(decode(&unhex(hex)).unwrap(), frame, "{hex}");
    }
}

#[test]
fn decodes_the_golden_vectors_as_one_stream_however_it_is_cut() {
    let all: Vec<u8> = vectors().iter().flat_map(|(_, hex)| unhex(hex)).collect();
    let expected: Vec<_> = vectors().into_iter().map(|(frame, _)| frame).collect();
    for piece in [1, 2, 3, 7, 8, 9, 64, all.len()] {
        let (frames, error) = stream(all.chunks(piece));
        assert!(error.is_none(), "pieces of {piece}: {error:?}");
        assert_eq!(frames, expected, "pieces of {piece}");
    }
}

#[test]
fn refuses_a_reserved_field_that_is_not_zero() {
    let bytes = unhex("1000000100000000");
    let error = decode(&bytes).unwrap_err();
    assert!(matches!(error, FrameError::Reserved(1)));
    assert_eq!(error.code(), Code::INVALID_MESSAGE);
    assert!(matches!(
        stream([&bytes[..]]).1,
        Some(FrameError::Reserved(1))
    ));
}

#[test]
fn refuses_a_message_with_another_length_than_its_header_says() {
    for hex in ["10000000000000026c730d", "10000000000000046c730d"] {
        let error = decode(&unhex(hex)).unwrap_err();
        assert!(matches!(error, FrameError::Length { actual: 3, .. }));
        assert_eq!(error.code(), Code::INVALID_MESSAGE);
    }
}

#[test]
fn a_stream_waits_for_the_length_its_header_says() {
    let (frames, error) = stream([&unhex("10000000000000046c730d")[..]]);
    assert!(frames.is_empty() && error.is_none());
}

#[test]
fn refuses_a_message_shorter_than_a_header() {
    for length in 0..HEADER_LEN {
        let error = decode(&[0; HEADER_LEN][..length]).unwrap_err();
        assert!(matches!(error, FrameError::ShortHeader(short) if short == length));
        assert_eq!(error.code(), Code::INVALID_MESSAGE);
    }
}

#[test]
fn refuses_a_host_that_runs_past_the_payload() {
    let mut bytes =
        unhex("014200000000001b010000160000000000000000096c6f63616c686f73740003616263").to_vec();
    bytes[20] = 200;
    let error = decode(&bytes).unwrap_err();
    assert!(error.is_handshake());
    assert_eq!(error.code(), Code::INVALID_MESSAGE);
}

#[test]
fn refuses_a_host_that_is_not_utf8() {
    let mut bytes =
        unhex("014200000000001b010000160000000000000000096c6f63616c686f73740003616263").to_vec();
    bytes[21] = 0xff;
    let error = decode(&bytes).unwrap_err();
    assert!(error.is_handshake());
    assert_eq!(error.code(), Code::INVALID_MESSAGE);
}

#[test]
fn refuses_a_close_with_a_message_beyond_its_end() {
    let error = decode(&raw(0x40, 1, &[0, 0, 5, b'a'])).unwrap_err();
    assert!(matches!(error, FrameError::Malformed { kind: 0x40, .. }));
    assert_eq!(error.code(), Code::INVALID_MESSAGE);
}

#[test]
fn accepts_bytes_behind_a_session_id() {
    let mut payload = unhex("10000102030405060708090a0b0c0d0e0f0000012c00010000").to_vec();
    payload.extend([0, 0, 0, 39, 16]);
    let info = SessionInfo {
        id: id(),
        timeout: 300,
        retained: 65_536,
    };
    assert_eq!(
        decode(&raw(0x50, 0, &payload)).unwrap(),
        Frame::SessionId(info)
    );
}

#[test]
fn refuses_numbered_data_without_room_for_the_number() {
    let error = decode(&raw(0x10, 2, &[0; 7])).unwrap_err();
    assert!(matches!(error, FrameError::Malformed { kind: 0x10, .. }));
    assert_eq!(error.code(), Code::INVALID_MESSAGE);
}

#[test]
fn refuses_a_length_above_the_cap_before_any_of_it_is_kept() {
    for kind in 0..=u8::MAX {
        let bytes = [kind, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let mut codec = FrameCodec::default();
        let mut buffer = BytesMut::with_capacity(HEADER_LEN);
        buffer.extend_from_slice(&bytes);
        let error = codec.decode(&mut buffer).unwrap_err();
        assert_eq!(error.code(), Code::MESSAGE_TOO_LARGE, "type {kind:#04x}");
        assert_eq!(buffer.capacity(), HEADER_LEN, "type {kind:#04x}");
        assert!(matches!(decode(&bytes), Err(FrameError::TooLarge { .. })));
    }
}

#[test]
fn a_stream_allocates_nothing_for_a_length_within_the_cap_either() {
    let mut buffer = BytesMut::with_capacity(HEADER_LEN);
    buffer.extend_from_slice(&unhex("1000000000010000"));
    assert!(FrameCodec::default().decode(&mut buffer).unwrap().is_none());
    assert_eq!(buffer.capacity(), HEADER_LEN);
}

#[test]
fn takes_the_largest_payload_of_each_type_and_not_one_byte_more() {
    let limits = FrameLimits::default();
    for (kind, limit) in [
        (0x01, 16 * 1024),
        (0x10, 65_544),
        (0x22, 4096),
        (0x30, 1024),
        (0x31, 1024),
        (0x40, 4096),
        (0x51, 16 * 1024),
        (0x60, 65_537),
        (0x61, 65_537),
        (0x62, 4096),
        (0x8f, 131_072),
    ] {
        let header = |length: usize| raw_header(kind, length);
        assert!(Header::parse(&header(limit), &limits).is_ok());
        assert!(Header::parse(&header(limit + 1), &limits).is_err());
    }
}

fn raw_header(kind: u8, length: usize) -> [u8; HEADER_LEN] {
    let length = (length as u32).to_be_bytes();
    [kind, 0, 0, 0, length[0], length[1], length[2], length[3]]
}

#[test]
fn skips_a_frame_of_unknown_type_without_keeping_it() {
    let mut bytes = raw(0x90, 0, &[7; 100_000]);
    bytes.extend(unhex("3000000000000004deadbeef"));
    let mut codec = FrameCodec::default();
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(1000) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = codec.decode(&mut buffer).unwrap() {
            frames.push(frame);
        }
        assert!(buffer.len() < HEADER_LEN + 4);
    }
    assert_eq!(
        frames,
        [Frame::Unknown(0x90), Frame::Ping(unhex("deadbeef"))]
    );
    assert_eq!(
        decode(&raw(0x90, 0, &[7; 10])).unwrap(),
        Frame::Unknown(0x90)
    );
}

#[test]
fn ignores_unknown_flag_bits_and_trailing_bytes() {
    assert_eq!(
        decode(&raw(0x21, 0xff, &[1, 2, 3])).unwrap(),
        Frame::Signal(Signal::Int)
    );
    let refused = Frame::HandshakeResponse(HandshakeResponse::Refused(Failure::new(
        Code::AUTH_FAILED,
        "",
    )));
    assert_eq!(decode(&raw(0x02, 0xfe, &[3, 232, 0])).unwrap(), refused);
}

#[test]
fn shows_bad_text_for_people_with_replacement_characters() {
    assert_eq!(
        decode(&raw(0xf0, 0, &[7, 211, 2, 0xff, b'a'])).unwrap(),
        Frame::Error(Failure::new(Code::BACKEND_CLOSED, "\u{fffd}a"))
    );
}

#[test]
fn reads_the_number_appended_to_a_resume_response() {
    let frame = Frame::ResumeResponse(ResumeResponse::Accepted {
        start: 9,
        count: 0,
        received: Some(u64::MAX),
    });
    let bytes = encode_message(&frame).unwrap();
    assert_eq!(bytes.len(), HEADER_LEN + 20);
    assert_eq!(decode(&bytes).unwrap(), frame);
}

#[test]
fn reads_the_token_appended_to_a_resume_request() {
    let frame = Frame::ResumeRequest(ResumeRequest {
        id: id(),
        last: 2,
        token: Bytes::from_static(b"abc"),
    });
    let bytes = encode_message(&frame).unwrap();
    let published = unhex("510000000000001910000102030405060708090a0b0c0d0e0f0000000000000002");
    assert_eq!(bytes[HEADER_LEN..HEADER_LEN + 25], published[HEADER_LEN..]);
    assert_eq!(&bytes[HEADER_LEN + 25..], b"\0\x03abc");
    assert_eq!(decode(&bytes).unwrap(), frame);
    // Other bytes there are somebody else's extension.
    for other in [&b"\x01"[..], b"\0\0", b"\0\x04abc"] {
        let payload = [&published[HEADER_LEN..], other].concat();
        let Frame::ResumeRequest(read) = decode(&raw(0x51, 0, &payload)).unwrap() else {
            panic!("read as something else");
        };
        assert_eq!((read.last, read.token.len()), (2, 0), "{other:?}");
    }
}

#[test]
fn end_of_data_is_a_flag_on_empty_data_only() {
    let end = Frame::Data(Data {
        number: Some(4),
        bytes: Bytes::new(),
        end: true,
    });
    assert_eq!(decode(&encode_message(&end).unwrap()).unwrap(), end);
    let Frame::Data(data) = decode(&raw(0x10, 1, b"x")).unwrap() else {
        panic!("DATA is read as something else");
    };
    assert!(!data.end);
}

#[test]
fn cuts_a_long_sentence_at_a_character() {
    let frame = Frame::Error(Failure::new(Code::CONNECT_FAILED, "é".repeat(200)));
    let Frame::Error(read) = decode(&encode_message(&frame).unwrap()).unwrap() else {
        panic!("ERROR is read as something else");
    };
    assert_eq!(read.message, "é".repeat(127));
}

#[test]
fn writes_nothing_when_a_field_is_too_long() {
    let mut buffer = BytesMut::from(&b"before"[..]);
    let frame = request(Capabilities::NONE, &"h".repeat(256), 1, "");
    assert!(matches!(
        FrameCodec::default().encode(frame, &mut buffer),
        Err(FrameError::FieldTooLong("host"))
    ));
    assert_eq!(&buffer[..], b"before");
}

#[test]
fn tokens_and_session_ids_stay_out_of_debug_output() {
    let shown = format!("{:?}", request(Capabilities::NONE, "h", 1, "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
    let id = SessionId::new(&b"hunter2"[..]).unwrap();
    let token = Bytes::from_static(b"swordfish");
    let shown = format!("{:?}", ResumeRequest { id, last: 0, token });
    assert!(!shown.contains("swordfish"), "{shown}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("104"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_an_error_and_frames_survive_a_round_trip(
        kind in prop::sample::select(vec![
            0x01, 0x02, 0x10, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x40, 0x50, 0x51, 0x52, 0x60, 0x61, 0x62, 0x63, 0xf0,
        ]),
        flags: u8,
        payload in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..64),
    ) {
        let bytes = raw(kind, flags, &payload);
        let as_message = decode(&bytes);
        let (frames, _) = stream(bytes.chunks(3));
        prop_assert_eq!(frames.first(), as_message.as_ref().ok());
        if let Ok(frame) = as_message {
            let again = decode(&encode_message(&frame).unwrap()).unwrap();
            prop_assert_eq!(again, frame);
        }
    }
}
