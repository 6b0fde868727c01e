//! All ways by which the node connects.

use libp2p::{
    PeerId, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    dns,
    identity::Keypair,
    noise, quic, tcp, yamux,
};
use libp2p_rtc::{CallConfig, Caller, Config, Transport, websocket};

use crate::Failed;

/// Calls of libp2p peers at once. They make them before anybody knows who they are, and must not take those of sessions,
/// which begin with a token; as many as there are connections by WebSocket.
const MAX_CALLS: usize = 1024;

/// TCP, QUIC, WebRTC Direct, and WebRTC by WebSocket, which may still be changed.
pub(crate) struct Transports {
    direct: Boxed<(PeerId, StreamMuxerBox)>,
    pub(crate) by_websocket: websocket::Transport,
    /// Makes the WebRTC connections of sessions, from the sockets of WebRTC Direct.
    pub(crate) caller: Caller,
}

impl Transports {
    /// `roots` are for TLS with other servers, `calls` for WebRTC that is set up by WebSockets.
    pub(crate) fn new(
        key: &Keypair,
        roots: websocket::TlsRoots,
        calls: CallConfig,
    ) -> Result<Self, Failed> {
        // A key press must not wait for the acknowledgement of the one before.
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1Lazy)
            .authenticate(noise::Config::new(key)?)
            .multiplex(yamux::Config::default());
        let quic = quic::tokio::Transport::new(quic::Config::new(key));
        let webrtc = Transport::new(Config::new(key));
        let caller = webrtc.caller(calls);
        let config = websocket::Config::new(key)
            .with_caller(caller.counted_apart(MAX_CALLS))
            .with_roots(roots);
        let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let webrtc = webrtc.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let direct = tcp
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .or_transport(quic)
            .map(|either, _| either.into_inner())
            .or_transport(webrtc)
            .map(|either, _| either.into_inner());
        Ok(Self {
            direct: dns::tokio::Transport::system(direct)?.boxed(),
            by_websocket: websocket::Transport::new(config),
            caller,
        })
    }

    /// All as one. Names are for the certificates of servers, so WebRTC by WebSocket resolves them itself.
    pub(crate) fn join(self) -> Boxed<(PeerId, StreamMuxerBox)> {
        self.by_websocket
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .or_transport(self.direct)
            .map(|either, _| either.into_inner())
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::Ipv4Addr, pin::Pin, time::Duration};

    use libp2p::core::{
        Endpoint,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    };

    use super::*;

    /// Those of a node whose sessions have no call left.
    fn full() -> Transports {
        let calls = CallConfig::new()
            .with_announced(vec![Ipv4Addr::LOCALHOST.into()])
            .with_max_calls(0);
        let key = Keypair::generate_ed25519();
        Transports::new(&key, websocket::TlsRoots::default(), calls).unwrap()
    }

    #[tokio::test]
    async fn calls_of_libp2p_peers_and_those_of_sessions_are_counted_apart() {
        let (mut near, mut far) = (full().by_websocket, full().by_websocket);
        let address = "/ip4/127.0.0.1/tcp/0/ws/webrtc".parse().unwrap();
        far.listen_on(ListenerId::next(), address).unwrap();
        let mut next = async || poll_fn(|cx| Pin::new(&mut far).poll(cx)).await;
        let TransportEvent::NewAddress { listen_addr, .. } = next().await else {
            panic!("no address");
        };
        let options = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        let dialing = near.dial(listen_addr, options).unwrap();
        let accepting = async {
            match next().await {
                TransportEvent::Incoming { upgrade, .. } => upgrade.await,
                event => panic!("{event:?}"),
            }
        };
        let both = futures::future::join(dialing, accepting);
        let both = tokio::time::timeout(Duration::from_secs(60), both);
        let (dialed, accepted) = both.await.unwrap();
        let _connections = (dialed.unwrap(), accepted.unwrap());
        let path = near.paths().all()[0].path;
        assert!(matches!(path, websocket::Path::WebRtc { .. }), "{path}");
    }
}
