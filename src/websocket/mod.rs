//! The libp2p transport `/ws/webrtc`: WebRTC connections that are signaled over a WebSocket, with full ICE.
//!
//! For nodes that no UDP packet from outside reaches, and for those that share a port with a web server. A dialer opens a
//! WebSocket to the listener, both exchange session descriptions and candidates there, and the connection goes by WebRTC:
//! directly, or by a TURN server. Where WebRTC does not come up, the connection goes over the WebSocket itself, with
//! Noise and yamux, and moves to WebRTC when that succeeds later. The server in front of the listener need not be
//! trusted: whatever it changes, Noise notices.
//!
//! | address | |
//! | --- | --- |
//! | `/ip4/192.0.2.1/tcp/80/ws/webrtc` | HTTP; everything but the signaling is encrypted |
//! | `/dns4/example.com/tcp/443/tls/ws/webrtc`, also `…/wss/webrtc` | HTTPS |
//! | `/ip4/192.0.2.1/tcp/443/tls/sni/example.com/ws/webrtc` | HTTPS with this name in the certificate |
//!
//! ```no_run
//! use libp2p::{
//!     Multiaddr, Swarm, SwarmBuilder, Transport as _, core::muxing::StreamMuxerBox, identity::Keypair, ping,
//! };
//! use libp2p_rtc::{CallConfig, websocket};
//!
//! fn swarm() -> Result<Swarm<ping::Behaviour>, Box<dyn std::error::Error>> {
//!     let keypair = Keypair::generate_ed25519();
//!     let direct = libp2p_rtc::Transport::new(libp2p_rtc::Config::new(&keypair));
//!     // Answers leave from the port of the first transport.
//!     let servers = vec!["stun:stun.example.com".parse()?];
//!     let caller = direct.caller(CallConfig::new().with_servers(servers));
//!     let signaled = websocket::Transport::new(websocket::Config::new(&keypair).with_caller(caller));
//!     let both = signaled
//!         .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
//!         .or_transport(direct.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))))
//!         .map(|either, _| either.into_inner());
//!     let mut swarm = SwarmBuilder::with_existing_identity(keypair)
//!         .with_tokio()
//!         .with_other_transport(|_| both)?
//!         .with_behaviour(|_| ping::Behaviour::default())?
//!         .build();
//!     swarm.listen_on("/ip4/0.0.0.0/udp/9090/webrtc-direct".parse()?)?;
//!     swarm.listen_on("/ip4/0.0.0.0/tcp/8080/ws/webrtc".parse()?)?;
//!     let other: Multiaddr = "/dns4/example.com/tcp/443/tls/ws/webrtc".parse()?;
//!     swarm.dial(other)?;
//!     Ok(swarm)
//! }
//! ```
//!
//! `SwarmBuilder::with_dns` resolves the names in addresses before a transport sees them, and names are what certificates
//! are for. So put this transport beside `libp2p_dns`, not into it; it resolves names itself. Addresses with `/tls/sni/`
//! keep their names in any case.
//!
//! # On the wire
//!
//! The WebSocket is at the path `/webrtc`, its subprotocol is `socketpipe.v1`. Each binary message is one frame of
//! SocketPipe, without its handshake: WEBRTC_OFFER and ICE_CANDIDATE of the dialer, WEBRTC_ANSWER (empty: refused) and
//! ICE_CANDIDATE of the listener, PING, PONG and CLOSE of either, and DATA without numbers, whose bytes are the
//! connection over the WebSocket: multistream-select, `/noise`, `/yamux/1.0.0`. The WebRTC connection is that of WebRTC
//! Direct from DTLS on, with the offerer in the place of the dialer: Noise runs on channel 0, the answerer is its
//! initiator, and its prologue holds the hashes of both certificates, the offerer's first.

mod acceptor;
pub(crate) mod addr;
mod config;
mod connection;
mod conversation;
mod dialer;
mod error;
pub(crate) mod http;
mod lanes;
mod link;
mod listener;
mod modest;
mod network;
mod paths;
mod pipe;
mod plain;
mod setup;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod turns;

pub use self::{
    acceptor::Acceptor,
    config::{Config, Limits},
    connection::Connection,
    error::{ConnectionError, Error, Phase},
    http::{
        limit::RateLimiter,
        tls::{ServerTls, TlsError, TlsRoots},
    },
    paths::{ConnectionPath, Path, Paths},
    setup::Connecting,
    stream::Stream,
    transport::Transport,
};

/// Where the WebSocket is on its server.
pub(crate) const PATH: &str = "/webrtc";
