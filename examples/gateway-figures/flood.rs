//! A key press beside a flood.

use std::{
    error::Error,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p_rtc::socketpipe::{RemoteSession, invitation::Invitation};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

use crate::{
    median, percentile,
    program::{Serve, in_own_session, open_all_by},
};

/// Keys pressed while the others print.
const KEYS: usize = 200;
/// Time between two.
const PAUSE: Duration = Duration::from_millis(20);
/// The node and each session may take so much memory, in KiB: the session's two buffers and what they come in.
const NODE_KIB: u64 = 64 * 1024;
const SESSION_KIB: u64 = 3 * 1024;

/// The other users, in a process of their own: they are not the one whose key is watched.
struct Crowd {
    child: Child,
    news: BufReader<ChildStdout>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Crowd {
    fn start(
        invitation: &Invitation,
        sessions: usize,
        floods: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let mut child = in_own_session(std::env::current_exe()?)
            .args(["crowd", &invitation.to_string()])
            .args([sessions.to_string(), floods.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut crowd = Self {
            child,
            news: BufReader::new(stdout),
        };
        crowd.hear()?;
        Ok(crowd)
    }

    fn hear(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        self.news.read_line(&mut line)?;
        match line.is_empty() {
            true => Err("the crowd is gone".into()),
            false => Ok(line),
        }
    }

    /// Sessions that are alive, and bytes they have read.
    fn end(mut self) -> Result<(usize, u64), Box<dyn Error>> {
        drop(self.child.stdin.take());
        let line = self.hear()?;
        let (alive, bytes) = line
            .trim()
            .split_once(' ')
            .ok_or("what does the crowd say?")?;
        Ok((alive.parse()?, bytes.parse()?))
    }
}

/// The process of the others: opens all, says so, and ends when its stdin does.
pub(crate) async fn crowd(
    invitation: &str,
    sessions: usize,
    floods: usize,
) -> Result<(), Box<dyn Error>> {
    let all = open_all(&invitation.parse()?, sessions).await?;
    let total = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for (index, session) in all.into_iter().enumerate() {
        tasks.push(run_session(session, index < floods, total.clone()).await?);
    }
    println!("ready");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    let alive = tasks.iter().filter(|task| !task.is_finished()).count();
    println!("{alive} {}", total.load(Ordering::Relaxed));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "real time is measured")]
pub(crate) async fn run(
    program: &str,
    sessions: usize,
    floods: usize,
    bound: Duration,
) -> Result<bool, Box<dyn Error>> {
    let serve = Serve::start(program)?;
    let crowd = Crowd::start(&serve.invitation, sessions - 1, floods)?;
    let since = Instant::now();
    let mut ok = true;
    let mut all = Vec::new();
    for kind in ["webrtc-direct", "websocket"] {
        let mut quiet = open_all_by(&serve.invitation, 1, kind == "websocket").await?;
        let mut quiet = quiet.pop().ok_or("no session")?;
        quiet.write_all(b"exec cat\n").await?;
        settle(&mut quiet).await?;
        let mut echoes = Vec::new();
        for _ in 0..KEYS {
            echoes.push(press(&mut quiet).await?);
            tokio::time::sleep(PAUSE).await;
        }
        all.push((kind, median(&mut echoes), percentile(&mut echoes, 99)));
    }
    let memory = serve.memory()?;
    let (alive, bytes) = crowd.end()?;
    let mib = bytes as f64 / (1024.0 * 1024.0);
    let mib_per_s = mib / since.elapsed().as_secs_f64();
    let most_kib = NODE_KIB + SESSION_KIB * sessions as u64;
    let bound_ms = bound.as_millis();
    for (kind, echo, worst) in all {
        let good = echo < bound_ms as f64 && memory < most_kib && alive == sessions - 1;
        ok &= good;
        println!(
            "{{\"figure\":\"flood\",\"path\":\"{kind}\",\"sessions\":{sessions},\"alive\":{},\"floods\":{floods},\
             \"flooded_mib\":{mib:.0},\"flooded_mib_s\":{mib_per_s:.1},\"echo_ms\":{echo:.3},\"echo_p99_ms\":{worst:.3},\"bound_ms\":{bound_ms},\
             \"memory_kib\":{memory},\"memory_bound_kib\":{most_kib},\"ok\":{good}}}",
            alive + 1,
        );
    }
    Ok(ok)
}

/// Every second one over webrtc-direct, the others over WebSockets.
async fn open_all(
    invitation: &Invitation,
    count: usize,
) -> Result<Vec<RemoteSession>, Box<dyn Error>> {
    let mut all = open_all_by(invitation, count / 2, false).await?;
    let others = open_all_by(invitation, count - count / 2, true).await?;
    // Those that print are the first, and shall be of both kinds.
    for (index, session) in others.into_iter().enumerate() {
        all.insert((2 * index + 1).min(all.len()), session);
    }
    Ok(all)
}

/// A session that prints for ever, or waits for ever.
async fn run_session(
    mut session: RemoteSession,
    flood: bool,
    total: Arc<AtomicU64>,
) -> Result<JoinHandle<()>, Box<dyn Error>> {
    let command: &[u8] = if flood {
        b"exec yes\n"
    } else {
        b"exec sleep 1000\n"
    };
    session.write_all(command).await?;
    Ok(tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = session.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            total.fetch_add(count as u64, Ordering::Relaxed);
        }
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
