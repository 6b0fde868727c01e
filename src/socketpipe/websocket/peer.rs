//! STUN and TURN servers for a libp2p client of sessions, from the server that its `/ws/webrtc` connection leads to.
//!
//! Credentials are for clients of sessions only, so the first WebRTC connection is made without: the session opens on
//! whatever that gives, the WebSocket of the connection if need be. Then its client asks at `POST /ice` of the same HTTP
//! server, with the token of the session, and what is made afterwards has the servers.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use libp2p_core::Multiaddr;
use tokio::time::{Instant, timeout};

use super::{TlsRoots, WebSocketConnector};
use crate::{
    IceServer,
    socketpipe::{Carrier, IceServers, SessionHandle, SessionStatus, session::Mode},
    websocket::addr::parse_dial,
};

/// Credentials can be used to begin with for ten minutes; they are asked for again before.
const REFRESH: Duration = Duration::from_secs(480);
/// How long they are given out.
const LIFETIME: Duration = Duration::from_secs(590);
/// Pause after nobody gave an answer.
const RETRY: Duration = Duration::from_secs(30);
/// Time for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The servers that are known now. Clones share them.
#[derive(Clone, Default)]
pub struct PeerServers {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    servers: Vec<IceServer>,
    since: Option<Instant>,
}

impl fmt::Debug for PeerServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerServers").finish_non_exhaustive()
    }
}

impl PeerServers {
    /// For one more connection; see [`with_servers`](crate::websocket::Config::with_servers).
    pub fn current(&self) -> Vec<IceServer> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = known.since.is_some_and(|since| since.elapsed() < LIFETIME);
        if is_good {
            known.servers.clone()
        } else {
            Vec::new()
        }
    }

    /// Asks as long as this session lives and goes by `/ws/webrtc`, at those of these addresses that are such; `roots` judge
    /// the certificates. The token that the session was opened with is shown over TLS and on loopback only.
    pub async fn ask_for(
        self,
        session: SessionHandle,
        addresses: Vec<Multiaddr>,
        token: Bytes,
        roots: TlsRoots,
    ) {
        let urls = addresses.iter().filter_map(url_of);
        let ways: Vec<_> = urls
            .filter_map(|url| WebSocketConnector::new(&url, Mode::Tunnel, &roots).ok())
            .map(|way| way.ice_servers(token.clone()))
            .collect();
        if ways.is_empty() || token.is_empty() {
            return;
        }
        let mut status = session.watch();
        while !matches!(*status.borrow_and_update(), SessionStatus::Ended(_)) {
            if !is_signaled(session.carrier()) {
                if status.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let pause = match self.age() {
                Some(age) if age < REFRESH => REFRESH - age,
                Some(_) | None if self.ask(&ways).await => REFRESH,
                Some(_) | None => RETRY,
            };
            if timeout(pause, session.ended()).await.is_ok() {
                return;
            }
        }
    }

    fn age(&self) -> Option<Duration> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.since.map(|since| since.elapsed())
    }

    /// Asks one after the other; whether one answered.
    async fn ask(&self, ways: &[impl IceServers]) -> bool {
        for way in ways {
            match timeout(ANSWER_TIMEOUT, way.servers()).await {
                Ok(Ok(servers)) => {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    *known = Known {
                        servers,
                        since: Some(Instant::now()),
                    };
                    return true;
                }
                Ok(Err(error)) => tracing::debug!(error, "no servers are named"),
                Err(_) => tracing::debug!("no servers are named in time"),
            }
        }
        false
    }
}

/// Whether a session goes by a connection that has a WebSocket.
fn is_signaled(carrier: Option<Carrier>) -> bool {
    carrier.is_some_and(Carrier::is_signaled)
}

/// The HTTP server of an address by `/ws/webrtc`, as a URL for sessions; none for other addresses.
fn url_of(address: &Multiaddr) -> Option<String> {
    let address = parse_dial(address).ok()?;
    Some(format!("{}/tunnel", address.server()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_server_of_an_address_is_the_one_its_websocket_leads_to() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        for (address, url) in [
            (
                "/ip4/192.0.2.1/tcp/80/ws/webrtc",
                Some("ws://192.0.2.1:80/tunnel"),
            ),
            ("/ip6/::1/tcp/80/ws/webrtc", Some("ws://[::1]:80/tunnel")),
            (
                "/dns4/example.com/tcp/443/tls/ws/webrtc",
                Some("wss://example.com:443/tunnel"),
            ),
            (
                "/dns4/example.com/tcp/443/wss/webrtc",
                Some("wss://example.com:443/tunnel"),
            ),
            (
                "/ip4/192.0.2.1/tcp/443/tls/sni/example.com/ws/webrtc",
                Some("wss://example.com:443/tunnel"),
            ),
            ("/ip4/192.0.2.1/tcp/443/tls/ws", None),
            ("/ip4/192.0.2.1/udp/443/webrtc-direct", None),
        ] {
            let address: Multiaddr = format!("{address}/p2p/{peer}").parse().unwrap();
            assert_eq!(url_of(&address).as_deref(), url, "{address}");
        }
    }
}
