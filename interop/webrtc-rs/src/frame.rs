//! The frames of SocketPipe 1.0, read and written after the published layout and nothing else.
//!
//! Numbers are big-endian; a frame is a header of eight bytes (type, flags, two reserved, length) and its payload, and one
//! message carries one frame. What does not fit that is an error, for what is tested here is whether a server keeps to it.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::Failure;

/// Flag of both handshakes: Session Resume.
pub(crate) const RESUME: u8 = 1 << 1;
/// Flag of both handshakes: WebRTC Transport. The published text gives it no number; this is the server's.
pub(crate) const WEBRTC: u8 = 1 << 6;

/// Flag of answers: success.
const SUCCESS: u8 = 1;
/// Flag of DATA: it begins with its number.
const NUMBERED: u8 = 1 << 1;
/// Flag of CLOSE: the client began it.
const BY_CLIENT: u8 = 1;
/// Bytes before the payload.
const HEADER: usize = 8;

/// A frame, as far as a client needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Opens a session. The other fields are sent as zero: the server's defaults.
    HandshakeRequest {
        flags: u8,
        host: String,
        port: u16,
        token: String,
    },
    Accepted {
        flags: u8,
        max_message: u32,
    },
    Refused {
        code: u16,
        message: String,
    },
    SessionId {
        id: Bytes,
    },
    ResumeRequest {
        id: Bytes,
        last: u64,
    },
    Resumed {
        start: u64,
        count: u32,
        /// Appended by servers that tell what they received.
        received: Option<u64>,
    },
    ResumeRefused {
        code: u16,
        message: String,
    },
    Data {
        number: u64,
        bytes: Bytes,
    },
    /// DATA without a number: of a session without resume, and of libp2p.
    Plain(Bytes),
    Resize {
        columns: u16,
        rows: u16,
    },
    Ping(Bytes),
    Pong(Bytes),
    Close {
        by_client: bool,
        code: u16,
        message: String,
    },
    Error {
        code: u16,
        message: String,
    },
    Offer(String),
    Answer(String),
    Candidate {
        candidate: String,
        mid: String,
        index: u16,
    },
    Ready,
}

impl Frame {
    /// The message.
    pub(crate) fn encode(&self) -> Result<Bytes, Failure> {
        let mut payload = BytesMut::new();
        let (kind, flags) = self.write(&mut payload)?;
        let mut message = BytesMut::with_capacity(HEADER + payload.len());
        message.put_u8(kind);
        message.put_u8(flags);
        message.put_u16(0);
        message.put_u32(u32::try_from(payload.len())?);
        message.put_slice(&payload);
        Ok(message.freeze())
    }

    /// Writes the payload; gives type and flags.
    fn write(&self, out: &mut BytesMut) -> Result<(u8, u8), Failure> {
        Ok(match self {
            Self::HandshakeRequest {
                flags,
                host,
                port,
                token,
            } => {
                out.put_slice(&[1, 0]);
                out.put_u16(*port);
                out.put_slice(&[0; 8]);
                short(out, host.as_bytes())?;
                long(out, token.as_bytes())?;
                (0x01, *flags)
            }
            Self::ResumeRequest { id, last } => {
                short(out, id)?;
                out.put_u64(*last);
                (0x51, 0)
            }
            Self::Data { number, bytes } => {
                out.put_u64(*number);
                out.put_slice(bytes);
                (0x10, NUMBERED)
            }
            Self::Plain(bytes) => {
                out.put_slice(bytes);
                (0x10, 0)
            }
            Self::Resize { columns, rows } => {
                out.put_u16(*columns);
                out.put_u16(*rows);
                out.put_u32(0);
                (0x20, 0)
            }
            Self::Ping(payload) => {
                out.put_slice(payload);
                (0x30, 0)
            }
            Self::Pong(payload) => {
                out.put_slice(payload);
                (0x31, 0)
            }
            Self::Close {
                by_client,
                code,
                message,
            } => {
                out.put_u16(*code);
                short(out, message.as_bytes())?;
                (0x40, if *by_client { BY_CLIENT } else { 0 })
            }
            Self::Offer(sdp) => {
                long(out, sdp.as_bytes())?;
                (0x60, 0)
            }
            Self::Candidate {
                candidate,
                mid,
                index,
            } => {
                long(out, candidate.as_bytes())?;
                short(out, mid.as_bytes())?;
                out.put_u16(*index);
                (0x62, 0)
            }
            other => return Err(format!("a client does not send {other:?}").into()),
        })
    }

    /// The frame of a message.
    pub(crate) fn decode(message: &[u8]) -> Result<Self, Failure> {
        let mut input = Input(message);
        let (kind, flags) = (input.u8()?, input.u8()?);
        let (reserved, length) = (input.u16()?, input.u32()?);
        if reserved != 0 || usize::try_from(length)? != input.0.len() {
            return Err(format!(
                "a frame of type {kind:#04x} with reserved {reserved} and length {length} in a message of {}",
                message.len()
            )
            .into());
        }
        Self::read(kind, flags, &mut input)
    }

    fn read(kind: u8, flags: u8, input: &mut Input<'_>) -> Result<Self, Failure> {
        let success = flags & SUCCESS != 0;
        Ok(match kind {
            0x02 if success => Self::Accepted {
                flags,
                max_message: input.skip(6)?.u32()?,
            },
            0x02 => Self::Refused {
                code: input.u16()?,
                message: input.short_text()?,
            },
            0x10 if flags & NUMBERED == 0 => Self::Plain(input.rest()),
            0x10 => Self::Data {
                number: input.u64()?,
                bytes: input.rest(),
            },
            0x30 => Self::Ping(input.rest()),
            0x31 => Self::Pong(input.rest()),
            0x40 => Self::Close {
                by_client: flags & BY_CLIENT != 0,
                code: input.u16()?,
                message: input.short_text()?,
            },
            0xF0 => Self::Error {
                code: input.u16()?,
                message: input.short_text()?,
            },
            0x50 => Self::SessionId { id: input.short()? },
            0x52 if success => Self::Resumed {
                start: input.u64()?,
                count: input.u32()?,
                received: if input.0.is_empty() {
                    None
                } else {
                    Some(input.u64()?)
                },
            },
            0x52 => Self::ResumeRefused {
                code: input.u16()?,
                message: input.short_text()?,
            },
            0x61 => Self::Answer(input.long_text()?),
            0x62 => Self::Candidate {
                candidate: input.long_text()?,
                mid: input.short_text()?,
                index: input.u16()?,
            },
            0x63 => Self::Ready,
            _ => return Err(format!("a server does not send frames of type {kind:#04x}").into()),
        })
    }
}

/// With a length of one byte.
fn short(out: &mut BytesMut, bytes: &[u8]) -> Result<(), Failure> {
    out.put_u8(u8::try_from(bytes.len())?);
    out.put_slice(bytes);
    Ok(())
}

/// With a length of two bytes.
fn long(out: &mut BytesMut, bytes: &[u8]) -> Result<(), Failure> {
    out.put_u16(u16::try_from(bytes.len())?);
    out.put_slice(bytes);
    Ok(())
}

/// What is left of a message.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or("a frame that is shorter than its layout")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        Ok(self.take(N)?.try_into()?)
    }

    fn skip(&mut self, count: usize) -> Result<&mut Self, Failure> {
        self.take(count)?;
        Ok(self)
    }

    fn u8(&mut self) -> Result<u8, Failure> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Failure> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Failure> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn rest(&mut self) -> Bytes {
        Bytes::copy_from_slice(std::mem::take(&mut self.0))
    }

    fn short(&mut self) -> Result<Bytes, Failure> {
        let count = self.u8()?;
        Ok(Bytes::copy_from_slice(self.take(count.into())?))
    }

    fn short_text(&mut self) -> Result<String, Failure> {
        Ok(String::from_utf8(self.short()?.to_vec())?)
    }

    fn long_text(&mut self) -> Result<String, Failure> {
        let count = self.u16()?;
        Ok(String::from_utf8(self.take(count.into())?.to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// Bytes worked out by hand from the published layout.
    #[test]
    fn writes_what_the_layout_says() {
        let handshake = Frame::HandshakeRequest {
            flags: RESUME | WEBRTC,
            host: "localhost".to_owned(),
            port: 22,
            token: "abc".to_owned(),
        };
        let cases = [
            (
                handshake,
                "014200000000001b010000160000000000000000096c6f63616c686f73740003616263",
            ),
            (
                Frame::Data {
                    number: 1,
                    bytes: Bytes::from_static(b"ls\r"),
                },
                "100200000000000b00000000000000016c730d",
            ),
            (
                Frame::Resize {
                    columns: 120,
                    rows: 40,
                },
                "20000000000000080078002800000000",
            ),
            (
                Frame::Ping(Bytes::from_static(&[0xde, 0xad, 0xbe, 0xef])),
                "3000000000000004deadbeef",
            ),
            (
                Frame::Close {
                    by_client: true,
                    code: 0,
                    message: String::new(),
                },
                "4001000000000003000000",
            ),
            (
                Frame::ResumeRequest {
                    id: Bytes::from((0..16).collect::<Vec<u8>>()),
                    last: 2,
                },
                "510000000000001910000102030405060708090a0b0c0d0e0f0000000000000002",
            ),
            (
                Frame::Candidate {
                    candidate: String::new(),
                    mid: "0".to_owned(),
                    index: 0,
                },
                "6200000000000006000001300000",
            ),
        ];
        for (frame, bytes) in cases {
            assert_eq!(frame.encode().unwrap(), hex(bytes), "{frame:?}");
        }
    }

    #[test]
    fn reads_what_the_layout_says() {
        let cases = [
            (
                "024300000000000a0100001e000a00010000",
                Frame::Accepted {
                    flags: 0x43,
                    max_message: 65_536,
                },
            ),
            (
                "020000000000000a03e90765787069726564",
                Frame::Refused {
                    code: 1001,
                    message: "expired".to_owned(),
                },
            ),
            (
                "500000000000001910000102030405060708090a0b0c0d0e0f0000012c00010000",
                Frame::SessionId {
                    id: Bytes::from((0..16).collect::<Vec<u8>>()),
                },
            ),
            (
                "520100000000000c000000000000000300000003",
                Frame::Resumed {
                    start: 3,
                    count: 3,
                    received: None,
                },
            ),
            (
                "5201000000000014000000000000000300000003000000000000000a",
                Frame::Resumed {
                    start: 3,
                    count: 3,
                    received: Some(10),
                },
            ),
            ("6300000000000000", Frame::Ready),
            ("100000000000000161", Frame::Plain(Bytes::from_static(b"a"))),
            ("61000000000000020000", Frame::Answer(String::new())),
        ];
        for (bytes, frame) in cases {
            assert_eq!(Frame::decode(&hex(bytes)).unwrap(), frame, "{bytes}");
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for bytes in [
            "",
            "30000000000000",
            "3000000000000001",
            "300000000000000100ff",
            "3000000100000000",
            "100200000000000700000000000000",
            "7700000000000000",
        ] {
            assert!(Frame::decode(&hex(bytes)).is_err(), "{bytes}");
        }
    }
}
