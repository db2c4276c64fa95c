//! Printing of tables.

use crate::markdown;

/// Returns the version and the number of processors.
pub(crate) fn heading() -> String {
    format!(
        "report {}, {} processors",
        env!("CARGO_PKG_VERSION"),
        std::thread::available_parallelism().map_or(0, usize::from)
    )
}

/// Formats a value with about three digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == size.round() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Prints a Markdown table with padded columns.
pub(crate) fn print_table(rows: &[Vec<String>]) {
    print!("{}", markdown::table(rows));
}
