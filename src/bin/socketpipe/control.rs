//! How commands talk to the server that runs: a socket in the state directory, one JSON object each way.

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::{Failed, output::qr, state::State};

/// The socket.
const SOCKET: &str = "control.sock";
/// Locked by the server that runs.
const LOCK: &str = "server.lock";
/// Longest request or answer.
const MAX_LINE: u64 = 4 * 1024 * 1024;
/// Time for one.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a command asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub(crate) enum Request {
    /// Make an invitation.
    Invite(InviteRequest),
    /// What tokens are good for.
    Tokens,
    /// Take back all tokens with this label.
    Revoke { label: String },
    /// Who may come in without a token.
    Peers,
    /// Let a peer in.
    Allow { peer: String, name: String },
    /// Let it in no longer.
    Forget { peer: String },
    /// What runs.
    Sessions,
    /// End one.
    End { number: u64, message: String },
}

/// An invitation to be made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InviteRequest {
    pub(crate) label: String,
    pub(crate) tunnel: bool,
    pub(crate) peer: Option<String>,
    pub(crate) targets: Option<String>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) seconds: u64,
    /// 0: any number.
    pub(crate) uses: u32,
    pub(crate) signed: bool,
}

/// What comes back: the answer or a sentence.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply<T> {
    Done(T),
    Failed(String),
}

/// An invitation that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Invited {
    pub(crate) invitation: String,
    pub(crate) url: Option<String>,
    /// The link opens on this machine only, although the invitation is good elsewhere.
    #[serde(default)]
    pub(crate) here: bool,
}

impl Invited {
    /// For people; the QR code is what others can use. In a file or a pipe no camera sees one.
    pub(crate) fn lines(&self, no_qr: bool) -> Vec<String> {
        let mut lines = vec![format!("invitation  {}", self.invitation)];
        let label = if self.here {
            "open here  "
        } else {
            "open       "
        };
        lines.extend(self.url.as_ref().map(|url| format!("{label} {url}")));
        if !no_qr && io::stdout().is_terminal() {
            let link = self.url.as_ref().filter(|_| !self.here);
            lines.push(qr(link.unwrap_or(&self.invitation)));
        }
        lines
    }
}

/// Asks the server that runs.
pub(crate) async fn ask<T: DeserializeOwned>(
    state: &State,
    request: &Request,
) -> Result<T, Failed> {
    let path = state.file(SOCKET);
    let stream = UnixStream::connect(&path)
        .await
        .map_err(|error| match error.kind() {
            // There is no socket, or one that a server left behind.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no server runs with this state directory; start one with `socketpipe serve`"
                    .to_owned()
            }
            _ => format!("{}: {error}", path.display()),
        })?;
    let conversation = async {
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(reader.take(MAX_LINE))
            .read_line(&mut answer)
            .await?;
        Ok::<_, Failed>(answer)
    };
    let answer = tokio::time::timeout(TIMEOUT, conversation)
        .await
        .map_err(|_| "the server does not answer")??;
    match serde_json::from_str(&answer)? {
        Reply::Done(answer) => Ok(answer),
        Reply::Failed(sentence) => Err(sentence.into()),
    }
}

/// The server's side.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Who we are.
    user: u32,
    /// Held as long as we run, however we end.
    _lock: fs::File,
}

/// Two servers that start at the same moment must not both find nobody there.
fn lock(state: &State) -> Result<fs::File, Failed> {
    let path = state.file(LOCK);
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(|error| wrong(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(
            "a server runs with this state directory already; choose another with --state".into(),
        ),
        Err(fs::TryLockError::Error(error)) => Err(wrong(&error).into()),
    }
}

/// Whether a user may give orders: the one the server runs as, and the one who may do anything anyway.
fn may_command(user: u32, ours: u32) -> bool {
    user == ours || user == 0
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Left behind, the next start would remove it.
        fs::remove_file(&self.path).ok();
    }
}

impl Listener {
    /// Opens the socket. One server per state directory: two would overwrite each other's tokens.
    pub(crate) fn open(state: &State) -> Result<Self, Failed> {
        let path = state.file(SOCKET);
        let lock = lock(state)?;
        // Ours is the only server: what is there was left behind.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let listener =
            UnixListener::bind(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // The directory is closed to others, unless somebody else made it; and who got in before this is sent away.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path,
            user: rustix::process::geteuid().as_raw(),
            _lock: lock,
        })
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve<F>(&self, answer: F)
    where
        F: Fn(Request) -> Result<serde_json::Value, Failed> + Clone + Send + 'static,
    {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let user = stream.peer_cred().map(|peer| peer.uid());
                    if !user.is_ok_and(|user| may_command(user, self.user)) {
                        tracing::debug!("a command of another user refused");
                        continue;
                    }
                    let talk = tokio::time::timeout(TIMEOUT, converse(stream, answer.clone()));
                    tokio::spawn(async move {
                        if let Ok(Err(error)) = talk.await {
                            tracing::debug!(%error, "a command hung up");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "command not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse<F>(stream: UnixStream, answer: F) -> io::Result<()>
where
    F: Fn(Request) -> Result<serde_json::Value, Failed>,
{
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_LINE))
        .read_line(&mut line)
        .await?;
    let outcome = serde_json::from_str(&line)
        .map_err(Failed::from)
        .and_then(answer);
    let reply = match outcome {
        Ok(value) => Reply::Done(value),
        Err(error) => Reply::Failed(error.to_string()),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_give_no_orders() {
        assert!(may_command(1000, 1000) && may_command(0, 1000) && may_command(0, 0));
        assert!(!may_command(1001, 1000) && !may_command(1000, 0));
    }
}
