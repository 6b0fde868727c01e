//! Tests of the engine: two sessions with wires between them, in virtual time.

mod closing;
mod handshake;
mod network;
mod pair;
mod random;
mod resume;
mod rules;
mod scenarios;
mod upgrade;
