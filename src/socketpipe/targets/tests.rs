//! Patterns: what they permit, and what they must not.

use super::*;

fn list(text: &str) -> Allowlist {
    text.parse().expect("patterns of a test are valid")
}

fn leads(list: &Allowlist, host: &str, address: &str) -> bool {
    list.permits_address(host, address.parse().expect("an address"))
}

#[test]
fn an_empty_list_permits_nothing() {
    let empty = Allowlist::default();
    assert!(empty.is_empty());
    assert!(!empty.permits_host("example.com", 22));
    assert!(!empty.permits_host("192.0.2.1", 22));
    assert!(!leads(&empty, "example.com", "198.41.0.4:22"));
}

#[test]
fn a_name_is_compared_whole_and_in_any_case() {
    let list = list("db.example.com:5432");
    assert!(list.permits_host("DB.Example.com.", 5432));
    assert!(!list.permits_host("db.example.com", 5433));
    assert!(!list.permits_host("x.db.example.com", 5432));
    assert!(!list.permits_host("db.example.com.evil.net", 5432));
}

#[test]
fn a_wildcard_permits_names_below_only() {
    let list = list("*.example.com:443");
    assert!(list.permits_host("a.example.com", 443));
    assert!(list.permits_host("b.a.example.com", 443));
    assert!(!list.permits_host("example.com", 443));
    assert!(!list.permits_host("badexample.com", 443));
}

#[test]
fn a_permitted_name_does_not_lead_inside() {
    for pattern in ["intern.example.com:80", "*.example.com:80", "*:80"] {
        let list = list(pattern);
        assert!(list.permits_host("intern.example.com", 80), "{pattern}");
        assert!(
            leads(&list, "intern.example.com", "198.41.0.4:80"),
            "{pattern}"
        );
        assert!(
            leads(&list, "intern.example.com", "[2a00::1]:80"),
            "{pattern}"
        );
        for inside in [
            "127.0.0.1:80",
            "10.1.2.3:80",
            "172.16.0.1:80",
            "192.168.1.1:80",
            "169.254.169.254:80",
            "100.64.0.1:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[fd00::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[64:ff9b::7f00:1]:80",
            "[64:ff9b::a01:203]:80",
            "[2002:7f00:1::]:80",
            "[::7f00:1]:80",
        ] {
            assert!(
                !leads(&list, "intern.example.com", inside),
                "{pattern} {inside}"
            );
        }
    }
}

#[test]
fn an_address_pattern_opens_what_names_lead_to() {
    let list = list("intern.example.com:80 10.0.0.0/8:80");
    assert!(leads(&list, "intern.example.com", "10.1.2.3:80"));
    assert!(leads(&list, "intern.example.com", "[::ffff:10.1.2.3]:80"));
    assert!(!leads(&list, "intern.example.com", "192.168.1.1:80"));
}

#[test]
fn localhost_leads_to_loopback_only_by_its_exact_name() {
    let exact = list("localhost:22");
    assert!(leads(&exact, "localhost", "127.0.0.1:22"));
    assert!(leads(&exact, "localhost", "[::1]:22"));
    assert!(!leads(&exact, "localhost", "10.0.0.1:22"));
    assert!(!leads(&list("*:22"), "localhost", "127.0.0.1:22"));
}

#[test]
fn networks_and_ports_have_edges() {
    let list = list("192.168.4.0/22:8000-8100, [fd12::/16]:*, 203.0.113.7:22");
    assert!(list.permits_host("192.168.7.255", 8100));
    assert!(!list.permits_host("192.168.8.0", 8000));
    assert!(!list.permits_host("192.168.4.1", 7999));
    assert!(!list.permits_host("192.168.4.1", 8101));
    assert!(list.permits_host("fd12:1::1", 1));
    assert!(!list.permits_host("fd13::1", 1));
    assert!(list.permits_host("203.0.113.7", 22));
    assert!(list.permits_host("::ffff:203.0.113.7", 22));
}

#[test]
fn a_bare_star_permits_public_addresses_only() {
    let list = list("*:443");
    assert!(list.permits_host("198.41.0.4", 443));
    assert!(!list.permits_host("127.0.0.1", 443));
    assert!(!list.permits_host("10.0.0.1", 443));
}

#[test]
fn shorthand_addresses_are_names_and_end_at_the_address_check() {
    // `2130706433`, `0x7f.1` and the like are resolved by some libraries to loopback.
    let list = list("*:80");
    assert!(!leads(&list, "2130706433", "127.0.0.1:80"));
    assert!(!leads(&list, "0x7f.1", "127.0.0.1:80"));
}

#[test]
fn refuses_what_is_no_pattern() {
    for text in [
        "example.com",
        "example.com:",
        ":22",
        "example.com:0",
        "a b:",
        "10.0.0.0/33:22",
        "example.com/8:22",
        "[example.com]:22",
        "x:9-8",
        "ex*mple.com:22",
        "x:70000",
        "*.:22",
    ] {
        assert!(text.parse::<Allowlist>().is_err(), "{text}");
    }
}

#[test]
fn prints_what_it_reads() {
    let text =
        "*.example.com:443, *:22, 10.0.0.0/8:1-1024, 127.0.0.1:80, [fd00::/8]:*, localhost:22";
    assert_eq!(list(text).to_string(), text);
    assert_eq!(list(&list(text).to_string()), list(text));
}
