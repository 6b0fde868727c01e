//! The dialing side of a measurement: hands out nodes to dial from and keeps a connection
//! together with the node it belongs to.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use libp2p::{Multiaddr, Stream, identity::Keypair};

use crate::{
    Failure,
    node::{Dialed, Node, PROTOCOL, Setup},
    transports::Kind,
};

/// How long a dial may take unless a row says otherwise.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// How often [`Dialer::dial_many`] tries one dial again.
const ATTEMPTS: usize = 5;
/// How long each of those attempts may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where dials of one measurement start.
pub struct Dialer {
    kind: Kind,
    streams: bool,
    shared: Option<Arc<Node>>,
}

impl Dialer {
    /// A dialer for `kind`; `streams` says whether its connections will carry streams.
    pub async fn new(kind: Kind, streams: bool) -> Result<Self, Failure> {
        let mut dialer = Self {
            kind,
            streams,
            shared: None,
        };
        if !kind.needs_fresh_dialer() {
            dialer.shared = Some(dialer.fresh().await?);
        }
        Ok(dialer)
    }

    /// The node for the next dial: the shared one, or a fresh one where the transport needs it.
    pub async fn node(&self) -> Result<Arc<Node>, Failure> {
        match &self.shared {
            Some(node) => Ok(node.clone()),
            None => self.fresh().await,
        }
    }

    /// Starts a node with an identity of its own.
    pub async fn fresh(&self) -> Result<Arc<Node>, Failure> {
        let setup = Setup {
            kind: self.kind,
            keypair: Keypair::generate_ed25519(),
            listen: self.kind.dials_from_listener().then_some(0),
            streams: self.streams,
        };
        Ok(Arc::new(Node::start(setup).await?))
    }

    /// Dials `addr` from the node for the next dial.
    pub async fn dial(&self, addr: &Multiaddr) -> Result<Link, Failure> {
        Link::dial(self.node().await?, addr, DIAL_TIMEOUT).await
    }

    /// Opens `count` connections to `addr`, a few at a time. A dial that fails is tried again; the
    /// second value says how often that was needed.
    pub async fn dial_many(
        &self,
        addr: &Multiaddr,
        count: usize,
    ) -> Result<(Vec<Link>, usize), Failure> {
        let outcomes: Vec<(Link, usize)> = stream::iter((0..count).map(|_| self.persist(addr)))
            .buffer_unordered(self.kind.dials_at_a_time())
            .try_collect()
            .await?;
        let again = outcomes.iter().map(|(_, again)| again).sum();
        Ok((outcomes.into_iter().map(|(link, _)| link).collect(), again))
    }

    /// Dials until it works, and tells how many attempts failed.
    async fn persist(&self, addr: &Multiaddr) -> Result<(Link, usize), Failure> {
        let mut failed = 0;
        loop {
            match Link::dial(self.node().await?, addr, ATTEMPT_TIMEOUT).await {
                Ok(link) => return Ok((link, failed)),
                Err(error) if failed == ATTEMPTS => return Err(error),
                Err(_) => failed += 1,
            }
        }
    }
}

/// An open outgoing connection and its node.
pub struct Link {
    node: Arc<Node>,
    dialed: Dialed,
}

impl Link {
    /// Dials `addr` from `node`.
    pub async fn dial(
        node: Arc<Node>,
        addr: &Multiaddr,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let dialed = node.dial(addr, timeout).await?;
        Ok(Self { node, dialed })
    }

    /// How long the dial took.
    pub fn took(&self) -> Duration {
        self.dialed.took
    }

    /// Opens a stream of the measuring protocol.
    pub async fn open(&self) -> Result<Stream, Failure> {
        let mut control = self.node.control()?;
        Ok(control.open_stream(self.dialed.peer, PROTOCOL).await?)
    }

    /// Closes the connection and waits until the own swarm reports it closed.
    pub async fn close(self) -> Result<(), Failure> {
        self.node.close(self.dialed.id).await
    }
}
