//! What is wrong with a compressed direction. All of it is the peer's doing, and costs the stream (`corrupt`).

/// Why a direction cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// No chunk begins like this under the method in use.
    #[error("a chunk of kind {0:#04x} under this compress_method")]
    Kind(u8),
    /// A body is longer than what is in it.
    #[error("a chunk whose body is longer than its contents")]
    BodyLength,
    /// A body does not hold what its header says.
    #[error("a chunk that does not decode to the length that it declares")]
    Body,
    /// A running chunk goes on where none has begun.
    #[error("a running chunk without a beginning")]
    NotRunning,
    /// The peer began more running frames than it was given.
    #[error("more running frames than were offered")]
    TooManyRunning,
    /// The direction ended inside a chunk.
    #[error("the direction ended inside a chunk")]
    Truncated,
    /// The direction has failed before.
    #[error("an earlier chunk was corrupt")]
    Failed,
}
