//! From the first check to SCTP: what a connection does before it carries streams.

use std::mem;

use rand::RngExt;

use super::{Connection, Context, Ice, hello_pause};
use crate::proto::{
    engine::{
        dtls::DtlsEvent,
        sctp::{Sctp, SctpEvent, SctpLimits, Verdict},
    },
    error::{CloseReason, DropReason, PeerMisbehaved, Phase},
    event::{Event, Side},
    outbox::Outbox,
};

/// DTLS datagrams kept while the answer to our check is on its way.
const MAX_HELD: usize = 8;
/// Receive window until Noise is done: nobody need send much before that, and whoever it is could.
const EARLY_WINDOW: u32 = 128 * 1024;
/// An unproven address gets at most so many times what it sent.
const AMPLIFICATION: usize = 3;

/// The budget of an address that has not proven that it receives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unproven {
    received: usize,
    sent: usize,
}

impl Unproven {
    pub(super) fn new(received: usize, sent: usize) -> Self {
        Self { received, sent }
    }

    pub(super) fn send(&mut self, len: usize) {
        self.sent = self.sent.saturating_add(len);
    }

    pub(super) fn receive(&mut self, len: usize) {
        self.received = self.received.saturating_add(len);
    }

    fn allows(&mut self, len: usize) -> bool {
        let allowed = self.sent + len <= self.received.saturating_mul(AMPLIFICATION);
        if allowed {
            self.send(len);
        }
        allowed
    }
}

impl Connection {
    /// DTLS may overtake the answer to our check. It is kept, not used: records from an address that passed no check
    /// could be forged and kill the session.
    pub(super) fn hold(&mut self, datagram: &[u8]) {
        if let Some(setup) = &mut self.setup
            && setup.held.len() < MAX_HELD
        {
            setup.held.push(datagram.to_vec());
        }
    }

    /// The first answer to a check: DTLS may go on.
    pub(super) fn on_path_proven(&mut self, cx: &mut Context<'_>) {
        let round_trip = cx.now.saturating_duration_since(self.phase_since);
        self.move_to_phase(Phase::Dtls, cx);
        let Some(setup) = &mut self.setup else { return };
        let held = mem::take(&mut setup.held);
        if held.is_empty() {
            setup.hello_again = Some(cx.now + hello_pause(round_trip));
        }
        for datagram in held {
            self.handle_dtls(self.remote, &datagram, cx);
        }
    }

    /// Sends the checks that are due and, behind the first of them, the ClientHello: a listener that keeps no state
    /// answers both at once, which saves a round trip.
    pub(super) fn send_checks(&mut self, cx: &mut Context<'_>) {
        if self.is_signaled() {
            self.pump_ice(cx);
            return;
        }
        let path = self.path();
        let quiet = cx.now.saturating_duration_since(self.last_received);
        if let Ice::Prober(prober) = &mut self.ice {
            // On an idle connection each consent check goes with a heartbeat, for both sides' sake.
            if prober.poll_timeout() <= cx.now
                && quiet >= cx.limits.keepalive_interval / 2
                && let Some(sctp) = &mut self.sctp
            {
                sctp.heartbeat();
            }
            // Nothing came for the last two: the peer may have been too busy to read, and deserves more attempts.
            let urgent = quiet >= cx.limits.keepalive_interval * 2;
            let outbox = &mut *cx.outbox;
            prober.checks(cx.now, urgent, cx.rng, |check| {
                outbox.push(path.remote, path.local_ip, check)
            });
        }
        let Some(setup) = &mut self.setup else { return };
        if setup.hello_again.is_some_and(|at| at <= cx.now) {
            setup.hello_again = None;
            for datagram in mem::take(&mut setup.hello) {
                cx.outbox.push(path.remote, path.local_ip, &datagram);
            }
        }
        if self.is_probing()
            && self
                .setup
                .as_ref()
                .is_some_and(|setup| setup.hello.is_empty())
        {
            self.send_hello(cx);
        }
    }

    fn send_hello(&mut self, cx: &mut Context<'_>) {
        let mut scratch = Outbox::default();
        let path = self.path();
        if let Err(error) = self.dtls.handle_timeout(cx.now, path, &mut scratch) {
            self.end_failed(error.0, cx);
            return;
        }
        let datagrams = datagrams(&mut scratch);
        for datagram in &datagrams {
            cx.outbox.push(path.remote, path.local_ip, datagram);
        }
        if let Some(setup) = &mut self.setup {
            setup.hello = datagrams;
        }
    }

    /// Hands a datagram to DTLS, within the budget of an unproven address.
    pub(super) fn feed_dtls(&mut self, datagram: &[u8], cx: &mut Context<'_>) {
        let path = self.path();
        let now = cx.now;
        let result = if self.is_unproven() {
            let mut scratch = Outbox::default();
            let result = self.dtls.handle_datagram(now, datagram, path, &mut scratch);
            self.send_within_budget(&mut scratch, cx);
            result
        } else {
            self.with_dtls(cx, |this, outbox| {
                this.dtls.handle_datagram(now, datagram, path, outbox)
            })
        };
        if let Err(error) = result {
            self.pump_dtls(cx);
            self.end_failed(error.0, cx);
        }
    }

    pub(super) fn dtls_timeout(&mut self, cx: &mut Context<'_>) {
        let path = self.path();
        let result = if self.is_unproven() {
            let mut scratch = Outbox::default();
            let result = self.dtls.handle_timeout(cx.now, path, &mut scratch);
            self.send_within_budget(&mut scratch, cx);
            result
        } else {
            let now = cx.now;
            self.with_dtls(cx, |this, outbox| {
                this.dtls.handle_timeout(now, path, outbox)
            })
        };
        if let Err(error) = result {
            self.end_failed(error.0, cx);
        }
    }

    /// Whether the peer has yet to prove that it receives (listener).
    pub(crate) fn is_unproven(&self) -> bool {
        self.setup
            .as_ref()
            .is_some_and(|setup| setup.unproven.is_some())
    }

    fn send_within_budget(&mut self, scratch: &mut Outbox, cx: &mut Context<'_>) {
        let path = self.path();
        for datagram in datagrams(scratch) {
            let unproven = self
                .setup
                .as_mut()
                .and_then(|setup| setup.unproven.as_mut());
            if unproven.is_none_or(|unproven| unproven.allows(datagram.len())) {
                cx.outbox.push(path.remote, path.local_ip, &datagram);
            } else {
                Self::drop_packet(cx, DropReason::Amplification);
            }
        }
    }

    /// Consequences of what DTLS took in.
    ///
    /// True if a record proved itself.
    pub(super) fn pump_dtls(&mut self, cx: &mut Context<'_>) -> bool {
        let mut authentic = false;
        while let Some(event) = self.dtls.poll_event() {
            if self.ended.is_some() {
                break;
            }
            match event {
                DtlsEvent::PeerCertificate(fingerprint) => {
                    let pinned = self
                        .setup
                        .as_ref()
                        .map(|setup| setup.fingerprints.as_slice())
                        .unwrap_or_default();
                    // Pinned before Noise: a man in the middle must not get further than this.
                    let must = self.side == Side::Dialer || self.is_signaled();
                    if must && !pinned.contains(&fingerprint) {
                        self.end(CloseReason::CertificateMismatch, cx);
                        break;
                    }
                    self.remote_fingerprint = Some(fingerprint);
                }
                DtlsEvent::Connected => self.on_dtls_connected(cx),
                DtlsEvent::Data(packet) => {
                    authentic = true;
                    self.last_received = cx.now;
                    match self
                        .sctp
                        .as_mut()
                        .map(|sctp| sctp.handle_packet(cx.now, packet))
                    {
                        Some(Verdict::Malformed) => {
                            Self::drop_packet(cx, DropReason::MalformedSctp);
                        }
                        Some(Verdict::Unused) => Self::drop_packet(cx, DropReason::UnusedSctp),
                        Some(Verdict::Used) | None => {}
                    }
                }
                DtlsEvent::Closed => {
                    // Data that came before the goodbye in the same batch is still delivered.
                    self.pump_sctp(cx);
                    self.read_messages(cx);
                    self.end(CloseReason::Remote, cx);
                }
            }
        }
        authentic
    }

    fn on_dtls_connected(&mut self, cx: &mut Context<'_>) {
        if self.remote_fingerprint.is_none() {
            self.end(CloseReason::Misbehaved(PeerMisbehaved::NoCertificate), cx);
            return;
        }
        self.move_to_phase(Phase::Sctp, cx);
        self.setup = None;
        self.last_received = cx.now;
        let limits = SctpLimits {
            receive_window: cx.limits.receive_window.min(EARLY_WINDOW),
            ..Self::sctp_limits(cx.limits)
        };
        // Both sides send INIT: the listener's travels with the end of its DTLS handshake, which saves a round trip.
        // rust-libp2p 0.10.0-alpha hangs now and then when two INITs cross: it is waited for.
        let initiate = !matches!(&self.ice, Ice::Lite(peer) if peer.upstream_rust);
        self.sctp = Some(Sctp::new(limits, initiate, cx.rng.random(), cx.now));
        if self.side == Side::Listener && !self.is_signaled() {
            self.push_event(Event::Incoming {
                remote: self.remote,
                local_ip: self.local_ip,
            });
        }
    }

    /// Consequences of what SCTP took in.
    pub(super) fn pump_sctp(&mut self, cx: &mut Context<'_>) {
        while self.ended.is_none()
            && let Some(event) = self.sctp.as_mut().and_then(Sctp::poll_event)
        {
            match event {
                SctpEvent::Connected => self.on_sctp_connected(cx),
                SctpEvent::Opened(stream) | SctpEvent::Readable(stream) => {
                    self.on_readable(stream, cx)
                }
                SctpEvent::Reset(stream) => self.on_stream_reset(stream, cx),
                SctpEvent::ResetComplete(stream) => self.on_reset_complete(stream, cx),
                SctpEvent::ClosedByPeer => {
                    self.read_messages(cx);
                    self.end(CloseReason::Remote, cx);
                }
                SctpEvent::ResetDenied => {
                    self.end(CloseReason::Misbehaved(PeerMisbehaved::ResetDenied), cx);
                }
                SctpEvent::Failed(text) => self.end_failed(text.to_owned(), cx),
            }
        }
    }

    fn on_sctp_connected(&mut self, cx: &mut Context<'_>) {
        let (Some(remote_fingerprint), Phase::Sctp) = (self.remote_fingerprint, self.phase) else {
            return;
        };
        self.move_to_phase(Phase::Noise, cx);
        let messages = self.carries_messages();
        if !messages {
            self.open_handshake_channel(cx.limits);
        }
        let version = match &self.ice {
            Ice::Lite(credentials) => Some(credentials.version),
            Ice::Prober(prober) => prober.answered(),
            Ice::Signaled(_) => None,
        };
        self.push_event(Event::Ready {
            remote_fingerprint,
            version,
        });
        if messages {
            self.authenticated(cx);
            self.open_message_channel(cx);
        }
    }

    /// Noise is done: the set-up is over.
    pub(crate) fn authenticated(&mut self, cx: &mut Context<'_>) {
        if self.authenticated || self.ended.is_some() {
            return;
        }
        self.record_phase(true, cx);
        self.authenticated = true;
        self.handshake_deadline = None;
        if let Some(sctp) = &mut self.sctp {
            sctp.widen_window(cx.limits.receive_window);
        }
        if mem::take(&mut self.open_refused) {
            self.push_event(Event::OpenPossible);
        }
        self.announce_early_channels();
    }
}

/// The datagrams of a scratch outbox, each on its own.
pub(super) fn datagrams(scratch: &mut Outbox) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    while let Some(transmit) = scratch.pop() {
        let size = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        datagrams.extend(transmit.contents.chunks(size).map(<[u8]>::to_vec));
    }
    datagrams
}
