//! The length of pauses that applications see, and the throughput that cuts cost. These are
//! measurements. Run them by hand on an idle machine: `cargo test --release --test integration
//! survival::pauses -- --ignored --nocapture --test-threads 1`.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    echo_probe::EchoProbe,
    lab::{Lab, METHODS},
    stream_load::Load,
};
use crate::support::{
    fault_injector::FaultInjector,
    proxy::{Cut, Path, Proxy},
    services::{self, Ending, Service},
    tunnel::{Front, Methods, Port, Testbed},
    wait,
};

const ECHO_INTERVAL: Duration = Duration::from_millis(2);

/// Cuts of one measurement.
const CUTS: usize = 120;

/// Sorted times and their quantiles.
struct Times(Vec<Duration>);

impl Times {
    fn of(times: impl IntoIterator<Item = Duration>) -> Times {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort();
        Times(times)
    }

    fn at(&self, share: f64) -> Duration {
        self.0
            .get(((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    fn median(&self) -> Duration {
        self.at(0.5)
    }

    fn print(&self, what: &str) {
        let [median, most, longest] =
            [0.5, 0.9, 1.0].map(|share| self.at(share).as_secs_f64() * 1e3);
        println!(
            "{what}: median {median:.1} ms, p90 {most:.1} ms, longest {longest:.1} ms ({} times)",
            self.0.len()
        );
    }
}

/// The pauses of a steady echo, one for each cut. The cuts are about `apart` from each other.
fn pauses(lab: &Lab, path: &Proxy, cuts: usize, apart: Duration) -> Times {
    let echo_probe = EchoProbe::start(lab.echo(), ECHO_INTERVAL);
    let pauses: Vec<Duration> = (0..cuts)
        .map(|number| {
            wait::pause(apart.mul_f64(0.5 + fastrand::f64()));
            let cut = Instant::now();
            path.cut([Cut::Reset, Cut::EndOfFile][number % 2]);
            wait::pause(ECHO_INTERVAL * 5);
            echo_probe.settle();
            echo_probe.longest_pause(cut, Instant::now())
        })
        .collect();
    echo_probe.finish();
    Times::of(pauses)
}

/// The milliseconds in a field of these log lines.
fn logged(log: &str, line: &str, field: &str) -> Times {
    let value = |line: &str| {
        let (_, value) = line.split_once(&format!("{field}="))?;
        value
            .split(|character: char| !character.is_ascii_digit())
            .next()?
            .parse()
            .ok()
            .map(Duration::from_millis)
    };
    Times::of(
        log.lines()
            .filter(|text| text.contains(line))
            .filter_map(value),
    )
}

#[test]
#[ignore = "measures time: see the head of this file"]
fn the_pause_after_a_cut_on_a_path_without_delay_is_below_50_ms() {
    let lab = Lab::new();
    let mut medians = Vec::new();
    for (name, path) in ["client's", "server's"].iter().zip(lab.paths()) {
        let times = pauses(&lab, &path, CUTS, Duration::from_millis(300));
        times.print(&format!("the pause after a cut of the {name} link"));
        medians.push(times.median());
    }
    for (name, role) in [
        ("client", &lab.tunnel.client),
        ("server", &lab.tunnel.server),
    ] {
        logged(&role.log(), "the link was lost", "retry_ms")
            .print(&format!("the {name} waits before it dials"));
        logged(&role.log(), "linked to the master", "took_ms")
            .print(&format!("the {name} links anew in"));
    }
    assert!(
        medians
            .iter()
            .all(|median| *median < Duration::from_millis(50)),
        "{medians:?}"
    );
}

#[test]
#[ignore = "measures time: see the head of this file"]
fn the_pause_after_a_cut_on_a_path_of_100_ms_is_at_most_two_round_trips_and_the_reconnect() {
    const DELAY: Duration = Duration::from_millis(50);
    let lab = Lab::new();
    lab.client_path.set_path(Path::delayed(DELAY));
    let times = pauses(&lab, &lab.client_path, CUTS, Duration::from_millis(800));
    times.print("the pause after a cut of a client's link of 100 ms");
    let log = lab.tunnel.client.log();
    let waited = logged(&log, "the link was lost", "retry_ms");
    // The proxy accepts connections itself, so TCP costs no round trip here. The upgrade and the
    // challenge cost one round trip. HELLO and WELCOME cost another, and the attachment's handshake
    // travels with them.
    let linked = logged(&log, "linked to the master", "took_ms");
    waited.print("the client waits before it dials");
    linked.print("the client links anew in");
    let goal = DELAY * 4 + waited.median() + linked.median();
    println!("the goal, two round trips and the reconnect: {goal:?}");
    assert!(times.median() < goal, "{:?}", times.median());
}

/// A service that sends or drains according to the first byte, and a counter of the bytes that
/// arrived.
fn bulk() -> (Service, Arc<AtomicU64>) {
    let arrived = Arc::new(AtomicU64::new(0));
    let counter = arrived.clone();
    let service = Service::start(move |mut stream| {
        let mut command = [0];
        match stream.read(&mut command) {
            Ok(1) if command[0] == b'd' => services::write_until_closed(stream),
            Ok(1) => services::count(stream, &counter),
            _ => {}
        }
        Ending::Clean
    });
    (service, arrived)
}

/// Megabytes per second that arrive within this time.
fn rate(arrived: &AtomicU64, time: Duration) -> f64 {
    let (before, start) = (arrived.load(Ordering::Relaxed), Instant::now());
    wait::pause(time);
    (arrived.load(Ordering::Relaxed) - before) as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// The mean rates without cuts and with one cut per second. Rounds of both alternate.
fn rates_without_and_with_cuts(lab: &Lab, arrived: &AtomicU64) -> [f64; 2] {
    const ROUND: Duration = Duration::from_secs(5);
    const ROUNDS: usize = 4;
    let mut rates = [Vec::new(), Vec::new()];
    rate(arrived, Duration::from_secs(1));
    for round in 0..ROUNDS {
        rates[0].push(rate(arrived, ROUND));
        let injector = FaultInjector::cutting(&lab.paths(), Duration::from_secs(1), round as u64);
        rates[1].push(rate(arrived, ROUND));
        drop(injector);
        // The last cut must not affect the round without cuts.
        rate(arrived, Duration::from_millis(500));
    }
    rates.map(|rates| rates.iter().sum::<f64>() / ROUNDS as f64)
}

/// The share of the throughput that these streams keep with one cut per second.
fn share_under_cuts(
    lab: &Lab,
    methods: Methods,
    arrived: &Arc<AtomicU64>,
    command: u8,
    count: usize,
) -> f64 {
    let streams: Vec<TcpStream> = (0..count)
        .map(|_| services::connect(lab.tunnel.local(methods.encrypt)))
        .collect();
    let handles: Vec<TcpStream> = streams
        .iter()
        .map(|stream| stream.try_clone().unwrap())
        .collect();
    let [whole, cut] = thread::scope(|scope| {
        for mut stream in &streams {
            stream.set_write_timeout(None).unwrap();
            stream.write_all(&[command]).unwrap();
            scope.spawn(move || {
                if command == b'd' {
                    services::count(stream, arrived)
                } else {
                    services::write_until_closed(stream)
                }
            });
        }
        let rates = rates_without_and_with_cuts(lab, arrived);
        handles
            .iter()
            .for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        rates
    });
    let direction = if command == b'd' { "down" } else { "up" };
    println!(
        "{}, {count} streams {direction}: {whole:.0} MB/s, {cut:.0} with cuts: {:.0} %",
        methods.encrypt,
        100.0 * cut / whole
    );
    cut / whole
}

#[test]
#[ignore = "measures time: see the head of this file"]
fn one_cut_per_second_leaves_seventy_percent_of_the_throughput() {
    let (service, arrived) = bulk();
    let methods = ["aes-128-gcm", "plain"].map(|encrypt| Methods {
        encrypt,
        compress: "null",
    });
    let ports = methods
        .iter()
        .map(|&methods| Port::new(methods.encrypt, service.address(), methods))
        .collect();
    let lab = Lab::on(Testbed::new(Front::Direct), ports, json!({}));
    let mut shares = Vec::new();
    for methods in methods {
        for (command, count) in [(b'u', 1), (b'd', 1), (b'u', 8), (b'd', 8)] {
            shares.push(share_under_cuts(&lab, methods, &arrived, command, count));
        }
    }
    assert!(shares.iter().all(|share| *share > 0.7), "{shares:?}");
}

/// Measures the pauses of an echo beside a transfer, first undisturbed, then during the
/// disturbance, and compares them with the limit.
fn measure_pause_beside_transfer(
    name: &str,
    path: Path,
    fields: Value,
    mut disturb: impl FnMut(&mut Lab, usize),
) {
    const TIMES: usize = 5;
    let mut lab = Lab::on(Testbed::new(Front::Direct), Vec::new(), fields);
    lab.set_paths(path);
    let echo_probe = EchoProbe::start(lab.echo(), ECHO_INTERVAL);
    let load = Load::start(lab.tunnel.local(METHODS[0]), 1 << 40);
    let usual = Times::of((0..TIMES).map(|_| {
        let start = Instant::now();
        wait::pause(Duration::from_secs(1));
        echo_probe.longest_pause(start, Instant::now())
    }));
    let disturbed = Times::of((0..TIMES).map(|number| {
        let start = Instant::now();
        disturb(&mut lab, number);
        wait::pause(Duration::from_millis(500));
        echo_probe.settle();
        echo_probe.longest_pause(start, Instant::now())
    }));
    usual.print(&format!(
        "{name}: the longest pauses of a steady echo beside a transfer"
    ));
    disturbed.print(&format!("{name}: the same while links move"));
    let round_trip = path.delay * 4;
    let goal = round_trip + Duration::from_millis(20);
    println!("{name}: the goal, one round trip and 20 ms: {goal:?}");
    assert!(!load.is_broken());
    echo_probe.finish();
    assert!(
        disturbed.median() <= goal.max(usual.median() * 2),
        "{:?}",
        disturbed.median()
    );
}

/// A round trip of 100 ms between client and server, over both links.
fn long_path() -> Path {
    Path {
        delay: Duration::from_millis(25),
        ..Path::limited(10_000_000)
    }
}

fn drain_once(lab: &mut Lab, _number: usize) {
    let mut old = lab.tunnel.replace_master();
    assert!(old.wait_for_end(Duration::from_secs(11)).is_some());
}

#[test]
#[ignore = "measures time: see the head of this file"]
fn a_drain_causes_no_long_pause_beside_a_transfer() {
    let fields = || json!({"master_role": {"grace_period": "10s"}});
    measure_pause_beside_transfer(
        "drain on loopback, both cores busy",
        Path::default(),
        fields(),
        drain_once,
    );
    measure_pause_beside_transfer(
        "drain on a path of 100 ms",
        long_path(),
        fields(),
        drain_once,
    );
}

#[test]
#[ignore = "measures time: see the head of this file"]
fn a_rotation_causes_no_long_pause_beside_a_transfer() {
    let rotated = |lab: &mut Lab, _number: usize| {
        let before = lab.paths().map(|path| path.connections());
        wait::until_true("both links have been rotated", || {
            lab.paths()
                .iter()
                .zip(before)
                .all(|(path, before)| path.connections() > before)
        });
    };
    let fields = || json!({"rotate_after": "2s"});
    measure_pause_beside_transfer(
        "rotation on loopback, both cores busy",
        Path::default(),
        fields(),
        rotated,
    );
    measure_pause_beside_transfer(
        "rotation on a path of 100 ms",
        long_path(),
        fields(),
        rotated,
    );
}
