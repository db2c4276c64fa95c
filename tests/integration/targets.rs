//! A service with several targets: nginx processes that stop and start, health checks over HTTP, and
//! what the log and the metrics report.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    nginx, ports, programs,
    services::{self, Ending},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, with},
    wait,
};

/// A health check that notices a change soon.
fn quick_check(kind: &str) -> Value {
    let check = json!({"kind": kind, "interval": "200ms", "timeout": "200ms"});
    match kind {
        "http" => with(check, json!({"path": "/health"})),
        _ => check,
    }
}

/// A port with these targets.
fn port(targets: &[SocketAddr], fields: Value) -> Port {
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let at_server = json!({"local_address": null, "targets": targets});
    Port {
        at_server: with(at_server, fields),
        ..Port::new("web", "none", Methods::DEFAULT)
    }
}

/// The file that makes a web server unhealthy.
fn down_file(testbed: &Testbed, name: &str) -> PathBuf {
    testbed.folder().join(format!("{name}.down"))
}

/// A web server that answers with its name. Its `/health` has the status 503 while its file exists.
fn web_server(testbed: &Testbed, name: &str, address: SocketAddr) -> Daemon {
    let down = down_file(testbed, name);
    let site = format!(
        "server {{ listen {address};\n\
         location / {{ return 200 \"{name}\"; }}\n\
         location /health {{ if (-f {}) {{ return 503; }} return 200 \"up\"; }} }}",
        down.display()
    );
    nginx::site(name, testbed.folder(), address, &site)
}

/// The name of the web server that answers a new connection.
#[track_caller]
fn answering(tunnel: &Tunnel) -> String {
    let answer = programs::curl(tunnel.local("web"), "/");
    String::from_utf8(answer).expect("a name")
}

/// The lines of the server's log with these words.
fn count_lines(tunnel: &Tunnel, words: &[&str]) -> usize {
    let log = tunnel.server.log();
    let lines = log.lines();
    lines
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .count()
}

#[test]
fn connections_go_to_the_next_target_while_the_first_is_stopped_and_return_to_it() {
    let testbed = Testbed::new(Front::Direct);
    let [one, two] = [ports::free(), ports::free()];
    let mut first = web_server(&testbed, "one", one);
    let _second = web_server(&testbed, "two", two);
    let port = port(&[one, two], json!({"health_check": quick_check("tcp")}));
    let tunnel = Tunnel::on(testbed, vec![port], Fields::default());
    assert_eq!(answering(&tunnel), "one");
    first.stop();
    for _ in 0..5 {
        assert_eq!(answering(&tunnel), "two");
    }
    let _again = web_server(&tunnel.testbed, "one", one);
    wait::until_true("the first target is used again", || {
        answering(&tunnel) == "one"
    });
}

#[test]
fn without_a_health_check_a_target_that_refuses_is_tried_last() {
    let testbed = Testbed::new(Front::Direct);
    let [down, up] = [ports::free(), ports::free()];
    let _web = web_server(&testbed, "up", up);
    let tunnel = Tunnel::on(
        testbed,
        vec![port(&[down, up], Value::Null)],
        Fields::default(),
    );
    for _ in 0..5 {
        assert_eq!(answering(&tunnel), "up");
    }
    let address = down.to_string();
    tunnel
        .server
        .wait_for_line(&["target avoided", &address, "refused"]);
    assert_eq!(count_lines(&tunnel, &["target avoided"]), 1);
}

#[test]
fn a_target_whose_health_check_answers_503_gets_no_connections() {
    let testbed = Testbed::new(Front::Direct);
    let [one, two] = [ports::free(), ports::free()];
    let _servers = [
        web_server(&testbed, "one", one),
        web_server(&testbed, "two", two),
    ];
    let fields = json!({"health_check": quick_check("http")});
    let tunnel = Tunnel::on(testbed, vec![port(&[one, two], fields)], Fields::default());
    assert_eq!(answering(&tunnel), "one");
    let (address, file) = (one.to_string(), down_file(&tunnel.testbed, "one"));
    fs::write(&file, "").expect("written");
    tunnel
        .server
        .wait_for_line(&["target is unhealthy", &address, "503", "port=web"]);
    assert_eq!(answering(&tunnel), "two");
    fs::remove_file(&file).expect("removed");
    tunnel
        .server
        .wait_for_line(&["target is healthy", &address, "port=web"]);
    assert_eq!(answering(&tunnel), "one");
}

#[test]
fn spread_connections_use_all_targets_and_the_metrics_report_each() {
    let testbed = Testbed::new(Front::Direct);
    let [one, down, two] = [(); 3].map(|()| ports::free());
    let _servers = [
        web_server(&testbed, "one", one),
        web_server(&testbed, "two", two),
    ];
    let admin = ports::free();
    let fields = Fields {
        server: json!({"admin": {"listen_at": admin.to_string()}}),
        ..Fields::default()
    };
    let port = port(&[one, down, two], json!({"target_choice": "spread"}));
    let tunnel = Tunnel::on(testbed, vec![port], fields);
    // The connection that meets the refusal goes to another target.
    let answers: Vec<String> = (0..12).map(|_| answering(&tunnel)).collect();
    for name in ["one", "two"] {
        let count = answers.iter().filter(|answer| *answer == name).count();
        assert!((5..=7).contains(&count), "{answers:?}");
    }
    let metrics = String::from_utf8(programs::curl(admin, "/metrics")).expect("text");
    for (name, address, value) in [
        ("healthy", one, 1),
        ("healthy", down, 0),
        ("healthy", two, 1),
        ("failures_total", one, 0),
    ] {
        let line = format!("report_target_{name}{{port=\"web\",target=\"{address}\"}} {value}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    let none = format!("report_target_failures_total{{port=\"web\",target=\"{down}\"}} 0\n");
    assert!(!metrics.contains(&none), "{metrics}");
}

#[test]
fn a_connection_is_reset_when_all_targets_refuse_and_the_log_names_them() {
    let testbed = Testbed::new(Front::Direct);
    let targets = [ports::free(), ports::free()];
    let tunnel = Tunnel::on(
        testbed,
        vec![port(&targets, Value::Null)],
        Fields::default(),
    );
    let ended = services::read_to_ending(&services::connect(tunnel.local("web")));
    assert_eq!(ended, (Vec::new(), Ending::Reset));
    let [one, two] = targets.map(|target| target.to_string());
    tunnel.server.wait_for_line(&[
        "cannot reach the local service",
        "service_refused",
        &format!("no connection to {one} (refused)"),
        &format!("no connection to {two} (refused)"),
    ]);
}

#[test]
fn a_unix_socket_that_is_missing_leads_to_the_next_target() {
    let testbed = Testbed::new(Front::Direct);
    let echo = services::echo();
    let missing = format!("unix:{}", testbed.folder().join("missing.sock").display());
    let targets = json!({"targets": [missing, echo.address().to_string()]});
    let port = port(&[], targets);
    let tunnel = Tunnel::on(testbed, vec![port], Fields::default());
    services::ping(&services::connect(tunnel.local("web")), b"to the second").expect("an echo");
    tunnel
        .server
        .wait_for_line(&["target avoided", "missing.sock", "there is no such file"]);
}
