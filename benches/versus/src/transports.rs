//! The three transports under comparison behind one boxed type, and what is known to differ in
//! how each must be used.

use std::net::Ipv4Addr;

use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identity::Keypair,
    multiaddr::Protocol,
};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// A transport as a `Swarm` takes it.
pub type BoxedTransport = Boxed<(PeerId, StreamMuxerBox)>;

/// One of the compared transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The transport of this repository.
    Rtc,
    /// Upstream `libp2p-webrtc` 0.10.0-alpha.
    Webrtc,
    /// `libp2p-quic`, the fastest transport of rust-libp2p, as the yardstick.
    Quic,
}

/// How a program has to write into a stream of a transport.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    /// Bytes handed over in one write.
    pub size: u32,
    /// Whether every write is followed by a flush.
    pub flush: bool,
}

impl Kind {
    /// The transports this build can measure.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Webrtc, Self::Quic];
        if cfg!(feature = "rtc") {
            all.insert(0, Self::Rtc);
        }
        all
    }

    /// The name used on the command line and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtc => "rtc",
            Self::Webrtc => "webrtc",
            Self::Quic => "quic",
        }
    }

    /// A fresh transport for the identity `keypair`, with every setting at its default.
    pub fn build(self, keypair: &Keypair) -> Result<BoxedTransport, Failure> {
        match self {
            Self::Rtc => rtc(keypair),
            Self::Webrtc => {
                use libp2p_webrtc::tokio::{Certificate, Transport};
                let certificate = Certificate::generate(&mut rand::rng())?;
                Ok(Transport::new(keypair.clone(), certificate)
                    .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                    .boxed())
            }
            Self::Quic => {
                use libp2p::quic::{Config, tokio::Transport};
                Ok(Transport::new(Config::new(keypair))
                    .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                    .boxed())
            }
        }
    }

    /// The address to listen on at `port` of the loopback interface; 0 lets the system choose.
    pub fn listen_addr(self, port: u16) -> Multiaddr {
        let udp = Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Udp(port));
        match self {
            Self::Rtc | Self::Webrtc => udp.with(Protocol::WebRTCDirect),
            Self::Quic => udp.with(Protocol::QuicV1),
        }
    }

    /// Whether a dialer must listen before it dials: upstream sends its checks from the socket of
    /// a listener and fails with `NoListeners` otherwise.
    pub fn dials_from_listener(self) -> bool {
        self == Self::Webrtc
    }

    /// Whether every dial needs a transport and a socket of its own: with upstream the second
    /// dial from one socket to the same address hangs until its time-out.
    pub fn needs_fresh_dialer(self) -> bool {
        self == Self::Webrtc
    }

    /// How many dials may be under way where a row needs them all to succeed. Upstream loses some
    /// as soon as two overlap at the listener.
    pub fn dials_at_a_time(self) -> usize {
        if self == Self::Webrtc { 1 } else { 8 }
    }

    /// How to write into its streams. Upstream reads into 8 KiB and fails on a longer message, so
    /// it only works when the writer keeps each message below that by flushing.
    pub fn writes(self) -> Writes {
        match self {
            Self::Rtc | Self::Quic => Writes {
                size: 64 * 1024,
                flush: false,
            },
            Self::Webrtc => Writes {
                size: 8_000,
                flush: true,
            },
        }
    }
}

/// Chooses the cryptography of upstream `libp2p-webrtc` for this process.
///
/// Its DTLS takes the process-wide default of rustls and panics on every connection when there is
/// none, which is so in any program that also uses `libp2p-quic`: one enables `ring`, the other
/// `aws-lc-rs`, and rustls refuses to guess. The choice made here is the one upstream has alone.
pub fn choose_provider() {
    // It only fails when a choice was made already.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// The transport of this repository.
#[cfg(feature = "rtc")]
fn rtc(keypair: &Keypair) -> Result<BoxedTransport, Failure> {
    let config = libp2p_rtc::Config::new(keypair);
    Ok(libp2p_rtc::Transport::new(config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

/// Stands in for the transport of this repository in a build without it.
#[cfg(not(feature = "rtc"))]
fn rtc(_: &Keypair) -> Result<BoxedTransport, Failure> {
    Err("this build is without the feature `rtc`".into())
}

/// The address with the UDP port replaced, everything else kept.
pub fn with_port(addr: &Multiaddr, port: u16) -> Multiaddr {
    addr.iter()
        .map(|part| match part {
            Protocol::Udp(_) => Protocol::Udp(port),
            other => other,
        })
        .collect()
}

/// The UDP port of an address.
pub fn port_of(addr: &Multiaddr) -> Option<u16> {
    addr.iter().find_map(|part| match part {
        Protocol::Udp(port) => Some(port),
        _ => None,
    })
}
