//! A server and a client of sessions in one process: WebSockets in memory that can be cut, delayed and tampered with, and
//! WebRTC over real UDP sockets, whose datagrams pass through a [`Path`] that can be slow, lossy and broken.

#[cfg(feature = "gateway")]
pub(crate) mod wire;

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _, channel::mpsc, future::BoxFuture};
use libp2p_rtc::{
    CallConfig, Caller,
    socketpipe::{
        Backend, Carrier, Code, ConnectError, Connector, Exit, Failure, Frame, FrameLimits,
        IceCandidate, Opened, Opening, Origin, Record, RemoteSession, Server, Service,
        SessionHandle, SessionOptions, WebRtc, Wire,
        backend::Control,
        decode_message, encode_message, open,
        session::{EndReason, Mode, PathKind, ServerConfig},
    },
};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
        ReadHalf, WriteHalf,
    },
    net::UdpSocket,
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use crate::socketpipe_memory::Messages;

/// What takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Time in which everything is given back that belonged to a session.
const TIME_TO_CLEAN_UP: Duration = Duration::from_secs(10);
/// Datagrams on their way between two addresses.
const ON_THE_WAY: usize = 4096;

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

/// Waits for what nobody tells of.
pub(crate) async fn until(what: &str, done: impl FnMut() -> bool) {
    within(PATIENCE, what, done).await;
}

async fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < limit, "not so in {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The network that UDP goes through: each end knows the other by a socket of this one. Clones are the same network.
#[derive(Clone, Default)]
pub(crate) struct Path {
    inner: Arc<PathState>,
}

#[derive(Default)]
struct PathState {
    /// By real address, the sockets that stand for it.
    stand_ins: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    tasks: Mutex<tokio::task::JoinSet<()>>,
    is_cut: AtomicBool,
    /// Milliseconds in one direction.
    delay: AtomicU64,
    /// Every so many-th datagram is lost; 0 is none.
    lose_every: AtomicU64,
    carried: AtomicU64,
}

impl Path {
    pub(crate) fn cut(&self, is_cut: bool) {
        self.inner.is_cut.store(is_cut, Ordering::SeqCst);
    }

    pub(crate) fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap();
        self.inner.delay.store(millis, Ordering::SeqCst);
    }

    pub(crate) fn lose_every(&self, count: u64) {
        self.inner.lose_every.store(count, Ordering::SeqCst);
    }

    /// Datagrams that arrived.
    pub(crate) fn carried(&self) -> u64 {
        self.inner.carried.load(Ordering::SeqCst)
    }

    /// Nothing goes through any more.
    fn stop(&self) {
        self.inner.tasks.lock().unwrap().abort_all();
    }

    /// The address that leads to this one.
    fn stand_in(&self, real: SocketAddr) -> SocketAddr {
        self.socket(real).local_addr().unwrap()
    }

    fn socket(&self, real: SocketAddr) -> Arc<UdpSocket> {
        let mut stand_ins = self.inner.stand_ins.lock().unwrap();
        let socket = stand_ins.entry(real).or_insert_with(|| {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = Arc::new(UdpSocket::from_std(socket).unwrap());
            let task = self.clone().carry(socket.clone(), real);
            self.inner.tasks.lock().unwrap().spawn(task);
            socket
        });
        socket.clone()
    }

    /// Everything that comes to the stand-in of `real` goes on to it, from the stand-in of who sent it.
    async fn carry(self, socket: Arc<UdpSocket>, real: SocketAddr) {
        let (mut queue, mut due) = mpsc::channel::<(Instant, SocketAddr, Vec<u8>)>(ON_THE_WAY);
        let network = self.clone();
        let late = async move {
            while let Some((at, from, datagram)) = due.next().await {
                tokio::time::sleep_until(at).await;
                if !network.inner.is_cut.load(Ordering::SeqCst) {
                    network.inner.carried.fetch_add(1, Ordering::SeqCst);
                    let stand_in = network.socket(from);
                    stand_in.send_to(&datagram, real).await.ok();
                }
            }
        };
        let receive = async move {
            let mut buffer = [0; 2048];
            let mut count = 0_u64;
            // Ports that are closed answer with errors.
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                    continue;
                };
                count += 1;
                let every = self.inner.lose_every.load(Ordering::SeqCst);
                if every > 0 && count.is_multiple_of(every) {
                    continue;
                }
                let delay = Duration::from_millis(self.inner.delay.load(Ordering::SeqCst));
                let item = (Instant::now() + delay, from, buffer[..length].to_vec());
                queue.try_send(item).ok();
            }
        };
        futures::future::join(late, receive).await;
    }

    /// A candidate that leads through here.
    fn candidate(&self, text: &str) -> String {
        let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
        let address = format!("{}:{}", words[4], words[5]);
        if let Ok(real @ SocketAddr::V4(_)) = address.parse() {
            let stand_in = self.stand_in(real);
            words[4] = stand_in.ip().to_string();
            words[5] = stand_in.port().to_string();
        }
        words.join(" ")
    }

    fn description(&self, sdp: &str) -> String {
        let lines = sdp
            .lines()
            .map(|line| match line.strip_prefix("a=candidate:") {
                Some(_) => self.candidate(line),
                None => line.to_owned(),
            });
        lines.map(|line| format!("{line}\r\n")).collect()
    }

    /// A frame of signaling as the other end shall see it.
    fn frame(&self, frame: Frame) -> Frame {
        match frame {
            Frame::WebRtcOffer(sdp) => Frame::WebRtcOffer(self.description(&sdp)),
            Frame::WebRtcAnswer(sdp) => Frame::WebRtcAnswer(self.description(&sdp)),
            Frame::IceCandidate(candidate) if !candidate.candidate.is_empty() => {
                Frame::IceCandidate(IceCandidate {
                    candidate: self.candidate(&candidate.candidate),
                    ..candidate
                })
            }
            other => other,
        }
    }
}

/// Changes what the client sends; gives what arrives in its place.
pub(crate) type Tamper = Arc<dyn Fn(Frame) -> Vec<Frame> + Send + Sync>;

/// How the WebSockets of a client are.
#[derive(Clone, Default)]
pub(crate) struct Net {
    server: Option<Server>,
    pub(crate) mode: Option<Mode>,
    /// Both ends take it for one that nobody can change.
    pub(crate) private: bool,
    /// In one direction.
    pub(crate) delay: Duration,
    pub(crate) path: Path,
    pub(crate) up: Option<Tamper>,
    pub(crate) down: Option<Tamper>,
    cuts: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
    seen: Arc<Mutex<Vec<Frame>>>,
}

impl Net {
    /// Breaks the last WebSocket: all that is on its way is lost.
    pub(crate) fn cut(&self) {
        for relay in self.cuts.lock().unwrap().drain(..) {
            relay.abort();
        }
    }

    /// Frames but DATA, PING and PONG that arrived at either end so far.
    pub(crate) fn seen(&self) -> Vec<Frame> {
        self.seen.lock().unwrap().clone()
    }

    /// How many of them `wanted` likes.
    pub(crate) fn count(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.seen().iter().filter(|frame| wanted(frame)).count()
    }

    /// Carries messages in one direction.
    async fn carry(
        self,
        mut from: impl Stream<Item = io::Result<Bytes>> + Unpin,
        mut to: impl Sink<Bytes, Error = io::Error> + Unpin,
        tamper: Option<Tamper>,
    ) {
        let (mut queue, mut due) = mpsc::channel::<(Instant, Bytes)>(64);
        let late = async move {
            while let Some((at, message)) = due.next().await {
                tokio::time::sleep_until(at).await;
                if to.send(message).await.is_err() {
                    return;
                }
            }
            to.close().await.ok();
        };
        let take = async move {
            while let Some(Ok(message)) = from.next().await {
                let at = Instant::now() + self.delay;
                for message in self.pass(message, tamper.as_ref()) {
                    if queue.send((at, message)).await.is_err() {
                        return;
                    }
                }
            }
        };
        futures::future::join(late, take).await;
    }

    fn pass(&self, message: Bytes, tamper: Option<&Tamper>) -> Vec<Bytes> {
        let frame = decode_message(message.clone(), &FrameLimits::default()).unwrap();
        if matches!(frame, Frame::Data(_) | Frame::Ping(_) | Frame::Pong(_)) && tamper.is_none() {
            return vec![message];
        }
        let frame = self.path.frame(frame);
        let frames = match tamper {
            Some(tamper) => tamper(frame),
            None => vec![frame],
        };
        let mut seen = self.seen.lock().unwrap();
        let control =
            |frame: &&Frame| !matches!(frame, Frame::Data(_) | Frame::Ping(_) | Frame::Pong(_));
        // Enough for any test, and no more.
        let room = 1000_usize.saturating_sub(seen.len());
        seen.extend(frames.iter().filter(control).take(room).cloned());
        let encode = |frame| encode_message(frame).unwrap();
        frames.iter().map(encode).collect()
    }
}

impl Connector for Net {
    fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>> {
        let (ours, near) = Messages::pair(2);
        let (far, theirs) = Messages::pair(2);
        let (near_out, near_in) = near.split();
        let (far_out, far_in) = far.split();
        let up = self.clone().carry(near_in, far_out, self.up.clone());
        let down = self.clone().carry(far_in, near_out, self.down.clone());
        let relay = tokio::spawn(async move {
            futures::future::join(up, down).await;
        });
        self.cuts.lock().unwrap().push(relay.abort_handle());
        let make = |messages| {
            let wire = Wire::messages(PathKind::WebSocket, messages).with_label("websocket");
            if self.private { wire.private() } else { wire }
        };
        let server = self.server.clone().unwrap();
        let origin = Origin::address("192.0.2.1");
        tokio::spawn(server.serve(make(theirs), self.mode.unwrap(), origin));
        let wire = make(ours);
        Box::pin(async { Ok(wire) })
    }
}

/// The far end of a session, in the hands of the test.
struct Far {
    io: DuplexStream,
    controls: mpsc::Receiver<Control>,
}

struct TestBackend {
    io: DuplexStream,
    controls: mpsc::Sender<Control>,
}

impl Backend for TestBackend {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn control(&mut self, control: Control) {
        self.controls.try_send(control).ok();
    }

    fn poll_exit(&mut self, _: &mut Context<'_>) -> Poll<Exit> {
        Poll::Ready(Exit::Code(7))
    }
}

/// Lets everybody in.
struct Open {
    fars: mpsc::Sender<Far>,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Service for Open {
    fn open(&self, _: Opening) -> BoxFuture<'static, Result<Opened, Failure>> {
        let (io, ours) = tokio::io::duplex(64 * 1024);
        let (controls, told) = mpsc::channel(64);
        let far = Far { io, controls: told };
        let mut fars = self.fars.clone();
        Box::pin(async move {
            fars.send(far).await.unwrap();
            Ok(Opened {
                backend: Box::new(TestBackend { io: ours, controls }),
                label: "guest".to_owned(),
                target: "test".to_owned(),
                expires: None,
                by_token: true,
            })
        })
    }

    fn ended(&self, record: &Record) {
        self.records.lock().unwrap().push(record.clone());
    }
}

/// What a caller in this process works with: it offers loopback.
pub(crate) fn calls() -> CallConfig {
    CallConfig::new().with_announced(vec![Ipv4Addr::LOCALHOST.into()])
}

/// A server, and everything around it.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) net: Net,
    /// Makes the connections of the server, and of the clients.
    pub(crate) callers: [Caller; 2],
    pub(crate) options: SessionOptions,
    fars: mpsc::Receiver<Far>,
    records: Arc<Mutex<Vec<Record>>>,
}

impl World {
    pub(crate) fn new(mode: Mode) -> Self {
        Self::with(mode, ServerConfig::default(), calls())
    }

    /// The server with this configuration, its connections with that.
    pub(crate) fn with(mode: Mode, config: ServerConfig, server_calls: CallConfig) -> Self {
        let (sender, fars) = mpsc::channel(16);
        let records = Arc::default();
        let service = Open {
            fars: sender,
            records: Arc::clone(&records),
        };
        let callers = [Caller::new(server_calls), Caller::new(calls())];
        let webrtc = WebRtc::new(callers[0].clone());
        let server = Server::with_webrtc(config, service, 16, webrtc);
        let pauses = (Duration::from_millis(500), Duration::from_secs(2));
        let webrtc = WebRtc::new(callers[1].clone()).with_pauses(pauses.0, pauses.1);
        Self {
            net: Net {
                server: Some(server.clone()),
                mode: Some(mode),
                private: true,
                ..Net::default()
            },
            options: SessionOptions::new(mode).token("secret").webrtc(webrtc),
            server,
            callers,
            fars,
            records,
        }
    }

    /// A session.
    pub(crate) async fn open(&mut self) -> Ends {
        self.open_by(self.net.clone()).await
    }

    /// A session over other WebSockets than those in memory.
    pub(crate) async fn open_by(&mut self, connector: impl Connector) -> Ends {
        let opening = open(self.options.clone(), connector);
        let session = soon(opening).await.unwrap();
        let Far { io, controls } = soon(self.fars.next()).await.unwrap();
        Ends {
            session,
            far: io,
            controls,
            up: 0,
            down: 0,
        }
    }

    /// The same, when both its ends are on WebRTC.
    pub(crate) async fn upgraded(&mut self) -> Ends {
        let ends = self.open().await;
        let handle = ends.session.handle();
        self.await_carrier(&handle, Carrier::WebRtcDirect).await;
        ends
    }

    /// Waits until the bytes of the only session go this way in both directions.
    pub(crate) async fn await_carrier(&self, handle: &SessionHandle, carrier: Carrier) {
        until(&format!("both ends are on {carrier}"), || {
            let sessions = self.server.sessions();
            handle.carrier() == Some(carrier)
                && sessions
                    .iter()
                    .all(|session| session.carrier == Some(carrier))
        })
        .await;
    }

    /// What is said of the first session that ended.
    pub(crate) async fn record(&self) -> Record {
        let first = || self.records.lock().unwrap().first().cloned();
        until("a session has ended", || first().is_some()).await;
        first().unwrap()
    }

    /// The same with bytes going both ways.
    pub(crate) async fn loaded(&mut self) -> (SessionHandle, Load) {
        let ends = self.upgraded().await;
        (ends.session.handle(), ends.load())
    }

    /// The user ends the last session, and nothing is left of all of them.
    pub(crate) async fn finish(self, ends: Ends) {
        ends.close().await;
        self.assert_nothing_left().await;
    }

    /// Waits until nothing is left: no session, no connection, no task.
    pub(crate) async fn assert_nothing_left(self) {
        let limit = TIME_TO_CLEAN_UP;
        let none = || self.server.sessions().is_empty();
        within(limit, "no session is left", none).await;
        for caller in &self.callers {
            within(limit, "no connection is left", || caller.calls() == 0).await;
        }
        self.net.path.stop();
        drop(self);
        let metrics = tokio::runtime::Handle::current().metrics();
        within(limit, "no task is left", || metrics.num_alive_tasks() == 0).await;
    }
}

/// Byte `index` of what everybody writes.
fn pattern(index: u64) -> u8 {
    (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The next `length` bytes of the pattern.
pub(crate) fn piece(from: u64, length: u64) -> Vec<u8> {
    (from..from + length).map(pattern).collect()
}

/// Both ends of a session, and how many bytes have gone either way.
pub(crate) struct Ends {
    pub(crate) session: RemoteSession,
    pub(crate) far: DuplexStream,
    pub(crate) controls: mpsc::Receiver<Control>,
    pub(crate) up: u64,
    pub(crate) down: u64,
}

impl Ends {
    /// Both write until they are told to stop, and compare what comes.
    pub(crate) fn load(self) -> Load {
        let (stop, stopped) = watch::channel(false);
        let (reader, writer) = tokio::io::split(self.session);
        let (far_reader, far_writer) = tokio::io::split(self.far);
        let (up_total, up_known) = watch::channel(None);
        let (down_total, down_known) = watch::channel(None);
        Load {
            stop,
            controls: self.controls,
            sending: tokio::spawn(send(writer, self.up, stopped.clone(), up_total)),
            answering: tokio::spawn(send(far_writer, self.down, stopped, down_total)),
            arriving: tokio::spawn(receive(far_reader, self.up, up_known)),
            receiving: tokio::spawn(receive(reader, self.down, down_known)),
        }
    }

    /// So many bytes go either way and arrive.
    pub(crate) async fn exchange(mut self, bytes: u64) -> Self {
        let (mut reader, mut writer) = tokio::io::split(self.session);
        let (mut far_reader, mut far_writer) = tokio::io::split(self.far);
        let (up, down) = (self.up, self.down);
        let to = async {
            writer.write_all(&piece(up, bytes)).await.unwrap();
            writer.flush().await.unwrap();
        };
        let from = async {
            far_writer.write_all(&piece(down, bytes)).await.unwrap();
            far_writer.flush().await.unwrap();
        };
        let arrived = read(&mut far_reader, up, up + bytes);
        let returned = read(&mut reader, down, down + bytes);
        soon(async { tokio::join!(to, from, arrived, returned) }).await;
        self.session = reader.unsplit(writer);
        self.far = far_reader.unsplit(far_writer);
        self.up += bytes;
        self.down += bytes;
        self
    }

    /// The user ends the session.
    pub(crate) async fn close(self) {
        let handle = self.session.handle();
        drop(self.session);
        let end = soon(handle.ended()).await;
        let orderly = matches!(&end.reason, EndReason::Close(close) if close.code == Code::NORMAL);
        assert!(orderly, "{end:?}");
    }
}

/// Bytes that go both ways.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    controls: mpsc::Receiver<Control>,
    sending: JoinHandle<(WriteHalf<RemoteSession>, u64)>,
    answering: JoinHandle<(WriteHalf<DuplexStream>, u64)>,
    arriving: JoinHandle<ReadHalf<DuplexStream>>,
    receiving: JoinHandle<ReadHalf<RemoteSession>>,
}

impl Load {
    /// Nobody writes any more; waits until all that was written is there.
    pub(crate) async fn stop(self) -> Ends {
        self.stop.send_replace(true);
        let (writer, up) = soon(self.sending).await.unwrap();
        let (far_writer, down) = soon(self.answering).await.unwrap();
        let far_reader = soon(self.arriving).await.unwrap();
        let reader = soon(self.receiving).await.unwrap();
        Ends {
            session: reader.unsplit(writer),
            far: far_reader.unsplit(far_writer),
            controls: self.controls,
            up,
            down,
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(
    mut io: W,
    from: u64,
    stop: watch::Receiver<bool>,
    total: watch::Sender<Option<u64>>,
) -> (W, u64) {
    let mut at = from;
    while !*stop.borrow() {
        io.write_all(&piece(at, 5000)).await.unwrap();
        io.flush().await.unwrap();
        at += 5000;
    }
    total.send_replace(Some(at));
    (io, at)
}

async fn receive<R: AsyncRead + Unpin>(
    mut io: R,
    from: u64,
    mut total: watch::Receiver<Option<u64>>,
) -> R {
    let mut at = from;
    let mut buffer = vec![0; 16 * 1024];
    while *total.borrow() != Some(at) {
        let count = tokio::select! {
            count = io.read(&mut buffer) => count.unwrap(),
            _ = total.changed() => continue,
        };
        assert!(count > 0, "it ends after {at} bytes");
        check(&buffer[..count], &mut at);
    }
    io
}

fn check(bytes: &[u8], at: &mut u64) {
    for byte in bytes {
        assert_eq!(*byte, pattern(*at), "byte {at}");
        *at += 1;
    }
}

/// Reads bytes `from..to` of the pattern, each in its place.
pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin), from: u64, to: u64) {
    let mut buffer = vec![0; 16 * 1024];
    let mut at = from;
    while at < to {
        let most = buffer.len().min(usize::try_from(to - at).unwrap());
        let count = io.read(&mut buffer[..most]).await.unwrap();
        assert!(count > 0, "it ends after {at} bytes");
        check(&buffer[..count], &mut at);
    }
}
