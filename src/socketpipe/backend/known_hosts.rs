//! Host keys of SSH servers, in files as OpenSSH keeps them (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Understands plain, wildcard, negated and hashed names, ports, and `@revoked`. Certificate authorities are not
//! supported: their lines vouch for nothing.

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// What the files say about a key of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the host's.
    Known,
    /// The host has other keys of this type, or this one was revoked.
    Wrong,
    /// Nothing.
    Unknown,
}

/// Looks up a key, given as type and base64, for a host.
pub(super) fn check(text: &str, host: &str, port: u16, kind: &str, key: &str) -> Verdict {
    let name = name_of(host, port);
    let mut verdict = Verdict::Unknown;
    for line in text.lines().filter_map(Line::parse) {
        if !line.is_about(&name) {
            continue;
        }
        match line.marker {
            None if line.key == key => verdict = Verdict::Known,
            None if line.kind == kind && verdict == Verdict::Unknown => verdict = Verdict::Wrong,
            Some("@revoked") if line.key == key => return Verdict::Wrong,
            _ => {}
        }
    }
    verdict
}

/// The types of the keys known for a host: a server that has several is to be asked for one of these.
pub(super) fn kinds(text: &str, host: &str, port: u16) -> Vec<String> {
    let name = name_of(host, port);
    text.lines()
        .filter_map(Line::parse)
        .filter(|line| line.marker.is_none() && line.is_about(&name))
        .map(|line| line.kind.to_owned())
        .collect()
}

fn name_of(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    match port {
        22 => host,
        port => format!("[{host}]:{port}"),
    }
}

/// A line with a key.
struct Line<'a> {
    marker: Option<&'a str>,
    names: &'a str,
    kind: &'a str,
    key: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().filter(|word| !word.starts_with('#'))?;
        let marker = first.starts_with('@').then_some(first);
        let names = match marker {
            Some(_) => words.next()?,
            None => first,
        };
        Some(Self {
            marker,
            names,
            kind: words.next()?,
            key: words.next()?,
        })
    }

    fn is_about(&self, name: &str) -> bool {
        let mut found = false;
        for pattern in self.names.split(',') {
            match pattern.strip_prefix('!') {
                Some(not) if matches(&not.to_ascii_lowercase(), name) => return false,
                Some(_) => {}
                None if pattern.starts_with("|1|") => found |= is_hash_of(pattern, name),
                None => found |= matches(&pattern.to_ascii_lowercase(), name),
            }
        }
        found
    }
}

/// `|1|salt|hash`: HMAC-SHA1 of the name with the salt as key.
fn is_hash_of(pattern: &str, name: &str) -> bool {
    let parts = pattern
        .strip_prefix("|1|")
        .and_then(|rest| rest.split_once('|'));
    let Some((salt, hash)) = parts else {
        return false;
    };
    let (Ok(salt), Ok(hash)) = (
        BASE64.decode(salt.as_bytes()),
        BASE64.decode(hash.as_bytes()),
    ) else {
        return false;
    };
    Hmac::<Sha1>::new_from_slice(&salt)
        .is_ok_and(|hmac| hmac.chain_update(name).verify_slice(&hash).is_ok())
}

/// Shell-like `*` and `?`, without recursion: on a mismatch the last `*` takes one more character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9";
    const TWO: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2";

    fn verdict(text: &str, host: &str, port: u16) -> Verdict {
        check(text, host, port, "ssh-ed25519", ONE)
    }

    fn hashed(name: &str) -> String {
        let salt = b"0123456789abcdefghij";
        let mut hmac = Hmac::<Sha1>::new_from_slice(salt).unwrap();
        hmac.update(name.as_bytes());
        let hash = hmac.finalize().into_bytes();
        format!("|1|{}|{}", BASE64.encode(salt), BASE64.encode(&hash))
    }

    #[test]
    fn an_empty_file_vouches_for_nobody() {
        assert_eq!(verdict("", "example.com", 22), Verdict::Unknown);
        assert_eq!(
            verdict("# a comment\n\nnonsense\n", "example.com", 22),
            Verdict::Unknown
        );
    }

    #[test]
    fn a_known_key_is_known_under_its_names_and_port_only() {
        let text = format!("example.com,192.0.2.1 ssh-ed25519 {ONE} a comment\n");
        assert_eq!(verdict(&text, "Example.COM", 22), Verdict::Known);
        assert_eq!(verdict(&text, "192.0.2.1", 22), Verdict::Known);
        assert_eq!(verdict(&text, "example.com", 2222), Verdict::Unknown);
        assert_eq!(verdict(&text, "example.org", 22), Verdict::Unknown);
        let text = format!("[example.com]:2222\tssh-ed25519\t{ONE}\n");
        assert_eq!(verdict(&text, "example.com", 2222), Verdict::Known);
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Unknown);
    }

    #[test]
    fn a_changed_key_is_wrong() {
        let text = format!("example.com ssh-ed25519 {TWO}\n");
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Wrong);
    }

    #[test]
    fn a_key_of_another_type_says_nothing() {
        let text = format!("example.com ssh-rsa {TWO}\n");
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Unknown);
    }

    #[test]
    fn a_host_may_have_several_keys() {
        let text = format!("example.com ssh-ed25519 {TWO}\nexample.com ssh-ed25519 {ONE}\n");
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Known);
    }

    #[test]
    fn hashed_names_are_found() {
        let text = format!("{} ssh-ed25519 {ONE}\n", hashed("example.com"));
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Known);
        assert_eq!(verdict(&text, "example.org", 22), Verdict::Unknown);
        let text = format!("{} ssh-ed25519 {ONE}\n", hashed("[localhost]:2222"));
        assert_eq!(verdict(&text, "localhost", 2222), Verdict::Known);
    }

    #[test]
    fn a_revoked_key_is_wrong_even_if_it_is_listed() {
        let text = format!("example.com ssh-ed25519 {ONE}\n@revoked * ssh-ed25519 {ONE}\n");
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Wrong);
    }

    #[test]
    fn an_authority_vouches_for_nothing() {
        let text = format!("@cert-authority * ssh-ed25519 {ONE}\n");
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Unknown);
    }

    #[test]
    fn wildcards_and_exceptions() {
        let text = format!("*.example.com,!bad.example.com ssh-ed25519 {ONE}\n");
        assert_eq!(verdict(&text, "a.example.com", 22), Verdict::Known);
        assert_eq!(verdict(&text, "bad.example.com", 22), Verdict::Unknown);
        assert_eq!(verdict(&text, "example.com", 22), Verdict::Unknown);
        assert!(matches("a*b?d", "axxbcd"));
        assert!(matches("*", ""));
        assert!(!matches("a*b", "axxc"));
    }
}
