//! A WebSocket that carries one frame in each message.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, Uri, header::SEC_WEBSOCKET_PROTOCOL},
    },
};

use crate::{Failure, frame::Frame};

/// The subprotocol both know.
const SUBPROTOCOL: &str = "socketpipe.v1";
/// A server on this machine or in this laboratory is there by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// What it runs over.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Inner = WebSocketStream<Box<dyn Io>>;

/// An open WebSocket. Dropping it cuts the connection, without a word to the server.
pub(crate) struct Socket {
    sink: SplitSink<Inner, Message>,
    stream: SplitStream<Inner>,
}

impl Socket {
    /// Connects. `ca` is a PEM file with the certificates that are believed for `wss://`.
    pub(crate) async fn connect(url: &str, ca: Option<&Path>) -> Result<Self, Failure> {
        let uri: Uri = url.parse()?;
        let host = uri.host().ok_or("a URL without a host")?;
        let secure = uri.scheme_str() == Some("wss");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = timeout(
            PATIENCE,
            TcpStream::connect((host.trim_matches(['[', ']']), port)),
        );
        let tcp = tcp
            .await
            .map_err(|_| format!("no answer from {host}:{port}"))??;
        tcp.set_nodelay(true)?;
        let io: Box<dyn Io> = match secure {
            true => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
                Box::new(connector(ca)?.connect(name, tcp).await?)
            }
            false => Box::new(tcp),
        };
        let mut request = url.into_client_request()?;
        request.headers_mut().insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
        let (socket, response) = timeout(PATIENCE, client_async(request, io))
            .await
            .map_err(|_| "the server does not answer the upgrade")??;
        let agreed = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
        if agreed.is_none_or(|agreed| agreed != SUBPROTOCOL) {
            return Err(format!("the server answers with subprotocol {agreed:?}").into());
        }
        let (sink, stream) = socket.split();
        Ok(Self { sink, stream })
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &Frame) -> Result<(), Failure> {
        self.send_bytes(frame.encode()?).await
    }

    /// Sends a message that is a frame already.
    pub(crate) async fn send_bytes(&mut self, message: Bytes) -> Result<(), Failure> {
        Ok(self.sink.send(Message::Binary(message)).await?)
    }

    /// The next frame; `None` at the end. Cancel safe.
    pub(crate) async fn receive(&mut self) -> Result<Option<Frame>, Failure> {
        while let Some(message) = self.stream.next().await {
            match message? {
                Message::Binary(bytes) => return Frame::decode(&bytes).map(Some),
                Message::Close(_) => return Ok(None),
                Message::Ping(_) | Message::Pong(_) => {}
                other => return Err(format!("no frame: {other:?}").into()),
            }
        }
        Ok(None)
    }
}

/// TLS that believes this file.
fn connector(ca: Option<&Path>) -> Result<TlsConnector, Failure> {
    let ca = ca.ok_or("wss:// needs --ca")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
