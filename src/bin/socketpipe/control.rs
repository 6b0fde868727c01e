//! How commands talk to the server that runs: a socket in the state directory, one JSON object each way.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::{Failed, state::State};

/// The socket.
const SOCKET: &str = "control.sock";
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
}

/// Asks the server that runs.
pub(crate) async fn ask<T: DeserializeOwned>(
    state: &State,
    request: &Request,
) -> Result<T, Failed> {
    let stream = UnixStream::connect(state.file(SOCKET)).await.map_err(
        |_| "no server runs with this state directory; start one with `socketpipe serve`",
    )?;
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
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Left behind, the next start would remove it.
        fs::remove_file(&self.path).ok();
    }
}

impl Listener {
    /// Opens the socket. One server per state directory: two would overwrite each other's tokens.
    pub(crate) async fn open(state: &State) -> Result<Self, Failed> {
        let path = state.file(SOCKET);
        if UnixStream::connect(&path).await.is_ok() {
            return Err(
                "a server runs with this state directory already; choose another with --state"
                    .into(),
            );
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let listener =
            UnixListener::bind(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // The directory is closed to others already.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve<F>(&self, answer: F)
    where
        F: Fn(Request) -> Result<serde_json::Value, Failed> + Clone + Send + 'static,
    {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
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
