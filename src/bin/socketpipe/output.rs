//! What the program prints: text for people or JSON for programs.

use std::{
    error::Error,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use libp2p_rtc::socketpipe::OpenError;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};

/// Where results and complaints go.
#[derive(Clone, Copy, Default)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A result. Flushed, for a reader at the other end of a pipe waits for it; who does not read does not matter.
    pub(crate) fn print(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) {
        let line = if self.json {
            json_line(&json())
        } else {
            text()
        };
        let mut stdout = std::io::stdout().lock();
        drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
    }

    /// How things stand.
    pub(crate) fn note(&self, text: &str, json: impl FnOnce() -> Value) {
        let line = match self.json {
            true => json_line(&json()),
            false => format!("socketpipe: {text}"),
        };
        drop(writeln!(std::io::stderr().lock(), "{line}"));
    }

    /// The last word of a command that failed.
    pub(crate) fn failed(&self, error: &(dyn Error + 'static), status: u8) -> ExitCode {
        let text = last_word(error);
        let tried = match error.downcast_ref() {
            Some(OpenError::Unreachable(why)) => why.tried.as_slice(),
            _ => &[],
        };
        let tried: Vec<_> = tried.iter().map(|line| harmless(line)).collect();
        let lines = tried.iter().map(|line| format!("\n  {line}"));
        self.note(&format!("{text}{}", lines.collect::<String>()), || {
            let mut object = json!({ "event": "error", "message": text });
            if !tried.is_empty() {
                object["tried"] = tried.as_slice().into();
            }
            if let Some(OpenError::Refused(failure)) = error.downcast_ref() {
                object["code"] = failure.code.0.into();
                object["name"] = failure.code.name().into();
            }
            object
        });
        match error.downcast_ref::<OpenError>() {
            Some(_) => ExitCode::from(255),
            None => ExitCode::from(status),
        }
    }
}

/// An error as it is shown. What a server says of why it refuses is the server's text, and may be anything.
fn last_word(error: &(dyn Error + 'static)) -> String {
    let text = chain(error);
    match error.downcast_ref::<OpenError>() {
        Some(_) => harmless(&text),
        None => text,
    }
}

/// One line of JSON that can be shown on a terminal: JSON itself leaves control characters above ASCII as they are.
pub(crate) fn json_line(value: &Value) -> String {
    let text = value.to_string();
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // All of these are within strings: outside there is only ASCII.
            c if steers(c) => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line
}

/// Whether a terminal or reader is steered by this character: controls, line separators, changes of direction.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        if text.is_empty() {
            text = error_text;
        } else if !text.contains(&error_text) {
            text = format!("{text}: {error_text}");
        }
        cause = error.source();
    }
    text
}

/// Text of others, fit for a terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|c| !steers(*c)).collect()
}

/// White on black, not what a theme makes of these names: on a light terminal the code would be inverted, which many
/// cameras do not read.
const QR_COLOURS: &str = "\x1b[38;5;231;48;5;16m";
const NO_COLOURS: &str = "\x1b[0m";

/// A QR code in half blocks, or why there is none.
pub(crate) fn qr(text: &str) -> String {
    // Screens do not get dirty: the lowest level of correction gives the smallest code.
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return "(too long for a QR code)".to_owned();
    };
    let columns = code.width() + 8;
    let room = terminal_columns();
    if room.is_some_and(|room| usize::from(room) < columns) {
        return format!("(a QR code needs a terminal of {columns} columns)");
    }
    let drawn = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    let lines = drawn.lines();
    let coloured = lines.map(|line| format!("{QR_COLOURS}{line}{NO_COLOURS}"));
    coloured.collect::<Vec<_>>().join("\n")
}

/// The width of the terminal stdout is, if it is one.
fn terminal_columns() -> Option<u16> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(stdout)
        .ok()
        .map(|size| size.ws_col)
        .filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_even_if_the_error_itself_says_nothing() {
        #[derive(Debug, thiserror::Error)]
        #[error("")]
        struct Silent(#[source] std::io::Error);
        let error = Silent(std::io::Error::other("the port is taken"));
        assert_eq!(chain(&error), "the port is taken");
    }

    #[test]
    fn a_qr_code_is_drawn_in_lines_of_one_width() {
        let drawn = qr("http://127.0.0.1:8080/#socketpipe:1:abc");
        let widths: Vec<_> = drawn.lines().map(|line| line.chars().count()).collect();
        assert!(widths.len() > 10 && widths.iter().all(|width| *width == widths[0]));
        assert_eq!(qr(&"x".repeat(4000)), "(too long for a QR code)");
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2J\u{9b}1mb\r\n\u{202e}c"), "a[2J1mbc");
        let refused = OpenError::Refused(libp2p_rtc::socketpipe::Failure::new(
            libp2p_rtc::socketpipe::Code::AUTH_FAILED,
            "no\x1b]52;c;ZXZpbA==\x07\r\nsocketpipe: all is well",
        ));
        let shown = last_word(&refused);
        assert!(!shown.contains(['\x1b', '\x07', '\r', '\n']), "{shown:?}");
        assert!(
            shown.starts_with("refused: 1000 AUTH_FAILED: no"),
            "{shown}"
        );
    }

    #[test]
    fn a_line_of_json_steers_no_terminal_and_says_the_same() {
        let value = json!({ "target": "a\u{9b}2J\u{85}\u{202e}\u{7f}\n\"b\\:22" });
        let line = json_line(&value);
        assert!(!line.chars().any(steers), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
