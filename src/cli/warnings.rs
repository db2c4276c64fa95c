//! Warnings about a valid configuration: those that the parser noted, and weak keys.

use crate::config::{
    FieldPath, LoadedConfig, MasterConfig, RoleConfig, Secret, ServerConfig, Warning,
};
use report_proto::crypto::strength::{Strength, strength};

/// Returns all warnings about a valid file.
pub(super) fn warnings(loaded: &LoadedConfig) -> Vec<Warning> {
    let mut warnings = loaded.warnings.clone();
    let master_key = FieldPath::default().field("master_key");
    match &loaded.config.role {
        RoleConfig::Master(MasterConfig {
            master_key: key, ..
        })
        | RoleConfig::Server(ServerConfig {
            master_key: key, ..
        }) => warnings.extend(key.as_ref().and_then(|key| weak(master_key, key))),
        RoleConfig::Client(_) => {}
    }
    let ports = match &loaded.config.role {
        RoleConfig::Master(_) => &[][..],
        RoleConfig::Server(server) => &server.ports,
        RoleConfig::Client(client) => &client.ports,
    };
    let ports = ports.iter().enumerate();
    let field = |index| {
        FieldPath::default()
            .field("ports")
            .index(index)
            .field("port_key")
    };
    warnings.extend(ports.filter_map(|(index, port)| weak(field(index), &port.port_key)));
    warnings
}

fn weak(field: FieldPath, key: &Secret) -> Option<Warning> {
    let Strength::Weak { bits } = strength(key.expose()) else {
        return None;
    };
    let message = format!(
        "can be guessed (at most 2^{bits} tries): `report keygen` generates a strong one; set it at both ends"
    );
    Some(Warning { field, message })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn warnings_name_weak_keys_without_printing_them() {
        let text = r#"{"mode": "server", "master": "host:1", "master_key": "hush", "ports": [
            {"local_address": "host:1", "port_key": "T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4"}, {"local_address": "host:2", "port_key": "hush2"}]}"#;
        let loaded = crate::config::parse(text, Path::new("c.json"), &|_| None).expect("loads");
        let lines: Vec<String> = warnings(&loaded).iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, field) in lines.iter().zip([
            "master_key can be guessed",
            "ports[1].port_key can be guessed",
        ]) {
            assert!(
                line.contains(field) && line.contains("report keygen") && !line.contains("hush"),
                "{line}"
            );
        }
    }
}
