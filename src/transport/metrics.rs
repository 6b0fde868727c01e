//! Figures for Prometheus, named like those of `libp2p-metrics`.
//!
//! [`Metrics`] is what the user registers; every driver records into it through a [`Recorder`] of its own, which keeps
//! what was recorded last, so that the monotonic counters of the core turn into increments. Nothing here decides
//! anything; without metrics a recorder does nothing.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::proto::{Counters, DropReason, HandshakePhase, Phase, Side};

/// The figures of one or more transports.
///
/// | metric | kind, unit | labels | what it counts |
/// | --- | --- | --- | --- |
/// | `libp2p_rtc_connections` | gauge | | connections, those being set up included |
/// | `libp2p_rtc_handshakes` | gauge | | inbound connections being set up |
/// | `libp2p_rtc_streams` | gauge | | open streams, without that of the handshake |
/// | `libp2p_rtc_handshake_phase_duration_seconds` | histogram, seconds | `side`: `dialer`, `listener`; `phase`: `ice` (dialers only), `dtls`, `sctp`, `noise`; `outcome`: `ok`, `failed` | each phase of a set-up |
/// | `libp2p_rtc_rtt_seconds` | histogram, seconds | | smoothed round-trip times: of each connection with traffic on its streams one sample, and another at most every 5 s |
/// | `libp2p_rtc_traffic_bytes_total` | counter, bytes | `direction`: `in`, `out` | UDP payload |
/// | `libp2p_rtc_datagrams_total` | counter | `direction`: `in`, `out` | UDP datagrams |
/// | `libp2p_rtc_retransmissions_total` | counter | | SCTP chunks sent again |
/// | `libp2p_rtc_stalled_streams_total` | counter | | streams reset because nobody read them ([`Limits::stalled_stream_timeout`](crate::Limits::stalled_stream_timeout)) |
/// | `libp2p_rtc_rejected_packets_total` | counter | `reason`: see below | received datagrams that were dropped |
///
/// Reasons of dropped datagrams: of the first contact `unclassified`, `malformed_stun`, `unexpected_stun`,
/// `bad_username`, `bad_integrity`, `role_conflict`, `foreign_username`, `not_listening`, `unchecked_address`,
/// `not_client_hello`, `oversized_dtls`, `no_cookie` (not lost: the peer asks again with one), `handshake_flood`; for a limit
/// `too_many_connections`, `too_many_handshakes`, `too_many_from_subnet`, `too_many_addresses`, `amplification`; within or
/// after a connection `malformed_sctp`, `unused_sctp` (late, repeated; honest peers send some), `refused_stream`,
/// `stray_message`, `after_close`.
/// Later versions may add reasons.
///
/// The registry is that of `prometheus-client` 0.25: your `Cargo.toml` needs this version of it, as `libp2p-metrics` of
/// libp2p 0.57 does.
///
/// ```
/// use libp2p_rtc::{Config, Metrics};
/// use prometheus_client::registry::Registry;
///
/// let mut registry = Registry::default();
/// let metrics = Metrics::new(&mut registry);
/// let keypair = libp2p_identity::Keypair::generate_ed25519();
/// let config = Config::new(&keypair).with_metrics(metrics);
/// ```
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

/// Every metric; clones of [`Metrics`] share it.
#[derive(Debug)]
struct Inner {
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    rejected: Family<RejectLabels, Counter>,
    bytes: Family<DirectionLabels, Counter>,
    datagrams: Family<DirectionLabels, Counter>,
    connections: Gauge,
    handshakes: Gauge,
    streams: Gauge,
    rtt: Histogram,
    retransmissions: Counter,
    stalled_streams: Counter,
}

/// Buckets from 1 ms to 16 s: a handshake on a loopback takes a few, its default limit is 10 s.
fn phase_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Metrics {
    /// Registers everything under the prefix `libp2p_rtc`.
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("libp2p_rtc");
        let inner = Inner {
            phases: Family::new_with_constructor(phase_histogram),
            rejected: Family::default(),
            bytes: Family::default(),
            datagrams: Family::default(),
            connections: Gauge::default(),
            handshakes: Gauge::default(),
            streams: Gauge::default(),
            // From a loopback (50 us) to a bad satellite link (1.6 s).
            rtt: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            retransmissions: Counter::default(),
            stalled_streams: Counter::default(),
        };
        inner.register_handshakes(registry);
        inner.register_traffic(registry);
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Inner {
    fn register_handshakes(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "handshake_phase_duration",
            "Duration of each phase of a connection's set-up",
            Unit::Seconds,
            self.phases.clone(),
        );
        registry.register(
            "handshakes",
            "Inbound connections being set up",
            self.handshakes.clone(),
        );
        registry.register(
            "connections",
            "Connections, those being set up included",
            self.connections.clone(),
        );
        registry.register("streams", "Open streams", self.streams.clone());
    }

    fn register_traffic(&self, registry: &mut Registry) {
        registry.register(
            "rejected_packets",
            "Received datagrams that were dropped, by reason",
            self.rejected.clone(),
        );
        registry.register_with_unit(
            "traffic",
            "Bytes of UDP payload by direction",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "datagrams",
            "UDP datagrams by direction",
            self.datagrams.clone(),
        );
        registry.register_with_unit(
            "rtt",
            "Smoothed round-trip time of connections, sampled at most every 5 s while their streams carry data",
            Unit::Seconds,
            self.rtt.clone(),
        );
        registry.register(
            "retransmissions",
            "SCTP chunks sent again",
            self.retransmissions.clone(),
        );
        registry.register(
            "stalled_streams",
            "Streams reset because nobody read them while they held up their connection",
            self.stalled_streams.clone(),
        );
    }
}

/// One driver's access to the metrics: remembers what it has recorded.
///
/// Dropping it takes the driver's share out of the gauges.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    metrics: Option<Metrics>,
    last: Snapshot,
}

/// What a driver has added to the shared metrics so far.
#[derive(Debug, Default)]
struct Snapshot {
    dropped: Vec<u64>,
    bytes_received: u64,
    bytes_sent: u64,
    datagrams_received: u64,
    datagrams_sent: u64,
    retransmissions: u64,
    streams_stalled: u64,
    streams: i64,
    connections: i64,
    handshakes: i64,
}

impl Recorder {
    /// A recorder into `metrics`; without any, all its methods return at once.
    pub(crate) fn new(metrics: Option<Metrics>) -> Self {
        Self {
            metrics,
            last: Snapshot::default(),
        }
    }

    /// Is there anybody to record for? Lets the driver leave out what only the metrics need.
    pub(crate) fn is_enabled(&self) -> bool {
        self.metrics.is_some()
    }

    /// A finished or failed phase of a handshake.
    pub(crate) fn record_phase(&self, phase: &HandshakePhase) {
        let Some(Metrics { inner }) = &self.metrics else {
            return;
        };
        inner
            .phases
            .get_or_create(&PhaseLabels::from(phase))
            .observe(phase.duration.as_secs_f64());
    }

    /// A sample of one connection's round-trip time.
    pub(crate) fn record_rtt(&self, rtt: Duration) {
        if let Some(Metrics { inner }) = &self.metrics {
            inner.rtt.observe(rtt.as_secs_f64());
        }
    }

    /// Brings the counters and gauges up to the state of the driver's endpoint. Cheap: call it once per turn.
    pub(crate) fn update(&mut self, counters: &Counters, connections: usize, handshakes: usize) {
        let Some(Metrics { inner }) = &self.metrics else {
            return;
        };
        let last = &mut self.last;
        last.dropped.resize(DropReason::COUNT, 0);
        for (reason, last) in DropReason::ALL.iter().zip(&mut last.dropped) {
            let now = counters.dropped[*reason as usize];
            if now != *last {
                let labels = RejectLabels {
                    reason: reason.as_str(),
                };
                inner.rejected.get_or_create(&labels).inc_by(now - *last);
                *last = now;
            }
        }
        let add = |counter: &Counter, last: &mut u64, now: u64| {
            if now != *last {
                counter.inc_by(now - *last);
                *last = now;
            }
        };
        let [received, sent] = ["in", "out"].map(|direction| {
            let labels = DirectionLabels { direction };
            (
                inner.bytes.get_or_create_owned(&labels),
                inner.datagrams.get_or_create_owned(&labels),
            )
        });
        add(
            &received.0,
            &mut last.bytes_received,
            counters.bytes_received,
        );
        add(
            &received.1,
            &mut last.datagrams_received,
            counters.datagrams_received,
        );
        add(&sent.0, &mut last.bytes_sent, counters.bytes_sent);
        add(&sent.1, &mut last.datagrams_sent, counters.datagrams_sent);
        add(
            &inner.retransmissions,
            &mut last.retransmissions,
            counters.retransmissions,
        );
        add(
            &inner.stalled_streams,
            &mut last.streams_stalled,
            counters.streams_stalled,
        );
        let streams = counters
            .channels_opened
            .saturating_sub(counters.channels_closed);
        last.set_gauges(inner, connections as i64, handshakes as i64, streams as i64);
    }
}

impl Snapshot {
    /// Moves the gauges, which other drivers share, by what has changed here.
    fn set_gauges(&mut self, inner: &Inner, connections: i64, handshakes: i64, streams: i64) {
        let set = |gauge: &Gauge, last: &mut i64, now: i64| {
            if now != *last {
                gauge.inc_by(now - *last);
                *last = now;
            }
        };
        set(&inner.connections, &mut self.connections, connections);
        set(&inner.handshakes, &mut self.handshakes, handshakes);
        set(&inner.streams, &mut self.streams, streams);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(Metrics { inner }) = &self.metrics {
            self.last.set_gauges(inner, 0, 0, 0);
        }
    }
}

/// Labels of `handshake_phase_duration`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PhaseLabels {
    side: &'static str,
    phase: &'static str,
    outcome: &'static str,
}

impl From<&HandshakePhase> for PhaseLabels {
    fn from(phase: &HandshakePhase) -> Self {
        Self {
            side: match phase.side {
                Side::Dialer => "dialer",
                Side::Listener => "listener",
            },
            phase: match phase.phase {
                Phase::Ice => "ice",
                Phase::Dtls => "dtls",
                Phase::Sctp => "sctp",
                Phase::Noise => "noise",
            },
            outcome: if phase.ok { "ok" } else { "failed" },
        }
    }
}

/// Labels of `rejected_packets`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RejectLabels {
    reason: &'static str,
}

/// Labels of `traffic` and `datagrams`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    /// Everything that the documentation of [`Metrics`] names in its table.
    const DOCUMENTED: [&str; 10] = [
        "libp2p_rtc_handshake_phase_duration_seconds",
        "libp2p_rtc_handshakes",
        "libp2p_rtc_connections",
        "libp2p_rtc_streams",
        "libp2p_rtc_rejected_packets_total",
        "libp2p_rtc_traffic_bytes_total",
        "libp2p_rtc_datagrams_total",
        "libp2p_rtc_rtt_seconds",
        "libp2p_rtc_retransmissions_total",
        "libp2p_rtc_stalled_streams_total",
    ];

    /// A page with a value for every metric.
    fn page() -> String {
        let mut registry = Registry::default();
        let mut recorder = Recorder::new(Some(Metrics::new(&mut registry)));
        recorder.record_phase(&HandshakePhase {
            side: Side::Dialer,
            phase: Phase::Ice,
            duration: Duration::from_millis(1),
            ok: true,
        });
        recorder.record_rtt(Duration::from_millis(1));
        let counters = Counters {
            dropped: [1; DropReason::COUNT],
            bytes_received: 1,
            ..Counters::default()
        };
        recorder.update(&counters, 1, 1);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn every_metric_is_documented() {
        let page = page();
        let names: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        assert_eq!(names.len(), DOCUMENTED.len(), "{names:?}");
        for name in DOCUMENTED {
            assert!(page.contains(&format!("\n{name}")), "{name}\n{page}");
        }
    }

    #[test]
    fn every_reason_is_documented() {
        let (documentation, _) = include_str!("metrics.rs").split_once("pub struct").unwrap();
        for reason in DropReason::ALL {
            let reason = format!("`{}`", reason.as_str());
            assert!(documentation.contains(&reason), "{reason}");
        }
    }

    #[test]
    fn labels_are_in_snake_case() {
        let page = page();
        let values = page.split('"').skip(1).step_by(2);
        for value in values.filter(|value| value.parse::<f64>().is_err() && *value != "+Inf") {
            assert!(
                value.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{value}"
            );
        }
    }
}
