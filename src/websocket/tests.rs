//! A server between two nodes that is the other end of WebRTC for both of them.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, SinkExt as _, StreamExt as _,
    io::{ReadHalf, WriteHalf},
};
use libp2p_identity::{Keypair, PeerId};
use tokio::net::TcpListener;
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        handshake::server::{Request, Response},
        http::HeaderValue,
    },
};

use super::{
    Config, Error, PATH, Transport,
    conversation::signals::{frame_of, signal_of},
    http::{
        SUBPROTOCOL, client,
        messages::{Io, Messages, Socket},
    },
    lanes::Lanes,
};
use crate::{
    CallConfig, Caller,
    frames::{
        codec::{FrameLimits, decode_message, encode_message},
        frame::{Frame, IceCandidate},
    },
    proto::Side,
    transport::{
        call::{Application, Call, CallEvent, Signal},
        driver::Ready,
    },
};

fn caller() -> Caller {
    Caller::new(CallConfig::new().with_announced(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]))
}

/// One end of a connection by itself, and who it is.
fn lanes(role: Side, socket: Socket) -> (Lanes, PeerId) {
    let keypair = Keypair::generate_ed25519();
    let config = Config::new(&keypair)
        .with_caller(caller())
        .with_fallback_after(Duration::from_secs(60));
    let common = Transport::new(config).common;
    let report = common.report("/ip4/127.0.0.1/tcp/1/ws/webrtc".parse().unwrap());
    let mut lanes = Lanes::new(common, role, socket, None, report, None);
    lanes.allow_proofs();
    (lanes, keypair.public().to_peer_id())
}

async fn accept(listener: &TcpListener) -> Socket {
    let io: Io = Box::new(listener.accept().await.unwrap().0);
    let select = |_: &Request, mut response: Response| {
        let selected = HeaderValue::from_static(SUBPROTOCOL);
        response
            .headers_mut()
            .insert("sec-websocket-protocol", selected);
        Ok(response)
    };
    Messages::new(accept_hdr_async(io, select).await.unwrap())
}

async fn open(to: SocketAddr) -> Socket {
    let io: Io = Box::new(client::connect(to).await.unwrap());
    let uri = format!("ws://{to}{PATH}").parse().unwrap();
    client::upgrade(io, &uri, true).await.unwrap()
}

/// The server between: two calls, two WebSockets, and the bytes of Noise that it has passed on.
struct Middle {
    near: Socket,
    far: Socket,
    caller: Caller,
    noise: Arc<AtomicUsize>,
}

enum News {
    Near(Frame),
    Far(Frame),
    CallNear(CallEvent),
    CallFar(CallEvent),
    End,
}

impl Middle {
    async fn run(mut self) {
        let (mut call_near, mut call_far) = (None::<Call>, None::<Call>);
        let (mut ready_near, mut ready_far) = (None, None);
        loop {
            match self.next(&mut call_near, &mut call_far).await {
                News::Near(Frame::WebRtcOffer(sdp)) => {
                    call_near = Some(self.caller.answer(Application::Libp2p, &sdp).unwrap());
                    call_far = Some(self.caller.offer(Application::Libp2p).unwrap());
                }
                News::Near(Frame::IceCandidate(candidate)) => tell(&mut call_near, candidate),
                News::Near(frame) => send(&mut self.far, frame).await,
                News::Far(Frame::WebRtcAnswer(sdp)) => {
                    let call = call_far.as_mut().unwrap();
                    call.handle(Signal::Answer(sdp)).unwrap();
                }
                News::Far(Frame::IceCandidate(candidate)) => tell(&mut call_far, candidate),
                News::Far(frame) => send(&mut self.near, frame).await,
                News::CallNear(CallEvent::Signal(signal)) => {
                    send(&mut self.near, frame_of(signal)).await;
                }
                News::CallFar(CallEvent::Signal(signal)) => {
                    send(&mut self.far, frame_of(signal)).await;
                }
                News::CallNear(CallEvent::Ready(ready)) => ready_near = Some(ready),
                News::CallFar(CallEvent::Ready(ready)) => ready_far = Some(ready),
                News::CallNear(_) | News::CallFar(_) => {}
                News::End => return,
            }
            if let (Some(_), Some(_)) = (&ready_near, &ready_far) {
                let both = (ready_near.take().unwrap(), ready_far.take().unwrap());
                tokio::spawn(pass_on(both, self.noise.clone()));
            }
        }
    }

    async fn next(&mut self, call_near: &mut Option<Call>, call_far: &mut Option<Call>) -> News {
        poll_fn(|cx| {
            if let Poll::Ready(message) = self.near.poll_next_unpin(cx) {
                return Poll::Ready(frame(message).map_or(News::End, News::Near));
            }
            if let Poll::Ready(message) = self.far.poll_next_unpin(cx) {
                return Poll::Ready(frame(message).map_or(News::End, News::Far));
            }
            if let Some(call) = call_near
                && let Poll::Ready(event) = call.poll_event(cx)
            {
                return Poll::Ready(News::CallNear(event));
            }
            if let Some(call) = call_far
                && let Poll::Ready(event) = call.poll_event(cx)
            {
                return Poll::Ready(News::CallFar(event));
            }
            Poll::Pending
        })
        .await
    }
}

fn frame(message: Option<std::io::Result<bytes::Bytes>>) -> Option<Frame> {
    decode_message(message?.ok()?, &FrameLimits::default()).ok()
}

async fn send(socket: &mut Socket, frame: Frame) {
    // The other one may have hung up.
    socket.send(encode_message(&frame).unwrap()).await.ok();
}

fn tell(call: &mut Option<Call>, candidate: IceCandidate) {
    let signal = signal_of(candidate);
    call.as_mut().unwrap().handle(signal).unwrap();
}

/// Carries the bytes of Noise from one connection to the other, both of which are open to the one who does it.
async fn pass_on((near, far): (Ready, Ready), count: Arc<AtomicUsize>) {
    let _connections = (near.connection, far.connection);
    let (from_near, to_near) = near.handshake.split();
    let (from_far, to_far) = far.handshake.split();
    futures::join!(
        carry(from_near, to_far, &count),
        carry(from_far, to_near, &count)
    );
}

async fn carry(
    mut from: ReadHalf<crate::Stream>,
    mut to: WriteHalf<crate::Stream>,
    count: &AtomicUsize,
) {
    let mut buf = [0; 1024];
    while let Ok(len @ 1..) = from.read(&mut buf).await {
        count.fetch_add(len, Ordering::SeqCst);
        if to.write_all(&buf[..len]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// It can read and change what WebRTC encrypts, were there not Noise with both certificates in its prologue.
#[tokio::test]
async fn who_ends_webrtc_between_two_nodes_is_caught_by_noise() {
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (to_front, to_back) = (front.local_addr().unwrap(), back.local_addr().unwrap());
    let (near, at_front) = futures::join!(open(to_front), accept(&front));
    let (behind, far) = futures::join!(open(to_back), accept(&back));
    let noise = Arc::new(AtomicUsize::new(0));
    let middle = Middle {
        near: at_front,
        far: behind,
        caller: caller(),
        noise: noise.clone(),
    };
    let between = tokio::spawn(middle.run());
    let (mut dialer, dialer_peer) = lanes(Side::Dialer, near);
    let (mut listener, listener_peer) = lanes(Side::Listener, far);
    let mut caught = false;
    let both = poll_fn(|cx| {
        dialer.drive(cx);
        listener.drive(cx);
        caught |= matches!(listener.failure(), Some(Error::Noise(_)));
        for lanes in [&mut dialer, &mut listener] {
            assert!(lanes.webrtc().0.is_none(), "WebRTC was believed");
            assert!(lanes.end().is_none(), "{:?}", lanes.end());
        }
        match (dialer.proven(), listener.proven()) {
            (Some(far), Some(near)) => Poll::Ready((near, far)),
            _ => Poll::Pending,
        }
    });
    let both = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap();
    // Over the WebSocket, where the one between can read nothing.
    assert_eq!(both, (dialer_peer, listener_peer));
    assert!(caught, "Noise did not fail");
    assert!(noise.load(Ordering::SeqCst) > 0, "nobody was between");
    between.abort();
}
