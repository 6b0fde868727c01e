#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[expect(dead_code, reason = "the core is being written")]
mod proto;
mod transport;

pub use transport::{
    Certificate, CertificateError, Config, ConfigError, Connecting, Connection, ConnectionError,
    DialMode, Error, Limits, Metrics, NoiseError, Phase, Stream, Transport,
};
