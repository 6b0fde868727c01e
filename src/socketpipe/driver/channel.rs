//! The driver's side of the WebRTC upgrade: signaling between session and connection, the data channel as a lane.

use std::task::{Context, Poll};

use super::{Driver, next_path};
use crate::{
    socketpipe::{
        session::{Event, Instant, PathId, PathKind, Signaling, Status},
        upgrade::{Carrier, Step},
        wire::Wire,
    },
    transport::call::{Call, MessageChannel},
};

impl Driver {
    /// What carries the bytes of the session now; nothing while there is no connection.
    pub(in crate::socketpipe) fn carrier(&self) -> Option<Carrier> {
        let Status::Established { data, .. } = self.session.status() else {
            return None;
        };
        let channel = self.upgrade.as_ref();
        if let Some(carrier) = channel.and_then(|upgrade| upgrade.carrier(data)) {
            return Some(carrier);
        }
        let lane = self.lanes.iter().find(|lane| lane.id == data)?;
        Some(lane.wire.carrier())
    }

    /// The label of the wire that carries the bytes of the session now.
    pub(in crate::socketpipe) fn data_label(&self) -> Option<&str> {
        let Status::Established { data, .. } = self.session.status() else {
            return None;
        };
        Some(self.label(data))
    }

    /// Notices that wires go another way: who shows that is told as if data had just moved there. Whether one does.
    pub(super) fn follow_wires(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = Vec::new();
        for lane in &mut self.lanes {
            if lane.wire.poll_moved(cx) {
                moved.push(lane.id);
            }
        }
        if let Status::Established { data, .. } = self.session.status()
            && moved.contains(&data)
        {
            self.told.push_back(Event::DataPath(data));
        }
        !moved.is_empty()
    }

    /// The upgrade belongs to a main path that may be signaled on.
    pub(super) fn main_changed(&mut self, main: PathId) {
        let lane = self.lanes.iter().find(|lane| lane.id == main);
        let possible = lane.is_some_and(|lane| lane.wire.may_signal())
            && self
                .session
                .parameters()
                .is_some_and(|parameters| parameters.webrtc);
        match &mut self.upgrade {
            Some(upgrade) if possible => upgrade.open_on(main),
            Some(upgrade) => upgrade.close(),
            None => {}
        }
    }

    /// Draws from an event what it means for the upgrade.
    pub(super) fn watch_main(&mut self, event: &Event) {
        match event {
            Event::Established(_) => {
                if let Status::Established { main, .. } = self.session.status() {
                    self.main_changed(main);
                }
            }
            Event::Resumed { path } => self.main_changed(*path),
            Event::Disconnected | Event::Closed(_) => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.close();
                }
            }
            _ => {}
        }
    }

    pub(super) fn on_signaling(&mut self, message: Signaling) {
        // Without one it was not agreed, and the engine has told the peer so.
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.handle(message);
        }
    }

    pub(super) fn upgrade_failed(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.failed();
        }
    }

    /// The session does not use this path any more; gives the connection if it was the channel.
    pub(super) fn channel_left(&mut self, path: PathId) -> Option<Call> {
        self.upgrade.as_mut()?.left(path)
    }

    /// Carries out what the upgrade asks for; whether that was anything.
    pub(super) fn advance_upgrade(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut busy = false;
        while let Some(upgrade) = &mut self.upgrade
            && let Poll::Ready(step) = upgrade.poll(cx)
        {
            busy = true;
            match step {
                Step::Signal(message) => {
                    if !self.session.signal_webrtc(now, message) {
                        tracing::debug!("a message of signaling has no path");
                    }
                }
                Step::Channel(channel) => self.attach_channel(now, channel),
                Step::Moved => self.channel_moved(),
                Step::Gone(channel) => self.lose(now, &[channel]),
                Step::Failed => self.session.upgrade_failed(),
            }
        }
        busy
    }

    fn attach_channel(&mut self, now: Instant, channel: MessageChannel) {
        let id = next_path();
        let room = channel.max_message();
        if !self.session.attach_channel(now, id, room) {
            tracing::debug!(room, "a data channel is of no use now");
            return self.upgrade_failed();
        }
        self.attach(id, Wire::messages(PathKind::DataChannel, channel));
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.attached(id);
        }
        self.label_channel();
    }

    /// Gives the channel the name of the way it goes.
    fn label_channel(&mut self) -> Option<PathId> {
        let upgrade = self.upgrade.as_ref()?;
        let mut lanes = self.lanes.iter_mut();
        let (id, label) = lanes.find_map(|lane| {
            let label = upgrade.describe(lane.id)?;
            lane.wire.set_label(label.clone());
            Some((lane.id, label))
        })?;
        tracing::debug!(label, "data channel");
        Some(id)
    }

    /// The channel goes another way: who shows that is told as if data had just moved there.
    fn channel_moved(&mut self) {
        let channel = self.label_channel();
        if let Status::Established { data, .. } = self.session.status()
            && channel == Some(data)
        {
            self.told.push_back(Event::DataPath(data));
        }
    }
}
