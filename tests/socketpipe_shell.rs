//! Terminals on this machine, over libp2p: start, size, signals, status, floods, and nothing left running.
#![cfg(all(feature = "gateway", unix))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod socketpipe_common;

use std::time::Duration;

use libp2p_rtc::socketpipe::{
    Exit, PtyDefault, RemoteSession, Server, SessionOptions, ShellConfig, Signal, Size, exit_of,
    session::Mode,
};
use socketpipe_common::{Node, gate_for, soon, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn size(columns: u16, rows: u16) -> Size {
    Size {
        columns,
        rows,
        ..Size::default()
    }
}

/// A server whose default terminal is `sh`, and a client of it.
struct Pair {
    server: Node,
    client: Node,
    sessions: Server,
}

impl Pair {
    async fn new() -> Self {
        let (server, client) = (Node::new().await, Node::new().await);
        let mut gate = gate_for(&[client.peer]);
        let shell = ShellConfig::new().program("/bin/sh").arg("-i");
        gate.pty.default = Some(PtyDefault::Shell(shell));
        let sessions = server.serve(gate);
        Self {
            server,
            client,
            sessions,
        }
    }

    async fn open(&self) -> Terminal {
        let options = SessionOptions::new(Mode::Pty)
            .env("TERM", "vt100")
            .env("LD_PRELOAD", "evil.so")
            .env("PS1", "evil")
            .size(size(101, 43));
        let at = vec![self.server.webrtc.clone()];
        let opening = self.client.control.open_at(self.server.peer, at, options);
        Terminal {
            session: soon(opening).await.unwrap(),
            seen: String::new(),
        }
    }
}

/// A person at a terminal.
struct Terminal {
    session: RemoteSession,
    /// Output nobody has looked at.
    seen: String,
}

impl Terminal {
    async fn types(&mut self, text: &str) {
        soon(self.session.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads until this is seen and gives what came before it.
    async fn sees(&mut self, what: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(what) {
                let before = self.seen[..at].to_owned();
                self.seen.drain(..at + what.len());
                return before;
            }
            let count = soon(self.session.read(&mut buffer)).await.unwrap();
            assert!(count > 0, "no {what:?} in {:?}", self.seen);
            self.seen
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    /// The end of the session, with everything read.
    async fn exit(mut self) -> Exit {
        let mut rest = Vec::new();
        soon(self.session.read_to_end(&mut rest)).await.unwrap();
        exit_of(&soon(self.session.ended()).await)
    }
}

#[tokio::test]
async fn a_shell_knows_its_size_and_terminal_and_nothing_it_should_not() {
    let pair = Pair::new().await;
    let mut terminal = pair.open().await;
    terminal
        .types("stty size; echo \"<$TERM:${LD_PRELOAD-none}>\"\n")
        .await;
    terminal.sees("43 101").await;
    terminal.sees("<vt100:none>").await;
    terminal.session.handle().resize(size(77, 11));
    // The size travels beside the bytes; the server joins bursts of them.
    terminal
        .types("while [ \"$(stty size)\" != '11 77' ]; do :; done; echo re''sized\n")
        .await;
    terminal.sees("resized").await;
    terminal.types("exit 7\n").await;
    assert_eq!(terminal.exit().await, Exit::Code(7));
    until(|| pair.sessions.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_signal_that_ends_the_shell_is_named() {
    let pair = Pair::new().await;
    let mut terminal = pair.open().await;
    terminal.types("kill -KILL $$\n").await;
    assert_eq!(terminal.exit().await, Exit::Signal("KILL".to_owned()));
}

/// Processes with this word in their command line.
fn processes(word: &str) -> usize {
    let folder = std::fs::read_dir("/proc").unwrap();
    let lines = folder
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(word))
        .count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_interrupt_reaches_the_foreground_and_not_the_shell() {
    let pair = Pair::new().await;
    let mut terminal = pair.open().await;
    terminal.types("sleep 86472; echo $?-aft''er\n").await;
    // A program that has just been forked may swallow the signal; once it runs it is the foreground.
    until(|| processes("86472") == 1).await;
    terminal.session.handle().signal(Signal::Int);
    // Some shells stop the line, others go on with it; all of them are there for the next one.
    terminal.types("echo al''ive\n").await;
    terminal.sees("alive").await;
    terminal.session.handle().signal(Signal::Hup);
    let exit = terminal.exit().await;
    assert!(matches!(exit, Exit::Signal(_) | Exit::Code(_)), "{exit:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_is_left_running() {
    let pair = Pair::new().await;
    let mut terminal = pair.open().await;
    // In the foreground, in the background, and deaf to being hung up.
    let deaf = "(trap '' HUP; exec sleep 86471)";
    terminal
        .types(&format!(
            "{deaf} & nohup sleep 86471 & sleep 86471 & echo re''ady; sleep 86471\n"
        ))
        .await;
    terminal.sees("ready").await;
    until(|| processes("86471") >= 4).await;
    drop(terminal);
    until(|| processes("86471") == 0).await;
    until(|| pair.sessions.sessions().is_empty()).await;
}

/// Memory of this process in bytes.
#[cfg(target_os = "linux")]
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flood_nobody_reads_stops_and_an_interrupt_is_answered_at_once() {
    let pair = Pair::new().await;
    let mut terminal = pair.open().await;
    terminal.types("echo be''gun; yes abcdefghijklmnop\n").await;
    terminal.sees("begun").await;
    // Nobody reads: the backend has to stop.
    let sent = || pair.sessions.sessions()[0].sent;
    let mut last = sent();
    let mut still = 0;
    while still < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        still = if sent() == last { still + 1 } else { 0 };
        last = sent();
    }
    assert!(last < 4 << 20, "{last} bytes left the server");
    // Then 100 MiB are read, and memory stays as it is.
    let before = memory();
    let mut buffer = vec![0; 64 * 1024];
    let mut read = 0;
    while read < 100 << 20 {
        let count = soon(terminal.session.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "the flood goes on");
        read += count;
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 24 << 20, "memory has grown by {grown}");
    // Ctrl-C, and how much of the flood comes after it.
    terminal.types("\u{3}echo sto''pped\n").await;
    let pressed = tokio::time::Instant::now();
    let mut after = 0;
    let mut tail = Vec::new();
    while !tail.windows(7).any(|text| text == b"stopped") {
        let count = soon(terminal.session.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "the shell is there");
        after += count;
        tail.extend_from_slice(&buffer[..count]);
        let keep = tail.len().saturating_sub(4096);
        tail.drain(..keep);
    }
    eprintln!("Ctrl-C: {:?}, {after} bytes", pressed.elapsed());
    assert!(
        pressed.elapsed() < Duration::from_secs(5),
        "{:?}",
        pressed.elapsed()
    );
    assert!(after < 8 << 20, "{after} bytes after Ctrl-C");
}

#[tokio::test]
async fn a_shell_that_does_not_exist_says_so() {
    let (server, client) = (Node::new().await, Node::new().await);
    let mut gate = gate_for(&[client.peer]);
    gate.pty.default = Some(PtyDefault::Shell(
        ShellConfig::new().program("/no/such/shell"),
    ));
    server.serve(gate);
    let at = vec![server.quic.clone()];
    let options = SessionOptions::new(Mode::Pty);
    let opened = soon(client.control.open_at(server.peer, at, options))
        .await
        .unwrap();
    let exit = exit_of(&soon(opened.ended()).await);
    let Exit::Failed(failure) = exit else {
        panic!("{exit:?}");
    };
    assert!(failure.message.contains("does not start"), "{failure}");
}
