//! squid: Basic and Digest, its idle timeout, and its reconfiguration and restart.

use std::time::Duration;

use serde_json::json;

use super::proxied_tunnel::ProxiedTunnel;
use crate::support::{
    proxies::{
        USER,
        squid::{Setup, Squid},
    },
    tunnel::{Front, Testbed},
    wait,
};

/// The shortest idle timeout of squid that works, and a rest that is much longer.
const IDLE: &str = "read_timeout 3 seconds";
const IDLE_TIME: Duration = Duration::from_secs(8);

/// A tunnel through a squid with this setup.
fn through(setup: Setup, front: Front, heartbeat: &str) -> (ProxiedTunnel, Squid) {
    let testbed = Testbed::new(front);
    let squid = Squid::start(testbed.folder(), setup);
    let proxied = ProxiedTunnel::new(
        testbed,
        json!({"proxy": squid.url(), "heartbeat": heartbeat, "log_level": "info"}),
    );
    (proxied, squid)
}

/// Asserts that squid authenticated each role by this scheme, at the first attempt that named a
/// user.
#[track_caller]
fn assert_authenticated_by(proxied: ProxiedTunnel, mut squid: Squid, scheme: &str) {
    drop(proxied);
    squid.stop();
    let log = squid.access_log();
    let authenticated: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&format!(" 200 {USER} {scheme}")))
        .collect();
    println!("{}", authenticated.join("\n"));
    assert_eq!(authenticated.len(), 2, "one tunnel for each role:\n{log}");
    assert!(
        log.lines()
            .all(|line| line.contains(" 407 - - ") || authenticated.contains(&line)),
        "only challenges:\n{log}"
    );
}

#[test]
fn squid_with_basic_carries_both_links() {
    let (proxied, squid) = through(Setup::default().basic(), Front::Direct, "20s");
    proxied.assert_transfer("squid, Basic");
    assert_authenticated_by(proxied, squid, "Basic");
}

#[test]
fn squid_with_digest_carries_both_links_without_the_basic_password() {
    let (proxied, squid) = through(Setup::default().basic().digest(), Front::Tls, "20s");
    proxied.assert_transfer("squid, Digest, wss");
    assert_authenticated_by(proxied, squid, "Digest");
}

#[test]
fn a_keep_alive_below_the_idle_timeout_of_squid_keeps_the_links() {
    let (proxied, _squid) = through(Setup::default().basic().line(IDLE), Front::Direct, "1s");
    proxied.assert_links_stay_while_idle(IDLE_TIME);
}

#[test]
fn a_keep_alive_above_the_idle_timeout_of_squid_costs_links_but_no_connection() {
    let (proxied, _squid) = through(Setup::default().basic().line(IDLE), Front::Direct, "20s");
    proxied.assert_survives_idle_cut();
}

#[test]
fn a_transfer_survives_reconfigurations_of_squid() {
    let (proxied, squid) = through(Setup::default().digest(), Front::Direct, "20s");
    let reconfigured = || squid.cache_log().matches("Reconfiguring Squid").count();
    proxied.assert_survives("squid -k reconfigure twice", || {
        let before = reconfigured();
        squid.reconfigure();
        wait::until_true("squid has read its configuration again", || {
            reconfigured() > before
        });
    });
}

#[test]
fn a_transfer_survives_restarts_of_squid() {
    let (proxied, mut squid) = through(Setup::default().basic(), Front::Direct, "20s");
    proxied.assert_survives_restarts("squid killed and started twice", || squid.kill_and_start());
}
