//! Tables for people. A column is as wide as its widest cell on a terminal.

use unicode_width::UnicodeWidthStr as _;

use crate::telemetry::escape_text;

/// Shown in place of an empty cell.
const EMPTY: &str = "-";

/// The spaces between two columns.
const GAP: usize = 2;

/// The side of a column at which its cells end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alignment {
    Left,
    Right,
}

/// A table of text.
#[derive(Debug)]
pub(super) struct Table {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these headings. Cells under a heading that begins with `>` end at the
    /// right, as numbers do.
    pub(super) fn new(headings: &[&str]) -> Self {
        let alignment = |heading: &&str| {
            if heading.starts_with('>') {
                Alignment::Right
            } else {
                Alignment::Left
            }
        };
        let mut table = Table {
            alignments: headings.iter().map(alignment).collect(),
            rows: Vec::new(),
        };
        table.add(
            headings
                .iter()
                .map(|heading| heading.trim_start_matches('>')),
        );
        table
    }

    /// Creates a table of names and values, without headings.
    pub(super) fn of_fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let mut table = Table {
            alignments: vec![Alignment::Left; 2],
            rows: Vec::new(),
        };
        for (name, value) in fields {
            table.add([name.to_owned(), value]);
        }
        table
    }

    /// Adds a row. Control characters are escaped, because names come from other people.
    pub(super) fn add<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells = cells.into_iter().map(|cell| match cell.as_ref() {
            "" => EMPTY.to_owned(),
            text => escape_text(text).into_owned(),
        });
        self.rows.push(cells.collect());
    }

    /// Returns the lines of the table.
    pub(super) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.width()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.alignments.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), alignment) in row.iter().zip(&widths).zip(&self.alignments) {
                if !line.is_empty() {
                    line.push_str(&" ".repeat(GAP));
                }
                let padding = " ".repeat(width.saturating_sub(cell.width()));
                match alignment {
                    Alignment::Left => {
                        line.push_str(cell);
                        line.push_str(&padding);
                    }
                    Alignment::Right => {
                        line.push_str(&padding);
                        line.push_str(cell);
                    }
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_the_width_of_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">LINKS", "NOTE"]);
        table.add(["anna", "2", "at home"]);
        table.add(["远程桌面", "10", ""]);
        table.add(["a-long-name", "", "x"]);
        let expected = "\
NAME         LINKS  NOTE
anna             2  at home
远程桌面        10  -
a-long-name      -  x
";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn fields_are_names_and_values() {
        let table = Table::of_fields([("name", "anna".to_owned()), ("expires", String::new())]);
        assert_eq!(table.text(), "name     anna\nexpires  -\n");
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut table = Table::new(&["NAME"]);
        table.add(["\u{1b}[31mred\n"]);
        assert_eq!(table.text(), "NAME\n\\u{1b}[31mred\\u{a}\n");
    }

    #[test]
    fn a_table_without_rows_has_its_headings() {
        assert_eq!(Table::new(&["ID", "NAME"]).text(), "ID  NAME\n");
    }
}
