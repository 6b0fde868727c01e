//! The data channel beside the main path: its signaling, the switch of DATA onto it, and its loss.
//!
//! The client leads: the server keeps its DATA on the main path until the first frame of the client comes by the
//! channel. What is ahead of its turn waits at the receiver, so a switch needs nothing else. The peer connection
//! itself, and what offers and candidates mean, is the driver's.

use std::time::Duration;

use super::{
    By, EndReason, Event, Instant, Mode, PathId, PathKind, Role, Session, Signaling,
    link::{Phase, Resuming},
    path::Path,
};
use crate::socketpipe::{
    code::Code,
    frame::{Failure, Frame},
};

/// Time from the offer to a usable channel, as the protocol has it.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Candidates of the peer for one offer: each makes us send packets to an address it names.
const MAX_CANDIDATES: u32 = 64;
/// Offers that are taken at once, and the time that earns one more: each can cost a certificate and a connection. More
/// than an honest client makes, whose path breaks again and again.
const OFFER_BURST: u32 = 8;
const TIME_PER_OFFER: Duration = Duration::from_secs(5);
/// Largest frame we put on a channel: some stacks stop at 16 KiB. DATA never exceeds it.
const CHANNEL_FRAME: usize = 16 * 1024;

/// An attached channel.
#[derive(Debug)]
struct Channel {
    path: PathId,
    /// DATA of the peer came by it.
    carried: bool,
    /// The client has used it, so that DATA of either side may be in it.
    used: bool,
}

/// The upgrade, either side.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// When the attempt in progress is given up.
    pub(super) deadline: Option<Instant>,
    candidates: u32,
    /// Server: offers of the client that were taken lately, and since when they count.
    offers: u32,
    offers_since: Option<Instant>,
    channel: Option<Channel>,
    /// Client: WEBRTC_READY came.
    ready: bool,
    /// Our DATA shall leave by the channel (or, when false, by the main path) as soon as that is possible.
    wanted: Option<bool>,
    /// It does.
    on_channel: bool,
}

impl Upgrade {
    pub(super) fn is_channel(&self, path: PathId) -> bool {
        self.channel_path() == Some(path)
    }

    pub(super) fn channel_path(&self) -> Option<PathId> {
        self.channel.as_ref().map(|channel| channel.path)
    }

    /// A channel that may carry DATA of the peer.
    pub(super) fn carrying(&self) -> Option<PathId> {
        let channel = self.channel.as_ref().filter(|channel| channel.carried);
        channel.map(|channel| channel.path)
    }

    pub(super) fn on_channel(&self) -> bool {
        self.on_channel
    }

    /// All anew, as after a resume, but for what is counted; gives the channel there was.
    pub(super) fn forget(&mut self) -> Option<PathId> {
        let channel = self.channel_path();
        *self = Self {
            candidates: self.candidates,
            offers: self.offers,
            offers_since: self.offers_since,
            ..Self::default()
        };
        channel
    }

    /// Whether one more offer of the client is taken.
    fn admits_offer(&mut self, now: Instant) -> bool {
        let since = *self.offers_since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        let earned = passed.as_secs() / TIME_PER_OFFER.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.offers = self.offers.saturating_sub(earned);
            self.offers_since = Some(now);
        }
        let admitted = self.offers < OFFER_BURST;
        self.offers += u32::from(admitted);
        admitted
    }
}

impl Session {
    /// Where our DATA leaves.
    pub(super) fn data_path(&self) -> Option<PathId> {
        match self.upgrade.on_channel {
            true => self.upgrade.channel_path(),
            false => self.link.main(),
        }
    }

    /// The data channel of this session is open and takes messages of this size. When and how DATA moves onto it is
    /// the session's business. `false`: it cannot be used and is to be closed.
    pub fn attach_channel(&mut self, now: Instant, path: PathId, max_message: usize) -> bool {
        let agreed = self.parameters.is_some_and(|parameters| parameters.webrtc);
        let open = matches!(self.link.phase, Phase::Open { .. }) && self.closing.is_none();
        let usable = agreed && open && max_message >= CHANNEL_FRAME;
        if !usable || self.upgrade.channel.is_some() || self.link.is_repairing() {
            return false;
        }
        self.paths.push(Path::new(now, path, PathKind::DataChannel));
        self.inbound.expect_two_paths();
        self.upgrade.channel = Some(Channel {
            path,
            carried: false,
            used: false,
        });
        match self.settings.role {
            Role::Server => {
                self.upgrade.deadline = None;
                self.send_main(Frame::WebRtcReady);
            }
            Role::Client => self.lead(now),
        }
        self.settle(now);
        true
    }

    /// Client: moves to the channel when both ends have it open. The PING shows the server that it may follow.
    fn lead(&mut self, now: Instant) {
        if let (true, Some(channel)) = (self.upgrade.ready, &mut self.upgrade.channel) {
            channel.used = true;
            let path = channel.path;
            self.upgrade.deadline = None;
            self.upgrade.wanted = Some(true);
            self.ping(now, path);
        }
    }

    /// Client: the server's end is open.
    pub(super) fn on_webrtc_ready(&mut self, now: Instant) {
        let trying = self.upgrade.deadline.is_some() || self.upgrade.channel.is_some();
        // One that comes after the time is of an attempt that was given up.
        if trying && !self.upgrade.ready {
            self.upgrade.ready = true;
            self.lead(now);
        }
    }

    /// A frame came by the channel.
    pub(super) fn heard_on_channel(&mut self, is_data: bool) {
        if let Some(channel) = &mut self.upgrade.channel {
            channel.carried |= is_data;
            let follow = self.settings.role == Role::Server && !channel.used;
            if follow {
                channel.used = true;
                self.upgrade.wanted = Some(true);
            }
        }
    }

    /// Moves our DATA back to the main path, the channel still living. Needs Session Resume; `false` without.
    pub fn leave_channel(&mut self, now: Instant) -> bool {
        let possible = self.is_numbered() && self.upgrade.on_channel;
        if possible {
            self.upgrade.wanted = Some(false);
        }
        self.settle(now);
        possible
    }

    /// Moves DATA if that is wanted and possible: at a frame boundary, and not in the middle of a replay.
    pub(super) fn switch_if_wanted(&mut self, now: Instant) {
        let Some(to_channel) = self.upgrade.wanted else {
            return;
        };
        if self.outbound.is_repeating() || self.link.main().is_none() {
            return;
        }
        self.upgrade.wanted = None;
        if to_channel == self.upgrade.on_channel {
            return;
        }
        if self.is_numbered()
            && let Some(old) = self.data_path()
        {
            // Confirms what left by the old path; later PINGs prove nothing about it.
            self.ping(now, old);
        }
        self.upgrade.on_channel = to_channel;
        if let Some(path) = self.data_path() {
            self.tell(Event::DataPath(path));
        }
    }

    /// The channel is gone.
    pub(super) fn channel_lost(&mut self, now: Instant) {
        let used = self.upgrade.channel.as_ref();
        let was_used = used.is_some_and(|channel| channel.used || channel.carried);
        self.upgrade.forget();
        let Some(main) = self.link.main().filter(|_| was_used) else {
            return;
        };
        if !self.is_numbered() && self.has_sent_close() {
            // Nothing of ours is missing; the peer closes the channel before its answer is here.
            return self.tell(Event::DataPath(main));
        }
        let loses = !self.is_numbered() && self.settings.mode == Mode::Pty && !self.settings.strict;
        if loses {
            self.tell(Event::DataLost);
        }
        self.tell(Event::DataPath(main));
        if self.is_numbered() {
            self.outbound.doubt();
            match self.settings.role {
                Role::Client => self.repair(now),
                // Only the client can say what it has; it will ask when it has noticed, too.
                Role::Server => self.link.stalled = Some(now + self.repair_timeout()),
            }
        } else if !loses {
            let failure = Failure::new(Code::CONNECT_FAILED, "transport lost");
            self.end_with(failure, By::Local, EndReason::TransportLost);
        } else {
            // The program draws its screen again, so that what is missing does not stay missing.
            self.terminal.draw_again();
        }
    }

    /// Without numbers: the peer does not say that it has sent everything on the path it left, so nothing that came by
    /// the other can be put behind it. The channel is given up; a terminal goes on with what there is.
    pub(super) fn barrier_timed_out(&mut self, now: Instant) {
        if let Some(channel) = self.upgrade.channel_path() {
            self.lose(now, channel);
        }
        if !self.is_closed() {
            let (was_readable, had_ended) = (self.inbound.is_readable(), self.inbound.ended);
            self.inbound.give_up_barrier();
            self.tell_reader(was_readable, had_ended);
        }
    }

    /// Client: asks on the living main path from where to go on.
    pub(super) fn repair(&mut self, now: Instant) {
        if self.link.resuming.is_some() || self.held.is_none() {
            return;
        }
        let until = now + self.ping_timeout();
        if let Some(main) = self.link.main()
            && let Some(path) = self.path_mut(main)
        {
            path.send_resume();
            self.link.resuming = Some(Resuming { path: main, until });
        }
    }

    /// Sends a WebRTC message on the main path. `false` if the upgrade is not agreed or there is no path.
    pub fn signal_webrtc(&mut self, now: Instant, message: Signaling) -> bool {
        if !self.parameters.is_some_and(|parameters| parameters.webrtc) {
            return false;
        }
        let frame = match message {
            Signaling::Offer(sdp) => {
                // A further offer beside a living channel is an ICE restart and has no time limit of its own.
                if self.upgrade.channel.is_none() {
                    self.upgrade.ready = false;
                    self.upgrade.deadline = Some(now + UPGRADE_TIMEOUT);
                }
                self.upgrade.candidates = 0;
                Frame::WebRtcOffer(sdp)
            }
            Signaling::Answer(sdp) => {
                if sdp.is_empty() {
                    self.upgrade.deadline = None;
                } else if self.upgrade.channel.is_none() {
                    // Also for an offer that replaces a connection whose channel was there when it came.
                    self.upgrade.deadline.get_or_insert(now + UPGRADE_TIMEOUT);
                }
                Frame::WebRtcAnswer(sdp)
            }
            Signaling::Candidate(candidate) => Frame::IceCandidate(candidate),
        };
        let sent = self.send_main(frame);
        self.settle(now);
        sent
    }

    /// The attempt to get a channel came to nothing: nobody waits for it any more, and what the peer says of it does not
    /// count. An attached channel is another matter.
    pub fn upgrade_failed(&mut self) {
        if self.upgrade.channel.is_none() {
            self.upgrade.deadline = None;
            self.upgrade.ready = false;
        }
    }

    /// A WebRTC message of the peer.
    pub(super) fn on_signaling(&mut self, now: Instant, message: Signaling) {
        if !self.parameters.is_some_and(|parameters| parameters.webrtc) {
            return self.unsupported();
        }
        match &message {
            Signaling::Offer(_) => {
                if !self.upgrade.admits_offer(now) {
                    self.send_main(Frame::WebRtcAnswer(String::new()));
                    return;
                }
                self.upgrade.candidates = 0;
                if self.upgrade.channel.is_none() {
                    self.upgrade.deadline = Some(now + UPGRADE_TIMEOUT);
                }
            }
            Signaling::Answer(sdp) if sdp.is_empty() => self.upgrade.deadline = None,
            // A READY before the answer was for an offer that was given up.
            Signaling::Answer(_) if self.upgrade.channel.is_none() => self.upgrade.ready = false,
            Signaling::Candidate(_) => {
                self.upgrade.candidates += 1;
                if self.upgrade.candidates > MAX_CANDIDATES {
                    return;
                }
            }
            _ => {}
        }
        self.tell(Event::Signaling(message));
    }

    /// The time for the upgrade is over.
    pub(super) fn upgrade_timed_out(&mut self) {
        self.upgrade.deadline = None;
        self.upgrade.ready = false;
        if let Some(channel) = self.upgrade.forget() {
            self.drop_path(channel, super::PathCause::Unused);
        }
        self.tell(Event::UpgradeFailed);
    }
}
