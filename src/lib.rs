#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "swarm")]
pub mod candidates;
#[cfg(any(feature = "socketpipe", feature = "websocket"))]
#[cfg_attr(
    not(feature = "socketpipe"),
    expect(
        dead_code,
        unreachable_pub,
        reason = "signaling needs a few frames of all, and gives out none"
    )
)]
mod frames;
#[cfg(any(test, feature = "__fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod listeners;
mod proto;
#[cfg(feature = "socketpipe")]
pub mod socketpipe;
mod transport;
#[cfg(any(feature = "socketpipe", feature = "websocket"))]
#[cfg_attr(
    not(all(feature = "socketpipe", feature = "websocket")),
    expect(dead_code, reason = "one tells, the other asks")
)]
mod way;
#[cfg(feature = "websocket")]
pub mod websocket;

pub use listeners::{Due, Ended, Listeners};
pub use transport::{
    CallConfig, Caller, Certificate, CertificateError, Config, ConfigError, Connecting, Connection,
    ConnectionError, DialMode, Error, IceServer, IceServerError, IceServerReport, IceServerState,
    Limits, Metrics, NoiseError, Phase, ServerReports, Stream, Transport,
};
