//! Peers that do as they like on both ways, against a server of ours; and the pauses of a client.

use std::{
    collections::VecDeque,
    io,
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _, channel::mpsc, future::BoxFuture};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf};

use self::memory::Messages;
use super::{
    Carrier, WebRtc,
    machine::{Step, Upgrade},
};
use crate::{
    CallConfig, Caller,
    socketpipe::{
        Backend, Capabilities, Data, Failure, Frame, FrameLimits, HandshakeRequest, IceCandidate,
        Opened, Opening, Origin, Server, Service, Size, Wire,
        backend::Control,
        decode_message, encode_message,
        session::{Mode, PathId, PathKind, ServerConfig, Signaling},
    },
    transport::call::{Application, Call, CallEvent, MessageChannel, Signal},
};

#[path = "../../../tests/socketpipe_memory/mod.rs"]
mod memory;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("took too long")
}

struct TestBackend {
    io: DuplexStream,
    controls: mpsc::Sender<Control>,
}

impl Backend for TestBackend {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncRead::poll_read(Pin::new(&mut self.io), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.io), cx, bytes)
    }

    fn control(&mut self, control: Control) {
        self.controls.try_send(control).unwrap();
    }
}

/// Lets everybody in.
struct Open(mpsc::Sender<(DuplexStream, mpsc::Receiver<Control>)>);

impl Service for Open {
    fn open(&self, _: Opening) -> BoxFuture<'static, Result<Opened, Failure>> {
        let (io, ours) = tokio::io::duplex(64 * 1024);
        let (controls, told) = mpsc::channel(64);
        let mut opened = self.0.clone();
        Box::pin(async move {
            opened.send((io, told)).await.unwrap();
            Ok(Opened {
                backend: Box::new(TestBackend { io: ours, controls }),
                label: String::new(),
                target: String::new(),
                expires: None,
                by_token: true,
            })
        })
    }
}

fn caller() -> Caller {
    Caller::new(CallConfig::new().with_announced(vec![Ipv4Addr::LOCALHOST.into()]))
}

/// A client that does as it likes: it has a session, and no engine.
struct Raw {
    server: Server,
    callers: [Caller; 2],
    socket: Messages,
    far: DuplexStream,
    controls: mpsc::Receiver<Control>,
    call: Option<Call>,
    channel: Option<MessageChannel>,
    /// What came and was not looked at, by WebSocket and by channel.
    by_socket: VecDeque<Frame>,
    by_channel: VecDeque<Frame>,
}

impl Raw {
    async fn open(mode: Mode, capabilities: Capabilities) -> Self {
        let (sender, mut opened) = mpsc::channel(1);
        let callers = [caller(), caller()];
        let webrtc = WebRtc::new(callers[0].clone());
        let config = ServerConfig {
            webrtc_without_resume: true,
            ..ServerConfig::default()
        };
        let server = Server::with_webrtc(config, Open(sender), 4, webrtc);
        let (ours, theirs) = Messages::pair(64);
        let wire = Wire::messages(PathKind::WebSocket, theirs).private();
        tokio::spawn(server.serve(wire, mode, Origin::address("192.0.2.1")));
        let mut socket = ours;
        let request = Frame::HandshakeRequest(HandshakeRequest {
            capabilities,
            major: 1,
            minor: 0,
            port: 0,
            ping_interval: 0,
            ping_timeout: 0,
            max_message: 0,
            host: String::new(),
            token: Bytes::new(),
        });
        socket
            .send(encode_message(&request).unwrap())
            .await
            .unwrap();
        let (far, controls) = soon(opened.next()).await.unwrap();
        Self {
            server,
            callers,
            socket,
            far,
            controls,
            call: None,
            channel: None,
            by_socket: VecDeque::new(),
            by_channel: VecDeque::new(),
        }
    }

    /// Offers a connection of its own.
    fn offer(&mut self) {
        let call = self.callers[1].offer(Application::Messages {
            label: "socketpipe",
            protocol: "socketpipe/1.0",
            open: true,
        });
        self.call = Some(call.unwrap());
        self.channel = None;
    }

    async fn by_socket(&mut self, frame: Frame) {
        let message = encode_message(&frame).unwrap();
        self.socket.send(message).await.unwrap();
    }

    async fn by_channel(&mut self, frame: Frame) {
        let message = encode_message(&frame).unwrap();
        let channel = self.channel.as_mut().unwrap();
        channel.send(message).await.unwrap();
    }

    /// Something happens: signaling is carried, frames are kept, PINGs are answered.
    async fn turn(&mut self) {
        let event = async {
            match &mut self.call {
                Some(call) => std::future::poll_fn(|cx| call.poll_event(cx)).await,
                None => std::future::pending().await,
            }
        };
        let by_channel = async {
            match &mut self.channel {
                Some(channel) => channel.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = event => self.on_event(event).await,
            message = self.socket.next() => {
                let frame = decode(message.unwrap().unwrap());
                self.on_frame(frame).await;
            }
            message = by_channel => match message {
                Some(Ok(message)) => {
                    let frame = decode(message);
                    if let Frame::Ping(payload) = frame {
                        self.by_channel(Frame::Pong(payload)).await;
                    } else {
                        self.by_channel.push_back(frame);
                    }
                }
                _ => self.channel = None,
            },
        }
    }

    async fn on_event(&mut self, event: CallEvent) {
        match event {
            CallEvent::Signal(Signal::Offer(sdp)) => self.by_socket(Frame::WebRtcOffer(sdp)).await,
            CallEvent::Signal(Signal::Candidate {
                candidate,
                mid,
                index,
            }) => {
                let candidate = IceCandidate {
                    candidate: format!("a={candidate}"),
                    mid,
                    index,
                };
                self.by_socket(Frame::IceCandidate(candidate)).await;
            }
            CallEvent::Channel(channel) => self.channel = Some(channel),
            _ => {}
        }
    }

    async fn on_frame(&mut self, frame: Frame) {
        match frame {
            Frame::Ping(payload) => self.by_socket(Frame::Pong(payload)).await,
            Frame::WebRtcAnswer(sdp) if !sdp.is_empty() => {
                let call = self.call.as_mut().unwrap();
                call.handle(Signal::Answer(sdp)).unwrap();
            }
            Frame::IceCandidate(candidate) => {
                let IceCandidate {
                    candidate,
                    mid,
                    index,
                } = candidate;
                let signal = Signal::Candidate {
                    candidate,
                    mid,
                    index,
                };
                self.call.as_mut().unwrap().handle(signal).unwrap();
            }
            frame => self.by_socket.push_back(frame),
        }
    }

    /// Goes on until that is so.
    async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let all = async {
            while !done(self) {
                self.turn().await;
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(outcome.is_ok(), "not so: {what}");
    }

    /// The channel is open on both ends.
    async fn until_ready(&mut self) {
        self.until("ready", |raw| {
            let ready = raw.by_socket.contains(&Frame::WebRtcReady);
            raw.channel.is_some() && ready
        })
        .await;
        self.by_socket.retain(|frame| *frame != Frame::WebRtcReady);
    }

    fn carrier(&self) -> Option<Carrier> {
        self.server.sessions()[0].carrier
    }
}

fn decode(message: Bytes) -> Frame {
    decode_message(message, &FrameLimits::default()).unwrap()
}

fn data(number: Option<u64>, bytes: &'static [u8]) -> Frame {
    Frame::Data(Data {
        number,
        bytes: Bytes::from_static(bytes),
        end: false,
    })
}

async fn assert_written(far: &mut DuplexStream, expected: &[u8]) {
    let mut buffer = vec![0; expected.len()];
    soon(far.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(buffer, expected);
}

fn with_resume() -> Capabilities {
    Capabilities::RESUME.with(Capabilities::WEBRTC)
}

#[tokio::test]
async fn a_client_that_ignores_ready_is_served_on_the_websocket() {
    let mut raw = Raw::open(Mode::Pty, with_resume()).await;
    raw.offer();
    raw.until_ready().await;
    raw.by_socket(data(Some(1), b"typed")).await;
    assert_written(&mut raw.far, b"typed").await;
    raw.far.write_all(b"shown").await.unwrap();
    let shown = data(Some(1), b"shown");
    raw.until("it comes by the WebSocket", |raw| {
        raw.by_socket.contains(&shown)
    })
    .await;
    assert_eq!(raw.carrier(), Some(Carrier::WebSocket));
    assert!(raw.by_channel.is_empty());
}

#[tokio::test]
async fn a_client_may_resize_by_the_channel_and_the_server_follows_it_there() {
    let mut raw = Raw::open(Mode::Pty, with_resume()).await;
    raw.offer();
    raw.until_ready().await;
    let size = Size {
        columns: 99,
        rows: 33,
        ..Size::default()
    };
    raw.by_channel(Frame::Resize(size)).await;
    let told = soon(raw.controls.next()).await;
    assert_eq!(told, Some(Control::Resize(size)));
    raw.far.write_all(b"shown").await.unwrap();
    let shown = data(Some(1), b"shown");
    raw.until("it comes by the channel", |raw| {
        raw.by_channel.contains(&shown)
    })
    .await;
    // Its own bytes it may send by either.
    raw.by_channel(data(Some(2), b"two")).await;
    raw.by_socket(data(Some(1), b"one ")).await;
    assert_written(&mut raw.far, b"one two").await;
    assert_eq!(raw.carrier(), Some(Carrier::WebRtcDirect));
}

#[tokio::test]
async fn without_numbers_a_change_of_path_keeps_the_order_too() {
    let mut raw = Raw::open(Mode::Tunnel, Capabilities::WEBRTC).await;
    raw.offer();
    raw.until_ready().await;
    raw.by_channel(data(None, b"two ")).await;
    // The server asks on the WebSocket, behind what may still be on its way there.
    let ping = loop {
        let frame = decode(soon(raw.socket.next()).await.unwrap().unwrap());
        if let Frame::Ping(payload) = frame {
            break payload;
        }
    };
    raw.by_channel(data(None, b"three ")).await;
    raw.by_socket(data(None, b"one ")).await;
    assert_written(&mut raw.far, b"one ").await;
    assert_eq!(raw.far.read_u8().now_or_never().map(|byte| byte.ok()), None);
    raw.by_socket(Frame::Pong(ping)).await;
    raw.by_channel(data(None, b"four")).await;
    assert_written(&mut raw.far, b"two three four").await;
}

#[tokio::test]
async fn an_offer_with_another_certificate_replaces_the_connection() {
    let mut raw = Raw::open(Mode::Pty, with_resume()).await;
    raw.offer();
    raw.until_ready().await;
    let mut first = raw.call.take().unwrap();
    let mut first_channel = raw.channel.take().unwrap();
    raw.offer();
    raw.until_ready().await;
    assert!(
        soon(first_channel.next())
            .await
            .is_none_or(|end| end.is_err())
    );
    let closed = async {
        while !matches!(
            std::future::poll_fn(|cx| first.poll_event(cx)).await,
            CallEvent::Closed(_)
        ) {}
    };
    soon(closed).await;
    raw.by_channel(data(Some(1), b"typed")).await;
    assert_written(&mut raw.far, b"typed").await;
    assert_eq!(raw.carrier(), Some(Carrier::WebRtcDirect));
}

#[tokio::test]
async fn what_is_no_offer_is_refused_and_a_second_one_is_taken() {
    let mut raw = Raw::open(Mode::Pty, with_resume()).await;
    let refusal = Frame::WebRtcAnswer(String::new());
    for nonsense in ["", "v=0\r\n", "hello"] {
        raw.by_socket(Frame::WebRtcOffer(nonsense.to_owned())).await;
        raw.until("refused", |raw| raw.by_socket.contains(&refusal))
            .await;
        raw.by_socket.clear();
    }
    raw.offer();
    raw.until_ready().await;
}

/// An offer of a call that does not go on.
async fn an_offer(caller: &Caller) -> String {
    let application = Application::Messages {
        label: "socketpipe",
        protocol: "socketpipe/1.0",
        open: true,
    };
    let mut call = caller.offer(application).unwrap();
    loop {
        let event = std::future::poll_fn(|cx| call.poll_event(cx));
        if let CallEvent::Signal(Signal::Offer(sdp)) = soon(event).await {
            return sdp;
        }
    }
}

#[tokio::test]
async fn an_offer_that_is_replaced_before_it_was_answered_is_refused() {
    let theirs = caller();
    let [first, second, third] = [
        an_offer(&theirs).await,
        an_offer(&theirs).await,
        an_offer(&theirs).await,
    ];
    let mut upgrade = Upgrade::new(WebRtc::new(caller()), false);
    let mut cx = Context::from_waker(futures::task::noop_waker_ref());
    let refusal = |step: &Poll<Step>| match step {
        Poll::Ready(Step::Signal(Signaling::Answer(sdp))) => sdp.is_empty(),
        _ => false,
    };
    upgrade.open_on(PathId(1));
    upgrade.handle(Signaling::Offer(first));
    // Its servers are not known yet.
    upgrade.handle(Signaling::Offer(second));
    let step = upgrade.poll(&mut cx);
    assert!(refusal(&step), "{step:?}");
    // The connection is being made: nothing has come of it so far.
    assert!(upgrade.poll(&mut cx).is_pending());
    upgrade.handle(Signaling::Offer(third));
    let step = upgrade.poll(&mut cx);
    assert!(refusal(&step), "{step:?}");
    let step = soon(std::future::poll_fn(|cx| upgrade.poll(cx))).await;
    assert!(
        matches!(&step, Step::Signal(Signaling::Answer(sdp)) if !sdp.is_empty()),
        "{step:?}"
    );
}

#[tokio::test]
async fn a_server_gives_up_what_does_not_come_about() {
    let mut raw = Raw::open(Mode::Pty, with_resume()).await;
    raw.offer();
    let server = raw.callers[0].clone();
    raw.until("answered", |_| server.calls() == 1).await;
    // The client is silent from now on: nothing leads to it.
    raw.call = None;
    let gone = async {
        while server.calls() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(gone).await;
    raw.by_socket(data(Some(1), b"typed")).await;
    assert_written(&mut raw.far, b"typed").await;
}

#[tokio::test]
async fn pauses_grow_to_a_limit_and_differ() {
    let webrtc =
        WebRtc::new(caller()).with_pauses(Duration::from_secs(30), Duration::from_secs(600));
    for (failures, most) in [(1, 30), (2, 60), (3, 120), (6, 600), (1000, 600)] {
        let pause = webrtc.pause(failures);
        let most = Duration::from_secs(most);
        assert!(pause <= most && pause >= most.mul_f64(0.75), "{pause:?}");
    }
    let some: std::collections::HashSet<_> = (0..20).map(|_| webrtc.pause(1)).collect();
    assert!(some.len() > 1);
}
