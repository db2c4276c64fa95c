//! The proxy that a dial uses, and the setting that names it.

use tracing::debug;

use crate::net::proxy::{
    ProxyAddress,
    environment::{self, EnvironmentError},
};

/// The proxy that a dial uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// The proxy that the environment names at dial time, if any.
    #[default]
    Environment,
    /// No proxy.
    Direct,
    /// A configured proxy.
    Fixed(Box<ProxyAddress>),
}

/// A proxy, and the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenProxy {
    /// The proxy's address. Prints without the password.
    pub address: ProxyAddress,
    /// The configuration field or the environment variable.
    pub named_by: ProxyOrigin,
}

/// The setting that names a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyOrigin {
    /// The configuration.
    #[error("the field `proxy`")]
    Field,
    /// The environment variable with this name.
    #[error("the environment variable {0}")]
    Environment(&'static str),
}

impl ProxyChoice {
    /// Returns the proxy for a master at this host and port.
    ///
    /// # Errors
    /// If the environment names an unusable proxy.
    pub(super) fn choose(
        &self,
        is_secure: bool,
        host: &str,
        port: u16,
    ) -> Result<Option<ChosenProxy>, EnvironmentError> {
        match self {
            ProxyChoice::Direct => Ok(None),
            ProxyChoice::Fixed(proxy) => Ok(Some(ChosenProxy {
                address: ProxyAddress::clone(proxy),
                named_by: ProxyOrigin::Field,
            })),
            ProxyChoice::Environment => {
                let variable = |name: &str| std::env::var(name).ok();
                let found = environment::proxy_for(&variable, is_secure, host, port)?;
                Ok(found.map(|(address, name)| {
                    debug!(proxy = %address, variable = %name, "proxy from the environment");
                    ChosenProxy {
                        address,
                        named_by: ProxyOrigin::Environment(name),
                    }
                }))
            }
        }
    }
}
