//! [`Connection`]: the muxer that the swarm polls, over two lanes.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt as _;
use libp2p_core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::Sleep;

use super::{error::ConnectionError, lanes::Lanes, stream::Stream};

/// Time for everything that an orderly end takes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to one peer, over WebRTC, over the WebSocket, or both.
///
/// New streams are opened on WebRTC where it is up, else on the WebSocket; those that are open stay where they are. When
/// WebRTC is lost, ICE is restarted; what does not come back in ten seconds ends, and so do the streams on it. The
/// connection lives as long as its WebSocket or its WebRTC does. Its address, as the swarm knows it, stays that of the
/// WebSocket: [`Paths`](super::Paths) tells how it goes.
///
/// Dropping it ends it at once; [`poll_close`](StreamMuxer::poll_close) says goodbye first.
pub struct Connection {
    lanes: Box<Lanes>,
    /// WebRTC was asked for a stream and has not given it.
    is_opening: bool,
    /// The stream that WebRTC will give was asked for before it was lost: the peer has waited too long for it.
    is_stale: bool,
    closing: Option<Pin<Box<Sleep>>>,
    /// The lanes have been closed.
    said_goodbye: bool,
}

impl Connection {
    pub(crate) fn new(lanes: Box<Lanes>) -> Self {
        Self {
            lanes,
            is_opening: false,
            is_stale: false,
            closing: None,
            said_goodbye: false,
        }
    }

    fn check(&self) -> Result<(), ConnectionError> {
        match self.lanes.end() {
            Some(end) => Err(end.clone()),
            None => Ok(()),
        }
    }

    /// A new stream on WebRTC, if new ones belong there.
    fn poll_webrtc(&mut self, cx: &mut Context<'_>) -> Poll<Stream> {
        loop {
            let (Some(webrtc), is_best) = self.lanes.webrtc() else {
                self.is_opening = false;
                self.is_stale = false;
                return Poll::Pending;
            };
            if !is_best {
                self.is_stale = self.is_opening;
                return Poll::Pending;
            }
            let opened = Pin::new(webrtc).poll_outbound(cx);
            self.is_opening = opened.is_pending();
            match ready!(opened) {
                Ok(stream) if std::mem::take(&mut self.is_stale) => drop(stream),
                Ok(stream) => {
                    return Poll::Ready(Stream::on_webrtc(stream, self.lanes.route()));
                }
                Err(error) => self.end_webrtc(cx, error),
            }
        }
    }

    /// Closes both lanes. Ready when they are, or have failed.
    fn poll_close_lanes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let webrtc = match self.lanes.webrtc() {
            (Some(webrtc), _) => Pin::new(webrtc).poll_close(cx).map(drop),
            (None, _) => Poll::Ready(()),
        };
        let plain = match self.lanes.plain() {
            Some(plain) => Pin::new(plain).poll_close(cx).map(drop),
            None => Poll::Ready(()),
        };
        self.lanes.drive(cx);
        ready!(webrtc);
        ready!(plain);
        match self.lanes.has_sent_all() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let this = &mut *self;
        this.check()?;
        if let (Some(webrtc), _) = this.lanes.webrtc() {
            match Pin::new(webrtc).poll_inbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    let stream = Stream::on_webrtc(stream, this.lanes.route());
                    return Poll::Ready(Ok(stream));
                }
                Poll::Ready(Err(error)) => this.end_webrtc(cx, error),
                Poll::Pending => {}
            }
        }
        if let Some(plain) = this.lanes.plain() {
            match Pin::new(plain).poll_inbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    let stream = Stream::on_plain(stream, this.lanes.route());
                    return Poll::Ready(Ok(stream));
                }
                Poll::Ready(Err(error)) => this.end_plain(cx, &error),
                Poll::Pending => {}
            }
        }
        this.check()?;
        Poll::Pending
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let this = &mut *self;
        this.check()?;
        if let Poll::Ready(stream) = this.poll_webrtc(cx) {
            return Poll::Ready(Ok(stream));
        }
        if !this.is_webrtc_best()
            && let Some(plain) = this.lanes.plain()
        {
            match Pin::new(plain).poll_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    let stream = Stream::on_plain(stream, this.lanes.route());
                    return Poll::Ready(Ok(stream));
                }
                Poll::Ready(Err(error)) => this.end_plain(cx, &error),
                Poll::Pending => {}
            }
        }
        this.check()?;
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = &mut *self;
        let timer = this
            .closing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        if timer.poll_unpin(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !this.said_goodbye {
            this.lanes.leave();
            ready!(this.poll_close_lanes(cx));
            this.said_goodbye = true;
            this.lanes.close();
        }
        this.lanes.drive(cx);
        match this.lanes.has_link() {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        self.lanes.drive(cx);
        self.check()?;
        Poll::Pending
    }
}

impl Connection {
    fn is_webrtc_best(&mut self) -> bool {
        matches!(self.lanes.webrtc(), (Some(_), true))
    }

    fn end_webrtc(&mut self, cx: &Context<'_>, error: crate::ConnectionError) {
        self.lanes.webrtc_ended(error);
        cx.waker().wake_by_ref();
    }

    fn end_plain(&mut self, cx: &Context<'_>, error: &libp2p_yamux::Error) {
        tracing::debug!(%error, "the plain lane ended");
        self.lanes.plain_ended();
        cx.waker().wake_by_ref();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
