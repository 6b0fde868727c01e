//! The client of sessions, over libp2p and WebSockets alike.
//!
//! [`open`] runs a session in a task of its own and gives a [`RemoteSession`]: bytes both ways, and a
//! [`SessionHandle`] for everything else. The task owns reconnecting: after a loss it asks its [`Connector`] for
//! another wire, with growing pauses, and it moves to a better one when there is one. How a wire comes about is the
//! connector's business.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::{mpsc, oneshot, watch},
};

use super::{
    backend::Exit,
    code::Code,
    driver::Driver,
    frame::{Failure, Signal, Size},
    session::{By, ClientConfig, End, EndReason, Mode, Session, Stats},
    upgrade::{Carrier, WebRtc},
    wire::Wire,
};

mod pipe;
mod task;

/// Bytes in each direction between the user and the session.
const PIPE_SIZE: usize = 64 * 1024;
/// Commands that wait for the task.
const MAX_COMMANDS: usize = 16;

/// What a session shall be.
#[derive(Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Mode, target, token and limits.
    pub config: ClientConfig,
    /// Variables for the shell.
    pub env: Vec<(String, String)>,
    /// Size of the terminal.
    pub size: Option<Size>,
    /// How long to try to reconnect. `None` (default): as long as the server keeps the session.
    pub give_up_after: Option<Duration>,
    /// Moves the bytes to a WebRTC data channel where the session runs over a private WebSocket ([`Wire::private`]) and
    /// the server can do it. `None` (default): never. Takes the place of [`ClientConfig::webrtc`].
    pub webrtc: Option<WebRtc>,
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("mode", &self.config.mode)
            .field("host", &self.config.host)
            .field("port", &self.config.port)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl SessionOptions {
    /// The server's default target, without a token.
    pub fn new(mode: Mode) -> Self {
        Self {
            config: ClientConfig::new(mode),
            env: Vec::new(),
            size: None,
            give_up_after: None,
            webrtc: None,
        }
    }

    /// This target.
    #[must_use]
    pub fn target(mut self, host: impl Into<String>, port: u16) -> Self {
        self.config.host = host.into();
        self.config.port = port;
        self
    }

    /// This token.
    #[must_use]
    pub fn token(mut self, token: impl Into<Bytes>) -> Self {
        self.config.token = token.into();
        self
    }

    /// One more variable for the shell.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// With the WebRTC upgrade.
    #[must_use]
    pub fn webrtc(mut self, webrtc: WebRtc) -> Self {
        self.webrtc = Some(webrtc);
        self
    }

    /// The terminal has this size.
    #[must_use]
    pub fn size(mut self, size: Size) -> Self {
        self.size = Some(size);
        self
    }
}

/// Makes wires to one server.
pub trait Connector: Send + 'static {
    /// A new wire. Asked again after each loss; the pauses are the caller's.
    fn connect(&mut self) -> BoxFuture<'static, Result<Wire, ConnectError>>;

    /// A better wire than the last one, when there is one (relay to direct). Default: never.
    fn better(&mut self) -> BoxFuture<'static, Wire> {
        Box::pin(std::future::pending())
    }
}

/// No wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    /// For people, in one sentence.
    pub message: String,
    /// One line for each address that was tried: which, and why there is no way there. Empty if there is no more to say than
    /// the message does.
    pub tried: Vec<String>,
    /// Trying again is of no use.
    pub fatal: bool,
}

impl ConnectError {
    /// May work the next time.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            tried: Vec::new(),
            fatal: false,
        }
    }

    /// Will not work the next time either.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            tried: Vec::new(),
            fatal: true,
        }
    }
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server said no.
    #[error("refused: {0}")]
    Refused(Failure),
    /// The server cannot be reached.
    #[error("not reachable: {0}")]
    Unreachable(ConnectError),
    /// The session ended before it began.
    #[error("ended during the handshake")]
    Ended(End),
}

/// Where a session stands, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionStatus {
    /// Not open yet.
    Connecting,
    /// Open.
    Connected {
        /// The label of the wire that carries the bytes; of a data channel also whether it is relayed, and where it leads.
        path: String,
    },
    /// The wire is lost; nothing else is.
    Reconnecting {
        /// Attempts since the loss.
        attempt: u32,
        /// Why the last one failed.
        last_error: String,
    },
    /// Over.
    Ended(End),
}

/// What the user tells the task.
enum Command {
    Resize(Size),
    Signal(Signal),
    Close(Code, String),
    Abort(Code, String),
    Reconnect,
}

/// Everything of a session but its bytes. Clones act on the same session.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<SessionStatus>,
    figures: Arc<Mutex<Figures>>,
}

/// What changes too often to be told.
#[derive(Debug, Default)]
struct Figures {
    stats: Stats,
    carrier: Option<Carrier>,
    /// Times bytes were lost for good.
    losses: u32,
}

impl Figures {
    fn lock(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        // They are written by single assignments.
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionHandle {
    fn tell(&self, command: Command) {
        // Full: the task is busy with as many; a size is told again with the next one. Closed: the session is over.
        if self.commands.try_send(command).is_err() {
            tracing::debug!("command dropped");
        }
    }

    /// The terminal has this size now.
    pub fn resize(&self, size: Size) {
        self.tell(Command::Resize(size));
    }

    /// A signal for the program.
    pub fn signal(&self, signal: Signal) {
        self.tell(Command::Signal(signal));
    }

    /// Ends the session when everything written has been sent.
    pub fn close(&self, code: Code, message: &str) {
        self.tell(Command::Close(code, message.to_owned()));
    }

    /// Ends the session at once; unsent bytes are dropped.
    pub fn abort(&self, code: Code, message: &str) {
        self.tell(Command::Abort(code, message.to_owned()));
    }

    /// The network has changed, or the user does not want to wait: tries a new wire now. One that still works is kept
    /// until the new one does.
    pub fn reconnect_now(&self) {
        self.tell(Command::Reconnect);
    }

    /// Where the session stands.
    pub fn status(&self) -> SessionStatus {
        self.status.borrow().clone()
    }

    /// The same, to wait for changes.
    pub fn watch(&self) -> watch::Receiver<SessionStatus> {
        self.status.clone()
    }

    /// Figures, the round-trip time among them.
    pub fn stats(&self) -> Stats {
        Figures::lock(&self.figures).stats
    }

    /// What carries the bytes now; nothing while there is no connection.
    pub fn carrier(&self) -> Option<Carrier> {
        Figures::lock(&self.figures).carrier
    }

    /// How often a data channel broke in a terminal without Session Resume. Each time bytes in both directions may have
    /// been lost; the program was asked to draw its screen again.
    pub fn losses(&self) -> u32 {
        Figures::lock(&self.figures).losses
    }

    /// How the session ended, when it has.
    pub async fn ended(&self) -> End {
        let mut status = self.status.clone();
        let ended = status.wait_for(|status| matches!(status, SessionStatus::Ended(_)));
        match ended.await.as_deref() {
            Ok(SessionStatus::Ended(end)) => end.clone(),
            // The task was dropped with its runtime.
            _ => End {
                by: By::Local,
                reason: EndReason::TransportLost,
            },
        }
    }
}

/// How the backend of an ended session ended.
pub fn exit_of(end: &End) -> Exit {
    match &end.reason {
        EndReason::Close(close) => Exit::of(close),
        EndReason::Failed(failure)
        | EndReason::Refused(failure)
        | EndReason::PeerMisbehaved(failure)
        | EndReason::ResumeRefused { failure, .. } => Exit::Failed(failure.clone()),
        _ => Exit::Failed(Failure::new(Code::CONNECT_FAILED, "the connection is lost")),
    }
}

/// An open session: reads and writes its bytes, with the traits of `futures` and of `tokio`. Reading ends when the
/// session does. Shutting down the writing half means something to the server only with half-close. Dropped, it sends
/// what was written, then CLOSE.
#[derive(Debug)]
pub struct RemoteSession {
    pipe: DuplexStream,
    handle: SessionHandle,
    /// Tells the task that nobody is left to read or write.
    _alive: oneshot::Sender<()>,
}

impl RemoteSession {
    /// Everything but the bytes.
    pub fn handle(&self) -> SessionHandle {
        self.handle.clone()
    }

    /// How the session ended, when it has.
    pub async fn ended(&self) -> End {
        self.handle.ended().await
    }
}

/// Opens a session: connects and awaits the handshake.
pub async fn open(
    options: SessionOptions,
    connector: impl Connector,
) -> Result<RemoteSession, OpenError> {
    let mut session = Session::client(options.config, rand::random());
    for (name, value) in &options.env {
        if !session.env(name, value) {
            tracing::debug!(name, "variable not sent");
        }
    }
    if let Some(size) = options.size {
        session.resize(size);
    }
    let (pipe, ours) = tokio::io::duplex(PIPE_SIZE);
    let (alive, gone) = oneshot::channel();
    let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
    let (status_sender, status) = watch::channel(SessionStatus::Connecting);
    let figures = Arc::<Mutex<Figures>>::default();
    let (opened, answer) = oneshot::channel();
    let far = Box::new(pipe::Pipe::new(ours, gone));
    let driver = Driver::client(session, far, options.webrtc);
    let task = task::Task::new(
        driver,
        Box::new(connector),
        inbox,
        task::Report {
            status: status_sender,
            figures: figures.clone(),
            opened: Some(opened),
        },
        options.give_up_after,
    );
    tokio::spawn(task.run());
    let handle = SessionHandle {
        commands,
        status,
        figures,
    };
    // Dropping this future drops `alive`, and with it the session.
    let session = RemoteSession {
        pipe,
        handle,
        _alive: alive,
    };
    match answer.await {
        Ok(Ok(())) => Ok(session),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(OpenError::Unreachable(ConnectError::fatal(
            "the runtime stops",
        ))),
    }
}

impl AsyncRead for RemoteSession {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for RemoteSession {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

impl futures::AsyncRead for RemoteSession {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut buf = ReadBuf::new(bytes);
        Pin::new(&mut self.pipe)
            .poll_read(cx, &mut buf)
            .map_ok(|()| buf.filled().len())
    }
}

impl futures::AsyncWrite for RemoteSession {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        AsyncWrite::poll_shutdown(self, cx)
    }
}
