//! [`Stream`]: a libp2p stream on whichever lane it was opened.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::way::{self, Route, Way};

/// An ordered, reliable stream of bytes in both directions, each of which is closed on its own.
///
/// It stays on the lane it was opened on, a WebRTC data channel or a yamux stream on the WebSocket, and fails when that
/// ends, although the connection may go on. What is said at [`libp2p_rtc::Stream`](crate::Stream) is so on WebRTC; yamux
/// tells no kinds of errors apart, and a stream dropped unfinished is reset there too.
pub struct Stream {
    inner: Inner,
    way: Way,
}

enum Inner {
    WebRtc(crate::Stream),
    Plain(libp2p_yamux::Stream),
}

impl Stream {
    /// Whether a data channel carries it.
    pub fn is_webrtc(&self) -> bool {
        self.way.is_webrtc
    }

    /// On the WebRTC lane.
    pub(super) fn on_webrtc(stream: crate::Stream, route: watch::Receiver<Option<Route>>) -> Self {
        let inner = Inner::WebRtc(stream);
        let is_webrtc = true;
        Self {
            inner,
            way: Way { is_webrtc, route },
        }
    }

    /// On the plain lane.
    pub(super) fn on_plain(
        stream: libp2p_yamux::Stream,
        route: watch::Receiver<Option<Route>>,
    ) -> Self {
        let inner = Inner::Plain(stream);
        let is_webrtc = false;
        Self {
            inner,
            way: Way { is_webrtc, route },
        }
    }
}

/// Does the same on either lane.
macro_rules! on_either {
    ($stream:expr, $inner:ident => $act:expr) => {{
        let stream = $stream.get_mut();
        way::tell(&stream.way);
        match &mut stream.inner {
            Inner::WebRtc($inner) => {
                let $inner = Pin::new($inner);
                $act
            }
            Inner::Plain($inner) => {
                let $inner = Pin::new($inner);
                $act
            }
        }
    }};
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, inner => inner.poll_flush(cx))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, inner => inner.poll_close(cx))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("webrtc", &self.is_webrtc())
            .finish_non_exhaustive()
    }
}
