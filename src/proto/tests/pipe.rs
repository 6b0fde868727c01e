//! The application's hold on one channel: what it sends, what it expects, how it ended.

use std::{sync::OnceLock, time::Instant};

use bytes::Bytes;

use crate::proto::{ChannelId, ConnectionId, Endpoint, Event, Read, Write};

/// The pattern that travels through a channel in one direction.
fn pattern(seed: u64, offset: u64, len: usize) -> &'static [u8] {
    const PERIOD: usize = 65_521;
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    let block = BLOCK.get_or_init(|| {
        let byte = |at: usize| (at * 31 + (at >> 7) * 17 + (at >> 13)).to_le_bytes()[0];
        (0..PERIOD * 2).map(|at| byte(at % PERIOD)).collect()
    });
    let start = usize::try_from((seed * 7919 + offset) % PERIOD as u64).unwrap();
    &block[start..start + len.min(PERIOD)]
}

/// Bytes of a [`Pipe`] offered to one `write`.
const WRITE_SIZE: usize = 48 * 1024;

/// One channel in the hands of the application.
#[derive(Debug)]
pub(super) struct Pipe {
    /// The SCTP stream.
    pub(super) stream: u16,
    seed: u64,
    expected_seed: u64,
    /// Bytes to be sent.
    pub(super) total: u64,
    /// Bytes the endpoint took.
    pub(super) sent: u64,
    finish: bool,
    finished: bool,
    write_blocked: bool,
    /// Why writing ended before its time.
    pub(super) write_end: Option<Write>,
    /// Whether the application reads.
    pub(super) reading: bool,
    read_blocked: bool,
    /// Bytes read.
    pub(super) received: u64,
    /// Whether they were the right ones.
    pub(super) intact: bool,
    /// How reading ended.
    pub(super) end: Option<Read>,
    echo: bool,
    released: bool,
    /// When the last byte was read or the end seen.
    pub(super) last_news: Option<Instant>,
}

impl Pipe {
    fn new(opener: bool, stream: u16, total: u64) -> Self {
        let [from_opener, to_opener] = [2 * u64::from(stream), 2 * u64::from(stream) + 1];
        Self {
            stream,
            seed: if opener { from_opener } else { to_opener },
            expected_seed: if opener { to_opener } else { from_opener },
            total,
            sent: 0,
            finish: true,
            finished: false,
            write_blocked: false,
            write_end: None,
            reading: true,
            read_blocked: false,
            received: 0,
            intact: true,
            end: None,
            echo: false,
            released: false,
            last_news: None,
        }
    }

    /// Sends `total` bytes and FIN, and reads what an echo returns.
    pub(super) fn request(stream: u16, total: u64) -> Self {
        let this = Self::new(true, stream, total);
        Self {
            expected_seed: this.seed,
            ..this
        }
    }

    /// Sends `total` bytes without FIN, reads whatever comes.
    pub(super) fn without_end(self) -> Self {
        Self {
            finish: false,
            ..self
        }
    }

    /// Sends `total` bytes and FIN, expects nothing but FIN.
    pub(super) fn upload(stream: u16, total: u64) -> Self {
        Self::new(true, stream, total)
    }

    /// Both directions came to their regular end and every byte was right.
    pub(super) fn is_complete(&self) -> bool {
        self.intact && self.finished && self.write_end.is_none() && self.end == Some(Read::Eof)
    }

    fn is_over(&self) -> bool {
        self.end.is_some() && (self.finished || self.write_end.is_some())
    }

    /// Writes and reads as far as it goes, and drops the handle when both directions are over.
    pub(super) fn pump(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        at: (ConnectionId, ChannelId),
    ) {
        loop {
            self.write(endpoint, now, at);
            if !self.read(endpoint, now, at) {
                break;
            }
        }
        if self.is_over() && !self.released {
            self.released = true;
            endpoint.release(now, at.0, at.1);
        }
    }

    fn write(&mut self, endpoint: &mut Endpoint, now: Instant, at: (ConnectionId, ChannelId)) {
        while self.sent < self.total && !self.write_blocked && self.write_end.is_none() {
            let len = usize::try_from(self.total - self.sent)
                .map_or(WRITE_SIZE, |left| left.min(WRITE_SIZE));
            let data = pattern(self.seed, self.sent, len);
            match endpoint.write(now, at.0, at.1, data) {
                Write::Accepted(taken) => {
                    assert!(taken <= data.len(), "{taken} of {} bytes taken", data.len());
                    self.sent += taken as u64;
                    self.write_blocked = taken < data.len();
                }
                end => self.write_end = Some(end),
            }
        }
        if self.sent == self.total && self.finish && !self.finished && self.write_end.is_none() {
            self.finished = true;
            endpoint.finish(now, at.0, at.1);
        }
    }

    /// True if there is something new to write because of what was read.
    fn read(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        at: (ConnectionId, ChannelId),
    ) -> bool {
        while self.reading && !self.read_blocked && self.end.is_none() {
            if self.echo && self.sent < self.total && self.write_end.is_none() {
                return false;
            }
            self.read_piece(endpoint, now, at);
            if self.echo || self.end.is_some() {
                return true;
            }
        }
        false
    }

    fn read_piece(&mut self, endpoint: &mut Endpoint, now: Instant, at: (ConnectionId, ChannelId)) {
        match endpoint.read(now, at.0, at.1) {
            Read::Data(bytes) => self.take(&bytes, now),
            Read::Blocked => self.read_blocked = true,
            end => {
                self.last_news = Some(now);
                self.finish = true;
                self.end = Some(end);
            }
        }
    }

    fn take(&mut self, bytes: &Bytes, now: Instant) {
        assert!(!bytes.is_empty(), "read gives bytes or none at all");
        let mut offset = self.received;
        for piece in bytes.chunks(32 * 1024) {
            self.intact &= piece == pattern(self.expected_seed, offset, piece.len());
            offset += piece.len() as u64;
        }
        self.received = offset;
        self.last_news = Some(now);
        if self.echo {
            self.total = self.received;
        }
    }

    /// An inbound stream: reads, and answers FIN with FIN; with `echo` sends everything back.
    pub(super) fn inbound(stream: u16, echo: bool, reading: bool) -> Self {
        let this = Self::new(false, stream, 0).without_end();
        Self {
            seed: if echo { this.expected_seed } else { this.seed },
            echo,
            reading,
            ..this
        }
    }

    /// Takes note of an event: what was blocked may go on.
    pub(super) fn wake(&mut self, event: &Event) {
        match event {
            Event::ChannelReadable(_) => self.read_blocked = false,
            _ => self.write_blocked = false,
        }
    }

    /// Reads at most so many pieces.
    pub(super) fn pump_pieces(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        at: (ConnectionId, ChannelId),
        pieces: u32,
    ) {
        for _ in 0..pieces {
            if self.read_blocked || self.end.is_some() {
                break;
            }
            self.read_piece(endpoint, now, at);
        }
        if self.end.is_some() {
            self.pump(endpoint, now, at);
        }
    }
}
