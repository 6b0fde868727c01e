//! Opens WebSockets: TCP, TLS, the upgrade, each a step of its own, so that callers can tell how far it came.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, CertificateError, ClientConfig, pki_types::ServerName},
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
    /// RFC 6455 section 4.1: that is a failure, or its frames would be misread.
    #[error("the server uses an extension of WebSockets that it was not offered")]
    Extension,
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
    let connecting = TlsConnector::from(config).connect(name, stream);
    let stream = connecting.await.map_err(explain_tls)?;
    Ok(Box::new(stream))
}

/// A certificate that is not believed, in words of people who do not know rustls.
#[derive(Debug)]
struct CertificateProblem {
    sentence: String,
    source: rustls::Error,
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl StdError for CertificateProblem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

/// Says what is wrong with the certificate of the server, if that is it. Other errors stay as they are.
fn explain_tls(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(problem)) = inner else {
        return error;
    };
    let source = rustls::Error::InvalidCertificate(problem.clone());
    let sentence = match problem {
        // The second is what one gets whose issuer has the name of a trusted one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is signed by nobody who is trusted here".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; is the clock of this machine right?"
                .to_owned()
        }
        CertificateError::Revoked => "the server's certificate was revoked".to_owned(),
        CertificateError::NotValidForName => {
            "the server's certificate is for another name".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, .. } => {
            let expected = expected.to_str();
            format!("the server's certificate is for another name than {expected}")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not made for servers".to_owned()
        }
        CertificateError::Other(other)
            if matches!(
                other.0.downcast_ref(),
                Some(webpki::Error::CaUsedAsEndEntity)
            ) =>
        {
            "the server's certificate is made to sign others (CA:TRUE) and not for a server"
                .to_owned()
        }
        _ => format!("the server's certificate cannot be accepted ({source})"),
    };
    io::Error::new(error.kind(), CertificateProblem { sentence, source })
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
    match client_async_with_config(request, io, Some(messages::config(messages::MAX_MESSAGE))).await
    {
        Ok((_, answer))
            if answer
                .headers()
                .contains_key(header::SEC_WEBSOCKET_EXTENSIONS) =>
        {
            Err(UpgradeError::Extension)
        }
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::{
        super::tls::{ServerTls, TlsRoots},
        *,
    };

    /// What makes a certificate one that is refused.
    type Change = fn(&mut CertificateParams);

    /// What a client of `localhost` says that believes this certificate, or one that is made in the same way.
    async fn said_of(change: Change, is_believed: bool) -> io::Error {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            let made = params.self_signed(&key).unwrap();
            let paths = ["pem", "key"].map(|kind| folder.path().join(format!("{name}.{kind}")));
            std::fs::write(&paths[0], made.pem()).unwrap();
            std::fs::write(&paths[1], key.serialize_pem()).unwrap();
            paths
        };
        let ([certificate, key], [other, _]) = (make("own"), make("other"));
        let acceptor = ServerTls::from_files(&certificate, &key).unwrap();
        let acceptor = TlsAcceptor::from(acceptor.config);
        let root = if is_believed { certificate } else { other };
        let roots = TlsRoots::File(root).config().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let accepting = async {
            let (stream, _) = listener.accept().await.unwrap();
            drop(acceptor.accept(stream).await);
        };
        let name = ServerName::try_from("localhost").unwrap();
        let (secured, ()) = tokio::join!(secure(stream, roots, name), accepting);
        secured.err().expect("the certificate is refused")
    }

    #[tokio::test]
    async fn why_a_certificate_is_refused_is_told_in_a_sentence() {
        let cases: [(Change, bool, &str); 5] = [
            (|_| {}, false, "signed by nobody who is trusted here"),
            (
                |params| params.subject_alt_names.clear(),
                true,
                "for another name than localhost",
            ),
            (
                |params| params.not_after = date_time_ymd(2001, 1, 1),
                true,
                "has expired",
            ),
            (
                |params| params.not_before = date_time_ymd(2999, 1, 1),
                true,
                "not valid yet",
            ),
            (
                |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
                true,
                "made to sign others",
            ),
        ];
        for (change, is_believed, words) in cases {
            let error = said_of(change, is_believed).await;
            let said = error.to_string();
            assert!(said.contains(words), "{words}: {said}");
            let inner = error.get_ref().and_then(|inner| inner.source());
            assert!(
                inner.is_some_and(|inner| inner.is::<rustls::Error>()),
                "{said}"
            );
        }
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        let error = explain_tls(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn an_extension_that_was_not_offered_is_an_error() {
        use tokio_tungstenite::{
            accept_hdr_async,
            tungstenite::handshake::server::{Request, Response},
        };

        let (near, far) = tokio::io::duplex(4096);
        let compress = |_: &Request, mut answer: Response| {
            let name = HeaderValue::from_static("permessage-deflate");
            let headers = answer.headers_mut();
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, name);
            Ok(answer)
        };
        let uri = Uri::from_static("ws://localhost/pty");
        let asking = upgrade(Box::new(near), &uri, false);
        let (asked, _server) = futures::future::join(asking, accept_hdr_async(far, compress)).await;
        assert!(matches!(asked, Err(UpgradeError::Extension)));
    }
}
