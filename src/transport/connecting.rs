//! From a set-up connection to a proven identity: Noise over the handshake stream.
//!
//! Runs in the task that polls the future (the swarm's), so that signatures do not hold up the driver. The core limits
//! the time: it closes a connection that is not reported as authenticated within the handshake timeout.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite, FutureExt as _, channel::oneshot, future::BoxFuture};
use libp2p_core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _};
use libp2p_identity::PeerId;

use crate::{
    proto::{Side, fingerprint::noise_prologue},
    transport::{
        config::Config,
        connection::Connection,
        driver::{Pending, Ready},
        error::Error,
        stream::Stream,
    },
};

/// The only protocol that `libp2p_noise` offers. It is not negotiated here.
const NOISE: &str = "/noise";

/// An inbound connection that is being set up; resolves to the peer's identity and the connection.
///
/// Dropping it closes the connection.
pub struct Connecting {
    future: BoxFuture<'static, Result<(PeerId, Connection), Error>>,
}

impl Connecting {
    /// Waits for the connection and proves identities over it.
    pub(crate) fn inbound(config: Arc<Config>, pending: Pending) -> Self {
        Self::from_future(async move {
            let ready = pending.await?;
            authenticate(&config, ready, Side::Listener, None).await
        })
    }

    /// Any future with the right outcome.
    pub(crate) fn from_future(
        future: impl Future<Output = Result<(PeerId, Connection), Error>> + Send + 'static,
    ) -> Self {
        Self {
            future: future.boxed(),
        }
    }
}

impl Future for Connecting {
    type Output = Result<(PeerId, Connection), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.poll_unpin(cx)
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}

/// Runs Noise as the specification has it: the listener initiates, the prologue binds both certificates, the dialer's
/// first, so that a certificate swapped by a third party fails here.
///
/// Spec: <https://github.com/libp2p/specs/blob/master/webrtc/webrtc-direct.md#connection-security>
pub(crate) async fn authenticate(
    config: &Config,
    ready: Ready,
    side: Side,
    expected: Option<PeerId>,
) -> Result<(PeerId, Connection), Error> {
    let Ready {
        connection,
        handshake,
        remote_fingerprint: remote,
        local_fingerprint,
        ..
    } = ready;
    let local = local_fingerprint.unwrap_or_else(|| config.certificate.fingerprint());
    let prologue = match side {
        Side::Dialer => noise_prologue(&local, &remote),
        Side::Listener => noise_prologue(&remote, &local),
    };
    let noise = libp2p_noise::Config::new(&config.keypair)?.with_prologue(prologue);
    let (lent, mut returned) = Lent::new(handshake);
    let result = match side {
        Side::Dialer => noise.upgrade_inbound(lent, NOISE).await,
        Side::Listener => noise.upgrade_outbound(lent, NOISE).await,
    };
    let (actual, cipher) = match result {
        Ok(proven) => proven,
        Err(error) => return Err(noise_error(error, &connection)),
    };
    if let Some(expected) = expected
        && expected != actual
    {
        return Err(Error::WrongPeerId { expected, actual });
    }
    // The keys are thrown away, but the channel stays open for the life of the connection: some peers take its end for
    // the end of the connection.
    drop(cipher);
    if let Ok(Some(handshake)) = returned.try_recv() {
        connection.keep_handshake(handshake);
    }
    connection.authenticated(actual);
    Ok((actual, connection))
}

/// When the connection ended under Noise, its end is what went wrong.
fn noise_error(error: libp2p_noise::Error, connection: &Connection) -> Error {
    match connection.close_reason() {
        Some(reason) => reason.into(),
        None => error.into(),
    }
}

/// The handshake stream while Noise owns it; comes back when Noise drops it.
struct Lent {
    stream: Option<Stream>,
    back: Option<oneshot::Sender<Stream>>,
}

impl Lent {
    fn new(stream: Stream) -> (Self, oneshot::Receiver<Stream>) {
        let (back, returned) = oneshot::channel();
        let lent = Self {
            stream: Some(stream),
            back: Some(back),
        };
        (lent, returned)
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(
            self.stream
                .as_mut()
                .expect("the stream is there until drop"),
        )
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Nobody waits for it any more when the set-up was abandoned: then it is reset.
            drop(back.send(stream));
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_close(cx)
    }
}
