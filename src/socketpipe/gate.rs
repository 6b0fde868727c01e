//! The ready service: access, targets, backends.
//!
//! A [`Gate`] asks its [`Access`] who it is, its target lists where they may go, and connects. It owns no session and
//! no secret; recording and the like wrap it as another [`Service`].

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;

use super::{
    access::{Access, Grant},
    backend::{Backend, connect_tcp, not_allowed},
    code::Code,
    frame::Failure,
    server::{Opened, Opening, Origin, Outcome, Record, Service},
    session::Mode,
    targets::Allowlist,
};
#[cfg(all(feature = "gateway", unix))]
use crate::socketpipe::backend::ShellConfig;
#[cfg(feature = "gateway")]
use crate::socketpipe::backend::SshConfig;

/// A backend or a reason why not.
pub type Connecting = BoxFuture<'static, Result<Box<dyn Backend>, Failure>>;
/// Makes a backend of the program's own.
pub type Connect = Arc<dyn Fn(&Opening) -> Connecting + Send + Sync>;
/// Hears of every session that ended and every refusal.
type OnEnd = Arc<dyn Fn(&Record) + Send + Sync>;

/// Where tunnels lead. Default: nowhere.
#[derive(Clone, Debug, Default)]
pub struct TunnelTargets {
    /// Where those go who name no target: the operator's own choice, not checked against the list.
    pub default: Option<(String, u16)>,
    /// Where those may go who name one.
    pub allow: Allowlist,
}

/// Where terminals lead. Default: nowhere.
#[derive(Clone, Debug, Default)]
pub struct PtyTargets {
    /// For those who name no target.
    pub default: Option<PtyDefault>,
    /// SSH servers for those who name one.
    pub allow: Allowlist,
    /// How to log in there; without it no SSH server can be reached.
    #[cfg(feature = "gateway")]
    pub ssh: Option<SshConfig>,
}

/// The terminal of those who name no target.
#[derive(Clone)]
#[non_exhaustive]
pub enum PtyDefault {
    /// A shell on this machine, as the user the server runs as.
    #[cfg(all(feature = "gateway", unix))]
    Shell(ShellConfig),
    /// An SSH server: the operator's own choice, not checked against the list.
    #[cfg(feature = "gateway")]
    Ssh {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Something else.
    Custom(Connect),
}

impl fmt::Debug for PtyDefault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PtyDefault {
    fn name(&self) -> &'static str {
        match self {
            #[cfg(all(feature = "gateway", unix))]
            Self::Shell(_) => "shell",
            #[cfg(feature = "gateway")]
            Self::Ssh { .. } => "ssh",
            Self::Custom(_) => "custom",
        }
    }
}

/// The ready [`Service`]. The default lets nobody in and leads nowhere.
#[derive(Clone, Default)]
pub struct Gate {
    /// Who.
    pub access: Access,
    /// Where to, without a terminal.
    pub tunnel: TunnelTargets,
    /// Where to, with one.
    pub pty: PtyTargets,
    on_end: Option<OnEnd>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("access", &self.access)
            .field("tunnel", &self.tunnel)
            .field("pty", &self.pty)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// Lets in whom `access` lets in; leads nowhere yet.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            ..Self::default()
        }
    }

    /// Calls this at the end of every session and for every refusal.
    #[must_use]
    pub fn on_end(mut self, hear: impl Fn(&Record) + Send + Sync + 'static) -> Self {
        self.on_end = Some(Arc::new(hear));
        self
    }

    async fn admit(self, opening: Opening) -> Result<Opened, Failure> {
        let grant = self.access.check(&opening)?;
        let (backend, target) = match opening.mode {
            Mode::Tunnel => self.tunnel(&opening, &grant).await?,
            Mode::Pty => self.terminal(&opening, &grant).await?,
        };
        Ok(Opened {
            backend,
            label: grant.label,
            target,
            expires: grant.expires,
            by_token: grant.by_token,
        })
    }

    async fn tunnel(
        &self,
        opening: &Opening,
        grant: &Grant,
    ) -> Result<(Box<dyn Backend>, String), Failure> {
        let allow = lists(&self.tunnel.allow, grant);
        let (host, port, allow) = match &self.tunnel.default {
            _ if !opening.is_default() => (&opening.host, opening.port, &allow[..]),
            Some((host, port)) => (host, *port, &[][..]),
            None => return Err(no_default("a port forwarding")),
        };
        let backend = connect_tcp(host, port, allow).await?;
        Ok((Box::new(backend), format!("{host}:{port}")))
    }

    async fn terminal(
        &self,
        opening: &Opening,
        grant: &Grant,
    ) -> Result<(Box<dyn Backend>, String), Failure> {
        if !opening.is_default() {
            let allow = lists(&self.pty.allow, grant);
            return self.ssh(&opening.host, opening.port, &allow).await;
        }
        match &self.pty.default {
            #[cfg(all(feature = "gateway", unix))]
            Some(PtyDefault::Shell(shell)) => Ok((shell.open()?, "shell".to_owned())),
            #[cfg(feature = "gateway")]
            Some(PtyDefault::Ssh { host, port }) => self.ssh(host, *port, &[]).await,
            Some(PtyDefault::Custom(connect)) => Ok((connect(opening).await?, "custom".to_owned())),
            None => Err(no_default("a terminal")),
        }
    }

    #[cfg(feature = "gateway")]
    async fn ssh(
        &self,
        host: &str,
        port: u16,
        allow: &[&Allowlist],
    ) -> Result<(Box<dyn Backend>, String), Failure> {
        let ssh = self.pty.ssh.as_ref().ok_or_else(not_allowed)?;
        let backend = ssh.open(host, port, allow).await?;
        Ok((backend, format!("ssh {host}:{port}")))
    }

    #[cfg(not(feature = "gateway"))]
    #[expect(clippy::unused_async, reason = "it dials with feature `gateway`")]
    async fn ssh(
        &self,
        _host: &str,
        _port: u16,
        _allow: &[&Allowlist],
    ) -> Result<(Box<dyn Backend>, String), Failure> {
        Err(not_allowed())
    }
}

/// What a target has to be on: the server's list, and that of the token.
fn lists<'a>(servers: &'a Allowlist, grant: &'a Grant) -> Vec<&'a Allowlist> {
    std::iter::once(servers).chain(&grant.targets).collect()
}

fn no_default(what: &str) -> Failure {
    Failure::new(
        Code::AUTH_INSUFFICIENT,
        format!("this server offers {what} to named targets only, if at all, and none was named"),
    )
}

impl Service for Gate {
    fn open(&self, opening: Opening) -> BoxFuture<'static, Result<Opened, Failure>> {
        Box::pin(self.clone().admit(opening))
    }

    fn knows(&self, origin: &Origin) -> bool {
        self.access.is_listed(origin)
    }

    fn ended(&self, record: &Record) {
        log(record);
        if let Some(hear) = &self.on_end {
            hear(record);
        }
    }
}

/// One line for each, at `debug`: peers begin and end sessions at will. Who keeps a record of them has the audit.
fn log(record: &Record) {
    let Record {
        number,
        origin,
        label,
        mode,
        target,
        sent,
        received,
        ..
    } = record;
    match &record.outcome {
        Outcome::Refused(failure) => {
            tracing::debug!(%origin, ?mode, target, %failure, "session refused");
        }
        outcome => {
            let time = record.ended.duration_since(record.started).ok();
            tracing::debug!(
                number, %origin, label, ?mode, target, sent, received, ?time, ?outcome, "session ended"
            );
        }
    }
}
