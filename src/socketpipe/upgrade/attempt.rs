//! One connection of an upgrade, from its offer to its end.

use std::{
    future::Future as _,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::Carrier;
use crate::{
    proto::{fingerprint::Fingerprint, sdp::Description},
    socketpipe::{
        frame::IceCandidate,
        session::{PathId, Signaling},
    },
    transport::call::{Call, CallError, CallEvent, MessageChannel, Signal},
};

/// How long a client waits for what an ICE restart finds: two round trips of signaling and checks. With the 5 s until a
/// path counts as lost, a session that has to go on without is on its WebSocket again within 10 s.
const CLIENT_PATIENCE: Duration = Duration::from_secs(3);
/// A server waits longer: the client may still bring the path back, and says so on the WebSocket if it does not.
const SERVER_PATIENCE: Duration = Duration::from_secs(4);

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// To be told to the peer.
    Signal(Signaling),
    /// The channel is open.
    Channel(MessageChannel),
    /// Data goes another way than before.
    Moved,
    /// Nothing more will come of it.
    Over,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Attempt {
    call: Call,
    is_client: bool,
    /// Server: the last offer of the peer was not answered yet.
    is_owing: bool,
    /// Certificates that the first description of the peer named, on a server.
    peer: Vec<Fingerprint>,
    /// The session uses its channel under this name, since then.
    channel: Option<(PathId, Instant)>,
    path: Option<(SocketAddr, bool)>,
    /// The path is lost, and is given up at that time.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Attempt {
    pub(super) fn client(call: Call) -> Self {
        Self::new(call, true, Vec::new())
    }

    pub(super) fn server(call: Call, offer: &Description) -> Self {
        Self::new(call, false, offer.fingerprints.clone())
    }

    fn new(call: Call, is_client: bool, peer: Vec<Fingerprint>) -> Self {
        Self {
            call,
            is_client,
            is_owing: !is_client,
            peer,
            channel: None,
            path: None,
            patience: None,
        }
    }

    /// Whether an offer is for this connection: an ICE restart comes with the same certificate, any other is a new
    /// connection.
    pub(super) fn is_of(&self, offer: &Description) -> bool {
        self.peer
            .iter()
            .any(|known| offer.fingerprints.contains(known))
    }

    /// Whether an offer of the peer still waits for its answer.
    pub(super) fn is_owing(&self) -> bool {
        self.is_owing
    }

    pub(super) fn handle(&mut self, signal: Signal) -> Result<(), CallError> {
        let is_offer = matches!(signal, Signal::Offer(_));
        self.call.handle(signal)?;
        self.is_owing |= is_offer;
        Ok(())
    }

    /// The session has taken the channel.
    pub(super) fn attached(&mut self, path: PathId) {
        self.channel = Some((path, Instant::now()));
    }

    pub(super) fn channel(&self) -> Option<PathId> {
        self.channel.map(|(path, _)| path)
    }

    /// How long its channel has lived.
    pub(super) fn age(&self) -> Option<Duration> {
        self.channel.map(|(_, since)| since.elapsed())
    }

    pub(super) fn into_call(self) -> Call {
        self.call
    }

    /// What carries its channel, and where to; direct as long as nothing is known.
    pub(super) fn carrier(&self) -> (Carrier, Option<SocketAddr>) {
        match self.path {
            Some((remote, true)) => (Carrier::WebRtcRelayed, Some(remote)),
            Some((remote, false)) => (Carrier::WebRtcDirect, Some(remote)),
            None => (Carrier::WebRtcDirect, None),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        while let Poll::Ready(event) = self.call.poll_event(cx) {
            if let Some(outcome) = self.take(event) {
                return Poll::Ready(outcome);
            }
        }
        if let Some(patience) = &mut self.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            tracing::debug!("the path of a data channel did not come back");
            self.patience = None;
            return Poll::Ready(Outcome::Over);
        }
        Poll::Pending
    }

    fn take(&mut self, event: CallEvent) -> Option<Outcome> {
        match event {
            CallEvent::Signal(signal) => {
                self.is_owing &= !matches!(signal, Signal::Answer(_));
                Some(Outcome::Signal(signaling(signal)))
            }
            CallEvent::Channel(channel) => Some(Outcome::Channel(channel)),
            CallEvent::Path { remote, relayed } => {
                self.patience = None;
                let path = Some((remote, relayed));
                let moved = self.path != path && self.channel.is_some();
                self.path = path;
                moved.then_some(Outcome::Moved)
            }
            CallEvent::PathLost => {
                self.seek();
                None
            }
            CallEvent::Closed(reason) => {
                tracing::debug!(?reason, "the connection of a data channel ended");
                Some(Outcome::Over)
            }
            // Only libp2p's connections are ready without a channel.
            CallEvent::Ready(_) => None,
        }
    }

    /// The path is lost. Before there is a channel the time limit of the session counts.
    fn seek(&mut self) {
        if self.channel.is_none() {
            return;
        }
        let patience = match self.is_client {
            true => CLIENT_PATIENCE,
            false => SERVER_PATIENCE,
        };
        self.patience = Some(Box::pin(tokio::time::sleep(patience)));
        self.call.restart();
    }

    /// The peer does not take part in the ICE restart: nothing is to be waited for.
    pub(super) fn restart_refused(&mut self) {
        if let Some(patience) = &mut self.patience {
            patience.as_mut().reset(Instant::now());
        }
    }
}

/// As frames have it.
fn signaling(signal: Signal) -> Signaling {
    let candidate = |candidate, mid, index| {
        Signaling::Candidate(IceCandidate {
            candidate,
            mid,
            index,
        })
    };
    match signal {
        Signal::Offer(sdp) => Signaling::Offer(sdp),
        Signal::Answer(sdp) => Signaling::Answer(sdp),
        Signal::Candidate {
            candidate: text,
            mid,
            index,
        } => candidate(text, mid, index),
        // An empty candidate, as browsers have it.
        Signal::EndOfCandidates { mid, index } => candidate(String::new(), mid, index),
    }
}

/// As calls have it.
pub(super) fn candidate(candidate: IceCandidate) -> Signal {
    let IceCandidate {
        candidate,
        mid,
        index,
    } = candidate;
    // Some peers send the line of the description.
    match candidate.strip_prefix("a=") {
        Some(bare) => Signal::Candidate {
            candidate: bare.to_owned(),
            mid,
            index,
        },
        None if candidate.is_empty() => Signal::EndOfCandidates { mid, index },
        None => Signal::Candidate {
            candidate,
            mid,
            index,
        },
    }
}
