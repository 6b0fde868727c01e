//! Frames of the peer: which are allowed now, and what each does.

use super::{
    Event, Instant, PathId, PathKind, Role, Session, Signaling, inbound::Taken, link::Phase,
};
use crate::socketpipe::{
    code::Code,
    codec::FrameError,
    frame::{Data, Failure, Flow, Frame},
};

/// Frames of unknown type that are ignored.
const MAX_UNKNOWN: u32 = 64;

impl Session {
    /// A frame came by this path. Frames of unknown and dropped paths are ignored.
    pub fn handle_frame(&mut self, now: Instant, path: PathId, frame: Frame) {
        let Some(known) = self.path_mut(path).filter(|known| !known.retired) else {
            return;
        };
        known.heard(now);
        let kind = known.kind;
        let resuming = self.link.resuming.map(|resuming| resuming.path);
        match self.link.phase {
            Phase::Closed | Phase::Idle => {}
            Phase::Opening { .. } => self.on_opening(now, path, frame),
            Phase::Open { main } if main != path && resuming == Some(path) => {
                self.on_resuming(now, path, frame);
            }
            Phase::Detached { .. } => self.on_resuming(now, path, frame),
            Phase::Open { .. } if kind == PathKind::DataChannel => {
                self.on_channel_frame(now, path, frame);
            }
            Phase::Open { .. } => self.on_main_frame(now, path, frame),
        }
        self.apply_size(now);
        self.settle(now);
    }

    /// What came by this path is no frame. The session ends; do not read that transport any more.
    pub fn handle_malformed(&mut self, now: Instant, path: PathId, error: &FrameError) {
        if let FrameError::Io(_) = error {
            return self.path_lost(now, path);
        }
        if self.path(path).is_some_and(|path| !path.retired) && !self.is_closed() {
            self.violation(Failure::new(error.code(), error.to_string()));
            self.settle(now);
        }
    }

    /// Client: a frame before the handshake is answered.
    fn on_opening(&mut self, now: Instant, path: PathId, frame: Frame) {
        match frame {
            Frame::HandshakeResponse(response) => self.on_handshake_response(path, response),
            Frame::Error(failure) => {
                self.end(super::By::Remote, super::EndReason::Failed(failure));
            }
            Frame::Close(close) => self.end(super::By::Remote, super::EndReason::Close(close)),
            Frame::Ping(payload) => self.on_ping(now, path, payload),
            Frame::Unknown(kind) => self.on_unknown(kind),
            _ => self.wrong_state(),
        }
    }

    /// Client: a frame on a path on which a resume was asked for, beside or without a main path.
    fn on_resuming(&mut self, now: Instant, path: PathId, frame: Frame) {
        match frame {
            Frame::ResumeResponse(response) => self.on_resume_response(now, path, response),
            Frame::Error(failure) => self.on_resume_refused(now, path, failure),
            Frame::Close(close) => {
                self.on_resume_refused(now, path, Failure::new(close.code, close.message));
            }
            Frame::Ping(payload) => self.on_ping(now, path, payload),
            Frame::Unknown(kind) => self.on_unknown(kind),
            _ => self.wrong_state(),
        }
    }

    /// A frame on the data channel: only what does not open, resume or upgrade a session.
    fn on_channel_frame(&mut self, now: Instant, path: PathId, frame: Frame) {
        self.heard_on_channel(matches!(frame, Frame::Data(_)));
        match frame {
            Frame::Data(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Resize(_)
            | Frame::Signal(_)
            | Frame::Env(_)
            | Frame::FlowControl(_)
            | Frame::Close(_)
            | Frame::Unknown(_) => self.on_main_frame(now, path, frame),
            _ => self.wrong_state(),
        }
    }

    /// A frame of an open session.
    fn on_main_frame(&mut self, now: Instant, path: PathId, frame: Frame) {
        let role = self.settings.role;
        match (frame, role) {
            (Frame::Data(data), _) => self.on_data(now, path, data),
            (Frame::Ping(payload), _) => self.on_ping(now, path, payload),
            (Frame::Pong(payload), _) => self.on_pong(now, path, &payload),
            (Frame::FlowControl(flow), _) => {
                self.outbound.paused = flow == Flow::Pause;
                self.closing_progress(now);
            }
            (Frame::Close(close), _) => self.on_close(now, path, close),
            (Frame::Error(failure), _) => self.on_error(now, path, failure),
            (Frame::Resize(size), Role::Server) => self.terminal.resized(size),
            (Frame::Signal(signal), Role::Server) => {
                self.tell(Event::Signal(signal));
            }
            (Frame::Env(env), Role::Server) => {
                if !self.inbound.begun && self.terminal.takes_env() {
                    self.tell(Event::Env(env));
                }
            }
            (Frame::ResumeRequest(request), Role::Server) if self.held.is_some() => {
                self.on_resume_request(now, path, &request);
            }
            (Frame::ResumeResponse(response), Role::Client) if self.link.is_repairing() => {
                self.on_resume_response(now, path, response);
            }
            (Frame::SessionId(info), Role::Client) => self.on_session_id(info),
            (Frame::WebRtcOffer(sdp), Role::Server) => {
                self.on_signaling(now, Signaling::Offer(sdp));
            }
            (Frame::WebRtcAnswer(sdp), Role::Client) => {
                self.on_signaling(now, Signaling::Answer(sdp));
            }
            (Frame::IceCandidate(candidate), _) => {
                self.on_signaling(now, Signaling::Candidate(candidate));
            }
            (Frame::WebRtcReady, Role::Client) => self.on_webrtc_ready(now),
            (Frame::Unknown(kind), _) => self.on_unknown(kind),
            _ => self.wrong_state(),
        }
    }

    fn on_data(&mut self, now: Instant, id: PathId, data: Data) {
        let limit = self
            .parameters
            .map_or(0, |parameters| parameters.max_message);
        if data.bytes.len() > limit as usize {
            return self.violation(Failure::new(
                Code::MESSAGE_TOO_LARGE,
                "DATA above the agreed size",
            ));
        }
        if let Some(path) = self.path_mut(id) {
            path.data_received(data.bytes.len());
        }
        let (was_readable, had_ended) = (self.inbound.is_readable(), self.inbound.ended);
        let on_main = self.link.main() == Some(id);
        match self.inbound.take(now, id, on_main, data) {
            Taken::Fine => {}
            Taken::NewPath { old } if self.path(old).is_some() => {
                let nonce = self.ping(now, old);
                self.inbound.guard(nonce);
            }
            Taken::NewPath { old } => self.inbound.path_gone(old),
            Taken::Skipped => self.on_skipped(),
        }
        self.tell_reader(was_readable, had_ended);
    }

    /// After a resume the peer went on behind what was lost.
    fn on_skipped(&mut self) {
        // A published client cannot repeat: a lost key in a terminal is bearable, a gap in a TCP stream is not.
        if self.settings.mode == super::Mode::Tunnel {
            self.violation(Failure::new(
                Code::SEQUENCE_MISMATCH,
                "DATA was lost and not sent again",
            ));
        }
    }

    pub(super) fn tell_reader(&mut self, was_readable: bool, had_ended: bool) {
        if !was_readable && self.inbound.is_readable() {
            self.tell(Event::Readable);
        }
        if self.settings.half_close && !had_ended && self.inbound.ended {
            self.tell(Event::ReadEnd);
        }
    }

    fn on_ping(&mut self, now: Instant, id: PathId, payload: bytes::Bytes) {
        let resuming = self.link.resuming.map(|resuming| resuming.path);
        let withhold = resuming.is_some_and(|other| other != id) && !self.link.is_repairing();
        let Some(path) = self.path_mut(id) else {
            return;
        };
        let taken = match withhold {
            true => path.withhold(now, payload),
            false => path.answer(now, payload),
        };
        // A sign of life in place of the answer.
        if withhold && !path.has_open_ping() {
            self.ping(now, id);
        }
        self.tally.ignored_pings += u64::from(!taken);
    }

    fn on_pong(&mut self, now: Instant, path: PathId, payload: &[u8]) {
        let answered = self
            .path_mut(path)
            .and_then(|path| path.answered(now, payload));
        let Some((nonce, rtt)) = answered else {
            return;
        };
        self.tally.rtt = Some(rtt);
        self.outbound.confirm(nonce);
        let (was_readable, had_ended) = (self.inbound.is_readable(), self.inbound.ended);
        self.inbound.confirm(nonce);
        self.tell_reader(was_readable, had_ended);
        self.closing_confirmed(now, nonce);
    }

    fn on_unknown(&mut self, kind: u8) {
        self.tally.unknown_frames += 1;
        if self.tally.unknown_frames > MAX_UNKNOWN {
            self.violation(Failure::new(
                Code::PROTOCOL_ERROR,
                "too many frames of unknown type",
            ));
        } else if matches!(kind, 0x53..=0x56 | 0x70..=0x74 | 0x80..=0x94) {
            self.unsupported();
        }
    }

    /// A frame of an extension that was not agreed: the peer is told once, then they are ignored.
    pub(super) fn unsupported(&mut self) {
        if !self.tally.told_unsupported && self.settings.role == Role::Server {
            self.tally.told_unsupported = true;
            self.send_main(Frame::Error(Failure::new(
                Code::INVALID_STATE,
                "this extension was not agreed",
            )));
        }
    }

    fn wrong_state(&mut self) {
        self.violation(Failure::new(
            Code::INVALID_STATE,
            "this frame is not allowed now",
        ));
    }
}
