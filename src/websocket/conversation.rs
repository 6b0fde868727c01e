//! What both ends of a WebSocket say to each other, and when: offers, answers, candidates, retries, signs of life.
//!
//! [`Conversation`] is a state machine without sockets, tasks or clocks. Frames and news come in with the time,
//! [`Action`]s come out, and [`Conversation::poll_timeout`] says when it wants to be asked again. It decides when a WebRTC
//! call is begun, restarted and given up, and when the plain lane is needed; what a call or a lane is, its owner
//! (`lanes`) knows.
//!
//! The rules, beside those of SocketPipe's frames:
//!
//! * The dialer offers, the listener answers: each offer gets one answer, in order; an empty one is a refusal. The dialer
//!   sends no offer before the last one was answered, so that it never takes an answer for that of another offer.
//! * An offer with the certificate of the call that there is restarts its ICE; any other one begins a new call.
//! * DATA is the byte stream of the plain lane. The dialer begins it, once in the life of a WebSocket, when WebRTC is not
//!   there in time, is refused, or is lost.

mod action;
mod offers;
pub(super) mod signals;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub(crate) use self::action::{Action, Ended, Timing};
use self::offers::Offers;
use crate::{
    frames::{
        code::Code,
        codec::FrameError,
        frame::{Close, Data, Frame, IceCandidate},
    },
    proto::{Side, fingerprint::Fingerprint, sdp::Description},
    transport::call::Signal,
};

/// What a listener adds to the time of a call: the dialer decides, and the listener's clock starts later and stops later.
const LISTENER_GRACE: Duration = Duration::from_secs(5);
/// Longest pause before a further call.
const LAST_RETRY: Duration = Duration::from_secs(300);
/// Shortest time between two calls, however often the network changes.
const MIN_RETRY: Duration = Duration::from_secs(1);
/// A call that lasted so long was a good one: the next pause is a short one again.
const GOOD_CALL: Duration = Duration::from_secs(60);
/// Silence after which a sign of life is asked for. Proxies cut what is silent for 60 s.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Time for the answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Candidates that are handed to a call between two descriptions, each of which brings new ones: more than the core keeps.
const MAX_CANDIDATES: usize = 256;

/// Offers that may wait behind one without an answer: a peer that keeps to the rules sends none.
const MAX_UNREAD: usize = 2;

/// The state of WebRTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WebRtc {
    /// There is no call.
    None,
    /// A call is on its way; when it is given up.
    Trying { until: Instant },
    /// The peer has proven its identity.
    Up { since: Instant },
    /// Nothing comes any more; when it is given up.
    Lost { until: Instant, since: Instant },
}

/// The state of the plain lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plain {
    /// Not begun.
    None,
    /// Begun.
    Open { peer_ended: bool },
    /// Over. There is no other one on this WebSocket.
    Over,
}

/// See the module's documentation.
pub(crate) struct Conversation {
    role: Side,
    timing: Timing,
    webrtc: WebRtc,
    plain: Plain,
    /// Dialer: when the plain lane begins, if WebRTC is not up.
    fallback: Option<Instant>,
    /// Dialer: when WebRTC is tried again.
    retry: Option<Instant>,
    pause: Duration,
    /// When the last call was begun.
    called: Option<Instant>,
    /// The call has found a path: the peer is there, and both go on without further signaling.
    has_path: bool,
    /// Dialer: an offer of ours was not answered yet, and whether its call is still there.
    awaiting: Option<Awaiting>,
    /// Listener: an offer of the peer was not answered yet.
    owing: bool,
    /// Listener: offers behind it that are refused unread, once it has its answer.
    unread: usize,
    /// Listener: how often the peer may offer.
    offers: Offers,
    /// Listener: the certificates in the offer of the call.
    certificates: Vec<Fingerprint>,
    /// Candidates handed to the call since the last description.
    candidates: usize,
    /// When something came last.
    heard: Instant,
    /// A PING was sent then.
    pinged: Option<Instant>,
    pings: u64,
    /// The connection is being closed: nothing new begins.
    leaving: bool,
    ended: bool,
    actions: VecDeque<Action>,
}

/// An offer of ours without its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaiting {
    /// The call was asked for it, for a restart, and has not given it yet.
    Asked,
    /// Of the call that there is, its first one.
    First,
    /// Of the call that there is, for a restart.
    Restart,
    /// Of a call that was given up.
    Gone,
}

impl Conversation {
    /// A WebSocket was opened. A dialer calls at once.
    pub(crate) fn new(role: Side, now: Instant, timing: Timing) -> Self {
        let mut this = Self {
            role,
            timing,
            webrtc: WebRtc::None,
            plain: Plain::None,
            fallback: None,
            retry: None,
            pause: timing.retry,
            called: None,
            has_path: false,
            awaiting: None,
            owing: false,
            unread: 0,
            offers: Offers::new(now),
            certificates: Vec::new(),
            candidates: 0,
            heard: now,
            pinged: None,
            pings: 0,
            leaving: false,
            ended: false,
            actions: VecDeque::new(),
        };
        if role == Side::Dialer {
            this.fallback = Some(now + timing.fallback);
            this.offer(now);
        }
        this
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let webrtc = match self.webrtc {
            WebRtc::Trying { until } | WebRtc::Lost { until, .. } => Some(until),
            WebRtc::None | WebRtc::Up { .. } => None,
        };
        let sign = (!self.ended).then(|| match self.pinged {
            Some(at) => at + PING_TIMEOUT,
            None => self.heard + PING_INTERVAL,
        });
        // Until the answer is there, a further offer cannot be sent anyway.
        let retry = self.retry.filter(|_| self.awaiting.is_none());
        [webrtc, self.fallback, retry, sign]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether new streams belong on WebRTC.
    pub(crate) fn is_webrtc_up(&self) -> bool {
        matches!(self.webrtc, WebRtc::Up { .. })
    }

    /// Whether WebRTC is there or on its way.
    pub(crate) fn has_call(&self) -> bool {
        self.webrtc != WebRtc::None
    }

    /// Whether there will be no plain lane any more.
    pub(crate) fn is_plain_over(&self) -> bool {
        self.plain == Plain::Over
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self.webrtc {
            WebRtc::Trying { until } | WebRtc::Lost { until, .. } if until <= now => {
                self.call_failed(now);
            }
            _ => {}
        }
        if self.fallback.is_some_and(|at| at <= now) {
            self.start_plain();
        }
        if self.retry.is_some_and(|at| at <= now) && self.awaiting.is_none() {
            self.offer(now);
        }
        self.check_signs(now);
    }

    fn check_signs(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        match self.pinged {
            Some(at) if at + PING_TIMEOUT <= now => self.say_goodbye(
                Code::PING_TIMEOUT,
                "no sign of life".to_owned(),
                Ended::Silent,
            ),
            None if self.heard + PING_INTERVAL <= now => {
                self.pings += 1;
                self.pinged = Some(now);
                let payload = Bytes::copy_from_slice(&self.pings.to_be_bytes());
                self.send(Frame::Ping(payload));
            }
            Some(_) | None => {}
        }
    }

    /// The peer sent a frame.
    pub(crate) fn handle_frame(&mut self, now: Instant, frame: Frame) {
        if self.ended {
            return;
        }
        self.heard = now;
        self.pinged = None;
        match frame {
            Frame::Data(data) => self.handle_data(data),
            Frame::WebRtcOffer(sdp) => self.handle_offer(now, sdp),
            Frame::WebRtcAnswer(sdp) => self.handle_answer(now, sdp),
            Frame::IceCandidate(candidate) => self.handle_candidate(candidate),
            Frame::Ping(payload) => self.send(Frame::Pong(payload)),
            Frame::Close(close) => {
                let ended = Ended::Remote(close.code, close.message.clone());
                self.send(Frame::Close(close));
                self.end(ended);
            }
            Frame::Error(failure) => self.end(Ended::Remote(failure.code, failure.message)),
            // Any frame is a sign of life; the other two are for those who know more than we do.
            Frame::Pong(_) | Frame::WebRtcReady | Frame::Unknown(_) => {}
            _ => self.violate(Code::INVALID_STATE, "this frame belongs to a session"),
        }
    }

    /// The peer sent something that is no frame.
    pub(crate) fn handle_nonsense(&mut self, error: &FrameError) {
        self.violate(error.code(), "what came is no frame");
    }

    fn handle_data(&mut self, data: Data) {
        if data.number.is_some() {
            return self.violate(Code::INVALID_STATE, "DATA has no numbers here");
        }
        if data.bytes.is_empty() && !data.end {
            return;
        }
        if self.role == Side::Listener {
            self.start_plain();
        }
        match self.plain {
            Plain::Open { peer_ended: false } if data.end => {
                self.plain = Plain::Open { peer_ended: true };
                self.actions.push_back(Action::EndOfData);
            }
            Plain::Open { peer_ended: false } => {
                self.actions.push_back(Action::Data(data.bytes));
            }
            Plain::None if self.leaving => {}
            Plain::None => self.violate(Code::INVALID_STATE, "the dialer begins with DATA"),
            Plain::Open { peer_ended: true } => {
                self.violate(Code::INVALID_STATE, "DATA comes behind its end");
            }
            // On its way when the lane ended here.
            Plain::Over => {}
        }
    }

    fn handle_offer(&mut self, now: Instant, sdp: String) {
        if self.role == Side::Dialer {
            return self.violate(Code::INVALID_STATE, "only the dialer offers");
        }
        if self.leaving || !self.offers.admit(now) {
            tracing::debug!("an offer of the peer is refused unread");
            return self.refuse_in_turn();
        }
        let Ok(description) = Description::parse(&sdp) else {
            return self.refuse_in_turn();
        };
        let is_same = |certificate| self.certificates.contains(certificate);
        if self.has_call() && description.fingerprints.iter().any(is_same) {
            if self.owing {
                return self.violate(Code::INVALID_STATE, "the last offer was not answered yet");
            }
            self.owing = true;
            self.candidates = 0;
            self.actions.push_back(Action::Signal(Signal::Offer(sdp)));
            return;
        }
        self.refuse_if_owing();
        self.owing = true;
        self.certificates = description.fingerprints;
        self.begin_call(now);
        self.actions.push_back(Action::Answer(sdp));
    }

    fn handle_answer(&mut self, now: Instant, sdp: String) {
        match self.awaiting.take() {
            None | Some(Awaiting::Asked) => {
                self.violate(Code::INVALID_STATE, "there is no offer to be answered")
            }
            Some(Awaiting::Gone) => {}
            Some(Awaiting::First | Awaiting::Restart) if sdp.is_empty() => {
                tracing::debug!("the peer refuses WebRTC");
                self.call_failed(now);
            }
            Some(Awaiting::First | Awaiting::Restart) => {
                self.candidates = 0;
                self.actions.push_back(Action::Signal(Signal::Answer(sdp)));
            }
        }
    }

    fn handle_candidate(&mut self, candidate: IceCandidate) {
        // Before the answer, it is one for the call before.
        let is_early = self.role == Side::Dialer
            && matches!(self.awaiting, Some(Awaiting::First | Awaiting::Gone));
        if !self.has_call() || is_early || self.candidates >= MAX_CANDIDATES {
            return;
        }
        self.candidates += 1;
        let signal = signals::signal_of(candidate);
        self.actions.push_back(Action::Signal(signal));
    }

    /// The call has something for the peer.
    pub(crate) fn signal(&mut self, signal: Signal) {
        match &signal {
            Signal::Offer(_) => {
                self.awaiting = Some(match self.webrtc {
                    WebRtc::Trying { .. } | WebRtc::None => Awaiting::First,
                    WebRtc::Up { .. } | WebRtc::Lost { .. } => Awaiting::Restart,
                });
            }
            Signal::Answer(_) => {
                self.owing = false;
            }
            Signal::Candidate { .. } | Signal::EndOfCandidates { .. } => {}
        }
        let is_answer = matches!(signal, Signal::Answer(_));
        self.send(signals::frame_of(signal));
        if is_answer {
            self.refuse_unread();
        }
    }

    /// The identity of the peer is proven over the call.
    pub(crate) fn call_is_up(&mut self, now: Instant) {
        self.webrtc = WebRtc::Up { since: now };
        self.fallback = None;
    }

    /// Nothing comes by the path of the call any more.
    pub(crate) fn path_lost(&mut self, now: Instant) {
        let WebRtc::Up { since } = self.webrtc else {
            return;
        };
        if self.ended {
            // Nobody can seek another one without signaling, and streams that stand still are worth less than a new
            // connection.
            return self.call_failed(now);
        }
        let until = now + self.patience();
        self.webrtc = WebRtc::Lost { until, since };
        if self.may_try() {
            if self.awaiting.is_none() {
                self.awaiting = Some(Awaiting::Asked);
                self.actions.push_back(Action::Restart);
            }
            self.start_plain();
        }
    }

    /// The call has a path, perhaps again.
    pub(crate) fn path_found(&mut self) {
        self.has_path = true;
        if let WebRtc::Lost { since, .. } = self.webrtc {
            self.webrtc = WebRtc::Up { since };
        }
    }

    /// The call ended, could not be made, cannot use what the peer sent, or the wrong peer has it.
    pub(crate) fn call_failed(&mut self, now: Instant) {
        let lasted = match self.webrtc {
            WebRtc::None => return,
            WebRtc::Trying { .. } => Duration::ZERO,
            WebRtc::Up { since } | WebRtc::Lost { since, .. } => now.duration_since(since),
        };
        self.webrtc = WebRtc::None;
        self.actions.push_back(Action::Drop);
        self.refuse_if_owing();
        self.awaiting = match self.awaiting {
            None | Some(Awaiting::Asked) => None,
            Some(_) => Some(Awaiting::Gone),
        };
        if self.may_try() {
            if lasted >= GOOD_CALL {
                self.pause = self.timing.retry;
            }
            self.retry = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LAST_RETRY);
            self.start_plain();
        }
    }

    /// The call cannot use the offer or answer it was given, and is as it was before.
    pub(crate) fn signal_refused(&mut self, now: Instant) {
        match self.role {
            Side::Dialer => self.call_failed(now),
            Side::Listener => self.refuse_if_owing(),
        }
    }

    /// The network interfaces have changed: what was in vain may succeed now.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        if let Some(retry) = self.retry {
            self.pause = self.timing.retry;
            let soonest = self.called.map_or(now, |at| at + MIN_RETRY);
            self.retry = Some(retry.min(soonest.max(now)));
        }
    }

    /// The plain lane ended here.
    pub(crate) fn plain_is_over(&mut self) {
        self.plain = Plain::Over;
    }

    /// Whether a change of the network may be of use.
    pub(crate) fn waits_for_network(&self) -> bool {
        self.retry.is_some()
    }

    /// The connection is being closed: lanes that end are not replaced.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        self.fallback = None;
        self.retry = None;
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self) {
        self.say_goodbye(Code::NORMAL, String::new(), Ended::Local);
    }

    /// The WebSocket is gone. A call goes on as long as it does without; whether it does is looked at.
    pub(crate) fn socket_lost(&mut self) {
        self.end(Ended::Lost);
    }

    fn offer(&mut self, now: Instant) {
        self.begin_call(now);
        self.actions.push_back(Action::Offer);
    }

    /// How long a call may be down.
    fn patience(&self) -> Duration {
        match self.role {
            Side::Dialer => self.timing.webrtc,
            Side::Listener => self.timing.webrtc + LISTENER_GRACE,
        }
    }

    fn begin_call(&mut self, now: Instant) {
        self.webrtc = WebRtc::Trying {
            until: now + self.patience(),
        };
        self.called = Some(now);
        self.has_path = false;
        self.candidates = 0;
        self.retry = None;
    }

    /// Whether this side may begin something of its own accord.
    fn may_try(&self) -> bool {
        self.role == Side::Dialer && !self.ended && !self.leaving
    }

    fn start_plain(&mut self) {
        self.fallback = None;
        if self.plain == Plain::None && !self.leaving {
            self.plain = Plain::Open { peer_ended: false };
            self.actions.push_back(Action::StartPlain);
        }
    }

    fn refuse_if_owing(&mut self) {
        if std::mem::take(&mut self.owing) {
            self.refuse();
            self.refuse_unread();
        }
    }

    /// Refuses an offer, behind the answer to the one before: answers have no other sign of what they answer.
    fn refuse_in_turn(&mut self) {
        match self.owing {
            false => self.refuse(),
            true if self.unread < MAX_UNREAD => self.unread += 1,
            true => self.violate(Code::INVALID_STATE, "the last offer was not answered yet"),
        }
    }

    fn refuse_unread(&mut self) {
        for _ in 0..std::mem::take(&mut self.unread) {
            self.refuse();
        }
    }

    fn refuse(&mut self) {
        self.send(Frame::WebRtcAnswer(String::new()));
    }

    fn send(&mut self, frame: Frame) {
        if !self.ended {
            self.actions.push_back(Action::Send(frame));
        }
    }

    fn violate(&mut self, code: Code, why: &'static str) {
        tracing::debug!(%code, why, "the peer broke a rule of signaling");
        self.say_goodbye(code, why.to_owned(), Ended::Violation(code, why));
    }

    fn drop_call(&mut self) {
        self.webrtc = WebRtc::None;
        self.actions.push_back(Action::Drop);
    }

    fn say_goodbye(&mut self, code: Code, message: String, ended: Ended) {
        self.send(Frame::Close(Close {
            by_client: self.role == Side::Dialer,
            code,
            message,
        }));
        self.end(ended);
    }

    fn end(&mut self, ended: Ended) {
        if self.ended {
            return;
        }
        self.ended = true;
        match self.webrtc {
            // Who has hung up before anything was proven has nobody checked on their behalf any more: the addresses may be
            // those of somebody else.
            WebRtc::Trying { .. } if !self.has_path => self.drop_call(),
            // Nothing will ever come by its path.
            WebRtc::Lost { .. } => self.drop_call(),
            WebRtc::Up { .. } if !self.leaving && ended.may_be_of_peer() => {
                self.actions.push_back(Action::Probe);
            }
            WebRtc::Up { .. } | WebRtc::Trying { .. } | WebRtc::None => {}
        }
        self.plain = Plain::Over;
        self.fallback = None;
        self.retry = None;
        self.awaiting = None;
        (self.owing, self.unread) = (false, 0);
        self.actions.push_back(Action::End(ended));
    }
}
