//! The files under deploy/ that operators copy: fail2ban matches the log of a real master, and a real
//! Prometheus scrapes it, loads the rules and answers the queries of the dashboard.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    ports,
    programs::{self, ProgramOutput},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
    wait,
};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(file)
}

/// The addresses that the filter finds in a log.
fn banned(log: &Path) -> Vec<String> {
    let mut regex = programs::command("fail2ban-regex");
    regex.args(["--out", "ip"]).arg(log);
    let found = programs::run(regex.arg(deploy("fail2ban/filter.d/report.conf"))).succeeded();
    found.text().lines().map(str::to_owned).collect()
}

/// Starts a master with this log format, and servers with a wrong key. Returns the log.
fn log_of_wrong_keys(format: &str) -> (Testbed, PathBuf) {
    let testbed = Testbed::new(Front::Direct);
    let mut master = testbed.master(json!({"log_format": format, "log_level": "info"}));
    let port = Port::new("none", "127.0.0.1:9", Methods::DEFAULT);
    let ports = std::slice::from_ref(&port);
    let right = testbed.server("right", ports, json!({}));
    master.wait_for_line(&["registered"]);
    for name in ["wrong-1", "wrong-2"] {
        let refusals = || master.log().matches("link refused: the proof").count();
        let before = refusals();
        let fields = json!({"master_key": "wrong-wrong-wrong-wrong"});
        let _wrong = testbed.server(name, ports, fields);
        wait::until_true("the wrong key is refused", || refusals() > before);
    }
    drop(right);
    master.stop();
    let log = testbed.folder().join("master.log");
    (testbed, log)
}

#[test]
fn fail2ban_finds_the_addresses_of_wrong_keys() {
    for format in ["text", "json"] {
        let (_testbed, log) = log_of_wrong_keys(format);
        let text = fs::read_to_string(&log).expect("the log");
        let refused = text.matches("link refused: the proof").count();
        let found = banned(&log);
        assert_eq!(found.len(), refused, "{format}: {found:?}\n{text}");
        assert!(
            found.iter().all(|address| address == "127.0.0.1"),
            "{found:?}"
        );
    }
}

#[test]
fn fail2ban_finds_the_addresses_of_wrong_tokens() {
    for format in ["text", "json"] {
        let admin = ports::free();
        let testbed = Testbed::new(Front::Direct);
        let mut master = testbed.master(json!({
            "log_format": format,
            "log_level": "info",
            "store": "sqlite:keys.db",
            "admin": {"listen_at": admin.to_string()},
        }));
        wait::until_true("the admin address listens", || {
            ports::has_listener_at(admin)
        });
        for letter in ["A", "B"] {
            let token = format!("Authorization: Bearer rt1_{}", letter.repeat(43));
            let mut curl = programs::command("curl");
            curl.args([
                "--silent",
                "--show-error",
                "--noproxy",
                "*",
                "--header",
                &token,
            ]);
            let url = format!("http://{admin}/v1/status");
            let answer = programs::run(curl.arg(url)).succeeded();
            assert_eq!(answer.json()["code"], "unauthorized");
        }
        master.stop();
        let log = testbed.folder().join("master.log");
        assert_eq!(banned(&log), ["127.0.0.1"; 2], "{format}");
        let text = fs::read_to_string(&log).expect("the log");
        assert!(!text.contains("rt1_"), "{text}");
    }
}

#[test]
fn a_peer_cannot_have_another_address_banned() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let log = folder.path().join("log");
    let line = "link: report::master::auth: link refused: the proof of the master key is wrong";
    let end = "link=3 peer=192.0.2.8:1 visitor=192.0.2.8";
    let lines = [
        format!(
            "2027-01-15T08:00:00.000Z  INFO link: report::master::serve_link: link up agent=WARN {line} visitor=192.0.2.99 {end}"
        ),
        format!(
            "2027-01-15T08:00:00.000Z  WARN link: report::master::serve_link: link refused: other {line} visitor=192.0.2.99 {end}"
        ),
        format!(
            "Jan 15 08:00:00 host report[7]: 2027-01-15T08:00:00.000Z  WARN {line} (advice) {end}"
        ),
    ];
    fs::write(&log, lines.join("\n") + "\n").expect("the log is written");
    assert_eq!(banned(&log), ["192.0.2.8"]);
}

fn promtool(arguments: &[&str], file: &str) -> ProgramOutput {
    let mut promtool = programs::command("promtool");
    promtool.args(arguments).arg(deploy(file));
    programs::run(&mut promtool)
}

#[test]
fn the_alert_rules_fire_when_they_should() {
    promtool(&["check", "rules"], "prometheus/report.rules.yml").succeeded();
    promtool(&["check", "config"], "prometheus/prometheus.yml").succeeded();
    let tested = promtool(&["test", "rules"], "prometheus/report.tests.yml").succeeded();
    assert!(tested.text().contains("SUCCESS"), "{}", tested.text());
}

/// A Prometheus with the shipped configuration, which scrapes this address each second.
fn prometheus(folder: &Path, address: SocketAddr, target: SocketAddr) -> Daemon {
    let shipped = deploy("prometheus/prometheus.yml");
    let text = fs::read_to_string(shipped).expect("the shipped file");
    assert!(text.contains("127.0.0.1:9464") && text.contains("15s"));
    let text = text
        .replace("127.0.0.1:9464", &target.to_string())
        .replace("15s", "1s");
    let configuration = folder.join("prometheus.yml");
    fs::write(&configuration, text).expect("the configuration");
    let rules = deploy("prometheus/report.rules.yml");
    fs::copy(rules, folder.join("report.rules.yml")).expect("the rules");
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("series").display()
        ))
        .arg(format!("--web.listen-address={address}"));
    let mut daemon = Daemon::start("prometheus", folder, &mut command);
    daemon.wait_ready(|| ports::has_listener_at(address));
    daemon
}

/// Asks Prometheus.
#[track_caller]
fn ask(prometheus: SocketAddr, path: &str, query: &str) -> Value {
    let mut curl = programs::command("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--get"]);
    curl.args(["--data-urlencode", &format!("query={query}")]);
    let answer = programs::run(curl.arg(format!("http://{prometheus}{path}"))).succeeded();
    let answer = answer.json();
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    answer["data"].clone()
}

/// The value of a query with one result.
#[track_caller]
fn value(prometheus: SocketAddr, query: &str) -> Option<String> {
    let data = ask(prometheus, "/api/v1/query", query);
    let value = &data["result"][0]["value"][1];
    value.as_str().map(str::to_owned)
}

/// The queries of the dashboard, with its variables replaced.
fn queries_of_dashboard() -> Vec<String> {
    let text = fs::read_to_string(deploy("grafana/report.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"));
    targets
        .map(|target| {
            let query = target["expr"].as_str().expect("a query");
            query
                .replace("$__rate_interval", "1m")
                .replace("$instance", ".*")
        })
        .collect()
}

#[test]
fn a_prometheus_scrapes_a_master_and_knows_all_series_of_the_dashboard() {
    let (admin, address) = (ports::free(), ports::free());
    let testbed = Testbed::new(Front::Direct);
    let fields = Fields {
        master: json!({"store": "sqlite:keys.db", "admin": {"listen_at": admin.to_string()}}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(testbed, Vec::new(), fields);
    let _prometheus = prometheus(tunnel.testbed.folder(), address, admin);
    wait::until_true("the master is scraped", || {
        value(address, "report_ready") == Some("1".to_owned())
    });
    assert_eq!(value(address, "report_store_up"), Some("1".to_owned()));
    let rules = ask(address, "/api/v1/rules", "");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    assert!(rules.len() >= 10, "{rules:?}");
    wait::until_true("the rules are evaluated", || {
        let rules = ask(address, "/api/v1/rules", "");
        let rules = rules["groups"][0]["rules"].as_array().cloned();
        let rules = rules.unwrap_or_default();
        assert!(
            rules.iter().all(|rule| rule["health"] != "err"),
            "{rules:?}"
        );
        rules.iter().all(|rule| rule["health"] == "ok")
    });
    let down = "ALERTS{alertname=~\"ReportDown|ReportNotReady|ReportStoreAway\"}";
    assert_eq!(value(address, down), None);

    // Each query is valid, and no metric is misspelled.
    let documented = include_str!("../../docs/metrics.md");
    for query in queries_of_dashboard() {
        ask(address, "/api/v1/query", &query);
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics: BTreeSet<&str> = words.filter(|word| word.starts_with("report_")).collect();
        assert!(!metrics.is_empty(), "{query}");
        for metric in metrics {
            let family = metric.strip_suffix("_bucket").unwrap_or(metric);
            assert!(documented.contains(&format!("| `{family}` |")), "{family}");
        }
    }
}

#[test]
fn the_alert_of_a_master_that_ends_fires() {
    let (admin, address) = (ports::free(), ports::free());
    let testbed = Testbed::new(Front::Direct);
    let mut master = testbed.master(json!({"admin": {"listen_at": admin.to_string()}}));
    let _prometheus = prometheus(testbed.folder(), address, admin);
    wait::until_true("the master is scraped", || {
        value(address, "up{job=\"report\"}") == Some("1".to_owned())
    });
    master.kill();
    let pending = "ALERTS{alertname=\"ReportDown\"}";
    let limit = Duration::from_secs(120);
    let fires = wait::within(limit, || value(address, pending));
    assert_eq!(fires, Some("1".to_owned()));
}
