//! Markdown tables of the results.
//!
//! [`print`] shows all tables in the terminal. [`write_into`] updates the tables of a document.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, bail};

use crate::{
    events::EventResult,
    load::Transfer,
    results::{EventMeasured, Results, RowMeasured, System},
    rows::{EventRow, Row},
};

/// The start of the marker line before a table in a document. The table's name and [`BEGIN_END`]
/// follow. The line [`END`] ends the table.
const BEGIN: &str = "<!-- lossy path: ";
const BEGIN_END: &str = " -->";
const END: &str = "<!-- end lossy path -->";

/// A table and its name in a document.
struct Table {
    name: &'static str,
    title: &'static str,
    rows: Vec<Vec<String>>,
}

/// Prints all tables, the goals last.
pub(crate) fn print(results: &Results) {
    println!("\n{}", results.heading);
    for table in tables(results).iter().filter(|table| table.rows.len() > 1) {
        print!("\n{}\n\n{}", table.title, text(&table.rows));
    }
}

/// Updates the tables in a document. If the file does not exist, creates it with all tables.
pub(crate) fn write_into(results: &Results, path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let tables = tables(results);
    let document = if path.exists() {
        let document =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        replaced(&document, &tables)
            .with_context(|| format!("cannot update the tables in {}", path.display()))?
    } else {
        let whole = tables
            .iter()
            .map(|table| format!("## {}\n\n{}", table.title, text(&table.rows)));
        whole.collect::<Vec<_>>().join("\n")
    };
    fs::write(path, document).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(document: &str, tables: &[Table]) -> anyhow::Result<String> {
    let mut new = String::with_capacity(document.len());
    let mut rest = document;
    while let Some((before, from)) = rest.split_once(BEGIN) {
        let (name, from) = from
            .split_once(BEGIN_END)
            .context("unterminated name in a table marker")?;
        let (_, after) = from
            .split_once(END)
            .with_context(|| format!("the end marker of table {name} is missing"))?;
        let table = tables
            .iter()
            .find(|table| table.name == name)
            .with_context(|| format!("unknown table {name}"))?;
        write!(
            new,
            "{before}{BEGIN}{name}{BEGIN_END}\n{}{END}",
            text(&table.rows)
        )?;
        rest = after;
    }
    if new.is_empty() {
        bail!("no table marker found (add the lines {BEGIN}throughput{BEGIN_END} and {END})");
    }
    Ok(new + rest)
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

fn strings<const COUNT: usize>(cells: [&str; COUNT]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
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

/// Formats a Markdown table with padded columns. Short rows are filled up.
fn text(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<_> = (0..columns)
            .map(|column| format!("{:<1$}", cell(row, column), width(column)))
            .collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if index == 0 {
            let lines: Vec<_> = (0..columns)
                .map(|column| "-".repeat(width(column)))
                .collect();
            text += &format!("|-{}-|\n", lines.join("-|-"));
        }
    }
    text
}
