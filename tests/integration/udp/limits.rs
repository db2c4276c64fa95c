//! Floods of sources, and the number of flows.

use std::{fs, thread, time::Duration};

use serde_json::json;

use super::{LONG, tunnel_to};
use crate::support::{
    datagrams::{Asker, DatagramService},
    tunnel::Port,
};

/// The number of open files of a process.
fn open_files(process: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{process}/fd")).expect("a running process");
    files.count()
}

#[test]
fn a_flood_of_sources_is_bounded_and_leaves_a_flow_in_use_alone() {
    const FLOWS: usize = 32;
    const SOURCES: usize = 3_000;
    let echo = DatagramService::echo();
    let port = Port {
        at_both: json!({"protocol": "udp", "max_flows": FLOWS}),
        ..Port::udp("echo", echo.address())
    };
    let tunnel = tunnel_to(&port);
    let asker = Asker::of(port.local);
    // The second question shows that the source is not forged.
    for _ in 0..2 {
        assert_eq!(asker.ask(b"mine", LONG), Some(b"mine".to_vec()));
    }
    let before = open_files(tunnel.server.pid());
    let (mut most, mut lost) = (0, 0);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for _ in 0..SOURCES {
                Asker::of(port.local).send(b"forged");
            }
        });
        while !flood.is_finished() {
            most = most.max(open_files(tunnel.server.pid()));
            lost += usize::from(asker.ask(b"mine", Duration::from_secs(1)).is_none());
        }
    });
    println!("{before} open files before, at most {most}; {lost} answers lost");
    assert!(most <= before + 2 * FLOWS + 16, "{most}");
    assert!(lost <= 2, "{lost}");
    tunnel
        .client
        .wait_for_line(&["datagrams of new sources dropped", "max_flows"]);
    assert!(!tunnel.server.has_ended());
    // A new source gets a flow when the others are idle.
    assert_eq!(Asker::of(port.local).ask_until_answered(b"new"), b"new");
}

#[test]
fn a_resolver_with_a_new_port_for_each_query_is_served() {
    const QUERIES: u32 = 300;
    let echo = DatagramService::echo();
    let port = Port {
        at_both: json!({"protocol": "udp", "max_flows": 64}),
        ..Port::udp("echo", echo.address())
    };
    let _tunnel = tunnel_to(&port);
    let unanswered = (0..QUERIES).filter(|number| {
        let query = number.to_be_bytes();
        // The port is full until the first flows are idle for a second.
        let mut asker = Asker::of(port.local);
        let answered = (0..20).any(|_| {
            let answer = asker.ask(&query, Duration::from_millis(200));
            if answer.is_none() {
                asker = Asker::of(port.local);
            }
            answer.as_deref() == Some(&query[..])
        });
        !answered
    });
    assert_eq!(unanswered.count(), 0);
}
