//! Proxies that refuse, close or do not support a request. The role's log names the layer, the
//! evidence and the remedy.

use serde_json::{Value, json};

use super::proxied_tunnel::assert_refused;
use crate::support::{
    nginx, ports,
    proxies::{
        PASSWORD_IN_URL, USER,
        squid::{Setup, Squid},
        tinyproxy::Tinyproxy,
    },
    services::{Ending, Service},
    tunnel::{Front, Testbed},
};

fn through(url: impl Into<String>) -> Value {
    let url: String = url.into();
    json!({"proxy": url, "log_level": "info"})
}

#[test]
fn a_refusal_by_squid_is_logged_with_the_tried_schemes() {
    let testbed = Testbed::new(Front::Direct);
    let squid = Squid::start(testbed.folder(), Setup::default().basic().digest());
    let proxy = format!("proxy http://localhost:{}:", squid.address().port());
    let wrong = [
        "it refuses \"ann\" (tried Digest, Basic)",
        "check the user and the password in `proxy`",
    ];
    let line = assert_refused(
        &testbed,
        through(squid.url_for(USER, "wrong")),
        &[&[proxy.as_str()], &wrong[..]].concat(),
    );
    assert!(
        !line.contains("wrong"),
        "the log does not contain the password: {line}"
    );
    let anonymous = [
        "it requires authentication (it offers Basic, Digest)",
        "write http://USER:PASSWORD@… in `proxy`",
    ];
    let url = format!("http://localhost:{}", squid.address().port());
    assert_refused(
        &testbed,
        through(url),
        &[&[proxy.as_str()], &anonymous[..]].concat(),
    );
}

#[test]
fn a_refusal_by_tinyproxy_is_logged_with_the_tried_schemes() {
    let testbed = Testbed::new(Front::Direct);
    let tinyproxy = Tinyproxy::start(testbed.folder(), 60, "");
    let wrong = tinyproxy.url().replace(":sesame@", ":wrong@");
    assert_refused(
        &testbed,
        through(wrong),
        &[
            "proxy http://localhost:",
            "it refuses \"ann\" (tried Basic)",
            "in `proxy`",
        ],
    );
    let anonymous = tinyproxy.url().replace("ann:sesame@", "");
    assert_refused(
        &testbed,
        through(anonymous),
        &[
            "proxy http://localhost:",
            "it requires authentication (it offers Basic)",
        ],
    );
}

#[test]
fn forbidden_and_unreachable_targets_of_a_proxy_are_distinguished() {
    let testbed = Testbed::new(Front::Direct);
    let setup = Setup::default()
        .basic()
        .line("acl web port 443")
        .line("http_access deny CONNECT !web");
    let strict = Squid::start(testbed.folder(), setup);
    let target = format!(
        "it refused a tunnel to {}: HTTP status 403",
        testbed.master_address()
    );
    assert_refused(
        &testbed,
        through(strict.url()),
        &[
            "proxy http://localhost:",
            &target,
            "many proxies allow only port 443",
        ],
    );
    drop(strict);
    // No process listens at the master's address.
    let squid = Squid::start(testbed.folder(), Setup::default().basic());
    let target = format!(
        "it refused a tunnel to {}: HTTP status 503",
        testbed.master_address()
    );
    assert_refused(
        &testbed,
        through(squid.url()),
        &[
            "proxy http://localhost:",
            &target,
            "it cannot reach the master: check `master`",
        ],
    );
    let nowhere = json!({"proxy": squid.url(), "master": "ws://master.invalid:1/"});
    assert_refused(
        &testbed,
        nowhere,
        &[
            "it refused a tunnel to master.invalid:1: HTTP status 50",
            "check `master`",
        ],
    );
}

#[test]
fn an_absent_proxy_and_a_closing_proxy_are_distinguished() {
    let testbed = Testbed::new(Front::Direct);
    let absent = ports::free();
    let words = [
        "proxy's TCP: no connection to",
        "(refused)",
        "check the port in `proxy`",
    ];
    assert_refused(&testbed, through(format!("http://{absent}")), &words);
    assert_refused(&testbed, through(format!("socks5://{absent}")), &words);
    assert_refused(
        &testbed,
        through("http://proxy.invalid:3128"),
        &[
            "proxy's name: `proxy.invalid` does not resolve",
            "in `proxy`",
        ],
    );
    let closing = Service::start(|_| Ending::Clean);
    let words = [
        "it closed the connection without an answer",
        "accepts this machine",
    ];
    for scheme in ["http", "socks5", "socks5h"] {
        let named = format!("proxy {scheme}://{}:", closing.address());
        let url = format!("{scheme}://{USER}:{PASSWORD_IN_URL}@{}", closing.address());
        assert_refused(
            &testbed,
            through(url),
            &[&[named.as_str()], &words[..]].concat(),
        );
    }
    // A proxy that admits only some machines.
    let elsewhere = Tinyproxy::start(testbed.folder(), 60, "Allow 192.0.2.1");
    assert_refused(
        &testbed,
        through(elsewhere.url()),
        &["proxy http://localhost:", "HTTP status 403"],
    );
}

#[test]
fn a_web_server_in_place_of_a_proxy_is_reported() {
    let testbed = Testbed::new(Front::Direct);
    let address = ports::free();
    let _web = nginx::file_server(testbed.folder(), address, testbed.folder());
    let words = [
        "HTTP status 40",
        "it may be a web server instead of a proxy",
    ];
    assert_refused(&testbed, through(format!("http://{address}")), &words);
    let words = [
        &format!("proxy socks5://{address}:"),
        "the port does not speak SOCKS5",
    ];
    assert_refused(&testbed, through(format!("socks5://{address}")), &words);
}
