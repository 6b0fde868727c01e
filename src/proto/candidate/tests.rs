use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Candidate {
    Candidate::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn candidates_of_real_stacks_are_read() {
    let chromium = parse(
        "candidate:842163049 1 udp 1677729535 198.51.100.7 38926 typ srflx raddr 0.0.0.0 rport 0 generation 0 \
         ufrag eetF network-cost 999",
    );
    assert_eq!(chromium.kind, CandidateKind::ServerReflexive);
    assert_eq!(chromium.address(), "198.51.100.7:38926".parse().ok());
    assert_eq!(chromium.ufrag.as_deref(), Some("eetF"));
    assert!(chromium.udp);

    let firefox = parse(
        "candidate:2 1 TCP 2105458943 768527e2-58b4-45e7-8822-d3e36f19e808.local 9 typ host tcptype active",
    );
    assert!(!firefox.udp);
    assert_eq!(firefox.address(), None);

    let libdatachannel = parse("a=candidate:2 1 UDP 2116026111 fd00::2 40036 typ host\r\n");
    assert_eq!(libdatachannel.address(), "[fd00::2]:40036".parse().ok());
}

#[test]
fn a_candidate_is_written_as_browsers_write_theirs() {
    for text in [
        "candidate:1 1 udp 2130706431 10.0.0.1 4000 typ host",
        "candidate:7 1 udp 1694498815 198.51.100.7 4000 typ srflx raddr 0.0.0.0 rport 0 ufrag abcd",
        "candidate:9 1 udp 16777215 2001:db8::9 50000 typ relay raddr :: rport 0",
        "candidate:4 1 udp 2113937151 ae76af84-a5a1-422c-881a-882504701ae2.local 38926 typ host",
    ] {
        assert_eq!(parse(text).to_string(), text);
    }
}

#[test]
fn an_ipv4_address_in_the_form_of_ipv6_is_taken_as_what_it_is() {
    let candidate = parse("candidate:1 1 udp 1 ::ffff:10.0.0.1 4000 typ host");
    assert_eq!(candidate.address(), "10.0.0.1:4000".parse().ok());
}

#[test]
fn the_end_of_candidates_is_recognised_in_its_forms() {
    for end in ["", " ", "candidate:", "a=end-of-candidates"] {
        assert!(Candidate::is_end_mark(end), "{end:?}");
    }
    assert!(!Candidate::is_end_mark(
        "candidate:1 1 udp 1 10.0.0.1 1 typ host"
    ));
}

#[test]
fn what_breaks_a_rule_is_refused() {
    use CandidateError::{Field, NotACandidate};
    for (text, error) in [
        ("", NotACandidate),
        ("hello", NotACandidate),
        ("candidate:", Field("foundation")),
        (
            "candidate:1 0 udp 1 10.0.0.1 1 typ host",
            Field("component"),
        ),
        ("candidate:1 1 udp 0 10.0.0.1 1 typ host", Field("priority")),
        (
            "candidate:1 1 udp 2147483648 10.0.0.1 1 typ host",
            Field("priority"),
        ),
        (
            "candidate:1 1 udp -1 10.0.0.1 1 typ host",
            Field("priority"),
        ),
        (
            "candidate:1 1 udp 1 10.0.0.256 1 typ host",
            Field("address"),
        ),
        ("candidate:1 1 udp 1 a_b.local 1 typ host", Field("address")),
        ("candidate:1 1 udp 1 10.0.0.1 65536 typ host", Field("port")),
        ("candidate:1 1 udp 1 10.0.0.1 1 host", Field("type")),
        ("candidate:1 1 udp 1 10.0.0.1 1 typ other", Field("type")),
        (
            "candidate:1 1 udp 1 10.0.0.1 1 typ host ufrag a:b",
            Field("ufrag"),
        ),
    ] {
        assert_eq!(Candidate::parse(text), Err(error), "{text}");
    }
    let long = format!("candidate:{}", "1".repeat(MAX_CANDIDATE_LEN));
    assert_eq!(Candidate::parse(&long), Err(CandidateError::TooLong));
}

#[test]
fn a_resolved_name_keeps_the_rest() {
    let hidden = parse("candidate:4 1 udp 2113937151 x.local 38926 typ host ufrag abcd");
    let found = hidden.resolved("192.0.2.5".parse().unwrap());
    assert_eq!(found.address(), "192.0.2.5:38926".parse().ok());
    assert_eq!(found.ufrag, hidden.ufrag);
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
        let _result = Candidate::parse(&format!("candidate:{text}"));
    }

    #[test]
    fn a_written_candidate_is_read_back(
        priority in 1..=0x7fff_ffff_u32,
        ip in any::<IpAddr>(),
        port in any::<u16>(),
        kind in 0..4_usize,
        udp in any::<bool>(),
        ufrag in prop::option::of("[a-zA-Z0-9+/]{4,20}"),
    ) {
        use CandidateKind::{Host as OfHost, PeerReflexive, Relayed, ServerReflexive};
        let candidate = Candidate {
            foundation: "7".to_owned(),
            component: 1,
            udp,
            priority,
            host: Host::Ip(ip.to_canonical()),
            port,
            kind: [OfHost, ServerReflexive, PeerReflexive, Relayed][kind],
            ufrag,
        };
        prop_assert_eq!(Candidate::parse(&candidate.to_string()), Ok(candidate));
    }
}
