//! What crosses the boundary between the core and the shell: ids, events, outcomes, figures.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;

use super::{
    candidate::Candidate,
    credentials::IceVersion,
    error::{CloseReason, DropReason, Phase},
    fingerprint::Fingerprint,
    ice::ServerNews,
};

/// One connection of one endpoint, for its whole life; never reused. Calls with an unknown id do nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// One channel of a connection; the generation tells uses of the same SCTP stream apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct ChannelId {
    /// The SCTP stream.
    pub(crate) stream: u16,
    /// Which use of it.
    pub(crate) generation: u32,
}

impl ChannelId {
    /// The channel of the Noise handshake, there from the start on both sides (libp2p WebRTC Direct, id 0).
    pub(crate) const HANDSHAKE: Self = Self {
        stream: 0,
        generation: 0,
    };
}

/// Our role. The dialer is the DTLS client and owns the even stream ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// We dialed.
    Dialer,
    /// We were dialed.
    Listener,
}

/// Which credentials a dial offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DialPolicy {
    /// Only version 1.
    V1,
    /// Only version 2.
    V2,
    /// Version 1, and version 2 too after one second without an answer.
    Auto,
}

/// One dial.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    /// The address to dial.
    pub(crate) remote: SocketAddr,
    /// Which credentials to offer.
    pub(crate) policy: DialPolicy,
    /// The peer must present one of these certificates.
    pub(crate) fingerprints: Vec<Fingerprint>,
}

/// What happened on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Listener only, first event: a peer finished its DTLS handshake.
    Incoming {
        /// Where it is.
        remote: SocketAddr,
        /// Which of our addresses it asked.
        local_ip: Option<IpAddr>,
    },
    /// SCTP is up, the handshake channel can be used.
    Ready {
        /// The peer's certificate.
        remote_fingerprint: Fingerprint,
        /// Which credentials were used; none if the connection was signaled.
        version: Option<IceVersion>,
    },
    /// The peer opened a channel.
    ChannelOpened(ChannelId),
    /// `open` said no before and may succeed now.
    OpenPossible,
    /// `read` gives something new after it said `Blocked`.
    ChannelReadable(ChannelId),
    /// `write` that took less than given may go on, or will say why not.
    ChannelWritable(ChannelId),
    /// Nothing more happens on this channel.
    ChannelClosed(ChannelId),
    /// The peer moved to another address.
    AddressChanged(SocketAddr),
    /// Signaled: the peer is to be told of this candidate of ours.
    Candidate(Box<Candidate>),
    /// Signaled: there are no more.
    EndOfCandidates,
    /// Signaled: data goes by this path now. Also when it comes back after [`Self::PathLost`].
    PathSelected {
        /// The peer's address, as we see it.
        remote: SocketAddr,
        /// By a TURN server, ours or, as far as it said so, the peer's.
        relayed: bool,
    },
    /// Signaled: nothing comes by the path any more. An ICE restart may find another one.
    PathLost,
    /// Signaled: what a STUN or TURN server has shown.
    Server(ServerNews),
    /// Last event.
    Closed(CloseReason),
}

/// What `read` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Bytes, never none.
    Data(Bytes),
    /// Nothing now.
    Blocked,
    /// The peer sent FIN; repeatable.
    Eof,
    /// Reset with the peer's error code; repeatable.
    Reset(Option<u32>),
}

/// What `write` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Took so many bytes.
    Accepted(usize),
    /// The peer sent STOP_SENDING.
    Stopped,
    /// Finished, reset or gone.
    Closed,
}

/// Figures of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathStats {
    /// Smoothed round trip, once measured.
    pub(crate) rtt: Option<Duration>,
    /// DATA chunks sent again.
    pub(crate) retransmissions: u64,
}

/// Figures of one endpoint since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Datagrams handed in.
    pub(crate) datagrams_received: u64,
    /// Datagrams handed out.
    pub(crate) datagrams_sent: u64,
    /// Their bytes.
    pub(crate) bytes_received: u64,
    /// Their bytes.
    pub(crate) bytes_sent: u64,
    /// Dropped packets by reason.
    pub(crate) dropped: [u64; DropReason::COUNT],
    /// DATA chunks sent again, over all connections.
    pub(crate) retransmissions: u64,
    /// Channels opened by either side.
    pub(crate) channels_opened: u64,
    /// Channels gone.
    pub(crate) channels_closed: u64,
    /// Channels reset because nobody read them.
    pub(crate) streams_stalled: u64,
}

impl Counters {
    /// Counts a dropped packet.
    pub(crate) fn drop_packet(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

/// One phase of a handshake that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandshakePhase {
    /// Our role.
    pub(crate) side: Side,
    /// Which phase.
    pub(crate) phase: Phase,
    /// How long it took.
    pub(crate) duration: Duration,
    /// Whether it succeeded.
    pub(crate) ok: bool,
}

const _: () = assert!(size_of::<Event>() <= 56, "events are moved around a lot");
