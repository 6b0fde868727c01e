//! Two ways to one server: libp2p, and a WebSocket where that does not get through.
//!
//! A [`Both`] is the connector of one session. It owns the order in which the ways are tried; what carries over from
//! one to the other is the session's business.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use libp2p_rtc::socketpipe::{ConnectError, Connector, Wire};
use tokio::time::Instant;

use crate::output::{Output, harmless};

/// Time for the libp2p way.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long new sessions do not try the libp2p way after a WebSocket had to do: a network without UDP stays one.
const DETOUR: Duration = Duration::from_secs(60);
/// A way that is asked for again so soon did not lead to the session: it is the other one's turn.
const TOO_SOON: Duration = Duration::from_secs(5);

/// Until when new sessions use the WebSocket at once; shared by all sessions of a command.
pub(crate) type Detour = Arc<Mutex<Option<Instant>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    WebSocket,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Direct => Self::WebSocket,
            Self::WebSocket => Self::Direct,
        }
    }
}

/// The way of the last wire, and since when.
type Last = Arc<Mutex<Option<(Way, Instant)>>>;

/// Both ways.
pub(crate) struct Both<D, W> {
    direct: D,
    websocket: W,
    detour: Detour,
    last: Last,
    /// The user knows that the libp2p way does not work: not again at each try.
    told: bool,
    output: Output,
}

impl<D: Connector, W: Connector> Both<D, W> {
    pub(crate) fn new(direct: D, websocket: W, detour: Detour, output: Output) -> Self {
        Self {
            direct,
            websocket,
            detour,
            last: Last::default(),
            told: false,
            output,
        }
    }

    /// The way to begin with, and whether nothing worked before.
    fn first(&self) -> (Way, bool) {
        let now = Instant::now();
        match *lock(&self.last) {
            Some((way, since)) if now.duration_since(since) < TOO_SOON => (way.other(), false),
            Some((way, _)) => (way, false),
            None if lock(&self.detour).is_some_and(|until| now < until) => (Way::WebSocket, true),
            None => (Way::Direct, true),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Connector, W: Connector> Connector for Both<D, W> {
    fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>> {
        let (way, is_new) = self.first();
        // In the middle of a session the terminal belongs to the session.
        let tells = is_new && way == Way::Direct && !std::mem::replace(&mut self.told, true);
        let direct = self.direct.connect();
        let direct = async {
            tokio::time::timeout(PATIENCE, direct)
                .await
                .unwrap_or_else(|_| Err(ConnectError::new("no answer")))
        };
        let direct: BoxFuture<'static, _> = Box::pin(direct);
        let websocket = self.websocket.connect();
        let (one, two) = match way {
            Way::Direct => (direct, websocket),
            Way::WebSocket => (websocket, direct),
        };
        let (last, detour, output) = (self.last.clone(), self.detour.clone(), self.output);
        Box::pin(async move {
            let arrived = |way| *lock(&last) = Some((way, Instant::now()));
            let failed = match one.await {
                Ok(wire) => {
                    arrived(way);
                    return Ok(wire);
                }
                Err(error) => error,
            };
            if tells {
                tell(&output, &failed.message);
            }
            match two.await {
                Ok(wire) => {
                    arrived(way.other());
                    if is_new && way == Way::Direct {
                        *lock(&detour) = Some(Instant::now() + DETOUR);
                    }
                    Ok(wire)
                }
                Err(error) => Err(ConnectError {
                    message: format!("{}; {}", told(way, &failed), told(way.other(), &error)),
                    tried: [failed.tried, error.tried].concat(),
                    fatal: failed.fatal && error.fatal,
                }),
            }
        })
    }

    fn better(&mut self) -> BoxFuture<'static, Wire> {
        // Of the other way's, the session itself makes the most, by WebRTC of its own.
        match *lock(&self.last) {
            Some((Way::Direct, _)) => self.direct.better(),
            Some((Way::WebSocket, _)) | None => Box::pin(std::future::pending()),
        }
    }
}

/// Why this way leads nowhere, beside the reason of the other one.
fn told(way: Way, error: &ConnectError) -> String {
    match way {
        Way::Direct => error.message.clone(),
        Way::WebSocket => format!("by WebSocket: {}", error.message),
    }
}

fn tell(output: &Output, reason: &str) {
    let text = format!(
        "not reachable over libp2p: {}; trying the WebSocket",
        harmless(reason)
    );
    output.note(
        &text,
        || serde_json::json!({ "event": "fallback", "reason": reason }),
    );
}

#[cfg(test)]
mod tests {
    use libp2p_rtc::socketpipe::session::PathKind;

    use super::*;

    /// Leads there, or fails.
    struct Fake(Option<PathKind>);

    impl Connector for Fake {
        fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>> {
            let wire = match self.0 {
                Some(PathKind::WebSocket) => Ok(Wire::messages(PathKind::WebSocket, Nothing)),
                Some(_) => Ok(Wire::stream(futures::io::Cursor::new(Vec::new()))),
                None => Err(ConnectError::fatal("blocked")),
            };
            Box::pin(async { wire })
        }
    }

    /// Messages nobody sends.
    struct Nothing;

    impl futures::Stream for Nothing {
        type Item = std::io::Result<bytes::Bytes>;

        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Pending
        }
    }

    type Polled = std::task::Poll<std::io::Result<()>>;

    impl futures::Sink<bytes::Bytes> for Nothing {
        type Error = std::io::Error;

        fn poll_ready(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Polled {
            Polled::Pending
        }

        fn start_send(self: std::pin::Pin<&mut Self>, _: bytes::Bytes) -> std::io::Result<()> {
            Ok(())
        }

        fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Polled {
            Polled::Pending
        }

        fn poll_close(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Polled {
            Polled::Pending
        }
    }

    fn both(direct: bool, websocket: bool, detour: &Detour) -> Both<Fake, Fake> {
        let direct = Fake(direct.then_some(PathKind::Stream));
        let websocket = Fake(websocket.then_some(PathKind::WebSocket));
        Both::new(direct, websocket, detour.clone(), Output::new(true))
    }

    async fn kind(both: &mut Both<Fake, Fake>) -> PathKind {
        both.connect().await.unwrap().kind()
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_leads_nowhere_gives_way_to_the_other() {
        let detour = Detour::default();
        let mut both = both(true, true, &detour);
        assert_eq!(kind(&mut both).await, PathKind::Stream);
        assert_eq!(
            kind(&mut both).await,
            PathKind::WebSocket,
            "refused at once"
        );
        assert_eq!(kind(&mut both).await, PathKind::Stream);
        tokio::time::advance(TOO_SOON).await;
        assert_eq!(
            kind(&mut both).await,
            PathKind::Stream,
            "lost after a while"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn later_sessions_begin_with_what_worked_for_the_first() {
        let detour = Detour::default();
        assert_eq!(
            kind(&mut both(false, true, &detour)).await,
            PathKind::WebSocket
        );
        assert_eq!(
            kind(&mut both(true, true, &detour)).await,
            PathKind::WebSocket
        );
        tokio::time::advance(DETOUR).await;
        assert_eq!(kind(&mut both(true, true, &detour)).await, PathKind::Stream);
    }

    #[tokio::test(start_paused = true)]
    async fn only_both_together_are_hopeless() {
        let error = both(false, false, &Detour::default()).connect().await;
        let error = error.unwrap_err();
        assert!(
            error.fatal && error.message == "blocked; by WebSocket: blocked",
            "{error:?}"
        );
    }
}
