//! Tests of a master's database and of the fields that need it.

use super::*;
use crate::policy::Admission;

#[cfg(feature = "store")]
fn master_of(loaded: LoadedConfig) -> MasterConfig {
    let RoleConfig::Master(master) = loaded.config.role else {
        panic!("no master")
    };
    master
}

/// Returns a master without a master key.
fn keyless(fields: &str) -> String {
    format!(r#"{{"mode": "master", "listen_at": "127.0.0.1:0", {fields}}}"#)
}

#[test]
fn a_master_without_a_store_needs_a_master_key_and_admits_all_keys() {
    assert_contains(
        &error_line(&keyless(r#""healthz": false"#)),
        &["master_key is missing", "report keygen", "`store`"],
    );
    for (field, found) in [("admission", "owned"), ("unknown_while_away", "admit")] {
        assert_contains(
            &error_line(&master(&format!("\"{field}\": \"{found}\""))),
            &[
                field,
                found,
                "needs `store`",
                "add the address of a database",
            ],
        );
    }
    let open = master(r#""admission": "open", "unknown_while_away": "refuse""#);
    assert!(read(&open).is_ok());
    let line = error_line(&master(r#""admission": "opn""#));
    assert_contains(&line, &["admission is \"opn\"", "open"]);
    assert_eq!(word::default::<Admission>(), Admission::Open);
}

#[cfg(not(feature = "store"))]
#[test]
fn a_store_needs_the_feature() {
    let line = error_line(&master(r#""store": "sqlite:keys.db""#));
    assert_contains(
        &line,
        &["store is set", "feature `store`", "remove the field"],
    );
}

#[cfg(feature = "store")]
#[test]
fn the_file_of_a_store_starts_at_the_folder_of_the_configuration() {
    let text = keyless(r#""store": "sqlite:keys.db", "admission": "known""#);
    let loaded = parse(&text, Path::new("/etc/report/master.json"), &no_variable).expect("loads");
    let master = master_of(loaded);
    let store = master.store.expect("a store");
    assert_eq!(store.url().to_string(), "sqlite:/etc/report/keys.db");
    assert_eq!(
        (master.master_key, master.admission),
        (None, Admission::Known)
    );
}

#[cfg(feature = "store")]
#[test]
fn a_store_may_come_from_a_file_or_a_variable_and_its_password_is_never_shown() {
    const URL: &str = "postgres://report:hush4711@db.example/keys";
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("url"), format!("{URL}\n")).expect("written");
    let file = folder.path().join("c.json");
    let variable = |name: &str| (name == "REPORT_STORE").then(|| OsString::from(URL));
    for source in [r#"{"file":"url"}"#, r#"{"env":"REPORT_STORE"}"#] {
        let text = keyless(&format!("\"store\": {source}"));
        let loaded = parse(&text, &file, &variable).expect("loads");
        let written = serde_json::to_string(&loaded.config).expect("serializes");
        assert!(
            written.contains(source) && !written.contains("hush"),
            "{written}"
        );
        let store = master_of(loaded).store.expect("a store");
        assert_eq!(
            store.url().to_string(),
            "postgres://report:***@db.example/keys"
        );
        assert!(!format!("{store:?}").contains("hush"));
    }
    for (url, cause) in [
        (
            "postgres://report:hush4711@db.example",
            "the database is missing",
        ),
        (
            "redis://report:hush4711@db.example/0",
            "unknown kind of database",
        ),
    ] {
        let lines = error_lines(&master(&format!("\"store\": \"{url}\"")));
        let message = lines.join("\n");
        assert_contains(
            &message,
            &["store is \"", "report:***@", cause, "sqlite:FILE"],
        );
        assert!(!message.contains("hush"), "{message}");
    }
}

#[cfg(feature = "store")]
#[test]
fn an_invalid_store_hides_no_problem_and_adds_none() {
    let line = error_line(&keyless(r#""store": "keys.db", "admission": "owned""#));
    assert_contains(&line, &["store is \"keys.db\": unknown kind of database"]);
}

#[cfg(feature = "store")]
#[test]
fn a_choice_without_effect_is_a_warning() {
    let warnings = |admission: &str| {
        let fields = format!(
            r#""store": "sqlite:keys.db", "admission": "{admission}", "unknown_while_away": "admit""#
        );
        read(&keyless(&fields)).expect("loads").warnings
    };
    assert_eq!(warnings("owned"), []);
    let of_open = warnings("open");
    assert_eq!(of_open.len(), 1);
    assert_contains(
        &of_open[0].to_string(),
        &["unknown_while_away has no effect", "\"open\"", "remove it"],
    );
}

#[test]
fn the_retention_needs_a_store() {
    let line = error_line(&master(r#""retention": {"minutes": 3}"#));
    assert_contains(
        &line,
        &["retention is set, which needs `store`", "add the address"],
    );
    assert!(read(&master(r#""retention": {"minutes": 2}"#)).is_ok());
}

#[cfg(feature = "store")]
#[test]
fn the_retention_has_bounds_and_finer_steps_go_first() {
    let with = |retention: &str| {
        master(&format!(
            r#""store": "sqlite:keys.db", "retention": {retention}"#
        ))
    };
    let loaded = read(&with(r#"{"minutes": 7, "hours": 7, "audit": 1}"#));
    let kept = master_of(loaded.expect("loads")).retention;
    assert_eq!(
        [*kept.minutes, *kept.hours, *kept.days, *kept.audit],
        [7, 7, 730, 1]
    );
    for (retention, parts) in [
        (r#"{"minutes": 15}"#, ["retention.minutes is 15", "1 to 14"]),
        (r#"{"audit": 0}"#, ["retention.audit is 0", "1 to 3660"]),
        (
            r#"{"days": "2d"}"#,
            ["retention.days is \"2d\"", "a whole number"],
        ),
        (
            r#"{"hours": 1}"#,
            [
                "retention.hours is 1, less than the 2 of `minutes`",
                "at least 2",
            ],
        ),
        (
            r#"{"days": 59}"#,
            [
                "retention.days is 59, less than the 60 of `hours`",
                "at least 60",
            ],
        ),
    ] {
        assert_contains(&error_line(&with(retention)), &parts);
    }
}
