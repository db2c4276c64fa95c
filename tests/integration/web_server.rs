//! The master as a web server, alone and behind nginx with a web site beside the tunnel.

use std::{
    fs,
    io::{Read as _, Write as _},
};

use serde_json::json;

use crate::support::{
    nginx, ports, programs, services,
    tunnel::{Fields, Front, Testbed, Tunnel},
};

#[test]
fn the_master_answers_as_an_ordinary_web_server_and_healthz_only_when_configured() {
    let testbed = Testbed::new(Front::Direct);
    let status = |path: &str| {
        let mut curl = programs::command("curl");
        curl.args([
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        programs::run(curl.arg(format!("http://{}{path}", testbed.master_address())))
            .succeeded()
            .text()
    };
    let master = testbed.master(json!({}));
    assert_eq!(
        [status("/"), status("/healthz"), status("/any/thing")],
        ["404", "404", "404"]
    );
    drop(master);
    let _master = testbed.master(json!({"healthz": true}));
    assert_eq!([status("/"), status("/healthz")], ["404", "200"]);
}

#[test]
fn only_the_configured_path_upgrades() {
    let testbed = Testbed::new(Front::Direct);
    let fields = Fields {
        master: json!({"path": "/a/path"}),
        server: json!({"master": format!("ws://{}/a/path", testbed.master_address())}),
        client: json!({"master": format!("ws://{}/a/path", testbed.master_address())}),
    };
    let tunnel = Tunnel::on(testbed, Vec::new(), fields);
    let mut stream = services::connect(tunnel.testbed.master_address());
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[test]
fn nginx_serves_the_web_site_beside_the_tunnel() {
    for (front, scheme) in [(Front::NginxPlain, "http"), (Front::NginxTls, "https")] {
        let tunnel = Tunnel::start(front, Vec::new());
        for path in ["/", "/index.html"] {
            let url = format!(
                "{scheme}://localhost:{}{path}",
                tunnel.testbed.public_address().port()
            );
            let mut curl = programs::command("curl");
            let page = programs::run(
                curl.args(["--silent", "--fail", "--cacert"])
                    .arg(tunnel.testbed.authority().path())
                    .arg(url),
            );
            assert_eq!(
                page.succeeded().text(),
                "the web site beside the tunnel\n",
                "{front:?} {path}"
            );
        }
    }
}

#[test]
fn both_tunnel_paths_of_nginx_reach_the_tunnel() {
    for (front, scheme) in [(Front::NginxPlain, "ws"), (Front::NginxTls, "wss")] {
        let testbed = Testbed::new(front);
        let at = |path: &str| json!({"master": format!("{scheme}://localhost:{}{path}", testbed.public_address().port())});
        let fields = Fields {
            server: at("/"),
            client: at("/tunnel"),
            ..Fields::default()
        };
        Tunnel::on(testbed, Vec::new(), fields);
    }
}

#[test]
fn the_answer_to_a_request_arrives_before_the_pipelined_upgrade() {
    let testbed = Testbed::new(Front::Direct);
    let root = testbed.folder().join("www");
    fs::create_dir_all(&root).unwrap();
    let page = "x".repeat(300_000);
    fs::write(root.join("page"), &page).unwrap();
    let web = ports::free();
    let _nginx = nginx::file_server(testbed.folder(), web, &root);
    for fallback in [
        json!({"server": format!("http://{web}")}),
        json!({"files": root}),
    ] {
        let _master = testbed.master(json!({"path": "/tunnel", "fallback": fallback}));
        for _ in 0..50 {
            let mut stream = services::connect(testbed.master_address());
            let requests = "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\nGET /tunnel HTTP/1.1\r\nHost: localhost\r\n\
                            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(requests.as_bytes()).unwrap();
            let mut answer = Vec::new();
            let upgrade = b"HTTP/1.1 101 ";
            while !answer
                .windows(upgrade.len())
                .any(|window| window == upgrade)
            {
                let mut block = [0; 65_536];
                let length = stream.read(&mut block).unwrap();
                assert_ne!(
                    length,
                    0,
                    "{fallback}: the connection ended after {} bytes",
                    answer.len()
                );
                answer.extend_from_slice(&block[..length]);
            }
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{fallback}: {:?}",
                answer.get(..40)
            );
            assert!(
                answer.contains(&format!("\r\n\r\n{page}HTTP/1.1 101 ")),
                "{fallback}: the page is complete"
            );
        }
    }
}
