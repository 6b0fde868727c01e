//! Frames on byte streams, which only sessions have.

use asynchronous_codec::{Decoder, Encoder};
use bytes::{Buf as _, BytesMut};

use super::{FrameError, FrameLimits, HEADER_LEN, Header, is_known, payload};
use crate::frames::frame::Frame;

/// Frames on a byte stream.
#[derive(Debug, Default)]
pub struct FrameCodec {
    limits: FrameLimits,
    /// Type and missing bytes of a frame that is being skipped.
    skipping: Option<(u8, usize)>,
}

impl FrameCodec {
    /// A codec that reads frames within these limits.
    pub fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            skipping: None,
        }
    }

    /// Throws away what has come of a frame of unknown type; gives the frame when all of it has.
    fn skip(&mut self, kind: u8, missing: usize, src: &mut BytesMut) -> Option<Frame> {
        let here = missing.min(src.len());
        src.advance(here);
        self.skipping = (here < missing).then_some((kind, missing - here));
        self.skipping.is_none().then_some(Frame::Unknown(kind))
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some((kind, missing)) = self.skipping {
            return Ok(self.skip(kind, missing, src));
        }
        if src.len() < HEADER_LEN {
            return Ok(None);
        }
        let header = Header::parse(src, &self.limits)?;
        let length = header.length as usize;
        if !is_known(header.kind) {
            src.advance(HEADER_LEN);
            return Ok(self.skip(header.kind, length, src));
        }
        if src.len() < HEADER_LEN + length {
            return Ok(None);
        }
        src.advance(HEADER_LEN);
        let payload = src.split_to(length).freeze();
        payload::decode(header.kind, header.flags, payload).map(Some)
    }
}

impl Encoder for FrameCodec {
    type Item<'a> = Frame;
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), FrameError> {
        payload::encode(&frame, dst)
    }
}
