//! The protocol engines under a connection: DTLS and SCTP, each behind an interface in our own terms.
//!
//! [`dtls`] and [`sctp`] are the only places that name the types of the crates underneath, so that replacing one of
//! them touches one file. A connection owns one of each; nobody else calls them.

pub(crate) mod dtls;
pub(crate) mod sctp;
mod sctp_packet;
