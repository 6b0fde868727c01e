//! Accepts TCP connections and speaks HTTP on them, with TLS or without.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Request, body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::{
    answer::{Answer, Sender},
    limit::{Share, Shares},
    messages::{self, Messages, Socket},
    tls::ServerTls,
};

/// Time for the TLS handshake, and again for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for all requests of one connection, their answers read, until one of them becomes a WebSocket. Who does not read
/// holds a place and what the system keeps to send, and a slow reader of the page has it by then.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Room for connections, of which one address (a proxy aside) has half at most.
#[derive(Clone)]
pub(crate) struct Room {
    all: Arc<Semaphore>,
    shares: Arc<Shares>,
    proxies: Arc<[IpAddr]>,
}

/// The place of a connection among all, and among those of its address; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _room: OwnedSemaphorePermit,
    _share: Option<Share>,
}

impl Room {
    /// Room for so many. All clients of a proxy come from its address, so it has no share.
    pub(crate) fn new(connections: usize, proxies: &[IpAddr]) -> Self {
        let connections = connections.min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(connections)),
            shares: Shares::new(connections.div_ceil(2)),
            proxies: proxies.into(),
        }
    }

    /// A place for a connection from here. `None` if there is none, or the address has its share already.
    pub(crate) fn try_place(&self, from: IpAddr) -> Option<Place> {
        let room = self.all.clone().try_acquire_owned().ok()?;
        self.place(room, from)
    }

    /// `None` if the address has its share already.
    fn place(&self, room: OwnedSemaphorePermit, from: IpAddr) -> Option<Place> {
        let share = match self.proxies.contains(&from.to_canonical()) {
            true => None,
            false => Some(self.shares.take(from)?),
        };
        Some(Place {
            _room: room,
            _share: share,
        })
    }

    /// Accepts as long as there is room, and serves HTTP on each connection, over TLS if it is given, in a task of its own:
    /// `answer` is asked for each request, and what it answers with 101 it can wait for with [`upgraded`]. Never ends.
    pub(crate) async fn serve<A>(self, listener: TcpListener, tls: Option<ServerTls>, answer: A)
    where
        A: Fn(Client, Request<Incoming>, Arc<Place>) -> Answer + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        loop {
            let Ok(permit) = self.all.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, from)) => match self.place(permit, from.ip()) {
                    Some(place) => {
                        let (answer, place) = (answer.clone(), Arc::new(place));
                        let serving = serve(stream, from, tls.clone(), move |client, request| {
                            answer(client, request, place.clone())
                        });
                        drop(tokio::spawn(serving));
                    }
                    None => {
                        tracing::debug!(from = %from.ip(), "too many connections of one address")
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("free", &self.all.available_permits())
            .finish_non_exhaustive()
    }
}

/// Who sends the requests of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) sender: Sender,
    /// Of the sender's end.
    pub(crate) port: u16,
}

/// Serves one TCP connection: TLS if it is given, then HTTP.
async fn serve(
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<ServerTls>,
    answer: impl Fn(Client, Request<Incoming>) -> Answer,
) {
    // A key press must not wait for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    let sender = Sender {
        address: from.ip(),
        local: is_local(&stream, from),
        tls: tls.is_some(),
    };
    let client = Client {
        sender,
        port: from.port(),
    };
    let answer = |request| answer(client, request);
    let Some(tls) = tls else {
        return converse(sender, stream, answer).await;
    };
    let handshake = TlsAcceptor::from(tls.config).accept(stream);
    match tokio::time::timeout(HEAD_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => converse(sender, stream, answer).await,
        Ok(Err(error)) => tracing::debug!(from = %sender.address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(from = %sender.address, "TLS handshake too slow"),
    }
}

fn is_local(stream: &TcpStream, from: SocketAddr) -> bool {
    let to = stream.local_addr();
    from.ip().to_canonical().is_loopback()
        && to.is_ok_and(|to| to.ip().to_canonical().is_loopback())
}

async fn converse<S, A>(sender: Sender, stream: S, answer: A)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(Request<Incoming>) -> Answer,
{
    let service =
        service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(request))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match tokio::time::timeout(HTTP_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(from = %sender.address, %error, "connection ended"),
        Err(_) => tracing::debug!(from = %sender.address, "requests took too long"),
    }
}

/// The WebSocket that a request becomes when it is answered with 101; `None` if its connection ends before. What is said of
/// a message's length is enough for it to be refused when it has more bytes than that: nobody holds more memory.
pub(crate) async fn upgraded(upgrade: OnUpgrade, max_message: usize) -> Option<Socket> {
    match upgrade.await {
        Ok(io) => {
            let io: messages::Io = Box::new(TokioIo::new(io));
            let config = Some(messages::config(max_message));
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, config).await;
            Some(Messages::new(socket))
        }
        Err(error) => {
            tracing::debug!(%error, "upgrade failed");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::Response;
    use tokio::{io::AsyncWriteExt as _, time::timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut_off() {
        let (server, mut client) = tokio::io::duplex(1024);
        let sender = Sender {
            address: Ipv4Addr::LOCALHOST.into(),
            local: true,
            tls: false,
        };
        let page = |_| Response::new(Full::new(Bytes::from(vec![0; 1 << 20])));
        let serving = tokio::spawn(converse(sender, server, page));
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        client.write_all(request).await.unwrap();
        let ended = timeout(2 * HTTP_TIMEOUT, serving).await;
        ended.expect("it waits for the client").unwrap();
    }
}
