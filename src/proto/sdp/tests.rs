use proptest::prelude::*;

use super::*;
use crate::proto::candidate::{CandidateKind, Host};

/// Descriptions that the named stacks wrote for one data channel: offers with their candidates, answers without.
const REAL: [(&str, &str, &str); 5] = [
    (
        "Chromium 156",
        include_str!("real/chromium-offer.sdp"),
        include_str!("real/chromium-answer.sdp"),
    ),
    (
        "Firefox 153",
        include_str!("real/firefox-offer.sdp"),
        include_str!("real/firefox-answer.sdp"),
    ),
    (
        "pion 4.1.2",
        include_str!("real/pion-offer.sdp"),
        include_str!("real/pion-answer.sdp"),
    ),
    (
        "libdatachannel",
        include_str!("real/libdatachannel-offer.sdp"),
        include_str!("real/libdatachannel-answer.sdp"),
    ),
    (
        "webrtc-rs 0.17",
        include_str!("real/webrtc-rs-offer.sdp"),
        include_str!("real/webrtc-rs-answer.sdp"),
    ),
];

fn offer(name: &str) -> &'static str {
    REAL.into_iter()
        .find_map(|(stack, offer, _)| stack.starts_with(name).then_some(offer))
        .unwrap()
}

/// A description of ours.
fn ours() -> Description {
    Description {
        origin: (4_611_731_400_430_051_336, 2),
        ufrag: "Abcdefgh".to_owned(),
        password: "0123456789abcdefghijkl".to_owned(),
        ice_lite: false,
        fingerprints: vec![Fingerprint::from_bytes([0xab; 32])],
        setup: Setup::ActPass,
        mid: "0".to_owned(),
        max_message_size: 262_144,
        candidates: vec![
            Candidate::parse("candidate:1 1 udp 2130706431 10.0.0.1 4000 typ host ufrag Abcdefgh")
                .unwrap(),
        ],
        end_of_candidates: true,
    }
}

#[test]
fn offers_and_answers_of_real_stacks_are_read() {
    for (stack, offer, answer) in REAL {
        let read = |text| {
            Description::parse(text).unwrap_or_else(|error| panic!("{stack}: {error}\n{text}"))
        };
        let (offer, answer) = (read(offer), read(answer));
        assert_eq!(offer.setup, Setup::ActPass, "{stack}");
        assert_eq!(answer.setup, Setup::Active, "{stack}");
        for description in [&offer, &answer] {
            assert_eq!(description.mid, "0", "{stack}");
            assert_eq!(description.fingerprints.len(), 1, "{stack}");
            assert!(!description.ice_lite, "{stack}");
            assert!(description.max_message_size >= 16_384, "{stack}");
        }
        assert!(!offer.candidates.is_empty(), "{stack}");
        assert_ne!(offer.ufrag, answer.ufrag, "{stack}");
    }
}

#[test]
fn what_chromium_offers_is_read_to_the_last_value() {
    let offer = Description::parse(offer("Chromium")).unwrap();
    assert_eq!(offer.ufrag, "eetF");
    assert_eq!(offer.password, "SXVm2ONxZ3hYzavhrf2t4qod");
    assert_eq!(
        offer.fingerprints[0].to_sdp(),
        "8D:D3:B6:82:A0:0B:6C:D6:FC:46:77:42:02:73:39:DE:10:E9:42:42:EA:1A:15:68:99:64:69:7E:22:EE:9A:B8"
    );
    assert_eq!(offer.max_message_size, 262_144);
    let hidden = Host::Name("ae76af84-a5a1-422c-881a-882504701ae2.local".to_owned());
    assert_eq!(offer.candidates[0].host, hidden);
    assert_eq!(offer.candidates[0].kind, CandidateKind::Host);
}

#[test]
fn a_fingerprint_of_the_session_counts_for_its_section() {
    for stack in ["Firefox", "pion", "libdatachannel"] {
        let text = offer(stack);
        let before = text.split("m=application").next().unwrap();
        assert!(before.contains("a=fingerprint:sha-256"), "{stack}");
        assert_eq!(Description::parse(text).unwrap().fingerprints.len(), 1);
    }
}

#[test]
fn a_description_of_ours_has_the_lines_that_browsers_need() {
    let text = ours().to_string();
    assert!(
        text.ends_with("\r\n") && text.lines().count() == 17,
        "{text}"
    );
    let expected = "v=0\r\n\
        o=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n\
        s=-\r\n\
        t=0 0\r\n\
        a=group:BUNDLE 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
        c=IN IP4 0.0.0.0\r\n\
        a=candidate:1 1 udp 2130706431 10.0.0.1 4000 typ host ufrag Abcdefgh\r\n\
        a=end-of-candidates\r\n\
        a=ice-ufrag:Abcdefgh\r\n";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_written_description_is_read_back() {
    for size in [0, 16_384, usize::MAX] {
        let mut written = ours();
        written.max_message_size = size;
        written.ice_lite = true;
        let mut read = Description::parse(&written.to_string()).unwrap();
        read.origin = written.origin;
        // No limit is written as 0.
        written.max_message_size = if size == 0 { usize::MAX } else { size };
        assert_eq!(read, written);
    }
}

#[test]
fn what_a_safe_connection_needs_must_be_there() {
    let whole = ours().to_string();
    for (line, missing) in [
        ("a=fingerprint", "fingerprint"),
        ("a=ice-ufrag", "ice-ufrag"),
        ("a=ice-pwd", "ice-pwd"),
        ("a=setup", "setup"),
        ("a=sctp-port", "sctp-port"),
    ] {
        let without: String = whole
            .split_inclusive('\n')
            .filter(|text| !text.starts_with(line))
            .collect();
        assert_eq!(
            Description::parse(&without),
            Err(SdpError::Attribute(missing))
        );
    }
    let sha1 = whole.replace("sha-256", "sha-1");
    assert_eq!(
        Description::parse(&sha1),
        Err(SdpError::Attribute("fingerprint"))
    );
}

#[test]
fn values_that_are_out_of_bounds_are_refused() {
    let with = |from: &str, to: &str| Description::parse(&ours().to_string().replace(from, to));
    for (from, to, what) in [
        ("ice-ufrag:Abcdefgh", "ice-ufrag:abc", "ice-ufrag"),
        ("ice-ufrag:Abcdefgh", "ice-ufrag:ab\"cd", "ice-ufrag"),
        ("ice-pwd:0123456789abcdefghijkl", "ice-pwd:short", "ice-pwd"),
        ("setup:actpass", "setup:holdconn", "setup"),
        ("sctp-port:5000", "sctp-port:5001", "sctp-port"),
        ("size:262144", "size:+1", "max-message-size"),
        ("a=mid:0", "a=mid:a b", "mid"),
    ] {
        assert_eq!(with(from, to), Err(SdpError::Attribute(what)), "{to}");
    }
    let ufrag = |length| {
        with(
            "ice-ufrag:Abcdefgh",
            &format!("ice-ufrag:{}", "x".repeat(length)),
        )
    };
    assert!(ufrag(MAX_REMOTE_UFRAG_LEN).is_ok());
    assert_eq!(
        ufrag(MAX_REMOTE_UFRAG_LEN + 1),
        Err(SdpError::Attribute("ice-ufrag"))
    );
    let long = format!("ice-pwd:{}", "x".repeat(257));
    assert_eq!(
        with("ice-pwd:0123456789abcdefghijkl", &long),
        Err(SdpError::Attribute("ice-pwd"))
    );
}

#[test]
fn only_one_section_and_only_data_channels_are_taken() {
    let text = ours().to_string();
    let video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n";
    assert_eq!(
        Description::parse(&format!("{text}{video}")),
        Err(SdpError::OtherSections)
    );
    let first = text.replace("m=application", &format!("{video}m=application"));
    assert_eq!(Description::parse(&first), Err(SdpError::OtherSections));
    let none = text.split("m=application").next().unwrap();
    assert_eq!(Description::parse(none), Err(SdpError::NoDataChannels));
    assert_eq!(
        Description::parse(&text.replace("application 9", "application 0")),
        Err(SdpError::Refused)
    );
    assert_eq!(
        Description::parse(&text.replace("webrtc-datachannel", "5000")),
        Err(SdpError::NoDataChannels)
    );
}

#[test]
fn size_lines_and_candidates_are_bounded() {
    let text = ours().to_string();
    let long = format!("{text}a={}\r\n", "x".repeat(MAX_DESCRIPTION_LEN));
    assert_eq!(Description::parse(&long), Err(SdpError::TooLong));
    let lines = format!("{text}{}", "a=x\r\n".repeat(MAX_LINES));
    assert_eq!(Description::parse(&lines), Err(SdpError::TooLong));
    let many: String = (0..300)
        .map(|port| format!("a=candidate:1 1 udp 1 10.0.0.2 {port} typ host\r\n"))
        .collect();
    let read = Description::parse(&format!("{text}{many}")).unwrap();
    assert_eq!(read.candidates.len(), MAX_CANDIDATES);
}

#[test]
fn texts_that_are_no_descriptions_are_refused() {
    for text in ["", "\r\n", "v=1\r\n", "hello", "m=application"] {
        assert_eq!(
            Description::parse(text),
            Err(SdpError::NotADescription),
            "{text:?}"
        );
    }
}

#[test]
fn a_candidate_that_cannot_be_read_costs_only_itself() {
    let bad = ours()
        .to_string()
        .replace("a=end-of", "a=candidate:nonsense\r\na=end-of");
    assert_eq!(Description::parse(&bad).unwrap().candidates.len(), 1);
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "\\PC{0,400}") {
        let _result = Description::parse(&text);
    }

    #[test]
    fn any_damage_to_a_real_offer_is_survived(
        which in 0..REAL.len(),
        at in any::<prop::sample::Index>(),
        insert in "[ -~\\r\\n]{0,12}",
        cut in 0..40_usize,
    ) {
        let text = REAL[which].1;
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        let damaged = format!("{}{insert}{}", &text[..at], &text[end..]);
        if let Ok(read) = Description::parse(&damaged) {
            let again = Description::parse(&read.to_string());
            prop_assert_eq!(again, Ok(read));
        }
    }
}
