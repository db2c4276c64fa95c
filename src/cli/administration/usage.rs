//! `report usage`: the transferred bytes of the relay, of an account or of a key by time, or of all
//! accounts or keys.

use std::collections::HashMap;

use anyhow::bail;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{
    output::Output,
    records::Records,
    session::Session,
    table::Table,
    target::TargetArguments,
    values::{bytes_text, duration_in_seconds, moment, time_text},
};
use crate::{
    policy::{AccountId, LimitSubject, Moved, UnixTime},
    store::{MAX_PAGE, UsageBucket, UsageStep},
};
use report_proto::id::Id;

/// The steps of the range without `--from`.
const USUAL_STEPS: i64 = 24;

/// The arguments of `report usage`.
#[derive(Debug, Args)]
pub(in crate::cli) struct UsageArguments {
    #[command(flatten)]
    pub(super) target: TargetArguments,
    #[command(flatten)]
    subject: UsageSubject,
    /// Length of the time steps
    #[arg(
        long,
        default_value = "hour",
        value_parser = PossibleValuesParser::new(["minute", "hour", "day"]).map(step)
    )]
    step: UsageStep,
    /// First time; by default 24 steps before the last
    #[arg(long, value_name = "TIME", value_parser = past)]
    from: Option<UnixTime>,
    /// Time after the last; by default now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<UnixTime>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct UsageSubject {
    /// Usage of the account with this name or id
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Usage of the key with this id, label or ACCOUNT/LABEL
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Sums of all accounts
    #[arg(long)]
    accounts: bool,
    /// Sums of all keys
    #[arg(long)]
    keys: bool,
}

fn step(word: String) -> UsageStep {
    match word.as_str() {
        "minute" => UsageStep::Minute,
        "day" => UsageStep::Day,
        _ => UsageStep::Hour,
    }
}

fn word(step: UsageStep) -> &'static str {
    match step {
        UsageStep::Minute => "minute",
        UsageStep::Hour => "hour",
        UsageStep::Day => "day",
    }
}

/// Reads a time: a date, a time, or a duration before now such as `30d`.
fn past(text: &str) -> Result<UnixTime, String> {
    let now = jiff::Timestamp::now().as_second();
    match duration_in_seconds(text) {
        Some(seconds) => now
            .checked_sub(seconds)
            .and_then(UnixTime::new)
            .ok_or_else(|| format!("\"{text}\" is before 1970 (write a shorter duration)")),
        None => moment(text),
    }
}

/// A range of time, and the length of its steps.
#[derive(Debug, Clone, Copy)]
struct Range {
    step: UsageStep,
    from: UnixTime,
    until: UnixTime,
}

/// The bytes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Point {
    start: i64,
    up: u64,
    down: u64,
}

/// The bytes of an account or of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    id: String,
    up: u64,
    down: u64,
}

/// A query of the API.
#[derive(Serialize)]
struct UsageQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    step: &'static str,
    from: UnixTime,
    until: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    size: u32,
}

/// A page of an answer of the API.
#[derive(Deserialize)]
struct UsagePage<T> {
    items: Vec<T>,
    #[serde(default)]
    next: Option<String>,
}

/// Runs the command. Returns what to print.
pub(super) async fn run(arguments: UsageArguments, session: &Session) -> anyhow::Result<Output> {
    let range = range(&arguments, session.view.now)?;
    let subject = &arguments.subject;
    if subject.accounts {
        let sums = sums(&session.records, "account", range).await?;
        let names = account_names(&sums, session).await;
        return print_sums(&sums, "ACCOUNT", &names, session);
    }
    if subject.keys {
        let sums = sums(&session.records, "key", range).await?;
        let names = key_labels(&sums, session).await;
        return print_sums(&sums, "KEY", &names, session);
    }
    let subject = match (&subject.account, &subject.key) {
        (Some(account), _) => LimitSubject::Account(session.find_account(account).await?.record.id),
        (None, Some(key)) => LimitSubject::Key(find_key(key, session).await?),
        (None, None) => LimitSubject::Relay,
    };
    let points = points(&session.records, subject, range).await?;
    session
        .view
        .output(&points, || point_table(&points, &session.view.zone).text())
}

/// Returns the names of accounts by their ids as text. JSON needs none.
async fn account_names(sums: &[Sum], session: &Session) -> HashMap<String, String> {
    if session.view.is_json {
        return HashMap::new();
    }
    let ids = sums.iter().filter_map(|sum| sum.id.parse::<i64>().ok());
    let names = session.account_names(ids.map(AccountId)).await;
    let names = names.into_iter().map(|(id, name)| (id.to_string(), name));
    names.collect()
}

/// Returns the labels of keys by their ids as text. JSON needs none.
async fn key_labels(sums: &[Sum], session: &Session) -> HashMap<String, String> {
    let mut labels = HashMap::new();
    if session.view.is_json {
        return labels;
    }
    for sum in sums {
        if let Ok(id) = sum.id.parse::<Id>()
            && let Ok(key) = session.records.key(id).await
        {
            labels.insert(sum.id.clone(), key.record.label);
        }
    }
    labels
}

/// Returns the id of a key. Its record may be gone, and its usage is still there.
async fn find_key(text: &str, session: &Session) -> anyhow::Result<Id> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(session.find_key(text).await?.record.id),
    }
}

fn range(arguments: &UsageArguments, now: i64) -> anyhow::Result<Range> {
    let step = arguments.step;
    let present = || UnixTime::new(now.saturating_add(1));
    let until = arguments.until.or_else(present);
    let usual = |until: UnixTime| {
        let length = step.seconds().saturating_mul(USUAL_STEPS);
        UnixTime::new(until.seconds().saturating_sub(length))
    };
    let from = arguments.from.or_else(|| until.and_then(usual));
    match (from, until) {
        (Some(from), Some(until)) if from < until => Ok(Range { step, from, until }),
        (Some(from), Some(until)) => {
            bail!("--from is {from}, which is not before --until {until} (write an earlier time)")
        }
        _ => bail!("the range begins before 1970 (write --from)"),
    }
}

/// Returns the bytes of a subject in the order of time. Idle steps are left out.
async fn points(
    records: &Records,
    subject: LimitSubject,
    range: Range,
) -> anyhow::Result<Vec<Point>> {
    match records {
        Records::Master(_) => {
            let id = Some(subject.id()).filter(|id| !id.is_empty());
            all(records, "/v1/usage", range.query(Some(subject.kind()), id)).await
        }
        Records::Store(store) => {
            let (from, until) = (range.from.seconds(), range.until.seconds());
            let buckets = store.store().usage(subject, range.step, from, until);
            let point = |UsageBucket { start, moved }| Point {
                start,
                up: moved.up,
                down: moved.down,
            };
            Ok(buckets.await?.into_iter().map(point).collect())
        }
    }
}

/// Returns the bytes of all accounts or keys with usage in the range.
async fn sums(records: &Records, kind: &'static str, range: Range) -> anyhow::Result<Vec<Sum>> {
    let mut sums: Vec<Sum> = match records {
        Records::Master(_) => {
            all(
                records,
                &format!("/v1/usage/{kind}"),
                range.query(None, None),
            )
            .await?
        }
        Records::Store(store) => {
            let store = store.store();
            let mut sums = Vec::new();
            let mut after = None;
            loop {
                let page = store
                    .usage_subjects(kind, after.as_deref(), MAX_PAGE)
                    .await?;
                for subject in page.items {
                    let points = points(records, subject, range).await?;
                    let Moved { up, down } = total(&points);
                    let id = subject.id();
                    sums.push(Sum { id, up, down });
                }
                after = page.next;
                if after.is_none() {
                    break sums;
                }
            }
        }
    };
    sums.retain(|sum| sum.up > 0 || sum.down > 0);
    // The largest first.
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.up.saturating_add(sum.down)));
    Ok(sums)
}

impl Range {
    fn query(self, kind: Option<&'static str>, id: Option<String>) -> UsageQuery {
        UsageQuery {
            kind,
            id,
            step: word(self.step),
            from: self.from,
            until: self.until,
            after: None,
            size: MAX_PAGE,
        }
    }
}

/// Returns the items of all pages.
async fn all<T: for<'de> Deserialize<'de>>(
    records: &Records,
    path: &str,
    mut query: UsageQuery,
) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::new();
    loop {
        let page: UsagePage<T> = records.live(path, &query).await?.json()?;
        all.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(all),
        }
    }
}

fn total(points: &[Point]) -> Moved {
    let add = |sum: Moved, point: &Point| Moved {
        up: sum.up.saturating_add(point.up),
        down: sum.down.saturating_add(point.down),
    };
    points.iter().fold(Moved::default(), add)
}

/// Returns the cells of numbers of bytes: up, down and both.
fn cells(up: u64, down: u64) -> [String; 3] {
    [up, down, up.saturating_add(down)].map(bytes_text)
}

fn point_table(points: &[Point], zone: &TimeZone) -> Table {
    let mut table = Table::new(&["TIME", ">UP", ">DOWN", ">BOTH"]);
    for point in points {
        let cells = cells(point.up, point.down);
        table.add([time_text(point.start, zone)].into_iter().chain(cells));
    }
    let Moved { up, down } = total(points);
    table.add(["total".to_owned()].into_iter().chain(cells(up, down)));
    table
}

fn print_sums(
    sums: &[Sum],
    heading: &str,
    names: &HashMap<String, String>,
    session: &Session,
) -> anyhow::Result<Output> {
    session.view.output(&sums, || {
        let mut table = Table::new(&[heading, ">UP", ">DOWN", ">BOTH"]);
        for Sum { id, up, down } in sums {
            let name = names.get(id).unwrap_or(id).clone();
            table.add([name].into_iter().chain(cells(*up, *down)));
        }
        table.text()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_local_times_and_a_total() {
        let point = |start, up, down| Point { start, up, down };
        let points = [
            point(1_800_000_000, 1024, 3 << 20),
            point(1_800_003_600, 0, 1 << 30),
        ];
        let expected = "\
TIME                            UP     DOWN     BOTH
2027-01-15T08:00:00+00:00  1.0 KiB  3.0 MiB  3.0 MiB
2027-01-15T09:00:00+00:00      0 B  1.0 GiB  1.0 GiB
total                      1.0 KiB  1.0 GiB  1.0 GiB
";
        assert_eq!(point_table(&points, &TimeZone::UTC).text(), expected);
    }
}
