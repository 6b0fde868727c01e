//! The plain lane: libp2p's usual upgrade over the bytes of DATA, Noise and then yamux.
//!
//! The dialer of the WebSocket is the dialer of the lane. A server between cannot read or change what goes by it, only
//! cut it.

use libp2p_core::{
    Negotiated,
    upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _, UpgradeInfo as _},
};
use libp2p_identity::{Keypair, PeerId};
use multistream_select::{Version, dialer_select_proto, listener_select_proto};

use super::{error::Error, modest::Modest, pipe::Pipe};
use crate::proto::Side;

/// What multiplexes the streams of a plain lane.
pub(crate) type Muxer =
    libp2p_yamux::Muxer<Negotiated<libp2p_noise::Output<Modest<Negotiated<Pipe>>>>>;

/// Proves identities and agrees on yamux. Of the three messages of Noise (the pattern XX) the listener reads two.
pub(crate) async fn negotiate(
    keypair: Keypair,
    pipe: Pipe,
    role: Side,
) -> Result<(PeerId, Muxer), Error> {
    let noise = libp2p_noise::Config::new(&keypair)?;
    let yamux = libp2p_yamux::Config::default();
    match role {
        Side::Dialer => {
            let (name, io) =
                dialer_select_proto(pipe, noise.protocol_info(), Version::V1Lazy).await?;
            let (peer, io) = noise.upgrade_outbound(Modest::new(io, 1), name).await?;
            // Not the lazy form: it says nothing before somebody opens a stream, and the listener waits.
            let (name, io) = dialer_select_proto(io, yamux.protocol_info(), Version::V1).await?;
            Ok((
                peer,
                yamux
                    .upgrade_outbound(io, name)
                    .await
                    .map_err(Error::Lane)?,
            ))
        }
        Side::Listener => {
            let (name, io) = listener_select_proto(pipe, noise.protocol_info()).await?;
            let (peer, io) = noise.upgrade_inbound(Modest::new(io, 2), name).await?;
            let (name, io) = listener_select_proto(io, yamux.protocol_info()).await?;
            Ok((
                peer,
                yamux.upgrade_inbound(io, name).await.map_err(Error::Lane)?,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{AsyncWriteExt as _, future::join};

    use super::*;
    use crate::websocket::pipe::{PipeEnd, pipe};

    /// Carries bytes both ways, for ever.
    async fn carry(one: PipeEnd, other: PipeEnd) {
        let there = async {
            while let Some(bytes) = poll_fn(|cx| one.poll_take(cx, 1000)).await {
                other.push(bytes);
            }
            other.end();
        };
        let back = async {
            while let Some(bytes) = poll_fn(|cx| other.poll_take(cx, 1000)).await {
                one.push(bytes);
            }
            one.end();
        };
        join(there, back).await;
    }

    #[tokio::test]
    async fn a_lane_proves_both_identities() {
        let [near_key, far_key] = [(); 2].map(|()| Keypair::generate_ed25519());
        let ((near, near_end), (far, far_end)) = (pipe(), pipe());
        let carrying = tokio::spawn(carry(near_end, far_end));
        let (near, far) = join(
            negotiate(near_key.clone(), near, Side::Dialer),
            negotiate(far_key.clone(), far, Side::Listener),
        )
        .await;
        let ((far_peer, _near), (near_peer, _far)) = (near.unwrap(), far.unwrap());
        assert_eq!(far_peer, far_key.public().to_peer_id());
        assert_eq!(near_peer, near_key.public().to_peer_id());
        carrying.abort();
    }

    #[tokio::test]
    async fn a_peer_that_speaks_something_else_is_an_error() {
        let ((near, near_end), (mut far, far_end)) = (pipe(), pipe());
        let carrying = tokio::spawn(carry(near_end, far_end));
        let answer = async {
            far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
            far.close().await.unwrap();
        };
        let key = Keypair::generate_ed25519();
        let (result, ()) = join(negotiate(key, near, Side::Dialer), answer).await;
        assert!(result.is_err());
        carrying.abort();
    }
}
