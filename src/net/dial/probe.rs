//! The first steps of a dial, for the doctor: the chosen proxy, and a connection attempt to each
//! address of the first host.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{DialError, DialPeer, DialStep, Dialer, ProxyAddress, ProxyChoice, trace::DialTrace};
use crate::net::{
    connect::ConnectFault,
    proxy::{ProxyKind, environment},
};

/// A proxy, and the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenProxy {
    /// The proxy's address. Prints without the password.
    pub address: ProxyAddress,
    /// The configuration field or the environment variable.
    pub named_by: String,
}

/// The result of probing the first host of a dial: its name and each of its addresses.
#[derive(Debug)]
pub struct DialProbe {
    /// The peer at that host.
    pub peer: DialPeer,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The duration of the name look-up.
    pub name_took: Duration,
    /// Each address, with the time to connect or the fault.
    pub addresses: Vec<(SocketAddr, Result<Duration, ConnectFault>)>,
}

impl Dialer {
    /// Returns the proxy that the next dial uses.
    ///
    /// # Errors
    /// If the environment names an unusable proxy.
    pub fn chosen_proxy(&self) -> Result<Option<ChosenProxy>, DialError> {
        match &self.parameters.proxy {
            ProxyChoice::Direct => Ok(None),
            ProxyChoice::Fixed(proxy) => Ok(Some(ChosenProxy {
                address: ProxyAddress::clone(proxy),
                named_by: "the field `proxy`".to_owned(),
            })),
            ProxyChoice::Environment => {
                let variable = |name: &str| std::env::var(name).ok();
                let (host, port) = self.destination();
                let found =
                    environment::proxy_for(&variable, self.address.is_secure(), host, port)?;
                Ok(found.map(|(address, name)| {
                    debug!(proxy = %address, variable = %name, "proxy from the environment");
                    ChosenProxy {
                        address,
                        named_by: format!("the environment variable {name}"),
                    }
                }))
            }
        }
    }

    /// Resolves the first host of a dial (the proxy's or the master's) and connects to each of its
    /// addresses.
    ///
    /// # Errors
    /// If the host has no address.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections.
    pub async fn probe(&self) -> Result<DialProbe, DialError> {
        let proxy = self.chosen_proxy()?.map(|chosen| chosen.address);
        let (peer, host, port) = match &proxy {
            Some(proxy) => (DialPeer::Proxy, proxy.host.clone(), proxy.port),
            None => (
                DialPeer::Master,
                self.destination().0.to_owned(),
                self.destination().1,
            ),
        };
        let started = Instant::now();
        let (trace, after) = (DialTrace::new(false), self.parameters.deadline);
        let resolving = self.connector.resolve(peer, &host, port, &trace);
        let late = DialError::Deadline {
            step: DialStep::Name,
            peer,
            peer_address: host.clone(),
            after,
        };
        let addresses = timeout_at(started + after, resolving)
            .await
            .unwrap_or(Err(late))?;
        let name_took = started.elapsed();
        let addresses = self.connector.probe(addresses).await;
        Ok(DialProbe {
            peer,
            host,
            port,
            name_took,
            addresses,
        })
    }

    /// Returns a dialer for another path at the same host. `path` begins with a slash.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        Dialer {
            address: self.address.at(path),
            ..self.clone()
        }
    }

    /// Returns whether this machine, and not the proxy, resolves the master's name.
    #[must_use]
    pub fn resolves_locally(&self, proxy: Option<&ChosenProxy>) -> bool {
        proxy.is_none_or(|proxy| proxy.address.kind == ProxyKind::Socks5)
    }
}
