//! Packets as bytes: what is written is read, what is malformed is refused.

use proptest::prelude::*;

use super::*;

fn packet(write: impl FnOnce(&mut Writer)) -> Bytes {
    let mut writer = Writer::default();
    writer.begin(0x0102_0304);
    write(&mut writer);
    Bytes::copy_from_slice(writer.finish(true))
}

fn first_chunk(packet: &Bytes) -> Chunk {
    Chunks::new(packet).next().expect("a chunk")
}

fn chunk(kind: u8, body: &[u8]) -> Chunk {
    first_chunk(&packet(|writer| writer.plain(kind, body)))
}

fn data(payload: &[u8]) -> Data {
    let payload = Bytes::copy_from_slice(payload);
    Data {
        tsn: 1,
        stream: 2,
        ssn: 3,
        ppid: 53,
        flags: flag::BEGIN,
        payload,
    }
}

#[test]
fn serial_numbers_compare_around_zero() {
    for (a, b) in [(1, 2), (u32::MAX, 0), (u32::MAX - 5, 7), (0, (1 << 31) - 1)] {
        assert!(before(a, b) && !before(b, a), "{a} {b}");
    }
    assert!(!before(5, 5));
}

#[test]
fn a_packet_is_laid_out_as_the_rfc_says() {
    let packet = packet(|writer| writer.data(&data(b"abc"), true));
    let expected = [
        &[0x13, 0x88, 0x13, 0x88, 1, 2, 3, 4][..],
        &packet[8..12],
        &[0, flag::BEGIN | flag::IMMEDIATE, 0, 19],
        &[0, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 53],
        b"abc\0",
    ];
    assert_eq!(packet, expected.concat());
}

#[test]
fn the_checksum_is_that_of_the_rfc() {
    // CRC32c of "123456789" is 0xe3069283 (RFC 9260 appendix A uses this polynomial, reflected).
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    let good = packet(|writer| writer.plain(kind::COOKIE_ACK, &[]));
    assert_eq!(verification_tag(&good), Some(0x0102_0304));
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        assert_eq!(verification_tag(&bad), None, "byte {at}");
    }
}

#[test]
fn a_checksum_of_zero_is_taken() {
    let mut packet = packet(|writer| writer.plain(kind::COOKIE_ACK, &[])).to_vec();
    packet[8..12].fill(0);
    assert_eq!(verification_tag(&packet), Some(0x0102_0304));
}

#[test]
fn a_packet_without_chunks_is_none() {
    let packet = packet(|_| {});
    for len in 0..=packet.len() {
        assert_eq!(verification_tag(&packet[..len]), None, "{len} bytes");
    }
}

#[test]
fn chunks_are_read_up_to_the_first_that_does_not_fit() {
    let packet = packet(|writer| {
        writer.plain(kind::COOKIE_ECHO, b"abcde");
        writer.plain(kind::HEARTBEAT, b"xy");
    });
    let mut chunks = Chunks::new(&packet);
    assert_eq!(chunks.next().unwrap().body, b"abcde"[..]);
    assert_eq!(chunks.next().unwrap().body, b"xy"[..]);
    assert!(chunks.next().is_none() && !chunks.malformed);
    for len in [0, 3, 9, 65_535] {
        let mut bad = packet.to_vec();
        bad[24..26].copy_from_slice(&u16::to_be_bytes(0x0400));
        bad[26..28].copy_from_slice(&u16::to_be_bytes(len));
        let mut chunks = Chunks::new(&bad.into());
        assert!(chunks.next().is_some());
        assert!(chunks.next().is_none() && chunks.malformed, "length {len}");
    }
}

#[test]
fn the_last_padding_may_be_missing() {
    let packet = packet(|writer| writer.plain(kind::HEARTBEAT, b"xy"));
    let mut chunks = Chunks::new(&packet.slice(..packet.len() - 2));
    assert_eq!(chunks.next().unwrap().body, b"xy"[..]);
    assert!(!chunks.malformed);
}

#[test]
fn data_without_user_data_is_refused() {
    let full = first_chunk(&packet(|writer| writer.data(&data(b"a"), false)));
    assert_eq!(Data::read(&full).unwrap().payload, b"a"[..]);
    for len in 0..full.body.len() {
        assert!(
            Data::read(&chunk(kind::DATA, &full.body[..len])).is_none(),
            "{len} bytes"
        );
    }
}

#[test]
fn data_takes_as_much_room_as_it_says() {
    for len in 1..10 {
        let data = data(&vec![0; len]);
        let packet = packet(|writer| writer.data(&data, false));
        assert_eq!(packet.len(), COMMON_HEADER + data.wire_len());
    }
}

fn init() -> Init {
    Init {
        tag: 7,
        window: 1 << 20,
        inbound: 300,
        tsn: 9,
        zero_checksum: true,
        cookie: Bytes::new(),
    }
}

#[test]
fn an_init_is_read_as_written() {
    let with_cookie = Init {
        cookie: Bytes::from_static(b"cookie"),
        ..init()
    };
    for (init, kind) in [(init(), kind::INIT), (with_cookie, kind::INIT_ACK)] {
        let chunk = first_chunk(&packet(|writer| writer.init(&init)));
        assert_eq!(chunk.kind, kind);
        assert_eq!(Init::read(&chunk), Some(init));
    }
}

#[test]
fn an_init_with_impossible_values_is_refused() {
    let good = first_chunk(&packet(|writer| writer.init(&init())));
    for (at, bytes) in [
        (0, &[0; 4][..]),
        (4, &[0, 0, 5, 0]),
        (8, &[0; 2]),
        (10, &[0; 2]),
    ] {
        let mut body = good.body.to_vec();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(Init::read(&chunk(kind::INIT, &body)), None, "at {at}");
    }
    for len in 0..16 {
        assert_eq!(Init::read(&chunk(kind::INIT, &good.body[..len])), None);
    }
    assert!(
        Init::read(&chunk(kind::INIT, &good.body[..16])).is_some(),
        "parameters may be missing"
    );
}

#[test]
fn another_way_of_error_detection_is_not_ours() {
    let good = first_chunk(&packet(|writer| writer.init(&init())));
    let at = good
        .body
        .windows(4)
        .position(|at| at == [0x80, 1, 0, 8])
        .unwrap();
    let mut body = good.body.to_vec();
    body[at + 7] = 2;
    assert!(!Init::read(&chunk(kind::INIT, &body)).unwrap().zero_checksum);
}

#[test]
fn a_sack_is_read_as_written() {
    let gaps = [(2, 3), (5, 5), (7, 65_535)];
    let chunk = first_chunk(&packet(|writer| writer.sack(u32::MAX, 77, &gaps, &[1, 2])));
    let sack = Sack::read(&chunk).unwrap();
    assert_eq!((sack.cumulative, sack.window), (u32::MAX, 77));
    assert_eq!(sack.gaps().collect::<Vec<_>>(), gaps);
    assert_eq!(sack.highest(), 65_534);
}

#[test]
fn a_sack_whose_gaps_make_no_sense_is_refused() {
    let read = |gaps: &[(u16, u16)]| {
        Sack::read(&first_chunk(&packet(|writer| writer.sack(0, 0, gaps, &[]))))
    };
    assert!(read(&[(2, 2), (3, 3)]).is_some());
    let refused: [&[(u16, u16)]; 5] = [
        &[(0, 0)],
        &[(1, 2)],
        &[(3, 2)],
        &[(2, 4), (4, 5)],
        &[(5, 6), (2, 3)],
    ];
    for gaps in refused {
        assert!(read(gaps).is_none(), "{gaps:?}");
    }
    // Counts that do not fit the length.
    for count in [1, 65_535] {
        let mut body = [0; 12];
        body[8..10].copy_from_slice(&u16::to_be_bytes(count));
        assert!(Sack::read(&chunk(kind::SACK, &body)).is_none());
    }
}

#[test]
fn reset_requests_and_responses_are_read_as_written() {
    for streams in [vec![], vec![1], vec![1, 2], vec![0, 65_535, 9]] {
        let request = Reconfig::OutgoingReset {
            sequence: 5,
            last_tsn: 6,
            streams,
        };
        let chunk = first_chunk(&packet(|writer| writer.reconfig(&request, 4)));
        assert_eq!(read_reconfig(&chunk), [request]);
    }
    let response = Reconfig::Response {
        sequence: 5,
        result: 1,
    };
    let chunk = first_chunk(&packet(|writer| writer.reconfig(&response, 4)));
    assert_eq!(read_reconfig(&chunk), [response]);
}

#[test]
fn unknown_parameters_of_a_reset_are_skipped() {
    let mut body = Vec::new();
    push_parameter(&mut body, 17, &[0; 8]);
    push_parameter(
        &mut body,
        parameter::RECONFIG_RESPONSE,
        &[0, 0, 0, 5, 0, 0, 0, 1],
    );
    let expected = Reconfig::Response {
        sequence: 5,
        result: 1,
    };
    assert_eq!(read_reconfig(&chunk(kind::RECONFIG, &body)), [expected]);
    // Too short a response, and a length that does not fit.
    assert!(read_reconfig(&chunk(kind::RECONFIG, &[0, 16, 0, 8, 0, 0, 0, 5])).is_empty());
    assert!(read_reconfig(&chunk(kind::RECONFIG, &[0, 16, 0, 90, 0, 0, 0, 5])).is_empty());
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let packet = Bytes::from(bytes);
        verification_tag(&packet);
        for chunk in Chunks::new(&packet) {
            Data::read(&chunk);
            Init::read(&chunk);
            read_reconfig(&chunk);
            if let Some(sack) = Sack::read(&chunk) {
                sack.highest();
                prop_assert!(sack.gaps().all(|(start, end)| start >= 2 && start <= end));
            }
        }
    }
}
