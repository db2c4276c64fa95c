//! What stands at the beginning of a way, for who looks at it step by step: the proxy and who names it, and each address of whom is connected to first.

use std::{io, net::SocketAddr, time::Duration};

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{DialError, Dialer, Layer, Peer, ProxyAddress, ProxyChoice, stage::Stage};
use crate::link::{
    connect::refusal_of,
    proxy::{ProxyKind, environment},
};

/// A proxy, and what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenProxy {
    /// Where it is. Prints without the password.
    pub address: ProxyAddress,
    /// The field of the configuration, or the variable of the environment.
    pub named_by: String,
}

/// What became of the name and the addresses of whom a dial connects to first.
#[derive(Debug)]
pub struct Survey {
    /// Who that is.
    pub peer: Peer,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How long the name took.
    pub name_took: Duration,
    /// Each address: how long a connection took, or why there is none.
    pub addresses: Vec<(SocketAddr, Result<Duration, String>)>,
}

impl Dialer {
    /// The proxy that the next dial goes through.
    ///
    /// # Errors
    /// When the environment names one that cannot be used.
    pub fn chosen_proxy(&self) -> Result<Option<ChosenProxy>, DialError> {
        match &self.parameters.proxy {
            ProxyChoice::Direct => Ok(None),
            ProxyChoice::Fixed(proxy) => Ok(Some(ChosenProxy {
                address: ProxyAddress::clone(proxy),
                named_by: "the field `proxy`".to_owned(),
            })),
            ProxyChoice::Environment => {
                let variable = |name: &str| std::env::var(name).ok();
                let (host, port) = self.goal();
                let found =
                    environment::proxy_for(&variable, self.address.is_secure(), host, port)?;
                Ok(found.map(|(address, name)| {
                    debug!(proxy = %address, "the environment variable {name} names the proxy");
                    ChosenProxy {
                        address,
                        named_by: format!("the environment variable {name}"),
                    }
                }))
            }
        }
    }

    /// Resolves the host that a dial connects to first, the proxy's or the master's, and connects to each of its addresses.
    ///
    /// # Errors
    /// When there is no address.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connections.
    pub async fn survey(&self) -> Result<Survey, DialError> {
        let proxy = self.chosen_proxy()?.map(|chosen| chosen.address);
        let (peer, host, port) = match &proxy {
            Some(proxy) => (Peer::Proxy, proxy.host.clone(), proxy.port),
            None => (Peer::Master, self.goal().0.to_owned(), self.goal().1),
        };
        let begun = Instant::now();
        let (stage, after) = (Stage::new(false), self.parameters.deadline);
        let resolving = self.reach.resolve(peer, &host, port, &stage);
        let late = DialError::Deadline {
            layer: Layer::Name,
            peer,
            whom: host.clone(),
            after,
        };
        let addresses = timeout_at(begun + after, resolving)
            .await
            .unwrap_or(Err(late))?;
        let name_took = begun.elapsed();
        let told = |outcome: io::Result<Duration>| outcome.map_err(|error| refusal_of(&error));
        let surveyed = self.reach.survey(addresses).await;
        let addresses = surveyed
            .into_iter()
            .map(|(address, outcome)| (address, told(outcome)))
            .collect();
        Ok(Survey {
            peer,
            host,
            port,
            name_took,
            addresses,
        })
    }

    /// A dialer that asks at another path of the same place, which begins with a slash.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        Dialer {
            address: self.address.at(path),
            ..self.clone()
        }
    }

    /// Whether the master's own name is resolved here, and not at a proxy.
    #[must_use]
    pub fn resolves_here(&self, proxy: Option<&ChosenProxy>) -> bool {
        proxy.is_none_or(|proxy| proxy.address.kind == ProxyKind::Socks5)
    }
}
