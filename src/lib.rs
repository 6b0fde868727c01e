#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "swarm")]
pub mod candidates;
#[cfg(any(test, feature = "__fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the shells of signaled connections come next")
)]
mod proto;
#[cfg(feature = "socketpipe")]
pub mod socketpipe;
mod transport;

pub use transport::{
    Certificate, CertificateError, Config, ConfigError, Connecting, Connection, ConnectionError,
    DialMode, Error, Limits, Metrics, NoiseError, Phase, Stream, Transport,
};
