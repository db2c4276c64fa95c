//! Datagrams while links are cut, services restart and sources fall silent.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{LONG, client_over, tunnel_to};
use crate::support::{
    datagrams::{Asker, DatagramService},
    proxy::{Cut, Proxy},
    tunnel::{Front, Port, Testbed, Tunnel},
    wait,
};

/// The time that a busy machine may add to a delay.
const TOLERANCE: Duration = Duration::from_millis(500);

/// The pause between two datagrams.
const PACE: Duration = Duration::from_millis(10);

/// Sends the number of a datagram at [`PACE`] until `beside` has returned, and a little longer. Returns
/// when each was sent, and the numbers that were answered, with the time.
fn paced(asker: &Asker, beside: impl FnOnce() + Send) -> (Vec<Instant>, Vec<(usize, Instant)>) {
    let (mut sent, mut answered) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let beside = scope.spawn(beside);
        let mut ends_at = None;
        while ends_at.is_none_or(|end| Instant::now() < end) {
            if beside.is_finished() && ends_at.is_none() {
                ends_at = Some(Instant::now() + Duration::from_secs(1));
            }
            let number = u64::try_from(sent.len()).expect("few datagrams");
            sent.push(Instant::now());
            asker.send(&number.to_be_bytes());
            let until = Instant::now() + PACE;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if let Some(answer) = asker.receive(left) {
                    let number = u64::from_be_bytes(answer.try_into().expect("a number"));
                    answered.push((number as usize, Instant::now()));
                }
            }
        }
        beside.join().expect("it does not panic");
    });
    (sent, answered)
}

#[test]
fn flows_outlive_a_cut_of_all_links_and_nothing_old_arrives() {
    const MAX_DELAY: Duration = Duration::from_millis(200);
    let echo = DatagramService::echo();
    let port = Port::udp("echo", echo.address());
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.master_address());
    let fields = client_over(path.address());
    let tunnel = Tunnel::on(testbed, vec![port.clone()], fields);
    let asker = Asker::of(port.local);
    asker.ask_until_answered(&[0; 8]);
    let flows = echo.sources().len();
    let (sent, answered) = paced(&asker, || {
        wait::pause(Duration::from_millis(500));
        path.refuse();
        path.cut(Cut::Reset);
        wait::pause(Duration::from_secs(2));
        path.thaw();
        tunnel.client.wait_for_line(&["tunnel resumed"]);
    });
    for &(number, at) in &answered {
        let delay = at - sent[number];
        // At most `max_delay` in each direction.
        assert!(delay <= 2 * MAX_DELAY + TOLERANCE, "{number}: {delay:?}");
    }
    let lost = sent.len() - answered.len();
    println!("{} sent, {lost} lost", sent.len());
    assert!(lost > 100, "{lost} of {}", sent.len());
    let last = sent.len() - 20;
    assert!(
        answered.iter().any(|&(number, _)| number >= last),
        "datagrams arrive after the cut"
    );
    assert_eq!(echo.sources().len(), flows, "the flow is the same");
}

#[test]
fn a_path_that_stalls_delivers_nothing_old() {
    let echo = DatagramService::echo();
    let port = Port::udp("echo", echo.address());
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.master_address());
    let fields = client_over(path.address());
    let _tunnel = Tunnel::on(testbed, vec![port.clone()], fields);
    let asker = Asker::of(port.local);
    asker.ask_until_answered(&[0; 8]);
    let (sent, answered) = paced(&asker, || {
        wait::pause(Duration::from_millis(500));
        path.freeze();
        wait::pause(Duration::from_millis(1_500));
        path.thaw();
    });
    for &(number, at) in &answered {
        let delay = at - sent[number];
        assert!(delay <= Duration::from_millis(900), "{number}: {delay:?}");
    }
    assert!(answered.len() > 50 && answered.len() < sent.len() - 50);
}

#[test]
fn a_service_that_is_away_ends_its_flows_and_is_reached_when_it_is_back() {
    let echo = DatagramService::echo();
    let address = echo.address();
    let port = Port::udp("echo", address);
    let tunnel = tunnel_to(&port);
    let asker = Asker::of(port.local);
    asker.ask_until_answered(b"before");
    drop(echo);
    assert_eq!(asker.ask(b"during", Duration::from_millis(500)), None);
    tunnel.server.wait_for_line(&[
        "the service takes no datagrams",
        &address.to_string(),
        "service_refused",
    ]);
    tunnel.client.wait_for_line(&["flow ended", "refused"]);
    let _echo = DatagramService::echo_at(address);
    assert_eq!(asker.ask_until_answered(b"after"), b"after");
}

#[test]
fn idle_flows_end_at_both_ends_and_a_source_may_return() {
    let echo = DatagramService::echo();
    let port = Port {
        at_both: json!({"protocol": "udp", "udp_idle_timeout": "300ms"}),
        ..Port::udp("echo", echo.address())
    };
    let tunnel = tunnel_to(&port);
    let asker = Asker::of(port.local);
    for role in [&tunnel.client, &tunnel.server] {
        role.wait_for_line(&["flow ended"]);
    }
    assert_eq!(asker.ask(b"again", LONG), Some(b"again".to_vec()));
    assert!(echo.sources().len() >= 2, "another flow, another socket");
}

#[test]
fn a_client_drops_datagrams_without_a_tunnel_and_carries_later_ones() {
    let echo = DatagramService::echo();
    let port = Port::udp("echo", echo.address());
    let ports = std::slice::from_ref(&port);
    let testbed = Testbed::new(Front::Direct);
    let client = testbed.client("client", ports, json!({}));
    client.wait_for_line(&["listening for datagrams"]);
    let asker = Asker::of(port.local);
    assert_eq!(asker.ask(b"early", Duration::from_millis(500)), None);
    let _master = testbed.master(json!({}));
    let _server = testbed.server("server", ports, json!({}));
    assert_eq!(asker.ask_until_answered(b"late"), b"late");
}
