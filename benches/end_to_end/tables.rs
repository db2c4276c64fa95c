//! Markdown tables of the results, with a row for each system.
//!
//! [`print`] shows all tables in the terminal. [`write_into`] updates the tables of a document.

use std::path::Path;

use crate::{
    connections::ResourceUsage,
    document::{self, Table, number, strings},
    goals, machine,
    results::{Measured, Results},
};

/// The subject in the marker lines of a document.
const SUBJECT: &str = "measured";

/// A column: the title, the name of the value, its decimals, and whether to show the ratio to the
/// chain.
type Column = (&'static str, &'static str, usize, bool);

const THROUGHPUT: &[Column] = &[
    ("up 1", "up_1_mb_s", 0, true),
    ("down 1", "down_1_mb_s", 0, true),
    ("up 8", "up_8_mb_s", 0, true),
    ("down 8", "down_8_mb_s", 0, true),
    ("min / max up 8", "up_8_fairness", 2, false),
    ("down 8", "down_8_fairness", 2, false),
];
const CPU: &[Column] = &[
    ("up 1", "up_1_cpu_s_gib", 2, true),
    ("down 1", "down_1_cpu_s_gib", 2, true),
    ("up 8", "up_8_cpu_s_gib", 2, true),
    ("down 8", "down_8_cpu_s_gib", 2, true),
];
const SWITCHES: &[Column] = &[
    ("up 1", "up_1_switches_mib", 1, true),
    ("down 1", "down_1_switches_mib", 1, true),
    ("up 8", "up_8_switches_mib", 1, true),
    ("down 8", "down_8_switches_mib", 1, true),
];
const LATENCY: &[Column] = &[
    ("idle p50 µs", "echo_p50_us", 0, true),
    ("idle p99 µs", "echo_p99_us", 0, true),
    ("during bulk p50 ms", "beside_p50_ms", 2, true),
    ("during bulk p99 ms", "beside_p99_ms", 2, true),
    ("bulk MB/s", "beside_bulk_mb_s", 0, true),
];
const STALLED: &[Column] = &[
    ("down alone", "stalled_down_alone_mb_s", 0, false),
    ("down beside", "stalled_down_mb_s", 0, false),
    ("up alone", "stalled_up_alone_mb_s", 0, false),
    ("up beside", "stalled_up_mb_s", 0, false),
    ("echo beside p50 µs", "stalled_echo_p50_us", 0, false),
    ("p99 µs", "stalled_echo_p99_us", 0, false),
];
const CONNECTIONS: &[Column] = &[
    (
        "one at a time, first byte p50 µs",
        "connect_1_p50_us",
        0,
        true,
    ),
    ("one at a time /s", "connect_1_s", 0, true),
    ("16 at once /s", "connect_16_s", 0, true),
];
const MEMORY: &[Column] = &[
    ("client MiB", "client_peak_mib", 0, true),
    ("master MiB", "master_peak_mib", 0, true),
    ("server MiB", "server_peak_mib", 0, true),
];

/// Prints all tables, the goals last.
pub(crate) fn print(results: &Results) {
    println!("\n{}; ratio to the chain in parentheses", results.heading);
    document::print(&tables(results));
}

/// Updates the tables in a document. If the file does not exist, creates it with all tables.
pub(crate) fn write_into(results: &Results, path: Option<&Path>) -> anyhow::Result<()> {
    path.map_or(Ok(()), |path| {
        document::write_into(path, SUBJECT, &tables(results))
    })
}

fn tables(results: &Results) -> Vec<Table> {
    let table = |name, title, rows| Table { name, title, rows };
    let values = |name, title, columns| table(name, title, rows(results, columns));
    vec![
        table("machine", "The machine", machine_rows(results)),
        values(
            "throughput",
            "Throughput in MB/s (10⁶ bytes), over 1 and 8 connections",
            THROUGHPUT,
        ),
        values("cpu", "CPU seconds of the system's processes per GiB", CPU),
        values(
            "switches",
            "Context switches of the system's processes per MiB",
            SWITCHES,
        ),
        values("latency", "Echo of 64 bytes", LATENCY),
        values(
            "stalled",
            "Copies alone and beside stalled connections in MB/s, and echo beside stalled connections",
            STALLED,
        ),
        values(
            "connections",
            "New connections, up to the first echoed byte",
            CONNECTIONS,
        ),
        table(
            "sustained",
            "Sustained new connections, 16 at once: usage before, halfway and after",
            sustained_rows(results),
        ),
        table(
            "compressors",
            "Compression in MB/s, and the compressor alone on one core",
            compressor_rows(results),
        ),
        table(
            "ciphers",
            "CPU seconds per GiB, relative to plain plus the added methods alone",
            cipher_rows(results),
        ),
        values("memory", "Peak memory of each process", MEMORY),
        table("goals", "Goals", goals::rows(results)),
    ]
}

fn machine_rows(results: &Results) -> Vec<Vec<String>> {
    let facts = machine::facts()
        .into_iter()
        .map(|(name, fact)| vec![name.to_owned(), fact]);
    let how = vec!["measured".to_owned(), results.heading.clone()];
    std::iter::once(strings(["", ""]))
        .chain(facts)
        .chain([how])
        .collect()
}

/// Returns a row for each system that has any of the values.
fn rows(results: &Results, columns: &[Column]) -> Vec<Vec<String>> {
    let cell = |system: &str, &(_, name, decimals, beside): &Column| {
        let ratio = results.ratio_to_chain(system, name).filter(|_| beside);
        let ratio = ratio
            .map(|ratio| format!(" ({ratio:.2})"))
            .unwrap_or_default();
        number(results.median(system, name), decimals) + &ratio
    };
    let row = |measured: &Measured| {
        let cells = columns
            .iter()
            .map(|column| cell(&measured.variant.name, column));
        std::iter::once(measured.variant.label())
            .chain(cells)
            .collect()
    };
    let titles = std::iter::once("system")
        .chain(columns.iter().map(|(title, ..)| *title))
        .map(str::to_owned)
        .collect();
    let has_any = |measured: &&Measured| columns.iter().any(|(_, name, ..)| measured.has(name));
    std::iter::once(titles)
        .chain(results.systems.iter().filter(has_any).map(row))
        .collect()
}

fn sustained_rows(results: &Results) -> Vec<Vec<String>> {
    let titles = strings([
        "system",
        "seconds",
        "per second",
        "made",
        "failed",
        "descriptors",
        "memory MiB",
    ]);
    let of_each = |held: &[ResourceUsage; 3], what: fn(&ResourceUsage) -> String| {
        held.iter().map(what).collect::<Vec<_>>().join(" → ")
    };
    let rows = results.systems.iter().filter_map(|measured| {
        let sustained = measured.sustained.as_ref()?;
        let all = |what: fn(&ResourceUsage) -> String| {
            sustained
                .held
                .iter()
                .map(|(_, held)| of_each(held, what))
                .collect::<Vec<_>>()
                .join(", ")
        };
        Some(vec![
            measured.variant.label(),
            format!("{:.0}", sustained.seconds),
            format!("{:.0}", sustained.made as f64 / sustained.seconds),
            sustained.made.to_string(),
            sustained.failed.to_string(),
            all(|held| held.descriptors.to_string()),
            all(|held| format!("{:.0}", held.memory_mib)),
        ])
    });
    std::iter::once(titles).chain(rows).collect()
}

fn compressor_rows(results: &Results) -> Vec<Vec<String>> {
    let titles = strings([
        "system",
        "compressor alone",
        "up 1",
        "/ alone",
        "/ plain",
        "down 1",
        "/ alone",
        "/ plain",
    ]);
    let rows = results
        .systems
        .iter()
        .filter(|measured| measured.has("alone_mb_s"))
        .map(|measured| {
            let name = measured.variant.name.as_str();
            let mut row = vec![
                measured.variant.label(),
                number(results.median(name, "alone_mb_s"), 0),
            ];
            for value in ["up_1_mb_s", "down_1_mb_s"] {
                row.push(number(results.median(name, value), 0));
                for beside in [(name, "alone_mb_s"), ("plain", value)] {
                    row.push(number(
                        results.computed([(name, value), beside], |[whole, beside]| whole / beside),
                        2,
                    ));
                }
            }
            row
        });
    std::iter::once(titles).chain(rows).collect()
}

fn cipher_rows(results: &Results) -> Vec<Vec<String>> {
    let titles = strings([
        "system",
        "alone",
        "up 1 / (plain + alone)",
        "down 1",
        "up 8",
        "down 8",
    ]);
    let is_comparable =
        |measured: &&Measured| measured.has("alone_cpu_s_gib") && !measured.has("alone_mb_s");
    let rows = results
        .systems
        .iter()
        .filter(is_comparable)
        .map(|measured| {
            let name = measured.variant.name.as_str();
            let cells = CPU.iter().map(|&(_, value, ..)| {
                number(
                    goals::ratio_to_plain_and_standalone(results, name, value),
                    2,
                )
            });
            [
                measured.variant.label(),
                number(results.median(name, "alone_cpu_s_gib"), 2),
            ]
            .into_iter()
            .chain(cells)
            .collect()
        });
    std::iter::once(titles).chain(rows).collect()
}
