//! Tunnels over several lanes: through proxies, beside another tunnel at the same master, while
//! lanes are cut, and the memory that they cost.
//!
//! On loopback no loss limits the rate, so the roles get a minimum of links.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    fronts::FrontedTunnel,
    proxies::proxied_tunnel::ProxiedTunnel,
    resources::{peak_during, stable_memory},
    support::{
        daemon::{Daemon, Signal},
        fault_injector::FaultInjector,
        fronts::ReverseProxyKind,
        proxies::squid::{Setup, Squid},
        proxy::{Cut, Path},
        services::{self, Service},
        tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, with},
        wait,
    },
    survival::{
        echo_probe::EchoProbe,
        lab::{Lab, METHODS},
        stream_load::{self, Load},
    },
};

const MIB: u64 = 1 << 20;

/// The links of a role with lanes.
const LINKS: usize = 8;

/// The simultaneous transfers through a proxy, each in both directions.
const TRANSFERS: usize = 4;

/// The fields of a role that always has this many links.
fn links(count: usize) -> Value {
    json!({"links": {"min": count, "max": count}})
}

/// A field of a log line.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The values of a field in the lines with these words, by tunnel.
fn by_tunnel<'l>(log: &'l str, words: &str, name: &str) -> BTreeMap<&'l str, BTreeSet<&'l str>> {
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(words)) {
        if let Some((tunnel, value)) = field(line, "tunnel").zip(field(line, name)) {
            values.entry(tunnel).or_default().insert(value);
        }
    }
    values
}

/// Waits until each tunnel of the client has a lane on each of its links, by the part of its log
/// after the first `from` bytes.
#[track_caller]
fn wait_for_lanes(client: &Daemon, from: usize) {
    wait::until_true("each tunnel has a lane on each link", || {
        let log = client.log();
        let tunnels = by_tunnel(&log, "attached to a server", "tunnel").len();
        let new = log.get(from..).unwrap_or_default();
        let slots = by_tunnel(new, "tunnel uses a further link", "slot");
        slots.len() == tunnels && slots.values().all(|slots| slots.len() == LINKS - 1)
    });
}

/// The bytes that each link of a client moved, by the log of the master. It has the links that have
/// ended.
fn moved_by_links(master: &Daemon) -> Vec<u64> {
    let log = master.log();
    let ended = log
        .lines()
        .filter(|line| line.contains("link ended") && line.contains("role=client"));
    let moved = |line: &str| {
        let number = |name| field(line, name)?.parse::<u64>().ok();
        Some(number("received_bytes")? + number("sent_bytes")?)
    };
    ended.filter_map(moved).collect()
}

/// Reloads a reverse proxy twice in the middle of several transfers.
fn survives_reloads_with_lanes(kind: ReverseProxyKind) {
    let fields = with(links(LINKS), json!({"heartbeat": "1s"}));
    let fronted = FrontedTunnel::with_fields(kind, &[], fields);
    let client = &fronted.proxied.tunnel.client;
    wait_for_lanes(client, 0);
    let what = format!("{kind:?}, {LINKS} links, reloaded twice");
    let mut reloaded_at = 0;
    fronted.proxied.assert_all_survive(TRANSFERS, &what, || {
        reloaded_at = client.log().len();
        fronted.front.reload();
    });
    // The old processes and all links through them end about a second after a reload.
    wait_for_lanes(client, reloaded_at);
}

#[test]
fn transfers_over_eight_lanes_survive_reloads_of_nginx() {
    survives_reloads_with_lanes(ReverseProxyKind::Nginx);
}

#[test]
fn transfers_over_eight_lanes_survive_reloads_of_haproxy() {
    survives_reloads_with_lanes(ReverseProxyKind::Haproxy);
}

#[test]
fn transfers_use_eight_lanes_through_squid() {
    /// More than handshakes and keep-alives move over a link.
    const BUSY: u64 = 64 * 1024;
    let testbed = Testbed::new(Front::Direct);
    let squid = Squid::start(testbed.folder(), Setup::default().basic());
    let fields = with(links(LINKS), json!({"proxy": squid.url()}));
    let mut proxied = ProxiedTunnel::new(testbed, fields);
    wait_for_lanes(&proxied.tunnel.client, 0);
    let what = format!("squid, {LINKS} links, reconfigured twice");
    let reconfigured = || squid.cache_log().matches("Reconfiguring Squid").count();
    proxied.assert_all_survive(TRANSFERS, &what, || {
        let before = reconfigured();
        squid.reconfigure();
        wait::until_true("squid has read its configuration again", || {
            reconfigured() > before
        });
    });
    proxied.tunnel.client.stop();
    let moved = wait::until("the master has logged the end of the links", || {
        let moved = moved_by_links(&proxied.tunnel.master);
        (moved.len() >= LINKS).then_some(moved)
    });
    println!("bytes of the client's links: {moved:?}");
    // The scheduler decides about the shares of the lanes. A tunnel of one lane would use one.
    let busy = moved.iter().filter(|moved| **moved >= BUSY).count();
    assert!(busy >= LINKS / 2, "{moved:?}");
}

/// A tunnel whose client and server have this many links each, and freed memory returns to the
/// system. Waits for the lanes.
fn tunnel_of_links(count: usize, service: &Service) -> Tunnel {
    let mut testbed = Testbed::new(Front::Direct);
    // The key derivation takes and frees memory, which would hide the same amount of the cost.
    testbed.environment = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]
        .map(|name| (name.to_owned(), "131072".to_owned()))
        .to_vec();
    let fields = Fields {
        server: links(count),
        client: links(count),
        ..Fields::default()
    };
    let ports = vec![Port::new("load", service.address(), Methods::DEFAULT)];
    let tunnel = Tunnel::on(testbed, ports, fields);
    if count == LINKS {
        wait_for_lanes(&tunnel.client, 0);
    }
    tunnel
}

/// Ends connections when dropped, by a panic too, because a scope waits for their readers.
struct Closing<'a>(&'a [TcpStream]);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        for stream in self.0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_tunnel_of_one_lane_keeps_its_share_beside_one_of_eight() {
    /// A link with one channel that sends gets at least as much as each of the other eight: a
    /// ninth. Processes that share two cores may lose a fifth of that.
    const MIN_SHARE: f64 = 0.8 / 9.0;
    const TIME: Duration = Duration::from_secs(4);
    let source = services::endless();
    let tunnel = tunnel_of_links(LINKS, &source);
    let single = Port::new("single", source.address(), Methods::DEFAULT);
    let _server = tunnel
        .testbed
        .server("single-server", std::slice::from_ref(&single), links(1));
    let _client = tunnel
        .testbed
        .client("single-client", std::slice::from_ref(&single), links(1));
    let streams = [tunnel.local("load"), single.local].map(services::connect);
    let received = [AtomicU64::new(0), AtomicU64::new(0)];
    let now = || {
        received
            .each_ref()
            .map(|bytes| bytes.load(Ordering::Relaxed))
    };
    let [many, one] = thread::scope(|scope| {
        let _closing = Closing(&streams);
        for (stream, received) in streams.iter().zip(&received) {
            scope.spawn(move || services::count(stream, received));
        }
        wait::until_true("both transfers run", || {
            now().iter().all(|bytes| *bytes > MIB)
        });
        let before = now();
        wait::pause(TIME);
        let after = now();
        [0, 1].map(|index: usize| after[index] - before[index])
    });
    let share = one as f64 / (one + many) as f64;
    println!("{many} bytes over {LINKS} lanes, {one} over one: a share of {share:.2}");
    assert!(share >= MIN_SHARE, "{share}");
}

/// The memory that a master gains while a client with this many links stops reading in the middle
/// of transfers. They continue afterwards, and are complete.
fn cost_of_stopped_client(count: usize) -> u64 {
    const LENGTH: u64 = 12 * MIB;
    let service = stream_load::service();
    let tunnel = tunnel_of_links(count, &service);
    let idle = stable_memory(tunnel.master.pid());
    let load = Load::start(tunnel.local("load"), LENGTH);
    let ([peak, ..], ()) = peak_during(&tunnel, || {
        wait::until_true("the streams run", || load.moved() > LENGTH / 2);
        tunnel.client.signal(Signal::Stop);
        stable_memory(tunnel.master.pid());
    });
    assert!(!load.is_done(), "the client was stopped in the middle");
    tunnel.client.signal(Signal::Continue);
    load.finish(&format!("a client with {count} links was stopped"));
    peak.saturating_sub(idle)
}

#[test]
fn a_client_that_stops_reading_costs_the_master_a_bounded_queue_for_each_lane() {
    /// In each direction of a channel, the master queues this much before it pauses the sender
    /// (PROTOCOL 12).
    const LANE_QUEUES: u64 = 2 * MIB;
    /// Messages under way at the time of the pause, and the differences between two processes.
    const TOLERANCE: u64 = 8 * MIB;
    let [one, many] = [1, LINKS].map(cost_of_stopped_client);
    println!("the master's memory: {one} bytes with 1 lane, {many} with {LINKS}");
    assert!(
        many <= one + (LINKS as u64 - 1) * LANE_QUEUES + TOLERANCE,
        "{one} bytes with 1 lane, {many} with {LINKS}"
    );
}

/// The memory of server and client at rest, and the most during transfers that all ends read.
fn memory_of_roles(count: usize) -> [[u64; 2]; 2] {
    const LENGTH: u64 = 8 * MIB;
    let service = stream_load::service();
    let tunnel = tunnel_of_links(count, &service);
    let [_, server, client] = tunnel.pids().map(|(_, pid)| stable_memory(pid));
    let ([_, busy_server, busy_client], ()) = peak_during(&tunnel, || {
        Load::start(tunnel.local("load"), LENGTH).finish(&format!("{count} links"));
    });
    [[server, client], [busy_server, busy_client]]
}

#[test]
fn eight_lanes_cost_each_role_at_most_eight_mebibytes() {
    /// The tasks and buffers of seven more links at rest, and the differences between two
    /// processes.
    const AT_REST: u64 = 4 * MIB;
    /// The memory that eight busy lanes may add.
    const BUSY: u64 = 8 * MIB;
    /// The windows follow the measured path. On a machine with two busy cores they differ by some
    /// MiB from one run to the next, with any number of lanes.
    const TOLERANCE: u64 = 8 * MIB;
    let [one, many] = [1, LINKS].map(memory_of_roles);
    for (role, name) in ["server", "client"].iter().enumerate() {
        let [at_rest, busy] = [0, 1].map(|state: usize| [one[state][role], many[state][role]]);
        println!("{name}, with 1 lane and {LINKS}: {at_rest:?} bytes at rest, {busy:?} busy");
        assert!(at_rest[1] <= at_rest[0] + AT_REST, "{name}: {at_rest:?}");
        assert!(busy[1] <= busy[0] + BUSY + TOLERANCE, "{name}: {busy:?}");
    }
}

/// The rate of each link of the client in each direction, so that transfers last longer than the
/// disturbances.
const RATE: u32 = 1_000_000;

/// The length of each of the eight streams of a disturbed transfer.
const LENGTH: u64 = 10 * MIB;

/// A lab with lanes. The links of the client, each of which carries one lane of each tunnel, have
/// limited paths.
fn lab_with_lanes() -> Lab {
    let lab = Lab::with_fields(links(LINKS));
    wait_for_lanes(&lab.tunnel.client, 0);
    lab.client_path.set_path(Path::limited(RATE));
    lab
}

#[test]
fn a_cut_of_one_lane_each_second_breaks_no_stream_and_causes_no_long_pause() {
    const MAX_PAUSE: Duration = Duration::from_millis(500);
    let lab = lab_with_lanes();
    let echo_probe = EchoProbe::start(lab.echo(), Duration::from_millis(5));
    let load = Load::start(lab.tunnel.local(METHODS[0]), LENGTH);
    let (start, path) = (Instant::now(), lab.client_path.clone());
    // Begins with the link of the first slot.
    let injector = FaultInjector::every(Duration::from_secs(1), 1, move |_| {
        path.cut_oldest(Cut::Reset);
    });
    while !load.is_done() {
        wait::pause(Duration::from_millis(10));
    }
    let cuts = injector.cuts();
    drop(injector);
    load.finish(&format!("{cuts} cuts of one lane"));
    echo_probe.settle();
    let pause = echo_probe.longest_pause(start, Instant::now());
    echo_probe.finish();
    println!("{cuts} cuts of one lane each: the longest pause of an echo is {pause:?}");
    assert!(cuts >= 4, "{cuts} cuts are too few for this test");
    assert!(pause <= MAX_PAUSE, "{pause:?}");
    for role in [&lab.tunnel.client, &lab.tunnel.server] {
        let log = role.log();
        assert!(log.contains("tunnel lost one of its links"));
        assert!(
            !log.contains("tunnel lost its link"),
            "other lanes carry on"
        );
    }
}

#[test]
fn a_cut_of_all_lanes_at_once_is_a_pause() {
    /// Redialling, the handshakes and the resumption, on a busy machine.
    const MAX_PAUSE: Duration = Duration::from_secs(5);
    let lab = lab_with_lanes();
    let client = &lab.tunnel.client;
    let echo_probe = EchoProbe::start(lab.echo(), Duration::from_millis(5));
    let load = Load::start(lab.tunnel.local(METHODS[0]), LENGTH);
    for (name, path) in ["client", "server"].iter().zip(lab.paths()) {
        lab.wait_for_traffic(2 * MIB, &load);
        let (cut, logged) = (Instant::now(), client.log().len());
        path.cut(Cut::Reset);
        wait_for_lanes(client, logged);
        echo_probe.settle();
        let pause = echo_probe.longest_pause(cut, Instant::now());
        println!("all links of the {name} cut: a pause of {pause:?}");
        assert!(pause <= MAX_PAUSE, "{pause:?}");
    }
    load.finish("all lanes were cut twice");
    echo_probe.finish();
    assert!(client.log().contains("tunnel resumed"));
}
