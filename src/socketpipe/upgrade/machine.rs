//! [`Upgrade`]: attempts one after the other.

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::Sleep;

use super::{
    Carrier, WebRtc,
    attempt::{Attempt, Outcome, candidate},
    network::Network,
};
use crate::{
    IceServer,
    proto::sdp::Description,
    socketpipe::{
        frame::IceCandidate,
        session::{PathId, Signaling},
    },
    transport::call::{Application, Call, MessageChannel, Owner, Signal},
};

/// Name of the data channel and of what is spoken on it, as the protocol has them.
const LABEL: &str = "socketpipe";
const PROTOCOL: &str = "socketpipe/1.0";
/// Time to learn which servers to use.
const SERVERS_TIMEOUT: Duration = Duration::from_secs(5);

/// What the driver has to do.
#[derive(Debug)]
pub(in crate::socketpipe) enum Step {
    /// Send this on the main path.
    Signal(Signaling),
    /// The channel is open: attach it, or call [`Upgrade::failed`].
    Channel(MessageChannel),
    /// The channel goes another way through the network.
    Moved,
    /// The connection of this channel is gone.
    Gone(PathId),
    /// The attempt came to nothing: the session does not have to wait for it.
    Failed,
}

/// Where it stands.
enum State {
    /// Nothing is to be done: there is no path to signal on, or a server has no offer.
    Idle,
    /// Client: until the next attempt.
    Waiting(Pin<Box<Sleep>>),
    /// For the servers to use.
    Asking(Asking),
    /// There is a connection, or one is being made.
    Calling(Box<Attempt>),
}

struct Asking {
    servers: BoxFuture<'static, Option<Vec<IceServer>>>,
    /// Server: what is to be answered, and the candidates that came behind it. The engine bounds their number.
    offer: Option<Box<(String, Description)>>,
    early: Vec<IceCandidate>,
}

/// The upgrade of one session, either side.
pub(in crate::socketpipe) struct Upgrade {
    webrtc: WebRtc,
    is_client: bool,
    /// The main path, if it may be signaled on.
    on: Option<PathId>,
    state: State,
    /// In a row.
    failures: u32,
    /// Few: each call adds two at most, and the driver takes all of them soon.
    steps: VecDeque<Step>,
    network: Network,
}

impl Upgrade {
    pub(in crate::socketpipe) fn new(webrtc: WebRtc, is_client: bool) -> Self {
        Self {
            webrtc,
            is_client,
            on: None,
            state: State::Idle,
            failures: 0,
            steps: VecDeque::new(),
            network: Network::default(),
        }
    }

    /// The session agreed to the upgrade and lives on this main path, which may be signaled on. A client begins, unless
    /// it has long begun on this path. A connection that was signaled on another one is given up: it has to be offered
    /// anew.
    pub(in crate::socketpipe) fn open_on(&mut self, main: PathId) {
        if self.on == Some(main) {
            return;
        }
        self.close();
        self.on = Some(main);
        if !self.is_client {
            return;
        }
        match self.webrtc.delay {
            Duration::ZERO => self.begin(None),
            delay => self.state = State::Waiting(Box::pin(tokio::time::sleep(delay))),
        }
    }

    /// There is no path to signal on.
    pub(in crate::socketpipe) fn close(&mut self) {
        self.on = None;
        self.failures = 0;
        self.state = State::Idle;
        self.steps.clear();
    }

    /// The session has taken the channel under this name.
    pub(in crate::socketpipe) fn attached(&mut self, path: PathId) {
        if let State::Calling(attempt) = &mut self.state {
            attempt.attached(path);
        }
    }

    /// The attempt whose channel this path is.
    fn attempt_of(&self, path: PathId) -> Option<&Attempt> {
        match &self.state {
            State::Calling(attempt) if attempt.channel() == Some(path) => Some(attempt),
            _ => None,
        }
    }

    /// What carries this path, if it is the channel.
    pub(in crate::socketpipe) fn carrier(&self, path: PathId) -> Option<Carrier> {
        Some(self.attempt_of(path)?.carrier().0)
    }

    /// A few words about this path, if it is the channel.
    pub(in crate::socketpipe) fn describe(&self, path: PathId) -> Option<String> {
        Some(match self.attempt_of(path)?.carrier() {
            (carrier, Some(remote)) => format!("{carrier} {remote}"),
            (carrier, None) => carrier.to_string(),
        })
    }

    /// The session does not use this path any more. If it was the channel, gives the connection, for as long as goodbyes
    /// take; a client soon begins anew.
    pub(in crate::socketpipe) fn left(&mut self, path: PathId) -> Option<Call> {
        if self.on == Some(path) {
            // Its channel is left by itself, when all that goes by it has been said.
            self.on = None;
            let is_open =
                matches!(&self.state, State::Calling(attempt) if attempt.channel().is_some());
            if !is_open {
                self.close();
            }
            return None;
        }
        let age = match &self.state {
            State::Calling(attempt) if attempt.channel() == Some(path) => attempt.age(),
            _ => return None,
        };
        let State::Calling(attempt) = std::mem::replace(&mut self.state, State::Idle) else {
            return None;
        };
        match age {
            // It worked: what was lost is probably the network, and another one is there.
            Some(age) if age >= self.webrtc.first_pause => {
                self.failures = 0;
                if self.is_client && self.on.is_some() {
                    self.begin(None);
                }
            }
            _ => self.pause(),
        }
        Some(attempt.into_call())
    }

    /// The attempt came to nothing: the session waits for it no longer.
    pub(in crate::socketpipe) fn failed(&mut self) {
        if let State::Asking(_) | State::Calling(_) = self.state {
            self.pause();
        }
    }

    fn pause(&mut self) {
        self.state = State::Idle;
        self.steps.push_back(Step::Failed);
        if self.is_client && self.on.is_some() {
            self.failures += 1;
            let pause = self.webrtc.pause(self.failures);
            tracing::debug!(?pause, "WebRTC is tried again later");
            self.network.remember();
            self.state = State::Waiting(Box::pin(tokio::time::sleep(pause)));
        }
    }

    fn begin(&mut self, offer: Option<Box<(String, Description)>>) {
        let servers = self.webrtc.servers.as_ref().map(|source| source.servers());
        let servers = async {
            let servers = tokio::time::timeout(SERVERS_TIMEOUT, servers?).await;
            match servers.unwrap_or_else(|_| Err("no answer in 5 s".to_owned())) {
                Ok(servers) => Some(servers),
                Err(reason) => {
                    tracing::debug!(reason, "WebRTC is tried without the servers for it");
                    None
                }
            }
        };
        self.state = State::Asking(Asking {
            servers: Box::pin(servers),
            offer,
            early: Vec::new(),
        });
    }

    /// The servers are known, or not to be had.
    fn call(&mut self, servers: Option<Vec<IceServer>>) {
        let State::Asking(asking) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        let caller = match servers {
            Some(servers) => {
                // Clients have them from their server.
                let owner = match self.is_client {
                    true => Owner::Peer,
                    false => Owner::Us,
                };
                self.webrtc.caller.with_servers_of(&servers, owner)
            }
            None => self.webrtc.caller.clone(),
        };
        let application = Application::Messages {
            label: LABEL,
            protocol: PROTOCOL,
            // In-band, by the client, before its offer.
            open: self.is_client,
        };
        let attempt = match &asking.offer {
            None => caller.offer(application).map(Attempt::client),
            Some(offer) => caller
                .answer(application, &offer.0)
                .map(|call| Attempt::server(call, &offer.1)),
        };
        match attempt {
            Ok(mut attempt) => {
                for early in asking.early {
                    tell(&mut attempt, early);
                }
                self.state = State::Calling(Box::new(attempt));
            }
            Err(error) => {
                tracing::debug!(%error, "no WebRTC connection is begun");
                match self.is_client {
                    true => self.pause(),
                    false => self.refuse(),
                }
            }
        }
    }

    fn refuse(&mut self) {
        let refusal = Signaling::Answer(String::new());
        self.steps.push_back(Step::Signal(refusal));
    }

    /// A message of the peer; the engine has seen to it that its role may send it.
    pub(in crate::socketpipe) fn handle(&mut self, message: Signaling) {
        match message {
            Signaling::Offer(sdp) => self.on_offer(sdp),
            Signaling::Answer(sdp) => self.on_answer(sdp),
            Signaling::Candidate(text) => match &mut self.state {
                State::Calling(attempt) => tell(attempt, text),
                State::Asking(asking) if !self.is_client => asking.early.push(text),
                // Of an attempt that was given up.
                _ => {}
            },
        }
    }

    /// Server: the first offer of a connection, or one that restarts ICE.
    fn on_offer(&mut self, sdp: String) {
        let offer = match Description::parse(&sdp) {
            Ok(offer) if self.on.is_some() => offer,
            Ok(_) => return self.refuse(),
            Err(error) => {
                tracing::debug!(%error, "an offer is refused");
                return self.refuse();
            }
        };
        let is_replaced = match &self.state {
            State::Asking(asking) => asking.offer.is_some(),
            State::Calling(attempt) => attempt.is_owing() && !attempt.is_of(&offer),
            State::Idle | State::Waiting(_) => false,
        };
        if is_replaced {
            // Before it was answered; each offer has an answer.
            self.refuse();
        }
        if let State::Calling(attempt) = &mut self.state {
            if attempt.is_of(&offer) {
                if let Err(error) = attempt.handle(Signal::Offer(sdp)) {
                    tracing::debug!(%error, "an ICE restart is refused");
                    self.refuse();
                }
                return;
            }
            if let Some(channel) = attempt.channel() {
                self.steps.push_back(Step::Gone(channel));
            }
        }
        self.begin(Some(Box::new((sdp, offer))));
    }

    /// Client: the answer to an offer; empty if the server does not want it.
    fn on_answer(&mut self, sdp: String) {
        let State::Calling(attempt) = &mut self.state else {
            return;
        };
        let refused = match sdp.is_empty() {
            true => true,
            false => match attempt.handle(Signal::Answer(sdp)) {
                Ok(()) => false,
                Err(error) => {
                    tracing::debug!(%error, "an answer is of no use");
                    true
                }
            },
        };
        match attempt.channel() {
            Some(_) if refused => attempt.restart_refused(),
            None if refused => self.pause(),
            _ => {}
        }
    }

    /// What is to be done next.
    pub(in crate::socketpipe) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Poll::Ready(step);
            }
            if self.is_client && self.on.is_some() {
                self.network.watch(cx);
            }
            match &mut self.state {
                State::Idle => return Poll::Pending,
                State::Waiting(pause) => {
                    if !self.network.has_changed() && pause.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.begin(None);
                }
                State::Asking(asking) => match asking.servers.as_mut().poll(cx) {
                    Poll::Ready(servers) => self.call(servers),
                    Poll::Pending => return Poll::Pending,
                },
                State::Calling(attempt) => match attempt.poll(cx) {
                    Poll::Ready(outcome) => self.take(outcome),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    fn take(&mut self, outcome: Outcome) {
        let step = match outcome {
            Outcome::Signal(signaling) => Step::Signal(signaling),
            Outcome::Channel(channel) => Step::Channel(channel),
            Outcome::Moved => Step::Moved,
            Outcome::Over => {
                let (channel, is_owing) = match &self.state {
                    State::Calling(attempt) => (attempt.channel(), attempt.is_owing()),
                    _ => (None, false),
                };
                match channel {
                    // The driver tells the session, and then us.
                    Some(channel) => Step::Gone(channel),
                    None => {
                        if is_owing {
                            self.refuse();
                        }
                        return self.pause();
                    }
                }
            }
        };
        self.steps.push_back(step);
    }
}

fn tell(attempt: &mut Attempt, text: IceCandidate) {
    if let Err(error) = attempt.handle(candidate(text)) {
        tracing::debug!(%error, "a candidate is not used");
    }
}
