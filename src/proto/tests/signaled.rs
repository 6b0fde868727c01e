//! Connections that are set up through signaling, behind NATs, over TURN servers, and after their path broke.

mod hostile;
#[cfg(feature = "socketpipe")]
mod outside;
mod paths;
mod sharing;
mod transfer;
mod world;

#[cfg(feature = "socketpipe")]
pub(crate) use self::outside::Channel;
