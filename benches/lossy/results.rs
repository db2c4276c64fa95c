//! The measured values, medians over the rounds, and the goals.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    events::EventResult,
    load::{Sample, Transfer, quantile},
    options::Options,
    rows::{EventRow, PingGoals, Row},
};

/// One of the compared systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum System {
    /// One TCP connection for each connection of the load.
    Plain,
    Report,
}

impl System {
    /// Both systems, in their order within a round.
    pub(crate) const ALL: [System; 2] = [System::Plain, System::Report];

    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Plain => "plain TCP",
            System::Report => "rePort",
        }
    }
}

/// The samples of one row.
#[derive(Default)]
pub(crate) struct RowMeasured {
    /// Why the row was not measured.
    pub skipped: Option<String>,
    /// The round trip of an echo through rePort without a transfer, in milliseconds.
    pub idle_ping: f64,
    samples: BTreeMap<(Transfer, System), Vec<Sample>>,
}

impl RowMeasured {
    /// Adds the sample of a round.
    pub(crate) fn add(&mut self, transfer: Transfer, system: System, sample: Sample) {
        let samples = self.samples.entry((transfer, system)).or_default();
        samples.push(sample);
    }

    fn of(&self, transfer: Transfer, system: System) -> &[Sample] {
        self.samples
            .get(&(transfer, system))
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Returns the median of a value over the rounds.
    pub(crate) fn median(
        &self,
        transfer: Transfer,
        system: System,
        value: impl Fn(&Sample) -> f64,
    ) -> Option<f64> {
        let mut values: Vec<f64> = self.of(transfer, system).iter().map(value).collect();
        quantile(&mut values, 0.5)
    }

    /// Returns the median over the rounds of rePort's throughput divided by that of plain TCP.
    pub(crate) fn ratio(&self, transfer: Transfer) -> Option<f64> {
        let [plain, ours] = System::ALL.map(|system| self.of(transfer, system));
        let mut ratios: Vec<f64> = plain
            .iter()
            .zip(ours)
            .map(|(plain, ours)| ours.megabits / plain.megabits)
            .collect();
        quantile(&mut ratios, 0.5)
    }

    fn json(&self) -> Value {
        let of_sample = |sample: &Sample| {
            json!({ "mbit_s": sample.megabits, "echo_p50_ms": sample.ping_p50,
                "echo_p99_ms": sample.ping_p99, "connections": sample.links })
        };
        let samples: serde_json::Map<String, Value> = self
            .samples
            .iter()
            .map(|((transfer, system), samples)| {
                let values: Vec<Value> = samples.iter().map(of_sample).collect();
                (format!("{}, {transfer}", system.name()), json!(values))
            })
            .collect();
        json!({ "skipped": self.skipped, "idle_echo_ms": self.idle_ping, "samples": samples })
    }
}

/// The results of one row with cuts.
#[derive(Default)]
pub(crate) struct EventMeasured {
    /// Why the row was not measured.
    pub skipped: Option<String>,
    pub results: Vec<(System, EventResult)>,
}

impl EventMeasured {
    fn json(&self) -> Value {
        let of_result = |(system, result): &(System, EventResult)| {
            let values = json!({ "broken": result.broken, "is_echo_broken": result.is_echo_broken,
                "longest_echo_ms": result.longest_ping,
                "longest_echo_without_cuts_ms": result.longest_ping_uncut, "cuts": result.cuts,
                "seconds": result.seconds, "connections": result.links });
            (system.name().to_owned(), values)
        };
        let results: serde_json::Map<String, Value> = self.results.iter().map(of_result).collect();
        json!({ "skipped": self.skipped, "results": results })
    }
}

/// The results of all rows.
pub(crate) struct Results {
    /// A line about the conditions of the measurement.
    pub heading: String,
    pub rows: Vec<(Row, RowMeasured)>,
    pub events: Vec<(EventRow, EventMeasured)>,
}

/// A goal and its value.
pub(crate) struct Goal {
    pub what: String,
    pub value: f64,
    /// The bound, with its sign.
    pub target: String,
    pub is_met: bool,
}

impl Goal {
    fn at_least(what: String, value: f64, bound: f64) -> Goal {
        Goal {
            what,
            value,
            target: format!("≥ {bound}"),
            is_met: value >= bound,
        }
    }

    fn at_most(what: String, value: f64, bound: f64) -> Goal {
        Goal {
            what,
            value,
            target: format!("≤ {bound}"),
            is_met: value <= bound,
        }
    }
}

impl Results {
    /// Creates empty results.
    pub(crate) fn new(options: &Options) -> Self {
        let rounds = match options.rounds {
            1 => "one round".to_owned(),
            rounds => format!("medians of {rounds} interleaved rounds"),
        };
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        Results {
            heading: format!(
                "{rounds}, {} s after {} s; {processors} processors",
                options.window.as_secs_f64(),
                options.warm_up.as_secs_f64()
            ),
            rows: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Returns the goals of all rows that were measured.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let of_rows = self.rows.iter().flat_map(|(row, measured)| {
            let of_transfer = move |transfer| goals_of(row, measured, transfer);
            Transfer::ALL.into_iter().flat_map(of_transfer)
        });
        let of_events = self.events.iter().flat_map(|(event, measured)| {
            let ours = measured
                .results
                .iter()
                .filter(|(system, _)| *system == System::Report);
            ours.map(move |(_, result)| {
                let what = format!("{}: broken transfers", event.label);
                Goal::at_most(what, result.broken as f64, 0.0)
            })
        });
        of_rows.chain(of_events).collect()
    }

    /// Writes the values of all rounds as JSON.
    pub(crate) fn write_json(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let rows = self
            .rows
            .iter()
            .map(|(row, measured)| (row.name.to_owned(), measured.json()));
        let events = self
            .events
            .iter()
            .map(|(event, measured)| (event.name.to_owned(), measured.json()));
        let rows: serde_json::Map<String, Value> = rows.chain(events).collect();
        let text = serde_json::to_string_pretty(&json!({ "what": self.heading, "rows": rows }))?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Returns the goals of one transfer.
fn goals_of(row: &Row, measured: &RowMeasured, transfer: Transfer) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(ratio) = measured.ratio(transfer) {
        let bound = if transfer.connections == 1 {
            row.goals.one
        } else {
            row.goals.eight
        };
        let what = format!("{}, {transfer}: throughput / plain TCP", row.label);
        goals.push(Goal::at_least(what, ratio, bound));
    }
    let ping = |value: fn(&Sample) -> f64| measured.median(transfer, System::Report, value);
    let mut add = |what: &str, value: Option<f64>, base: f64, bound: f64| {
        if let Some(value) = value {
            let what = format!("{}, {transfer}: echo {what}", row.label);
            goals.push(Goal::at_most(what, value / base, bound));
        }
    };
    let p50 = ping(|sample| sample.ping_p50);
    match row.goals.ping {
        PingGoals::OfIdle { p50: bound } => {
            add("p50 / idle echo", p50, measured.idle_ping, bound);
        }
        PingGoals::OfRoundTrip {
            p50: p50_bound,
            p99: p99_bound,
        } => {
            let round_trip = row.conditions.delay.as_secs_f64() * 2e3;
            add("p50 / round trip", p50, round_trip, p50_bound);
            let p99 = ping(|sample| sample.ping_p99);
            add("p99 / round trip", p99, round_trip, p99_bound);
        }
        PingGoals::None => {}
    }
    goals
}
