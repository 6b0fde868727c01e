//! The byte stream of the plain lane: Noise and yamux at one end, the WebSocket's owner at the other.
//!
//! [`Pipe`] is the lane's end, [`PipeEnd`] the owner's. Both directions have a bound and wait for each other; no message
//! waits anywhere else. What carries the bytes is not known here.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite};

/// Bytes of the peer that may wait. The owner stops reading the WebSocket then; one message comes on top.
const MAX_INBOUND: usize = 64 * 1024;
/// The same before the peer has proven who it is: more than the messages of that have.
const MAX_UNPROVEN: usize = 8 * 1024;
/// Bytes that may wait to be sent: the largest record of Noise.
const MAX_OUTBOUND: usize = 64 * 1024;

/// The lane's end.
pub(crate) struct Pipe {
    shared: Arc<Mutex<Shared>>,
}

/// The owner's end. When it is dropped, the lane sees that the connection is lost.
pub(crate) struct PipeEnd {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    inbound: VecDeque<Bytes>,
    /// Bytes in it.
    waiting: usize,
    /// The peer has proven who it is: more may wait.
    is_wide: bool,
    outbound: BytesMut,
    /// The lane sends no more.
    closed: bool,
    /// The peer sends no more.
    ended: bool,
    /// The owner's end is gone.
    lost: bool,
    /// The lane has read everything, and its end.
    is_read: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    owner: Option<Waker>,
}

impl Shared {
    fn has_room(&self) -> bool {
        let most = match self.is_wide {
            true => MAX_INBOUND,
            false => MAX_UNPROVEN,
        };
        self.waiting < most
    }
}

/// Both ends of a new pipe.
pub(crate) fn pipe() -> (Pipe, PipeEnd) {
    let shared = Arc::<Mutex<Shared>>::default();
    let pipe = Pipe {
        shared: shared.clone(),
    };
    (pipe, PipeEnd { shared })
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing can panic while the lock is held.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the WebSocket is gone")
}

impl PipeEnd {
    /// Whether the lane takes more; wakes the task when it does again.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.shared);
        if shared.has_room() {
            return Poll::Ready(());
        }
        shared.owner = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The peer has proven who it is: as much may wait as a fast path needs.
    pub(crate) fn widen(&self) {
        let owner = {
            let mut shared = lock(&self.shared);
            shared.is_wide = true;
            shared.owner.take()
        };
        wake(owner);
    }

    /// Bytes of the peer.
    pub(crate) fn push(&self, bytes: Bytes) {
        let reader = {
            let mut shared = lock(&self.shared);
            shared.waiting += bytes.len();
            shared.inbound.push_back(bytes);
            shared.reader.take()
        };
        wake(reader);
    }

    /// The peer sends no more.
    pub(crate) fn end(&self) {
        let reader = {
            let mut shared = lock(&self.shared);
            shared.ended = true;
            shared.reader.take()
        };
        wake(reader);
    }

    /// Bytes for the peer, at most so many; `None` when there are no more, each time it is asked.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Bytes>> {
        let (bytes, writer) = {
            let mut shared = lock(&self.shared);
            if shared.outbound.is_empty() {
                if shared.closed {
                    return Poll::Ready(None);
                }
                shared.owner = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let count = shared.outbound.len().min(most);
            let bytes = shared.outbound.split_to(count).freeze();
            if shared.outbound.is_empty() {
                // Idle lanes keep no buffer.
                shared.outbound = BytesMut::new();
            }
            (bytes, shared.writer.take())
        };
        wake(writer);
        Poll::Ready(Some(bytes))
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let wakers = {
            let mut shared = lock(&self.shared);
            shared.lost = true;
            [shared.reader.take(), shared.writer.take()]
        };
        wakers.into_iter().for_each(wake);
    }
}

impl fmt::Debug for PipeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeEnd").finish_non_exhaustive()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let (count, owner) = {
            let mut shared = lock(&self.shared);
            let Some(front) = shared.inbound.front_mut() else {
                shared.is_read = shared.ended || shared.lost;
                return match (shared.ended, shared.lost) {
                    (true, _) => Poll::Ready(Ok(0)),
                    (false, true) => Poll::Ready(Err(lost())),
                    (false, false) => {
                        shared.reader = Some(cx.waker().clone());
                        Poll::Pending
                    }
                };
            };
            let count = front.len().min(buf.len());
            front.copy_to_slice(&mut buf[..count]);
            if front.is_empty() {
                shared.inbound.pop_front();
            }
            let was_full = !shared.has_room();
            shared.waiting -= count;
            let has_room = was_full && shared.has_room();
            (count, has_room.then(|| shared.owner.take()).flatten())
        };
        wake(owner);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (count, owner) = {
            let mut shared = lock(&self.shared);
            if shared.lost {
                // Who reads the rest may have to write meanwhile, and must not fail before its end. Noise may hold a part
                // of it.
                return Poll::Ready(match shared.is_read {
                    true => Err(lost()),
                    false => Ok(buf.len()),
                });
            }
            if shared.closed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = buf.len().min(MAX_OUTBOUND - shared.outbound.len());
            if count == 0 && !buf.is_empty() {
                shared.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            shared.outbound.extend_from_slice(&buf[..count]);
            (count, shared.owner.take())
        };
        wake(owner);
        Poll::Ready(Ok(count))
    }

    /// What was written leaves by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = lock(&self.shared);
        match shared.lost && shared.is_read {
            true => Poll::Ready(Err(lost())),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let owner = {
            let mut shared = lock(&self.shared);
            shared.closed = true;
            shared.owner.take()
        };
        wake(owner);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    /// What was written is still sent; what has come nobody reads.
    fn drop(&mut self) {
        let owner = {
            let mut shared = lock(&self.shared);
            shared.closed = true;
            shared.inbound = VecDeque::new();
            shared.waiting = 0;
            shared.owner.take()
        };
        wake(owner);
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::{
        AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future::poll_fn,
        task::noop_waker_ref,
    };

    use super::*;

    fn take(end: &PipeEnd) -> Poll<Option<Bytes>> {
        end.poll_take(&mut Context::from_waker(noop_waker_ref()), 1000)
    }

    #[tokio::test]
    async fn bytes_come_in_order_and_then_the_end() {
        let (mut pipe, end) = pipe();
        end.push(Bytes::from_static(b"first "));
        end.push(Bytes::from_static(b"second"));
        end.end();
        let mut all = String::new();
        pipe.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "first second");
        assert_eq!(pipe.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_owner_waits_while_nobody_reads() {
        let (mut pipe, end) = pipe();
        let mut cx = Context::from_waker(noop_waker_ref());
        while end.poll_room(&mut cx).is_ready() {
            end.push(Bytes::from_static(&[7; 10_000]));
        }
        assert!(lock(&end.shared).waiting < MAX_UNPROVEN + 10_000);
        end.widen();
        while end.poll_room(&mut cx).is_ready() {
            end.push(Bytes::from_static(&[7; 10_000]));
        }
        assert!((MAX_INBOUND..MAX_INBOUND + 10_000).contains(&lock(&end.shared).waiting));
        let reading = async {
            let mut buf = vec![0; 20_000];
            pipe.read_exact(&mut buf).await.unwrap();
        };
        futures::join!(poll_fn(|cx| end.poll_room(cx)), reading);
    }

    #[tokio::test]
    async fn a_writer_waits_while_nothing_leaves() {
        let (mut pipe, end) = pipe();
        let bytes = vec![1; MAX_OUTBOUND + 1];
        let mut writing = pipe.write_all(&bytes).boxed();
        assert!(writing.as_mut().now_or_never().is_none());
        let taking = poll_fn(|cx| end.poll_take(cx, 1000));
        let (written, taken) = futures::join!(writing, taking);
        written.unwrap();
        assert_eq!(taken.unwrap().len(), 1000);
    }

    #[tokio::test]
    async fn a_closed_lane_ends_behind_its_last_byte() {
        let (mut pipe, end) = pipe();
        pipe.write_all(b"last").await.unwrap();
        pipe.close().await.unwrap();
        let error = pipe.write(b"late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(take(&end), Poll::Ready(Some(Bytes::from_static(b"last"))));
        assert_eq!(take(&end), Poll::Ready(None));
        assert_eq!(take(&end), Poll::Ready(None));
    }

    #[tokio::test]
    async fn a_lane_that_is_gone_holds_nothing_up() {
        let (mut pipe, end) = pipe();
        pipe.write_all(b"last").await.unwrap();
        let mut cx = Context::from_waker(noop_waker_ref());
        end.push(Bytes::from_static(&[7; MAX_INBOUND]));
        assert!(end.poll_room(&mut cx).is_pending());
        drop(pipe);
        assert!(end.poll_room(&mut cx).is_ready());
        assert_eq!(take(&end), Poll::Ready(Some(Bytes::from_static(b"last"))));
        assert_eq!(take(&end), Poll::Ready(None));
    }

    /// yamux writes while it reads, and fails altogether when it cannot.
    #[tokio::test]
    async fn what_has_come_is_read_before_the_loss_is_told() {
        let (mut pipe, end) = pipe();
        end.push(Bytes::from_static(b"rest"));
        drop(end);
        assert_eq!(pipe.write(b"into the void").await.unwrap(), 13);
        pipe.flush().await.unwrap();
        assert_eq!(pipe.read(&mut [0; 8]).await.unwrap(), 4);
        pipe.flush().await.unwrap();
        assert!(pipe.read(&mut [0; 8]).await.is_err());
        assert!(pipe.write(b"x").await.is_err() && pipe.flush().await.is_err());
    }

    #[tokio::test]
    async fn who_waits_is_told_that_the_connection_is_lost() {
        let (mut pipe, end) = pipe();
        end.push(Bytes::from_static(b"rest"));
        let mut buf = [0; 8];
        assert_eq!(pipe.read(&mut buf).await.unwrap(), 4);
        let (error, ()) = futures::join!(pipe.read(&mut buf), async { drop(end) });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        for error in [
            pipe.write(b"x").await.unwrap_err(),
            pipe.flush().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}
