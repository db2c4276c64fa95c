//! Links that are given up on purpose: a master that drains while another one starts in its place, and planned rotation. Nobody is cut off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    lab::{Lab, METHODS, pace},
    load::Load,
    ticks::Ticks,
};
use crate::support::{
    daemon::Daemon,
    nginx::Tuning,
    proxy::Proxy,
    tunnel::{Front, Scene},
    wait,
};

/// What a role's log says of a link that did not end on purpose.
const LOST: &str = "the link was lost";

/// What it says of a tunnel that had to be resumed, and of one that has moved.
const WAITING: &str = "the tunnel lost its link";
const MOVED: &str = "the tunnel has moved";

/// How long the drained master may go on.
const GRACE: Duration = Duration::from_secs(10);

/// Far above what a move takes, far below a timeout.
const SHORT: Duration = Duration::from_secs(3);

const TICK: Duration = Duration::from_millis(5);

fn fields() -> Value {
    json!({"master_role": {"grace_period": format!("{}s", GRACE.as_secs())}})
}

/// Two drains in the middle of a transfer: nothing is lost, and the drained masters end by themselves when the roles have left them.
fn survives_drains(mut lab: Lab) {
    let ticks = Ticks::start(lab.echo(), TICK);
    lab.limit();
    let start = Instant::now();
    let load = Load::start(lab.tunnel.local(METHODS[0]), pace().length * 2);
    let mut drained: Vec<Daemon> = Vec::new();
    for _ in 0..2 {
        lab.wait_for_traffic(512 << 10, &load);
        let mut old = lab.tunnel.replace_master();
        let status = old.wait_for_end(GRACE - Duration::from_secs(1));
        let status = status.unwrap_or_else(|| {
            panic!(
                "the roles did not leave the master:\n{}",
                lab.tunnel.client.log()
            )
        });
        assert_eq!(status.code(), Some(0));
        drained.push(old);
    }
    assert!(
        !load.is_done(),
        "the transfer was over before the last drain"
    );
    load.finish("a master that drains");
    let longest = ticks.longest_pause(start, Instant::now());
    ticks.finish();
    println!("the longest pause beside the transfer: {longest:?}");
    assert!(longest < SHORT, "a pause of {longest:?}");
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        assert!(
            !role.log().contains(LOST),
            "a link was cut, not left:\n{}",
            role.log()
        );
    }
}

#[test]
fn eight_streams_survive_a_master_that_drains_while_another_takes_its_place() {
    survives_drains(Lab::on(Scene::new(Front::Direct), Vec::new(), fields()));
}

#[test]
fn eight_streams_survive_a_master_that_drains_behind_nginx() {
    survives_drains(Lab::behind_nginx(&Tuning::default(), fields()));
}

/// Eight streams while links are rotated twice where `fields` say so: both, the client's, or the server's.
fn survives_rotation(fields: Value, rotated: impl Fn(&Lab) -> Vec<Arc<Proxy>>) {
    let lab = Lab::with_fields(fields);
    let before: Vec<usize> = rotated(&lab)
        .iter()
        .map(|path| path.connections())
        .collect();
    let ticks = Ticks::start(lab.echo(), TICK);
    lab.limit();
    let start = Instant::now();
    let load = Load::start(lab.tunnel.local(METHODS[0]), pace().length * 2);
    wait::until_true("the links have been rotated twice", || {
        rotated(&lab)
            .iter()
            .zip(&before)
            .all(|(path, before)| path.connections() >= before + 2)
    });
    assert!(
        !load.is_done(),
        "the transfer was over before the second rotation"
    );
    load.finish("rotation");
    let longest = ticks.longest_pause(start, Instant::now());
    ticks.finish();
    println!("the longest pause beside the transfer: {longest:?}");
    assert!(longest < SHORT, "a pause of {longest:?}");
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        let log = role.log();
        assert!(
            !log.contains(LOST) && !log.contains(WAITING),
            "a link was cut, not left:\n{log}"
        );
        assert!(log.contains(MOVED), "the tunnels have moved:\n{log}");
    }
}

#[test]
fn eight_streams_survive_links_that_are_rotated_by_plan() {
    survives_rotation(json!({"rotate_after": "2s"}), |lab| lab.paths().to_vec());
}

#[test]
fn eight_streams_move_with_the_client_when_it_alone_rotates_its_link() {
    survives_rotation(json!({"client_role": {"rotate_after": "2s"}}), |lab| {
        vec![lab.client_path.clone()]
    });
}

#[test]
fn eight_streams_move_with_the_server_when_it_alone_rotates_its_link() {
    survives_rotation(json!({"server_role": {"rotate_after": "2s"}}), |lab| {
        vec![lab.server_path.clone()]
    });
}
