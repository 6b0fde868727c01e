//! A shell on this machine, behind a pseudo-terminal.
//!
//! The terminal exists at once; the program starts at the first size, byte, or after 500 ms, so that the variables
//! and the size a client sends first are there when it starts. Reading and writing are non-blocking on the terminal's
//! master. When the backend is dropped, every process of the session is hung up and, a moment later, killed.

use std::{
    ffi::OsString,
    future::Future,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{self, killpg},
    unistd::Pid,
};
use portable_pty::{CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};
use tokio::{
    io::{ReadBuf, unix::AsyncFd},
    signal::unix::{Signal as SignalStream, SignalKind},
    time::{Instant, Sleep},
};

use super::{Backend, Control, Exit, is_env_allowed};
use crate::socketpipe::{
    code::Code,
    frame::{Failure, Signal, Size},
};

mod processes;

/// How long a client may take to send variables and size.
const START_AFTER: Duration = Duration::from_millis(500);
/// Output of background processes is waited for so long after the shell has ended.
const LINGER: Duration = Duration::from_millis(100);
/// The same signal to all processes counts once in such a time.
const SIGNAL_PACE: Duration = Duration::from_millis(100);
/// Whether a read that leaves room has taken all there was, and whatever comes later is told. Then nobody has to read
/// until there is nothing: on Linux a read of a terminal that finds nothing waits for the kernel's worker that may be
/// bringing something (`n_tty_read`, `tty_buffer_flush_work`), non-blocking or not. On a busy machine that takes
/// milliseconds, in which the thread is lost to all sessions; with fifty floods the threads did little else.
const SHORT_READ_IS_ALL: bool = cfg!(target_os = "linux");
/// Variables of one client.
const MAX_ENV: usize = 64;
/// The size of a terminal nobody has told.
const DEFAULT_SIZE: PtySize = PtySize {
    rows: 24,
    cols: 80,
    pixel_width: 0,
    pixel_height: 0,
};

/// Which program, and how.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ShellConfig {
    /// The program. Default: `$SHELL`, otherwise `/bin/sh`.
    pub program: Option<OsString>,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it starts. Default: the home directory of the user.
    pub directory: Option<PathBuf>,
    /// Variables that are set, whatever the client says.
    pub env: Vec<(String, String)>,
    /// Variables a client may set beside `TERM`, `COLORTERM`, `LANG`, `LC_*` and `TZ`.
    pub accept_env: Vec<String>,
}

impl ShellConfig {
    /// The user's own shell.
    pub fn new() -> Self {
        Self::default()
    }

    /// This program.
    #[must_use]
    pub fn program(mut self, program: impl Into<OsString>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A terminal whose program starts soon. To be called within a runtime.
    pub fn open(&self) -> Result<Box<dyn Backend>, Failure> {
        let shell = Shell::new(self.clone()).map_err(|error| {
            tracing::warn!(%error, "no terminal");
            Failure::new(Code::CONNECT_FAILED, "the server cannot open a terminal")
        })?;
        Ok(Box::new(shell))
    }

    fn command(&self, client: &[(String, String)]) -> CommandBuilder {
        let fallback = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        let mut command = CommandBuilder::new(self.program.clone().unwrap_or_else(fallback));
        command.args(&self.args);
        let home = || std::env::home_dir().filter(|home| home.is_dir());
        if let Some(directory) = self.directory.clone().or_else(home) {
            command.cwd(directory);
        }
        // What describes the terminal of the server says nothing about the client's.
        for name in ["TERM", "COLORTERM", "COLUMNS", "LINES"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm-256color");
        for (name, value) in client.iter().chain(&self.env) {
            command.env(name, value);
        }
        command
    }
}

/// The master of a terminal, for the reactor and for sizes.
struct Master(Box<dyn MasterPty + Send>);

impl AsRawFd for Master {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd().unwrap_or(-1)
    }
}

/// The program, before and after its start.
enum Program {
    Waiting {
        slave: Box<dyn SlavePty + Send>,
        start: Pin<Box<Sleep>>,
    },
    Running {
        child: std::process::Child,
    },
    Ended(Exit),
}

struct Shell {
    config: ShellConfig,
    env: Vec<(String, String)>,
    // Before the master: dropping the writer writes to it.
    writer: Box<dyn Write + Send>,
    reader: Box<dyn Read + Send>,
    master: AsyncFd<Master>,
    program: Program,
    /// Id of the program, its session and its first process group.
    leader: Option<Pid>,
    children: SignalStream,
    /// A child of this process has ended since the program was last asked about.
    may_have_ended: bool,
    /// Signals to all processes of the session, and when the last one was.
    hung_up: Pace,
    /// Runs after the program has ended.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Shell {
    fn new(config: ShellConfig) -> Result<Self, io::Error> {
        let pair = native_pty_system()
            .openpty(DEFAULT_SIZE)
            .map_err(io::Error::other)?;
        let master = Master(pair.master);
        let reader = master.0.try_clone_reader().map_err(io::Error::other)?;
        let writer = master.0.take_writer().map_err(io::Error::other)?;
        let flags = OFlag::from_bits_retain(fcntl(master.as_raw_fd(), FcntlArg::F_GETFL)?);
        fcntl(
            master.as_raw_fd(),
            FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK),
        )?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; `Master` owns its descriptor and always names the same one"
        )]
        let master = AsyncFd::new(master)?;
        Ok(Self {
            config,
            env: Vec::new(),
            writer,
            reader,
            master,
            program: Program::Waiting {
                slave: pair.slave,
                start: Box::pin(tokio::time::sleep(START_AFTER)),
            },
            leader: None,
            children: tokio::signal::unix::signal(SignalKind::child())?,
            may_have_ended: false,
            hung_up: Pace::default(),
            linger: None,
        })
    }

    /// Starts the program if it was not.
    fn start(&mut self) {
        let Program::Waiting { slave, .. } = &self.program else {
            return;
        };
        let command = self.config.command(&self.env);
        let started = slave.spawn_command(command).map(|child| {
            let child: Box<dyn portable_pty::Child> = child;
            child.downcast::<std::process::Child>()
        });
        self.program = match started {
            Ok(Ok(child)) => {
                self.leader = i32::try_from(child.id()).ok().map(Pid::from_raw);
                Program::Running { child: *child }
            }
            failed => {
                tracing::warn!(?failed, "the shell does not start");
                let failure = Failure::new(Code::CONNECT_FAILED, "the shell does not start");
                Program::Ended(Exit::Failed(failure))
            }
        };
    }

    /// Starts the program when it is time, and sees whether it has ended.
    fn poll_program(&mut self, cx: &mut Context<'_>) {
        if let Program::Waiting { start, .. } = &mut self.program
            && start.as_mut().poll(cx).is_ready()
        {
            self.start();
        }
        // Register for the signal first: what ends afterwards wakes us. Asked for only then: this runs at each read.
        while let Poll::Ready(Some(())) = self.children.poll_recv(cx) {
            self.may_have_ended = true;
        }
        let Program::Running { child } = &mut self.program else {
            return;
        };
        if !std::mem::take(&mut self.may_have_ended) {
            return;
        }
        match child.try_wait() {
            Ok(Some(status)) => self.program = Program::Ended(exit(status)),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the shell cannot be waited for");
                self.program = Program::Ended(Exit::Closed);
            }
        }
    }

    /// After the program has ended: whether its last output has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.program, Program::Ended(_)) {
            return Poll::Pending;
        }
        let linger = self
            .linger
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        linger.as_mut().poll(cx)
    }

    fn resize(&mut self, size: Size) {
        let size = PtySize {
            rows: size.rows,
            cols: size.columns,
            pixel_width: size.width,
            pixel_height: size.height,
        };
        if let Err(error) = self.master.get_ref().0.resize(size) {
            tracing::debug!(%error, "the terminal keeps its size");
        }
        self.start();
    }

    fn signal(&mut self, signal: Signal) {
        let Some(leader) = self.leader else { return };
        let to_all = matches!(signal, Signal::Term | Signal::Hup | Signal::Kill);
        if to_all && !self.hung_up.admits(signal, Instant::now()) {
            return;
        }
        match signal {
            Signal::Int => {
                let foreground = self.master.get_ref().0.process_group_leader();
                send(foreground.map_or(leader, Pid::from_raw), signal::SIGINT);
            }
            Signal::Term => processes::signal_session(leader, signal::SIGTERM),
            Signal::Hup => processes::signal_session(leader, signal::SIGHUP),
            Signal::Kill => processes::signal_session(leader, signal::SIGKILL),
            Signal::Unknown(_) => {}
        }
    }
}

/// Keeps apart signals for which all processes of the machine are looked through: a client that sends thousands shall
/// not keep the server busy. The same one again so soon says nothing new.
#[derive(Default)]
struct Pace {
    last: Vec<(Signal, Instant)>,
}

impl Pace {
    fn admits(&mut self, signal: Signal, now: Instant) -> bool {
        self.last
            .retain(|(_, since)| now.saturating_duration_since(*since) < SIGNAL_PACE);
        let fresh = self.last.iter().all(|(known, _)| *known != signal);
        if fresh {
            self.last.push((signal, now));
        }
        fresh
    }
}

/// A group that is gone already is no error.
fn send(group: Pid, signal: signal::Signal) {
    if let Err(error) = killpg(group, signal) {
        tracing::debug!(%error, "signal not sent");
    }
}

fn exit(status: std::process::ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(number)) => Exit::Signal(signal::Signal::try_from(number).map_or_else(
            |_| number.to_string(),
            |signal| signal.as_str()[3..].to_owned(),
        )),
        (None, None) => Exit::Closed,
    }
}

impl Backend for Shell {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_program(cx);
        if matches!(self.program, Program::Waiting { .. }) {
            return Poll::Pending;
        }
        loop {
            let mut ready = match self.master.poll_read_ready(cx) {
                Poll::Ready(ready) => ready?,
                // Processes in the background may hold the terminal open after the shell has ended.
                Poll::Pending => return self.poll_linger(cx).map(Ok),
            };
            let reader = &mut self.reader;
            let room = buf.remaining();
            match ready.try_io(|_| reader.read(buf.initialize_unfilled())) {
                Ok(Ok(count)) => {
                    if SHORT_READ_IS_ALL && (1..room).contains(&count) {
                        ready.clear_ready();
                    }
                    buf.advance(count);
                    self.linger = None;
                    // 0 is the end: nobody holds the terminal any more.
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.start();
        loop {
            let mut ready = ready!(self.master.poll_write_ready(cx))?;
            let writer = &mut self.writer;
            if let Ok(outcome) = ready.try_io(|_| writer.write(bytes)) {
                return Poll::Ready(outcome);
            }
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Env(env) => {
                let waits = matches!(self.program, Program::Waiting { .. });
                let valid =
                    is_env_allowed(&env.name, &self.config.accept_env) && !env.value.contains('\0');
                if waits && valid && self.env.len() < MAX_ENV {
                    self.env.push((env.name, env.value));
                }
            }
            Control::Resize(size) => self.resize(size),
            Control::Signal(signal) => self.signal(signal),
        }
    }

    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        self.poll_program(cx);
        match &self.program {
            Program::Ended(exit) => Poll::Ready(exit.clone()),
            // The terminal is closed but the program runs on: it has closed its end and the signal will come.
            _ => Poll::Pending,
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let Some(leader) = self.leader else { return };
        let program = std::mem::replace(&mut self.program, Program::Ended(Exit::Closed));
        let child = match program {
            Program::Running { child } => Some(child),
            _ => None,
        };
        processes::end_session(leader, child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_signals_is_one_of_each_kind() {
        let mut pace = Pace::default();
        let storm = |pace: &mut Pace| {
            let all = [Signal::Hup, Signal::Term, Signal::Kill].repeat(1000);
            let admitted = all
                .into_iter()
                .filter(|one| pace.admits(*one, Instant::now()));
            admitted.count()
        };
        assert_eq!(storm(&mut pace), 3);
        tokio::time::advance(SIGNAL_PACE).await;
        assert_eq!(storm(&mut pace), 3);
        assert_eq!(pace.last.len(), 3);
    }
}
