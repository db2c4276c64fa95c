//! Masters that are killed and restarted, two alternative masters, and an nginx in front that is
//! reloaded.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    lab::{Lab, METHODS, load_profile, methods_in_turn},
    stream_load::{self, Load},
};
use crate::support::{
    daemon::Signal,
    nginx::Tuning,
    ports,
    proxy::{Path, Proxy},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
    wait,
};

/// Waits for this time, or until the streams have ended.
fn pause_while_running(load: &Load, time: Duration) {
    wait::within(time, || load.is_done().then_some(()));
}

/// Runs eight streams while the master is killed and restarted. It is down for a third of the time.
fn survives_killed_masters(methods: Methods) {
    let mut lab = Lab::new();
    lab.limit();
    let load = lab.start_load(methods);
    let mut kills = 0;
    while !load.is_done() {
        pause_while_running(&load, load_profile().period);
        lab.tunnel.master.kill();
        kills += u64::from(!load.is_done());
        pause_while_running(&load, load_profile().period / 2);
        lab.tunnel.restart_master();
    }
    load.finish(&format!("{methods}, {kills} killed masters"));
    assert!(
        kills >= load_profile().min_disturbances,
        "{kills} are too few for this test"
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

/// Runs eight streams while nginx is reloaded every second. Its old workers and their links end one
/// second later.
fn survives_reloads_of_nginx(methods: Methods) {
    let tuning = Tuning {
        main: "worker_shutdown_timeout 1s;",
        ..Tuning::default()
    };
    let lab = Lab::behind_nginx(&tuning, json!({}));
    let before = lab.client_path.connections();
    // Half the usual rate, because a reload cannot come more often than the workers end.
    lab.set_paths(Path::limited(load_profile().bytes_per_second / 2));
    let load = lab.start_load(methods);
    let mut reloads = 0;
    while !load.is_done() {
        lab.tunnel.testbed.nginx().signal(Signal::Hangup);
        reloads += 1;
        pause_while_running(&load, Duration::from_secs(1));
    }
    load.finish(&format!("{methods}, {reloads} reloads of nginx"));
    assert!(
        reloads > load_profile().min_disturbances / 2,
        "{reloads} are too few for this test"
    );
    let again = lab.client_path.connections() - before;
    assert!(
        again as u64 >= load_profile().min_disturbances / 2,
        "{again} new links of the client: the old workers did not end"
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

/// Bytes that a path must have carried before it counts as the one in use.
const MIN_CARRIED: u64 = 128 << 10;

/// Waits until one of these paths carries the transfer. `None` when the transfer ends first.
fn wait_for_active_path(
    paths: &[Arc<Proxy>; 2],
    candidates: &[usize],
    load: &Load,
) -> Option<usize> {
    let forwarded = || {
        paths
            .each_ref()
            .map(|path| path.forwarded().iter().sum::<u64>())
    };
    let before = forwarded();
    wait::until("one of the masters carries the transfer", || {
        let now = forwarded();
        let busy = candidates
            .iter()
            .copied()
            .find(|&at| now[at] - before[at] > MIN_CARRIED);
        if load.is_done() {
            Some(None)
        } else {
            busy.map(Some)
        }
    })
}

#[test]
fn eight_streams_survive_kills_of_the_active_one_of_two_masters() {
    methods_in_turn()
        .iter()
        .for_each(|&methods| survives_the_death_of_one_of_two(methods));
}

fn survives_the_death_of_one_of_two(methods: Methods) {
    let testbed = Testbed::new(Front::Direct);
    let elsewhere = ports::free();
    let mut second = testbed.another_master("second", elsewhere);
    let paths = [testbed.master_address(), elsewhere].map(|master| Arc::new(Proxy::start(master)));
    let list = || json!({"master": paths.each_ref().map(|path| path.address().to_string())});
    let service = stream_load::service();
    let ports = vec![Port::new("load", service.address(), methods)];
    let fields = Fields {
        server: list(),
        client: list(),
        ..Fields::default()
    };
    let mut tunnel = Tunnel::on(testbed, ports, fields);
    paths
        .iter()
        .for_each(|path| path.set_path(Path::limited(load_profile().bytes_per_second)));
    let load = Load::start(tunnel.local("load"), load_profile().length);
    let mut killed = Vec::new();
    while let Some(used) = wait_for_active_path(&paths, &[0, 1], &load) {
        pause_while_running(&load, load_profile().period);
        [&mut tunnel.master, &mut second][used].kill();
        killed.push(used);
        // When the other path carries the transfer, the roles have moved. The old path may still
        // deliver data that was in flight.
        if wait_for_active_path(&paths, &[1 - used], &load).is_none() {
            break;
        }
        if used == 0 {
            tunnel.restart_master();
        } else {
            second = tunnel.testbed.another_master("second", elsewhere);
        }
    }
    load.finish(&format!("{methods}, killed in turn: {killed:?}"));
    assert!(
        killed.len() as u64 >= load_profile().min_disturbances / 2,
        "{killed:?} are too few for this test"
    );
    assert!(
        killed.contains(&0) && killed.contains(&1),
        "both masters were killed: {killed:?}"
    );
}
