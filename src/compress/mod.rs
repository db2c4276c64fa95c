//! Compression of a stream, chunk by chunk.
