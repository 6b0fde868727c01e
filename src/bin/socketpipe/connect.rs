//! `socketpipe connect`: a terminal, or one connection on stdin and stdout.

use std::{
    future::pending,
    io::{self, IsTerminal as _, Read as _},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use libp2p_rtc::{
    ServerReports,
    socketpipe::{
        Carrier, Code, Exit, RemoteSession, SessionHandle, SessionOptions, SessionStatus, Signal,
        exit_of,
        session::{By, End, EndReason, Mode},
    },
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, Stdout, WriteHalf},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    Failed,
    args::Connect,
    config::pair,
    destination::{Destination, Ways, host_port},
    output::{Output, harmless},
    servers,
    state::State,
    terminal::{Escapes, Key, Raw, SHOW_LOSS_AFTER, Screen, size},
};

/// Exit status when there is none of a remote program.
pub(crate) const NO_STATUS: u8 = 255;
/// Bytes read from the keyboard or a pipe at once.
const READ_SIZE: usize = 16 * 1024;
/// Pieces of input that wait to be looked at.
const MAX_PIECES: usize = 4;
/// Bytes typed ahead while the connection is away; what comes after them waits, `~.` too.
const MAX_PENDING: usize = 256 * 1024;
/// Variables passed on from here.
const PASSED_ON: [&str; 4] = ["TERM", "COLORTERM", "LANG", "TZ"];
/// End of input, as a terminal says it.
const END_OF_TRANSMISSION: &[u8] = b"\x04";
/// Pause before it is said again. Once may not do: another program may have it, and one that has just started, or a shell
/// that is about to read a line, drops what was typed before.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(1);
const HELP: &str =
    "~.  end the session\r\n~r  reconnect now\r\n~s  state of the connection\r\n~~  a ~\r\n";

pub(crate) async fn run(state: State, options: Connect, output: &Output) -> Result<u8, Failed> {
    let destination = Destination::new(&options.target, None)?;
    let session_options = session_options(&destination, &options)?;
    let ways = destination.ways(&state).await?;
    // Between the lines of a terminal it is in the way; there ~s tells it.
    let _telling = output.is_json().then(|| ways.tell_of_servers(output));
    let opened = ways.open(session_options, output).await;
    let session = match opened {
        Ok(session) => session,
        Err(error) => {
            ways.stop().await;
            return Err(error.into());
        }
    };
    let end = match destination.invitation.mode {
        Mode::Pty => {
            Terminal::new(session, &options, output, destination.name(), &ways)?
                .run()
                .await
        }
        Mode::Tunnel => pipe(session).await,
    };
    ways.stop().await;
    Ok(conclude(end?, output))
}

fn session_options(destination: &Destination, options: &Connect) -> Result<SessionOptions, Failed> {
    let mut session = destination.options();
    if let Some(target) = &options.to {
        let (host, port) = host_port(target)?;
        session = session.target(host, port);
    }
    session.give_up_after = options.give_up_after;
    if destination.invitation.mode == Mode::Pty {
        for (name, value) in std::env::vars() {
            if PASSED_ON.contains(&name.as_str()) || name.starts_with("LC_") {
                session = session.env(name, value);
            }
        }
        for text in &options.env {
            let (name, value) = pair(text)?;
            session = session.env(name, value);
        }
        if let Some(size) = size() {
            session = session.size(size);
        }
    }
    Ok(session)
}

/// The exit status, and a word about an end that is not the remote program's own.
fn conclude(end: End, output: &Output) -> u8 {
    let exit = exit_of(&end);
    let (status, said) = match &exit {
        Exit::Code(code) => (code.to_le_bytes()[0], None),
        Exit::Signal(name) => (
            signal_status(name),
            Some(format!("ended by signal {}", harmless(name))),
        ),
        Exit::Closed if is_cut_off(&end) => (NO_STATUS, reason(&end)),
        Exit::Closed => (0, reason(&end)),
        Exit::Failed(failure) => (NO_STATUS, Some(harmless(&failure.to_string()))),
    };
    if output.is_json() {
        output.note("", || json!({ "event": "ended", "status": status, "exit": exit.to_string(), "reason": said }));
    } else if let Some(said) = said {
        output.note(&said, || json!(null));
    }
    status
}

/// The way of a session for people: what carries it, and where to. The label of a path over libp2p has the address alone.
fn way(carrier: Option<Carrier>, path: &str) -> String {
    let name = carrier.map_or("", Carrier::name);
    let prefixes = ["direct ", "relayed "];
    let address = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix));
    match address {
        Some(address) if !name.is_empty() => format!("{name}, {}", harmless(address)),
        _ => harmless(path),
    }
}

/// Whether the server has ended it before the program there had: its owner did, or it stops.
fn is_cut_off(end: &End) -> bool {
    let EndReason::Close(close) = &end.reason else {
        return false;
    };
    let ordinary = [Code::NORMAL, Code::USER, Code::BACKEND_CLOSED];
    end.by == By::Remote && !ordinary.contains(&close.code)
}

/// What the one who closed says, if it is not the user himself.
fn reason(end: &End) -> Option<String> {
    match &end.reason {
        EndReason::Close(close) if close.code != Code::USER && !close.message.is_empty() => {
            Some(harmless(&close.message))
        }
        _ => None,
    }
}

/// As shells do it: 128 and the number.
fn signal_status(name: &str) -> u8 {
    let number = match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "SEGV" => 11,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        _ => return NO_STATUS,
    };
    128 + number
}

/// What is typed, read in a thread of its own: a terminal cannot be read in any other way without changing it for
/// every program that has it. The thread ends with the program.
fn stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(MAX_PIECES);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let piece = Bytes::copy_from_slice(&buffer[..count]);
                    if sender.blocking_send(piece).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// One connection on stdin and stdout, for `ProxyCommand` and the like.
async fn pipe(session: RemoteSession) -> Result<End, Failed> {
    let handle = session.handle();
    let (mut reader, mut writer) = tokio::io::split(session);
    let mut input = stdin();
    let sending = async move {
        while let Some(piece) = input.recv().await {
            writer.write_all(&piece).await?;
            writer.flush().await?;
        }
        writer.shutdown().await?;
        // Dropped, it would end the session before the answer is here.
        pending::<io::Result<()>>().await
    };
    let receiving = async move {
        let mut stdout = tokio::io::stdout();
        tokio::io::copy(&mut reader, &mut stdout).await?;
        stdout.flush().await
    };
    tokio::select! {
        outcome = sending => outcome?,
        outcome = receiving => outcome?,
    }
    // A CLOSE follows the last byte; a half-close does not.
    handle.close(Code::NORMAL, "");
    Ok(handle.ended().await)
}

/// What happened.
enum Turn {
    Typed(Option<Bytes>),
    EndOfInput,
    Written(usize),
    Signal(SignalKind),
    Status(bool),
    Lost,
    Output(usize),
}

/// A session at the user's terminal.
struct Terminal<'a> {
    handle: SessionHandle,
    reader: ReadHalf<RemoteSession>,
    writer: WriteHalf<RemoteSession>,
    stdout: Stdout,
    raw: Option<Raw>,
    screen: Screen,
    escapes: Option<Escapes>,
    status: watch::Receiver<SessionStatus>,
    /// Typed and not taken by the session yet.
    pending: BytesMut,
    /// What was typed does not end with the end of a line.
    in_line: bool,
    /// When the end of the input is to be said again, after it has ended.
    say_again: Option<Instant>,
    /// Titles are set; `shown` is one of ours.
    titles: bool,
    shown: bool,
    lost: Option<Instant>,
    /// Breaks that were told of, see [`SessionHandle::losses`].
    losses: u32,
    name: String,
    reports: Vec<ServerReports>,
    output: &'a Output,
}

impl<'a> Terminal<'a> {
    fn new(
        session: RemoteSession,
        options: &Connect,
        output: &'a Output,
        name: String,
        ways: &Ways,
    ) -> Result<Self, Failed> {
        let handle = session.handle();
        let status = handle.watch();
        let (reader, writer) = tokio::io::split(session);
        let raw = Raw::enter()?;
        Ok(Self {
            handle,
            reader,
            writer,
            stdout: tokio::io::stdout(),
            escapes: (raw.is_some() && !options.no_escape).then(Escapes::default),
            raw,
            screen: Screen::default(),
            status,
            pending: BytesMut::new(),
            in_line: false,
            say_again: None,
            titles: io::stdout().is_terminal() && !options.no_status && !output.is_json(),
            shown: false,
            lost: None,
            losses: 0,
            name,
            reports: ways.reports.clone(),
            output,
        })
    }

    async fn run(mut self) -> Result<End, Failed> {
        let mut input = stdin();
        let (mut typing, mut watching) = (true, true);
        let mut signals = Signals::new()?;
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let showing = self.lost.filter(|_| !self.shown);
            let is_idle = self.pending.is_empty() && self.lost.is_none();
            let again = self.say_again.filter(|_| is_idle);
            let turn = tokio::select! {
                // What is typed goes first: Ctrl-C shall not wait behind a flood.
                biased;
                piece = input.recv(), if typing && self.pending.len() < MAX_PENDING => Turn::Typed(piece),
                written = self.writer.write(&self.pending), if !self.pending.is_empty() => Turn::Written(written.unwrap_or(0)),
                number = signals.next() => Turn::Signal(number),
                () = until(again) => Turn::EndOfInput,
                changed = self.status.changed(), if watching => Turn::Status(changed.is_ok()),
                () = until(showing.map(|since| since + SHOW_LOSS_AFTER)) => Turn::Lost,
                read = self.reader.read(&mut buffer) => Turn::Output(read.unwrap_or(0)),
            };
            match turn {
                Turn::Typed(Some(piece)) => self.typed(&piece),
                Turn::Typed(None) => {
                    typing = false;
                    self.finish_line();
                    self.say_end();
                }
                Turn::EndOfInput => self.say_end(),
                // The session is over; its last output is still to be read.
                Turn::Written(0) => self.pending.clear(),
                Turn::Written(count) => self.pending.advance(count),
                Turn::Signal(kind) => self.signalled(kind),
                Turn::Status(alive) => {
                    watching = alive;
                    self.status_changed().await?;
                }
                Turn::Lost => self.show_loss().await?,
                Turn::Output(0) => break,
                Turn::Output(count) => self.put(&buffer[..count]).await?,
            }
        }
        let end = self.handle.ended().await;
        self.leave(&end).await?;
        Ok(end)
    }

    /// Takes what was typed, and does what is for us.
    fn typed(&mut self, piece: &[u8]) {
        if let Some(last) = piece.last() {
            self.in_line = !matches!(last, b'\n' | b'\r');
        }
        let Some(escapes) = &mut self.escapes else {
            self.pending.extend_from_slice(piece);
            return;
        };
        let (rest, keys) = escapes.take(piece);
        self.pending.extend_from_slice(&rest);
        for key in keys {
            match key {
                Key::End => self.handle.abort(Code::USER, ""),
                Key::Reconnect => self.handle.reconnect_now(),
                Key::Status => self.say(&self.describe()),
                Key::Help => self.say(HELP),
            }
        }
    }

    /// Runs a last command that has no end of line, as shells do it that read a file. What a user has begun to type when
    /// the terminal goes is another matter.
    fn finish_line(&mut self) {
        if self.in_line && self.raw.is_none() {
            self.pending.extend_from_slice(b"\n");
        }
    }

    /// The input has ended: a shell ends when its terminal says so.
    fn say_end(&mut self) {
        self.pending.extend_from_slice(END_OF_TRANSMISSION);
        self.say_again = Some(Instant::now() + SAY_AGAIN_AFTER);
    }

    /// A word the user asked for, on stderr.
    fn say(&self, text: &str) {
        // The terminal is raw: a line ends with both.
        let text = format!("{}\r", text.trim_end());
        self.output.note(
            &text,
            || json!({ "event": "status", "text": text.trim_end() }),
        );
    }

    fn describe(&self) -> String {
        let rtt = self.handle.stats().rtt;
        let rtt = rtt.map_or_else(String::new, |rtt| {
            format!(", {:.1} ms", rtt.as_secs_f64() * 1000.0)
        });
        match self.handle.status() {
            SessionStatus::Connected { path } => {
                let useless: String = self.reports.iter().map(servers::useless).collect();
                let way = way(self.handle.carrier(), &path);
                format!("connected by {way}{rtt}{useless}")
            }
            SessionStatus::Reconnecting {
                attempt,
                last_error,
            } => {
                format!("reconnecting, attempt {attempt} {}", harmless(&last_error))
            }
            other => format!("{other:?}"),
        }
    }

    fn signalled(&mut self, number: SignalKind) {
        if number == SignalKind::window_change() {
            if let Some(size) = size() {
                self.handle.resize(size);
            }
        } else if number == SignalKind::interrupt() {
            self.handle.signal(Signal::Int);
        } else if number == SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()) {
            if let Some(raw) = &self.raw
                && let Err(error) = raw.apply()
            {
                tracing::debug!(%error, "the terminal is not raw");
            }
            if let Some(size) = size() {
                self.handle.resize(size);
            }
        } else {
            self.handle.close(Code::USER, "");
        }
    }

    /// Sees what a change means for the title.
    async fn status_changed(&mut self) -> io::Result<()> {
        let lost = matches!(
            *self.status.borrow_and_update(),
            SessionStatus::Reconnecting { .. }
        );
        self.lost = match (lost, self.lost) {
            (true, since) => since.or_else(|| Some(Instant::now())),
            (false, _) => None,
        };
        if !lost && std::mem::take(&mut self.shown) {
            self.restore_title().await?;
        }
        if self.output.is_json()
            && let SessionStatus::Connected { path } = self.handle.status()
        {
            let carrier = self.handle.carrier().map(Carrier::name);
            self.output.note(
                "",
                || json!({ "event": "path", "path": harmless(&path), "carrier": carrier }),
            );
        }
        let losses = self.handle.losses();
        if std::mem::replace(&mut self.losses, losses) < losses {
            self.say("the WebRTC connection broke: some of what was shown or typed may be missing");
        }
        Ok(())
    }

    async fn show_loss(&mut self) -> io::Result<()> {
        self.shown = true;
        if self.output.is_json() {
            self.output.note("", || json!({ "event": "reconnecting" }));
        }
        // Nothing is written into the middle of a sequence: the rest of it comes after the reconnect.
        if self.titles && self.screen.is_safe() {
            let title = Screen::title(&format!("[reconnecting] {} (~. ends)", self.name));
            self.stdout.write_all(&title).await?;
            self.stdout.flush().await?;
        }
        Ok(())
    }

    async fn restore_title(&mut self) -> io::Result<()> {
        if self.titles && self.screen.is_safe() {
            self.stdout.write_all(&self.screen.own_title()).await?;
            self.stdout.flush().await?;
        }
        Ok(())
    }

    async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.screen.follow(bytes);
        self.stdout.write_all(bytes).await?;
        self.stdout.flush().await
    }

    /// Gives the terminal back as it should be.
    async fn leave(&mut self, end: &End) -> io::Result<()> {
        let own_end = matches!(exit_of(end), Exit::Code(_) | Exit::Signal(_));
        if io::stdout().is_terminal() && !own_end {
            self.stdout.write_all(&self.screen.tidy()).await?;
        }
        if self.shown {
            self.restore_title().await?;
        }
        self.stdout.flush().await?;
        self.raw = None;
        Ok(())
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// The signals a terminal program hears.
struct Signals {
    all: Vec<(SignalKind, tokio::signal::unix::Signal)>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::window_change(),
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()),
        ];
        let all = kinds
            .into_iter()
            .map(|kind| Ok((kind, signal(kind)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { all })
    }

    async fn next(&mut self) -> SignalKind {
        std::future::poll_fn(|cx| {
            for (kind, signal) in &mut self.all {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*kind);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_a_session_names_its_carrier_and_where_it_leads() {
        let address = "/ip4/192.0.2.1/tcp/8443/tls/ws/webrtc";
        for (carrier, path, told) in [
            (
                Carrier::StreamWebRtcRelayed,
                format!("direct {address}"),
                format!("libp2p webrtc relayed, {address}"),
            ),
            (
                Carrier::StreamCircuit,
                format!("relayed {address}/p2p-circuit"),
                format!("libp2p relayed, {address}/p2p-circuit"),
            ),
            (
                Carrier::WebRtcDirect,
                "webrtc direct 192.0.2.1:9000".to_owned(),
                "webrtc direct 192.0.2.1:9000".to_owned(),
            ),
        ] {
            assert_eq!(way(Some(carrier), &path), told);
        }
    }
}
