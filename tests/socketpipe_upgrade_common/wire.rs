//! WebSockets over TCP, on which the first WEBRTC_READY comes at a time of the test's choice.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _};
use libp2p_rtc::socketpipe::{
    Frame, FrameLimits, Server, decode_message,
    session::Mode,
    websocket::{TlsRoots, WebSocketConfig, WebSocketConnector, WebSocketListener},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::{
    accept_hdr_async, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        handshake::server::{Request, Response},
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
    },
};

const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("socketpipe.v1");

/// What listens, and what stands before it. All of it ends with this.
pub(crate) struct Wires {
    server: SocketAddr,
    tasks: JoinSet<()>,
}

/// What went by one of them.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    offers: Arc<AtomicUsize>,
    readies: Arc<AtomicUsize>,
}

impl Seen {
    pub(crate) fn offers(&self) -> usize {
        self.offers.load(Ordering::SeqCst)
    }

    /// That have arrived at the client.
    pub(crate) fn readies(&self) -> usize {
        self.readies.load(Ordering::SeqCst)
    }
}

impl Wires {
    /// The server on a port of loopback.
    pub(crate) async fn to(server: Server) -> Self {
        let listener = WebSocketListener::bind(WebSocketConfig::default(), server);
        let listener = listener.await.unwrap();
        let address = listener.local_addr();
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.run());
        Self {
            server: address,
            tasks,
        }
    }

    /// A way to it for one client, on which the first READY arrives so long after the first offer has left.
    pub(crate) async fn with_ready_after(&mut self, after: Duration) -> (WebSocketConnector, Seen) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/tunnel", listener.local_addr().unwrap());
        let seen = Seen::default();
        let (server, watching) = (self.server, seen.clone());
        self.tasks.spawn(async move {
            // What it carries ends with it.
            let mut wires = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                wires.spawn(carry(stream, server, after, watching.clone()));
            }
        });
        let connector = WebSocketConnector::new(&url, Mode::Tunnel, &TlsRoots::default());
        (connector.unwrap(), seen)
    }
}

/// What this message is.
fn frame(message: &Message) -> Option<Frame> {
    match message {
        Message::Binary(bytes) => decode_message(bytes.clone(), &FrameLimits::default()).ok(),
        _ => None,
    }
}

async fn carry(near: TcpStream, server: SocketAddr, after: Duration, seen: Seen) {
    let select = |_: &Request, mut response: Response| {
        let headers = response.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        Ok(response)
    };
    let near = accept_hdr_async(near, select).await.unwrap();
    let mut request = format!("ws://{server}/tunnel")
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    let far = TcpStream::connect(server).await.unwrap();
    let (far, _) = client_async(request, far).await.unwrap();
    let ((mut to_near, mut from_near), (mut to_far, mut from_far)) = (near.split(), far.split());
    let (offer, offered) = watch::channel(None);
    let up = async {
        while let Some(Ok(message)) = from_near.next().await {
            if matches!(frame(&message), Some(Frame::WebRtcOffer(_))) {
                seen.offers.fetch_add(1, Ordering::SeqCst);
                offer.send_modify(|first| *first = first.or_else(|| Some(Instant::now())));
            }
            if to_far.send(message).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut held: Option<(Instant, Message)> = None;
        let mut first = true;
        loop {
            let due = held.as_ref().map(|(due, _)| *due);
            let message = tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => held.take().map(|(_, ready)| ready),
                message = from_far.next() => message.and_then(Result::ok),
            };
            let Some(message) = message else {
                return;
            };
            if matches!(frame(&message), Some(Frame::WebRtcReady)) {
                let begin = *offered.borrow();
                if let (true, Some(begin)) = (std::mem::take(&mut first), begin) {
                    held = Some((begin + after, message));
                    continue;
                }
                seen.readies.fetch_add(1, Ordering::SeqCst);
            }
            if to_near.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
