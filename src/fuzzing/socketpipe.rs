//! Fuzz bodies of SocketPipe: the codec, and a session that gets any frames in any order.

use std::{sync::Arc, time::Duration};

use asynchronous_codec::Decoder;
use bytes::{Bytes, BytesMut};

use crate::socketpipe::{
    Frame, FrameCodec, FrameError, FrameLimits, HEADER_LEN, Signal, Size, decode_message,
    encode_message,
    session::{
        Acceptor, ClientConfig, Event, Instant, Mode, PathId, PathKind, ResumeConfig, ServerConfig,
        Session, Signaling,
    },
};

/// Bytes a session under test keeps, and unread bytes that stop its peer: small, so that short inputs reach them.
const MEMORY: usize = 64 * 1024;

/// Frames on a byte stream; the first byte says into how long pieces the rest is cut.
pub(super) fn codec(data: &[u8]) {
    let Some((&piece_len, stream)) = data.split_first() else {
        return;
    };
    let whole = decode([stream]);
    let pieces = decode(stream.chunks(usize::from(piece_len).max(1)));
    assert_eq!(whole, pieces, "frames depend on how they were cut");
    for frame in &whole.0 {
        let encoded = encode_message(frame);
        // Text with replacement characters can be longer than it was.
        let Ok(encoded) = encoded else { continue };
        let again = decode_message(encoded, &FrameLimits::default());
        assert!(
            matches!(&again, Ok(again) if again == frame)
                || matches!(again, Err(FrameError::TooLarge { .. })),
            "{frame:?} is read back as {again:?}"
        );
    }
    let message = decode_message(Bytes::copy_from_slice(stream), &FrameLimits::default());
    if let Ok(frame) = message {
        assert_eq!(whole.0, [frame], "a message is not read as a stream is");
    }
}

/// All frames up to the end or up to the first error, and whether there was one.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let mut codec = FrameCodec::default();
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

/// One side of a session; the first byte says which, the rest are calls and frames of a peer that may do anything.
pub(super) fn session(data: &[u8], now: Instant) {
    let Some((&side, rest)) = data.split_first() else {
        return;
    };
    let mode = if side & 2 == 0 {
        Mode::Pty
    } else {
        Mode::Tunnel
    };
    let session = match side & 1 {
        0 => Some(client(mode, now)),
        _ => server(mode, now, rest),
    };
    if let Some(session) = session {
        Run {
            session,
            now,
            paths: 1,
            over: false,
        }
        .all(rest);
    }
}

fn client(mode: Mode, now: Instant) -> Session {
    let mut config = ClientConfig::new(mode);
    config.webrtc = true;
    config.half_close = true;
    config.retained = MEMORY;
    config.pause_reading = MEMORY;
    let mut session = Session::client(config, [5; 32]);
    session.connect(now, PathId(1), PathKind::WebSocket);
    session
}

/// A server that accepts any handshake, made from the first frames of the input or, without one, from a plain one.
fn server(mode: Mode, now: Instant, rest: &[u8]) -> Option<Session> {
    let config = ServerConfig {
        webrtc: true,
        webrtc_without_resume: true,
        half_close: true,
        pause_reading: MEMORY,
        resume: Some(ResumeConfig {
            retained: MEMORY,
            ..ResumeConfig::default()
        }),
        ..ServerConfig::default()
    };
    let mut acceptor = Acceptor::new(now, PathKind::WebSocket, mode, Arc::new(config));
    for frame in decode([rest]).0 {
        acceptor.handle_frame(now, frame);
    }
    if acceptor.poll_request().is_none() && !acceptor.is_finished() {
        let plain = [
            1, 0x42, 0, 0, 0, 0, 0, 15, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let request = decode([&plain[..]]).0;
        for frame in request {
            acceptor.handle_frame(now, frame);
        }
    }
    acceptor.accept(now, PathId(1), [6; 32], [7; 32])
}

/// A session under test.
struct Run {
    session: Session,
    now: Instant,
    /// Paths made so far, numbered from 1.
    paths: u64,
    over: bool,
}

impl Run {
    /// Each step is a byte that says what happens, perhaps followed by a frame.
    fn all(mut self, mut data: &[u8]) {
        while let Some((&what, rest)) = data.split_first() {
            data = rest;
            if what < 0x80 {
                let Some((frame, rest)) = first_frame(data) else {
                    return;
                };
                data = rest;
                let path = PathId(u64::from(what) % (self.paths + 1));
                if self.session.wants_frames(path) {
                    self.session.handle_frame(self.now, path, frame);
                }
            } else {
                self.call(what);
            }
            self.check();
        }
    }

    /// A call of the driver or the user.
    fn call(&mut self, what: u8) {
        let now = self.now;
        let path = PathId(u64::from(what >> 4) % (self.paths + 1));
        match what & 15 {
            0 => {
                self.now += Duration::from_millis(100);
                self.session.handle_timeout(self.now);
            }
            1 => {
                self.now += Duration::from_secs(20);
                self.session.handle_timeout(self.now);
            }
            2 | 3 => while self.session.poll_transmit(now, path).is_some() {},
            4 => {
                let mut bytes = Bytes::from(vec![what; usize::from(what) * 100]);
                self.session.write(&mut bytes);
            }
            5 => while self.session.read(now).is_some() {},
            6 => self.session.path_lost(now, path),
            7 => {
                self.paths += 1;
                let path = PathId(self.paths);
                self.session.connect(now, path, PathKind::Stream);
            }
            8 => {
                self.paths += 1;
                let path = PathId(self.paths);
                self.session.attach_channel(now, path, 16 * 1024);
            }
            9 => {
                self.session.leave_channel(now);
                self.session.upgrade_failed();
            }
            10 => self
                .session
                .close(now, crate::socketpipe::Code::USER, "bye"),
            11 => {
                self.session.finish();
            }
            12 => {
                self.session
                    .signal_webrtc(now, Signaling::Offer("v=0".to_owned()));
            }
            13 => {
                self.session.signal(Signal::Int);
                self.session.resize(Size::default());
                self.session.env("A", "b");
            }
            14 => self
                .session
                .handle_malformed(now, path, &FrameError::Reserved(1)),
            _ => self
                .session
                .abort(now, crate::socketpipe::Code::POLICY, "no"),
        }
    }

    fn check(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(!self.over, "an event after the last: {event:?}");
            self.over = matches!(event, Event::Closed(_));
        }
        let stats = self.session.stats();
        assert!(stats.retained <= 2 * MEMORY, "{stats:?}");
        // Unread, ahead of its turn, and one frame that came before the reader was told to stop.
        assert!(
            stats.buffered <= 2 * MEMORY + 1024 * 1024 + 70_000 * 2,
            "{stats:?}"
        );
        if self.over {
            assert_eq!(self.session.poll_timeout(), None);
        }
    }
}

/// The frame at the front, and what follows it.
fn first_frame(data: &[u8]) -> Option<(Frame, &[u8])> {
    let mut length = [0; 4];
    length.copy_from_slice(data.get(4..HEADER_LEN)?);
    let whole = HEADER_LEN.checked_add(u32::from_be_bytes(length) as usize)?;
    let (frame, rest) = data.split_at_checked(whole)?;
    let frame = decode_message(Bytes::copy_from_slice(frame), &FrameLimits::default()).ok()?;
    Some((frame, rest))
}
