//! SOCKS5 with user and password, name resolution on either side, and a proxy that is killed.

use serde_json::json;

use super::proxied_tunnel::{ProxiedTunnel, assert_refused};
use crate::support::{
    proxies::socks::Microsocks,
    tunnel::{Fields, Front, Testbed},
};

#[test]
fn socks_carries_links_with_local_and_remote_name_resolution() {
    let testbed = Testbed::new(Front::Tls);
    let proxy = Microsocks::start(testbed.folder());
    let role = |scheme: &str| json!({"proxy": proxy.url(scheme), "log_level": "info"});
    let fields = Fields {
        server: role("socks5h"),
        client: role("socks5"),
        ..Fields::default()
    };
    let proxied = ProxiedTunnel::with_roles(testbed, fields);
    proxied.assert_transfer("microsocks, user and password, wss");
    let port = proxied.tunnel.testbed.public_address().port();
    // The proxy received the server's name unresolved, and the client's as an address.
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
fn a_transfer_survives_restarts_of_a_socks_proxy() {
    let testbed = Testbed::new(Front::Direct);
    let mut proxy = Microsocks::start(testbed.folder());
    let proxied = ProxiedTunnel::new(
        testbed,
        json!({"proxy": proxy.url("socks5"), "log_level": "info"}),
    );
    proxied.assert_survives_restarts("microsocks killed and started twice", || {
        proxy.kill_and_start()
    });
}

#[test]
fn refusals_of_a_socks_proxy_are_logged_with_a_remedy() {
    let testbed = Testbed::new(Front::Direct);
    let proxy = Microsocks::start(testbed.folder());
    let named = format!(
        "proxy socks5://{}",
        proxy.url_for_nobody().trim_start_matches("socks5://")
    );
    let client = |url: String| json!({"proxy": url, "log_level": "info"});
    assert_refused(
        &testbed,
        client(proxy.url_for("socks5", "wrong")),
        &[&named, "check the user and the password in `proxy`"],
    );
    assert_refused(
        &testbed,
        client(proxy.url_for_nobody()),
        &[&named, "write socks5://USER:PASSWORD@… in `proxy`"],
    );
    // No process listens at the master's address.
    assert_refused(
        &testbed,
        client(proxy.url("socks5")),
        &[&named, "it cannot reach the master: check `master`"],
    );
}
