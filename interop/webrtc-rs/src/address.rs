//! Addresses of the transport: `/ip4/../tcp/../(ws|tls/ws|wss)/webrtc/p2p/..`.

use std::str::FromStr;

use libp2p_identity::PeerId;

use crate::Failure;

/// Where a node listens, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Of its WebSocket.
    pub(crate) url: String,
    pub(crate) peer: PeerId,
}

impl FromStr for Address {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let parts: Vec<_> = text.split('/').collect();
        let ["", family, host, "tcp", port, rest @ ..] = parts.as_slice() else {
            return Err(format!("{text} does not begin with a host and a TCP port").into());
        };
        let host = match *family {
            "ip4" | "dns" | "dns4" | "dns6" => (*host).to_owned(),
            "ip6" => format!("[{host}]"),
            other => return Err(format!("{text}: what is {other}?").into()),
        };
        let (scheme, peer) = match rest {
            ["ws", "webrtc", "p2p", peer] => ("ws", peer),
            ["wss", "webrtc", "p2p", peer] | ["tls", "ws", "webrtc", "p2p", peer] => ("wss", peer),
            _ => return Err(format!("{text} does not end with (tls/)ws/webrtc/p2p/ID").into()),
        };
        Ok(Self {
            url: format!("{scheme}://{host}:{port}/webrtc"),
            peer: peer.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read_and_others_are_not() {
        let peer = "12D3KooWA23EmP7xQ8RoLaFAEwLghcq25pFdeFbTwReeAuqRR5Zi";
        for (address, url) in [
            (
                "/ip4/127.0.0.1/tcp/80/ws/webrtc",
                "ws://127.0.0.1:80/webrtc",
            ),
            ("/ip6/::1/tcp/8443/wss/webrtc", "wss://[::1]:8443/webrtc"),
            (
                "/dns/localhost/tcp/8443/tls/ws/webrtc",
                "wss://localhost:8443/webrtc",
            ),
        ] {
            let address: Address = format!("{address}/p2p/{peer}").parse().unwrap();
            assert_eq!(
                (address.url.as_str(), address.peer.to_base58()),
                (url, peer.to_owned())
            );
        }
        for wrong in [
            "/ip4/127.0.0.1/tcp/80/ws/webrtc".to_owned(),
            format!("/ip4/127.0.0.1/tcp/80/ws/p2p/{peer}"),
            format!("/ip4/127.0.0.1/udp/80/ws/webrtc/p2p/{peer}"),
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
