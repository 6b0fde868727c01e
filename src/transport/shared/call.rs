//! The half of one call: see [`CallShared`].

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::{Context, Waker},
};

use super::{ConnectionShared, Wakes, lock, register};
use crate::{
    proto::{CloseReason, candidate::Candidate, ice::RelayServer, sdp::Description},
    transport::call::{CallState, Flow, MessageChannel, Signal},
};

/// What waits for the driver: as many candidates as one generation of ICE may have, names resolved included. The driver
/// empties it in its next turn.
const MAX_INPUTS: usize = 128;

/// Candidates that wait for the owner of the call: eight addresses, as many servers, a few restarts. Without a
/// candidate ICE loses one way of several.
const MAX_SIGNALS: usize = 128;

/// What signaling and the helpers of a call have for the driver.
pub(crate) enum Input {
    /// The peer restarts ICE.
    Offer(Box<Description>),
    /// The peer answers our offer.
    Answer(Box<Description>),
    /// The peer has this candidate.
    Candidate(Box<Candidate>),
    /// Restart ICE.
    Restart,
    /// Look whether anything comes by the path.
    Probe,
    /// No more will come of the peer but by the path.
    SignalingEnded,
    /// The address of a STUN server, and its number in the configuration.
    Stun(usize, SocketAddr),
    /// A TURN server and what leads to it, and its number in the configuration.
    Relay(usize, RelayServer, Flow),
    /// No more servers will come.
    ServersKnown,
}

/// What the owner of a call is told.
#[derive(Debug)]
pub(crate) enum News {
    /// For the peer.
    Signal(Signal),
    /// The channel of messages is open.
    Channel(MessageChannel),
    /// The path has changed.
    Path(CallState),
    /// Last.
    Closed(CloseReason),
}

/// Shared by the driver, the owner of a call and the tasks that help it.
pub(crate) struct CallShared {
    connection: Arc<ConnectionShared>,
    state: Mutex<State>,
}

struct State {
    /// At most `MAX_INPUTS` candidates, and what the owner and the tasks bound themselves: a description in each
    /// direction, and the servers of the configuration.
    inputs: VecDeque<Input>,
    /// At most `MAX_SIGNALS` candidates, and one description: a second one is not asked for before it was taken.
    signals: VecDeque<Signal>,
    channel: Option<MessageChannel>,
    path: CallState,
    /// What the owner knows of it.
    told: CallState,
    closed: Option<CloseReason>,
    /// The owner is gone.
    released: bool,
    waker: Option<Waker>,
}

impl CallShared {
    /// For a connection that the driver has yet to begin.
    pub(crate) fn new(connection: Arc<ConnectionShared>) -> Arc<Self> {
        Arc::new(Self {
            connection,
            state: Mutex::new(State {
                inputs: VecDeque::new(),
                signals: VecDeque::new(),
                channel: None,
                path: CallState::Connecting,
                told: CallState::Connecting,
                closed: None,
                released: false,
                waker: None,
            }),
        })
    }

    pub(crate) fn connection(&self) -> &Arc<ConnectionShared> {
        &self.connection
    }

    /// Passes something to the driver. Dropped when the call has ended, and candidates when too many wait.
    pub(crate) fn push(&self, input: Input) {
        {
            let mut state = lock(&self.state);
            let is_full = state.inputs.len() >= MAX_INPUTS;
            if state.closed.is_some() || (is_full && matches!(input, Input::Candidate(_))) {
                drop(state);
                drop(input);
                return;
            }
            state.inputs.push_back(input);
        }
        self.connection.call_driver();
    }

    /// What happened next, or none yet; then the task is woken when there is something.
    pub(crate) fn next(&self, cx: &Context<'_>) -> Option<News> {
        let mut state = lock(&self.state);
        if let Some(signal) = state.signals.pop_front() {
            return Some(News::Signal(signal));
        }
        // Before the channel, which goes by it.
        if state.closed.is_none() && state.path != state.told {
            state.told = state.path;
            return Some(News::Path(state.path));
        }
        if let Some(channel) = state.channel.take() {
            return Some(News::Channel(channel));
        }
        if let Some(reason) = &state.closed {
            return Some(News::Closed(reason.clone()));
        }
        register(&mut state.waker, cx);
        None
    }

    /// How the call stands.
    pub(crate) fn path(&self) -> CallState {
        let state = lock(&self.state);
        match state.closed {
            Some(_) => CallState::Closed,
            None => state.path,
        }
    }

    /// The owner is gone.
    pub(crate) fn release(&self) {
        let unclaimed = {
            let mut state = lock(&self.state);
            state.released = true;
            state.signals = VecDeque::new();
            (state.channel.take(), state.waker.take())
        };
        drop(unclaimed);
    }
}

/// For the driver.
impl CallShared {
    /// What waits.
    pub(crate) fn take_inputs(&self) -> VecDeque<Input> {
        mem::take(&mut lock(&self.state).inputs)
    }

    /// Something to tell the peer.
    pub(crate) fn push_signal(&self, signal: Signal, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        let is_description = matches!(signal, Signal::Offer(_) | Signal::Answer(_));
        let has_room = is_description || state.signals.len() < MAX_SIGNALS;
        if has_room && !state.released {
            state.signals.push_back(signal);
            wakes.extend(state.waker.take());
        }
    }

    /// The channel of messages is open.
    pub(crate) fn set_channel(&self, channel: MessageChannel, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        if state.released {
            drop(state);
            drop(channel);
            return;
        }
        state.channel = Some(channel);
        wakes.extend(state.waker.take());
    }

    /// How data goes.
    pub(crate) fn set_path(&self, path: CallState, wakes: &mut Wakes) {
        let mut state = lock(&self.state);
        state.path = path;
        wakes.extend(state.waker.take());
    }

    /// The connection has ended. The first reason stands.
    pub(crate) fn close(&self, reason: CloseReason, wakes: &mut Wakes) {
        let unserved = {
            let mut state = lock(&self.state);
            state.closed.get_or_insert(reason);
            wakes.extend(state.waker.take());
            mem::take(&mut state.inputs)
        };
        drop(unserved);
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;
    use crate::{
        proto::{ChannelId, ConnectionId},
        transport::shared::{MessagesShared, SocketShared, StreamLimits},
    };

    #[test]
    fn the_path_is_told_before_the_channel_that_goes_by_it() {
        let remote = ([127, 0, 0, 1], 1).into();
        let socket = SocketShared::new(remote, StreamLimits::default());
        let connection = ConnectionShared::new(socket, None);
        let call = CallShared::new(Arc::clone(&connection));
        let mut wakes = Wakes::new();
        let ids = (ConnectionId(1), ChannelId::HANDSHAKE);
        let channel = MessageChannel::new(MessagesShared::new(connection, ids, 1));
        let path = CallState::Path {
            remote,
            relayed: false,
        };
        call.set_path(path, &mut wakes);
        call.set_channel(channel, &mut wakes);
        let cx = Context::from_waker(noop_waker_ref());
        let news = [(); 3].map(|()| call.next(&cx));
        assert!(
            matches!(
                news,
                [Some(News::Path(told)), Some(News::Channel(_)), None] if told == path
            ),
            "{news:?}"
        );
    }
}
