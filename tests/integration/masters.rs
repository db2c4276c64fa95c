//! Three masters of which one is dead, one takes connections and stays silent, and one is good: how a client comes to the good one, and when it comes
//! back to one that was dead.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;

use crate::support::{
    daemon::Daemon,
    ports,
    services::{self, Service},
    tunnel::{Front, Methods, Port, Scene},
    wait,
};

/// How long a dial may take: what a silent master costs.
const PATIENCE: Duration = Duration::from_secs(1);

const DAY_MS: u64 = 86_400_000;

/// Three addresses of masters, of which the last one runs, and a server that is linked to all that can be.
struct Three {
    scene: Scene,
    dead: SocketAddr,
    silent: Service,
    good: Daemon,
    port: Port,
    _server: Daemon,
    _echo: Service,
}

impl Three {
    fn new() -> Three {
        let scene = Scene::new(Front::Direct);
        let (dead, silent, echo) = (ports::free(), services::sink(), services::echo());
        let good = scene.master(json!({}));
        let port = Port::new("echo", echo.address(), Methods::USUAL);
        let list = json!({"master": [dead.to_string(), scene.master_address().to_string()]});
        let server = scene.server("server", std::slice::from_ref(&port), list);
        server.wait_for_line(&["linked to the master"]);
        Three {
            scene,
            dead,
            silent,
            good,
            port,
            _server: server,
            _echo: echo,
        }
    }

    /// Starts a client of all three, the good one last.
    fn client(&self, choice: &str) -> Daemon {
        let masters = [
            self.dead,
            self.silent.address(),
            self.scene.master_address(),
        ]
        .map(|master| master.to_string());
        let fields = json!({"master": masters, "master_choice": choice, "connect_timeout": PATIENCE.as_secs_f32()});
        self.scene.client(
            &format!("client-{choice}"),
            std::slice::from_ref(&self.port),
            fields,
        )
    }

    fn good_address(&self) -> SocketAddr {
        self.scene.master_address()
    }
}

/// What a client's log says of one attempt at a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It failed, and the master rests for so many milliseconds.
    Failed { rests_ms: u64 },
    /// It was linked, after so many milliseconds.
    Linked { took_ms: u64 },
}

/// The attempts at a master, and at which millisecond of the day each was over.
fn attempts(client: &Daemon, master: SocketAddr) -> Vec<(u64, Said)> {
    let name = format!("ws://{master}/");
    let log = client.log();
    let of_master = log.lines().filter(|line| {
        line.contains(&format!("master={name}")) || line.contains(&format!("{name}\""))
    });
    let read = |line: &str| {
        let said = if let Some(rests_ms) = field(line, "rests_ms") {
            Said::Failed { rests_ms }
        } else if line.contains("linked to the master") {
            Said::Linked {
                took_ms: field(line, "took_ms")?,
            }
        } else {
            return None;
        };
        Some((millisecond(line), said))
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

/// From one millisecond of a day to a later one, perhaps of the next.
fn between(earlier: u64, later: u64) -> u64 {
    (later + DAY_MS - earlier) % DAY_MS
}

/// Waits until the client is linked to this master, and gives when.
#[track_caller]
fn wait_until_linked(client: &Daemon, master: SocketAddr) -> (u64, u64) {
    wait::until("the client is linked to the master", || {
        attempts(client, master)
            .into_iter()
            .find_map(|(at, said)| match said {
                Said::Linked { took_ms } => Some((at, took_ms)),
                Said::Failed { .. } => None,
            })
    })
}

#[test]
fn a_race_comes_to_the_good_one_of_three_masters_without_waiting_for_the_silent_one() {
    let three = Three::new();
    let client = three.client("raced");
    let listening = millisecond(&client.wait_for_line(&["listening"]));
    let (linked, _) = wait_until_linked(&client, three.good_address());
    let took = between(listening, linked);
    assert!(
        (200..900).contains(&took),
        "the good one is dialled a quarter of a second after the silent one: {took} ms"
    );
    wait::until_true("a connection goes through", || {
        services::echoes(three.port.local)
    });
    let log = client.log();
    let silent = three.silent.address().to_string();
    let loud = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    assert!(
        !loud.clone().any(|line| line.contains(&silent)),
        "who loses a race makes no noise:\n{log}"
    );
    assert!(
        loud.clone()
            .any(|line| line.contains(&three.dead.to_string()) && line.contains("refused")),
        "who failed, and why:\n{log}"
    );
}

#[test]
fn in_order_the_good_one_of_three_masters_is_come_to_after_the_silent_one_was_given_up() {
    let three = Three::new();
    let client = three.client("ordered");
    let listening = millisecond(&client.wait_for_line(&["listening"]));
    let (linked, took_ms) = wait_until_linked(&client, three.good_address());
    assert!(
        between(listening, linked) >= 900 && took_ms < 900,
        "{listening} {linked} {took_ms}"
    );
    wait::until_true("a connection goes through", || {
        services::echoes(three.port.local)
    });
    let silent = attempts(&client, three.silent.address());
    assert!(
        matches!(silent[..], [(_, Said::Failed { .. })]),
        "{silent:?}"
    );
    client.wait_for_line(&[
        "cannot reach the master",
        &three.silent.address().to_string(),
        "no answer within 1 s",
    ]);
}

/// The good master is killed when the client uses it, and the one that was dead is started when it rests for a while.
fn comes_back_to_use_after_its_rest(choice: &str) {
    let mut three = Three::new();
    let client = three.client(choice);
    wait_until_linked(&client, three.good_address());
    wait::until_true("a connection goes through", || {
        services::echoes(three.port.local)
    });
    let before = attempts(&client, three.dead).len();
    three.good.kill();
    let (failed, rests_ms) = wait::until("the dead one rests for a while", || {
        let of_dead = attempts(&client, three.dead);
        match of_dead.get(before..)?.last()? {
            (
                at,
                Said::Failed {
                    rests_ms: rests_ms @ 400..,
                },
            ) => Some((*at, *rests_ms)),
            _ => None,
        }
    });
    let _revived = three.scene.another_master("revived", three.dead);
    let (linked, took_ms) = wait_until_linked(&client, three.dead);
    let last = attempts(&client, three.dead)
        .into_iter()
        .rev()
        .find(|(_, said)| matches!(said, Said::Failed { .. }));
    assert_eq!(
        last,
        Some((failed, Said::Failed { rests_ms })),
        "it was left alone until it ran"
    );
    assert!(
        between(failed, linked) - took_ms + 20 >= rests_ms,
        "back {linked} - {took_ms} ms, at rest from {failed} for {rests_ms} ms"
    );
    wait::until_true("connections go through the one that is back", || {
        services::echoes(three.port.local)
    });
    for master in [three.dead, three.good_address()] {
        let attempts = attempts(&client, master);
        for pair in attempts.windows(2) {
            let [(failed, Said::Failed { rests_ms }), (over, said)] = *pair else {
                continue;
            };
            let took_ms = if let Said::Linked { took_ms } = said {
                took_ms
            } else {
                0
            };
            assert!(
                between(failed, over) + 20 >= rests_ms + took_ms,
                "{master} was dialled while it rested: {attempts:?}"
            );
        }
    }
}

#[test]
fn in_order_a_master_that_was_dead_is_used_again_when_its_rest_is_over() {
    comes_back_to_use_after_its_rest("ordered");
}

#[test]
fn in_a_race_a_master_that_was_dead_is_used_again_when_its_rest_is_over() {
    comes_back_to_use_after_its_rest("raced");
}
