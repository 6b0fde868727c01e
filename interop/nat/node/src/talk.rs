//! Talks to an echo as an application does: on one stream, and on another one when that fails. Tells how long nothing came.

use std::time::{Duration, Instant};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    future::{Either, select},
    pin_mut,
};
use libp2p::{PeerId, Stream};
use libp2p_stream::Control;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{Failure, node::ECHO};

/// Bytes written at once, and how often.
const PIECE: usize = 1024;
const EVERY: Duration = Duration::from_millis(50);
/// Before another stream is asked for, where one was refused.
const PAUSE: Duration = Duration::from_millis(100);
/// Without a byte or a stream for so long it has failed.
const PATIENCE: Duration = Duration::from_secs(45);
/// For what is still under way at the end.
const LAST: Duration = Duration::from_secs(10);

/// With three digits behind the point.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// How it has gone so far.
pub(crate) struct Talk {
    control: Control,
    peer: PeerId,
    stopped: watch::Receiver<bool>,
    /// Streams that carried something.
    streams: u32,
    bytes: u64,
    /// When the last byte came, on whichever stream.
    last: Option<Instant>,
    longest: Duration,
}

/// How a stream ended.
enum End {
    /// All that was sent on it came back.
    Whole,
    /// It was reset, or its connection is not there any more.
    Failed,
}

impl Talk {
    /// With this peer, until it is stopped.
    pub(crate) fn new(control: Control, peer: PeerId, stopped: watch::Receiver<bool>) -> Self {
        Self {
            control,
            peer,
            stopped,
            streams: 0,
            bytes: 0,
            last: None,
            longest: Duration::ZERO,
        }
    }

    /// Talks, and tells of it.
    pub(crate) async fn run(mut self) -> Result<Value, Failure> {
        loop {
            let stream = self.open().await?;
            if let End::Whole = self.stream(stream).await? {
                break;
            }
        }
        Ok(json!({
            "whole": true,
            "streams": self.streams,
            "bytes": self.bytes,
            "longest_pause_ms": milliseconds(self.longest),
        }))
    }

    async fn open(&mut self) -> Result<Stream, Failure> {
        let (peer, control) = (self.peer, &mut self.control);
        let opening = async {
            loop {
                match control.open_stream(peer, ECHO).await {
                    Ok(stream) => return stream,
                    Err(error) => eprintln!("nat-node: no stream: {}", crate::chain(&error)),
                }
                sleep(PAUSE).await;
            }
        };
        let opened = timeout(PATIENCE, opening).await;
        opened.map_err(|_| format!("no stream could be opened for {PATIENCE:?}").into())
    }

    /// Writes and reads until one of them ends.
    async fn stream(&mut self, stream: Stream) -> Result<End, Failure> {
        let (reader, writer) = stream.split();
        let (total, known) = watch::channel(None);
        let writing = write(writer, self.stopped.clone(), total);
        let reading = self.read(reader, known);
        pin_mut!(writing, reading);
        match select(writing, reading).await {
            Either::Left((Ok(writer), reading)) => {
                let end = timeout(LAST, reading).await;
                drop(writer);
                end.map_err(|_| format!("what was sent last did not come back within {LAST:?}"))?
            }
            Either::Left((Err(error), _)) => {
                eprintln!("nat-node: a stream cannot be written to: {error}");
                Ok(End::Failed)
            }
            Either::Right((end, _)) => end,
        }
    }

    /// Checks every byte, until as many have come as were sent.
    async fn read(
        &mut self,
        mut reader: impl AsyncRead + Unpin,
        mut total: watch::Receiver<Option<u64>>,
    ) -> Result<End, Failure> {
        let mut buffer = vec![0; 16 * 1024];
        let mut place = 0_u64;
        loop {
            let known = *total.borrow_and_update();
            if known == Some(place) {
                return Ok(End::Whole);
            }
            let read = tokio::select! {
                biased;
                read = timeout(PATIENCE, reader.read(&mut buffer)) => read,
                _ = total.changed(), if known.is_none() => continue,
            };
            let count = match read {
                Ok(Ok(count)) if count > 0 => count,
                Ok(Ok(_)) => return Ok(End::Failed),
                Ok(Err(error)) => {
                    eprintln!("nat-node: a stream failed: {error}");
                    return Ok(End::Failed);
                }
                Err(_) => return Err(format!("nothing came for {PATIENCE:?}").into()),
            };
            self.came(place == 0, u64::try_from(count)?);
            for (place, byte) in (place..).zip(buffer.iter().take(count)) {
                if *byte != byte_at(place) {
                    return Err(format!("byte {place} is not the one that was sent").into());
                }
            }
            place += u64::try_from(count)?;
        }
    }

    fn came(&mut self, is_first: bool, bytes: u64) {
        let now = Instant::now();
        let pause = self.last.replace(now).map(|last| now - last);
        self.longest = self.longest.max(pause.unwrap_or_default());
        self.streams += u32::from(is_first);
        self.bytes += bytes;
    }
}

/// Writes a piece now and then until it is stopped, and says how much that was. The stream stays open: its end would be that
/// of the echo, too.
async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut stopped: watch::Receiver<bool>,
    total: watch::Sender<Option<u64>>,
) -> std::io::Result<W> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut place = 0_u64;
    loop {
        tokio::select! {
            biased;
            // Whoever could stop it is gone when that fails.
            _ = stopped.wait_for(|stopped| *stopped) => break,
            _ = ticks.tick() => {}
        }
        let piece: Vec<_> = (place..).take(PIECE).map(byte_at).collect();
        writer.write_all(&piece).await?;
        writer.flush().await?;
        place += PIECE as u64;
    }
    total.send_replace(Some(place));
    Ok(writer)
}

/// The byte at this place of a stream. What is lost, doubled or out of order shows.
fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}
