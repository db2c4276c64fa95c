//! `report doctor`: its findings for working and for broken paths. It disturbs no running role and
//! reveals no secret.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    nginx::Tuning,
    ports, programs,
    services::{self, Ending, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, report, with},
};

/// Runs `report doctor` with this configuration and a short measurement.
fn doctor(testbed: &Testbed, configuration: &Value, arguments: &[&str]) -> programs::ProgramOutput {
    let file = testbed.write("doctor", configuration);
    let file = file.to_str().expect("a path in UTF-8");
    report(
        &[
            &["doctor", "--seconds", "0.05", "--config", file],
            arguments,
        ]
        .concat(),
    )
}

/// Runs `report doctor --json` and checks the form of the output. Returns the exit code and the
/// steps.
#[track_caller]
fn doctor_json(
    testbed: &Testbed,
    configuration: &Value,
    arguments: &[&str],
) -> (Option<i32>, Vec<Value>) {
    let output = doctor(testbed, configuration, &[&["--json"], arguments].concat());
    assert_eq!(output.errors, "", "only the JSON is printed");
    let document: Value = serde_json::from_slice(&output.out)
        .unwrap_or_else(|error| panic!("{error}: {}", output.text()));
    assert_eq!(document["ok"], output.code == Some(0), "{document}");
    let steps = document["steps"]
        .as_array()
        .expect("a list of steps")
        .clone();
    for step in &steps {
        let fields: Vec<&str> = step
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            fields,
            [
                "cause",
                "code",
                "evidence",
                "milliseconds",
                "name",
                "outcome",
                "remedy",
                "subject"
            ],
            "{step}"
        );
        let outcome = step["outcome"].as_str().expect("a word");
        assert!(
            ["ok", "warning", "failed", "skipped"].contains(&outcome),
            "{step}"
        );
        for field in ["remedy", "code"] {
            assert_eq!(
                step[field].is_string(),
                ["warning", "failed"].contains(&outcome),
                "{step}"
            );
        }
        assert!(
            step["milliseconds"]
                .as_f64()
                .is_some_and(|time| time >= 0.0),
            "{step}"
        );
    }
    (output.code, steps)
}

/// The step of this name whose subject contains `subject`.
#[track_caller]
fn step<'s>(steps: &'s [Value], name: &str, subject: &str) -> &'s Value {
    let is_it = |step: &&Value| {
        step["name"] == name
            && step["subject"]
                .as_str()
                .is_some_and(|text| text.contains(subject))
    };
    steps
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no step {name} of {subject} in {steps:#?}"))
}

#[track_caller]
fn assert_step(steps: &[Value], name: &str, subject: &str, outcome: &str, words: &[&str]) {
    let step = step(steps, name, subject);
    assert_eq!(step["outcome"], outcome, "{step}");
    for word in words {
        assert!(
            step.to_string().replace("\\\"", "\"").contains(word),
            "{word} is missing in {step}"
        );
    }
}

/// The names of the steps with this outcome.
fn step_names<'s>(steps: &'s [Value], outcome: &str) -> Vec<&'s str> {
    steps
        .iter()
        .filter(|step| step["outcome"] == outcome)
        .filter_map(|step| step["name"].as_str())
        .collect()
}

#[test]
fn all_steps_pass_on_a_working_path_and_the_roles_are_not_disturbed() {
    let tunnel = Tunnel::on(
        Testbed::new(Front::Tls),
        Vec::new(),
        Fields {
            master: json!({"healthz": true}),
            ..Fields::default()
        },
    );
    let (testbed, port) = (&tunnel.testbed, tunnel.probe().clone());
    let (code, steps) = doctor_json(
        testbed,
        &testbed.client_configuration(std::slice::from_ref(&port), json!({})),
        &[],
    );
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_eq!(step_names(&steps, "failed"), [""; 0]);
    for name in ["name", "proxy", "upgrade", "clock", "small_messages"] {
        assert_step(&steps, name, "localhost", "ok", &[]);
    }
    let fingerprint = programs::run(
        programs::command("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(&testbed.leaf().cert),
    );
    let fingerprint = fingerprint
        .succeeded()
        .text()
        .trim()
        .rsplit('=')
        .next()
        .expect("a value")
        .replace(':', "")
        .to_lowercase();
    assert_step(
        &steps,
        "tls",
        "localhost",
        "ok",
        &[
            "TLS 1.3",
            "\"localhost\"",
            "rePort test authority",
            &fingerprint,
        ],
    );
    assert_step(&steps, "tcp", "127.0.0.1", "ok", &["connected"]);
    assert_step(&steps, "master_key", "localhost", "ok", &["not needed"]);
    assert_step(&steps, "port_key", "probe", "ok", &["aes-128-gcm and null"]);
    assert_step(&steps, "service", "probe", "ok", &["not reset"]);
    for (name, unit) in [
        ("round_trip", "p50"),
        ("throughput_up", "MB/s"),
        ("throughput_down", "MB/s"),
    ] {
        assert_step(&steps, name, "probe", "ok", &[unit]);
    }
    step(&steps, "buffering", "probe");

    let (code, steps) = doctor_json(
        testbed,
        &testbed.server_configuration(&[port], json!({})),
        &[],
    );
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(
        &steps,
        "master_key",
        "localhost",
        "ok",
        &["joined as a server", "nothing was registered"],
    );
    assert_step(&steps, "service", "probe", "ok", &["accepts connections"]);

    let (code, steps) = doctor_json(
        testbed,
        &testbed.master_configuration(json!({"healthz": true})),
        &[],
    );
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(
        &steps,
        "listen",
        "127.0.0.1",
        "ok",
        &["a master with this master key and path is running"],
    );
    assert_step(
        &steps,
        "certificate",
        "leaf.pem",
        "ok",
        &["\"localhost\"", &fingerprint],
    );
    assert_step(&steps, "health", "/healthz", "ok", &["200"]);

    assert!(tunnel.is_connected(), "the roles keep running");
    assert_eq!(
        tunnel.master.log().matches("registered").count(),
        1,
        "only the server's registration"
    );
    assert!(
        !tunnel.master.log().contains("takes over"),
        "{}",
        tunnel.master.log()
    );
}

#[test]
fn missing_server_service_and_matching_methods_are_distinguished() {
    let echo = services::echo();
    let [up, down] = [("up", echo.address()), ("down", ports::free())]
        .map(|(mark, at)| Port::new(mark, at, Methods::DEFAULT));
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({}));
    let client = testbed.client_configuration(
        &[up.clone(), down.clone()],
        json!({"hold_timeout": "100ms"}),
    );
    let (code, steps) = doctor_json(&testbed, &client, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "port_key",
        "up",
        "failed",
        &["no server for this port key", "compare `port_key`"],
    );
    assert_step(&steps, "service", "up", "skipped", &[]);

    let tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        vec![up, down],
        Fields {
            server: json!({"bench": false}),
            ..Fields::default()
        },
    );
    let testbed = &tunnel.testbed;
    let mut client = with(client, json!({"master": testbed.master_url()}));
    let (code, steps) = doctor_json(testbed, &client, &[]);
    assert_eq!(code, Some(1));
    assert_step(&steps, "port_key", "down", "ok", &[]);
    assert_step(&steps, "service", "up", "ok", &[]);
    assert_step(
        &steps,
        "service",
        "down",
        "failed",
        &["refuses connections", "not running", "start the service"],
    );
    assert_step(
        &steps,
        "throughput_up",
        "up",
        "skipped",
        &["\"bench\": false"],
    );

    client["ports"][0]["port_key"] = json!("an unknown key");
    client["ports"][1]["encrypt_method"] = json!("plain");
    let (code, steps) = doctor_json(testbed, &client, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "port_key",
        "up",
        "failed",
        &["no server for this port key"],
    );
    assert_step(
        &steps,
        "port_key",
        "down",
        "failed",
        &["`encrypt_method`", "plain", "aes-128-gcm"],
    );
}

#[test]
fn a_wrong_master_key_fails_its_step_and_the_services_are_still_checked() {
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({}));
    let port = Port::new("SSH", ports::free(), Methods::DEFAULT);
    let server = testbed.server_configuration(
        std::slice::from_ref(&port),
        json!({"master_key": "another key"}),
    );
    let (code, steps) = doctor_json(&testbed, &server, &[]);
    assert_eq!(code, Some(1));
    assert_step(&steps, "upgrade", "127.0.0.1", "ok", &["101"]);
    assert_step(
        &steps,
        "master_key",
        "127.0.0.1",
        "failed",
        &[
            "refused the master key",
            "compare `master_key` at both ends",
        ],
    );
    assert_step(&steps, "port_key", "SSH", "skipped", &[]);
    assert_step(
        &steps,
        "service",
        "SSH",
        "failed",
        &["refused", "`local_address`"],
    );
}

#[test]
fn a_server_that_is_not_running_yet_is_a_warning() {
    let (testbed, echo) = (Testbed::new(Front::Direct), services::echo());
    let _master = testbed.master(json!({}));
    let port = Port::new("SSH", echo.address(), Methods::DEFAULT);
    let (code, steps) = doctor_json(
        &testbed,
        &testbed.server_configuration(&[port], json!({})),
        &[],
    );
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(
        &steps,
        "port_key",
        "SSH",
        "warning",
        &["this server is not running"],
    );
}

#[test]
fn an_nginx_without_upgrade_headers_is_reported_with_the_missing_lines() {
    let replacements = vec![
        ("proxy_set_header Upgrade $http_upgrade;", ""),
        ("proxy_http_version 1.1;", ""),
    ];
    let testbed = Testbed::tuned(
        Front::NginxPlain,
        &Tuning {
            replacements,
            ..Tuning::default()
        },
    );
    let _master = testbed.master(json!({}));
    let port = Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT);
    let url = format!("ws://{}/tunnel", testbed.public_address());
    let (code, steps) = doctor_json(
        &testbed,
        &testbed.client_configuration(&[port], json!({"master": url})),
        &[],
    );
    assert_eq!(code, Some(1));
    let words = [
        "404",
        "nginx forwarded the request",
        "proxy_set_header Upgrade $http_upgrade",
    ];
    assert_step(&steps, "upgrade", "/tunnel", "failed", &words);
    assert_step(
        &steps,
        "clock",
        "/tunnel",
        "ok",
        &["this machine's clock is"],
    );
    assert_eq!(
        step_names(&steps, "skipped"),
        ["master_key", "small_messages", "port_key"]
    );
}

#[test]
fn an_expired_certificate_is_reported_at_both_ends() {
    let testbed = Testbed::new(Front::Tls);
    let expired = testbed.authority().leaf_with("expired", |params| {
        params.not_after = rcgen::date_time_ymd(2001, 2, 3)
    });
    let files = json!({"tls": {"cert": expired.cert, "key": expired.key}});
    let _master = testbed.master(files.clone());
    let port = Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT);
    let (code, steps) = doctor_json(
        &testbed,
        &testbed.client_configuration(&[port], json!({})),
        &[],
    );
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "tls",
        "localhost",
        "failed",
        &["2001-02-03", "this machine's time is", "renew it"],
    );
    let (code, steps) = doctor_json(&testbed, &testbed.master_configuration(files), &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "certificate",
        "expired.pem",
        "failed",
        &["2001-02-03", "renew it"],
    );
}

#[test]
fn a_listening_address_of_another_program_is_reported() {
    let (testbed, other) = (Testbed::new(Front::Direct), services::echo());
    let taken = testbed.master_configuration(json!({"listen_at": other.address().to_string()}));
    let (code, steps) = doctor_json(&testbed, &taken, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "listen",
        &other.address().to_string(),
        "failed",
        &["another program listens there", "`listen_at`"],
    );
    let (code, steps) = doctor_json(&testbed, &testbed.master_configuration(json!({})), &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(&steps, "listen", "127.0.0.1", "ok", &["not running"]);
}

/// A proxy that requires Basic authentication.
fn basic_auth_proxy() -> Service {
    Service::start(|mut stream| {
        loop {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => return Ending::Clean,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            if !head.contains("Basic YW5uOnNlc2FtZQ==") {
                let answer = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes());
                continue;
            }
            let target: SocketAddr = head
                .split(' ')
                .nth(1)
                .and_then(|target| target.parse().ok())
                .expect("an address");
            let far = TcpStream::connect(target).expect("the master listens");
            let _ = stream.write_all(b"HTTP/1.1 200 Yes\r\n\r\n");
            relay(stream, &far);
            return Ending::Clean;
        }
    })
}

/// Copies bytes in both directions until both have ended.
fn relay(near: &TcpStream, far: &TcpStream) {
    thread::scope(|scope| {
        for (mut from, mut to) in [(near, far), (far, near)] {
            scope.spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
}

#[test]
fn a_proxy_is_reported_with_its_origin_and_scheme_and_without_secrets() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let (testbed, proxy) = (&tunnel.testbed, basic_auth_proxy());
    let fields = json!({"proxy": format!("http://ann:sesame@{}", proxy.address())});
    let client = testbed.client_configuration(&[tunnel.probe().clone()], fields);
    let (code, steps) = doctor_json(testbed, &client, &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    let words = ["the field `proxy`", "authenticated as \"ann\" with Basic"];
    assert_step(&steps, "proxy", &proxy.address().to_string(), "ok", &words);
    assert_step(&steps, "name", "127.0.0.1", "ok", &[]);
    let document = doctor(testbed, &client, &[]);
    assert_eq!(document.code, Some(0), "{}", document.text());
    let document = document.text() + &document.errors + &format!("{steps:?}");
    for secret in [
        "sesame",
        "YW5uOnNlc2FtZQ",
        &tunnel.probe().key,
        &testbed.master_key,
    ] {
        assert!(
            !document.contains(secret),
            "the output contains {secret}:\n{document}"
        );
    }
    let gone = ports::free();
    let client = with(client, json!({"proxy": format!("http://{gone}")}));
    let (code, steps) = doctor_json(testbed, &client, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "tcp",
        &gone.to_string(),
        "failed",
        &["refused", "no program listens there"],
    );
    assert_eq!(step_names(&steps, "failed"), ["tcp"]);
}

#[test]
fn an_invalid_configuration_file_is_a_failed_step_with_its_location() {
    let testbed = Testbed::new(Front::Direct);
    let client = testbed.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT)],
        json!({"mster": 1}),
    );
    let (code, steps) = doctor_json(&testbed, &client, &[]);
    assert_eq!((code, steps.len()), (Some(1), 1));
    assert_step(
        &steps,
        "configuration",
        "doctor.json",
        "failed",
        &["mster", "master"],
    );
}

#[test]
fn the_text_output_has_a_line_for_each_step_with_its_remedy_below() {
    let testbed = Testbed::new(Front::Direct);
    let client = testbed.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT)],
        json!({}),
    );
    let output = doctor(&testbed, &client, &[]);
    assert_eq!((output.code, output.errors.as_str()), (Some(1), ""));
    let text = output.text();
    assert!(
        !text.contains('\u{1b}'),
        "no colour without a terminal: {text}"
    );
    let lines: Vec<&str> = text.lines().collect();
    let failed = lines
        .iter()
        .position(|line| line.starts_with("FAILED") && line.contains("tcp"))
        .expect("a failed line");
    assert!(
        lines[failed + 1]
            .trim_start()
            .starts_with("why: no program listens there"),
        "{text}"
    );
    assert!(
        lines[failed + 2]
            .trim_start()
            .starts_with("do: check that it is running"),
        "{text}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("skipped") && line.contains("port_key")),
        "{text}"
    );
    assert!(text.contains("checks failed: "), "{text}");
}

#[test]
fn an_idle_limit_of_the_path_is_found_and_a_keep_alive_suggested() {
    let replacements = vec![
        (
            "proxy_read_timeout 1h;",
            "proxy_read_timeout 2s; proxy_send_timeout 2s;",
        ),
        ("proxy_send_timeout 1h;", ""),
    ];
    let testbed = Testbed::tuned(
        Front::NginxPlain,
        &Tuning {
            replacements,
            ..Tuning::default()
        },
    );
    // The master's own keep-alives would keep the links alive if the doctor did not ask it to be
    // silent.
    let _master = testbed.master(json!({"heartbeat": "1s"}));
    let port = Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT);
    let client = testbed.client_configuration(&[port], json!({"hold_timeout": "0s"}));
    let (_, steps) = doctor_json(&testbed, &client, &["--patient", "--silence-scale", "0.03"]);
    let words = [
        "idle for 1800ms still worked",
        "idle for 2700ms did not",
        "\"heartbeat\": \"1s\"",
    ];
    assert_step(&steps, "silence", "127.0.0.1", "warning", &words);
}

#[test]
fn a_path_without_an_idle_limit_needs_no_other_keep_alive() {
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({"heartbeat": "1s"}));
    let client = testbed.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT)],
        json!({"hold_timeout": "0s"}),
    );
    let (_, steps) = doctor_json(&testbed, &client, &["--patient", "--silence-scale", "0.01"]);
    assert_step(
        &steps,
        "silence",
        "127.0.0.1",
        "ok",
        &["idle for 3s", "can stay at 20s"],
    );
}
