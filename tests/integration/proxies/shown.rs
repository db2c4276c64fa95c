//! What a proxy and a gateway see of a role: where it connects to and from, what it is asked for, and which certificates are taken.

use std::fs;

use serde_json::{Value, json};

use super::bed::{Bed, links_of, refused};
use crate::support::{
    nginx::Tuning,
    programs,
    proxies::{
        USER,
        squid::{Setup, Squid},
    },
    tunnel::{Fields, Front, Scene, with},
    wait,
};

/// Lets the nginx in front of the master write down what the requests say.
fn telling() -> Tuning {
    let format = "log_format seen 'seen host=$http_host agent=\"$http_user_agent\" token=$http_x_token tag=$http_x_tag';";
    let upstream = Box::leak(format!("{format}\nupstream report_master {{").into_boxed_str());
    let instead = vec![
        ("upstream report_master {", &*upstream),
        (
            "proxy_buffering off;",
            "proxy_buffering off; access_log /dev/stderr seen;",
        ),
    ];
    Tuning {
        instead,
        ..Tuning::default()
    }
}

/// A tunnel behind such an nginx whose client goes through squid.
fn client_through_squid(fields: impl FnOnce(&Scene) -> Value) -> (Bed, Squid) {
    let scene = Scene::tuned(Front::NginxPlain, &telling());
    let squid = Squid::start(scene.folder(), Setup::default().basic());
    let client = with(json!({"proxy": squid.url()}), fields(&scene));
    (
        Bed::with_roles(
            scene,
            Fields {
                client,
                ..Fields::default()
            },
        ),
        squid,
    )
}

#[test]
fn a_name_in_the_url_is_shown_to_the_gateway_and_connect_to_is_asked_of_the_proxy() {
    let (mut bed, mut squid) = client_through_squid(
        |scene| json!({"master": "ws://cdn.example/", "connect_to": scene.public_address().to_string(), "bind_address": "127.0.0.5"}),
    );
    bed.carries("squid, with connect_to and bind_address");
    bed.tunnel.client.stop();
    squid.stop();
    let log = squid.access_log();
    let asked = format!(
        "seen 127.0.0.5 CONNECT {} 200 {USER} Basic",
        bed.tunnel.scene.public_address()
    );
    let line = log
        .lines()
        .find(|line| line.contains(asked.trim_start_matches("seen ")))
        .map(str::to_owned);
    println!("{}", line.unwrap_or_else(|| panic!("{asked} in\n{log}")));
    println!(
        "{}",
        bed.tunnel
            .scene
            .nginx()
            .wait_for_line(&["seen host=cdn.example agent=\"report/"])
    );
}

#[test]
fn host_user_agent_and_headers_are_shown_to_the_gateway_and_not_to_the_proxy() {
    let (mut bed, mut squid) = client_through_squid(
        |_| json!({"host": "front.example", "user_agent": "Mozilla/5.0 (a browser)", "headers": {"X-Tag": "blue"}}),
    );
    bed.tunnel.client.stop();
    squid.stop();
    let words = [
        "seen host=front.example agent=\"Mozilla/5.0 (a browser)\"",
        "tag=blue",
    ];
    println!("{}", bed.tunnel.scene.nginx().wait_for_line(&words));
    assert!(
        squid.access_log().contains(" 200 ann ") && !squid.access_log().contains("Mozilla"),
        "{}",
        squid.access_log()
    );
}

#[test]
fn a_file_of_headers_is_read_again_at_each_dial() {
    let (bed, mut squid) = client_through_squid(|scene| {
        fs::write(scene.folder().join("headers"), "# rotates\nX-Token: one\n").unwrap();
        json!({"headers_file": "headers"})
    });
    let links = links_of(&bed.tunnel.client);
    fs::write(bed.tunnel.scene.folder().join("headers"), "X-Token: two\n").unwrap();
    squid.kill_and_start();
    println!(
        "{}",
        bed.tunnel
            .scene
            .nginx()
            .wait_for_line(&["seen", "token=one"])
    );
    wait::until_true("the client has a new link", || {
        links_of(&bed.tunnel.client) > links
    });
    bed.tunnel.wait_until_joined();
    fs::remove_file(bed.tunnel.scene.folder().join("headers")).unwrap();
    squid.kill_and_start();
    println!(
        "{}",
        bed.tunnel
            .scene
            .nginx()
            .wait_for_line(&["seen", "token=two"])
    );
    println!(
        "{}",
        bed.tunnel
            .client
            .wait_for_line(&["HTTP: the file of `headers_file`", "cannot be read"])
    );
}

/// The SHA-256 of the scene's certificate, as openssl prints it.
fn fingerprint(scene: &Scene) -> String {
    let mut openssl = programs::command("openssl");
    openssl
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(&scene.leaf().cert);
    let text = programs::run(&mut openssl).succeeded().text();
    text.trim()
        .split_once('=')
        .expect("a fingerprint")
        .1
        .to_owned()
}

#[test]
fn a_pinned_certificate_is_taken_through_a_proxy_and_another_one_is_not() {
    let scene = Scene::new(Front::Tls);
    let squid = Squid::start(scene.folder(), Setup::default().basic());
    let pin = fingerprint(&scene);
    let fields =
        |pin: &str| json!({"proxy": squid.url(), "tls": {"pin_sha256": pin}, "log_level": "info"});
    let other = format!(
        "{}{}",
        if pin.starts_with('0') { '1' } else { '0' },
        &pin[1..]
    );
    let (right, wrong) = (fields(&pin), fields(&other));
    let bed = Bed::new(scene, right);
    bed.carries("squid, a pinned certificate");
    let found = pin.replace(':', "").to_lowercase();
    let words = [
        "TLS with `localhost`",
        &found,
        "none of those in `tls.pin_sha256`",
        "stands in between",
    ];
    refused(&bed.tunnel.scene, wrong, &words);
}
