//! What can go wrong in a mux: by the peer (the tunnel ends), or for one stream.

use super::frame::ResetCode;

/// The peer broke the protocol: the tunnel cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// A frame that is malformed or out of state.
    #[error("the peer broke the tunnel protocol: {0}")]
    Protocol(&'static str),
    /// The peer sent more than it was given credit for.
    #[error("the peer sent beyond its credit: {0}")]
    FlowControl(&'static str),
}

/// Why a stream cannot do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The stream was given up, by the peer or here.
    #[error("the stream was reset: {0}")]
    Reset(ResetCode),
    /// This direction was already finished here.
    #[error("the stream was already finished")]
    Finished,
    /// More was written than the peer's credit allows.
    #[error("the peer has given no credit for so much")]
    NoCredit,
    /// There is no such stream, or no longer.
    #[error("there is no such stream")]
    Unknown,
}
