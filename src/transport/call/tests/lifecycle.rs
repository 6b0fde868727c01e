//! What a call leaves behind, and how many there may be.

use futures::{FutureExt as _, SinkExt as _};

use super::{super::CallError, *};

/// How far a call has come when it is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Begun,
    Offered,
    Answered,
    Path,
    Channel,
}

/// A call is made and dropped at `stage`, by one side or by both.
async fn drop_at(stage: Stage, both: bool) {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let mut one = a.offer(messages(true)).unwrap();
    if stage == Stage::Begun {
        return;
    }
    let offer = description(&mut one).await;
    if stage == Stage::Offered {
        return;
    }
    let mut two = b.answer(messages(false), &offer).unwrap();
    let answer = description(&mut two).await;
    if stage == Stage::Answered {
        return;
    }
    one.handle(Signal::Answer(answer)).unwrap();
    let mut channels = Vec::new();
    within(async {
        loop {
            match poll_fn(|cx| one.poll_event(cx)).now_or_never() {
                Some(CallEvent::Signal(signal)) => two.handle(signal).unwrap(),
                Some(CallEvent::Path { .. }) if stage == Stage::Path => break,
                Some(CallEvent::Channel(channel)) => channels.push(channel),
                Some(CallEvent::Closed(reason)) => panic!("{reason}"),
                _ => tokio::task::yield_now().await,
            }
            if channels.len() == 2 {
                break;
            }
            std::mem::swap(&mut one, &mut two);
        }
    })
    .await;
    if !both {
        drop(one);
        while !matches!(event(&mut two).await, CallEvent::Closed(_)) {}
        return;
    }
    if let Some(channel) = channels.first_mut() {
        // Dropped with data on its way.
        within(channel.send(vec![1; 16_000].into())).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_at_any_stage_leaves_nothing_behind() {
    use Stage::{Answered, Begun, Channel, Offered, Path};
    for stage in [Begun, Offered, Answered, Path, Channel] {
        drop_at(stage, true).await;
        nothing_is_left().await;
    }
    for stage in [Path, Channel] {
        drop_at(stage, false).await;
        nothing_is_left().await;
    }
}

#[tokio::test]
async fn a_place_is_given_back_when_a_call_has_ended() {
    let caller = Caller::new(config().with_max_calls(2));
    let [one, two] = [0, 1].map(|_| caller.offer(messages(true)).unwrap());
    let again = caller.clone().with_servers(&[]);
    let refused = again.offer(messages(true));
    assert!(matches!(refused, Err(CallError::TooMany)), "{refused:?}");
    drop(one);
    nothing_but(1).await;
    let _three = again.offer(messages(true)).unwrap();
    assert!(caller.offer(messages(true)).is_err());
    drop(two);
}

#[tokio::test]
async fn calls_that_are_counted_apart_leave_each_other_their_places() {
    let strangers = Caller::new(config().with_max_calls(7));
    let guests = strangers.counted_apart(1);
    let guest = guests.offer(messages(true)).unwrap();
    let refused = guests.clone().offer(messages(true));
    assert!(matches!(refused, Err(CallError::TooMany)), "{refused:?}");
    let others: Vec<_> = (0..7)
        .map(|_| strangers.offer(messages(true)).unwrap())
        .collect();
    assert!(strangers.offer(messages(true)).is_err());
    assert_eq!((strangers.calls(), guests.calls()), (7, 1));
    drop((guest, others));
    nothing_is_left().await;
    // Answers leave from the same sockets all the same.
    let near = channels(&Caller::new(config()), &strangers).await;
    let far = channels(&Caller::new(config()), &guests).await;
    let [one, other] = [&near, &far].map(|(ends, _)| ends[0].path_so_far().unwrap().0);
    assert_eq!(one, other);
}

#[tokio::test]
async fn no_two_calls_have_a_certificate_in_common() {
    let caller = Caller::new(config());
    let [one, two] = [0, 1].map(|_| caller.offer(messages(true)).unwrap());
    assert_ne!(one.fingerprint, two.fingerprint);
}

#[tokio::test]
async fn answers_share_sockets_and_offers_have_their_own() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let mut ports = [Vec::new(), Vec::new()];
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (ends, channels) = channels(&a, &b).await;
        for (end, ports) in ends.iter().zip(&mut ports) {
            let (remote, _) = end.path_so_far().expect("there is one");
            ports.push(remote.port());
        }
        kept.push((ends, channels));
    }
    let [of_answerer, mut of_offerer] = ports;
    assert_eq!(of_answerer, [of_answerer[0]; 3]);
    of_offerer.sort_unstable();
    of_offerer.dedup();
    assert_eq!(of_offerer.len(), 3);
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error() {
    let taken = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let offerer = Caller::new(config());
    let mut call = offerer.offer(messages(true)).unwrap();
    let offer = description(&mut call).await;
    let answerer = Caller::new(config().with_port(port));
    let error = answerer.answer(messages(false), &offer).unwrap_err();
    let CallError::Socket(crate::Error::Io(error)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(taken);
    answerer.answer(messages(false), &offer).unwrap();
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let caller = Caller::new(config());
    let error = caller.offer(messages(true)).unwrap_err();
    assert!(
        matches!(error, CallError::Socket(crate::Error::NoRuntime)),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_addresses_of_the_interfaces_are_offered_and_then_the_end_is_told() {
    let caller = Caller::new(CallConfig::new());
    let mut call = caller.offer(messages(true)).unwrap();
    let _offer = description(&mut call).await;
    let mut offered = Vec::new();
    loop {
        match event(&mut call).await {
            CallEvent::Signal(Signal::EndOfCandidates { .. }) => break,
            CallEvent::Signal(signal) => offered.extend(address(&signal)),
            other => panic!("{other:?}"),
        }
    }
    for address in &offered {
        let ip = address.ip();
        assert!(
            !ip.is_loopback() && !ip.is_unspecified() && address.port() != 0,
            "{ip}"
        );
    }
    // The address that this host has towards others is among them, where it has one.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if probe.connect("192.0.2.1:9").is_ok() {
        let ip = probe.local_addr().unwrap().ip();
        assert!(
            offered.iter().any(|address| address.ip() == ip),
            "{offered:?}"
        );
    } else {
        eprintln!("this host has no route: only the end was checked");
    }
}
