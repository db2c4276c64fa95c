//! Errors of the multiplexer: protocol errors, which end the tunnel, and errors of one stream.

use super::frame::ResetCode;

/// A violation of the protocol by the peer. The tunnel must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// A frame is malformed or out of state.
    #[error("the peer broke the tunnel protocol: {0}")]
    Protocol(&'static str),
    /// The peer sent more than its credit allows.
    #[error("the peer sent beyond its credit: {0}")]
    FlowControl(&'static str),
}

/// The reason why an operation on a stream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer or this end reset the stream.
    #[error("the stream was reset: {0}")]
    Reset(ResetCode),
    /// The application finished this direction before.
    #[error("the stream was already finished")]
    Finished,
    /// The write exceeds the peer's credit.
    #[error("the write exceeds the peer's credit")]
    NoCredit,
    /// The stream does not exist, or not any more.
    #[error("there is no such stream")]
    Unknown,
}
