//! What is served on the substreams.

use std::io;

use litep2p::substream::Substream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The size of one read or write. litep2p cuts writes into frames of its own size.
const CHUNK: usize = 64 * 1024;

/// What is to happen to the connection after a substream was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Stay,
    /// It is to be closed.
    HangUp,
}

/// The served protocols.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Sends back every byte.
    Echo,
    /// libp2p perf: the first 8 bytes say how many bytes are wanted at the end.
    Perf,
    /// Reads 1 byte, writes 1000, and lets the substream fall: litep2p has no reset.
    Reset,
    /// Reads 1 byte and closes the connection.
    HangUp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Echo, Self::Perf, Self::Reset, Self::HangUp];

    /// Its name in multistream-select.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Echo => "/echo/1.0.0",
            Self::Perf => "/perf/1.0.0",
            Self::Reset => "/reset/1.0.0",
            Self::HangUp => "/hangup/1.0.0",
        }
    }

    /// Serves one substream.
    pub async fn serve(self, substream: Substream) -> io::Result<After> {
        match self {
            Self::Echo => echo(substream).await,
            Self::Perf => perf(substream).await,
            Self::Reset => reset(substream).await,
            Self::HangUp => hang_up(substream).await,
        }
    }
}

/// `/echo/1.0.0`.
async fn echo(mut substream: Substream) -> io::Result<After> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = substream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        substream.write_all(&buffer[..count]).await?;
    }
    substream.shutdown().await?;
    Ok(After::Stay)
}

/// `/perf/1.0.0`.
async fn perf(mut substream: Substream) -> io::Result<After> {
    let mut wanted = [0; 8];
    substream.read_exact(&mut wanted).await?;
    let mut wanted = u64::from_be_bytes(wanted);
    let mut buffer = vec![0; CHUNK];
    while substream.read(&mut buffer).await? > 0 {}
    buffer.fill(0);
    while wanted > 0 {
        let count = usize::try_from(wanted).map_or(CHUNK, |wanted| wanted.min(CHUNK));
        substream.write_all(&buffer[..count]).await?;
        wanted -= count as u64;
    }
    substream.shutdown().await?;
    Ok(After::Stay)
}

/// `/reset/1.0.0`. Dropping is the most abrupt end that litep2p offers.
async fn reset(mut substream: Substream) -> io::Result<After> {
    substream.read_exact(&mut [0; 1]).await?;
    substream.write_all(&[0; 1000]).await?;
    drop(substream);
    Ok(After::Stay)
}

/// `/hangup/1.0.0`.
async fn hang_up(mut substream: Substream) -> io::Result<After> {
    substream.read_exact(&mut [0; 1]).await?;
    Ok(After::HangUp)
}
