//! Links that the roles leave on purpose: a master that drains while another one replaces it, and
//! planned rotation. No connection is cut.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    echo_probe::EchoProbe,
    lab::{Lab, METHODS, load_profile},
    stream_load::Load,
};
use crate::support::{
    daemon::Daemon,
    nginx::Tuning,
    proxy::Proxy,
    tunnel::{Front, Testbed},
    wait,
};

/// The log event of a link that ended unexpectedly.
const LINK_LOST: &str = "the link was lost";

/// The log events of a tunnel that had to be resumed, of one that lost a lane beside others, and of
/// one that was handed over.
const TUNNEL_LOST_LINK: &str = "tunnel lost its link";
const TUNNEL_LOST_LANE: &str = "tunnel lost one of its links";
const TUNNEL_MOVED: &str = "tunnel moved";

/// The grace period of the drained master.
const GRACE: Duration = Duration::from_secs(10);

/// Far above the time of a handover, far below a timeout.
const MAX_PAUSE: Duration = Duration::from_secs(3);

const ECHO_INTERVAL: Duration = Duration::from_millis(5);

fn fields() -> Value {
    json!({"master_role": {"grace_period": format!("{}s", GRACE.as_secs())}})
}

/// Drains two masters in the middle of a transfer. No byte is lost, and the drained masters exit as
/// soon as the roles have left them.
fn survives_drains(mut lab: Lab) {
    let echo_probe = EchoProbe::start(lab.echo(), ECHO_INTERVAL);
    lab.limit();
    let start = Instant::now();
    let load = Load::start(lab.tunnel.local(METHODS[0]), load_profile().length * 2);
    let mut drained: Vec<Daemon> = Vec::new();
    for _ in 0..2 {
        lab.wait_for_traffic(512 << 10, &load);
        let mut old = lab.tunnel.replace_master();
        let status = old.wait_for_end(GRACE - Duration::from_secs(1));
        let status = status.unwrap_or_else(|| {
            panic!(
                "the roles did not leave the draining master:\n{}",
                lab.tunnel.client.log()
            )
        });
        assert_eq!(status.code(), Some(0));
        drained.push(old);
    }
    assert!(!load.is_done(), "the transfer ended before the last drain");
    load.finish("a master that drains");
    let longest = echo_probe.longest_pause(start, Instant::now());
    echo_probe.finish();
    println!("the longest pause beside the transfer: {longest:?}");
    assert!(longest < MAX_PAUSE, "a pause of {longest:?}");
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        assert!(
            !role.log().contains(LINK_LOST),
            "a link was lost:\n{}",
            role.log()
        );
    }
}

#[test]
fn eight_streams_survive_a_draining_master_and_its_replacement() {
    survives_drains(Lab::on(Testbed::new(Front::Direct), Vec::new(), fields()));
}

#[test]
fn eight_streams_survive_a_draining_master_behind_nginx() {
    survives_drains(Lab::behind_nginx(&Tuning::default(), fields()));
}

/// Runs eight streams while links are rotated twice. `fields` selects the links of both roles, the
/// client's, or the server's. Each role has at least `links`.
fn survives_rotation(links: usize, fields: Value, rotated: impl Fn(&Lab) -> Vec<Arc<Proxy>>) {
    let lab = Lab::with_fields(fields);
    wait::until_true("all links are up", || {
        let mut paths = rotated(&lab).into_iter();
        paths.all(|path| path.connections() >= links)
    });
    let before: Vec<usize> = rotated(&lab)
        .iter()
        .map(|path| path.connections())
        .collect();
    let echo_probe = EchoProbe::start(lab.echo(), ECHO_INTERVAL);
    lab.limit();
    let start = Instant::now();
    // Each link has the rate of the path.
    let length = load_profile().length * 2 * links as u64;
    let load = Load::start(lab.tunnel.local(METHODS[0]), length);
    wait::until_true("the links have been rotated twice", || {
        rotated(&lab)
            .iter()
            .zip(&before)
            .all(|(path, before)| path.connections() >= before + 2 * links)
    });
    assert!(
        !load.is_done(),
        "the transfer ended before the second rotation"
    );
    load.finish("rotation");
    let longest = echo_probe.longest_pause(start, Instant::now());
    echo_probe.finish();
    println!("the longest pause beside the transfer: {longest:?}");
    assert!(longest < MAX_PAUSE, "a pause of {longest:?}");
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        let log = role.log();
        assert!(
            ![LINK_LOST, TUNNEL_LOST_LINK, TUNNEL_LOST_LANE]
                .iter()
                .any(|event| log.contains(event)),
            "a link was lost:\n{log}"
        );
        assert!(
            log.contains(TUNNEL_MOVED),
            "the tunnels were handed over:\n{log}"
        );
    }
}

#[test]
fn eight_streams_survive_planned_rotation_of_both_links() {
    let fields = json!({"rotate_after": "2s", "links": {"max": 1}});
    survives_rotation(1, fields, |lab| lab.paths().to_vec());
}

/// The roles may try more links, because a busy machine loses packets, and give them up again
/// during a rotation.
#[test]
fn eight_streams_survive_planned_rotation_of_several_links() {
    let fields = json!({"rotate_after": "2s", "links": {"min": 3, "max": 8}});
    survives_rotation(3, fields, |lab| lab.paths().to_vec());
}

#[test]
fn eight_streams_survive_rotation_of_the_clients_link_only() {
    let fields = json!({"links": {"max": 1}, "client_role": {"rotate_after": "2s"}});
    survives_rotation(1, fields, |lab| vec![lab.client_path.clone()]);
}

#[test]
fn eight_streams_survive_rotation_of_the_servers_link_only() {
    let fields = json!({"links": {"max": 1}, "server_role": {"rotate_after": "2s"}});
    survives_rotation(1, fields, |lab| vec![lab.server_path.clone()]);
}
