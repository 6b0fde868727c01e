//! HTTP servers and clients as far as WebSockets need them, for SocketPipe's gateway and for the libp2p transport.
//!
//! [`server`] accepts TCP connections within [`limit`]s and gives their requests to a function; [`answer`] reads heads of
//! requests and makes the answers; [`client`] opens WebSockets; [`messages`] is an open one. Who may open a WebSocket, and
//! what its messages mean, is the business of those who use this.

pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod limit;
pub(crate) mod messages;
pub(crate) mod server;
pub(crate) mod tls;

/// The name of the frames on a WebSocket. Offered and selected, never required.
pub(crate) const SUBPROTOCOL: &str = "socketpipe.v1";
