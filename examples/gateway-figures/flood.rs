//! A key press beside a flood.

use std::{
    error::Error,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::try_join_all};
use libp2p_rtc::socketpipe::{
    RemoteSession, SessionOptions,
    invitation::Invitation,
    open,
    session::Mode,
    websocket::{TlsRoots, WebSocketConnector},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

use crate::{median, percentile, swarm};

/// Keys pressed while the others print.
const KEYS: usize = 200;
/// Time between two.
const PAUSE: Duration = Duration::from_millis(20);
/// The echo of a key may take so long at the median.
const BOUND_MS: f64 = 50.0;
/// The node and each session may take so much memory, in KiB: the session's two buffers and what they come in.
const NODE_KIB: u64 = 64 * 1024;
const SESSION_KIB: u64 = 3 * 1024;

/// `socketpipe serve`, with a state directory that goes with it.
struct Serve {
    child: Child,
    state: std::path::PathBuf,
    invitation: Invitation,
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.state).ok();
    }
}

impl Serve {
    fn start(program: &str) -> Result<Self, Box<dyn Error>> {
        let state = std::env::temp_dir().join(format!("gateway-figures-{}", std::process::id()));
        let config = state.join("config.toml");
        std::fs::create_dir_all(&state)?;
        // All clients are on one address here.
        std::fs::write(&config, "[websocket]\nburst = 100000\n")?;
        let mut child = Command::new(program)
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
    fn memory(&self) -> Result<u64, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.ok_or("no VmHWM")?.parse()?)
    }
}

pub(crate) async fn run(
    program: &str,
    sessions: usize,
    floods: usize,
) -> Result<bool, Box<dyn Error>> {
    let serve = Serve::start(program)?;
    let mut all = open_all(&serve.invitation, sessions).await?;
    let mut quiet = all.pop().ok_or("no session")?;
    quiet.write_all(b"exec cat\n").await?;
    let mut tasks = Vec::new();
    for (index, session) in all.into_iter().enumerate() {
        tasks.push(run_session(session, index < floods).await?);
    }
    settle(&mut quiet).await?;
    let mut echoes = Vec::new();
    for _ in 0..KEYS {
        echoes.push(press(&mut quiet).await?);
        tokio::time::sleep(PAUSE).await;
    }
    let flooded: u64 = tasks.iter().filter(|task| !task.is_finished()).count() as u64;
    let memory = serve.memory()?;
    let bound = NODE_KIB + SESSION_KIB * sessions as u64;
    let echo = median(&mut echoes);
    let ok = echo < BOUND_MS && memory < bound && flooded as usize == sessions - 1;
    println!(
        "{{\"figure\":\"flood\",\"sessions\":{sessions},\"alive\":{},\"floods\":{floods},\"echo_ms\":{echo:.3},\
         \"echo_p99_ms\":{:.3},\"bound_ms\":{BOUND_MS},\"memory_kib\":{memory},\"memory_bound_kib\":{bound},\"ok\":{ok}}}",
        flooded + 1,
        percentile(&mut echoes, 99),
    );
    for task in tasks {
        task.abort();
    }
    Ok(ok)
}

/// Every second one over webrtc-direct, the others over WebSockets.
async fn open_all(
    invitation: &Invitation,
    count: usize,
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
        let group = (start..count.min(start + 2)).map(|index| {
            let options = SessionOptions::new(Mode::Pty).token(invitation.token.clone());
            let (control, webrtc, connector) = (control.clone(), webrtc.clone(), connector.clone());
            async move {
                match index % 2 {
                    0 => control.open_at(peer, webrtc, options).await,
                    _ => open(options, connector).await,
                }
            }
        });
        all.extend(try_join_all(group).await?);
    }
    Ok(all)
}

/// A session that prints for ever, or waits for ever.
async fn run_session(
    mut session: RemoteSession,
    flood: bool,
) -> Result<JoinHandle<u64>, Box<dyn Error>> {
    let command: &[u8] = if flood {
        b"exec yes\n"
    } else {
        b"exec sleep 1000\n"
    };
    session.write_all(command).await?;
    Ok(tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0;
        while let Ok(count) = session.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            total += count as u64;
        }
        total
    }))
}

/// Reads until `cat` runs and what was shown before is read.
async fn settle(session: &mut RemoteSession) -> Result<(), Box<dyn Error>> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    session.write_all(b"settled\n").await?;
    let mut shown = Vec::new();
    // Once as it is typed, once by `cat`.
    while String::from_utf8_lossy(&shown).matches("settled").count() < 2 {
        let mut buffer = [0; 1024];
        let count = session.read(&mut buffer).await?;
        if count == 0 {
            return Err("the quiet session ended".into());
        }
        shown.extend_from_slice(&buffer[..count]);
    }
    // The end of that line.
    session.write_all(b"~").await?;
    while shown.last() != Some(&b'~') {
        let mut byte = [0];
        session.read_exact(&mut byte).await?;
        shown.push(byte[0]);
    }
    Ok(())
}

/// One key there and back.
#[expect(clippy::disallowed_methods, reason = "real time is measured")]
async fn press(session: &mut RemoteSession) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    session.write_all(b"x").await?;
    session.flush().await?;
    session.read_exact(&mut [0]).await?;
    Ok(start.elapsed())
}
