//! Printing of tables.

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
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<0$}", width(column)))
            .collect();
        println!("| {} |", cells.join(" | "));
        if number == 0 {
            let lines: Vec<_> = (0..row.len())
                .map(|column| "-".repeat(width(column)))
                .collect();
            println!("|-{}-|", lines.join("-|-"));
        }
    }
}
