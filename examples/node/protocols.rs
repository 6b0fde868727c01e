//! The protocols of this example: `/echo/1.0.0` and the serving side of `/perf/1.0.0`.

use std::{error::Error, io, time::Duration};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future::try_join_all, io::AsyncRead,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;

use crate::{output::chain, serve::Service};

const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");
const PERF: StreamProtocol = StreamProtocol::new("/perf/1.0.0");

/// The size of one read or write.
const CHUNK: usize = 64 * 1024;

/// How long all streams of `--streams` at once may take.
const AT_ONCE: Duration = Duration::from_secs(120);

/// What every node serves.
pub(crate) static SERVED: [Service; 2] = [
    Service {
        protocol: ECHO,
        run: |stream| echo(stream).boxed(),
    },
    Service {
        protocol: PERF,
        run: |stream| perf(stream).boxed(),
    },
];

/// Sends back what it reads, and closes when the peer has.
async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut buf = vec![0; CHUNK];
    loop {
        let n = stream.read(&mut buf).await?;
        if n == 0 {
            return stream.close().await;
        }
        stream.write_all(&buf[..n]).await?;
        stream.flush().await?;
    }
}

/// Reads to the end, then sends as many bytes as the first eight had asked for.
///
/// Spec: <https://github.com/libp2p/specs/blob/master/perf/perf.md>
async fn perf(mut stream: Stream) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted).await?;
    let mut buf = vec![0; CHUNK];
    while stream.read(&mut buf).await? > 0 {}
    buf.fill(0);
    let mut left = u64::from_be_bytes(wanted);
    while left > 0 {
        let n = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        stream.write_all(&buf[..n]).await?;
        left -= n as u64;
    }
    stream.close().await
}

/// Has `bytes` echoed on a new stream, writing and reading at the same time, and compares every byte.
pub(crate) async fn check_echo(
    mut control: Control,
    peer: PeerId,
    bytes: usize,
) -> Result<(), Box<dyn Error>> {
    let stream = control.open_stream(peer, ECHO).await?;
    let (reader, mut writer) = stream.split();
    let write = async {
        let mut buf = vec![0; CHUNK];
        for start in (0..bytes).step_by(CHUNK) {
            let chunk = &mut buf[..CHUNK.min(bytes - start)];
            fill(chunk, start);
            writer.write_all(chunk).await?;
        }
        writer.close().await
    };
    futures::try_join!(write, compare(reader, bytes))?;
    Ok(())
}

/// Reads to the end and expects exactly what `fill` makes.
async fn compare(mut reader: impl AsyncRead + Unpin, bytes: usize) -> io::Result<()> {
    let mut buf = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let n = reader.read(&mut buf).await?;
        if n == 0 {
            break;
        }
        fill(&mut expected[..n], at);
        if buf[..n] != expected[..n] {
            return Err(io::Error::other(format!(
                "the echo differs after byte {at}"
            )));
        }
        at += n;
    }
    if at == bytes {
        Ok(())
    } else {
        Err(io::Error::other(format!("{at} of {bytes} bytes came back")))
    }
}

/// A pattern that repeats at no multiple of a buffer's size.
fn fill(buf: &mut [u8], start: usize) {
    for (i, byte) in buf.iter_mut().enumerate() {
        *byte = ((start + i) % 251) as u8;
    }
}

/// Opens `count` streams one after the other, then as many at once.
pub(crate) async fn check_streams(
    control: &Control,
    peer: PeerId,
    count: usize,
) -> Result<(), Box<dyn Error>> {
    for number in 0..count {
        check_stream(control, peer, number).await?;
    }
    let all = (0..count).map(|number| check_stream(control, peer, number));
    match tokio::time::timeout(AT_ONCE, try_join_all(all)).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => Err(format!("not done at once after {} s", AT_ONCE.as_secs()).into()),
    }
}

/// A short echo; the reason names the stream.
async fn check_stream(
    control: &Control,
    peer: PeerId,
    number: usize,
) -> Result<(), Box<dyn Error>> {
    let echo = check_echo(control.clone(), peer, 16).await;
    echo.map_err(|error| format!("stream {number}: {}", chain(error.as_ref())).into())
}
