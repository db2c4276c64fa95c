//! tinyproxy: Basic, its idle timeout, and what happens when it is reloaded or dies.

use std::time::Duration;

use serde_json::json;

use super::bed::Bed;
use crate::support::{
    daemon::Signal,
    proxies::tinyproxy::Tinyproxy,
    tunnel::{Front, Scene},
    wait,
};

const IDLE_SECONDS: u32 = 3;
const REST: Duration = Duration::from_secs(8);

fn through(front: Front, heartbeat: &str) -> (Bed, Tinyproxy) {
    let scene = Scene::new(front);
    let tinyproxy = Tinyproxy::start(scene.folder(), IDLE_SECONDS, "");
    let bed = Bed::new(
        scene,
        json!({"proxy": tinyproxy.url(), "heartbeat": heartbeat, "log_level": "info"}),
    );
    (bed, tinyproxy)
}

#[test]
fn tinyproxy_carries_both_links_and_keeps_them_while_they_beat() {
    let (bed, tinyproxy) = through(Front::Direct, "1s");
    bed.carries("tinyproxy, Basic");
    bed.stays_linked_while_idle(REST);
    let asked = format!("CONNECT {} ", bed.tunnel.scene.master_address());
    println!("{}", tinyproxy.daemon.wait_for_line(&[&asked]));
}

#[test]
fn tinyproxy_carries_links_inside_tls() {
    let (bed, _tinyproxy) = through(Front::Tls, "1s");
    bed.carries("tinyproxy, Basic, wss");
}

#[test]
fn a_heartbeat_above_the_idle_timeout_of_tinyproxy_costs_links_and_no_connection() {
    let (bed, _tinyproxy) = through(Front::Direct, "20s");
    bed.is_cut_while_idle_and_survives();
}

#[test]
fn a_transfer_survives_that_tinyproxy_is_reloaded_killed_and_started_again() {
    let (bed, mut tinyproxy) = through(Front::Direct, "1s");
    let reloaded = |tinyproxy: &Tinyproxy| {
        tinyproxy
            .daemon
            .log()
            .matches("Reloading config file finished")
            .count()
    };
    bed.survives("tinyproxy reloaded twice", || {
        let before = reloaded(&tinyproxy);
        tinyproxy.daemon.signal(Signal::User);
        wait::until_true("tinyproxy has read its configuration again", || {
            reloaded(&tinyproxy) > before
        });
    });
    bed.survives_restarts("tinyproxy killed and started twice", || {
        tinyproxy.kill_and_start()
    });
}
