//! A system without congestion control options.

use tokio::net::TcpStream;

use super::{AlgorithmError, AlgorithmName};

pub(super) fn current(_: &TcpStream) -> Option<AlgorithmName> {
    None
}

pub(super) fn set(_: &TcpStream, _: AlgorithmName) -> Result<(), AlgorithmError> {
    Err(AlgorithmError::Unsupported)
}

pub(super) fn default_algorithm() -> Option<AlgorithmName> {
    None
}

pub(super) fn check(_: AlgorithmName) -> Result<(), AlgorithmError> {
    Err(AlgorithmError::Unsupported)
}
