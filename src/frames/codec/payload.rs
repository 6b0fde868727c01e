//! Layouts of the payloads. Bytes after the last known field are ignored (Session Persistence extends payloads that
//! way), except in DATA, PING and PONG, which are payload to their end.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{FrameError, HEADER_LEN, NUMBER_LEN, kind};
use crate::frames::{
    code::Code,
    frame::{
        Accepted, Capabilities, Close, Data, Env, Failure, Flow, Frame, HandshakeRequest,
        HandshakeResponse, IceCandidate, ResumeRequest, ResumeResponse, SessionId, SessionInfo,
        Signal, Size,
    },
};

/// Flag bit 0: success, XON, begun by the client, end of data.
const BIT_0: u8 = 1;
/// Flag bit 1 of DATA: the payload begins with a number.
const NUMBERED: u8 = 1 << 1;
/// Shorter DATA is copied: bytes that wait to be read must not keep a whole receive buffer alive, which is as large as the
/// largest message, 128 KiB, and may hold much that is not DATA. What waits keeps no more than four times its own memory.
const COPY_BELOW: usize = 32 * 1024;

/// Reads the payload of one frame.
pub(super) fn decode(kind: u8, flags: u8, payload: Bytes) -> Result<Frame, FrameError> {
    let mut fields = Fields { kind, payload };
    Ok(match kind {
        kind::HANDSHAKE_REQUEST => Frame::HandshakeRequest(handshake_request(flags, &mut fields)?),
        kind::HANDSHAKE_RESPONSE => {
            Frame::HandshakeResponse(handshake_response(flags, &mut fields)?)
        }
        kind::DATA => Frame::Data(data(flags, &mut fields)?),
        kind::RESIZE => Frame::Resize(Size {
            columns: fields.u16()?,
            rows: fields.u16()?,
            width: fields.u16()?,
            height: fields.u16()?,
        }),
        kind::SIGNAL => Frame::Signal(Signal::from_number(fields.u8()?)),
        kind::ENV => Frame::Env(Env {
            name: fields.short_text()?,
            value: fields.long_text()?,
        }),
        kind::FLOW_CONTROL if flags & BIT_0 != 0 => Frame::FlowControl(Flow::Resume),
        kind::FLOW_CONTROL => Frame::FlowControl(Flow::Pause),
        kind::PING => Frame::Ping(fields.payload),
        kind::PONG => Frame::Pong(fields.payload),
        kind::CLOSE => {
            let Failure { code, message } = fields.failure()?;
            Frame::Close(Close {
                by_client: flags & BIT_0 != 0,
                code,
                message,
            })
        }
        kind::ERROR => Frame::Error(fields.failure()?),
        kind::SESSION_ID => Frame::SessionId(SessionInfo {
            id: fields.session_id()?,
            timeout: fields.u32()?,
            retained: fields.u32()?,
        }),
        kind::RESUME_REQUEST => Frame::ResumeRequest(ResumeRequest {
            id: fields.session_id()?,
            last: fields.u64()?,
            token: fields.appended_token(),
        }),
        kind::RESUME_RESPONSE => Frame::ResumeResponse(resume_response(flags, &mut fields)?),
        kind::WEBRTC_OFFER => Frame::WebRtcOffer(fields.long_text()?),
        kind::WEBRTC_ANSWER => Frame::WebRtcAnswer(fields.long_text()?),
        kind::ICE_CANDIDATE => Frame::IceCandidate(IceCandidate {
            candidate: fields.long_text()?,
            mid: fields.short_text()?,
            index: fields.u16()?,
        }),
        kind::WEBRTC_READY => Frame::WebRtcReady,
        unknown => Frame::Unknown(unknown),
    })
}

fn handshake_request(flags: u8, fields: &mut Fields) -> Result<HandshakeRequest, FrameError> {
    Ok(HandshakeRequest {
        capabilities: Capabilities::from_bits(flags),
        major: fields.u8()?,
        minor: fields.u8()?,
        port: fields.u16()?,
        ping_interval: fields.u16()?,
        ping_timeout: fields.u16()?,
        max_message: fields.u32()?,
        host: {
            let length = usize::from(fields.u8()?);
            let host = fields.take(length)?;
            // A target that is read wrong may be the wrong machine: no replacement characters here.
            String::from_utf8(host.into())
                .map_err(|_| fields.malformed("the host is not valid UTF-8"))?
        },
        token: {
            let length = usize::from(fields.u16()?);
            Bytes::copy_from_slice(&fields.take(length)?)
        },
    })
}

fn handshake_response(flags: u8, fields: &mut Fields) -> Result<HandshakeResponse, FrameError> {
    if flags & BIT_0 == 0 {
        return Ok(HandshakeResponse::Refused(fields.failure()?));
    }
    Ok(HandshakeResponse::Accepted(Accepted {
        capabilities: Capabilities::from_bits(flags),
        major: fields.u8()?,
        minor: fields.u8()?,
        ping_interval: fields.u16()?,
        ping_timeout: fields.u16()?,
        max_message: fields.u32()?,
    }))
}

fn data(flags: u8, fields: &mut Fields) -> Result<Data, FrameError> {
    let number = match flags & NUMBERED {
        0 => None,
        _ => Some(fields.u64()?),
    };
    let rest = &fields.payload;
    Ok(Data {
        number,
        end: flags & BIT_0 != 0 && rest.is_empty(),
        bytes: if rest.len() < COPY_BELOW {
            Bytes::copy_from_slice(rest)
        } else {
            rest.clone()
        },
    })
}

fn resume_response(flags: u8, fields: &mut Fields) -> Result<ResumeResponse, FrameError> {
    if flags & BIT_0 == 0 {
        return Ok(ResumeResponse::Refused(fields.failure()?));
    }
    Ok(ResumeResponse::Accepted {
        start: fields.u64()?,
        count: fields.u32()?,
        received: fields.u64().ok(),
    })
}

/// Reads fields from the front of a payload.
struct Fields {
    kind: u8,
    payload: Bytes,
}

impl Fields {
    fn malformed(&self, what: &'static str) -> FrameError {
        FrameError::Malformed {
            kind: self.kind,
            what,
        }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, FrameError> {
        if self.payload.len() < length {
            return Err(self.malformed("the payload is shorter than its layout"));
        }
        Ok(self.payload.split_to(length))
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.take(1)?.get_u8())
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(self.take(2)?.get_u16())
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(self.take(4)?.get_u32())
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(self.take(8)?.get_u64())
    }

    /// Text with one byte of length; bad UTF-8 is shown with replacement characters.
    fn short_text(&mut self) -> Result<String, FrameError> {
        let length = usize::from(self.u8()?);
        Ok(String::from_utf8_lossy(&self.take(length)?).into_owned())
    }

    /// Text with two bytes of length.
    fn long_text(&mut self) -> Result<String, FrameError> {
        let length = usize::from(self.u16()?);
        Ok(String::from_utf8_lossy(&self.take(length)?).into_owned())
    }

    /// A token behind the published layout: what cannot be one is as good as none, like all unknown bytes there.
    fn appended_token(&mut self) -> Bytes {
        let length = self.u16().map_or(0, usize::from);
        Bytes::copy_from_slice(&self.take(length).unwrap_or_default())
    }

    fn failure(&mut self) -> Result<Failure, FrameError> {
        Ok(Failure {
            code: Code(self.u16()?),
            message: self.short_text()?,
        })
    }

    fn session_id(&mut self) -> Result<SessionId, FrameError> {
        let length = usize::from(self.u8()?);
        let id = Bytes::copy_from_slice(&self.take(length)?);
        SessionId::new(id).ok_or_else(|| self.malformed("the session id is empty"))
    }
}

/// Appends one frame; leaves `dst` as it was when that fails.
pub(super) fn encode(frame: &Frame, dst: &mut BytesMut) -> Result<(), FrameError> {
    let start = dst.len();
    let (kind, flags) = kind_and_flags(frame);
    dst.put_slice(&[kind, flags, 0, 0, 0, 0, 0, 0]);
    let written = write_payload(frame, dst).and_then(|()| {
        u32::try_from(dst.len() - start - HEADER_LEN)
            .map_err(|_| FrameError::FieldTooLong("payload"))
    });
    match written {
        Ok(length) => {
            dst[start + 4..start + HEADER_LEN].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        Err(error) => {
            dst.truncate(start);
            Err(error)
        }
    }
}

fn kind_and_flags(frame: &Frame) -> (u8, u8) {
    match frame {
        Frame::HandshakeRequest(request) => (kind::HANDSHAKE_REQUEST, request.capabilities.bits()),
        Frame::HandshakeResponse(HandshakeResponse::Accepted(accepted)) => (
            kind::HANDSHAKE_RESPONSE,
            accepted.capabilities.bits() | BIT_0,
        ),
        Frame::HandshakeResponse(HandshakeResponse::Refused(_)) => (kind::HANDSHAKE_RESPONSE, 0),
        Frame::Data(data) => {
            let numbered = if data.number.is_some() { NUMBERED } else { 0 };
            let end = u8::from(data.end && data.bytes.is_empty());
            (kind::DATA, numbered | end)
        }
        Frame::Resize(_) => (kind::RESIZE, 0),
        Frame::Signal(_) => (kind::SIGNAL, 0),
        Frame::Env(_) => (kind::ENV, 0),
        Frame::FlowControl(Flow::Pause) => (kind::FLOW_CONTROL, 0),
        Frame::FlowControl(Flow::Resume) => (kind::FLOW_CONTROL, BIT_0),
        Frame::Ping(_) => (kind::PING, 0),
        Frame::Pong(_) => (kind::PONG, 0),
        Frame::Close(close) => (kind::CLOSE, u8::from(close.by_client)),
        Frame::Error(_) => (kind::ERROR, 0),
        Frame::SessionId(_) => (kind::SESSION_ID, 0),
        Frame::ResumeRequest(_) => (kind::RESUME_REQUEST, 0),
        Frame::ResumeResponse(ResumeResponse::Accepted { .. }) => (kind::RESUME_RESPONSE, BIT_0),
        Frame::ResumeResponse(ResumeResponse::Refused(_)) => (kind::RESUME_RESPONSE, 0),
        Frame::WebRtcOffer(_) => (kind::WEBRTC_OFFER, 0),
        Frame::WebRtcAnswer(_) => (kind::WEBRTC_ANSWER, 0),
        Frame::IceCandidate(_) => (kind::ICE_CANDIDATE, 0),
        Frame::WebRtcReady => (kind::WEBRTC_READY, 0),
        Frame::Unknown(kind) => (*kind, 0),
    }
}

fn write_payload(frame: &Frame, dst: &mut BytesMut) -> Result<(), FrameError> {
    match frame {
        Frame::HandshakeRequest(request) => write_handshake_request(request, dst)?,
        Frame::HandshakeResponse(HandshakeResponse::Accepted(accepted)) => {
            dst.put_u8(accepted.major);
            dst.put_u8(accepted.minor);
            dst.put_u16(accepted.ping_interval);
            dst.put_u16(accepted.ping_timeout);
            dst.put_u32(accepted.max_message);
        }
        Frame::Data(data) => {
            dst.reserve(NUMBER_LEN + data.bytes.len());
            put_number(data.number, dst);
            dst.put_slice(&data.bytes);
        }
        Frame::Resize(size) => {
            for field in [size.columns, size.rows, size.width, size.height] {
                dst.put_u16(field);
            }
        }
        Frame::Signal(signal) => dst.put_u8(signal.number()),
        Frame::Env(env) => {
            put_short(env.name.as_bytes(), "name of the variable", dst)?;
            put_long(env.value.as_bytes(), "value of the variable", dst)?;
        }
        Frame::Ping(payload) | Frame::Pong(payload) => dst.put_slice(payload),
        Frame::Close(close) => put_failure(close.code, &close.message, dst),
        Frame::Error(failure)
        | Frame::HandshakeResponse(HandshakeResponse::Refused(failure))
        | Frame::ResumeResponse(ResumeResponse::Refused(failure)) => {
            put_failure(failure.code, &failure.message, dst);
        }
        Frame::SessionId(info) => {
            put_short(info.id.as_bytes(), "session id", dst)?;
            dst.put_u32(info.timeout);
            dst.put_u32(info.retained);
        }
        Frame::ResumeRequest(request) => write_resume_request(request, dst)?,
        Frame::ResumeResponse(ResumeResponse::Accepted {
            start,
            count,
            received,
        }) => {
            dst.put_u64(*start);
            dst.put_u32(*count);
            put_number(*received, dst);
        }
        Frame::WebRtcOffer(sdp) | Frame::WebRtcAnswer(sdp) => {
            put_long(sdp.as_bytes(), "session description", dst)?;
        }
        Frame::IceCandidate(candidate) => {
            put_long(candidate.candidate.as_bytes(), "candidate", dst)?;
            put_short(candidate.mid.as_bytes(), "name of the section", dst)?;
            dst.put_u16(candidate.index);
        }
        Frame::FlowControl(_) | Frame::WebRtcReady | Frame::Unknown(_) => {}
    }
    Ok(())
}

fn write_handshake_request(
    request: &HandshakeRequest,
    dst: &mut BytesMut,
) -> Result<(), FrameError> {
    dst.put_u8(request.major);
    dst.put_u8(request.minor);
    dst.put_u16(request.port);
    dst.put_u16(request.ping_interval);
    dst.put_u16(request.ping_timeout);
    dst.put_u32(request.max_message);
    put_short(request.host.as_bytes(), "host", dst)?;
    put_long(&request.token, "token", dst)
}

fn write_resume_request(request: &ResumeRequest, dst: &mut BytesMut) -> Result<(), FrameError> {
    put_short(request.id.as_bytes(), "session id", dst)?;
    dst.put_u64(request.last);
    match request.token.is_empty() {
        true => Ok(()),
        false => put_long(&request.token, "token", dst),
    }
}

/// A number that may be absent.
fn put_number(number: Option<u64>, dst: &mut BytesMut) {
    if let Some(number) = number {
        dst.put_u64(number);
    }
}

fn put_short(field: &[u8], name: &'static str, dst: &mut BytesMut) -> Result<(), FrameError> {
    dst.put_u8(u8::try_from(field.len()).map_err(|_| FrameError::FieldTooLong(name))?);
    dst.put_slice(field);
    Ok(())
}

fn put_long(field: &[u8], name: &'static str, dst: &mut BytesMut) -> Result<(), FrameError> {
    dst.put_u16(u16::try_from(field.len()).map_err(|_| FrameError::FieldTooLong(name))?);
    dst.put_slice(field);
    Ok(())
}

/// Code and sentence; a sentence for people is cut, at a character, rather than refused.
fn put_failure(code: Code, message: &str, dst: &mut BytesMut) {
    let fits = |length: &u8| message.is_char_boundary(usize::from(*length));
    let whole = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let length = (0..=whole).rev().find(fits).unwrap_or(0);
    dst.put_u16(code.0);
    dst.put_u8(length);
    dst.put_slice(&message.as_bytes()[..usize::from(length)]);
}
