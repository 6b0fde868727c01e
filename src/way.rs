//! Which way a stream goes, told by the stream to whoever polls it.
//!
//! A swarm hands out its streams in boxes, and what is in them it does not say. A stream of a connection that has more
//! than one way ([`websocket`](crate::websocket)) names its own with [`tell`] whenever it is polled; whoever wants to know
//! polls it within [`ask`]. Both happen in one call on one thread.

use std::{cell::RefCell, fmt, net::SocketAddr};

use tokio::sync::watch;

/// Where the WebRTC connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The peer, or the TURN server that stands for it.
    pub(crate) remote: SocketAddr,
    /// A TURN server passes everything on.
    pub(crate) relayed: bool,
}

/// The way of a stream, and what else its connection has.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// A data channel carries it, otherwise the WebSocket of the connection does. That never changes.
    pub(crate) is_webrtc: bool,
    /// Where WebRTC of the connection leads, as long as new streams are opened on it.
    pub(crate) route: watch::Receiver<Option<Route>>,
}

impl Way {
    /// Waits until new streams are opened on the other lane; `false` if the connection ended.
    pub(crate) async fn is_outdone(&mut self) -> bool {
        let is_webrtc = self.is_webrtc;
        let other = |route: &Option<Route>| route.is_some() != is_webrtc;
        self.route.wait_for(other).await.is_ok()
    }
}

/// Words for a way: [`Way::is_webrtc`] and the last route there was.
pub(crate) struct Named(pub(crate) bool, pub(crate) Option<Route>);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(false, _) => f.write_str("WebSocket"),
            Self(true, None) => f.write_str("WebRTC"),
            Self(true, Some(Route { remote, relayed })) => match relayed {
                false => write!(f, "WebRTC, direct with {remote}"),
                true => write!(f, "WebRTC, relayed by a TURN server, with {remote}"),
            },
        }
    }
}

/// Somebody wants to know, and what was told.
enum Question {
    Nobody,
    Asked,
    Answered(Way),
}

thread_local! {
    static QUESTION: RefCell<Question> = const { RefCell::new(Question::Nobody) };
}

/// Does something with a stream, and gives the way it goes if it has told it.
pub(crate) fn ask<T>(act: impl FnOnce() -> T) -> (T, Option<Way>) {
    let outer = QUESTION.replace(Question::Asked);
    let result = act();
    match QUESTION.replace(outer) {
        Question::Answered(way) => (result, Some(way)),
        Question::Nobody | Question::Asked => (result, None),
    }
}

/// Names the way of the stream that is being polled.
pub(crate) fn tell(way: &Way) {
    QUESTION.with_borrow_mut(|question| {
        if let Question::Asked = question {
            *question = Question::Answered(way.clone());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_told_to_whoever_asks_and_to_nobody_else() {
        let (_route, route) = watch::channel(None);
        let way = Way {
            is_webrtc: true,
            route,
        };
        tell(&way);
        let (inner, outer) = ask(|| {
            let (_, inner) = ask(|| tell(&way));
            inner
        });
        assert!(inner.is_some_and(|way| way.is_webrtc) && outer.is_none());
        assert!(ask(|| ()).1.is_none());
    }
}
