//! The libp2p transport for `/webrtc-direct`: sockets, tokio and libp2p outside, no protocol decisions.
//!
//! [`Transport`] owns the listeners and picks the socket of a dial, [`Connecting`] runs Noise and yields a
//! [`Connection`], which the swarm polls for [`Stream`]s. One driver task per UDP socket moves datagrams between the
//! socket and the protocol core (`crate::proto`), where everything that the specification rules is decided.

pub(crate) mod addr;
#[cfg_attr(
    not(any(test, all(feature = "socketpipe", feature = "websocket"))),
    expect(
        dead_code,
        reason = "calls are made by SocketPipe and /ws/webrtc, and each uses a part"
    )
)]
pub(crate) mod call;
mod certificate;
pub(crate) mod config;
pub(crate) mod connecting;
mod connection;
mod dialer;
pub(crate) mod driver;
mod error;
mod hole_punch;
pub(crate) mod interfaces;
mod listener;
mod metrics;
mod shared;
mod socket;
mod stream;
pub(crate) mod timer;
#[expect(
    clippy::module_inception,
    reason = "the file is named after the trait it implements"
)]
mod transport;
pub(crate) mod watcher;

pub use call::{
    CallConfig, Caller, IceServer, IceServerError, IceServerReport, IceServerState, ServerReports,
};
pub use certificate::{Certificate, CertificateError};
pub use config::{Config, ConfigError, DialMode, Limits};
pub use connecting::Connecting;
pub use connection::Connection;
pub use error::{ConnectionError, Error, NoiseError, Phase};
pub use metrics::Metrics;
pub use stream::Stream;
pub use transport::Transport;
