//! What a libp2p connection has to be good for.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future::try_join_all};
use multistream_select::{NegotiationError, Version, dialer_select_proto, listener_select_proto};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::{Failure, stream::byte_at};

/// libp2p's ping.
const PING: &str = "/ipfs/ping/1.0.0";
/// Sends back what comes, of the interoperability set.
const ECHO: &str = "/echo/1.0.0";
/// Nobody has it.
const NOTHING: &str = "/there/is/no/such/protocol";
/// Bytes of a ping.
const PING_SIZE: usize = 32;
/// Bytes written or read at once.
const CHUNK: usize = 32 * 1024;

/// A stream of a connection, whatever it is.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream on which nothing is agreed yet.
pub(crate) type Raw = Box<dyn Io>;

/// What opens streams.
pub(crate) trait Opener {
    /// One more stream.
    async fn open(&self) -> Result<Raw, Failure>;
}

/// A stream of the node: ping is served, everything else refused. A node on libp2p-ping 0.48 that is refused answers our own
/// pings only when something else wakes it.
pub(crate) fn serve(stream: impl Io + 'static) {
    tokio::spawn(async move {
        let Ok((_, stream)) = listener_select_proto(stream, [PING]).await else {
            return;
        };
        let (reader, mut writer) = stream.split();
        if let Err(error) = futures::io::copy(reader, &mut writer).await {
            eprintln!("webrtc-rs: a ping of the node ended: {error}");
        }
    });
}

/// A stream on which a protocol is agreed.
async fn agreed(opener: &impl Opener, protocol: &'static str) -> Result<impl Io, Failure> {
    let raw = opener.open().await?;
    let (_, stream) = dialer_select_proto(raw, [protocol], Version::V1).await?;
    Ok(stream)
}

/// So many pings, one after the other.
pub(crate) async fn ping(opener: &impl Opener, count: usize) -> Result<Value, Failure> {
    let mut stream = agreed(opener, PING).await?;
    for number in 0..count {
        let sent: [u8; PING_SIZE] = rand::rng().random();
        stream.write_all(&sent).await?;
        stream.flush().await?;
        let mut received = [0; PING_SIZE];
        stream.read_exact(&mut received).await?;
        if received != sent {
            return Err(format!("ping {number} came back changed").into());
        }
    }
    stream.close().await?;
    Ok(json!({ "pings": count }))
}

/// So many bytes there and back, written and read at the same time, then the end.
pub(crate) async fn echo(opener: &impl Opener, bytes: u64) -> Result<Value, Failure> {
    let (mut reader, mut writer) = agreed(opener, ECHO).await?.split();
    let writing = async {
        let mut place = 0;
        while place < bytes {
            let end = bytes.min(place + u64::try_from(CHUNK)?);
            let piece: Vec<u8> = (place..end).map(byte_at).collect();
            writer.write_all(&piece).await?;
            place = end;
        }
        writer.close().await?;
        Ok::<_, Failure>(())
    };
    let reading = async {
        let mut buffer = vec![0; CHUNK];
        let mut place = 0;
        loop {
            let count = reader.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            for byte in &buffer[..count] {
                if place >= bytes || *byte != byte_at(place) {
                    return Err(format!("byte {place} is not the one that was sent").into());
                }
                place += 1;
            }
        }
        match place == bytes {
            true => Ok(()),
            false => Err(Failure::from(format!(
                "the end came behind {place} of {bytes} bytes"
            ))),
        }
    };
    futures::try_join!(writing, reading)?;
    Ok(json!({ "bytes": bytes }))
}

/// So many streams at once, with an echo of 100 bytes each.
pub(crate) async fn streams(opener: &impl Opener, count: usize) -> Result<Value, Failure> {
    try_join_all((0..count).map(|_| echo(opener, 100))).await?;
    Ok(json!({ "streams": count }))
}

/// A protocol that is not there has to be refused, and nothing else has to suffer.
pub(crate) async fn no_such_protocol(opener: &impl Opener) -> Result<Value, Failure> {
    let raw = opener.open().await?;
    match dialer_select_proto(raw, [NOTHING], Version::V1).await {
        Err(NegotiationError::Failed) => Ok(Value::Null),
        Err(other) => Err(other.into()),
        Ok(_) => Err("a protocol was agreed that does not exist".into()),
    }
}
