//! A libp2p connection without WebRTC: the byte stream in the DATA frames of the WebSocket, with Noise and yamux.

use std::task::Poll;

use bytes::Bytes;
use libp2p_core::upgrade::OutboundConnectionUpgrade as _;
use libp2p_identity::{Keypair, PeerId};
use multistream_select::{Version, dialer_select_proto};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::{mpsc, oneshot},
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use yamux::{Config, Connection, Mode};

use crate::{
    Failure,
    checks::{self, Opener, Raw},
    frame::Frame,
    websocket::Socket,
};

/// Bytes of a frame.
const PIECE: usize = 16 * 1024;
/// Streams that are asked for and not made yet.
const MAX_REQUESTS: usize = 16;

/// Opens streams of yamux.
pub(crate) struct Plain {
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
}

impl Plain {
    /// Goes through libp2p's usual upgrade, as the dialer.
    pub(crate) async fn connect(socket: Socket, key: &Keypair) -> Result<(Self, PeerId), Failure> {
        let (ours, theirs) = duplex(PIECE);
        tokio::spawn(async move {
            if let Err(error) = carry(socket, theirs).await {
                eprintln!("webrtc-rs: the byte stream ended: {error}");
            }
        });
        let (_, stream) = dialer_select_proto(ours.compat(), ["/noise"], Version::V1).await?;
        let noise = libp2p_noise::Config::new(key)?;
        let (peer, stream) = noise.upgrade_outbound(stream, "/noise").await?;
        let (_, stream) = dialer_select_proto(stream, ["/yamux/1.0.0"], Version::V1).await?;
        let (requests, inbox) = mpsc::channel(MAX_REQUESTS);
        tokio::spawn(drive(
            Connection::new(stream, Config::default(), Mode::Client),
            inbox,
        ));
        Ok((Self { requests }, peer))
    }
}

impl Opener for Plain {
    async fn open(&self) -> Result<Raw, Failure> {
        let (sender, stream) = oneshot::channel();
        self.requests.send(sender).await?;
        Ok(Box::new(stream.await?))
    }
}

/// Moves bytes between frames and the stream.
async fn carry(mut socket: Socket, stream: DuplexStream) -> Result<(), Failure> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = vec![0; PIECE];
    loop {
        tokio::select! {
            frame = socket.receive() => match frame? {
                Some(Frame::Plain(bytes)) => writer.write_all(&bytes).await?,
                Some(Frame::Ping(payload)) => socket.send(&Frame::Pong(payload)).await?,
                Some(Frame::Close { .. }) | None => return Ok(()),
                Some(other) => return Err(format!("{other:?} came out of turn").into()),
            },
            count = reader.read(&mut buffer) => match count? {
                0 => return Ok(()),
                count => {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    socket.send(&Frame::Plain(bytes)).await?;
                }
            },
        }
    }
}

/// Keeps the connection going.
async fn drive<T: futures::AsyncRead + futures::AsyncWrite + Unpin>(
    mut connection: Connection<T>,
    mut inbox: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
) {
    let mut asked = None;
    std::future::poll_fn(|cx| {
        loop {
            if asked.is_none()
                && let Poll::Ready(Some(sender)) = inbox.poll_recv(cx)
            {
                asked = Some(sender);
            }
            let opened = match asked.is_some() {
                true => connection.poll_new_outbound(cx),
                false => Poll::Pending,
            };
            match (opened, asked.take()) {
                (Poll::Ready(Ok(stream)), Some(sender)) => {
                    // Whoever asked may have given up.
                    drop(sender.send(stream));
                    continue;
                }
                (_, sender) => asked = sender,
            }
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => checks::serve(stream),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
