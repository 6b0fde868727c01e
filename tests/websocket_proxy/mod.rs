//! A server between two nodes: passes their signaling on, and can cut UDP, the WebSocket, or change what is said.
//!
//! It puts a UDP forwarder of its own in the place of each candidate, so that all packets between the nodes come by.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "no test file uses every helper, and a test fails by panicking"
)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::{SinkExt as _, StreamExt as _};
use libp2p_core::{Multiaddr, multiaddr::Protocol};
use libp2p_rtc::socketpipe::{Frame, FrameLimits, IceCandidate, decode_message, encode_message};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        handshake::server::{Request, Response},
        http::{HeaderName, HeaderValue},
    },
};

type Change = dyn Fn(Frame) -> Option<Frame> + Send + Sync;

/// See the module's documentation.
pub(crate) struct Proxy {
    /// Its address, in the form of the transport.
    pub(crate) addr: Multiaddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    udp: AtomicBool,
    /// Counted up to cut all WebSockets.
    cuts: watch::Sender<usize>,
    offers: AtomicUsize,
    change: Mutex<Arc<Change>>,
}

impl Proxy {
    /// In front of the node with this address.
    pub(crate) async fn new(target: &Multiaddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: socket_of(target),
            udp: AtomicBool::new(true),
            cuts: watch::Sender::new(0),
            offers: AtomicUsize::new(0),
            change: Mutex::new(Arc::new(Some)),
        });
        let ours = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(ours.clone().pass_on(stream));
            }
        });
        let addr = Multiaddr::from(local.ip())
            .with(Protocol::Tcp(local.port()))
            .with(Protocol::Ws("/".into()))
            .with(Protocol::WebRTC);
        Self { addr, shared }
    }

    /// Lets packets through, or drops them all.
    pub(crate) fn set_udp(&self, open: bool) {
        self.shared.udp.store(open, Ordering::SeqCst);
    }

    /// Ends all WebSockets without a word.
    pub(crate) fn cut_websockets(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Changes or swallows frames from now on.
    pub(crate) fn set_change(
        &self,
        change: impl Fn(Frame) -> Option<Frame> + Send + Sync + 'static,
    ) {
        *self.shared.change.lock().unwrap() = Arc::new(change);
    }

    /// How many offers came by.
    pub(crate) fn offers(&self) -> usize {
        self.shared.offers.load(Ordering::SeqCst)
    }
}

/// Where a TCP address leads.
pub(crate) fn socket_of(addr: &Multiaddr) -> SocketAddr {
    let mut parts = addr.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => (ip, port).into(),
        (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) => (ip, port).into(),
        _ => panic!("{addr} has no TCP port"),
    }
}

/// A WebSocket to the transport at this address.
pub(crate) async fn websocket(to: SocketAddr) -> WebSocketStream<TcpStream> {
    try_websocket(to, "/webrtc").await.unwrap()
}

/// A WebSocket at this path, if there is one.
pub(crate) async fn try_websocket(
    to: SocketAddr,
    path: &str,
) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let stream = TcpStream::connect(to).await?;
    let mut request = format!("ws://{to}{path}").into_client_request()?;
    let name = HeaderName::from_static("sec-websocket-protocol");
    request
        .headers_mut()
        .insert(name, HeaderValue::from_static("socketpipe.v1"));
    Ok(client_async(request, stream).await?.0)
}

/// The server's side of a WebSocket, whatever was asked for.
pub(crate) async fn accept(stream: TcpStream) -> Option<WebSocketStream<TcpStream>> {
    let select = |_: &Request, mut response: Response| {
        let name = HeaderName::from_static("sec-websocket-protocol");
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static("socketpipe.v1"));
        Ok(response)
    };
    accept_hdr_async(stream, select).await.ok()
}

impl Shared {
    async fn pass_on(self: Arc<Self>, stream: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let Some(near) = accept(stream).await else {
            return;
        };
        let far = websocket(self.target).await;
        let ((mut to_near, mut from_near), (mut to_far, mut from_far)) =
            (near.split(), far.split());
        let there = async {
            while let Some(Ok(message)) = from_near.next().await {
                if let Some(message) = self.rewrite(message).await
                    && to_far.send(message).await.is_err()
                {
                    return;
                }
            }
        };
        let back = async {
            while let Some(Ok(message)) = from_far.next().await {
                if let Some(message) = self.rewrite(message).await
                    && to_near.send(message).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = there => {}
            () = back => {}
            _ = cuts.changed() => {}
        }
    }

    async fn rewrite(self: &Arc<Self>, message: Message) -> Option<Message> {
        let Message::Binary(bytes) = message else {
            return Some(message);
        };
        let frame = decode_message(bytes, &FrameLimits::default()).unwrap();
        if matches!(frame, Frame::WebRtcOffer(_)) {
            self.offers.fetch_add(1, Ordering::SeqCst);
        }
        let frame = match frame {
            Frame::IceCandidate(candidate) => Frame::IceCandidate(self.candidate(candidate).await),
            Frame::WebRtcOffer(sdp) => Frame::WebRtcOffer(self.description(&sdp).await),
            Frame::WebRtcAnswer(sdp) => Frame::WebRtcAnswer(self.description(&sdp).await),
            other => other,
        };
        let change = self.change.lock().unwrap().clone();
        let frame = change(frame)?;
        Some(Message::Binary(encode_message(&frame).unwrap()))
    }

    /// The same candidate with a forwarder in its place.
    async fn candidate(self: &Arc<Self>, candidate: IceCandidate) -> IceCandidate {
        IceCandidate {
            candidate: self.attribute(&candidate.candidate).await,
            ..candidate
        }
    }

    /// The same description with forwarders in the places of its candidates.
    async fn description(self: &Arc<Self>, sdp: &str) -> String {
        let mut all = String::new();
        for line in sdp.lines() {
            let line = match line.starts_with("a=candidate:") {
                true => self.attribute(line).await,
                false => line.to_owned(),
            };
            all.push_str(&line);
            all.push_str("\r\n");
        }
        all
    }

    async fn attribute(self: &Arc<Self>, text: &str) -> String {
        let mut fields: Vec<_> = text.split(' ').map(str::to_owned).collect();
        // The mark of the end has no address.
        if let [_, _, _, _, ip, port, ..] = &mut fields[..] {
            let behind = SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
            let forwarder = self.clone().forward(behind).await;
            *ip = forwarder.ip().to_string();
            *port = forwarder.port().to_string();
        }
        fields.join(" ")
    }

    /// Passes packets on between this address and whoever sends some to the new one, as a NAT does, as long as the test
    /// runs.
    async fn forward(self: Arc<Self>, behind: SocketAddr) -> SocketAddr {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let local = front.local_addr().unwrap();
        tokio::spawn(async move {
            let mut before = None;
            let (mut inward, mut outward) = ([0; 2048], [0; 2048]);
            loop {
                // Errors are those of ICMP, of sockets that are gone.
                tokio::select! {
                    received = front.recv_from(&mut inward) => if let Ok((len, from)) = received {
                        before = Some(from);
                        self.send(&back, &inward[..len], behind).await;
                    },
                    received = back.recv_from(&mut outward) => if let (Ok((len, _)), Some(to)) = (received, before) {
                        self.send(&front, &outward[..len], to).await;
                    },
                }
            }
        });
        local
    }

    async fn send(&self, socket: &UdpSocket, packet: &[u8], to: SocketAddr) {
        if self.udp.load(Ordering::SeqCst) {
            socket.send_to(packet, to).await.ok();
        }
    }
}
