//! What calls carry, and how it is held back.

use std::{cell::Cell, future::poll_fn, io};

use bytes::Bytes;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, SinkExt as _, StreamExt as _, future};
use libp2p_core::{muxing::StreamMuxerExt as _, transport::ListenerId};

use super::*;
use crate::{
    ConnectionError, Transport,
    proto::Side,
    transport::{Connection, connecting, driver::Ready},
};

/// Ten mebibytes in messages of many lengths.
const TOTAL: usize = 10 * 1024 * 1024;

/// The next length and content: what came before decides.
struct Pattern(u64);

impl Pattern {
    fn next(&mut self, max: usize) -> Bytes {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let len = 1 + (self.0 >> 33) as usize % max;
        let first = self.0.to_le_bytes();
        let mut message = vec![first[7]; len];
        for (to, from) in message.iter_mut().zip(first) {
            *to = from;
        }
        message.into()
    }
}

pub(super) async fn send_all(
    mut out: impl futures::Sink<Bytes, Error = io::Error> + Unpin,
    seed: u64,
    max: usize,
) {
    let (mut pattern, mut sent) = (Pattern(seed), 0);
    while sent < TOTAL {
        let message = pattern.next(max);
        sent += message.len();
        out.send(message).await.unwrap();
    }
}

pub(super) async fn receive_all(
    mut input: impl futures::Stream<Item = io::Result<Bytes>> + Unpin,
    seed: u64,
    max: usize,
) {
    let (mut pattern, mut received) = (Pattern(seed), 0);
    while received < TOTAL {
        let message = input.next().await.expect("the channel is open").unwrap();
        assert_eq!(message, pattern.next(max), "behind {received} bytes");
        received += message.len();
    }
}

#[tokio::test]
async fn ten_mebibytes_go_each_way_at_once() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let (_ends, [one, two]) = channels(&a, &b).await;
    let max = one.max_message();
    assert_eq!((max, two.max_message()), (16 * 1024, 16 * 1024));
    let ((out_one, in_one), (out_two, in_two)) = (one.split(), two.split());
    within(future::join4(
        send_all(out_one, 1, max),
        send_all(out_two, 2, max),
        receive_all(in_two, 1, max),
        receive_all(in_one, 2, max),
    ))
    .await;
}

#[tokio::test]
async fn a_reader_that_is_slow_holds_the_writer_back() {
    const COUNT: usize = 600;
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let (_ends, [mut one, mut two]) = channels(&a, &b).await;
    let message = Bytes::from(vec![7; 16 * 1024]);
    let sent = Cell::new(0);
    let writing = async {
        for _ in 0..COUNT {
            one.send(message.clone()).await.unwrap();
            sent.set(sent.get() + 1);
        }
        one.flush().await.unwrap();
    };
    let reading = async {
        let mut furthest = 0;
        for received in 0..COUNT {
            // The writer could be far away by then.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            furthest = furthest.max(sent.get() - received);
            assert_eq!(two.next().await.expect("it is open").unwrap(), message);
        }
        furthest
    };
    let ((), furthest) = within(future::join(writing, reading)).await;
    // What is in flight, in both cores and in the handles; all of it would be ten megabytes.
    assert!((8..200).contains(&furthest), "{furthest} messages ahead");
}

#[tokio::test]
async fn messages_that_cannot_be_sent_are_refused_and_the_channel_goes_on() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let (_ends, [mut one, mut two]) = channels(&a, &b).await;
    let max = one.max_message();
    for wrong in [Bytes::new(), Bytes::from(vec![0; max + 1])] {
        let error = within(one.send(wrong)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    let longest = Bytes::from(vec![1; max]);
    within(one.send(longest.clone())).await.unwrap();
    assert_eq!(within(two.next()).await.unwrap().unwrap(), longest);
}

#[tokio::test]
async fn what_was_sent_before_a_channel_is_closed_arrives_and_then_its_end() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let (_ends, [mut one, mut two]) = channels(&a, &b).await;
    for n in 0..20 {
        within(one.send(Bytes::from(vec![n; 9000]))).await.unwrap();
    }
    within(one.close()).await.unwrap();
    assert!(
        within(one.next()).await.is_none(),
        "both directions are closed"
    );
    assert!(within(one.send(Bytes::from_static(b"late"))).await.is_err());
    for n in 0..20 {
        let message = within(two.next()).await.expect("it comes first").unwrap();
        assert_eq!(message[..2], [n, n]);
    }
    assert!(within(two.next()).await.is_none());
    let error = within(two.send(Bytes::from_static(b"late"))).await;
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_channel_that_is_dropped_ends_for_the_peer() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let (_ends, [one, mut two]) = channels(&a, &b).await;
    drop(one);
    assert!(within(two.next()).await.is_none());
}

#[tokio::test]
async fn the_end_of_the_connection_is_an_error_of_the_channel() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let ([one_end, mut two_end], [mut one, mut two]) = channels(&a, &b).await;
    within(one.send(Bytes::from_static(b"last words")))
        .await
        .unwrap();
    within(one.flush()).await.unwrap();
    drop(one_end);
    assert_eq!(
        &within(two.next()).await.unwrap().unwrap()[..],
        b"last words"
    );
    let error = within(two.next()).await.expect("an error").unwrap_err();
    let reason = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<ConnectionError>());
    assert!(reason.is_some_and(ConnectionError::is_remote), "{error}");
    assert_eq!(two_end.closed().await, CloseReason::Remote);
    let error = within(one.next()).await.expect("an error").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

async fn ready(end: &mut End) -> Ready {
    end.until(|event| match event {
        CallEvent::Ready(ready) => Ok(ready),
        other => Err(other),
    })
    .await
}

/// Two ends of a libp2p connection whose peers have proven themselves.
async fn authenticated(a: &Caller, b: &Caller) -> ([End; 2], [Connection; 2]) {
    let libp2p = [Application::Libp2p, Application::Libp2p];
    let mut ends = connect(a, b, libp2p, [honest(), honest()]).await;
    let readies = [ready(&mut ends[0]).await, ready(&mut ends[1]).await];
    let shown = readies
        .each_ref()
        .map(|ready| ready.local_fingerprint.unwrap());
    let seen = readies.each_ref().map(|ready| ready.remote_fingerprint);
    assert_eq!(shown, [seen[1], seen[0]]);
    let configs = [0, 1].map(|_| Config::new(&Keypair::generate_ed25519()));
    let peers = configs
        .each_ref()
        .map(|config| config.keypair.public().to_peer_id());
    let [one, two] = readies;
    let (one, two) = within(future::join(
        connecting::authenticate(&configs[0], one, Side::Dialer, Some(peers[1])),
        connecting::authenticate(&configs[1], two, Side::Listener, Some(peers[0])),
    ))
    .await;
    let ((seen_one, one), (seen_two, two)) = (one.unwrap(), two.unwrap());
    assert_eq!([seen_two, seen_one], peers);
    (ends, [one, two])
}

/// Opens a stream on one end, and sends ten mebibytes there and back.
async fn echo(one: &mut Connection, two: &mut Connection) {
    let opening = async {
        let mut stream = poll_fn(|cx| one.poll_outbound_unpin(cx)).await.unwrap();
        let data = vec![5; TOTAL];
        let (mut input, mut output) = (&mut stream).split();
        let mut back = Vec::new();
        let sending = async {
            output.write_all(&data).await.unwrap();
            output.close().await.unwrap();
        };
        let (_, read) = future::join(sending, input.read_to_end(&mut back)).await;
        read.unwrap();
        assert_eq!(back.len(), data.len());
    };
    let accepting = async {
        let mut stream = poll_fn(|cx| two.poll_inbound_unpin(cx)).await.unwrap();
        let (input, mut output) = (&mut stream).split();
        futures::io::copy(input, &mut output).await.unwrap();
        output.close().await.unwrap();
    };
    within(future::join(opening, accepting)).await;
}

#[tokio::test]
async fn libp2p_runs_noise_and_streams_over_a_call() {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let (_ends, [mut one, mut two]) = authenticated(&a, &b).await;
    echo(&mut one, &mut two).await;
    echo(&mut two, &mut one).await;
}

#[tokio::test]
async fn a_call_that_only_ipv6_leads_to_goes_by_the_second_socket_to_its_end() {
    let ip = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    let [a, b] = [0, 1].map(|_| Caller::new(CallConfig::new().with_announced(vec![ip])));
    let ([one, mut two], [mut to_two, mut from_one]) = channels(&a, &b).await;
    assert!(one.path_so_far().is_some_and(|(to, _)| to.is_ipv6()));
    within(to_two.send(Bytes::from_static(b"there")))
        .await
        .unwrap();
    assert_eq!(
        &within(from_one.next()).await.unwrap().unwrap()[..],
        b"there"
    );
    // The goodbye too, though there is no call any more when it leaves.
    drop(one);
    assert_eq!(two.closed().await, CloseReason::Remote);
}

#[tokio::test]
async fn answers_come_from_the_socket_that_listens_for_webrtc_direct() {
    use libp2p_core::Transport as _;
    let keypair = Keypair::generate_ed25519();
    let mut transport = Transport::new(Config::new(&keypair));
    let listener = ListenerId::next();
    let any = "/ip4/0.0.0.0/udp/0/webrtc-direct".parse().unwrap();
    transport.listen_on(listener, any).unwrap();
    let port = transport.factory().listening().unwrap().local_addr().port();
    let (a, b) = (Caller::new(config()), transport.caller(config()));
    let (ends, [mut one, mut two]) = channels(&a, &b).await;
    let to = SocketAddr::new(LOOPBACK, port);
    assert_eq!(ends[0].path_so_far(), Some((to, false)));
    within(one.send(Bytes::from_static(b"there")))
        .await
        .unwrap();
    assert_eq!(&within(two.next()).await.unwrap().unwrap()[..], b"there");
    // A second call from the same node finds its way beside the first.
    let (_more, _channels) = channels(&a, &b).await;
    // The listener is removed; the calls go on, and new ones have other sockets.
    assert!(transport.remove_listener(listener));
    assert!(transport.factory().listening().is_none());
    within(two.send(Bytes::from_static(b"back"))).await.unwrap();
    assert_eq!(&within(one.next()).await.unwrap().unwrap()[..], b"back");
    let (third, _channels) = channels(&a, &b).await;
    assert_ne!(third[0].path_so_far(), Some((to, false)));
}
