//! The text output of `report bench`.

use std::fmt::Write as _;

use super::bench::BenchReport;
use crate::{
    bench::{NewConnectionStats, RoundTripStats, Throughput},
    telemetry::escape_text,
};

/// Replaces a missing result.
const NOT_MEASURED: &str = "not measured";

/// Formats the whole report as text.
pub(super) fn render(report: &BenchReport) -> String {
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
    } = report;
    let link = if *tls { "TLS" } else { "no TLS" };
    let mut lines = vec![
        format!("port \"{port}\" via {master} ({link}); {encrypt_method}, {compress_method}"),
        format!(
            "link established in {link_ms:.1} ms, tunnel attached {attach_ms:.1} ms later; {data} data, {phase_seconds} s per line"
        ),
        String::new(),
    ];
    let throughput = &report.measured.throughput;
    for (direction, connections, measured) in [
        ("up", 1, &throughput.up),
        ("down", 1, &throughput.down),
        ("up", report.connections, &throughput.up_parallel),
        ("down", report.connections, &throughput.down_parallel),
    ] {
        let plural = if connections == 1 { "" } else { "s" };
        let name = format!("throughput {direction}, {connections} connection{plural}");
        lines.push(row(&name, measured.as_ref().map(throughput_text)));
    }
    let trips = &report.measured.round_trip;
    for (load, measured) in [
        ("idle", &trips.idle),
        ("during an upload", &trips.beside_up),
        ("during a download", &trips.beside_down),
    ] {
        lines.push(row(
            &format!("round trip, {load}"),
            measured.as_ref().map(round_trip_text),
        ));
    }
    let new = &report.measured.new_connections;
    lines.push(row(
        "new connections, in turn",
        new.in_turn.as_ref().map(new_text),
    ));
    let at_once = new
        .at_once
        .as_ref()
        .map_or(crate::bench::CONCURRENT_CONNECTIONS, |measured| {
            measured.at_once
        });
    lines.push(row(
        &format!("new connections, {at_once} at once"),
        new.at_once.as_ref().map(new_text),
    ));
    lines.into_iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", escape_text(&line));
        text
    })
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

fn new_text(measured: &NewConnectionStats) -> String {
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
    use crate::bench::{BenchResults, PayloadKind};

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
        assert_eq!(render(&report).matches(NOT_MEASURED).count(), 9);
        let moved = [1_000_000, 2_000_000];
        report.measured.throughput.up_parallel =
            Some(Throughput::new(&moved, std::time::Duration::from_secs(1)));
        report.measured.round_trip.idle = Some(RoundTripStats {
            samples: 1,
            p50_us: 1_500.0,
            p99_us: 2.5e6,
        });
        let text = render(&report);
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
