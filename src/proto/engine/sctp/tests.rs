//! Two associations over a link that delays, loses, duplicates and reorders, in virtual time.

mod association;
mod hostile;
mod link;
mod peers;
mod raw;
mod transfer;
