//! Decides what an HTTP request gets: the page, a WebSocket, or a sentence that says why not.

use std::{net::IpAddr, str::FromStr as _};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{self, AsHeaderName, HeaderValue},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{SUBPROTOCOL, listener::WebSocketConfig, page};
use crate::socketpipe::session::Mode;

/// What all answers are made of.
pub(super) type Answer = Response<Full<Bytes>>;

/// Where a TCP connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) address: IpAddr,
    /// Both ends are on this machine.
    pub(super) local: bool,
    pub(super) tls: bool,
}

/// What becomes of a request.
pub(super) enum Verdict {
    /// Just this.
    Answer(Answer),
    /// This, and then a WebSocket for a session.
    Upgrade {
        answer: Answer,
        mode: Mode,
        client: IpAddr,
    },
}

/// Why not.
struct Refusal(StatusCode, &'static str);

/// How a request reached us, proxies considered.
struct Path {
    client: IpAddr,
    /// Nobody between could read or change it.
    private: bool,
    /// It came by TLS, to us or to a proxy.
    tls: bool,
}

/// Looks at the head of a request.
pub(super) fn judge<B>(config: &WebSocketConfig, sender: Sender, request: &Request<B>) -> Verdict {
    match decide(config, sender, request) {
        Ok(verdict) => verdict,
        Err(Refusal(status, sentence)) => {
            tracing::debug!(from = %sender.address, %status, sentence, "request refused");
            Verdict::Answer(sentence_with(status, sentence))
        }
    }
}

fn decide<B>(
    config: &WebSocketConfig,
    sender: Sender,
    request: &Request<B>,
) -> Result<Verdict, Refusal> {
    let headers = request.headers();
    let path = path(config, sender, headers)?;
    check_host(config, sender, headers)?;
    let mode = match request.uri().path() {
        "/pty" => Mode::Pty,
        "/tunnel" => Mode::Tunnel,
        other => return find_page(config, &path, request.method(), other),
    };
    if request.method() != Method::GET {
        return Err(Refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is understood here",
        ));
    }
    if !path.private && mode == Mode::Pty {
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "terminals are offered over TLS only: use wss://",
        ));
    }
    check_origin(config, path.tls, headers)?;
    if !config.limiter.admit(path.client) {
        return Err(Refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "too many attempts from your address; wait a little",
        ));
    }
    Ok(Verdict::Upgrade {
        answer: upgrade(headers)?,
        mode,
        client: path.client,
    })
}

/// Believes forwarding headers of configured proxies only, and no request of a proxy nobody configured.
fn path(config: &WebSocketConfig, sender: Sender, headers: &HeaderMap) -> Result<Path, Refusal> {
    if config.proxies.contains(&sender.address.to_canonical()) {
        // What clients send themselves comes before what the proxy adds.
        let client =
            last_of(headers, "x-forwarded-for").and_then(|text| IpAddr::from_str(text).ok());
        let proto = last_of(headers, "x-forwarded-proto");
        let https = proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        return Ok(Path {
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
    Ok(Path {
        client: sender.address,
        private: sender.tls || sender.local,
        tls: sender.tls,
    })
}

fn last_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?;
    let last = value.to_str().ok()?.rsplit(',').next()?;
    Some(last.trim())
}

/// On loopback the name must be one of this machine: otherwise a page of a name that was made to lead here (DNS
/// rebinding) would be of the same origin.
fn check_host(
    config: &WebSocketConfig,
    sender: Sender,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if !sender.local || sender.tls || config.proxies.contains(&sender.address.to_canonical()) {
        return Ok(());
    }
    let host = text(headers, header::HOST).unwrap_or_default();
    let listed = config
        .hosts
        .iter()
        .any(|name| name.eq_ignore_ascii_case(name_of(host)));
    match listed || is_loopback_name(name_of(host)) {
        true => Ok(()),
        false => Err(Refusal(
            StatusCode::MISDIRECTED_REQUEST,
            "this server is reached as localhost, 127.0.0.1 or [::1] only",
        )),
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback_name(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let lower = bare.to_ascii_lowercase();
    lower == "localhost"
        || lower.ends_with(".localhost")
        || IpAddr::from_str(bare).is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Pages of other origins may not open sessions with the powers of who looks at them. Programs send no origin. Behind
/// TLS the page must have come by TLS, too: others could have changed it.
fn check_origin(config: &WebSocketConfig, tls: bool, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = text(headers, header::HOST).unwrap_or_default();
    let schemes = if tls {
        &["https"][..]
    } else {
        &["http", "https"]
    };
    let is_own = |origin: &str| {
        origin.split_once("://").is_some_and(|(scheme, authority)| {
            schemes
                .iter()
                .any(|known| scheme.eq_ignore_ascii_case(known))
                && !authority.is_empty()
                && authority.eq_ignore_ascii_case(host)
        })
    };
    let is_listed = |origin: &str| {
        config.origins.iter().any(|listed| {
            let listed = listed.trim_end_matches('/');
            !listed.is_empty() && listed.eq_ignore_ascii_case(origin)
        })
    };
    let all = headers.get_all(header::ORIGIN).iter();
    let mut origins = all.map(|origin| origin.to_str().unwrap_or_default());
    match origins.all(|origin| is_own(origin) || is_listed(origin)) {
        true => Ok(()),
        false => Err(Refusal(
            StatusCode::FORBIDDEN,
            "pages of this origin may not connect to this server",
        )),
    }
}

/// The answer that begins a WebSocket (RFC 6455 section 4.2). No extension is accepted, so nothing is compressed.
fn upgrade(headers: &HeaderMap) -> Result<Answer, Refusal> {
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

fn find_page(
    config: &WebSocketConfig,
    path: &Path,
    method: &Method,
    name: &str,
) -> Result<Verdict, Refusal> {
    let missing = Refusal(StatusCode::NOT_FOUND, "there is nothing here");
    if !config.page {
        return Err(missing);
    }
    if !path.private {
        // Whoever can change the page on its way can read the invitation it opens.
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "the page is offered over TLS only: use https://",
        ));
    }
    if method != Method::GET && method != Method::HEAD {
        return Err(Refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is understood here",
        ));
    }
    page::find(name).map(Verdict::Answer).ok_or(missing)
}

fn text<K: AsHeaderName>(headers: &HeaderMap, name: K) -> Option<&str> {
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

/// An answer for people.
fn sentence_with(status: StatusCode, sentence: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(sentence.as_bytes())));
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
