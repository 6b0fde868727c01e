//! Outgoing connections: names, TCP, TLS and HTTP up to an open WebSocket, then the set-up.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{
    addr::{DialAddr, Host},
    connection::Connection,
    error::{Error, Phase},
    http::{client, messages::Socket},
    lanes::Lanes,
    setup::Setup,
    transport::{Common, now},
};
use crate::proto::Side;

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Pause before the next address is tried beside the last one (RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Dials, and proves identities.
pub(crate) async fn dial(
    common: Arc<Common>,
    address: Multiaddr,
    target: DialAddr,
) -> Result<(PeerId, Connection), Error> {
    let deadline = now() + common.config.limits.handshake_timeout;
    let socket = open(&common, &target, deadline).await?;
    let report = common.report(address);
    let lanes = Lanes::new(common, Side::Dialer, socket, target.peer, report, None);
    Setup::new(lanes, deadline).await
}

/// Opens the WebSocket.
async fn open(common: &Common, target: &DialAddr, deadline: Instant) -> Result<Socket, Error> {
    let stream = within(deadline, Phase::Tcp, connect(target)).await?;
    let io: client::Io = match target.tls {
        false => Box::new(stream),
        true => within(deadline, Phase::Tls, secure(common, target, stream)).await?,
    };
    // The parts of an address that was parsed make a URL.
    let uri = target
        .url()
        .parse()
        .map_err(|error| Error::WebSocket(Box::new(error)))?;
    let upgrade = async { Ok(client::upgrade(io, &uri, true).await?) };
    within(deadline, Phase::Http, upgrade).await
}

/// A step that must end in time.
async fn within<T>(
    deadline: Instant,
    phase: Phase,
    step: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout_at(deadline.into(), step).await {
        Ok(result) => result,
        Err(_) => Err(Error::TimedOut { phase }),
    }
}

async fn connect(target: &DialAddr) -> Result<TcpStream, Error> {
    let addresses = match &target.host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, target.port)],
        Host::Name(name, family) => {
            let found = tokio::net::lookup_host((name.as_str(), target.port));
            let found = found.await.map_err(Error::Resolve)?;
            found
                .filter(|address| family.has(address))
                .take(MAX_ADDRESSES)
                .collect()
        }
    };
    let first = first_of(&addresses).await;
    first.map_err(|error| match error {
        None => Error::Resolve(io::ErrorKind::NotFound.into()),
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Error::Refused,
        Some(error) => Error::Tcp(error),
    })
}

/// The first connection that is there: one attempt after the other, each a moment after the last one, or at once when
/// that has failed. The error of the last one otherwise.
async fn first_of(addresses: &[SocketAddr]) -> Result<TcpStream, Option<io::Error>> {
    let mut rest = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        match rest.next() {
            Some(address) => attempts.push(client::connect(*address)),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        let is_last = rest.len() == 0;
        let pause = pin!(async {
            match is_last {
                true => std::future::pending().await,
                false => tokio::time::sleep(NEXT_ADDRESS).await,
            }
        });
        match select(attempts.next(), pause).await {
            Either::Left((Some(Ok(stream)), _)) => return Ok(stream),
            Either::Left((Some(Err(error)), _)) => failure = Some(error),
            Either::Left((None, _)) | Either::Right(_) => {}
        }
    }
}

async fn secure(
    common: &Common,
    target: &DialAddr,
    stream: TcpStream,
) -> Result<client::Io, Error> {
    let config = common.roots().await?;
    let name = ServerName::try_from(target.server_name()).map_err(|_| Error::Name)?;
    client::secure(stream, config, name)
        .await
        .map_err(Error::Tls)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A port that answers no more, as if packets to it were lost: more connections wait there than may.
    fn silent() -> (Vec<socket2::Socket>, SocketAddr) {
        use socket2::{Domain, Socket, Type};

        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut held = vec![listener];
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let refused = socket.connect_timeout(&addr, Duration::from_millis(200));
            held.push(socket);
            if refused.is_err() {
                return (held, addr.as_socket().unwrap());
            }
        }
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_nothing_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = free.local_addr().unwrap();
        drop(free);
        let (_held, silent) = silent();
        for order in [[silent, refused, good], [refused, silent, good]] {
            let found = first_of(&order);
            let stream = tokio::time::timeout(Duration::from_secs(20), found).await;
            assert_eq!(stream.unwrap().unwrap().peer_addr().unwrap(), good);
        }
        let error = first_of(&[refused, refused]).await.unwrap_err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_of(&[]).await.unwrap_err().is_none());
    }
}
