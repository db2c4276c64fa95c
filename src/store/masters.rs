//! The masters that share a store, and the live numbers of each.

use sqlx::any::AnyRow;

use super::{
    RecordKind, Store, StoreError,
    dialect::Upsert,
    rows::Columns,
    transaction::WriteTransaction,
    usage::{ROWS, bind_subject, subject},
};
use crate::policy::LimitSubject;
use report_proto::id::Id;

const LIVE: Upsert = Upsert {
    table: "live_counts",
    keys: &["epoch", "kind", "subject"],
    sums: &[],
    values: &["links", "tunnels", "attachments"],
};

/// The live numbers of a subject at one master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveRow {
    /// The subject.
    pub subject: LimitSubject,
    /// Links.
    pub links: u32,
    /// Tunnels.
    pub tunnels: u32,
    /// New tunnels in the last minute.
    pub attachments: u32,
}

impl LiveRow {
    /// Whether all numbers are 0.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.links == 0 && self.tunnels == 0 && self.attachments == 0
    }
}

/// A start of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterRow {
    /// The id of the start.
    pub epoch: Id,
    /// The name of the master, for people.
    pub name: String,
    /// The time of its latest flush by its own clock, in Unix seconds.
    pub beat: i64,
    /// The number of its latest flush.
    pub sequence: i64,
}

fn master(row: &AnyRow) -> Result<MasterRow, StoreError> {
    let columns = Columns::new(row, RecordKind::Master, "epoch");
    Ok(MasterRow {
        epoch: columns.parse("epoch")?,
        name: columns.text("name")?.to_owned(),
        beat: columns.number("beat")?,
        sequence: columns.number("flush_sequence")?,
    })
}

fn live(row: &AnyRow) -> Result<(Id, LiveRow), StoreError> {
    let columns = Columns::new(row, RecordKind::Master, "epoch");
    let count = |column| {
        let count = u32::try_from(columns.number(column)?);
        count.map_err(|error| columns.corrupt(column, error))
    };
    let live = LiveRow {
        subject: subject(columns)?,
        links: count("links")?,
        tunnels: count("tunnels")?,
        attachments: count("attachments")?,
    };
    Ok((columns.parse("epoch")?, live))
}

impl Store {
    /// Returns the latest starts of masters, including those that have ended, in any order. A master
    /// that fails again and again leaves many.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn masters(&self) -> Result<Vec<MasterRow>, StoreError> {
        let query = self.dialect.query(
            "SELECT epoch, name, beat, flush_sequence FROM masters ORDER BY beat DESC LIMIT 1000",
        );
        let rows = self.fetch_all(query).await?;
        rows.iter().map(master).collect()
    }

    /// Returns the live numbers of all masters except one.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn live_counts_of_others(&self, epoch: Id) -> Result<Vec<(Id, LiveRow)>, StoreError> {
        let query = self.dialect.query(
            "SELECT epoch, kind, subject, links, tunnels, attachments FROM live_counts \
             WHERE epoch <> $1",
        );
        let rows = self.fetch_all(query.bind(epoch.to_string())).await?;
        rows.iter().map(live).collect()
    }
}

impl WriteTransaction<'_> {
    /// Replaces live numbers of a master.
    pub(super) async fn set_live(&mut self, epoch: Id, live: &[LiveRow]) -> Result<(), StoreError> {
        let epoch = epoch.to_string();
        let (idle, live): (Vec<LiveRow>, Vec<LiveRow>) =
            live.iter().copied().partition(LiveRow::is_idle);
        for rows in live.chunks(ROWS) {
            let mut query = self.dialect().upsert(&LIVE, rows.len());
            for row in rows {
                query = bind_subject(query.bind(epoch.as_str()), row.subject)
                    .bind(i64::from(row.links))
                    .bind(i64::from(row.tunnels))
                    .bind(i64::from(row.attachments));
            }
            self.execute(query).await?;
        }
        for row in idle {
            let query = self
                .dialect()
                .query("DELETE FROM live_counts WHERE epoch = $1 AND kind = $2 AND subject = $3");
            let query = bind_subject(query.bind(epoch.as_str()), row.subject);
            self.execute(query).await?;
        }
        Ok(())
    }
}
