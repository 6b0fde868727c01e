//! TCP services behind a tunnel.
//!
//! Resolves, checks every address against the allowlist, dials. The check after resolving is what keeps a permitted
//! name from leading into the server's own networks.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use super::StreamBackend;
use crate::socketpipe::{code::Code, frame::Failure, targets::Allowlist};

/// Time for one address while others are left to try.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for all of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a service that every one of these lists permits, both by its name and by where that leads. Without a
/// list the target is the operator's own choice and not checked.
pub async fn connect_tcp(
    host: &str,
    port: u16,
    allow: &[&Allowlist],
) -> Result<StreamBackend<TcpStream>, Failure> {
    tokio::time::timeout(CONNECT_TIMEOUT, connect(host, port, allow))
        .await
        .unwrap_or_else(|_| Err(timed_out()))
        .map(StreamBackend::new)
}

/// The socket alone, for SSH, too.
pub(super) async fn connect(
    host: &str,
    port: u16,
    allow: &[&Allowlist],
) -> Result<TcpStream, Failure> {
    // A bracketed IPv6 address is what people type.
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if !allow.iter().all(|list| list.permits_host(host, port)) {
        return Err(not_allowed());
    }
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| {
            tracing::debug!(%error, "target not resolved");
            Failure::new(Code::CONNECT_FAILED, "the host name is not known")
        })?;
    let addresses: Vec<SocketAddr> = found
        .filter(|address| {
            allow
                .iter()
                .all(|list| list.permits_address(host, *address))
        })
        .collect();
    if addresses.is_empty() {
        return Err(not_allowed());
    }
    connect_any(&addresses).await
}

async fn connect_any(addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
    let mut failure = timed_out();
    for (index, address) in addresses.iter().enumerate() {
        let last = index + 1 == addresses.len();
        let limit = if last {
            CONNECT_TIMEOUT
        } else {
            ATTEMPT_TIMEOUT
        };
        failure = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Only costs latency if it fails.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return Ok(stream);
            }
            Ok(Err(error)) => refusal(&error),
            Err(_) => timed_out(),
        };
    }
    Err(failure)
}

fn refusal(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Failure::new(Code::CONNECT_REFUSED, "nothing listens on that port")
        }
        io::ErrorKind::TimedOut => timed_out(),
        _ => Failure::new(Code::CONNECT_FAILED, "the host cannot be reached"),
    }
}

/// The same words whether the host exists or not.
pub(in crate::socketpipe) fn not_allowed() -> Failure {
    Failure::new(
        Code::AUTH_INSUFFICIENT,
        "this target is not on the server's list of allowed targets",
    )
}

fn timed_out() -> Failure {
    Failure::new(Code::CONNECT_TIMEOUT, "the host did not answer in time")
}
