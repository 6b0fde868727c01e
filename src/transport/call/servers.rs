//! The STUN and TURN servers of a call: names to addresses, and a flow to each TURN server.
//!
//! [`Servers::open`] is a task of the call; what it finds goes to the driver as it comes, so that nothing waits for a
//! server that does not answer. What is said to a server is the core's matter.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};

use super::{
    flow::{ByteStream, Flow},
    health::{Health, IceServerState, Owner},
    server::{IceServer, Kind},
    tls::Tls,
};
use crate::{
    proto::ice::{MAX_SERVERS, RelayServer, RelayTransport},
    transport::shared::{CallShared, Input},
};

/// How long a server may take from its name to an open flow: half of what a connection has to come up, so that the
/// end of the candidates is told in time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// The servers of a caller.
#[derive(Debug)]
pub(super) struct Servers {
    /// At most `MAX_SERVERS` of each kind.
    servers: Vec<IceServer>,
    owner: Owner,
    health: Health,
    tls: Arc<Tls>,
}

impl Servers {
    /// Those that can be used.
    pub(super) fn new(servers: &[IceServer], owner: Owner, health: Health, tls: Arc<Tls>) -> Self {
        let (turn, stun): (Vec<_>, Vec<_>) = servers.iter().cloned().partition(IceServer::is_turn);
        let (usable, useless): (Vec<_>, Vec<_>) =
            turn.into_iter().partition(IceServer::has_credentials);
        for server in useless {
            tracing::debug!(%server, "the TURN server is not used: it has no valid credentials");
        }
        let stun = stun.into_iter().take(MAX_SERVERS);
        Self {
            servers: stun.chain(usable.into_iter().take(MAX_SERVERS)).collect(),
            owner,
            health,
            tls,
        }
    }

    /// What came of asking the server with this number.
    pub(super) fn report(&self, number: usize, state: IceServerState) {
        if let Some(server) = self.servers.get(number) {
            self.health.report(server, self.owner, state);
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Finds all servers but those that are in use, and tells `call` of them.
    pub(super) async fn open(self: Arc<Self>, call: Arc<CallShared>, in_use: BTreeSet<usize>) {
        let missing = self
            .servers
            .iter()
            .enumerate()
            .filter(|(index, _)| !in_use.contains(index));
        join_all(missing.map(|(index, server)| self.open_one(&call, index, server))).await;
        call.push(Input::ServersKnown);
    }

    async fn open_one(&self, call: &CallShared, index: usize, server: &IceServer) {
        let opening = async {
            match server.kind {
                Kind::Stun => find_stun(call, index, server).await,
                Kind::TurnUdp | Kind::TurnTcp | Kind::TurnTls => {
                    let (address, flow) = self.open_turn(server).await?;
                    call.push(Input::Relay(index, relay_server(server, address), flow));
                    Ok(())
                }
            }
        };
        match timeout(PATIENCE, opening).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%server, %error, "the server cannot be used");
                self.report(index, IceServerState::Unreachable);
            }
            Err(_) => self.report(index, IceServerState::Silent),
        }
    }

    /// The first address of the server that a flow can be opened to.
    async fn open_turn(&self, server: &IceServer) -> io::Result<(SocketAddr, Flow)> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in resolve(server).await? {
            match self.open_flow(server, address).await {
                Ok(flow) => return Ok((address, flow)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open_flow(&self, server: &IceServer, address: SocketAddr) -> io::Result<Flow> {
        if server.kind == Kind::TurnUdp {
            let any: IpAddr = match address {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(address).await?;
            return Ok(Flow::Udp(socket));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let local_ip = stream.local_addr().ok().map(|address| address.ip());
        let stream: Box<dyn ByteStream> = match server.kind {
            Kind::TurnTls => self.tls.connect(stream, &server.host).await?,
            Kind::Stun | Kind::TurnUdp | Kind::TurnTcp => Box::new(stream),
        };
        Ok(Flow::Stream(stream, local_ip))
    }
}

/// One address of each family.
async fn find_stun(call: &CallShared, index: usize, server: &IceServer) -> io::Result<()> {
    let addresses = resolve(server).await?;
    for is_ipv4 in [true, false] {
        let mut fitting = addresses.iter();
        if let Some(&address) = fitting.find(|address| address.is_ipv4() == is_ipv4) {
            call.push(Input::Stun(index, address));
        }
    }
    Ok(())
}

/// In the order of the system's preference (RFC 6724).
async fn resolve(server: &IceServer) -> io::Result<Vec<SocketAddr>> {
    let found = lookup_host((server.host.as_str(), server.port)).await?;
    Ok(found.take(MAX_ADDRESSES).collect())
}

fn relay_server(server: &IceServer, address: SocketAddr) -> RelayServer {
    RelayServer {
        address,
        transport: match server.kind {
            Kind::TurnTcp | Kind::TurnTls => RelayTransport::Stream,
            Kind::Stun | Kind::TurnUdp => RelayTransport::Udp,
        },
        username: server.username.clone(),
        password: server.credential.clone(),
    }
}
