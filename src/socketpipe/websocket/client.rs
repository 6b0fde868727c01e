//! The client's side: WebSockets to one URL.

use std::{
    net::IpAddr,
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};

use super::{TlsError, TlsRoots, ice};
use crate::{
    IceServer,
    socketpipe::{
        client::{ConnectError, Connector},
        session::{Mode, PathKind},
        upgrade::IceServers,
        wire::Wire,
    },
    websocket::http::{
        client::{self, UpgradeError},
        messages::Io,
    },
};

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
    /// Sessions of this mode at this URL; its last path element is made to fit the mode if it is of the other one, or if there
    /// is none, as in the URL of the server's page.
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

impl WebSocketConnector {
    /// The STUN and TURN servers that this server names for the session that was opened with this token, asked for at
    /// each call (`/ice` beside the WebSocket). None where nobody on the way could be kept from reading the token.
    pub fn ice_servers(&self, token: Bytes) -> impl IceServers + use<> {
        let target = self.target.clone();
        AskedServers { target, token }
    }
}

struct AskedServers {
    target: Arc<Target>,
    token: Bytes,
}

impl IceServers for AskedServers {
    fn servers(&self) -> BoxFuture<'static, Result<Vec<IceServer>, String>> {
        let (target, token) = (self.target.clone(), self.token.clone());
        Box::pin(async move { target.ask_for_servers(&token).await })
    }
}

/// `/pty` and `/tunnel` of one server differ in the last element only, and that of its page has none.
fn fit(url: &str, mode: Mode) -> String {
    let (wished, other) = match mode {
        Mode::Pty => ("/pty", "/tunnel"),
        Mode::Tunnel => ("/tunnel", "/pty"),
    };
    match url.strip_suffix(other) {
        Some(base) => format!("{base}{wished}"),
        None if !has_element(url) => format!("{}{wished}", url.trim_end_matches('/')),
        None => url.to_owned(),
    }
}

/// Whether something follows the last slash of the path; a host alone has no path.
fn has_element(url: &str) -> bool {
    let is_page = |uri: Uri| uri.query().is_none() && uri.path().ends_with('/');
    !Uri::from_str(url).is_ok_and(is_page)
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

/// A connection to the server.
enum Line {
    /// To a process of this machine, if `local`.
    Plain {
        stream: TcpStream,
        local: bool,
    },
    Tls(Io),
}

impl Target {
    async fn connect(self: Arc<Self>) -> Result<Wire, ConnectError> {
        match self.dial().await? {
            Line::Plain { stream, local } => {
                let wire = self.upgrade(Box::new(stream)).await?;
                Ok(if local { wire.private() } else { wire })
            }
            Line::Tls(stream) => Ok(self.upgrade(stream).await?.private()),
        }
    }

    async fn dial(&self) -> Result<Line, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| {
            ConnectError::new(format!("{}:{}: {error}", self.host, self.port))
        };
        let stream = client::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| failed(&error))?;
        let Some(tls) = &self.tls else {
            let remote = stream.peer_addr().map_err(|error| failed(&error))?;
            let local = remote.ip().to_canonical().is_loopback();
            return Ok(Line::Plain { stream, local });
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| ConnectError::fatal(error.to_string()))?;
        let stream = client::secure(stream, tls.clone(), name)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Line::Tls(stream))
    }

    async fn ask_for_servers(&self, token: &[u8]) -> Result<Vec<IceServer>, String> {
        let host = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        // Beside `/pty` and `/tunnel`, wherever these are.
        let (folder, _) = self.uri.path().rsplit_once('/').unwrap_or_default();
        let path = format!("{folder}/ice");
        match self.dial().await.map_err(|error| error.message)? {
            Line::Plain { local: false, .. } => Err("the token is shown over TLS only".to_owned()),
            Line::Plain { stream, .. } => ice::ask(stream, host, &path, token).await,
            Line::Tls(stream) => ice::ask(stream, host, &path, token).await,
        }
    }

    async fn upgrade(&self, io: Io) -> Result<Wire, ConnectError> {
        let offer = self.offer.load(Ordering::Relaxed);
        match client::upgrade(io, &self.uri, offer).await {
            Ok(socket) => {
                let wire = Wire::messages(PathKind::WebSocket, socket);
                Ok(wire.with_label(format!("websocket {}:{}", self.host, self.port)))
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    /// There is a server, and no session at this path.
    fn hint(&self) -> String {
        let path = self.uri.path();
        format!("is {path} the right path? Terminals are at /pty, tunnels at /tunnel")
    }

    fn explain(&self, error: UpgradeError) -> ConnectError {
        match error {
            UpgradeError::NoSubprotocol => {
                self.offer.store(false, Ordering::Relaxed);
                ConnectError::new(error.to_string())
            }
            UpgradeError::Status { status, .. } => {
                // Busy or restarting servers and gateways say so with these.
                let fatal = !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS;
                let error = match status == StatusCode::NOT_FOUND || status.is_success() {
                    true => format!("{error} ({})", self.hint()),
                    false => error.to_string(),
                };
                match fatal {
                    true => ConnectError::fatal(error),
                    false => ConnectError::new(error),
                }
            }
            UpgradeError::Extension => ConnectError::fatal(error.to_string()),
            UpgradeError::WebSocket(other) => {
                ConnectError::new(format!("{}:{}: {other}", self.host, self.port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_the_path_of_its_mode() {
        for (url, pty) in [
            ("wss://example.com", "wss://example.com/pty"),
            ("wss://example.com/", "wss://example.com/pty"),
            ("wss://example.com/there/", "wss://example.com/there/pty"),
            ("wss://example.com/pty", "wss://example.com/pty"),
            ("wss://example.com/tunnel", "wss://example.com/pty"),
            // Whoever writes more knows better.
            ("wss://example.com/there", "wss://example.com/there"),
            ("wss://example.com/?a=b", "wss://example.com/?a=b"),
        ] {
            assert_eq!(fit(url, Mode::Pty), pty);
        }
        let tunnel = fit("wss://example.com/there/", Mode::Tunnel);
        assert_eq!(tunnel, "wss://example.com/there/tunnel");
    }
}
