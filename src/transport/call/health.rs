//! What has become of STUN and TURN servers: [`ServerReports`].
//!
//! The servers are in the configuration, so their owner has to hear when one of them is of no use: calls go on without it, and
//! nobody would notice. Each call that asks a server tells what came of it; what is reported here are changes, not calls.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::IceServer;

/// Servers of each owner that are remembered: more than anybody has. Those of peers are not without end.
const MAX_KNOWN: usize = 64;

/// What is told of a server stands for this time, unless it works again: one that has no room for all calls would otherwise
/// change with each, as fast as peers make them.
const STEADY: Duration = Duration::from_secs(60);

/// How a STUN or TURN server was when it was asked last. What it was found to be stands for a minute, unless it works again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum IceServerState {
    /// It does what it is for.
    Works,
    /// Its name has no address, or no connection to it can be opened: TCP or TLS is refused, or the way to it has ended.
    Unreachable,
    /// No answer came.
    Silent,
    /// It does not take the user name and password (STUN errors 401 and 441): for most servers, that the secret is wrong or
    /// the clocks differ.
    RefusesCredentials,
    /// It answers with another error code of STUN (RFC 8489 section 14.8) or TURN (RFC 8656 section 19), as 486: the user has
    /// as many allocations as there may be.
    Refuses(u16),
}

impl fmt::Display for IceServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Unreachable => f.write_str("cannot be reached"),
            Self::Silent => f.write_str("does not answer"),
            Self::RefusesCredentials => f.write_str("refuses the credentials"),
            Self::Refuses(code) => write!(f, "refuses (error {code})"),
        }
    }
}

/// What has become of one server.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct IceServerReport {
    /// The server as [`IceServer`] shows it, without credentials.
    pub server: String,
    /// How it was when it was asked last.
    pub state: IceServerState,
}

impl fmt::Display for IceServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.server, self.state)
    }
}

/// How each is, and since when. Peers may name a server of ours too, with other credentials: what they find is not what we
/// do.
type Known = BTreeMap<(String, Owner), (IceServerState, Instant)>;

/// What has become of the servers that the calls of a [`Caller`](super::Caller) and its clones have asked.
#[derive(Clone, Debug)]
pub struct ServerReports {
    seen: watch::Receiver<Known>,
}

impl ServerReports {
    /// All servers that were asked so far.
    pub fn all(&self) -> Vec<IceServerReport> {
        reports(&self.seen.borrow())
    }

    /// Waits until a server is otherwise than it was, and gives all; `None` when the caller and its calls are gone.
    pub async fn changed(&mut self) -> Option<Vec<IceServerReport>> {
        self.seen.changed().await.ok()?;
        Some(reports(&self.seen.borrow_and_update()))
    }
}

fn reports(known: &Known) -> Vec<IceServerReport> {
    let mut all: Vec<_> = known
        .iter()
        .map(|((server, _), (state, _))| IceServerReport {
            server: server.clone(),
            state: *state,
        })
        .collect();
    // What we found comes first, and is what counts.
    all.dedup_by(|of_peer, ours| of_peer.server == ours.server);
    all
}

/// Whose servers they are. Ours come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Owner {
    /// Of the configuration of this host: its owner is told in the log.
    Us,
    /// A peer has named them.
    #[cfg_attr(
        not(any(test, feature = "socketpipe")),
        expect(dead_code, reason = "only clients of SocketPipe are told of servers")
    )]
    Peer,
}

/// Remembers it.
#[derive(Clone, Debug)]
pub(super) struct Health {
    known: Arc<watch::Sender<Known>>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            known: Arc::new(watch::Sender::new(Known::new())),
        }
    }

    pub(super) fn reports(&self) -> ServerReports {
        ServerReports {
            seen: self.known.subscribe(),
        }
    }

    /// What came of asking a server.
    pub(super) fn report(&self, server: &IceServer, owner: Owner, state: IceServerState) {
        let key = (server.to_string(), owner);
        let now = Instant::now();
        let mut before = None;
        let is_news = self.known.send_if_modified(|known| {
            let known_before = known.get(&key).copied();
            before = known_before.map(|(state, _)| state);
            let is_news = match known_before {
                None => known.keys().filter(|(_, of)| *of == owner).count() < MAX_KNOWN,
                Some((before, _)) if before == state => false,
                Some((_, since)) => state == IceServerState::Works || since + STEADY <= now,
            };
            if is_news {
                known.insert(key, (state, now));
            }
            is_news
        });
        if !is_news {
            return;
        }
        match (owner, state, before) {
            (Owner::Us, IceServerState::Works, Some(_)) => {
                tracing::info!(%server, "the server works again");
            }
            (Owner::Peer, _, _) | (_, IceServerState::Works, None) => {
                tracing::debug!(%server, %state, "a server was asked");
            }
            (Owner::Us, _, _) => {
                tracing::warn!(%server, %state, "connections are made without a server of the configuration");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn server(number: u16) -> IceServer {
        format!("stun:192.0.2.1:{number}").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_and_not_per_call() {
        let health = Health::new();
        let mut reports = health.reports();
        let mut told = |state| {
            for _ in 0..10 {
                health.report(&server(1), Owner::Us, state);
            }
            let told = reports.changed().now_or_never().flatten();
            assert_eq!(reports.changed().now_or_never(), None, "{state}");
            told.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let silent = vec!["stun:192.0.2.1:1 does not answer".to_owned()];
        assert_eq!(told(IceServerState::Silent), Some(silent.clone()));
        assert_eq!(told(IceServerState::Silent), None);
        let works = vec!["stun:192.0.2.1:1 works".to_owned()];
        assert_eq!(told(IceServerState::Works), Some(works));
        assert_eq!(told(IceServerState::Silent), None, "it has just worked");
        tokio::time::advance(STEADY).await;
        assert_eq!(told(IceServerState::Silent), Some(silent));
    }

    #[tokio::test]
    async fn servers_without_end_are_not_remembered() {
        let health = Health::new();
        for number in 1..1000 {
            health.report(&server(number), Owner::Peer, IceServerState::Silent);
        }
        assert_eq!(health.reports().all().len(), MAX_KNOWN);
        health.report(&server(1), Owner::Peer, IceServerState::Works);
        let first = &health.reports().all()[0];
        assert_eq!(first.state, IceServerState::Works);
    }

    #[tokio::test]
    async fn what_a_peer_names_takes_no_place_of_a_server_of_ours() {
        let health = Health::new();
        for number in 1..1000 {
            health.report(&server(number), Owner::Peer, IceServerState::Silent);
        }
        let mut reports = health.reports();
        let ours = server(2000);
        health.report(&ours, Owner::Us, IceServerState::Silent);
        let told = reports.changed().now_or_never().flatten().unwrap();
        let is_it = |report: &&IceServerReport| report.server == ours.to_string();
        assert_eq!(
            told.iter().find(is_it).map(|report| report.state),
            Some(IceServerState::Silent)
        );
    }

    #[tokio::test]
    async fn what_a_peer_says_of_a_server_of_ours_hides_nothing() {
        let health = Health::new();
        let mut reports = health.reports();
        // They have no password for it that it would take, or one that it does.
        health.report(&server(1), Owner::Peer, IceServerState::RefusesCredentials);
        assert!(reports.changed().now_or_never().is_some());
        health.report(&server(1), Owner::Us, IceServerState::RefusesCredentials);
        assert!(reports.changed().now_or_never().is_some(), "ours is news");
        health.report(&server(1), Owner::Peer, IceServerState::Works);
        let told = reports.all();
        assert_eq!(told.len(), 1, "one server is told of once: {told:?}");
        assert_eq!(told[0].state, IceServerState::RefusesCredentials);
    }
}
