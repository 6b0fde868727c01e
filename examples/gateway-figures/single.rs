//! One terminal alone: how fast it prints, and how soon Ctrl-C shows.

use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

use libp2p_rtc::socketpipe::RemoteSession;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    median, percentile,
    program::{Serve, open_all_by},
};

/// What is printed: lines of 64 bytes, of which a terminal makes 65.
const LINE: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n";
const LINES: usize = 2 << 20;
const SHOWN: usize = LINES * (LINE.len() + 1);
/// Floods that are ended.
const ROUNDS: usize = 9;
/// How long each lasts before.
const FLOOD: Duration = Duration::from_millis(500);
/// Ctrl-C shows by then.
const BOUND_MS: f64 = 1000.0;

/// The file that is printed; it goes with this.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

pub(crate) async fn run(program: &str) -> Result<bool, Box<dyn Error>> {
    let serve = Serve::start(program)?;
    let file = File(std::env::temp_dir().join(format!("single-{}", std::process::id())));
    std::fs::write(&file.0, LINE.repeat(LINES))?;
    let mut ok = true;
    for kind in ["webrtc-direct", "websocket"] {
        let mut session = open_all_by(&serve.invitation, 1, kind == "websocket").await?;
        let mut terminal = Terminal::new(session.pop().ok_or("no session")?).await?;
        let mib_per_s = terminal.print(&file).await?;
        let mut waits = Vec::new();
        for _ in 0..ROUNDS {
            waits.push(terminal.end_flood().await?);
        }
        let (wait, worst) = (median(&mut waits), percentile(&mut waits, 100));
        let good = worst <= BOUND_MS;
        ok &= good;
        println!(
            "{{\"figure\":\"single\",\"path\":\"{kind}\",\"printed_mib\":{},\"mib_s\":{mib_per_s:.1},\"floods\":{ROUNDS},\
             \"ctrl_c_ms\":{wait:.1},\"ctrl_c_worst_ms\":{worst:.1},\"bound_ms\":{BOUND_MS},\"ok\":{good}}}",
            SHOWN >> 20
        );
    }
    Ok(ok)
}

/// A shell that shows nothing but what its commands print.
struct Terminal {
    session: RemoteSession,
    buffer: Vec<u8>,
}

impl Terminal {
    async fn new(session: RemoteSession) -> Result<Self, Box<dyn Error>> {
        let mut terminal = Self {
            session,
            buffer: vec![0; 64 * 1024],
        };
        terminal.send("PS1=\n").await?;
        // What is typed shows, too, but not like that.
        terminal.send("printf '~ready %s' now\n").await?;
        terminal.until(b"~ready now").await?;
        Ok(terminal)
    }

    async fn send(&mut self, keys: &str) -> Result<(), Box<dyn Error>> {
        self.session.write_all(keys.as_bytes()).await?;
        Ok(self.session.flush().await?)
    }

    /// Reads until these bytes have been shown. Gives how many there were, with those.
    async fn until(&mut self, end: &[u8]) -> Result<usize, Box<dyn Error>> {
        let (mut count, mut last) = (0, Vec::new());
        loop {
            let read = self.session.read(&mut self.buffer).await?;
            if read == 0 {
                return Err("the session ended".into());
            }
            count += read;
            // They may come in two parts.
            last.extend_from_slice(&self.buffer[..read]);
            // The first look is quick, so that it costs the figure nothing.
            if last.contains(&end[0]) && last.windows(end.len()).any(|shown| shown == end) {
                return Ok(count);
            }
            last.drain(..last.len().saturating_sub(end.len()));
        }
    }

    /// Has the file printed, in MiB/s of what a terminal shows.
    #[expect(clippy::disallowed_methods, reason = "real time is measured")]
    async fn print(&mut self, file: &File) -> Result<f64, Box<dyn Error>> {
        let command = format!("cat {}; printf '~all %s' shown\n", file.0.display());
        let start = Instant::now();
        self.send(&command).await?;
        let shown = self.until(b"~all shown").await?;
        let elapsed = start.elapsed().as_secs_f64();
        // Beside the file there is the command.
        match shown.checked_sub(SHOWN) {
            Some(rest) if rest < 2 * command.len() => {}
            _ => return Err(format!("{shown} bytes were shown of {SHOWN}").into()),
        }
        Ok(SHOWN as f64 / f64::from(1 << 20) / elapsed)
    }

    /// Begins a flood and ends it. Gives the time from Ctrl-C until it shows.
    #[expect(clippy::disallowed_methods, reason = "real time is measured")]
    async fn end_flood(&mut self) -> Result<Duration, Box<dyn Error>> {
        self.send("yes\n").await?;
        let begin = Instant::now();
        while begin.elapsed() < FLOOD {
            self.until(b"y\r\n").await?;
        }
        let start = Instant::now();
        self.send("\x03").await?;
        self.until(b"^C").await?;
        let wait = start.elapsed();
        // The shell is back.
        self.send("printf '~ready %s' again\n").await?;
        self.until(b"~ready again").await?;
        Ok(wait)
    }
}
