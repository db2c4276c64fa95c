//! A quota during a transfer: it reports its thresholds, slows the traffic down or stops it, and
//! releases it when the period ends.

use std::sync::Mutex;

use tokio::{sync::broadcast::Receiver, time::sleep};

use super::*;
use crate::{
    config::UnknownKeys,
    master::usage::{self, CHECK_INTERVAL, UsageLedger},
    policy::{
        Account, AccountId, Admission, ByteSize, Changes, Direction, Period, PeriodUnit, Quota,
        Rate, ServiceKey, Threshold, ThresholdAction,
    },
};

/// A midnight of UTC, in Unix seconds.
const MIDNIGHT: u64 = 1_800_057_600;

/// The time from the start of a test to midnight.
const TO_MIDNIGHT: Duration = Duration::from_secs(20);

/// The rate to which the quota slows down.
const SLOW: u64 = 64 * 1024;

/// A wall clock that follows the paused time of the test.
#[derive(Debug)]
struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Duration {
        Duration::from_secs(MIDNIGHT) - TO_MIDNIGHT + self.0.elapsed()
    }
}

fn threshold(percent: u16, action: ThresholdAction, rate: Option<u64>) -> Threshold {
    Threshold {
        percent,
        action,
        rate: rate.map(Rate),
    }
}

/// Starts a master with a quota of a megabyte a day for the traffic to the clients of a key. It
/// notifies at the half, and has a last threshold.
fn start_with_quota(last: Threshold) -> (MemoryMaster, Receiver<MasterEvent>) {
    let clock = Arc::new(WallClock(Instant::now()));
    let policies = MasterPolicies::new(Admission::Open, UnknownKeys::Refuse, clock);
    let mut key = ServiceKey::new(PORT, "service");
    key.limits.quotas = vec![Quota {
        direction: Direction::Down,
        thresholds: vec![threshold(50, ThresholdAction::Notify, None), last],
        ..Quota::new(Period::new(PeriodUnit::Day), ByteSize(1_000_000))
    }];
    let changes = Changes {
        accounts: vec![Account::new(AccountId::MASTER, "master")],
        keys: vec![key],
        ..Changes::default()
    };
    policies.apply(changes, true);
    policies.meter.enable();
    let events = policies.events.subscribe();
    let mut master = MemoryMaster::with_policies(policies);
    let router = Arc::clone(&master.router);
    master.tasks.spawn(async move {
        let ledger = Mutex::new(UsageLedger::new());
        loop {
            usage::collect(&router, &ledger);
            sleep(CHECK_INTERVAL).await;
        }
    });
    (master, events)
}

/// Moves 520 kB to the client.
async fn move_half(server: &mut TestPeer, client: &mut TestPeer) {
    for _ in 0..52 {
        server.data(1, &[1; 10_000]).await;
        client.expect_data(1, &[1; 10_000]).await;
    }
}

/// Sends messages of 1,400 bytes, and obeys PAUSE.
async fn send_messages(peer: &mut TestPeer, messages: usize) {
    for _ in 0..messages {
        peer.data(1, &[7; 1_400]).await;
        // The master sends a PAUSE before the PONG.
        peer.send(Frame::Ping(1)).await;
        let (mut paused, mut answered) = (false, false);
        while paused || !answered {
            match peer.next().await {
                Frame::Pause(_) => paused = true,
                Frame::Resume(_) => paused = false,
                Frame::Pong(_) => answered = true,
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

/// Returns the thresholds of the key that were reached since the last call.
fn reached(events: &mut Receiver<MasterEvent>) -> Vec<(u16, ThresholdAction)> {
    let mut reached = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let EventKind::QuotaReached {
            subject,
            percent,
            action,
            ..
        } = event.kind
        {
            assert_eq!(subject, format!("key {PORT}"));
            reached.push((percent, action));
        }
    }
    reached
}

#[tokio::test(start_paused = true)]
async fn quota_that_turns_in_mid_transfer_notifies_slows_down_and_recovers() {
    let slow = threshold(100, ThresholdAction::Slow, Some(SLOW));
    let (mut master, mut events) = start_with_quota(slow);
    let begun = Instant::now();
    let (mut server, mut client) = master.pair().await;
    move_half(&mut server, &mut client).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    sleep(2 * CHECK_INTERVAL).await;
    assert_eq!(reached(&mut events), [(50, ThresholdAction::Notify)]);
    assert_eq!(master.router.rates.limited_pairs(), 0);
    move_half(&mut server, &mut client).await;
    sleep(2 * CHECK_INTERVAL).await;
    assert_eq!(reached(&mut events), [(100, ThresholdAction::Slow)]);
    assert_eq!(master.router.rates.limited_pairs(), 1);

    let (slowed, midnight) = (Instant::now(), begun + TO_MIDNIGHT);
    let shortly_before = midnight - Duration::from_millis(10);
    let receiving = async {
        let mut parts = Vec::new();
        let ends = [
            slowed + SECOND,
            slowed + 11 * SECOND,
            shortly_before,
            midnight + SECOND,
        ];
        for end in ends {
            parts.push(received_until(&mut client, end).await);
        }
        parts
    };
    let ((), parts) = tokio::join!(send_messages(&mut server, 1_200), receiving);
    assert_eq!(parts.iter().sum::<usize>(), 1_200 * 1_400);
    let expected = usize::try_from(10 * SLOW).expect("it fits");
    assert!(
        parts[1].abs_diff(expected) <= expected * 3 / 100,
        "{parts:?}"
    );
    // In a second of the new period: more than six times the rate.
    assert!(parts[3] > 300_000, "{parts:?}");
    assert_eq!(master.router.rates.limited_pairs(), 0);
    assert_eq!(reached(&mut events), []);
}

#[tokio::test(start_paused = true)]
async fn quota_that_stops_closes_its_tunnels_until_the_period_ends() {
    let stop = threshold(100, ThresholdAction::Stop, None);
    let (mut master, mut events) = start_with_quota(stop);
    let (mut server, mut client) = master.pair().await;
    move_half(&mut server, &mut client).await;
    move_half(&mut server, &mut client).await;
    client.expect_close(1, Code::Denied).await;
    let closed = server.next().await;
    assert!(
        matches!(closed, Frame::Close { channel: 1, .. }),
        "{closed:?}"
    );
    assert_eq!(reached(&mut events), [(100, ThresholdAction::Stop)]);
    client.attach(2, PORT).await;
    client.expect_close(2, Code::Denied).await;
    sleep(TO_MIDNIGHT).await;
    let channel = connect(&mut client, &mut server, 3, PORT).await;
    server.data(channel, b"the next day").await;
    client.expect_data(3, b"the next day").await;
}
