//! Set-up of an association (RFC 9260 section 5): INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, from one side or both.
//!
//! The packets travel inside DTLS, so the peer is known and nothing is gained by a stateless cookie: it only proves
//! that the peer saw our INIT ACK.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Control, Sctp, State};
use crate::proto::engine::sctp::{
    SctpEvent, Verdict,
    receive::Receiver,
    wire::{Chunk, Init, kind},
};

/// First repetition of INIT and COOKIE ECHO; it doubles up to [`LONGEST_WAIT`].
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Largest cookie that is echoed: it must fit into a packet.
const MAX_COOKIE: usize = 1024;

impl Sctp {
    pub(super) fn initiate(&mut self, now: Instant) {
        self.state = State::CookieWait;
        self.push_control(Control::Init);
        self.setup_sent = Some(now);
        self.arm_setup(now);
    }

    fn arm_setup(&mut self, now: Instant) {
        self.setup_timer = Some(now + self.setup_wait);
        self.setup_wait = (self.setup_wait * 2).min(LONGEST_WAIT);
    }

    /// INIT or COOKIE ECHO may be lost: again. How long is tried, the connection decides.
    pub(super) fn setup_timeout(&mut self, now: Instant) {
        if self.setup_timer.is_none_or(|at| at > now) {
            return;
        }
        // Karn's rule: what was sent twice measures nothing.
        self.setup_sent = None;
        match self.state {
            State::CookieWait => self.push_control(Control::Init),
            State::CookieEchoed => self.push_control(Control::CookieEcho),
            State::Closed | State::Established | State::Ended => {
                self.setup_timer = None;
                return;
            }
        }
        self.arm_setup(now);
    }

    /// What we say in INIT and INIT ACK. Both carry the same tag and TSN, which is what makes it harmless that both
    /// sides begin at once (RFC 9260 section 5.2.1).
    pub(super) fn own_init(&self, cookie: Bytes) -> Init {
        Init {
            tag: self.local_tag,
            window: self.limits.receive_window,
            inbound: u16::MAX,
            tsn: self.first_tsn,
            zero_checksum: true,
            cookie,
        }
    }

    /// The cookie for this peer.
    pub(super) fn own_cookie(&self) -> Bytes {
        let mut cookie = BytesMut::with_capacity(12);
        cookie.extend_from_slice(&self.secret);
        cookie.extend_from_slice(&self.peer.as_ref().map_or(0, |peer| peer.tag).to_be_bytes());
        cookie.freeze()
    }

    pub(super) fn on_init(&mut self, now: Instant, chunk: &Chunk) -> Verdict {
        let Some(init) = Init::read(chunk) else {
            return Verdict::Malformed;
        };
        match self.state {
            State::Closed | State::CookieWait | State::CookieEchoed => {
                // Once we echoed a cookie the peer is settled; another tag would be another association.
                let settled = self.state == State::CookieEchoed;
                if settled && self.peer.as_ref().is_some_and(|peer| peer.tag != init.tag) {
                    return Verdict::Unused;
                }
                if self.state == State::Closed {
                    self.setup_sent = self.peer.is_none().then_some(now);
                }
                self.peer = Some(init);
                self.push_control(Control::InitAck);
                Verdict::Used
            }
            // A restart (RFC 9260 section 5.2.2) would need a new DTLS session.
            State::Established | State::Ended => Verdict::Used,
        }
    }

    pub(super) fn on_init_ack(&mut self, now: Instant, chunk: &Chunk) -> Verdict {
        if self.state != State::CookieWait {
            // Late, or the peer's half of a set-up from both sides.
            return Verdict::Used;
        }
        let Some(mut init) =
            Init::read(chunk).filter(|init| (1..=MAX_COOKIE).contains(&init.cookie.len()))
        else {
            return Verdict::Malformed;
        };
        self.measure_setup(now);
        self.cookie = std::mem::take(&mut init.cookie);
        self.peer = Some(init);
        self.state = State::CookieEchoed;
        self.setup_wait = FIRST_WAIT;
        self.push_control(Control::CookieEcho);
        self.arm_setup(now);
        Verdict::Used
    }

    pub(super) fn on_cookie_echo(&mut self, now: Instant, chunk: &Chunk) -> Verdict {
        if self.peer.is_none() || chunk.body != self.own_cookie() {
            return Verdict::Unused;
        }
        match self.state {
            State::Closed | State::CookieWait | State::CookieEchoed => {
                if self.state == State::Closed {
                    self.measure_setup(now);
                }
                self.push_control(Control::CookieAck);
                self.establish();
            }
            // Our COOKIE ACK was lost.
            State::Established => self.push_control(Control::CookieAck),
            State::Ended => return Verdict::Unused,
        }
        Verdict::Used
    }

    pub(super) fn on_cookie_ack(&mut self) -> Verdict {
        if self.state == State::CookieEchoed {
            self.establish();
        }
        Verdict::Used
    }

    fn measure_setup(&mut self, now: Instant) {
        if let Some(sent) = self.setup_sent.take() {
            self.sender
                .sample_round_trip(now.saturating_duration_since(sent));
        }
    }

    /// A peer that sends data has our cookie: its COOKIE ACK was lost or overtaken.
    pub(super) fn note_peer_is_up(&mut self, chunk: &Chunk) {
        if self.state == State::CookieEchoed && matches!(chunk.kind, kind::DATA | kind::SACK) {
            self.establish();
        }
    }

    fn establish(&mut self) {
        let Some(peer) = &self.peer else { return };
        self.sender.set_peer_window(peer.window);
        self.receiver = Receiver::new(peer.tsn, self.limits.max_receive_message as usize);
        self.resets.set_peer_sequence(peer.tsn);
        self.state = State::Established;
        self.setup_timer = None;
        self.cookie = Bytes::new();
        // The peer's cookie came back first: ours need not.
        self.control
            .retain(|control| !matches!(control, Control::CookieEcho));
        self.events.push_back(SctpEvent::Connected);
    }
}
