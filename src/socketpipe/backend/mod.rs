//! What a session is connected to on the server: a TCP service, a local shell, a shell behind SSH.
//!
//! [`Backend`] is all a session knows of it: bytes both ways, a few controls, how it ended. The driver polls it and
//! stops reading it when the client does not keep up, so a backend holds little; dropping it ends it.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    code::Code,
    frame::{Close, Env, Failure, Signal, Size},
};

#[cfg(feature = "gateway")]
mod known_hosts;
#[cfg(all(feature = "gateway", unix))]
mod shell;
#[cfg(feature = "gateway")]
mod ssh;
mod tcp;

#[cfg(all(feature = "gateway", unix))]
pub use self::shell::ShellConfig;
#[cfg(feature = "gateway")]
pub use self::ssh::{SshAuth, SshConfig};
pub use self::tcp::connect_tcp;
pub(super) use self::tcp::not_allowed;

/// The far end of a session.
pub trait Backend: Send + 'static {
    /// Reads; nothing filled means that nothing more comes. Not called while the client does not keep up.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    /// Writes some of `bytes`, which are not empty.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// The client has no more bytes (half-close).
    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// What a terminal does beside bytes. Never blocks.
    fn control(&mut self, _control: Control) {}

    /// How it ended; asked after reading ended.
    fn poll_exit(&mut self, _cx: &mut Context<'_>) -> Poll<Exit> {
        Poll::Ready(Exit::Closed)
    }
}

/// What a terminal does beside bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A variable, before the shell starts.
    Env(Env),
    /// The size of the terminal.
    Resize(Size),
    /// A signal for the program.
    Signal(Signal),
}

/// How a backend ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A program ended with this status.
    Code(i32),
    /// A signal ended the program: its name without `SIG`.
    Signal(String),
    /// It ended; there is no status.
    Closed,
    /// It failed.
    Failed(Failure),
}

impl Exit {
    /// What CLOSE says about it. Programs read the first word.
    pub(super) fn into_close(self) -> (Code, String) {
        match self {
            Self::Failed(failure) => (failure.code, failure.message),
            other => (Code::BACKEND_CLOSED, other.to_string()),
        }
    }

    /// What a CLOSE says about the backend.
    pub fn of(close: &Close) -> Self {
        let word = close.message.split_whitespace().next().unwrap_or_default();
        if close.code != Code::BACKEND_CLOSED {
            return match close.code.is_error() {
                true => Self::Failed(Failure::new(close.code, close.message.clone())),
                false => Self::Closed,
            };
        }
        let code = word
            .strip_prefix("exit=")
            .and_then(|code| code.parse().ok());
        match (code, word.strip_prefix("signal=")) {
            (Some(code), _) => Self::Code(code),
            (None, Some(name)) => Self::Signal(name.to_owned()),
            (None, None) => Self::Closed,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit={code}"),
            Self::Signal(name) => write!(f, "signal={name}"),
            Self::Closed => f.write_str("closed"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

/// A backend that is nothing but bytes: TCP and anything alike.
#[derive(Debug)]
pub struct StreamBackend<S> {
    io: S,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> StreamBackend<S> {
    /// These bytes.
    pub fn new(io: S) -> Self {
        Self { io }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Backend for StreamBackend<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Which variables of a client reach a shell: those that describe its terminal and language, and a configured list.
/// Anything else could make programs run code (`LD_PRELOAD`, `BASH_ENV`, ...).
#[cfg(feature = "gateway")]
pub(super) fn is_env_allowed(name: &str, extra: &[String]) -> bool {
    let is_word = |text: &str| {
        text.bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    matches!(name, "TERM" | "COLORTERM" | "LANG" | "TZ")
        || name.strip_prefix("LC_").is_some_and(is_word)
        || extra.iter().any(|allowed| allowed == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(code: Code, message: &str) -> Close {
        Close {
            by_client: false,
            code,
            message: message.to_owned(),
        }
    }

    #[test]
    fn exit_survives_the_way_through_close() {
        for exit in [
            Exit::Code(0),
            Exit::Code(137),
            Exit::Signal("TERM".to_owned()),
            Exit::Closed,
            Exit::Failed(Failure::new(Code::CONNECT_FAILED, "gone")),
        ] {
            let (code, text) = exit.clone().into_close();
            assert_eq!(Exit::of(&close(code, &text)), exit);
        }
    }

    #[cfg(feature = "gateway")]
    #[test]
    fn a_client_sets_what_describes_its_terminal_and_nothing_else() {
        let extra = ["EDITOR".to_owned()];
        for name in ["TERM", "LANG", "LC_ALL", "LC_TIME", "EDITOR"] {
            assert!(is_env_allowed(name, &extra), "{name}");
        }
        for name in [
            "",
            "PATH",
            "LD_PRELOAD",
            "BASH_ENV",
            "LC_A=B",
            "LC_\0",
            "LC_()",
            "lc_all",
            "TERM ",
        ] {
            assert!(!is_env_allowed(name, &extra), "{name:?}");
        }
    }

    #[test]
    fn reads_the_first_word_only() {
        let exit = Exit::of(&close(Code::BACKEND_CLOSED, "exit=3 (see the log)"));
        assert_eq!(exit, Exit::Code(3));
    }

    #[test]
    fn an_ordinary_close_has_no_status() {
        assert_eq!(Exit::of(&close(Code::NORMAL, "exit=3")), Exit::Closed);
    }
}
