//! The visible traits of a role for a proxy and a gateway: its source and target addresses, the
//! requested names, the headers and the accepted certificates.

use std::fs;

use serde_json::{Value, json};

use super::proxied_tunnel::{ProxiedTunnel, assert_refused, links_of};
use crate::support::{
    nginx::Tuning,
    proxies::{
        USER,
        squid::{Setup, Squid},
    },
    tunnel::{Fields, Front, Testbed, with},
    wait,
};

/// Makes the nginx in front of the master log the headers of each request.
fn logging_tuning() -> Tuning {
    let format = "log_format seen 'seen host=$http_host agent=\"$http_user_agent\" token=$http_x_token tag=$http_x_tag';";
    let upstream = Box::leak(format!("{format}\nupstream report_master {{").into_boxed_str());
    let replacements = vec![
        ("upstream report_master {", &*upstream),
        (
            "proxy_buffering off;",
            "proxy_buffering off; access_log /dev/stderr seen;",
        ),
    ];
    Tuning {
        replacements,
        ..Tuning::default()
    }
}

/// A tunnel behind such an nginx. Its client goes through squid.
fn client_through_squid(fields: impl FnOnce(&Testbed) -> Value) -> (ProxiedTunnel, Squid) {
    let testbed = Testbed::tuned(Front::NginxPlain, &logging_tuning());
    let squid = Squid::start(testbed.folder(), Setup::default().basic());
    let client = with(json!({"proxy": squid.url()}), fields(&testbed));
    (
        ProxiedTunnel::with_roles(
            testbed,
            Fields {
                client,
                ..Fields::default()
            },
        ),
        squid,
    )
}

#[test]
fn the_gateway_sees_the_host_of_the_url_and_the_proxy_sees_connect_to() {
    let (mut proxied, mut squid) = client_through_squid(
        |testbed| json!({"master": "ws://cdn.example/", "connect_to": testbed.public_address().to_string(), "bind_address": "127.0.0.5"}),
    );
    proxied.assert_transfer("squid, with connect_to and bind_address");
    proxied.tunnel.client.stop();
    squid.stop();
    let log = squid.access_log();
    let asked = format!(
        "seen 127.0.0.5 CONNECT {} 200 {USER} Basic",
        proxied.tunnel.testbed.public_address()
    );
    let line = log
        .lines()
        .find(|line| line.contains(asked.trim_start_matches("seen ")))
        .map(str::to_owned);
    println!("{}", line.unwrap_or_else(|| panic!("{asked} in\n{log}")));
    println!(
        "{}",
        proxied
            .tunnel
            .testbed
            .nginx()
            .wait_for_line(&["seen host=cdn.example agent=\"report/"])
    );
}

#[test]
fn the_gateway_but_not_the_proxy_sees_host_user_agent_and_headers() {
    let (mut proxied, mut squid) = client_through_squid(
        |_| json!({"host": "front.example", "user_agent": "Mozilla/5.0 (a browser)", "headers": {"X-Tag": "blue"}}),
    );
    proxied.tunnel.client.stop();
    squid.stop();
    let words = [
        "seen host=front.example agent=\"Mozilla/5.0 (a browser)\"",
        "tag=blue",
    ];
    println!("{}", proxied.tunnel.testbed.nginx().wait_for_line(&words));
    assert!(
        squid.access_log().contains(" 200 ann ") && !squid.access_log().contains("Mozilla"),
        "{}",
        squid.access_log()
    );
}

#[test]
fn the_headers_file_is_read_at_each_dial() {
    let (proxied, mut squid) = client_through_squid(|testbed| {
        fs::write(
            testbed.folder().join("headers"),
            "# rotates\nX-Token: one\n",
        )
        .unwrap();
        json!({"headers_file": "headers"})
    });
    let links = links_of(&proxied.tunnel.client);
    fs::write(
        proxied.tunnel.testbed.folder().join("headers"),
        "X-Token: two\n",
    )
    .unwrap();
    squid.kill_and_start();
    println!(
        "{}",
        proxied
            .tunnel
            .testbed
            .nginx()
            .wait_for_line(&["seen", "token=one"])
    );
    wait::until_true("the client has a new link", || {
        links_of(&proxied.tunnel.client) > links
    });
    proxied.tunnel.wait_until_connected();
    fs::remove_file(proxied.tunnel.testbed.folder().join("headers")).unwrap();
    squid.kill_and_start();
    println!(
        "{}",
        proxied
            .tunnel
            .testbed
            .nginx()
            .wait_for_line(&["seen", "token=two"])
    );
    println!(
        "{}",
        proxied
            .tunnel
            .client
            .wait_for_line(&["HTTP: the headers file", "cannot be read"])
    );
}

#[test]
fn only_the_pinned_certificate_is_accepted_through_a_proxy() {
    let testbed = Testbed::new(Front::Tls);
    let squid = Squid::start(testbed.folder(), Setup::default().basic());
    let pin = testbed.leaf().fingerprint();
    let fields =
        |pin: &str| json!({"proxy": squid.url(), "tls": {"pin_sha256": pin}, "log_level": "info"});
    let other = format!(
        "{}{}",
        if pin.starts_with('0') { '1' } else { '0' },
        &pin[1..]
    );
    let (right, wrong) = (fields(&pin), fields(&other));
    let proxied = ProxiedTunnel::new(testbed, right);
    proxied.assert_transfer("squid, a pinned certificate");
    let found = pin.replace(':', "").to_lowercase();
    let words = [
        "TLS with `localhost`",
        &found,
        "is not in `tls.pin_sha256`",
        "a device on the path intercepts TLS",
    ];
    assert_refused(&proxied.tunnel.testbed, wrong, &words);
}
