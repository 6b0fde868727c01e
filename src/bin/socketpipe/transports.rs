//! All ways by which the node connects.

use libp2p::{
    PeerId, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    dns,
    identity::Keypair,
    noise, quic, tcp, yamux,
};
use libp2p_rtc::{
    CallConfig, Caller, Config, Transport, socketpipe::websocket::TurnServers, websocket,
};

use crate::Failed;

/// TCP, QUIC, WebRTC Direct, and WebRTC by WebSocket, which may still be changed.
pub(crate) struct Transports {
    direct: Boxed<(PeerId, StreamMuxerBox)>,
    pub(crate) by_websocket: websocket::Transport,
    /// Makes WebRTC connections from the sockets of WebRTC Direct.
    pub(crate) caller: Caller,
}

impl Transports {
    /// `roots` are for TLS with other servers, `calls` and `servers` for WebRTC that is set up by WebSockets.
    pub(crate) fn new(
        key: &Keypair,
        roots: websocket::TlsRoots,
        calls: CallConfig,
        servers: Option<TurnServers>,
    ) -> Result<Self, Failed> {
        // A key press must not wait for the acknowledgement of the one before.
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1Lazy)
            .authenticate(noise::Config::new(key)?)
            .multiplex(yamux::Config::default());
        let quic = quic::tokio::Transport::new(quic::Config::new(key));
        let webrtc = Transport::new(Config::new(key));
        let caller = webrtc.caller(calls);
        let mut config = websocket::Config::new(key)
            .with_caller(caller.clone())
            .with_roots(roots);
        if let Some(servers) = servers {
            config = config.with_servers(move || servers.fresh());
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
