//! A terminal on an SSH server.
//!
//! [`SshConfig::open`] connects, checks the host key against known-hosts files (an unknown key is refused, never
//! learned), logs in and opens a channel; the terminal and the shell are asked for at the first size, byte, or after
//! 500 ms, as with a local shell. The library queues little here, so that a client that stops reading stops the
//! server.

use std::{
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt as _, Stream as _, StreamExt as _, channel::mpsc};
use russh::{
    Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig,
    client::{self, AuthResult, Handle, Msg},
    keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, agent::client::AgentClient},
};
use tokio::{io::ReadBuf, sync::oneshot, task::JoinHandle};

use super::{Backend, Control, Exit, is_env_allowed, known_hosts, tcp};
use crate::socketpipe::{
    code::Code,
    frame::{Failure, Signal, Size},
    targets::Allowlist,
};

/// How long a client may take to send variables and size.
const START_AFTER: Duration = Duration::from_millis(500);
/// Variables of one client.
const MAX_ENV: usize = 64;
/// Bytes the server may send ahead.
const WINDOW: u32 = 256 * 1024;
/// Pieces that wait on the way to the client; the library holds as many.
const MAX_PIECES: usize = 4;
/// Controls that wait.
const MAX_CONTROLS: usize = 32;

/// How to log in to SSH servers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SshConfig {
    /// The user there.
    pub user: String,
    /// Files with the keys of known hosts. Default: the user's and the system's.
    pub known_hosts: Vec<PathBuf>,
    /// What to try, in this order.
    pub auth: Vec<SshAuth>,
    /// Variables a client may set beside `TERM`, `COLORTERM`, `LANG`, `LC_*` and `TZ`; the server may refuse them.
    pub accept_env: Vec<String>,
    /// What to run instead of the user's shell.
    pub command: Option<String>,
}

/// A way to log in.
#[derive(Clone)]
#[non_exhaustive]
pub enum SshAuth {
    /// A password.
    Password(String),
    /// A private key in a file.
    Key {
        /// The file.
        path: PathBuf,
        /// Its passphrase.
        passphrase: Option<String>,
    },
    /// The keys of the agent at `SSH_AUTH_SOCK`.
    Agent,
}

impl fmt::Debug for SshAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(_) => f.write_str("Password"),
            Self::Key { path, .. } => f.debug_tuple("Key").field(path).finish(),
            Self::Agent => f.write_str("Agent"),
        }
    }
}

impl SshConfig {
    /// Logs in as this user, so far with nothing to show.
    pub fn new(user: impl Into<String>) -> Self {
        let mut known_hosts = vec![PathBuf::from("/etc/ssh/ssh_known_hosts")];
        known_hosts.extend(std::env::home_dir().map(|home| home.join(".ssh/known_hosts")));
        Self {
            user: user.into(),
            known_hosts,
            auth: Vec::new(),
            accept_env: Vec::new(),
            command: None,
        }
    }

    /// Connects and logs in. Every list has to permit the target.
    pub async fn open(
        &self,
        host: &str,
        port: u16,
        allow: &[&Allowlist],
    ) -> Result<Box<dyn Backend>, Failure> {
        let stream = tcp::connect(host, port, allow).await?;
        let known = self.read_known_hosts();
        let config = config(&known, host, port);
        let keys = HostKeys {
            known,
            host: host.to_owned(),
            port,
        };
        let mut handle = client::connect_stream(Arc::new(config), stream, keys).await?;
        self.log_in(&mut handle).await?;
        let channel = handle
            .channel_open_session()
            .await
            .map_err(SshError::from)?;
        Ok(Box::new(Ssh::new(handle, channel, self)))
    }

    /// A file that is not there vouches for nobody.
    fn read_known_hosts(&self) -> String {
        let texts = self.known_hosts.iter().map(|path| {
            std::fs::read_to_string(path).unwrap_or_else(|error| {
                tracing::debug!(%error, ?path, "known hosts not read");
                String::new()
            })
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    async fn log_in(&self, handle: &mut Handle<HostKeys>) -> Result<(), Failure> {
        for way in &self.auth {
            match self.try_way(handle, way).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, ?way, "login"),
            }
        }
        Err(Failure::new(
            Code::CONNECT_FAILED,
            "the SSH server refused the login",
        ))
    }

    async fn try_way(
        &self,
        handle: &mut Handle<HostKeys>,
        way: &SshAuth,
    ) -> Result<bool, russh::Error> {
        let user = self.user.as_str();
        let outcome = match way {
            SshAuth::Password(password) => handle.authenticate_password(user, password).await?,
            SshAuth::Key { path, passphrase } => {
                let key = russh::keys::load_secret_key(path, passphrase.as_deref())?;
                let hash = handle.best_supported_rsa_hash().await?.flatten();
                let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
                handle.authenticate_publickey(user, key).await?
            }
            SshAuth::Agent => return self.try_agent(handle).await,
        };
        Ok(matches!(outcome, AuthResult::Success))
    }

    async fn try_agent(&self, handle: &mut Handle<HostKeys>) -> Result<bool, russh::Error> {
        let mut agent = AgentClient::connect_env().await?;
        let hash = handle.best_supported_rsa_hash().await?.flatten();
        for identity in agent.request_identities().await? {
            let key = identity.public_key().into_owned();
            let hash = hash.filter(|_| key.algorithm().is_rsa());
            let outcome = handle
                .authenticate_publickey_with(self.user.as_str(), key, hash, &mut agent)
                .await;
            if matches!(outcome, Ok(AuthResult::Success)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Small queues, and the host key types that are known first.
fn config(known: &str, host: &str, port: u16) -> client::Config {
    let kinds = known_hosts::kinds(known, host, port);
    let mut config = client::Config {
        window_size: WINDOW,
        channel_buffer_size: MAX_PIECES,
        keepalive_interval: Some(Duration::from_secs(30)),
        ..client::Config::default()
    };
    let mut keys = config.preferred.key.to_vec();
    keys.sort_by_key(|key| {
        let name = if key.clone().is_rsa() {
            "ssh-rsa"
        } else {
            key.as_str()
        };
        !kinds.iter().any(|kind| kind == name)
    });
    config.preferred.key = keys.into();
    config
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum SshError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the key of the SSH server is not in the known-hosts file")]
    UnknownKey,
    #[error("the key of the SSH server is not the one in the known-hosts file")]
    WrongKey,
}

impl From<SshError> for Failure {
    fn from(error: SshError) -> Self {
        match error {
            SshError::Ssh(error) => {
                tracing::debug!(%error, "SSH");
                Self::new(Code::CONNECT_FAILED, "no SSH session with the server")
            }
            key => Self::new(Code::CONNECT_FAILED, key.to_string()),
        }
    }
}

/// Checks the key of one server.
struct HostKeys {
    known: String,
    host: String,
    port: u16,
}

impl client::Handler for HostKeys {
    type Error = SshError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        let text = key
            .public_key()
            .to_openssh()
            .map_err(|_| SshError::UnknownKey)?;
        let mut words = text.split(' ');
        let kind = words.next().unwrap_or_default();
        let key = words.next().unwrap_or_default();
        match known_hosts::check(&self.known, &self.host, self.port, kind, key) {
            known_hosts::Verdict::Known => Ok(true),
            known_hosts::Verdict::Wrong => Err(SshError::WrongKey),
            known_hosts::Verdict::Unknown => Err(SshError::UnknownKey),
        }
    }
}

/// The session's end of the task that talks to the server.
struct Ssh {
    controls: mpsc::Sender<Control>,
    input: mpsc::Sender<Bytes>,
    output: mpsc::Receiver<Bytes>,
    /// Output that did not fit the last read.
    rest: Bytes,
    exit: oneshot::Receiver<Exit>,
    task: JoinHandle<()>,
}

impl Ssh {
    fn new(handle: Handle<HostKeys>, channel: Channel<Msg>, config: &SshConfig) -> Self {
        let (controls, their_controls) = mpsc::channel(MAX_CONTROLS);
        let (input, their_input) = mpsc::channel(MAX_PIECES);
        let (their_output, output) = mpsc::channel(MAX_PIECES);
        let (their_exit, exit) = oneshot::channel();
        let (reader, writer) = channel.split();
        let start = Start {
            accept_env: config.accept_env.clone(),
            command: config.command.clone(),
        };
        let task = tokio::spawn(async move {
            let listen = listen(reader, their_output);
            let speak = speak(writer, start, their_controls, their_input);
            // The end of the channel is the end; as long as it is open, nothing else is.
            let exit = match futures::future::select(Box::pin(listen), Box::pin(speak)).await {
                futures::future::Either::Left((exit, _)) => exit,
                futures::future::Either::Right(((), listen)) => listen.await,
            };
            // The session may be gone.
            drop(their_exit.send(exit));
            drop(handle);
        });
        Self {
            controls,
            input,
            output,
            rest: Bytes::new(),
            exit,
            task,
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // With the task the connection ends, and with it what runs there.
        self.task.abort();
    }
}

/// What is needed to ask for the shell.
struct Start {
    accept_env: Vec<String>,
    command: Option<String>,
}

/// Output of the server, and how it ended.
async fn listen(mut reader: ChannelReadHalf, mut output: mpsc::Sender<Bytes>) -> Exit {
    let mut exit = Exit::Closed;
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => {
                // The session is gone, and this task is about to be.
                let Ok(()) = output.send(data).await else {
                    return exit;
                };
            }
            ChannelMsg::ExitStatus { exit_status } => {
                exit = Exit::Code(i32::try_from(exit_status).unwrap_or(i32::MAX));
            }
            ChannelMsg::ExitSignal { signal_name, .. } => {
                exit = Exit::Signal(match signal_name {
                    Sig::Custom(name) => name,
                    known => format!("{known:?}"),
                });
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    exit
}

/// Asks for the shell when it is time, then passes bytes and controls on. A control does not wait behind bytes.
async fn speak(
    writer: ChannelWriteHalf<Msg>,
    start: Start,
    mut controls: mpsc::Receiver<Control>,
    mut input: mpsc::Receiver<Bytes>,
) {
    let Ok(first) = start.run(&writer, &mut controls, &mut input).await else {
        return;
    };
    let bytes = async {
        if let Some(first) = first {
            writer.data_bytes(first).await?;
        }
        while let Some(bytes) = input.next().await {
            writer.data_bytes(bytes).await?;
        }
        Ok::<_, russh::Error>(())
    };
    let others = async {
        while let Some(control) = controls.next().await {
            match control {
                Control::Env(_) => {}
                Control::Resize(size) => change_window(&writer, size).await?,
                Control::Signal(signal) => send_signal(&writer, signal).await?,
            }
        }
        Ok::<_, russh::Error>(())
    };
    if let Err(error) = futures::future::try_join(bytes, others).await {
        tracing::debug!(%error, "SSH");
    }
}

impl Start {
    /// Collects variables until it is time, then asks for terminal and shell. Gives the bytes that were there first.
    async fn run(
        self,
        writer: &ChannelWriteHalf<Msg>,
        controls: &mut mpsc::Receiver<Control>,
        input: &mut mpsc::Receiver<Bytes>,
    ) -> Result<Option<Bytes>, russh::Error> {
        let mut env = Vec::new();
        let mut size = Size {
            columns: 80,
            rows: 24,
            ..Size::default()
        };
        let mut first = None;
        let collect = async {
            loop {
                let control = controls.next();
                let bytes = input.next();
                match futures::future::select(control, bytes).await {
                    futures::future::Either::Left((Some(Control::Env(one)), _)) => {
                        env.push((one.name, one.value));
                    }
                    futures::future::Either::Left((Some(Control::Signal(_)), _)) => {}
                    futures::future::Either::Left((Some(Control::Resize(one)), _)) => {
                        size = one;
                        return;
                    }
                    futures::future::Either::Right((bytes, _)) => {
                        first = bytes;
                        return;
                    }
                    futures::future::Either::Left((None, _)) => return,
                }
            }
        };
        // Whichever comes first.
        drop(tokio::time::timeout(START_AFTER, collect).await);
        env.retain(|(name, _)| is_env_allowed(name, &self.accept_env));
        env.truncate(MAX_ENV);
        let term = env.iter().find(|(name, _)| name == "TERM");
        let term = term
            .map_or("xterm-256color", |(_, value)| value.as_str())
            .to_owned();
        for (name, value) in env {
            writer.set_env(false, name, value).await?;
        }
        let (columns, rows) = (size.columns.into(), size.rows.into());
        let (width, height) = (size.width.into(), size.height.into());
        writer
            .request_pty(false, &term, columns, rows, width, height, &[])
            .await?;
        match self.command {
            Some(command) => writer.exec(false, command).await?,
            None => writer.request_shell(false).await?,
        }
        Ok(first)
    }
}

async fn change_window(writer: &ChannelWriteHalf<Msg>, size: Size) -> Result<(), russh::Error> {
    let (columns, rows) = (size.columns.into(), size.rows.into());
    writer
        .window_change(columns, rows, size.width.into(), size.height.into())
        .await
}

/// RFC 4254 section 6.9.
async fn send_signal(writer: &ChannelWriteHalf<Msg>, signal: Signal) -> Result<(), russh::Error> {
    let signal = match signal {
        Signal::Int => Sig::INT,
        Signal::Term => Sig::TERM,
        Signal::Hup => Sig::HUP,
        Signal::Kill => Sig::KILL,
        Signal::Unknown(_) => return Ok(()),
    };
    writer.signal(signal).await
}

impl Backend for Ssh {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.output).poll_next(cx)) {
                Some(bytes) => self.rest = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.split_to(self.rest.len().min(buf.remaining()));
        buf.put_slice(&taken);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.input.poll_ready(cx)).map_err(broken)?;
        let count = bytes.len();
        let bytes = Bytes::copy_from_slice(bytes);
        self.input.start_send(bytes).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn control(&mut self, control: Control) {
        // Full: the server does not keep up with sizes; the next one counts. Closed: it has ended.
        if self.controls.try_send(control).is_err() {
            tracing::debug!("control dropped");
        }
    }

    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        let exit = ready!(Pin::new(&mut self.exit).poll(cx));
        Poll::Ready(exit.unwrap_or(Exit::Closed))
    }
}
