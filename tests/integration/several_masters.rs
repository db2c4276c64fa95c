//! A list of three masters: one is down, one accepts connections but stays silent, and one works.
//! The tests check how a client reaches the working one, and when it returns to one that was down.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;

use crate::support::{
    daemon::Daemon,
    ports,
    services::{self, Service},
    tunnel::{Front, Methods, Port, Testbed},
    wait,
};

/// The timeout of one dial, which is what a silent master costs.
const TIMEOUT: Duration = Duration::from_secs(1);

const DAY_MS: u64 = 86_400_000;

/// Three master addresses, of which only the last one works, and a server that is linked to every
/// running master.
struct ThreeMasters {
    testbed: Testbed,
    down: SocketAddr,
    silent: Service,
    working: Daemon,
    port: Port,
    _server: Daemon,
    _echo: Service,
}

impl ThreeMasters {
    fn new() -> ThreeMasters {
        let testbed = Testbed::new(Front::Direct);
        let (down, silent, echo) = (ports::free(), services::sink(), services::echo());
        let working = testbed.master(json!({}));
        let port = Port::new("echo", echo.address(), Methods::DEFAULT);
        let list = json!({"master": [down.to_string(), testbed.master_address().to_string()]});
        let server = testbed.server("server", std::slice::from_ref(&port), list);
        server.wait_for_line(&["linked to the master"]);
        ThreeMasters {
            testbed,
            down,
            silent,
            working,
            port,
            _server: server,
            _echo: echo,
        }
    }

    /// Starts a client with all three masters, the working one last.
    fn client(&self, choice: &str) -> Daemon {
        let masters = [
            self.down,
            self.silent.address(),
            self.testbed.master_address(),
        ]
        .map(|master| master.to_string());
        let fields = json!({"master": masters, "master_choice": choice, "connect_timeout": TIMEOUT.as_secs_f32()});
        self.testbed.client(
            &format!("client-{choice}"),
            std::slice::from_ref(&self.port),
            fields,
        )
    }

    fn working_address(&self) -> SocketAddr {
        self.testbed.master_address()
    }
}

/// One attempt to link to a master, as the client logs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AttemptResult {
    /// The attempt failed. The client does not redial this master for that many milliseconds.
    Failed { rests_ms: u64 },
    /// The client was linked after that many milliseconds.
    Linked { took_ms: u64 },
}

/// The attempts at a master, each with the millisecond of the day at which it ended.
fn attempts(client: &Daemon, master: SocketAddr) -> Vec<(u64, AttemptResult)> {
    let name = format!("ws://{master}/");
    let log = client.log();
    let of_master = log.lines().filter(|line| {
        line.contains(&format!("master={name}")) || line.contains(&format!("{name}\""))
    });
    let read = |line: &str| {
        let result = if let Some(rests_ms) = field(line, "rests_ms") {
            AttemptResult::Failed { rests_ms }
        } else if line.contains("linked to the master") {
            AttemptResult::Linked {
                took_ms: field(line, "took_ms")?,
            }
        } else {
            return None;
        };
        Some((millisecond(line), result))
    };
    of_master.filter_map(read).collect()
}

fn field(line: &str, name: &str) -> Option<u64> {
    let (_, value) = line.split_once(&format!("{name}="))?;
    value
        .split(|character: char| !character.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// The millisecond of the day at which a line was written.
fn millisecond(line: &str) -> u64 {
    let (_, time) = line.split_once('T').expect("a time stamp");
    let number = |range: std::ops::Range<usize>| time[range].parse::<u64>().expect("digits");
    ((number(0..2) * 60 + number(3..5)) * 60 + number(6..8)) * 1000 + number(9..12)
}

/// The milliseconds from an earlier to a later time of day. The later one may be on the next day.
fn between(earlier: u64, later: u64) -> u64 {
    (later + DAY_MS - earlier) % DAY_MS
}

/// Waits until the client is linked to this master. Returns when, and how long the attempt took.
#[track_caller]
fn wait_until_linked(client: &Daemon, master: SocketAddr) -> (u64, u64) {
    wait::until("the client is linked to the master", || {
        attempts(client, master)
            .into_iter()
            .find_map(|(at, result)| match result {
                AttemptResult::Linked { took_ms } => Some((at, took_ms)),
                AttemptResult::Failed { .. } => None,
            })
    })
}

#[test]
fn a_race_reaches_the_working_master_without_waiting_for_the_silent_one() {
    let three = ThreeMasters::new();
    let client = three.client("raced");
    let listening = millisecond(&client.wait_for_line(&["listening"]));
    let (linked, _) = wait_until_linked(&client, three.working_address());
    let took = between(listening, linked);
    assert!(
        (200..900).contains(&took),
        "the working master is dialled a quarter of a second after the silent one: {took} ms"
    );
    wait::until_true("a connection works", || services::echoes(three.port.local));
    let log = client.log();
    let silent = three.silent.address().to_string();
    let loud = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    assert!(
        !loud.clone().any(|line| line.contains(&silent)),
        "the loser of a race logs no warning:\n{log}"
    );
    assert!(
        loud.clone()
            .any(|line| line.contains(&three.down.to_string()) && line.contains("refused")),
        "the failed master and its cause are logged:\n{log}"
    );
}

#[test]
fn ordered_masters_are_dialled_until_the_silent_one_times_out() {
    let three = ThreeMasters::new();
    let client = three.client("ordered");
    let listening = millisecond(&client.wait_for_line(&["listening"]));
    let (linked, took_ms) = wait_until_linked(&client, three.working_address());
    assert!(
        between(listening, linked) >= 900 && took_ms < 900,
        "{listening} {linked} {took_ms}"
    );
    wait::until_true("a connection works", || services::echoes(three.port.local));
    let silent = attempts(&client, three.silent.address());
    assert!(
        matches!(silent[..], [(_, AttemptResult::Failed { .. })]),
        "{silent:?}"
    );
    client.wait_for_line(&[
        "cannot reach the master",
        &three.silent.address().to_string(),
        "did not answer within 1 s",
    ]);
}

/// Kills the working master while the client uses it, and starts the one that was down during its
/// retry delay.
fn check_reuse_after_retry_delay(choice: &str) {
    let mut three = ThreeMasters::new();
    let client = three.client(choice);
    wait_until_linked(&client, three.working_address());
    wait::until_true("a connection works", || services::echoes(three.port.local));
    let before = attempts(&client, three.down).len();
    three.working.kill();
    let (failed, rests_ms) = wait_until_resting(&client, three.down, before);
    let _revived = three.testbed.another_master("revived", three.down);
    let (linked, took_ms) = wait_until_linked(&client, three.down);
    let last = attempts(&client, three.down)
        .into_iter()
        .rev()
        .find(|(_, result)| matches!(result, AttemptResult::Failed { .. }));
    assert_eq!(
        last,
        Some((failed, AttemptResult::Failed { rests_ms })),
        "no dial before the master ran"
    );
    assert!(
        between(failed, linked) - took_ms + 20 >= rests_ms,
        "linked at {linked} after {took_ms} ms, failed at {failed}, retry delay {rests_ms} ms"
    );
    wait::until_true("connections use the recovered master", || {
        services::echoes(three.port.local)
    });
    for master in [three.down, three.working_address()] {
        assert_retry_delays(&client, master);
    }
}

/// Waits until the last attempt at this master, after the first `before` ones, has failed with a
/// long retry delay. Returns when it failed, and the delay.
#[track_caller]
fn wait_until_resting(client: &Daemon, master: SocketAddr, before: usize) -> (u64, u64) {
    wait::until("the master that is down has a long retry delay", || {
        let of_down = attempts(client, master);
        match of_down.get(before..)?.last()? {
            (
                at,
                AttemptResult::Failed {
                    rests_ms: rests_ms @ 400..,
                },
            ) => Some((*at, *rests_ms)),
            _ => None,
        }
    })
}

/// Asserts that no attempt at this master began during the retry delay of the one before it.
#[track_caller]
fn assert_retry_delays(client: &Daemon, master: SocketAddr) {
    let attempts = attempts(client, master);
    for pair in attempts.windows(2) {
        let [(failed, AttemptResult::Failed { rests_ms }), (over, result)] = *pair else {
            continue;
        };
        let took_ms = if let AttemptResult::Linked { took_ms } = result {
            took_ms
        } else {
            0
        };
        assert!(
            between(failed, over) + 20 >= rests_ms + took_ms,
            "{master} was dialled during its retry delay: {attempts:?}"
        );
    }
}

#[test]
fn an_ordered_master_is_used_again_after_its_retry_delay() {
    check_reuse_after_retry_delay("ordered");
}

#[test]
fn a_raced_master_is_used_again_after_its_retry_delay() {
    check_reuse_after_retry_delay("raced");
}

/// The time for which a server's links are observed. Links that end each other do so within
/// milliseconds.
const OBSERVED: Duration = Duration::from_secs(3);

#[test]
fn a_server_keeps_its_links_to_two_addresses_of_one_master() {
    let testbed = Testbed::new(Front::Direct);
    let echo = services::echo();
    let addresses = [testbed.master_address(), ports::free()].map(|address| address.to_string());
    let master = testbed.master(json!({"listen_at": addresses}));
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let server = testbed.server(
        "server",
        std::slice::from_ref(&port),
        json!({"master": addresses}),
    );
    for address in &addresses {
        server.wait_for_line(&["linked to the master", address]);
    }
    // The second tunnel goes to the link with fewer channels.
    let elsewhere = port.at_another_address();
    let clients = [("client", &port), ("client-elsewhere", &elsewhere)].map(|(name, port)| {
        let client = testbed.client(name, std::slice::from_ref(port), json!({}));
        wait::until_true("a connection works", || services::echoes(port.local));
        client
    });
    for address in &addresses {
        server.wait_for_line(&["client attached", &format!("master=ws://{address}/")]);
    }
    wait::throughout("both tunnels work", OBSERVED, || {
        services::echoes(port.local) && services::echoes(elsewhere.local)
    });
    let log = server.log();
    assert_eq!(
        log.matches("linked to the master").count(),
        2,
        "each address is dialled once:\n{log}"
    );
    for role in clients.iter().chain([&server, &master]) {
        let log = role.log();
        for sign in [
            "superseded",
            "takes over",
            "was lost",
            "moved to a new link",
        ] {
            assert!(!log.contains(sign), "{sign} in:\n{log}");
        }
    }
}
