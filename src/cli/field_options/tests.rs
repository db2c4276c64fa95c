//! Tests of the tables, and of the configurations that options make.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{Args, FromArgMatches as _};
use schemars::{JsonSchema, schema_for};

use super::*;
use crate::config::{
    ClientConfig, CommonConfig, Config, FieldPath, LinkConfig, LoadedConfig, PortConfig,
    RoleConfig, ServerConfig,
};

fn no_variable(_: &str) -> Option<OsString> {
    None
}

/// Parses the options of a set.
fn parsed<S: OptionSet>(arguments: &[&str]) -> Result<FieldOptions<S>, clap::Error> {
    let command = FieldOptions::<S>::augment_args(Command::new("test"));
    let arguments = ["test"].into_iter().chain(arguments.iter().copied());
    FieldOptions::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Reads the configuration of a client with these options.
fn client(arguments: &[&str]) -> Result<LoadedConfig, String> {
    let options = parsed::<ForwardFields>(arguments).map_err(|error| error.to_string())?;
    let mut fields = ConfigFields::new("client");
    fields.set("ports.local_address", "127.0.0.1:1");
    fields.set_options(&options);
    let names = OptionNames::new(&options, &[("ports.local_address", "listen")]);
    fields.read(&names, &no_variable)
}

fn client_config(arguments: &[&str]) -> (CommonConfig, ClientConfig) {
    match client(arguments).expect("valid").config {
        Config {
            common,
            role: RoleConfig::Client(client),
        } => (common, client),
        Config { role, .. } => panic!("{}", role.name()),
    }
}

#[test]
fn the_name_of_an_option_is_the_path_of_its_field() {
    let options = ConnectFields::options()
        .chain(ForwardFields::options())
        .chain(ExposeFields::options());
    for option in options {
        let path = option.field.strip_prefix("ports.").unwrap_or(option.field);
        let name = path.replace(['.', '_'], "-");
        let expected = match option.kind {
            ValueKind::SecretFile => format!("{name}-file"),
            ValueKind::Off => format!("no-{name}"),
            _ => name,
        };
        assert_eq!(option.name, expected);
        let has_value = !matches!(option.kind, ValueKind::On | ValueKind::Off);
        assert_eq!(!option.value_name.is_empty(), has_value, "{}", option.name);
    }
}

/// Returns the fields of a struct of the configuration, with this text in front.
fn fields<T: JsonSchema>(before: &str) -> BTreeSet<String> {
    let schema = schema_for!(T);
    let properties = schema.get("properties").and_then(Value::as_object);
    let names = properties.expect("a struct").keys();
    names.map(|name| format!("{before}{name}")).collect()
}

/// Asserts that every field has an option, except those in `without`.
fn assert_complete<S: OptionSet>(fields: BTreeSet<String>, without: &[&str]) {
    for field in fields {
        let is_inside = |option: &FieldOption| {
            option.field == field || option.field.starts_with(&format!("{field}."))
        };
        let has_option = S::options().any(is_inside);
        let is_left_out = without.contains(&field.as_str());
        assert_ne!(has_option, is_left_out, "{field}");
    }
}

#[test]
fn every_field_has_an_option() {
    let common = || fields::<CommonConfig>("");
    let link = || fields::<LinkConfig>("");
    let port = || fields::<PortConfig>("ports.");
    let of_both = ["ports.enabled", "ports.local_address", "ports.targets"];
    let of_client = [
        "ports.socks_user",
        "ports.socket_mode",
        "ports.socket_owner",
    ];
    let of_server = [
        "ports.target_choice",
        "ports.health_check",
        "ports.allow",
        "ports.proxy_protocol",
    ];
    // There is no file to watch.
    assert_complete::<ForwardFields>(common(), &["watch"]);
    assert_complete::<ForwardFields>(link(), &[]);
    assert_complete::<ForwardFields>(fields::<ClientConfig>(""), &[]);
    assert_complete::<ForwardFields>(port(), &[&of_both[..], &of_server].concat());
    assert_complete::<ExposeFields>(common(), &["watch"]);
    assert_complete::<ExposeFields>(link(), &[]);
    assert_complete::<ExposeFields>(fields::<ServerConfig>(""), &[]);
    assert_complete::<ExposeFields>(port(), &[&of_both[..], &of_client].concat());
}

#[test]
fn every_kind_of_option_sets_its_field() {
    let (common, client) = client_config(&[
        "--master",
        "wss://one.example/",
        "--master",
        "two.example:1",
        "--port-key",
        "-a key-",
        "--encrypt-method",
        "plain",
        "--headers",
        "X-One: 1: 2",
        "--headers",
        "X-Two:2",
        "--tls-system-ca",
        "--links-max",
        "3",
        "--hold-timeout",
        "1.5",
        "--heartbeat",
        "7s",
        "--log-level",
        "debug",
    ]);
    assert_eq!(common.log_level, tracing::Level::DEBUG);
    let masters = client.link.masters.iter().map(ToString::to_string);
    let masters: Vec<String> = masters.collect();
    assert_eq!(masters, ["wss://one.example/", "ws://two.example:1/"]);
    let port = &client.ports[0];
    assert_eq!(port.port_key.expose(), "-a key-");
    assert_eq!(port.encrypt_method.name(), "plain");
    assert_eq!(client.link.headers["x-one"], "1: 2");
    assert_eq!(client.link.headers["x-two"], "2");
    assert!(client.link.tls.system_ca);
    assert_eq!(client.link.links.max(), 3);
    assert_eq!(client.hold_timeout.as_millis(), 1_500);
    assert_eq!(client.link.heartbeat.as_secs(), 7);
}

#[test]
fn a_secret_comes_from_a_file_or_a_variable() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    std::fs::write(&file, "from a file\n").expect("written");
    let path = file.to_str().expect("text");
    let (_, client) = client_config(&["--master", "host:1", "--port-key-file", path]);
    assert_eq!(client.ports[0].port_key.expose(), "from a file");

    let variables = |name: &str| (name == "SECOND").then(|| OsString::from("from the variable"));
    let read = |key: Option<&str>| {
        let mut fields = ConfigFields::new("client");
        fields.set("master", "host:1");
        fields.set("ports.local_address", "127.0.0.1:1");
        if let Some(key) = key {
            fields.set("ports.port_key", key);
        }
        let secrets = [("ports.port_key", "FIRST"), ("ports.port_key", "SECOND")];
        fields.set_from_environment(&secrets, &variables);
        let options = parsed::<ForwardFields>(&[]).expect("no options");
        let loaded = fields.read(&OptionNames::new(&options, &[]), &variables);
        let RoleConfig::Client(client) = loaded.expect("valid").config.role else {
            panic!("no client")
        };
        client.ports[0].port_key.expose().to_owned()
    };
    assert_eq!(read(None), "from the variable");
    assert_eq!(read(Some("given")), "given");
}

#[test]
fn problems_name_the_option() {
    for (arguments, lines) in [
        (
            &["--port-key", "hush"][..],
            &["--master is missing: add the master's address"][..],
        ),
        (
            &["--master", "host", "--port-key", ""],
            &["--master `host`", "--port-key is empty"],
        ),
        (
            &["--master", "host:1"],
            &["--port-key-file is missing: add the shared secret"],
        ),
        (
            &["--master", "host:1", "--port-key-file", "/no/such/file"],
            &["--port-key-file names the file /no/such/file"],
        ),
        (
            &[
                "--master",
                "host:1",
                "--port-key",
                "hush",
                "--compress-method",
                "zstt",
            ],
            &["--compress-method is \"zstt\": did you mean \"zstd\"?"],
        ),
        (
            &[
                "--master",
                "host:1",
                "--port-key",
                "hush",
                "--links-max",
                "many",
            ],
            &["--links-max is \"many\": write a whole number"],
        ),
        (
            &[
                "--master",
                "host:1",
                "--port-key",
                "hush",
                "--tls-client-cert",
                "c",
            ],
            &["--tls-client-key is missing"],
        ),
        (
            &[
                "--master",
                "host:1",
                "--port-key",
                "hush",
                "--tls-pin-sha256",
                "12",
            ],
            &["--tls-pin-sha256 is \"12\""],
        ),
    ] {
        let error = client(arguments).expect_err("invalid");
        let found: Vec<&str> = error.lines().collect();
        assert_eq!(found.len(), lines.len(), "{error}");
        for (line, part) in found.iter().zip(lines) {
            assert!(line.starts_with(part), "{part}: {line}");
        }
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn other_fields_have_their_path_as_a_name() {
    let options = parsed::<ForwardFields>(&["--port-key", "a"]).expect("parsed");
    let names = OptionNames::new(&options, &[("ports.local_address", "listen")]);
    let port = FieldPath::root("ports").index(0);
    assert_eq!(names.option(&port.field("local_address")), "--listen");
    assert_eq!(names.option(&port.field("port_key")), "--port-key");
    let header = FieldPath::root("headers").field("X-One");
    assert_eq!(names.option(&header), "--headers");
    assert_eq!(names.option(&port.field("enabled")), "`ports[0].enabled`");
    let user = port.field("socks_user");
    assert_eq!(names.option(&user), "--socks-user-name");
    let options = parsed::<ForwardFields>(&["--socks-user-password", "hush"]).expect("parsed");
    let names = OptionNames::new(&options, &[]);
    assert_eq!(names.option(&user), "--socks-user-password");
}

#[test]
fn contradicting_and_invalid_options_are_refused_without_their_values() {
    for arguments in [
        &["--port-key", "hush", "--port-key-file", "hush"][..],
        &["--headers", "hush"],
        &["--headers", "A: hush", "--headers", "A: hush"],
        &["--links-max"],
        &["--no-such-option"],
    ] {
        let error = parsed::<ForwardFields>(arguments).expect_err("refused");
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
    let options = parsed::<ForwardFields>(&["--port-key", "hush"]).expect("parsed");
    assert_eq!(format!("{options:?}"), "[\"port-key\"]");
    assert_eq!(options.first(), Some(("port-key", "ports.port_key")));
}
