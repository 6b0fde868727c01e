//! What the node says: results on stdout, as text or JSON, reasons on stderr.

use std::{
    error::Error,
    io::{self, Write as _},
};

use libp2p::swarm::DialError;
use serde_json::Value;

/// How results are printed.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// One line. Flushed, for a reader at the other end of a pipe waits for it.
    pub(crate) fn say(self, text: &str, json: &Value) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{json}")?;
        } else {
            writeln!(stdout, "{text}")?;
        }
        stdout.flush()
    }
}

/// One line on stderr.
pub(crate) fn complain(reason: &str) {
    // There is nobody left to tell that it does not work.
    writeln!(io::stderr(), "dht: {reason}").ok();
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    if let Some(DialError::Transport(addresses)) = error.downcast_ref() {
        let reasons = addresses
            .iter()
            .map(|(addr, error)| format!("{addr}: {}", chain(error)));
        return reasons.collect::<Vec<_>>().join("; ");
    }
    let text = error.to_string();
    let Some(source) = error.source().map(chain) else {
        return text;
    };
    // Some errors of libp2p print their causes themselves, or nothing.
    match (text.is_empty(), text.contains(&source)) {
        (true, _) => source,
        (false, true) => text,
        (false, false) => format!("{text}: {source}"),
    }
}
