//! Opens tunnels through a proxy: its address, authentication and protocol. Does not know what the
//! tunnel will carry.
//!
//! | file | contents |
//! |---|---|
//! | [`address`] | the address of a proxy |
//! | [`environment`] | the proxy that the environment names |
//! | `connect` | HTTP CONNECT |
//! | [`authentication`], `tokens` | authentication schemes |
//! | `socks` | SOCKS5 |
//! | `error`, `authentication_error`, `token_error` | why a proxy opened no tunnel |

pub mod address;
pub mod authentication;
mod authentication_error;
mod connect;
pub mod environment;
mod error;
mod socks;
#[cfg(feature = "proxy-sso")]
mod sspi_error;
mod token_error;
#[cfg(feature = "proxy-sso")]
mod tokens;
#[cfg(not(feature = "proxy-sso"))]
#[path = "tokens_unsupported.rs"]
mod tokens;

pub use self::{
    address::{ProxyAddress, ProxyAddressError, ProxyKind, ProxyUser},
    authentication::AuthScheme,
    authentication_error::{AuthenticationError, SchemeProblem},
    connect::{ProxyConnector, connect},
    error::{NotHttpCause, ProxyError},
    socks::{ProxyTarget, SocksError, through_socks},
    token_error::{TokenError, TokenFault},
};
