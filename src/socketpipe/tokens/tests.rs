use super::*;
use crate::socketpipe::server::Origin;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// An Ed25519 key pair as `openssl genpkey` and `openssl pkey -pubout` write them (RFC 8410): private, public.
fn ed25519_pems() -> (String, String) {
    let seed = [7; 32];
    let public = libp2p_identity::Keypair::ed25519_from_bytes(seed)
        .unwrap()
        .public()
        .try_into_ed25519()
        .unwrap()
        .to_bytes();
    let pem_of = |tag: &str, prefix: &str, bytes: &[u8; 32]| {
        let prefix = HEXLOWER.decode(prefix.as_bytes()).unwrap();
        pem::encode(&pem::Pem::new(tag, [&prefix[..], &bytes[..]].concat()))
    };
    (
        pem_of("PRIVATE KEY", "302e020100300506032b657004220420", &seed),
        pem_of("PUBLIC KEY", "302a300506032b6570032100", &public),
    )
}

fn opening(mode: Mode, peer: Option<PeerId>) -> Opening {
    Opening::new(
        mode,
        peer.map_or_else(|| Origin::address("127.0.0.1"), Origin::peer),
    )
}

fn code(outcome: Result<Grant, Failure>) -> Code {
    outcome.expect_err("refused").code
}

fn anybody() -> Opening {
    opening(Mode::Pty, None)
}

#[test]
fn an_issued_token_opens_until_it_is_revoked() {
    let store = TokenStore::default();
    let token = store.issue(TokenTerms::new("anna")).unwrap();
    for _ in 0..3 {
        assert_eq!(
            store.check(token.as_bytes(), &anybody()).unwrap().label,
            "anna"
        );
    }
    assert_eq!(code(store.check(b"wrong", &anybody())), Code::AUTH_FAILED);
    assert_eq!(store.revoke("anna"), 1);
    let gone = store.check(token.as_bytes(), &anybody());
    assert_eq!(code(gone), Code::AUTH_FAILED);
}

/// A session from the first check to the last.
fn use_token(store: &TokenStore, token: &str, mut opening: Opening) -> Result<Grant, Failure> {
    opening.token = bytes::Bytes::copy_from_slice(token.as_bytes());
    let grant = store.check(token.as_bytes(), &opening)?;
    store.redeem(&opening)?;
    Ok(grant)
}

#[test]
fn a_token_for_one_use_opens_once_but_lets_the_same_peer_return() {
    let store = TokenStore::default();
    let token = store.issue(TokenTerms::new("guest").once()).unwrap();
    let (first, second) = (PeerId::random(), PeerId::random());
    // Checked but not opened: not used.
    store.check(token.as_bytes(), &anybody()).unwrap();
    use_token(&store, &token, opening(Mode::Pty, Some(first))).unwrap();
    use_token(&store, &token, opening(Mode::Pty, Some(first))).unwrap();
    let other = use_token(&store, &token, opening(Mode::Pty, Some(second)));
    assert!(other.unwrap_err().message.contains("used already"));
    assert_eq!(
        code(use_token(&store, &token, anybody())),
        Code::AUTH_FAILED
    );
}

#[test]
fn of_two_at_once_one_gets_the_last_use() {
    let store = TokenStore::default();
    let token = store.issue(TokenTerms::new("guest").once()).unwrap();
    let mut opening = anybody();
    opening.token = token.clone().into();
    for _ in 0..2 {
        store.check(token.as_bytes(), &opening).unwrap();
    }
    store.redeem(&opening).unwrap();
    store.redeem(&opening).unwrap_err();
}

#[test]
fn no_token_looks_like_an_option() {
    let tokens: Vec<_> = (0..1000).map(|_| new_token()).collect();
    assert!(tokens.iter().all(|token| !token.starts_with('-')));
}

#[test]
fn limits_of_mode_and_time_hold() {
    let store = TokenStore::default();
    let token = store
        .issue(TokenTerms::new("t").mode(Mode::Tunnel))
        .unwrap();
    let refused = store.check(token.as_bytes(), &anybody());
    assert_eq!(code(refused), Code::AUTH_INSUFFICIENT);
    let old = store
        .issue(TokenTerms::new("o").valid_for(Duration::ZERO))
        .unwrap();
    let refused = store.check(old.as_bytes(), &anybody());
    assert_eq!(code(refused), Code::AUTH_EXPIRED);
}

#[test]
fn saved_tokens_live_on_without_the_token_itself() {
    let store = TokenStore::default();
    let mut terms = TokenTerms::new("anna").once().mode(Mode::Tunnel);
    terms.targets = Some("db:5432".parse().unwrap());
    terms.valid_for_a_day();
    let token = store.issue(terms.clone()).unwrap();
    store
        .add_fixed(b"from the file", TokenTerms::new("fixed"))
        .unwrap();
    let saved = serde_json::to_string(&store.saved().unwrap()).unwrap();
    assert!(store.saved().is_none(), "nothing changed since");
    assert!(!saved.contains(&token) && !saved.contains("fixed"));

    let other = TokenStore::default();
    other.restore(serde_json::from_str(&saved).unwrap());
    assert_eq!(other.terms(), [terms]);
    use_token(&other, &token, opening(Mode::Tunnel, None)).unwrap();
    use_token(&other, &token, opening(Mode::Tunnel, None)).unwrap_err();
}

impl TokenTerms {
    /// Whole seconds, as they are saved.
    fn valid_for_a_day(&mut self) {
        self.expires = Some(from_unix(unix(wall_clock()) + 86_400));
    }
}

fn keys() -> [JwtKey; 2] {
    let (private, public) = ed25519_pems();
    [
        JwtKey::hs256(SECRET).unwrap(),
        JwtKey::eddsa(public.as_bytes())
            .unwrap()
            .with_eddsa_private(private.as_bytes())
            .unwrap(),
    ]
}

#[test]
fn signed_tokens_carry_their_terms() {
    for key in keys() {
        let mut terms = TokenTerms::new("bob").mode(Mode::Pty);
        terms.targets = Some("*.example.com:22".parse().unwrap());
        terms.peer = Some(PeerId::random());
        terms.valid_for_a_day();
        let token = key.issue(&terms).unwrap();
        let store = TokenStore::default();
        let refused = store.check(token.as_bytes(), &anybody());
        assert_eq!(code(refused), Code::AUTH_FAILED, "key unknown");
        store.add_key(key);
        let grant = store.check(token.as_bytes(), &anybody()).unwrap();
        assert_eq!(
            (
                grant.label.as_str(),
                grant.peer,
                grant.targets,
                grant.expires
            ),
            ("bob", terms.peer, terms.targets, terms.expires)
        );
        let wrong_mode = store.check(token.as_bytes(), &opening(Mode::Tunnel, None));
        assert_eq!(code(wrong_mode), Code::AUTH_INSUFFICIENT);
    }
}

#[test]
fn signed_tokens_expire_and_cannot_be_changed() {
    for key in keys() {
        let mut terms = TokenTerms::new("bob");
        terms.expires = Some(from_unix(1));
        let old = key.issue(&terms).unwrap();
        terms.valid_for_a_day();
        let good = key.issue(&terms).unwrap();
        let store = TokenStore::default();
        store.add_key(key);
        let refused = store.check(old.as_bytes(), &anybody());
        assert_eq!(code(refused), Code::AUTH_EXPIRED);
        // The signature of one under the claims of another.
        let (claims, _) = good.rsplit_once('.').unwrap();
        let (_, signature) = old.rsplit_once('.').unwrap();
        let forged = format!("{claims}.{signature}");
        let refused = store.check(forged.as_bytes(), &anybody());
        assert_eq!(code(refused), Code::AUTH_FAILED);
    }
}

#[test]
fn a_token_cannot_choose_its_algorithm() {
    let (_, public) = ed25519_pems();
    // The public key, known to everybody, used as the secret of HS256.
    let forger = JwtKey::hs256(public.as_bytes()).unwrap();
    let mut terms = TokenTerms::new("mallory");
    terms.valid_for_a_day();
    let forged = forger.issue(&terms).unwrap();
    let store = TokenStore::default();
    store.add_key(JwtKey::eddsa(public.as_bytes()).unwrap());
    let refused = store.check(forged.as_bytes(), &anybody());
    assert_eq!(code(refused), Code::AUTH_FAILED);
}

#[test]
fn keys_and_terms_that_cannot_be_are_refused() {
    assert!(matches!(
        JwtKey::hs256(b"short"),
        Err(JwtError::ShortSecret)
    ));
    assert!(matches!(JwtKey::eddsa(b"no key"), Err(JwtError::Key(_))));
    let [key, _] = keys();
    let endless = key.issue(&TokenTerms::new("x"));
    assert!(matches!(endless, Err(JwtError::NoExpiry)));
    let mut terms = TokenTerms::new("x").once();
    terms.valid_for_a_day();
    assert!(matches!(key.issue(&terms), Err(JwtError::Uses)));
}
