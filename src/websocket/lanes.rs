//! One connection, from the open WebSocket to its end: the link, the conversation on it, the call, both lanes.
//!
//! [`Lanes`] owns them by value and is polled by whoever owns the connection: a set-up first ([`super::setup`]), then the
//! muxer ([`super::connection`]). It has no task of its own, and dropping it leaves nothing behind. It does what the
//! [`Conversation`] decides.

mod calls;
mod lane;
mod telling;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use libp2p_core::StreamMuxer as _;
use libp2p_identity::PeerId;
use tokio::sync::watch;

use self::lane::Lane;
use super::{
    conversation::{Action, Conversation, Ended, Timing},
    error::{ConnectionError, Error, Phase},
    http::{limit::Share, messages::Socket, server::Place},
    link::{Link, Received},
    network::Changes,
    paths::Report,
    pipe::{Pipe, PipeEnd, pipe},
    plain::{self, Muxer},
    transport::{Common, now},
};
use crate::{
    Connection as WebRtcConnection,
    proto::{CloseReason, Side},
    transport::{
        call::{Application, Call, CallEvent},
        connecting::authenticate,
        driver::Ready,
        timer::Timer,
    },
    way::Route,
};

/// Frames that are read before anything else is done again.
const MAX_FRAMES: usize = 16;
/// How often the parts are gone through before other tasks get their turn.
const MAX_ROUNDS: usize = 8;
/// Time for the farewell on the WebSocket.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a listener keeps a connection on which its dialer opens no lane. The dialer does so at once.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub(crate) struct Lanes {
    common: Arc<Common>,
    role: Side,
    /// Who must answer, or has.
    peer: Option<PeerId>,
    /// It has.
    is_proven: bool,
    /// Lanes may ask for identities.
    may_prove: bool,
    link: Option<Link>,
    /// The last instant of the farewell.
    closing: Option<Instant>,
    conversation: Conversation,
    call: Option<Call>,
    /// Of an inbound connection: where it comes from, and its call's place among those of that address.
    from: Option<IpAddr>,
    beginning: Option<Share>,
    webrtc: Lane<Box<Ready>, WebRtcConnection>,
    plain: Lane<Pipe, Box<Muxer>>,
    pipe: Option<PipeEnd>,
    /// Where WebRTC leads, and whether by a TURN server.
    path: Option<(SocketAddr, bool)>,
    /// The same for the streams, as long as new ones are opened there.
    route: watch::Sender<Option<Route>>,
    /// Since when there is no lane.
    idle: Option<Instant>,
    /// Why a lane could not be set up.
    failure: Option<Error>,
    socket_end: Option<Ended>,
    end: Option<ConnectionError>,
    timer: Timer,
    changes: Changes,
    report: Report,
    /// Of an inbound connection: its place among all.
    _place: Option<Arc<Place>>,
}

impl Lanes {
    /// A connection on this WebSocket, with this peer if it is given.
    pub(crate) fn new(
        common: Arc<Common>,
        role: Side,
        socket: Socket,
        peer: Option<PeerId>,
        report: Report,
        place: Option<Arc<Place>>,
    ) -> Self {
        let limits = &common.config.limits;
        let timing = Timing {
            fallback: limits.fallback_after,
            webrtc: limits.webrtc_timeout,
            retry: limits.retry_after,
        };
        let conversation = Conversation::new(role, now(), timing);
        Self {
            link: Some(Link::new(socket, limits.max_message)),
            conversation,
            role,
            peer,
            is_proven: false,
            may_prove: false,
            closing: None,
            call: None,
            from: None,
            beginning: None,
            webrtc: Lane::None,
            plain: Lane::None,
            pipe: None,
            path: None,
            route: watch::Sender::default(),
            idle: None,
            failure: None,
            socket_end: None,
            end: None,
            timer: Timer::default(),
            changes: common.network.changes(),
            common,
            report,
            _place: place,
        }
    }

    /// Lets the lanes ask for identities.
    pub(crate) fn allow_proofs(&mut self) {
        self.may_prove = true;
    }

    /// Whether a lane could ask for the peer's identity.
    pub(crate) fn has_begun(&self) -> bool {
        self.webrtc.is_begun() || self.plain.is_begun()
    }

    /// The peer, once it has proven who it is.
    pub(crate) fn proven(&self) -> Option<PeerId> {
        self.peer.filter(|_| self.is_proven)
    }

    /// How far the set-up is.
    pub(crate) fn phase(&self) -> Phase {
        match &self.plain {
            Lane::None => Phase::WebRtc,
            Lane::Begun(_) | Lane::Proving(_) | Lane::Up(_) => Phase::WebSocket,
        }
    }

    /// Why there is nothing left, once that is so.
    pub(crate) fn end(&self) -> Option<&ConnectionError> {
        self.end.as_ref()
    }

    /// Whether nothing comes of the set-up. A listener tells its dialer why before it hangs up.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some() && (self.role == Side::Dialer || self.link.is_none())
    }

    /// Why a lane could not be set up.
    #[cfg(test)]
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Why nothing came of the set-up; after [`Self::end`].
    pub(crate) fn into_failure(mut self) -> Error {
        // What went wrong with a lane of a lost WebSocket is that it was lost.
        let is_lost = !matches!(self.socket_end, None | Some(Ended::Local));
        match (self.failure.take(), self.end.take()) {
            (Some(failure @ Error::WrongPeerId { .. }), _) => failure,
            (Some(failure), _) if !is_lost => failure,
            (_, Some(end)) => Error::Connection(end),
            (Some(failure), None) => failure,
            (None, None) => Error::Connection(ConnectionError::no_lane()),
        }
    }

    /// The wrong peer has answered, and the right one has not: this is not the connection that is wanted.
    pub(crate) fn is_wrong(&self) -> bool {
        self.has_wrong_peer() && !self.is_proven
    }

    fn has_wrong_peer(&self) -> bool {
        matches!(self.failure, Some(Error::WrongPeerId { .. }))
    }

    /// WebRTC, if it carries streams; and whether new ones belong there.
    pub(crate) fn webrtc(&mut self) -> (Option<&mut WebRtcConnection>, bool) {
        let is_best = self.conversation.is_webrtc_up();
        (self.webrtc.up(), is_best)
    }

    /// The plain lane, if it carries streams.
    pub(crate) fn plain(&mut self) -> Option<&mut Muxer> {
        self.plain.up().map(|muxer| &mut **muxer)
    }

    /// Whether the WebSocket is still there.
    pub(crate) fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// WebRTC ended.
    pub(crate) fn webrtc_ended(&mut self, error: crate::ConnectionError) {
        tracing::debug!(%error, "WebRTC ended");
        if self.link.is_none() && self.plain.is_none() {
            self.end
                .get_or_insert_with(|| ConnectionError::webrtc(error));
        }
        self.conversation.call_failed(now());
        self.carry_out(now());
    }

    /// The plain lane ended. What it has written is still sent.
    pub(crate) fn plain_ended(&mut self) {
        self.plain = Lane::None;
        self.conversation.plain_is_over();
    }

    /// Begins nothing new any more.
    pub(crate) fn leave(&mut self) {
        self.conversation.leave();
        if self.plain.up().is_none() {
            self.plain = Lane::None;
        }
        if self.webrtc.up().is_none() {
            self.drop_call();
        }
    }

    /// Whether everything that the plain lane has written has left, or never can.
    pub(crate) fn has_sent_all(&self) -> bool {
        match (&self.link, &self.pipe) {
            (Some(link), Some(_)) => link.has_sent_all(),
            (None, _) | (_, None) => true,
        }
    }

    /// Says goodbye on the WebSocket. The lanes have been closed.
    pub(crate) fn close(&mut self) {
        self.conversation.close();
        self.carry_out(now());
    }

    /// Does everything that can be done now.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        let mut rounds = 0;
        while self.round(cx) {
            rounds += 1;
            if rounds == MAX_ROUNDS {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.tell();
    }

    /// Once through all parts. True when there may be more.
    fn round(&mut self, cx: &mut Context<'_>) -> bool {
        let now = now();
        let mut more = self.read(cx, now);
        more |= self.hear_call(cx, now);
        more |= self.prove(cx, now);
        more |= self.poll_lanes(cx);
        more |= self.carry_out(now);
        more |= self.send(cx, now);
        more |= self.check_end(now);
        // Last: the timer must know the deadlines that the steps before have set, and what came in time must be heard
        // before its absence is judged.
        more |= self.keep_time(cx);
        more
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) -> bool {
        let now = now();
        if !self.conversation.waits_for_network() {
            self.changes.rest();
        } else if self.changes.poll_changed(cx) {
            self.conversation.network_changed(now);
        }
        let idle = self.idle.map(|since| since + IDLE_TIMEOUT);
        let next = [self.conversation.poll_timeout(), self.closing, idle];
        let next = next.into_iter().flatten().min();
        let is_due = self.timer.poll_until(cx, next).is_ready();
        if is_due {
            self.conversation.handle_timeout(now);
            if self.closing.is_some_and(|until| until <= now) {
                self.link = None;
                self.closing = None;
            }
        }
        is_due
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..MAX_FRAMES {
            if let Some(pipe) = &self.pipe
                && pipe.poll_room(cx).is_pending()
            {
                return false;
            }
            let Some(link) = &mut self.link else {
                return false;
            };
            match link.poll_next(cx) {
                Poll::Ready(Received::Frame(frame)) => self.conversation.handle_frame(now, frame),
                Poll::Ready(Received::Nonsense(error)) => {
                    self.conversation.handle_nonsense(&error);
                }
                Poll::Ready(Received::Lost) => self.lose_link(),
                Poll::Pending => return false,
            }
            self.carry_out(now);
        }
        true
    }

    fn lose_link(&mut self) {
        self.link = None;
        self.closing = None;
        self.conversation.socket_lost();
    }

    fn hear_call(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let has_room = self.link.as_ref().is_none_or(Link::has_room);
        let Some(call) = self.call.as_mut().filter(|_| has_room) else {
            return false;
        };
        let Poll::Ready(event) = call.poll_event(cx) else {
            return false;
        };
        match event {
            CallEvent::Signal(signal) => self.conversation.signal(signal),
            CallEvent::Ready(ready) => self.webrtc = Lane::Begun(Box::new(ready)),
            CallEvent::Path { remote, relayed } => {
                self.path = Some((remote, relayed));
                self.conversation.path_found();
            }
            CallEvent::PathLost => self.conversation.path_lost(now),
            CallEvent::Closed(reason) => self.call_closed(now, reason),
            // Calls of libp2p have none.
            CallEvent::Channel(_) => {}
        }
        true
    }

    fn call_closed(&mut self, now: Instant, reason: CloseReason) {
        tracing::debug!(%reason, "the call ended");
        if self.webrtc.up().is_none() {
            self.fail(crate::Error::from(reason).into());
        }
        self.conversation.call_failed(now);
    }

    /// Asks the peer for its identity, on each lane.
    fn prove(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if !self.may_prove {
            return false;
        }
        let (common, role, peer) = (&self.common, self.role, self.peer);
        let webrtc = self.webrtc.poll_proof(cx, |ready| {
            let webrtc = common.webrtc.clone();
            async move { Ok(authenticate(&webrtc, *ready, role, peer).await?) }.boxed()
        });
        let plain = self.plain.poll_proof(cx, |pipe| {
            let keypair = common.config.keypair.clone();
            async move {
                let (peer, muxer) = plain::negotiate(keypair, pipe, role).await?;
                Ok((peer, Box::new(muxer)))
            }
            .boxed()
        });
        let mut more = false;
        if let Poll::Ready(result) = webrtc {
            more = true;
            match result.and_then(|(peer, lane)| self.accept(peer).map(|()| lane)) {
                Ok(connection) => {
                    self.webrtc = Lane::Up(connection);
                    self.beginning = None;
                    self.conversation.call_is_up(now);
                }
                Err(error) => {
                    self.fail(error);
                    self.conversation.call_failed(now);
                }
            }
        }
        if let Poll::Ready(result) = plain {
            more = true;
            match result.and_then(|(peer, lane)| self.accept(peer).map(|()| lane)) {
                Ok(muxer) => {
                    self.plain = Lane::Up(muxer);
                    if let Some(pipe) = &self.pipe {
                        pipe.widen();
                    }
                }
                Err(error) => {
                    self.fail(error);
                    self.plain_ended();
                }
            }
        }
        more
    }

    /// All lanes lead to one peer.
    fn accept(&mut self, actual: PeerId) -> Result<(), Error> {
        match self.peer {
            Some(expected) if expected != actual => Err(Error::WrongPeerId { expected, actual }),
            Some(_) | None => {
                self.peer = Some(actual);
                self.is_proven = true;
                Ok(())
            }
        }
    }

    fn fail(&mut self, error: Error) {
        tracing::debug!(%error, "a lane was not set up");
        // What comes later is, as a rule, what follows from the first.
        if !self.has_wrong_peer() {
            self.failure = Some(error);
        }
    }

    /// Lanes move their bytes when they are polled.
    fn poll_lanes(&mut self, cx: &mut Context<'_>) -> bool {
        let mut more = false;
        if let Some(webrtc) = self.webrtc.up() {
            match Pin::new(webrtc).poll(cx) {
                // Where the peer is now is told by the call.
                Poll::Ready(Ok(_)) => more = true,
                Poll::Ready(Err(error)) => {
                    self.webrtc_ended(error);
                    more = true;
                }
                Poll::Pending => {}
            }
        }
        if let Some(plain) = self.plain.up() {
            match Pin::new(&mut **plain).poll(cx) {
                Poll::Ready(Ok(_)) => more = true,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "the plain lane ended");
                    self.plain_ended();
                    more = true;
                }
                Poll::Pending => {}
            }
        }
        more
    }

    /// Does what the conversation has decided. True when there was something.
    fn carry_out(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(action) = self.conversation.poll_action() {
            any = true;
            match action {
                Action::Send(frame) => {
                    if let Some(link) = &mut self.link {
                        link.send(frame);
                    }
                }
                Action::Offer => {
                    self.drop_call();
                    let call = self.common.caller().offer(Application::Libp2p);
                    self.set_call(now, call);
                }
                Action::Answer(sdp) => {
                    let call = self.answer(&sdp);
                    self.set_call(now, call);
                }
                Action::Signal(signal) => {
                    if let Some(call) = &mut self.call
                        && let Err(error) = call.handle(signal)
                    {
                        tracing::debug!(%error, "a signal of the peer is of no use");
                        self.conversation.signal_refused(now);
                    }
                }
                Action::Restart => {
                    if let Some(call) = &mut self.call {
                        call.restart();
                    }
                }
                Action::Probe => {
                    if let Some(call) = &self.call {
                        call.probe();
                    }
                }
                Action::Drop => self.drop_call(),
                Action::StartPlain => {
                    let (lane, end) = pipe();
                    self.pipe = Some(end);
                    self.plain = Lane::Begun(lane);
                }
                Action::Data(bytes) => {
                    if let Some(pipe) = &self.pipe {
                        pipe.push(bytes);
                    }
                }
                Action::EndOfData => {
                    if let Some(pipe) = &self.pipe {
                        pipe.end();
                    }
                }
                Action::End(ended) => self.end_link(now, ended),
            }
        }
        any
    }

    fn end_link(&mut self, now: Instant, ended: Ended) {
        // The lane sees that its bytes are gone.
        self.pipe = None;
        if let Some(call) = &self.call {
            call.signaling_ended();
        }
        if self.link.is_some() {
            self.closing = Some(now + CLOSE_TIMEOUT);
        }
        self.socket_end = Some(ended);
    }

    /// True when something comes of it.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let sent = match self.closing {
            // What the peer still sends is read and thrown away: unread, it would make a reset of our end.
            Some(_) => link.poll_close(cx),
            None => link.poll_send(cx, self.pipe.as_ref()),
        };
        let is_lost = sent == Poll::Ready(Err(()));
        if is_lost {
            self.lose_link();
            self.carry_out(now);
        }
        is_lost
    }

    /// True when it is the end.
    fn check_end(&mut self, now: Instant) -> bool {
        let has_webrtc = self.conversation.has_call() || !self.webrtc.is_none();
        if self.end.is_some() || has_webrtc || !self.plain.is_none() {
            self.idle = None;
            return false;
        }
        if let Some(ended) = &self.socket_end {
            self.end = Some(ConnectionError::websocket(ended.clone()));
            return true;
        }
        let idle = *self.idle.get_or_insert(now);
        // Its dialer may begin another lane, unless the last one has failed.
        let is_hopeless =
            self.role == Side::Dialer || (!self.is_proven && self.conversation.is_plain_over());
        let is_end = is_hopeless || idle + IDLE_TIMEOUT <= now;
        if is_end {
            self.end = Some(ConnectionError::no_lane());
            self.close();
        }
        is_end
    }
}
