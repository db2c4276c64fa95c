//! The tables of a measurement, in the terminal and in a document.
//!
//! In a document each table is between two marker lines, which name the subject of the measurement:
//!
//! ```text
//! <!-- measured: throughput -->
//! | the table "throughput" of the subject "measured" |
//! <!-- end measured -->
//! ```

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, bail};

use crate::markdown;

/// A table and its name in a document.
pub(crate) struct Table {
    pub name: &'static str,
    pub title: &'static str,
    pub rows: Vec<Vec<String>>,
}

/// Prints all tables that have a row below their titles.
pub(crate) fn print(tables: &[Table]) {
    for table in tables.iter().filter(|table| table.rows.len() > 1) {
        print!("\n{}\n\n{}", table.title, markdown::table(&table.rows));
    }
}

/// Updates the tables in a document. If the file does not exist, creates it with all tables.
pub(crate) fn write_into(path: &Path, subject: &str, tables: &[Table]) -> anyhow::Result<()> {
    let document = if path.exists() {
        let document =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        replaced(&document, subject, tables)
            .with_context(|| format!("cannot update the tables in {}", path.display()))?
    } else {
        let whole = tables
            .iter()
            .map(|table| format!("## {}\n\n{}", table.title, markdown::table(&table.rows)));
        whole.collect::<Vec<_>>().join("\n")
    };
    fs::write(path, document).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(document: &str, subject: &str, tables: &[Table]) -> anyhow::Result<String> {
    let (begin, begin_end) = (format!("<!-- {subject}: "), " -->");
    let end = format!("<!-- end {subject} -->");
    let mut new = String::with_capacity(document.len());
    let mut rest = document;
    while let Some((before, from)) = rest.split_once(&begin) {
        let (name, from) = from
            .split_once(begin_end)
            .context("unterminated name in a table marker")?;
        let (_, after) = from
            .split_once(&end)
            .with_context(|| format!("the end marker of table {name} is missing"))?;
        let table = tables
            .iter()
            .find(|table| table.name == name)
            .with_context(|| format!("unknown table {name}"))?;
        let text = markdown::table(&table.rows);
        write!(new, "{before}{begin}{name}{begin_end}\n{text}{end}")?;
        rest = after;
    }
    if new.is_empty() {
        bail!("no table marker found (add the lines {begin}throughput{begin_end} and {end})");
    }
    Ok(new + rest)
}

/// Returns a row of these cells.
pub(crate) fn strings<const COUNT: usize>(cells: [&str; COUNT]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Formats a value, or a dash if it was not measured.
pub(crate) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}
