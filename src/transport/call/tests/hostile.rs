//! Peers whose signals are nonsense, or ask for too much.

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::net::UdpSocket;

use super::{super::CallError, *};
use crate::proto::{Phase, connection::SignalError};

fn candidate(address: SocketAddr) -> Signal {
    Signal::Candidate {
        candidate: format!(
            "candidate:1 1 udp 2130706431 {} {} typ host",
            address.ip(),
            address.port()
        ),
        mid: "0".to_owned(),
        index: 0,
    }
}

async fn bystander() -> UdpSocket {
    UdpSocket::bind((LOOPBACK, 0)).await.unwrap()
}

/// Sockets that peers name and that have nothing to do with it.
async fn bystanders() -> Vec<UdpSocket> {
    let mut named = Vec::new();
    for _ in 0..100 {
        named.push(bystander().await);
    }
    named
}

fn asked(named: &[UdpSocket]) -> usize {
    let heard = |socket: &&UdpSocket| socket.try_recv(&mut [0; 2000]).is_ok();
    named.iter().filter(heard).count()
}

#[tokio::test]
async fn ten_thousand_candidates_lead_to_a_bounded_number_of_addresses() {
    let caller = impatient(config(), Duration::from_secs(4));
    let named = bystanders().await;
    let mut offering = caller.offer(messages(true)).unwrap();
    let offer = description(&mut offering).await;
    let mut call = caller.answer(messages(false), &offer).unwrap();
    for n in 0..10_000 {
        let address = named[n % 100].local_addr().unwrap();
        call.handle(candidate(address)).unwrap();
    }
    while !matches!(event(&mut call).await, CallEvent::Closed(_)) {}
    // They have one IP address, of which a few ports are tried.
    let asked = asked(&named);
    assert!((8..=16).contains(&asked), "{asked} strangers were asked");
}

#[tokio::test]
async fn ten_thousand_candidates_keep_nobody_from_coming_together() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let applications = [messages(true), messages(false)];
    let mut ends = connect(&a, &b, applications, [honest(), honest()]).await;
    let named = bystanders().await;
    for n in 0..10_000 {
        ends[1]
            .signal(candidate(named[n % 100].local_addr().unwrap()))
            .await;
    }
    let [mut one, mut two] = [ends[0].channel().await, ends[1].channel().await];
    within(one.send(Bytes::from_static(b"still here")))
        .await
        .unwrap();
    assert_eq!(
        &within(two.next()).await.unwrap().unwrap()[..],
        b"still here"
    );
    assert!(asked(&named) <= 64);
}

#[tokio::test]
async fn candidates_that_are_not_to_be_tried_are_not() {
    let guarded = Caller::new(config().with_loopback(false));
    let stranger = bystander().await;
    let address = stranger.local_addr().unwrap();
    let mute: Tamper = Arc::new(move |signal| {
        Some(match signal {
            Signal::Candidate { .. } => candidate(address),
            Signal::Offer(text) => Signal::Offer(with_candidate(&text, address)),
            other => other,
        })
    });
    let applications = [messages(true), messages(false)];
    let a = Caller::new(config());
    let mut ends = connect(&a, &guarded, applications, [mute, honest()]).await;
    // The offerer's checks show where it is: who sends from an address is there.
    ends[1].channel().await;
    let nothing = stranger.try_recv(&mut [0; 2000]);
    assert!(nothing.is_err(), "a check was sent to the candidate");
}

/// The description with this candidate and no other.
fn with_candidate(text: &str, address: SocketAddr) -> String {
    let Signal::Candidate { candidate, .. } = candidate(address) else {
        unreachable!("it makes candidates");
    };
    let lines = text.lines().filter(|line| !line.starts_with("a=candidate"));
    lines
        .chain([format!("a={candidate}").as_str()])
        .map(|line| format!("{line}\r\n"))
        .collect()
}

#[tokio::test]
async fn a_description_of_another_session_leads_nowhere() {
    let time = Duration::from_secs(2);
    let (a, b) = (impatient(config(), time), impatient(config(), time));
    let mut first = a.offer(messages(true)).unwrap();
    let _unanswered = description(&mut first).await;
    let mut second = a.offer(messages(true)).unwrap();
    let offer = description(&mut second).await;
    let mut other = b.answer(messages(false), &offer).unwrap();
    let answer = description(&mut other).await;
    first.handle(Signal::Answer(answer)).unwrap();
    loop {
        match event(&mut first).await {
            CallEvent::Closed(reason) => {
                assert_eq!(reason, CloseReason::HandshakeTimedOut(Phase::Ice));
                return;
            }
            CallEvent::Signal(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn descriptions_out_of_turn_are_refused_and_change_nothing() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let mut one = a.offer(messages(true)).unwrap();
    let offer = description(&mut one).await;
    let out_of_turn = |result| assert!(matches!(result, Err(CallError::OutOfTurn)), "{result:?}");
    // To the offerer: an offer.
    out_of_turn(one.handle(Signal::Offer(offer.clone())));
    let mut two = b.answer(messages(false), &offer).unwrap();
    // To the answerer: an answer, and an offer before the first was answered.
    out_of_turn(two.handle(Signal::Answer(offer.clone())));
    out_of_turn(two.handle(Signal::Offer(offer.clone())));
    let answer = description(&mut two).await;
    for nonsense in ["", "v=0", "v=1\r\n", &"v=0\r\n".repeat(30_000)] {
        let result = one.handle(Signal::Answer(nonsense.to_owned()));
        assert!(
            matches!(result, Err(CallError::Description(_))),
            "{result:?}"
        );
    }
    one.handle(Signal::Answer(answer.clone())).unwrap();
    // A second answer to one offer.
    out_of_turn(one.handle(Signal::Answer(answer)));
    for text in ["candidate:nonsense", "", &"x".repeat(100_000)] {
        let signal = Signal::Candidate {
            candidate: text.to_owned(),
            mid: String::new(),
            index: 7,
        };
        one.handle(signal.clone()).unwrap();
        two.handle(signal).unwrap();
    }
    // And the two of them come together all the same.
    let mut opened = Vec::new();
    within(async {
        while opened.len() < 2 {
            match poll_fn(|cx| one.poll_event(cx)).now_or_never() {
                Some(CallEvent::Signal(signal)) => two.handle(signal).unwrap(),
                Some(CallEvent::Channel(channel)) => opened.push(channel),
                Some(CallEvent::Closed(reason)) => panic!("{reason}"),
                _ => tokio::task::yield_now().await,
            }
            std::mem::swap(&mut one, &mut two);
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_fits_no_offer_ends_the_call_and_says_why() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let mut one = a.offer(messages(true)).unwrap();
    let offer = description(&mut one).await;
    let mut two = b.answer(messages(false), &offer).unwrap();
    let answer = description(&mut two)
        .await
        .replace("setup:active", "setup:actpass");
    one.handle(Signal::Answer(answer)).unwrap();
    loop {
        match event(&mut one).await {
            CallEvent::Closed(reason) => {
                assert_eq!(reason, CloseReason::Signaling(SignalError::Roles));
                break;
            }
            CallEvent::Signal(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // Nothing comes behind the end.
    assert!(poll_fn(|cx| one.poll_event(cx)).now_or_never().is_none());
}

#[tokio::test]
async fn the_wrong_certificate_is_refused_before_any_data() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let swap: Tamper = Arc::new(|signal| match signal {
        Signal::Answer(text) => Some(Signal::Answer(with_other_hash(&text))),
        other => Some(other),
    });
    let applications = [messages(true), messages(false)];
    let mut ends = connect(&a, &b, applications, [honest(), swap]).await;
    assert_eq!(ends[0].closed().await, CloseReason::CertificateMismatch);
    let events = &ends[0].passed;
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, CallEvent::Channel(_)))
    );
}

/// The hash of a certificate that nobody has.
fn with_other_hash(text: &str) -> String {
    let other = format!("a=fingerprint:sha-256 {}", ["AB"; 32].join(":"));
    let change = |line: &str| match line.starts_with("a=fingerprint") {
        true => other.clone(),
        false => line.to_owned(),
    };
    text.lines().map(|line| change(line) + "\r\n").collect()
}

#[tokio::test]
async fn restarts_in_quick_succession_end_the_call() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let (mut ends, _channels) = channels(&a, &b).await;
    let (first, rest) = ends.split_at_mut(1);
    let storm = async {
        loop {
            first[0].restart().await;
            tokio::task::yield_now().await;
        }
    };
    let closed = rest[0].closed();
    tokio::select! {
        () = storm => {}
        reason = closed => assert_eq!(reason, CloseReason::Signaling(SignalError::TooOften)),
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_a_call_until_its_time_is_over() {
    let caller = impatient(config(), Duration::from_secs(1));
    let mut call = caller.offer(messages(true)).unwrap();
    let closed = async {
        loop {
            if let CallEvent::Closed(reason) = event(&mut call).await {
                return reason;
            }
        }
    };
    assert_eq!(closed.await, CloseReason::HandshakeTimedOut(Phase::Ice));
    drop(call);
    nothing_is_left().await;
}
