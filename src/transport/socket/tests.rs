//! Loopback round trips.

use std::{
    collections::HashSet,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn v4() -> Socket {
    Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

fn v6() -> Socket {
    Socket::bind((Ipv6Addr::LOCALHOST, 0).into()).unwrap()
}

fn transmit(destination: SocketAddr, segment_size: Option<usize>, contents: Vec<u8>) -> Transmit {
    Transmit {
        destination,
        source_ip: None,
        segment_size,
        contents,
    }
}

async fn send(socket: &mut Socket, transmit: &Transmit) -> Sent {
    let mut offset = 0;
    poll_fn(|cx| socket.poll_send(cx, transmit, &mut offset)).await
}

/// Receives until `count` datagrams are there.
async fn receive(socket: &mut Socket, count: usize) -> Vec<(Option<IpAddr>, SocketAddr, Vec<u8>)> {
    let mut received = Vec::new();
    let all = async {
        while received.len() < count {
            poll_fn(|cx| {
                socket.poll_recv(cx, |datagram| {
                    let contents = datagram.contents.to_vec();
                    received.push((datagram.local_ip, datagram.remote, contents));
                })
            })
            .await
            .unwrap();
        }
    };
    timeout(PATIENCE, all).await.expect("datagrams arrive");
    received
}

#[tokio::test]
async fn carries_a_datagram_over_ipv4_and_ipv6() {
    for (mut from, mut to) in [(v4(), v4()), (v6(), v6())] {
        let sent = send(
            &mut from,
            &transmit(to.local_addr(), None, b"hello".to_vec()),
        )
        .await;
        assert_eq!(sent, Sent::Done);
        let received = receive(&mut to, 1).await;
        let local_ip = to.local_addr().ip();
        assert_eq!(
            received,
            [(Some(local_ip), from.local_addr(), b"hello".to_vec())]
        );
    }
}

#[tokio::test]
async fn tells_the_local_address_of_a_wildcard_socket_and_answers_from_it() {
    let mut wildcard = Socket::bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    let port = wildcard.local_addr().port();
    let mut peer = v4();
    // All of 127.0.0.0/8 is local on Linux; elsewhere there is one loopback address.
    let address = if cfg!(target_os = "linux") {
        Ipv4Addr::new(127, 0, 0, 2)
    } else {
        Ipv4Addr::LOCALHOST
    };
    send(
        &mut peer,
        &transmit((address, port).into(), None, b"?".to_vec()),
    )
    .await;
    let received = receive(&mut wildcard, 1).await;
    assert_eq!(received[0].0, Some(address.into()));
    let answer = Transmit {
        source_ip: received[0].0,
        ..transmit(received[0].1, None, b"!".to_vec())
    };
    send(&mut wildcard, &answer).await;
    let received = receive(&mut peer, 1).await;
    assert_eq!(received[0].1, (address, port).into());
}

#[tokio::test]
async fn both_families_share_a_port() {
    let six = Socket::bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
    let port = six.local_addr().port();
    let four = Socket::bind((Ipv4Addr::UNSPECIFIED, port).into());
    // Another program may have the port for IPv4; ours is not what stands in the way.
    if let Err(error) = four {
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let again = Socket::bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = again.local_addr().port();
        Socket::bind((Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
    }
}

#[tokio::test]
async fn splits_what_is_too_large_for_one_call() {
    let (mut from, mut to) = (v4(), v4());
    // 150 datagrams of 1200 bytes and a rest: more than 64 segments and more than 64 KiB.
    let contents: Vec<u8> = (0..150 * 1200 + 7).map(|i| (i / 1200) as u8).collect();
    send(
        &mut from,
        &transmit(to.local_addr(), Some(1200), contents.clone()),
    )
    .await;
    let received = receive(&mut to, 151).await;
    assert_eq!(received.len(), 151);
    let joined: Vec<u8> = received
        .into_iter()
        .flat_map(|(_, _, bytes)| bytes)
        .collect();
    assert_eq!(joined, contents);
}

#[tokio::test]
async fn a_segment_size_that_fits_everything_is_one_datagram() {
    let (mut from, mut to) = (v6(), v6());
    for (size, length) in [(1200, 1200), (1200, 5), (0, 5)] {
        send(
            &mut from,
            &transmit(to.local_addr(), Some(size), vec![1; length]),
        )
        .await;
        assert_eq!(receive(&mut to, 1).await[0].2.len(), length);
    }
}

#[tokio::test]
async fn portions_respect_the_largest_payload() {
    let socket = v4();
    for size in [1, 100, 1200, 1452, 9000, 40_000, 65_507] {
        let (length, segment) = socket.portion(10_000_000, Some(size));
        assert!(length <= MAX_SEND && length % size == 0 && length > 0);
        assert!(segment.is_none_or(|segment| segment == size));
    }
}

#[tokio::test]
async fn a_full_receive_call_leaves_the_rest_for_the_next() {
    let (mut from, mut to) = (v4(), v4());
    let count = SLOTS * 2 + 3;
    // Different lengths, so that GRO puts none together.
    for i in 0..count {
        send(&mut from, &transmit(to.local_addr(), None, vec![0; i + 1])).await;
    }
    let received = receive(&mut to, count).await;
    let lengths: HashSet<_> = received.iter().map(|(_, _, bytes)| bytes.len()).collect();
    assert_eq!(lengths.len(), count);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn names_the_destination_where_nobody_listens() {
    for (mut socket, gone, other) in [(v4(), v4(), v4()), (v6(), v6(), v6())] {
        let dead = gone.local_addr();
        drop(gone);
        send(&mut socket, &transmit(dead, None, b"anybody?".to_vec())).await;
        let unreachable = timeout(PATIENCE, poll_fn(|cx| socket.poll_unreachable(cx)))
            .await
            .expect("ICMP reports the dead port");
        assert_eq!(unreachable, dead);
        // And the socket works on.
        let mut other = other;
        let sent = send(
            &mut socket,
            &transmit(other.local_addr(), None, b"you".to_vec()),
        )
        .await;
        assert_eq!(sent, Sent::Done);
        assert_eq!(receive(&mut other, 1).await[0].2, b"you");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_icmp_error_does_not_swallow_the_next_datagram() {
    let (mut socket, gone, mut other) = (v4(), v4(), v4());
    let dead = gone.local_addr();
    drop(gone);
    for _ in 0..5 {
        send(&mut socket, &transmit(dead, None, b"anybody?".to_vec())).await;
        send(
            &mut socket,
            &transmit(other.local_addr(), None, b"you".to_vec()),
        )
        .await;
    }
    assert_eq!(receive(&mut other, 5).await.len(), 5);
    // Sending has seen the error first; the address still comes.
    let unreachable = timeout(PATIENCE, poll_fn(|cx| socket.poll_unreachable(cx))).await;
    assert_eq!(unreachable, Ok(dead));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_source_address_that_is_gone_is_replaced_and_costs_no_speed() {
    let (mut from, mut to) = (v4(), v4());
    let segments = from.state.max_gso_segments();
    let gone = Transmit {
        source_ip: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
        ..transmit(to.local_addr(), Some(100), vec![7; 250])
    };
    assert_eq!(send(&mut from, &gone).await, Sent::Done);
    assert_eq!(receive(&mut to, 3).await.len(), 3);
    assert_eq!(from.state.max_gso_segments(), segments);
}

#[test]
fn needs_a_runtime() {
    assert!(Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).is_err());
}
