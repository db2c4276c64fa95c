//! Markdown tables of the results.
//!
//! [`print`] shows all tables in the terminal. [`write_into`] updates the tables of a document.

use std::path::Path;

use crate::{
    document::{self, Table, number, strings},
    events::EventResult,
    load::Transfer,
    results::{EventMeasured, Results, RowMeasured, System},
    rows::{EventRow, Row},
};

/// The subject in the marker lines of a document.
const SUBJECT: &str = "lossy path";

/// Prints all tables, the goals last.
pub(crate) fn print(results: &Results) {
    println!("\n{}", results.heading);
    document::print(&tables(results));
}

/// Updates the tables in a document. If the file does not exist, creates it with all tables.
pub(crate) fn write_into(results: &Results, path: Option<&Path>) -> anyhow::Result<()> {
    path.map_or(Ok(()), |path| {
        document::write_into(path, SUBJECT, &tables(results))
    })
}

fn tables(results: &Results) -> Vec<Table> {
    vec![
        Table {
            name: "measured",
            title: "The measurement",
            rows: vec![
                strings(["", ""]),
                strings(["measured", &results.heading]),
                strings(["rePort", env!("CARGO_PKG_VERSION")]),
            ],
        },
        Table {
            name: "throughput",
            title: "Throughput in Mbit/s, and echoes beside it in ms (p50 / p99)",
            rows: throughput_rows(results),
        },
        Table {
            name: "cuts",
            title: "8 transfers while connections are cut",
            rows: event_rows(results),
        },
        Table {
            name: "goals",
            title: "Goals",
            rows: goal_rows(results),
        },
    ]
}

fn throughput_rows(results: &Results) -> Vec<Vec<String>> {
    let titles = strings([
        "path",
        "transfer",
        "plain TCP",
        "rePort",
        "ratio",
        "echo, plain TCP",
        "echo, rePort",
        "links in use",
    ]);
    let rows = results.rows.iter().flat_map(|(row, measured)| {
        if let Some(reason) = &measured.skipped {
            return vec![strings([row.label, &format!("skipped: {reason}")])];
        }
        Transfer::ALL
            .into_iter()
            .map(|transfer| throughput_row(row, measured, transfer))
            .collect()
    });
    std::iter::once(titles).chain(rows).collect()
}

fn throughput_row(row: &Row, measured: &RowMeasured, transfer: Transfer) -> Vec<String> {
    let rate = |system| measured.median(transfer, system, |sample| sample.megabits);
    let echo = |system| {
        let p50 = measured.median(transfer, system, |sample| sample.ping_p50);
        let p99 = measured.median(transfer, system, |sample| sample.ping_p99);
        format!("{} / {}", number(p50, 0), number(p99, 0))
    };
    let links = measured.median(transfer, System::Report, |sample| sample.links as f64);
    vec![
        row.label.to_owned(),
        transfer.to_string(),
        number(rate(System::Plain), 1),
        number(rate(System::Report), 1),
        number(measured.ratio(transfer), 2),
        echo(System::Plain),
        echo(System::Report),
        number(links, 0),
    ]
}

fn event_rows(results: &Results) -> Vec<Vec<String>> {
    let titles = strings([
        "path",
        "system",
        "cuts",
        "broken transfers",
        "longest echo ms",
        "/ round trip",
        "without cuts ms",
        "seconds",
        "links in use",
    ]);
    let rows = results.events.iter().flat_map(of_event);
    std::iter::once(titles).chain(rows).collect()
}

fn of_event((event, measured): &(EventRow, EventMeasured)) -> Vec<Vec<String>> {
    if let Some(reason) = &measured.skipped {
        return vec![strings([event.label, &format!("skipped: {reason}")])];
    }
    let round_trip = event.round_trip.as_secs_f64() * 1e3;
    let row = |(system, result): &(System, EventResult)| {
        let echo = if result.is_echo_broken {
            " (broken)"
        } else {
            ""
        };
        vec![
            event.label.to_owned(),
            system.name().to_owned(),
            result.cuts.to_string(),
            result.broken.to_string(),
            format!("{:.0}{echo}", result.longest_ping),
            format!("{:.1}", result.longest_ping / round_trip),
            format!("{:.0}", result.longest_ping_uncut),
            format!("{:.1}", result.seconds),
            result.links.to_string(),
        ]
    };
    measured.results.iter().map(row).collect()
}

fn goal_rows(results: &Results) -> Vec<Vec<String>> {
    let titles = strings(["goal", "value", "target", ""]);
    let rows = results.goals().into_iter().map(|goal| {
        let verdict = if goal.is_met { "met" } else { "MISSED" };
        let value = format!("{:.2}", goal.value);
        strings([&goal.what, &value, &goal.target, verdict])
    });
    std::iter::once(titles).chain(rows).collect()
}
