//! Networks whose only way out is a proxy. Each test runs a real proxy, a master, a server and a
//! client whose links go through the proxy.
//!
//! Through each proxy, content of [`scale`](crate::support::scale) goes in both directions at once
//! with a digest (256 MiB at full scale). A connection is idle for longer than the proxy's idle
//! limit. The proxy is reloaded, killed and restarted in the middle of a transfer. When a proxy
//! refuses, the role's log names the layer, the evidence and the remedy.

mod environment;
mod inspected;
mod isolated_network;
mod kerberos;
mod ntlm;
pub(crate) mod proxied_tunnel;
mod refusals;
mod socks;
mod squid;
mod tinyproxy;
mod tls;
mod transfer;
mod visibility;
