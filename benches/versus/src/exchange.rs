//! What is said on a measured stream, both sides of it.
//!
//! The dialer opens with a fixed-size request; afterwards either side sends as many bytes as the
//! request says. No half-close is needed, so that a fault in closing does not spoil a throughput.

use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{Failure, transports::Writes};

/// Bytes of an encoded request.
const REQUEST_LEN: usize = 14;
/// Bytes the reader offers to one read.
const READ_LEN: usize = 64 * 1024;
/// Sent by a sink once it has everything.
const RECEIPT: u8 = 0x06;

/// What the listener is to do on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Read the bytes, then send a receipt.
    Sink,
    /// Send the bytes.
    Source,
    /// Send back whatever comes.
    Echo,
}

impl Job {
    /// The first byte of a request.
    fn code(self) -> u8 {
        match self {
            Self::Sink => 0,
            Self::Source => 1,
            Self::Echo => 2,
        }
    }

    /// The job for the first byte of a request.
    fn from_code(code: u8) -> Result<Self, Failure> {
        match code {
            0 => Ok(Self::Sink),
            1 => Ok(Self::Source),
            2 => Ok(Self::Echo),
            other => Err(format!("no job has the code {other}").into()),
        }
    }
}

/// How a transfer went at the reading side.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// From the request until the last byte (or the receipt).
    pub took: Duration,
    /// The longest time between two reads that brought bytes.
    pub stall: Duration,
}

/// Sends `amount` bytes to the listener and waits for its receipt.
pub async fn upload<S>(stream: &mut S, amount: u64, writes: Writes) -> Result<Duration, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = Instant::now();
    request(stream, Job::Sink, amount, writes).await?;
    send(stream, amount, writes).await?;
    let mut receipt = [0; 1];
    stream.read_exact(&mut receipt).await?;
    if receipt[0] != RECEIPT {
        return Err("the listener sent something else than a receipt".into());
    }
    Ok(start.elapsed())
}

/// Asks the listener for `amount` bytes and reads them.
pub async fn download<S>(stream: &mut S, amount: u64, writes: Writes) -> Result<Transfer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = Instant::now();
    request(stream, Job::Source, amount, writes).await?;
    let stall = receive(stream, amount).await?;
    let took = start.elapsed();
    Ok(Transfer { took, stall })
}

/// Makes `stream` an echo of `size`-byte messages.
pub async fn start_echo<S>(stream: &mut S, size: u32) -> Result<(), Failure>
where
    S: AsyncWrite + Unpin,
{
    let writes = Writes { size, flush: true };
    request(stream, Job::Echo, 0, writes).await
}

/// One echo: sends `message` and waits until it is back.
pub async fn echo<S>(stream: &mut S, message: &mut [u8]) -> Result<Duration, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = Instant::now();
    stream.write_all(message).await?;
    stream.flush().await?;
    stream.read_exact(message).await?;
    Ok(start.elapsed())
}

/// The listener's side of a stream, until the dialer ends it.
pub async fn serve<S>(mut stream: S) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = [0; REQUEST_LEN];
    stream.read_exact(&mut head).await?;
    let [code, flush, amount @ .., s0, s1, s2, s3] = head;
    let amount = u64::from_be_bytes(amount);
    let writes = Writes {
        size: u32::from_be_bytes([s0, s1, s2, s3]),
        flush: flush != 0,
    };
    match Job::from_code(code)? {
        Job::Sink => {
            receive(&mut stream, amount).await?;
            stream.write_all(&[RECEIPT]).await?;
            stream.flush().await?;
        }
        Job::Source => send(&mut stream, amount, writes).await?,
        Job::Echo => {
            let mut message = vec![0; writes.size as usize];
            while stream.read_exact(&mut message).await.is_ok() {
                stream.write_all(&message).await?;
                stream.flush().await?;
            }
        }
    }
    // The dialer drops the stream when it has what it wanted; wait for that.
    let _ = stream.read(&mut [0; 1]).await;
    Ok(())
}

/// Sends the opening request of a stream.
async fn request<S>(stream: &mut S, job: Job, amount: u64, writes: Writes) -> Result<(), Failure>
where
    S: AsyncWrite + Unpin,
{
    let mut head = Vec::with_capacity(REQUEST_LEN);
    head.push(job.code());
    head.push(u8::from(writes.flush));
    head.extend_from_slice(&amount.to_be_bytes());
    head.extend_from_slice(&writes.size.to_be_bytes());
    stream.write_all(&head).await?;
    stream.flush().await?;
    Ok(())
}

/// Writes `amount` bytes.
async fn send<S>(stream: &mut S, amount: u64, writes: Writes) -> Result<(), Failure>
where
    S: AsyncWrite + Unpin,
{
    let buffer = vec![0x5a; writes.size.max(1) as usize];
    let mut left = amount;
    while left > 0 {
        let now = left.min(buffer.len() as u64);
        stream.write_all(&buffer[..now as usize]).await?;
        if writes.flush {
            stream.flush().await?;
        }
        left -= now;
    }
    stream.flush().await?;
    Ok(())
}

/// Reads `amount` bytes and tells the longest wait between two reads.
async fn receive<S>(stream: &mut S, amount: u64) -> Result<Duration, Failure>
where
    S: AsyncRead + Unpin,
{
    let mut buffer = vec![0; READ_LEN];
    let mut left = amount;
    let mut stall = Duration::ZERO;
    let mut last = None;
    while left > 0 {
        let want = left.min(READ_LEN as u64) as usize;
        let n = stream.read(&mut buffer[..want]).await?;
        if n == 0 {
            return Err(format!("the stream ended {left} bytes early").into());
        }
        left -= n as u64;
        let now = Instant::now();
        if let Some(before) = last.replace(now) {
            stall = stall.max(now - before);
        }
    }
    Ok(stall)
}
