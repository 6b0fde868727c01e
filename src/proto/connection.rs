//! One peer: checks, DTLS, SCTP and channels from the first packet to the last.
//!
//! Owns the engines of one connection and its channels, and glues them together: datagrams go down to the engines,
//! their consequences come up as [`Event`]s. The endpoint calls it with a [`Context`] and routes datagrams to it; which
//! datagram belongs to it is not its job. All input only changes state; [`Connection::process`] draws the
//! consequences once for a whole batch, because acknowledgements sent once per batch are worth much throughput.

mod addresses;
mod channels;
mod closing;
mod handshake;
mod signaled;
mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::rngs::StdRng;

#[cfg(test)]
pub(crate) use self::transfer::Held;
pub(crate) use self::{
    addresses::TooManyAddresses,
    signaled::{Application, Call, SignalError},
};
use self::{handshake::Unproven, signaled::Signaled};
use super::{
    channel::Channel,
    config::Limits,
    contact::{Checked, PeerCredentials},
    engine::{
        dtls::{Dtls, DtlsContext, Path},
        sctp::{Sctp, SctpLimits},
    },
    error::{CloseReason, DropReason, EngineError, Phase},
    event::{ChannelId, Counters, Dial, Event, HandshakePhase, PathStats, Side},
    fingerprint::Fingerprint,
    ice::{CheckBudget, RelayTransmit, RouteChange},
    outbox::Outbox,
    prober::Prober,
    stun::{BindingRequest, BindingResponse},
};

/// What a connection needs of its endpoint while it works.
pub(crate) struct Context<'a> {
    /// The time of this turn.
    pub(crate) now: Instant,
    /// The bounds.
    pub(crate) limits: &'a Limits,
    /// Where datagrams go.
    pub(crate) outbox: &'a mut Outbox,
    /// Randomness.
    pub(crate) rng: &'a mut StdRng,
    /// Figures.
    pub(crate) counters: &'a mut Counters,
    /// Handshake phases that ended.
    pub(crate) phases: &'a mut VecDeque<HandshakePhase>,
    /// Where messages for TURN servers go.
    pub(crate) relayed: &'a mut VecDeque<RelayTransmit>,
    /// What may be sent to addresses that have not answered.
    pub(crate) checks: &'a mut CheckBudget,
    /// What its routes become.
    pub(crate) routes: &'a mut Vec<RouteChange>,
}

/// What an inbound connection began with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// Where the ClientHello came from.
    pub(crate) path: Path,
    /// Its random, if that was in the first datagram.
    pub(crate) random: Option<[u8; 32]>,
    /// It brought a cookie that was sent to its address.
    pub(crate) proven: bool,
}

/// Our half of ICE.
enum Ice {
    /// ICE-lite: the peer checks, we answer.
    Lite(PeerCredentials),
    /// We check.
    Prober(Box<Prober>),
    /// Both check, and agree on a path.
    Signaled(Box<Signaled>),
}

/// One connection.
pub(crate) struct Connection {
    side: Side,
    remote: SocketAddr,
    origin: SocketAddr,
    /// The random of the ClientHello it began with (listener).
    random: Option<[u8; 32]>,
    local_ip: Option<IpAddr>,
    /// Datagrams go by a TURN server.
    relayed: bool,
    ice: Ice,
    dtls: Dtls,
    sctp: Option<Sctp>,
    phase: Phase,
    phase_since: Instant,
    handshake_deadline: Option<Instant>,
    authenticated: bool,
    /// What only the set-up needs; dropped when it is over.
    setup: Option<Box<Setup>>,
    remote_fingerprint: Option<Fingerprint>,
    last_received: Instant,
    /// The same after its silence was excused; equal to it until something comes.
    excused: Option<Instant>,
    /// When a valid packet came from `remote`.
    remote_seen: Instant,
    idle_check: Instant,
    closing: Option<Instant>,
    ended: Option<CloseReason>,
    goodbye: Vec<u8>,
    /// Other addresses of the peer (listener) and when it last checked from there.
    addresses: Vec<(SocketAddr, Instant)>,
    events: VecDeque<Event>,
    channels: BTreeMap<u16, Channel>,
    /// Channels whose data channel is gone while the application still holds the handle.
    detached: BTreeMap<ChannelId, Channel>,
    unaccepted: usize,
    early_opened: Vec<ChannelId>,
    generation: u32,
    next_stream: u32,
    free_streams: VecDeque<u16>,
    open_refused: bool,
    read_queue: VecDeque<u16>,
    full: BTreeSet<u16>,
    buffered: usize,
    /// The part of it that came before the OPEN of its channel.
    early_buffered: usize,
    /// Channels that were counted as opened and not as closed yet.
    counted_open: u64,
    writers: VecDeque<u16>,
    channel_timers: BTreeSet<(Instant, u16)>,
    stall_check: Option<Instant>,
    counted_retransmissions: u64,
    /// The peer sends frames in pieces, so it reads them in pieces.
    reads_in_pieces: bool,
}

/// State of the set-up.
#[derive(Debug, Default)]
struct Setup {
    /// Certificates the dialed address names.
    fingerprints: Vec<Fingerprint>,
    /// Our ClientHello, to be sent again when the first check is answered: some peers drop it before that.
    hello: Vec<Vec<u8>>,
    hello_again: Option<Instant>,
    /// DTLS that overtook the answer to our check.
    held: Vec<Vec<u8>>,
    /// Until the peer has proven that it receives (listener).
    unproven: Option<Unproven>,
    heard_dtls: bool,
}

impl Connection {
    /// A dial; the first check and the ClientHello leave with the next [`Self::process`].
    pub(crate) fn dialer(dial: Dial, dtls: &DtlsContext, cx: &mut Context<'_>) -> Self {
        let prober = Prober::new(dial.policy, cx.limits.keepalive_interval, cx.rng, cx.now);
        let dtls = Dtls::dialer(dtls, cx.now);
        let mut this = Self::new(
            Side::Dialer,
            dial.remote,
            None,
            Ice::Prober(Box::new(prober)),
            dtls,
            cx,
        );
        this.setup = Some(Box::new(Setup {
            fingerprints: dial.fingerprints,
            ..Setup::default()
        }));
        this
    }

    /// An inbound connection whose ClientHello came from a checked address.
    pub(crate) fn listener(
        origin: Origin,
        checked: Checked,
        dtls: Dtls,
        cx: &mut Context<'_>,
    ) -> Self {
        let mut this = Self::new(
            Side::Listener,
            origin.path.remote,
            origin.path.local_ip,
            Ice::Lite(checked.credentials),
            dtls,
            cx,
        );
        this.phase = Phase::Dtls;
        this.random = origin.random;
        this.setup = Some(Box::new(Setup {
            unproven: (!origin.proven).then(|| Unproven::new(checked.received, checked.sent)),
            ..Setup::default()
        }));
        this
    }

    fn new(
        side: Side,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ice: Ice,
        dtls: Dtls,
        cx: &Context<'_>,
    ) -> Self {
        Self {
            side,
            remote,
            origin: remote,
            random: None,
            local_ip,
            relayed: false,
            ice,
            dtls,
            sctp: None,
            phase: Phase::Ice,
            phase_since: cx.now,
            handshake_deadline: Some(cx.now + cx.limits.handshake_timeout),
            authenticated: false,
            setup: None,
            remote_fingerprint: None,
            last_received: cx.now,
            excused: None,
            remote_seen: cx.now,
            idle_check: cx.now + cx.limits.idle_timeout,
            closing: None,
            ended: None,
            goodbye: Vec::new(),
            addresses: Vec::new(),
            events: VecDeque::new(),
            channels: BTreeMap::new(),
            detached: BTreeMap::new(),
            unaccepted: 0,
            early_opened: Vec::new(),
            generation: 0,
            // Even ids are the DTLS client's, odd ones the server's (RFC 8832 section 6); 0 is the handshake channel.
            next_stream: if side == Side::Dialer { 2 } else { 1 },
            free_streams: VecDeque::new(),
            open_refused: false,
            read_queue: VecDeque::new(),
            full: BTreeSet::new(),
            buffered: 0,
            early_buffered: 0,
            counted_open: 0,
            writers: VecDeque::new(),
            channel_timers: BTreeSet::new(),
            stall_check: None,
            counted_retransmissions: 0,
            reads_in_pieces: false,
        }
    }

    /// Where datagrams of this connection go.
    fn path(&self) -> Path {
        Path {
            remote: self.remote,
            local_ip: self.local_ip,
        }
    }

    /// Our role.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// The peer's credentials, on the listener.
    pub(crate) fn peer_credentials(&self) -> Option<&PeerCredentials> {
        match &self.ice {
            Ice::Lite(credentials) => Some(credentials),
            Ice::Prober(_) | Ice::Signaled(_) => None,
        }
    }

    /// Whether it began with the ClientHello that has this random.
    pub(crate) fn began_with(&self, random: &[u8; 32]) -> bool {
        self.random.as_ref() == Some(random)
    }

    /// Whether the set-up is still under way.
    pub(crate) fn is_handshaking(&self) -> bool {
        !self.authenticated && self.ended.is_none()
    }

    /// Whether Noise is done.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// A dial of which no check was answered yet.
    pub(crate) fn is_probing(&self) -> bool {
        self.phase == Phase::Ice && !self.is_signaled()
    }

    /// A dial whose DTLS handshake is not done.
    pub(crate) fn is_dialing(&self) -> bool {
        self.side == Side::Dialer && self.phase <= Phase::Dtls && !self.is_signaled()
    }

    /// The tie-breaker of a dial (RFC 8445 section 7.3.1.1).
    pub(crate) fn tie_breaker(&self) -> Option<u64> {
        match &self.ice {
            Ice::Prober(prober) => Some(prober.tie_breaker()),
            Ice::Lite(_) | Ice::Signaled(_) => None,
        }
    }

    /// When the last valid packet came.
    pub(crate) fn last_received(&self) -> Instant {
        self.last_received
    }

    /// Why it ended, once it has.
    pub(crate) fn ended(&self) -> Option<&CloseReason> {
        self.ended.as_ref()
    }

    /// The datagrams that told the peer so, one behind the other; empty if none were sent.
    pub(crate) fn take_goodbye(&mut self) -> Vec<u8> {
        mem::take(&mut self.goodbye)
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > 64 {
            self.events = VecDeque::new();
        }
        event
    }

    /// Figures.
    pub(crate) fn path_stats(&self) -> PathStats {
        self.sctp
            .as_ref()
            .map_or_else(PathStats::default, |sctp| PathStats {
                rtt: sctp.rtt(),
                retransmissions: sctp.retransmissions(),
            })
    }

    fn sctp_limits(limits: &Limits) -> SctpLimits {
        SctpLimits {
            receive_window: limits.receive_window,
            // A message somewhat over the frame limit costs its stream, not the connection.
            max_receive_message: u32::try_from(limits.max_receive_frame_size)
                .unwrap_or(u32::MAX)
                .max(limits.receive_window / 2),
            // Above the limit of channels, so that one too many is refused with a reset, which tells more.
            max_streams: limits.max_streams.saturating_add(1024),
        }
    }

    /// A DTLS datagram from one of this connection's addresses.
    pub(crate) fn handle_dtls(
        &mut self,
        remote: SocketAddr,
        datagram: &[u8],
        cx: &mut Context<'_>,
    ) {
        if self.ended.is_some() {
            return;
        }
        if self.phase == Phase::Ice {
            self.hold(datagram);
            return;
        }
        if self.dtls.is_flooded(datagram) {
            Self::drop_packet(cx, DropReason::HandshakeFlood);
            return;
        }
        if let Some(setup) = &mut self.setup {
            setup.heard_dtls = true;
            setup.hello = Vec::new();
            setup.hello_again = None;
            if let Some(unproven) = &mut setup.unproven {
                unproven.receive(datagram.len());
            }
        }
        self.feed_dtls(datagram, cx);
        let authentic = self.pump_dtls(cx);
        if authentic && self.is_signaled() {
            // Where it is, the checks decide.
            self.heard_data(remote, cx.now);
        } else if authentic && remote == self.remote {
            self.remote_seen = cx.now;
        } else if authentic {
            self.move_to(remote);
        }
    }

    /// An answer to a check of ours. False if it is none.
    pub(crate) fn handle_response(
        &mut self,
        response: &BindingResponse<'_>,
        cx: &mut Context<'_>,
    ) -> bool {
        let Ice::Prober(prober) = &mut self.ice else {
            return false;
        };
        if !prober.handle_success(cx.now, response) {
            return false;
        }
        // No sign of life: a listener that has forgotten this connection answers too.
        if self.phase == Phase::Ice {
            self.on_path_proven(cx);
        }
        true
    }

    /// The key for answering a check that the peer of a dial sends.
    pub(crate) fn dialer_key(&self, request: &BindingRequest<'_>) -> Option<&[u8]> {
        match &self.ice {
            Ice::Prober(prober) => prober.key_for(request),
            Ice::Lite(_) | Ice::Signaled(_) => None,
        }
    }

    /// Nothing is reported after the end.
    fn push_event(&mut self, event: Event) {
        if self.ended.is_none() {
            self.events.push_back(event);
        }
    }

    /// Ends the connection; the first reason counts.
    pub(crate) fn end(&mut self, reason: CloseReason, cx: &mut Context<'_>) {
        if self.ended.is_some() {
            return;
        }
        if self.is_handshaking() {
            self.record_phase(false, cx);
        }
        // Closing said it already, a peer that closed need not hear it.
        if !matches!(reason, CloseReason::Local | CloseReason::Remote) {
            self.say_goodbye(cx);
        }
        self.close_ice(cx);
        self.events.push_back(Event::Closed(reason.clone()));
        self.ended = Some(reason);
        cx.counters.channels_closed += mem::take(&mut self.counted_open);
    }

    fn end_failed(&mut self, text: String, cx: &mut Context<'_>) {
        self.end(CloseReason::Engine(EngineError(text)), cx);
    }

    fn record_phase(&mut self, ok: bool, cx: &mut Context<'_>) {
        cx.phases.push_back(HandshakePhase {
            side: self.side,
            phase: self.phase,
            duration: cx.now.saturating_duration_since(self.phase_since),
            ok,
        });
        self.phase_since = cx.now;
    }

    fn move_to_phase(&mut self, phase: Phase, cx: &mut Context<'_>) {
        self.record_phase(true, cx);
        self.phase = phase;
    }

    /// Nobody listened for at least this long before now, so that silence proves nothing.
    pub(crate) fn excuse_silence(&mut self, now: Instant, absence: Duration) {
        // It may have been longer, but a peer that is gone must not be excused for ever: all of its silence is once, and
        // what is certain after that.
        if self.last_received < now {
            self.last_received = match self.excused == Some(self.last_received) {
                true => now.min(self.last_received + absence),
                false => now,
            };
            self.excused = Some(self.last_received);
        }
        if let Ice::Signaled(signaled) = &mut self.ice {
            signaled.agent.excuse_silence(self.last_received);
        }
    }

    /// Timers.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        if self
            .handshake_deadline
            .is_some_and(|deadline| deadline <= now)
        {
            self.end(CloseReason::HandshakeTimedOut(self.phase), cx);
            return;
        }
        if self.idle_check <= now {
            self.idle_check = self.last_received + cx.limits.idle_timeout;
            if self.idle_check <= now {
                self.end(CloseReason::TimedOut, cx);
                return;
            }
        }
        if self.phase != Phase::Ice
            && self
                .dtls
                .poll_timeout()
                .is_some_and(|deadline| deadline <= now)
        {
            self.dtls_timeout(cx);
        }
        if let Some(sctp) = &mut self.sctp
            && sctp.poll_timeout().is_some_and(|deadline| deadline <= now)
        {
            sctp.handle_timeout(now);
        }
        self.channel_timeouts(cx);
        self.check_stalled(cx);
    }

    /// Draws the consequences of all input since the last call and sends what is to be sent.
    pub(crate) fn process(&mut self, cx: &mut Context<'_>) {
        if self.ended.is_some() {
            return;
        }
        self.send_checks(cx);
        self.pump_sctp(cx);
        self.read_messages(cx);
        self.grant_writers(cx);
        self.transmit(cx);
        self.advance_closing(cx);
        self.count_retransmissions(cx);
    }

    fn count_retransmissions(&mut self, cx: &mut Context<'_>) {
        let total = self.sctp.as_ref().map_or(0, Sctp::retransmissions);
        cx.counters.retransmissions += total - self.counted_retransmissions;
        self.counted_retransmissions = total;
    }

    /// The earliest instant at which [`Self::handle_timeout`] or [`Self::process`] has something to do, and why.
    pub(crate) fn poll_timeout(&mut self) -> (Instant, &'static str) {
        let prober = match &mut self.ice {
            Ice::Prober(prober) => Some(prober.poll_timeout()),
            Ice::Signaled(signaled) => signaled.agent.poll_timeout(),
            Ice::Lite(_) => None,
        };
        let hello = self.setup.as_ref().and_then(|setup| setup.hello_again);
        let dtls = if self.phase == Phase::Ice {
            None
        } else {
            self.dtls.poll_timeout()
        };
        [
            (prober, "connectivity check"),
            (hello, "client hello again"),
            (dtls, "dtls"),
            (self.sctp.as_ref().and_then(Sctp::poll_timeout), "sctp"),
            (self.handshake_deadline, "handshake"),
            (self.closing, "closing"),
            (
                self.channel_timers.first().map(|(deadline, _)| *deadline),
                "channel",
            ),
            (self.stall_check, "stalled stream"),
        ]
        .into_iter()
        .filter_map(|(deadline, reason)| Some((deadline?, reason)))
        .fold((self.idle_check, "idle"), |first, next| {
            if next.0 < first.0 { next } else { first }
        })
    }

    fn drop_packet(cx: &mut Context<'_>, reason: DropReason) {
        cx.counters.drop_packet(reason);
    }
}

/// How long to wait for DTLS after a check was answered before the ClientHello is repeated: a fraction of the round
/// trip, so that a peer that took the first one is not bothered and one that dropped it loses little.
fn hello_pause(round_trip: Duration) -> Duration {
    (round_trip / 8).clamp(Duration::from_millis(1), Duration::from_millis(20))
}
