//! The difference between two configurations, for the answer to a reload. Pure: knows no running
//! role.
//!
//! Ports are matched by their keys, then by their names. A field whose value differs is named as in
//! the file. Values are not shown, because some are keys.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Config, PortConfig, RoleConfig, port::enabled};

/// The difference between the configuration of a running role and a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigDiff {
    /// The names of the new ports.
    pub added: Vec<String>,
    /// The names of the ports that are gone.
    pub removed: Vec<String>,
    /// The ports with changed fields.
    pub changed: Vec<ChangedPort>,
    /// The names of the ports without a change.
    pub untouched: Vec<String>,
    /// The changed fields outside of the ports.
    pub fields: Vec<String>,
    /// The changed fields that the running process cannot apply, each with the reason.
    pub needs_restart: Vec<String>,
}

/// A port with changed fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedPort {
    /// The name of the port.
    pub mark: String,
    /// The names of the fields.
    pub fields: Vec<String>,
}

impl ConfigDiff {
    /// Compares the configuration in use with a new one.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut diff = ConfigDiff {
            fields: changed_fields(&without_ports(old), &without_ports(new)),
            ..ConfigDiff::default()
        };
        diff.add_secrets(&old.role, &new.role);
        diff.compare_ports(ports(&old.role), ports(&new.role));
        if old.common.log_format != new.common.log_format {
            let reason = "`log_format`: the format is chosen when the log begins";
            diff.needs_restart.push(reason.to_owned());
        }
        diff
    }

    /// Whether the two configurations have the same meaning.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.fields.is_empty()
    }

    /// Adds the secrets that differ. Their JSON may name a file or variable, whose content differs.
    fn add_secrets(&mut self, old: &RoleConfig, new: &RoleConfig) {
        let changed = match (old, new) {
            (RoleConfig::Master(old), RoleConfig::Master(new)) => {
                vec![("master_key", old.master_key != new.master_key)]
            }
            (RoleConfig::Server(old), RoleConfig::Server(new)) => vec![
                ("master_key", old.master_key != new.master_key),
                ("credential", old.credential != new.credential),
            ],
            (RoleConfig::Client(old), RoleConfig::Client(new)) => {
                vec![("credential", old.credential != new.credential)]
            }
            _ => Vec::new(),
        };
        for (name, _) in changed.into_iter().filter(|(_, is_changed)| *is_changed) {
            if !self.fields.iter().any(|field| field == name) {
                self.fields.push(name.to_owned());
            }
        }
    }

    fn compare_ports(&mut self, old: &[PortConfig], new: &[PortConfig]) {
        let (mut old, new): (Vec<_>, Vec<_>) = (enabled(old).collect(), enabled(new).collect());
        let mut former: Vec<Option<&PortConfig>> = new
            .iter()
            .map(|port| take(&mut old, |other| other.port_key == port.port_key))
            .collect();
        for (port, former) in new.iter().zip(&mut former) {
            if former.is_none() {
                *former = take(&mut old, |other| other.mark == port.mark);
            }
        }
        for (port, former) in new.into_iter().zip(former) {
            let mark = port.mark.clone();
            match former {
                None => self.added.push(mark),
                Some(former) if former == port => self.untouched.push(mark),
                Some(former) => self.changed.push(ChangedPort {
                    mark,
                    fields: changed_port_fields(former, port),
                }),
            }
        }
        self.removed
            .extend(old.iter().map(|port| port.mark.clone()));
    }
}

/// Removes the first port for which `is_wanted` is true, and returns it.
fn take<'a>(
    ports: &mut Vec<&'a PortConfig>,
    is_wanted: impl Fn(&PortConfig) -> bool,
) -> Option<&'a PortConfig> {
    let place = ports.iter().position(|port| is_wanted(port))?;
    Some(ports.remove(place))
}

fn ports(role: &RoleConfig) -> &[PortConfig] {
    match role {
        RoleConfig::Master(_) => &[],
        RoleConfig::Server(server) => &server.ports,
        RoleConfig::Client(client) => &client.ports,
    }
}

fn without_ports(config: &Config) -> Map<String, Value> {
    let mut fields = fields(config);
    fields.remove("ports");
    fields
}

/// Returns the fields of a struct as the file has them, without those with default values.
fn fields(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        // Impossible: configurations are objects.
        _ => Map::new(),
    }
}

/// Returns the names of the fields with different values.
fn changed_fields(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name));
    changed.cloned().collect()
}

fn changed_port_fields(old: &PortConfig, new: &PortConfig) -> Vec<String> {
    let mut changed = changed_fields(&fields(old), &fields(new));
    for (name, is_changed) in [
        ("port_key", old.port_key != new.port_key),
        ("socks_user", old.socks_user != new.socks_user),
    ] {
        if is_changed && !changed.iter().any(|field| field == name) {
            changed.push(name.to_owned());
        }
    }
    changed
}

impl Display for ConfigDiff {
    /// Writes a line for each kind of change.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return formatter.write_str("nothing has changed");
        }
        let mut lines = Vec::new();
        let mut add = |name: &str, items: &[String]| {
            if !items.is_empty() {
                lines.push(format!("{name}: {}", items.join(", ")));
            }
        };
        let quote = |mark: &String| format!("port \"{mark}\"");
        let quoted = |marks: &[String]| marks.iter().map(quote).collect::<Vec<_>>();
        let with_fields = |port: &ChangedPort| {
            let fields: Vec<_> = port.fields.iter().map(|name| format!("`{name}`")).collect();
            format!("{} ({})", quote(&port.mark), fields.join(", "))
        };
        add("added", &quoted(&self.added));
        add("removed", &quoted(&self.removed));
        let mut changed: Vec<String> = self.changed.iter().map(with_fields).collect();
        changed.extend(self.fields.iter().map(|name| format!("`{name}`")));
        add("changed", &changed);
        add("untouched", &quoted(&self.untouched));
        add("needs a restart", &self.needs_restart);
        formatter.write_str(&lines.join("\n"))
    }
}
