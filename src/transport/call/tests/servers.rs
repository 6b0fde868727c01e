//! STUN and TURN servers: a real one where it matters, and servers that are of no use.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future};
use tokio::net::UdpSocket;

use super::{
    coturn::{Coturn, Way},
    loopback::{receive_all, send_all},
    paths::{Network, exchange, lost},
    *,
};
use crate::{IceServer, IceServerState, proto::candidate::CandidateKind};

fn relayed(coturn: &Coturn, way: Way) -> CallConfig {
    let config = config()
        .with_relay_only(true)
        .with_servers(vec![coturn.server(way)]);
    #[cfg(feature = "websocket")]
    let config = config.with_tls_roots(coturn.roots());
    config
}

/// Data goes both ways by the server, and what the call had there is given back at its end.
async fn by_the_server(way: Way) {
    let Some(mut coturn) = Coturn::start().await else {
        return;
    };
    let callers = [0, 1].map(|_| Caller::new(relayed(&coturn, way)));
    let (ends, [one, two]) = channels(&callers[0], &callers[1]).await;
    for end in &ends {
        let (remote, relayed) = end.path_so_far().expect("there is one");
        assert!(relayed && remote.port() != coturn.port, "{remote}");
    }
    let max = one.max_message();
    let ((out_one, in_one), (out_two, in_two)) = (one.split(), two.split());
    within(future::join4(
        send_all(out_one, 1, max),
        send_all(out_two, 2, max),
        receive_all(in_two, 1, max),
        receive_all(in_one, 2, max),
    ))
    .await;
    drop(ends);
    coturn.given_back().await;
    coturn.given_back().await;
    nothing_is_left().await;
}

#[tokio::test]
async fn data_goes_by_turn_over_udp() {
    by_the_server(Way::Udp).await;
}

#[tokio::test]
async fn data_goes_by_turn_over_tcp() {
    by_the_server(Way::Tcp).await;
}

#[cfg(feature = "websocket")]
#[tokio::test]
async fn data_goes_by_turn_over_tls() {
    by_the_server(Way::Tls).await;
}

#[tokio::test]
async fn one_end_hides_behind_a_server_and_the_other_does_not_need_one() {
    let Some(coturn) = Coturn::start().await else {
        return;
    };
    let (a, b) = (
        Caller::new(relayed(&coturn, Way::Tcp)),
        Caller::new(config()),
    );
    for [offerer, answerer] in [[&a, &b], [&b, &a]] {
        let (ends, mut channels) = channels(offerer, answerer).await;
        exchange(&mut channels, b"by one relay").await;
        assert!(
            ends.iter()
                .all(|end| end.path_so_far().is_some_and(|(_, relayed)| relayed))
        );
    }
}

/// All that a call offers, up to the end.
async fn offered(call: &mut Call) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    loop {
        match event(call).await {
            CallEvent::Signal(Signal::EndOfCandidates { .. }) => return candidates,
            CallEvent::Signal(Signal::Candidate { candidate, .. }) => {
                candidates.push(Candidate::parse(&candidate).unwrap());
            }
            CallEvent::Signal(Signal::Offer(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stun_server_shows_how_a_nat_shows_us() {
    let Some(coturn) = Coturn::start().await else {
        return;
    };
    let network = Network::new();
    let nat = network.stand_in(SocketAddr::new(LOOPBACK, coturn.port));
    let server: IceServer = format!("stun:{nat}").parse().unwrap();
    let caller = Caller::new(config().with_servers(vec![server]));
    let mut call = caller.offer(messages(true)).unwrap();
    let found = offered(&mut call).await;
    let [server_reflexive] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(server_reflexive.kind, CandidateKind::ServerReflexive);
}

#[tokio::test]
async fn wrong_credentials_give_no_candidate_and_close_the_way_there() {
    let Some(coturn) = Coturn::start().await else {
        return;
    };
    let wrong = coturn
        .server(Way::Tcp)
        .with_credentials("somebody", "wrong");
    let nameless: IceServer = format!("turn:127.0.0.1:{}", coturn.port).parse().unwrap();
    // On a busy machine the servers may take longer than a call has.
    let caller = impatient(config().with_servers(vec![wrong, nameless]), PATIENCE);
    let mut call = caller.offer(messages(true)).unwrap();
    let found = offered(&mut call).await;
    assert!(
        found
            .iter()
            .all(|candidate| candidate.kind != CandidateKind::Relayed)
    );
    // Only the driver is left: the stream to the server is closed.
    nothing_but(1).await;
}

#[tokio::test]
async fn the_owner_of_servers_can_see_what_becomes_of_them() {
    let Some(coturn) = Coturn::start().await else {
        return;
    };
    let wrong = coturn
        .server(Way::Udp)
        .with_credentials("somebody", "wrong");
    let closed = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let gone = format!("turn:{}?transport=tcp", closed.local_addr().unwrap());
    drop(closed);
    let stun: IceServer = format!("stun:127.0.0.1:{}", coturn.port).parse().unwrap();
    let servers = [
        (coturn.server(Way::Tcp), IceServerState::Works),
        (wrong, IceServerState::RefusesCredentials),
        (stun, IceServerState::Works),
        (
            gone.parse::<IceServer>()
                .unwrap()
                .with_credentials("a", "b"),
            IceServerState::Unreachable,
        ),
    ];
    let all = servers.iter().map(|(server, _)| server.clone()).collect();
    let caller = Caller::new(config().with_servers(all));
    let told = within(caller.check_servers()).await;
    for (server, state) in &servers {
        let is_it = |report: &&crate::IceServerReport| report.server == server.to_string();
        let found = told.iter().find(is_it).map(|report| report.state);
        assert_eq!(found, Some(*state), "{server}");
    }
    nothing_is_left().await;
}

#[tokio::test]
async fn servers_that_are_not_there_keep_nobody_waiting() {
    // Nobody listens at the ports, and nobody has the name.
    let silent = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let servers = [
        format!("turn:127.0.0.1:{port}?transport=tcp"),
        format!("turn:127.0.0.1:{port}?transport=udp"),
        format!("stun:127.0.0.1:{port}"),
        "stun:name.invalid".to_owned(),
    ];
    let servers = servers.map(|text| {
        let server: IceServer = text.parse().unwrap();
        server.with_credentials("a", "b")
    });
    let useless = config().with_servers(servers.to_vec());
    let (a, b) = (Caller::new(useless.clone()), Caller::new(useless));
    let (ends, mut channels) = channels(&a, &b).await;
    exchange(&mut channels, b"without them").await;
    drop((ends, channels));
    nothing_is_left().await;
}

#[tokio::test]
async fn a_restart_brings_the_way_to_a_server_back_that_has_ended() {
    let Some(coturn) = Coturn::start().await else {
        return;
    };
    let port = coturn.port;
    let callers = [0, 1].map(|_| Caller::new(relayed(&coturn, Way::Tcp)));
    let (mut ends, mut channels) = channels(&callers[0], &callers[1]).await;
    exchange(&mut channels, b"before").await;
    drop(coturn);
    lost(&mut ends[0]).await;
    lost(&mut ends[1]).await;
    within(channels[0].send(Bytes::from_static(b"in between")))
        .await
        .unwrap();
    let _again = Coturn::start_at(port).await.expect("it was there before");
    ends[0].restart().await;
    let (_, relayed) = ends[0].path().await;
    assert!(relayed);
    let between = within(channels[1].next()).await.unwrap().unwrap();
    assert_eq!(&between[..], b"in between");
    exchange(&mut channels, b"after").await;
}

#[cfg(feature = "websocket")]
#[tokio::test]
async fn a_server_with_an_unknown_certificate_is_not_used() {
    let Some(coturn) = Coturn::start().await else {
        return;
    };
    let Some(other) = Coturn::start().await else {
        return;
    };
    let strange = config()
        .with_servers(vec![coturn.server(Way::Tls)])
        .with_tls_roots(other.roots());
    let mut call = Caller::new(strange).offer(messages(true)).unwrap();
    assert!(offered(&mut call).await.is_empty());
}
