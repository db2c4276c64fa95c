//! Compression of a stream, chunk by chunk (PROTOCOL 11).
//!
//! ```text
//! raw bytes ──Compressor──► chunks ──Decompressor──► raw bytes
//!                │ backoff                │
//!                └───────── Pool ─────────┘   contexts for one chunk or one running frame
//! ```
//!
//! This layer works on bytes only. A stream allocates little until it moves data. It borrows large
//! contexts from the pool.
//!
//! | file | contents |
//! |---|---|
//! | [`method`] | the compression methods |
//! | [`chunk`] | the header of a chunk |
//! | `compressor`, `backoff` | the choice of the chunk kind to send |
//! | `decompressor` | reassembly of chunks from received pieces |
//! | `s2`, `zstd` | encoding and decoding of one chunk's body |
//! | [`pool`] | contexts and budgets |

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
