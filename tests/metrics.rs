//! What the metrics say about a connection.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DIAL, LOOPBACK, Node, accept, close, complete, open, soon};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p_rtc::Metrics;
use prometheus_client::{encoding::text, registry::Registry};
use std::time::Instant;

/// The value of a metric, given its name and labels as the text format has them; 0 if it is not there (yet).
fn value(registry: &Registry, metric: &str) -> f64 {
    let mut encoded = String::new();
    text::encode(&mut encoded, registry).unwrap();
    encoded
        .lines()
        .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '))
        .map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until a metric has a value: drivers record at the end of a turn.
async fn reaches(registry: &Registry, metric: &str, expected: f64) {
    soon(async {
        while value(registry, metric) != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn measured_node(registry: &mut Registry) -> Node {
    let metrics = Metrics::new(registry);
    Node::with(|config| config.with_metrics(metrics))
}

#[tokio::test]
async fn count_connections_and_streams_up_and_down() {
    let (mut of_listener, mut of_dialer) = (Registry::default(), Registry::default());
    let mut listener = measured_node(&mut of_listener);
    let mut dialer = measured_node(&mut of_dialer);
    let (_, addr) = listener.listen(LOOPBACK).await;
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    let (_, mut dialed) = pair.dialer.unwrap();
    let (_, mut accepted) = pair.listener.unwrap();
    for registry in [&of_listener, &of_dialer] {
        reaches(registry, "libp2p_rtc_connections", 1.0).await;
        reaches(registry, "libp2p_rtc_handshakes", 0.0).await;
    }
    let streams = value(&of_dialer, "libp2p_rtc_streams");

    let mut stream = open(&mut dialed).await;
    stream.write_all(&[7; 100_000]).await.unwrap();
    stream.flush().await.unwrap();
    let mut other = accept(&mut accepted).await;
    reaches(&of_dialer, "libp2p_rtc_streams", streams + 1.0).await;
    stream.close().await.unwrap();
    other.close().await.unwrap();
    soon(other.read_to_end(&mut Vec::new())).await.unwrap();
    soon(stream.read_to_end(&mut Vec::new())).await.unwrap();
    drop((stream, other));
    reaches(&of_dialer, "libp2p_rtc_streams", streams).await;
    assert!(
        value(
            &of_dialer,
            "libp2p_rtc_traffic_bytes_total{direction=\"out\"}"
        ) > 100_000.0
    );
    assert!(
        value(
            &of_listener,
            "libp2p_rtc_traffic_bytes_total{direction=\"in\"}"
        ) > 100_000.0
    );

    close(dialed).await;
    drop(accepted);
    for registry in [&of_listener, &of_dialer] {
        reaches(registry, "libp2p_rtc_connections", 0.0).await;
        reaches(registry, "libp2p_rtc_streams", 0.0).await;
    }
}

#[tokio::test]
async fn time_every_phase_of_both_sides() {
    let (mut of_listener, mut of_dialer) = (Registry::default(), Registry::default());
    let mut listener = measured_node(&mut of_listener);
    let mut dialer = measured_node(&mut of_dialer);
    let (_, addr) = listener.listen(LOOPBACK).await;
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    assert!(pair.dialer.is_ok() && pair.listener.is_ok());
    for (registry, side, phases) in [
        (&of_dialer, "dialer", &["ice", "dtls", "sctp", "noise"][..]),
        (&of_listener, "listener", &["dtls", "sctp", "noise"]),
    ] {
        reaches(registry, "libp2p_rtc_handshakes", 0.0).await;
        for phase in phases {
            let metric = format!(
                "libp2p_rtc_handshake_phase_duration_seconds_count{{side=\"{side}\",phase=\"{phase}\",outcome=\"ok\"}}"
            );
            reaches(registry, &metric, 1.0).await;
        }
    }
}

#[tokio::test]
async fn sample_the_round_trip_time_of_a_connection_in_use_now_and_then() {
    const SAMPLES: &str = "libp2p_rtc_rtt_seconds_count";
    #[expect(clippy::disallowed_methods, reason = "real time is what is bounded")]
    let start = Instant::now();
    let (mut of_listener, mut of_dialer) = (Registry::default(), Registry::default());
    let mut listener = measured_node(&mut of_listener);
    let mut dialer = measured_node(&mut of_dialer);
    let (_, addr) = listener.listen(LOOPBACK).await;
    let pair = complete(dialer.dial(&addr, DIAL), &mut listener).await;
    let (mut dialed, mut accepted) = (pair.dialer.unwrap().1, pair.listener.unwrap().1);
    let mut stream = open(&mut dialed).await;
    stream.write_all(b"!").await.unwrap();
    let mut other = accept(&mut accepted).await;
    other.read_exact(&mut [0]).await.unwrap();
    for _ in 0..100 {
        stream.write_all(b"x").await.unwrap();
        soon(other.read_exact(&mut [0])).await.unwrap();
        other.write_all(b"x").await.unwrap();
        soon(stream.read_exact(&mut [0])).await.unwrap();
    }
    // The streams are still open.
    for registry in [&of_listener, &of_dialer] {
        soon(async {
            while value(registry, SAMPLES) == 0.0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let at_most = 1.0 + start.elapsed().as_secs_f64() / 5.0;
        assert!(value(registry, SAMPLES) <= at_most);
    }
}

#[tokio::test]
async fn dropping_a_dial_closes_its_connection_at_both_ends() {
    let (mut of_listener, mut of_dialer) = (Registry::default(), Registry::default());
    let mut listener = measured_node(&mut of_listener);
    let mut dialer = measured_node(&mut of_dialer);
    let (_, addr) = listener.listen(LOOPBACK).await;
    let mut dialing = dialer.dial(&addr, DIAL);
    let _unpolled = tokio::select! {
        result = &mut dialing => panic!("done without Noise: {:?}", result.is_ok()),
        incoming = listener.incoming() => incoming,
    };
    for registry in [&of_listener, &of_dialer] {
        reaches(registry, "libp2p_rtc_connections", 1.0).await;
    }
    drop(dialing);
    for registry in [&of_listener, &of_dialer] {
        reaches(registry, "libp2p_rtc_connections", 0.0).await;
    }
}

#[tokio::test]
async fn count_what_is_rejected() {
    let mut registry = Registry::default();
    let mut listener = measured_node(&mut registry);
    let (_, addr) = listener.listen(LOOPBACK).await;
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = ("127.0.0.1", common::port(&addr));
    stranger
        .send_to(b"neither STUN nor DTLS", target)
        .await
        .unwrap();
    soon(async {
        let mut encoded = String::new();
        while !encoded.contains("libp2p_rtc_rejected_packets_total{") {
            tokio::task::yield_now().await;
            encoded.clear();
            text::encode(&mut encoded, &registry).unwrap();
        }
    })
    .await;
}
