//! Settings of the transport, checked once per socket.
//!
//! [`Config`] is what the user builds; [`Limits`] are the numbers in it. They are translated into the core's own limits
//! when a socket is bound, so that a bad value is an [`Error`](crate::Error) of `listen_on` or `dial`, never a panic. A
//! limit that is part of another one is cut to it there ([`Limits::effective`]), so that changing one limit is enough.

use std::time::Duration;

use libp2p_identity::Keypair;

use crate::{
    proto,
    transport::{certificate::Certificate, metrics::Metrics, shared::StreamLimits},
};

/// The smallest window or frame that libp2p's framing can work with: the specification lets a peer send messages of
/// 16 KiB.
const MIN_MESSAGE: usize = 16 * 1024;

/// The smallest value of `max_frame_size`: below it framing costs more than the data.
const MIN_FRAME: usize = 256;

/// The longest time that can be set: for ever, as far as a connection is concerned, and it keeps sums with an instant from
/// overflowing.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Which form of the WebRTC-direct handshake a dialer uses. Listeners always accept both.
///
/// The forms differ in the ICE credentials only. Every deployed listener answers [`V1`](Self::V1), only newer ones
/// [`V2`](Self::V2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum DialMode {
    /// V2 for a listener that answered it last time; else v1, and v2 beside it when v1 stays unanswered for a second.
    #[default]
    Auto,
    /// V1 only.
    V1,
    /// V2 only.
    V2,
}

impl From<DialMode> for proto::DialPolicy {
    fn from(mode: DialMode) -> Self {
        match mode {
            DialMode::Auto => Self::Auto,
            DialMode::V1 => Self::V1,
            DialMode::V2 => Self::V2,
        }
    }
}

/// Settings of a [`Transport`](crate::Transport).
///
/// [`Config::new`] works for everybody. Every setter consumes and returns the value:
///
/// ```
/// use std::time::Duration;
/// use libp2p_rtc::{Config, DialMode};
///
/// let keypair = libp2p_identity::Keypair::generate_ed25519();
/// let config = Config::new(&keypair)
///     .with_dial_mode(DialMode::V2)
///     .with_handshake_timeout(Duration::from_secs(5));
/// assert_eq!(config.limits().handshake_timeout, Duration::from_secs(5));
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) keypair: Keypair,
    pub(crate) certificate: Certificate,
    /// It is random, and nobody has stored it.
    pub(crate) is_certificate_lost: bool,
    pub(crate) dial_mode: DialMode,
    pub(crate) limits: Limits,
    pub(crate) metrics: Option<Metrics>,
}

impl Config {
    /// Settings for the node with this identity.
    ///
    /// The certificate is derived from the identity key, as go-libp2p does it, so the certificate hash in the node's
    /// addresses survives restarts. An RSA key does not give its private part away, so nothing can be derived from it:
    /// the certificate is then random, and the addresses change with every start, unless
    /// [`with_certificate`](Self::with_certificate) brings a stored one; a listener logs a warning then. See
    /// [`Certificate::from_keypair`].
    pub fn new(keypair: &Keypair) -> Self {
        let derived = Certificate::from_keypair(keypair);
        Self {
            keypair: keypair.clone(),
            is_certificate_lost: derived.is_err(),
            certificate: derived.unwrap_or_else(|_| Certificate::generate()),
            dial_mode: DialMode::default(),
            limits: Limits::default(),
            metrics: None,
        }
    }

    /// Uses this certificate instead of the derived one.
    pub fn with_certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = certificate;
        self.is_certificate_lost = false;
        self
    }

    /// Chooses the handshake of outgoing connections; [`DialMode::Auto`] unless set.
    pub fn with_dial_mode(mut self, dial_mode: DialMode) -> Self {
        self.dial_mode = dial_mode;
        self
    }

    /// Records into these metrics; several transports may share them.
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Replaces all limits at once.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The certificate that this node presents.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The handshake that outgoing connections use.
    pub fn dial_mode(&self) -> DialMode {
        self.dial_mode
    }

    /// The limits as they were set.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// One `with_*` method of [`Config`] for each field of [`Limits`].
macro_rules! limit_setters {
    ($($setter:ident => $field:ident: $type:ty),* $(,)?) => {
        impl Config {
            $(
                #[doc = concat!("Sets [`Limits::", stringify!($field), "`].")]
                pub fn $setter(mut self, value: $type) -> Self {
                    self.limits.$field = value;
                    self
                }
            )*
        }
    };
}

limit_setters! {
    with_max_connections => max_connections: usize,
    with_max_handshakes => max_handshakes: usize,
    with_max_handshakes_per_subnet => max_handshakes_per_subnet: usize,
    with_max_addresses_per_connection => max_addresses_per_connection: usize,
    with_max_checked_addresses => max_checked_addresses: usize,
    with_handshake_timeout => handshake_timeout: Duration,
    with_idle_timeout => idle_timeout: Duration,
    with_keepalive_interval => keepalive_interval: Duration,
    with_fin_ack_timeout => fin_ack_timeout: Duration,
    with_fin_ack_delay => fin_ack_delay: Duration,
    with_close_timeout => close_timeout: Duration,
    with_stalled_stream_timeout => stalled_stream_timeout: Duration,
    with_max_streams => max_streams: usize,
    with_max_unaccepted_streams => max_unaccepted_streams: usize,
    with_max_frame_size => max_frame_size: usize,
    with_max_receive_frame_size => max_receive_frame_size: usize,
    with_max_stream_buffer => max_stream_buffer: usize,
    with_max_connection_buffer => max_connection_buffer: usize,
    with_receive_window => receive_window: u32,
    with_max_send_buffer => max_send_buffer: usize,
    with_max_stream_write_buffer => max_stream_write_buffer: usize,
}

/// What a socket, a connection and a stream may use. All sizes are bytes.
///
/// The defaults serve a public node with some thousand connections. Values out of their range make
/// `listen_on` and `dial` fail with [`Error::Config`](crate::Error::Config). Where a limit is a part of another one, the
/// whole rules: a part that is larger counts as the whole. So one limit can be changed without looking at the others.
///
/// Change single limits with the `with_*` methods of [`Config`], or several at once in a copy of the defaults:
///
/// ```
/// use libp2p_rtc::{Config, Limits};
///
/// let keypair = libp2p_identity::Keypair::generate_ed25519();
/// let mut limits = Limits::default();
/// limits.max_connections = 500;
/// limits.max_streams = 100;
/// let config = Config::new(&keypair).with_limits(limits);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections per socket, those being set up included. Default 16384: an idle connection costs some 20 KiB, so
    /// this is the point where a socket's connections hold a third of a gigabyte. A dial beyond it leaves from another
    /// socket. At least 1.
    pub max_connections: usize,
    /// Inbound connections per socket that are being set up at the same time; more are not answered. Default
    /// 1024: a peer that vanishes holds its place until `handshake_timeout`, and a place costs some 30 KiB. At least 1.
    pub max_handshakes: usize,
    /// The part of `max_handshakes` that one neighbourhood (IPv4 /24, IPv6 /48) may hold; loopback is exempt. Default
    /// 64: one attacker's network leaves fifteen sixteenths to others. At least 1; more than `max_handshakes` counts as
    /// `max_handshakes`.
    pub max_handshakes_per_subnet: usize,
    /// Remote addresses that one connection may be reached at; further ones are ignored. Default 32, as in go-libp2p:
    /// a dialer checks from all its interfaces at once. At least 1.
    pub max_addresses_per_connection: usize,
    /// Entries in the table of addresses that passed the first check and have no connection yet; the oldest gives way.
    /// Default 32768, about 2 MiB: it is all that a flood of first packets can fill. Less than `max_handshakes` counts as
    /// `max_handshakes`.
    pub max_checked_addresses: usize,
    /// Time for the whole set-up of a connection, Noise included. Default 9 s: one second less than the time that
    /// libp2p's `SwarmBuilder` gives every dial, after which the dial fails without a word about where it stood. With a
    /// longer one, set `with_connection_timeout` of the builder to more, or [`Error::TimedOut`](crate::Error::TimedOut)
    /// never comes. More than zero, at most a year, as all times here.
    pub handshake_timeout: Duration,
    /// A connection without a valid packet for so long has failed. Default 25 s: it must outlast several
    /// `keepalive_interval`s of the peer (browsers: 5 s, native nodes up to 15 s), and RFC 7675 ends consent after 30 s.
    pub idle_timeout: Duration,
    /// How often a dialer checks that the listener is still there, which also keeps NAT mappings open. Default 5 s, the
    /// rhythm of RFC 7675. More than zero; more than two fifths of `idle_timeout` counts as that, so that one lost check
    /// does not end a connection.
    pub keepalive_interval: Duration,
    /// How long a closed stream waits for the peer to acknowledge the end of data. Default 10 s, as js-libp2p and
    /// litep2p wait. More than zero.
    pub fin_ack_timeout: Duration,
    /// How long the acknowledgement of a stream's end is held back when our half is still open. Default 100 ms:
    /// rust-libp2p before this crate takes an acknowledgement for the end of our data, and would lose the answer.
    /// More than half of `fin_ack_timeout` counts as that.
    pub fin_ack_delay: Duration,
    /// How long closing a connection may flush what was written before it gives up. Default 2 s. More than zero.
    pub close_timeout: Duration,
    /// A stream that nobody reads and that thereby stops all streams of its connection is reset after this time.
    /// Default 10 s: longer than any pause of a healthy reader. More than zero.
    pub stalled_stream_timeout: Duration,
    /// Open streams per connection, both directions together. Default 16384: a quarter of the 65535 numbers there are,
    /// so that numbers of closed streams can rest. 1 to 65534.
    pub max_streams: usize,
    /// Streams that the peer opened and the application has not taken yet; one more is reset. Default 256, as the
    /// streams in libp2p-quic. At least 1; more than `max_streams` counts as `max_streams`.
    pub max_unaccepted_streams: usize,
    /// The largest message sent. Default 8192: larger ones delay short messages of other streams and gain nothing
    /// measurable. 256 to 16384, which the specification sets; more than `max_send_buffer` counts as that.
    pub max_frame_size: usize,
    /// The largest message accepted. Default 263168 (256 KiB and a frame's overhead): go-libp2p accepts as much, and
    /// some peers send more than the specification's 16 KiB. At least 16384; more than `receive_window` counts as that.
    pub max_receive_frame_size: usize,
    /// Bytes received on one stream and not yet read, in the core and as much again at the stream's handle. Default
    /// 65536: a reader that runs once a millisecond reads 60 MB/s. At least 1; more than `max_connection_buffer` counts as
    /// that.
    pub max_stream_buffer: usize,
    /// The same over all streams of a connection. Default 1 MiB: at most this much, plus `receive_window`, is held for
    /// a peer whose streams nobody reads. At least 1.
    pub max_connection_buffer: usize,
    /// What the peer may have in flight towards us. Default 1 MiB: enough for 80 Mbit/s at a round trip of 100 ms.
    /// At least 16384.
    pub receive_window: u32,
    /// What may be queued and in flight towards the peer. Default 256 KiB; the core raises it to 1 MiB where the
    /// round trip is long. At least 256.
    pub max_send_buffer: usize,
    /// Bytes written to one stream that wait for room in `max_send_buffer`; above it a write is pending. Default 256
    /// KiB: a writer that sleeps for one round trip does not leave the link idle. At least 1.
    pub max_stream_write_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            max_handshakes: 1024,
            max_handshakes_per_subnet: 64,
            max_addresses_per_connection: 32,
            max_checked_addresses: 32_768,
            handshake_timeout: Duration::from_secs(9),
            idle_timeout: Duration::from_secs(25),
            keepalive_interval: Duration::from_secs(5),
            fin_ack_timeout: Duration::from_secs(10),
            fin_ack_delay: Duration::from_millis(100),
            close_timeout: Duration::from_secs(2),
            stalled_stream_timeout: Duration::from_secs(10),
            max_streams: 16_384,
            max_unaccepted_streams: 256,
            max_frame_size: 8192,
            max_receive_frame_size: 256 * 1024 + 1024,
            max_stream_buffer: 64 * 1024,
            max_connection_buffer: 1024 * 1024,
            receive_window: 1024 * 1024,
            max_send_buffer: 256 * 1024,
            max_stream_write_buffer: 256 * 1024,
        }
    }
}

/// A setting of either transport that is out of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{setting} must be {rule}")]
pub struct ConfigError {
    setting: &'static str,
    rule: &'static str,
}

impl ConfigError {
    /// The name of the field of the limits.
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

impl Limits {
    /// Checks every range that the fields document.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.validate_counts()?;
        self.validate_times()?;
        self.validate_sizes()
    }

    fn validate_counts(&self) -> Result<(), ConfigError> {
        for (setting, value) in [
            ("max_connections", self.max_connections),
            ("max_handshakes", self.max_handshakes),
            ("max_handshakes_per_subnet", self.max_handshakes_per_subnet),
            (
                "max_addresses_per_connection",
                self.max_addresses_per_connection,
            ),
            ("max_unaccepted_streams", self.max_unaccepted_streams),
        ] {
            check(value >= 1, setting, "at least 1")?;
        }
        check(
            (1..=65_534).contains(&self.max_streams),
            "max_streams",
            "from 1 to 65534",
        )
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        for (setting, value) in [
            ("handshake_timeout", self.handshake_timeout),
            ("idle_timeout", self.idle_timeout),
            ("keepalive_interval", self.keepalive_interval),
            ("fin_ack_timeout", self.fin_ack_timeout),
            ("close_timeout", self.close_timeout),
            ("stalled_stream_timeout", self.stalled_stream_timeout),
        ] {
            check(!value.is_zero(), setting, "more than zero")?;
        }
        for (setting, value) in [
            ("handshake_timeout", self.handshake_timeout),
            ("idle_timeout", self.idle_timeout),
            ("fin_ack_timeout", self.fin_ack_timeout),
            ("close_timeout", self.close_timeout),
            ("stalled_stream_timeout", self.stalled_stream_timeout),
        ] {
            check(value <= YEAR, setting, "at most a year")?;
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        check(
            (MIN_FRAME..=MIN_MESSAGE).contains(&self.max_frame_size),
            "max_frame_size",
            "from 256 to 16384",
        )?;
        check(
            self.max_receive_frame_size >= MIN_MESSAGE,
            "max_receive_frame_size",
            "at least 16384",
        )?;
        check(
            self.receive_window as usize >= MIN_MESSAGE,
            "receive_window",
            "at least 16384",
        )?;
        check(
            self.max_send_buffer >= MIN_FRAME,
            "max_send_buffer",
            "at least 256",
        )?;
        for (setting, value) in [
            ("max_stream_buffer", self.max_stream_buffer),
            ("max_connection_buffer", self.max_connection_buffer),
            ("max_stream_write_buffer", self.max_stream_write_buffer),
        ] {
            check(value >= 1, setting, "at least 1")?;
        }
        Ok(())
    }

    /// The limits in force: no part is larger than its whole.
    fn effective(&self) -> Self {
        Self {
            max_handshakes_per_subnet: self.max_handshakes_per_subnet.min(self.max_handshakes),
            max_checked_addresses: self.max_checked_addresses.max(self.max_handshakes),
            keepalive_interval: self.keepalive_interval.min(self.idle_timeout * 2 / 5),
            fin_ack_delay: self.fin_ack_delay.min(self.fin_ack_timeout / 2),
            max_unaccepted_streams: self.max_unaccepted_streams.min(self.max_streams),
            max_frame_size: self.max_frame_size.min(self.max_send_buffer),
            max_receive_frame_size: self
                .max_receive_frame_size
                .min(self.receive_window as usize),
            max_stream_buffer: self.max_stream_buffer.min(self.max_connection_buffer),
            ..self.clone()
        }
    }

    /// The sizes of the buffers between the handles and the driver.
    pub(crate) fn to_stream(&self) -> StreamLimits {
        let limits = self.effective();
        StreamLimits {
            max_write_buffer: limits.max_stream_write_buffer,
            max_read_buffer: limits.max_stream_buffer,
            max_connection_buffer: limits.max_connection_buffer,
        }
    }

    /// The same numbers for the protocol core.
    pub(crate) fn to_proto(&self) -> proto::Limits {
        let limits = self.effective();
        proto::Limits {
            max_connections: limits.max_connections,
            max_handshakes: limits.max_handshakes,
            max_handshakes_per_subnet: limits.max_handshakes_per_subnet,
            max_addresses_per_connection: limits.max_addresses_per_connection,
            max_checked_addresses: limits.max_checked_addresses,
            handshake_timeout: limits.handshake_timeout,
            idle_timeout: limits.idle_timeout,
            keepalive_interval: limits.keepalive_interval,
            fin_ack_timeout: limits.fin_ack_timeout,
            fin_ack_delay: limits.fin_ack_delay,
            close_timeout: limits.close_timeout,
            stalled_stream_timeout: limits.stalled_stream_timeout,
            max_streams: limits.max_streams,
            max_unaccepted_streams: limits.max_unaccepted_streams,
            max_frame_size: limits.max_frame_size,
            min_resting_streams: proto::MIN_RESTING_STREAMS,
            max_receive_frame_size: limits.max_receive_frame_size,
            max_stream_buffer: limits.max_stream_buffer,
            max_connection_buffer: limits.max_connection_buffer,
            receive_window: limits.receive_window,
            max_send_buffer: limits.max_send_buffer,
        }
    }
}

/// One rule of the configuration.
pub(crate) fn check(
    holds: bool,
    setting: &'static str,
    rule: &'static str,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError { setting, rule })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(change: impl FnOnce(&mut Limits)) -> Option<&'static str> {
        let mut limits = Limits::default();
        change(&mut limits);
        limits.validate().err().map(|error| error.setting())
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Limits::default().validate(), Ok(()));
    }

    #[test]
    fn refuses_counts_of_zero() {
        assert_eq!(rejected(|l| l.max_connections = 0), Some("max_connections"));
        assert_eq!(rejected(|l| l.max_handshakes = 0), Some("max_handshakes"));
        assert_eq!(rejected(|l| l.max_streams = 0), Some("max_streams"));
    }

    #[test]
    fn refuses_more_stream_numbers_than_there_are() {
        assert_eq!(rejected(|l| l.max_streams = 65_534), None);
        assert_eq!(rejected(|l| l.max_streams = 65_535), Some("max_streams"));
    }

    /// What is in force after `change`; also checks that it is accepted.
    fn in_force(change: impl FnOnce(&mut Limits)) -> Limits {
        let mut limits = Limits::default();
        change(&mut limits);
        assert_eq!(limits.validate(), Ok(()));
        limits.effective()
    }

    #[test]
    fn the_defaults_are_in_force_as_they_are() {
        assert_eq!(in_force(|_| ()), Limits::default());
    }

    #[test]
    fn a_part_is_cut_to_a_lower_whole() {
        assert_eq!(in_force(|l| l.max_streams = 4).max_unaccepted_streams, 4);
        assert_eq!(
            in_force(|l| l.max_handshakes = 10).max_handshakes_per_subnet,
            10
        );
        assert_eq!(
            in_force(|l| l.receive_window = 100_000).max_receive_frame_size,
            100_000
        );
        assert_eq!(
            in_force(|l| l.max_connection_buffer = 1000).max_stream_buffer,
            1000
        );
        assert_eq!(in_force(|l| l.max_send_buffer = 1000).max_frame_size, 1000);
    }

    #[test]
    fn checked_addresses_grow_with_handshakes() {
        let limits = in_force(|l| l.max_handshakes = 100_000);
        assert_eq!(limits.max_checked_addresses, 100_000);
    }

    #[test]
    fn a_short_timeout_shortens_what_must_fit_in_it() {
        let limits = in_force(|l| l.idle_timeout = Duration::from_secs(5));
        assert_eq!(limits.keepalive_interval, Duration::from_secs(2));
        let limits = in_force(|l| l.keepalive_interval = Duration::MAX);
        assert!(limits.keepalive_interval * 2 < limits.idle_timeout);
        let limits = in_force(|l| l.fin_ack_timeout = Duration::from_millis(50));
        assert_eq!(limits.fin_ack_delay, Duration::from_millis(25));
    }

    #[test]
    fn the_core_and_the_buffers_get_what_is_in_force() {
        let limits = Limits {
            max_streams: 4,
            max_connection_buffer: 1000,
            ..Limits::default()
        };
        assert_eq!(limits.to_proto().max_unaccepted_streams, 4);
        assert_eq!(limits.to_stream().max_read_buffer, 1000);
    }

    /// `DEFAULT_CONNECTION_TIMEOUT` of libp2p 0.57 is private: 10 s.
    #[test]
    fn a_dial_ends_with_a_reason_before_libp2p_ends_it() {
        let slack = Duration::from_secs(1);
        assert!(Limits::default().handshake_timeout + slack <= Duration::from_secs(10));
    }

    #[test]
    fn refuses_a_timeout_that_overflows_the_clock() {
        assert_eq!(
            rejected(|l| l.handshake_timeout = Duration::MAX),
            Some("handshake_timeout")
        );
    }

    #[test]
    fn refuses_a_window_below_the_messages_of_the_specification() {
        assert_eq!(rejected(|l| l.receive_window = 16_384), None);
        assert_eq!(
            rejected(|l| l.receive_window = 16_383),
            Some("receive_window")
        );
    }

    #[test]
    fn refuses_frames_larger_than_the_specification_allows() {
        assert_eq!(rejected(|l| l.max_frame_size = 16_384), None);
        assert_eq!(
            rejected(|l| l.max_frame_size = 16_385),
            Some("max_frame_size")
        );
    }

    #[test]
    fn names_the_setting_and_the_rule() {
        let error = ConfigError {
            setting: "max_streams",
            rule: "from 1 to 65534",
        };
        assert_eq!(error.to_string(), "max_streams must be from 1 to 65534");
    }

    #[test]
    fn derives_the_same_certificate_for_the_same_identity() {
        let keypair = Keypair::generate_ed25519();
        let [one, two] = [0, 1].map(|_| Config::new(&keypair));
        assert_eq!(one.certificate().certhash(), two.certificate().certhash());
    }
}
