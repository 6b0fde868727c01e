#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod fuzzing;
mod proto;
mod transport;

pub use transport::{
    Certificate, CertificateError, Config, ConfigError, Connecting, Connection, ConnectionError,
    DialMode, Error, Limits, Metrics, NoiseError, Phase, Stream, Transport,
};
