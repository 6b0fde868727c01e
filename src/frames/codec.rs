//! Frames on the wire: an 8-byte header (type, flags, reserved, length) and a payload, integers big-endian.
//!
//! `FrameCodec` is for byte streams: the header is the only framing. [`encode_message`] and [`decode_message`] are
//! for WebSocket and data channel messages, of which each holds exactly one frame. A length is compared with the cap
//! of its type before anything is kept for it. Fields are read here, but what a frame means for a session is not
//! decided here.

use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::{code::Code, frame::Frame};

mod payload;
#[cfg(feature = "socketpipe")]
mod stream;
#[cfg(all(test, feature = "socketpipe"))]
mod tests;

#[cfg(feature = "socketpipe")]
pub use self::stream::FrameCodec;

/// Bytes before the payload.
pub const HEADER_LEN: usize = 8;
/// Bytes of the number before numbered DATA.
pub(crate) const NUMBER_LEN: usize = 8;

/// Numbers of the frame types.
mod kind {
    pub(super) const HANDSHAKE_REQUEST: u8 = 0x01;
    pub(super) const HANDSHAKE_RESPONSE: u8 = 0x02;
    pub(super) const DATA: u8 = 0x10;
    pub(super) const RESIZE: u8 = 0x20;
    pub(super) const SIGNAL: u8 = 0x21;
    pub(super) const ENV: u8 = 0x22;
    pub(super) const FLOW_CONTROL: u8 = 0x23;
    pub(super) const PING: u8 = 0x30;
    pub(super) const PONG: u8 = 0x31;
    pub(super) const CLOSE: u8 = 0x40;
    pub(super) const SESSION_ID: u8 = 0x50;
    pub(super) const RESUME_REQUEST: u8 = 0x51;
    pub(super) const RESUME_RESPONSE: u8 = 0x52;
    pub(super) const WEBRTC_OFFER: u8 = 0x60;
    pub(super) const WEBRTC_ANSWER: u8 = 0x61;
    pub(super) const ICE_CANDIDATE: u8 = 0x62;
    pub(super) const WEBRTC_READY: u8 = 0x63;
    pub(super) const ERROR: u8 = 0xF0;
}

/// Largest payloads accepted, by kind of frame.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FrameLimits {
    /// Bytes in DATA; the eight of its number come on top. Default 65,536, the default of the protocol.
    pub max_message: u32,
    /// HANDSHAKE_REQUEST and RESUME_REQUEST. Default 16 KiB: room for any token in use; the layout would allow 65,805.
    pub max_handshake: usize,
    /// PING and PONG. Default 1 KiB: the text advises 125 bytes, and every byte is sent back.
    pub max_ping: usize,
    /// WEBRTC_OFFER and WEBRTC_ANSWER. Default 65,537, the most the layout allows.
    pub max_description: usize,
    /// Every other known frame. Default 4 KiB.
    pub max_control: usize,
    /// Frames of unknown type, which are skipped. Default 128 KiB, above the largest frame of any known extension.
    pub max_skipped: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self {
            max_message: 65_536,
            max_handshake: 16 * 1024,
            max_ping: 1024,
            max_description: 65_537,
            max_control: 4 * 1024,
            max_skipped: 128 * 1024,
        }
    }
}

impl FrameLimits {
    /// Largest payload of this type.
    fn of(&self, kind: u8) -> usize {
        match kind {
            kind::HANDSHAKE_REQUEST | kind::RESUME_REQUEST => self.max_handshake,
            kind::DATA => (self.max_message as usize).saturating_add(NUMBER_LEN),
            kind::PING | kind::PONG => self.max_ping,
            kind::WEBRTC_OFFER | kind::WEBRTC_ANSWER => self.max_description,
            known if is_known(known) => self.max_control,
            _ => self.max_skipped,
        }
    }
}

/// Whether this version has a layout for the type.
const fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        kind::HANDSHAKE_REQUEST
            | kind::HANDSHAKE_RESPONSE
            | kind::DATA
            | kind::RESIZE..=kind::FLOW_CONTROL
            | kind::PING
            | kind::PONG
            | kind::CLOSE
            | kind::SESSION_ID..=kind::RESUME_RESPONSE
            | kind::WEBRTC_OFFER..=kind::WEBRTC_READY
            | kind::ERROR
    )
}

/// Why bytes are no frame, or a frame cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The transport failed; the only case that says nothing about the peer.
    #[error("transport failed")]
    Io(#[from] io::Error),
    /// A message is shorter than a header.
    #[error("message of {0} bytes is shorter than a frame header")]
    ShortHeader(usize),
    /// The reserved field is not zero although Multiplexing was not agreed.
    #[error("reserved field is {0:#06x}")]
    Reserved(u16),
    /// A message does not have the length its header names.
    #[error("message holds {actual} payload bytes, its header says {announced}")]
    Length {
        /// From the header.
        announced: u32,
        /// Bytes after the header.
        actual: usize,
    },
    /// The payload is above the cap of its type.
    #[error("frame {kind:#04x} of {length} bytes is above the limit of {limit}")]
    TooLarge {
        /// Type of the frame.
        kind: u8,
        /// From the header.
        length: u32,
        /// The cap.
        limit: usize,
    },
    /// The payload does not fit the layout of its type.
    #[error("frame {kind:#04x}: {what}")]
    Malformed {
        /// Type of the frame.
        kind: u8,
        /// What is wrong.
        what: &'static str,
    },
    /// A frame to send has a field longer than its length prefix can say.
    #[error("{0} is too long for its length field")]
    FieldTooLong(&'static str),
}

impl FrameError {
    /// The code to tell the peer.
    pub const fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::MESSAGE_TOO_LARGE,
            _ => Code::INVALID_MESSAGE,
        }
    }

    /// Whether the bytes were meant as a HANDSHAKE_REQUEST, which is refused by a response and not by an ERROR.
    pub const fn is_handshake(&self) -> bool {
        matches!(
            self,
            Self::TooLarge {
                kind: kind::HANDSHAKE_REQUEST,
                ..
            } | Self::Malformed {
                kind: kind::HANDSHAKE_REQUEST,
                ..
            }
        )
    }
}

/// The parsed header.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u8,
    flags: u8,
    length: u32,
}

impl Header {
    /// Reads a header and checks everything that can be checked without the payload.
    fn parse(mut bytes: &[u8], limits: &FrameLimits) -> Result<Self, FrameError> {
        if bytes.len() < HEADER_LEN {
            return Err(FrameError::ShortHeader(bytes.len()));
        }
        let (kind, flags) = (bytes.get_u8(), bytes.get_u8());
        let reserved = bytes.get_u16();
        let length = bytes.get_u32();
        if reserved != 0 {
            return Err(FrameError::Reserved(reserved));
        }
        let limit = limits.of(kind);
        if usize::try_from(length).map_or(true, |length| length > limit) {
            return Err(FrameError::TooLarge {
                kind,
                length,
                limit,
            });
        }
        Ok(Self {
            kind,
            flags,
            length,
        })
    }
}

/// Reads the one frame of a WebSocket or data channel message.
pub fn decode_message(mut message: Bytes, limits: &FrameLimits) -> Result<Frame, FrameError> {
    let header = Header::parse(&message, limits)?;
    message.advance(HEADER_LEN);
    if message.len() != header.length as usize {
        return Err(FrameError::Length {
            announced: header.length,
            actual: message.len(),
        });
    }
    payload::decode(header.kind, header.flags, message)
}

/// Writes one frame as one message. Fails only if a field is longer than its length prefix can say.
pub fn encode_message(frame: &Frame) -> Result<Bytes, FrameError> {
    let mut message = BytesMut::new();
    payload::encode(frame, &mut message)?;
    Ok(message.freeze())
}
