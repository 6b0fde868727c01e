//! Where WebSockets that peers opened come from: an HTTP server of this transport, or one of somebody else.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{Request, StatusCode, body::Incoming};
use tokio::sync::mpsc;

use super::http::{
    answer::{Answer, Refusal, only_get, upgrade},
    messages::Socket,
    server::{self, Place},
};

/// WebSockets that may wait for the transport to be polled; more are refused. Each poll takes all of them.
const MAX_WAITING: usize = 64;

/// A WebSocket that a peer opened.
pub(crate) struct Arrival {
    pub(crate) socket: Socket,
    /// Where it comes from.
    pub(crate) remote: SocketAddr,
    /// Its place among the connections of its server.
    pub(crate) place: Arc<Place>,
}

/// Gives the WebSockets of an HTTP server to a [`Transport`](super::Transport) that listens on the server's address.
///
/// Made by [`Transport::acceptor`](super::Transport::acceptor), taken by
/// [`WebSocketListener::with_libp2p`](crate::socketpipe::websocket::WebSocketListener::with_libp2p).
#[derive(Clone, Default)]
pub struct Acceptor {
    to: Arc<Mutex<Option<mpsc::Sender<Arrival>>>>,
}

impl Acceptor {
    /// From now on WebSockets come here. What listened before hears no more.
    pub(crate) fn open(&self) -> mpsc::Receiver<Arrival> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        *self.lock() = Some(sender);
        receiver
    }

    /// Nobody takes any more.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    /// Whether somebody listens.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<Arrival>>> {
        // Nothing can panic while the lock is held.
        self.to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request for [`PATH`](super::PATH), whose sender may have it; what comes of it goes to the transport.
    pub(crate) fn answer(
        &self,
        request: &mut Request<Incoming>,
        client: IpAddr,
        port: u16,
        place: Arc<Place>,
    ) -> Result<Answer, Refusal> {
        only_get(request.method())?;
        let Some(to) = self.lock().clone() else {
            return Err(Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "no libp2p node listens here",
            ));
        };
        let Ok(slot) = to.try_reserve_owned() else {
            return Err(Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "the libp2p node is busy; wait a little",
            ));
        };
        let answer = upgrade(request.headers())?;
        let upgrade = hyper::upgrade::on(request);
        let remote = SocketAddr::new(client.to_canonical(), port);
        tokio::spawn(async move {
            if let Some(socket) = server::upgraded(upgrade).await {
                slot.send(Arrival {
                    socket,
                    remote,
                    place,
                });
            }
        });
        Ok(answer)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("is_open", &self.is_open())
            .finish_non_exhaustive()
    }
}
