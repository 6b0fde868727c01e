//! Connections that are set up through signaling: offers and answers, a full ICE agent for a path, certificates pinned
//! on both sides.
//!
//! Everything above the path is the same as for webrtc-direct: DTLS, SCTP, channels. What is different is here: who is
//! the client of DTLS is agreed by `a=setup` (RFC 8842), each side insists on the certificate that the description of
//! the other names, and data may go through a TURN server. An application of messages needs no Noise, because its
//! signaling is authenticated; libp2p's runs it over channel 0 as in webrtc-direct.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rand::RngExt as _;

use super::{Connection, Context, Ice};
use crate::proto::{
    candidate::Candidate,
    engine::dtls::{Dtls, DtlsContext},
    error::{DropReason, Phase},
    event::{Event, Side},
    fingerprint::Fingerprint,
    ice::{
        CandidateUse, FullAgent, IceConfig, IceEvent, RelayId, RelayServer, RelayTransmit,
        RouteChange, Selected,
    },
    outbox::Outbox,
    sdp::{self, Description},
    stun::{self, BindingRequest, BindingResponse, Message},
};

/// Largest message we take, as our descriptions say: what browsers say, and more than anybody sends.
const MAX_MESSAGE: usize = 262_144;
/// Largest message we send, whatever the peer takes: above it messages of different channels wait for one another.
const MAX_SENT_MESSAGE: usize = 16_384;
/// Shortest time between two restarts of the peer.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// The name of our one section.
const MID: &str = "0";

/// What the channels of a connection carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Application {
    /// libp2p streams with their framing, after Noise on channel 0.
    Libp2p,
    /// Messages as they are, on one channel with this name; others are closed.
    #[cfg_attr(
        not(any(test, feature = "socketpipe", feature = "__fuzzing")),
        expect(dead_code, reason = "SocketPipe has the only such application")
    )]
    Messages {
        /// Its label.
        label: &'static str,
        /// Its protocol.
        protocol: &'static str,
        /// Whether we open it.
        open: bool,
    },
}

/// A connection to be made through signaling.
pub(crate) struct Call {
    /// What it carries.
    pub(crate) application: Application,
    /// Our certificate, fresh for each connection.
    pub(crate) dtls: DtlsContext,
    /// Its fingerprint.
    pub(crate) fingerprint: Fingerprint,
    /// What ICE works with.
    pub(crate) ice: IceConfig,
}

/// Why a message of signaling cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignalError {
    /// There is no such connection, or it ended.
    #[error("the connection has ended")]
    Ended,
    /// The endpoint has as many connections as it may.
    #[error("there are too many connections")]
    TooMany,
    /// It is not our turn: an answer without offer, an offer to the side that offers.
    #[error("the message comes out of turn")]
    OutOfTurn,
    /// Both want the same role in DTLS, or the answer leaves it open.
    #[error("the DTLS roles do not fit")]
    Roles,
    /// The peer restarts ICE again before the last restart can have had an effect.
    #[error("ICE is restarted too often")]
    TooOften,
    /// A restart names another certificate: that is another connection.
    #[error("the certificate is another one")]
    OtherCertificate,
}

/// State of a connection that was signaled.
pub(super) struct Signaled {
    pub(super) agent: FullAgent,
    application: Application,
    fingerprint: Fingerprint,
    /// For sessions that are made when the roles and the path are known.
    dtls: Option<DtlsContext>,
    offers: bool,
    origin: (u64, u64),
    mid: String,
    max_message_size: usize,
    restarted: Option<Instant>,
    /// The one channel of an application of messages was opened.
    pub(super) has_channel: bool,
}

impl Connection {
    /// Without a description of the peer yet. `offers`: we describe ourselves first, and we nominate.
    pub(crate) fn signaled(call: Call, offers: bool, cx: &mut Context<'_>) -> Self {
        let Call {
            application,
            dtls: context,
            fingerprint,
            ice,
        } = call;
        let agent = FullAgent::new(ice, offers, cx);
        let signaled = Signaled {
            agent,
            application,
            fingerprint,
            offers,
            // RFC 8829 section 5.2.1: 63 random bits.
            origin: (cx.rng.random::<u64>() >> 1, 0),
            mid: MID.to_owned(),
            max_message_size: 0,
            restarted: None,
            has_channel: false,
            dtls: None,
        };
        // A session that is never used: the real one begins when the path is there.
        let dtls = Dtls::listener(&context, cx.now);
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let ice = Ice::Signaled(Box::new(Signaled {
            dtls: Some(context),
            ..signaled
        }));
        let mut this = Self::new(Side::Listener, nowhere, None, ice, dtls, cx);
        this.setup = Some(Box::default());
        this
    }

    /// Whether it was set up through signaling.
    pub(crate) fn is_signaled(&self) -> bool {
        matches!(self.ice, Ice::Signaled(_))
    }

    /// Whether its channels carry messages as they are.
    pub(super) fn carries_messages(&self) -> bool {
        match &self.ice {
            Ice::Signaled(signaled) => signaled.application != Application::Libp2p,
            Ice::Lite(_) | Ice::Prober(_) => false,
        }
    }

    /// The application of messages, if it is one.
    pub(super) fn messages(&self) -> Option<(&'static str, &'static str, bool)> {
        match self.call()?.application {
            Application::Libp2p => None,
            Application::Messages {
                label,
                protocol,
                open,
            } => Some((label, protocol, open)),
        }
    }

    pub(super) fn call(&self) -> Option<&Signaled> {
        match &self.ice {
            Ice::Signaled(signaled) => Some(signaled),
            Ice::Lite(_) | Ice::Prober(_) => None,
        }
    }

    pub(super) fn call_mut(&mut self) -> Option<&mut Signaled> {
        match &mut self.ice {
            Ice::Signaled(signaled) => Some(signaled),
            Ice::Lite(_) | Ice::Prober(_) => None,
        }
    }

    /// A description of ours, with the candidates that are known.
    fn describe(&mut self, setup: sdp::Setup) -> Option<Description> {
        let signaled = self.call_mut()?;
        signaled.origin.1 += 1;
        let mut description = Description {
            origin: signaled.origin,
            ufrag: String::new(),
            password: String::new(),
            ice_lite: false,
            fingerprints: vec![signaled.fingerprint],
            setup,
            mid: signaled.mid.clone(),
            max_message_size: MAX_MESSAGE,
            candidates: Vec::new(),
            end_of_candidates: false,
        };
        signaled.agent.describe(&mut description);
        Some(description)
    }

    /// Our first offer.
    pub(crate) fn offer(&mut self) -> Option<Description> {
        self.describe(sdp::Setup::ActPass)
    }

    /// An offer of the peer, the first or one for an ICE restart; gives our answer.
    pub(crate) fn accept_offer(
        &mut self,
        offer: &Description,
        cx: &mut Context<'_>,
    ) -> Result<Description, SignalError> {
        let phase = self.phase;
        let signaled = self.call_mut().ok_or(SignalError::OutOfTurn)?;
        if signaled.offers {
            return Err(SignalError::OutOfTurn);
        }
        signaled.mid.clone_from(&offer.mid);
        if !signaled.agent.has_remote() {
            let side = match offer.setup {
                sdp::Setup::ActPass | sdp::Setup::Passive => Side::Dialer,
                sdp::Setup::Active => Side::Listener,
            };
            self.begin_with(side, offer, cx.now);
        } else {
            self.check_certificate(offer)?;
            let signaled = self.call_mut().ok_or(SignalError::OutOfTurn)?;
            if !signaled.agent.is_with(&offer.ufrag) {
                let soon = |at| cx.now.saturating_duration_since(at) < RESTART_PAUSE;
                if signaled.restarted.is_some_and(soon) {
                    return Err(SignalError::TooOften);
                }
                signaled.restarted = Some(cx.now);
                signaled.agent.restart(cx);
            }
            signaled.agent.set_remote(offer, cx.now);
        }
        if phase == Phase::Ice {
            self.phase_since = cx.now;
        }
        let setup = match self.side {
            Side::Dialer => sdp::Setup::Active,
            Side::Listener => sdp::Setup::Passive,
        };
        self.describe(setup).ok_or(SignalError::OutOfTurn)
    }

    /// The answer to our offer.
    pub(crate) fn accept_answer(
        &mut self,
        answer: &Description,
        cx: &mut Context<'_>,
    ) -> Result<(), SignalError> {
        let signaled = self.call_mut().ok_or(SignalError::OutOfTurn)?;
        if !signaled.offers || signaled.agent.has_remote() {
            return Err(SignalError::OutOfTurn);
        }
        if self.setup.is_some() && self.remote_fingerprint.is_none() && !self.is_pinned() {
            let side = match answer.setup {
                sdp::Setup::Active => Side::Listener,
                sdp::Setup::Passive => Side::Dialer,
                sdp::Setup::ActPass => return Err(SignalError::Roles),
            };
            self.begin_with(side, answer, cx.now);
        } else {
            self.check_certificate(answer)?;
            if let Some(signaled) = self.call_mut() {
                signaled.agent.set_remote(answer, cx.now);
            }
        }
        Ok(())
    }

    fn is_pinned(&self) -> bool {
        self.setup
            .as_ref()
            .is_some_and(|setup| !setup.fingerprints.is_empty())
    }

    /// The first description of the peer.
    fn begin_with(&mut self, side: Side, description: &Description, now: Instant) {
        self.side = side;
        if let Some(setup) = &mut self.setup {
            setup.fingerprints.clone_from(&description.fingerprints);
        }
        let messages = self.carries_messages();
        // Even ids are the DTLS client's (RFC 8832 section 6); libp2p keeps 0 for Noise.
        self.next_stream = match side {
            Side::Dialer if messages => 0,
            Side::Dialer => 2,
            Side::Listener => 1,
        };
        if let Some(signaled) = self.call_mut() {
            signaled.max_message_size = description.max_message_size;
            signaled.agent.set_remote(description, now);
        }
    }

    /// A restart is of the same connection, so of the same certificate.
    fn check_certificate(&self, description: &Description) -> Result<(), SignalError> {
        let known = match (&self.remote_fingerprint, &self.setup) {
            (Some(seen), _) => description.fingerprints.contains(seen),
            (None, Some(setup)) => setup.fingerprints == description.fingerprints,
            (None, None) => false,
        };
        known.then_some(()).ok_or(SignalError::OtherCertificate)
    }

    /// Begins an ICE restart; gives the offer for it. Only the side that offered may.
    pub(crate) fn restart(&mut self, cx: &mut Context<'_>) -> Result<Description, SignalError> {
        let signaled = self.call_mut().ok_or(SignalError::OutOfTurn)?;
        if !signaled.offers || !signaled.agent.has_remote() {
            return Err(SignalError::OutOfTurn);
        }
        signaled.agent.restart(cx);
        self.describe(sdp::Setup::ActPass)
            .ok_or(SignalError::OutOfTurn)
    }

    /// A candidate of the peer.
    pub(crate) fn add_candidate(&mut self, candidate: &Candidate, now: Instant) -> CandidateUse {
        self.call_mut().map_or(CandidateUse::Ignored, |signaled| {
            signaled.agent.add_remote(candidate, now)
        })
    }

    /// One more address of ours.
    pub(crate) fn add_host(&mut self, address: SocketAddr, cx: &mut Context<'_>) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.add_host(address, cx);
        }
    }

    /// An address of ours is gone.
    pub(crate) fn remove_host(&mut self, address: SocketAddr, now: Instant) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.remove_host(address, now);
        }
    }

    /// One more STUN server. False: there are enough.
    pub(crate) fn add_stun_server(&mut self, server: SocketAddr, cx: &mut Context<'_>) -> bool {
        self.call_mut()
            .is_some_and(|signaled| signaled.agent.add_stun_server(server, cx))
    }

    /// One more TURN server. False: there are enough.
    pub(crate) fn add_relay(&mut self, relay: RelayId, server: &RelayServer, now: Instant) -> bool {
        self.call_mut()
            .is_some_and(|signaled| signaled.agent.add_relay(relay, server, now))
    }

    /// Whether more of them are to come.
    pub(crate) fn set_more_to_come(&mut self, more: bool) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.set_more_to_come(more);
        }
    }

    /// The largest message that may be sent.
    pub(crate) fn max_message_size(&self) -> usize {
        self.call()
            .map_or(0, |signaled| signaled.max_message_size)
            .min(MAX_SENT_MESSAGE)
    }

    /// All routes that lead here by anything but an address.
    pub(crate) fn routes(&self) -> (Vec<RouteChange>, Vec<RelayId>) {
        let agent = self.call().map(|signaled| &signaled.agent);
        agent.map_or_else(Default::default, |agent| {
            (agent.all_routes(), agent.relays().collect())
        })
    }

    /// Whether a check is one of the peer's.
    pub(crate) fn owns_check(&mut self, request: &BindingRequest<'_>) -> bool {
        self.call_mut()
            .is_some_and(|signaled| signaled.agent.owns(request))
    }

    /// A check that [`Self::owns_check`] says yes to. False: it is dropped.
    pub(crate) fn handle_check(
        &mut self,
        arrival: (Option<RelayId>, Option<IpAddr>),
        remote: SocketAddr,
        request: &BindingRequest<'_>,
        cx: &Context<'_>,
    ) -> bool {
        let taken = self
            .call_mut()
            .is_some_and(|signaled| signaled.agent.on_request(cx.now, arrival, remote, request));
        if taken {
            self.saw(remote, cx.now);
        }
        taken
    }

    /// An answer to a check of ours. False: it is none.
    pub(crate) fn handle_check_answer(
        &mut self,
        arrival: (Option<RelayId>, Option<IpAddr>),
        remote: SocketAddr,
        response: &BindingResponse<'_>,
        cx: &Context<'_>,
    ) -> bool {
        let taken = self.call_mut().is_some_and(|signaled| {
            signaled
                .agent
                .on_response(cx.now, arrival, remote, response)
        });
        if taken {
            self.saw(remote, cx.now);
        }
        taken
    }

    fn saw(&mut self, remote: SocketAddr, now: Instant) {
        self.last_received = now;
        let mut addresses = self.addresses.iter_mut();
        if let Some((_, seen)) = addresses.find(|(address, _)| *address == remote) {
            *seen = now;
        }
    }

    /// Bytes came by the flow of a relay.
    pub(crate) fn handle_relay(&mut self, relay: RelayId, bytes: &[u8], cx: &mut Context<'_>) {
        let mut datagrams = Vec::new();
        if let Some(signaled) = self.call_mut() {
            signaled
                .agent
                .handle_relay(cx.now, relay, bytes, |peer, datagram| {
                    datagrams.push((peer, datagram.to_vec()));
                });
        }
        for (peer, datagram) in datagrams {
            self.handle_relayed(relay, peer, &datagram, cx);
        }
    }

    /// A datagram of a peer, out of a relay.
    fn handle_relayed(
        &mut self,
        relay: RelayId,
        remote: SocketAddr,
        datagram: &[u8],
        cx: &mut Context<'_>,
    ) {
        let arrival = (Some(relay), None);
        if !stun::is_stun(datagram) {
            let known = self
                .call()
                .is_some_and(|signaled| signaled.agent.knows(remote));
            // A permission is for all ports of an address; records of strangers could end the session.
            match known {
                true => self.handle_dtls(remote, datagram, cx),
                false => Self::drop_packet(cx, DropReason::UncheckedAddress),
            }
            return;
        }
        let taken = match stun::parse(datagram) {
            Ok(Message::BindingRequest(request)) => {
                self.owns_check(&request) && self.handle_check(arrival, remote, &request, cx)
            }
            Ok(Message::BindingSuccess(response) | Message::BindingError(response)) => {
                self.handle_check_answer(arrival, remote, &response, cx)
            }
            Ok(Message::Other) | Err(_) => false,
        };
        if !taken {
            Self::drop_packet(cx, DropReason::UnexpectedStun);
        }
    }

    /// The flow of a relay is gone.
    pub(crate) fn relay_closed(&mut self, relay: RelayId, now: Instant) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.relay_closed(now, relay);
        }
    }

    /// A record of DTLS proved itself.
    pub(super) fn heard_data(&mut self, remote: SocketAddr, now: Instant) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.heard_data(now, remote);
        }
    }

    /// Sends the checks that are due and draws the consequences of what they found.
    pub(super) fn pump_ice(&mut self, cx: &mut Context<'_>) {
        let Some(signaled) = self.call_mut() else {
            return;
        };
        signaled.agent.process(cx);
        while let Some(event) = self
            .call_mut()
            .and_then(|signaled| signaled.agent.poll_event())
        {
            match event {
                IceEvent::Candidate(candidate) => {
                    self.push_event(Event::Candidate(Box::new(candidate)));
                }
                IceEvent::EndOfCandidates => self.push_event(Event::EndOfCandidates),
                IceEvent::Selected(path) => self.on_path_selected(path, cx),
                IceEvent::Lost => self.push_event(Event::PathLost),
                IceEvent::Server(news) => self.push_event(Event::Server(news)),
            }
        }
    }

    fn on_path_selected(&mut self, path: Selected, cx: &mut Context<'_>) {
        self.use_path(path, cx.now);
        self.push_event(Event::PathSelected {
            remote: path.remote,
            relayed: path.relay.is_some() || path.relayed_by_peer,
        });
        if self.phase != Phase::Ice {
            return;
        }
        let context = self.call_mut().and_then(|signaled| signaled.dtls.take());
        let Some(context) = context else { return };
        self.dtls = match self.side {
            Side::Dialer => Dtls::dialer(&context, cx.now),
            Side::Listener => Dtls::listener(&context, cx.now),
        };
        self.move_to_phase(Phase::Dtls, cx);
        if self.side == Side::Dialer {
            // The first timeout sends the ClientHello.
            self.dtls_timeout(cx);
        }
        let held = self
            .setup
            .as_mut()
            .map(|setup| std::mem::take(&mut setup.held));
        for datagram in held.unwrap_or_default() {
            self.handle_dtls(path.remote, &datagram, cx);
        }
    }

    /// Data goes by this path now. The addresses that lead here stay the same.
    fn use_path(&mut self, path: Selected, now: Instant) {
        let old = std::mem::replace(&mut self.remote, path.remote);
        self.addresses
            .retain(|(address, _)| *address != path.remote);
        if old != path.remote && !old.ip().is_unspecified() {
            self.addresses.push((old, now));
        }
        self.relayed = path.relay.is_some();
        self.local_ip = (!self.relayed).then(|| path.local.ip());
        self.remote_seen = now;
    }

    /// Sends what DTLS wrote by the relay of the path.
    pub(super) fn send_relayed(
        &mut self,
        datagrams: Vec<Vec<u8>>,
        now: Instant,
        out: &mut VecDeque<RelayTransmit>,
    ) {
        let Some(signaled) = self.call_mut() else {
            return;
        };
        for datagram in datagrams {
            out.extend(signaled.agent.wrap(now, &datagram));
        }
    }

    /// Runs DTLS; what it writes goes by the path, be it direct or relayed.
    pub(super) fn with_dtls<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Self, &mut Outbox) -> T,
    ) -> T {
        if !self.relayed {
            return act(self, cx.outbox);
        }
        let mut scratch = Outbox::default();
        let result = act(self, &mut scratch);
        self.send_relayed(
            super::handshake::datagrams(&mut scratch),
            cx.now,
            cx.relayed,
        );
        result
    }

    /// The end: allocations are given back.
    pub(super) fn close_ice(&mut self, cx: &mut Context<'_>) {
        if let Some(signaled) = self.call_mut() {
            signaled.agent.close(cx);
        }
    }
}
