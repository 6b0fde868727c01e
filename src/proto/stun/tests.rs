use std::net::SocketAddr;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;

/// Password of RFC 5769, sections 2.1 to 2.3.
const KEY: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const ID: TransactionId = TransactionId([
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
]);
/// RFC 5769, section 2.1.
const SAMPLE_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae\
    802200105354554e207465737420636c69656e74\
    002400046e0001ff\
    80290008932ff9b151263b36\
    000600096576746a3a68367659202020\
    000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
    80280004e57a3bcf";
/// RFC 5769, section 2.2.
const SAMPLE_IPV4_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae\
    8022000b7465737420766563746f7220\
    002000080001a147e112a643\
    000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7\
    80280004c07d4c96";
/// RFC 5769, section 2.3.
const SAMPLE_IPV6_RESPONSE: &str = "010100482112a442b7e7a701bc34d686fa87dfae\
    8022000b7465737420766563746f7220\
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
    00080014a382954e4be67bf11784c97c8292c275bfe3ed41\
    80280004c8fb0b4c";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn request(datagram: &[u8]) -> BindingRequest<'_> {
    match parse(datagram) {
        Ok(Message::BindingRequest(request)) => request,
        other => panic!("not a Binding request: {other:?}"),
    }
}

fn success(datagram: &[u8]) -> BindingResponse<'_> {
    match parse(datagram) {
        Ok(Message::BindingSuccess(response)) => response,
        other => panic!("not a Binding success response: {other:?}"),
    }
}

fn params<'a>(username: &'a str, key: &'a [u8]) -> RequestParams<'a> {
    RequestParams {
        transaction_id: ID,
        username,
        key,
        role: IceRole::Controlling(7),
        priority: 1,
        use_candidate: true,
    }
}

fn encoded_request() -> Vec<u8> {
    let mut out = Vec::new();
    encode_binding_request(&params("server:client", KEY), &mut out);
    out
}

/// A message with the given attributes and a right length field, neither protected nor fingerprinted.
fn message(message_type: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(message_type, ID, &mut out);
    for (attribute, value) in attributes {
        writer.attribute(*attribute, value);
    }
    let len = length_field(out.len() - HEADER_LEN);
    out[2..4].copy_from_slice(&len);
    out
}

/// Appends a right FINGERPRINT to a message that has none.
fn with_fingerprint(mut message: Vec<u8>) -> Vec<u8> {
    let len = length_field(message.len() - HEADER_LEN + 8);
    message[2..4].copy_from_slice(&len);
    let checksum = fingerprint(&message);
    message.extend_from_slice(&[0x80, 0x28, 0, 4]);
    message.extend_from_slice(&checksum);
    message
}

#[test]
fn reads_the_sample_request_of_rfc_5769() {
    let datagram = unhex(SAMPLE_REQUEST);

    let request = request(&datagram);

    assert_eq!(request.transaction_id(), ID);
    assert_eq!(request.username(), Some("evtj:h6vY"));
    assert_eq!(request.priority(), Some(0x6e00_01ff));
    assert_eq!(
        request.role(),
        Some(IceRole::Controlled(0x932f_f9b1_5126_3b36))
    );
    assert!(!request.use_candidate());
    assert!(request.has_integrity());
    assert!(request.verify(KEY));
    assert!(!request.verify(b"another password"));
}

#[test]
fn reads_the_sample_responses_of_rfc_5769() {
    for (sample, address) in [
        (SAMPLE_IPV4_RESPONSE, "192.0.2.1:32853"),
        (
            SAMPLE_IPV6_RESPONSE,
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
        ),
    ] {
        let datagram = unhex(sample);

        let response = success(&datagram);

        assert_eq!(response.transaction_id(), ID);
        assert_eq!(response.mapped_address(), Some(address.parse().unwrap()));
        assert_eq!(response.error_code(), None);
        assert!(response.verify(KEY), "{address}");
        assert!(!response.verify(b"another password"));
    }
}

#[test]
fn a_message_may_follow_others_in_the_buffer() {
    let mut out = vec![0xff; 7];
    encode_binding_request(&params("server:client", KEY), &mut out);

    assert_eq!(out[7..], encoded_request());
}

#[test]
fn a_changed_byte_breaks_fingerprint_or_integrity() {
    let original = encoded_request();
    // Under another number FINGERPRINT would be an attribute after MESSAGE-INTEGRITY, so one to ignore.
    let fingerprint_type = original.len() - 8..original.len() - 6;
    for at in (HEADER_LEN..original.len()).filter(|at| !fingerprint_type.contains(at)) {
        let mut datagram = original.clone();
        datagram[at] ^= 0x01;

        let accepted =
            matches!(parse(&datagram), Ok(Message::BindingRequest(request)) if request.verify(KEY));

        assert!(!accepted, "byte {at}");
    }
}

#[test]
fn integrity_is_checked_without_a_fingerprint() {
    let mut datagram = encoded_request();
    datagram.truncate(datagram.len() - 8);
    let len = length_field(datagram.len() - HEADER_LEN);
    datagram[2..4].copy_from_slice(&len);

    assert!(request(&datagram).verify(KEY));
}

#[test]
fn a_request_without_integrity_never_verifies() {
    let datagram = message(BINDING_REQUEST, &[(USERNAME, b"a:b")]);

    let request = request(&datagram);

    assert!(!request.has_integrity());
    assert!(!request.verify(b""));
}

#[test]
fn attributes_after_message_integrity_are_ignored() {
    let mut datagram = Vec::new();
    let mut writer = Writer::new(BINDING_REQUEST, ID, &mut datagram);
    writer.attribute(USERNAME, b"a:b");
    let mac = hmac(writer.out, KEY).finalize().into_bytes();
    writer.attribute(MESSAGE_INTEGRITY, &mac);
    writer.attribute(USE_CANDIDATE, b"");
    writer.attribute(0x7777, b"not understood");
    let datagram = with_fingerprint(datagram);

    let request = request(&datagram);

    assert!(request.verify(KEY));
    assert!(!request.use_candidate());
}

#[test]
fn of_repeated_attributes_the_first_counts() {
    let datagram = message(
        BINDING_REQUEST,
        &[(USERNAME, b"first:one"), (USERNAME, b"second:one")],
    );

    assert_eq!(request(&datagram).username(), Some("first:one"));
}

#[test]
fn unknown_optional_attributes_are_skipped() {
    let datagram = message(
        BINDING_REQUEST,
        &[(0xc057, &[0, 1, 0, 10]), (USERNAME, b"a:b")],
    );

    assert_eq!(request(&datagram).username(), Some("a:b"));
}

#[test]
fn reports_unknown_attributes_that_must_be_understood() {
    let datagram = message(
        BINDING_REQUEST,
        &[(0x7777, b""), (USERNAME, b"a:b"), (0x0003, &[0; 4])],
    );

    let Err(StunError::UnknownAttributes(unknown)) = parse(&datagram) else {
        panic!("message with unknown attributes was accepted");
    };

    assert_eq!(unknown.as_slice(), [0x7777, 0x0003]);
}

#[test]
fn lists_a_bounded_number_of_unknown_attributes() {
    let attributes: Vec<(u16, &[u8])> = (0..100).map(|n| (0x7000 + n, &[][..])).collect();
    let datagram = message(BINDING_REQUEST, &attributes);

    let Err(StunError::UnknownAttributes(unknown)) = parse(&datagram) else {
        panic!("message with unknown attributes was accepted");
    };

    assert_eq!(unknown.as_slice(), (0x7000..0x7008).collect::<Vec<_>>());
}

#[test]
fn refuses_a_fingerprint_that_is_not_last() {
    let valid = with_fingerprint(message(BINDING_REQUEST, &[]));
    let mut datagram = valid.clone();
    datagram.extend_from_slice(&[0x80, 0x22, 0, 0]);
    datagram[3] += 4;
    let checksum = fingerprint(&datagram[..HEADER_LEN]);
    datagram[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&checksum);

    assert!(parse(&valid).is_ok());
    assert_eq!(parse(&datagram).unwrap_err(), StunError::Fingerprint);
}

#[test]
fn refuses_a_wrong_fingerprint() {
    let mut datagram = encoded_request();
    *datagram.last_mut().unwrap() ^= 1;

    assert_eq!(parse(&datagram).unwrap_err(), StunError::Fingerprint);
}

#[test]
fn refuses_a_username_that_is_not_utf_8() {
    let datagram = message(BINDING_REQUEST, &[(USERNAME, &[0xff, b':', b'a'])]);

    assert_eq!(
        parse(&datagram).unwrap_err(),
        StunError::Malformed(USERNAME)
    );
}

#[test]
fn refuses_attributes_of_a_wrong_size() {
    for (attribute, value) in [
        (PRIORITY, &[0; 3][..]),
        (ICE_CONTROLLING, &[0; 4]),
        (ICE_CONTROLLED, &[0; 9]),
        (USE_CANDIDATE, &[0; 1]),
        (MESSAGE_INTEGRITY, &[0; 16]),
        (XOR_MAPPED_ADDRESS, &[0, 1, 0, 0, 1, 2, 3]),
        (XOR_MAPPED_ADDRESS, &[0, 2, 0, 0, 1, 2, 3, 4]),
        (XOR_MAPPED_ADDRESS, &[0, 3, 0, 0, 1, 2, 3, 4]),
        (ERROR_CODE, &[0, 0, 4]),
        (ERROR_CODE, &[0, 0, 2, 0]),
        (ERROR_CODE, &[0, 0, 4, 100]),
    ] {
        let datagram = message(BINDING_REQUEST, &[(attribute, value)]);

        assert_eq!(
            parse(&datagram).unwrap_err(),
            StunError::Malformed(attribute),
            "{value:?}"
        );
    }
}

#[test]
fn refuses_a_datagram_cut_or_extended_at_any_byte() {
    let datagram = encoded_request();
    for len in 0..datagram.len() {
        assert!(parse(&datagram[..len]).is_err(), "{len} bytes");
    }
    let mut longer = datagram.clone();
    for _ in 0..8 {
        longer.push(0);
        assert_eq!(parse(&longer).unwrap_err(), StunError::Length);
    }
}

#[test]
fn refuses_a_length_that_is_no_multiple_of_four() {
    let mut datagram = message(BINDING_REQUEST, &[]);
    datagram.push(0);
    datagram[3] = 1;

    assert_eq!(parse(&datagram).unwrap_err(), StunError::Length);
}

#[test]
fn refuses_an_attribute_beyond_the_end() {
    let mut datagram = message(BINDING_REQUEST, &[(PRIORITY, &[0; 4])]);
    datagram[HEADER_LEN + 3] = 5;

    assert_eq!(parse(&datagram).unwrap_err(), StunError::Truncated);
}

#[test]
fn knows_stun_by_first_byte_and_cookie() {
    let datagram = encoded_request();
    let mut dtls = datagram.clone();
    dtls[0] = 22;
    let mut wrong_cookie = datagram.clone();
    wrong_cookie[5] ^= 1;

    assert!(is_stun(&datagram));
    for other in [&dtls[..], &wrong_cookie, &datagram[..19], &[]] {
        assert!(!is_stun(other));
        assert_eq!(parse(other).unwrap_err(), StunError::NotStun);
    }
}

#[test]
fn other_messages_are_told_apart() {
    // Binding indication, Allocate request.
    for message_type in [0x0011, 0x0003] {
        let datagram = message(message_type, &[(0x7777, b"")]);

        assert!(matches!(parse(&datagram), Ok(Message::Other)));
    }
}

#[test]
fn an_error_response_keeps_its_code() {
    for code in [300, 400, 401, 420, 487, 500, 699] {
        let mut datagram = Vec::new();
        encode_binding_error(ID, code, "Role Conflict", KEY, &mut datagram);

        let Ok(Message::BindingError(response)) = parse(&datagram) else {
            panic!("error response was refused");
        };

        assert_eq!(response.transaction_id(), ID);
        assert_eq!(response.error_code(), Some(code));
        assert!(response.verify(KEY));
    }
}

#[test]
fn transaction_ids_are_random() {
    let mut rng = StdRng::seed_from_u64(1);

    assert_ne!(
        TransactionId::random(&mut rng),
        TransactionId::random(&mut rng)
    );
}

proptest! {
    #[test]
    fn an_encoded_request_is_read_back(
        id: [u8; 12],
        username in "[a-zA-Z0-9+/]{1,256}:[a-zA-Z0-9+/]{1,256}",
        key in proptest::collection::vec(any::<u8>(), 0..300),
        controlling: bool,
        tie_breaker: u64,
        priority: u32,
        use_candidate: bool,
    ) {
        let role = if controlling {
            IceRole::Controlling(tie_breaker)
        } else {
            IceRole::Controlled(tie_breaker)
        };
        let transaction_id = TransactionId(id);
        let mut datagram = Vec::new();
        encode_binding_request(
            &RequestParams { transaction_id, username: &username, key: &key, role, priority, use_candidate },
            &mut datagram,
        );

        let request = request(&datagram);

        prop_assert!(is_stun(&datagram));
        prop_assert_eq!(request.transaction_id(), transaction_id);
        prop_assert_eq!(request.username(), Some(&username[..]));
        prop_assert_eq!(request.role(), Some(role));
        prop_assert_eq!(request.priority(), Some(priority));
        prop_assert_eq!(request.use_candidate(), use_candidate);
        prop_assert!(request.verify(&key));
    }

    #[test]
    fn an_encoded_success_is_read_back(id: [u8; 12], mapped: SocketAddr) {
        // The wire has no room for flow label and scope.
        let mapped = SocketAddr::new(mapped.ip(), mapped.port());
        let mut datagram = Vec::new();
        encode_binding_success(TransactionId(id), mapped, KEY, &mut datagram);

        let response = success(&datagram);

        prop_assert_eq!(response.transaction_id(), TransactionId(id));
        prop_assert_eq!(response.mapped_address(), Some(mapped));
        prop_assert!(response.verify(KEY));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _result = parse(&bytes);
    }

    #[test]
    fn any_attributes_are_read_without_panic(
        message_type in prop::sample::select(vec![BINDING_REQUEST, BINDING_SUCCESS, BINDING_ERROR]),
        attributes in proptest::collection::vec(
            (
                prop_oneof![
                    any::<u16>(),
                    prop::sample::select(vec![
                        USERNAME, MESSAGE_INTEGRITY, ERROR_CODE, XOR_MAPPED_ADDRESS, PRIORITY,
                        USE_CANDIDATE, FINGERPRINT, ICE_CONTROLLED, ICE_CONTROLLING,
                    ]),
                ],
                proptest::collection::vec(any::<u8>(), 0..24),
            ),
            0..8,
        ),
    ) {
        let attributes: Vec<(u16, &[u8])> =
            attributes.iter().map(|(attribute, value)| (*attribute, &value[..])).collect();
        let datagram = message(message_type, &attributes);

        if let Ok(Message::BindingRequest(request)) = parse(&datagram) {
            request.verify(KEY);
        }
    }
}
