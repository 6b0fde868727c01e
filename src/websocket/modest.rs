//! Noise as long as nobody has proven anything: [`Modest`].

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite, ready};

/// Longest message of a Noise handshake that is taken. Noise has 65,535 bytes, all of which its reader would wait for and
/// keep; ours and those of other implementations have some hundred: two keys, an identity key (of RSA too) and what
/// extensions say.
const MAX_HANDSHAKE: usize = 4096;

/// The bytes of a Noise handshake: reading fails where one of its messages, each behind two bytes with its length, is longer
/// than it need be. What follows the handshake is passed on as it is.
pub(crate) struct Modest<S> {
    inner: S,
    /// Messages of the handshake that are still to come.
    messages: usize,
    /// What is still to come of the one that has begun.
    rest: usize,
    /// The first byte of a length whose second one has not come yet.
    high: Option<u8>,
}

impl<S> Modest<S> {
    /// So many messages of the peer belong to the handshake.
    pub(super) fn new(inner: S, messages: usize) -> Self {
        Self {
            inner,
            messages,
            rest: 0,
            high: None,
        }
    }

    fn look_at(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.messages > 0 {
            if self.rest > 0 {
                let count = self.rest.min(bytes.len());
                let (_, behind) = bytes.split_at(count);
                bytes = behind;
                self.rest -= count;
                if self.rest > 0 {
                    return Ok(());
                }
                self.messages -= 1;
                continue;
            }
            let Some((&byte, behind)) = bytes.split_first() else {
                return Ok(());
            };
            bytes = behind;
            let Some(high) = self.high.take() else {
                self.high = Some(byte);
                continue;
            };
            self.rest = usize::from(u16::from_be_bytes([high, byte]));
            if self.rest > MAX_HANDSHAKE {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a message of the Noise handshake is longer than it may be",
                ));
            }
            if self.rest == 0 {
                self.messages -= 1;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Modest<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = buf.get(..count).unwrap_or_default();
        Poll::Ready(self.look_at(read).map(|()| count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Modest<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt as _, FutureExt as _, io::Cursor};

    use super::*;

    /// What is read of these bytes, with a buffer of so many.
    fn read(bytes: &[u8], messages: usize, buffer: usize) -> Result<Vec<u8>, io::ErrorKind> {
        let mut modest = Modest::new(Cursor::new(bytes.to_vec()), messages);
        let (mut all, mut buf) = (Vec::new(), vec![0; buffer]);
        loop {
            let count = modest.read(&mut buf).now_or_never().unwrap();
            match count.map_err(|error| error.kind())? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buf[..count]),
            }
        }
    }

    fn message(len: u16) -> Vec<u8> {
        [&len.to_be_bytes()[..], &vec![0xff; len.into()]].concat()
    }

    #[test]
    fn messages_of_a_handshake_pass_and_what_follows_may_be_anything() {
        let bytes = [message(32), message(0), message(4096), message(65_535)].concat();
        for buffer in [1, 2, 100, 100_000] {
            assert_eq!(read(&bytes, 3, buffer).as_ref(), Ok(&bytes));
            let error = io::ErrorKind::InvalidData;
            assert_eq!(read(&bytes, 4, buffer), Err(error), "{buffer}");
        }
    }

    #[test]
    fn a_long_one_fails_with_its_length() {
        for len in [4097_u16, 65_535] {
            let begin = [message(32), len.to_be_bytes().to_vec()].concat();
            assert_eq!(read(&begin, 2, 100), Err(io::ErrorKind::InvalidData));
        }
    }
}
