//! Connections that are set up through signaling, behind NATs, over TURN servers, and after their path broke.

mod hostile;
mod paths;
mod sharing;
mod transfer;
mod world;
