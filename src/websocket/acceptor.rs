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
    server::{self, Place, Room},
};

/// WebSockets that may wait for the transport to be polled; more are refused. Each poll takes all of them.
const MAX_WAITING: usize = 64;

/// Longest offer that a frame can hold.
const MAX_OFFER: usize = 65_535;
/// More than the header of any frame.
const MAX_HEADER: usize = 64;

const NOBODY: Refusal = Refusal(
    StatusCode::SERVICE_UNAVAILABLE,
    "no libp2p node listens here",
);
const BUSY: Refusal = Refusal(
    StatusCode::SERVICE_UNAVAILABLE,
    "the libp2p node is busy; wait a little",
);
const FULL: Refusal = Refusal(
    StatusCode::SERVICE_UNAVAILABLE,
    "the libp2p node has as many connections as it takes, or as it takes from your address",
);

/// A WebSocket that a peer opened.
pub(crate) struct Arrival {
    pub(crate) socket: Socket,
    /// Where it comes from.
    pub(crate) remote: SocketAddr,
    /// Its place among the connections of its server, or of the transport.
    pub(crate) place: Arc<Place>,
}

/// Gives the WebSockets of an HTTP server to a [`Transport`](super::Transport) that listens on the server's address.
///
/// Made by [`Transport::acceptor`](super::Transport::acceptor), taken by
/// [`WebSocketListener::with_libp2p`](crate::socketpipe::websocket::WebSocketListener::with_libp2p).
#[derive(Clone)]
pub struct Acceptor {
    to: Arc<Mutex<Option<mpsc::Sender<Arrival>>>>,
    /// Places beside those of the server, whose other guests keep theirs. `None`: it has no others.
    room: Option<Room>,
    /// Bytes of one message of a WebSocket.
    max_message: usize,
}

impl Acceptor {
    /// Messages may have so many bytes of DATA.
    pub(crate) fn new(max_message: u32) -> Self {
        let data = usize::try_from(max_message).unwrap_or(usize::MAX);
        Self {
            to: Arc::default(),
            room: None,
            max_message: data.max(MAX_OFFER).saturating_add(MAX_HEADER),
        }
    }

    /// For a server that has other guests, too.
    pub(crate) fn with_room(room: Room, max_message: u32) -> Self {
        Self {
            room: Some(room),
            ..Self::new(max_message)
        }
    }

    /// From now on WebSockets come here, until the receiver is closed. What listened before hears no more.
    pub(crate) fn open(&self) -> mpsc::Receiver<Arrival> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        *self.lock() = Some(sender);
        receiver
    }

    /// Whether somebody listens.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().as_ref().is_some_and(|to| !to.is_closed())
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
        let open = self.lock().clone().filter(|to| !to.is_closed());
        let to = open.ok_or(NOBODY)?;
        let slot = to.try_reserve_owned().map_err(|_| BUSY)?;
        let answer = upgrade(request.headers())?;
        let place = match &self.room {
            Some(room) => Arc::new(room.try_place(client).ok_or(FULL)?),
            None => place,
        };
        let upgrade = hyper::upgrade::on(request);
        let max_message = self.max_message;
        let remote = SocketAddr::new(client.to_canonical(), port);
        tokio::spawn(async move {
            if let Some(socket) = server::upgraded(upgrade, max_message).await {
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
