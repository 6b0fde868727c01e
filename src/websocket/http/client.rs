//! Opens WebSockets: TCP, TLS, the upgrade, each a step of its own, so that callers can tell how far it came.

use std::{io, sync::Arc};

use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        Error,
        client::IntoClientRequest as _,
        error::{ProtocolError, SubProtocolError},
        http::{HeaderValue, Response, StatusCode, Uri, header},
    },
};

use super::{
    SUBPROTOCOL,
    messages::{self, Messages, Socket},
};

pub(crate) use super::messages::Io;

/// Characters of a server's own explanation that are shown.
const MAX_EXPLANATION: usize = 200;

/// The server's answer is not the one that makes a WebSocket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// It does not know the subprotocol: it may be asked again without.
    #[error("the server does not know the subprotocol")]
    NoSubprotocol,
    /// An answer of HTTP, and what the server says about it, fit for a terminal; perhaps nothing.
    #[error("the server answers {status}{}{text}", if .text.is_empty() { "" } else { ": " })]
    Status {
        /// Its status.
        status: StatusCode,
        /// Its words.
        text: String,
    },
    /// The connection failed, or what came is no HTTP.
    #[error(transparent)]
    WebSocket(#[from] Error),
}

/// Connects to the first of these addresses that takes it.
pub(crate) async fn connect(to: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    // A key press must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TLS with a server of this name.
pub(crate) async fn secure(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Io> {
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Box::new(stream))
}

/// Asks for a WebSocket.
pub(crate) async fn upgrade(io: Io, uri: &Uri, offer: bool) -> Result<Socket, UpgradeError> {
    let mut request = uri.clone().into_client_request()?;
    if offer {
        request.headers_mut().insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
    }
    match client_async_with_config(request, io, Some(messages::config())).await {
        Ok((socket, _)) => Ok(Messages::new(socket)),
        Err(error) => Err(explain(error)),
    }
}

fn explain(error: Error) -> UpgradeError {
    let no_subprotocol = SubProtocolError::NoSubProtocol;
    match error {
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(error))
            if error == no_subprotocol =>
        {
            UpgradeError::NoSubprotocol
        }
        Error::Http(answer) => status(&answer),
        other => UpgradeError::WebSocket(other),
    }
}

fn status(answer: &Response<Option<Vec<u8>>>) -> UpgradeError {
    UpgradeError::Status {
        status: answer.status(),
        text: explanation(answer.body().as_deref().unwrap_or_default()),
    }
}

/// The first line of what a server says, fit for a terminal.
fn explanation(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().next().unwrap_or_default();
    // A page of some proxy explains nothing here.
    match line.starts_with('<') {
        true => String::new(),
        false => line
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_EXPLANATION)
            .collect(),
    }
}
