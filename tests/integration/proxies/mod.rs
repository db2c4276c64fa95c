//! Out of networks whose only way out is a proxy: real ones, each with a master, a server and a client whose links go through it.
//!
//! Through each of them content of [`scale`](crate::support::scale) goes both ways at once with a digest (256 MiB at full scale), a connection is idle for
//! longer than the proxy lets it, and the proxy is reloaded, killed and started again in the middle of a transfer. What a proxy refuses is read in the
//! role's log: the layer, what was seen, and what can be done.

mod bed;
mod environment;
mod inspected;
mod kerberos;
mod ntlm;
mod refusals;
mod room;
mod shown;
mod socks;
mod squid;
mod tinyproxy;
mod tls;
mod transfer;
