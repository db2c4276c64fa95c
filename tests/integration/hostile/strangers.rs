//! Strangers: peers without any key, and what they make a master and a server hold.

use std::{
    collections::VecDeque,
    io::Write as _,
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use report::{
    crypto::PortKeys,
    frame::{AttachHeader, Code, Frame, MAX_MESSAGE},
    id::Id,
};
use serde_json::json;
use socket2::SockRef;

use super::{Bystander, KIB, LOG, MIB, quiet, tunnel, under_attack};
use crate::support::{
    attack::{HostileLink, Watch, stranger, wire, write_some},
    bytes as content, files, peer, ports, wait,
};

/// What links that come and go may add to the log of a master, in bytes, however many they are.
const LOG_OF_LINKS: usize = 128 * KIB as usize;

/// The longest first handshake message that a master takes.
const FIRST_MESSAGE: usize = 4096;

/// ATTACHes to a port, on so many channels from this one on.
fn attach(
    channels: std::ops::Range<u32>,
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
fn attachments_that_wait_take_no_more_than_the_part_of_strangers() {
    const AT_ONCE: u32 = 32;
    const MEMORY: u64 = 64 * MIB;
    let tunnel = tunnel(Vec::new(), json!({"limits": {"memory": "64 MiB"}}));
    let (bystander, watch) = (Bystander::of(&tunnel), Watch::over(&tunnel.master));
    let (message, sent) = (
        Bytes::from(content::random(1, FIRST_MESSAGE)),
        AtomicUsize::new(0),
    );
    let flood = |done: &AtomicBool| {
        let mut link = HostileLink::stranger(tunnel.scene.master_address());
        let mut next = 0;
        while !done.load(Relaxed) && !link.has_ended {
            link.send(attach(
                next..next + AT_ONCE,
                || Id(peer::random()),
                &message,
            ));
            next += AT_ONCE;
            sent.fetch_add(AT_ONCE as usize * FIRST_MESSAGE, Relaxed);
            link.hear();
        }
    };
    under_attack(6, flood, || {
        wait::until_true("more was sent than the master may hold", || {
            sent.load(Relaxed) as u64 > MEMORY * 3 / 2
        });
        bystander.is_served(&tunnel);
    });
    let cost = watch.cost(&tunnel.master);
    assert!(cost.memory < MEMORY / 8 + 32 * MIB, "{cost:?}");
    assert!(cost.files < 100 && cost.log < LOG, "{cost:?}");
}

fn wired(frames: impl Iterator<Item = Frame>) -> Vec<u8> {
    frames
        .flat_map(|frame| wire::message(&frame.to_message()))
        .collect()
}

/// Writes as much to each link as the master takes, from where it was in these bytes, which are repeated.
fn pour(links: &mut [(TcpStream, usize)], bytes: &[u8]) -> usize {
    let mut written = 0;
    for (stream, at) in links {
        let count = write_some(stream, &bytes[*at..]);
        *at = (*at + count) % bytes.len();
        written += count;
    }
    written
}

#[test]
fn a_stranger_that_reads_no_answers_is_read_no_more() {
    const LINKS: usize = 50;
    const CHANNELS: u32 = 16;
    const ROUNDS: u32 = 2000;
    let tunnel = tunnel(
        Vec::new(),
        json!({"limits": {"channels_per_link": CHANNELS}}),
    );
    let bystander = Bystander::of(&tunnel);
    let message = Bytes::from_static(&[1; 48]);
    // All its channels wait, and each further one is answered by a CLOSE.
    let link = |_| {
        let mut peer = stranger(tunnel.scene.master_address()).expect("a link");
        peer.send_all(attach(
            ROUNDS..ROUNDS + CHANNELS,
            || Id(peer::random()),
            &message,
        ));
        let stream = peer.into_stream();
        SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        stream
    };
    let mut links: Vec<(TcpStream, usize)> = (0..LINKS).map(|number| (link(number), 0)).collect();
    let watch = Watch::over(&tunnel.master);
    let pings = || (0..ROUNDS).map(|token| Frame::Ping(token.into()));
    let pings_alone = wired(pings());
    // An answer takes the place of the one before it.
    for _ in 0..200 {
        pour(&mut links, &pings_alone);
        wait::pause(Duration::from_millis(10));
    }
    let cost = watch.cost(&tunnel.master);
    assert!(cost.memory < LINKS as u64 * 64 * KIB + 8 * MIB, "{cost:?}");
    links
        .iter_mut()
        .for_each(|(_, at)| *at %= wire::message(&Frame::Ping(0).to_message()).len());
    let asks = wired(
        pings()
            .zip(attach(0..ROUNDS, || Id([9; 16]), &message))
            .flat_map(|(ping, attach)| [ping, attach]),
    );
    let mut quiet_rounds = 0;
    wait::until_true("the master reads nothing more", || {
        quiet_rounds = if pour(&mut links, &asks) == 0 {
            quiet_rounds + 1
        } else {
            0
        };
        quiet_rounds == 100
    });
    bystander.is_served(&tunnel);
    assert!(
        files::open_files(tunnel.master.pid()) > LINKS,
        "the links are up"
    );
    let cost = watch.cost(&tunnel.master);
    assert!(cost.memory < LINKS as u64 * 64 * KIB + 8 * MIB, "{cost:?}");
    assert!(cost.files < LINKS + 50 && cost.log < LOG, "{cost:?}");
}

#[test]
fn messages_that_strangers_never_finish_take_no_more_than_their_part() {
    const LINKS: usize = 600;
    const PIECE: usize = 8 * KIB as usize;
    files::raise_limit();
    let tunnel = tunnel(Vec::new(), json!({"limits": {"memory": "34 MiB"}}));
    let bystander = Bystander::of(&tunnel);
    let link = |_| {
        stranger(tunnel.scene.master_address())
            .expect("a link")
            .into_stream()
    };
    let links: Vec<TcpStream> = (0..LINKS).map(link).collect();
    let watch = Watch::over(&tunnel.master);
    // Those that the master ends take nothing more.
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
    bystander.is_served(&tunnel);
    let cost = watch.cost(&tunnel.master);
    assert!(cost.memory < 34 * MIB / 8 + 32 * MIB, "{cost:?}");
    assert!(
        cost.files < LINKS + 50 && cost.log < LOG_OF_LINKS,
        "{cost:?}"
    );
}

#[test]
fn strangers_that_take_every_connection_keep_neither_servers_nor_clients_out() {
    const LIMIT: usize = 1024;
    const LINKS: usize = 1000;
    files::raise_limit();
    let mut tunnel = tunnel(Vec::new(), json!({}));
    let master = tunnel.scene.master_address();
    tunnel.master.stop();
    let configuration = tunnel.scene.master_configuration(quiet(json!({})));
    tunnel.master = tunnel.scene.limited_role("limited", &configuration, LIMIT);
    tunnel.master.wait_ready(|| ports::is_listened_at(master));
    tunnel.wait_until_joined();
    tunnel.master.wait_for_line(&[
        "WARN",
        "limits.links is 16384",
        &format!("may have {LIMIT} files open"),
    ]);
    let (bystander, watch) = (Bystander::of(&tunnel), Watch::over(&tunnel.master));
    let silent: Vec<TcpStream> = (0..LIMIT + 76)
        .map(|_| TcpStream::connect(master).unwrap())
        .collect();
    bystander.is_served(&tunnel);
    let cost = watch.cost(&tunnel.master);
    assert!(cost.log < LOG, "{cost:?}");
    let links: Vec<_> = (0..LINKS).filter_map(|_| stranger(master)).collect();
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
    under_attack(1, flood, || bystander.is_served(&tunnel));
    drop((silent, links));
    let cost = watch.cost(&tunnel.master);
    assert!(
        cost.memory < 64 * MIB && cost.files < LIMIT && cost.log < LOG_OF_LINKS,
        "{cost:?}"
    );
}

#[test]
fn a_flood_of_handshakes_that_fail_ends_its_links_and_delays_nobody() {
    const AT_ONCE: u32 = 16;
    let tunnel = tunnel(Vec::new(), json!({}));
    let (bystander, watch) = (Bystander::of(&tunnel), Watch::over(&tunnel.server));
    let master = Watch::over(&tunnel.master);
    // Whoever sees a client's way knows the key id.
    let port = PortKeys::derive(&tunnel.probe().key).id;
    let junk = Bytes::from(content::random(2, 4000));
    let flood = |done: &AtomicBool| {
        let mut ends = Vec::new();
        while !done.load(Relaxed) {
            let mut link = HostileLink::stranger(tunnel.scene.master_address());
            let mut next = 0;
            while !done.load(Relaxed) && !link.has_ended {
                link.send(attach(next..next + AT_ONCE, || port, &junk));
                next += AT_ONCE;
                link.hear();
            }
            if link.has_ended {
                ends.push(link.error.map(|notice| notice.code));
            }
            wait::pause(Duration::from_millis(100));
        }
        ends
    };
    let ends = under_attack(3, flood, || {
        let start = Instant::now();
        for second in 1..=5 {
            bystander.is_served(&tunnel);
            wait::pause(Duration::from_secs(second).saturating_sub(start.elapsed()));
        }
    });
    let ends = ends.concat();
    println!("{} links were ended", ends.len());
    // The ERROR is lost when the flood is still on its way.
    assert!(
        ends.contains(&Some(Code::Limit))
            && ends
                .iter()
                .all(|end| matches!(end, None | Some(Code::Limit))),
        "{ends:?}"
    );
    let (cost, of_master) = (watch.cost(&tunnel.server), master.cost(&tunnel.master));
    assert!(
        cost.memory < 32 * MIB && cost.files < 100 && cost.log < LOG,
        "{cost:?}"
    );
    assert!(
        of_master.memory < 64 * MIB && of_master.log < LOG_OF_LINKS,
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
