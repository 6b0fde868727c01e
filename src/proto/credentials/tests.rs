use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;

/// A client ufrag of the least length.
const CLIENT: &str = "abcd";

/// `len` characters that are all allowed.
fn ice_chars(len: usize) -> String {
    "aZ09+/".chars().cycle().take(len).collect()
}

fn v2(password_len: usize, client: &str) -> String {
    format!("{V2_PREFIX}{}:{client}", ice_chars(password_len))
}

fn v1(random_len: usize) -> String {
    let half = format!("{V1_PREFIX}{}", ice_chars(random_len));
    format!("{half}:{half}")
}

#[track_caller]
fn assert_rejected(username: &str, reason: RejectReason) {
    assert_eq!(parse_username(username), Err(reason), "{username:?}");
}

#[test]
fn accepts_v1_with_equal_halves() {
    let username = v1(32);

    let parsed = parse_username(&username).unwrap();

    assert_eq!(parsed.version, IceVersion::V1);
    assert_eq!(parsed.server_ufrag, parsed.client_ufrag);
    assert_eq!(parsed.client_pwd, parsed.server_ufrag);
    assert_eq!(parsed.server_ufrag.len(), 17 + 32);
}

#[test]
fn accepts_v2_and_finds_the_client_password() {
    let username = v2(32, "Xy+/");

    let parsed = parse_username(&username).unwrap();

    assert_eq!(parsed.version, IceVersion::V2);
    assert_eq!(parsed.server_ufrag, format!("{V2_PREFIX}{}", ice_chars(32)));
    assert_eq!(parsed.client_ufrag, "Xy+/");
    assert_eq!(parsed.client_pwd, ice_chars(32));
}

#[test]
fn rejects_a_username_without_colon() {
    assert_rejected("", RejectReason::MissingColon);
    assert_rejected(&v2(22, CLIENT).replace(':', ""), RejectReason::MissingColon);
}

#[test]
fn rejects_an_empty_half() {
    assert_rejected(":", RejectReason::EmptyUfrag);
    assert_rejected(&format!(":{CLIENT}"), RejectReason::EmptyUfrag);
    assert_rejected(&v2(22, ""), RejectReason::EmptyUfrag);
}

#[test]
fn rejects_a_half_of_three_characters() {
    assert_rejected(&v2(22, "abc"), RejectReason::UfragTooShort);
    assert_rejected("abc:abcd", RejectReason::UfragTooShort);
}

#[test]
fn accepts_a_client_half_of_four_characters() {
    assert!(parse_username(&v2(22, "abcd")).is_ok());
}

#[test]
fn limits_the_client_half_to_256_characters() {
    assert!(parse_username(&v2(22, &ice_chars(256))).is_ok());
    assert_rejected(&v2(22, &ice_chars(257)), RejectReason::UfragTooLong);
}

#[test]
fn limits_both_halves_of_v1_to_256_characters() {
    assert!(parse_username(&v1(239)).is_ok());
    assert_rejected(&v1(240), RejectReason::UfragTooLong);
}

#[test]
fn limits_the_v2_password_to_22_to_239_characters() {
    assert_rejected(&v2(0, CLIENT), RejectReason::PasswordTooShort);
    assert_rejected(&v2(21, CLIENT), RejectReason::PasswordTooShort);
    assert!(parse_username(&v2(22, CLIENT)).is_ok());
    assert!(parse_username(&v2(239, CLIENT)).is_ok());
    // 240 characters make a ufrag of 257.
    assert_rejected(&v2(240, CLIENT), RejectReason::UfragTooLong);
}

#[test]
fn rejects_characters_that_are_no_ice_chars() {
    for character in [
        ' ',
        '\t',
        '\r',
        '\n',
        '\0',
        '%',
        '=',
        '#',
        '-',
        '_',
        '.',
        'ä',
        '\u{1f600}',
    ] {
        let client = format!("abc{character}d");
        assert_rejected(&v2(22, &client), RejectReason::ForbiddenCharacter);
        let server = format!("{V2_PREFIX}{}{character}:{CLIENT}", ice_chars(22));
        assert_rejected(&server, RejectReason::ForbiddenCharacter);
    }
}

#[test]
fn splits_at_the_first_colon_and_rejects_a_second_one() {
    assert_rejected(&v2(22, "abcd:efgh"), RejectReason::ForbiddenCharacter);
}

#[test]
fn rejects_an_injected_description_line() {
    let line = "\r\na=candidate:1 1 UDP 1 192.0.2.1 1 typ host";
    assert_rejected(
        &v2(22, &format!("abcd{line}")),
        RejectReason::ForbiddenCharacter,
    );
    // A half with the line in it ends at the colon of the line.
    let server = format!("{V2_PREFIX}{}{line}:{CLIENT}", ice_chars(22));
    assert_rejected(&server, RejectReason::ForbiddenCharacter);
}

#[test]
fn rejects_a_v1_string_that_is_no_valid_password() {
    // A valid ufrag of 20 and 21 characters.
    assert_rejected(
        "libp2p+webrtc+v1/abc:libp2p+webrtc+v1/abc",
        RejectReason::PasswordTooShort,
    );
    assert_rejected(&v1(4), RejectReason::PasswordTooShort);
    assert!(parse_username(&v1(5)).is_ok());
}

#[test]
fn rejects_v1_with_different_halves() {
    let (server, _) = v1(32)
        .split_once(':')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();

    assert_rejected(&format!("{server}:{server}x"), RejectReason::HalvesDiffer);
    assert_rejected(&format!("{server}:{CLIENT}"), RejectReason::HalvesDiffer);
}

#[test]
fn rejects_unknown_versions_under_the_reserved_prefix() {
    for prefix in [
        "libp2p+webrtc+v3/",
        "libp2p+webrtc+v11/",
        "libp2p+webrtc+v2",
        "libp2p+webrtc+",
        "libp2p+webrtc+v/",
    ] {
        let username = format!("{prefix}{}:{CLIENT}", "a".repeat(32));
        assert_rejected(&username, RejectReason::UnknownVersion);
    }
}

#[test]
fn rejects_ufrags_of_others() {
    for ufrag in [
        "evtj",
        "LIBP2P+WEBRTC+V2/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "libp2p+webrtc",
        "alibp2p+webrtc+v2/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ] {
        assert_rejected(&format!("{ufrag}:{CLIENT}"), RejectReason::ForeignUfrag);
    }
}

#[test]
fn knows_rust_libp2p_by_its_64_random_characters() {
    for (username, expected) in [
        (v1(64), true),
        (v1(32), false),
        (v1(65), false),
        (v2(64, &ice_chars(64)), false),
    ] {
        let parsed = parse_username(&username).unwrap();
        assert_eq!(parsed.is_upstream_rust(), expected, "{username}");
    }
}

#[test]
fn every_reason_has_its_own_label() {
    let labels = [
        RejectReason::MissingUsername,
        RejectReason::MissingColon,
        RejectReason::EmptyUfrag,
        RejectReason::UfragTooShort,
        RejectReason::UfragTooLong,
        RejectReason::ForbiddenCharacter,
        RejectReason::UnknownVersion,
        RejectReason::ForeignUfrag,
        RejectReason::PasswordTooShort,
        RejectReason::HalvesDiffer,
    ]
    .map(RejectReason::as_str);

    let distinct: std::collections::BTreeSet<_> = labels.iter().collect();
    assert_eq!(distinct.len(), labels.len());
}

#[test]
fn dials_v1_with_one_shared_string() {
    let credentials = DialCredentials::generate(IceVersion::V1, &mut StdRng::seed_from_u64(1));

    assert_eq!(credentials.server_ufrag.len(), 17 + 32);
    assert!(credentials.server_ufrag.starts_with(V1_PREFIX));
    assert_eq!(credentials.client_ufrag, credentials.server_ufrag);
    assert_eq!(credentials.client_pwd, credentials.server_ufrag);
}

#[test]
fn dials_v2_with_independent_ufrag_and_password() {
    let credentials = DialCredentials::generate(IceVersion::V2, &mut StdRng::seed_from_u64(1));

    assert_eq!(credentials.client_ufrag.len(), 32);
    assert_eq!(credentials.client_pwd.len(), 32);
    assert_ne!(credentials.client_ufrag, credentials.client_pwd);
    assert_eq!(
        credentials.server_ufrag,
        format!("{V2_PREFIX}{}", credentials.client_pwd)
    );
}

#[test]
fn debug_output_hides_the_password() {
    let credentials = DialCredentials::generate(IceVersion::V2, &mut StdRng::seed_from_u64(1));

    assert!(!format!("{credentials:?}").contains(&credentials.client_pwd));
}

proptest! {
    #[test]
    fn a_listener_understands_every_dialer(seed: u64, second: bool) {
        let version = if second { IceVersion::V2 } else { IceVersion::V1 };
        let credentials = DialCredentials::generate(version, &mut StdRng::seed_from_u64(seed));
        let username = credentials.username();

        let parsed = parse_username(&username).unwrap();

        prop_assert_eq!(parsed.version, version);
        prop_assert_eq!(parsed.server_ufrag, &credentials.server_ufrag);
        prop_assert_eq!(parsed.client_ufrag, &credentials.client_ufrag);
        prop_assert_eq!(parsed.client_pwd, &credentials.client_pwd);
        prop_assert!(!parsed.is_upstream_rust());
    }

    #[test]
    fn whatever_is_accepted_is_made_of_ice_chars(
        username in prop_oneof![
            ".*",
            "libp2p\\+webrtc\\+v[0-3]/[a-z+/:\r\n =]{0,260}:[a-z+/:\r\n =]{0,260}",
        ],
    ) {
        if let Ok(parsed) = parse_username(&username) {
            for half in [parsed.server_ufrag, parsed.client_ufrag] {
                prop_assert!((4..=256).contains(&half.len()));
                prop_assert!(half.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b)));
            }
            prop_assert!(parsed.client_pwd.len() >= 22);
            prop_assert_eq!(format!("{}:{}", parsed.server_ufrag, parsed.client_ufrag), username);
        }
    }
}
