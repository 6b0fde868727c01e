//! The protocol core: WebRTC for libp2p without input or output.
//!
//! Owns every protocol decision: checks, DTLS, SCTP, data channels, libp2p framing. It has no socket, no runtime, no
//! clock and no randomness of its own: each call takes the time, the endpoint takes a seed. The shell in
//! `crate::transport` feeds it datagrams and calls of handles, and carries datagrams and events away; nobody else
//! calls it. Noise, addresses and listening are the shell's job.
//!
//! The contract: any number of inward calls (`handle_*`, `dial`, `open`, `write`, …), then [`Endpoint::process`],
//! [`Endpoint::poll_event`] until it gives nothing, `process` again if anything was done about the events,
//! [`Endpoint::poll_transmit`] until it gives nothing, [`Endpoint::poll_timeout`]. A datagram is never an error.

pub(crate) mod candidate;
pub(crate) mod channel;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod contact;
pub(crate) mod credentials;
pub(crate) mod dcep;
pub(crate) mod deadlines;
pub(crate) mod demux;
pub(crate) mod endpoint;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod fingerprint;
pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod ice;
pub(crate) mod mdns;
pub(crate) mod outbox;
pub(crate) mod prober;
pub(crate) mod sdp;
pub(crate) mod stun;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::{
    config::{Limits, MIN_RESTING_STREAMS},
    endpoint::Endpoint,
    engine::dtls::{DtlsContext, Identity, IdentityError},
    error::{CloseReason, DropReason, Phase},
    event::{
        ChannelId, ConnectionId, Counters, Dial, DialPolicy, Event, HandshakePhase, Read, Side,
        Write,
    },
    outbox::Transmit,
};
