//! What a dialer checks on streams. Every check opens its own and fails with words that tell how far it got.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, future};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;

use crate::{
    Failure,
    protocols::{CHUNK, ECHO, HANG_UP, PERF, RESET, Writer},
};

/// Bytes echoed on each of many streams.
const SMALL_ECHO: usize = 100;
/// Bytes echoed after the idle scenario.
pub(crate) const AFTER_IDLE: usize = 1024;

/// Opens the streams of the checks.
#[derive(Clone)]
pub(crate) struct Checks {
    /// Where streams come from.
    pub(crate) control: Control,
    /// The other side.
    pub(crate) peer: PeerId,
    /// How they are written.
    pub(crate) writer: Writer,
}

impl Checks {
    /// A new stream.
    async fn open(&self, protocol: StreamProtocol) -> Result<Stream, Failure> {
        let mut control = self.control.clone();
        let opened = control.open_stream(self.peer, protocol).await;
        Ok(opened.map_err(|error| format!("open: {error}"))?)
    }

    /// Has `bytes` bytes echoed, writing and reading at the same time; closes, reads to the end, compares everything.
    pub(crate) async fn echo(&self, bytes: usize) -> Result<(), Failure> {
        let (mut reader, mut to) = self.open(ECHO).await?.split();
        let writer = self.writer;
        let write = async {
            let mut source = Noise::new(bytes);
            let mut sent = 0;
            while sent < bytes {
                let chunk = source.take(CHUNK.min(bytes - sent));
                let written = writer.write(&mut to, &chunk).await;
                written.map_err(|error| format!("write at {sent}: {error}"))?;
                sent += chunk.len();
            }
            let closed = to.close().await;
            closed.map_err(|error| format!("close: {error}"))
        };
        let read = expect_noise(&mut reader, bytes);
        future::try_join(write, read).await?;
        Ok(())
    }

    /// Sends `bytes` bytes, closes the own direction, then reads as many and the end.
    pub(crate) async fn half_close(&self, bytes: usize) -> Result<(), Failure> {
        let mut stream = self.open(PERF).await?;
        let request = async {
            // Flushed by itself for the same reason as in `Writer::write`.
            stream.write_all(&(bytes as u64).to_be_bytes()).await?;
            stream.flush().await?;
            let mut source = Noise::new(bytes);
            let mut sent = 0;
            while sent < bytes {
                let chunk = source.take(CHUNK.min(bytes - sent));
                self.writer.write(&mut stream, &chunk).await?;
                sent += chunk.len();
            }
            stream.close().await
        };
        let requested = request.await;
        requested.map_err(|error| format!("request: {error}"))?;
        let mut buffer = vec![0; CHUNK];
        let mut got = 0;
        loop {
            let read = stream.read(&mut buffer).await;
            let n = read.map_err(|error| format!("read at {got} after the own close: {error}"))?;
            if n == 0 {
                break;
            }
            got += n;
        }
        if got != bytes {
            return Err(format!("{got} of {bytes} bytes came back").into());
        }
        Ok(())
    }

    /// Opens `count` streams one after the other, each with an echo.
    pub(crate) async fn in_turn(&self, count: usize) -> Result<(), Failure> {
        for number in 0..count {
            let one = self.echo(SMALL_ECHO).await;
            one.map_err(|error| format!("stream {number} of {count}: {error}"))?;
        }
        Ok(())
    }

    /// Opens `count` streams; all are written before any is read.
    pub(crate) async fn parallel(&self, count: usize) -> Result<(), Failure> {
        let opened = future::join_all((0..count).map(|_| async {
            let mut stream = self.open(ECHO).await?;
            let data = Noise::new(SMALL_ECHO).take(SMALL_ECHO);
            stream.write_all(&data).await?;
            stream.close().await?;
            Ok::<_, Failure>(stream)
        }));
        let streams = collect("opened", opened.await)?;
        let read = future::join_all(streams.into_iter().map(|mut stream| async move {
            expect_noise(&mut stream, SMALL_ECHO)
                .await
                .map_err(Failure::from)
        }));
        collect("read", read.await).map(drop)
    }

    /// Has the other side reset a stream: reading must not end as if all had been said.
    pub(crate) async fn reset(&self) -> Result<String, Failure> {
        let mut stream = self.open(RESET).await?;
        stream.write_all(&[1]).await?;
        // The reset may be faster than the flush: then reading shows it.
        drop(stream.flush().await);
        let mut buffer = vec![0; CHUNK];
        let mut got = 0;
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => {
                    return Err(format!("a clean end of stream after {got} bytes").into());
                }
                Ok(n) => got += n,
                Err(error) => return Ok(format!("{error} ({:?})", error.kind())),
            }
        }
    }

    /// Asks the other side to close the connection.
    pub(crate) async fn ask_for_close(&self) -> Result<(), Failure> {
        let mut stream = self.open(HANG_UP).await?;
        stream.write_all(&[1]).await?;
        // The other side may be faster than the flush; whether it closes is looked at elsewhere.
        drop(stream.flush().await);
        // The stream must not be reset before its byte was read.
        tokio::spawn(async move {
            let mut stream = stream;
            drop(stream.read(&mut [0]).await);
        });
        Ok(())
    }
}

/// All values, or the first of the failures with their number.
fn collect<T>(what: &str, outcomes: Vec<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let count = outcomes.len();
    let (mut good, mut failures) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(value) => good.push(value),
            Err(error) => failures.push(error.to_string()),
        }
    }
    match failures.first() {
        None => Ok(good),
        Some(first) => {
            Err(format!("{} of {count} not {what}, first: {first}", failures.len()).into())
        }
    }
}

/// Reads to the end and expects `bytes` bytes of [`Noise`].
async fn expect_noise(from: &mut (impl AsyncRead + Unpin), bytes: usize) -> Result<(), String> {
    let mut expected = Noise::new(bytes);
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let read = from.read(&mut buffer).await;
        let n = read.map_err(|error| format!("read at {at} of {bytes}: {error}"))?;
        if n == 0 {
            break;
        }
        if buffer[..n] != expected.take(n) {
            return Err(format!("the echo differs after byte {at}"));
        }
        at += n;
    }
    if at == bytes {
        Ok(())
    } else {
        Err(format!("the stream ended after {at} of {bytes} bytes"))
    }
}

/// Bytes that look like noise and are the same for everyone who starts with the same number (xorshift64).
struct Noise(u64);

impl Noise {
    /// Noise that depends on `start`.
    fn new(start: usize) -> Self {
        Self(start as u64 ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// The next bytes.
    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        for _ in 0..len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.push(self.0.to_le_bytes()[3]);
        }
        bytes
    }
}
