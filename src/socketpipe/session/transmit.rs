//! Frames for the peer, one at a time and by path, as the transports have room.

use super::{Event, Instant, PathId, Role, Session, closing::Step, link::Phase, path::Waiting};
use crate::socketpipe::frame::{Flow, Frame, ResumeRequest};

impl Session {
    /// The next frame for this transport. To be called only while the transport has room for it.
    pub fn poll_transmit(&mut self, now: Instant, path: PathId) -> Option<Frame> {
        self.prepare(now, path);
        let frame = self
            .pop_control(now, path)
            .or_else(|| self.next_of_main(path))
            .or_else(|| self.next_data(now, path));
        self.apply_size(now);
        self.settle(now);
        frame
    }

    /// Queues what the state of the session demands.
    fn prepare(&mut self, now: Instant, path: PathId) {
        if self.is_closed() {
            return;
        }
        self.switch_if_wanted(now);
        let open_ping = self.path(path).is_none_or(|path| path.has_open_ping());
        if self.data_path() == Some(path) && !open_ping && self.outbound.wants_confirmation() {
            self.ping(now, path);
        }
        self.advance_closing(now);
    }

    fn pop_control(&mut self, now: Instant, path: PathId) -> Option<Frame> {
        Some(match self.path_mut(path)?.pop(now)? {
            Waiting::Frame(frame) => frame,
            Waiting::Ping(nonce) => Frame::Ping(bytes::Bytes::copy_from_slice(&nonce)),
            Waiting::Resume => Frame::ResumeRequest(ResumeRequest {
                id: self.held.as_ref()?.id.clone(),
                last: self.inbound.last(),
                token: self.resume_token(path),
            }),
        })
    }

    /// What proves to the server, on a path of another kind than the session was opened on, that it is still us. Where
    /// the path is of the same kind the frame stays as it is published.
    fn resume_token(&self, path: PathId) -> bytes::Bytes {
        let kind = self.path(path).map(|path| path.kind);
        let config = self.config.as_ref();
        config
            .filter(|_| kind != self.link.opened_on)
            .map_or_else(bytes::Bytes::new, |config| config.token.clone())
    }

    /// What is not queued because only its last state counts.
    fn next_of_main(&mut self, path: PathId) -> Option<Frame> {
        if self.link.main() != Some(path) || self.is_sent_to_its_end() {
            return None;
        }
        if let Some(stop) = self.inbound.flow() {
            return Some(Frame::FlowControl(match stop {
                true => Flow::Pause,
                false => Flow::Resume,
            }));
        }
        match self.settings.role {
            Role::Client => self.terminal.next_frame(),
            Role::Server => None,
        }
    }

    /// CLOSE has left or is about to: nothing may follow it.
    fn is_sent_to_its_end(&self) -> bool {
        let step = self.closing.as_ref().map(|closing| closing.step);
        !matches!(step, None | Some(Step::Drain { .. }))
    }

    fn next_data(&mut self, now: Instant, path: PathId) -> Option<Frame> {
        let may = matches!(self.link.phase, Phase::Open { .. })
            && self.data_path() == Some(path)
            && self.link.stalled.is_none()
            && !self.link.is_repairing()
            && !self.is_sent_to_its_end();
        if !may {
            return None;
        }
        let data = self.outbound.next()?;
        self.closing_progress(now);
        Some(Frame::Data(data))
    }

    /// Server: tells a new size; after a resume only behind what was sent again, which was made for the old one.
    pub(super) fn apply_size(&mut self, now: Instant) {
        if self.outbound.is_repeating() {
            return;
        }
        if let Some(size) = self.terminal.apply(now) {
            self.tell(Event::Resize(size));
        }
    }
}
