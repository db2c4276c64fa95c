//! Compression of a stream, chunk by chunk (PROTOCOL 11).
//!
//! ```text
//! raw bytes ──Compressor──► chunks ──Decompressor──► raw bytes
//!                │ backoff                │
//!                └───────── Pool ─────────┘   contexts, borrowed for one chunk or, within a budget, for long
//! ```
//!
//! Knows bytes, and nothing else. What belongs to a stream is small until the stream moves data; what is large is borrowed.
//!
//! | file | what it owns |
//! |---|---|
//! | [`method`] | the names |
//! | [`chunk`] | the header of a chunk |
//! | `compressor`, `backoff` | which kind of chunk to send |
//! | `decompressor` | putting chunks together from the pieces that arrive |
//! | `s2`, `zstd` | one chunk's body |
//! | [`pool`] | contexts and budgets |
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

mod backoff;
pub mod chunk;
mod compressor;
mod decompressor;
mod error;
pub mod method;
pub mod pool;
mod s2;
#[cfg(test)]
mod tests;
mod zstd;

pub use chunk::MAX_CHUNK;
pub use compressor::{Compressor, max_wire_length};
pub use decompressor::{Chunk, Decompressor};
pub use error::CompressError;
pub use method::{CompressMethod, UnknownCompressMethod};
pub use pool::{Pool, PoolLimits};
