//! What a proxy refuses, closes or does not do, as the role's log says it: the layer, what was seen, and what can be done.

use serde_json::{Value, json};

use super::bed::refused;
use crate::support::{
    nginx, ports,
    proxies::{
        PASSWORD_IN_URL, USER,
        squid::{Setup, Squid},
        tinyproxy::Tinyproxy,
    },
    services::{Ending, Service},
    tunnel::{Front, Scene},
};

fn through(url: impl Into<String>) -> Value {
    let url: String = url.into();
    json!({"proxy": url, "log_level": "info"})
}

#[test]
fn who_is_refused_by_squid_is_told_what_was_tried() {
    let scene = Scene::new(Front::Direct);
    let squid = Squid::start(scene.folder(), Setup::default().basic().digest());
    let proxy = format!("proxy http://localhost:{}:", squid.address().port());
    let wrong = [
        "it refuses \"ann\" (tried Digest, Basic)",
        "check the user and the password in `proxy`",
    ];
    let line = refused(
        &scene,
        through(squid.url_for(USER, "wrong")),
        &[&[proxy.as_str()], &wrong[..]].concat(),
    );
    assert!(!line.contains("wrong"), "the password is in no log: {line}");
    let nobody = [
        "it wants to know who asks (it offers Basic, Digest)",
        "write http://USER:PASSWORD@… in `proxy`",
    ];
    let url = format!("http://localhost:{}", squid.address().port());
    refused(
        &scene,
        through(url),
        &[&[proxy.as_str()], &nobody[..]].concat(),
    );
}

#[test]
fn who_is_refused_by_tinyproxy_is_told_what_was_tried() {
    let scene = Scene::new(Front::Direct);
    let tinyproxy = Tinyproxy::start(scene.folder(), 60, "");
    let wrong = tinyproxy.url().replace(":sesame@", ":wrong@");
    refused(
        &scene,
        through(wrong),
        &[
            "proxy http://localhost:",
            "it refuses \"ann\" (tried Basic)",
            "in `proxy`",
        ],
    );
    let nobody = tinyproxy.url().replace("ann:sesame@", "");
    refused(
        &scene,
        through(nobody),
        &[
            "proxy http://localhost:",
            "it wants to know who asks (it offers Basic)",
        ],
    );
}

#[test]
fn what_the_rules_of_a_proxy_forbid_and_what_it_cannot_reach_are_told_apart() {
    let scene = Scene::new(Front::Direct);
    let setup = Setup::default()
        .basic()
        .line("acl web port 443")
        .line("http_access deny CONNECT !web");
    let strict = Squid::start(scene.folder(), setup);
    let target = format!(
        "it gives no way to {}: HTTP status 403",
        scene.master_address()
    );
    refused(
        &scene,
        through(strict.url()),
        &[
            "proxy http://localhost:",
            &target,
            "many allow port 443 alone",
        ],
    );
    drop(strict);
    // Nobody listens at the master's address.
    let squid = Squid::start(scene.folder(), Setup::default().basic());
    let target = format!(
        "it gives no way to {}: HTTP status 503",
        scene.master_address()
    );
    refused(
        &scene,
        through(squid.url()),
        &[
            "proxy http://localhost:",
            &target,
            "it cannot reach the master: check `master`",
        ],
    );
    let nowhere = json!({"proxy": squid.url(), "master": "ws://master.invalid:1/"});
    refused(
        &scene,
        nowhere,
        &[
            "it gives no way to master.invalid:1: HTTP status 50",
            "check `master`",
        ],
    );
}

#[test]
fn a_proxy_that_is_not_there_and_one_that_closes_are_told_apart() {
    let scene = Scene::new(Front::Direct);
    let nobody = ports::free();
    let words = [
        "proxy's TCP: no connection to",
        "(refused)",
        "is that the proxy's port in `proxy`?",
    ];
    refused(&scene, through(format!("http://{nobody}")), &words);
    refused(&scene, through(format!("socks5://{nobody}")), &words);
    refused(
        &scene,
        through("http://proxy.invalid:3128"),
        &[
            "proxy's name: `proxy.invalid` does not resolve",
            "in `proxy`",
        ],
    );
    let closing = Service::start(|_| Ending::Clean);
    let words = [
        "it closed the connection without an answer",
        "refuse this machine?",
    ];
    for scheme in ["http", "socks5", "socks5h"] {
        let named = format!("proxy {scheme}://{}:", closing.address());
        let url = format!("{scheme}://{USER}:{PASSWORD_IN_URL}@{}", closing.address());
        refused(
            &scene,
            through(url),
            &[&[named.as_str()], &words[..]].concat(),
        );
    }
    // What lets in some machines alone.
    let elsewhere = Tinyproxy::start(scene.folder(), 60, "Allow 192.0.2.1");
    refused(
        &scene,
        through(elsewhere.url()),
        &["proxy http://localhost:", "HTTP status 403"],
    );
}

#[test]
fn a_web_server_is_told_from_a_proxy() {
    let scene = Scene::new(Front::Direct);
    let address = ports::free();
    let _web = nginx::file_server(scene.folder(), address, scene.folder());
    let words = ["HTTP status 40", "it may be a web server and no proxy"];
    refused(&scene, through(format!("http://{address}")), &words);
    let words = [
        &format!("proxy socks5://{address}:"),
        "what listens there does not speak SOCKS5",
    ];
    refused(&scene, through(format!("socks5://{address}")), &words);
}
