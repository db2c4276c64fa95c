//! Checks the table of PROTOCOL 12.1. It lists the states in which one peer can leave another. Each
//! has a deadline and a bound, and the document must name the values of the code. The tests of each
//! module verify that the values take effect.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    bench, config, link,
    master::{self, MasterLimits, MasterTiming},
    server, supervisor, tunnel,
};
use report_proto::{frame, mux};

/// The deadlines and bounds of one state, as the table must name them.
struct StateBounds {
    ends_after: Vec<Duration>,
    bounds: Vec<String>,
}

fn state(ends_after: &[Duration], bounds: &[usize]) -> StateBounds {
    StateBounds {
        ends_after: ends_after.to_vec(),
        bounds: bounds.iter().copied().map(grouped).collect(),
    }
}

/// Formats a number as the document writes it.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

/// Returns every state with the constants that bound it.
fn states() -> BTreeMap<&'static str, StateBounds> {
    let mut states = connection_states();
    states.extend(link_states());
    states.extend(tunnel_states());
    states
}

/// Returns the states of connections that are not a link yet, with the constants that bound them.
fn connection_states() -> BTreeMap<&'static str, StateBounds> {
    let timing = MasterTiming::default();
    let limits = MasterLimits::default();
    let memory = config::MasterLimitsConfig::default().memory.bytes();
    assert_eq!(
        (limits.memory_bytes, limits.links),
        (
            memory,
            *config::MasterLimitsConfig::default().links as usize
        )
    );
    BTreeMap::from([
        (
            "connection that is no link",
            state(
                &[
                    timing.connection,
                    timing.tls,
                    timing.header,
                    timing.authentication,
                ],
                &[],
            ),
        ),
        (
            "connection that is answered with 503 (6.4.2)",
            state(
                &[master::REFUSAL_TIMEOUT],
                &[master::REFUSAL_DIVISOR, master::MAX_REFUSALS],
            ),
        ),
        (
            "handshake, from accept to WELCOME",
            state(&[master::COUNTED_TIME], &[master::HANDSHAKES_PER_THREAD]),
        ),
        (
            "part of the first message",
            state(&[timing.authentication], &[link::authenticate::MAX_FIRST]),
        ),
    ])
}

/// Returns the states of links and of their channels, with the constants that bound them.
fn link_states() -> BTreeMap<&'static str, StateBounds> {
    let keep_alive = link::KeepAliveTiming::default();
    BTreeMap::from([
        (
            "link that says nothing",
            state(&[keep_alive.timeout, keep_alive.answer_timeout], &[]),
        ),
        (
            "part of a message",
            state(&[link::session::MESSAGE_TIMEOUT], &[frame::MAX_MESSAGE]),
        ),
        (
            "answers that are not read",
            state(
                &[keep_alive.answer_timeout],
                &[link::outbox::ANSWERS_WAITING],
            ),
        ),
        (
            "ATTACH without a server",
            state(&[master::WAITING_TIMEOUT], &[]),
        ),
        (
            "ATTACH without an answer",
            state(&[master::PENDING_TIMEOUT], &[master::PENDING_BYTES]),
        ),
        (
            "older link of a slot",
            state(&[supervisor::RETIREMENT], &[usize::from(frame::MAX_SLOTS)]),
        ),
    ])
}

/// Returns the states of tunnels and streams with the constants that bound them.
fn tunnel_states() -> BTreeMap<&'static str, StateBounds> {
    BTreeMap::from([
        (
            "candidate",
            state(&[tunnel::CANDIDATE_TIMEOUT], &[server::MAX_CANDIDATES]),
        ),
        (
            "tunnel without a channel",
            state(&[config::ResumeTimeout::DEFAULT], &[]),
        ),
        (
            "lane that is being left",
            state(&[tunnel::MOVE_TIMEOUT], &[tunnel::LANES_MAX]),
        ),
        (
            "gap in the bytes of a stream",
            state(&[mux::GAP_TIMEOUT], &[mux::PIECES_MAX]),
        ),
        (
            "stream that waits for its service",
            state(&[config::ConnectTimeout::DEFAULT], &[]),
        ),
        ("stream that the peer does not read", state(&[], &[])),
        ("flow of datagrams", state(&[], &[])),
        (
            "details of a flow that no application serves yet",
            state(&[], &[]),
        ),
        ("datagram that waits", state(&[], &[mux::WAITING_MAX])),
        (
            "connection that waits for a tunnel",
            state(&[config::HoldTimeout::DEFAULT], &[]),
        ),
        (
            "stream that measures",
            state(&[bench::BENCH_STREAM_LIFETIME], &[bench::BENCH_STREAMS_MAX]),
        ),
    ])
}

#[test]
fn document_names_the_deadline_and_bound_of_each_state() {
    let document = include_str!("../docs/PROTOCOL.md");
    let (_, table) = document
        .split_once("| state | at | ends after | how many at a time |")
        .expect("the table of 12.1");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut states = states();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, ends_after, bounds] = cells[..] else {
            panic!("a row of four cells: {row}")
        };
        let StateBounds {
            ends_after: deadlines,
            bounds: numbers,
        } = states
            .remove(name)
            .unwrap_or_else(|| panic!("a state that the code does not know: {name}"));
        for deadline in deadlines {
            assert!(
                ends_after.contains(&format!("{} s", deadline.as_secs())),
                "{name}: {deadline:?} in {ends_after:?}"
            );
        }
        for number in numbers {
            assert!(bounds.contains(&number), "{name}: {number} in {bounds:?}");
        }
        assert!(!ends_after.is_empty() && !bounds.is_empty(), "{name}");
    }
    assert!(
        states.is_empty(),
        "states that the document does not name: {:?}",
        states.keys()
    );
}
