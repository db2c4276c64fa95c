//! The errors of a compressed direction. The peer causes all of them, and each resets the stream
//! (`corrupt`).

/// An invalid compressed direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// The method in use does not have this chunk kind.
    #[error("invalid chunk kind {0:#04x} for this compress_method")]
    Kind(u8),
    /// The body of a chunk is longer than its decoded contents.
    #[error("chunk body longer than its contents")]
    BodyLength,
    /// The body of a chunk does not decode to the length in its header.
    #[error("chunk does not decode to its declared length")]
    Body,
    /// A chunk continues a running frame, but none is open.
    #[error("running chunk without a running frame")]
    NotRunning,
    /// The peer started more running frames than this end offered.
    #[error("more running frames than offered")]
    TooManyRunning,
    /// The direction ended inside a chunk.
    #[error("the direction ended inside a chunk")]
    Truncated,
    /// An earlier chunk of the direction was corrupt.
    #[error("an earlier chunk was corrupt")]
    Failed,
}
