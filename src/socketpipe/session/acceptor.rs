//! Server side of a fresh connection, until a session takes it.
//!
//! Owns the time limit of the first frame and the form of refusals. Whether a request is granted, and dialing the
//! backend, is the driver's business; everything after that is the session's.

use std::{collections::VecDeque, sync::Arc};

use super::{Instant, Mode, PathId, PathKind, Request, ServerConfig, Session, config::MAJOR};
use crate::socketpipe::{
    code::Code,
    codec::FrameError,
    frame::{Close, Failure, Frame, HandshakeResponse, ResumeResponse, SessionId, SessionInfo},
};

/// Refused resumes after which a connection is closed: it has no session here, and each would give it more time.
const MAX_REFUSED_RESUMES: u32 = 3;
/// Frames of no importance that are taken before a session exists.
const MAX_OTHERS: u32 = 16;

/// Where the connection stands.
#[derive(Debug)]
enum State {
    /// Waits for the first frame, or for a handshake after a refused resume.
    Waiting { until: Instant },
    /// Somebody has to decide; `told` once the request was handed out.
    Pending { request: Request, told: bool },
    /// To be flushed and closed.
    Finished,
}

/// A fresh connection. Feed it frames until it has a request, then [`Self::accept`] or [`Self::refuse`] it, or hand a
/// resume over to its session.
#[derive(Debug)]
pub struct Acceptor {
    kind: PathKind,
    mode: Mode,
    config: Arc<ServerConfig>,
    state: State,
    outbox: VecDeque<Frame>,
    others: u32,
    refused_resumes: u32,
}

impl Acceptor {
    /// A connection that was just accepted.
    pub fn new(now: Instant, kind: PathKind, mode: Mode, config: Arc<ServerConfig>) -> Self {
        let until = now + config.handshake_timeout;
        Self {
            kind,
            mode,
            config,
            state: State::Waiting { until },
            outbox: VecDeque::new(),
            others: 0,
            refused_resumes: 0,
        }
    }

    /// A frame came.
    pub fn handle_frame(&mut self, _now: Instant, frame: Frame) {
        match (&self.state, frame) {
            (State::Finished, _) => {}
            (State::Waiting { .. }, Frame::HandshakeRequest(request)) => {
                if request.major == MAJOR {
                    self.pend(Request::Handshake(request));
                } else {
                    self.refuse_handshake(Failure::new(
                        Code::UNSUPPORTED_VERSION,
                        "this server speaks version 1",
                    ));
                }
            }
            (State::Waiting { .. }, Frame::ResumeRequest(request)) => {
                if self.config.resume.is_some() {
                    self.pend(Request::Resume(request));
                } else {
                    self.refuse_resume(super::link::not_found());
                }
            }
            // The client gives up.
            (_, Frame::Close(close)) => {
                self.outbox.push_back(Frame::Close(close));
                self.state = State::Finished;
            }
            (_, frame @ (Frame::Ping(_) | Frame::Pong(_) | Frame::Unknown(_))) => {
                self.others += 1;
                if self.others > MAX_OTHERS {
                    self.state = State::Finished;
                } else if let Frame::Ping(payload) = frame {
                    self.outbox.push_back(Frame::Pong(payload));
                }
            }
            _ => self.wrong_state(),
        }
    }

    /// What came is no frame.
    pub fn handle_malformed(&mut self, _now: Instant, error: &FrameError) {
        if let FrameError::Io(_) = error {
            self.state = State::Finished;
        } else if error.is_handshake() {
            self.refuse_handshake(Failure::new(error.code(), error.to_string()));
        } else {
            self.fail(Failure::new(error.code(), error.to_string()));
        }
    }

    fn pend(&mut self, request: Request) {
        self.state = State::Pending {
            request,
            told: false,
        };
    }

    fn wrong_state(&mut self) {
        self.fail(Failure::new(
            Code::INVALID_STATE,
            "this frame is not allowed before the handshake",
        ));
    }

    fn fail(&mut self, failure: Failure) {
        if !self.is_finished() {
            self.outbox.push_back(Frame::Error(failure.clone()));
            self.outbox.push_back(Frame::Close(Close {
                by_client: false,
                code: failure.code,
                message: failure.message,
            }));
            self.state = State::Finished;
        }
    }

    fn refuse_handshake(&mut self, failure: Failure) {
        if !self.is_finished() {
            let response = HandshakeResponse::Refused(failure);
            self.outbox.push_back(Frame::HandshakeResponse(response));
            self.state = State::Finished;
        }
    }

    /// The request to decide, once.
    pub fn poll_request(&mut self) -> Option<Request> {
        match &mut self.state {
            State::Pending { request, told } if !*told => {
                *told = true;
                Some(request.clone())
            }
            _ => None,
        }
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        self.outbox.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called. While a request is being decided the time is the driver's.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// The time may have come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| now >= until) {
            self.refuse_handshake(Failure::new(
                Code::PROTOCOL_ERROR,
                "no handshake came in time",
            ));
        }
    }

    /// The connection stays, for a handshake, unless there were too many.
    fn refuse_resume(&mut self, failure: Failure) {
        let response = ResumeResponse::Refused(failure);
        self.outbox.push_back(Frame::ResumeResponse(response));
        self.refused_resumes += 1;
        if self.refused_resumes >= MAX_REFUSED_RESUMES {
            self.state = State::Finished;
        }
    }

    /// The open request is refused. After a refused resume the connection stays, for a handshake.
    pub fn refuse(&mut self, now: Instant, failure: Failure) {
        match &self.state {
            State::Pending {
                request: Request::Handshake(_),
                ..
            } => self.refuse_handshake(failure),
            State::Pending { .. } => {
                let until = now + self.config.handshake_timeout;
                self.state = State::Waiting { until };
                self.refuse_resume(failure);
            }
            State::Waiting { .. } | State::Finished => {}
        }
    }

    /// The open handshake is granted and its backend connected: the session, which sends the response. Frames that
    /// still wait here go before its own. `id` becomes the name of the session and has to be as secret as `seed`: both
    /// are fresh randomness of the system. `None` if no handshake is open any more.
    pub fn accept(
        self,
        now: Instant,
        path: PathId,
        id: [u8; 32],
        seed: [u8; 32],
    ) -> Option<Session> {
        let State::Pending {
            request: Request::Handshake(request),
            ..
        } = &self.state
        else {
            return None;
        };
        let parameters = self.config.negotiate(request);
        let resume = self.config.resume_config();
        let id = SessionId::new(id.to_vec()).filter(|_| parameters.resume);
        let info = id.map(|id| SessionInfo {
            id,
            timeout: u32::try_from(resume.hold.as_secs()).unwrap_or(u32::MAX),
            retained: u32::try_from(resume.retained).unwrap_or(u32::MAX),
        });
        let settings = self.config.settings(self.mode);
        let mut session = Session::new(settings, None, seed);
        session.open(now, path, self.kind, parameters, info);
        Some(session)
    }

    /// Nothing more will come of this connection: flush and close it.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }
}
