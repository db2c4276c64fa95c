//! The master seen as a web server, by itself and behind nginx with a web site beside the tunnel.

use std::{
    fs,
    io::{Read as _, Write as _},
};

use serde_json::json;

use crate::support::{
    nginx, ports, programs, services,
    tunnel::{Fields, Front, Scene, Tunnel},
};

#[test]
fn the_master_answers_as_an_ordinary_web_server_and_healthz_only_when_configured() {
    let scene = Scene::new(Front::Direct);
    let status = |path: &str| {
        let mut curl = programs::command("curl");
        curl.args([
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        programs::run(curl.arg(format!("http://{}{path}", scene.master_address())))
            .succeeded()
            .text()
    };
    let master = scene.master(json!({}));
    assert_eq!(
        [status("/"), status("/healthz"), status("/any/thing")],
        ["404", "404", "404"]
    );
    drop(master);
    let _master = scene.master(json!({"healthz": true}));
    assert_eq!([status("/"), status("/healthz")], ["404", "200"]);
}

#[test]
fn the_upgrade_is_at_the_configured_path_alone() {
    let scene = Scene::new(Front::Direct);
    let fields = Fields {
        master: json!({"path": "/a/path"}),
        server: json!({"master": format!("ws://{}/a/path", scene.master_address())}),
        client: json!({"master": format!("ws://{}/a/path", scene.master_address())}),
    };
    let tunnel = Tunnel::on(scene, Vec::new(), fields);
    let mut stream = services::connect(tunnel.scene.master_address());
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[test]
fn the_web_site_beside_the_tunnel_is_served_by_nginx() {
    for (front, scheme) in [(Front::NginxPlain, "http"), (Front::NginxTls, "https")] {
        let tunnel = Tunnel::start(front, Vec::new());
        for path in ["/", "/index.html"] {
            let url = format!(
                "{scheme}://localhost:{}{path}",
                tunnel.scene.public_address().port()
            );
            let mut curl = programs::command("curl");
            let page = programs::run(
                curl.args(["--silent", "--fail", "--cacert"])
                    .arg(tunnel.scene.authority().path())
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
fn both_paths_that_nginx_has_for_the_tunnel_lead_to_it() {
    for (front, scheme) in [(Front::NginxPlain, "ws"), (Front::NginxTls, "wss")] {
        let scene = Scene::new(front);
        let at = |path: &str| json!({"master": format!("{scheme}://localhost:{}{path}", scene.public_address().port())});
        let fields = Fields {
            server: at("/"),
            client: at("/tunnel"),
            ..Fields::default()
        };
        Tunnel::on(scene, Vec::new(), fields);
    }
}

#[test]
fn an_answer_of_the_web_server_arrives_before_the_upgrade_that_was_sent_behind_its_request() {
    let scene = Scene::new(Front::Direct);
    let root = scene.folder().join("www");
    fs::create_dir_all(&root).unwrap();
    let page = "x".repeat(300_000);
    fs::write(root.join("page"), &page).unwrap();
    let web = ports::free();
    let _nginx = nginx::file_server(scene.folder(), web, &root);
    for fallback in [
        json!({"server": format!("http://{web}")}),
        json!({"files": root}),
    ] {
        let _master = scene.master(json!({"path": "/tunnel", "fallback": fallback}));
        for _ in 0..50 {
            let mut stream = services::connect(scene.master_address());
            let requests = "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\nGET /tunnel HTTP/1.1\r\nHost: localhost\r\n\
                            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(requests.as_bytes()).unwrap();
            let mut told = Vec::new();
            let upgrade = b"HTTP/1.1 101 ";
            while !told.windows(upgrade.len()).any(|window| window == upgrade) {
                let mut block = [0; 65_536];
                let length = stream.read(&mut block).unwrap();
                assert_ne!(
                    length,
                    0,
                    "{fallback}: the connection ended after {} bytes",
                    told.len()
                );
                told.extend_from_slice(&block[..length]);
            }
            let told = String::from_utf8_lossy(&told);
            assert!(
                told.starts_with("HTTP/1.1 200 OK\r\n"),
                "{fallback}: {:?}",
                told.get(..40)
            );
            assert!(
                told.contains(&format!("\r\n\r\n{page}HTTP/1.1 101 ")),
                "{fallback}: the page is whole"
            );
        }
    }
}
