//! Candidates that hide their address behind a name, as those of browsers do.

use std::net::SocketAddrV4;

use tokio::task::JoinSet;

use super::{
    super::names::{
        Names,
        tests::{answer_for, group},
    },
    *,
};
use crate::proto::{Phase, mdns::Name};

const NAME: &str = "768527e2-58b4-45e7-8822-d3e36f19e808.local";

/// Candidates have the name in place of the address.
fn hidden() -> Tamper {
    let hide = |text: &str| text.replace(" 127.0.0.1 ", &format!(" {NAME} "));
    Arc::new(move |signal| {
        Some(match signal {
            Signal::Offer(text) => Signal::Offer(hide(&text)),
            Signal::Candidate {
                candidate,
                mid,
                index,
            } => Signal::Candidate {
                candidate: hide(&candidate),
                mid,
                index,
            },
            other => other,
        })
    })
}

/// No candidate arrives: the other side cannot begin.
fn mute() -> Tamper {
    Arc::new(|signal| match signal {
        Signal::Candidate { .. } => None,
        Signal::Answer(text) => {
            let lines = text.lines().filter(|line| !line.starts_with("a=candidate"));
            Some(Signal::Answer(
                lines.map(|line| format!("{line}\r\n")).collect(),
            ))
        }
        other => Some(other),
    })
}

/// Somebody answers for the name, until what this gives is dropped.
fn answering(group: SocketAddrV4) -> JoinSet<()> {
    let names = Names::in_group(group, Ipv4Addr::LOCALHOST);
    let name = Name::parse(NAME).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(answer_for(names, name, Ipv4Addr::LOCALHOST, 1));
    tasks
}

/// An answerer that asks for names in a group of its own, on a host with an interface, and gives up in `time`.
fn asking(group: SocketAddrV4, config: CallConfig, time: Duration) -> Caller {
    let settings = Config::new(&Keypair::generate_ed25519()).with_handshake_timeout(time);
    let names = Names::in_group(group, Ipv4Addr::LOCALHOST);
    Caller::with_names(config, Arc::new(SocketFactory::new(settings)), names)
}

#[tokio::test]
async fn a_name_that_is_found_leads_to_the_peer() {
    // The name comes with the first offer, before the interfaces are known.
    let group = group();
    let _answering = answering(group);
    let (a, b) = (Caller::new(config()), asking(group, config(), PATIENCE));
    let applications = [messages(true), messages(false)];
    let mut ends = connect(&a, &b, applications, [hidden(), mute()]).await;
    ends[0].channel().await;
    ends[1].channel().await;
}

#[tokio::test]
async fn names_are_skipped_where_they_are_not_to_be_looked_up() {
    let group = group();
    let _answering = answering(group);
    let time = Duration::from_secs(2);
    let a = impatient(config(), time);
    let b = asking(group, config().with_mdns(false), time);
    let applications = [messages(true), messages(false)];
    let mut ends = connect(&a, &b, applications, [hidden(), mute()]).await;
    let reason = ends[1].closed().await;
    assert_eq!(reason, CloseReason::HandshakeTimedOut(Phase::Ice));
}

#[tokio::test]
async fn one_call_looks_up_two_names_at_a_time() {
    let names = Names::in_group(group(), Ipv4Addr::LOCALHOST);
    let all = names.free();
    let settings = Config::new(&Keypair::generate_ed25519());
    let factory = Arc::new(SocketFactory::new(settings));
    let caller = Caller::with_names(config(), factory, names.clone());
    let mut offering = Caller::new(config()).offer(messages(true)).unwrap();
    let mut offer = description(&mut offering).await;
    for number in 0..8 {
        let name = NAME.replace("768527e2", &format!("0000000{number}"));
        offer += &format!("a=candidate:{number} 1 udp 1 {name} 9 typ host\r\n");
    }
    let _call = caller.answer(messages(false), &offer).unwrap();
    let begun = async {
        while names.free() == all {
            tokio::task::yield_now().await;
        }
    };
    within(begun).await;
    for _ in 0..1000 {
        assert!(
            names.free() >= all - 2,
            "{} of {all} are left",
            names.free()
        );
        tokio::task::yield_now().await;
    }
}
