//! The protocol engines under a connection: DTLS and SCTP, each behind an interface in our own terms.
//!
//! [`dtls`] is the only place that names the types of the crate underneath, so that replacing it touches one file;
//! [`sctp`] is our own. A connection owns one of each; nobody else calls them.

pub(crate) mod dtls;
pub(crate) mod sctp;
