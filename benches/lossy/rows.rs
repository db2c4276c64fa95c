//! The paths, and the goals on them.

use std::time::Duration;

use crate::path::conditions::Conditions;

/// The round trip of most rows.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(100);

/// A path for transfers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// The name for `--only`.
    pub name: &'static str,
    /// The description in the table.
    pub label: &'static str,
    pub conditions: Conditions,
    pub congestion_control: &'static str,
    pub goals: RowGoals,
}

/// The goals of a row. Ratios are rePort's throughput divided by that of plain TCP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowGoals {
    /// The minimum ratio with 8 connections.
    pub eight: f64,
    /// The minimum ratio with one connection.
    pub one: f64,
    /// The maximum round trip of an echo beside a transfer.
    pub ping: PingGoals,
}

/// The maximum round trip of an echo beside a transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PingGoals {
    /// The median, as a multiple of an echo without a transfer.
    OfIdle {
        p50: f64,
    },
    /// Quantiles, as multiples of the round trip of the path.
    OfRoundTrip {
        p50: f64,
        p99: f64,
    },
    None,
}

impl RowGoals {
    /// The goals without losses.
    const WITHOUT_LOSS: RowGoals = RowGoals {
        eight: 0.93,
        one: 0.93,
        ping: PingGoals::OfIdle { p50: 1.35 },
    };

    /// The goals on paths that are worse than usual.
    const NEVER_BELOW: RowGoals = RowGoals {
        eight: 0.8,
        one: 0.8,
        ping: PingGoals::None,
    };

    /// Returns the goals with losses, for these ratios.
    fn with_loss(eight: f64, one: f64) -> RowGoals {
        RowGoals {
            eight,
            one,
            ping: PingGoals::OfRoundTrip { p50: 1.3, p99: 5.0 },
        }
    }
}

impl Row {
    /// Returns all rows.
    pub(crate) fn all() -> Vec<Row> {
        let path = Conditions::new(ROUND_TRIP, 100);
        let row = |name, label, conditions, congestion_control, goals| Row {
            name,
            label,
            conditions,
            congestion_control,
            goals,
        };
        let lossy = path.with_loss(0.01);
        let worse = Conditions::new(2 * ROUND_TRIP, 100).with_loss(0.03);
        let bursts = path.with_bursts(30, Duration::from_secs(2));
        vec![
            row(
                "0-loss-cubic",
                "no loss, cubic",
                path,
                "cubic",
                RowGoals::WITHOUT_LOSS,
            ),
            row(
                "0-loss-bbr",
                "no loss, bbr",
                path,
                "bbr",
                RowGoals::WITHOUT_LOSS,
            ),
            row(
                "1-percent-cubic",
                "1 %, cubic",
                lossy,
                "cubic",
                RowGoals::with_loss(0.9, 4.0),
            ),
            row(
                "1-percent-bbr",
                "1 %, bbr",
                lossy,
                "bbr",
                RowGoals::with_loss(0.85, 0.9),
            ),
            row(
                "3-percent-200ms-cubic",
                "3 %, 200 ms, cubic",
                worse,
                "cubic",
                RowGoals::NEVER_BELOW,
            ),
            row(
                "bursts-cubic",
                "bursts of 30 packets each 2 s, cubic",
                bursts,
                "cubic",
                RowGoals::NEVER_BELOW,
            ),
        ]
    }
}

/// The disturbance of the path during transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The busiest TCP connection is cut once a second.
    CutBusiest,
    /// All TCP connections are cut once, and nothing passes for a while.
    CutAll,
}

/// A path for transfers that are cut. They use cubic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventRow {
    /// The name for `--only`.
    pub name: &'static str,
    /// The description in the table.
    pub label: &'static str,
    pub conditions: Conditions,
    pub round_trip: Duration,
    pub event: Event,
    /// `links.min` of the roles. Several links are up before the first cut if it is above 1.
    pub min_links: usize,
    /// The bytes of each transfer.
    pub bytes: u64,
}

impl EventRow {
    /// Returns all rows.
    pub(crate) fn all() -> Vec<EventRow> {
        let short = ROUND_TRIP / 5;
        vec![
            // The row shows what the loss of one of several links costs, not how they are added.
            EventRow {
                name: "cut-lane",
                label: "one connection cut each second; 20 ms, 1000 Mbit/s, 0.3 %",
                conditions: Conditions::new(short, 1000).with_loss(0.003),
                round_trip: short,
                event: Event::CutBusiest,
                min_links: 4,
                bytes: 64 << 20,
            },
            // Without losses a role keeps one link, so each cut interrupts the tunnel.
            EventRow {
                name: "cut-link",
                label: "one connection cut each second; 100 ms, 1000 Mbit/s, no loss",
                conditions: Conditions::new(ROUND_TRIP, 1000),
                round_trip: ROUND_TRIP,
                event: Event::CutBusiest,
                min_links: 1,
                bytes: 64 << 20,
            },
            EventRow {
                name: "cut-all",
                label: "all connections cut, nothing passes for 3 s; 100 ms, 100 Mbit/s, no loss",
                conditions: Conditions::new(ROUND_TRIP, 100),
                round_trip: ROUND_TRIP,
                event: Event::CutAll,
                min_links: 1,
                bytes: 16 << 20,
            },
        ]
    }
}
