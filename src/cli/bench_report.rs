//! The results of `report bench`: the fields of `--json`, and the text output.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use crate::{
    bench::{
        BenchPlan, BenchResults, CONCURRENT_CONNECTIONS, NewConnectionResults, NewConnectionStats,
        PayloadKind, RoundTripStats, Throughput,
    },
    client::direct::DirectTunnel,
    config::PortConfig,
    telemetry::escape_text,
};

/// Replaces a missing result.
const NOT_MEASURED: &str = "not measured";

/// The printed results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct BenchReport {
    /// The version of this program.
    pub version: &'static str,
    /// The mark of the port.
    pub port: String,
    /// The address of the master.
    pub master: String,
    /// Whether the link uses TLS.
    pub tls: bool,
    pub encrypt_method: String,
    pub compress_method: String,
    pub data: PayloadKind,
    /// The duration of each phase.
    pub phase_seconds: f64,
    /// The number of connections of the parallel transfers.
    pub connections: usize,
    /// The time from the dial until the link was established.
    pub link_ms: f64,
    /// The time from then until the tunnel was attached.
    pub attach_ms: f64,
    #[serde(flatten)]
    pub measured: BenchResults,
    /// Whether all phases completed.
    pub complete: bool,
}

impl BenchReport {
    /// Creates the report of a measurement of `port` with `plan` through `reached`.
    pub(super) fn new(
        port: &PortConfig,
        plan: &BenchPlan,
        reached: &DirectTunnel,
        measured: BenchResults,
        complete: bool,
    ) -> Self {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        BenchReport {
            version: env!("CARGO_PKG_VERSION"),
            port: port.mark.clone(),
            tls: reached.master.starts_with("wss://"),
            master: reached.master.clone(),
            encrypt_method: port.encrypt_method.to_string(),
            compress_method: port.compress_method.to_string(),
            data: plan.data,
            phase_seconds: plan.time.as_secs_f64(),
            connections: plan.connections,
            link_ms: milliseconds(reached.link_time),
            attach_ms: milliseconds(reached.attach_time),
            measured,
            complete,
        }
    }

    /// Formats the whole report as text.
    pub(super) fn to_text(&self) -> String {
        let lines = self.heading().into_iter().chain([String::new()]);
        let rows = [
            self.throughput_rows(),
            self.round_trip_rows(),
            self.new_connection_rows(),
        ];
        lines
            .chain(rows.into_iter().flatten())
            .fold(String::new(), |mut text, line| {
                let _ = writeln!(text, "{}", escape_text(&line));
                text
            })
    }

    /// Describes the measured path and the plan.
    fn heading(&self) -> [String; 2] {
        let BenchReport {
            port,
            master,
            tls,
            encrypt_method,
            compress_method,
            data,
            phase_seconds,
            link_ms,
            attach_ms,
            ..
        } = self;
        let link = if *tls { "TLS" } else { "no TLS" };
        [
            format!("port \"{port}\" via {master} ({link}); {encrypt_method}, {compress_method}"),
            format!(
                "link established in {link_ms:.1} ms, tunnel attached {attach_ms:.1} ms later; {data} data, {phase_seconds} s per line"
            ),
        ]
    }

    fn throughput_rows(&self) -> Vec<String> {
        let throughput = &self.measured.throughput;
        [
            ("up", 1, &throughput.up),
            ("down", 1, &throughput.down),
            ("up", self.connections, &throughput.up_parallel),
            ("down", self.connections, &throughput.down_parallel),
        ]
        .into_iter()
        .map(|(direction, connections, measured)| {
            let plural = if connections == 1 { "" } else { "s" };
            let name = format!("throughput {direction}, {connections} connection{plural}");
            row(&name, measured.as_ref().map(throughput_text))
        })
        .collect()
    }

    fn round_trip_rows(&self) -> Vec<String> {
        let trips = &self.measured.round_trip;
        [
            ("idle", &trips.idle),
            ("during an upload", &trips.beside_up),
            ("during a download", &trips.beside_down),
        ]
        .into_iter()
        .map(|(load, measured)| {
            row(
                &format!("round trip, {load}"),
                measured.as_ref().map(round_trip_text),
            )
        })
        .collect()
    }

    fn new_connection_rows(&self) -> Vec<String> {
        let NewConnectionResults { in_turn, at_once } = &self.measured.new_connections;
        let concurrent = at_once
            .as_ref()
            .map_or(CONCURRENT_CONNECTIONS, |measured| measured.at_once);
        vec![
            row(
                "new connections, in turn",
                in_turn.as_ref().map(new_connections_text),
            ),
            row(
                &format!("new connections, {concurrent} at once"),
                at_once.as_ref().map(new_connections_text),
            ),
        ]
    }
}

fn row(name: &str, value: Option<String>) -> String {
    format!("{name:<36}{}", value.as_deref().unwrap_or(NOT_MEASURED))
}

fn throughput_text(measured: &Throughput) -> String {
    let megabytes = measured.bytes_per_second / 1e6;
    let fairness = match measured.connections {
        1 => String::new(),
        _ => format!("   least/most {:.2}", measured.least_to_most),
    };
    format!(
        "{megabytes:>9.1} MB/s  {:>9.1} Mbit/s{fairness}",
        megabytes * 8.0
    )
}

fn round_trip_text(measured: &RoundTripStats) -> String {
    format!(
        "p50 {:>9}   p99 {:>9}",
        time(measured.p50_us),
        time(measured.p99_us)
    )
}

fn new_connections_text(measured: &NewConnectionStats) -> String {
    let first_byte = format!(
        "first byte p50 {}, p99 {}",
        time(measured.p50_us),
        time(measured.p99_us)
    );
    format!("{:>9.0} a second   {first_byte}", measured.per_second)
}

/// Formats microseconds in the most readable unit.
fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_marks_missing_results_and_prints_units() {
        let mut report = BenchReport {
            version: "0.0.0",
            port: "远程桌面".to_owned(),
            master: "wss://host/".to_owned(),
            tls: true,
            encrypt_method: "plain".to_owned(),
            compress_method: "null".to_owned(),
            data: PayloadKind::Random,
            phase_seconds: 0.5,
            connections: 2,
            link_ms: 1.25,
            attach_ms: 0.5,
            measured: BenchResults::default(),
            complete: false,
        };
        assert_eq!(report.to_text().matches(NOT_MEASURED).count(), 9);
        let moved = [1_000_000, 2_000_000];
        report.measured.throughput.up_parallel =
            Some(Throughput::new(&moved, Duration::from_secs(1)));
        report.measured.round_trip.idle = Some(RoundTripStats {
            samples: 1,
            p50_us: 1_500.0,
            p99_us: 2.5e6,
        });
        let text = report.to_text();
        for part in [
            "远程桌面",
            "2 connections",
            "3.0 MB/s",
            "24.0 Mbit/s",
            "0.50",
            "1.50 ms",
            "2.50 s",
            "TLS",
        ] {
            assert!(text.contains(part), "missing {part} in\n{text}");
        }
        assert_eq!(text.matches(NOT_MEASURED).count(), 7);
    }
}
