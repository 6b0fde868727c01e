//! Watches the addresses of this machine's network interfaces.
//!
//! What it means that one comes or goes is the business of those who watch: listeners announce them, calls offer them, and
//! connections that wait for a better time try again.

#[cfg(any(feature = "socketpipe", feature = "websocket"))]
use std::time::Duration;
use std::{
    io,
    net::IpAddr,
    task::{Context, Poll, ready},
};

use if_watch::{IfEvent, tokio::IfWatcher};
#[cfg(any(feature = "socketpipe", feature = "websocket"))]
use tokio::time::Instant;

/// A watcher begins with the addresses there are already; that takes it no longer.
#[cfg(any(feature = "socketpipe", feature = "websocket"))]
pub(crate) const LISTING: Duration = Duration::from_secs(1);

/// What has changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// An interface has this address now.
    Up(IpAddr),
    /// It has it no more.
    Down(IpAddr),
    /// The interfaces cannot be watched any more. The addresses stay as they were last known.
    Failed(io::Error),
}

/// See the module.
pub(crate) struct Watcher {
    /// `None` when it has failed.
    watcher: Option<IfWatcher>,
    #[cfg(any(feature = "socketpipe", feature = "websocket"))]
    since: Instant,
}

impl Watcher {
    /// Begins with the addresses there are.
    ///
    /// # Errors
    /// When the system gives no list of interfaces.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            watcher: Some(IfWatcher::new()?),
            #[cfg(any(feature = "socketpipe", feature = "websocket"))]
            since: Instant::now(),
        })
    }

    /// The next change; none after it has failed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        let Some(watcher) = &mut self.watcher else {
            return Poll::Pending;
        };
        Poll::Ready(match ready!(watcher.poll_if_event(cx)) {
            Ok(IfEvent::Up(net)) => Change::Up(net.addr()),
            Ok(IfEvent::Down(net)) => Change::Down(net.addr()),
            Err(error) => {
                // It would repeat that for ever.
                self.watcher = None;
                Change::Failed(error)
            }
        })
    }

    /// Whether what comes may still be what there was at the beginning.
    #[cfg(any(feature = "socketpipe", feature = "websocket"))]
    pub(crate) fn is_listing(&self) -> bool {
        self.since.elapsed() < LISTING
    }

    /// All addresses that were told and are there; none after it has failed.
    #[cfg(feature = "socketpipe")]
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let nets = self.watcher.iter().flat_map(IfWatcher::iter);
        nets.map(|net| net.addr())
    }
}
