//! An `https://` proxy: its certificate, and TLS with the master inside TLS with the proxy.

use serde_json::json;

use super::proxied_tunnel::{ProxiedTunnel, assert_refused};
use crate::support::{
    certificates::Authority,
    proxies::squid::{Setup, Squid},
    tunnel::{Front, Testbed},
};

#[test]
fn tls_with_the_master_runs_inside_tls_with_the_proxy() {
    let testbed = Testbed::new(Front::Tls);
    let leaf = testbed.authority().leaf("squid");
    let mut squid = Squid::start(
        testbed.folder(),
        Setup::default().basic().digest().tls(&leaf),
    );
    let proxied = ProxiedTunnel::new(testbed, json!({"proxy": squid.url(), "log_level": "info"}));
    proxied.assert_transfer("squid behind TLS, Digest, wss");
    proxied.assert_survives_restarts("squid behind TLS killed and started twice", || {
        squid.kill_and_start()
    });
}

#[test]
fn an_untrusted_proxy_receives_no_credentials() {
    let testbed = Testbed::new(Front::Tls);
    let others = tempfile::tempdir().unwrap();
    let leaf = Authority::new(others.path()).leaf("squid");
    let mut squid = Squid::start(testbed.folder(), Setup::default().basic().tls(&leaf));
    let words = [
        "proxy's TLS with `localhost`",
        "signed by an untrusted authority",
        "`tls.ca`",
    ];
    assert_refused(&testbed, json!({"proxy": squid.url()}), &words);
    squid.stop();
    assert!(
        !squid.access_log().contains("CONNECT"),
        "{}",
        squid.access_log()
    );
}

#[test]
fn a_proxy_without_tls_is_reported() {
    let testbed = Testbed::new(Front::Direct);
    let squid = Squid::start(testbed.folder(), Setup::default().basic());
    let url = squid.url().replace("http://", "https://");
    assert_refused(
        &testbed,
        json!({"proxy": url}),
        &[
            "proxy's TLS with `localhost`",
            "does not speak TLS",
            "write http:// in `proxy`",
        ],
    );
}
