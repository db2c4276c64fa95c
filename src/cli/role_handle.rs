//! Changes a running role to another configuration. Derives only what differs: the derivation of a key
//! takes time, and a port without a change must not notice the reload.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::bail;

use super::{
    port_builder::PortBuilder,
    roles::{client_uplink, server_limits, server_uplink},
};
use crate::{
    client::{Client, ClientChange, ClientHandle},
    config::{ClientConfig, LinkConfig, PortConfig, RoleConfig, ServerConfig, WindowsConfig},
    master::MasterHandle,
    net::congestion_control,
    server::{PortChange, ServerChange, ServerHandle, ServerParameters},
    supervisor::{MoveRequests, Uplink},
};
use report_proto::id::Id;

/// Changes a running role.
pub(super) enum RoleHandle {
    /// A master.
    Master(MasterHandle),
    /// A server.
    Server(ServerControl),
    /// A client.
    Client(ClientControl),
}

/// Changes a running server.
pub(super) struct ServerControl {
    handle: ServerHandle,
    instance: Id,
    builder: Mutex<PortBuilder>,
}

/// Changes a running client.
pub(super) struct ClientControl {
    handle: ClientHandle,
    instance: Id,
    move_requests: MoveRequests,
    builder: Mutex<PortBuilder>,
}

impl RoleHandle {
    /// Applies the configuration of the same role. Returns the changed fields that need a restart,
    /// each with the reason.
    ///
    /// # Errors
    /// When a part is impossible. The former configuration then stays in force.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may have applied the change.
    pub(super) async fn reconfigure(
        &self,
        old: &RoleConfig,
        new: &RoleConfig,
    ) -> anyhow::Result<Vec<String>> {
        if old.congestion_control() != new.congestion_control() {
            congestion_control::warn_if_unavailable(new.congestion_control());
        }
        match (self, old, new) {
            (RoleHandle::Master(master), RoleConfig::Master(old), RoleConfig::Master(new)) => {
                Ok(master.reconfigure(old, new).await?)
            }
            (RoleHandle::Server(server), RoleConfig::Server(old), RoleConfig::Server(new)) => {
                server.reconfigure(old, new).await?;
                Ok(Vec::new())
            }
            (RoleHandle::Client(client), RoleConfig::Client(old), RoleConfig::Client(new)) => {
                client.reconfigure(old, new).await?;
                Ok(Vec::new())
            }
            _ => bail!("`mode` cannot change while the process runs"),
        }
    }
}

impl ClientControl {
    /// Creates the control of a client whose ports `builder` has built.
    pub(super) fn new(client: &Client, builder: &PortBuilder) -> Self {
        ClientControl {
            handle: client.handle(),
            instance: client.uplink().instance,
            move_requests: client.uplink().move_requests.clone(),
            builder: Mutex::new(builder.clone()),
        }
    }

    async fn reconfigure(&self, old: &ClientConfig, new: &ClientConfig) -> anyhow::Result<()> {
        let has_new_links = link_settings(&old.link) != link_settings(&new.link)
            || old.master_choice != new.master_choice
            || old.credential != new.credential;
        let (mut builder, config) = (lock(&self.builder).clone(), new.clone());
        let derive = move || {
            let ports = builder.client_ports(&config)?;
            let uplink = has_new_links.then(|| client_uplink(&config)).transpose()?;
            anyhow::Ok((ports, uplink, builder))
        };
        let (ports, uplink, mut builder) = tokio::task::spawn_blocking(derive).await??;
        let uplink = uplink.map(|uplink| Uplink {
            instance: self.instance,
            move_requests: self.move_requests.clone(),
            ..uplink
        });
        self.handle
            .apply(ClientChange::new(new, uplink, ports))
            .await?;
        builder.retain(&new.ports);
        builder.set_memory(*new.limits.memory);
        *lock(&self.builder) = builder;
        Ok(())
    }
}

impl ServerControl {
    /// Creates the control of a server whose ports `builder` has built.
    pub(super) fn new(parameters: &ServerParameters, builder: &PortBuilder) -> Self {
        ServerControl {
            handle: parameters.handle(),
            instance: parameters.instance,
            builder: Mutex::new(builder.clone()),
        }
    }

    async fn reconfigure(&self, old: &ServerConfig, new: &ServerConfig) -> anyhow::Result<()> {
        let has_new_links = link_settings(&old.link) != link_settings(&new.link)
            || old.master_key != new.master_key
            || old.credential != new.credential;
        let (mut builder, former, config) = (lock(&self.builder).clone(), old.clone(), new.clone());
        let derive = move || {
            let ports = config.enabled_ports();
            let ports = ports.map(|port| port_change(&mut builder, port, &former, &config));
            let ports = ports.collect::<Vec<_>>();
            let uplink = has_new_links.then(|| server_uplink(&config)).transpose()?;
            anyhow::Ok((ports, uplink, builder))
        };
        let (ports, uplink, mut builder) = tokio::task::spawn_blocking(derive).await??;
        let uplink = uplink.map(|uplink| Uplink {
            instance: self.instance,
            ..uplink
        });
        let change = ServerChange {
            limits: server_limits(new),
            ..ServerChange::new(new, uplink, ports)
        };
        self.handle.apply(change).await?;
        builder.retain(&new.ports);
        builder.set_memory(*new.limits.memory);
        *lock(&self.builder) = builder;
        Ok(())
    }
}

/// Builds a port of a server, unless it is the same as before.
fn port_change(
    builder: &mut PortBuilder,
    port: &PortConfig,
    old: &ServerConfig,
    new: &ServerConfig,
) -> PortChange {
    let has_same_link = port_settings(&old.link) == port_settings(&new.link);
    if has_same_link && old.enabled_ports().any(|former| former == port) {
        let id = builder.parameters(port, &new.link).keys.id;
        return PortChange::Untouched(id);
    }
    PortChange::Changed(Box::new(builder.server_port(port, new)))
}

/// Returns the settings of the links, without those of the tunnels over them.
fn link_settings(link: &LinkConfig) -> LinkConfig {
    LinkConfig {
        resume_timeout: Default::default(),
        tcp_keepalive: Default::default(),
        windows: WindowsConfig::default(),
        ..link.clone()
    }
}

/// Returns the settings of the tunnels over the links.
fn port_settings(link: &LinkConfig) -> LinkConfig {
    LinkConfig {
        resume_timeout: link.resume_timeout,
        tcp_keepalive: link.tcp_keepalive,
        windows: link.windows,
        ..LinkConfig::default()
    }
}

fn lock(builder: &Mutex<PortBuilder>) -> MutexGuard<'_, PortBuilder> {
    builder.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::config;

    fn server(fields: &Value) -> ServerConfig {
        let mut text = json!({
            "mode": "server", "master": "localhost:1", "master_key": "the key of the master",
            "ports": [
                {"mark": "a", "local_address": "localhost:10", "port_key": "the key of a"},
                {"mark": "b", "local_address": "localhost:11", "port_key": "the key of b"},
            ],
        });
        for (name, value) in fields.as_object().expect("an object") {
            text[name] = value.clone();
        }
        let loaded = config::parse(&text.to_string(), Path::new("server.json"), &|_| None);
        match loaded.expect("valid").config.role {
            RoleConfig::Server(server) => server,
            _ => panic!("not a server"),
        }
    }

    /// Returns which ports of `old` are untouched in `new`.
    fn untouched(old: &ServerConfig, new: &ServerConfig) -> Vec<bool> {
        let mut builder = PortBuilder::new(*old.limits.memory);
        let change = |port| port_change(&mut builder, port, old, new);
        let changes: Vec<_> = new.enabled_ports().map(change).collect();
        let is_untouched = |change: &PortChange| matches!(change, PortChange::Untouched(_));
        changes.iter().map(is_untouched).collect()
    }

    #[test]
    fn a_port_is_untouched_if_its_fields_and_those_of_its_tunnels_are_the_same() {
        let old = server(&json!({}));
        assert_eq!(untouched(&old, &old.clone()), [true, true]);
        let mut changed = old.clone();
        changed.ports[1].mark = "c".to_owned();
        assert_eq!(untouched(&old, &changed), [true, false]);
        let windows = server(&json!({"windows": {"stream": "1 MiB"}}));
        assert_eq!(untouched(&old, &windows), [false, false]);
        let links = server(&json!({"master": "localhost:2", "links": {"max": 3}}));
        assert_eq!(untouched(&old, &links), [true, true]);
    }

    #[test]
    fn only_settings_of_the_links_replace_them() {
        let old = server(&json!({}));
        let is_same =
            |fields: Value| link_settings(&old.link) == link_settings(&server(&fields).link);
        assert!(is_same(
            json!({"resume_timeout": "7s", "tcp_keepalive": "9s", "bench": false})
        ));
        for fields in [
            json!({"master": ["localhost:1", "localhost:2"]}),
            json!({"proxy": "none"}),
            json!({"heartbeat": "5s"}),
            json!({"rotate_after": "1h"}),
            json!({"links": {"max": 2}}),
            json!({"user_agent": "other"}),
        ] {
            assert!(!is_same(fields.clone()), "{fields}");
        }
    }

    #[test]
    fn a_known_key_is_not_derived_again_and_keeps_its_counters() {
        let config = server(&json!({}));
        let mut builder = PortBuilder::new(*config.limits.memory);
        let first = builder.parameters(&config.ports[0], &config.link);
        let again = builder.parameters(&config.ports[0], &config.link);
        assert!(std::sync::Arc::ptr_eq(&first.counters, &again.counters));
        assert!(first.is_same_as(&again));
        builder.retain(&config.ports[1..]);
        let new = builder.parameters(&config.ports[0], &config.link);
        assert!(!std::sync::Arc::ptr_eq(&first.counters, &new.counters));
    }
}
