//! The channel of messages of a call: moves them between the core and the half that its handle shares.

use std::{sync::Arc, time::Instant};

use crate::{
    proto::{ChannelId, ConnectionId, Endpoint, Write},
    transport::{
        call::MessageChannel,
        shared::{ConnectionShared, MessagesShared, Wakes},
    },
};

/// The driver's end of a channel.
pub(super) struct Messages {
    shared: Arc<MessagesShared>,
    id: ConnectionId,
    pub(super) channel: ChannelId,
}

impl Messages {
    /// Both halves of a channel.
    pub(super) fn new(
        connection: &Arc<ConnectionShared>,
        (id, channel): (ConnectionId, ChannelId),
        max_message: usize,
    ) -> (Self, MessageChannel) {
        let connection = Arc::clone(connection);
        let shared = MessagesShared::new(connection, (id, channel), max_message);
        let handle = MessageChannel::new(Arc::clone(&shared));
        let this = Self {
            shared,
            id,
            channel,
        };
        (this, handle)
    }

    /// Does what the handle asks for and moves messages. False: the handle is gone, and so is the channel.
    pub(super) fn visit(&self, endpoint: &mut Endpoint, now: Instant, wakes: &mut Wakes) -> bool {
        let asks = self.shared.take_asks();
        if asks.release {
            endpoint.release(now, self.id, self.channel);
            return false;
        }
        if asks.read {
            self.pump_read(endpoint, now, wakes);
        }
        self.pump_write(endpoint, now, wakes);
        true
    }

    /// Moves what the core has to the reader.
    pub(super) fn pump_read(&self, endpoint: &mut Endpoint, now: Instant, wakes: &mut Wakes) {
        self.shared
            .fill(wakes, || endpoint.read(now, self.id, self.channel));
    }

    /// Moves the writer's messages to the core, until there are none or the core has no room and will report.
    pub(super) fn pump_write(&self, endpoint: &mut Endpoint, now: Instant, wakes: &mut Wakes) {
        while let Some(message) = self.shared.first() {
            match endpoint.write_message(now, self.id, self.channel, &message) {
                Write::Accepted(0) => return self.shared.set_blocked(),
                Write::Accepted(_) => self.shared.sent(wakes),
                Write::Stopped | Write::Closed => {
                    return self.shared.set_closed_by_peer(wakes);
                }
            }
        }
        if self.shared.take_closing(wakes) {
            endpoint.reset(now, self.id, self.channel);
        }
    }

    /// The connection has ended.
    pub(super) fn close(&self, wakes: &mut Wakes) {
        self.shared.close(wakes);
    }
}
