//! Recordings of terminals as asciicast v2, beside the session and never in its way.
//!
//! A [`Recorder`] wraps the backend of a terminal. What passes is given to a task that writes the file; when the disk
//! does not keep up, output is left out of the recording, with a mark, and not held back from the user.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use libp2p_rtc::socketpipe::{Backend, Exit, Size, backend::Control};
use serde_json::json;
use tokio::{io::ReadBuf, sync::mpsc, time::Instant};

use crate::time::{now, unix};

/// Pieces that wait for the disk.
const MAX_WAITING: usize = 256;

/// What is written.
struct Event {
    at: Duration,
    kind: char,
    data: Vec<u8>,
}

/// How to record.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) directory: PathBuf,
    pub(crate) input: bool,
}

impl Recording {
    /// Makes the directory.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
    }

    /// The same backend, recorded. A recording that cannot be made is told; what shall be recorded must be.
    pub(crate) fn wrap(&self, inner: Box<dyn Backend>, who: &str) -> io::Result<Box<dyn Backend>> {
        let started = now();
        let file = create(&self.directory, started)?;
        let (events, queue) = mpsc::channel(MAX_WAITING);
        let title = who.to_owned();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write(file, queue, started, &title) {
                tracing::error!(%error, "a recording broke off");
            }
        });
        Ok(Box::new(Recorder {
            inner,
            events,
            began: Instant::now(),
            output: Utf8::default(),
            input: self.input.then(Utf8::default),
            gap: false,
        }))
    }
}

fn create(directory: &Path, started: SystemTime) -> io::Result<fs::File> {
    let stem = crate::time::rfc3339(started).replace(':', "");
    for number in 0..1000 {
        let path = directory.join(format!("{stem}-{number}.cast"));
        let mut options = fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The file, line by line. Its header waits for the first size, for at most the first event of another kind.
fn write(
    file: fs::File,
    mut queue: mpsc::Receiver<Event>,
    started: SystemTime,
    title: &str,
) -> io::Result<()> {
    let mut file = io::BufWriter::new(file);
    let mut header = false;
    while let Some(event) = queue.blocking_recv() {
        let text = String::from_utf8_lossy(&event.data);
        if !header {
            header = true;
            let (width, height) = match event.kind {
                'r' => text.split_once('x').unwrap_or(("80", "24")),
                _ => ("80", "24"),
            };
            let head = json!({
                "version": 2,
                "width": width.parse().unwrap_or(80),
                "height": height.parse().unwrap_or(24),
                "timestamp": unix(started),
                "title": title,
            });
            writeln!(file, "{head}")?;
            if event.kind == 'r' {
                continue;
            }
        }
        let line = json!([event.at.as_secs_f64(), event.kind, text]);
        writeln!(file, "{line}")?;
        if queue.is_empty() {
            file.flush()?;
        }
    }
    file.flush()
}

/// Pieces of a stream, cut between characters: JSON has no half ones.
#[derive(Default)]
struct Utf8 {
    tail: Vec<u8>,
}

impl Utf8 {
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.tail);
        all.extend_from_slice(bytes);
        let cut = all.len() - incomplete(&all);
        self.tail = all.split_off(cut);
        all
    }
}

/// Bytes at the end that begin a character.
fn incomplete(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            0x80..=0xBF => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

/// A backend that is recorded.
struct Recorder {
    inner: Box<dyn Backend>,
    events: mpsc::Sender<Event>,
    began: Instant,
    output: Utf8,
    input: Option<Utf8>,
    /// Something was left out.
    gap: bool,
}

impl Recorder {
    fn note(&mut self, kind: char, data: Vec<u8>) {
        if data.is_empty() {
            return;
        }
        let at = self.began.elapsed();
        if self.gap {
            let data = b"\r\n[socketpipe: output is missing here]\r\n".to_vec();
            let mark = Event {
                at,
                kind: 'o',
                data,
            };
            if self.events.try_send(mark).is_err() {
                return;
            }
        }
        self.gap = self.events.try_send(Event { at, kind, data }).is_err();
    }
}

impl Backend for Recorder {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.inner.poll_read(cx, buf))?;
        let data = self.output.take(&buf.filled()[before..]);
        self.note('o', data);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_write(cx, bytes))?;
        if let Some(input) = &mut self.input {
            let data = input.take(&bytes[..count]);
            self.note('i', data);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_shutdown(cx)
    }

    fn control(&mut self, control: Control) {
        if let Control::Resize(Size { columns, rows, .. }) = control {
            self.note('r', format!("{columns}x{rows}").into_bytes());
        }
        self.inner.control(control);
    }

    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        self.inner.poll_exit(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_between_characters() {
        let text = "aé€😀z".as_bytes();
        for cut in 0..=text.len() {
            let mut stream = Utf8::default();
            let first = stream.take(&text[..cut]);
            let second = stream.take(&text[cut..]);
            assert!(String::from_utf8(first.clone()).is_ok(), "{cut}");
            assert_eq!([first, second].concat(), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_not_held_back() {
        let mut stream = Utf8::default();
        assert_eq!(stream.take(&[0xff, 0x80, 0x80, 0x80, 0x80]).len(), 5);
        assert!(stream.tail.is_empty());
    }

    #[test]
    fn the_file_is_asciicast_2() {
        let path = std::env::temp_dir().join(format!("socketpipe-{}.cast", std::process::id()));
        let (events, queue) = mpsc::channel(8);
        for (kind, data) in [('r', "100x30"), ('o', "hi\x1b[m"), ('r', "90x20")] {
            let at = Duration::from_millis(1500);
            let data = data.as_bytes().to_vec();
            assert!(events.try_send(Event { at, kind, data }).is_ok());
        }
        drop(events);
        let file = fs::File::create(&path).unwrap();
        write(file, queue, SystemTime::UNIX_EPOCH, "anna").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            lines[0],
            json!({"version": 2, "width": 100, "height": 30, "timestamp": 0, "title": "anna"})
        );
        assert_eq!(
            lines[1..],
            [json!([1.5, "o", "hi\x1b[m"]), json!([1.5, "r", "90x20"])]
        );
    }
}
