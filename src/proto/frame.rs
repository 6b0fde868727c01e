//! The envelope of every message on a libp2p data channel: a varint length and a small protobuf message with an
//! optional flag, optional payload and optional error code ([libp2p WebRTC], section "Multiplexing").
//!
//! [`encode_data`] and [`encode_flag`] make one frame each, to be sent as one SCTP message. [`FrameDecoder`] reads the
//! channel as a byte stream, because other implementations send prefix and body apart or several frames together. What
//! a flag means for a stream is not decided here.
//!
//! ```proto
//! message Message {
//!   enum Flag { FIN = 0; STOP_SENDING = 1; RESET_STREAM = 2; FIN_ACK = 3; }
//!   optional Flag flag = 1;
//!   optional bytes message = 2;
//!   optional uint32 errorCode = 3;
//! }
//! ```
//!
//! [libp2p WebRTC]: https://github.com/libp2p/specs/blob/master/webrtc/README.md

use bytes::{Buf, BufMut, Bytes, BytesMut};

#[cfg(test)]
mod tests;

/// Field number and wire type of `flag`.
const FLAG_TAG: u8 = 1 << 3 | VARINT;
/// Field number and wire type of `message`.
const MESSAGE_TAG: u8 = 2 << 3 | LENGTH_DELIMITED;
/// Field number and wire type of `errorCode`.
const ERROR_CODE_TAG: u8 = 3 << 3 | VARINT;

/// Wire types of protobuf; the two for groups (3 and 4) are obsolete and refused.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// A varint of 64 bits has at most ten bytes.
const MAX_VARINT_LEN: u32 = 10;

/// State change of a stream that travels beside or instead of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flag {
    /// The sender will send no more data.
    Fin,
    /// The sender will throw away what it receives.
    StopSending,
    /// The sender gives the stream up.
    ResetStream,
    /// The sender has received everything up to the FIN.
    FinAck,
}

impl Flag {
    /// The number on the wire.
    const fn code(self) -> u8 {
        match self {
            Self::Fin => 0,
            Self::StopSending => 1,
            Self::ResetStream => 2,
            Self::FinAck => 3,
        }
    }

    /// The flag with this number; later versions of the protocol may know more than we do.
    const fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Fin),
            1 => Some(Self::StopSending),
            2 => Some(Self::ResetStream),
            3 => Some(Self::FinAck),
            _ => None,
        }
    }
}

/// One decoded frame. Data comes before the flag: deliver `message` first, then act on `flag`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// State change, if any. A number nobody has defined yet counts as none.
    pub(crate) flag: Option<Flag>,
    /// Payload; empty is not end-of-file.
    pub(crate) message: Bytes,
    /// Reason of a reset or of a stop.
    pub(crate) error_code: Option<u32>,
}

/// Why a channel's bytes are not frames. The stream cannot recover, the connection can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// A frame announces more bytes than we are willing to hold.
    #[error("frame is larger than the limit")]
    TooLarge,
    /// A number does not fit into 64 bits.
    #[error("frame contains a number of more than 64 bits")]
    VarintTooLong,
    /// A field reaches beyond the end of its frame.
    #[error("frame ends within a field")]
    Truncated,
    /// A field has the number zero or a wire type that does not exist any more.
    #[error("frame contains an impossible field")]
    InvalidField,
}

/// Bytes of a frame with prefix: one with a payload, with a flag (without error code) or with both.
///
/// An empty payload is not sent, so a frame with neither has no length.
pub(crate) const fn encoded_len(payload_len: usize, flag: bool) -> usize {
    let body = body_len(payload_len, flag);
    if body == 0 {
        0
    } else {
        varint_len(body as u64) + body
    }
}

const fn body_len(payload_len: usize, flag: bool) -> usize {
    let flag_len = if flag { 2 } else { 0 };
    let message_len = if payload_len == 0 {
        0
    } else {
        1 + varint_len(payload_len as u64) + payload_len
    };
    flag_len + message_len
}

/// The largest payload whose frame, with prefix and without flag, is not longer than `max_frame`.
pub(crate) fn max_payload(max_frame: usize) -> usize {
    // One byte each for prefix, tag and length is the least; a few steps down account for longer varints.
    let mut payload_len = max_frame.saturating_sub(3);
    while encoded_len(payload_len, false) > max_frame {
        payload_len -= 1;
    }
    payload_len
}

/// Appends a frame with `payload` to `out`; nothing if it is empty, as some peers take an empty frame for the end.
pub(crate) fn encode_data(payload: &[u8], out: &mut BytesMut) {
    if payload.is_empty() {
        return;
    }
    out.reserve(encoded_len(payload.len(), false));
    put_varint(body_len(payload.len(), false) as u64, out);
    out.put_u8(MESSAGE_TAG);
    put_varint(payload.len() as u64, out);
    out.put_slice(payload);
}

/// Appends a frame with `flag` to `out`.
pub(crate) fn encode_flag(flag: Flag, error_code: Option<u32>, out: &mut BytesMut) {
    let error_len = error_code.map_or(0, |code| 1 + varint_len(code.into()));
    put_varint((body_len(0, true) + error_len) as u64, out);
    out.put_u8(FLAG_TAG);
    out.put_u8(flag.code());
    if let Some(code) = error_code {
        out.put_u8(ERROR_CODE_TAG);
        put_varint(code.into(), out);
    }
}

const fn varint_len(value: u64) -> usize {
    // Seven bits per byte, at least one byte.
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn put_varint(mut value: u64, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// A varint of which some bytes have arrived.
#[derive(Clone, Copy, Debug, Default)]
struct PartialVarint {
    value: u64,
    len: u32,
}

impl PartialVarint {
    /// Takes the next byte; the value once it was the last one.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, FrameError> {
        // The tenth byte has room for one bit.
        if self.len + 1 == MAX_VARINT_LEN && byte > 1 {
            return Err(FrameError::VarintTooLong);
        }
        self.value |= u64::from(byte & 0x7f) << (7 * self.len);
        self.len += 1;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

/// Splits the byte stream of one channel into frames.
///
/// [`push`](Self::push) one SCTP message, then call [`next_frame`](Self::next_frame) until it gives `None`. The
/// payload of a frame that arrived within one message shares that message's memory, if it is most of it. A frame in
/// pieces is collected in a buffer that grows with the bytes that arrive, not with those announced, and never beyond
/// the limit. Between frames the decoder holds no memory.
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    /// Largest accepted body: the bytes after the prefix.
    max_frame_len: usize,
    /// What is left of the pushed messages.
    input: Bytes,
    /// How much memory it keeps.
    backing: usize,
    /// The length prefix while it is incomplete.
    prefix: PartialVarint,
    /// Length of the frame whose prefix is complete and whose body is not.
    announced: Option<usize>,
    /// The first bytes of that body.
    body: Vec<u8>,
    /// Set for ever by the first error: after it the boundaries of frames are unknown.
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder that refuses frames that announce more than `max_frame_len` bytes after their prefix.
    pub(crate) fn new(max_frame_len: usize) -> Self {
        Self {
            max_frame_len,
            input: Bytes::new(),
            backing: 0,
            prefix: PartialVarint::default(),
            announced: None,
            body: Vec::new(),
            failed: None,
        }
    }

    /// Appends a received message. Cheap if all frames of the message before have been taken.
    pub(crate) fn push(&mut self, message: Bytes) {
        if self.failed.is_some() {
            return;
        }
        if self.input.is_empty() {
            self.input = message;
        } else {
            self.input = [&self.input[..], &message[..]].concat().into();
        }
        self.backing = self.input.len();
    }

    /// Takes the next complete frame; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// If the bytes are not frames; the same error is given again from then on.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance();
        if let Err(error) = result {
            *self = Self {
                failed: Some(error),
                ..Self::new(self.max_frame_len)
            };
        } else if self.input.is_empty() {
            // Even an empty slice would keep the message's memory alive.
            self.input = Bytes::new();
        }
        result
    }

    /// Whether no part of a frame is held: the stream may end here.
    pub(crate) fn is_empty(&self) -> bool {
        self.input.is_empty() && self.prefix.len == 0 && self.announced.is_none()
    }

    /// Whether what was pushed last ended right behind the prefix of a frame.
    pub(crate) fn ends_behind_prefix(&self) -> bool {
        self.announced.is_some() && self.body.is_empty() && self.input.is_empty()
    }

    /// Bytes pushed and not yet given out as frames, prefixes that have been read not counted.
    pub(crate) fn buffered(&self) -> usize {
        self.input.len() + self.body.len()
    }

    fn advance(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(len) = self.read_prefix()? else {
            return Ok(None);
        };
        let backing = self.backing.max(len);
        let body = if self.body.is_empty() && self.input.len() >= len {
            self.input.split_to(len)
        } else {
            let missing = len - self.body.len();
            let available = missing.min(self.input.len());
            self.reserve_body(available, len);
            self.body.extend_from_slice(&self.input[..available]);
            self.input.advance(available);
            if available < missing {
                return Ok(None);
            }
            Bytes::from(std::mem::take(&mut self.body))
        };
        self.announced = None;
        let mut frame = parse_body(body)?;
        if frame.message.len() < backing / 2 {
            // A few bytes that wait to be read must not keep a whole message.
            frame.message = Bytes::copy_from_slice(&frame.message);
        }
        Ok(Some(frame))
    }

    /// The announced length of the frame at hand, as soon as it is known.
    fn read_prefix(&mut self) -> Result<Option<usize>, FrameError> {
        if self.announced.is_some() {
            return Ok(self.announced);
        }
        while !self.input.is_empty() {
            let Some(len) = self.prefix.push(self.input.get_u8())? else {
                continue;
            };
            self.prefix = PartialVarint::default();
            let len = usize::try_from(len).map_err(|_| FrameError::TooLarge)?;
            if len > self.max_frame_len {
                return Err(FrameError::TooLarge);
            }
            self.announced = Some(len);
            return Ok(self.announced);
        }
        Ok(None)
    }

    /// Makes room for `additional` bytes, doubling but never beyond the announced length.
    fn reserve_body(&mut self, additional: usize, announced: usize) {
        let needed = self.body.len() + additional;
        if needed > self.body.capacity() {
            let capacity = needed.max(2 * self.body.capacity()).min(announced);
            self.body.reserve_exact(capacity - self.body.len());
        }
    }
}

/// Reads the protobuf message. Of a repeated field the last one counts, unknown fields are skipped.
fn parse_body(mut body: Bytes) -> Result<Frame, FrameError> {
    let mut frame = Frame::default();
    while !body.is_empty() {
        let tag = get_varint(&mut body)?;
        let [wire_type, ..] = (tag & 0b111).to_le_bytes();
        if tag >> 3 == 0 {
            return Err(FrameError::InvalidField);
        }
        match wire_type {
            VARINT => {
                let value = get_varint(&mut body)?;
                if tag == u64::from(FLAG_TAG) {
                    frame.flag = Flag::from_code(value);
                } else if tag == u64::from(ERROR_CODE_TAG) {
                    // Protobuf cuts a number that is too large for its field.
                    frame.error_code = Some(value as u32);
                }
            }
            LENGTH_DELIMITED => {
                let len = usize::try_from(get_varint(&mut body)?).unwrap_or(usize::MAX);
                let value = split_field(&mut body, len)?;
                if tag == u64::from(MESSAGE_TAG) {
                    frame.message = value;
                }
            }
            FIXED64 => drop(split_field(&mut body, 8)?),
            FIXED32 => drop(split_field(&mut body, 4)?),
            _ => return Err(FrameError::InvalidField),
        }
    }
    Ok(frame)
}

fn get_varint(body: &mut Bytes) -> Result<u64, FrameError> {
    let mut varint = PartialVarint::default();
    while !body.is_empty() {
        if let Some(value) = varint.push(body.get_u8())? {
            return Ok(value);
        }
    }
    Err(FrameError::Truncated)
}

fn split_field(body: &mut Bytes, len: usize) -> Result<Bytes, FrameError> {
    if len > body.len() {
        return Err(FrameError::Truncated);
    }
    Ok(body.split_to(len))
}
