//! The description of a configuration that `report check` prints.

use std::fmt::Write as _;

use super::port_text::{describe_listeners, describe_services};
use crate::{
    config::{
        ClientConfig, Config, CongestionControl, CredentialKey, FallbackConfig, LinkConfig,
        LogFormat, MasterChoice, MasterConfig, RoleConfig, ServerConfig,
    },
    net::dial::{Bind, DialParameters, ProxyChoice},
    telemetry::escape_text,
};
#[cfg(feature = "store")]
use crate::{
    config::{RetentionConfig, UnknownKeys},
    policy::Admission,
};
use report_proto::crypto::Credential;

/// Describes the configuration, one line per setting. Keys never appear.
pub(super) fn describe(config: &Config) -> String {
    let mut lines = vec![
        format!("mode: {}", config.role.name()),
        format!(
            "log_level: {}",
            config.common.log_level.as_str().to_lowercase()
        ),
    ];
    if config.common.log_format == LogFormat::Json {
        lines.push("log_format: json".to_owned());
    }
    if let Some(admin) = &config.common.admin {
        lines.push(format!(
            "admin: metrics and health checks at {}",
            admin.listen_at
        ));
    }
    match &config.role {
        RoleConfig::Master(master) => describe_master(master, &mut lines),
        RoleConfig::Server(server) => describe_server(server, &mut lines),
        RoleConfig::Client(client) => describe_client(client, &mut lines),
    }
    let congestion_control = config.role.congestion_control();
    if congestion_control != CongestionControl::default() {
        lines.push(format!("congestion_control: {congestion_control}"));
    }
    lines.push(format!("grace_period: {:?}", config.common.grace_period));
    lines.into_iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {}", escape_text(&line));
        text
    })
}

fn describe_server(server: &ServerConfig, lines: &mut Vec<String>) {
    describe_link(
        &server.link,
        "linked to all of them at the same time",
        lines,
    );
    lines.extend(server.credential.as_ref().map(describe_credential));
    let limits = &server.limits;
    lines.push(format!(
        "limits: {} connections, {} per port, {} per client of a port",
        limits.streams, limits.streams_per_port, limits.streams_per_tunnel
    ));
    lines.push(format!(
        "limits: {} clients per port; {} for data queued for slow services and clients",
        limits.tunnels_per_port, limits.memory
    ));
    let answered = if server.bench {
        "answered"
    } else {
        "not answered"
    };
    lines.push(format!("bench: {answered}"));
    lines.extend(describe_services(&server.ports, &server.link));
}

fn describe_client(client: &ClientConfig, lines: &mut Vec<String>) {
    describe_link(&client.link, describe_choice(client.master_choice), lines);
    lines.extend(client.credential.as_ref().map(describe_credential));
    lines.push(format!("hold_timeout: {:?}", client.hold_timeout));
    lines.push(format!(
        "limits: {} for data queued for slow applications and servers",
        client.limits.memory
    ));
    lines.extend(describe_listeners(&client.ports, &client.link));
}

/// Names the id of a credential, by which the operator of the master knows it.
fn describe_credential(credential: &CredentialKey) -> String {
    let id = Credential::derive(credential.secret()).id();
    format!("credential: {id}")
}

/// Describes who may link and register. The password of the database does not appear.
fn describe_store(master: &MasterConfig, lines: &mut Vec<String>) {
    if master.master_key.is_none() {
        lines.push("master_key: none, every server needs a credential".to_owned());
    }
    #[cfg(feature = "store")]
    if let Some(store) = &master.store {
        lines.push(format!("store: {}", store.url()));
        let admission = match master.admission {
            Admission::Open => "open, servers may register all key ids without a policy",
            Admission::Known => "known, servers register key ids of the store",
            Admission::Owned => "owned, servers register key ids of their account",
        };
        lines.push(format!("admission: {admission}"));
        if master.unknown_while_away == UnknownKeys::Admit {
            lines.push("unknown_while_away: admit".to_owned());
        }
        let kept = &master.retention;
        if *kept != RetentionConfig::default() {
            lines.push(format!(
                "retention: {} days of minutes, {} of hours, {} of days, {} of the audit log",
                kept.minutes, kept.hours, kept.days, kept.audit
            ));
        }
    }
}

fn describe_master(master: &MasterConfig, lines: &mut Vec<String>) {
    let addresses: Vec<String> = master.listen_at.iter().map(ToString::to_string).collect();
    lines.push(format!("listen_at: {}", addresses.join(", ")));
    lines.push(format!("path: {}", master.path));
    lines.push(match &master.tls {
        Some(files) => format!(
            "tls: certificate {}, key {}",
            files.cert.display(),
            files.key.display()
        ),
        None => "tls: off".to_owned(),
    });
    if let Some(file) = master
        .tls
        .as_ref()
        .and_then(|files| files.client_ca.as_ref())
    {
        lines.push(format!(
            "tls: every peer must present a certificate signed by {}",
            file.display()
        ));
    }
    lines.push(format!(
        "healthz: {}",
        if master.healthz {
            "answered"
        } else {
            "not answered"
        }
    ));
    describe_web_front(master, lines);
    describe_store(master, lines);
    let limits = &master.limits;
    lines.push(format!(
        "limits: {} links, {} per address",
        limits.links, limits.links_per_address
    ));
    lines.push(format!(
        "limits: {} ports and {} channels per link",
        limits.ports_per_link, limits.channels_per_link
    ));
    lines.push(format!(
        "limits: request headers up to {}, all queues up to {}",
        limits.header_bytes, limits.memory
    ));
}

/// Describes what HTTP visitors see, and which proxies the master trusts.
fn describe_web_front(master: &MasterConfig, lines: &mut Vec<String>) {
    lines.push(match &master.fallback {
        FallbackConfig::NotFound => "fallback: 404 page".to_owned(),
        FallbackConfig::Files(folder) => format!("fallback: the files of {}", folder.display()),
        FallbackConfig::Server {
            address,
            proxy_protocol: false,
        } => format!("fallback: the web server at {address}"),
        FallbackConfig::Server {
            address,
            proxy_protocol: true,
        } => {
            format!("fallback: the web server at {address}, with PROXY protocol headers")
        }
    });
    let networks: Vec<String> = master
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    let networks = if networks.is_empty() {
        "none".to_owned()
    } else {
        networks.join(", ")
    };
    let by = if master.proxy_protocol {
        "the PROXY protocol, X-Forwarded-For"
    } else {
        "X-Forwarded-For"
    };
    lines.push(format!("trusted_proxies: {networks} ({by})"));
}

/// Describes how the role dials its masters, as far as it differs from the defaults.
fn describe_dial(dial: &DialParameters, lines: &mut Vec<String>) {
    match &dial.proxy {
        ProxyChoice::Environment => {}
        ProxyChoice::Direct => lines.push("proxy: none, the environment is ignored".to_owned()),
        ProxyChoice::Fixed(proxy) => {
            let user = proxy
                .user
                .as_ref()
                .map_or_else(String::new, |user| format!(" as {}", user.name));
            lines.push(format!("proxy: {proxy}{user}"));
        }
    }
    if let Some((host, port)) = &dial.connect_to {
        lines.push(format!("connect_to: {host}:{port}"));
    }
    if let Some(bind) = &dial.bind {
        lines.push(match bind {
            Bind::Address(address) => format!("bind_address: {address}"),
            Bind::Interface(name) => format!("bind_address: interface {name}"),
        });
    }
    let names = dial
        .request
        .headers
        .keys()
        .map(|name| name.as_str().to_owned());
    let file = dial
        .request
        .headers_file
        .as_ref()
        .map(|file| format!("the headers in {}", file.display()));
    let headers: Vec<String> = names.chain(file).collect();
    if !headers.is_empty() {
        lines.push(format!("headers: {}", headers.join(", ")));
    }
    if !dial.tls.pins.is_empty() {
        lines.push(format!("tls: {} pinned", dial.tls.pins.len()));
    }
    if dial.tls.insecure_skip_verify {
        lines.push("tls: DOES NOT VERIFY the master's certificate".to_owned());
    }
}

/// Describes how a client uses several masters.
fn describe_choice(choice: MasterChoice) -> &'static str {
    match choice {
        MasterChoice::Ordered => "linked to one at a time: ordered, a failure moves on to the next",
        MasterChoice::Raced => {
            "linked to one at a time: raced, dialled concurrently and the first that accepts the client is used"
        }
    }
}

fn describe_link(link: &LinkConfig, several: &str, lines: &mut Vec<String>) {
    for master in link.masters.iter() {
        lines.push(format!("master: {master}"));
    }
    if link.masters.len() > 1 {
        lines.push(format!("masters: {several}"));
    }
    describe_dial(&link.dial_parameters(), lines);
    if let Some(ca) = &link.tls.ca {
        let system_ca = if link.tls.system_ca {
            "the system's authorities and "
        } else {
            ""
        };
        lines.push(format!("tls: trusts {system_ca}{}", ca.display()));
    }
    lines.push(format!("resume_timeout: {:?}", link.resume_timeout));
    if let Some(age) = link.rotate_after {
        lines.push(format!("rotate_after: {age:?}"));
    }
    lines.push(link.tcp_keepalive.map_or_else(
        || "tcp_keepalive: off".to_owned(),
        |idle| format!("tcp_keepalive: {idle:?}"),
    ));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    #[test]
    fn the_description_contains_settings_but_no_keys() {
        let text = r#"{"mode": "server", "log_format": "json", "master": "host:1", "master_key": "hush", "ports": [
            {"mark": "远程桌面", "local_address": "127.0.0.1:3389", "port_key": "hush", "compress_method": "zstd"},
            {"mark": "web", "local_address": "127.0.0.1:80", "port_key": "hushed", "proxy_protocol": "v2"}]}"#;
        let loaded = config::parse(text, Path::new("c.json"), &|_| None).expect("loads");
        let output = describe(&loaded.config);
        for part in [
            "mode: server",
            "log_format: json",
            "ws://host:1/",
            "远程桌面",
            "dials 127.0.0.1:3389;",
            "dials 127.0.0.1:80, with a PROXY protocol v2 header;",
            "aes-128-gcm, zstd",
            "32 MiB",
        ] {
            assert!(output.contains(part), "missing {part} in {output}");
        }
        assert!(!output.contains("hush"), "{output}");
        assert!(!output.contains("masters:"), "there is one: {output}");
    }

    #[test]
    fn a_credential_is_described_by_its_id() {
        let text = r#"{"mode": "client", "master": "host:1", "credential": "rc1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "ports": [{"local_address": "127.0.0.1:1", "port_key": "k"}]}"#;
        let loaded = config::parse(text, Path::new("c.json"), &|_| None).expect("loads");
        let output = describe(&loaded.config);
        // The id of this secret in tests/vectors/keys.json.
        assert!(
            output.contains("credential: 969f21e15d7166706a464dbab3686202"),
            "{output}"
        );
        assert!(!output.contains("rc1_"), "{output}");
    }

    #[test]
    fn a_mark_cannot_control_the_terminal() {
        let text = r#"{"mode": "client", "master": "host:1", "ports": [
            {"mark": "a\u202eb\u2028\u0007c", "local_address": "127.0.0.1:1", "port_key": "k"}]}"#;
        let loaded = config::parse(text, Path::new("c.json"), &|_| None).expect("loads");
        let output = describe(&loaded.config);
        assert!(output.contains(r"a\u{202e}b\u{2028}\u{7}c"), "{output}");
    }

    #[test]
    fn the_description_explains_several_masters() {
        let key = |mode| {
            if mode == "server" {
                r#""master_key": "k","#
            } else {
                ""
            }
        };
        let choices = [
            ("server", "", "all of them at the same time"),
            ("client", "", "one at a time: ordered"),
            (
                "client",
                r#""master_choice": "raced","#,
                "one at a time: raced",
            ),
        ];
        for (mode, choice, part) in choices {
            let port = r#"{"local_address": "127.0.0.1:1", "port_key": "k"}"#;
            let key = key(mode);
            let text = format!(
                r#"{{"mode": "{mode}", "master": ["a:1", "b:2"], {key} {choice} "ports": [{port}]}}"#
            );
            let loaded = config::parse(&text, Path::new("c.json"), &|_| None).expect("loads");
            let output = describe(&loaded.config);
            assert!(
                output.contains("master: ws://a:1/")
                    && output.contains("master: ws://b:2/")
                    && output.contains(part),
                "{output}"
            );
        }
    }
}
