//! One listener: the addresses it announces, the WebSockets that arrive, until the peer can be asked who it is.
//!
//! Owned by the transport as a stream of events. Its WebSockets come from an HTTP server of its own, or from an
//! [`Acceptor`]. A connection is reported when its first lane can ask for the peer's identity, as WebRTC Direct reports
//! its own after DTLS: what never comes so far costs the swarm nothing.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::Stream;
use hyper::{Request, body::Incoming};
use libp2p_core::transport::{ListenerId, TransportEvent};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::{
    PATH,
    acceptor::{Acceptor, Arrival},
    addr::{ListenAddr, remote_addr},
    error::Error,
    http::{
        answer::{Answer, NOTHING_HERE, Path, Refusal, TOO_OFTEN},
        server::{Client, Place, Room},
        tls::ServerTls,
    },
    lanes::Lanes,
    setup::{Connecting, Setup},
    transport::{Common, now},
    turns::Turns,
};
use crate::{proto::Side, transport::interfaces::Interfaces};

/// Connections that the system may hold before they are accepted.
const BACKLOG: i32 = 1024;

/// An event for the swarm.
pub(crate) type Event = TransportEvent<Connecting, Error>;

/// See the module's documentation.
pub(crate) struct Listener {
    id: ListenerId,
    common: Arc<Common>,
    addr: ListenAddr,
    interfaces: Interfaces,
    arrivals: mpsc::Receiver<Arrival>,
    /// Connections nobody can be asked on yet. Each has its place among those of its server.
    setups: Turns<Beginning>,
    /// Accepts TCP connections, if that is not somebody else's business.
    server: Option<JoinHandle<()>>,
    /// Events to report before anything else.
    events: VecDeque<Event>,
    is_closed: bool,
    /// Wakes the task that polls us when `close` is called from elsewhere.
    waker: Option<Waker>,
}

impl Listener {
    /// Binds `addr` and serves HTTP there, for this transport alone.
    ///
    /// # Errors
    /// When the system refuses the address or the list of interfaces, or there is no certificate for TLS.
    pub(crate) fn bind(
        id: ListenerId,
        addr: ListenAddr,
        common: Arc<Common>,
    ) -> Result<Self, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::NoRuntime);
        }
        let tls = match (addr.tls, &common.config.tls) {
            (true, None) => return Err(Error::NoCertificate),
            (true, Some(tls)) => Some(tls.clone()),
            (false, _) => None,
        };
        let listener = bind(addr.socket)?;
        let addr = ListenAddr {
            socket: listener.local_addr()?,
            ..addr
        };
        let acceptor = Acceptor::new(common.config.limits.max_message);
        let server = serve(listener, common.clone(), acceptor.clone(), tls);
        let mut this = Self::on(id, addr, &acceptor, common)?;
        this.server = Some(tokio::spawn(server));
        Ok(this)
    }

    /// Takes the WebSockets of another server, which listens on `addr`.
    ///
    /// # Errors
    /// When the system refuses the list of interfaces.
    pub(crate) fn on(
        id: ListenerId,
        addr: ListenAddr,
        acceptor: &Acceptor,
        common: Arc<Common>,
    ) -> Result<Self, Error> {
        Ok(Self {
            id,
            common,
            addr,
            interfaces: Interfaces::new(id, addr.socket)?,
            arrivals: acceptor.open(),
            setups: Turns::new(),
            server: None,
            events: VecDeque::new(),
            is_closed: false,
            waker: None,
        })
    }

    /// The listener's name.
    pub(crate) fn id(&self) -> ListenerId {
        self.id
    }

    /// Stops accepting, expires all addresses and ends the stream. Connections that were reported live on. False if that
    /// was done before.
    pub(crate) fn close(&mut self) -> bool {
        if std::mem::replace(&mut self.is_closed, true) {
            return false;
        }
        self.stop();
        let addr = self.addr;
        let end = self.interfaces.close(Ok(()), |ip| addr.at(ip));
        self.events.extend(end);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }

    fn stop(&mut self) {
        // Not the acceptor: another listener may have it by now.
        self.arrivals.close();
        self.setups = Turns::new();
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }

    /// Queues what has changed on the interfaces.
    fn poll_interfaces(&mut self, cx: &mut Context<'_>) {
        let addr = self.addr;
        while let Poll::Ready(event) = self.interfaces.poll(cx, |ip| addr.at(ip)) {
            self.events.push_back(event);
        }
    }

    fn begin(&mut self, arrival: Arrival) {
        let Arrival {
            socket,
            remote,
            place,
        } = arrival;
        let address = remote_addr(remote, self.addr.tls);
        let report = self.common.report(address);
        let (common, role) = (self.common.clone(), Side::Listener);
        let deadline = now() + common.config.limits.handshake_timeout;
        let lanes =
            Lanes::new(common, role, socket, None, report, Some(place)).called_from(remote.ip());
        self.setups.push(Beginning {
            setup: Some(Setup::new(lanes, deadline)),
            remote,
        });
    }

    fn incoming(&self, setup: Setup, remote: SocketAddr) -> Event {
        TransportEvent::Incoming {
            listener_id: self.id,
            upgrade: Connecting(setup),
            local_addr: self.addr.at(self.addr.socket.ip()),
            send_back_addr: remote_addr(remote, self.addr.tls),
        }
    }
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.poll_interfaces(cx);
        if let Some(event) = this.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if this.is_closed {
            return Poll::Ready(None);
        }
        while let Poll::Ready(Some(arrival)) = this.arrivals.poll_recv(cx) {
            this.begin(arrival);
        }
        this.setups.begin_turn();
        while let Poll::Ready(begun) = this.setups.poll_next(cx) {
            match begun {
                (Ok(setup), remote) => return Poll::Ready(Some(this.incoming(setup, remote))),
                (Err(error), remote) => {
                    tracing::debug!(%remote, %error, "a WebSocket came to nothing");
                }
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A set-up until the peer can be asked who it is.
struct Beginning {
    /// Taken when that is so.
    setup: Option<Setup>,
    remote: SocketAddr,
}

impl Future for Beginning {
    type Output = (Result<Setup, Error>, SocketAddr);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let remote = self.remote;
        let setup = self.setup.as_mut();
        let setup = setup.expect("a future is not polled after it was ready");
        setup.poll_begun(cx).map(|begun| {
            let setup = self.setup.take().expect("it was there just now");
            (begun.map(|()| setup), remote)
        })
    }
}

/// Binds without blocking, so that it can be done at once; IPv6 sockets take no IPv4, as those of the other transports.
fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// An HTTP server that has nothing but this transport's WebSockets.
fn serve(
    listener: TcpListener,
    common: Arc<Common>,
    acceptor: Acceptor,
    tls: Option<ServerTls>,
) -> impl Future<Output = ()> {
    let room = Room::new(common.config.limits.max_connections, &common.config.proxies);
    room.serve(listener, tls, move |client, mut request, place| {
        decide(&common, &acceptor, client, &mut request, place)
            .unwrap_or_else(|refusal| refusal.answer_to(client.sender))
    })
}

/// Pages of any origin may connect: they come with their own identity, and get what any peer gets.
fn decide(
    common: &Common,
    acceptor: &Acceptor,
    client: Client,
    request: &mut Request<Incoming>,
    place: Arc<Place>,
) -> Result<Answer, Refusal> {
    let config = &common.config;
    let path = Path::of(&config.proxies, client.sender, request.headers())?;
    if request.uri().path() != PATH {
        return Err(NOTHING_HERE);
    }
    if !config.limiter.admit(path.client) {
        return Err(TOO_OFTEN);
    }
    acceptor.answer(request, path.client, client.port, place)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt as _;
    use libp2p_core::{Multiaddr, Transport as _};
    use libp2p_identity::Keypair;

    use super::*;
    use crate::websocket::{Config, Transport};

    #[tokio::test]
    async fn a_listener_that_goes_leaves_its_server_to_the_next_one() {
        let mut transport = Transport::new(Config::new(&Keypair::generate_ed25519()));
        let acceptor = transport.acceptor("127.0.0.1:1".parse().unwrap(), false);
        let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1/ws/webrtc".parse().unwrap();
        let [old, new] = [(); 2].map(|()| ListenerId::next());
        transport.listen_on(old, addr.clone()).unwrap();
        assert!(acceptor.is_open());
        assert!(transport.remove_listener(old));
        assert!(!acceptor.is_open(), "nobody listens any more");
        transport.listen_on(new, addr).unwrap();
        // The old one is dropped when its end was told.
        let mut has_ended = false;
        while let Some(event) = poll_fn(|cx| Pin::new(&mut transport).poll(cx)).now_or_never() {
            has_ended |= matches!(
                event,
                TransportEvent::ListenerClosed { listener_id, .. } if listener_id == old
            );
        }
        assert!(has_ended && acceptor.is_open());
    }
}
