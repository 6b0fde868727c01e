//! `nat-lab give` and `nat-lab take`: much in one direction, then as much in the other, every byte compared.
//!
//! One direction at a time: what is measured is how much goes through, not what an echo does when both are full.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{Failure, figures::milliseconds, pattern, print};

/// Bytes written and compared at once: a whole number of the pattern's numbers.
const BLOCK: usize = 64 * 1024;
/// Without a byte for so long it has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the one that takes says when it is ready, and the one that gives when all was right.
const WORD: u8 = b'!';

/// Options of `give`.
#[derive(Debug, clap::Args)]
pub(crate) struct GiveArgs {
    /// Where to listen.
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// Bytes in each direction.
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
}

/// Options of `take`.
#[derive(Debug, clap::Args)]
pub(crate) struct TakeArgs {
    /// Who gives.
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// Bytes in each direction, as the other end has it.
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
    /// Seconds before the first one: meanwhile a session may come to its best path.
    #[arg(long, default_value_t = 0)]
    after: u64,
}

/// Says where it listens, and serves one after the other until it is killed.
pub(crate) async fn give(args: GiveArgs) -> Result<Value, Failure> {
    let listener = TcpListener::bind(args.address).await?;
    print(&json!({ "event": "listening", "tcp": listener.local_addr()?.to_string() }));
    loop {
        let (stream, _) = listener.accept().await?;
        // Whoever takes sees it if it ends too early.
        if let Err(error) = give_to(stream, args.bytes).await {
            eprintln!("nat-lab: a connection ended: {error}");
        }
    }
}

async fn give_to(mut stream: TcpStream, bytes: u64) -> Result<(), Failure> {
    stream.read_u8().await?;
    write(&mut stream, bytes).await?;
    read(&mut stream, bytes).await?;
    stream.write_u8(WORD).await?;
    // Until here, for its end is the end of the session.
    drop(stream.read_u8().await);
    Ok(())
}

/// Takes, gives back as much, and tells how long each took.
pub(crate) async fn take(args: TakeArgs) -> Result<Value, Failure> {
    let mut stream = TcpStream::connect(args.address).await?;
    sleep(Duration::from_secs(args.after)).await;
    let begin = Instant::now();
    stream.write_u8(WORD).await?;
    read(&mut stream, args.bytes).await?;
    let down = begin.elapsed();
    let begin = Instant::now();
    write(&mut stream, args.bytes).await?;
    timeout(PATIENCE, stream.read_u8()).await??;
    let up = begin.elapsed();
    Ok(json!({
        "whole": true,
        "bytes_each_way": args.bytes,
        "down_ms": milliseconds(down),
        "up_ms": milliseconds(up),
    }))
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), bytes: u64) -> Result<(), Failure> {
    let mut block = vec![0; BLOCK];
    let mut place = 0;
    while place < bytes {
        pattern::fill_numbers(place, &mut block);
        let count = usize::try_from(bytes - place).map_or(BLOCK, |rest| rest.min(BLOCK));
        let part = block.get(..count).unwrap_or_default();
        timeout(PATIENCE, writer.write_all(part)).await??;
        place += u64::try_from(count)?;
    }
    Ok(())
}

async fn read(reader: &mut (impl AsyncRead + Unpin), bytes: u64) -> Result<(), Failure> {
    let (mut expected, mut came) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut place = 0;
    while place < bytes {
        let count = usize::try_from(bytes - place).map_or(BLOCK, |rest| rest.min(BLOCK));
        let part = came.get_mut(..count).unwrap_or_default();
        timeout(PATIENCE, reader.read_exact(part))
            .await
            .map_err(|_| format!("nothing came for {PATIENCE:?} behind byte {place}"))??;
        pattern::fill_numbers(place, &mut expected);
        if expected.get(..count) != Some(part) {
            return Err(format!("the bytes behind {place} are not those that were sent").into());
        }
        place += u64::try_from(count)?;
    }
    Ok(())
}
