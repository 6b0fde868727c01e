//! The user of a client session as its far end.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::oneshot,
};

use crate::socketpipe::backend::{Backend, Exit};

/// Our end of the user's pipe.
pub(super) struct Pipe {
    pipe: DuplexStream,
    /// Ends when the user drops the session.
    gone: oneshot::Receiver<()>,
}

impl Pipe {
    pub(super) fn new(pipe: DuplexStream, gone: oneshot::Receiver<()>) -> Self {
        Self { pipe, gone }
    }
}

impl Backend for Pipe {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }

    /// A user who writes no more may still read.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        Pin::new(&mut self.gone).poll(cx).map(|_| Exit::Closed)
    }
}
