//! `report doctor`: what it says of ways that hold and of ways that do not, that it disturbs nobody, and that it keeps secrets.

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
    tunnel::{Fields, Front, Methods, Port, Scene, Tunnel, report, with},
};

/// Runs `report doctor` with this configuration, and measures for a moment only.
fn doctor(scene: &Scene, configuration: &Value, arguments: &[&str]) -> programs::Ran {
    let file = scene.write("doctor", configuration);
    let file = file.to_str().expect("a path in UTF-8");
    report(
        &[
            &["doctor", "--seconds", "0.05", "--config", file],
            arguments,
        ]
        .concat(),
    )
}

/// The same as JSON, which is checked for its form.
#[track_caller]
fn examined(scene: &Scene, configuration: &Value, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let ran = doctor(scene, configuration, &[&["--json"], arguments].concat());
    assert_eq!(ran.errors, "", "nothing but the JSON is printed");
    let told: Value =
        serde_json::from_slice(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.text()));
    assert_eq!(told["ok"], ran.code == Some(0), "{told}");
    let steps = told["steps"].as_array().expect("a list of steps").clone();
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
        assert_eq!(
            step["remedy"].is_string(),
            ["warning", "failed"].contains(&outcome),
            "{step}"
        );
        assert!(
            step["milliseconds"]
                .as_f64()
                .is_some_and(|time| time >= 0.0),
            "{step}"
        );
    }
    (ran.code, steps)
}

/// The one step of this name and subject.
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
            "nothing of {word} in {step}"
        );
    }
}

/// The names of the steps with this outcome.
fn names<'s>(steps: &'s [Value], outcome: &str) -> Vec<&'s str> {
    steps
        .iter()
        .filter(|step| step["outcome"] == outcome)
        .filter_map(|step| step["name"].as_str())
        .collect()
}

#[test]
fn a_way_that_holds_is_walked_to_its_end_and_nobody_is_disturbed() {
    let tunnel = Tunnel::on(
        Scene::new(Front::Tls),
        Vec::new(),
        Fields {
            master: json!({"healthz": true}),
            ..Fields::default()
        },
    );
    let (scene, port) = (&tunnel.scene, tunnel.probe().clone());
    let (code, steps) = examined(
        scene,
        &scene.client_configuration(std::slice::from_ref(&port), json!({})),
        &[],
    );
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_eq!(names(&steps, "failed"), [""; 0]);
    for name in ["name", "proxy", "upgrade", "clock", "small_messages"] {
        assert_step(&steps, name, "localhost", "ok", &[]);
    }
    let fingerprint = programs::run(
        programs::command("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(&scene.leaf().cert),
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
    assert_step(
        &steps,
        "master_key",
        "localhost",
        "ok",
        &["a client needs none"],
    );
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

    let (code, steps) = examined(scene, &scene.server_configuration(&[port], json!({})), &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(
        &steps,
        "master_key",
        "localhost",
        "ok",
        &["joined as a server", "nothing was registered"],
    );
    assert_step(&steps, "service", "probe", "ok", &["takes connections"]);

    let (code, steps) = examined(
        scene,
        &scene.master_configuration(json!({"healthz": true})),
        &[],
    );
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(
        &steps,
        "listen",
        "127.0.0.1",
        "ok",
        &["a master with this master key and path runs there"],
    );
    assert_step(
        &steps,
        "certificate",
        "leaf.pem",
        "ok",
        &["\"localhost\"", &fingerprint],
    );
    assert_step(&steps, "health", "/healthz", "ok", &["200"]);

    assert!(tunnel.is_joined(), "the roles go on");
    assert_eq!(
        tunnel.master.log().matches("registered").count(),
        1,
        "the server's own registration alone"
    );
    assert!(
        !tunnel.master.log().contains("takes over"),
        "{}",
        tunnel.master.log()
    );
}

#[test]
fn what_is_missing_at_the_other_end_is_told_apart() {
    let echo = services::echo();
    let [up, down] = [("up", echo.address()), ("down", ports::free())]
        .map(|(mark, at)| Port::new(mark, at, Methods::USUAL));
    let scene = Scene::new(Front::Direct);
    let _master = scene.master(json!({}));
    let client = scene.client_configuration(
        &[up.clone(), down.clone()],
        json!({"hold_timeout": "100ms"}),
    );
    let (code, steps) = examined(&scene, &client, &[]);
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
        Scene::new(Front::Direct),
        vec![up, down],
        Fields {
            server: json!({"bench": false}),
            ..Fields::default()
        },
    );
    let scene = &tunnel.scene;
    let mut client = with(client, json!({"master": scene.master_url()}));
    let (code, steps) = examined(scene, &client, &[]);
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

    client["ports"][0]["port_key"] = json!("of nobody");
    client["ports"][1]["encrypt_method"] = json!("plain");
    let (code, steps) = examined(scene, &client, &[]);
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
fn a_wrong_master_key_fails_at_its_step_and_the_services_are_looked_at_all_the_same() {
    let scene = Scene::new(Front::Direct);
    let _master = scene.master(json!({}));
    let port = Port::new("SSH", ports::free(), Methods::USUAL);
    let server = scene.server_configuration(
        std::slice::from_ref(&port),
        json!({"master_key": "another key"}),
    );
    let (code, steps) = examined(&scene, &server, &[]);
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
fn a_server_that_is_not_started_yet_is_a_warning_and_no_failure() {
    let (scene, echo) = (Scene::new(Front::Direct), services::echo());
    let _master = scene.master(json!({}));
    let port = Port::new("SSH", echo.address(), Methods::USUAL);
    let (code, steps) = examined(&scene, &scene.server_configuration(&[port], json!({})), &[]);
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
fn an_nginx_that_does_not_pass_the_upgrade_on_is_told_with_what_to_write() {
    let instead = vec![
        ("proxy_set_header Upgrade $http_upgrade;", ""),
        ("proxy_http_version 1.1;", ""),
    ];
    let scene = Scene::tuned(
        Front::NginxPlain,
        &Tuning {
            instead,
            ..Tuning::default()
        },
    );
    let _master = scene.master(json!({}));
    let port = Port::new("SSH", "127.0.0.1:1", Methods::USUAL);
    let url = format!("ws://{}/tunnel", scene.public_address());
    let (code, steps) = examined(
        &scene,
        &scene.client_configuration(&[port], json!({"master": url})),
        &[],
    );
    assert_eq!(code, Some(1));
    let words = [
        "404",
        "nginx has passed the request on",
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
        names(&steps, "skipped"),
        ["master_key", "small_messages", "port_key"]
    );
}

#[test]
fn an_expired_certificate_is_told_at_both_ends() {
    let scene = Scene::new(Front::Tls);
    let expired = scene.authority().leaf_with("expired", |params| {
        params.not_after = rcgen::date_time_ymd(2001, 2, 3)
    });
    let files = json!({"tls": {"cert": expired.cert, "key": expired.key}});
    let _master = scene.master(files.clone());
    let port = Port::new("SSH", "127.0.0.1:1", Methods::USUAL);
    let (code, steps) = examined(&scene, &scene.client_configuration(&[port], json!({})), &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "tls",
        "localhost",
        "failed",
        &["2001-02-03", "this machine's time is", "renew it"],
    );
    let (code, steps) = examined(&scene, &scene.master_configuration(files), &[]);
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
fn a_masters_address_that_another_program_has_is_told() {
    let (scene, other) = (Scene::new(Front::Direct), services::echo());
    let taken = scene.master_configuration(json!({"listen_at": other.address().to_string()}));
    let (code, steps) = examined(&scene, &taken, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "listen",
        &other.address().to_string(),
        "failed",
        &["somebody else listens there", "`listen_at`"],
    );
    let (code, steps) = examined(&scene, &scene.master_configuration(json!({})), &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    assert_step(&steps, "listen", "127.0.0.1", "ok", &["not running"]);
}

/// A proxy that wants to know who asks, by Basic.
fn asking_proxy() -> Service {
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
            carry(stream, &far);
            return Ending::Clean;
        }
    })
}

/// Carries bytes both ways until both have ended.
fn carry(near: &TcpStream, far: &TcpStream) {
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
fn a_proxy_is_named_with_who_names_it_and_how_it_was_told_who_asks_and_secrets_are_kept() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let (scene, proxy) = (&tunnel.scene, asking_proxy());
    let fields = json!({"proxy": format!("http://ann:sesame@{}", proxy.address())});
    let client = scene.client_configuration(&[tunnel.probe().clone()], fields);
    let (code, steps) = examined(scene, &client, &[]);
    assert_eq!(code, Some(0), "{steps:#?}");
    let words = ["the field `proxy`", "told that \"ann\" asks, by Basic"];
    assert_step(&steps, "proxy", &proxy.address().to_string(), "ok", &words);
    assert_step(&steps, "name", "127.0.0.1", "ok", &[]);
    let told = doctor(scene, &client, &[]);
    assert_eq!(told.code, Some(0), "{}", told.text());
    let told = told.text() + &told.errors + &format!("{steps:?}");
    for secret in [
        "sesame",
        "YW5uOnNlc2FtZQ",
        &tunnel.probe().key,
        &scene.master_key,
    ] {
        assert!(!told.contains(secret), "{secret} is told:\n{told}");
    }
    let gone = ports::free();
    let client = with(client, json!({"proxy": format!("http://{gone}")}));
    let (code, steps) = examined(scene, &client, &[]);
    assert_eq!(code, Some(1));
    assert_step(
        &steps,
        "tcp",
        &gone.to_string(),
        "failed",
        &["refused", "nobody listens there"],
    );
    assert_eq!(names(&steps, "failed"), ["tcp"]);
}

#[test]
fn a_file_that_is_wrong_is_a_failed_step_with_its_place() {
    let scene = Scene::new(Front::Direct);
    let client = scene.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::USUAL)],
        json!({"mster": 1}),
    );
    let (code, steps) = examined(&scene, &client, &[]);
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
fn people_read_a_line_for_each_step_and_the_remedy_below_it() {
    let scene = Scene::new(Front::Direct);
    let client = scene.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::USUAL)],
        json!({}),
    );
    let ran = doctor(&scene, &client, &[]);
    assert_eq!((ran.code, ran.errors.as_str()), (Some(1), ""));
    let text = ran.text();
    assert!(
        !text.contains('\u{1b}'),
        "no colour where nobody looks: {text}"
    );
    let lines: Vec<&str> = text.lines().collect();
    let failed = lines
        .iter()
        .position(|line| line.starts_with("FAILED") && line.contains("tcp"))
        .expect("a failed line");
    assert!(
        lines[failed + 1]
            .trim_start()
            .starts_with("why: nobody listens there"),
        "{text}"
    );
    assert!(
        lines[failed + 2]
            .trim_start()
            .starts_with("do: is it running"),
        "{text}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("skipped") && line.contains("port_key")),
        "{text}"
    );
    assert!(text.contains("something fails: "), "{text}");
}

#[test]
fn the_silence_that_a_path_cuts_is_found_with_a_heartbeat_that_avoids_it() {
    let instead = vec![
        (
            "proxy_read_timeout 1h;",
            "proxy_read_timeout 2s; proxy_send_timeout 2s;",
        ),
        ("proxy_send_timeout 1h;", ""),
    ];
    let scene = Scene::tuned(
        Front::NginxPlain,
        &Tuning {
            instead,
            ..Tuning::default()
        },
    );
    // Its own heartbeats would keep the links alive if it were not asked to be silent.
    let _master = scene.master(json!({"heartbeat": "1s"}));
    let port = Port::new("SSH", "127.0.0.1:1", Methods::USUAL);
    let client = scene.client_configuration(&[port], json!({"hold_timeout": "0s"}));
    let (_, steps) = examined(&scene, &client, &["--patient", "--silence-scale", "0.03"]);
    let words = [
        "silent for 1800ms still worked",
        "silent for 2700ms did not",
        "\"heartbeat\": \"1s\"",
    ];
    assert_step(&steps, "silence", "127.0.0.1", "warning", &words);
}

#[test]
fn a_path_without_an_idle_limit_lets_the_heartbeat_be() {
    let scene = Scene::new(Front::Direct);
    let _master = scene.master(json!({"heartbeat": "1s"}));
    let client = scene.client_configuration(
        &[Port::new("SSH", "127.0.0.1:1", Methods::USUAL)],
        json!({"hold_timeout": "0s"}),
    );
    let (_, steps) = examined(&scene, &client, &["--patient", "--silence-scale", "0.01"]);
    assert_step(
        &steps,
        "silence",
        "127.0.0.1",
        "ok",
        &["silent for 3s", "may stay at 20s"],
    );
}
