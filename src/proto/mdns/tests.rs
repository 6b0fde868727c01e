use proptest::prelude::*;

use super::*;

const UUID: &str = "768527e2-58b4-45e7-8822-d3e36f19e808.local";

fn name() -> Name {
    Name::parse(UUID).unwrap()
}

/// Name (as it is on the wire), type, class, lifetime, data.
type Record<'a> = (&'a [u8], u16, u16, u32, &'a [u8]);

/// A response with these records.
fn response(records: &[Record<'_>]) -> Vec<u8> {
    let mut message = Vec::new();
    let count = u16::try_from(records.len()).unwrap();
    for field in [0, 0x8400, 0, count, 0, 0] {
        put(&mut message, field);
    }
    for (name, kind, class, lifetime, data) in records {
        message.extend_from_slice(name);
        put(&mut message, *kind);
        put(&mut message, *class);
        message.extend_from_slice(&lifetime.to_be_bytes());
        put(&mut message, u16::try_from(data.len()).unwrap());
        message.extend_from_slice(data);
    }
    message
}

fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[test]
fn only_names_that_browsers_make_up_are_asked_for() {
    for text in [
        UUID,
        "768527E2-58B4-45E7-8822-D3E36F19E808.LOCAL",
        "00000000-0000-0000-0000-000000000000.local",
    ] {
        assert!(Name::parse(text).is_some(), "{text}");
    }
    for text in [
        "",
        ".local",
        "local",
        "a.b.local",
        "example.org",
        "a.local.",
        "a_b.local",
        "a b.local",
        "a.localhost",
        "a.local",
        "printer.local",
        "768527e258b445e78822d3e36f19e808.local",
        "768527e2-58b4-45e7-8822-d3e36f19e80.local",
        "768527e2-58b4-45e7-8822-d3e36f19e8080.local",
        "768527e2-58b4-45e7-8822d-3e36f19e808.local",
        "768527e2-58b4-45e7-8822-d3e36f19e80g.local",
        "768527e2-58b4-45e7-8822-d3e36f19e808",
        "x.768527e2-58b4-45e7-8822-d3e36f19e808.local",
        &format!("{}.local", "x".repeat(64)),
    ] {
        assert_eq!(Name::parse(text), None, "{text}");
    }
}

#[test]
fn a_query_asks_for_both_kinds_of_address() {
    let query = name().query();
    let question = wire(UUID);
    let expected = [
        &[0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0][..],
        &question,
        &[0, 1, 0, 1],
        &question,
        &[0, 28, 0, 1],
    ];
    assert_eq!(query, expected.concat());
    // It is no answer to itself.
    assert_eq!(name().answer(&query), None);
}

#[test]
fn addresses_of_both_families_are_found() {
    let v4 = response(&[(&wire(UUID), 1, 0x8001, 120, &[192, 0, 2, 7])]);
    assert_eq!(name().answer(&v4), "192.0.2.7".parse().ok());
    let ip: Ipv6Addr = "fd00::7".parse().unwrap();
    let v6 = response(&[(&wire(&UUID.to_uppercase()), 28, 1, 120, &ip.octets())]);
    assert_eq!(name().answer(&v6), Some(ip.into()));
}

#[test]
fn records_before_the_answer_are_passed_over() {
    let other = wire("other.local");
    let address = [192, 0, 2, 7];
    let uuid = wire(UUID);
    let message = response(&[
        (&other, 1, 1, 120, &[192, 0, 2, 1]),
        // Text, another class, a farewell, an address of the wrong length.
        (&uuid, 16, 1, 120, b"\x03abc"),
        (&uuid, 1, 3, 120, &address),
        (&uuid, 1, 1, 0, &address),
        (&uuid, 1, 1, 120, &[1, 2, 3]),
        (&uuid, 1, 1, 120, &address),
    ]);
    assert_eq!(name().answer(&message), "192.0.2.7".parse().ok());
}

#[test]
fn compressed_names_are_followed_and_loops_are_not() {
    // The question has the name, the answer a pointer to it.
    let mut message = Vec::new();
    for field in [0, 0x8400, 1, 1, 0, 0] {
        put(&mut message, field);
    }
    message.extend(wire(UUID));
    message.extend([0, 1, 0, 1]);
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1]);
    assert_eq!(name().answer(&message), "10.0.0.1".parse().ok());
    // One label, then a pointer to the `local` of the question.
    let local = 12 + u8::try_from(UUID.len()).unwrap() - 5;
    let label = wire(UUID.strip_suffix(".local").unwrap());
    let split = [&label[..label.len() - 1], &[0xc0, local]].concat();
    let mut halves = message[..message.len() - 16].to_vec();
    halves.extend(split);
    halves.extend([0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 2]);
    assert_eq!(name().answer(&halves), "10.0.0.2".parse().ok());
    // Pointers to themselves, to one another, and out of the message.
    for pointers in [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[0xff, 0xff]] {
        let message = response(&[(pointers, 1, 1, 120, &[10, 0, 0, 3])]);
        assert_eq!(name().answer(&message), None);
    }
}

#[test]
fn errors_and_other_operations_are_no_answers() {
    let good = response(&[(&wire(UUID), 1, 1, 120, &[10, 0, 0, 1])]);
    for (index, bits) in [(3, 0x03), (2, 0x28), (2, 0x84 ^ 0x04)] {
        let mut message = good.clone();
        message[index] ^= bits;
        assert_eq!(name().answer(&message), None, "{index} {bits:x}");
    }
}

proptest! {
    #[test]
    fn no_message_does_any_harm(message in proptest::collection::vec(any::<u8>(), 0..600)) {
        name().answer(&message);
    }

    #[test]
    fn a_damaged_answer_is_no_other_panic(at in 0_usize..70, value: u8, cut in 0_usize..80) {
        let mut message = response(&[(&wire(UUID), 1, 1, 120, &[10, 0, 0, 1])]);
        if let Some(byte) = message.get_mut(at) {
            *byte = value;
        }
        message.truncate(message.len().saturating_sub(cut));
        name().answer(&message);
    }
}
