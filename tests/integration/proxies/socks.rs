//! SOCKS5 with a user and a password, names resolved on either side, and a proxy that dies.

use serde_json::json;

use super::bed::{Bed, refused};
use crate::support::{
    proxies::socks::Microsocks,
    tunnel::{Fields, Front, Scene},
};

#[test]
fn socks_carries_links_whose_names_are_resolved_here_and_there() {
    let scene = Scene::new(Front::Tls);
    let proxy = Microsocks::start(scene.folder());
    let role = |scheme: &str| json!({"proxy": proxy.url(scheme), "log_level": "info"});
    let fields = Fields {
        server: role("socks5h"),
        client: role("socks5"),
        ..Fields::default()
    };
    let bed = Bed::with_roles(scene, fields);
    bed.carries("microsocks, user and password, wss");
    let port = bed.tunnel.scene.public_address().port();
    // The server's name went there as it is, the client's as an address.
    println!(
        "{}",
        proxy
            .daemon
            .wait_for_line(&["connected to", &format!("localhost:{port}")])
    );
    println!(
        "{}",
        proxy
            .daemon
            .wait_for_line(&["connected to", &format!("127.0.0.1:{port}")])
    );
}

#[test]
fn a_transfer_survives_that_a_socks_proxy_is_killed_and_started_again() {
    let scene = Scene::new(Front::Direct);
    let mut proxy = Microsocks::start(scene.folder());
    let bed = Bed::new(
        scene,
        json!({"proxy": proxy.url("socks5"), "log_level": "info"}),
    );
    bed.survives_restarts("microsocks killed and started twice", || {
        proxy.kill_and_start()
    });
}

#[test]
fn what_a_socks_proxy_refuses_is_said_with_the_remedy() {
    let scene = Scene::new(Front::Direct);
    let proxy = Microsocks::start(scene.folder());
    let named = format!(
        "proxy socks5://{}",
        proxy.url_for_nobody().trim_start_matches("socks5://")
    );
    let client = |url: String| json!({"proxy": url, "log_level": "info"});
    refused(
        &scene,
        client(proxy.url_for("socks5", "wrong")),
        &[&named, "check the user and the password in `proxy`"],
    );
    refused(
        &scene,
        client(proxy.url_for_nobody()),
        &[&named, "write socks5://USER:PASSWORD@… in `proxy`"],
    );
    // Nobody listens at the master's address.
    refused(
        &scene,
        client(proxy.url("socks5")),
        &[&named, "it cannot reach the master: check `master`"],
    );
}
