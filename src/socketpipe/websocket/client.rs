//! The client's side: WebSockets to one URL.

use std::{
    net::IpAddr,
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
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
        http::{HeaderValue, StatusCode, Uri, header},
    },
};

use super::{
    SUBPROTOCOL,
    messages::{self, Messages},
    tls::{TlsError, TlsRoots},
};
use crate::socketpipe::{
    client::{ConnectError, Connector},
    session::{Mode, PathKind},
    wire::Wire,
};

/// Characters of a server's own explanation that are shown.
const MAX_EXPLANATION: usize = 200;

/// A URL no session can be opened at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketUrlError {
    /// Not `ws://` or `wss://` with a host.
    #[error("`{0}` is no WebSocket URL: expected wss://host/pty or ws://localhost/pty")]
    Form(String),
    /// A terminal over plain HTTP.
    #[error("a terminal over ws:// could be read and changed by anybody on the way: use wss://")]
    Plain,
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Connects to one URL again and again.
#[derive(Clone, Debug)]
pub struct WebSocketConnector {
    target: Arc<Target>,
}

#[derive(Debug)]
struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    /// Whether the subprotocol is offered; not again to a server that does not know it.
    offer: AtomicBool,
}

impl WebSocketConnector {
    /// Sessions of this mode at this URL; its last path element is made to fit the mode if it is of the other one.
    ///
    /// # Errors
    ///
    /// If it is no such URL, or would carry a terminal in the clear.
    pub fn new(url: &str, mode: Mode, roots: &TlsRoots) -> Result<Self, WebSocketUrlError> {
        let wrong = || WebSocketUrlError::Form(url.to_owned());
        let fitting = fit(url, mode);
        let uri = Uri::from_str(&fitting).map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?.to_owned();
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if !tls && mode == Mode::Pty && !is_loopback(&bare) {
            return Err(WebSocketUrlError::Plain);
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let tls = tls.then(|| roots.config()).transpose()?;
        Ok(Self {
            target: Arc::new(Target {
                uri,
                host: bare,
                port,
                tls,
                offer: AtomicBool::new(true),
            }),
        })
    }
}

/// `/pty` and `/tunnel` of one server differ in the last element only.
fn fit(url: &str, mode: Mode) -> String {
    let (wished, other) = match mode {
        Mode::Pty => ("/pty", "/tunnel"),
        Mode::Tunnel => ("/tunnel", "/pty"),
    };
    match url.strip_suffix(other) {
        Some(base) => format!("{base}{wished}"),
        None => url.to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || IpAddr::from_str(host).is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl Connector for WebSocketConnector {
    fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>> {
        Box::pin(self.target.clone().connect())
    }
}

impl Target {
    async fn connect(self: Arc<Self>) -> Result<Wire, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| {
            ConnectError::new(format!("{}:{}: {error}", self.host, self.port))
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let Some(tls) = &self.tls else {
            return self.upgrade(stream).await;
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| ConnectError::fatal(error.to_string()))?;
        let stream = TlsConnector::from(tls.clone())
            .connect(name, stream)
            .await
            .map_err(|error| failed(&error))?;
        self.upgrade(stream).await
    }

    async fn upgrade<S>(&self, stream: S) -> Result<Wire, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut request = self
            .uri
            .clone()
            .into_client_request()
            .map_err(|error| ConnectError::fatal(error.to_string()))?;
        if self.offer.load(Ordering::Relaxed) {
            request.headers_mut().insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(SUBPROTOCOL),
            );
        }
        match client_async_with_config(request, stream, Some(messages::config())).await {
            Ok((socket, _)) => {
                let wire = Wire::messages(PathKind::WebSocket, Messages::new(socket));
                Ok(wire.with_label(format!("websocket {}:{}", self.host, self.port)))
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    fn explain(&self, error: Error) -> ConnectError {
        let no_subprotocol = SubProtocolError::NoSubProtocol;
        match error {
            Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(error))
                if error == no_subprotocol =>
            {
                self.offer.store(false, Ordering::Relaxed);
                ConnectError::new("the server does not know the subprotocol")
            }
            Error::Http(answer) => {
                let status = answer.status();
                let text = answer.body().as_deref().unwrap_or_default();
                let text = explanation(text);
                let message = match text.is_empty() {
                    true => format!("the server answers {status}"),
                    false => format!("the server answers {status}: {text}"),
                };
                // Busy or restarting servers and gateways say so with these.
                let fatal = !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS;
                ConnectError { message, fatal }
            }
            other => ConnectError::new(format!("{}:{}: {other}", self.host, self.port)),
        }
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
