//! Tests of the files of the README and of `config-examples`.

use std::time::Duration;

use super::*;

#[test]
fn the_readme_master_loads() {
    let LoadedConfig { config, warnings } = read(README_MASTER).expect("loads");
    assert_eq!(
        (config.common.log_level, warnings.len()),
        (tracing::Level::DEBUG, 0)
    );
    assert_eq!(config.common.log_format, LogFormat::Text);
    let RoleConfig::Master(master) = config.role else {
        panic!("no master")
    };
    assert_eq!(
        *master.listen_at,
        ["0.0.0.0:51324".parse().expect("an address")]
    );
    assert_eq!(
        (
            master.master_key.as_ref().map(Secret::expose),
            master.path.as_str(),
            master.healthz
        ),
        (Some("rePortserver"), "/", false)
    );
    assert_eq!(
        (master.tls, master.limits),
        (None, MasterLimitsConfig::default())
    );
}

#[test]
fn the_readme_server_loads() {
    let server = server_of(read(README_SERVER).expect("loads"));
    assert_eq!(
        server.link.masters[0].to_string(),
        "ws://rePort.myserver.com:51324/"
    );
    let [desktop, ssh] = server.ports.as_slice() else {
        panic!("two ports")
    };
    assert_eq!(
        (
            desktop.mark.as_str(),
            desktop.local_address.as_ref().map(ToString::to_string)
        ),
        ("远程桌面", Some("127.0.0.1:3389".to_owned()))
    );
    assert_eq!(
        (ssh.encrypt_method, ssh.compress_method),
        (EncryptMethod::Aes128Cfb, CompressMethod::Zstd)
    );
    assert_eq!(ssh.port_key.expose(), "lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE");
}

#[test]
fn the_readme_client_loads() {
    let RoleConfig::Client(client) = read(README_CLIENT).expect("loads").config.role else {
        panic!("no client")
    };
    let addresses: Vec<String> = client
        .ports
        .iter()
        .filter_map(|port| Some(port.local_address.as_ref()?.to_string()))
        .collect();
    assert_eq!(addresses, ["127.0.0.1:13389", "127.0.0.1:122"]);
    assert_eq!(
        (*client.hold_timeout, *client.link.heartbeat),
        (Duration::from_secs(10), Duration::from_secs(20))
    );
}

#[test]
fn every_example_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples");
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join("keys")).expect("a folder");
    for name in ["master", "ssh", "wiki", "game", "docker", "exit", "web"] {
        std::fs::write(
            home.path().join(format!("keys/{name}.key")),
            format!("key of {name}\n"),
        )
        .expect("written");
    }
    let variable = |name: &str| match name {
        "REPORT_DATABASE_KEY" => Some(OsString::from("key of the database")),
        "REPORT_VOICE_KEY" => Some(OsString::from("key of the calls")),
        "REPORT_SOCKS_PASSWORD" => Some(OsString::from("password of the proxy")),
        "REPORT_STORE" => Some(OsString::from("postgres://report:secret@db.example/report")),
        _ => None,
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the examples") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if cfg!(not(feature = "store")) && name == "master-store.json" {
            continue;
        }
        // Their unix sockets are refused elsewhere.
        if cfg!(not(unix)) && name.ends_with("-services.json") {
            continue;
        }
        if name.ends_with(".json") && !name.ends_with(".schema.json") {
            let text = std::fs::read_to_string(&path).expect("text");
            let loaded = parse(&text, &home.path().join("config.json"), &variable)
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(loaded.warnings, [], "{}", path.display());
            let written = serde_json::to_string(&loaded.config).expect("serializes");
            let again = parse(&written, &home.path().join("config.json"), &variable);
            assert_eq!(again, Ok(loaded), "{written}");
            seen += 1;
        }
    }
    let skipped = usize::from(cfg!(not(feature = "store"))) + 2 * usize::from(cfg!(not(unix)));
    assert_eq!(seen + skipped, 9);
    for (name, text) in [
        ("master", README_MASTER),
        ("server", README_SERVER),
        ("client", README_CLIENT),
    ] {
        assert_eq!(
            std::fs::read_to_string(folder.join(format!("readme-{name}.json")))
                .expect("the example"),
            text
        );
    }
}
