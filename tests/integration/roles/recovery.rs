//! New connections after a restart of a role, a loss of links and a suspension.

use std::{
    io::Read as _,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    bytes,
    daemon::Signal,
    proxy::{Cut, Proxy},
    services::{self, Ending},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
};

#[test]
fn new_connections_work_after_a_restart_of_the_server() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let before = services::connect(tunnel.probe().local);
    services::ping(&before, b"before").unwrap();
    tunnel.server.kill();
    tunnel.restart_server();
    assert_eq!(services::read_to_ending(&before).1, Ending::Reset);
    services::ping(&services::connect(tunnel.probe().local), b"after").unwrap();
}

#[test]
fn the_tunnel_recovers_after_a_restart_of_the_master() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    tunnel.master.kill();
    tunnel.restart_master();
    tunnel.wait_until_connected();
}

#[test]
fn the_tunnel_recovers_after_its_links_are_cut() {
    for cut in [Cut::Reset, Cut::EndOfFile] {
        let testbed = Testbed::new(Front::Direct);
        let path = Proxy::start(testbed.master_address());
        let master = || json!({"master": path.address().to_string()});
        let fields = Fields {
            server: master(),
            client: master(),
            ..Fields::default()
        };
        let tunnel = Tunnel::on(testbed, Vec::new(), fields);
        path.cut(cut);
        tunnel.wait_until_connected();
    }
}

#[test]
fn a_server_takes_over_its_own_registration_from_a_half_dead_link() {
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.master_address());
    let fields = Fields {
        server: json!({"master": path.address().to_string()}),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(testbed, Vec::new(), fields);
    // The server loses its link and redials. The master has not noticed the loss.
    path.cut(Cut::NearSide);
    let start = Instant::now();
    tunnel.wait_until_connected();
    // The master would time out the old link after LINK_TIMEOUT, 45 s.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "after {:?}",
        start.elapsed()
    );
    tunnel.master.wait_for_line(&["takes over"]);
    assert_eq!(path.connections(), 2);
}

#[test]
fn a_suspended_client_blocks_no_other_client_and_continues_after_resuming() {
    let content = bytes::mixed(1, 24 << 20);
    let service = services::source(content.clone());
    let port = Port::new("large", service.address(), Methods::DEFAULT);
    let tunnel = Tunnel::start(Front::Direct, vec![port.clone()]);
    let elsewhere = port.at_another_address();
    let _other = tunnel
        .testbed
        .client("other", std::slice::from_ref(&elsewhere), json!({}));
    let slow = services::connect(port.local);
    (&slow).read_exact(&mut vec![0; 1 << 20]).unwrap();
    tunnel.client.signal(Signal::Stop);
    let (copied, ending) = services::read_to_ending(&services::connect(elsewhere.local));
    tunnel.client.signal(Signal::Continue);
    assert_eq!(
        (bytes::sha256(&copied), ending),
        (bytes::sha256(&content), Ending::Clean),
        "another client in the meantime"
    );
    let (rest, ending) = services::read_to_ending(&slow);
    assert_eq!(
        (bytes::sha256(&rest), ending),
        (bytes::sha256(&content[1 << 20..]), Ending::Clean),
        "the resumed client"
    );
}
