//! The user's terminal: raw mode, size, title, the keys after `~`.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use bytes::Bytes;
use libp2p_rtc::socketpipe::Size;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Bytes of a title that are remembered.
const MAX_TITLE: usize = 256;
/// Bytes of a control sequence that are looked at.
const MAX_SEQUENCE: usize = 32;

/// Raw mode of the terminal stdin is, for as long as it lives.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` if stdin is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let raw = Self { before };
        raw.apply()?;
        Ok(Some(raw))
    }

    /// Again, after the shell of the user had the terminal.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let mut termios = self.before.clone();
        termios.make_raw();
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &termios)?)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            tracing::debug!(%error, "the terminal stays raw");
        }
    }
}

/// The size of the terminal stdin or stdout is.
pub(crate) fn size() -> Option<Size> {
    let size = tcgetwinsize(io::stdin())
        .or_else(|_| tcgetwinsize(io::stdout()))
        .ok()
        .filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
    Some(Size {
        columns: size.ws_col,
        rows: size.ws_row,
        width: size.ws_xpixel,
        height: size.ws_ypixel,
    })
}

/// What the user asks the program itself for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    End,
    Reconnect,
    Status,
    Help,
}

/// The keys after `~` at the beginning of a line, as in ssh.
pub(crate) struct Escapes {
    line_start: bool,
    tilde: bool,
}

impl Default for Escapes {
    fn default() -> Self {
        Self {
            line_start: true,
            tilde: false,
        }
    }
}

impl Escapes {
    /// Takes what was typed; gives what is for the server, and what is for us.
    pub(crate) fn take(&mut self, typed: &[u8]) -> (Bytes, Vec<Key>) {
        let mut rest = Vec::with_capacity(typed.len() + 1);
        let mut keys = Vec::new();
        for &byte in typed {
            if std::mem::take(&mut self.tilde) {
                let key = match byte {
                    b'.' => Some(Key::End),
                    b'r' => Some(Key::Reconnect),
                    b's' => Some(Key::Status),
                    b'?' => Some(Key::Help),
                    _ => None,
                };
                if let Some(key) = key {
                    keys.push(key);
                    self.line_start = true;
                    continue;
                }
                rest.push(b'~');
                self.line_start = false;
                if byte == b'~' {
                    continue;
                }
            } else if byte == b'~' && self.line_start {
                self.tilde = true;
                continue;
            }
            self.line_start = matches!(byte, b'\r' | b'\n');
            rest.push(byte);
        }
        (rest.into(), keys)
    }
}

/// Where the output stands: whether something of ours may be put between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between characters.
    #[default]
    Ground,
    /// In a character of several bytes: so many are missing.
    Character(u8),
    Escape,
    /// An escape sequence with an intermediate byte.
    Intermediate,
    Control,
    /// OSC, which ends with BEL or ST.
    Command,
    /// DCS, SOS, PM, APC, which end with ST.
    Text,
    /// After the ESC that may be the first half of ST.
    End,
}

/// Follows the output of the server, without changing it.
#[derive(Default)]
pub(crate) struct Screen {
    place: Place,
    sequence: Vec<u8>,
    /// The title the server's programs chose last.
    title: Vec<u8>,
    /// The screen of full-screen programs is shown.
    alternate: bool,
}

impl Screen {
    pub(crate) fn follow(&mut self, output: &[u8]) {
        for &byte in output {
            self.step(byte);
        }
    }

    /// Whether a sequence of ours would damage nothing here.
    pub(crate) fn is_safe(&self) -> bool {
        self.place == Place::Ground
    }

    fn step(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (Place::Command, 0x07) => self.end_command(),
            (Place::Command | Place::Text, 0x1b) => Place::End,
            (Place::End, b'\\') => self.end_command(),
            (Place::Command | Place::Text, 0x18 | 0x1a) => Place::Ground,
            (Place::Command, byte) => self.collect(byte, MAX_TITLE),
            (Place::Text, _) => Place::Text,
            (_, 0x1b) => Place::Escape,
            (Place::Escape | Place::End, byte) => self.after_escape(byte),
            (Place::Intermediate, 0x20..=0x2f) => Place::Intermediate,
            (Place::Control, 0x40..=0x7e) => self.end_control(byte),
            (Place::Control, 0x18 | 0x1a) => Place::Ground,
            (Place::Control, byte) => self.collect(byte, MAX_SEQUENCE),
            (Place::Character(missing), 0x80..=0xbf) if missing > 1 => {
                Place::Character(missing - 1)
            }
            (_, 0xc2..=0xdf) => Place::Character(1),
            (_, 0xe0..=0xef) => Place::Character(2),
            (_, 0xf0..=0xf4) => Place::Character(3),
            _ => Place::Ground,
        };
    }

    fn collect(&mut self, byte: u8, limit: usize) -> Place {
        if self.sequence.len() < limit {
            self.sequence.push(byte);
        }
        self.place
    }

    fn after_escape(&mut self, byte: u8) -> Place {
        self.sequence.clear();
        match byte {
            b'[' => Place::Control,
            b']' => Place::Command,
            b'P' | b'X' | b'^' | b'_' => Place::Text,
            0x20..=0x2f => Place::Intermediate,
            _ => Place::Ground,
        }
    }

    fn end_command(&mut self) -> Place {
        for number in [&b"0;"[..], b"2;"] {
            if let Some(title) = self.sequence.strip_prefix(number) {
                self.title = title.to_vec();
            }
        }
        self.sequence.clear();
        Place::Ground
    }

    fn end_control(&mut self, last: u8) -> Place {
        let modes = self.sequence.strip_prefix(b"?").unwrap_or_default();
        let switches = modes
            .split(|byte| *byte == b';')
            .any(|mode| matches!(mode, b"47" | b"1047" | b"1049"));
        if switches && matches!(last, b'h' | b'l') {
            self.alternate = last == b'h';
        }
        Place::Ground
    }

    /// Sets a title of ours.
    pub(crate) fn title(text: &str) -> Vec<u8> {
        let clean: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
        format!("\x1b]2;{clean}\x07").into_bytes()
    }

    /// Sets the title the server's programs chose.
    pub(crate) fn own_title(&self) -> Vec<u8> {
        let mut bytes = b"\x1b]2;".to_vec();
        bytes.extend(self.title.iter().filter(|byte| **byte >= 0x20));
        bytes.push(0x07);
        bytes
    }

    /// Makes the terminal usable again after a session that did not end by itself: whatever program ran there did
    /// not clean up.
    pub(crate) fn tidy(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.is_safe() {
            // CAN ends any sequence.
            bytes.push(0x18);
        }
        bytes.extend_from_slice(
            b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[?1l\x1b>\x1b[0m",
        );
        if self.alternate {
            bytes.extend_from_slice(b"\x1b[?1049l");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// How long a loss may last before it is shown: a change of the network is over before anybody has read it.
pub(crate) const SHOW_LOSS_AFTER: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&str]) -> (String, Vec<Key>) {
        let mut escapes = Escapes::default();
        let (mut rest, mut keys) = (Vec::new(), Vec::new());
        for piece in pieces {
            let (more, some) = escapes.take(piece.as_bytes());
            rest.extend_from_slice(&more);
            keys.extend(some);
        }
        (String::from_utf8(rest).unwrap(), keys)
    }

    #[test]
    fn tilde_counts_at_the_beginning_of_a_line_only() {
        let text = |text: &str| (text.to_owned(), vec![]);
        assert_eq!(typed(&["~."]), (String::new(), vec![Key::End]));
        assert_eq!(typed(&["ls ~.\r"]), text("ls ~.\r"));
        assert_eq!(
            typed(&["ls\r", "~", "r"]),
            ("ls\r".to_owned(), vec![Key::Reconnect])
        );
        assert_eq!(typed(&["~~."]), text("~."));
        assert_eq!(
            typed(&["~/bin\r~?x"]),
            ("~/bin\rx".to_owned(), vec![Key::Help])
        );
        assert_eq!(
            typed(&["~", "\r", "~s"]),
            ("~\r".to_owned(), vec![Key::Status])
        );
    }

    #[test]
    fn nothing_is_put_into_a_sequence_or_a_character() {
        let cases: [(&[u8], bool); 13] = [
            (b"plain", true),
            (b"\x1b", false),
            (b"\x1b[31", false),
            (b"\x1b[31m", true),
            (b"\x1b]0;title", false),
            (b"\x1b]0;title\x07", true),
            (b"\x1b]0;title\x1b\\", true),
            (b"\x1bPq#0", false),
            (b"\x1bPq#0\x1b\\", true),
            (b"\x1b(", false),
            (b"\x1b(B", true),
            ("€".as_bytes(), true),
            (&[0xe2, 0x82], false),
        ];
        for (output, safe) in cases {
            let mut screen = Screen::default();
            screen.follow(output);
            assert_eq!(screen.is_safe(), safe, "{output:?}");
        }
    }

    #[test]
    fn the_title_of_the_server_is_given_back() {
        let mut screen = Screen::default();
        screen.follow(b"\x1b]0;user@host\x07\x1b]7;file://x\x07");
        assert_eq!(screen.own_title(), b"\x1b]2;user@host\x07");
        assert_eq!(Screen::title("a\x07b"), b"\x1b]2;ab\x07");
    }

    #[test]
    fn a_full_screen_program_that_was_cut_off_is_left() {
        let mut screen = Screen::default();
        screen.follow(b"\x1b[?1049h\x1b[?25l");
        assert!(screen.tidy().ends_with(b"\x1b[?1049l\r\n"));
        screen.follow(b"\x1b[?25h\x1b[?1049l");
        assert!(!screen.tidy().ends_with(b"\x1b[?1049l\r\n"));
    }
}
