//! The pure part of rePort: bytes in, bytes out.
//!
//! Time and randomness are arguments. The crate has no runtime, no sockets and no clock of its own.
//!
//! | module | content |
//! |---|---|
//! | [`frame`] | link frames: encode, decode, limits |
//! | [`mux`] | streams in a tunnel: windows, acknowledgement, resumption, scheduling |
//! | [`drr`] | the scheduler of streams and of channels |
//! | [`crypto`] | key derivation, proofs, the tunnel handshake, sealing |
//! | [`compress`] | chunks of a stream |
//! | [`constants`] | constants that several layers use |
//! | [`id`], [`map`] | 16-byte identifiers; the hash table of the data path |
//!
//! `frame`, `mux`, `crypto` and `compress` do not import each other. The protocol is specified in
//! `docs/PROTOCOL.md`, and `tests/vectors/` holds a test vector for each layout.

// No input may cause a panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
// Tests choose a start time. The build without tests keeps the crate free of clocks.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod compress;
pub mod constants;
pub mod crypto;
pub mod drr;
pub mod frame;
pub mod id;
pub mod map;
pub mod mux;
