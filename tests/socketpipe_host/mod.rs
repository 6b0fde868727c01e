//! One server on libp2p and on WebSockets at once, and frames made by hand for either.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "no test file uses every helper, and a test fails by panicking"
)]

use asynchronous_codec::Framed;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use libp2p::{PeerId, StreamProtocol, swarm::dial_opts::DialOpts};
use libp2p_rtc::socketpipe::{
    Access, Capabilities, Connector, Frame, FrameCodec, FrameLimits, Gate, Grant, HandshakeRequest,
    OpaqueTokens, PTY_PROTOCOL, Policy, Server, SessionStatus, TUNNEL_PROTOCOL, decode_message,
    encode_message,
    session::Mode,
    websocket::{TlsRoots, WebSocketConfig, WebSocketConnector, WebSocketListener},
};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::socketpipe_common::{Node, echo_service, soon};

/// A server on both.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) server: Server,
    pub(crate) url: String,
}

/// Takes the tokens `secret` and `other`, and leads to an echo service.
pub(crate) async fn echo_gate(policy: Policy, listed: &[PeerId]) -> Gate {
    let mut tokens = OpaqueTokens::default();
    for token in ["secret", "other"] {
        let label = token.to_owned();
        let grant = Grant {
            label,
            ..Grant::default()
        };
        tokens.insert(token.as_bytes(), grant);
    }
    let access = Access::new(policy, policy).with_tokens(tokens);
    for peer in listed {
        access.allow_peer(*peer);
    }
    let mut gate = Gate::new(access);
    gate.tunnel.default = Some(("127.0.0.1".to_owned(), echo_service().await));
    gate
}

impl Host {
    pub(crate) async fn new(policy: Policy, listed: &[PeerId]) -> Self {
        Self::with(echo_gate(policy, listed).await).await
    }

    pub(crate) async fn with(gate: Gate) -> Self {
        let node = Node::new().await;
        let server = node.serve(gate);
        let listener = WebSocketListener::bind(WebSocketConfig::default(), server.clone());
        let listener = listener.await.unwrap();
        let url = format!("ws://{}/tunnel", listener.local_addr());
        tokio::spawn(listener.run());
        Self { node, server, url }
    }

    pub(crate) fn connector(&self, kind: Kind, client: &Node) -> Box<dyn Connector> {
        match kind {
            Kind::Peer => {
                let at = vec![self.node.quic.clone()];
                Box::new(client.control.connector(self.node.peer, at, Mode::Tunnel))
            }
            Kind::Web => {
                let roots = TlsRoots::default();
                Box::new(WebSocketConnector::new(&self.url, Mode::Tunnel, &roots).unwrap())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Peer,
    Web,
}

impl Kind {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Peer => Self::Web,
            Self::Web => Self::Peer,
        }
    }

    pub(crate) fn is_shown_by(self, status: &SessionStatus) -> bool {
        let SessionStatus::Connected { path } = status else {
            return false;
        };
        path.starts_with("websocket") == (self == Self::Web)
    }
}

/// Frames by hand, over either.
pub(crate) enum Raw {
    Peer(Framed<libp2p::Stream, FrameCodec>),
    Web(WebSocketStream<TcpStream>),
}

impl Raw {
    pub(crate) async fn dial(host: &Host, kind: Kind, client: &Node) -> Self {
        Self::dial_at(host, kind, client, TUNNEL_PROTOCOL).await
    }

    /// The same for a terminal, if the URL of the host is that of terminals.
    pub(crate) async fn dial_pty(host: &Host, kind: Kind, client: &Node) -> Self {
        Self::dial_at(host, kind, client, PTY_PROTOCOL).await
    }

    async fn dial_at(host: &Host, kind: Kind, client: &Node, protocol: StreamProtocol) -> Self {
        match kind {
            Kind::Peer => {
                let at = vec![host.node.quic.clone()];
                let dial = DialOpts::peer_id(host.node.peer).addresses(at).build();
                // It may be connected already.
                client.run(move |swarm| swarm.dial(dial).ok()).await;
                let mut control = client.raw.clone();
                let opening = control.open_stream(host.node.peer, protocol);
                let stream = soon(opening).await.unwrap();
                Self::Peer(Framed::new(stream, FrameCodec::new(FrameLimits::default())))
            }
            Kind::Web => {
                let address = host.url.trim_start_matches("ws://");
                let address = address.trim_end_matches("/tunnel").trim_end_matches("/pty");
                let stream = TcpStream::connect(address).await.unwrap();
                Self::Web(client_async(&host.url, stream).await.unwrap().0)
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        match self {
            Self::Peer(stream) => stream.send(frame).await.unwrap(),
            Self::Web(socket) => {
                let message = encode_message(&frame).unwrap();
                socket.send(Message::Binary(message)).await.unwrap();
            }
        }
    }

    /// Bytes that need not be a frame.
    pub(crate) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        match self {
            Self::Peer(stream) => {
                // The server may have hung up before all of it is written.
                drop(futures::AsyncWriteExt::write_all(&mut **stream, &bytes).await);
                drop(futures::AsyncWriteExt::flush(&mut **stream).await);
            }
            Self::Web(socket) => drop(socket.send(Message::Binary(bytes.into())).await),
        }
    }

    /// The next frame; `None` when there are no more.
    pub(crate) async fn hear(&mut self) -> Option<Frame> {
        match self {
            Self::Peer(stream) => soon(stream.next()).await?.ok(),
            Self::Web(socket) => match soon(socket.next()).await?.ok()? {
                Message::Binary(bytes) => decode_message(bytes, &FrameLimits::default()).ok(),
                _ => None,
            },
        }
    }

    pub(crate) async fn next(&mut self) -> Frame {
        self.hear().await.expect("the connection goes on")
    }
}

/// A request for this target with this token.
pub(crate) fn handshake(host: &str, port: u16, token: &str) -> Frame {
    Frame::HandshakeRequest(HandshakeRequest {
        capabilities: Capabilities::RESUME,
        major: 1,
        minor: 0,
        port,
        ping_interval: 0,
        ping_timeout: 0,
        max_message: 0,
        host: host.to_owned(),
        token: Bytes::copy_from_slice(token.as_bytes()),
    })
}
