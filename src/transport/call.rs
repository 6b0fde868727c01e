//! Calls: connections that are set up through signaling, over real sockets.
//!
//! A [`Caller`] makes them, with a UDP socket of a listening [`Transport`](crate::Transport) or with sockets of its own. A
//! [`Call`] is one connection on its way and while it lives, as its owner sees it: signals in and out, and what the
//! connection carries. The driver of the socket (`transport/driver/calls.rs`) runs it; what takes its time besides,
//! names and streams to TURN servers, is done by tasks that end with the call. What the signals mean is the core's matter,
//! how they travel that of SocketPipe and of the transport `/ws/webrtc`.

mod caller;
mod config;
mod flow;
mod health;
mod messages;
mod names;
mod server;
mod servers;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

#[cfg(feature = "websocket")]
pub(crate) use self::flow::ByteStream;
pub use self::{
    caller::Caller,
    config::CallConfig,
    health::{IceServerReport, IceServerState, ServerReports},
    server::{IceServer, IceServerError},
};
pub(crate) use self::{
    caller::{Help, Place},
    flow::Flow,
    health::Owner,
    messages::MessageChannel,
    names::Names,
};
pub(crate) use crate::proto::connection::Application;
use crate::{
    proto::{
        CloseReason,
        candidate::Candidate,
        fingerprint::Fingerprint,
        sdp::{Description, SdpError},
    },
    transport::{
        Error,
        driver::{Ready, SocketHandle},
        shared::{CallShared, ConnectionHandle, Input, News},
    },
};

/// A message of signaling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    /// A session description (SDP): of a new connection, or of one whose ICE is restarted.
    Offer(String),
    /// The description that answers it.
    Answer(String),
    /// One more way to its sender, as `RTCIceCandidate` of a browser has it.
    Candidate {
        /// Begins with `candidate:`.
        candidate: String,
        /// Name of the section of the description.
        mid: String,
        /// Number of that section.
        index: u16,
    },
    /// There are no more.
    EndOfCandidates {
        /// As above.
        mid: String,
        /// As above.
        index: u16,
    },
}

/// What happened to a call.
#[derive(Debug)]
pub(crate) enum CallEvent {
    /// To be sent to the peer.
    Signal(Signal),
    /// [`Application::Messages`]: the channel is open.
    Channel(MessageChannel),
    /// [`Application::Libp2p`]: Noise can run.
    Ready(Ready),
    /// Data goes this way from now on. Told again when the path comes back after it was lost.
    Path {
        /// The peer, or the TURN server that stands for it.
        remote: SocketAddr,
        /// A TURN server passes the data on: ours or, as far as it said so, the peer's.
        relayed: bool,
    },
    /// Nothing came for five seconds. The path may come back, an ICE restart may find another one; after the idle
    /// timeout the connection ends.
    PathLost,
    /// Last event.
    Closed(CloseReason),
}

/// How a call stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CallState {
    /// No path was found yet.
    Connecting,
    /// See [`CallEvent::Path`].
    Path {
        /// The peer, or the TURN server that stands for it.
        remote: SocketAddr,
        /// A TURN server passes the data on.
        relayed: bool,
    },
    /// See [`CallEvent::PathLost`].
    Lost,
    /// It has ended.
    Closed,
}

/// Why a call cannot be made, or a signal not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The text is no description of data channels that can be used.
    #[error("the peer's description of the connection cannot be read")]
    Description(#[from] SdpError),
    /// An offer to the side that offers, an answer without an offer, an offer before the last one was answered.
    #[error("the peer's message comes out of turn")]
    OutOfTurn,
    /// See [`CallConfig::with_max_calls`].
    #[error("there are as many calls as there may be")]
    TooMany,
    /// See `Limits::max_new_calls_per_address` of `/ws/webrtc`.
    #[cfg(feature = "websocket")]
    #[error("there are as many calls of this address being made as there may be")]
    TooManyFromAddress,
    /// The system gives no socket, or there is no tokio runtime.
    #[error("there is no socket for the call")]
    Socket(#[from] Error),
}

/// One connection on its way and while it lives; the owner of its signaling. Dropping it closes the connection: what was
/// flushed before is still sent, for a bounded time.
///
/// All work is done elsewhere, so that it goes on while nobody polls; but signals and events wait for
/// [`poll_event`](Self::poll_event).
pub(crate) struct Call {
    shared: Arc<CallShared>,
    /// Taken when the connection is given away.
    handle: Option<ConnectionHandle>,
    /// The hash of our certificate, which no other call has.
    fingerprint: Fingerprint,
    is_libp2p: bool,
    offers: bool,
    /// A description is on its way: our offer to its answer, or the peer's offer to ours.
    is_open: bool,
    is_closed: bool,
}

impl Call {
    fn new(
        shared: Arc<CallShared>,
        handle: ConnectionHandle,
        fingerprint: Fingerprint,
        (is_libp2p, offers): (bool, bool),
    ) -> Self {
        Self {
            shared,
            handle: Some(handle),
            fingerprint,
            is_libp2p,
            offers,
            is_open: true,
            is_closed: false,
        }
    }

    /// What happened next. Pending for ever after [`CallEvent::Closed`].
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<CallEvent> {
        if self.is_closed {
            return Poll::Pending;
        }
        let news = self.shared.next(cx);
        if let Some(event) = news.and_then(|news| self.event(news)) {
            return Poll::Ready(event);
        }
        if self.is_libp2p
            && let Some(handle) = self.handle.take()
        {
            match handle.poll_ready(cx) {
                Poll::Ready(Ok(opening)) => {
                    let mut ready = Ready::new(*opening, handle);
                    ready.local_fingerprint = Some(self.fingerprint);
                    return Poll::Ready(CallEvent::Ready(ready));
                }
                // The end is told by the other half, behind what comes before it.
                Poll::Ready(Err(_)) | Poll::Pending => self.handle = Some(handle),
            }
        }
        Poll::Pending
    }

    fn event(&mut self, news: News) -> Option<CallEvent> {
        Some(match news {
            News::Signal(signal) => {
                if matches!(signal, Signal::Answer(_)) {
                    self.is_open = false;
                }
                CallEvent::Signal(signal)
            }
            News::Channel(channel) => CallEvent::Channel(channel),
            News::Path(CallState::Path { remote, relayed }) => CallEvent::Path { remote, relayed },
            News::Path(CallState::Lost) => CallEvent::PathLost,
            News::Path(CallState::Connecting | CallState::Closed) => return None,
            News::Closed(reason) => {
                self.is_closed = true;
                CallEvent::Closed(reason)
            }
        })
    }

    /// A signal of the peer. Candidates that are of no use are dropped without an error: ICE then has one way less.
    ///
    /// # Errors
    /// An offer or an answer that cannot be read, or that nobody waits for; nothing changes then. One that can be read and
    /// not be used ends the call, with [`CloseReason::Signaling`].
    pub(crate) fn handle(&mut self, signal: Signal) -> Result<(), CallError> {
        match signal {
            Signal::Offer(_) if self.offers || self.is_open => return Err(CallError::OutOfTurn),
            Signal::Answer(_) if !self.offers || !self.is_open => {
                return Err(CallError::OutOfTurn);
            }
            Signal::Offer(text) => {
                let offer = Box::new(Description::parse(&text)?);
                self.is_open = true;
                self.shared.push(Input::Offer(offer));
            }
            Signal::Answer(text) => {
                let answer = Box::new(Description::parse(&text)?);
                self.is_open = false;
                self.shared.push(Input::Answer(answer));
            }
            Signal::Candidate { candidate, .. } if Candidate::is_end_mark(&candidate) => {}
            Signal::Candidate { candidate, .. } => match Candidate::parse(&candidate) {
                Ok(candidate) => self.shared.push(Input::Candidate(Box::new(candidate))),
                Err(error) => tracing::debug!(%error, "a candidate of the peer is not used"),
            },
            // Nothing waits for it: a path may still be found by what the peer sends.
            Signal::EndOfCandidates { .. } => {}
        }
        Ok(())
    }

    /// Restarts ICE, which finds a path anew while the connection goes on; gives an offer for the peer. Does nothing on
    /// the side that answers, and while an offer waits for its answer.
    pub(crate) fn restart(&mut self) {
        if self.offers && !self.is_open && !self.is_closed {
            self.is_open = true;
            self.shared.push(Input::Restart);
        }
    }

    /// There is reason to believe that the peer is gone: looks whether anything comes by the path. If not,
    /// [`CallEvent::PathLost`] comes after 3 s.
    #[cfg_attr(
        not(feature = "websocket"),
        expect(dead_code, reason = "sessions look after their channels themselves")
    )]
    pub(crate) fn probe(&self) {
        self.shared.push(Input::Probe);
    }

    /// The peer has hung up, and the call goes on by itself: addresses that have shown no sign of life are left alone.
    #[cfg_attr(
        not(feature = "websocket"),
        expect(dead_code, reason = "sessions carry their signaling themselves")
    )]
    pub(crate) fn signaling_ended(&self) {
        self.shared.push(Input::SignalingEnded);
    }

    /// How it stands.
    pub(crate) fn state(&self) -> CallState {
        self.shared.path()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Where we still have it, the handle closes the connection.
        if self.handle.is_none() {
            self.shared.connection().request_close();
        }
        self.shared.release();
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("offers", &self.offers)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
