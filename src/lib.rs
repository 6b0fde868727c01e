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
mod proto;
#[cfg(feature = "socketpipe")]
pub mod socketpipe;
mod transport;
#[cfg(feature = "websocket")]
pub mod websocket;

pub use transport::{
    CallConfig, Caller, Certificate, CertificateError, Config, ConfigError, Connecting, Connection,
    ConnectionError, DialMode, Error, IceServer, IceServerError, IceServerReport, IceServerState,
    Limits, Metrics, NoiseError, Phase, ServerReports, Stream, Transport,
};
