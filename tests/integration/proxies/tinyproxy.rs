//! tinyproxy: Basic, its idle timeout, and its reload and restart.

use std::time::Duration;

use serde_json::json;

use super::proxied_tunnel::ProxiedTunnel;
use crate::support::{
    daemon::Signal,
    proxies::tinyproxy::Tinyproxy,
    tunnel::{Front, Testbed},
    wait,
};

const IDLE_SECONDS: u32 = 3;
const IDLE_TIME: Duration = Duration::from_secs(8);

fn through(front: Front, heartbeat: &str) -> (ProxiedTunnel, Tinyproxy) {
    let testbed = Testbed::new(front);
    let tinyproxy = Tinyproxy::start(testbed.folder(), IDLE_SECONDS, "");
    let proxied = ProxiedTunnel::new(
        testbed,
        json!({"proxy": tinyproxy.url(), "heartbeat": heartbeat, "log_level": "info"}),
    );
    (proxied, tinyproxy)
}

#[test]
fn tinyproxy_carries_both_links_and_keep_alives_keep_them_up() {
    let (proxied, tinyproxy) = through(Front::Direct, "1s");
    proxied.assert_transfer("tinyproxy, Basic");
    proxied.assert_links_stay_while_idle(IDLE_TIME);
    let asked = format!("CONNECT {} ", proxied.tunnel.testbed.master_address());
    println!("{}", tinyproxy.daemon.wait_for_line(&[&asked]));
}

#[test]
fn tinyproxy_carries_links_inside_tls() {
    let (proxied, _tinyproxy) = through(Front::Tls, "1s");
    proxied.assert_transfer("tinyproxy, Basic, wss");
}

#[test]
fn a_keep_alive_above_the_idle_timeout_of_tinyproxy_costs_links_but_no_connection() {
    let (proxied, _tinyproxy) = through(Front::Direct, "20s");
    proxied.assert_survives_idle_cut();
}

#[test]
fn a_transfer_survives_reloads_and_restarts_of_tinyproxy() {
    let (proxied, mut tinyproxy) = through(Front::Direct, "1s");
    let reloaded = |tinyproxy: &Tinyproxy| {
        tinyproxy
            .daemon
            .log()
            .matches("Reloading config file finished")
            .count()
    };
    proxied.assert_survives("tinyproxy reloaded twice", || {
        let before = reloaded(&tinyproxy);
        tinyproxy.daemon.signal(Signal::User);
        wait::until_true("tinyproxy has read its configuration again", || {
            reloaded(&tinyproxy) > before
        });
    });
    proxied.assert_survives_restarts("tinyproxy killed and started twice", || {
        tinyproxy.kill_and_start()
    });
}
