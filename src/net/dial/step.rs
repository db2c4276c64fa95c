//! The steps of a dial, and the peer of a step.

use std::fmt;

/// The host that a layer talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialPeer {
    /// The master, or a gateway in front of it.
    Master,
    /// The proxy on this side.
    Proxy,
}

impl DialPeer {
    /// Returns the configuration field that holds the peer's address.
    pub(super) fn field(self) -> &'static str {
        match self {
            DialPeer::Master => "master",
            DialPeer::Proxy => "proxy",
        }
    }

    /// Returns the prefix of a layer's name in messages.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            DialPeer::Master => "",
            DialPeer::Proxy => "proxy's ",
        }
    }
}

/// A step of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialStep {
    /// Name resolution.
    Name,
    /// The TCP connection.
    Tcp,
    /// The request to a proxy.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The HTTP upgrade.
    Http,
}

impl fmt::Display for DialStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            DialStep::Name => "name",
            DialStep::Tcp => "TCP",
            DialStep::Tls => "TLS",
            DialStep::Proxy => "proxy",
            DialStep::Http => "HTTP",
        })
    }
}
