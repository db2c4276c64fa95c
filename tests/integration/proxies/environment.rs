//! The proxy that the environment names. It applies only to masters on other machines.

use serde_json::{Value, json};

use super::proxied_tunnel::{ProxiedTunnel, assert_refused};
use crate::support::{
    ports,
    proxies::{
        USER,
        squid::{HOME, Setup, Squid},
    },
    tunnel::{Fields, Front, Testbed},
};

/// A name that only squid resolves.
const NAME: &str = "tunnel.example";

/// A testbed whose master is reached under [`NAME`], which only an authenticated user of squid can
/// do.
fn testbed_with_squid() -> (Testbed, Squid, Value) {
    let testbed = Testbed::new(Front::Tls);
    let setup = Setup::default()
        .basic()
        .file("hosts", format!("127.0.0.1 {NAME}\n"))
        .line(format!("hosts_file {HOME}/hosts"));
    let squid = Squid::start(testbed.folder(), setup);
    let tls = json!({"ca": testbed.authority().path(), "server_name": "localhost"});
    let fields =
        json!({"master": format!("wss://{NAME}:{}/", testbed.public_address().port()), "tls": tls});
    (testbed, squid, fields)
}

#[test]
fn the_environment_sets_the_proxy_of_both_links() {
    let (mut testbed, mut squid, fields) = testbed_with_squid();
    // This variable applies to ws:// only, and it names a proxy that does not exist.
    testbed
        .environment
        .push(("HTTP_PROXY".to_owned(), format!("http://{}", ports::free())));
    testbed
        .environment
        .push(("HTTPS_PROXY".to_owned(), squid.url()));
    let proxied = ProxiedTunnel::new(testbed, fields);
    proxied.assert_transfer("squid, named by HTTPS_PROXY");
    println!(
        "{}",
        proxied
            .tunnel
            .client
            .wait_for_line(&["proxy from the environment", "HTTPS_PROXY"])
    );
    drop(proxied);
    squid.stop();
    let log = squid.access_log();
    let authenticated: Vec<_> = log
        .lines()
        .filter(|line| line.contains(NAME) && line.contains(&format!(" 200 {USER} ")))
        .collect();
    println!("{}", authenticated.join("\n"));
    assert_eq!(authenticated.len(), 2, "one tunnel for each role:\n{log}");
}

#[test]
fn no_proxy_entries_and_loopback_bypass_the_proxy() {
    let (mut testbed, mut squid, fields) = testbed_with_squid();
    testbed
        .environment
        .push(("ALL_PROXY".to_owned(), squid.url()));
    testbed
        .environment
        .push(("NO_PROXY".to_owned(), ".example".to_owned()));
    // Without the proxy the name does not resolve.
    assert_refused(
        &testbed,
        fields,
        &[&format!("name: `{NAME}` does not resolve")],
    );
    // The master on loopback is reached directly.
    drop(ProxiedTunnel::with_roles(testbed, Fields::default()));
    squid.stop();
    assert!(
        !squid.access_log().contains("CONNECT"),
        "{}",
        squid.access_log()
    );
}

#[test]
fn the_configured_proxy_overrides_the_environment() {
    let (mut testbed, squid, fields) = testbed_with_squid();
    testbed
        .environment
        .push(("HTTPS_PROXY".to_owned(), squid.url()));
    let none = crate::support::tunnel::with(fields, json!({"proxy": "none"}));
    assert_refused(
        &testbed,
        none,
        &[&format!("name: `{NAME}` does not resolve")],
    );
}
