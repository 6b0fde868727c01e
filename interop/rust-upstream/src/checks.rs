//! The echo protocol: serving it, and the checks a dialer makes with it.

use futures::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _, future};
use libp2p::{PeerId, Stream};
use libp2p_stream::Control;
use serde_json::json;

use crate::{Failure, peer::ECHO, print};

/// Bytes of one read or write.
const CHUNK: usize = 64 * 1024;
/// Bytes of one write when messages must stay below the 8 KiB upstream can read.
const SMALL_CHUNK: usize = 8_000;
/// Bytes echoed on each of many streams.
const SMALL_ECHO: usize = 16;

/// How bytes are written.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Whether each message is kept below 8 KiB.
    pub small_frames: bool,
}

impl Writer {
    /// Writes all of `bytes`. Upstream joins small writes into messages of up to 16 KiB unless
    /// each is flushed.
    async fn write<S: AsyncWrite + Unpin>(self, to: &mut S, bytes: &[u8]) -> std::io::Result<()> {
        let size = if self.small_frames {
            SMALL_CHUNK
        } else {
            CHUNK
        };
        for chunk in bytes.chunks(size) {
            to.write_all(chunk).await?;
            if self.small_frames {
                to.flush().await?;
            }
        }
        to.flush().await
    }
}

/// Echoes every incoming stream in a task of its own; with `events` failures are printed.
pub fn serve_echo(control: &mut Control, small_frames: bool, events: bool) -> Result<(), Failure> {
    let accepted = control.accept(ECHO).map_err(|error| error.to_string());
    let mut incoming = accepted?;
    let writer = Writer { small_frames };
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            tokio::spawn(async move {
                let outcome = echo(stream, writer).await;
                if let (true, Err((bytes, error))) = (events, outcome) {
                    let detail = format!("after {bytes} bytes: {error}");
                    print(&json!({ "event": "stream-failed", "detail": detail }));
                }
            });
        }
    });
    Ok(())
}

/// Sends back what it reads and closes after the peer did. An error tells how far it got.
async fn echo(mut stream: Stream, writer: Writer) -> Result<(), (usize, String)> {
    let mut buffer = vec![0; CHUNK];
    let mut echoed = 0;
    loop {
        let read = stream.read(&mut buffer).await;
        let n = read.map_err(|error| (echoed, format!("read: {error}")))?;
        if n == 0 {
            let closed = stream.close().await;
            return closed.map_err(|error| (echoed, format!("close: {error}")));
        }
        let written = writer.write(&mut stream, &buffer[..n]).await;
        written.map_err(|error| (echoed, format!("write: {error}")))?;
        echoed += n;
    }
}

/// Has `bytes` bytes echoed, writing and reading at the same time, and compares all of them. Only
/// then closes, so that the check does not depend on how closing works.
pub async fn bulk(
    control: &mut Control,
    peer: PeerId,
    bytes: usize,
    writer: Writer,
) -> Result<(), Failure> {
    let stream = control.open_stream(peer, ECHO).await?;
    let (mut reader, mut to) = stream.split();
    let write = async {
        for start in (0..bytes).step_by(CHUNK) {
            let chunk = pattern(start, CHUNK.min(bytes - start));
            let written = writer.write(&mut to, &chunk).await;
            written.map_err(|error| format!("write at {start}: {error}"))?;
        }
        Ok::<_, Failure>(())
    };
    let read = async {
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < bytes {
            let read = reader.read(&mut buffer).await;
            let n = read.map_err(|error| format!("read at {at}: {error}"))?;
            if n == 0 {
                return Err(format!("the stream ended after {at} of {bytes} bytes").into());
            }
            if buffer[..n] != pattern(at, n) {
                return Err(format!("the echo differs after byte {at}").into());
            }
            at += n;
        }
        Ok::<_, Failure>(())
    };
    future::try_join(write, read).await?;
    to.close()
        .await
        .map_err(|error| format!("close: {error}"))?;
    Ok(())
}

/// Sends a request, closes the own direction, and reads the answer to its end.
pub async fn half_close(control: &mut Control, peer: PeerId, bytes: usize) -> Result<(), Failure> {
    let mut stream = control.open_stream(peer, ECHO).await?;
    let request = pattern(0, bytes);
    stream.write_all(&request).await?;
    let closed = stream.close().await;
    closed.map_err(|error| format!("close: {error}"))?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = stream.read(&mut buffer).await;
        let n = read.map_err(|error| {
            format!(
                "read after the own close, {} bytes in: {error}",
                answer.len()
            )
        })?;
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    if answer != request {
        return Err(format!("{} of {bytes} bytes came back", answer.len()).into());
    }
    Ok(())
}

/// Opens `count` streams one after the other, each with an echo.
pub async fn in_turn(control: &mut Control, peer: PeerId, count: usize) -> Result<(), Failure> {
    for number in 0..count {
        let one = small_echo(control.clone(), peer).await;
        one.map_err(|error| format!("stream {number}: {error}"))?;
    }
    Ok(())
}

/// Opens `count` streams at once, each with an echo.
pub async fn in_parallel(control: &Control, peer: PeerId, count: usize) -> Result<(), Failure> {
    let all = (0..count).map(|_| small_echo(control.clone(), peer));
    let outcomes = future::join_all(all).await;
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(|one| one.err().map(|error| error.to_string()))
        .collect();
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} of {count} failed, first: {first}", failures.len()).into()),
    }
}

/// A few bytes there and back on a stream of their own.
async fn small_echo(mut control: Control, peer: PeerId) -> Result<(), Failure> {
    let writer = Writer { small_frames: true };
    bulk(&mut control, peer, SMALL_ECHO, writer).await
}

/// Bytes that repeat at no multiple of a buffer's size.
fn pattern(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(|at| (at % 251) as u8).collect()
}
