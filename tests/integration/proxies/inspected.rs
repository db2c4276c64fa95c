//! A TLS-inspecting middlebox, as organisations run it. `tls.ca` names its authority, and the
//! WebSocket passes.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::proxied_tunnel::{ProxiedTunnel, assert_refused};
use crate::support::{
    proxies::mitmproxy::Mitmproxy,
    tunnel::{Front, Testbed},
};

/// The middlebox checks for idle connections at long intervals, so the real limit can be longer.
const IDLE_SECONDS: u32 = 4;
const IDLE_TIME: Duration = Duration::from_secs(12);

fn fields(middlebox: &Mitmproxy, authority: &Path, heartbeat: &str) -> Value {
    json!({"proxy": middlebox.url(), "tls": {"ca": authority}, "heartbeat": heartbeat, "log_level": "info"})
}

fn through(heartbeat: &str) -> (ProxiedTunnel, Mitmproxy) {
    let testbed = Testbed::new(Front::Tls);
    let middlebox = Mitmproxy::start(testbed.folder(), &testbed.authority().path(), IDLE_SECONDS);
    let fields = fields(&middlebox, &middlebox.authority(), heartbeat);
    (ProxiedTunnel::new(testbed, fields), middlebox)
}

#[test]
fn an_inspecting_middlebox_carries_both_links_and_keep_alives_keep_them_up() {
    let (proxied, middlebox) = through("1s");
    proxied.assert_transfer("mitmproxy, wss");
    proxied.assert_links_stay_while_idle(IDLE_TIME);
    println!(
        "{}",
        middlebox
            .daemon
            .wait_for_line(&["looks into https://localhost:", " 101"])
    );
}

#[test]
fn a_keep_alive_above_the_idle_timeout_of_the_middlebox_costs_links_but_no_connection() {
    let (proxied, _inspector) = through("20s");
    proxied.assert_survives_idle_cut();
}

#[test]
fn a_transfer_survives_restarts_of_the_middlebox() {
    let (proxied, mut middlebox) = through("20s");
    proxied.assert_survives_restarts("mitmproxy killed and started twice", || {
        middlebox.kill_and_start()
    });
}

#[test]
fn a_middlebox_with_an_untrusted_authority_is_reported() {
    let testbed = Testbed::new(Front::Tls);
    let middlebox = Mitmproxy::start(testbed.folder(), &testbed.authority().path(), IDLE_SECONDS);
    let _master = testbed.master(json!({}));
    let fields = fields(&middlebox, &testbed.authority().path(), "20s");
    assert_refused(
        &testbed,
        fields,
        &[
            ": TLS with `localhost`",
            "signed by an untrusted authority",
            "`tls.ca`",
        ],
    );
}
