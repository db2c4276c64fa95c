//! Tests of configurations in several files.

use std::fs;

use super::*;

/// A folder of configuration files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        for (name, text) in files {
            let path = folder.path(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(path, text).expect("written");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<LoadedConfig, ConfigError> {
        load(&self.path("c.json"))
    }

    fn loaded(&self) -> LoadedConfig {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the error lines, with paths that start at the folder.
    fn errors(&self) -> Vec<String> {
        let error = self.load().expect_err("invalid").to_string();
        let folder = format!("{}{}", self.0.path().display(), std::path::MAIN_SEPARATOR);
        let error = error.replace(&folder, "").replace('\\', "/");
        error.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_error(&self, expected: &str) {
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert!(
            errors[0].starts_with(expected),
            "not {expected}: {}",
            errors[0]
        );
    }
}

/// Returns a client's file with these patterns, and without ports.
fn including(patterns: &str) -> String {
    format!("{{\"mode\": \"client\", \"master\": \"host:1\",\n \"include\": {patterns}}}")
}

const SSH: &str = r#"{"ports": [{"mark": "ssh", "local_address": "h:1", "port_key": "1"}]}"#;

const WIKI: &str = "[[ports]]\nmark = \"wiki\"\nlocal_address = \"h:2\"\nport_key = \"2\"\n";

#[test]
fn included_files_continue_the_ports_in_the_order_of_their_names() {
    let main = r#"{
        "mode": "client", "include": ["conf.d/*", "last/web.json5", "none.d/*.json"],
        "ports": [{"mark": "first", "local_address": "h:3", "port_key": "3"}]
    }"#;
    let web = "{ports: [{mark: 'web', local_address: 'h:4', port_key: '4'}], include: ['d/*']}";
    let folder = Folder::new(&[
        ("c.json", main),
        ("conf.d/2.toml", WIKI),
        ("conf.d/1.json", SSH),
        ("conf.d/.hidden", "hidden"),
        ("conf.d/folder/1.json", "not included"),
        ("last/web.json5", web),
        (
            "last/d/master.jsonc",
            "{\"master\": \"host:1\", /* */ \"$schema\": \"s\", \"log_level\": \"warn\",}",
        ),
    ]);
    let loaded = folder.loaded();
    let files = [
        "c.json",
        "conf.d/1.json",
        "conf.d/2.toml",
        "last/web.json5",
        "last/d/master.jsonc",
    ];
    assert_eq!(loaded.files, files.map(|name| folder.path(name)));
    assert_eq!(loaded.config.common.log_level, tracing::Level::WARN);
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert_contains(
        &loaded.warnings[0].to_string(),
        &[
            "include[2] (\"none.d/*.json\" in ",
            "c.json) matches no file: ",
        ],
    );
    let marks = client_of(loaded).ports.into_iter().map(|port| port.mark);
    assert_eq!(marks.collect::<Vec<_>>(), ["first", "ssh", "wiki", "web"]);
}

#[test]
fn relative_paths_start_at_the_folder_of_their_file() {
    let port = r#"{"ports": [{"local_address": "h:1", "port_key": {"file": "keys/a.key"}}]}"#;
    let folder = Folder::new(&[
        ("c.json", &including("[\"d/*.json\"]")),
        ("d/1.json", port),
        ("d/2.json", r#"{"tls": {"ca": "ca.pem"}}"#),
        ("d/keys/a.key", "the key\n"),
    ]);
    let client = client_of(folder.loaded());
    assert_eq!(client.ports[0].port_key.expose(), "the key");
    assert_eq!(
        client.link.tls.ca.as_deref(),
        Some(&folder.path("d/ca.pem"))
    );
    fs::remove_file(folder.path("d/keys/a.key")).expect("removed");
    folder.assert_error("d/1.json:1:49: ports[0].port_key names the file d/keys/a.key, which");
}

#[cfg(feature = "store")]
#[test]
fn the_file_of_a_store_starts_at_the_folder_of_the_file_that_names_it() {
    let main = r#"{"mode": "master", "listen_at": "h:1", "include": ["d/store.toml"]}"#;
    let folder = Folder::new(&[
        ("c.json", main),
        ("d/store.toml", "store = \"sqlite:keys.db\""),
    ]);
    let RoleConfig::Master(master) = folder.loaded().config.role else {
        panic!("no master")
    };
    let url = master.store.expect("a store").url().clone();
    let expected = "sqlite:keys.db"
        .parse::<crate::store::StoreUrl>()
        .expect("an address");
    assert_eq!(url, expected.relative_to(&folder.path("d")));
}

#[test]
fn a_field_in_two_files_is_an_error_with_both_positions() {
    let folder = Folder::new(&[
        ("c.json", &including("[\"d/*\"]")),
        ("d/1.json", SSH),
        ("d/2.toml", "heartbeat = \"10s\"\nmaster = \"other:1\"\n"),
        ("d/3.json", "{\n\"heartbeat\": 10}"),
    ]);
    assert_eq!(
        folder.errors(),
        [
            "d/2.toml:2:10: master is also in c.json:1:30: keep one of them",
            "d/3.json:2:14: heartbeat is also in d/2.toml:1:13: keep one of them",
        ]
    );
}

#[test]
fn a_field_that_is_null_may_be_in_another_file() {
    let folder = Folder::new(&[
        (
            "c.json",
            &including("[\"d/*\"], \"heartbeat\": null, \"ports\": null"),
        ),
        ("d/1.json", SSH),
        (
            "d/2.json",
            r#"{"heartbeat": "10s", "master": null, "ports": null}"#,
        ),
    ]);
    let client = client_of(folder.loaded());
    assert_eq!(client.ports.len(), 1);
    assert_eq!(*client.link.heartbeat, std::time::Duration::from_secs(10));
}

#[test]
fn errors_in_an_included_file_name_it() {
    for (text, expected) in [
        ("{\n\"ports\" 1}", "d/a.json:2:9: is not JSON: expected `:`"),
        ("", "d/a.json:1:1: is not JSON: "),
        (
            " []",
            "d/a.json:1:2: contains a list: a configuration is an object",
        ),
        (
            "{\n \"prots\": []}",
            "d/a.json:2:11: prots is unknown here: did you mean \"ports\"?",
        ),
        (
            "{\n \"ports\": [{\"local_address\": \"h\", \"port_key\": \"2\"}]}",
            "d/a.json:2:30: ports[1].local_address (\"h\") has no port",
        ),
        (
            "{\"heartbeat\": 10,\n \"heartbeat\": 10}",
            "d/a.json:2:15: duplicate field `heartbeat`: keep one of them",
        ),
        (
            "{\"ports\": [],\n \"ports\": []}",
            "d/a.json:2:11: duplicate field `ports`: keep one of them",
        ),
        (
            "{\"include\": [],\n \"include\": []}",
            "d/a.json:2:13: duplicate field `include`: keep one of them",
        ),
        (
            "{\"ports\": 5}",
            "d/a.json:1:11: ports is also in b.json:1:11: keep one of them",
        ),
    ] {
        let folder = Folder::new(&[
            ("c.json", &including("[\"b.json\", \"d/a.json\"]")),
            ("b.json", SSH),
            ("d/a.json", text),
        ]);
        folder.assert_error(expected);
    }
}

#[test]
fn a_field_that_is_missing_in_all_files_has_the_position_of_the_first() {
    let folder = Folder::new(&[
        (
            "c.json",
            "\n{\"mode\": \"client\", \"include\": [\"a.json\"]}",
        ),
        ("a.json", SSH),
    ]);
    folder.assert_error("c.json:2:1: master is missing: ");
}

#[test]
fn an_include_loop_is_an_error() {
    let folder = Folder::new(&[("c.json", &including("[\"*.json\"]"))]);
    folder.assert_error("c.json:2:14: include[0] is an include loop: c.json > c.json: remove it");
    let folder = Folder::new(&[
        ("c.json", &including("[\"a/a.jsonc\"]")),
        ("a/a.jsonc", "{\"include\": [\"../b.toml\",]}"),
        ("b.toml", "include = [\n'a/a.jsonc',\n]"),
    ]);
    let errors = folder.errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let parts = [
        "b.toml:2:1: include[0] is an include loop: a/a.jsonc > ",
        "b.toml > ",
    ];
    assert_contains(&errors[0], &parts);
}

#[test]
fn a_file_is_included_once() {
    let folder = Folder::new(&[
        ("c.json", &including("[\"d/*.json\", \"d/1.json\"]")),
        ("d/1.json", SSH),
    ]);
    folder
        .assert_error("c.json:2:26: include[1] names the file d/1.json, which is included already");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let folder = Folder::new(&[("c.json", &including("[\"none.json\", \"d\", \"gbk.json\"]"))]);
    fs::create_dir(folder.path("d")).expect("created");
    fs::write(folder.path("gbk.json"), b"{\"\xb6\xd4\"}").expect("written");
    let errors = folder.errors();
    assert_eq!(errors.len(), 3, "{errors:?}");
    for (error, expected) in errors.iter().zip([
        "c.json:2:14: include[0] names the file none.json, which cannot be read (",
        "c.json:2:27: include[1] names the file d, which cannot be read (",
        "c.json:2:32: include[2] names the file gbk.json, which is neither UTF-8 nor UTF-16",
    ]) {
        assert!(error.starts_with(expected), "not {expected}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_read() {
    let folder = Folder::new(&[("c.json", &including("[\"p*\", \"/dev/zero\"]"))]);
    let made = std::process::Command::new("mkfifo")
        .arg(folder.path("pipe"))
        .status();
    assert!(made.expect("mkfifo").success());
    let errors = folder.errors();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (error, name) in errors.iter().zip(["pipe", "/dev/zero"]) {
        assert_contains(
            error,
            &[&format!(" names {name}, which is a pipe, a device")],
        );
    }
}

#[test]
fn wrong_values_of_include_are_errors() {
    for (patterns, expected) in [
        ("5", "include is the number 5: write a list of paths, ["),
        (
            "\"a\"",
            "include is the text \"a\": write a list of paths, [",
        ),
        ("[\"\"]", "include[0] is empty: write the path of a file"),
        (
            "[{}]",
            "include[0] is an object: write a path or a pattern, in quotes",
        ),
        ("[\"a[\"]", "include[0] (\"a[\") is not a pattern: "),
        (
            "[\"${REPORT_NONE}\"]",
            "include[0] names the environment variable REPORT_NONE, which",
        ),
    ] {
        let folder = Folder::new(&[("c.json", &including(patterns))]);
        let errors = folder.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_contains(&errors[0], &["c.json:2:", expected]);
    }
}

#[test]
fn the_name_of_an_included_file_may_contain_a_variable() {
    let folder = Folder::new(&[("d/1.json", SSH)]);
    let text = including("[\"${FOLDER}/*.json\", \"${NONE:-d}/none-*.json\"]");
    let variable = |name: &str| (name == "FOLDER").then(|| OsString::from("d"));
    let loaded = parse(&text, &folder.path("c.json"), &variable).expect("loads");
    assert_eq!(loaded.files.len(), 2);
    assert_contains(
        &loaded.warnings[0].to_string(),
        &["\"${NONE:-d}/none-*.json\""],
    );
}

#[test]
fn the_number_of_files_is_limited() {
    let folder = Folder::new(&[("c.json", &including("[\"d/*\"]")), ("d/0.json", SSH)]);
    for number in 1..1_000 {
        fs::write(folder.path(&format!("d/{number}.json")), "{}").expect("written");
    }
    folder
        .assert_error("c.json:2:14: include[0] leads to more than 1000 files: narrow the pattern");
    fs::remove_file(folder.path("d/1.json")).expect("removed");
    assert_eq!(folder.loaded().files.len(), 1_000);
}
