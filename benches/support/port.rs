//! The port of a benchmark that uses the library.

use std::time::Duration;

use report::tunnel::{PortParameters, ProcessShared, ServiceProtocol, WindowSize};
use report_proto::{
    compress::CompressMethod,
    crypto::{EncryptMethod, PortKeys},
};

/// The credit of each stream.
pub(crate) const STREAM_WINDOW: WindowSize = WindowSize {
    initial: 256 * 1024,
    max: 16 * 1024 * 1024,
};

/// The credit of all streams of a tunnel.
pub(crate) const TUNNEL_WINDOW: WindowSize = WindowSize {
    initial: 1024 * 1024,
    max: 32 * 1024 * 1024,
};

/// Returns a port without compression.
pub(crate) fn port(mark: &str, port_key: &str, encrypt: EncryptMethod) -> PortParameters {
    PortParameters {
        mark: mark.into(),
        keys: PortKeys::derive(port_key),
        encrypt,
        compress: CompressMethod::Null,
        protocol: ServiceProtocol::Tcp,
        range: 1,
        max_delay: Duration::from_millis(200),
        udp_idle_timeout: Some(Duration::from_secs(60)),
        max_flows: 1_024,
        stream_window: STREAM_WINDOW,
        tunnel_window: TUNNEL_WINDOW,
        resume_timeout: Duration::from_secs(120),
        tcp_keepalive: None,
        counters: Default::default(),
        process_shared: ProcessShared::default(),
    }
}
