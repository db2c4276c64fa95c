//! Markdown tables.

/// Formats a table with padded columns. The first row has the titles. Short rows are filled up.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
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
