//! What the tests of the program share: the program itself, an SSH server, a terminal.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests of a program wait in real time"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use libp2p_rtc::socketpipe::invitation::Invitation;
use serde_json::Value;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_socketpipe");
/// What takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Time in which everything is given back that belonged to a session.
const TIME_TO_CLEAN_UP: Duration = Duration::from_secs(10);

/// WebRTC does not use loopback: there has to be another address of this machine.
pub(crate) fn has_network() -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let found = socket
        // Sends nothing; an address of documentation that no network here has.
        .connect(("198.51.100.1", 9))
        .and_then(|()| socket.local_addr());
    let is_there = found.is_ok_and(|address| !address.ip().is_loopback());
    if !is_there {
        assert!(std::env::var("CI").is_err(), "no network but loopback");
        eprintln!("skipped: this machine has no network but loopback");
    }
    is_there
}

/// A directory that goes with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("socketpipe-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// What somebody writes, and whether it has ended.
#[derive(Default)]
struct Watched<T> {
    state: Mutex<(T, bool)>,
    changed: Condvar,
}

impl<T> Watched<T> {
    fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.state.lock().unwrap().0);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    /// Waits until there is enough, or no more, or too much time has passed; then looks.
    fn look<R>(&self, enough: impl Fn(&T) -> bool, look: impl FnOnce(&T) -> R) -> R {
        let guard = self.state.lock().unwrap();
        let (guard, _) = self
            .changed
            .wait_timeout_while(guard, PATIENCE, |(state, ended)| !*ended && !enough(state))
            .unwrap();
        look(&guard.0)
    }
}

/// Lines somebody writes, to be waited for.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    shared: Arc<Watched<Vec<String>>>,
}

impl Lines {
    pub(crate) fn read(reader: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let ours = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                ours.shared.update(|lines| lines.push(line));
            }
            ours.shared.end();
        });
        lines
    }

    /// All that have come.
    pub(crate) fn all(&self) -> Vec<String> {
        self.shared.look(|_| true, Vec::clone)
    }

    /// The first line as it was written that `wanted` likes.
    pub(crate) fn find_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let seek = |lines: &Vec<String>| lines.iter().find(|line| wanted(line)).cloned();
        self.shared.look(
            |lines| seek(lines).is_some(),
            |lines| seek(lines).unwrap_or_else(|| panic!("no {what} in {lines:#?}")),
        )
    }

    /// The first JSON line that `wanted` likes.
    pub(crate) fn find(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let seek = |lines: &Vec<String>| {
            let mut values = lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok());
            values.find(|value| wanted(value))
        };
        self.shared.look(
            |lines| seek(lines).is_some(),
            |lines| seek(lines).unwrap_or_else(|| panic!("no {what} in {lines:#?}")),
        )
    }
}

/// A running program of ours; told to end when the test does.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Running {
    pub(crate) fn start(state: &Path, args: &[&str]) -> Self {
        Self::start_with(state, args, &[])
    }

    /// The same with these variables.
    pub(crate) fn start_with(state: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(PROGRAM)
            .envs(env.iter().copied())
            .arg("--json")
            .arg("--state")
            .arg(state)
            .args(args)
            .env_remove("SOCKETPIPE_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdout: Lines::read(child.stdout.take().unwrap()),
            stderr: Lines::read(child.stderr.take().unwrap()),
            child,
        }
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `socketpipe serve` with a state directory of its own.
pub(crate) struct Serve {
    pub(crate) directory: Directory,
    pub(crate) running: Running,
    /// What it printed at the start.
    pub(crate) info: Value,
    /// Descriptors it had open then.
    descriptors: usize,
}

impl Serve {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(Directory::new(), args)
    }

    pub(crate) fn start_in(directory: Directory, args: &[&str]) -> Self {
        Self::start_with(directory, args, &[])
    }

    /// The same with these variables.
    pub(crate) fn start_with(directory: Directory, args: &[&str], env: &[(&str, &str)]) -> Self {
        let all = [&["serve", "--audit", "-"], args].concat();
        let running = Running::start_with(directory.path(), &all, env);
        let info = running
            .stdout
            .find("start", |value| value["event"] == "serving");
        let descriptors = descriptors(running.child.id());
        Self {
            directory,
            running,
            info,
            descriptors,
        }
    }

    /// The invitation it printed.
    pub(crate) fn first(&self) -> Invitation {
        self.info["invitation"].as_str().unwrap().parse().unwrap()
    }

    /// Another one.
    pub(crate) fn invite(&self, args: &[&str]) -> Invitation {
        let answer = self.command(&[&["invite"], args].concat());
        answer[0]["invitation"].as_str().unwrap().parse().unwrap()
    }

    /// Runs a command against it; its JSON lines.
    pub(crate) fn command(&self, args: &[&str]) -> Vec<Value> {
        let output = run(self.directory.path(), args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The audit line that `wanted` likes.
    pub(crate) fn audit(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.running.stderr.find(what, wanted)
    }

    /// Waits until no session runs, no program of one is left, and no socket, pipe or file.
    pub(crate) fn assert_nothing_left(&self) {
        let pid = self.running.child.id();
        let deadline = Instant::now() + TIME_TO_CLEAN_UP;
        loop {
            let sessions = self.command(&["sessions"]);
            let children = children(pid);
            let more = descriptors(pid).saturating_sub(self.descriptors);
            if sessions.is_empty() && children.trim().is_empty() && more == 0 {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left: {sessions:?}, processes {children}, {more} descriptors of {:?}",
                opened(pid)
            );
            thread::yield_now();
        }
    }
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// What they are, for people.
fn opened(pid: u32) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    links
        .filter_map(|link| fs::read_link(link.path()).ok())
        .collect()
}

/// The children of a process, of whichever of its threads, as the system lists them.
fn children(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .flatten()
        // A thread may end in between.
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .collect()
}

/// Runs a command of the program to its end.
pub(crate) fn run(state: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("--json")
        .arg("--state")
        .arg(state)
        .args(args)
        .env_remove("SOCKETPIPE_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// `socketpipe forward` from a free local port.
pub(crate) struct Forward {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    _directory: Directory,
}

impl Forward {
    /// `target` as `host:port`; the way as it stands on the command line.
    pub(crate) fn start(way: &str, token: &str, target: &str, more: &[&str]) -> Self {
        let directory = Directory::new();
        let local = format!("0:{target}");
        let args = [&["forward", "-L", &local, "--token", token, way], more].concat();
        let running = Running::start(directory.path(), &args);
        let listening = running
            .stdout
            .find("port", |value| value["event"] == "listening");
        Self {
            running,
            address: listening["address"].as_str().unwrap().parse().unwrap(),
            _directory: directory,
        }
    }

    /// Ends it in order.
    pub(crate) fn finish(mut self) {
        assert_eq!(self.running.terminate().code(), Some(0));
    }

    /// What it says of a connection that failed.
    pub(crate) fn failure(&self) -> Value {
        self.running
            .stderr
            .find("failure", |value| value["event"] == "failed")
    }
}

/// A real sshd that serves the user of the test with keys made for the test.
pub(crate) struct Sshd {
    pub(crate) directory: Directory,
    pub(crate) port: u16,
}

/// Debian's place; sshd starts itself again and needs its full name.
const SSHD: &str = "/usr/sbin/sshd";

impl Sshd {
    /// `None` where there is none, with a word about it.
    pub(crate) fn start() -> Option<Self> {
        if !Path::new(SSHD).exists() {
            assert!(std::env::var("CI").is_err(), "missing: openssh-server");
            eprintln!("skipped: {SSHD} is missing (Debian: openssh-server)");
            return None;
        }
        let directory = Directory::new();
        for name in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &directory.join(name)])
                .status()
                .unwrap();
            assert!(made.success());
        }
        let config = format!(
            "HostKey {0}/host_key\nAuthorizedKeysFile {0}/user_key.pub\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPidFile none\nSubsystem sftp internal-sftp\nLogLevel ERROR\n",
            directory.path().display()
        );
        fs::write(directory.join("sshd_config"), config).unwrap();
        // Where it puts processes that have no rights.
        fs::create_dir_all("/run/sshd").ok();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let file = directory.join("sshd_config");
        // One process per connection on a socket of ours: no port to be guessed and nothing to be waited for.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let input = std::os::fd::OwnedFd::from(stream.try_clone().unwrap());
                let mut child = Command::new(SSHD)
                    .args(["-i", "-e", "-f", &file])
                    .stdin(input)
                    .stdout(std::os::fd::OwnedFd::from(stream))
                    .spawn()
                    .unwrap();
                thread::spawn(move || child.wait().unwrap());
            }
        });
        let host_key = fs::read_to_string(directory.join("host_key.pub")).unwrap();
        let known = format!("[127.0.0.1]:{port} {host_key}test {host_key}");
        fs::write(directory.join("known_hosts"), known).unwrap();
        Some(Self { directory, port })
    }

    pub(crate) fn target(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Options of ssh and scp for this server behind `port`.
    fn options(&self) -> Vec<String> {
        [
            "-F/dev/null".to_owned(),
            format!("-i{}", self.directory.join("user_key")),
            format!(
                "-oUserKnownHostsFile={}",
                self.directory.join("known_hosts")
            ),
            "-oHostKeyAlias=test".to_owned(),
            "-oStrictHostKeyChecking=yes".to_owned(),
            "-oBatchMode=yes".to_owned(),
            "-oIdentitiesOnly=yes".to_owned(),
        ]
        .to_vec()
    }

    /// What a command prints that is run through `address`.
    pub(crate) fn ssh(&self, address: SocketAddr, command: &str) -> String {
        let output = Command::new("ssh")
            .args(self.options())
            .args(["-p", &address.port().to_string(), "127.0.0.1", command])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Copies a file of this many bytes through `address` and back, and compares.
    pub(crate) fn copy_there_and_back(&self, address: SocketAddr, bytes: usize) {
        let names = ["sent", "there", "back"].map(|name| self.directory.join(name));
        let [sent, there, back] = &names;
        write_random(sent, bytes);
        self.scp(address, sent, &format!("127.0.0.1:{there}"));
        self.scp(address, &format!("127.0.0.1:{there}"), back);
        let same = Command::new("cmp").args([sent, back]).status().unwrap();
        assert!(same.success(), "the copy differs");
        for name in names {
            fs::remove_file(name).unwrap();
        }
    }

    fn scp(&self, address: SocketAddr, from: &str, to: &str) {
        let output = Command::new("scp")
            .args(self.options())
            .args(["-q", "-P", &address.port().to_string(), from, to])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Bytes nothing can compress, the same in every run.
fn write_random(path: &str, bytes: usize) {
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..bytes / 8 {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

/// A program at a terminal.
pub(crate) struct AtTerminal {
    master: Box<dyn portable_pty::MasterPty + Send>,
    writer: Box<dyn std::io::Write + Send>,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    shown: Arc<Watched<Vec<u8>>>,
}

impl AtTerminal {
    pub(crate) fn start(state: &Path, args: &[&str], columns: u16, rows: u16) -> Self {
        let pair = portable_pty::native_pty_system()
            .openpty(size(columns, rows))
            .unwrap();
        let mut command = portable_pty::CommandBuilder::new(PROGRAM);
        command.arg("--state");
        command.arg(state);
        command.args(args);
        command.env("TERM", "xterm");
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let shown: Arc<Watched<Vec<u8>>> = Arc::default();
        let ours = shown.clone();
        let mut reader = pair.master.try_clone_reader().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                ours.update(|shown| shown.extend_from_slice(&buffer[..count]));
            }
            ours.end();
        });
        Self {
            writer: pair.master.take_writer().unwrap(),
            master: pair.master,
            child,
            shown,
        }
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        self.master.resize(size(columns, rows)).unwrap();
    }

    /// Waits until this is on the screen.
    pub(crate) fn await_text(&self, text: &str) -> String {
        self.await_screen(text, |shown| shown.contains(text))
    }

    /// Waits until there is on the screen what `wanted` likes.
    pub(crate) fn await_screen(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let has = |shown: &Vec<u8>| wanted(&String::from_utf8_lossy(shown));
        let shown = self
            .shown
            .look(has, |shown| String::from_utf8_lossy(shown).into_owned());
        assert!(wanted(&shown), "no `{what}` in: {shown}");
        shown
    }

    /// Waits for its end: everything it showed, and its status.
    pub(crate) fn finish(mut self) -> (String, u32) {
        let status = self.child.wait().unwrap();
        let all = |_: &Vec<u8>| false;
        let shown = self
            .shown
            .look(all, |shown| String::from_utf8_lossy(shown).into_owned());
        (shown, status.exit_code())
    }
}

fn size(columns: u16, rows: u16) -> portable_pty::PtySize {
    portable_pty::PtySize {
        rows,
        cols: columns,
        pixel_width: 0,
        pixel_height: 0,
    }
}
