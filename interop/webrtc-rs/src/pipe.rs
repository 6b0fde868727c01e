//! A data channel as a byte stream, in the framing of libp2p.
//!
//! Each message is a protobuf `Message { optional Flag flag = 1; optional bytes message = 2; }` behind its length, after
//! <https://github.com/libp2p/specs/blob/master/webrtc/README.md>.

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use webrtc::data_channel::{RTCDataChannel, data_channel_message::DataChannelMessage};

use crate::Failure;

/// A byte stream.
pub(crate) type Pipe = Compat<DuplexStream>;

/// Bytes of a message; with what is around them they are less than 16 KiB, which nobody may exceed.
const PIECE: usize = 16_000;
/// The longest message that may come.
const MAX_MESSAGE: usize = 16 * 1024;
/// Messages that wait.
const MAX_MESSAGES: usize = 16;
/// Bytes given to SCTP and not acknowledged, from which on nothing more is given, and at which it goes on.
const HIGH: usize = 1024 * 1024;
const LOW: usize = 256 * 1024;
/// The other side confirms our end by then.
const FAREWELL: Duration = Duration::from_secs(5);

const FIN: u8 = 0;
const STOP_SENDING: u8 = 1;
const RESET: u8 = 2;
const FIN_ACK: u8 = 3;

/// What a message says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Envelope {
    flag: Option<u8>,
    bytes: Bytes,
}

/// The stream of this channel. When both directions have ended, the channel is closed.
pub(crate) fn of_channel(channel: &Arc<RTCDataChannel>) -> Pipe {
    let (ours, theirs) = duplex(PIECE);
    let (reader, writer) = tokio::io::split(theirs);
    let (sender, inbox) = mpsc::channel(MAX_MESSAGES);
    // Nobody listens to either when the stream was given up.
    let messages = sender.clone();
    channel.on_message(Box::new(move |message: DataChannelMessage| {
        let messages = messages.clone();
        Box::pin(async move { drop(messages.send(Some(message.data)).await) })
    }));
    channel.on_close(Box::new(move || {
        let end = sender.clone();
        Box::pin(async move { drop(end.send(None).await) })
    }));
    let confirmed = Arc::new(Notify::new());
    let channel = channel.clone();
    tokio::spawn(async move {
        let receiving = receive(inbox, writer, &channel, &confirmed);
        let sending = send(reader, &channel, &confirmed);
        // With an error of one, both let go of the stream, so that its user sees the end.
        if let Err(error) = tokio::try_join!(receiving, sending) {
            eprintln!("webrtc-rs: a stream ended: {error}");
        }
        drop(channel.close().await);
    });
    ours.compat()
}

async fn send(
    mut reader: impl AsyncRead + Unpin,
    channel: &Arc<RTCDataChannel>,
    confirmed: &Notify,
) -> Result<(), Failure> {
    let room = Arc::new(Notify::new());
    let signal = room.clone();
    channel.set_buffered_amount_low_threshold(LOW).await;
    channel
        .on_buffered_amount_low(Box::new(move || {
            signal.notify_one();
            Box::pin(std::future::ready(()))
        }))
        .await;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        channel.send(&message(None, &buffer[..count])).await?;
        if channel.buffered_amount().await > HIGH {
            room.notified().await;
        }
    }
    channel.send(&message(Some(FIN), &[])).await?;
    timeout(FAREWELL, confirmed.notified())
        .await
        .map_err(|_| "FIN was not confirmed".into())
}

async fn receive(
    mut inbox: mpsc::Receiver<Option<Bytes>>,
    mut writer: impl AsyncWrite + Unpin,
    channel: &Arc<RTCDataChannel>,
    confirmed: &Notify,
) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    let mut ended = false;
    while let Some(came) = inbox.recv().await {
        let bytes = match came {
            Some(bytes) => bytes,
            None if ended => return Ok(()),
            None => return Err("the channel was closed before FIN".into()),
        };
        buffer.extend_from_slice(&bytes);
        while let Some(envelope) = next(&mut buffer)? {
            if !envelope.bytes.is_empty() {
                if ended {
                    return Err("bytes came behind FIN".into());
                }
                // Who does not read any more does not care.
                drop(writer.write_all(&envelope.bytes).await);
            }
            match envelope.flag {
                Some(FIN) => {
                    ended = true;
                    writer.shutdown().await?;
                    channel.send(&message(Some(FIN_ACK), &[])).await?;
                }
                Some(FIN_ACK) => {
                    confirmed.notify_one();
                    // The other side may still go on; what it says comes before its FIN.
                    if ended {
                        return Ok(());
                    }
                }
                Some(RESET) => return Err("the stream was reset".into()),
                Some(STOP_SENDING) | None => {}
                Some(other) => return Err(format!("flag {other}").into()),
            }
        }
    }
    Ok(())
}

/// A message.
fn message(flag: Option<u8>, bytes: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    if let Some(flag) = flag {
        body.put_slice(&[1 << 3, flag]);
    }
    if !bytes.is_empty() {
        body.put_u8(2 << 3 | 2);
        put_varint(&mut body, bytes.len());
        body.put_slice(bytes);
    }
    let mut message = BytesMut::new();
    put_varint(&mut message, body.len());
    message.put_slice(&body);
    message.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

/// A varint at the beginning, and its own length; nothing if it is not whole.
fn varint(input: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let mut value = 0;
    for (index, byte) in input.iter().enumerate() {
        if index > 4 {
            return Err("a length of more than five bytes".into());
        }
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    Ok(None)
}

/// Takes a whole message, if there is one.
fn next(buffer: &mut BytesMut) -> Result<Option<Envelope>, Failure> {
    let Some((length, size)) = varint(buffer)? else {
        return Ok(None);
    };
    if length > MAX_MESSAGE {
        return Err(format!("a message of {length} bytes").into());
    }
    if buffer.len() < size + length {
        return Ok(None);
    }
    buffer.advance(size);
    let mut body = buffer.split_to(length).freeze();
    let mut envelope = Envelope::default();
    while !body.is_empty() {
        let tag = body.get_u8();
        let (value, size) = varint(&body)?.ok_or("a message that is cut off")?;
        body.advance(size);
        match tag {
            0x08 => envelope.flag = Some(u8::try_from(value)?),
            0x12 if value <= body.len() => envelope.bytes = body.split_to(value),
            0x18 => {}
            tag => return Err(format!("a field with tag {tag:#04x} and length {value}").into()),
        }
    }
    Ok(Some(envelope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_whole_or_in_pieces() {
        let mut buffer = BytesMut::new();
        for byte in message(Some(FIN), &[7; 300]) {
            assert_eq!(next(&mut buffer).unwrap(), None);
            buffer.put_u8(byte);
        }
        buffer.put_slice(&message(Some(RESET), &[]));
        let first = next(&mut buffer).unwrap().unwrap();
        assert_eq!(first.flag, Some(FIN));
        assert_eq!(first.bytes, vec![7; 300]);
        let second = next(&mut buffer).unwrap().unwrap();
        assert_eq!((second.flag, second.bytes.len()), (Some(RESET), 0));
        assert_eq!(next(&mut buffer).unwrap(), None);
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        assert_eq!(message(None, b"hi").as_ref(), b"\x04\x12\x02hi");
        assert_eq!(message(Some(FIN_ACK), b"").as_ref(), b"\x02\x08\x03");
        assert_eq!(
            message(None, &[0; 200])[..5],
            [0xcb, 0x01, 0x12, 0xc8, 0x01]
        );
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [
            &b"\x81\x80\x02"[..],
            b"\xff\xff\xff\xff\xff\x01",
            b"\x03\x12\x05a",
            b"\x01\x08",
            b"\x02\x20\x00",
        ] {
            assert!(next(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }
}
