//! Goes through the table of PROTOCOL 12.1: each state that a peer can leave another in has a deadline and a bound, and the document names those of the code.
//! That they hold is for the tests beside each of them.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    bench, config, frame, link,
    master::{self, Limits, MasterTiming},
    server, tunnel,
};

/// Of a state: when it ends, and how many there may be, as the table says it.
struct State {
    ends_after: Vec<Duration>,
    bounds: Vec<String>,
}

fn state(ends_after: &[Duration], bounds: &[usize]) -> State {
    State {
        ends_after: ends_after.to_vec(),
        bounds: bounds.iter().copied().map(grouped).collect(),
    }
}

/// A number as the document writes it.
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

/// Every state, with the constants that bound it.
fn states() -> BTreeMap<&'static str, State> {
    let timing = MasterTiming::default();
    let heartbeat = link::Timing::default();
    let limits = Limits::default();
    let memory = config::Limits::default().memory.bytes();
    assert_eq!(
        (limits.memory_bytes, limits.links),
        (memory, config::Limits::default().links as usize)
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
            "part of the first message",
            state(&[timing.authentication], &[link::authenticate::MAX_FIRST]),
        ),
        (
            "link that says nothing",
            state(&[heartbeat.timeout, heartbeat.answer_timeout], &[]),
        ),
        (
            "part of a message",
            state(&[link::session::MESSAGE_TIMEOUT], &[frame::MAX_MESSAGE]),
        ),
        (
            "answers that are not read",
            state(&[heartbeat.answer_timeout], &[link::ANSWERS_WAITING]),
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
            "older link of an instance",
            state(&[link::uplink::RETIREMENT], &[]),
        ),
        (
            "candidate",
            state(&[tunnel::CANDIDATE_TIMEOUT], &[server::CANDIDATES]),
        ),
        (
            "tunnel without a channel",
            state(&[config::RESUME_TIMEOUT], &[]),
        ),
        ("move of a tunnel", state(&[tunnel::MOVE_TIMEOUT], &[])),
        (
            "stream that waits for its service",
            state(&[config::CONNECT_TIMEOUT], &[]),
        ),
        ("stream that the peer does not read", state(&[], &[])),
        (
            "connection that waits for a tunnel",
            state(&[config::HOLD_TIMEOUT], &[]),
        ),
        (
            "stream that measures",
            state(&[bench::LIFETIME], &[bench::PLACES]),
        ),
    ])
}

#[test]
fn the_document_names_the_deadline_and_the_bound_of_each_state() {
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
        let State {
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
