//! Which STUN and TURN servers a session uses: `POST /ice` beside the page, both sides.
//!
//! No frame tells a client of servers, so it asks for them, with the token its session was opened with. Credentials are
//! made for each session as TURN servers with a shared secret take them (coturn: `use-auth-secret`): the user name is
//! the time they end and a random label of the session, the password the HMAC-SHA1 of that under the secret. The secret
//! itself stays here, and nobody learns from a label who it is. [`TurnServers`] has secret and addresses; who may ask is
//! decided in `request`, whose token it is by the server.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use data_encoding::BASE64;
use futures::future::BoxFuture;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    IceServer, IceServerError,
    socketpipe::{IceServers, server::wall_clock},
};

/// How long credentials are good to begin with; what began by then goes on.
const LIFETIME: Duration = Duration::from_secs(600);
/// Servers of one list.
const MAX_SERVERS: usize = 8;
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 16 * 1024;

/// STUN and TURN servers for the sessions of a server.
#[derive(Clone)]
pub struct TurnServers {
    /// As they are written.
    stun: Arc<[String]>,
    turn: Arc<[String]>,
    secret: Arc<[u8]>,
}

impl fmt::Debug for TurnServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnServers")
            .field("stun", &self.stun)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

/// Why such a list of servers cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnServersError {
    /// This is no address of a STUN or TURN server.
    #[error("`{0}` names no STUN or TURN server")]
    Url(String, #[source] IceServerError),
    /// There is a TURN server and no secret to make credentials with.
    #[error("credentials for `{0}` need the secret that it knows")]
    NoSecret(String),
    /// More than eight.
    #[error("there are more than {MAX_SERVERS} servers")]
    TooMany,
}

impl TurnServers {
    /// Servers as `stun:host:port`, `turn:host:port?transport=udp`, `turns:host:port`, eight at most, and the secret the
    /// TURN servers know.
    ///
    /// # Errors
    ///
    /// If one of them is none, or if there is a TURN server and the secret is empty.
    pub fn new(urls: &[String], secret: &[u8]) -> Result<Self, TurnServersError> {
        if urls.len() > MAX_SERVERS {
            return Err(TurnServersError::TooMany);
        }
        let (mut stun, mut turn) = (Vec::new(), Vec::new());
        for url in urls {
            let server: IceServer = url
                .parse()
                .map_err(|error| TurnServersError::Url(url.clone(), error))?;
            match server.is_turn() {
                true if secret.is_empty() => return Err(TurnServersError::NoSecret(url.clone())),
                true => turn.push(url.clone()),
                false => stun.push(url.clone()),
            }
        }
        Ok(Self {
            stun: stun.into(),
            turn: turn.into(),
            secret: secret.into(),
        })
    }

    /// The STUN servers among them.
    #[must_use]
    pub fn without_turn(mut self) -> Self {
        self.turn = Arc::default();
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.stun.is_empty() && self.turn.is_empty()
    }

    /// All of them, with credentials that are made now and for one connection.
    pub fn fresh(&self) -> Vec<IceServer> {
        let label = format!("{:016x}", rand::random::<u64>());
        self.list(&label, wall_clock()).into_servers()
    }

    /// User name and password of the session with this label.
    fn credentials(&self, label: &str, now: SystemTime) -> (String, String) {
        let end = now + LIFETIME;
        let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let username = format!("{seconds}:{label}");
        let mut mac =
            Hmac::<Sha1>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(username.as_bytes());
        let password = BASE64.encode(&mac.finalize().into_bytes());
        (username, password)
    }

    /// As browsers take it.
    fn list(&self, label: &str, now: SystemTime) -> Answer {
        let mut servers = Vec::new();
        if !self.stun.is_empty() {
            servers.push(Server {
                urls: Urls::Many(self.stun.to_vec()),
                username: None,
                credential: None,
            });
        }
        if !self.turn.is_empty() {
            let (username, credential) = self.credentials(label, now);
            servers.push(Server {
                urls: Urls::Many(self.turn.to_vec()),
                username: Some(username),
                credential: Some(credential),
            });
        }
        Answer {
            ice_servers: servers,
            expires_in: LIFETIME.as_secs(),
        }
    }

    /// The answer to a client whose session has this label.
    pub(super) fn answer(&self, label: &str) -> Response<Full<Bytes>> {
        let list = self.list(label, wall_clock());
        let text = serde_json::to_vec(&list).expect("strings and numbers can always be written");
        let mut response = Response::new(Full::new(text.into()));
        let fields = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, "application/json"),
            // There are credentials in it.
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What the server itself uses; each connection has a label of its own.
impl IceServers for TurnServers {
    fn servers(&self) -> BoxFuture<'static, Result<Vec<IceServer>, String>> {
        Box::pin(std::future::ready(Ok(self.fresh())))
    }
}

/// The answer to `POST /ice`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    #[serde(rename = "iceServers", default)]
    ice_servers: Vec<Server>,
    /// Seconds until credentials can no longer be used to begin with.
    #[serde(default)]
    expires_in: u64,
}

/// As `RTCIceServer` of browsers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Server {
    urls: Urls,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

/// Both are allowed there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Urls {
    One(String),
    Many(Vec<String>),
}

impl Answer {
    /// Those that can be used; what this version does not know is left out.
    fn into_servers(self) -> Vec<IceServer> {
        let servers = self.ice_servers.into_iter().flat_map(|server| {
            let urls = match server.urls {
                Urls::One(url) => vec![url],
                Urls::Many(urls) => urls,
            };
            let (username, credential) = (server.username, server.credential);
            urls.into_iter().filter_map(move |url| {
                let known: IceServer = url.parse().ok()?;
                let username = username.clone().unwrap_or_default();
                let credential = credential.clone().unwrap_or_default();
                Some(known.with_credentials(username, credential))
            })
        });
        servers.take(MAX_SERVERS).collect()
    }
}

/// Asks a server on a stream to it. One that names none has none.
pub(super) async fn ask<S>(
    stream: S,
    host: &str,
    path: &str,
    token: &[u8],
) -> Result<Vec<IceServer>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let bearer = [b"Bearer ", token].concat();
    let mut bearer = HeaderValue::from_bytes(&bearer)
        .map_err(|_| "the token cannot be written in a header".to_owned())?;
    bearer.set_sensitive(true);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, host)
        .header(header::AUTHORIZATION, bearer)
        .header(header::CONTENT_LENGTH, 0)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let talk = async move {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Vec::new()),
            status => return Err(format!("the server answers {status}")),
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(answer.into_servers())
    };
    tokio::pin!(talk, connection);
    // The end of the connection may come with the answer or behind it.
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> TurnServers {
        let urls = [
            "stun:stun.example.com:3478",
            "turn:turn.example.com:3478?transport=udp",
            "turns:turn.example.com:443",
        ];
        TurnServers::new(&urls.map(str::to_owned), b"north").unwrap()
    }

    #[test]
    fn credentials_are_those_of_turn_servers_with_a_shared_secret() {
        let now = UNIX_EPOCH + Duration::from_secs(1_433_895_318);
        let (username, password) = servers().credentials("ninefingers", now);
        assert_eq!(username, "1433895918:ninefingers");
        // printf 1433895918:ninefingers | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(password, "jy8hTxmOO7UtEKXqSkSlvakPVYA=");
    }

    #[test]
    fn the_answer_is_what_browsers_take_and_can_be_read_again() {
        let list = servers().list("label", UNIX_EPOCH);
        let text = serde_json::to_value(&list).unwrap();
        assert_eq!(text["expires_in"], 600);
        assert_eq!(
            text["iceServers"][0],
            serde_json::json!({ "urls": ["stun:stun.example.com:3478"] })
        );
        assert_eq!(text["iceServers"][1]["username"], "600:label");
        assert_eq!(
            text["iceServers"][1]["urls"][1],
            "turns:turn.example.com:443"
        );
        let read: Answer = serde_json::from_value(text).unwrap();
        assert_eq!(read, list);
        assert_eq!(read.into_servers().len(), 3);
    }

    #[test]
    fn answers_of_others_are_read_as_far_as_they_are_known() {
        let text = r#"{"iceServers":[{"urls":"stun:192.0.2.1"},{"urls":["quic:x","turn:192.0.2.2"],
            "username":"u","credential":"c","credentialType":"password"}]}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.into_servers().len(), 2);
        let many = vec![r#"{"urls":"stun:192.0.2.1"}"#; 100].join(",");
        let answer: Answer =
            serde_json::from_str(&format!(r#"{{"iceServers":[{many}]}}"#)).unwrap();
        assert_eq!(answer.into_servers().len(), MAX_SERVERS);
    }

    #[test]
    fn lists_that_cannot_work_are_refused() {
        let new = |url: &str, secret: &[u8]| TurnServers::new(&[url.to_owned()], secret);
        assert!(
            matches!(new("http://x", b"s"), Err(TurnServersError::Url(url, _)) if url == "http://x")
        );
        assert!(matches!(
            new("turn:192.0.2.1", b""),
            Err(TurnServersError::NoSecret(_))
        ));
        assert!(
            new("stun:192.0.2.1", b"")
                .unwrap()
                .without_turn()
                .turn
                .is_empty()
        );
        let many = vec!["stun:192.0.2.1".to_owned(); 9];
        assert!(matches!(
            TurnServers::new(&many, b""),
            Err(TurnServersError::TooMany)
        ));
        assert!(!format!("{:?}", servers()).contains("north"));
    }
}
