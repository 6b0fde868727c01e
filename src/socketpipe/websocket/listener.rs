//! Accepts connections and turns those that may into sessions.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use hyper::{Request, body::Incoming};
use tokio::net::TcpListener;

use super::{
    ice::TurnServers,
    request::{Verdict, allow_origin, judge, no_session},
};
use crate::{
    socketpipe::{
        server::{Origin, Server},
        session::{Mode, PathKind},
        wire::Wire,
    },
    websocket::{
        Acceptor,
        http::{
            answer::Answer,
            limit::RateLimiter,
            messages::{MAX_MESSAGE, Socket},
            server::{self, Client, Place, Room},
            tls::ServerTls,
        },
    },
};

/// How to listen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WebSocketConfig {
    /// Where. Default: a free port on loopback.
    pub listen: SocketAddr,
    /// Certificate and key. Default none: plain HTTP, which is for loopback.
    pub tls: Option<ServerTls>,
    /// Listen without TLS beyond loopback all the same. Terminals and the page are still refused there, unless a
    /// proxy of the list says that the client came by HTTPS. Default false.
    pub plain: bool,
    /// Addresses of proxies that end TLS and whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub proxies: Vec<IpAddr>,
    /// Origins beside the server's own whose pages may connect, as `https://example.com`.
    pub origins: Vec<String>,
    /// Names this server may be called by on loopback, beside `localhost` and loopback addresses.
    pub hosts: Vec<String>,
    /// Serve the page. Default true.
    pub page: bool,
    /// STUN and TURN servers that the clients of sessions which may use WebRTC are told of (`POST /ice`, with the token of
    /// the session). Default none.
    pub ice: Option<TurnServers>,
    /// How often one address may open a WebSocket, or ask for those servers.
    pub limiter: RateLimiter,
    /// Connections at once, of which one address (a proxy aside) has half at most. Default 2,048.
    pub max_connections: usize,
    /// Who gets the WebSockets of the path `/webrtc`, on which libp2p nodes connect. Default nobody. See
    /// [`WebSocketListener::with_libp2p`].
    pub(super) libp2p: Option<Acceptor>,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            plain: false,
            proxies: Vec::new(),
            origins: Vec::new(),
            hosts: Vec::new(),
            page: true,
            ice: None,
            limiter: RateLimiter::default(),
            max_connections: 2048,
            libp2p: None,
        }
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is not loopback and there is no TLS.
    #[error("{0} can be reached by others: give a certificate and a key, or listen on loopback")]
    Plain(SocketAddr),
    /// The system said no.
    #[error("cannot listen on {0}: {1}")]
    Io(SocketAddr, #[source] io::Error),
}

/// An open listener.
pub struct WebSocketListener {
    listener: TcpListener,
    local: SocketAddr,
    room: Room,
    shared: Shared,
}

impl fmt::Debug for WebSocketListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketListener")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

struct Shared {
    config: WebSocketConfig,
    server: Server,
}

impl WebSocketListener {
    /// Opens the port.
    ///
    /// # Errors
    ///
    /// If the port cannot be had, or others could read along.
    pub async fn bind(config: WebSocketConfig, server: Server) -> Result<Self, ListenError> {
        let address = config.listen;
        let safe = config.tls.is_some() || config.plain || !config.proxies.is_empty();
        if !safe && !address.ip().to_canonical().is_loopback() {
            return Err(ListenError::Plain(address));
        }
        let failed = |error| ListenError::Io(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            local,
            room: Room::new(config.max_connections, &config.proxies),
            shared: Shared { config, server },
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.shared.config.tls.is_some()
    }

    /// Gives the WebSockets of the path `/webrtc` to a libp2p transport: see
    /// [`Transport::acceptor`](crate::websocket::Transport::acceptor). Pages of any origin may open them, on loopback those
    /// of the origins in the configuration.
    #[must_use]
    pub fn with_libp2p(mut self, acceptor: Acceptor) -> Self {
        self.shared.config.libp2p = Some(acceptor);
        self
    }

    /// Serves until it is dropped; sessions that run go on.
    pub async fn run(self) {
        let shared = self.shared;
        let tls = shared.config.tls.clone();
        let answer = move |client, request, place| answer(&shared, client, request, place);
        self.room.serve(self.listener, tls, answer).await;
    }
}

fn answer(
    shared: &Shared,
    Client { sender, port }: Client,
    mut request: Request<Incoming>,
    place: Arc<Place>,
) -> Answer {
    match judge(&shared.config, sender, &request) {
        Verdict::Answer(answer) => answer,
        Verdict::Ice {
            token,
            client,
            origin,
        } => {
            let mut answer = name_servers(shared, &token, client);
            allow_origin(&mut answer, origin);
            answer
        }
        Verdict::Libp2p { acceptor, client } => {
            let answer = acceptor.answer(&mut request, client, port, place);
            answer.unwrap_or_else(|refusal| refusal.answer_to(sender))
        }
        Verdict::Upgrade {
            answer,
            mode,
            client,
            private,
        } => {
            let upgrade = hyper::upgrade::on(&mut request);
            let server = shared.server.clone();
            tokio::spawn(async move {
                if let Some(socket) = server::upgraded(upgrade, MAX_MESSAGE).await {
                    serve(server, socket, mode, (client, private)).await;
                }
                drop(place);
            });
            answer
        }
    }
}

/// The servers for WebRTC, with credentials for the session of this token.
fn name_servers(shared: &Shared, token: &[u8], client: IpAddr) -> Answer {
    let label = shared.server.turn_label(token);
    match (&shared.config.ice, label) {
        (Some(ice), Some(label)) => ice.answer(&label),
        _ => {
            shared.config.limiter.failed(client);
            no_session()
        }
    }
}

async fn serve(server: Server, socket: Socket, mode: Mode, (client, private): (IpAddr, bool)) {
    let wire = Wire::messages(PathKind::WebSocket, socket);
    let wire = wire.with_label(format!("websocket {client}"));
    let wire = if private { wire.private() } else { wire };
    server.serve(wire, mode, Origin::address(client)).await;
}
