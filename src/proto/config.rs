//! Limits of the protocol core.
//!
//! Plain numbers, filled in by the transport from its public configuration, which documents defaults and reasons.

use std::time::Duration;

/// The default of [`Limits::min_resting_streams`].
pub(crate) const MIN_RESTING_STREAMS: usize = 128;

/// Every bound the core keeps, see the fields of the transport's configuration for the reasons.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections of one socket, handshakes included.
    pub(crate) max_connections: usize,
    /// Inbound handshakes in flight on one socket.
    pub(crate) max_handshakes: usize,
    /// Inbound handshakes in flight from one /24 (IPv4) or /48 (IPv6); loopback is exempt.
    pub(crate) max_handshakes_per_subnet: usize,
    /// Remote addresses of one connection.
    pub(crate) max_addresses_per_connection: usize,
    /// Addresses remembered between their first check and their ClientHello.
    pub(crate) max_checked_addresses: usize,
    /// From the first packet to `authenticated`.
    pub(crate) handshake_timeout: Duration,
    /// Silence after which a connection is lost.
    pub(crate) idle_timeout: Duration,
    /// Between a dialer's consent checks.
    pub(crate) keepalive_interval: Duration,
    /// How long a sent FIN waits for its FIN_ACK.
    pub(crate) fin_ack_timeout: Duration,
    /// How long a FIN_ACK is held back towards nodes that misread it.
    pub(crate) fin_ack_delay: Duration,
    /// How long closing flushes.
    pub(crate) close_timeout: Duration,
    /// How long an unread stream may keep the receive window closed.
    pub(crate) stalled_stream_timeout: Duration,
    /// Channels of one connection.
    pub(crate) max_streams: usize,
    /// Inbound channels that the application has not taken yet.
    pub(crate) max_unaccepted_streams: usize,
    /// Largest frame sent, length prefix included.
    pub(crate) max_frame_size: usize,
    /// Ids that are free again rest until so many others do. litep2p 0.16 refuses an id in the moments after two resets
    /// of it crossed; new ids without end are no choice either, as Firefox has 2,048 streams at most.
    pub(crate) min_resting_streams: usize,
    /// Largest frame taken.
    pub(crate) max_receive_frame_size: usize,
    /// Decoded bytes of one channel that the application has not taken.
    pub(crate) max_stream_buffer: usize,
    /// The same over all channels of a connection.
    pub(crate) max_connection_buffer: usize,
    /// SCTP receive window.
    pub(crate) receive_window: u32,
    /// Queued plus unacknowledged bytes of a connection while the round trip is short.
    pub(crate) max_send_buffer: usize,
}

/// A round trip from which on more bytes in flight are worth their cost.
pub(crate) const LONG_PATH: Duration = Duration::from_millis(5);
/// By how much the send buffer grows on a long path.
pub(crate) const LONG_PATH_FACTOR: usize = 4;

#[cfg(test)]
impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            max_handshakes: 512,
            max_handshakes_per_subnet: 64,
            max_addresses_per_connection: 32,
            max_checked_addresses: 32_768,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(25),
            keepalive_interval: Duration::from_secs(5),
            fin_ack_timeout: Duration::from_secs(10),
            fin_ack_delay: Duration::from_millis(100),
            close_timeout: Duration::from_secs(2),
            stalled_stream_timeout: Duration::from_secs(10),
            max_streams: 16_384,
            max_unaccepted_streams: 256,
            max_frame_size: 8192,
            min_resting_streams: MIN_RESTING_STREAMS,
            max_receive_frame_size: 256 * 1024 + 1024,
            max_stream_buffer: 64 * 1024,
            max_connection_buffer: 1024 * 1024,
            receive_window: 1024 * 1024,
            max_send_buffer: 256 * 1024,
        }
    }
}
