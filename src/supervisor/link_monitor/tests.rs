//! Tests of the monitor: samples from readings, its pace, and real connections.

use std::cell::Cell;

use super::*;

const TICK: Duration = SAMPLE_INTERVAL;

fn connection(port: u16) -> TcpConnection {
    TcpConnection {
        local: ([198, 51, 100, 2], port).into(),
        peer: ([203, 0, 113, 1], 443).into(),
        interface: 0,
    }
}

/// Statistics of a connection that has sent `segments`, and retransmitted `losses` of them.
fn sent(segments: u32, losses: u32) -> TcpStats {
    TcpStats {
        acknowledged_bytes: u64::from(segments) * 1448,
        sent_segments: segments,
        retransmitted_segments: losses,
        rtt: Duration::from_millis(100),
        min_rtt: Duration::from_millis(100),
        ..TcpStats::default()
    }
}

/// Returns what a link moved between two readings that are half a second apart.
fn between(before: &TcpStats, now: &TcpStats) -> Sample {
    let mut sample = Sample::default();
    add_link(&mut sample, before, now, TICK);
    sample
}

#[test]
fn differences_survive_counters_that_wrap() {
    let before = TcpStats {
        sent_segments: u32::MAX - 9,
        retransmitted_segments: u32::MAX,
        ..sent(1000, 0)
    };
    let now = TcpStats {
        sent_segments: 90,
        retransmitted_segments: 1,
        ..sent(1100, 0)
    };
    let sent = between(&before, &now).sent;
    assert_eq!((sent.bytes, sent.segments, sent.losses), (144_800, 100, 2));
}

#[test]
fn reused_addresses_are_another_connection() {
    assert_eq!(between(&sent(1000, 5), &sent(400, 1)), Sample::default());
}

#[test]
fn receiver_estimates_losses_from_the_segments_behind_them() {
    let rtt = Duration::from_millis(100);
    // Ten segments in a round trip: one loss delays them.
    assert_eq!(estimated_losses(10, 50, rtt, TICK), 1);
    // A queue of 1,700 segments overflowed once.
    assert_eq!(estimated_losses(1700, 4300, 2 * rtt, TICK), 1);
    // Losses in each round trip delay nearly everything: 1 % of 1,133 segments in 200 ms.
    let many = estimated_losses(2832, 2833, 2 * rtt, TICK);
    assert!((14..=28).contains(&many), "{many}");
    assert_eq!(estimated_losses(2833, 2833, 2 * rtt, TICK), many + 2);
    assert_eq!(estimated_losses(0, 100, rtt, TICK), 0);
    assert_eq!(estimated_losses(3, 5, Duration::ZERO, TICK), 3);
}

#[test]
fn segments_behind_a_loss_count_only_without_a_queue() {
    let moved = |rtt| {
        let now = TcpStats {
            received_bytes: 1 << 20,
            received_segments: 700,
            out_of_order_segments: 70,
            rtt: Duration::from_millis(rtt),
            min_rtt: Duration::from_millis(100),
            ..TcpStats::default()
        };
        between(&TcpStats::default(), &now).received
    };
    assert_eq!((moved(110).delayed, moved(110).losses), (70, 1));
    assert_eq!((moved(180).delayed, moved(180).losses), (0, 1));
}

#[test]
fn links_are_summed_and_new_ones_count_from_their_second_reading() {
    let mut monitor = LinkMonitor::new(LinkDemand::new(8));
    let start = Instant::now();
    let mut at = |tick: u32, readings| {
        monitor.on_readings(start + TICK * tick, readings);
        monitor.quiet
    };
    at(0, vec![(connection(1), sent(1000, 0))]);
    let old = (connection(1), sent(1003, 0));
    assert_eq!(at(1, vec![old, (connection(2), sent(1000, 0))]), 2);
    assert_eq!(at(2, vec![old, (connection(2), sent(1003, 0))]), 3);
    let both = vec![
        (connection(1), sent(1006, 0)),
        (connection(2), sent(1007, 0)),
    ];
    assert_eq!(at(3, both), 0, "seven segments of two links are busy");
    assert_eq!(at(4, vec![]), 1, "all links are gone");
}

/// Runs the monitor for `rest`, and then for `time` over a path with one loss in 50 segments. Each
/// of the wanted links sends `segments` a second. Returns the numbers wanted, how often the links
/// were read, and how often the monitor woke up.
async fn run(rest: Duration, time: Duration, segments: u32) -> (Vec<usize>, usize, usize) {
    let (links, reads, start) = (Cell::new(1_u16), Cell::new(0), Instant::now() + rest);
    let wakes = Cell::new(0);
    let mut numbers = Vec::new();
    let sent_now = || {
        let time = Instant::now().saturating_duration_since(start);
        (time.as_secs_f64() * f64::from(segments)) as u32
    };
    let moved = || {
        wakes.set(wakes.get() + 1);
        u64::from(links.get()) * u64::from(sent_now()) * 1448
    };
    let read = || {
        reads.set(reads.get() + 1);
        (0..links.get())
            .map(|port| (connection(port), sent(sent_now(), sent_now() / 50)))
            .collect()
    };
    let busy = || async move {
        match segments {
            // One segment a second is not enough to wake it.
            0 | 1 => std::future::pending().await,
            // After 100 ms they have moved enough.
            _ => tokio::time::sleep_until(start.max(Instant::now()) + TICK / 5).await,
        }
    };
    let watch = monitor(LinkDemand::new(8), moved, busy, read, |n| {
        links.set(n as u16);
        numbers.push(n);
    });
    assert!(tokio::time::timeout(rest + time, watch).await.is_err());
    (numbers, reads.get(), wakes.get())
}

#[tokio::test(start_paused = true)]
async fn lossy_transfer_wants_more_links() {
    let (numbers, reads, _) = run(Duration::ZERO, Duration::from_secs(60), 200).await;
    assert_eq!(numbers, [4, 8]);
    assert!((115..=120).contains(&reads), "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn idle_role_is_not_read_and_rarely_wakes_up() {
    for segments in [0, 1] {
        let hour = Duration::from_secs(3600);
        let (numbers, reads, wakes) = run(Duration::ZERO, hour, segments).await;
        assert!(numbers.is_empty());
        assert_eq!(reads, QUIET_SAMPLES as usize + 1, "reads in an hour");
        assert!((720..=810).contains(&wakes), "{wakes} wakes in an hour");
    }
}

#[tokio::test(start_paused = true)]
async fn transfer_after_a_rest_is_sampled() {
    let hour = Duration::from_secs(3600);
    let (numbers, reads, _) = run(hour, Duration::from_secs(60), 200).await;
    assert_eq!(numbers, [4, 8]);
    assert!((118..=126).contains(&reads), "{reads} reads");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn sample_contains_what_a_connection_moved() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut dialled = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    let connections = [TcpConnection::of(&accepted).unwrap(), connection(9)];
    let before = read_all(&connections);
    assert_eq!(before.len(), 1, "the other connection does not exist");
    dialled.write_all(&[7; 30_000]).await.unwrap();
    accepted.read_exact(&mut [0; 30_000]).await.unwrap();
    let received = between(&before[0].1, &read_all(&connections)[0].1).received;
    assert_eq!((received.bytes, received.losses), (30_000, 0));
    assert!(received.segments > 0);
}
