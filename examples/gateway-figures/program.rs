//! The program that is measured, and sessions with it.

use std::{
    error::Error,
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use futures::{StreamExt as _, future::try_join_all};
use libp2p_rtc::socketpipe::{
    RemoteSession, SessionOptions,
    invitation::Invitation,
    open,
    session::Mode,
    websocket::{TlsRoots, WebSocketConnector},
};

use crate::swarm;

/// `socketpipe serve`, with a state directory that goes with it.
pub(crate) struct Serve {
    child: Child,
    state: std::path::PathBuf,
    pub(crate) invitation: Invitation,
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.state).ok();
    }
}

impl Serve {
    pub(crate) fn start(program: &str) -> Result<Self, Box<dyn Error>> {
        let state = std::env::temp_dir().join(format!("gateway-figures-{}", std::process::id()));
        let config = state.join("config.toml");
        std::fs::create_dir_all(&state)?;
        // All clients are on one address here.
        std::fs::write(&config, "[websocket]\nburst = 100000\n")?;
        let mut child = in_own_session(program)
            .args(["--json", "--state"])
            .arg(&state)
            .args(["serve", "--shell", "/bin/sh", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let output = Command::new(program)
            .args(["--json", "--state"])
            .arg(&state)
            .args(["invite", "--uses", "0"])
            .output()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let invitation = answer["invitation"].as_str().ok_or("no invitation")?;
        Ok(Self {
            child,
            state,
            invitation: invitation.parse()?,
        })
    }

    /// The memory of the process, at its highest, in KiB.
    pub(crate) fn memory(&self) -> Result<u64, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.ok_or("no VmHWM")?.parse()?)
    }
}

/// A program in a session of its own. Linux shares out the processors among sessions first (sched(7), autogroup), and each
/// terminal is one: server, crowd and this process in one session together would get as much as a single flood. On a
/// real server each has its own.
pub(crate) fn in_own_session(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

/// So many sessions, all of one kind.
pub(crate) async fn open_all_by(
    invitation: &Invitation,
    count: usize,
    websocket: bool,
) -> Result<Vec<RemoteSession>, Box<dyn Error>> {
    let mut node = swarm()?;
    let control = node.behaviour().socketpipe.control();
    tokio::spawn(async move {
        loop {
            node.select_next_some().await;
        }
    });
    let peer = invitation.peer().ok_or("no address")?;
    let webrtc: Vec<_> = invitation
        .addresses
        .iter()
        .filter(|address| address.to_string().contains("webrtc-direct"))
        .cloned()
        .collect();
    let connector =
        WebSocketConnector::new(&invitation.websocket, Mode::Pty, &TlsRoots::default())?;
    let mut all = Vec::new();
    // In small groups: strangers may have two streams at once that are not let in yet.
    for start in (0..count).step_by(2) {
        let group = (start..count.min(start + 2)).map(|_| {
            let options = SessionOptions::new(Mode::Pty).token(invitation.token.clone());
            let (control, webrtc, connector) = (control.clone(), webrtc.clone(), connector.clone());
            async move {
                match websocket {
                    true => open(options, connector).await,
                    false => control.open_at(peer, webrtc, options).await,
                }
            }
        });
        all.extend(try_join_all(group).await?);
    }
    Ok(all)
}
