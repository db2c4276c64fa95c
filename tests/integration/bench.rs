//! `report bench`: what it prints, what it says when it cannot measure, and that the service hears nothing of it.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, Signal},
    ports, programs,
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, REPORT, Scene, Tunnel, report},
    wait,
};

/// Nine phases pass soon.
const QUICK: [&str; 4] = ["--seconds", "0.05", "--connections", "3"];

/// Runs `report bench` with this configuration of a client.
fn bench(scene: &Scene, client: &Value, arguments: &[&str]) -> programs::Ran {
    let file = scene.write("bench", client);
    let file = file.to_str().expect("a path in UTF-8");
    report(&[&["bench", "--config", file], QUICK.as_slice(), arguments].concat())
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {path} in {value}"))
}

/// That every number is there and makes sense.
fn check(report: &Value) {
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

fn service() -> Service {
    services::echo()
}

#[test]
fn it_measures_every_encryption_and_compression_and_the_service_is_never_dialled() {
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
    let tunnel = Tunnel::on(Scene::new(Front::Direct), ports.clone(), Fields::default());
    let client = tunnel.scene.client_configuration(&ports, json!({}));
    for (encrypt, compress, data) in methods {
        let ran = bench(
            &tunnel.scene,
            &client,
            &["--json", "--data", data, "--mark", encrypt],
        )
        .succeeded();
        assert_eq!(ran.errors, "", "nothing but the JSON is printed");
        let report: Value = serde_json::from_str(&ran.text()).expect("one JSON object");
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
                &json!(format!("ws://{}/", tunnel.scene.public_address())),
                &json!(false)
            )
        );
    }
    assert_eq!(silent.accepted(), 0, "the service has heard of it");
    assert!(
        tunnel.is_joined(),
        "the client that listens beside it goes on"
    );
}

#[test]
fn it_measures_through_tls_and_prints_a_table_for_people() {
    let tunnel = Tunnel::start(Front::Tls, Vec::new());
    let client = tunnel
        .scene
        .client_configuration(&[tunnel.probe().clone()], json!({}));
    let ran = bench(&tunnel.scene, &client, &[]).succeeded();
    assert_eq!(ran.errors, "");
    let table = ran.text();
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
        assert!(table.contains(part), "nothing of {part} in\n{table}");
    }
    assert!(!table.contains("not measured"), "{table}");
}

/// Runs it in vain, and gives what it said.
#[track_caller]
fn refused(ran: &programs::Ran) -> String {
    assert_eq!(
        (ran.code, ran.text().as_str()),
        (Some(1), ""),
        "{}",
        ran.errors
    );
    ran.errors.clone()
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "nothing of {part:?} in {said}");
    }
}

#[test]
fn a_server_that_turned_it_off_and_one_that_does_not_offer_the_port_are_told_apart() {
    let silent = service();
    let port = Port::new("SSH", silent.address(), Methods::USUAL);
    let fields = Fields {
        server: json!({"bench": false}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(Scene::new(Front::Direct), vec![port.clone()], fields);
    let client = tunnel.scene.client_configuration(
        std::slice::from_ref(&port),
        json!({"hold_timeout": "500ms"}),
    );
    assert_says(
        &refused(&bench(&tunnel.scene, &client, &["--json"])),
        &["\"bench\": false", "server"],
    );

    let mut another = client.clone();
    another["ports"][0]["port_key"] = json!("of nobody");
    assert_says(
        &refused(&bench(&tunnel.scene, &another, &[])),
        &["no server for the port key of \"SSH\"", "to the letter"],
    );

    let mut differing = client.clone();
    differing["ports"][0]["encrypt_method"] = json!("plain");
    assert_says(
        &refused(&bench(&tunnel.scene, &differing, &[])),
        &["`encrypt_method`", "plain", "aes-128-gcm"],
    );
    assert_eq!(silent.accepted(), 0, "the service has heard of it");
}

#[test]
fn a_master_that_is_not_there_is_named_with_the_layer() {
    let scene = Scene::new(Front::Direct);
    let port = Port::new("SSH", "127.0.0.1:1", Methods::USUAL);
    let client = scene.client_configuration(std::slice::from_ref(&port), json!({}));
    assert_says(
        &refused(&bench(&scene, &client, &[])),
        &["TCP", &scene.master_address().to_string()],
    );
    let nowhere = [ports::free().to_string(), ports::free().to_string()];
    let client = scene.client_configuration(&[port], json!({"master": nowhere}));
    assert_says(
        &refused(&bench(&scene, &client, &[])),
        &[&nowhere[0], &nowhere[1]],
    );
}

#[test]
fn what_it_cannot_measure_by_its_arguments_is_told_before_anything_is_dialled() {
    let scene = Scene::new(Front::Direct);
    let marks = [
        Port::new("SSH", "127.0.0.1:1", Methods::USUAL),
        Port::new("远程桌面", "127.0.0.1:2", Methods::USUAL),
    ];
    let client = scene.client_configuration(&marks, json!({}));
    assert_says(
        &refused(&bench(&scene, &client, &["--mark", "RDP"])),
        &["\"RDP\"", "\"SSH\", \"远程桌面\"", "--mark"],
    );
    let server = scene.server_configuration(&marks, json!({}));
    assert_says(
        &refused(&bench(&scene, &server, &[])),
        &["server", "configuration of a client"],
    );
}

#[test]
fn an_interrupt_prints_what_was_measured_and_says_so_by_its_exit_code() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let client = tunnel
        .scene
        .client_configuration(&[tunnel.probe().clone()], json!({}));
    let file = tunnel.scene.write("bench", &client);
    let mut command = Command::new(REPORT);
    let command = command
        .args(["bench", "--json", "--seconds", "60", "--config"])
        .arg(file);
    let mut bench = Daemon::start("bench", tunnel.scene.folder(), command);
    tunnel.server.wait_for_line(&["a measuring stream", "Echo"]);
    bench.signal(Signal::Interrupt);
    let status = bench.wait_for_end(wait::PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(130));
    let printed = fs::read_to_string(tunnel.scene.folder().join("bench.log")).unwrap();
    let report: Value = serde_json::from_str(&printed).expect("one JSON object, and nothing else");
    assert_eq!(
        (&report["complete"], &report["throughput"]["up"]),
        (&json!(false), &Value::Null)
    );
}
