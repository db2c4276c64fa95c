//! A box that opens TLS and looks inside, as organisations have it: its authority is named in `tls.ca`, and the WebSocket passes.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::bed::{Bed, refused};
use crate::support::{
    proxies::mitmproxy::Mitmproxy,
    tunnel::{Front, Scene},
};

/// The box asks only so often what is idle, so that this is not the least by far.
const IDLE_SECONDS: u32 = 4;
const REST: Duration = Duration::from_secs(12);

fn fields(inspector: &Mitmproxy, authority: &Path, heartbeat: &str) -> Value {
    json!({"proxy": inspector.url(), "tls": {"ca": authority}, "heartbeat": heartbeat, "log_level": "info"})
}

fn through(heartbeat: &str) -> (Bed, Mitmproxy) {
    let scene = Scene::new(Front::Tls);
    let inspector = Mitmproxy::start(scene.folder(), &scene.authority().path(), IDLE_SECONDS);
    let fields = fields(&inspector, &inspector.authority(), heartbeat);
    (Bed::new(scene, fields), inspector)
}

#[test]
fn a_box_that_looks_into_tls_carries_both_links_and_keeps_them_while_they_beat() {
    let (bed, inspector) = through("1s");
    bed.carries("mitmproxy, wss");
    bed.stays_linked_while_idle(REST);
    println!(
        "{}",
        inspector
            .daemon
            .wait_for_line(&["looks into https://localhost:", " 101"])
    );
}

#[test]
fn a_heartbeat_above_what_the_box_lets_be_idle_costs_links_and_no_connection() {
    let (bed, _inspector) = through("20s");
    bed.is_cut_while_idle_and_survives();
}

#[test]
fn a_transfer_survives_that_the_box_is_killed_and_started_again() {
    let (bed, mut inspector) = through("20s");
    bed.survives_restarts("mitmproxy killed and started twice", || {
        inspector.kill_and_start()
    });
}

#[test]
fn a_box_whose_authority_is_not_trusted_is_found_out() {
    let scene = Scene::new(Front::Tls);
    let inspector = Mitmproxy::start(scene.folder(), &scene.authority().path(), IDLE_SECONDS);
    let _master = scene.master(json!({}));
    let fields = fields(&inspector, &scene.authority().path(), "20s");
    refused(
        &scene,
        fields,
        &[
            ": TLS with `localhost`",
            "signed by an authority that is not trusted here",
            "`tls.ca`",
        ],
    );
}
