//! Sessions over WebSocket, for clients that are not libp2p: `/pty`, `/tunnel` and the page that uses them.
//!
//! A [`WebSocketListener`] accepts TCP connections, with TLS or on loopback, decides by address, `Host`, `Origin` and
//! rate who may upgrade, and gives the result to a [`Server`](super::Server) as a wire. [`WebSocketConnector`] is the
//! client's side. `POST /ice` tells clients of sessions which STUN and TURN servers to use. Tokens are the server's
//! business: they come in the first frame, and to `/ice` in a header, and are passed on as they are.

mod client;
mod ice;
mod listener;
mod page;
mod peer;
mod request;
#[cfg(test)]
mod tests;

pub use self::{
    client::{WebSocketConnector, WebSocketUrlError},
    ice::{TurnServers, TurnServersError},
    listener::{ListenError, WebSocketConfig, WebSocketListener},
    peer::PeerServers,
};
pub use crate::websocket::{RateLimiter, ServerTls, TlsError, TlsRoots};
