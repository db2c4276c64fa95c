//! squid: Basic and Digest, its idle timeout, and what happens when it is reconfigured or dies.

use std::time::Duration;

use serde_json::json;

use super::bed::Bed;
use crate::support::{
    proxies::{
        USER,
        squid::{Setup, Squid},
    },
    tunnel::{Front, Scene},
    wait,
};

/// The least that squid closes idle tunnels after, and a rest that is long beside it.
const IDLE: &str = "read_timeout 3 seconds";
const REST: Duration = Duration::from_secs(8);

/// A tunnel through a squid with this setup.
fn through(setup: Setup, front: Front, heartbeat: &str) -> (Bed, Squid) {
    let scene = Scene::new(front);
    let squid = Squid::start(scene.folder(), setup);
    let bed = Bed::new(
        scene,
        json!({"proxy": squid.url(), "heartbeat": heartbeat, "log_level": "info"}),
    );
    (bed, squid)
}

/// That squid let each role through by this scheme, under its name, at the first attempt that named a user.
#[track_caller]
fn let_in_by(bed: Bed, mut squid: Squid, scheme: &str) {
    drop(bed);
    squid.stop();
    let log = squid.access_log();
    let let_in: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&format!(" 200 {USER} {scheme}")))
        .collect();
    println!("{}", let_in.join("\n"));
    assert_eq!(let_in.len(), 2, "one tunnel of each role:\n{log}");
    assert!(
        log.lines()
            .all(|line| line.contains(" 407 - - ") || let_in.contains(&line)),
        "nothing but questions:\n{log}"
    );
}

#[test]
fn squid_with_basic_carries_both_links() {
    let (bed, squid) = through(Setup::default().basic(), Front::Direct, "20s");
    bed.carries("squid, Basic");
    let_in_by(bed, squid, "Basic");
}

#[test]
fn squid_with_digest_carries_both_links_and_is_not_told_the_password_by_basic() {
    let (bed, squid) = through(Setup::default().basic().digest(), Front::Tls, "20s");
    bed.carries("squid, Digest, wss");
    let_in_by(bed, squid, "Digest");
}

#[test]
fn a_heartbeat_below_the_idle_timeout_of_squid_keeps_the_links() {
    let (bed, _squid) = through(Setup::default().basic().line(IDLE), Front::Direct, "1s");
    bed.stays_linked_while_idle(REST);
}

#[test]
fn a_heartbeat_above_the_idle_timeout_of_squid_costs_links_and_no_connection() {
    let (bed, _squid) = through(Setup::default().basic().line(IDLE), Front::Direct, "20s");
    bed.is_cut_while_idle_and_survives();
}

#[test]
fn a_transfer_survives_that_squid_is_reconfigured() {
    let (bed, squid) = through(Setup::default().digest(), Front::Direct, "20s");
    let reconfigured = || squid.cache_log().matches("Reconfiguring Squid").count();
    bed.survives("squid -k reconfigure twice", || {
        let before = reconfigured();
        squid.reconfigure();
        wait::until_true("squid has read its configuration again", || {
            reconfigured() > before
        });
    });
}

#[test]
fn a_transfer_survives_that_squid_is_killed_and_started_again() {
    let (bed, mut squid) = through(Setup::default().basic(), Front::Direct, "20s");
    bed.survives_restarts("squid killed and started twice", || squid.kill_and_start());
}
