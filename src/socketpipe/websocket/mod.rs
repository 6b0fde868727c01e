//! Sessions over WebSocket, for clients that are not libp2p: `/pty`, `/tunnel` and the page that uses them.
//!
//! A [`WebSocketListener`] accepts TCP connections, with TLS or on loopback, decides by address, `Host`, `Origin` and
//! rate who may upgrade, and gives the result to a [`Server`](super::Server) as a wire. [`WebSocketConnector`] is the
//! client's side. Tokens are not looked at here: they come in the first frame and are the server's business.

mod client;
mod limit;
mod listener;
mod messages;
mod page;
mod request;
#[cfg(test)]
mod tests;
mod tls;

pub use self::{
    client::{WebSocketConnector, WebSocketUrlError},
    limit::RateLimiter,
    listener::{ListenError, WebSocketConfig, WebSocketListener},
    tls::{ServerTls, TlsError, TlsRoots},
};

/// The name of the frames on a WebSocket. Offered and selected, never required.
const SUBPROTOCOL: &str = "socketpipe.v1";
