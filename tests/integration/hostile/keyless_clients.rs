//! Peers without any key, and the resources that they make a master and a server hold.

use std::{
    collections::VecDeque,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    ops::Range,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use report_proto::{
    crypto::PortKeys,
    frame::{AttachHeader, Code, Frame, MAX_MESSAGE},
    id::Id,
};
use serde_json::json;
use socket2::SockRef;

use super::{Bystander, KIB, LOG_LIMIT, MIB, tunnel, under_attack, with_default_log_level};
use crate::support::{
    attack::{HostileLink, ResourceMonitor, connect_keyless_client, wire, write_some},
    bytes as content, files, peer, ports,
    tunnel::Tunnel,
    wait,
};

/// The bytes that short-lived links may add to a master's log since `start`, however many there
/// are: the master logs the start and the end of 200 of them at once and of ten more each second.
fn link_log_limit(start: Instant) -> usize {
    const LINE: usize = 256;
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    2 * LINE * (200 + 10 * seconds)
}

/// The longest first handshake message that a master accepts.
const FIRST_MESSAGE: usize = 4096;

/// ATTACH frames to a port, one for each of these channels.
fn attach(
    channels: Range<u32>,
    port: impl Fn() -> Id,
    message: &Bytes,
) -> impl Iterator<Item = Frame> {
    channels.map(move |channel| Frame::Attach {
        channel,
        header: AttachHeader {
            port: port(),
            instance: None,
            avoid: Vec::new(),
        },
        message: message.clone(),
    })
}

#[test]
fn pending_attachments_stay_within_the_memory_of_keyless_clients() {
    const BATCH: u32 = 32;
    const MEMORY: u64 = 64 * MIB;
    let tunnel = tunnel(Vec::new(), json!({"limits": {"memory": "64 MiB"}}));
    let (bystander, monitor) = (
        Bystander::of(&tunnel),
        ResourceMonitor::start(&tunnel.master),
    );
    let (message, sent) = (
        Bytes::from(content::random(1, FIRST_MESSAGE)),
        AtomicUsize::new(0),
    );
    let flood = |done: &AtomicBool| {
        let mut link = HostileLink::connect(tunnel.testbed.master_address());
        let mut next = 0;
        while !done.load(Relaxed) && !link.has_ended {
            link.send(attach(next..next + BATCH, || Id(peer::random()), &message));
            next += BATCH;
            sent.fetch_add(BATCH as usize * FIRST_MESSAGE, Relaxed);
            link.process_received();
        }
    };
    under_attack(6, flood, || {
        wait::until_true("the clients sent more than the master may hold", || {
            sent.load(Relaxed) as u64 > MEMORY * 3 / 2
        });
        bystander.assert_served(&tunnel);
    });
    let cost = monitor.cost(&tunnel.master);
    assert!(cost.memory < MEMORY / 8 + 32 * MIB, "{cost:?}");
    assert!(cost.files < 100 && cost.log < LOG_LIMIT, "{cost:?}");
}

fn encoded_frames(frames: impl Iterator<Item = Frame>) -> Vec<u8> {
    frames
        .flat_map(|frame| wire::message(&frame.to_message()))
        .collect()
}

/// Writes as much to each link as the master reads. Each link continues in the repeated bytes where
/// it stopped.
fn write_available(links: &mut [(TcpStream, usize)], bytes: &[u8]) -> usize {
    let mut written = 0;
    for (stream, at) in links {
        let count = write_some(stream, &bytes[*at..]);
        *at = (*at + count) % bytes.len();
        written += count;
    }
    written
}

/// Writes these bytes to the links until the master has read nothing for a while.
fn write_until_unread(links: &mut [(TcpStream, usize)], bytes: &[u8]) {
    let mut quiet_rounds = 0;
    wait::until_true("the master reads nothing more", || {
        quiet_rounds = if write_available(links, bytes) == 0 {
            quiet_rounds + 1
        } else {
            0
        };
        quiet_rounds == 100
    });
}

/// Connects a client whose channels are all pending. The master answers each further ATTACH with a
/// CLOSE, which the client does not read.
fn connect_with_pending_channels(
    master: SocketAddr,
    channels: Range<u32>,
    message: &Bytes,
) -> TcpStream {
    let mut peer = connect_keyless_client(master).expect("a link");
    peer.send_all(attach(channels, || Id(peer::random()), message));
    let stream = peer.into_stream();
    SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    stream
}

#[test]
fn the_master_stops_reading_from_a_client_that_reads_no_answers() {
    const LINKS: usize = 50;
    const CHANNELS: u32 = 16;
    const ROUNDS: u32 = 2000;
    let tunnel = tunnel(
        Vec::new(),
        json!({"limits": {"channels_per_link": CHANNELS}}),
    );
    let bystander = Bystander::of(&tunnel);
    let message = Bytes::from_static(&[1; 48]);
    let link = || {
        let channels = ROUNDS..ROUNDS + CHANNELS;
        connect_with_pending_channels(tunnel.testbed.master_address(), channels, &message)
    };
    let mut links: Vec<(TcpStream, usize)> = (0..LINKS).map(|_| (link(), 0)).collect();
    let monitor = ResourceMonitor::start(&tunnel.master);
    let pings = || (0..ROUNDS).map(|token| Frame::Ping(token.into()));
    let pings_alone = encoded_frames(pings());
    // Each PONG replaces the one queued before it.
    for _ in 0..200 {
        write_available(&mut links, &pings_alone);
        wait::pause(Duration::from_millis(10));
    }
    let cost = monitor.cost(&tunnel.master);
    assert!(cost.memory < LINKS as u64 * 64 * KIB + 8 * MIB, "{cost:?}");
    links
        .iter_mut()
        .for_each(|(_, at)| *at %= wire::message(&Frame::Ping(0).to_message()).len());
    let asks = encoded_frames(
        pings()
            .zip(attach(0..ROUNDS, || Id([9; 16]), &message))
            .flat_map(|(ping, attach)| [ping, attach]),
    );
    write_until_unread(&mut links, &asks);
    bystander.assert_served(&tunnel);
    assert!(
        files::open_files(tunnel.master.pid()) > LINKS,
        "the links are up"
    );
    let cost = monitor.cost(&tunnel.master);
    assert!(cost.memory < LINKS as u64 * 64 * KIB + 8 * MIB, "{cost:?}");
    assert!(cost.files < LINKS + 50 && cost.log < LOG_LIMIT, "{cost:?}");
}

#[test]
fn unfinished_messages_stay_within_the_memory_of_keyless_clients() {
    const LINKS: usize = 600;
    const PIECE: usize = 8 * KIB as usize;
    let start = Instant::now();
    files::raise_limit();
    let tunnel = tunnel(Vec::new(), json!({"limits": {"memory": "34 MiB"}}));
    let bystander = Bystander::of(&tunnel);
    let link = |_| {
        connect_keyless_client(tunnel.testbed.master_address())
            .expect("a link")
            .into_stream()
    };
    let links: Vec<TcpStream> = (0..LINKS).map(link).collect();
    let monitor = ResourceMonitor::start(&tunnel.master);
    // Links that the master has closed fail and are ignored.
    let write = |bytes: &[u8]| {
        links
            .iter()
            .for_each(|mut stream| drop(stream.write_all(bytes)))
    };
    write(&wire::head(MAX_MESSAGE));
    (1..MAX_MESSAGE / PIECE).for_each(|_| write(&[0; PIECE]));
    for _ in 0..20 {
        write(&[0]);
        wait::pause(Duration::from_millis(50));
    }
    bystander.assert_served(&tunnel);
    let cost = monitor.cost(&tunnel.master);
    assert!(cost.memory < 34 * MIB / 8 + 32 * MIB, "{cost:?}");
    assert!(
        cost.files < LINKS + 50 && cost.log < link_log_limit(start),
        "{cost:?}"
    );
}

/// Restarts the master with this limit of open files.
fn limit_files_of_master(tunnel: &mut Tunnel, limit: usize) {
    let master = tunnel.testbed.master_address();
    tunnel.master.stop();
    let configuration = tunnel
        .testbed
        .master_configuration(with_default_log_level(json!({})));
    tunnel.master = tunnel
        .testbed
        .limited_role("limited", &configuration, limit);
    tunnel.master.wait_ready(|| ports::has_listener_at(master));
    tunnel.wait_until_connected();
}

#[test]
fn keyless_clients_that_take_every_connection_lock_out_no_role() {
    const LIMIT: usize = 1024;
    const LINKS: usize = 1000;
    let start = Instant::now();
    files::raise_limit();
    let mut tunnel = tunnel(Vec::new(), json!({}));
    let master = tunnel.testbed.master_address();
    limit_files_of_master(&mut tunnel, LIMIT);
    tunnel.master.wait_for_line(&[
        "WARN",
        "limits.links is 16384",
        &format!("the limit of open files is {LIMIT}"),
    ]);
    let (bystander, monitor) = (
        Bystander::of(&tunnel),
        ResourceMonitor::start(&tunnel.master),
    );
    let silent: Vec<TcpStream> = (0..LIMIT + 76)
        .map(|_| TcpStream::connect(master).unwrap())
        .collect();
    bystander.assert_served(&tunnel);
    let cost = monitor.cost(&tunnel.master);
    assert!(cost.log < LOG_LIMIT, "{cost:?}");
    let links: Vec<_> = (0..LINKS)
        .filter_map(|_| connect_keyless_client(master))
        .collect();
    assert!(links.len() > LINKS / 2, "{} links", links.len());
    let flood = |done: &AtomicBool| {
        let mut held = VecDeque::new();
        while !done.load(Relaxed) {
            held.extend(TcpStream::connect(master));
            if held.len() > LIMIT {
                held.pop_front();
            }
            wait::pause(Duration::from_millis(2));
        }
    };
    under_attack(1, flood, || bystander.assert_served(&tunnel));
    drop((silent, links));
    let cost = monitor.cost(&tunnel.master);
    assert!(
        cost.memory < 64 * MIB && cost.files < LIMIT && cost.log < link_log_limit(start),
        "{cost:?}"
    );
}

/// Sends first handshake messages that fail over one link after the other. Returns the codes with
/// which the master ended the links.
fn flood_with_failing_handshakes(
    master: SocketAddr,
    port: Id,
    done: &AtomicBool,
) -> Vec<Option<Code>> {
    const BATCH: u32 = 16;
    let junk = Bytes::from(content::random(2, 4000));
    let mut ends = Vec::new();
    while !done.load(Relaxed) {
        let mut link = HostileLink::connect(master);
        let mut next = 0;
        while !done.load(Relaxed) && !link.has_ended {
            link.send(attach(next..next + BATCH, || port, &junk));
            next += BATCH;
            link.process_received();
        }
        if link.has_ended {
            ends.push(link.error.map(|notice| notice.code));
        }
        wait::pause(Duration::from_millis(100));
    }
    ends
}

#[test]
fn a_flood_of_failing_handshakes_ends_its_links_and_delays_no_other_client() {
    let start = Instant::now();
    let tunnel = tunnel(Vec::new(), json!({}));
    let (bystander, monitor) = (
        Bystander::of(&tunnel),
        ResourceMonitor::start(&tunnel.server),
    );
    let master = ResourceMonitor::start(&tunnel.master);
    // An observer of a client's path knows the key id.
    let port = PortKeys::derive(&tunnel.probe().key).id;
    let address = tunnel.testbed.master_address();
    let flood = |done: &AtomicBool| flood_with_failing_handshakes(address, port, done);
    let ends = under_attack(3, flood, || {
        let start = Instant::now();
        for second in 1..=5 {
            bystander.assert_served(&tunnel);
            wait::pause(Duration::from_secs(second).saturating_sub(start.elapsed()));
        }
    });
    let ends = ends.concat();
    println!("{} links were closed", ends.len());
    // The ERROR frame is lost when data of the flood is still in flight.
    assert!(
        ends.contains(&Some(Code::Limit))
            && ends
                .iter()
                .all(|end| matches!(end, None | Some(Code::Limit))),
        "{ends:?}"
    );
    let (cost, of_master) = (monitor.cost(&tunnel.server), master.cost(&tunnel.master));
    assert!(
        cost.memory < 32 * MIB && cost.files < 100 && cost.log < LOG_LIMIT,
        "{cost:?}"
    );
    assert!(
        of_master.memory < 64 * MIB && of_master.log < link_log_limit(start),
        "{of_master:?}"
    );
    let refused = tunnel
        .server
        .log()
        .lines()
        .filter(|line| line.contains("refused"))
        .count();
    assert!(refused <= 10, "{refused} lines");
}
