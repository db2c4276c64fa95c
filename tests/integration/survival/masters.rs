//! Masters that are killed and started again, masters of which there are two, and an nginx in front that is reloaded.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    lab::{Lab, METHODS, methods_in_turn, pace},
    load::{self, Load},
};
use crate::support::{
    daemon::Signal,
    nginx::Tuning,
    ports,
    proxy::{Path, Proxy},
    tunnel::{Fields, Front, Methods, Port, Scene, Tunnel},
    wait,
};

/// Lets time pass, but not longer than the streams run.
fn pause_while_running(load: &Load, time: Duration) {
    wait::within(time, || load.is_done().then_some(()));
}

/// Eight streams while the master is killed and started again, half of the time away.
fn survives_killed_masters(methods: Methods) {
    let mut lab = Lab::new();
    lab.limit();
    let load = lab.start_load(methods);
    let mut kills = 0;
    while !load.is_done() {
        pause_while_running(&load, pace().period);
        lab.tunnel.master.kill();
        kills += u64::from(!load.is_done());
        pause_while_running(&load, pace().period / 2);
        lab.tunnel.restart_master();
    }
    load.finish(&format!("{methods}, {kills} killed masters"));
    assert!(
        kills >= pace().least,
        "{kills} are too few to show anything"
    );
}

#[test]
fn eight_streams_survive_killed_masters_uncompressed() {
    survives_killed_masters(METHODS[0]);
}

#[test]
fn eight_streams_survive_killed_masters_with_s2() {
    survives_killed_masters(METHODS[1]);
}

#[test]
fn eight_streams_survive_killed_masters_with_zstd() {
    survives_killed_masters(METHODS[2]);
}

/// Eight streams while nginx is reloaded every second and ends its old workers, with their links, a second later.
fn survives_reloads_of_nginx(methods: Methods) {
    let tuning = Tuning {
        main: "worker_shutdown_timeout 1s;",
        ..Tuning::default()
    };
    let lab = Lab::behind_nginx(&tuning, json!({}));
    let before = lab.client_path.connections();
    // Slower than elsewhere: a reload cannot come more often than its workers end.
    lab.set_paths(Path::limited(pace().bytes_per_second / 2));
    let load = lab.start_load(methods);
    let mut reloads = 0;
    while !load.is_done() {
        lab.tunnel.scene.nginx().signal(Signal::Hangup);
        reloads += 1;
        pause_while_running(&load, Duration::from_secs(1));
    }
    load.finish(&format!("{methods}, {reloads} reloads of nginx"));
    assert!(
        reloads > pace().least / 2,
        "{reloads} are too few to show anything"
    );
    let again = lab.client_path.connections() - before;
    assert!(
        again as u64 >= pace().least / 2,
        "{again} new links of the client: the workers did not end"
    );
}

#[test]
fn eight_streams_survive_reloads_of_nginx_uncompressed() {
    survives_reloads_of_nginx(METHODS[0]);
}

#[test]
fn eight_streams_survive_reloads_of_nginx_with_s2() {
    survives_reloads_of_nginx(METHODS[1]);
}

#[test]
fn eight_streams_survive_reloads_of_nginx_with_zstd() {
    survives_reloads_of_nginx(METHODS[2]);
}

/// What a transfer must have moved on a path before that path counts as the one in use.
const MOVED: u64 = 128 << 10;

/// Waits until one of these paths carries the transfer; none when the transfer is over before.
fn in_use(paths: &[Arc<Proxy>; 2], candidates: &[usize], load: &Load) -> Option<usize> {
    let forwarded = || {
        paths
            .each_ref()
            .map(|path| path.forwarded().iter().sum::<u64>())
    };
    let before = forwarded();
    wait::until("the transfer goes through one of the masters", || {
        let now = forwarded();
        let busy = candidates
            .iter()
            .copied()
            .find(|&at| now[at] - before[at] > MOVED);
        if load.is_done() {
            Some(None)
        } else {
            busy.map(Some)
        }
    })
}

#[test]
fn eight_streams_survive_the_death_of_whichever_of_two_masters_is_in_use() {
    methods_in_turn()
        .iter()
        .for_each(|&methods| survives_the_death_of_one_of_two(methods));
}

fn survives_the_death_of_one_of_two(methods: Methods) {
    let scene = Scene::new(Front::Direct);
    let elsewhere = ports::free();
    let mut second = scene.another_master("second", elsewhere);
    let paths = [scene.master_address(), elsewhere].map(|master| Arc::new(Proxy::start(master)));
    let list = || json!({"master": paths.each_ref().map(|path| path.address().to_string())});
    let service = load::service();
    let ports = vec![Port::new("load", service.address(), methods)];
    let fields = Fields {
        server: list(),
        client: list(),
        ..Fields::default()
    };
    let mut tunnel = Tunnel::on(scene, ports, fields);
    paths
        .iter()
        .for_each(|path| path.set_path(Path::limited(pace().bytes_per_second)));
    let load = Load::start(tunnel.local("load"), pace().length);
    let mut killed = Vec::new();
    while let Some(used) = in_use(&paths, &[0, 1], &load) {
        pause_while_running(&load, pace().period);
        [&mut tunnel.master, &mut second][used].kill();
        killed.push(used);
        // The roles have moved when the other one carries the transfer; what the path had of the dead one's may still come.
        if in_use(&paths, &[1 - used], &load).is_none() {
            break;
        }
        if used == 0 {
            tunnel.restart_master();
        } else {
            second = tunnel.scene.another_master("second", elsewhere);
        }
    }
    load.finish(&format!("{methods}, killed in turn: {killed:?}"));
    assert!(
        killed.len() as u64 >= pace().least / 2,
        "{killed:?} are too few to show anything"
    );
    assert!(
        killed.contains(&0) && killed.contains(&1),
        "both have died: {killed:?}"
    );
}
