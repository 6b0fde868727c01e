//! `nat-lab stream`: whether a byte stream stays whole, and when it stood still.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{Failure, figures::milliseconds, pattern};

/// Bytes written at once.
const PIECE: usize = 4096;
/// A pause of this length is told.
const PAUSE: Duration = Duration::from_millis(500);

/// Options of `stream`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The echo.
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// Bytes to send; after SIGTERM no more.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u64,
    /// Send so many bytes in a second at most, evenly; 0 is as many as there is room for.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Seconds without a byte that are one too many.
    #[arg(long, default_value_t = 30)]
    patience: u64,
}

/// Sends and checks all, and tells of it.
pub(crate) async fn run(args: Args) -> Result<Value, Failure> {
    let stream = TcpStream::connect(args.address).await?;
    stream.set_nodelay(true)?;
    let start = Instant::now();
    let (reader, writer) = stream.into_split();
    let (told, total) = watch::channel(None);
    let writing = write(writer, args.bytes, args.rate, start, &told);
    let patience = Duration::from_secs(args.patience);
    let reading = read(reader, total, patience, start);
    let (writer, (bytes, pauses)) = tokio::try_join!(writing, reading)?;
    // Until here, for its end is the end of the session.
    drop(writer);
    let longest = pauses.iter().map(|(_, length)| *length).max();
    let told: Vec<_> = pauses
        .iter()
        .filter(|(_, length)| *length >= PAUSE)
        .map(
            |(begin, length)| json!({ "at_ms": milliseconds(*begin), "ms": milliseconds(*length) }),
        )
        .collect();
    Ok(json!({
        "bytes": bytes,
        "whole": true,
        "ms": milliseconds(start.elapsed()),
        "longest_pause_ms": longest.map(milliseconds),
        "pauses": told,
    }))
}

/// Writes until all is written or SIGTERM comes, and tells how much that was.
async fn write(
    mut writer: OwnedWriteHalf,
    bytes: u64,
    rate: u64,
    start: Instant,
    total: &watch::Sender<Option<u64>>,
) -> Result<OwnedWriteHalf, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut buffer = [0; PIECE];
    let mut place = 0;
    while place < bytes {
        let due = match rate {
            0 => start,
            _ => start + Duration::from_secs_f64(place as f64 / rate as f64),
        };
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            () = sleep_until(due) => {}
        }
        let count = usize::try_from(bytes - place).map_or(PIECE, |rest| rest.min(PIECE));
        pattern::fill(place, &mut buffer[..count]);
        writer.write_all(&buffer[..count]).await?;
        place += u64::try_from(count)?;
    }
    total.send_replace(Some(place));
    Ok(writer)
}

/// Checks every byte. Gives how many there were, and the pauses: when each began, and how long it was.
async fn read(
    mut reader: OwnedReadHalf,
    mut total: watch::Receiver<Option<u64>>,
    patience: Duration,
    start: Instant,
) -> Result<(u64, Vec<(Duration, Duration)>), Failure> {
    let mut buffer = vec![0; 64 * 1024];
    let mut pauses = Vec::new();
    let (mut place, mut last) = (0, start);
    loop {
        let known = *total.borrow_and_update();
        match known {
            Some(bytes) if place == bytes => return Ok((bytes, pauses)),
            Some(bytes) if place > bytes => {
                return Err(format!("{} bytes more came than were sent", place - bytes).into());
            }
            _ => {}
        }
        let count = tokio::select! {
            biased;
            read = timeout(patience, reader.read(&mut buffer)) => {
                read.map_err(|_| format!("nothing came for {patience:?} behind byte {place}"))??
            }
            _ = total.changed(), if known.is_none() => continue,
        };
        if count == 0 {
            return Err(format!("the stream ended behind byte {place}").into());
        }
        if let Some(wrong) = pattern::first_difference(place, &buffer[..count]) {
            return Err(format!("byte {wrong} is not the one that was sent").into());
        }
        let now = Instant::now();
        if let Some(pause) = (now - last).checked_sub(Duration::from_millis(100)) {
            pauses.push((last - start, pause + Duration::from_millis(100)));
        }
        last = now;
        place += u64::try_from(count)?;
    }
}
