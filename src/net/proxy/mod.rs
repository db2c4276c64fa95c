//! Opens tunnels through a proxy: its address, authentication and protocol. Does not know what the
//! tunnel will carry.
//!
//! | file | contents |
//! |---|---|
//! | [`address`] | the address of a proxy |
//! | [`environment`] | the proxy that the environment names |
//! | `connect` | HTTP CONNECT |
//! | `auth_scheme`, `offered_schemes` | authentication schemes, and those that a proxy offers |
//! | [`authentication`], `tokens` | the answers to a proxy's challenges |
//! | `socks` | SOCKS5 |
//! | `error`, `authentication_error`, `socks_error`, `token_error` | why a proxy opened no tunnel |

pub mod address;
mod auth_scheme;
pub mod authentication;
mod authentication_error;
mod connect;
pub mod environment;
mod error;
mod offered_schemes;
mod socks;
mod socks_error;
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
    auth_scheme::AuthScheme,
    authentication_error::{AuthenticationError, SchemeProblem},
    connect::{ProxyConnector, connect},
    error::{NotHttpCause, ProxyError},
    socks::{ProxyTarget, through_socks},
    socks_error::SocksError,
    token_error::{TokenError, TokenFault},
};
