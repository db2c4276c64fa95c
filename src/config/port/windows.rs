//! The receive windows of the tunnels of a port.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::{
    ByteSize,
    bounded::SizeIn,
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
    values::is_default,
};

/// A maximum receive window. The minimum is one whole message. A tunnel's maximum must fit into the
/// `CHANNEL_LIMIT` of a master (PROTOCOL 12).
pub(super) type WindowLimit = SizeIn<{ 64 << 10 }, { 32 << 20 }, 0>;

/// The largest receive windows. A window bounds the data on the way to this end, and so the memory.
/// Windows start small and grow only when the path needs it. If only one of them is set, the
/// default of the other adapts to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"stream\": SIZE, \"tunnel\": SIZE}"
)]
pub struct WindowsConfig {
    /// The window of one connection, at most `tunnel`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "16 MiB"))]
    pub stream: Option<WindowLimit>,
    /// The window of all connections of one tunnel together.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "32 MiB"))]
    pub tunnel: Option<WindowLimit>,
}

/// The maximum receive windows of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The maximum of one stream. It does not exceed that of the tunnel.
    pub stream: ByteSize,
    /// The maximum of all streams of a tunnel together.
    pub tunnel: ByteSize,
}

impl Default for Windows {
    /// The values of PROTOCOL 12.
    fn default() -> Self {
        Self {
            stream: ByteSize::mib(16),
            tunnel: ByteSize::mib(32),
        }
    }
}

impl Windows {
    /// Overrides these windows. If only one is set, the other adapts to it.
    pub(super) fn with(self, stream: Option<WindowLimit>, tunnel: Option<WindowLimit>) -> Self {
        let stream_size = stream.map_or(self.stream, |size| *size);
        let tunnel_size = tunnel.map_or(self.tunnel, |size| *size);
        match (stream, tunnel) {
            (Some(_), None) => Self {
                stream: stream_size,
                tunnel: tunnel_size.max(stream_size),
            },
            _ => Self {
                stream: stream_size.min(tunnel_size),
                tunnel: tunnel_size,
            },
        }
    }
}

/// Checks that the window of a stream does not exceed that of its tunnel.
pub(super) fn check_windows(
    (stream_path, stream): (&FieldPath, Option<WindowLimit>),
    (tunnel_path, tunnel): (&FieldPath, Option<WindowLimit>),
    checks: &mut RoleChecks<'_>,
) {
    if let Some((stream, tunnel)) = stream.zip(tunnel)
        && stream > tunnel
    {
        let problem =
            format!("is {stream}, more than the {tunnel} of the whole tunnel ({tunnel_path})");
        checks.invalid(stream_path, InvalidValue::new(problem, "lower it"));
    }
}

impl WindowsConfig {
    /// Returns the windows of a port that sets none.
    pub(super) fn windows(&self) -> Windows {
        Windows::default().with(self.stream, self.tunnel)
    }

    /// Checks the rules between fields.
    pub(in crate::config) fn check(&self, path: &FieldPath, checks: &mut RoleChecks<'_>) {
        check_windows(
            (&path.field("stream"), self.stream),
            (&path.field("tunnel"), self.tunnel),
            checks,
        );
    }
}
