//! Derives the ports of a role from their configuration. Remembers the derived keys, whose derivation
//! takes time, and the counters, which continue after a change of a port.

use std::sync::Arc;

use anyhow::anyhow;

use super::roles::port_parameters_with;
use crate::{
    client::{ClientPort, PortAddress},
    config::{
        ByteSize, ClientConfig, Destinations, LinkConfig, LocalAddress, PortConfig, Secret,
        ServerConfig,
    },
    server::{AllowList, ServerPort, Service, ServiceTargets},
    tunnel::{MemoryBudget, PortCounters, PortParameters, ProcessShared, ServiceProtocol},
};
use report_proto::crypto::PortKeys;

/// Derives the ports of a server or client.
#[derive(Clone)]
pub(super) struct PortBuilder {
    process_shared: ProcessShared,
    known: Vec<KnownPort>,
}

/// What a port keeps when its other fields change.
#[derive(Clone)]
struct KnownPort {
    port_key: Secret,
    keys: PortKeys,
    counters: Arc<PortCounters>,
}

impl PortBuilder {
    /// Creates the shared state of all tunnels of the process, with a budget of `memory`.
    pub(super) fn new(memory: ByteSize) -> Self {
        PortBuilder {
            process_shared: ProcessShared {
                budget: Arc::new(MemoryBudget::new(memory.bytes() as u64)),
                ..ProcessShared::default()
            },
            known: Vec::new(),
        }
    }

    /// Changes the budget.
    pub(super) fn set_memory(&self, memory: ByteSize) {
        self.process_shared.budget.set_size(memory.bytes() as u64);
    }

    /// Forgets the keys of all ports but these.
    pub(super) fn retain(&mut self, ports: &[PortConfig]) {
        self.known
            .retain(|known| ports.iter().any(|port| port.port_key == known.port_key));
    }

    /// Returns the parameters of a port. The derivation of a new key takes some milliseconds.
    pub(super) fn parameters(&mut self, port: &PortConfig, link: &LinkConfig) -> PortParameters {
        let mut known = self.known.iter();
        let known = match known.find(|known| known.port_key == port.port_key) {
            Some(known) => known.clone(),
            None => {
                let new = KnownPort {
                    port_key: port.port_key.clone(),
                    keys: PortKeys::derive(port.port_key.expose()),
                    counters: Arc::default(),
                };
                self.known.push(new.clone());
                new
            }
        };
        PortParameters {
            counters: known.counters,
            ..port_parameters_with(port, link, known.keys, &self.process_shared)
        }
    }

    /// Returns the ports of a client.
    ///
    /// # Errors
    /// When this version does not serve one of them.
    pub(super) fn client_ports(
        &mut self,
        config: &ClientConfig,
    ) -> anyhow::Result<Vec<ClientPort>> {
        let client_port = |port: &PortConfig| {
            anyhow::Ok(ClientPort {
                port: self.parameters(port, &config.link),
                local_address: PortAddress {
                    address: listen_address(port)?,
                    socket_mode: port.socket_mode,
                    socket_owner: port.socket_owner.clone(),
                },
                socks_user: port.socks_user.clone(),
            })
        };
        config.enabled_ports().map(client_port).collect()
    }

    /// Returns one port of a server.
    ///
    /// # Errors
    /// When this version does not serve it.
    pub(super) fn server_port(
        &mut self,
        port: &PortConfig,
        config: &ServerConfig,
    ) -> anyhow::Result<ServerPort> {
        Ok(ServerPort {
            port: self.parameters(port, &config.link),
            service: service(port)?,
            proxy_protocol: port.proxy_protocol.is_some(),
        })
    }
}

/// Returns where the streams of a server's port go.
fn service(port: &PortConfig) -> anyhow::Result<Service> {
    match (port.destinations(), port.protocol) {
        (Destinations::Address(address), ServiceProtocol::Tcp) => {
            Ok(ServiceTargets::at(address).into())
        }
        (Destinations::Targets(targets), ServiceProtocol::Tcp) => {
            let choice = port.target_choice;
            let health_check = port.health_check.clone();
            Ok(ServiceTargets::any_of(targets.to_vec(), choice, health_check).into())
        }
        (Destinations::Allowed(rules), _) => {
            Ok(Service::Destinations(AllowList::new(rules.to_vec())))
        }
        _ => Err(unsupported(port)),
    }
}

/// Returns where a client's port listens.
fn listen_address(port: &PortConfig) -> anyhow::Result<LocalAddress> {
    match (&port.local_address, port.protocol) {
        (Some(address), ServiceProtocol::Tcp | ServiceProtocol::Socks5) => Ok(address.clone()),
        _ => Err(unsupported(port)),
    }
}

fn unsupported(port: &PortConfig) -> anyhow::Error {
    anyhow!(
        "port \"{}\": this version does not serve the protocol \"{}\"",
        port.mark,
        port.protocol
    )
}
