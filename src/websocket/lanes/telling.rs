//! What a connection says of the way it goes: to whoever wants to know, and to its streams.

use tokio::sync::watch;

use super::Lanes;
use crate::{way::Route, websocket::paths::Path};

impl Lanes {
    /// Where WebRTC leads, for a stream.
    pub(crate) fn route(&self) -> watch::Receiver<Option<Route>> {
        self.route.subscribe()
    }

    /// Tells who wants to know how the connection goes.
    pub(super) fn tell(&mut self) {
        let is_up = self.conversation.is_webrtc_up() && self.webrtc.up().is_some();
        let route = self.path.filter(|_| is_up);
        let route = route.map(|(remote, relayed)| Route { remote, relayed });
        self.route.send_if_modified(|told| {
            let is_new = *told != route;
            *told = route;
            is_new
        });
        let path = match (route, self.plain.up()) {
            (Some(Route { remote, relayed }), _) => Some(Path::WebRtc { remote, relayed }),
            (None, Some(_)) => Some(Path::WebSocket),
            (None, None) => None,
        };
        if let (Some(peer), Some(path)) = (self.proven(), path) {
            self.report.tell(peer, path);
        }
    }
}
