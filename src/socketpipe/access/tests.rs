//! Every policy with every kind of guest.

use std::time::Duration;

use super::*;

const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;

fn tokens(owner: Option<PeerId>) -> OpaqueTokens {
    let mut tokens = OpaqueTokens::default();
    let grant = |label: &str| Grant {
        label: label.to_owned(),
        ..Grant::default()
    };
    tokens.insert(b"free", grant("free"));
    let expires = Some(LONG_AGO + Duration::from_secs(1));
    tokens.insert(
        b"old",
        Grant {
            expires,
            ..grant("old")
        },
    );
    tokens.insert(
        b"mine",
        Grant {
            peer: owner,
            ..grant("mine")
        },
    );
    tokens
}

fn opening(peer: Option<PeerId>, token: &str) -> Opening {
    let origin = peer.map_or_else(|| Origin::address("192.0.2.1"), Origin::peer);
    let mut opening = Opening::new(Mode::Pty, origin);
    opening.token = token.to_owned().into();
    opening
}

/// The label, or the code of the refusal.
fn outcome(policy: Policy, listed: bool, peer: PeerId, token: &str) -> Result<String, u16> {
    let access = Access::new(policy, Policy::Peers).with_tokens(tokens(Some(peer)));
    if listed {
        access.allow_peer(peer);
    }
    let checked = access.check(&opening(Some(peer), token));
    checked
        .map(|grant| grant.label)
        .map_err(|failure| failure.code.0)
}

#[test]
fn nobody_comes_in_by_default() {
    let peer = PeerId::random();
    for token in ["", "free"] {
        let refused = Access::default().check(&opening(Some(peer), token));
        assert_eq!(refused.unwrap_err().code, Code::AUTH_INSUFFICIENT);
        let refused = Access::default().check(&opening(None, token));
        assert_eq!(refused.unwrap_err().code, Code::AUTH_FAILED);
    }
}

#[test]
fn listed_peers_need_no_token_and_others_do_not_help_themselves_with_one() {
    let peer = PeerId::random();
    assert_eq!(outcome(Policy::Peers, true, peer, ""), Ok(peer.to_string()));
    assert_eq!(outcome(Policy::Peers, false, peer, "free"), Err(1002));
}

#[test]
fn a_token_lets_anybody_in_if_it_is_valid() {
    let peer = PeerId::random();
    assert_eq!(
        outcome(Policy::Token, false, peer, "free"),
        Ok("free".to_owned())
    );
    assert_eq!(outcome(Policy::Token, true, peer, ""), Err(1000));
    assert_eq!(outcome(Policy::Token, true, peer, "wrong"), Err(1000));
    assert_eq!(outcome(Policy::Token, true, peer, "old"), Err(1001));
}

#[test]
fn both_means_both() {
    let peer = PeerId::random();
    assert_eq!(
        outcome(Policy::Both, true, peer, "free"),
        Ok("free".to_owned())
    );
    assert_eq!(outcome(Policy::Both, true, peer, ""), Err(1000));
    assert_eq!(outcome(Policy::Both, false, peer, "free"), Err(1002));
}

#[test]
fn bound_takes_tokens_of_this_very_peer_only() {
    let peer = PeerId::random();
    assert_eq!(
        outcome(Policy::Bound, false, peer, "mine"),
        Ok("mine".to_owned())
    );
    assert_eq!(outcome(Policy::Bound, true, peer, "free"), Err(1002));
    let access = Access::new(Policy::Bound, Policy::Bound).with_tokens(tokens(Some(peer)));
    let thief = opening(Some(PeerId::random()), "mine");
    assert_eq!(
        access.check(&thief).unwrap_err().code,
        Code::AUTH_INSUFFICIENT
    );
}

#[test]
fn without_a_proven_peer_a_policy_that_asks_for_one_lets_nobody_in() {
    let peer = PeerId::random();
    for (policy, good) in [
        (Policy::Peers, true),
        (Policy::Token, true),
        (Policy::Both, false),
        (Policy::Bound, false),
    ] {
        let access = Access::new(policy, policy).with_tokens(tokens(Some(peer)));
        access.allow_peer(peer);
        let found = access.check(&opening(None, "free"));
        assert_eq!(found.is_ok(), good, "{policy}");
        if let Err(failure) = found {
            assert_eq!(failure.code, Code::AUTH_INSUFFICIENT);
            assert!(failure.message.contains("libp2p"), "{failure}");
        }
    }
}

#[test]
fn a_token_of_a_peer_is_worthless_without_that_peer_under_every_policy() {
    let peer = PeerId::random();
    let access = Access::new(Policy::Token, Policy::Token).with_tokens(tokens(Some(peer)));
    for thief in [None, Some(PeerId::random())] {
        let refused = access.check(&opening(thief, "mine")).unwrap_err();
        assert_eq!(refused.code, Code::AUTH_INSUFFICIENT);
    }
}

#[test]
fn only_where_the_token_alone_suffices_may_it_move_a_session_to_another_kind_of_path() {
    let peer = PeerId::random();
    let by_token = |policy, who, token| {
        let access = Access::new(policy, policy).with_tokens(tokens(Some(peer)));
        access.allow_peer(peer);
        access.check(&opening(who, token)).unwrap().by_token
    };
    assert!(by_token(Policy::Token, Some(peer), "free"));
    assert!(by_token(Policy::Token, None, "free"));
    assert!(!by_token(Policy::Token, Some(peer), "mine"));
    assert!(!by_token(Policy::Peers, Some(peer), "free"));
    assert!(!by_token(Policy::Peers, None, "free"));
    assert!(!by_token(Policy::Both, Some(peer), "free"));
    assert!(!by_token(Policy::Bound, Some(peer), "mine"));
}

#[test]
fn the_policy_of_the_mode_counts() {
    let peer = PeerId::random();
    let access = Access::new(Policy::Peers, Policy::Token).with_tokens(tokens(None));
    let mut tunnel = opening(Some(peer), "free");
    tunnel.mode = Mode::Tunnel;
    assert!(access.check(&tunnel).is_ok());
    assert!(access.check(&opening(Some(peer), "free")).is_err());
}

#[test]
fn the_list_can_be_edited_while_it_is_used() {
    let peer = PeerId::random();
    let access = Access::default();
    let in_use = access.clone();
    assert!(in_use.check(&opening(Some(peer), "")).is_err());
    access.allow_peer(peer);
    assert!(in_use.check(&opening(Some(peer), "")).is_ok());
    assert!(access.forget_peer(&peer));
    assert!(!access.forget_peer(&peer));
    assert!(in_use.check(&opening(Some(peer), "")).is_err());
}

#[test]
fn policies_are_read_as_they_are_printed() {
    for policy in [Policy::Peers, Policy::Token, Policy::Both, Policy::Bound] {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    assert!("everybody".parse::<Policy>().is_err());
}

#[test]
fn tokens_are_not_printed() {
    let debug = format!("{:?}", opening(None, "hunter2"));
    assert!(!debug.contains("hunter2"), "{debug}");
}
