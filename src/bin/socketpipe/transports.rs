//! All ways by which the node connects.

use libp2p::{
    PeerId, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    dns,
    identity::Keypair,
    noise, quic, tcp, yamux,
};
use libp2p_rtc::{CallConfig, Caller, Config, IceServer, Transport, websocket};

use crate::Failed;

/// Calls of libp2p peers at once. They make them before anybody knows who they are, and must not take those of sessions,
/// which begin with a token; as many as there are connections by WebSocket.
const MAX_CALLS: usize = 1024;

/// Names the STUN and TURN servers for one connection.
pub(crate) type Servers = Box<dyn Fn() -> Vec<IceServer> + Send + Sync>;

/// TCP, QUIC, WebRTC Direct, and WebRTC by WebSocket, which may still be changed.
pub(crate) struct Transports {
    direct: Boxed<(PeerId, StreamMuxerBox)>,
    pub(crate) by_websocket: websocket::Transport,
    /// Makes the WebRTC connections of sessions, from the sockets of WebRTC Direct.
    pub(crate) caller: Caller,
}

impl Transports {
    /// `roots` are for TLS with other servers, `calls` and `servers` for WebRTC that is set up by WebSockets; without `calls`
    /// there is none, and libp2p stays on its WebSockets, too.
    pub(crate) fn new(
        key: &Keypair,
        roots: websocket::TlsRoots,
        calls: Option<CallConfig>,
        servers: Option<Servers>,
    ) -> Result<Self, Failed> {
        let max_calls = calls.as_ref().map_or(0, |_| MAX_CALLS);
        // A key press must not wait for the acknowledgement of the one before.
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1Lazy)
            .authenticate(noise::Config::new(key)?)
            .multiplex(yamux::Config::default());
        let quic = quic::tokio::Transport::new(quic::Config::new(key));
        let webrtc = Transport::new(Config::new(key));
        let caller = webrtc.caller(calls.unwrap_or_default());
        let mut config = websocket::Config::new(key)
            .with_caller(caller.counted_apart(max_calls))
            .with_roots(roots);
        if let Some(servers) = servers {
            config = config.with_servers(servers);
        }
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
    use std::{
        future::{Future, poll_fn},
        net::Ipv4Addr,
        pin::Pin,
        time::Duration,
    };

    use libp2p::core::{
        Endpoint,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    };
    use libp2p_rtc::socketpipe::websocket::TurnServers;
    use tokio::net::UdpSocket;

    use super::*;

    /// Those of a node whose sessions have no call left, with these servers.
    fn full(servers: &[String]) -> websocket::Transport {
        let calls = CallConfig::new()
            .with_announced(vec![Ipv4Addr::LOCALHOST.into()])
            .with_max_calls(0);
        let key = Keypair::generate_ed25519();
        let servers = TurnServers::new(servers, b"secret").unwrap();
        let roots = websocket::TlsRoots::default();
        let servers = Box::new(move || servers.fresh());
        Transports::new(&key, roots, Some(calls), Some(servers))
            .unwrap()
            .by_websocket
    }

    type Connected = (PeerId, websocket::Connection);

    /// Both ends of a connection by `/ws/webrtc`.
    async fn connect(
        near: &mut websocket::Transport,
        far: &mut websocket::Transport,
    ) -> (Connected, Connected) {
        let address = "/ip4/127.0.0.1/tcp/0/ws/webrtc".parse().unwrap();
        far.listen_on(ListenerId::next(), address).unwrap();
        let mut next = async || poll_fn(|cx| Pin::new(&mut *far).poll(cx)).await;
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
        let (dialed, accepted) = soon(futures::future::join(dialing, accepting)).await;
        (dialed.unwrap(), accepted.unwrap())
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, future).await.unwrap()
    }

    #[tokio::test]
    async fn calls_of_libp2p_peers_and_those_of_sessions_are_counted_apart() {
        let (mut near, mut far) = (full(&[]), full(&[]));
        let _connections = connect(&mut near, &mut far).await;
        let path = near.paths().all()[0].path;
        assert!(matches!(path, websocket::Path::WebRtc { .. }), "{path}");
    }

    #[tokio::test]
    async fn libp2p_peers_who_come_by_websocket_have_the_servers_of_the_node() {
        let stun = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let turn = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let servers = [
            format!("stun:{}", stun.local_addr().unwrap()),
            format!("turn:{}?transport=udp", turn.local_addr().unwrap()),
        ];
        let (mut near, mut far) = (full(&[]), full(&servers));
        let _connections = connect(&mut near, &mut far).await;
        for socket in [stun, turn] {
            let mut request = [0; 1024];
            let (length, _) = soon(socket.recv_from(&mut request)).await.unwrap();
            // The cookie of STUN.
            assert!(length >= 20 && request[4..8] == [0x21, 0x12, 0xa4, 0x42]);
        }
    }

    #[tokio::test]
    async fn without_webrtc_libp2p_stays_on_its_websocket_and_does_not_wait_for_it() {
        let key = Keypair::generate_ed25519();
        let roots = websocket::TlsRoots::default();
        let mut without = Transports::new(&key, roots, None, None)
            .unwrap()
            .by_websocket;
        let mut with = full(&[]);
        // An attempt with WebRTC has 6 s before the other way is taken.
        let patience = Duration::from_secs(5);
        let connecting = connect(&mut with, &mut without);
        let _connections = tokio::time::timeout(patience, connecting).await.unwrap();
        assert_eq!(with.paths().all()[0].path, websocket::Path::WebSocket);
    }
}
