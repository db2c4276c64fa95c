//! Tests of the file itself: its encoding, its syntax, and paths that are relative to it.

use super::*;

#[test]
fn byte_order_marks_are_accepted_and_other_encodings_rejected() {
    assert!(read(&format!("\u{feff}{README_CLIENT}")).is_ok());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.json");
    for bytes in crate::text::tests::encodings(README_CLIENT) {
        std::fs::write(&file, bytes).expect("written");
        load(&file).expect("UTF-8 or UTF-16 with a mark");
    }
    std::fs::write(&file, b"{\"mark\": \"\xd4\xb6\xb3\xcc\"}").expect("written");
    assert_contains(
        &load(&file).expect_err("GBK").to_string(),
        &[
            "config.json: is neither UTF-8 nor UTF-16 with a byte order mark from byte 13 on",
            "save it as UTF-8",
        ],
    );
}

#[test]
fn a_missing_file_error_names_the_folder_and_the_option() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = load(&folder.path().join("config.json"))
        .expect_err("no file")
        .to_string();
    assert_contains(
        &error,
        &[
            "no such file",
            &folder.path().display().to_string(),
            "--config FILE",
            "report quickstart",
        ],
    );
    let error = load(folder.path())
        .expect_err("a folder is no file")
        .to_string();
    assert_contains(&error, &["cannot be read"]);
}

#[test]
fn syntax_errors_have_line_and_column() {
    assert_contains(
        &error_line("{\n  \"mode\": \"master\"\n  \"path\": \"/\"\n}"),
        &["c.json:3:3: is not JSON: expected `,` or `}`"],
    );
    assert_contains(
        &error_line("{\"mode\": \"master\",\n // why\n}"),
        &["c.json:2:2: ", "JSON has no comments"],
    );
    assert_contains(
        &error_line("{'mode': 1}"),
        &["c.json:1:2: ", "quotes with \""],
    );
    assert_contains(&error_line(""), &["the file is empty"]);
    assert_contains(&error_line("[]"), &["c.json: contains a list", "\"mode\""]);
    for (key, shown) in [("4711", "a number"), ("\"4711\"", "a text")] {
        let error = error_line(key);
        assert_contains(&error, &[&format!("c.json: contains {shown}: ")]);
        assert!(!error.contains("4711"), "{error}");
    }
}

#[test]
fn relative_paths_start_at_the_configuration_folder() {
    let text = master(r#""tls": {"cert": "c.pem", "key": "/k.pem"}"#);
    let loaded = parse(&text, Path::new("/etc/report/config.json"), &no_variable).expect("loads");
    let RoleConfig::Master(master) = loaded.config.role else {
        panic!("no master")
    };
    assert_eq!(
        master.tls,
        Some(TlsFilesConfig {
            cert: "/etc/report/c.pem".into(),
            key: "/k.pem".into(),
            client_ca: None
        })
    );
    assert_contains(
        &error_line(&self::master(r#""tls": {"cert": "c.pem"}"#)),
        &["tls.key is missing", "PEM"],
    );
}
