//! The known fields of each file. Any other field is an error that suggests the most similar one.

/// The known fields of an object and of the objects inside it. For a list, those of its elements.
pub(super) struct KnownFields {
    pub names: &'static [&'static str],
    pub inside: &'static [(&'static str, &'static KnownFields)],
}

const SECRET: KnownFields = KnownFields {
    names: &["file", "env"],
    inside: &[],
};
const WINDOWS: KnownFields = KnownFields {
    names: &["stream", "tunnel"],
    inside: &[],
};
const ROLE_TLS: KnownFields = KnownFields {
    names: &[
        "ca",
        "system_ca",
        "pin_sha256",
        "client_cert",
        "client_key",
        "server_name",
        "insecure_skip_verify",
    ],
    inside: &[],
};
const MASTER_TLS: KnownFields = KnownFields {
    names: &["cert", "key", "client_ca"],
    inside: &[],
};
const FALLBACK: KnownFields = KnownFields {
    names: &["files", "server", "proxy_protocol"],
    inside: &[],
};
const LIMITS: KnownFields = KnownFields {
    names: &[
        "links",
        "links_per_address",
        "ports_per_link",
        "channels_per_link",
        "header_bytes",
        "memory",
    ],
    inside: &[],
};
pub(super) const PORT: KnownFields = KnownFields {
    names: &[
        "mark",
        "local_address",
        "port_key",
        "encrypt_method",
        "compress_method",
        "proxy_protocol",
        "stream_window",
        "tunnel_window",
    ],
    inside: &[("port_key", &SECRET)],
};

const SERVER_LIMITS: KnownFields = KnownFields {
    names: &[
        "streams",
        "streams_per_port",
        "streams_per_tunnel",
        "tunnels_per_port",
        "memory",
    ],
    inside: &[],
};

const CLIENT_LIMITS: KnownFields = KnownFields {
    names: &["memory"],
    inside: &[],
};

pub(super) const MASTER: KnownFields = KnownFields {
    names: &[
        "mode",
        "log_level",
        "listen_at",
        "master_key",
        "path",
        "tls",
        "healthz",
        "fallback",
        "trusted_proxies",
        "proxy_protocol",
        "limits",
        "heartbeat",
        "grace_period",
    ],
    inside: &[
        ("master_key", &SECRET),
        ("tls", &MASTER_TLS),
        ("fallback", &FALLBACK),
        ("limits", &LIMITS),
    ],
};

pub(super) const SERVER: KnownFields = KnownFields {
    names: &[
        "mode",
        "log_level",
        "master",
        "master_key",
        "proxy",
        "connect_to",
        "bind_address",
        "host",
        "user_agent",
        "headers",
        "headers_file",
        "tls",
        "connect_timeout",
        "heartbeat",
        "resume_timeout",
        "rotate_after",
        "tcp_keepalive",
        "windows",
        "limits",
        "grace_period",
        "bench",
        "ports",
    ],
    inside: &[
        ("master_key", &SECRET),
        ("proxy", &SECRET),
        ("tls", &ROLE_TLS),
        ("windows", &WINDOWS),
        ("limits", &SERVER_LIMITS),
        ("ports", &PORT),
    ],
};

pub(super) const CLIENT: KnownFields = KnownFields {
    names: &[
        "mode",
        "log_level",
        "master",
        "master_choice",
        "proxy",
        "connect_to",
        "bind_address",
        "host",
        "user_agent",
        "headers",
        "headers_file",
        "tls",
        "connect_timeout",
        "hold_timeout",
        "heartbeat",
        "resume_timeout",
        "rotate_after",
        "tcp_keepalive",
        "windows",
        "limits",
        "grace_period",
        "ports",
    ],
    inside: &[
        ("proxy", &SECRET),
        ("tls", &ROLE_TLS),
        ("windows", &WINDOWS),
        ("limits", &CLIENT_LIMITS),
        ("ports", &PORT),
    ],
};

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::Value;

    use super::*;
    use crate::config::raw::{
        RawClient, RawClientLimits, RawFallbackTarget, RawLimits, RawMaster, RawMasterTls, RawPort,
        RawRoleTls, RawServer, RawServerLimits, RawWindows,
    };

    /// Builds a file with all fields of `known`, including nested ones.
    fn every_field(known: &KnownFields) -> Value {
        let value = |name: &&str| match known.inside.iter().find(|(field, _)| field == name) {
            Some((_, inside)) if *name == "ports" => Value::Array(vec![every_field(inside)]),
            Some((_, inside)) if !inside.names.contains(&"env") => every_field(inside),
            _ if ["healthz", "bench", "system_ca", "insecure_skip_verify"].contains(name) => {
                Value::Bool(true)
            }
            _ if *name == "proxy_protocol" && known.names.contains(&"trusted_proxies") => {
                Value::Bool(true)
            }
            _ if *name == "trusted_proxies" => serde_json::json!(["10.0.0.0/8"]),
            _ if *name == "headers" => serde_json::json!({ "X-Name": "value" }),
            _ => Value::String("text".into()),
        };
        Value::Object(
            known
                .names
                .iter()
                .map(|name| ((*name).to_owned(), value(name)))
                .collect(),
        )
    }

    #[test]
    fn the_known_fields_match_the_raw_structs() {
        fn reads_all<T: Serialize + for<'de> Deserialize<'de> + Default>(
            known: &KnownFields,
            fields: usize,
        ) {
            let file = every_field(known);
            let raw: T = serde_json::from_value(file.clone()).expect("every field has its type");
            assert_eq!(
                serde_json::to_value(raw).expect("serializes"),
                file,
                "a known field is not read"
            );
            // The debug text of a default counts the fields of the struct itself.
            assert_eq!(known.names.len(), fields);
        }
        fn fields_of<T: Default + std::fmt::Debug>() -> usize {
            format!("{:?}", T::default()).matches(": None").count()
        }
        reads_all::<RawMaster>(&MASTER, fields_of::<RawMaster>());
        reads_all::<RawServer>(&SERVER, fields_of::<RawServer>());
        reads_all::<RawClient>(&CLIENT, fields_of::<RawClient>());
        reads_all::<RawPort>(&PORT, fields_of::<RawPort>());
        reads_all::<RawFallbackTarget>(&FALLBACK, fields_of::<RawFallbackTarget>());
        reads_all::<RawLimits>(&LIMITS, fields_of::<RawLimits>());
        reads_all::<RawServerLimits>(&SERVER_LIMITS, fields_of::<RawServerLimits>());
        reads_all::<RawClientLimits>(&CLIENT_LIMITS, fields_of::<RawClientLimits>());
        reads_all::<RawWindows>(&WINDOWS, fields_of::<RawWindows>());
        reads_all::<RawMasterTls>(&MASTER_TLS, fields_of::<RawMasterTls>());
        reads_all::<RawRoleTls>(&ROLE_TLS, fields_of::<RawRoleTls>());
    }
}
