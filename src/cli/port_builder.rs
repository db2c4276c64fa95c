//! Derives the ports of a role from their configuration. Remembers the derived keys, whose derivation
//! takes time, and the counters, which continue after a change of a port.

use std::sync::Arc;

use anyhow::anyhow;

use super::roles::{port_parameters_with, process_shared};
use crate::{
    client::{ClientPort, PortAddress},
    config::{
        ByteSize, ClientConfig, Destinations, LinkConfig, LocalAddress, PortConfig, Secret,
        ServerConfig,
    },
    server::{AllowList, ServerPort, Service, ServiceTargets},
    tunnel::{PortCounters, PortParameters, ProcessShared},
};
use report_proto::crypto::PortKeys;

/// Derives the ports of a server or client.
#[derive(Clone)]
pub(super) struct PortBuilder {
    process_shared: ProcessShared,
    known: Vec<KnownPort>,
}

/// The values that a port keeps when its other fields change.
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
            process_shared: process_shared(memory),
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
    /// When one of them has no address.
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
    pub(super) fn server_port(&mut self, port: &PortConfig, config: &ServerConfig) -> ServerPort {
        ServerPort {
            port: self.parameters(port, &config.link),
            service: service(port),
            proxy_protocol: port.proxy_protocol.is_some(),
        }
    }
}

/// Returns where the streams and flows of a server's port go.
fn service(port: &PortConfig) -> Service {
    match port.destinations() {
        Destinations::Address(address) => ServiceTargets::at(address).into(),
        Destinations::Targets(targets) => {
            let choice = port.target_choice;
            let health_check = port.health_check.clone();
            ServiceTargets::any_of(targets.to_vec(), choice, health_check).into()
        }
        Destinations::Allowed(rules) => Service::Destinations(AllowList::new(rules.to_vec())),
    }
}

/// Returns where a client's port listens.
fn listen_address(port: &PortConfig) -> anyhow::Result<LocalAddress> {
    // A valid configuration has one.
    let address = port.local_address.clone();
    address.ok_or_else(|| anyhow!("port \"{}\" has no `local_address`", port.mark))
}
