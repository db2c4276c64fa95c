//! `report bench`: its output, its errors when it cannot measure, and that the service is never
//! contacted.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, Signal},
    ports, programs,
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, REPORT, Testbed, Tunnel, report},
    wait,
};

/// Keeps the nine phases short.
const SHORT_RUN: [&str; 4] = ["--seconds", "0.05", "--connections", "3"];

/// Runs `report bench` with this client configuration.
fn bench(testbed: &Testbed, client: &Value, arguments: &[&str]) -> programs::ProgramOutput {
    let file = testbed.write("bench", client);
    let file = file.to_str().expect("a path in UTF-8");
    report(
        &[
            &["bench", "--config", file],
            SHORT_RUN.as_slice(),
            arguments,
        ]
        .concat(),
    )
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {path} in {value}"))
}

/// Asserts that every number is present and plausible.
fn check(report: &Value) {
    check_throughput(report);
    for path in [
        "/round_trip/idle",
        "/round_trip/beside_up",
        "/round_trip/beside_down",
    ] {
        assert!(
            number(report, &format!("{path}/samples")) >= 1.0,
            "{path} in {report}"
        );
    }
    check_new_connections(report);
    for path in [
        "/round_trip/idle",
        "/round_trip/beside_down",
        "/new_connections/in_turn",
        "/new_connections/at_once",
    ] {
        let (p50, p99) = (
            number(report, &format!("{path}/p50_us")),
            number(report, &format!("{path}/p99_us")),
        );
        assert!(0.0 < p50 && p50 <= p99, "{path} in {report}");
    }
    assert!(number(report, "/link_ms") > 0.0 && number(report, "/attach_ms") >= 0.0);
    assert_eq!(report["complete"], true);
}

fn check_throughput(report: &Value) {
    for path in [
        "/throughput/up",
        "/throughput/down",
        "/throughput/up_parallel",
        "/throughput/down_parallel",
    ] {
        assert!(
            number(report, &format!("{path}/bytes")) > 0.0,
            "{path} in {report}"
        );
        assert!(
            number(report, &format!("{path}/bytes_per_second")) > 0.0
                && number(report, &format!("{path}/seconds")) >= 0.05
        );
        let connections = if path.ends_with("parallel") { 3.0 } else { 1.0 };
        assert_eq!(number(report, &format!("{path}/connections")), connections);
        assert!((0.0..=1.0).contains(&number(report, &format!("{path}/least_to_most"))));
    }
}

fn check_new_connections(report: &Value) {
    for (path, at_once) in [
        ("/new_connections/in_turn", 1.0),
        ("/new_connections/at_once", 16.0),
    ] {
        assert_eq!(number(report, &format!("{path}/at_once")), at_once);
        assert!(
            number(report, &format!("{path}/connections")) >= at_once,
            "{path} in {report}"
        );
        assert!(number(report, &format!("{path}/per_second")) > 0.0);
    }
}

fn service() -> Service {
    services::echo()
}

#[test]
fn bench_measures_every_method_without_dialling_the_service() {
    let silent = service();
    let methods = [
        ("plain", "null", "random"),
        ("aes-128-cfb", "zstd", "text"),
        ("aes-128-gcm", "s2", "text"),
        ("chacha20-poly1305", "zstd", "random"),
    ];
    let ports: Vec<Port> = methods
        .iter()
        .map(|(encrypt, compress, _)| {
            Port::new(encrypt, silent.address(), Methods { encrypt, compress })
        })
        .collect();
    let tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        ports.clone(),
        Fields::default(),
    );
    let client = tunnel.testbed.client_configuration(&ports, json!({}));
    for (encrypt, compress, data) in methods {
        let output = bench(
            &tunnel.testbed,
            &client,
            &["--json", "--data", data, "--mark", encrypt],
        )
        .succeeded();
        assert_eq!(output.errors, "", "only the JSON is printed");
        let report: Value = serde_json::from_str(&output.text()).expect("one JSON object");
        check(&report);
        assert_eq!(
            (
                &report["port"],
                &report["encrypt_method"],
                &report["compress_method"]
            ),
            (&json!(encrypt), &json!(encrypt), &json!(compress))
        );
        assert_eq!(
            (&report["master"], &report["tls"]),
            (
                &json!(format!("ws://{}/", tunnel.testbed.public_address())),
                &json!(false)
            )
        );
    }
    assert_eq!(silent.accepted(), 0, "the service was contacted");
    assert!(tunnel.is_connected(), "the other client keeps running");
}

#[test]
fn bench_measures_through_tls_and_prints_a_table() {
    let tunnel = Tunnel::start(Front::Tls, Vec::new());
    let client = tunnel
        .testbed
        .client_configuration(&[tunnel.probe().clone()], json!({}));
    let output = bench(&tunnel.testbed, &client, &[]).succeeded();
    assert_eq!(output.errors, "");
    let table = output.text();
    for part in [
        "\"probe\"",
        "wss://localhost",
        "(TLS)",
        "aes-128-gcm",
        "throughput up, 3 connections",
        "MB/s",
        "p99",
        "16 at once",
    ] {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
    assert!(!table.contains("not measured"), "{table}");
}

/// Asserts that the run failed with nothing on standard output. Returns its error output.
#[track_caller]
fn failure_output(output: &programs::ProgramOutput) -> String {
    assert_eq!(
        (output.code, output.text().as_str()),
        (Some(1), ""),
        "{}",
        output.errors
    );
    output.errors.clone()
}

#[track_caller]
fn assert_contains(printed: &str, parts: &[&str]) {
    for part in parts {
        assert!(printed.contains(part), "{part:?} is missing in {printed}");
    }
}

#[test]
fn a_disabled_benchmark_and_an_unknown_port_are_distinguished() {
    let silent = service();
    let port = Port::new("SSH", silent.address(), Methods::DEFAULT);
    let fields = Fields {
        server: json!({"bench": false}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(Testbed::new(Front::Direct), vec![port.clone()], fields);
    let client = tunnel.testbed.client_configuration(
        std::slice::from_ref(&port),
        json!({"hold_timeout": "500ms"}),
    );
    assert_contains(
        &failure_output(&bench(&tunnel.testbed, &client, &["--json"])),
        &["\"bench\": false", "server"],
    );

    let mut another = client.clone();
    another["ports"][0]["port_key"] = json!("an unknown key");
    assert_contains(
        &failure_output(&bench(&tunnel.testbed, &another, &[])),
        &["no server for the port key of \"SSH\"", "to the letter"],
    );

    let mut differing = client.clone();
    differing["ports"][0]["encrypt_method"] = json!("plain");
    assert_contains(
        &failure_output(&bench(&tunnel.testbed, &differing, &[])),
        &["`encrypt_method`", "plain", "aes-128-gcm"],
    );
    assert_eq!(silent.accepted(), 0, "the service was contacted");
}

#[test]
fn an_unreachable_master_is_reported_with_the_layer() {
    let testbed = Testbed::new(Front::Direct);
    let port = Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT);
    let client = testbed.client_configuration(std::slice::from_ref(&port), json!({}));
    assert_contains(
        &failure_output(&bench(&testbed, &client, &[])),
        &["TCP", &testbed.master_address().to_string()],
    );
    let nowhere = [ports::free().to_string(), ports::free().to_string()];
    let client = testbed.client_configuration(&[port], json!({"master": nowhere}));
    assert_contains(
        &failure_output(&bench(&testbed, &client, &[])),
        &[&nowhere[0], &nowhere[1]],
    );
}

#[test]
fn invalid_arguments_are_reported_before_any_dial() {
    let testbed = Testbed::new(Front::Direct);
    let marks = [
        Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT),
        Port::new("远程桌面", "127.0.0.1:2", Methods::DEFAULT),
    ];
    let client = testbed.client_configuration(&marks, json!({}));
    assert_contains(
        &failure_output(&bench(&testbed, &client, &["--mark", "RDP"])),
        &["\"RDP\"", "\"SSH\", \"远程桌面\"", "--mark"],
    );
    let server = testbed.server_configuration(&marks, json!({}));
    assert_contains(
        &failure_output(&bench(&testbed, &server, &[])),
        &["server", "configuration of a client"],
    );
}

#[test]
fn an_interrupt_prints_partial_results_and_sets_the_exit_code() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let client = tunnel
        .testbed
        .client_configuration(&[tunnel.probe().clone()], json!({}));
    let file = tunnel.testbed.write("bench", &client);
    let mut command = Command::new(REPORT);
    let command = command
        .args(["bench", "--json", "--seconds", "60", "--config"])
        .arg(file);
    let mut bench = Daemon::start("bench", tunnel.testbed.folder(), command);
    tunnel
        .server
        .wait_for_line(&["benchmark stream opened", "Echo"]);
    bench.signal(Signal::Interrupt);
    let status = bench.wait_for_end(wait::TIMEOUT).expect("it ends");
    assert_eq!(status.code(), Some(130));
    let printed = fs::read_to_string(tunnel.testbed.folder().join("bench.log")).unwrap();
    let report: Value = serde_json::from_str(&printed).expect("only one JSON object");
    assert_eq!(
        (&report["complete"], &report["throughput"]["up"]),
        (&json!(false), &Value::Null)
    );
}
