//! Accepts connections and turns those that may into sessions.

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::{
    limit::{RateLimiter, Share, Shares},
    messages::{self, Messages},
    request::{Answer, Sender, Verdict, judge},
    tls::ServerTls,
};
use crate::socketpipe::{
    server::{Origin, Server},
    session::{Mode, PathKind},
    wire::Wire,
};

/// Time for the TLS handshake, and again for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    /// How often one address may open a WebSocket.
    pub limiter: RateLimiter,
    /// Connections at once, of which one address (a proxy aside) has half at most. Default 2,048.
    pub max_connections: usize,
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
            limiter: RateLimiter::default(),
            max_connections: 2048,
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
    shared: Arc<Shared>,
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
    room: Arc<Semaphore>,
    shares: Arc<Shares>,
}

/// The place of a connection among all, and among those of its address.
struct Place {
    _room: OwnedSemaphorePermit,
    _share: Option<Share>,
}

impl Shared {
    /// `None` if the address has its share already. All clients of a proxy come from its address.
    fn place(&self, room: OwnedSemaphorePermit, from: IpAddr) -> Option<Place> {
        let is_proxy = self.config.proxies.contains(&from.to_canonical());
        let share = match is_proxy {
            true => None,
            false => Some(self.shares.take(from)?),
        };
        Some(Place {
            _room: room,
            _share: share,
        })
    }
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
        let room = Arc::new(Semaphore::new(config.max_connections));
        let shares = Shares::new(config.max_connections.div_ceil(2));
        Ok(Self {
            listener,
            local,
            shared: Arc::new(Shared {
                config,
                server,
                room,
                shares,
            }),
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

    /// Serves until it is dropped; sessions that run go on.
    pub async fn run(self) {
        loop {
            let Ok(permit) = self.shared.room.clone().acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let Some(place) = self.shared.place(permit, from.ip()) else {
                        tracing::debug!(from = %from.ip(), "too many connections of one address");
                        continue;
                    };
                    let sender = Sender {
                        address: from.ip(),
                        local: is_local(&stream, from),
                        tls: self.is_tls(),
                    };
                    tokio::spawn(receive(self.shared.clone(), sender, stream, place));
                }
                Err(error) => {
                    tracing::debug!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_local(stream: &TcpStream, from: SocketAddr) -> bool {
    let to = stream.local_addr();
    from.ip().to_canonical().is_loopback()
        && to.is_ok_and(|to| to.ip().to_canonical().is_loopback())
}

/// One TCP connection.
async fn receive(shared: Arc<Shared>, sender: Sender, stream: TcpStream, place: Place) {
    // A key press must not wait for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    let Some(tls) = shared.config.tls.clone() else {
        return converse(shared, sender, stream, place).await;
    };
    let handshake = TlsAcceptor::from(tls.config).accept(stream);
    match tokio::time::timeout(HEAD_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => converse(shared, sender, stream, place).await,
        Ok(Err(error)) => tracing::debug!(from = %sender.address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(from = %sender.address, "TLS handshake too slow"),
    }
}

/// HTTP on it.
async fn converse<S>(shared: Arc<Shared>, sender: Sender, stream: S, place: Place)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let place = Arc::new(place);
    let service = service_fn(move |request| {
        let answer = answer(&shared, sender, request, place.clone());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(from = %sender.address, %error, "connection ended");
    }
}

fn answer(
    shared: &Arc<Shared>,
    sender: Sender,
    mut request: Request<Incoming>,
    place: Arc<Place>,
) -> Answer {
    match judge(&shared.config, sender, &request) {
        Verdict::Answer(answer) => answer,
        Verdict::Upgrade {
            answer,
            mode,
            client,
        } => {
            let upgraded = hyper::upgrade::on(&mut request);
            let server = shared.server.clone();
            tokio::spawn(async move {
                match upgraded.await {
                    Ok(io) => serve(server, TokioIo::new(io), mode, client).await,
                    Err(error) => tracing::debug!(%error, "upgrade failed"),
                }
                drop(place);
            });
            answer
        }
    }
}

async fn serve<S>(server: Server, io: S, mode: Mode, client: IpAddr)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = Some(messages::config());
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, config).await;
    let wire = Wire::messages(PathKind::WebSocket, Messages::new(socket));
    let wire = wire.with_label(format!("websocket {client}"));
    server.serve(wire, mode, Origin::address(client)).await;
}
