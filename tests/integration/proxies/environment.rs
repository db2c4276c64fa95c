//! The proxy that the environment names, which is one for machines elsewhere alone.

use serde_json::{Value, json};

use super::bed::{Bed, refused};
use crate::support::{
    ports,
    proxies::{
        USER,
        squid::{HOME, Setup, Squid},
    },
    tunnel::{Fields, Front, Scene},
};

/// A name that squid alone knows.
const NAME: &str = "tunnel.example";

/// A scene whose master is reached under the name, by who asks squid, and squid.
fn named() -> (Scene, Squid, Value) {
    let scene = Scene::new(Front::Tls);
    let setup = Setup::default()
        .basic()
        .file("hosts", format!("127.0.0.1 {NAME}\n"))
        .line(format!("hosts_file {HOME}/hosts"));
    let squid = Squid::start(scene.folder(), setup);
    let tls = json!({"ca": scene.authority().path(), "server_name": "localhost"});
    let fields =
        json!({"master": format!("wss://{NAME}:{}/", scene.public_address().port()), "tls": tls});
    (scene, squid, fields)
}

#[test]
fn the_environment_names_the_proxy_of_both_links() {
    let (mut scene, mut squid, fields) = named();
    // For ws:// it would be another one.
    scene
        .environment
        .push(("HTTP_PROXY".to_owned(), format!("http://{}", ports::free())));
    scene
        .environment
        .push(("HTTPS_PROXY".to_owned(), squid.url()));
    let bed = Bed::new(scene, fields);
    bed.carries("squid, named by HTTPS_PROXY");
    println!(
        "{}",
        bed.tunnel
            .client
            .wait_for_line(&["HTTPS_PROXY names the proxy"])
    );
    drop(bed);
    squid.stop();
    let log = squid.access_log();
    let let_in: Vec<_> = log
        .lines()
        .filter(|line| line.contains(NAME) && line.contains(&format!(" 200 {USER} ")))
        .collect();
    println!("{}", let_in.join("\n"));
    assert_eq!(let_in.len(), 2, "one tunnel of each role:\n{log}");
}

#[test]
fn what_no_proxy_lists_and_what_is_here_is_not_asked_of_the_proxy() {
    let (mut scene, mut squid, fields) = named();
    scene
        .environment
        .push(("ALL_PROXY".to_owned(), squid.url()));
    scene
        .environment
        .push(("NO_PROXY".to_owned(), ".example".to_owned()));
    // Without the proxy nobody knows the name.
    refused(
        &scene,
        fields,
        &[&format!("name: `{NAME}` does not resolve")],
    );
    // The master at its address of loopback is reached as ever.
    drop(Bed::with_roles(scene, Fields::default()));
    squid.stop();
    assert!(
        !squid.access_log().contains("CONNECT"),
        "{}",
        squid.access_log()
    );
}

#[test]
fn a_proxy_of_the_configuration_comes_before_that_of_the_environment() {
    let (mut scene, squid, fields) = named();
    scene
        .environment
        .push(("HTTPS_PROXY".to_owned(), squid.url()));
    let none = crate::support::tunnel::with(fields, json!({"proxy": "none"}));
    refused(&scene, none, &[&format!("name: `{NAME}` does not resolve")]);
}
