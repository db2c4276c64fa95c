//! Datagrams beside bulk transfers, over a long path that loses packets.
//!
//! The tests create network namespaces and TUN devices, so they need root.

use std::time::{Duration, Instant};

use super::lossy_path::{LossyTunnel, milliseconds};
use crate::support::{datagrams::Asker, path::conditions::Conditions};

/// The round trip of the path.
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// The pause between two datagrams: 100 in a second.
const PACE: Duration = Duration::from_millis(10);

/// The datagrams before a measurement: the tunnel adds its further links in this time.
const WARM_UP: usize = 600;

/// The datagrams of a measurement.
const COUNT: usize = 800;

/// Sends this many datagrams of 64 bytes at [`PACE`]. Returns the round trips of those that came back, in
/// order of their length.
fn paced_echoes(asker: &Asker, count: usize) -> Vec<Duration> {
    let mut sent: Vec<Instant> = Vec::with_capacity(count);
    let mut round_trips = Vec::with_capacity(count);
    let begun = Instant::now();
    // Waits for the last answers too.
    for turn in 1..=count as u32 + 100 {
        if sent.len() < count {
            let mut datagram = [7; 64];
            datagram[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
            sent.push(Instant::now());
            asker.send(&datagram);
        }
        let next = begun + PACE * turn;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            let Some(answer) = asker.receive(left) else {
                continue;
            };
            let number = answer
                .first_chunk()
                .map(|number| u64::from_be_bytes(*number));
            let at = number.and_then(|number| sent.get(number as usize));
            round_trips.extend(at.map(Instant::elapsed));
        }
    }
    round_trips.sort_unstable();
    round_trips
}

/// The value that this share of all values does not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share) as usize;
    sorted[index.min(sorted.len() - 1)]
}

#[test]
fn datagrams_beside_bulk_transfers_arrive_soon() {
    let conditions = Conditions::new(ROUND_TRIP, 100).with_loss(0.01);
    let tunnel = LossyTunnel::start(conditions);
    let asker = tunnel.address.run(|| Asker::of(tunnel.address.datagrams));
    asker.ask_until_answered(&[0xff; 64]);
    let mut round_trips = Vec::new();
    let mut before = Vec::new();
    let result = tunnel.under_load(2, 1 << 20, || {
        before = paced_echoes(&asker, WARM_UP);
        round_trips = paced_echoes(&asker, COUNT);
    });
    result.assert_complete("beside datagrams");
    let arrived = round_trips.len() as f64 / COUNT as f64;
    let (median, p99) = (quantile(&round_trips, 0.5), quantile(&round_trips, 0.99));
    println!(
        "{:.1} % of the first datagrams arrive, p99 {:.1?}",
        100.0 * before.len() as f64 / WARM_UP as f64,
        quantile(&before, 0.99)
    );
    println!(
        "{:.1} % of the datagrams arrive, median {median:.1?}, p99 {p99:.1?}, round trip {ROUND_TRIP:?}",
        100.0 * arrived
    );
    // Beside other tests the processors delay datagrams until they are too late. The values above,
    // on a quiet machine, are the measurement.
    assert!(arrived >= 0.5, "{arrived}");
    assert!(p99 <= ROUND_TRIP * 15, "{p99:?}");
    assert!(round_trips[0] >= ROUND_TRIP - milliseconds(1));
}
