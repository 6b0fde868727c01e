//! One line for each session and each refusal, in a file or on stderr.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use libp2p_rtc::socketpipe::{
    Outcome, Record, exit_of,
    session::{By, EndReason, Mode},
};
use serde_json::{Value, json};

use crate::{
    output::json_line,
    time::{rfc3339, unix},
};

/// Refusals written per minute; strangers must not be able to fill a disk.
const MAX_REFUSALS: u32 = 60;

/// Where the lines go.
pub(crate) struct Audit {
    state: Mutex<State>,
}

struct State {
    sink: Box<dyn Write + Send>,
    minute: u64,
    refusals: u32,
    /// Refusals of that minute that were not written.
    left_out: u64,
}

impl Audit {
    /// `-` is stderr.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let sink: Box<dyn Write + Send> = match path == Path::new("-") {
            true => Box::new(io::stderr()),
            false => Box::new(
                fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(path)?,
            ),
        };
        Ok(Self {
            state: Mutex::new(State {
                sink,
                minute: 0,
                refusals: 0,
                left_out: 0,
            }),
        })
    }

    pub(crate) fn write(&self, record: &Record) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = line(record);
        if matches!(record.outcome, Outcome::Refused(_)) && !state.admit(unix(record.ended)) {
            return;
        }
        if state.left_out > 0 {
            line["refusals_left_out"] = std::mem::take(&mut state.left_out).into();
        }
        let line = json_line(&line);
        if let Err(error) = writeln!(state.sink, "{line}") {
            tracing::error!(%error, "the audit cannot be written");
        }
    }
}

impl State {
    fn admit(&mut self, now: u64) -> bool {
        if now / 60 != self.minute {
            self.minute = now / 60;
            self.refusals = 0;
        }
        self.refusals += 1;
        let admitted = self.refusals <= MAX_REFUSALS;
        if !admitted {
            self.left_out += 1;
        }
        admitted
    }
}

/// The name of a mode in everything the program writes.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Pty => "pty",
        Mode::Tunnel => "tunnel",
    }
}

fn line(record: &Record) -> Value {
    json!({
        "event": match record.outcome {
            Outcome::Refused(_) => "refused",
            _ => "session",
        },
        "number": record.number,
        "peer": record.origin.peer.map(|peer| peer.to_string()),
        "address": record.origin.address,
        "label": record.label,
        "mode": mode_name(record.mode),
        "target": record.target,
        "start": rfc3339(record.started),
        "end": rfc3339(record.ended),
        "sent": record.sent,
        "received": record.received,
        "paths": record.carriers.iter().map(|carrier| carrier.name()).collect::<Vec<_>>(),
        "reason": reason(&record.outcome),
    })
}

/// Why a session ended, in words.
fn reason(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused(failure) => failure.to_string(),
        Outcome::Dropped => "the server stopped".to_owned(),
        Outcome::Ended(end) => {
            let by = match end.by {
                By::Local => "server",
                By::Remote => "client",
            };
            match &end.reason {
                EndReason::Close(close) if close.message.is_empty() => {
                    format!("{by}: {}", close.code)
                }
                EndReason::Close(close) => format!("{by}: {} {}", close.code, close.message),
                EndReason::TimedOut => "the client did not answer".to_owned(),
                EndReason::Expired => "the client did not come back".to_owned(),
                EndReason::TransportLost => "the connection was lost".to_owned(),
                _ => exit_of(end).to_string(),
            }
        }
    }
}
