//! Decides what an HTTP request gets: the page, a WebSocket, or a sentence that says why not.

use std::{net::IpAddr, str::FromStr as _};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{self, HeaderValue},
};

use super::{listener::WebSocketConfig, page};
use crate::{
    socketpipe::session::Mode,
    websocket::{
        Acceptor, PATH,
        http::answer::{
            Answer, NOTHING_HERE, Path, Refusal, Sender, TOO_OFTEN, only_get, text, upgrade,
        },
    },
};

const NO_SESSION: Refusal = Refusal(
    StatusCode::UNAUTHORIZED,
    "this needs the token of a session that runs, as Authorization: Bearer",
);

/// What becomes of a request.
pub(super) enum Verdict {
    /// Just this.
    Answer(Answer),
    /// This, and then a WebSocket for a session.
    Upgrade {
        answer: Answer,
        mode: Mode,
        client: IpAddr,
        /// Nobody between can read or change what it carries.
        private: bool,
    },
    /// The servers for WebRTC, if this is the token of a session.
    Ice {
        token: Bytes,
        client: IpAddr,
        /// The page of another origin that may read the answer.
        origin: Option<HeaderValue>,
    },
    /// A WebSocket for libp2p, if it takes one.
    Libp2p { acceptor: Acceptor, client: IpAddr },
}

/// Looks at the head of a request.
pub(super) fn judge<B>(config: &WebSocketConfig, sender: Sender, request: &Request<B>) -> Verdict {
    match decide(config, sender, request) {
        Ok(verdict) => verdict,
        Err(refusal) => {
            tracing::debug!(from = %sender.address, ?refusal, "request refused");
            Verdict::Answer(refusal.into())
        }
    }
}

fn decide<B>(
    config: &WebSocketConfig,
    sender: Sender,
    request: &Request<B>,
) -> Result<Verdict, Refusal> {
    let headers = request.headers();
    let path = Path::of(&config.proxies, sender, headers)?;
    check_host(config, sender, headers)?;
    let mode = match request.uri().path() {
        "/pty" => Mode::Pty,
        "/tunnel" => Mode::Tunnel,
        "/ice" => return ask_for_servers(config, &path, request),
        PATH => return meet_peer(config, sender, &path, headers),
        other => return find_page(config, &path, request.method(), other),
    };
    only_get(request.method())?;
    if !path.private && mode == Mode::Pty {
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "terminals are offered over TLS only: use wss://",
        ));
    }
    check_origin(config, path.tls, headers)?;
    if !config.limiter.admit(path.client) {
        return Err(TOO_OFTEN);
    }
    Ok(Verdict::Upgrade {
        answer: upgrade(headers)?,
        mode,
        client: path.client,
        private: path.private,
    })
}

/// Whoever comes proves who it is and gets what any peer gets, so pages of all origins may. Not so on loopback: there a
/// page of the browser beside us would get where its own server does not.
fn meet_peer(
    config: &WebSocketConfig,
    sender: Sender,
    path: &Path,
    headers: &HeaderMap,
) -> Result<Verdict, Refusal> {
    let acceptor = config.libp2p.as_ref().ok_or(NOTHING_HERE)?;
    if sender.local && !config.proxies.contains(&sender.address.to_canonical()) {
        check_origin(config, path.tls, headers)?;
    }
    if !config.limiter.admit(path.client) {
        return Err(TOO_OFTEN);
    }
    Ok(Verdict::Libp2p {
        acceptor: acceptor.clone(),
        client: path.client,
    })
}

/// Credentials are for clients of sessions only, who prove it by their token, and for nobody on the way.
fn ask_for_servers<B>(
    config: &WebSocketConfig,
    path: &Path,
    request: &Request<B>,
) -> Result<Verdict, Refusal> {
    if config.ice.is_none() {
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            "this server names no STUN or TURN servers",
        ));
    }
    if !path.private {
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "credentials are given over TLS only: use https://",
        ));
    }
    let headers = request.headers();
    check_origin(config, path.tls, headers)?;
    let origin = headers.get(header::ORIGIN).cloned();
    if request.method() == Method::OPTIONS {
        return Ok(Verdict::Answer(preflight(origin)));
    }
    if request.method() != Method::POST {
        return Err(Refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "only POST is understood here",
        ));
    }
    if !config.limiter.admit(path.client) {
        return Err(TOO_OFTEN);
    }
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| bearer(value.as_bytes()))
        .ok_or(NO_SESSION)?;
    Ok(Verdict::Ice {
        token: Bytes::copy_from_slice(token),
        client: path.client,
        origin,
    })
}

/// The token of `Bearer <token>` (RFC 6750 section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

/// What browsers ask before a page of another origin may send a token.
fn preflight(origin: Option<HeaderValue>) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let fields = answer.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    allow_origin(&mut answer, origin);
    answer
}

/// Lets the page that asked, which was found to be one of ours, read the answer.
pub(super) fn allow_origin(answer: &mut Answer, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        let fields = answer.headers_mut();
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        fields.insert(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// The answer to a token of no session.
pub(super) fn no_session() -> Answer {
    NO_SESSION.into()
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

fn find_page(
    config: &WebSocketConfig,
    path: &Path,
    method: &Method,
    name: &str,
) -> Result<Verdict, Refusal> {
    if !config.page {
        return Err(NOTHING_HERE);
    }
    if !path.private {
        // Whoever can change the page on its way can read the invitation it opens.
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "the page is offered over TLS only: use https://",
        ));
    }
    if method != Method::HEAD {
        only_get(method)?;
    }
    page::find(name).map(Verdict::Answer).ok_or(NOTHING_HERE)
}
