//! The differences between the databases: placeholders, upserts, and the ends of table definitions.
//!
//! All statements are written with `$1`, `$2`, … in this order, each once. SQLite and PostgreSQL
//! take them as they are, and MariaDB takes `?`.

use std::{borrow::Cow, fmt::Write as _};

use sqlx::{Any, AssertSqlSafe, any::AnyArguments};

/// A statement with its arguments. `bind` adds an argument.
pub(crate) type Query = sqlx::query::Query<'static, Any, AnyArguments>;

/// The language of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MariaDB and MySQL.
    Mysql,
}

/// An insertion that changes the row if it exists.
///
/// One statement must not contain two rows with the same key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upsert {
    /// The table.
    pub(crate) table: &'static str,
    /// The columns of the primary key.
    pub(crate) keys: &'static [&'static str],
    /// The columns whose new value is added to the one of an existing row.
    pub(crate) sums: &'static [&'static str],
    /// The columns whose new value replaces the one of an existing row.
    pub(crate) values: &'static [&'static str],
}

impl Dialect {
    /// Returns a statement.
    pub(crate) fn query(self, sql: &'static str) -> Query {
        self.dynamic_query(Cow::Borrowed(sql))
    }

    /// Returns a statement whose text was composed. No part of it may come from a user: values are
    /// bound.
    pub(crate) fn dynamic_query(self, sql: Cow<'static, str>) -> Query {
        sqlx::query(AssertSqlSafe(self.with_placeholders(sql)))
    }

    /// Returns the statement with the placeholders of the database.
    fn with_placeholders(self, sql: Cow<'static, str>) -> Cow<'static, str> {
        if self != Dialect::Mysql || !sql.contains('$') {
            return sql;
        }
        let mut pieces = sql.split('$');
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            text.push('?');
            text.push_str(piece.trim_start_matches(|digit: char| digit.is_ascii_digit()));
        }
        Cow::Owned(text)
    }

    /// Returns an upsert of `rows` rows. Its arguments are the values of the first row in the order
    /// of `keys`, `sums` and `values`, then those of the next row.
    pub(crate) fn upsert(self, upsert: &Upsert, rows: usize) -> Query {
        let Upsert {
            table,
            keys,
            sums,
            values,
        } = *upsert;
        let columns = [keys, sums, values].concat();
        let mut sql = format!("INSERT INTO {table} ({}) VALUES ", columns.join(", "));
        push_rows(&mut sql, rows, columns.len());
        sql.push_str(&match self {
            Dialect::Sqlite | Dialect::Postgres => {
                format!(" ON CONFLICT ({}) DO UPDATE SET ", keys.join(", "))
            }
            Dialect::Mysql => " ON DUPLICATE KEY UPDATE ".to_owned(),
        });
        let new = |column: &str| match self {
            Dialect::Sqlite | Dialect::Postgres => format!("excluded.{column}"),
            Dialect::Mysql => format!("VALUES({column})"),
        };
        let sums = sums
            .iter()
            .map(|column| format!("{column} = {table}.{column} + {}", new(column)));
        let values = values
            .iter()
            .map(|column| format!("{column} = {}", new(column)));
        let changes: Vec<_> = sums.chain(values).collect();
        sql.push_str(&changes.join(", "));
        self.dynamic_query(Cow::Owned(sql))
    }

    /// Returns the end of a table definition. MariaDB compares text by bytes only with
    /// a binary collation.
    pub(super) fn table_suffix(self) -> &'static str {
        match self {
            Dialect::Sqlite | Dialect::Postgres => "",
            Dialect::Mysql => " ENGINE=InnoDB CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
        }
    }

    /// Returns the start of a write transaction, if it is not the usual one. SQLite takes the lock
    /// for writing at once: a transaction that begins with a read cannot always take it later.
    pub(super) fn begin(self) -> Option<&'static str> {
        (self == Dialect::Sqlite).then_some("BEGIN IMMEDIATE")
    }

    /// Returns the statement that makes a server end transactions of clients that do nothing for
    /// 15 s. A host that loses its power or its network in the middle of one does not close its
    /// connection, and all masters would wait for its locks until TCP gives up, for hours.
    pub(super) fn limit_of_idle_transactions(self) -> Option<&'static str> {
        match self {
            // The locks of a file end with their process.
            Dialect::Sqlite => None,
            Dialect::Postgres => Some("SET idle_in_transaction_session_timeout = 15000"),
            Dialect::Mysql => Some("SET SESSION idle_transaction_timeout = 15"),
        }
    }
}

/// Appends placeholders for rows: `($1, $2), ($3, $4)`.
fn push_rows(sql: &mut String, rows: usize, columns: usize) {
    let mut number = 0_usize;
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            number = number.saturating_add(1);
            let separator = if column == 0 { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(sql, "{separator}${number}");
        }
        sql.push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Upsert = Upsert {
        table: "usage",
        keys: &["kind", "subject"],
        sums: &["up"],
        values: &["seen"],
    };

    fn text(query: Query) -> String {
        sqlx::Execute::sql(query).as_str().to_owned()
    }

    #[test]
    fn placeholders_are_those_of_the_database() {
        let sql = "SELECT a FROM b WHERE c = $1 AND d IN ($2, $10) LIMIT $11";
        let mysql = "SELECT a FROM b WHERE c = ? AND d IN (?, ?) LIMIT ?";
        assert_eq!(text(Dialect::Sqlite.query(sql)), sql);
        assert_eq!(text(Dialect::Postgres.query(sql)), sql);
        assert_eq!(text(Dialect::Mysql.query(sql)), mysql);
        assert_eq!(text(Dialect::Mysql.query("SELECT 1")), "SELECT 1");
    }

    #[test]
    fn upserts_add_sums_and_replace_values() {
        let standard = "INSERT INTO usage (kind, subject, up, seen) VALUES ($1, $2, $3, $4), \
                        ($5, $6, $7, $8) ON CONFLICT (kind, subject) DO UPDATE SET \
                        up = usage.up + excluded.up, seen = excluded.seen";
        let mysql = "INSERT INTO usage (kind, subject, up, seen) VALUES (?, ?, ?, ?) \
                     ON DUPLICATE KEY UPDATE up = usage.up + VALUES(up), seen = VALUES(seen)";
        assert_eq!(text(Dialect::Sqlite.upsert(&USAGE, 2)), standard);
        assert_eq!(text(Dialect::Postgres.upsert(&USAGE, 2)), standard);
        assert_eq!(text(Dialect::Mysql.upsert(&USAGE, 1)), mysql);
    }
}
