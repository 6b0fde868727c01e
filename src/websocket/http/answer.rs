//! Heads of HTTP requests: where one comes from, and the answer that makes a WebSocket of it or says why not.

use std::{net::IpAddr, str::FromStr as _};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{self, AsHeaderName, HeaderValue},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::SUBPROTOCOL;

/// What all answers are made of.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Why a request gets nothing else: a status, and a sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) &'static str);

impl Refusal {
    /// As the answer to this sender.
    pub(crate) fn answer_to(self, sender: Sender) -> Answer {
        tracing::debug!(from = %sender.address, refusal = ?self, "request refused");
        self.into()
    }
}

/// Where a TCP connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) address: IpAddr,
    /// Both ends are on this machine.
    pub(crate) local: bool,
    pub(crate) tls: bool,
}

/// How a request reached us, proxies considered.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "socketpipe"),
    expect(dead_code, reason = "only sessions ask who could read along")
)]
pub(crate) struct Path {
    pub(crate) client: IpAddr,
    /// Nobody between could read or change it.
    pub(crate) private: bool,
    /// It came by TLS, to us or to a proxy.
    pub(crate) tls: bool,
}

impl Path {
    /// Believes forwarding headers of configured proxies only, and no request of a proxy nobody configured.
    pub(crate) fn of(
        proxies: &[IpAddr],
        sender: Sender,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        if proxies.contains(&sender.address.to_canonical()) {
            // What clients send themselves comes before what the proxy adds.
            let client =
                last_of(headers, "x-forwarded-for").and_then(|text| IpAddr::from_str(text).ok());
            let proto = last_of(headers, "x-forwarded-proto");
            let https = proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
            return Ok(Self {
                client: client.unwrap_or(sender.address),
                private: https,
                tls: https || sender.tls,
            });
        }
        let forwarded = ["forwarded", "x-forwarded-for", "x-forwarded-proto"];
        if sender.local && !sender.tls && forwarded.iter().any(|name| headers.contains_key(*name)) {
            return Err(Refusal(
                StatusCode::FORBIDDEN,
                "this request came through a proxy this server is not told to trust",
            ));
        }
        Ok(Self {
            client: sender.address,
            private: sender.tls || sender.local,
            tls: sender.tls,
        })
    }
}

fn last_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?;
    let last = value.to_str().ok()?.rsplit(',').next()?;
    Some(last.trim())
}

/// WebSockets begin with GET.
pub(crate) fn only_get(method: &Method) -> Result<(), Refusal> {
    match method {
        &Method::GET => Ok(()),
        _ => Err(Refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is understood here",
        )),
    }
}

/// What an address that tries too often is told.
pub(crate) const TOO_OFTEN: Refusal = Refusal(
    StatusCode::TOO_MANY_REQUESTS,
    "too many attempts from your address; wait a little",
);

/// What is not there.
pub(crate) const NOTHING_HERE: Refusal = Refusal(StatusCode::NOT_FOUND, "there is nothing here");

/// The answer that begins a WebSocket (RFC 6455 section 4.2). No extension is accepted, so nothing is compressed.
pub(crate) fn upgrade(headers: &HeaderMap) -> Result<Answer, Refusal> {
    let asked = has_word(headers, header::CONNECTION, "upgrade")
        && has_word(headers, header::UPGRADE, "websocket");
    let version = text(headers, header::SEC_WEBSOCKET_VERSION);
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let (true, Some("13"), Some(key)) = (asked, version, key) else {
        return Err(Refusal(
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket endpoint: open it with a SocketPipe client",
        ));
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "the key of the WebSocket is wrong"))?;
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if has_word(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        let selected = HeaderValue::from_static(SUBPROTOCOL);
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, selected);
    }
    Ok(answer)
}

/// The one value of a field, as text.
pub(crate) fn text<K: AsHeaderName>(headers: &HeaderMap, name: K) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a list of words has this one.
fn has_word<K: AsHeaderName>(headers: &HeaderMap, name: K, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(word))
}

impl From<Refusal> for Answer {
    fn from(Refusal(status, sentence): Refusal) -> Self {
        let mut answer = Self::new(Full::new(Bytes::from_static(sentence.as_bytes())));
        *answer.status_mut() = status;
        let fields = answer.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        fields.insert(header::CONTENT_TYPE, plain);
        fields.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                fields.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            StatusCode::UNAUTHORIZED => {
                fields.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::UPGRADE_REQUIRED => {
                fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                fields.insert(
                    header::SEC_WEBSOCKET_VERSION,
                    HeaderValue::from_static("13"),
                );
            }
            _ => {}
        }
        answer
    }
}
