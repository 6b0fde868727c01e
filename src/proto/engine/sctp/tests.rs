//! Two associations over a link that delays, loses, duplicates and reorders, in virtual time.

mod link;
mod transfer;
