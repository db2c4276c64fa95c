//! The lines of the control socket.

use serde::{Deserialize, Serialize};

/// The longest request, in bytes.
pub(super) const REQUEST_MAX: u64 = 1024;

/// The longest answer, in bytes. It has a line for each problem or port of a configuration.
pub(super) const ANSWER_MAX: u64 = 16 << 20;

/// A command to a running role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlCommand {
    /// Reload the configuration.
    Reload,
    /// Restart a master without a pause.
    Restart,
}

/// A request: one line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlRequest {
    pub command: ControlCommand,
}

/// Encodes a line.
///
/// # Errors
/// Only on an internal error.
pub(super) fn encode(line: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}
