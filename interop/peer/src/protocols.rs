//! The protocols that a peer serves. The dialing side of them is in `checks`.

use std::{io, sync::Arc};

use futures::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use libp2p::{Stream, StreamProtocol};

use crate::serve::{Service, Verdict};

/// Sends back what it reads.
pub(crate) const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");
/// libp2p's performance protocol: a request of any size, then an answer of the size asked for.
pub(crate) const PERF: StreamProtocol = StreamProtocol::new("/perf/1.0.0");
/// Resets the stream in the middle of an answer.
pub(crate) const RESET: StreamProtocol = StreamProtocol::new("/reset/1.0.0");
/// Closes the connection.
pub(crate) const HANG_UP: StreamProtocol = StreamProtocol::new("/hangup/1.0.0");

/// Bytes of one read or write.
pub(crate) const CHUNK: usize = 64 * 1024;
/// Bytes of one write when messages must stay below 8 KiB.
const SMALL_CHUNK: usize = 8_000;
/// What comes before a reset.
const BEFORE_RESET: usize = 1000;

/// How bytes are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    /// Whether each message is kept below 8 KiB.
    pub(crate) small_frames: bool,
}

impl Writer {
    /// Writes all of `bytes` and flushes: libp2p-webrtc joins writes that are not flushed into messages of any size, up to
    /// more than it can send.
    pub(crate) async fn write<S: AsyncWrite + Unpin>(
        self,
        to: &mut S,
        bytes: &[u8],
    ) -> io::Result<()> {
        let size = if self.small_frames {
            SMALL_CHUNK
        } else {
            CHUNK
        };
        for chunk in bytes.chunks(size) {
            to.write_all(chunk).await?;
            to.flush().await?;
        }
        Ok(())
    }
}

/// What every peer serves.
pub(crate) fn served(writer: Writer) -> Vec<Service> {
    vec![
        Service {
            protocol: ECHO,
            run: Arc::new(move |stream| echo(stream, writer).boxed()),
        },
        Service {
            protocol: PERF,
            run: Arc::new(move |stream| perf(stream, writer).boxed()),
        },
        Service {
            protocol: RESET,
            run: Arc::new(|stream| reset(stream).boxed()),
        },
        Service {
            protocol: HANG_UP,
            run: Arc::new(|stream| hang_up(stream).boxed()),
        },
    ]
}

/// Sends back what it reads, and closes when the peer has.
async fn echo(mut stream: Stream, writer: Writer) -> io::Result<Verdict> {
    let mut buffer = vec![0; CHUNK];
    let mut echoed = 0;
    let told = |what: &str, echoed: usize, error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("{what} after {echoed} bytes: {error}"),
        )
    };
    loop {
        let read = stream.read(&mut buffer).await;
        let n = read.map_err(|error| told("read", echoed, error))?;
        if n == 0 {
            let closed = stream.close().await;
            closed.map_err(|error| told("close", echoed, error))?;
            return Ok(Verdict::Keep);
        }
        let written = writer.write(&mut stream, &buffer[..n]).await;
        written.map_err(|error| told("write", echoed, error))?;
        echoed += n;
    }
}

/// Reads to the end, then sends as many bytes as the first eight had asked for.
///
/// Spec: <https://github.com/libp2p/specs/blob/master/perf/perf.md>
async fn perf(mut stream: Stream, writer: Writer) -> io::Result<Verdict> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted).await?;
    let mut buffer = vec![0; CHUNK];
    while stream.read(&mut buffer).await? > 0 {}
    buffer.fill(0);
    let mut left = u64::from_be_bytes(wanted);
    while left > 0 {
        let n = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        writer.write(&mut stream, &buffer[..n]).await?;
        left -= n as u64;
    }
    stream.close().await?;
    Ok(Verdict::Keep)
}

/// Answers a little, then drops the stream unclosed, which resets it.
async fn reset(mut stream: Stream) -> io::Result<Verdict> {
    stream.read_exact(&mut [0]).await?;
    stream.write_all(&[0; BEFORE_RESET]).await?;
    stream.flush().await?;
    Ok(Verdict::Keep)
}

/// Waits for the word, then has the connection closed.
async fn hang_up(mut stream: Stream) -> io::Result<Verdict> {
    stream.read_exact(&mut [0]).await?;
    // Dropped as it is it would be reset, and that is another scenario.
    stream.close().await?;
    Ok(Verdict::HangUp)
}
