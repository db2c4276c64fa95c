//! What was measured: medians over the rounds, as tables (which are Markdown) and as JSON.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde_json::json;

use crate::{options::Options, systems::System};

/// Names and numbers; the name ends in the unit.
pub type Values = Vec<(&'static str, f64)>;

/// The columns of the tables: a title, the values in a cell, and their decimals.
const COLUMNS: [(&str, &[(&str, usize)]); 10] = [
    ("up 1 MB/s, CPU s/GiB", &[("up_1_mb_s", 0), ("up_1_cpu_s_gib", 2)]),
    ("up 8", &[("up_8_mb_s", 0), ("up_8_cpu_s_gib", 2)]),
    ("down 1", &[("down_1_mb_s", 0), ("down_1_cpu_s_gib", 2)]),
    ("down 8", &[("down_8_mb_s", 0), ("down_8_cpu_s_gib", 2)]),
    ("echo p50 / p99 µs", &[("echo_p50_us", 0), ("echo_p99_us", 0)]),
    ("beside bulk p50 / p99 ms", &[("beside_p50_ms", 2), ("beside_p99_ms", 2)]),
    ("that bulk MB/s", &[("beside_bulk_mb_s", 0)]),
    ("new 1 at once /s", &[("connect_1_s", 0)]),
    ("16 at once /s", &[("connect_16_s", 0)]),
    ("peak MiB visitor / relay / agent", &[("visitor_peak_mib", 0), ("relay_peak_mib", 0), ("agent_peak_mib", 0)]),
];

/// Of all systems.
pub struct Results {
    heading: String,
    systems: Vec<Measured>,
}

struct Measured {
    name: String,
    /// One number for each round.
    values: BTreeMap<&'static str, Vec<f64>>,
}

impl Results {
    /// Nothing yet.
    pub fn new(options: &Options, systems: &[System]) -> Self {
        let heading = format!(
            "{} MiB for each transfer, medians of {} rounds in turns, {} processors",
            options.transfer_bytes >> 20,
            options.rounds,
            std::thread::available_parallelism().map_or(0, usize::from),
        );
        let systems = systems.iter().map(|system| Measured { name: system.name().to_owned(), values: BTreeMap::new() }).collect();
        Results { heading, systems }
    }

    /// Takes what a turn measured.
    pub fn add(&mut self, system: &System, values: &Values) {
        if let Some(measured) = self.systems.iter_mut().find(|measured| measured.name == system.name()) {
            for &(name, value) in values {
                measured.values.entry(name).or_default().push(value);
            }
        }
    }

    /// Prints the medians, and what they are of the chain's.
    pub fn print(&self) {
        println!("\n{}\n", self.heading);
        print_table(&self.rows(|measured, name, decimals| {
            measured.median(name).map_or_else(|| "–".to_owned(), |median| format!("{median:.decimals$}"))
        }));
        let Some(chain) = self.systems.first() else { return };
        println!(
            "\nThe same as ratios to the chain's: throughput and new connections are better above 1, CPU, times and memory below\n"
        );
        print_table(&self.rows(|measured, name, _| {
            let ratio = measured.median(name).zip(chain.median(name)).map(|(ours, theirs)| ours / theirs);
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
        }));
    }

    /// Every value of every round.
    pub fn write_json(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let systems: serde_json::Map<_, _> =
            self.systems.iter().map(|measured| (measured.name.to_owned(), json!(measured.values))).collect();
        let text = serde_json::to_string_pretty(&json!({ "what": self.heading, "systems": systems }))?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn rows(&self, cell: impl Fn(&Measured, &str, usize) -> String) -> Vec<Vec<String>> {
        let titles = std::iter::once("system").chain(COLUMNS.iter().map(|(title, _)| *title)).map(str::to_owned).collect();
        let rows = self.systems.iter().map(|measured| {
            let cells = COLUMNS.iter().map(|(_, values)| {
                let values: Vec<_> = values.iter().map(|&(name, decimals)| cell(measured, name, decimals)).collect();
                values.join(" / ")
            });
            std::iter::once(measured.name.to_owned()).chain(cells).collect()
        });
        std::iter::once(titles).chain(rows).collect()
    }
}

impl Measured {
    fn median(&self, name: &str) -> Option<f64> {
        let mut values = self.values.get(name)?.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        if values.len() % 2 == 1 { Some(upper) } else { Some((upper + values.get(middle - 1)?) / 2.0) }
    }
}

/// In columns of equal width, which Markdown ignores.
fn print_table(rows: &[Vec<String>]) {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column))).collect();
        println!("| {} |", cells.join(" | "));
        if number == 0 {
            let lines: Vec<_> = (0..row.len()).map(|column| "-".repeat(width(column))).collect();
            println!("|-{}-|", lines.join("-|-"));
        }
    }
}
