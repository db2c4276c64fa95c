//! Findings about the path to the master: reverse proxies, certificates and proxies.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
};

use serde_json::json;

use super::{assert_step, doctor, doctor_json, step_names};
use crate::support::{
    nginx::Tuning,
    ports,
    services::{Ending, Service},
    tunnel::{Front, Methods, Port, Testbed, Tunnel, with},
};

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
